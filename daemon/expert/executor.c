/* SPDX-License-Identifier: Apache-2.0 */
/* One queue, a few workers. A worker takes the oldest work whose shard is not running, and with it what else is queued
 * for that shard: one call to the plugin for all of it. Layer L2. */
#include "expert/executor.h"

#include "base/clock.h"
#include "base/dtype.h"
#include "base/lock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define WORKERS_MAX     256
#define BATCH_WORKS_MAX 256                  /* frames that meet in one plugin call */
#define IDLE_NS         (250 * EX_NS_PER_MS) /* an idle worker shows a sign of life this often */

/* Grow-only memory of one worker for the batch that it puts together. */
struct buffers {
	uint8_t *x;
	float *y, *weight;
	uint32_t *offset, *token;
	size_t x_cap, y_cap, weight_cap, offset_cap, token_cap; /* bytes of x and y, else elements */
};

struct worker {
	struct ex_executor *e;
	pthread_t thread;
	bool is_busy; /* with this shard; guarded by e->lock */
	uint32_t layer, first_expert;
	_Atomic uint64_t n_turns;
	struct buffers buf;
	struct ex_work *work[BATCH_WORKS_MAX]; /* the batch in hand */
	uint32_t n_works;
};

struct ex_executor {
	struct ex_executor_opts o;
	struct ex_lock lock;
	pthread_cond_t queued;
	struct ex_work *first, **last; /* guarded by lock */
	bool stop, abandoned;          /* guarded by lock */
	bool held;                     /* no worker runs this shard; guarded by lock */
	uint32_t held_layer, held_first_expert;
	pthread_cond_t idle;     /* a worker is done with a batch while somebody waits to hold its shard */
	_Atomic uint32_t n_rows; /* queued; written under lock */
	unsigned n_started;
	struct worker worker[];
};

/* --- the queue ------------------------------------------------------------------------------------------- */

static uint32_t rows_of(const struct ex_work *w)
{
	return EX_MAX(w->n_rows, 1u); /* an empty work takes a place, too */
}

int ex_executor_submit(struct ex_executor *e, struct ex_work *w)
{
	int rc = 0;
	ex_lock_take(&e->lock);
	uint32_t n = atomic_load_explicit(&e->n_rows, memory_order_relaxed);
	if (e->stop)
		rc = -ESHUTDOWN;
	else if (rows_of(w) > e->o.queue_rows_max - EX_MIN(n, e->o.queue_rows_max))
		rc = -EAGAIN;
	else {
		w->next = NULL;
		w->queued_ns = ex_now_ns();
		*e->last = w;
		e->last = &w->next;
		atomic_store_explicit(&e->n_rows, n + rows_of(w), memory_order_relaxed);
		pthread_cond_signal(&e->queued);
	}
	ex_lock_give(&e->lock);
	return rc;
}

/* e->lock is held. */
static bool is_running(const struct ex_executor *e, uint32_t layer, uint32_t first_expert)
{
	for (unsigned i = 0; i < e->n_started; i++) {
		const struct worker *k = &e->worker[i];
		if (k->is_busy && k->layer == layer && k->first_expert == first_expert)
			return true;
	}
	return false;
}

static bool can_run(const struct ex_executor *e, const struct ex_work *w)
{
	bool held = e->held && e->held_layer == w->layer && e->held_first_expert == w->first_expert;
	return !held && !is_running(e, w->layer, w->first_expert);
}

void ex_executor_hold(struct ex_executor *e, uint32_t layer, uint32_t first_expert)
{
	ex_lock_take(&e->lock);
	assert(!e->held);
	e->held = true;
	e->held_layer = layer;
	e->held_first_expert = first_expert;
	while (is_running(e, layer, first_expert))
		ex_cond_wait(&e->idle, &e->lock);
	ex_lock_give(&e->lock);
}

void ex_executor_release(struct ex_executor *e)
{
	ex_lock_take(&e->lock);
	e->held = false;
	if (e->first)
		pthread_cond_broadcast(&e->queued);
	ex_lock_give(&e->lock);
}

static bool meets(const struct ex_work *a, const struct ex_work *b)
{
	return a->epoch == b->epoch && a->layer == b->layer && a->first_expert == b->first_expert &&
	       a->n_experts == b->n_experts && a->x_dtype == b->x_dtype;
}

/* Fills k->work; false when nothing can run now. e->lock is held. */
static bool take_batch(struct ex_executor *e, struct worker *k)
{
	uint32_t n_rows = 0;
	k->n_works = 0;
	for (struct ex_work **at = &e->first; *at && k->n_works < BATCH_WORKS_MAX;) {
		struct ex_work *w = *at;
		bool take =
			k->n_works ? meets(w, k->work[0]) && n_rows + rows_of(w) <= e->o.batch_rows_max : can_run(e, w);
		if (!take) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (!w->next)
			e->last = at;
		n_rows += rows_of(w);
		k->work[k->n_works++] = w;
	}
	if (!k->n_works)
		return false;
	atomic_fetch_sub_explicit(&e->n_rows, n_rows, memory_order_relaxed);
	k->is_busy = true;
	k->layer = k->work[0]->layer;
	k->first_expert = k->work[0]->first_expert;
	return true;
}

/* --- the batch [worker] ---------------------------------------------------------------------------------- */

/* As ex_grow, but aligned and without keeping what was there. */
static int grow_aligned(void *p, size_t *cap, size_t bytes)
{
	if (bytes <= *cap)
		return 0;
	void *block = ex_alloc_aligned(bytes, 1), *old;
	if (!block)
		return -ENOMEM;
	memcpy(&old, p, sizeof old); /* p is a T ** */
	memcpy(p, &block, sizeof block);
	free(old);
	*cap = bytes;
	return 0;
}

static void gather_rows(const struct ex_work *w, size_t row_bytes, uint8_t *out)
{
	if (!w->rows) {
		memcpy(out, w->x, w->n_rows * row_bytes);
		return;
	}
	for (uint32_t i = 0; i < w->n_rows; i++)
		memcpy(out + i * row_bytes, (const uint8_t *)w->x + w->rows[i] * row_bytes, row_bytes);
}

/* Rows of all works, one after the other; y too if there are several, else it goes straight to the work. */
static int join_rows(struct worker *k, struct expertd_batch *b)
{
	struct buffers *m = &k->buf;
	size_t row_bytes = k->e->o.d_model * ex_dtype_size(b->x_dtype), at = 0;
	const struct ex_work *only = k->n_works == 1 ? k->work[0] : NULL;
	b->x = only ? only->x : NULL;
	b->y = only ? only->y : NULL;
	if (!only || only->rows) {
		if (grow_aligned(&m->x, &m->x_cap, b->n_tokens * row_bytes) < 0)
			return -ENOMEM;
		for (uint32_t i = 0; i < k->n_works; i++) {
			gather_rows(k->work[i], row_bytes, m->x + at);
			at += k->work[i]->n_rows * row_bytes;
		}
		b->x = m->x;
	}
	if (only)
		return 0;
	if (grow_aligned(&m->y, &m->y_cap, (size_t)b->n_tokens * k->e->o.d_model * sizeof *m->y) < 0)
		return -ENOMEM;
	b->y = m->y;
	return 0;
}

/* Expert by expert, the assignments of all works in their order: tokens ascend, because each work's rows follow those
 * of the one before. */
static int join_assignments(struct worker *k, struct expertd_batch *b)
{
	struct buffers *m = &k->buf;
	if (k->n_works == 1) {
		b->offset = k->work[0]->offset;
		b->token = k->work[0]->token;
		b->weight = k->work[0]->weight;
		return 0;
	}
	if (ex_grow(&m->offset, &m->offset_cap, (size_t)b->n_experts + 1, sizeof *m->offset) < 0 ||
		ex_grow(&m->token, &m->token_cap, b->n_assignments, sizeof *m->token) < 0 ||
		ex_grow(&m->weight, &m->weight_cap, b->n_assignments, sizeof *m->weight) < 0)
		return -ENOMEM;
	uint32_t n = 0;
	m->offset[0] = 0;
	for (uint32_t e = 0; e < b->n_experts; e++) {
		uint32_t first_row = 0;
		for (uint32_t i = 0; i < k->n_works; i++) {
			const struct ex_work *w = k->work[i];
			for (uint32_t a = w->offset[e]; a < w->offset[e + 1]; a++) {
				m->token[n] = first_row + w->token[a];
				m->weight[n++] = w->weight[a];
			}
			first_row += w->n_rows;
		}
		m->offset[e + 1] = n;
	}
	b->offset = m->offset;
	b->token = m->token;
	b->weight = m->weight;
	return 0;
}

static int run_on(struct worker *k, struct ex_generation *g)
{
	const struct ex_work *first = k->work[0];
	struct expertd_batch b = {.n_experts = first->n_experts, .x_dtype = first->x_dtype};
	if (ex_generation_id(g)->n_experts != first->n_experts ||
		(first->x_dtype != EXPERTD_F32 && first->x_dtype != EXPERTD_BF16))
		return -EINVAL;
	for (uint32_t i = 0; i < k->n_works; i++) {
		b.n_tokens += k->work[i]->n_rows;
		b.n_assignments += k->work[i]->offset[first->n_experts];
	}
	int rc = join_rows(k, &b);
	if (rc == 0)
		rc = join_assignments(k, &b);
	if (rc == 0)
		rc = ex_generation_run(g, &b);
	if (rc < 0 || k->n_works == 1)
		return rc;
	const float *y = b.y;
	for (uint32_t i = 0; i < k->n_works; i++) {
		size_t n = (size_t)k->work[i]->n_rows * k->e->o.d_model;
		memcpy(k->work[i]->y, y, n * sizeof *y);
		y += n;
	}
	return 0;
}

static void run_batch(struct worker *k, bool abandoned)
{
	struct ex_generation *g =
		abandoned ? NULL
			  : ex_registry_pin_epoch(k->e->o.registry, k->work[0]->epoch, k->layer, k->first_expert);
	int rc = abandoned ? -ESHUTDOWN : g ? run_on(k, g) : -ENOENT;
	for (uint32_t i = 0; i < k->n_works; i++) {
		k->work[i]->status = rc;
		k->work[i]->generation = g ? ex_generation_number(g) : 0;
		k->work[i]->identity = g ? ex_generation_identity(g) : 0;
	}
	ex_generation_unpin(g);
}

static void *worker_main(void *arg)
{
	struct worker *k = arg;
	struct ex_executor *e = k->e;
	pthread_setname_np(pthread_self(), "executor");
	ex_lock_take(&e->lock);
	for (;;) {
		atomic_fetch_add_explicit(&k->n_turns, 1, memory_order_relaxed);
		if (!take_batch(e, k)) {
			if (e->stop && !e->first)
				break;
			ex_cond_wait_until(&e->queued, &e->lock, ex_now_ns() + IDLE_NS);
			continue;
		}
		bool abandoned = e->abandoned;
		ex_lock_give(&e->lock);
		run_batch(k, abandoned);
		ex_lock_take(&e->lock);
		k->is_busy = false;
		if (e->held)
			pthread_cond_signal(&e->idle);
		/* what was queued for this shard meanwhile can run now, here or on a worker that looked and slept */
		if (e->first)
			pthread_cond_signal(&e->queued);
		ex_lock_give(&e->lock);
		for (uint32_t i = 0; i < k->n_works; i++)
			k->work[i]->done(k->work[i]);
		ex_lock_take(&e->lock);
	}
	ex_lock_give(&e->lock);
	return NULL;
}

/* --- life ------------------------------------------------------------------------------------------------ */

static int reserve(struct worker *k, const struct ex_executor_opts *o)
{
	size_t n = (size_t)o->batch_rows_max * o->d_model * sizeof(float);
	int rc = grow_aligned(&k->buf.x, &k->buf.x_cap, n);
	return rc == 0 ? grow_aligned(&k->buf.y, &k->buf.y_cap, n) : rc;
}

int ex_executor_new(const struct ex_executor_opts *o, struct ex_err *err, struct ex_executor **ret)
{
	if (!o->n_workers || o->n_workers > WORKERS_MAX || !o->batch_rows_max || !o->queue_rows_max || !o->d_model)
		return ex_err_set(err, -EINVAL, "executor: %u workers (1 to %d), %u rows a batch, %u queued, width %u",
			o->n_workers, WORKERS_MAX, o->batch_rows_max, o->queue_rows_max, o->d_model);
	struct ex_executor *e = ex_calloc(1, sizeof *e + o->n_workers * sizeof e->worker[0]);
	if (!e)
		return ex_err_errno(err, -ENOMEM, "cannot start the executor");
	e->o = *o;
	e->last = &e->first;
	ex_lock_init(&e->lock, "executor");
	ex_cond_init(&e->queued);
	ex_cond_init(&e->idle);
	for (unsigned i = 0; i < o->n_workers; i++) {
		struct worker *k = &e->worker[i];
		k->e = e;
		int rc = reserve(k, o);
		ex_lock_take(&e->lock); /* workers look at n_started */
		rc = rc < 0 ? rc : -pthread_create(&k->thread, NULL, worker_main, k);
		e->n_started += rc == 0;
		ex_lock_give(&e->lock);
		if (rc < 0) {
			free(k->buf.x);
			ex_executor_free(e);
			return ex_err_errno(
				err, rc, "cannot start the executor's worker %u of %u", i + 1, o->n_workers);
		}
	}
	*ret = e;
	return 0;
}

void ex_executor_abandon(struct ex_executor *e)
{
	ex_lock_take(&e->lock);
	e->stop = e->abandoned = true;
	pthread_cond_broadcast(&e->queued);
	ex_lock_give(&e->lock);
}

struct ex_executor *ex_executor_free(struct ex_executor *e)
{
	if (!e)
		return NULL;
	ex_lock_take(&e->lock);
	e->stop = true;
	pthread_cond_broadcast(&e->queued);
	ex_lock_give(&e->lock);
	for (unsigned i = 0; i < e->n_started; i++) {
		struct buffers *m = &e->worker[i].buf;
		pthread_join(e->worker[i].thread, NULL);
		free(m->x);
		free(m->y);
		free(m->offset);
		free(m->token);
		free(m->weight);
	}
	pthread_cond_destroy(&e->queued);
	pthread_cond_destroy(&e->idle);
	ex_lock_done(&e->lock);
	free(e);
	return NULL;
}

uint32_t ex_executor_queued_rows(const struct ex_executor *e)
{
	return atomic_load_explicit(&e->n_rows, memory_order_relaxed);
}

uint64_t ex_executor_turns(const struct ex_executor *e)
{
	uint64_t least = UINT64_MAX;
	for (unsigned i = 0; i < e->o.n_workers; i++)
		least = EX_MIN(least, atomic_load_explicit(&e->worker[i].n_turns, memory_order_relaxed));
	return least;
}
