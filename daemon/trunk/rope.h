/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary tables of the DeepSeek family: plain and yarn. Layer L2. */
#ifndef EX_TRUNK_ROPE_H
#define EX_TRUNK_ROPE_H

#include "model/config.h"

/* Fills cos and sin, [n_ctx, qk_rope_dim / 2] f32: the angle of pair j at position p is p * inv_freq[j], in f32 as
 * transformers computes it, and both are scaled by yarn's attention factor. Source: transformers
 * modeling_rope_utils.py, arXiv:2309.00071. */
void ex_rope_table(const struct ex_model_config *c, uint32_t n_ctx, float *cos_table, float *sin_table);

/* What attention scores are multiplied with: (qk_nope + qk_rope)^-0.5, times the square of yarn's mscale when
 * yarn_mscale_all_dim is set. Source: transformers modeling_deepseek_v3.py, yarn_apply_mscale. */
float ex_rope_softmax_scale(const struct ex_model_config *c);

#endif
