/* SPDX-License-Identifier: Apache-2.0 */
/* A request becomes tokens: admission, continuous batching, paged KV, sampling, detokenising, events to the client. Layer L3.
 * One step thread per engine; submit and cancel from any thread; events come on the step thread and must not block. */
#ifndef EX_ENGINE_ENGINE_H
#define EX_ENGINE_ENGINE_H

#include "engine/dispatch.h"
#include "model/chat.h"
#include "trunk/trunk.h"

#define EX_STOPS_MAX        16
#define EX_STOP_BYTES_MAX   256
#define EX_TOP_LOGPROBS_MAX 20

struct ex_engine;
struct ex_side;    /* a model that requests are answered with; two while a switch is under way */
struct ex_request; /* one generation; reference counted */

struct ex_sampling {
	float temperature; /* 0: greedy */
	float top_p;       /* (0, 1]; 1: off */
	uint32_t top_k;    /* 0: off */
	uint64_t seed;
};

struct ex_token_logprob {
	uint32_t id;
	float logprob;
	uint32_t n_top;
	struct {
		uint32_t id;
		float logprob;
	} top[EX_TOP_LOGPROBS_MAX];
};

enum ex_finish { EX_FINISH_STOP = 1, EX_FINISH_LENGTH, EX_FINISH_NO_RESOURCE, EX_FINISH_CANCELLED };
const char *ex_finish_name(enum ex_finish f); /* "stop", "length", "insufficient_system_resource", "cancelled" */

struct ex_delta {
	const char *text, *reasoning; /* whole characters; NULL: none */
	size_t n_text, n_reasoning;
	const uint32_t *ids;                     /* an end-of-sequence token is among them, though it is no text */
	const struct ex_token_logprob *logprobs; /* [n_ids] or NULL */
	uint32_t n_ids;
	const struct ex_tokenizer *tokenizer; /* of the model that answers; NULL: none */
	bool thinking, control;               /* of the last id: it was generated inside the reasoning; it is no text */
	const float *logits;                  /* [n_ids, vocab] or NULL */
	size_t n_logits_bytes;
};
struct ex_finished {
	enum ex_finish reason;
	const char *error; /* NULL: none */
	uint32_t prompt_tokens, completion_tokens, reasoning_tokens;
	double queue_s, first_token_s, total_s;
	uint64_t rows_dispatched;
};
/* The client's side. All [step]; exactly one finished, last. delta returns false when the client cannot take more (its bounded buffer is full): the request is
 * then cancelled. */
struct ex_sink {
	void (*started)(void *ctx, struct ex_request *r, uint32_t prompt_tokens);
	bool (*delta)(void *ctx, struct ex_request *r, const struct ex_delta *d);
	void (*finished)(void *ctx, struct ex_request *r, const struct ex_finished *f);
	/* NULL, or asked before each token is chosen: it may lower logits [vocab] to finite values. thinking: the token comes inside the reasoning; n_left: how
	 * many may still come, this one included. False: none may, and the request ends. */
	bool (*mask)(void *ctx, float *logits, uint32_t vocab, bool thinking, uint32_t n_left);
	void *ctx;
};

struct ex_request_params {
	const uint32_t *ids; /* [n_ids] prompt, copied */
	uint32_t n_ids;
	uint32_t max_tokens; /* 0: up to the context's end */
	struct ex_sampling sampling;
	const char *const *stop; /* [n_stop], copied; looked for in the answer, not in the reasoning */
	uint32_t n_stop;
	uint32_t top_logprobs;
	bool logprobs, ignore_eos, keep_special, want_logits;
	bool starts_thinking; /* the prompt opened <think> */
	struct ex_side *side; /* held: what the prompt was encoded for; NULL: the one that is served */
	struct ex_sink sink;
};

struct ex_engine_opts {
	/* made for rows_max >= step_tokens_max, logits_max >= max_batch; borrowed, as all pointers here */
	struct ex_trunk *trunk;
	struct ex_dispatch *dispatch;
	const struct ex_moe_ops *moe; /* instead of dispatch, which is then NULL */
	const struct ex_model_config *config;
	const struct ex_tokenizer *tokenizer; /* NULL: token ids only */
	const struct ex_chat *chat;           /* NULL: no template */
	void *user;                           /* of the model: ex_side_user */
	uint32_t max_batch;                   /* sequences in the running batch, >= 1 */
	uint32_t step_tokens_max;             /* rows per step: decode rows first, then prefill chunks */
	uint32_t queue_max;                   /* requests taken beyond max_batch, to wait; more: -EAGAIN */
	uint32_t page_tokens, n_pages, n_ctx;
};
int ex_engine_new(const struct ex_engine_opts *o, struct ex_err *err, struct ex_engine **ret);
/* Ends all requests as cancelled, joins. Meanwhile and after it nothing of the engine is called, ex_request_unref and ex_request_id excepted. [main] */
struct ex_engine *ex_engine_free(struct ex_engine *e);
/* No new requests; returns when none is left or timeout_ms passed (then false). [main] */
bool ex_engine_drain(struct ex_engine *e, unsigned timeout_ms);
/* The same, and those that are left end as cancelled after the step at hand, so that clients hear how far they came. [main] */
bool ex_engine_end(struct ex_engine *e, unsigned timeout_ms);

/* -EINVAL (prompt empty, token id out of range, limits), -E2BIG (the context, or the whole KV pool, cannot hold the prompt and one token: both
 * numbers in err), -EAGAIN (queue full), -ESHUTDOWN.
 * *ret: a reference for the caller. [any] */
int ex_engine_submit(
	struct ex_engine *e, const struct ex_request_params *p, struct ex_err *err, struct ex_request **ret);
/* The model that new requests are for, with its tokenizer and template (NULL: none). It stays until the release. [any] */
struct ex_side *ex_engine_hold(struct ex_engine *e);
void ex_engine_release(struct ex_engine *e, struct ex_side *s);
const struct ex_tokenizer *ex_side_tokenizer(const struct ex_side *s);
const struct ex_chat *ex_side_chat(const struct ex_side *s);
void *ex_side_user(const struct ex_side *s);

/* Another model is served from the next step on. Requests that were taken before stay with the one before until they end, in steps of their own;
 * with `move` they go over at once: what they have so far is computed again by the new one, as after a preemption, and they go on. */
struct ex_engine_model {
	struct ex_trunk *trunk; /* of the same shape and sizes as the one before; borrowed, as all */
	struct ex_dispatch *dispatch;
	const struct ex_moe_ops *moe; /* instead of dispatch */
	const struct ex_model_config *config;
	const struct ex_tokenizer *tokenizer; /* with move: the same as before */
	const struct ex_chat *chat;
	void *user;
	bool move;
	void (*retired)(void *ctx); /* nothing of the model before is used any more. [step], once */
	void *ctx;
};
/* -EBUSY: the model before the last switch still has requests. [any] */
int ex_engine_switch(struct ex_engine *e, const struct ex_engine_model *m, struct ex_err *err);

void ex_request_cancel(struct ex_request *r);              /* [any] */
struct ex_request *ex_request_unref(struct ex_request *r); /* [any] */
const char *ex_request_id(const struct ex_request *r);     /* "req-…" */
void *ex_request_user(const struct ex_request *r);         /* of the model that answers it at the moment [step] */

struct ex_engine_stat {
	uint32_t running, waiting, max_batch, pages_used, n_pages, page_tokens, n_ctx;
	uint64_t prompt_tokens, generation_tokens;
	uint32_t n_before;    /* requests of the model before, running or waiting */
	uint64_t n_moved;     /* requests that went over to another model */
	uint64_t n_preempted; /* sequences pushed out of the batch for want of pages, to be recomputed */
	double tokens_per_s;  /* generated, last 10 s */
};
void ex_engine_stat(struct ex_engine *e, struct ex_engine_stat *ret); /* [any] */
uint64_t ex_engine_turns(struct ex_engine *e); /* for the watchdog: grows while stepping or idle */

#endif
