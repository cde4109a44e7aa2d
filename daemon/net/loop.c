/* SPDX-License-Identifier: Apache-2.0 */
/* Completion queue loops: one thread each, with posts and timers. Layer L1. */
#include "net/loop.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "net/tag.h"
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#define LOOP_MAGIC UINT32_C(0x6c6f6f70)
#define NEVER_NS   UINT64_MAX

struct ex_timer {
	struct ex_loop *loop;
	void (*fn)(void *ctx);
	void *ctx;
	uint64_t period_ns, due_ns;
	bool cancelled; /* by its own fn: the loop frees it */
	struct ex_timer *next;
};

struct ex_loop {
	uint32_t magic;
	grpc_completion_queue *queue;
	/* A call that is never started. A batch without operations on it completes at once: C core has no other public
	 * way to reach a queue's thread from outside. */
	grpc_channel *nowhere;
	grpc_call *bell;
	pthread_t thread;
	_Atomic uint64_t turns;
	_Atomic uint64_t due_ns; /* the earliest timer's, stored under lock, read by the thread without */

	struct ex_lock lock;
	pthread_cond_t timer_done;
	bool closed;              /* guarded by lock; no posts any more */
	struct ex_timer *timers;  /* guarded by lock */
	unsigned n_timers;        /* guarded by lock */
	struct ex_timer *running; /* guarded by lock */
};

struct post {
	struct ex_tag tag;
	void (*fn)(void *ctx);
	void *ctx;
};

static void drop_grpc_log(gpr_log_func_args *args)
{
	(void)args; /* what matters comes back as a status or an error text */
}

void ex_net_init(void)
{
	if (!getenv("GRPC_VERBOSITY"))
		gpr_set_log_function(drop_grpc_log);
	grpc_init();
}

void ex_net_done(void)
{
	grpc_shutdown_blocking();
}

grpc_completion_queue *ex_loop_queue(const struct ex_loop *l)
{
	return l->queue;
}

bool ex_loop_is_current(const struct ex_loop *l)
{
	return pthread_equal(l->thread, pthread_self());
}

uint64_t ex_loop_turns(const struct ex_loop *l)
{
	return atomic_load_explicit(&l->turns, memory_order_relaxed);
}

/* --- posts ----------------------------------------------------------------------------------------------- */

static void run_post(struct ex_tag *t, bool ok)
{
	struct post *p = EX_CONTAINER_OF(t, struct post, tag);
	(void)ok;
	if (p->fn)
		p->fn(p->ctx);
	free(p);
}

/* fn NULL only wakes the thread. */
static int post_locked(struct ex_loop *l, void (*fn)(void *ctx), void *ctx)
{
	if (l->closed)
		return -ESHUTDOWN;
	struct post *p = malloc(sizeof *p);
	if (!p)
		return -ENOMEM;
	*p = (struct post){.tag = {run_post}, .fn = fn, .ctx = ctx};
	EX_TAG_GIVEN(&p->tag);
	grpc_call_error e = grpc_call_start_batch(l->bell, NULL, 0, &p->tag, NULL);
	assert(e == GRPC_CALL_OK);
	(void)e;
	return 0;
}

int ex_loop_post(struct ex_loop *l, void (*fn)(void *ctx), void *ctx)
{
	EX_CHECK_OBJ(l, LOOP_MAGIC);
	ex_lock_take(&l->lock);
	int rc = post_locked(l, fn, ctx);
	ex_lock_give(&l->lock);
	return rc;
}

/* --- timers ---------------------------------------------------------------------------------------------- */

static void update_due(struct ex_loop *l)
{
	uint64_t due = NEVER_NS;
	for (struct ex_timer *t = l->timers; t; t = t->next)
		due = EX_MIN(due, t->due_ns);
	atomic_store_explicit(&l->due_ns, due, memory_order_relaxed);
}

static void unlink_timer(struct ex_loop *l, struct ex_timer *timer)
{
	struct ex_timer **p = &l->timers;
	while (*p != timer)
		p = &(*p)->next;
	*p = timer->next;
	l->n_timers--;
	free(timer);
}

/* Takes the first timer that is due at `now` and sets it to its next time; NULL: none. */
static struct ex_timer *next_due(struct ex_loop *l, uint64_t now)
{
	for (struct ex_timer *t = l->timers; t; t = t->next)
		if (t->due_ns <= now) {
			t->due_ns = now + t->period_ns;
			return t;
		}
	return NULL;
}

static void run_timers(struct ex_loop *l)
{
	uint64_t now = ex_now_ns();
	if (now < atomic_load_explicit(&l->due_ns, memory_order_relaxed))
		return;
	ex_lock_take(&l->lock);
	struct ex_timer *t;
	while ((t = next_due(l, now))) {
		l->running = t;
		ex_lock_give(&l->lock);
		t->fn(t->ctx);
		ex_lock_take(&l->lock);
		l->running = NULL;
		if (t->cancelled)
			unlink_timer(l, t);
		pthread_cond_broadcast(&l->timer_done);
	}
	update_due(l);
	ex_lock_give(&l->lock);
}

int ex_timer_start(struct ex_loop *l, unsigned period_ms, void (*fn)(void *ctx), void *ctx, struct ex_timer **ret)
{
	EX_CHECK_OBJ(l, LOOP_MAGIC);
	assert(period_ms > 0);
	struct ex_timer *t = malloc(sizeof *t);
	if (!t)
		return -ENOMEM;
	uint64_t period_ns = period_ms * EX_NS_PER_MS;
	*t = (struct ex_timer){
		.loop = l, .fn = fn, .ctx = ctx, .period_ns = period_ns, .due_ns = ex_now_ns() + period_ns};
	ex_lock_take(&l->lock);
	int rc = l->n_timers < EX_LOOP_TIMERS_MAX ? 0 : -ENOSPC;
	if (!rc) {
		*ret = t; /* before the first run can see it */
		t->next = l->timers;
		l->timers = t;
		l->n_timers++;
		update_due(l);
		if (!ex_loop_is_current(l)) /* its thread may be asleep until later than this timer */
			rc = post_locked(l, NULL, NULL);
		if (rc) {
			*ret = NULL;
			unlink_timer(l, t);
			update_due(l);
		}
	} else {
		free(t);
	}
	ex_lock_give(&l->lock);
	return rc;
}

struct ex_timer *ex_timer_cancel(struct ex_timer *t)
{
	if (!t)
		return NULL;
	struct ex_loop *l = t->loop;
	ex_lock_take(&l->lock);
	if (l->running == t && ex_loop_is_current(l)) {
		t->cancelled = true;
	} else {
		while (l->running == t)
			ex_cond_wait(&l->timer_done, &l->lock);
		unlink_timer(l, t);
		update_due(l);
	}
	ex_lock_give(&l->lock);
	return NULL;
}

/* --- the thread ------------------------------------------------------------------------------------------ */

static gpr_timespec wait_until(const struct ex_loop *l)
{
	uint64_t idle = ex_now_ns() + EX_LOOP_IDLE_MS * EX_NS_PER_MS;
	uint64_t t = EX_MIN(idle, atomic_load_explicit(&l->due_ns, memory_order_relaxed));
	return (gpr_timespec){.tv_sec = (int64_t)(t / EX_NS_PER_S),
		.tv_nsec = (int32_t)(t % EX_NS_PER_S),
		.clock_type = GPR_CLOCK_MONOTONIC};
}

static void *run(void *arg)
{
	struct ex_loop *l = arg;
	for (;;) {
		grpc_event ev = grpc_completion_queue_next(l->queue, wait_until(l), NULL);
		atomic_fetch_add_explicit(&l->turns, 1, memory_order_relaxed);
		if (ev.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (ev.type == GRPC_OP_COMPLETE) {
			struct ex_tag *t = ev.tag;
			EX_TAG_RECEIVED(t);
			t->fn(t, ev.success);
		}
		run_timers(l);
	}
}

static int start_thread(struct ex_loop *l, const char *name)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&l->thread, NULL, run, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	char short_name[16];
	snprintf(short_name, sizeof short_name, "%s", name);
	pthread_setname_np(l->thread, short_name);
	return 0;
}

static void destroy(struct ex_loop *l)
{
	grpc_call_unref(l->bell);
	grpc_channel_destroy(l->nowhere);
	grpc_completion_queue_destroy(l->queue);
	ex_lock_done(&l->lock);
	pthread_cond_destroy(&l->timer_done);
	free(l);
}

int ex_loop_new(const char *name, struct ex_err *err, struct ex_loop **ret)
{
	struct ex_loop *l = ex_calloc(1, sizeof *l);
	if (!l)
		return ex_err_errno(err, -ENOMEM, "failed to start loop '%s'", name);
	l->magic = LOOP_MAGIC;
	atomic_store_explicit(&l->due_ns, NEVER_NS, memory_order_relaxed);
	ex_lock_init(&l->lock, "loop");
	ex_cond_init(&l->timer_done);
	l->queue = grpc_completion_queue_create_for_next(NULL);
	l->nowhere = grpc_lame_client_channel_create("loop", GRPC_STATUS_UNAVAILABLE, "never used");
	l->bell = grpc_channel_create_call(l->nowhere, NULL, GRPC_PROPAGATE_DEFAULTS, l->queue,
		grpc_slice_from_static_string("/loop/bell"), NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	int rc = start_thread(l, name);
	if (rc) {
		grpc_completion_queue_shutdown(l->queue);
		while (grpc_completion_queue_next(l->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
			GRPC_QUEUE_SHUTDOWN)
			;
		destroy(l);
		return ex_err_errno(err, rc, "failed to start the thread of loop '%s'", name);
	}
	*ret = l;
	return 0;
}

struct ex_loop *ex_loop_free(struct ex_loop *l)
{
	if (!l)
		return NULL;
	EX_CHECK_OBJ(l, LOOP_MAGIC);
	assert(!ex_loop_is_current(l));
	ex_lock_take(&l->lock);
	l->closed = true;
	ex_lock_give(&l->lock);
	grpc_completion_queue_shutdown(l->queue);
	pthread_join(l->thread, NULL);
	while (l->timers)
		unlink_timer(l, l->timers);
	destroy(l);
	return NULL;
}
