/* SPDX-License-Identifier: Apache-2.0 */
/* The gates of DeepSeek V2 and V3. Sources: deepseek-ai's inference/model.py and the transformers modeling files.
 *
 * greedy                 choice = score; the k best of all
 * group_limited_greedy   groups ranked by their best score; the k best within the topk_group best groups
 * noaux_tc               choice = score + bias; groups ranked by the sum of their two best choices; weights from the
 * score Of equal values the lowest index wins. Experts of other groups are never taken (as if masked with -inf). */
#include "gate.h"

#include <errno.h>
#include <string.h>

struct work {
	float *score, *choice; /* [n_experts] */
	float *group;          /* [n_group] */
	uint8_t *taken;        /* [n_experts]: chosen, or not to be chosen */
	uint8_t *group_taken;  /* [n_group] */
};

int gate_check(const struct ex_gate_batch *b)
{
	if (!b->n_experts || !b->k || b->k > b->n_experts ||
		(b->score != EX_SCORE_SOFTMAX && b->score != EX_SCORE_SIGMOID))
		return -EINVAL;
	if (b->method == EX_GATE_GREEDY)
		return 0;
	if (b->method != EX_GATE_GROUP_LIMITED_GREEDY && b->method != EX_GATE_NOAUX_TC)
		return -EINVAL;
	if (!b->n_group || b->n_experts % b->n_group || !b->topk_group || b->topk_group > b->n_group)
		return -EINVAL;
	return b->k > b->n_experts / b->n_group * b->topk_group ? -EINVAL : 0;
}

/* Index of the largest value that is not taken, and takes it. Something is always found, NaN or not: ids are valid
 * whatever the logits. */
static uint32_t take_best(const float *value, uint8_t *taken, uint32_t n)
{
	uint32_t best = n;
	for (uint32_t i = 0; i < n; i++)
		if (!taken[i] && (best == n || value[i] > value[best]))
			best = i;
	taken[best] = 1;
	return best;
}

/* The best choice of a group, or the sum of its two best. */
static float rank_group(const float *choice, uint32_t n, bool two)
{
	float first = choice[0], second = 0;
	for (uint32_t i = 1; i < n; i++) {
		float low = choice[i] > first ? first : choice[i];
		first = choice[i] > first ? choice[i] : first;
		second = i == 1 || low > second ? low : second;
	}
	return two ? first + second : first;
}

static void limit_groups(const struct ex_gate_batch *b, const struct work *w)
{
	uint32_t n = b->n_experts / b->n_group;
	memset(w->group_taken, 0, b->n_group);
	for (uint32_t g = 0; g < b->n_group; g++)
		w->group[g] = rank_group(w->choice + (size_t)g * n, n, b->method == EX_GATE_NOAUX_TC);
	for (uint32_t i = 0; i < b->topk_group; i++)
		take_best(w->group, w->group_taken, b->n_group);
	for (uint32_t i = 0; i < b->n_experts; i++)
		w->taken[i] = !w->group_taken[i / n];
}

/* V2 normalises or scales, V3 normalises and scales. The sum goes in ascending expert id. */
static void finish_weights(const struct ex_gate_batch *b, float *weight)
{
	bool is_v3 = b->method == EX_GATE_NOAUX_TC, norm = b->norm_topk_prob && (is_v3 || b->k > 1);
	float sum = 0;
	for (uint32_t i = 0; i < b->k; i++)
		sum += weight[i];
	for (uint32_t i = 0; norm && i < b->k; i++)
		weight[i] = weight[i] / (sum + 1e-20f);
	for (uint32_t i = 0; (is_v3 || !norm) && i < b->k; i++)
		weight[i] = weight[i] * b->routed_scale;
}

void gate_row(const struct ex_kernels *k, const struct ex_gate_batch *b, uint32_t row, float *scratch)
{
	uint32_t n = b->n_experts, at = 0, *id = b->ids + (size_t)row * b->k;
	float *weight = b->weights + (size_t)row * b->k;
	struct work w = {.score = scratch, .choice = scratch + n, .group = scratch + 2 * (size_t)n};
	w.taken = (uint8_t *)(scratch + 3 * (size_t)n);
	w.group_taken = w.taken + n;
	memcpy(w.score, b->logits + (size_t)row * n, n * sizeof *w.score);
	if (b->score == EX_SCORE_SOFTMAX)
		k->softmax(w.score, n);
	else
		k->sigmoid(w.score, n);
	memcpy(w.choice, w.score, n * sizeof *w.choice);
	if (b->method == EX_GATE_NOAUX_TC && b->bias)
		k->add(b->bias, w.choice, n);
	memset(w.taken, 0, n);
	if (b->method != EX_GATE_GREEDY)
		limit_groups(b, &w);
	uint8_t *chosen = w.group_taken; /* the groups are done with: [n_experts] */
	memset(chosen, 0, n);
	for (uint32_t i = 0; i < b->k; i++)
		chosen[take_best(w.choice, w.taken, n)] = 1;
	for (uint32_t i = 0; i < n; i++)
		if (chosen[i]) {
			id[at] = i;
			weight[at++] = w.score[i];
		}
	finish_weights(b, weight);
}
