/* SPDX-License-Identifier: Apache-2.0 */
/* The limits from the inside. Private to gateway/limits*.c. Layer L4. */
#ifndef EX_GATEWAY_LIMITS_INT_H
#define EX_GATEWAY_LIMITS_INT_H

#include "base/lock.h"
#include "gateway/limits.h"

#define EX_LIMITS_WAITS      256 /* samples of the wait */
#define EX_LIMITS_BUCKETS    4096
#define EX_LIMITS_TOKENS_OUT 256 /* that an answer is expected to have before any was seen */

struct ex_limits_key {
	struct ex_limits_key *next;
	int64_t id;
	uint32_t tier, n_held; /* places that refer to it */
	struct ex_gcra requests, tokens;
};
struct ex_limits_account {
	struct ex_limits_account *next;
	int64_t id;
	uint32_t n_held;
	struct ex_fair_flow flow;
};

struct tier_limits {
	struct ex_limits_tier t;
	struct ex_gcra_rate requests, tokens; /* per_min 0: no limit */
};

struct ex_limits {
	uint32_t magic;
	const struct ex_admit *inner;
	struct ex_admit admit; /* this, as the edge sees it */
	bool (*who)(void *ctx, const char *key, struct ex_limits_who *ret);
	void *who_ctx;
	struct tier_limits *tiers;
	uint32_t n_tiers, places;
	pthread_t thread;
	bool has_thread;
	_Atomic uint64_t turns, tokens_served;

	struct ex_lock lock;
	pthread_cond_t wake;
	/* guarded by lock */
	struct ex_fair *queue;
	bool stopping, closed;
	uint32_t n_running, n_known; /* n_known: keys and accounts in the tables */
	struct ex_limits_key *keys[EX_LIMITS_BUCKETS];
	struct ex_limits_account *accounts[EX_LIMITS_BUCKETS];
	double tokens_out, duration_s; /* of an answer, as of late */
	uint64_t n_limited, n_overloaded, n_shed;
	struct {
		uint64_t at_ns, wait_ns;
	} waits[EX_LIMITS_WAITS];
	uint64_t n_waits;
	double tokens_per_s;
	uint64_t measured_ns, measured_tokens;
	bool waited_then; /* somebody waited when it was measured last */
};

/* Under l->lock. NULL: no memory, or EX_LIMITS_KEYS_MAX are in use. */
struct ex_limits_key *ex_limits_key_of(struct ex_limits *l, int64_t id, uint32_t tier);
struct ex_limits_account *ex_limits_account_of(struct ex_limits *l, int64_t id);
/* Forgets those at rest, for which a new entry would be as good. */
void ex_limits_sweep(struct ex_limits *l, uint64_t now_ns);
void ex_limits_drop_tables(struct ex_limits *l);

#endif
