/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that came already are made less likely. Layer L4. One thread. */
#ifndef EX_GATEWAY_PENALTY_H
#define EX_GATEWAY_PENALTY_H

#include <stddef.h>
#include <stdint.h>

struct ex_penalty {
	struct ex_penalty_seen {
		uint32_t id, count;
	} * seen; /* [n] by id */
	size_t n, cap;
};
void ex_penalty_done(struct ex_penalty *p);
/* -ENOMEM: it was not counted. */
int ex_penalty_count(struct ex_penalty *p, uint32_t id);
/* logits [n_logits]: less frequency for each time that a token came, and less presence for those that came at all; negative ones are more. */
void ex_penalty_apply(const struct ex_penalty *p, float frequency, float presence, float *logits, uint32_t n_logits);

#endif
