/* SPDX-License-Identifier: Apache-2.0 */
/* Grouping rows by shard: a counting sort. Layer L3. */
#include "engine/plan.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

int ex_plan_init(struct ex_plan *p, const struct ex_plan_opts *o)
{
	assert(o->n_experts && o->n_groups && o->n_groups <= o->n_experts && o->rows_max && o->topk);
	size_t n_assignments = (size_t)o->rows_max * o->topk;
	*p = (struct ex_plan){
		.o = *o,
		.shards = ex_calloc(o->n_groups, sizeof *p->shards),
		.group_of = ex_calloc(o->n_experts, sizeof *p->group_of),
		.group_first = ex_calloc(o->n_groups + (size_t)1, sizeof *p->group_first),
		.n_expert = ex_calloc(o->n_experts, sizeof *p->n_expert),
		.n_group = ex_calloc(o->n_groups, sizeof *p->n_group),
		.expert_at = ex_calloc(o->n_experts, sizeof *p->expert_at),
		.group_at = ex_calloc(o->n_groups, sizeof *p->group_at),
		.rows = ex_calloc(n_assignments, sizeof *p->rows),
		.offset = ex_calloc((size_t)o->n_experts + o->n_groups, sizeof *p->offset),
		.token = ex_calloc(n_assignments, sizeof *p->token),
		.weight = ex_calloc(n_assignments, sizeof *p->weight),
	};
	if (!p->shards || !p->group_of || !p->group_first || !p->n_expert || !p->n_group || !p->expert_at ||
		!p->group_at || !p->rows || !p->offset || !p->token || !p->weight) {
		ex_plan_done(p);
		return -ENOMEM;
	}
	for (uint32_t g = 0; g < o->n_groups; g++) {
		struct ex_shard_id id = ex_shard_of_group(0, o->n_experts, o->n_groups, g);
		p->group_first[g] = id.first_expert;
		for (uint32_t e = 0; e < id.n_experts; e++)
			p->group_of[id.first_expert + e] = g;
	}
	p->group_first[o->n_groups] = o->n_experts;
	return 0;
}

void ex_plan_done(struct ex_plan *p)
{
	free(p->shards);
	free(p->group_of);
	free(p->group_first);
	free(p->n_expert);
	free(p->n_group);
	free(p->expert_at);
	free(p->group_at);
	free(p->rows);
	free(p->offset);
	free(p->token);
	free(p->weight);
	*p = (struct ex_plan){0};
}

/* Counts assignments per expert and rows per group. */
static int count(struct ex_plan *p, uint32_t n, uint32_t k, const uint32_t *ids)
{
	memset(p->n_expert, 0, p->o.n_experts * sizeof *p->n_expert);
	memset(p->n_group, 0, p->o.n_groups * sizeof *p->n_group);
	for (uint32_t i = 0; i < n; i++, ids += k)
		for (uint32_t j = 0; j < k; j++) {
			if (ids[j] >= p->o.n_experts || (j && ids[j] <= ids[j - 1]))
				return -EINVAL;
			p->n_expert[ids[j]]++;
			if (!j || p->group_of[ids[j]] != p->group_of[ids[j - 1]])
				p->n_group[p->group_of[ids[j]]]++;
		}
	return 0;
}

/* Gives every shard with rows its stretch of the arrays. */
static void lay_out(struct ex_plan *p)
{
	uint32_t row_at = 0, token_at = 0, offset_at = 0;
	p->n_shards = 0;
	for (uint32_t g = 0; g < p->o.n_groups; g++) {
		if (!p->n_group[g])
			continue;
		struct ex_plan_shard *s = &p->shards[p->n_shards++];
		*s = (struct ex_plan_shard){
			.group = g,
			.first_expert = p->group_first[g],
			.n_experts = p->group_first[g + 1] - p->group_first[g],
			.n_rows = p->n_group[g],
			.rows = p->rows + row_at,
			.offset = p->offset + offset_at,
			.token = p->token + token_at,
			.weight = p->weight + token_at,
		};
		p->group_at[g] = row_at;
		s->offset[0] = 0;
		for (uint32_t e = 0; e < s->n_experts; e++) {
			p->expert_at[s->first_expert + e] = token_at + s->offset[e];
			s->offset[e + 1] = s->offset[e] + p->n_expert[s->first_expert + e];
		}
		s->n_assignments = s->offset[s->n_experts];
		row_at += s->n_rows;
		token_at += s->n_assignments;
		offset_at += s->n_experts + 1;
	}
}

int ex_plan_group(struct ex_plan *p, uint32_t n, uint32_t k, const uint32_t *ids, const float *weights)
{
	if (n > p->o.rows_max || k > p->o.topk)
		return -EINVAL;
	int rc = count(p, n, k, ids);
	if (rc)
		return rc;
	lay_out(p);
	/* n_group now counts the rows that each group was given so far */
	memset(p->n_group, 0, p->o.n_groups * sizeof *p->n_group);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t j = 0; j < k; j++) {
			size_t a = (size_t)i * k + j;
			uint32_t e = ids[a], g = p->group_of[e];
			if (!j || p->group_of[ids[a - 1]] != g)
				p->rows[p->group_at[g] + p->n_group[g]++] = i;
			p->token[p->expert_at[e]] = p->n_group[g] - 1;
			p->weight[p->expert_at[e]++] = weights[a];
		}
	return 0;
}
