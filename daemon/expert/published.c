/* SPDX-License-Identifier: Apache-2.0 */
/* The published set: one line a shard. Layer L2. */
#include "expert/published.h"

#include "base/mem.h"
#include "base/str.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD "expertd-published 1"

struct ex_published {
	char *dir, *plugins, *path, *temporary, *next_path;
	int dir_fd; /* locked */
	char model_digest[65], base_sha256[65];
	uint32_t n_groups;
	struct ex_published_entry *entry; /* ascending by shard */
	size_t n, cap;
	/* between begin_model and end_model */
	struct ex_published_entry *next_entry; /* [n] */
	char next_digest[65];
};

static int compare(const struct ex_shard_id *a, const struct ex_shard_id *b)
{
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->first_expert < b->first_expert ? -1 : a->first_expert > b->first_expert;
}

/* Index of the shard's entry, or of where it would be. */
static size_t place_of(const struct ex_published *p, const struct ex_shard_id *id)
{
	size_t low = 0, high = p->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (compare(&p->entry[mid].id, id) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* --- text to entries ------------------------------------------------------------------------------------- */

/* The next word of *rest; NULL: there is none. */
static char *word(char **rest)
{
	char *w = strsep(rest, " ");
	return w && *w ? w : NULL;
}

/* 64 hex digits, or "-" for none, into out. */
static bool take_digest(const char *w, char out[static 65])
{
	out[0] = '\0';
	if (!w || strcmp(w, "-") == 0)
		return w;
	for (size_t i = 0; i < 64; i++)
		if (!isxdigit((unsigned char)w[i]))
			return false;
	if (w[64])
		return false;
	memcpy(out, w, 65);
	return true;
}

static bool parse_line(char *line, struct ex_published_entry *e)
{
	char *rest = line;
	const char *name = word(&rest), *what = word(&rest);
	*e = (struct ex_published_entry){.gone = false};
	if (!name || !what || ex_shard_parse(name, &e->id) < 0)
		return false;
	e->gone = strcmp(what, "gone") == 0;
	e->added = strcmp(what, "added") == 0;
	if (!e->gone && !e->added && strcmp(what, "here") != 0)
		return false;
	if (!take_digest(word(&rest), e->sha256) || !take_digest(word(&rest), e->identity) || !rest ||
		strlen(rest) >= sizeof e->plugin)
		return false;
	strcpy(e->plugin, rest);
	return true;
}

/* "expertd-published 1 MODEL GROUPS BASE": what the entries were made for. */
static bool parse_head(char *line, char model[static 65], uint32_t *ret_groups, char base[static 65])
{
	char *rest = line + strlen(HEAD), *end;
	if (strncmp(line, HEAD " ", strlen(HEAD) + 1) != 0)
		return false;
	rest++;
	if (!take_digest(word(&rest), model))
		return false;
	const char *groups = word(&rest);
	unsigned long n = groups && isdigit((unsigned char)*groups) ? strtoul(groups, &end, 10) : 0;
	if (!n || n > UINT32_MAX || *end || !take_digest(rest, base))
		return false;
	*ret_groups = (uint32_t)n;
	return true;
}

/* Entries of lines after the head. drop_plugins: they hang on another configured plugin. */
static int parse_entries(
	char *rest, bool drop_plugins, struct ex_err *err, struct ex_published_entry **list, size_t *ret_n)
{
	size_t cap = 0, n = 0;
	char *line;
	for (unsigned i = 2; (line = strsep(&rest, "\n")); i++) {
		struct ex_published_entry e;
		if (!*line && !rest)
			break;
		if (n == EX_PUBLISHED_MAX || !parse_line(line, &e))
			return ex_err_set(err, -EINVAL, "line %u is damaged", i);
		if (n && compare(&(*list)[n - 1].id, &e.id) >= 0)
			return ex_err_set(err, -EINVAL, "line %u is out of order", i);
		if (drop_plugins)
			e.sha256[0] = e.plugin[0] = e.identity[0] = '\0';
		if (ex_grow(list, &cap, n + 1, sizeof **list) < 0)
			return ex_err_errno(err, -ENOMEM, "cannot keep it");
		(*list)[n++] = e;
	}
	*ret_n = n;
	return 0;
}

int ex_published_parse(const char *text, const struct ex_published_for *f, struct ex_err *err,
	struct ex_published_entry **ret, size_t *ret_n)
{
	EX_CLEANUP(ex_freep) char *copy = strdup(text);
	EX_CLEANUP(ex_freep) struct ex_published_entry *list = NULL;
	char model[65], base[65];
	uint32_t n_groups;
	size_t n = 0;
	if (!copy)
		return ex_err_errno(err, -ENOMEM, "cannot read it");
	char *rest = copy, *head = strsep(&rest, "\n");
	if (!parse_head(head, model, &n_groups, base))
		return ex_err_set(err, -EINVAL, "line 1 is not that of such a file");
	int rc = parse_entries(rest, strcmp(base, f->base_sha256) != 0, err, &list, &n);
	if (rc < 0)
		return rc;
	bool ours = strcmp(model, f->model_digest) == 0 && n_groups == f->n_groups;
	*ret_n = ours ? n : 0;
	*ret = ours ? EX_TAKE(list) : NULL;
	return 0;
}

/* --- life ------------------------------------------------------------------------------------------------ */

struct ex_published *ex_published_free(struct ex_published *p)
{
	if (p) {
		ex_closep(&p->dir_fd);
		free(p->dir);
		free(p->plugins);
		free(p->path);
		free(p->temporary);
		free(p->next_path);
		free(p->next_entry);
		free(p->entry);
		free(p);
	}
	return NULL;
}

/* Puts published.next in its place when it was written for this model: a crash came between. */
static int take_up_next(const struct ex_published *p, const struct ex_published_for *f)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	char model[65], base[65];
	uint32_t n_groups;
	size_t n;
	if (ex_read_file(p->next_path, EX_PUBLISHED_BYTES_MAX, NULL, &text, &n) < 0)
		return 0;
	char *rest = text, *head = strsep(&rest, "\n");
	if (!parse_head(head, model, &n_groups, base) || strcmp(model, f->model_digest) != 0)
		return unlink(p->next_path) < 0 ? -errno : 0;
	return rename(p->next_path, p->path) < 0 ? -errno : ex_sync_dir(p->dir);
}

static int read_set(struct ex_published *p, const struct ex_published_for *f, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	int rc = take_up_next(p, f);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot replace '%s'", p->path);
	if (access(p->path, F_OK) < 0 && errno == ENOENT)
		return 0;
	rc = ex_read_file(p->path, EX_PUBLISHED_BYTES_MAX, err, &text, &n);
	if (rc == 0 && strlen(text) != n)
		rc = ex_err_set(err, -EINVAL, "it holds a NUL");
	if (rc == 0)
		rc = ex_published_parse(text, f, err, &p->entry, &p->n);
	p->cap = p->n;
	return rc < 0 ? ex_err_prefix(err, "the published set '%s'", p->path) : 0;
}

int ex_published_open(const char *dir, const struct ex_published_for *f, struct ex_err *err, struct ex_published **ret)
{
	struct ex_published *p = ex_calloc(1, sizeof *p);
	if (!p)
		return ex_err_errno(err, -ENOMEM, "cannot read the published set");
	*ret = p;
	p->dir_fd = -1;
	p->n_groups = f->n_groups;
	snprintf(p->model_digest, sizeof p->model_digest, "%s", f->model_digest);
	snprintf(p->base_sha256, sizeof p->base_sha256, "%s", f->base_sha256);
	if (!(p->dir = strdup(dir)) || asprintf(&p->plugins, "%s/plugins", dir) < 0 ||
		asprintf(&p->path, "%s/published", dir) < 0 || asprintf(&p->temporary, "%s/.published", dir) < 0 ||
		asprintf(&p->next_path, "%s/published.next", dir) < 0) {
		*ret = ex_published_free(p);
		return ex_err_errno(err, -ENOMEM, "cannot read the published set");
	}
	p->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p->dir_fd < 0)
		return ex_err_errno(err, -errno, "cannot open '%s'", dir);
	if (flock(p->dir_fd, LOCK_EX | LOCK_NB) < 0)
		return ex_err_set(err, -EBUSY, "'%s' is another expertd's: each needs a directory of its own", dir);
	if (mkdir(p->plugins, 0700) < 0 && errno != EEXIST)
		return ex_err_errno(err, -errno, "cannot make '%s'", p->plugins);
	return read_set(p, f, err);
}

size_t ex_published_n(const struct ex_published *p)
{
	return p->n;
}

const struct ex_published_entry *ex_published_at(const struct ex_published *p, size_t i)
{
	assert(i < p->n);
	return &p->entry[i];
}

const struct ex_published_entry *ex_published_find(const struct ex_published *p, const struct ex_shard_id *id)
{
	size_t i = place_of(p, id);
	return i < p->n && compare(&p->entry[i].id, id) == 0 ? &p->entry[i] : NULL;
}

const char *ex_published_plugins(const struct ex_published *p)
{
	return p->plugins;
}

/* --- writing --------------------------------------------------------------------------------------------- */

static void print_entry(struct ex_str *out, const struct ex_published_entry *e)
{
	char name[EX_SHARD_NAME_MAX];
	ex_str_addf(out, "%s %s %s %s %s\n", ex_shard_name(&e->id, name),
		e->gone    ? "gone"
		: e->added ? "added"
			   : "here",
		*e->sha256 ? e->sha256 : "-", *e->identity ? e->identity : "-", e->plugin);
}

/* The set with e in place of its shard's entry, or before the next one. */
static void print_set(const struct ex_published *p, const struct ex_published_entry *e, struct ex_str *out)
{
	size_t at = place_of(p, &e->id);
	bool replaces = at < p->n && compare(&p->entry[at].id, &e->id) == 0;
	ex_str_addf(out, HEAD " %s %u %s\n", p->model_digest, p->n_groups, p->base_sha256);
	for (size_t i = 0; i < at; i++)
		print_entry(out, &p->entry[i]);
	print_entry(out, e);
	for (size_t i = at + replaces; i < p->n; i++)
		print_entry(out, &p->entry[i]);
}

int ex_published_set(struct ex_published *p, const struct ex_published_entry *e, struct ex_err *err)
{
	struct ex_str text = EX_STR_INIT;
	size_t at = place_of(p, &e->id);
	bool replaces = at < p->n && compare(&p->entry[at].id, &e->id) == 0;
	if (!replaces && p->n == EX_PUBLISHED_MAX)
		return ex_err_set(err, -ENOSPC, "the published set has %u shards already", EX_PUBLISHED_MAX);
	if (ex_grow(&p->entry, &p->cap, p->n + 1, sizeof *p->entry) < 0)
		return ex_err_errno(err, -ENOMEM, "cannot write '%s'", p->path);
	print_set(p, e, &text);
	int rc = text.oom                          ? -ENOMEM
		 : text.n > EX_PUBLISHED_BYTES_MAX ? -EFBIG
						   : ex_replace_file(p->dir, p->path, p->temporary, &text);
	ex_str_done(&text);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot write '%s'", p->path);
	if (!replaces) {
		memmove(&p->entry[at + 1], &p->entry[at], (p->n - at) * sizeof *p->entry);
		p->n++;
	}
	p->entry[at] = *e;
	return 0;
}

/* --- another model ----------------------------------------------------------------------------------------- */

int ex_published_begin_model(struct ex_published *p, const char *model_digest,
	void (*renew)(void *ctx, struct ex_published_entry *e), void *ctx, struct ex_err *err)
{
	struct ex_str text = EX_STR_INIT;
	struct ex_published_entry *next = ex_calloc(p->n, sizeof *next);
	if (!next)
		return ex_err_errno(err, -ENOMEM, "cannot write '%s'", p->next_path);
	free(p->next_entry);
	p->next_entry = next;
	snprintf(p->next_digest, sizeof p->next_digest, "%s", model_digest);
	ex_str_addf(&text, HEAD " %s %u %s\n", p->next_digest, p->n_groups, p->base_sha256);
	for (size_t i = 0; i < p->n; i++) {
		next[i] = p->entry[i];
		renew(ctx, &next[i]);
		print_entry(&text, &next[i]);
	}
	int rc = text.oom ? -ENOMEM : ex_replace_file(p->dir, p->next_path, p->temporary, &text);
	ex_str_done(&text);
	return rc < 0 ? ex_err_errno(err, rc, "cannot write '%s'", p->next_path) : 0;
}

int ex_published_end_model(struct ex_published *p, struct ex_err *err)
{
	assert(p->next_entry);
	free(p->entry);
	p->entry = EX_TAKE(p->next_entry);
	p->cap = p->n;
	memcpy(p->model_digest, p->next_digest, sizeof p->model_digest);
	int rc = rename(p->next_path, p->path) < 0 ? -errno : ex_sync_dir(p->dir);
	return rc < 0 ? ex_err_errno(err, rc, "cannot replace '%s'", p->path) : 0;
}

/* --- what is not needed any more -------------------------------------------------------------------------- */

static bool is_named(const struct ex_published *p, const char *sha256)
{
	for (size_t i = 0; i < p->n; i++)
		if (strcmp(p->entry[i].sha256, sha256) == 0)
			return true;
	return false;
}

size_t ex_published_collect(const struct ex_published *p, bool (*used)(void *ctx, const char *sha256), void *ctx)
{
	size_t n_removed = 0;
	DIR *d = opendir(p->plugins);
	for (const struct dirent *e; d && (e = readdir(d));) {
		char sha256[65], path[PATH_MAX];
		size_t n = strlen(e->d_name);
		bool is_copy = n == 67 && strcmp(e->d_name + 64, ".so") == 0;
		bool is_left_over = e->d_name[0] == '.' && n > 65; /* of a copy that was interrupted */
		snprintf(sha256, sizeof sha256, "%.64s", e->d_name);
		if ((!is_copy && !is_left_over) || (is_copy && (is_named(p, sha256) || used(ctx, sha256))) ||
			(size_t)snprintf(path, sizeof path, "%s/%s", p->plugins, e->d_name) >= sizeof path)
			continue;
		n_removed += unlink(path) == 0;
	}
	if (d)
		closedir(d);
	return n_removed;
}
