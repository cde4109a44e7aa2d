/* SPDX-License-Identifier: Apache-2.0 */
/* Weights into panels and back. A line (one k of one panel) holds, by dtype:
 *   f32, f16   outputs 0..PANEL-1 in order
 *   bf16, f8   output j and output j + VL side by side, j < VL: widening takes two operations for both
 */
#include "isa.h"

#include "base/dtype.h"
#include <errno.h>

/* Columns read at a time from each row of a panel: the lines written stay in the first-level cache. */
#define PACK_K 64

static bool is_paired(uint32_t dtype)
{
	return dtype == EXPERTD_BF16 || dtype == EXPERTD_F8E4M3;
}

static size_t element_size(uint32_t dtype)
{
	return dtype == EXPERTD_F32 ? 4 : dtype == EXPERTD_F8E4M3 ? 1 : 2;
}

/* Where output `lane` of a panel stands in its line. */
static uint32_t place(uint32_t dtype, uint32_t lane)
{
	return is_paired(dtype) ? lane % VL * 2 + lane / VL : lane;
}

static size_t n_scales(const struct ex_packed *p)
{
	if (p->dtype != EXPERTD_F8E4M3)
		return 0;
	return (size_t)((p->rows + EX_F8_BLOCK - 1) / EX_F8_BLOCK) * ((p->cols + EX_F8_BLOCK - 1) / EX_F8_BLOCK);
}

size_t ISA(shape)(const struct expertd_matrix *m, struct ex_packed *p)
{
	*p = (struct ex_packed){
		.panel_bytes = (size_t)m->cols * PANEL * element_size(m->dtype),
		.rows = m->rows,
		.cols = m->cols,
		.n_panels = (m->rows + PANEL - 1) / PANEL,
		.dtype = m->dtype,
	};
	return ((p->n_panels * p->panel_bytes + 63) & ~(size_t)63) + n_scales(p) * sizeof(float);
}

/* Copies columns k0..k0+n of one row to its place in the panel's lines. */
INLINE void copy_lane(const uint8_t *row, uint8_t *panel, size_t size, size_t at, size_t k0, size_t n)
{
	for (size_t k = k0; k < k0 + n; k++)
		memcpy(panel + (k * PANEL + at) * size, row + k * size, size);
}

static void pack_panel(const struct expertd_matrix *m, uint32_t first, uint8_t *panel)
{
	size_t size = element_size(m->dtype), row_bytes = m->cols * size;
	uint32_t n = m->rows - first < PANEL ? m->rows - first : PANEL;
	if (n < PANEL)
		memset(panel, 0, m->cols * PANEL * size);
	for (size_t k0 = 0; k0 < m->cols; k0 += PACK_K) {
		size_t nk = m->cols - k0 < PACK_K ? m->cols - k0 : PACK_K;
		for (uint32_t lane = 0; lane < n; lane++) {
			const uint8_t *row = (const uint8_t *)m->data + (first + lane) * row_bytes;
			uint32_t at = place(m->dtype, lane);
			if (size == 1)
				copy_lane(row, panel, 1, at, k0, nk);
			else if (size == 2)
				copy_lane(row, panel, 2, at, k0, nk);
			else
				copy_lane(row, panel, 4, at, k0, nk);
		}
	}
}

/* The widening of f8 does not know NaN: such a weight is refused. */
static bool has_nan(const uint8_t *p, size_t n)
{
	uint8_t found = 0;
	for (size_t i = 0; i < n; i++)
		found |= (p[i] & 0x7f) == 0x7f;
	return found;
}

int ISA(pack)(const struct expertd_matrix *m, struct ex_packed *p)
{
	if (m->dtype == EXPERTD_F8E4M3 && has_nan(m->data, (size_t)m->rows * m->cols))
		return -EINVAL;
	for (uint32_t i = 0; i < p->n_panels; i++)
		pack_panel(m, i * PANEL, p->data + i * p->panel_bytes);
	if (m->dtype == EXPERTD_F8E4M3) {
		p->scale = (float *)(p->data + ((p->n_panels * p->panel_bytes + 63) & ~(size_t)63));
		for (size_t i = 0; i < n_scales(p); i++)
			p->scale[i] = m->scale[i] * 0x1p8f;
	}
	return 0;
}

void ISA(unpack_row)(const struct ex_packed *p, uint32_t r, float *out)
{
	const uint8_t *panel = p->data + r / PANEL * p->panel_bytes;
	size_t at = place(p->dtype, r % PANEL), n_k = (p->cols + EX_F8_BLOCK - 1) / EX_F8_BLOCK;
	for (size_t k = 0; k < p->cols; k++) {
		const uint8_t *e = panel + (k * PANEL + at) * element_size(p->dtype);
		uint16_t half;
		memcpy(&half, e, p->dtype == EXPERTD_F8E4M3 ? 1 : 2);
		if (p->dtype == EXPERTD_F32)
			memcpy(&out[k], e, 4);
		else if (p->dtype == EXPERTD_BF16)
			out[k] = ex_bf16_to_f32(half);
		else if (p->dtype == EXPERTD_F16)
			out[k] = ex_f16_to_f32(half);
		else
			out[k] = ex_e4m3_to_f32(*e) * (p->scale[r / EX_F8_BLOCK * n_k + k / EX_F8_BLOCK] * 0x1p-8f);
	}
}
