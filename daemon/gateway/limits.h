/* SPDX-License-Identifier: Apache-2.0 */
/* Limits in front of another admission: rates per key, requests at once per account, and a fair queue for the engine's places. Layer L4.
 *
 * ask: whose key it is; then the account's requests at once, the key's requests and tokens a minute, and how long it would wait. What passes gets a
 * place at once or waits in the queue (fair.h); with a place the admission behind is asked, and its answer is the answer. A place is free again when
 * the request is finished. Tokens are counted as the most that the request may use, and what was not used is given back at its end.
 *
 * Who is refused is told when to come back: 429 for what the key or account did, 503 when the queue is full. One thread hands out places that
 * became free and sheds who waited too long; nothing of the way back to the engine runs on the step thread. */
#ifndef EX_GATEWAY_LIMITS_H
#define EX_GATEWAY_LIMITS_H

#include "base/str.h"
#include "gateway/admit.h"
#include "gateway/fair.h"
#include "gateway/gcra.h"

#define EX_LIMITS_TIER_MAX 33    /* bytes of a tier's name, NUL included */
#define EX_LIMITS_KEYS_MAX 65536 /* keys and accounts remembered; one that is at rest makes room for another */

struct ex_limits_tier {
	char name[EX_LIMITS_TIER_MAX];
	uint32_t weight;                           /* in the queue, 1 to EX_FAIR_WEIGHT_MAX */
	uint32_t requests_per_min, tokens_per_min; /* per key; 0: no limit. A burst is a minute's worth. */
	uint32_t concurrency; /* requests of an account at once, those that wait included; 0: no limit */
};
#define EX_LIMITS_TIER_DEFAULT "default" /* the first one: of whoever is in no other */
#define EX_LIMITS_REQUESTS_MAX 1000000
struct ex_limits_words {
	const char *const *v; /* [n] "TIER=NUMBER" */
	size_t n;
};
struct ex_limits_conf {
	struct ex_limits_words weight, requests_per_min, tokens_per_min, concurrency;
};
/* The tiers that are named, and the default one, into ret[EX_FAIR_TIERS_MAX]. -EINVAL. [any] */
int ex_limits_tiers_parse(
	const struct ex_limits_conf *c, struct ex_err *err, struct ex_limits_tier *ret, uint32_t *ret_n);
/* The index of the tier of that name, 0 without one. [any] */
uint32_t ex_limits_tier_find(const struct ex_limits_tier *tiers, uint32_t n, const char *name);

struct ex_limits_who {
	int64_t account, key; /* what tells them apart */
	uint32_t tier;        /* index */
};

struct ex_limits_opts {
	const struct ex_admit *inner; /* borrowed */
	/* Whose key this is (NULL: none was sent). False: nobody's; the admission behind is asked at once, to refuse it. [any] */
	bool (*who)(void *ctx, const char *key, struct ex_limits_who *ret);
	void *ctx;
	const struct ex_limits_tier *tiers; /* [n_tiers], copied */
	uint32_t n_tiers;
	uint32_t places;    /* requests that the engine computes at once */
	uint32_t queue_max; /* requests that wait, at most EX_FAIR_ITEMS_MAX */
	unsigned queue_wait_ms;
};
struct ex_limits;
int ex_limits_new(const struct ex_limits_opts *o, struct ex_err *err, struct ex_limits **ret); /* [main] */
/* From now on what waits, and what comes, is refused with 503. [any] */
void ex_limits_close(struct ex_limits *l);
/* Every request has been finished. [main] */
struct ex_limits *ex_limits_free(struct ex_limits *l);
EX_DEFINE_CLEANUP(struct ex_limits, ex_limits_free)
/* What the edge asks. Borrowed. */
const struct ex_admit *ex_limits_admit(struct ex_limits *l);

struct ex_limits_stat {
	uint32_t n_running, n_waiting, n_accounts_waiting;
	uint64_t n_limited, n_overloaded, n_shed; /* refused with 429, with 503; of these after they had waited */
	double wait_p95_s; /* of those who got a place in the last minute, and of who waits longest now; 0: nobody waited */
	double tokens_per_s; /* served while all places were taken; 0: not known yet */
};
void ex_limits_stat(struct ex_limits *l, struct ex_limits_stat *ret); /* [any] */
uint64_t ex_limits_turns(const struct ex_limits *l);                  /* for the watchdog */

/* The rates' states as text, one line a key: to be kept over a restart; and back. real_ns: now. [any] */
void ex_limits_save(struct ex_limits *l, uint64_t real_ns, struct ex_str *out);
int ex_limits_load(struct ex_limits *l, const char *text, size_t n, uint64_t real_ns,
	struct ex_err *err); /* [main] before it is asked */

#endif
