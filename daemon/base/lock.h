/* SPDX-License-Identifier: Apache-2.0 */
/* Named mutexes that count how often they were taken and how often a taker had to wait. Layer L0. */
#ifndef EX_BASE_LOCK_H
#define EX_BASE_LOCK_H

#include "base/macro.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct ex_lock {
	pthread_mutex_t mutex;
	const char *name; /* a literal, the lock's class: "registry", "kv" */
	_Atomic uint64_t n_taken, n_waited;
	struct ex_lock *prev, *next; /* list of all locks, guarded by its own mutex */
};

#define EX_LOCK_CLASSES_MAX 64 /* locks of further names work, but are not counted */

/* Locks of one name are one class in the metrics expertd_lock_taken_total and expertd_lock_waited_total. */
void ex_lock_init(struct ex_lock *l, const char *name);
void ex_lock_done(struct ex_lock *l);
void ex_lock_take(struct ex_lock *l);
void ex_lock_give(struct ex_lock *l);

/* Condition variables on CLOCK_MONOTONIC. ex_cond_wait_ns returns false when `deadline_ns` (ex_now_ns time) passed. */
void ex_cond_init(pthread_cond_t *c);
void ex_cond_wait(pthread_cond_t *c, struct ex_lock *l);
bool ex_cond_wait_until(pthread_cond_t *c, struct ex_lock *l, uint64_t deadline_ns);

/* Calls fn for every class of lock with its summed counters, those of locks that are gone included. [any] */
void ex_lock_each(void (*fn)(void *ctx, const char *name, uint64_t n_taken, uint64_t n_waited), void *ctx);

#endif
