/* SPDX-License-Identifier: Apache-2.0 */
/* The swapper from the inside: what swap.c and swap_steps.c share. Layer L2. */
#ifndef EX_EXPERT_SWAP_INT_H
#define EX_EXPERT_SWAP_INT_H

#include "base/lock.h"
#include "expert/swap.h"
#include <stdatomic.h>

#define SWAP_TRUSTED_MAX 64 /* digests remembered; the oldest is forgotten, and tried again */

struct swap_job {
	struct ex_swap_request q;
	char *plugin; /* q.plugin */
	struct ex_swap_client c;
	unsigned n_done, n_failed;
	void (*call)(void *ctx, bool is_over); /* instead of a command; its ctx is c.ctx */
	struct swap_job *next;
};

struct ex_swapper {
	struct ex_swapper_opts o;
	pthread_t thread;
	struct ex_lock lock;
	pthread_cond_t queued;
	struct swap_job *first, **last; /* guarded by lock */
	unsigned n_waiting;             /* guarded by lock */
	_Atomic bool stop;              /* set under lock */
	_Atomic uint64_t turn_ns;       /* when it was last idle, or began a step */
	_Atomic bool busy;              /* in a step */
	uint64_t revision;       /* of the registry, when it was last compared with the published set; [loader] */
	void (*idle)(void *ctx); /* guarded by lock, as its ctx */
	void *idle_ctx;
	const char *frozen; /* why no command is taken; NULL: they are. [loader] */
	/* [loader] plugins that went live once */
	char trusted[SWAP_TRUSTED_MAX][65];
	unsigned n_trusted;
};

/* A step begins: for the watchdog. */
void swap_turn(struct ex_swapper *s, bool busy);
/* Fills and tells a report. */
void swap_tell(struct ex_swapper *s, struct swap_job *j, const struct ex_swap_report *r);
/* Tells that `r` failed at its step, and counts it. */
void swap_fail(struct ex_swapper *s, struct swap_job *j, struct ex_swap_report *r, const struct ex_err *err);
/* Nobody wants the rest. */
bool swap_is_over(const struct ex_swapper *s, const struct swap_job *j);
/* Until when a generation that is replaced now lingers; 0: not at all. */
uint64_t swap_linger_until(const struct ex_swapper *s);
/* Writes what g makes of the shard to the published set. */
int swap_publish_entry(struct ex_swapper *s, const struct ex_generation *g, struct ex_err *err);

/* The whole of `shard swap` on these shards. [loader] */
void swap_run(struct ex_swapper *s, struct swap_job *j, const struct ex_shard_id *ids, size_t n);

#endif
