/* SPDX-License-Identifier: Apache-2.0 */
/* What can be asked of a matrix without knowing where it came from: its bytes, and whether its numbers are numbers.
 * Layer L1. */
#include "model/weights.h"

#include "base/dtype.h"
#include "model/tensors.h"
#include <math.h>

#define BLOCK 4096 /* elements tested at once: a constant trip count, so that the loops vectorise at -O2 */

/* Each: true when all BLOCK elements are finite. A number is NaN or infinite when its exponent is all ones; in e4m3,
 * NaN when exponent and mantissa are. */
static bool block_finite_32(const uint32_t *p)
{
	uint32_t bad = 0;
	for (size_t i = 0; i < BLOCK; i++)
		bad |= (p[i] & 0x7f800000) == 0x7f800000;
	return !bad;
}

static bool block_finite_16(const uint16_t *p, uint16_t exponent)
{
	uint16_t bad = 0;
	for (size_t i = 0; i < BLOCK; i++)
		bad |= (p[i] & exponent) == exponent;
	return !bad;
}

static bool block_finite_8(const uint8_t *p)
{
	uint8_t bad = 0;
	for (size_t i = 0; i < BLOCK; i++)
		bad |= (p[i] & 0x7f) == 0x7f;
	return !bad;
}

static bool block_finite(uint32_t dtype, const void *p)
{
	switch (dtype) {
	case EXPERTD_F32:
		return block_finite_32(p);
	case EXPERTD_BF16:
		return block_finite_16(p, 0x7f80);
	case EXPERTD_F16:
		return block_finite_16(p, 0x7c00);
	case EXPERTD_F8E4M3:
		return block_finite_8(p);
	}
	return false;
}

/* Index of the first of n elements that is not finite, n if there is none; *ret_value is that element. */
static size_t find_bad(uint32_t dtype, const void *data, size_t n, float *ret_value)
{
	const uint8_t *p = data;
	size_t size = ex_dtype_size(dtype), i = 0;
	while (n - i >= BLOCK && block_finite(dtype, p + i * size))
		i += BLOCK;
	for (; i < n; i++) {
		ex_dtype_to_f32(dtype, p + i * size, 1, ret_value);
		if (!isfinite(*ret_value))
			return i;
	}
	return n;
}

int ex_matrix_check_finite(const struct expertd_matrix *m, const char *name, struct ex_err *err)
{
	size_t n = (size_t)m->rows * m->cols, at;
	float v;
	at = find_bad(m->dtype, m->data, n, &v);
	if (at < n)
		return ex_err_set(err, -EINVAL, "tensor '%s' holds %s at row %zu, column %zu", name,
			isnan(v) ? "NaN" : "an infinity", at / m->cols, at % m->cols);
	if (!m->scale)
		return 0;
	size_t cols = EX_CEIL_DIV(m->cols, EX_SCALE_BLOCK);
	n = EX_CEIL_DIV(m->rows, EX_SCALE_BLOCK) * cols;
	at = find_bad(EXPERTD_F32, m->scale, n, &v);
	if (at < n)
		return ex_err_set(err, -EINVAL, "tensor '%s" EX_SCALE_SUFFIX "' holds %s at row %zu, column %zu", name,
			isnan(v) ? "NaN" : "an infinity", at / cols, at % cols);
	return 0;
}

size_t ex_matrix_bytes(const struct expertd_matrix *m)
{
	size_t bytes = (size_t)m->rows * m->cols * ex_dtype_size(m->dtype);
	if (m->scale)
		bytes += (size_t)EX_CEIL_DIV(m->rows, EX_SCALE_BLOCK) * EX_CEIL_DIV(m->cols, EX_SCALE_BLOCK) *
			 sizeof *m->scale;
	return bytes;
}
