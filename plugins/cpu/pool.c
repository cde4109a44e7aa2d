/* SPDX-License-Identifier: Apache-2.0 */
/* The pool: a loop is opened, helpers join it while it is open, tasks are claimed from one counter. */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* Helpers look for the next loop this often before they sleep: about 10 microseconds, the time between two loops of one
 * forward pass, so that decoding does not pay for a wake-up at every operation. */
#define SPINS 256

struct helper {
	struct pool *pool;
	pthread_t thread;
	unsigned worker;
};

struct pool {
	pthread_mutex_t busy; /* held by the caller of pool_run for its whole loop */
	pthread_mutex_t lock;
	pthread_cond_t opened, left;
	/* the loop; written under lock while nobody is inside */
	void (*fn)(void *ctx, uint32_t task, unsigned worker);
	void *ctx;
	uint32_t n_tasks;
	bool is_open, stop;       /* guarded by lock */
	unsigned n_inside;        /* helpers in the loop; guarded by lock */
	_Atomic uint32_t n_loops; /* grows under lock when a loop opens; helpers peek at it */
	_Atomic uint32_t next;    /* task to be claimed */
	unsigned n_helpers;
	struct helper helper[];
};

static void relax(void)
{
#ifdef __x86_64__
	__builtin_ia32_pause();
#else
	atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void do_tasks(struct pool *p, unsigned worker)
{
	for (;;) {
		uint32_t task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
		if (task >= p->n_tasks)
			return;
		p->fn(p->ctx, task, worker);
	}
}

static void *helper_main(void *arg)
{
	struct helper *h = arg;
	struct pool *p = h->pool;
	uint32_t seen = 0;
	for (;;) {
		for (int i = 0; i < SPINS && atomic_load_explicit(&p->n_loops, memory_order_relaxed) == seen; i++)
			relax();
		pthread_mutex_lock(&p->lock);
		while (!p->stop && (!p->is_open || atomic_load_explicit(&p->n_loops, memory_order_relaxed) == seen))
			pthread_cond_wait(&p->opened, &p->lock);
		if (p->stop) {
			pthread_mutex_unlock(&p->lock);
			return NULL;
		}
		seen = atomic_load_explicit(&p->n_loops, memory_order_relaxed);
		p->n_inside++;
		pthread_mutex_unlock(&p->lock);
		do_tasks(p, h->worker);
		pthread_mutex_lock(&p->lock);
		if (--p->n_inside == 0)
			pthread_cond_signal(&p->left);
		pthread_mutex_unlock(&p->lock);
	}
}

void pool_run(struct pool *p, uint32_t n_tasks, void (*fn)(void *ctx, uint32_t task, unsigned worker), void *ctx)
{
	if (!p || p->n_helpers == 0 || n_tasks < 2 || pthread_mutex_trylock(&p->busy) != 0) {
		for (uint32_t task = 0; task < n_tasks; task++)
			fn(ctx, task, 0);
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->fn = fn;
	p->ctx = ctx;
	p->n_tasks = n_tasks;
	p->is_open = true;
	atomic_store_explicit(&p->next, 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->n_loops, 1, memory_order_relaxed);
	pthread_cond_broadcast(&p->opened);
	pthread_mutex_unlock(&p->lock);
	do_tasks(p, 0);
	pthread_mutex_lock(&p->lock);
	p->is_open = false;
	while (p->n_inside)
		pthread_cond_wait(&p->left, &p->lock);
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_unlock(&p->busy);
}

int pool_new(unsigned n_threads, struct pool **ret)
{
	if (n_threads < 1 || n_threads > POOL_THREADS_MAX)
		return -EINVAL;
	struct pool *p = calloc(1, sizeof *p + (n_threads - 1) * sizeof p->helper[0]);
	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->busy, NULL);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->opened, NULL);
	pthread_cond_init(&p->left, NULL);
	for (unsigned i = 0; i + 1 < n_threads; i++) {
		p->helper[i] = (struct helper){.pool = p, .worker = i + 1};
		int rc = pthread_create(&p->helper[i].thread, NULL, helper_main, &p->helper[i]);
		if (rc) {
			pool_free(p);
			return -rc;
		}
		p->n_helpers++;
	}
	*ret = p;
	return 0;
}

struct pool *pool_free(struct pool *p)
{
	if (!p)
		return NULL;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->opened);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n_helpers; i++)
		pthread_join(p->helper[i].thread, NULL);
	pthread_cond_destroy(&p->left);
	pthread_cond_destroy(&p->opened);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->busy);
	free(p);
	return NULL;
}
