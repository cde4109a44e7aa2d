/* SPDX-License-Identifier: Apache-2.0 */
/* STATE/model: five lines. Layer L5. */
#include "core/choice.h"

#include "base/mem.h"
#include "base/str.h"
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD             "expertd-model 1"
#define CHOICE_BYTES_MAX ((size_t)4 * PATH_MAX)

/* Head, when it was decided, digest, base, directory: a line each. */
static bool parse(char *text, char *line[static 5], struct ex_choice *c)
{
	char *rest = text, *end;
	for (int i = 0; i < 5; i++)
		if (!(line[i] = strsep(&rest, "\n")))
			return false;
	if (!rest || *rest || strcmp(line[0], HEAD) != 0 || !isdigit((unsigned char)*line[1]))
		return false;
	c->decided_us = strtoull(line[1], &end, 10);
	if (*end || strlen(line[2]) != EX_DIGEST_HEX - 1 || line[4][0] != '/' || strlen(line[4]) >= sizeof c->dir)
		return false;
	for (const char *s = line[2]; *s; s++)
		if (!isxdigit((unsigned char)*s))
			return false;
	strcpy(c->digest, line[2]);
	strcpy(c->dir, line[4]);
	return true;
}

int ex_choice_read(const char *state, const char *base, struct ex_err *err, struct ex_choice *ret)
{
	EX_CLEANUP(ex_freep) char *path = NULL, *text = NULL;
	char *line[5];
	size_t n;
	struct ex_choice c = {.decided_us = 0};
	*ret = c;
	if (asprintf(&path, "%s/model", state) < 0) {
		path = NULL;
		return ex_err_errno(err, -ENOMEM, "cannot read which model is live");
	}
	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	int rc = ex_read_file(path, CHOICE_BYTES_MAX, err, &text, &n);
	if (rc < 0)
		return rc;
	if (strlen(text) != n || !parse(text, line, &c))
		return ex_err_set(err, -EINVAL,
			"'%s' is damaged, and with it which model is live: remove it to serve [model] path", path);
	if (strcmp(line[3], base) == 0)
		*ret = c;
	return 0;
}

static int write_file(const char *state, const char *temporary, const char *path, const struct ex_str *text)
{
	EX_CLEANUP(ex_closep) int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int rc = fd < 0 ? -errno : ex_write_all(fd, text->s, text->n);
	if (rc == 0 && (fsync(fd) < 0 || rename(temporary, path) < 0))
		rc = -errno;
	if (rc < 0 && fd >= 0)
		unlink(temporary);
	return rc < 0 ? rc : ex_sync_dir(state);
}

static int remove_file(const char *state, const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	return ex_sync_dir(state);
}

int ex_choice_write(const char *state, const char *base, const struct ex_choice *c, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) char *path = NULL;
	EX_CLEANUP(ex_freep) char *temporary = NULL;
	struct ex_str text = EX_STR_INIT;
	if (strchr(c->dir, '\n') || strchr(base, '\n'))
		return ex_err_set(err, -EINVAL, "a path with a line break cannot be kept");
	if (asprintf(&path, "%s/model", state) < 0)
		path = NULL;
	if (asprintf(&temporary, "%s/.model", state) < 0)
		temporary = NULL;
	ex_str_addf(&text, HEAD "\n%llu\n%s\n%s\n%s\n", (unsigned long long)c->decided_us, c->digest, base, c->dir);
	int rc = !path || !temporary || text.oom ? -ENOMEM
		 : *c->dir                       ? write_file(state, temporary, path, &text)
						 : remove_file(state, path);
	ex_str_done(&text);
	return rc < 0 ? ex_err_errno(err, rc, "cannot write '%s/model'", state) : 0;
}
