/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of an answer in which a completion is not a chat. Layer L4. Its text has everything, think tags too, in the order of the tokens. */
#include "gateway/chat_reply.h"

#include "gateway/text.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LOGPROB_MIN (-9999.0) /* of a token whose probability is 0: JSON has no infinity */

enum { TOKENS, LOGPROBS, TOPS, OFFSETS };
static const char *const log_names[EX_REPLY_LOGS] = {
	[TOKENS] = "tokens", [LOGPROBS] = "token_logprobs", [TOPS] = "top_logprobs", [OFFSETS] = "text_offset"};

static uint64_t count_chars(const char *s, size_t n)
{
	uint64_t count = 0;
	for (size_t i = 0; i < n; i++)
		count += ((unsigned char)s[i] & 0xc0) != 0x80;
	return count;
}

/* Appends what d brought. A token that opens the reasoning ends the text before it, one that closes it is followed by text. */
static void put_text(const struct ex_delta *d, struct ex_str *out)
{
	if (d->thinking)
		ex_str_addn(out, d->reasoning ? d->reasoning : "", d->n_reasoning);
	ex_str_addn(out, d->text ? d->text : "", d->n_text);
	if (!d->thinking)
		ex_str_addn(out, d->reasoning ? d->reasoning : "", d->n_reasoning);
}

static void put_token(struct ex_str *out, const struct ex_tokenizer *t, uint32_t id)
{
	size_t n = 0;
	const char *s = t ? ex_tokenizer_bytes(t, id, &n) : NULL;
	ex_json_putn(out, s ? s : "", n);
}

static void put_logprob(struct ex_str *out, float logprob)
{
	ex_str_addf(out, "%.9g", isfinite(logprob) ? (double)logprob : LOGPROB_MIN);
}

/* Adds a token's entries to the lists, and its characters to the count. */
static void add_logs(struct ex_reply_choice *c, const struct ex_reply_head *h, const struct ex_delta *d)
{
	const struct ex_token_logprob *l = d->logprobs;
	const uint64_t offset = c->n_chars + (h->echo ? count_chars(h->echo, strlen(h->echo)) : 0);
	c->n_chars += count_chars(d->text ? d->text : "", d->n_text) +
		      count_chars(d->reasoning ? d->reasoning : "", d->n_reasoning);
	if (!l || (d->control && !d->n_text && !d->n_reasoning)) /* the end has no text */
		return;
	for (size_t i = 0; i < EX_REPLY_LOGS; i++)
		ex_str_add(&c->logs[i], c->logs[i].n ? "," : "");
	put_token(&c->logs[TOKENS], d->tokenizer, l->id);
	put_logprob(&c->logs[LOGPROBS], l->logprob);
	ex_str_add(&c->logs[TOPS], "{");
	for (uint32_t i = 0; i < l->n_top; i++) {
		ex_str_add(&c->logs[TOPS], i ? "," : "");
		put_token(&c->logs[TOPS], d->tokenizer, l->top[i].id);
		ex_str_add(&c->logs[TOPS], ":");
		put_logprob(&c->logs[TOPS], l->top[i].logprob);
	}
	ex_str_add(&c->logs[TOPS], "}");
	ex_str_addf(&c->logs[OFFSETS], "%" PRIu64, offset);
}

static void put_logs(const struct ex_reply_choice *c, struct ex_str *out)
{
	for (size_t i = 0; i < EX_REPLY_LOGS; i++) {
		ex_str_addf(out, "%s\"%s\":[", i ? "," : "{", log_names[i]);
		ex_str_addn(out, c->logs[i].s ? c->logs[i].s : "", c->logs[i].n);
		ex_str_add(out, "]");
	}
	ex_str_add(out, "}");
}

void ex_completion_add(struct ex_reply_choice *c, const struct ex_reply_head *h, const struct ex_delta *d)
{
	put_text(d, &c->text);
	add_logs(c, h, d);
}

void ex_completion_choice(const struct ex_reply_head *h, const struct ex_reply_choice *c, uint32_t index,
	enum ex_finish f, bool logprobs, struct ex_str *out)
{
	struct ex_str text = EX_STR_INIT;
	ex_str_add(&text, h->echo ? h->echo : "");
	ex_str_addn(&text, c->text.s ? c->text.s : "", c->text.n);
	ex_str_addf(out, "%s{\"index\":%u,\"text\":", index ? "," : "", index);
	ex_json_putn(out, text.s ? text.s : "", text.n);
	out->oom |= text.oom;
	ex_str_done(&text);
	ex_str_add(out, ",\"logprobs\":");
	if (logprobs)
		put_logs(c, out);
	else
		ex_str_add(out, "null");
	ex_str_addf(out, ",\"finish_reason\":\"%s\"}", ex_reply_finish(f));
}

void ex_completion_echo(const struct ex_reply_head *h, uint32_t index, struct ex_str *out)
{
	ex_str_addf(out, "{\"index\":%u,\"text\":", index);
	ex_json_put(out, h->echo);
	ex_str_add(out, ",\"logprobs\":null,\"finish_reason\":null}");
}

void ex_completion_delta(const struct ex_reply_head *h, struct ex_reply_choice *c, uint32_t index,
	const struct ex_delta *d, struct ex_str *out)
{
	struct ex_str text = EX_STR_INIT;
	put_text(d, &text);
	ex_str_addf(out, "{\"index\":%u,\"text\":", index);
	ex_json_putn(out, text.s ? text.s : "", text.n);
	out->oom |= text.oom;
	ex_str_done(&text);
	ex_str_add(out, ",\"logprobs\":");
	add_logs(c, h, d);
	if (d->logprobs)
		put_logs(c, out);
	else
		ex_str_add(out, "null");
	ex_str_add(out, ",\"finish_reason\":null}");
	for (size_t i = 0; i < EX_REPLY_LOGS; i++) {
		out->oom |= c->logs[i].oom;
		if (c->logs[i].n)
			ex_str_reset(&c->logs[i]);
	}
}
