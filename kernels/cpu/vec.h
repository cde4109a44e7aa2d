/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors of VL floats for the bodies in this folder, by the instruction set that the file is compiled for (EX_ISA).
 * Arithmetic on them is written with C's own operators; here is only what those cannot say: fused multiply-add, max,
 * and the widening of a panel's line of weights. */
#ifndef EX_KERNELS_CPU_VEC_H
#define EX_KERNELS_CPU_VEC_H

#include "kernels.h"
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "panels pair 16-bit weights in little-endian words"
#endif

#define EX_CAT2(a, b) a##_##b
#define EX_CAT(a, b)  EX_CAT2(a, b)
#define ISA(name)     EX_CAT(name, EX_ISA) /* silu_mul -> silu_mul_avx2 */

/* Loops over a tile's rows and panels must be unrolled, so that the accumulators are registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define INLINE static inline __attribute__((always_inline, unused))

#if defined EX_ISA_AVX512
#include <immintrin.h>
#define VL        16
#define TILE_ROWS 8
typedef __m512 vf;
#elif defined EX_ISA_AVX2
#include <immintrin.h>
#define VL        8
#define TILE_ROWS 6
typedef __m256 vf;
#else
#define VL        4
#define TILE_ROWS 4
typedef float vf __attribute__((vector_size(16)));
#endif
#define PANEL (2 * VL)
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

_Static_assert(PANEL <= EX_PANEL_MAX && TILE_ROWS <= EX_TILE_ROWS_MAX && EX_F8_BLOCK % PANEL == 0, "see kernels.h");

INLINE vf load(const float *p)
{
	vf v;
	memcpy(&v, p, sizeof v);
	return v;
}

INLINE void store(float *p, vf v)
{
	memcpy(p, &v, sizeof v);
}

/* n < VL floats, the rest zero. Lanes are independent, so that a tail's bits are those of a full vector. */
INLINE vf load_part(const float *p, size_t n)
{
	float t[VL] = {0};
	memcpy(t, p, n * sizeof *p);
	return load(t);
}

INLINE void store_part(float *p, vf v, size_t n)
{
	float t[VL];
	store(t, v);
	memcpy(p, t, n * sizeof *p);
}

#if defined EX_ISA_AVX512

INLINE vf set1(float f)
{
	return _mm512_set1_ps(f);
}

INLINE vf fma_(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}

/* a > b ? a : b, so b when either is NaN */
INLINE vf max_(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}

INLINE vf min_(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}

INLINE void widen_bf16(const uint8_t *p, vf *lo, vf *hi)
{
	__m512i v = _mm512_loadu_si512(p);
	*lo = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
	*hi = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
}

INLINE void widen_f16(const uint8_t *p, vf *lo, vf *hi)
{
	*lo = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
	*hi = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + 2 * VL)));
}

INLINE void widen_f8(const uint8_t *p, vf *lo, vf *hi)
{
	__m256i v = _mm256_loadu_si256((const __m256i *)p), mask = _mm256_set1_epi16((short)0xbf80);
	*lo = _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(v, 8), 1), mask));
	*hi = _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(v, 1), mask));
}

#elif defined EX_ISA_AVX2

INLINE vf set1(float f)
{
	return _mm256_set1_ps(f);
}

INLINE vf fma_(vf a, vf b, vf c)
{
	return _mm256_fmadd_ps(a, b, c);
}

/* a > b ? a : b, so b when either is NaN */
INLINE vf max_(vf a, vf b)
{
	return _mm256_max_ps(a, b);
}

INLINE vf min_(vf a, vf b)
{
	return _mm256_min_ps(a, b);
}

INLINE void widen_bf16(const uint8_t *p, vf *lo, vf *hi)
{
	__m256i v = _mm256_loadu_si256((const __m256i *)p);
	*lo = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
	*hi = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
}

INLINE void widen_f16(const uint8_t *p, vf *lo, vf *hi)
{
	*lo = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
	*hi = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * VL)));
}

/* e4m3 s.eeee.mmm placed as f16 s.0eeee.mmm0000000 is the value times 2^-8, subnormals included: 2^8 is folded into the
 * block's scale. */
INLINE void widen_f8(const uint8_t *p, vf *lo, vf *hi)
{
	__m128i v = _mm_loadu_si128((const __m128i *)p), mask = _mm_set1_epi16((short)0xbf80);
	*lo = _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(v, 8), 1), mask));
	*hi = _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(v, 1), mask));
}

#else

INLINE vf set1(float f)
{
	return (vf){f, f, f, f};
}

/* Two roundings: without the instruction a fused one is a slow library call. */
INLINE vf fma_(vf a, vf b, vf c)
{
	return a * b + c;
}

INLINE vf select_(vi mask, vf a, vf b)
{
	return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

/* a > b ? a : b, so b when either is NaN */
INLINE vf max_(vf a, vf b)
{
	return select_(a > b, a, b);
}

INLINE vf min_(vf a, vf b)
{
	return select_(a < b, a, b);
}

INLINE void widen_bf16(const uint8_t *p, vf *lo, vf *hi)
{
	vu v;
	memcpy(&v, p, sizeof v);
	*lo = (vf)(v << 16);
	*hi = (vf)(v & 0xffff0000u);
}

/* f16 in the low halves to f32: the exponent field moves down 13 places and is 112 short, which a multiplication mends
 * (and makes subnormals normal); all ones stay infinity or NaN. */
INLINE vf widen_half(vu h)
{
	vf mended = (vf)((h & 0x7fffu) << 13) * 0x1p112f;
	vu special = (vu)((h & 0x7c00u) == 0x7c00u) & 0x7f800000u;
	return (vf)((vu)mended | special | (h & 0x8000u) << 16);
}

INLINE void widen_f16(const uint8_t *p, vf *lo, vf *hi)
{
	uint16_t h[PANEL];
	memcpy(h, p, sizeof h);
	*lo = widen_half((vu){h[0], h[1], h[2], h[3]});
	*hi = widen_half((vu){h[4], h[5], h[6], h[7]});
}

/* See the AVX2 form: e4m3 placed as f16 is the value times 2^-8. */
INLINE void widen_f8(const uint8_t *p, vf *lo, vf *hi)
{
	vu a = {p[0], p[2], p[4], p[6]}, b = {p[1], p[3], p[5], p[7]};
	*lo = widen_half((a & 0x80u) << 8 | (a & 0x7fu) << 7);
	*hi = widen_half((b & 0x80u) << 8 | (b & 0x7fu) << 7);
}

#endif

INLINE void widen_f32(const uint8_t *p, vf *lo, vf *hi)
{
	memcpy(lo, p, sizeof *lo);
	memcpy(hi, p + sizeof *lo, sizeof *hi);
}

/* exp, within 1 ulp of the true value for results that are normal (tests/parity measures it): 2^n * p(r), n = round(x /
 * ln 2), r = x - n ln 2 in two steps, p(r) = 1 + r + r^2 q(r), q of degree 5 fitted at Chebyshev nodes on |r| <= ln 2 /
 * 2, error below 2^-30. 2^n in two factors, so that results underflow gradually and overflow to infinity. NaN stays
 * NaN. */
INLINE vf exp_(vf x)
{
	const vf magic = set1(0x1.8p23f); /* adding it rounds to an integer in the low bits */
	x = min_(set1(89.0f), max_(set1(-104.0f), x));
	vf shifted = fma_(x, set1(1.44269504f), magic);
	vi n = (vi)shifted - (vi)magic;
	vf nf = shifted - magic;
	vf r = fma_(nf, set1(-0.693359375f), x);
	r = fma_(nf, set1(2.12194440e-4f), r);
	vf q = set1(1.989928714e-04f);
	q = fma_(q, r, set1(1.393365208e-03f));
	q = fma_(q, r, set1(8.333298378e-03f));
	q = fma_(q, r, set1(4.166646674e-02f));
	q = fma_(q, r, set1(1.666666716e-01f));
	q = fma_(q, r, set1(0.5f));
	vf p = fma_(q, r * r, r) + set1(1.0f);
	vi half = n >> 1, rest = n - half;
	return p * (vf)((half + 127) << 23) * (vf)((rest + 127) << 23);
}

#endif
