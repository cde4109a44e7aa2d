/* SPDX-License-Identifier: Apache-2.0 */
/* Logits to a token. Layer L3. The choice is a function of (logits, sampling, position) alone: the random number is a
 * counter-based generator's, keyed by the seed and counted by the position, so scheduling cannot change a sample. */
#ifndef EX_ENGINE_SAMPLER_H
#define EX_ENGINE_SAMPLER_H

#include "engine/engine.h"

struct ex_sampler; /* scratch for one vocabulary; one thread */

int ex_sampler_new(uint32_t vocab, struct ex_sampler **ret);
struct ex_sampler *ex_sampler_free(struct ex_sampler *s);
EX_DEFINE_CLEANUP(struct ex_sampler, ex_sampler_free)

/* logits: [vocab]. position: of the token that is chosen, in its sequence. Temperature 0 takes the greatest logit; ties
 * go to the lowest id. Else top_k, then top_p over what top_k left, then one draw. -EDOM when a logit is not finite. */
int ex_sampler_pick(
	struct ex_sampler *s, const float *logits, const struct ex_sampling *p, uint64_t position, uint32_t *ret_id);

/* ln softmax(logits) of `id`, and of the n_top likeliest (ties: lowest id first). Terms in f32, their sum in double. */
void ex_sampler_logprobs(
	const struct ex_sampler *s, const float *logits, uint32_t id, uint32_t n_top, struct ex_token_logprob *ret);

/* Philox4x32-10. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC'11). */
void ex_philox4x32(const uint32_t counter[static 4], const uint32_t key[static 2], uint32_t ret[static 4]);

#endif
