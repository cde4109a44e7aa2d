/* SPDX-License-Identifier: Apache-2.0 */
/* What an HTTP client is told when it gets no answer: status, and a body of OpenAI's form. Pure. Layer L4. */
#ifndef EX_GATEWAY_ERROR_H
#define EX_GATEWAY_ERROR_H

#include "base/str.h"

struct ex_api_error {
	int status;               /* 0: none */
	const char *code, *param; /* literals; NULL: null */
	unsigned retry_after_s;   /* 0: no header */
	char message[512];
};

/* Sets e; the text is made one line. Returns -1, so that a refusal is one return. [any] */
int ex_api_error_set(struct ex_api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
	EX_PRINTF(5, 6);
/* The error of a call that gave -errno: too long a prompt, a full queue, a stop, and so on. Returns -1. [any] */
int ex_api_error_errno(struct ex_api_error *e, int rc, const char *text);
/* Appends {"error": {"message", "type", "param", "code"}}. [any] */
void ex_api_error_body(const struct ex_api_error *e, struct ex_str *out);

#endif
