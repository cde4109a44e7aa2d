/* SPDX-License-Identifier: Apache-2.0 */
/* A chat completion's answer. Layer L4. */
#include "gateway/chat_reply.h"

#include "gateway/text.h"
#include <inttypes.h>
#include <math.h>

#define LOGPROB_MIN (-9999.0) /* of a token whose probability is 0: JSON has no infinity */

static void put_piece(struct ex_str *out, const char *key, const char *s, size_t n)
{
	ex_str_addf(out, "\"%s\":", key);
	ex_json_putn(out, s ? s : "", n);
}

/* --- log-probabilities ----------------------------------------------------------------------------------- */

static void put_token(struct ex_str *out, const struct ex_tokenizer *t, uint32_t id, float logprob)
{
	size_t n = 0;
	const char *s = t ? ex_tokenizer_bytes(t, id, &n) : NULL;
	ex_str_add(out, "{\"token\":");
	ex_json_putn(out, s ? s : "", n);
	ex_str_addf(out, ",\"logprob\":%.9g,\"bytes\":[", isfinite(logprob) ? (double)logprob : LOGPROB_MIN);
	for (size_t i = 0; i < n; i++)
		ex_str_addf(out, "%s%u", i ? "," : "", (unsigned char)s[i]);
	ex_str_add(out, "]");
}

static void put_logprob(struct ex_str *out, const struct ex_tokenizer *t, const struct ex_token_logprob *l)
{
	put_token(out, t, l->id, l->logprob);
	ex_str_add(out, ",\"top_logprobs\":[");
	for (uint32_t i = 0; i < l->n_top; i++) {
		ex_str_add(out, i ? "," : "");
		put_token(out, t, l->top[i].id, l->top[i].logprob);
		ex_str_add(out, "}");
	}
	ex_str_add(out, "]}");
}

/* A control token is no part of the answer. */
static bool has_logprob(const struct ex_delta *d)
{
	return d->logprobs && !d->control && !(d->tokenizer && ex_tokenizer_is_special(d->tokenizer, d->logprobs->id));
}

/* --- whole answers --------------------------------------------------------------------------------------- */

void ex_reply_choice_done(struct ex_reply_choice *c)
{
	ex_str_done(&c->text);
	ex_str_done(&c->reasoning);
	for (size_t i = 0; i < EX_REPLY_LOGS; i++)
		ex_str_done(&c->logs[i]);
}

static void add_to_chat(struct ex_reply_choice *c, const struct ex_delta *d)
{
	ex_str_addn(&c->text, d->text ? d->text : "", d->n_text);
	ex_str_addn(&c->reasoning, d->reasoning ? d->reasoning : "", d->n_reasoning);
	c->reasoned |= d->thinking;
	if (!has_logprob(d))
		return;
	struct ex_str *list = &c->logs[d->thinking];
	ex_str_add(list, list->n ? "," : "");
	put_logprob(list, d->tokenizer, d->logprobs);
}

bool ex_reply_choice_add(struct ex_reply_choice *c, const struct ex_reply_head *h, const struct ex_delta *d)
{
	if (h->completion)
		ex_completion_add(c, h, d);
	else
		add_to_chat(c, d);
	bool kept = !c->text.oom && !c->reasoning.oom;
	for (size_t i = 0; i < EX_REPLY_LOGS; i++)
		kept = kept && !c->logs[i].oom;
	return kept;
}

size_t ex_reply_choice_bytes(const struct ex_reply_choice *c)
{
	size_t n = c->text.n + c->reasoning.n;
	for (size_t i = 0; i < EX_REPLY_LOGS; i++)
		n += c->logs[i].n;
	return n;
}

void ex_reply_usage(const struct ex_usage_tokens *u, struct ex_str *out)
{
	const uint64_t prompt = (uint64_t)u->prompt_hit + u->prompt_miss;
	ex_str_addf(out,
		"{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%u,\"total_tokens\":%" PRIu64
		",\"prompt_cache_hit_tokens\":%u,\"prompt_cache_miss_tokens\":%u,"
		"\"prompt_tokens_details\":{\"cached_tokens\":%u},"
		"\"completion_tokens_details\":{\"reasoning_tokens\":%u}}",
		prompt, u->completion, prompt + u->completion, u->prompt_hit, u->prompt_miss, u->prompt_hit,
		u->reasoning);
}

const char *ex_reply_finish(enum ex_finish f)
{
	return ex_finish_name(f == EX_FINISH_CANCELLED ? EX_FINISH_NO_RESOURCE : f);
}

static void put_head(const struct ex_reply_head *h, const char *object, struct ex_str *out)
{
	ex_str_addf(out, "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%" PRIu64 ",\"model\":",
		h->completion ? "cmpl" : "chatcmpl", h->id, h->completion ? "text_completion" : object, h->created_s);
	ex_json_put(out, h->model);
	ex_str_add(out, ",\"system_fingerprint\":");
	ex_json_put(out, h->fingerprint);
	ex_str_add(out, ",\"choices\":[");
}

void ex_reply_whole_begin(const struct ex_reply_head *h, struct ex_str *out)
{
	put_head(h, "chat.completion", out);
}

static void put_list(struct ex_str *out, const char *key, const struct ex_str *entries)
{
	ex_str_addf(out, "\"%s\":[", key);
	ex_str_addn(out, entries->s ? entries->s : "", entries->n);
	ex_str_add(out, "]");
}

void ex_reply_whole_choice(const struct ex_reply_head *h, const struct ex_reply_choice *c, uint32_t index,
	enum ex_finish f, bool logprobs, struct ex_str *out)
{
	if (h->completion) {
		ex_completion_choice(h, c, index, f, logprobs, out);
		return;
	}
	ex_str_addf(out, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",", index ? "," : "", index);
	put_piece(out, "content", c->text.s, c->text.n);
	if (c->reasoned) {
		ex_str_add(out, ",");
		put_piece(out, "reasoning_content", c->reasoning.s, c->reasoning.n);
	}
	ex_str_add(out, "},\"logprobs\":");
	if (logprobs) {
		ex_str_add(out, "{");
		put_list(out, "content", &c->logs[0]);
		ex_str_add(out, ",");
		put_list(out, "reasoning_content", &c->logs[1]);
		ex_str_add(out, "}");
	} else {
		ex_str_add(out, "null");
	}
	ex_str_addf(out, ",\"finish_reason\":\"%s\"}", ex_reply_finish(f));
}

void ex_reply_whole_end(const struct ex_usage_tokens *u, struct ex_str *out)
{
	ex_str_add(out, "],\"usage\":");
	ex_reply_usage(u, out);
	ex_str_add(out, "}");
}

/* --- streams --------------------------------------------------------------------------------------------- */

static void begin_event(const struct ex_reply_head *h, struct ex_str *out)
{
	ex_str_add(out, "data: ");
	put_head(h, "chat.completion.chunk", out);
}

static void end_event(const struct ex_usage_tokens *u, bool usage_null, struct ex_str *out)
{
	ex_str_add(out, "]");
	if (u) {
		ex_str_add(out, ",\"usage\":");
		ex_reply_usage(u, out);
	} else if (usage_null) {
		ex_str_add(out, ",\"usage\":null");
	}
	ex_str_add(out, "}\n\n");
}

void ex_reply_event_role(const struct ex_reply_head *h, uint32_t index, bool usage_null, struct ex_str *out)
{
	if (h->completion && !h->echo)
		return;
	begin_event(h, out);
	if (h->completion)
		ex_completion_echo(h, index, out);
	else
		ex_str_addf(out,
			"{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
			"\"finish_reason\":null}",
			index);
	end_event(NULL, usage_null, out);
}

static void put_delta(uint32_t index, const struct ex_delta *d, bool logprob, struct ex_str *out)
{
	ex_str_addf(out, "{\"index\":%u,\"delta\":{", index);
	if (d->n_reasoning)
		put_piece(out, "reasoning_content", d->reasoning, d->n_reasoning);
	if (d->n_reasoning && d->n_text)
		ex_str_add(out, ",");
	if (d->n_text || !d->n_reasoning)
		put_piece(out, "content", d->text, d->n_text);
	ex_str_add(out, "},\"logprobs\":");
	if (logprob) {
		ex_str_add(out, d->thinking ? "{\"content\":[],\"reasoning_content\":[" : "{\"content\":[");
		put_logprob(out, d->tokenizer, d->logprobs);
		ex_str_add(out, "]}");
	} else {
		ex_str_add(out, "null");
	}
	ex_str_add(out, ",\"finish_reason\":null}");
}

void ex_reply_event_delta(const struct ex_reply_head *h, struct ex_reply_choice *c, uint32_t index,
	const struct ex_delta *d, bool usage_null, struct ex_str *out)
{
	const bool logprob = has_logprob(d);
	if (!d->n_text && !d->n_reasoning && !logprob)
		return;
	begin_event(h, out);
	if (h->completion)
		ex_completion_delta(h, c, index, d, out);
	else
		put_delta(index, d, logprob, out);
	end_event(NULL, usage_null, out);
}

void ex_reply_event_finish(const struct ex_reply_head *h, uint32_t index, enum ex_finish f,
	const struct ex_usage_tokens *u, bool usage_null, struct ex_str *out)
{
	begin_event(h, out);
	ex_str_addf(out, "{\"index\":%u,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}", index,
		h->completion ? "\"text\":\"\"" : "\"delta\":{}", ex_reply_finish(f));
	end_event(u, usage_null, out);
}

void ex_reply_event_usage(const struct ex_reply_head *h, const struct ex_usage_tokens *u, struct ex_str *out)
{
	begin_event(h, out);
	end_event(u, false, out);
}
