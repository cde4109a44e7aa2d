/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of the journal of charges. Layer L4. */
#include "gateway/charges_file.h"

#include "base/mem.h"
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 320
#define FNV_START      UINT64_C(14695981039346656037) /* FNV-1a, 64 bits: against torn writes, not against people */
#define FNV_PRIME      UINT64_C(1099511628211)

static uint64_t checksum(const char *s, size_t n)
{
	uint64_t h = FNV_START;
	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)s[i]) * FNV_PRIME;
	return h;
}

/* "NAME HIT MISS COMPLETION REASONING AMOUNT DONE CHECKSUM\n"; a name has no blanks. */
void ex_charges_line(const struct ex_charge *c, struct ex_str *out)
{
	char line[LINE_MAX_BYTES];
	int n = snprintf(line, sizeof line, "%s %u %u %u %u %" PRId64 " %d", c->name, c->tokens.prompt_hit,
		c->tokens.prompt_miss, c->tokens.completion, c->tokens.reasoning, c->amount, c->done);
	assert(n > 0 && (size_t)n < sizeof line);
	ex_str_addf(out, "%s %016" PRIx64 "\n", line, checksum(line, (size_t)n));
}

static bool parse_line(const char *line, size_t n, struct ex_charge *c)
{
	char text[LINE_MAX_BYTES], name[EX_LEDGER_NAME_MAX + 1];
	uint64_t sum;
	int done, end = 0, blank;
	if (n >= sizeof text)
		return false;
	memcpy(text, line, n);
	text[n] = '\0';
	static_assert(EX_LEDGER_NAME_MAX == 120, "the width below");
	if (sscanf(text, "%120s %u %u %u %u %" SCNd64 " %d%n %" SCNx64 "%n", name, &c->tokens.prompt_hit,
		    &c->tokens.prompt_miss, &c->tokens.completion, &c->tokens.reasoning, &c->amount, &done, &blank,
		    &sum, &end) != 8 ||
		(size_t)end != n || c->amount < 0 || (done != 0 && done != 1))
		return false;
	memcpy(c->name, name, sizeof name);
	c->done = done;
	return sum == checksum(text, (size_t)blank);
}

/* By name, and lines of one name in the order in which they were written. */
static int compare(const void *a, const void *b)
{
	const struct ex_charge *const *x = a, *const *y = b;
	int c = strcmp((*x)->name, (*y)->name);
	return c ? c : *x < *y ? -1 : *x > *y;
}

/* Of n lines in order the last one of each name, without those that are done. */
static int last_words(const struct ex_charge *line, size_t n, struct ex_charge **ret, size_t *ret_n)
{
	EX_CLEANUP(ex_freep) const struct ex_charge **sorted = ex_calloc(n + 1, sizeof *sorted);
	struct ex_charge *out = ex_calloc(n + 1, sizeof *out);
	size_t n_out = 0;
	if (!sorted || !out) {
		free(out);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++)
		sorted[i] = &line[i];
	qsort(sorted, n, sizeof *sorted, compare);
	for (size_t i = 0; i < n; i++)
		if ((i + 1 == n || strcmp(sorted[i]->name, sorted[i + 1]->name) != 0) && !sorted[i]->done)
			out[n_out++] = *sorted[i];
	*ret = out;
	*ret_n = n_out;
	return 0;
}

int ex_charges_parse(const char *text, size_t n, struct ex_charge **ret, size_t *ret_n, size_t *ret_rest)
{
	EX_CLEANUP(ex_freep) struct ex_charge *line = NULL;
	size_t n_lines = 0, cap = 0, at = 0;
	for (const char *end; (end = memchr(text + at, '\n', n - at));) {
		struct ex_charge c;
		if (!parse_line(text + at, (size_t)(end - text) - at, &c))
			break;
		if (ex_grow(&line, &cap, n_lines + 1, sizeof c) < 0)
			return -ENOMEM;
		line[n_lines++] = c;
		at = (size_t)(end - text) + 1;
	}
	*ret_rest = n - at;
	return last_words(line, n_lines, ret, ret_n);
}

int ex_charges_read(const char *path, struct ex_err *err, struct ex_charge **ret, size_t *ret_n, size_t *ret_rest)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n = 0;
	int rc = 0;
	if (access(path, F_OK) == 0)
		rc = ex_read_file(path, EX_CHARGES_FILE_BYTES_MAX, err, &text, &n);
	else if (errno != ENOENT)
		rc = ex_err_errno(err, -errno, "cannot read '%s'", path);
	if (rc < 0)
		return rc;
	rc = ex_charges_parse(text ? text : "", n, ret, ret_n, ret_rest);
	return rc < 0 ? ex_err_errno(err, rc, "cannot read '%s'", path) : 0;
}

int ex_charges_replace(const char *path, const struct ex_str *lines, struct ex_err *err, int *ret_fd)
{
	char temporary[PATH_MAX], dir[PATH_MAX];
	EX_CLEANUP(ex_closep) int fd = -1;
	if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
		return ex_err_errno(err, -ENAMETOOLONG, "cannot write '%s'", path);
	memcpy(dir, temporary, sizeof dir);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	int rc = fd < 0 ? -errno : lines->oom ? -ENOMEM : ex_write_all(fd, lines->n ? lines->s : "", lines->n);
	if (rc == 0 && fdatasync(fd) < 0)
		rc = -errno;
	if (rc == 0 && rename(temporary, path) < 0)
		rc = -errno;
	if (rc == 0)
		rc = ex_sync_dir(dirname(dir));
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot write the journal of charges '%s'", path);
	*ret_fd = fd;
	fd = -1;
	return 0;
}
