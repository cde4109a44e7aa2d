/* SPDX-License-Identifier: Apache-2.0 */
/* DIR/starts: a head, and a line "SHA256 COUNT" for each plugin. Layer L2. */
#include "expert/starts.h"

#include "base/lock.h"
#include "base/mem.h"
#include "base/str.h"
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD      "expertd-starts 1\n"
#define HEX       64
#define COUNT_MAX 1000000u /* more are not told apart */
#define BYTES_MAX ((size_t)EX_STARTS_PLUGINS_MAX * 128)

struct counted {
	char sha256[HEX + 1];
	unsigned n;
	bool aside;
};

struct ex_starts {
	char *dir, *path, *temporary;
	struct ex_lock lock;
	struct counted *v; /* [n_v]; guarded by lock, as n_v */
	size_t n_v;
};

/* --- text ------------------------------------------------------------------------------------------------ */

static bool parse_line(const char *line, struct counted *ret)
{
	*ret = (struct counted){.n = 0};
	if (strspn(line, "0123456789abcdef") != HEX || line[HEX] != ' ')
		return false;
	memcpy(ret->sha256, line, HEX);
	const char *digits = line + HEX + 1;
	size_t n = strspn(digits, "0123456789");
	if (n == 0 || n > 7 || digits[n])
		return false;
	ret->n = (unsigned)strtoul(digits, NULL, 10);
	return ret->n > 0 && ret->n <= COUNT_MAX;
}

static int parse(struct ex_starts *s, char *text, struct ex_err *err)
{
	char *rest = text + strlen(HEAD), *line;
	if (strncmp(text, HEAD, strlen(HEAD)) != 0)
		return ex_err_set(err, -EINVAL, "line 1 is not that of such a file");
	for (unsigned i = 2; (line = strsep(&rest, "\n")) && (*line || rest); i++) {
		if (s->n_v == EX_STARTS_PLUGINS_MAX || !parse_line(line, &s->v[s->n_v])) {
			s->n_v = 0;
			return ex_err_set(err, -EINVAL, "line %u is damaged", i);
		}
		s->n_v++;
	}
	return 0;
}

static int read_counts(struct ex_starts *s, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	if (access(s->path, F_OK) < 0 && errno == ENOENT)
		return 0;
	int rc = ex_read_file(s->path, BYTES_MAX, err, &text, &n);
	if (rc == 0 && strlen(text) != n)
		rc = ex_err_set(err, -EINVAL, "it holds a NUL");
	if (rc == 0)
		rc = parse(s, text, err);
	return rc < 0 ? ex_err_prefix(err, "'%s'", s->path) : 0;
}

/* The file is gone when nothing is counted. Under lock. */
static int write_counts(const struct ex_starts *s, struct ex_err *err)
{
	struct ex_str text = EX_STR_INIT;
	int rc = 0;
	ex_str_add(&text, HEAD);
	for (size_t i = 0; i < s->n_v; i++)
		ex_str_addf(&text, "%s %u\n", s->v[i].sha256, s->v[i].n);
	if (text.oom)
		rc = -ENOMEM;
	else if (s->n_v)
		rc = ex_replace_file(s->dir, s->path, s->temporary, &text);
	else if (unlink(s->path) < 0)
		rc = errno == ENOENT ? 0 : -errno;
	else
		rc = ex_sync_dir(s->dir);
	ex_str_done(&text);
	return rc < 0 ? ex_err_errno(err, rc, "cannot write '%s'", s->path) : 0;
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_starts_open(const char *dir, struct ex_err *err, struct ex_starts **ret)
{
	struct ex_starts *s = ex_calloc(1, sizeof *s);
	if (s)
		ex_lock_init(&s->lock, "starts");
	if (!s || !(s->v = ex_calloc(EX_STARTS_PLUGINS_MAX, sizeof *s->v)) || !(s->dir = strdup(dir)) ||
		asprintf(&s->path, "%s/starts", dir) < 0 || asprintf(&s->temporary, "%s/.starts", dir) < 0) {
		*ret = ex_starts_free(s);
		return ex_err_errno(err, -ENOMEM, "cannot count starts");
	}
	*ret = s;
	return read_counts(s, err);
}

struct ex_starts *ex_starts_free(struct ex_starts *s)
{
	if (s) {
		ex_lock_done(&s->lock);
		free(s->v);
		free(s->dir);
		free(s->path);
		free(s->temporary);
		free(s);
	}
	return NULL;
}

/* --- counting -------------------------------------------------------------------------------------------- */

static struct counted *find(struct ex_starts *s, const char *sha256)
{
	for (size_t i = 0; i < s->n_v; i++)
		if (strcmp(s->v[i].sha256, sha256) == 0)
			return &s->v[i];
	return NULL;
}

int ex_starts_begin(struct ex_starts *s, const char *const *sha256, size_t n, unsigned n_max, struct ex_err *err)
{
	struct counted *fresh = ex_calloc(EX_STARTS_PLUGINS_MAX, sizeof *fresh);
	if (!fresh)
		return ex_err_errno(err, -ENOMEM, "cannot count starts");
	n = n_max ? EX_MIN(n, (size_t)EX_STARTS_PLUGINS_MAX) : 0;
	ex_lock_take(&s->lock);
	for (size_t i = 0; i < n; i++) {
		const struct counted *before = find(s, sha256[i]);
		unsigned n_before = before ? before->n : 0;
		snprintf(fresh[i].sha256, sizeof fresh[i].sha256, "%s", sha256[i]);
		fresh[i].aside = n_before >= n_max;
		fresh[i].n = fresh[i].aside ? n_before : n_before + 1;
	}
	free(s->v);
	s->v = fresh;
	s->n_v = n;
	int rc = write_counts(s, err);
	ex_lock_give(&s->lock);
	return rc;
}

unsigned ex_starts_aside(struct ex_starts *s, const char *sha256)
{
	ex_lock_take(&s->lock);
	const struct counted *c = find(s, sha256);
	unsigned n = c && c->aside ? c->n : 0;
	ex_lock_give(&s->lock);
	return n;
}

int ex_starts_lasted(struct ex_starts *s, struct ex_err *err)
{
	size_t n = 0;
	ex_lock_take(&s->lock);
	for (size_t i = 0; i < s->n_v; i++)
		if (s->v[i].aside)
			s->v[n++] = s->v[i];
	bool any = n < s->n_v;
	s->n_v = n;
	int rc = any ? write_counts(s, err) : 0;
	ex_lock_give(&s->lock);
	return rc;
}

int ex_starts_forget(struct ex_starts *s, const char *sha256, struct ex_err *err)
{
	ex_lock_take(&s->lock);
	struct counted *c = find(s, sha256);
	if (c)
		*c = s->v[--s->n_v];
	int rc = c ? write_counts(s, err) : 0;
	ex_lock_give(&s->lock);
	return rc;
}
