/* SPDX-License-Identifier: Apache-2.0 */
/* MLA's absorbed form: kv_b_proj split into one pair of maps per head. Layer L2. */
#ifndef EX_TRUNK_LATENT_H
#define EX_TRUNK_LATENT_H

#include "base/err.h"
#include "expertd/plugin.h"

/* Element (row, col) of m as f32; F8E4M3 times its block's scale. The dtypes of plugin.h only. */
float ex_matrix_at(const struct expertd_matrix *m, uint32_t row, uint32_t col);

/* kv_b: [heads * (nope + v), kv_lora]; head h's rows are nope rows of keys, then v rows of values.
 * ret_uk: [kv_lora, nope], the keys' rows transposed, so that q_lat[h] = uk q_nope[h]. ret_uv: [v, kv_lora].
 * A 2- or 4-byte dtype is kept (transposing is exact), F8E4M3 becomes f32, since its blocks cannot be cut at head
 * borders. The matrices point into scratch, which holds ex_latent_scratch_bytes, or into kv_b. */
void ex_latent_split(const struct expertd_matrix *kv_b, uint32_t head, uint32_t nope, uint32_t v, void *scratch,
	struct expertd_matrix *ret_uk, struct expertd_matrix *ret_uv);
size_t ex_latent_scratch_bytes(uint32_t kv_lora, uint32_t nope, uint32_t v);
/* Bytes of one element after the split. */
size_t ex_latent_element_bytes(uint32_t dtype);

#endif
