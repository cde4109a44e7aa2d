/* SPDX-License-Identifier: Apache-2.0 */
/* Two epochs of weights in one registry: the next one is staged beside the live one, and turns live as a whole. Layer L2.
 *
 * A reader looks at what is staged before it looks at what is live; a turn makes a generation live before it stops being staged. So a frame
 * of the next epoch finds its generation before, during and after the turn. */
#include "expert/registry_int.h"

#include <stdio.h>
#include <urcu-bp.h>

uint64_t ex_registry_epoch(const struct ex_registry *r)
{
	return atomic_load_explicit(&r->epoch, memory_order_acquire);
}

bool ex_registry_has_epoch(const struct ex_registry *r, uint64_t epoch)
{
	/* next_epoch keeps its value over a turn, and what was staged under it is live then */
	bool staged = atomic_load_explicit(&r->staging, memory_order_acquire) &&
		      atomic_load_explicit(&r->next_epoch, memory_order_relaxed) == epoch;
	return staged || ex_registry_epoch(r) == epoch;
}

struct ex_generation *ex_registry_pin_epoch(
	struct ex_registry *r, uint64_t epoch, uint32_t layer, uint32_t first_expert)
{
	struct ex_slot *s = ex_registry_slot(r, layer, first_expert);
	if (!s)
		return NULL;
	rcu_read_lock();
	struct ex_generation *g = atomic_load_explicit(&s->staged, memory_order_acquire);
	if (!g || g->epoch != epoch)
		g = atomic_load_explicit(&s->live, memory_order_acquire);
	if (g && g->epoch != epoch)
		g = NULL;
	if (g)
		atomic_fetch_add_explicit(&g->n_pins, 1, memory_order_relaxed);
	rcu_read_unlock();
	return g;
}

void ex_registry_stage_epoch(struct ex_registry *r, uint64_t epoch)
{
	assert(!atomic_load_explicit(&r->staging, memory_order_relaxed) && epoch != ex_registry_epoch(r));
	atomic_store_explicit(&r->next_epoch, epoch, memory_order_relaxed);
	atomic_store_explicit(&r->staging, true, memory_order_release);
}

void ex_registry_stage(struct ex_generation *g)
{
	EX_CHECK_OBJ(g, EX_GENERATION_MAGIC);
	struct ex_registry *r = g->registry;
	struct ex_slot *s = ex_registry_slot(r, g->id.layer, g->id.first_expert);
	assert(atomic_load_explicit(&r->staging, memory_order_relaxed) && !g->number);
	g->ring = ex_slot_ring(r, s);
	g->epoch = atomic_load_explicit(&r->next_epoch, memory_order_relaxed);
	ex_lock_take(&r->lock);
	g->number = ++s->n_generations;
	struct ex_generation *old = atomic_exchange_explicit(&s->staged, g, memory_order_acq_rel);
	atomic_fetch_add_explicit(&r->revision, 1, memory_order_release);
	ex_registry_retire(r, old);
	ex_lock_give(&r->lock);
}

void ex_registry_unstage(struct ex_registry *r)
{
	ex_lock_take(&r->lock);
	atomic_store_explicit(&r->staging, false, memory_order_release);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		struct ex_slot *s = &r->slot[i];
		ex_registry_retire(r, atomic_exchange_explicit(&s->staged, NULL, memory_order_acq_rel));
	}
	atomic_fetch_add_explicit(&r->revision, 1, memory_order_release);
	ex_lock_give(&r->lock);
	ex_registry_reap(r);
}

/* r->lock is held. */
static void turn_slot(struct ex_registry *r, struct ex_slot *s)
{
	struct ex_generation *next = atomic_load_explicit(&s->staged, memory_order_acquire);
	if (!next && !s->state)
		return;
	ex_registry_retire(r, ex_slot_exchange(r, s, next));
	ex_registry_retire(r, EX_TAKE(s->linger));
	atomic_store_explicit(&s->staged, NULL, memory_order_release);
	s->state = next ? EX_SHARD_READY : EX_SHARD_FAILED;
	s->error[0] = '\0';
	if (!next)
		snprintf(s->error, sizeof s->error, "it was not loaded from the model that was switched to");
}

void ex_registry_turn(struct ex_registry *r)
{
	ex_lock_take(&r->lock);
	assert(atomic_load_explicit(&r->staging, memory_order_relaxed));
	atomic_store_explicit(
		&r->epoch, atomic_load_explicit(&r->next_epoch, memory_order_relaxed), memory_order_release);
	for (uint32_t i = 0; i < r->n_slots; i++)
		turn_slot(r, &r->slot[i]);
	atomic_store_explicit(&r->staging, false, memory_order_release);
	ex_lock_give(&r->lock);
	ex_registry_reap(r);
}

void ex_registry_each_of(
	struct ex_registry *r, uint64_t epoch, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx)
{
	EX_CHECK_OBJ(r, EX_REGISTRY_MAGIC);
	if (epoch == ex_registry_epoch(r)) {
		ex_registry_each(r, fn, ctx);
		return;
	}
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		const struct ex_slot *s = &r->slot[i];
		const struct ex_generation *g = atomic_load_explicit(&s->staged, memory_order_acquire);
		if (!g || g->epoch != epoch)
			continue;
		struct ex_shard_view v = {.id = s->id, .state = EX_SHARD_READY, .newest = s->n_generations};
		ex_generation_view(g, &v);
		fn(ctx, &v);
	}
	ex_lock_give(&r->lock);
}
