/* SPDX-License-Identifier: Apache-2.0 */
/* More replicas for hot shards. Layers run one after the other, so a step waits for the busiest host of each; where a single replica does more
 * than the mean of its layer, nothing but another replica helps. The hottest gets the next one, until none is too hot. Layer L2. */
#include "fleet/planner_state.h"

#include "base/mem.h"

#define SPARE                                                                                                          \
	0.05 /* of a host's memory that replicas for hot shards leave free: moves need room beside what is there */

struct hot {
	double heat;
	uint32_t s;
};

static bool hotter(const struct hot *a, const struct hot *b)
{
	return a->heat != b->heat ? a->heat > b->heat : a->s < b->s;
}

/* Restores a heap, hottest first, below i. */
static void sift_down(struct hot *heap, size_t n, size_t i)
{
	for (;;) {
		size_t top = i;
		for (size_t k = 2 * i + 1; k <= 2 * i + 2 && k < n; k++)
			if (hotter(&heap[k], &heap[top]))
				top = k;
		if (top == i)
			return;
		struct hot swapped = heap[i];
		heap[i] = heap[top];
		heap[top] = swapped;
		i = top;
	}
}

/* One more replica of s; false when there is no place or no budget for it. */
static bool add_replica(struct ps *p, uint32_t s)
{
	bool few_zones = ps_count_zones(p, s, EX_PLANNER_NONE, EX_PLANNER_NONE) < p->zones_wanted;
	uint32_t h = few_zones ? ps_pick_host(p, s, true, SPARE) : EX_PLANNER_NONE;
	if (h == EX_PLANNER_NONE)
		h = ps_pick_host(p, s, false, SPARE);
	if (h == EX_PLANNER_NONE)
		return false;
	if (!ps_affords(p, s, h, 0)) {
		p->over_budget = true;
		return false;
	}
	ps_add(p, s, h, (struct ex_planner_reason){EX_WHY_HOT, s, (float)(p->shard[s].load / p->load_mean)});
	return !p->oom;
}

void ps_replicate(struct ps *p)
{
	struct hot *heap = ex_calloc(p->n_shards, sizeof *heap);
	size_t n = 0;
	if (!heap) {
		p->oom = true;
		return;
	}
	for (uint32_t s = 0; s < p->n_shards; s++)
		if (p->shard[s].n && ps_heat(p, s, p->shard[s].speed) > 1)
			heap[n++] = (struct hot){ps_heat(p, s, p->shard[s].speed), s};
	for (size_t i = n / 2; i-- > 0;)
		sift_down(heap, n, i);
	while (n && !p->oom) {
		uint32_t s = heap[0].s;
		bool added = p->shard[s].n < p->in->opts.max_replicas && add_replica(p, s);
		heap[0].heat = ps_heat(p, s, p->shard[s].speed);
		if (!added || heap[0].heat <= 1)
			heap[0] = heap[--n];
		sift_down(heap, n, 0);
	}
	free(heap);
}
