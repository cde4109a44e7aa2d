/* SPDX-License-Identifier: Apache-2.0 */
/* Errors that say what failed, on what: a negative errno and one line of text, carried up to whoever handles it. Layer L0.
 *
 * A function that can fail returns 0 or -errno and takes `struct ex_err *err` last but for its ret_ outputs; err may be NULL.
 * Lower layers do not log: they set err, and the handler logs it, once.
 */
#ifndef EX_BASE_ERR_H
#define EX_BASE_ERR_H

#include "base/macro.h"
#include <errno.h>
#include <stdarg.h>

#define EX_ERR_TEXT_MAX 1024

struct ex_err {
	int code; /* -errno, 0 when none was set */
	char text[EX_ERR_TEXT_MAX];
};

#define EX_ERR_INIT ((struct ex_err){.code = 0, .text = ""})

/* Sets err (if any) to code and the formatted text, which ex_printable makes one line and cuts at EX_ERR_TEXT_MAX - 1 bytes. Returns code,
 * which must be negative. [any] */
int ex_err_set(struct ex_err *err, int code, const char *fmt, ...) EX_PRINTF(3, 4);

/* As ex_err_set, with ": <strerror(-code)>" appended. [any] */
int ex_err_errno(struct ex_err *err, int code, const char *fmt, ...) EX_PRINTF(3, 4);

/* Puts "<formatted>: " before the text that is there. Returns err->code, or -EIO when nothing was set. [any] */
int ex_err_prefix(struct ex_err *err, const char *fmt, ...) EX_PRINTF(2, 3);

/* The text, or strerror(-code) when a callee left no text. Never NULL. Valid while err is. [any] */
const char *ex_err_text(const struct ex_err *err);

#endif
