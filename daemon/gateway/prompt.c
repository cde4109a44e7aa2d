/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts: messages by the model's template, plain text, text with a gap. Layer L4. */
#include "gateway/prompt.h"

#include "base/mem.h"
#include <inttypes.h>
#include <string.h>

/* The DeepSeek family's tokens around a gap, in the order prefix, gap, suffix. */
static const char fim_begin[] = "<｜fim▁begin｜>", fim_hole[] = "<｜fim▁hole｜>", fim_end[] = "<｜fim▁end｜>";

static int put_text(const struct ex_prompt_opts *o, const char *text, struct ex_api_error *e, struct ex_prompt *p)
{
	struct ex_err err = EX_ERR_INIT;
	int rc = ex_tokenizer_encode(o->tokenizer, text, strlen(text), 0, &err, &p->ids, &p->n, &p->cap);
	return rc ? ex_api_error_errno(e, rc, ex_err_text(&err)) : 0;
}

static int put_id(int64_t id, struct ex_api_error *e, struct ex_prompt *p)
{
	if (ex_grow(&p->ids, &p->cap, p->n + 1, sizeof *p->ids) < 0)
		return ex_api_error_set(e, 500, "internal_error", NULL, "out of memory");
	p->ids[p->n++] = (uint32_t)id;
	return 0;
}

static int put_bos(const struct ex_prompt_opts *o, struct ex_api_error *e, struct ex_prompt *p)
{
	int64_t bos = ex_tokenizer_bos(o->tokenizer);
	return bos >= 0 ? put_id(bos, e, p) : 0;
}

static int encode_gap(
	const struct ex_prompt_opts *o, const struct ex_chat_ask *a, struct ex_api_error *e, struct ex_prompt *p)
{
	const int64_t begin = ex_tokenizer_id(o->tokenizer, fim_begin), hole = ex_tokenizer_id(o->tokenizer, fim_hole),
		      end = ex_tokenizer_id(o->tokenizer, fim_end);
	if (begin < 0 || hole < 0 || end < 0)
		return ex_api_error_set(
			e, 400, "unsupported", "suffix", "the model has no tokens for filling in the middle");
	if (put_bos(o, e, p) || put_id(begin, e, p) || put_text(o, a->prompt, e, p) || put_id(hole, e, p) ||
		put_text(o, a->suffix, e, p))
		return -1;
	return put_id(end, e, p);
}

static int encode_ids(const struct ex_chat_ask *a, struct ex_api_error *e, struct ex_prompt *p)
{
	if (ex_grow(&p->ids, &p->cap, a->n_prompt_ids, sizeof *p->ids) < 0)
		return ex_api_error_set(e, 500, "internal_error", NULL, "out of memory");
	memcpy(p->ids, a->prompt_ids, a->n_prompt_ids * sizeof *p->ids);
	p->n = a->n_prompt_ids;
	return 0;
}

static int encode_chat(
	const struct ex_prompt_opts *o, const struct ex_chat_ask *a, struct ex_api_error *e, struct ex_prompt *p)
{
	struct ex_err err = EX_ERR_INIT;
	if (!o->chat)
		return ex_api_error_set(e, 400, "unsupported", "messages",
			"the model has no chat template that is understood: ask for completions");
	p->starts_thinking = ex_chat_starts_thinking(o->chat);
	if (a->thinking != EX_THINKING_ANY && p->starts_thinking != (a->thinking == EX_THINKING_ON))
		return ex_api_error_set(e, 422, "unsupported", "thinking", "the model, with its template %s, %s thinks",
			ex_chat_name(o->chat), p->starts_thinking ? "always" : "never");
	int rc = ex_chat_encode(o->chat, a->messages, a->n_messages, &err, &p->ids, &p->n, &p->cap);
	return rc ? ex_api_error_errno(e, rc, ex_err_text(&err)) : 0;
}

int ex_prompt_encode(
	const struct ex_prompt_opts *o, const struct ex_chat_ask *a, struct ex_api_error *e, struct ex_prompt *p)
{
	const char *param = a->kind == EX_ASK_CHAT ? "messages" : "prompt";
	*p = (struct ex_prompt){0};
	if (a->content_bytes > o->bytes_max)
		return ex_api_error_set(e, 413, "prompt_too_large", param,
			"the prompt has %zu bytes, at most %" PRIu64 " are taken", a->content_bytes, o->bytes_max);
	int rc;
	if (a->kind == EX_ASK_CHAT)
		rc = encode_chat(o, a, e, p);
	else if (a->prompt_ids)
		rc = encode_ids(a, e, p);
	else if (a->suffix)
		rc = encode_gap(o, a, e, p);
	else
		rc = put_bos(o, e, p) || put_text(o, a->prompt, e, p) ? -1 : 0;
	if (rc)
		return rc;
	if (p->n >= o->n_ctx)
		return ex_api_error_set(e, 400, "context_length_exceeded", param,
			"the prompt has %zu tokens, the context %u, of which the answer needs one", p->n, o->n_ctx);
	return 0;
}
