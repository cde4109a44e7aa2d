/* SPDX-License-Identifier: Apache-2.0 */
/* A few threads that share out the tasks of one loop at a time. Which thread runs a task never changes its result. */
#ifndef EX_PLUGINS_CPU_POOL_H
#define EX_PLUGINS_CPU_POOL_H

#include <stdint.h>

#define POOL_THREADS_MAX 256

struct pool;

/* n_threads: 1..POOL_THREADS_MAX, the caller of pool_run counted. -EINVAL, -ENOMEM, -EAGAIN. */
int pool_new(unsigned n_threads, struct pool **ret);
/* Joins the threads. No pool_run may be in progress. */
struct pool *pool_free(struct pool *p);

/* Calls fn(ctx, task, worker) for every task < n_tasks and returns when all are done. worker: 0 (the caller) ..
 * n_threads - 1, no two at once the same within one call. A pool that is busy with another caller's loop, or NULL,
 * leaves all of it to the caller. [any] */
void pool_run(struct pool *p, uint32_t n_tasks, void (*fn)(void *ctx, uint32_t task, unsigned worker), void *ctx);

#endif
