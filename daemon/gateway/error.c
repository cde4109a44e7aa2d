/* SPDX-License-Identifier: Apache-2.0 */
/* Errors as HTTP clients get them. Layer L4. */
#include "gateway/error.h"

#include "gateway/text.h"
#include <errno.h>
#include <stdio.h>

#define RETRY_S 1 /* a queue that is full now has moved by then */

int ex_api_error_set(struct ex_api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
{
	char text[sizeof e->message];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	*e = (struct ex_api_error){.status = status, .code = code, .param = param};
	ex_printable(text, e->message, sizeof e->message);
	return -1;
}

int ex_api_error_errno(struct ex_api_error *e, int rc, const char *text)
{
	switch (rc) {
	case -E2BIG:
		return ex_api_error_set(e, 400, "context_length_exceeded", "messages", "%s", text);
	case -EINVAL:
	case -EILSEQ:
		return ex_api_error_set(e, 422, "invalid_value", NULL, "%s", text);
	case -ENOTSUP:
		return ex_api_error_set(e, 400, "unsupported", NULL, "%s", text);
	case -EAGAIN:
	case -ESHUTDOWN:
		ex_api_error_set(e, 503, rc == -EAGAIN ? "overloaded" : "stopping", NULL, "%s", text);
		e->retry_after_s = RETRY_S;
		return -1;
	default:
		return ex_api_error_set(e, 500, "internal_error", NULL, "%s", text);
	}
}

/* The class of an error, by which clients tell them apart. */
static const char *type_of(int status)
{
	switch (status) {
	case 401:
		return "authentication_error";
	case 402:
		return "insufficient_balance";
	case 403:
		return "permission_error";
	case 429:
		return "rate_limit_error";
	default:
		return status >= 500 ? "server_error" : "invalid_request_error";
	}
}

static void put_nullable(struct ex_str *out, const char *s)
{
	if (s)
		ex_json_put(out, s);
	else
		ex_str_add(out, "null");
}

void ex_api_error_body(const struct ex_api_error *e, struct ex_str *out)
{
	ex_str_add(out, "{\"error\":{\"message\":");
	ex_json_put(out, e->message);
	ex_str_addf(out, ",\"type\":\"%s\",\"param\":", type_of(e->status));
	put_nullable(out, e->param);
	ex_str_add(out, ",\"code\":");
	put_nullable(out, e->code);
	ex_str_add(out, "}}");
}
