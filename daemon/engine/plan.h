/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of one MoE layer grouped by shard: the shape that executor and frames want. Layer L3. Nothing is allocated after
 * new. */
#ifndef EX_ENGINE_PLAN_H
#define EX_ENGINE_PLAN_H

#include "base/shard.h"

struct ex_plan_opts {
	uint32_t n_experts, n_groups, rows_max, topk;
};

/* One shard's share. Arrays lie in the plan. */
struct ex_plan_shard {
	uint32_t group, first_expert, n_experts;
	uint32_t n_rows, n_assignments;
	uint32_t *rows;   /* [n_rows] of the step, strictly ascending */
	uint32_t *offset; /* [n_experts + 1] */
	uint32_t *token;  /* [n_assignments] < n_rows, strictly ascending within an expert */
	float *weight;    /* [n_assignments] */
};

struct ex_plan {
	struct ex_plan_opts o;
	uint32_t n_shards;            /* with rows */
	struct ex_plan_shard *shards; /* [n_shards <= n_groups], ascending group */
	/* its own */
	uint32_t *group_of, *group_first; /* [n_experts], [n_groups + 1] */
	uint32_t *n_expert, *n_group;     /* assignments per expert, rows per group */
	uint32_t *expert_at, *group_at;   /* where each one's arrays go on */
	uint32_t *rows, *offset, *token;
	float *weight;
};

int ex_plan_init(struct ex_plan *p, const struct ex_plan_opts *o);
void ex_plan_done(struct ex_plan *p);
/* ids, weights: [n, k], ids strictly ascending within a row, < n_experts. -EINVAL when they are not. */
int ex_plan_group(struct ex_plan *p, uint32_t n, uint32_t k, const uint32_t *ids, const float *weights);

#endif
