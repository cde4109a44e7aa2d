/* SPDX-License-Identifier: Apache-2.0 */
/* Named mutexes with counters. Layer L0. */
#include "base/lock.h"

#include "base/clock.h"
#include <errno.h>
#include <string.h>

/* What locks that are gone counted, by class, so that the sums never fall. Classes are literals of the source: few. */
struct lock_class {
	const char *name;
	uint64_t n_taken, n_waited;
};

static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ex_lock *list;                           /* guarded by list_mutex */
static struct lock_class retired[EX_LOCK_CLASSES_MAX]; /* guarded by list_mutex */
static size_t n_retired;                               /* guarded by list_mutex */

/* Adds to the class in table[0..*n), which gets a new row if there is room; classes beyond it are not counted. */
static void add_to_class(struct lock_class *table, size_t *n, const char *name, uint64_t taken, uint64_t waited)
{
	size_t i = 0;
	while (i < *n && strcmp(table[i].name, name) != 0)
		i++;
	if (i == EX_LOCK_CLASSES_MAX)
		return;
	if (i == *n)
		table[(*n)++] = (struct lock_class){.name = name};
	table[i].n_taken += taken;
	table[i].n_waited += waited;
}

void ex_lock_init(struct ex_lock *l, const char *name)
{
	pthread_mutex_init(&l->mutex, NULL);
	l->name = name;
	atomic_init(&l->n_taken, 0);
	atomic_init(&l->n_waited, 0);
	pthread_mutex_lock(&list_mutex);
	l->prev = NULL;
	l->next = list;
	if (list)
		list->prev = l;
	list = l;
	pthread_mutex_unlock(&list_mutex);
}

void ex_lock_done(struct ex_lock *l)
{
	pthread_mutex_lock(&list_mutex);
	add_to_class(retired, &n_retired, l->name, atomic_load_explicit(&l->n_taken, memory_order_relaxed),
		atomic_load_explicit(&l->n_waited, memory_order_relaxed));
	if (l->prev)
		l->prev->next = l->next;
	else
		list = l->next;
	if (l->next)
		l->next->prev = l->prev;
	pthread_mutex_unlock(&list_mutex);
	pthread_mutex_destroy(&l->mutex);
}

/* Counters have one writer at a time, the holder of the mutex, so a load and a store do; readers elsewhere may lag. */
static void count(_Atomic uint64_t *n)
{
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

void ex_lock_take(struct ex_lock *l)
{
	int rc = pthread_mutex_trylock(&l->mutex);
	if (rc != 0) {
		assert(rc == EBUSY);
		rc = pthread_mutex_lock(&l->mutex);
		assert(rc == 0);
		count(&l->n_waited);
	}
	count(&l->n_taken);
}

void ex_lock_give(struct ex_lock *l)
{
	int rc = pthread_mutex_unlock(&l->mutex);
	assert(rc == 0);
	(void)rc;
}

void ex_cond_init(pthread_cond_t *c)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

void ex_cond_wait(pthread_cond_t *c, struct ex_lock *l)
{
	pthread_cond_wait(c, &l->mutex);
}

bool ex_cond_wait_until(pthread_cond_t *c, struct ex_lock *l, uint64_t deadline_ns)
{
	struct timespec t = {
		.tv_sec = (time_t)(deadline_ns / EX_NS_PER_S),
		.tv_nsec = (long)(deadline_ns % EX_NS_PER_S),
	};
	return pthread_cond_timedwait(c, &l->mutex, &t) != ETIMEDOUT;
}

void ex_lock_each(void (*fn)(void *ctx, const char *name, uint64_t n_taken, uint64_t n_waited), void *ctx)
{
	struct lock_class sum[EX_LOCK_CLASSES_MAX];
	pthread_mutex_lock(&list_mutex);
	size_t n = n_retired;
	memcpy(sum, retired, n * sizeof *sum);
	for (const struct ex_lock *l = list; l; l = l->next)
		add_to_class(sum, &n, l->name, atomic_load_explicit(&l->n_taken, memory_order_relaxed),
			atomic_load_explicit(&l->n_waited, memory_order_relaxed));
	pthread_mutex_unlock(&list_mutex);
	for (size_t i = 0; i < n; i++)
		fn(ctx, sum[i].name, sum[i].n_taken, sum[i].n_waited);
}
