/* SPDX-License-Identifier: Apache-2.0 */
/* What the plugin's expert table and its trunk table share: an instruction set, a pool, scratch memory, packed weights.
 */
#ifndef EX_PLUGINS_CPU_DEVICE_H
#define EX_PLUGINS_CPU_DEVICE_H

#include "kernels/cpu/kernels.h"
#include "pool.h"

#include <pthread.h>

#define WORTH_MACS UINT64_C(65536) /* loops with less work than this run on the caller alone */

/* Grow-only memory for one run at a time. */
struct scratch {
	struct scratch *next;
	float *mem;
	size_t n; /* floats at mem */
};

struct device {
	const struct ex_kernels *k;
	struct pool *pool;
	unsigned n_threads;
	pthread_mutex_t lock;
	struct scratch *spare; /* guarded by lock; as many as runs were ever in progress at once */
};

/* Options: "isa" (auto), "threads". -EINVAL (logged), -ENODEV when which is not "0". [loader] */
int device_init(struct device *d, const struct expertd_host *host, const char *which);
void device_done(struct device *d);

/* Scratch of at least n floats, 64-byte aligned, uninitialised. NULL: out of memory. [any] */
struct scratch *device_take(struct device *d, size_t n);
void device_give(struct device *d, struct scratch *s);

/* bytes of memory for weights: 64-byte aligned, in huge pages where the system has them. free() it. */
void *weights_alloc(size_t bytes);

/* -ENOTSUP (dtype, empty), -EINVAL (no data, scales missing or not wanted). */
int check_matrix(const struct expertd_matrix *m);

/* y[i, h*y_step + :rows] = W[h] x[i, h*x_step + :cols] for i < n, h < n_heads; all W of one shape. -ENOMEM. */
struct linear {
	const struct ex_packed *const *w;
	uint32_t n_heads, n;
	const float *x;
	size_t ldx, x_step;
	float *y;
	size_t ldy, y_step;
};
int linear_run(struct device *d, const struct linear *l);

/* Panels that one task takes of n_panels: enough tasks to share out, few enough to reuse a row block while it is in the
 * first-level cache. */
uint32_t panels_per_task(const struct device *d, const struct ex_packed *w, uint64_t n_panels);

/* "0.1.0 avx2": the version with the instruction set that the machine was last opened for. */
extern char cpu_version[32];
extern char cpu_name[32]; /* "cpu avx2" */
void name_isa(const char *isa);

#endif
