/* SPDX-License-Identifier: Apache-2.0 */
/* Admission without accounts. Layer L4. */
#include "gateway/admit.h"

#include <stddef.h>

static void ask(void *ctx, const struct ex_admit_ask *a, void (*done)(void *done_ctx, const struct ex_admit_answer *r),
	void *done_ctx)
{
	static const struct ex_admit_answer yes = {
		.status = 200,
		.limit_requests = -1,
		.remaining_requests = -1,
		.reset_requests_ms = -1,
		.limit_tokens = -1,
		.remaining_tokens = -1,
		.reset_tokens_ms = -1,
	};
	(void)ctx;
	(void)a;
	done(done_ctx, &yes);
}

static void count(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	(void)ctx;
	(void)t;
	(void)u;
}

/* What cannot run out: requests are always possible, and there is no money. */
static void balance(
	void *ctx, const char *key, void (*done)(void *done_ctx, int status, const char *json), void *done_ctx)
{
	(void)ctx;
	(void)key;
	done(done_ctx, 200, "{\"is_available\":true,\"balance_infos\":[]}");
}

static const struct ex_admit_ops ops = {.ask = ask, .progress = count, .finish = count, .balance = balance};

const struct ex_admit ex_admit_open = {.ops = &ops};
