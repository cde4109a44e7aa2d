/* SPDX-License-Identifier: Apache-2.0 */
/* Plans made true: a thread that carries one out at a time, asked for by an operator or, with placement = auto, by itself. Layer L3.
 *
 * By itself it restores replicas when shards have had fewer than min_replicas for repair_s, and evens the load out, at most once in
 * interval_s and only when that lowers the imbalance by threshold or more. No ping-pong: each evening-out in a row doubles the pause before
 * the next, a fleet whose hosts came or went within interval_s is left alone, and so is one that has no load to speak of. What could not be
 * restored is tried again after pauses that double, too. */
#ifndef EX_ENGINE_MOVER_H
#define EX_ENGINE_MOVER_H

#include "engine/haul.h"

#define EX_MOVER_TICK_MS     25   /* looks at moves that are under way */
#define EX_MOVER_IDLE_MS     500  /* looks at the fleet, when there are none */
#define EX_MOVER_STREAK_MAX  3    /* doublings of the pause after evenings-out in a row */
#define EX_MOVER_BACKOFF_MAX 5    /* doublings of the pause after repairs in vain */
#define EX_MOVER_ROWS_MIN    1000 /* of late: with fewer there is no load to even out */

struct ex_mover;

struct ex_mover_opts {
	struct ex_dispatch
		*dispatch; /* borrowed, as all below; outlives the mover, or is exchanged while it is suspended */
	struct ex_loop *loop;
	struct ex_tls *tls;
	const char *node, *model_digest;
	uint32_t n_groups;
	unsigned moves_at_once, timeout_s;
	uint64_t bytes_per_s;                /* 0: no limit */
	uint32_t min_replicas, max_replicas; /* of auto */
	unsigned interval_s, repair_s;
	double threshold;
	bool automatic;
	/* All [mover]. why: "an operator", .. */
	void (*begun)(void *ctx, const char *why, const struct ex_place *p, unsigned round);
	void (*moved)(void *ctx, const struct ex_haul_move *m);
	void (*ended)(void *ctx, const char *why, const struct ex_haul_sum *s);
	void *ctx;
};
int ex_mover_new(const struct ex_mover_opts *o, struct ex_err *err, struct ex_mover **ret);
/* Moves under way are left to their hosts, which finish them. Before its dispatch. [main] */
struct ex_mover *ex_mover_free(struct ex_mover *m);

/* Begins. -EBUSY: another plan is being carried out. [any] */
int ex_mover_apply(struct ex_mover *m, const struct ex_planner_opts *o, struct ex_err *err, uint64_t *ret_go);
/* -ENOENT: nothing is being carried out. [any] */
int ex_mover_stop(struct ex_mover *m, struct ex_err *err);
/* The fleet is somebody else's until the resume: no plan begins, and nobody looks at the dispatch any more when this returns. why (static) is
 * what apply is refused with. -EBUSY: a plan is being carried out. [any but mover] */
int ex_mover_suspend(struct ex_mover *m, const char *why, struct ex_err *err);
/* The fleet that serves this model now; borrowed. [any but mover] */
void ex_mover_resume(struct ex_mover *m, struct ex_dispatch *d, const char *model_digest);
bool ex_mover_set_auto(struct ex_mover *m, bool automatic); /* returns what it was before [any] */

/* What is under way, or was last. [any] */
struct ex_mover_view {
	bool automatic;
	uint64_t go; /* number of the plan being carried out, or of the last one; 0: none yet */
	char why[128];
	struct ex_haul_sum sum;
};
/* fn for each of its moves. */
void ex_mover_view(struct ex_mover *m, struct ex_mover_view *ret,
	void (*fn)(void *ctx, size_t i, const struct ex_haul_move *m), void *ctx);

uint64_t ex_mover_turns(const struct ex_mover *m); /* for the watchdog [any] */

#endif
