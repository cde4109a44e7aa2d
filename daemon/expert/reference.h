/* SPDX-License-Identifier: Apache-2.0 */
/* What a plugin is held to: random shards and batches, their result in double precision, and for every element how far
 * an honest f32 computation may be from it (docs/NUMERICS.md derives the bound). For the conformance suite and the
 * parity tests. Layer L2. */
#ifndef EX_EXPERT_REFERENCE_H
#define EX_EXPERT_REFERENCE_H

#include "base/macro.h"
#include "expertd/plugin.h"

/* A generator of one's own, so that a seed means the same data everywhere. */
struct ex_ref_rng {
	uint64_t state;
};
uint64_t ex_ref_next(struct ex_ref_rng *r);                        /* 64 random bits */
uint32_t ex_ref_below(struct ex_ref_rng *r, uint32_t n);           /* 0 .. n - 1 */
float ex_ref_uniform(struct ex_ref_rng *r, float low, float high); /* low <= x < high */

struct ex_ref_shape {
	uint32_t n_experts, d_model, d_ff;
	uint32_t dtype; /* of all weights */
};

/* Random experts, laid out without padding; data is aligned to its dtype and no more. NULL when memory is out. */
struct ex_ref_shard;
struct ex_ref_shard *ex_ref_shard_new(const struct ex_ref_shape *shape, uint64_t seed);
struct ex_ref_shard *ex_ref_shard_free(struct ex_ref_shard *s);
const struct expertd_ffn *ex_ref_shard_ffn(const struct ex_ref_shard *s); /* [n_experts] */
EX_DEFINE_CLEANUP(struct ex_ref_shard, ex_ref_shard_free)

/* A random batch: each token goes to each expert with `chance` in 256. Some tokens and some experts may get nothing.
 * `b.y` is [n_tokens, d_model], filled with NaN, between guards. */
struct ex_ref_batch {
	struct expertd_batch b;
	void *x;
	float *y, *weight;
	uint32_t *offset, *token;
	size_t n_y, x_bytes;
	uint64_t digest; /* of all that a plugin only reads */
};
struct ex_ref_batch *ex_ref_batch_new(
	const struct ex_ref_shape *shape, uint32_t n_tokens, uint32_t x_dtype, uint32_t chance, uint64_t seed);
/* Token t of `from` alone, with its assignments. */
struct ex_ref_batch *ex_ref_batch_of_token(
	const struct ex_ref_shape *shape, const struct ex_ref_batch *from, uint32_t t);
struct ex_ref_batch *ex_ref_batch_free(struct ex_ref_batch *b);
EX_DEFINE_CLEANUP(struct ex_ref_batch, ex_ref_batch_free)
/* What a plugin wrote to although it is not its own, in words: beside y, or the input of the batch or the experts as
 * they were made. NULL: nothing. */
const char *ex_ref_damage(const struct ex_ref_shard *s, const struct ex_ref_batch *b);

/* y, bound: [n_tokens, d_model]: the batch's result and, for each element, the largest error of an f32 computation with
 * one accumulator per sum. -ENOMEM. */
int ex_ref_run(const struct ex_ref_shard *s, const struct ex_ref_batch *b, double *y, double *bound);

#endif
