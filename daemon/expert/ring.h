/* SPDX-License-Identifier: Apache-2.0 */
/* Batches that a shard computed lately, kept for trying another plugin on them. Layer L2.
 *
 * A sample: at most one batch every EX_RING_PERIOD_NS, and of a large one the first rows. All memory is taken when the ring is made;
 * one that is being read meanwhile takes nothing. */
#ifndef EX_EXPERT_RING_H
#define EX_EXPERT_RING_H

#include "base/macro.h"
#include "expertd/plugin.h"
#include <stdbool.h>

#define EX_RING_BATCHES_MAX 64
#define EX_RING_PERIOD_NS   (20 * UINT64_C(1000000))

struct ex_ring;

/* A batch with its own memory, freed by free(). b.y is NULL. */
struct ex_batch {
	struct expertd_batch b;
	size_t x_bytes;
};
/* Room for n_tokens rows of d_model values of x_dtype, with n_assignments. NULL when memory is out. */
struct ex_batch *ex_batch_new(
	uint32_t n_experts, uint32_t n_tokens, uint32_t n_assignments, uint32_t d_model, uint32_t x_dtype);
/* The arrays of a batch of ex_batch_new, to be filled. */
void *ex_batch_x(struct ex_batch *b);
uint32_t *ex_batch_offset(struct ex_batch *b);
uint32_t *ex_batch_token(struct ex_batch *b);
float *ex_batch_weight(struct ex_batch *b);

/* Within `bytes`, for batches of n_experts experts and rows of d_model values. -ENOSPC: not one row fits; -ENOMEM. */
int ex_ring_new(size_t bytes, uint32_t n_experts, uint32_t d_model, struct ex_ring **ret);
struct ex_ring *ex_ring_free(struct ex_ring *r);
/* Keeps b, in place of the oldest, if it is time to. [worker] one at a time */
void ex_ring_offer(struct ex_ring *r, const struct expertd_batch *b, uint64_t now_ns);
/* Copies the newest (at most max) into out, newest first. Returns how many; fewer when memory is out. [any] */
size_t ex_ring_copy(struct ex_ring *r, struct ex_batch **out, size_t max);

#endif
