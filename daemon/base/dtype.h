/* SPDX-License-Identifier: Apache-2.0 */
/* The number formats of weights and activations, bit for bit: f32, bf16, f16 and e4m3 to f32 and back. Layer L0.
 * Widening is exact. Narrowing rounds to nearest, ties to even, and keeps signs (of zero too); the rounding of
 * subnormals assumes the default floating-point environment. Scalar and inline, so that kernels built apart from the
 * library share the definition. */
#ifndef EX_BASE_DTYPE_H
#define EX_BASE_DTYPE_H

#include "base/macro.h"
#include "expertd/plugin.h"
#include <string.h>

static inline EX_UNUSED uint32_t ex_f32_bits(float f)
{
	uint32_t u;
	memcpy(&u, &f, sizeof u);
	return u;
}

static inline EX_UNUSED float ex_f32_from_bits(uint32_t u)
{
	float f;
	memcpy(&f, &u, sizeof f);
	return f;
}

static inline EX_UNUSED float ex_bf16_to_f32(uint16_t h)
{
	return ex_f32_from_bits((uint32_t)h << 16);
}

/* NaN stays NaN, made quiet. */
static inline EX_UNUSED uint16_t ex_f32_to_bf16(float f)
{
	uint32_t u = ex_f32_bits(f);
	if ((u & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* IEEE 754 binary16. */
static inline EX_UNUSED float ex_f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
	if (exponent == 31)
		return ex_f32_from_bits(sign | 0x7f800000 | mantissa << 13);
	if (exponent)
		return ex_f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
	return ex_f32_from_bits(sign | ex_f32_bits((float)mantissa * 0x1p-24f));
}

/* 65520 and above is infinity; NaN stays NaN, made quiet. */
static inline EX_UNUSED uint16_t ex_f32_to_f16(float f)
{
	uint32_t u = ex_f32_bits(f), sign = u >> 16 & 0x8000;
	u &= 0x7fffffff;
	if (u > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff));
	if (u >= 0x477ff000)
		return (uint16_t)(sign | 0x7c00);
	if (u < 0x38800000) /* below 2^-14: a multiple of 2^-24, which is the last place of 0.5..1 */
		return (uint16_t)(sign | (ex_f32_bits(ex_f32_from_bits(u) + 0.5f) - ex_f32_bits(0.5f)));
	u += 0xfff + (u >> 13 & 1);
	return (uint16_t)(sign | (u - (112u << 23)) >> 13);
}

/* OCP e4m3fn: bias 7, no infinity, 0x7f and 0xff are NaN. */
static inline EX_UNUSED float ex_e4m3_to_f32(uint8_t b)
{
	uint32_t sign = (uint32_t)(b & 0x80) << 24, exponent = b >> 3 & 15, mantissa = b & 7;
	if ((b & 0x7f) == 0x7f)
		return ex_f32_from_bits(sign | 0x7fc00000);
	if (exponent)
		return ex_f32_from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
	return ex_f32_from_bits(sign | ex_f32_bits((float)mantissa * 0x1p-9f));
}

/* Beyond 448, infinities included, saturates to 448; NaN stays NaN. */
static inline EX_UNUSED uint8_t ex_f32_to_e4m3(float f)
{
	uint32_t u = ex_f32_bits(f), sign = u >> 24 & 0x80;
	u &= 0x7fffffff;
	if (u > 0x7f800000)
		return (uint8_t)(sign | 0x7f);
	if (u >= 0x43e00000)
		return (uint8_t)(sign | 0x7e);
	if (u < 0x3c800000) /* below 2^-6: a multiple of 2^-9, which is the last place of 2^14..2^15 */
		return (uint8_t)(sign | (ex_f32_bits(ex_f32_from_bits(u) + 0x1p14f) - ex_f32_bits(0x1p14f)));
	u += 0x7ffff + (u >> 20 & 1);
	return (uint8_t)(sign | (u - (120u << 23)) >> 20);
}

/* Bytes of one element; 0 for a value that is not an enum expertd_dtype. [any] */
size_t ex_dtype_size(uint32_t dtype);
/* "f32", "bf16", "f16", "f8e4m3"; "?" for anything else. [any] */
const char *ex_dtype_name(uint32_t dtype);
/* The enum expertd_dtype of such a name, -EINVAL. [any] */
int ex_dtype_parse(const char *name);

/* n elements of src, at any alignment, to dst[n] f32. F8E4M3 without its scales. [any] */
void ex_dtype_to_f32(uint32_t dtype, const void *src, size_t n, float *dst);
/* n f32 elements to dst, at any alignment, as the scalar functions above. src and dst do not overlap. [any] */
void ex_dtype_from_f32(uint32_t dtype, const float *src, size_t n, void *dst);

#endif
