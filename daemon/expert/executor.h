/* SPDX-License-Identifier: Apache-2.0 */
/* Queues rows per shard and runs the plugin once per shard with all that is queued (several routers, or several frames,
 * may meet there). Layer L2. Bounded: beyond queue_rows_max work is refused with -EAGAIN. */
#ifndef EX_EXPERT_EXECUTOR_H
#define EX_EXPERT_EXECUTOR_H

#include "expert/registry.h"

struct ex_executor;

/* One shard's share of one frame. The caller owns it and everything it points to until done() is called. */
struct ex_work {
	/* in */
	uint64_t epoch; /* of the weights: ex_registry_pin_epoch */
	uint32_t layer, first_expert, n_experts;
	const void *x;          /* [*, d_model] x_dtype: the frame's rows, 64-byte aligned */
	const uint32_t *rows;   /* [n_rows] indexes into x, strictly ascending; NULL: the first n_rows rows in order */
	const uint32_t *offset; /* [n_experts + 1] */
	const uint32_t *token;  /* [offset[n_experts]] < n_rows */
	const float *weight;
	uint32_t n_rows, x_dtype;
	float *y;                        /* out: [n_rows, d_model] f32 partial */
	void (*done)(struct ex_work *w); /* [worker], exactly once */
	void *ctx;
	/* out */
	int status; /* 0, -ENOENT (shard not here), -EIO, .. */
	uint32_t generation;
	uint64_t identity; /* of the generation; 0: none ran */
	/* executor's own */
	struct ex_work *next;
	uint64_t queued_ns;
};

struct ex_executor_opts {
	struct ex_registry *registry; /* borrowed */
	uint32_t d_model;
	unsigned n_workers;      /* threads that call run(); shards run in parallel */
	uint32_t batch_rows_max; /* rows per plugin call, unless one work has more */
	uint32_t queue_rows_max; /* rows queued in all */
};
int ex_executor_new(const struct ex_executor_opts *o, struct ex_err *err, struct ex_executor **ret);
/* Stops taking work, finishes what is queued, joins. [main] */
struct ex_executor *ex_executor_free(struct ex_executor *e);
/* Stops taking work; what is queued ends with -ESHUTDOWN, not run: nobody waits for it any more. [any] */
void ex_executor_abandon(struct ex_executor *e);

/* 0: done() will be called. -EAGAIN: queue full, -ESHUTDOWN: stopping; done() will not be called. [any] */
int ex_executor_submit(struct ex_executor *e, struct ex_work *w);
/* Returns when no worker runs the shard; until the release none will, so that the caller may. Its rows wait meanwhile: be quick. One shard at a
 * time. [loader] */
void ex_executor_hold(struct ex_executor *e, uint32_t layer, uint32_t first_expert);
void ex_executor_release(struct ex_executor *e);
uint32_t ex_executor_queued_rows(const struct ex_executor *e); /* [any] */
/* For the watchdog: the turns of the slowest worker. Grows while every worker makes progress or is idle. [any] */
uint64_t ex_executor_turns(const struct ex_executor *e);

#endif
