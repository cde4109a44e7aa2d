/* SPDX-License-Identifier: Apache-2.0 */
/* Which tensors a checkpoint of a given config holds: the one list that the reader checks against and the synthesiser
 * writes. Layer L1. Source: state dicts of transformers' DeepseekV2ForCausalLM and DeepseekV3ForCausalLM. */
#ifndef EX_MODEL_TENSORS_H
#define EX_MODEL_TENSORS_H

#include "model/config.h"

#define EX_TENSOR_NAME_MAX 128       /* of the names made here, NUL included */
#define EX_TENSORS_MAX     (1 << 20) /* of one checkpoint */
#define EX_SCALE_BLOCK     128       /* rows and columns that share one FP8 scale */
#define EX_SCALE_SUFFIX    "_scale_inv"

enum ex_tensor_role {
	EX_ROLE_LINEAR = 1, /* [out, in], the only one that FP8 checkpoints quantise */
	EX_ROLE_EMBED,      /* [vocab, d_model] */
	EX_ROLE_HEAD,       /* [vocab, d_model] */
	EX_ROLE_GATE,       /* [n_experts, d_model] */
	EX_ROLE_NORM,       /* [n] */
	EX_ROLE_BIAS,       /* [n_experts]: e_score_correction_bias */
};

enum ex_tensor_part {
	EX_PART_EMBED, /* embedding and head */
	EX_PART_ATTENTION,
	EX_PART_DENSE, /* FFN of layers without experts */
	EX_PART_GATE,
	EX_PART_SHARED, /* shared experts */
	EX_PART_EXPERT, /* routed experts */
	EX_PART_NORM,   /* of layers, and the last */
	EX_PART_N
};

struct ex_tensor_spec {
	char name[EX_TENSOR_NAME_MAX];
	enum ex_tensor_role role;
	enum ex_tensor_part part;
	uint32_t rows, cols; /* a vector of n has 1 row and n columns */
};

static inline bool ex_tensor_is_vector(const struct ex_tensor_spec *s)
{
	return s->role == EX_ROLE_NORM || s->role == EX_ROLE_BIAS;
}

/* Calls fn for every tensor, layer by layer; a result other than 0 ends the walk and is returned. The spec lives for
 * the call. c must have been validated. [any] */
typedef int (*ex_tensor_fn)(void *ctx, const struct ex_tensor_spec *spec);
int ex_tensors_each(const struct ex_model_config *c, ex_tensor_fn fn, void *ctx);

/* How many ex_tensors_each yields; counting stops at EX_TENSORS_MAX + 1. [any] */
uint64_t ex_tensors_count(const struct ex_model_config *c);

#endif
