/* SPDX-License-Identifier: Apache-2.0 */
/* Who is next: a weighted fair queue of tiers, and within a tier of accounts, bounded by how long one would wait. Layer L4.
 *
 * Start-time fair queueing at both levels: of those who wait, whose share was served least begins next. An account that queues a thousand
 * requests therefore delays the one request of another by the one that was about to begin. Some slots are kept for accounts with nothing
 * running, so that this one does not wait for one of the thousand to end either.
 *
 * An account is refused once what it has queued would not begin within wait_max_ns at its share of the measured rate, and is told in how many whole
 * seconds to come back. That is a promise: others are put behind it, and when it is due it is kept unless the wait has grown to half as much again.
 * That is also the longest that anybody waits: what others overtook for so long is shed, and promised its next time likewise.
 *
 * Flows and items are the caller's structs, borrowed until they are out of the queue; nothing is allocated after ex_fair_new. Reads no clock:
 * now_ns is monotonic. Not thread-safe: the caller has a lock. Source: Goyal, Vin, Cheng, "Start-time fair queueing", 1996. */
#ifndef EX_GATEWAY_FAIR_H
#define EX_GATEWAY_FAIR_H

#include "base/err.h"
#include <stdbool.h>

#define EX_FAIR_TIERS_MAX  64
#define EX_FAIR_WEIGHT_MAX 1000
#define EX_FAIR_ITEMS_MAX  65536
#define EX_FAIR_COST_MAX   (UINT32_C(1) << 30)
#define EX_FAIR_GRACE_NS                                                                                               \
	UINT64_C(10000000000)    /* who comes later than that after the time it was promised has no promise any more */
#define EX_FAIR_RETRY_S_MAX  600 /* nobody is told a longer time */
#define EX_FAIR_PROMISE_NONE UINT32_MAX

struct ex_fair;
struct ex_fair_item;

/* An account. Zeroed but for tier and weight before its first use; the rest is the queue's. */
struct ex_fair_flow {
	uint32_t tier, weight; /* weight within the tier, 1 to EX_FAIR_WEIGHT_MAX */
	uint32_t n_queued, n_running;
	uint64_t backlog; /* cost of what is queued */
	uint64_t start, finish;
	struct ex_fair_item *head, *tail;
	uint32_t at; /* in its heap */
	bool met;    /* it has been here before: the promises below are set */
	uint32_t promise_head, promise_tail;
	uint64_t promised; /* cost */
	struct ex_fair_flow *promised_next, *promised_prev;
};
/* A request. */
struct ex_fair_item {
	struct ex_fair_item *next, *prev;
	struct ex_fair_flow *flow; /* NULL: not queued */
	uint32_t cost;
	uint64_t queued_ns, likeness;
};

struct ex_fair_opts {
	const uint32_t *tier_weights; /* [n_tiers], 1 to EX_FAIR_WEIGHT_MAX; copied */
	uint32_t n_tiers;
	uint32_t items_max; /* requests queued in all */
	uint32_t reserve;   /* slots kept for flows with nothing running */
	uint64_t wait_max_ns;
};
/* -EINVAL: a number out of range; -ENOMEM. */
int ex_fair_new(const struct ex_fair_opts *o, struct ex_err *err, struct ex_fair **ret);
/* Nothing may be queued any more. */
struct ex_fair *ex_fair_free(struct ex_fair *q);
EX_DEFINE_CLEANUP(struct ex_fair, ex_fair_free)

/* Cost that is served a second; 0, not known yet: nobody is refused for the wait. */
void ex_fair_set_rate(struct ex_fair *q, double cost_per_s);
/* How long an item of that cost would wait, by what is queued now. */
uint64_t ex_fair_wait_ns(const struct ex_fair *q, const struct ex_fair_flow *f, uint32_t cost);
struct ex_fair_ask {
	uint32_t cost;     /* 1 to EX_FAIR_COST_MAX, as far as it is known */
	uint64_t likeness; /* a hash of the request, by which it is known again when it comes back */
	uint64_t now_ns;
};
struct ex_fair_told {
	uint64_t wait_ns; /* that it would have */
	uint32_t retry_s; /* refused: it is taken after that time */
};
/* Queues item for f. -EAGAIN: it would wait too long; -ENOSPC: the queue is full. ret is set with both as well. */
int ex_fair_push(struct ex_fair *q, struct ex_fair_flow *f, struct ex_fair_item *item, const struct ex_fair_ask *ask,
	struct ex_fair_told *ret);
/* The item that begins now, which counts as running from then on; NULL: none, or none that may have one of the free slots. */
struct ex_fair_item *ex_fair_pop(struct ex_fair *q, uint32_t n_slots_free);
/* To be called every second or so until it says NULL: forgets promises that nobody came for, and
 * takes out an item that has waited for longer than wait_max_ns and half of it, and promises its flow another time; NULL: there is none. */
struct ex_fair_item *ex_fair_shed(
	struct ex_fair *q, uint64_t now_ns, struct ex_fair_flow **ret_flow, uint32_t *ret_retry_s);
/* Takes a queued item out; its client went away. */
void ex_fair_remove(struct ex_fair *q, struct ex_fair_item *item);
/* A running item of f ended; unused is what its cost was too high. */
void ex_fair_end(struct ex_fair *q, struct ex_fair_flow *f, uint32_t unused);
/* f belongs to another tier from now on. Only while it has nothing queued or running and no promise: else it stays where it is. */
void ex_fair_move(struct ex_fair_flow *f, uint32_t tier);
/* f, with nothing queued or running, is going to be freed. */
void ex_fair_forget(struct ex_fair *q, struct ex_fair_flow *f);

struct ex_fair_stat {
	uint32_t n_queued, n_flows; /* flows with something queued */
	uint64_t backlog;
};
/* Since when who waits longest has waited; 0: nobody does. */
uint64_t ex_fair_oldest_ns(const struct ex_fair *q);
void ex_fair_stat(const struct ex_fair *q, struct ex_fair_stat *ret);

#endif
