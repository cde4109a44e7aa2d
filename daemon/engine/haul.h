/* SPDX-License-Identifier: Apache-2.0 */
/* A plan carried out: shards are loaded and unloaded on hosts, in the plan's order, until the fleet is what was planned. Layer L3.
 *
 * A machine without thread or clock: whoever owns it calls ex_haul_step again and again, and all that it knows of the fleet comes through
 * its ops. It goes in rounds: claims on the hosts, a plan, its moves. A round ends early, and another one begins with a new plan, when a
 * host comes or goes or a move has failed for good; hosts that failed a move are left as they are from then on.
 *
 * Promises: a load is through, and seen by this router, before an unload of the same shard begins. Nothing is unloaded when fewer than
 * min_replicas other replicas could take over at that moment, whatever the plan says. One host has one move at a time. */
#ifndef EX_ENGINE_HAUL_H
#define EX_ENGINE_HAUL_H

#include "engine/place.h"

#define EX_HAUL_TEXT_MAX   256
#define EX_HAUL_SHUT_MAX   64  /* hosts that failed: one more, and it gives up */
#define EX_HAUL_ROUNDS_MAX 100 /* plans in one go */
#define EX_HAUL_VAIN_MAX   4   /* rounds in a row that moved nothing, or had no plan */
#define EX_HAUL_AHEAD_MAX  256 /* open moves that are looked at for one that may begin */
#define EX_HAUL_CLAIM_MS   3000
#define EX_HAUL_SETTLE_MS  15000 /* until this router must have seen what a host says that it has done */
#define EX_HAUL_BACKOFF_MS 1000  /* before a move is tried again; twice as long each time, and between rounds in vain */
#define EX_HAUL_TRIES_MAX  3

enum ex_haul_move_state {
	EX_MOVE_WAITING,
	EX_MOVE_SENT,     /* the host works on it */
	EX_MOVE_SETTLING, /* done there; this router is to see it */
	EX_MOVE_DONE,
	EX_MOVE_SKIPPED, /* an unload that would have left too few replicas */
	EX_MOVE_FAILED,
	EX_MOVE_DROPPED, /* not begun: another plan, or a stop */
};
const char *ex_haul_move_state_name(enum ex_haul_move_state s);

struct ex_haul_move {
	struct ex_place_move m;
	enum ex_haul_move_state state;
	unsigned n_tries;
	uint64_t since_ns;           /* of the state; WAITING: not before then */
	char text[EX_HAUL_TEXT_MAX]; /* why it failed, last */
};

struct ex_haul_ops {
	int (*plan)(void *ctx, const struct ex_place_opts *o, struct ex_err *err, struct ex_place *ret);
	/* Has all hosts that take moves claimed: 0; -EAGAIN: that takes a while; another error says who refuses. */
	int (*claim)(void *ctx, struct ex_err *err);
	void (*release)(void *ctx);
	void (*look)(void *ctx, const char *host, const struct ex_shard_id *shard, struct ex_place_look *ret);
	uint64_t (*usage)(void *ctx); /* another number when a host has come or gone */
	/* Hands a move to its host, which has none. */
	int (*send)(void *ctx, const struct ex_place_move *m, struct ex_err *err);
	/* What came of it: 0, -EINPROGRESS, or an error; -ENOTCONN: nobody knows. */
	int (*answer)(void *ctx, const struct ex_place_move *m, struct ex_err *err);
	void (*drop)(void *ctx, const struct ex_place_move *m); /* nobody waits for its answer any more */
	/* For events: a round begins to move; a move ended as DONE, FAILED or SKIPPED. NULL: none */
	void (*begun)(void *ctx, const struct ex_place *p, unsigned round);
	void (*moved)(void *ctx, const struct ex_haul_move *m);
	void *ctx;
};

struct ex_haul_opts {
	struct ex_planner_opts planner;
	unsigned moves_at_once;
	uint64_t bytes_per_s; /* begun to be loaded, in the whole fleet; 0: no limit */
	uint64_t timeout_ns;  /* of one move on its host */
	struct ex_haul_ops ops;
};

struct ex_haul_sum {
	bool over, stopping;
	int rc; /* 0: the fleet is as planned; -ECANCELED: stopped */
	char text[EX_ERR_TEXT_MAX];
	unsigned n_rounds, n_loaded, n_unloaded, n_skipped, n_failed, n_open;
	uint64_t bytes; /* loaded */
};

struct ex_haul;
int ex_haul_new(const struct ex_haul_opts *o, uint64_t now, struct ex_haul **ret);
struct ex_haul *ex_haul_free(struct ex_haul *h); /* releases the claims */
/* What is to be done at `now`; false once it is over. One thread. */
bool ex_haul_step(struct ex_haul *h, uint64_t now);
/* No move begins any more; it is over when those are through that have begun. [any] */
void ex_haul_stop(struct ex_haul *h);
/* [any] fn for each move of this go, those of former plans that ended first. */
void ex_haul_sum(struct ex_haul *h, struct ex_haul_sum *ret);
void ex_haul_each(struct ex_haul *h, void (*fn)(void *ctx, size_t i, const struct ex_haul_move *m), void *ctx);

#endif
