/* SPDX-License-Identifier: Apache-2.0 */
/* Errors with a text. Layer L0. */
#include "base/err.h"

#include "base/str.h"
#include <stdio.h>
#include <string.h>

static int set_text(struct ex_err *err, int code, const char *fmt, va_list ap)
{
	assert(code < 0);
	if (!err)
		return code;
	char text[sizeof err->text]; /* may hold bytes of files and peers */
	vsnprintf(text, sizeof text, fmt, ap);
	ex_printable(text, err->text, sizeof err->text);
	err->code = code;
	return code;
}

int ex_err_set(struct ex_err *err, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	set_text(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int ex_err_errno(struct ex_err *err, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	set_text(err, code, fmt, ap);
	va_end(ap);
	if (err) {
		char reason[128];
		size_t n = strlen(err->text);
		snprintf(err->text + n, sizeof err->text - n, ": %s", strerror_r(-code, reason, sizeof reason));
	}
	return code;
}

int ex_err_prefix(struct ex_err *err, const char *fmt, ...)
{
	if (!err)
		return -EIO;
	char old[EX_ERR_TEXT_MAX];
	int code = err->code ? err->code : -EIO;
	snprintf(old, sizeof old, "%s", ex_err_text(err));
	va_list ap;
	va_start(ap, fmt);
	set_text(err, code, fmt, ap);
	va_end(ap);
	size_t n = strlen(err->text);
	snprintf(err->text + n, sizeof err->text - n, ": %s", old);
	return code;
}

const char *ex_err_text(const struct ex_err *err)
{
	if (err->text[0])
		return err->text;
	return err->code ? strerrordesc_np(-err->code) : "no error";
}
