/* SPDX-License-Identifier: Apache-2.0 */
/* Whether another generation of a shard computes what the live one does, on batches that were recorded. Layer L2. */
#ifndef EX_EXPERT_VERIFY_H
#define EX_EXPERT_VERIFY_H

#include "expert/executor.h"
#include "expert/ring.h"

/* Batches, and what the live generation makes of them. */
struct ex_samples {
	struct ex_batch **batch; /* [n] */
	float **want, **got;     /* [n] of [n_tokens, d_model]; want NULL: there was no live generation */
	size_t n;
	uint32_t d_model;
	bool synthetic;           /* none was recorded: random rows */
	bool (*alive)(void *ctx); /* one more batch is to be run; false gives up: -ECANCELED. NULL: none */
	void *ctx;
};

/* The newest max recorded batches of a shard, or as many made-up ones when there are none. Keeps alive and ctx. -ENOMEM. [loader] */
int ex_samples_take(
	struct ex_samples *s, struct ex_registry *r, const struct ex_shard_id *id, size_t max, struct ex_err *err);
void ex_samples_done(struct ex_samples *s);

/* Fills want from g, the live generation: one batch at a time, between two of the executor's. [loader] */
int ex_samples_want(struct ex_samples *s, struct ex_executor *e, struct ex_generation *g, struct ex_err *err);
/* Fills got from g, which nobody else knows. What g writes beside y is an error: -EFAULT. [loader] */
int ex_samples_got(struct ex_samples *s, struct ex_generation *g, struct ex_err *err);

/* How got compares with want. A row's error is relative to the largest number of that row of want. */
struct ex_verdict {
	bool exact; /* every bit */
	float worst;
};
/* -EDOM: beyond tolerance (0: not exact), or a number that is not finite where want has one; err says where. */
int ex_samples_compare(const struct ex_samples *s, float tolerance, struct ex_err *err, struct ex_verdict *ret);

#endif
