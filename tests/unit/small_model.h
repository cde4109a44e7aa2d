/* SPDX-License-Identifier: Apache-2.0 */
/* A random DeepSeek-V3-like model of 3 layers with its trunk open and its routed experts computed in scalar C, for
 * tests of trunk and engine. */
#ifndef EX_TESTS_SMALL_MODEL_H
#define EX_TESTS_SMALL_MODEL_H

#include "trunk/trunk.h"

#define SMALL_MODEL_VOCAB 280
#define SMALL_MODEL_CTX   96
#define SMALL_MODEL_PAGE  4

struct small_model {
	char dir[32];
	struct ex_weights *w;
	struct ex_trunk *t;
	struct ex_moe_ops moe;
	_Atomic int fail_row; /* set by the test: this row of a step fails in layer 1; -1: none */
	/* of the begin at hand */
	uint32_t layer, n, k;
	const float *x, *weights;
	const uint32_t *ids;
};

/* Of the models that are opened from now on. */
extern uint64_t small_model_seed;

/* dtype: enum expertd_dtype of the matrices. The trunk takes rows_max rows a step, all with logits, and has n_pages
 * pages. */
void small_model_open(
	struct small_model *m, uint32_t dtype, const struct ex_ops *ops, uint32_t rows_max, uint32_t n_pages);
void small_model_close(struct small_model *m);

/* Only the checkpoint: m->dir and m->w. */
void small_model_weights(struct small_model *m, uint32_t dtype);
struct ex_trunk_opts small_model_trunk_opts(const struct ex_ops *ops, uint32_t rows_max, uint32_t n_pages);

/* The cpu plugin's trunk of this build tree; it stays open. */
const struct ex_ops *small_model_cpu_ops(void);

#endif
