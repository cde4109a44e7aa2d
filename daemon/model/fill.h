/* SPDX-License-Identifier: Apache-2.0 */
/* Random tensor values, the same on every machine: each is a function of (seed, tensor name, element index) alone.
 * Layer L1. */
#ifndef EX_MODEL_FILL_H
#define EX_MODEL_FILL_H

#include "base/macro.h"

/* One tensor's stream: element i is mean + std * n(i), n close to normal with variance 1 and |n| <= 3.47. Integer
 * hashing and single-rounded f32 operations: no libm call, no order of evaluation to depend on. */
struct ex_fill {
	uint64_t key;
	float mean, step; /* step: std over the standard deviation of the integers behind n */
};

/* std >= 0. [any] */
struct ex_fill ex_fill_init(uint64_t seed, const char *name, double mean, double std);
/* Elements first..first+n-1 to out. [any] */
void ex_fill_run(const struct ex_fill *f, uint64_t first, size_t n, float *out);

#endif
