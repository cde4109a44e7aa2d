/* SPDX-License-Identifier: Apache-2.0 */
/* Growing strings and small text helpers. Layer L0. */
#ifndef EX_BASE_STR_H
#define EX_BASE_STR_H

#include "base/macro.h"
#include <stdarg.h>
#include <stdbool.h>

/* A growing byte string, always NUL-terminated once touched. Zero-initialised is empty. A failed allocation is remembered in
 * `oom`, and everything after it is dropped: check once, at the end. */
struct ex_str {
	char *s;
	size_t n, cap;
	bool oom;
};

#define EX_STR_INIT ((struct ex_str){0})

void ex_str_done(struct ex_str *b);
void ex_str_reset(struct ex_str *b);
void ex_str_add(struct ex_str *b, const char *s);
void ex_str_addn(struct ex_str *b, const void *s, size_t n);
void ex_str_addf(struct ex_str *b, const char *fmt, ...) EX_PRINTF(2, 3);
/* Takes the bytes out (free() them) and leaves b empty; NULL if memory ran out or nothing was added. */
char *ex_str_take(struct ex_str *b);

/* Whole file into memory, NUL-terminated, at most max bytes (-EFBIG beyond). Free *ret. */
struct ex_err;
int ex_read_file(const char *path, size_t max, struct ex_err *err, char **ret, size_t *ret_n);
/* All of data to fd. -errno. */
int ex_write_all(int fd, const void *data, size_t n);
/* The names in a directory are on the disk when it returns. -errno. */
int ex_sync_dir(const char *dir);
/* The file at path is text when it returns 0, and what it was, or not there, on an error: written as temporary, in the same directory dir.
 * -errno. */
int ex_replace_file(const char *dir, const char *path, const char *temporary, const struct ex_str *text);

/* "1.5 GiB", "312 MiB", "87 KiB", "12 B" into buf; returns buf. */
#define EX_BYTES_TEXT_MAX 24
char *ex_bytes_text(uint64_t bytes, char buf[static EX_BYTES_TEXT_MAX]);

/* Lower-case hex of n bytes into out[2n + 1]. */
void ex_hex(const void *data, size_t n, char *out);

/* True when all of s[0..n) is well-formed UTF-8 (no surrogates, no overlong forms). [any] */
bool ex_utf8_valid(const char *s, size_t n);

/* Copies text to out[size], fit for a line of a terminal or the journal: control characters (C0, DEL, C1) and bytes that are not UTF-8
 * become \xNN. A backslash stays what it is, so that nothing is escaped twice. Cut before what does not fit. Not aliased. [any] */
void ex_printable(const char *text, char *out, size_t size);

#endif
