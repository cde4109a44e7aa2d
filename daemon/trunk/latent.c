/* SPDX-License-Identifier: Apache-2.0 */
/* Splitting kv_b_proj by heads. Layer L2. */
#include "trunk/latent.h"
#include "base/dtype.h"

#include <string.h>

float ex_matrix_at(const struct expertd_matrix *m, uint32_t row, uint32_t col)
{
	size_t i = (size_t)row * m->cols + col;
	float f;
	ex_dtype_to_f32(m->dtype, (const uint8_t *)m->data + i * ex_dtype_size(m->dtype), 1, &f);
	if (m->dtype == EXPERTD_F8E4M3)
		f *= m->scale[(size_t)(row / 128) * EX_CEIL_DIV(m->cols, 128u) + col / 128];
	return f;
}

size_t ex_latent_element_bytes(uint32_t dtype)
{
	return dtype == EXPERTD_F8E4M3 ? sizeof(float) : ex_dtype_size(dtype);
}

size_t ex_latent_scratch_bytes(uint32_t kv_lora, uint32_t nope, uint32_t v)
{
	return (size_t)kv_lora * (nope + v) * sizeof(float);
}

/* out[c, r] = m[row0 + r, c] in elements of `size` bytes. */
static void transpose(const struct expertd_matrix *m, uint32_t row0, uint32_t n_rows, size_t size, uint8_t *out)
{
	const uint8_t *data = (const uint8_t *)m->data + (size_t)row0 * m->cols * size;
	for (uint32_t r = 0; r < n_rows; r++)
		for (uint32_t c = 0; c < m->cols; c++)
			memcpy(out + ((size_t)c * n_rows + r) * size, data + ((size_t)r * m->cols + c) * size, size);
}

void ex_latent_split(const struct expertd_matrix *kv_b, uint32_t head, uint32_t nope, uint32_t v, void *scratch,
	struct expertd_matrix *ret_uk, struct expertd_matrix *ret_uv)
{
	uint32_t lora = kv_b->cols, row0 = head * (nope + v);
	*ret_uk = (struct expertd_matrix){.data = scratch, .rows = lora, .cols = nope, .dtype = kv_b->dtype};
	*ret_uv = (struct expertd_matrix){.rows = v, .cols = lora, .dtype = kv_b->dtype};
	if (kv_b->dtype != EXPERTD_F8E4M3) {
		size_t size = ex_latent_element_bytes(kv_b->dtype);
		transpose(kv_b, row0, nope, size, scratch);
		ret_uv->data = (const uint8_t *)kv_b->data + (size_t)(row0 + nope) * lora * size;
		return;
	}
	float *uk = scratch, *uv = uk + (size_t)lora * nope;
	for (uint32_t c = 0; c < lora; c++)
		for (uint32_t r = 0; r < nope; r++)
			uk[(size_t)c * nope + r] = ex_matrix_at(kv_b, row0 + r, c);
	for (uint32_t r = 0; r < v; r++)
		for (uint32_t c = 0; c < lora; c++)
			uv[(size_t)r * lora + c] = ex_matrix_at(kv_b, row0 + nope + r, c);
	ret_uk->dtype = ret_uv->dtype = EXPERTD_F32;
	ret_uv->data = uv;
}
