/* SPDX-License-Identifier: Apache-2.0 */
/* Who may ask, and what for: the seam between the HTTP edge and whoever keeps accounts and limits. Layer L4. */
#ifndef EX_GATEWAY_ADMIT_H
#define EX_GATEWAY_ADMIT_H

#include <stdint.h>

struct ex_admit;  /* the policy: ops table + ctx */
struct ex_ticket; /* one admitted request; ended exactly once */

struct ex_admit_ask {
	const char *key; /* bearer token, NULL: none sent */
	const char *request_id;
	uint32_t prompt_tokens, max_tokens; /* max_tokens resolved: the most that can be generated, times n */
	uint64_t likeness; /* a hash of what is asked: who was refused is known by it when it comes back */
};

struct ex_admit_answer {
	int status;                 /* 200, 401, 402, 403, 429, 503 */
	const char *code, *message; /* borrowed until the callback returns; NULL with 200 */
	unsigned retry_after_s;     /* 0: no header */
	struct ex_ticket *ticket;   /* with 200 */
	/* -1: no header */
	int64_t limit_requests, remaining_requests, reset_requests_ms, limit_tokens, remaining_tokens, reset_tokens_ms;
};

struct ex_usage_tokens {
	uint32_t prompt_hit, prompt_miss, completion, reasoning; /* reasoning: of completion */
};

struct ex_admit_ops {
	/* done is called exactly once, on any thread, perhaps before this returns. [http] */
	void (*ask)(void *ctx, const struct ex_admit_ask *a,
		void (*done)(void *done_ctx, const struct ex_admit_answer *r), void *done_ctx);
	/* So far; must not block. [step] */
	void (*progress)(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u);
	/* Ends t; must not block. [any] */
	void (*finish)(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u);
	/* The body of GET /user/balance; status as above. done as of ask. [http] */
	void (*balance)(
		void *ctx, const char *key, void (*done)(void *done_ctx, int status, const char *json), void *done_ctx);
};

struct ex_admit {
	const struct ex_admit_ops *ops;
	void *ctx;
};

/* Everybody may ask, nothing is counted or charged: for loopback and unix sockets. */
extern const struct ex_admit ex_admit_open;

#endif
