/* SPDX-License-Identifier: Apache-2.0 */
/* Shards in slots, one for each (layer, range); a slot's live generation is one pointer, read under RCU and pinned.
 * Layer L2.
 *
 * A generation that is replaced lingers, loaded, for a rollback, or is retired. A retired one is unloaded by the loader
 * thread when three things are true: nobody can find it any more (unpublished, and a grace period has passed), nobody
 * pins it, and the loader comes by. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "expert/registry_int.h"
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <urcu-bp.h>

#define NAP_NS 1000000 /* between looks at the pins of a generation that is to go */

const char *ex_shard_state_name(enum ex_shard_state s)
{
	static const char *const name[] = {
		[EX_SHARD_LOADING] = "loading",
		[EX_SHARD_READY] = "ready",
		[EX_SHARD_FAILED] = "failed",
		[EX_SHARD_DRAINING] = "draining",
	};
	assert(s >= EX_SHARD_LOADING && s <= EX_SHARD_DRAINING);
	return name[s];
}

int ex_registry_new(const struct ex_registry_opts *o, struct ex_registry **ret)
{
	size_t n;
	if (!o->n_groups || o->n_groups > o->n_experts)
		return -EINVAL;
	if (__builtin_mul_overflow((size_t)o->n_layers, (size_t)o->n_groups, &n) || n > UINT32_MAX)
		return -EOVERFLOW;
	struct ex_registry *r = ex_calloc(1, sizeof *r + n * sizeof r->slot[0]);
	if (!r)
		return -ENOMEM;
	r->magic = EX_REGISTRY_MAGIC;
	r->o = *o;
	r->n_slots = (uint32_t)n;
	r->epoch = o->epoch;
	ex_lock_init(&r->lock, "registry");
	for (uint32_t i = 0; i < r->n_slots; i++)
		r->slot[i].id = ex_shard_of_group(i / o->n_groups, o->n_experts, o->n_groups, i % o->n_groups);
	*ret = r;
	return 0;
}

struct ex_slot *ex_registry_slot(struct ex_registry *r, uint32_t layer, uint32_t first_expert)
{
	if (layer >= r->o.n_layers || first_expert >= r->o.n_experts)
		return NULL;
	uint32_t group = ex_shard_group_of_expert(r->o.n_experts, r->o.n_groups, first_expert);
	struct ex_slot *s = &r->slot[layer * r->o.n_groups + group];
	return s->id.first_expert == first_expert ? s : NULL;
}

/* --- generations ----------------------------------------------------------------------------------------- */

void ex_registry_retire(struct ex_registry *r, struct ex_generation *g)
{
	if (!g)
		return;
	g->next = r->retired;
	r->retired = g;
}

struct ex_generation *ex_slot_exchange(struct ex_registry *r, struct ex_slot *s, struct ex_generation *next)
{
	struct ex_generation *old = atomic_exchange_explicit(&s->live, next, memory_order_acq_rel);
	/* release: who sees the new number and looks, sees the new state */
	atomic_fetch_add_explicit(&r->revision, 1, memory_order_release);
	if (old && next) /* the shard was in use, whichever generation ran */
		atomic_store_explicit(&next->last_run_ns, atomic_load_explicit(&old->last_run_ns, memory_order_relaxed),
			memory_order_relaxed);
	return old;
}

/* Waits for the pins of a generation that nobody can find any more: their holders give it back soon. */
static void wait_unpinned(const struct ex_generation *g)
{
	while (atomic_load_explicit(&g->n_pins, memory_order_acquire))
		nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

void ex_registry_reap(struct ex_registry *r)
{
	ex_lock_take(&r->lock);
	struct ex_generation *list = EX_TAKE(r->retired);
	ex_lock_give(&r->lock);
	if (list)
		synchronize_rcu();
	while (list) {
		struct ex_generation *g = list;
		list = g->next;
		wait_unpinned(g);
		ex_generation_unload(g);
	}
	ex_devices_close(r);
}

struct ex_generation *ex_registry_pin(struct ex_registry *r, uint32_t layer, uint32_t first_expert)
{
	struct ex_slot *s = ex_registry_slot(r, layer, first_expert);
	if (!s)
		return NULL;
	rcu_read_lock();
	struct ex_generation *g = atomic_load_explicit(&s->live, memory_order_acquire);
	if (g)
		atomic_fetch_add_explicit(&g->n_pins, 1, memory_order_relaxed);
	rcu_read_unlock();
	return g;
}

void ex_generation_unpin(struct ex_generation *g)
{
	if (!g)
		return;
	EX_CHECK_OBJ(g, EX_GENERATION_MAGIC);
	atomic_fetch_sub_explicit(&g->n_pins, 1, memory_order_release); /* pairs with reap(): g may go now */
}

const struct ex_shard_id *ex_generation_id(const struct ex_generation *g)
{
	return &g->id;
}

uint32_t ex_generation_number(const struct ex_generation *g)
{
	return g->number;
}

uint64_t ex_generation_identity(const struct ex_generation *g)
{
	return g->identity_number;
}

const char *ex_generation_identity_text(const struct ex_generation *g)
{
	return g->identity;
}

const char *ex_generation_plugin(const struct ex_generation *g)
{
	return g->plugin;
}

const struct ex_plugin *ex_generation_code(const struct ex_generation *g)
{
	return g->device->plugin;
}

void ex_generation_set_identity(struct ex_generation *g, const char *identity)
{
	assert(!g->number && strlen(identity) < sizeof g->identity);
	strcpy(g->identity, identity);
	g->identity_number = ex_shard_identity(identity);
}

uint32_t ex_registry_width(const struct ex_registry *r)
{
	return r->o.d_model;
}

size_t ex_registry_recorded(struct ex_registry *r, const struct ex_shard_id *id, struct ex_batch **out, size_t max)
{
	const struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	return s && s->ring ? ex_ring_copy(s->ring, out, max) : 0;
}

uint64_t ex_registry_revision(const struct ex_registry *r)
{
	return atomic_load_explicit(&r->revision, memory_order_acquire);
}

void ex_generation_fail(struct ex_generation *failed)
{
	struct ex_registry *r = failed->registry;
	const struct ex_device *d = failed->device;
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		struct ex_slot *s = &r->slot[i];
		struct ex_generation *g = atomic_load_explicit(&s->staged, memory_order_acquire);
		if (g && g->device == d) {
			atomic_store_explicit(&s->staged, NULL, memory_order_release);
			atomic_fetch_add_explicit(&r->revision, 1, memory_order_release);
			ex_registry_retire(r, g);
		}
		g = atomic_load_explicit(&s->live, memory_order_acquire);
		if (!g || g->device != d)
			continue;
		struct ex_generation *back = s->linger && s->linger->device != d ? EX_TAKE(s->linger) : NULL;
		ex_registry_retire(r, ex_slot_exchange(r, s, back));
		s->state = back ? EX_SHARD_READY : EX_SHARD_FAILED;
		snprintf(s->error, sizeof s->error, "device %s of plugin %s failed (I/O error); %s", d->which,
			g->plugin, back ? "the generation before it serves again" : "the shard is out of service");
	}
	ex_lock_give(&r->lock);
}

int ex_generation_run(struct ex_generation *g, const struct expertd_batch *b)
{
	EX_CHECK_OBJ(g, EX_GENERATION_MAGIC);
	uint64_t start_ns = ex_now_ns();
	int rc = ex_plugin_answer(ex_plugin_table(g->device->plugin)->run(g->shard, b), b);
	uint64_t end_ns = ex_now_ns();
	if (rc == 0) {
		atomic_fetch_add_explicit(&g->n_rows, b->n_tokens, memory_order_relaxed);
		ex_metric_add(g->m_rows, b->n_tokens);
		ex_metric_observe(g->m_seconds, (double)(end_ns - start_ns) / (double)EX_NS_PER_S);
		atomic_store_explicit(&g->last_run_ns, end_ns, memory_order_relaxed);
		if (g->ring)
			ex_ring_offer(g->ring, b, end_ns);
	} else if (rc == -EIO)
		ex_generation_fail(g);
	return rc;
}

int ex_generation_try(struct ex_generation *g, const struct expertd_batch *b)
{
	EX_CHECK_OBJ(g, EX_GENERATION_MAGIC);
	return ex_plugin_answer(ex_plugin_table(g->device->plugin)->run(g->shard, b), b);
}

/* --- publishing [loader] ---------------------------------------------------------------------------------- */

static int check_shard(
	const struct ex_registry *r, const struct ex_slot *s, const struct ex_shard_id *id, struct ex_err *err)
{
	char name[EX_SHARD_NAME_MAX];
	if (s && s->id.n_experts == id->n_experts)
		return 0;
	return ex_err_set(err, -EINVAL, "%s is not one of this fleet's shards (%u experts in %u groups, %u layers)",
		ex_shard_name(id, name), r->o.n_experts, r->o.n_groups, r->o.n_layers);
}

int ex_registry_prepare(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err,
	struct ex_generation **ret)
{
	EX_CHECK_OBJ(r, EX_REGISTRY_MAGIC);
	int rc = check_shard(r, ex_registry_slot(r, id->layer, id->first_expert), id, err);
	if (rc == 0)
		rc = ex_generation_load(r, id, p, host, which, w, err, ret);
	if (rc < 0)
		ex_devices_close(r);
	return rc;
}

struct ex_generation *ex_registry_discard(struct ex_generation *g)
{
	if (g) {
		EX_CHECK_OBJ(g, EX_GENERATION_MAGIC);
		struct ex_registry *r = g->registry;
		assert(!g->number);
		ex_generation_unload(g);
		ex_devices_close(r);
	}
	return NULL;
}

/* A shard without any is tried on made-up ones. */
struct ex_ring *ex_slot_ring(struct ex_registry *r, struct ex_slot *s)
{
	size_t n = r->o.record_bytes_each;
	if (!s->ring && n && r->o.record_bytes - r->record_bytes >= n &&
		ex_ring_new(n, s->id.n_experts, r->o.d_model, &s->ring) == 0)
		r->record_bytes += n;
	return s->ring;
}

uint32_t ex_registry_publish(struct ex_generation *g, uint64_t linger_until_ns)
{
	EX_CHECK_OBJ(g, EX_GENERATION_MAGIC);
	struct ex_registry *r = g->registry;
	struct ex_slot *s = ex_registry_slot(r, g->id.layer, g->id.first_expert);
	g->ring = ex_slot_ring(r, s);
	g->epoch = ex_registry_epoch(r);
	ex_lock_take(&r->lock);
	if (!g->number)
		g->number = ++s->n_generations;
	struct ex_generation *old = ex_slot_exchange(r, s, g);
	ex_registry_retire(r, EX_TAKE(s->linger));
	if (linger_until_ns && old) {
		s->linger = old;
		s->linger_until_ns = linger_until_ns;
	} else
		ex_registry_retire(r, old);
	s->error[0] = '\0';
	s->state = EX_SHARD_READY;
	uint32_t number = g->number;
	ex_lock_give(&r->lock);
	return number;
}

void ex_registry_note(struct ex_registry *r, const struct ex_shard_id *id, const char *text)
{
	struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	if (!s)
		return;
	ex_lock_take(&r->lock);
	snprintf(s->error, sizeof s->error, "%s", text);
	ex_lock_give(&r->lock);
}

int ex_registry_load(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err)
{
	EX_CHECK_OBJ(r, EX_REGISTRY_MAGIC);
	char name[EX_SHARD_NAME_MAX];
	struct ex_err own = EX_ERR_INIT, *why = err ? err : &own;
	struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	struct ex_generation *g = NULL;
	int rc = check_shard(r, s, id, err);
	if (rc < 0)
		return rc;
	ex_lock_take(&r->lock);
	if (!atomic_load_explicit(&s->live, memory_order_acquire))
		s->state = EX_SHARD_LOADING;
	ex_lock_give(&r->lock);
	rc = ex_generation_load(r, id, p, host, which, w, why, &g);
	if (rc == 0)
		ex_registry_publish(g, 0);
	else {
		ex_err_prefix(why, "failed to load shard %s", ex_shard_name(id, name));
		ex_lock_take(&r->lock);
		snprintf(s->error, sizeof s->error, "%s", ex_err_text(why));
		s->state = atomic_load_explicit(&s->live, memory_order_acquire) ? EX_SHARD_READY : EX_SHARD_FAILED;
		ex_lock_give(&r->lock);
	}
	ex_registry_reap(r);
	return rc;
}

struct ex_generation *ex_registry_lingering(struct ex_registry *r, const struct ex_shard_id *id)
{
	struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	if (!s)
		return NULL;
	ex_lock_take(&r->lock);
	struct ex_generation *g = s->linger;
	if (g)
		atomic_fetch_add_explicit(&g->n_pins, 1, memory_order_relaxed);
	ex_lock_give(&r->lock);
	return g;
}

int ex_registry_rollback(struct ex_registry *r, const struct ex_shard_id *id, uint64_t linger_until_ns)
{
	struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	if (!s)
		return -ENOENT;
	ex_lock_take(&r->lock);
	struct ex_generation *back = EX_TAKE(s->linger);
	if (back) {
		s->linger = ex_slot_exchange(r, s, back);
		s->linger_until_ns = linger_until_ns;
		s->error[0] = '\0';
		s->state = EX_SHARD_READY;
	}
	ex_lock_give(&r->lock);
	return back ? 0 : -ENOENT;
}

int ex_registry_withdraw(struct ex_registry *r, const struct ex_shard_id *id)
{
	struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	if (!s)
		return -ENOENT;
	ex_lock_take(&r->lock);
	struct ex_generation *old = ex_slot_exchange(r, s, NULL);
	ex_registry_retire(r, old);
	ex_registry_retire(r, EX_TAKE(s->linger));
	s->state = 0;
	s->error[0] = '\0';
	ex_lock_give(&r->lock);
	ex_registry_reap(r);
	return old ? 0 : -ENOENT;
}

void ex_registry_settle(struct ex_registry *r, const struct ex_shard_id *id)
{
	struct ex_slot *s = ex_registry_slot(r, id->layer, id->first_expert);
	ex_lock_take(&r->lock);
	const struct ex_generation *g = s ? s->linger : NULL; /* only the loader takes it away to unload it */
	ex_lock_give(&r->lock);
	synchronize_rcu();
	if (g)
		wait_unpinned(g);
}

size_t ex_registry_sweep(struct ex_registry *r, uint64_t now_ns)
{
	size_t n = 0;
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		struct ex_slot *s = &r->slot[i];
		if (s->linger && s->linger_until_ns <= now_ns) {
			ex_registry_retire(r, EX_TAKE(s->linger));
			n++;
		}
	}
	ex_lock_give(&r->lock);
	ex_registry_reap(r);
	return n;
}

void ex_generation_view(const struct ex_generation *g, struct ex_shard_view *v)
{
	v->generation = g->number;
	v->bytes = g->bytes;
	v->rows = atomic_load_explicit(&g->n_rows, memory_order_relaxed);
	memcpy(v->plugin, g->plugin, sizeof v->plugin);
	memcpy(v->identity, g->identity, sizeof v->identity);
	memcpy(v->sha256, ex_plugin_sha256(g->device->plugin), sizeof v->sha256);
	v->last_run_ns = atomic_load_explicit(&g->last_run_ns, memory_order_relaxed);
}

void ex_registry_each(struct ex_registry *r, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx)
{
	EX_CHECK_OBJ(r, EX_REGISTRY_MAGIC);
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		const struct ex_slot *s = &r->slot[i];
		if (!s->state)
			continue;
		struct ex_shard_view v = {.id = s->id, .state = s->state, .newest = s->n_generations};
		/* retired under this lock, unloaded after: what is live here stays while the lock is held */
		const struct ex_generation *g = atomic_load_explicit(&s->live, memory_order_acquire);
		memcpy(v.error, s->error, sizeof v.error);
		if (g)
			ex_generation_view(g, &v);
		if (s->linger) {
			v.lingering = s->linger->number;
			v.linger_until_ns = s->linger_until_ns;
			memcpy(v.lingering_sha256, ex_plugin_sha256(s->linger->device->plugin),
				sizeof v.lingering_sha256);
		}
		fn(ctx, &v);
	}
	ex_lock_give(&r->lock);
}

struct ex_registry *ex_registry_free(struct ex_registry *r)
{
	if (!r)
		return NULL;
	EX_CHECK_OBJ(r, EX_REGISTRY_MAGIC);
	ex_registry_unstage(r);
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		ex_registry_retire(r, ex_slot_exchange(r, &r->slot[i], NULL));
		ex_registry_retire(r, EX_TAKE(r->slot[i].linger));
	}
	ex_lock_give(&r->lock);
	ex_registry_reap(r);
	for (uint32_t i = 0; i < r->n_slots; i++)
		ex_ring_free(r->slot[i].ring);
	ex_lock_done(&r->lock);
	r->magic = 0;
	free(r);
	return NULL;
}
