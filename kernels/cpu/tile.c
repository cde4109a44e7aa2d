/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix kernel: m rows of x against a few panels of weights, every output one accumulator over ascending k.
 *
 * The tiles differ in how many rows and panels they hold in registers, never in an output's order of operations: that
 * is what makes a row's bits the same in every company. F8E4M3 adds within a block of 128 columns first, then
 * fma(block, scale, total). */
#include "isa.h"

#include <assert.h>

/* Panels side by side, by rows: enough independent accumulators to hide the latency of an fma, few enough to stay in
 * registers. */
#if defined EX_ISA_AVX512
#define ACC_MAX 16
#define WIDE_1  4
#define WIDE_2  4
#define WIDE_3  2
#define WIDE_4  2
#elif defined EX_ISA_AVX2
#define ACC_MAX 12
#define WIDE_1  4
#define WIDE_2  2
#define WIDE_3  2
#define WIDE_4  1
#else
#define ACC_MAX 8
#define WIDE_1  4
#define WIDE_2  2
#define WIDE_3  1
#define WIDE_4  1
#endif
/* Ahead in each panel: the hardware stops at page ends, and with one panel it does not run far enough ahead (4 KiB measured better than 1 and 2:
 * bf16 at six rows went from 6 to 13 GB/s). */
#define PREFETCH_BYTES 4096

INLINE void widen(uint32_t dtype, const uint8_t *p, vf *lo, vf *hi)
{
	if (dtype == EXPERTD_F32)
		widen_f32(p, lo, hi);
	else if (dtype == EXPERTD_BF16)
		widen_bf16(p, lo, hi);
	else if (dtype == EXPERTD_F16)
		widen_f16(p, lo, hi);
	else
		widen_f8(p, lo, hi);
}

INLINE size_t line_bytes(uint32_t dtype)
{
	return PANEL * (dtype == EXPERTD_F32 ? 4 : dtype == EXPERTD_F8E4M3 ? 1 : 2);
}

/* acc += the terms k0 <= k < k1. `w` is the first panel's data; M rows, P panels. */
INLINE void add_terms(uint32_t dtype, uint32_t M, uint32_t P, const uint8_t *w, size_t panel_bytes, const float *x,
	size_t k0, size_t k1, vf *acc)
{
	const size_t line = line_bytes(dtype);
	for (size_t k = k0; k < k1; k++) {
		UNROLL
		for (uint32_t p = 0; p < P; p++) {
			const uint8_t *at = w + p * panel_bytes + k * line;
			vf lo, hi;
			__builtin_prefetch(at + PREFETCH_BYTES);
			widen(dtype, at, &lo, &hi);
			UNROLL
			for (uint32_t i = 0; i < M; i++) {
				vf b = set1(x[k * M + i]), *a = acc + (i * P + p) * 2;
				a[0] = fma_(b, lo, a[0]);
				a[1] = fma_(b, hi, a[1]);
			}
		}
	}
}

INLINE void clear(vf *acc, uint32_t n)
{
	UNROLL
	for (uint32_t i = 0; i < n; i++)
		acc[i] = set1(0);
}

/* As add_terms over all k, for F8E4M3: block by block. */
INLINE void add_blocks(uint32_t M, uint32_t P, const struct ex_packed *w, uint32_t first, const float *x, vf *total)
{
	const uint8_t *data = w->data + first * w->panel_bytes;
	size_t n_blocks = (w->cols + EX_F8_BLOCK - 1) / EX_F8_BLOCK;
	for (size_t b = 0; b < n_blocks; b++) {
		size_t k0 = b * EX_F8_BLOCK, k1 = k0 + EX_F8_BLOCK < w->cols ? k0 + EX_F8_BLOCK : w->cols;
		vf acc[ACC_MAX];
		clear(acc, M * P * 2);
		add_terms(EXPERTD_F8E4M3, M, P, data, w->panel_bytes, x, k0, k1, acc);
		UNROLL
		for (uint32_t p = 0; p < P; p++) {
			vf s = set1(w->scale[(first + p) * PANEL / EX_F8_BLOCK * n_blocks + b]);
			UNROLL
			for (uint32_t i = 0; i < M * 2; i++) {
				uint32_t a = (i / 2 * P + p) * 2 + i % 2;
				total[a] = fma_(acc[a], s, total[a]);
			}
		}
	}
}

INLINE void tile_of(uint32_t dtype, uint32_t M, uint32_t P, const struct ex_packed *w, uint32_t first, const float *x,
	float *out, size_t ldo)
{
	vf acc[ACC_MAX];
	clear(acc, M * P * 2);
	if (dtype == EXPERTD_F8E4M3)
		add_blocks(M, P, w, first, x, acc);
	else
		add_terms(dtype, M, P, w->data + first * w->panel_bytes, w->panel_bytes, x, 0, w->cols, acc);
	UNROLL
	for (uint32_t i = 0; i < M; i++) {
		UNROLL
		for (uint32_t v = 0; v < P * 2; v++)
			store(out + i * ldo + v * VL, acc[i * P * 2 + v]);
	}
}

typedef void tile_fn(const struct ex_packed *w, uint32_t first, const float *x, float *out, size_t ldo);

/* tile_<dtype>_<rows>_wide and _one: WIDE_<rows> panels at a time, and one. */
#define TILE(D, M, P, SUFFIX)                                                                                          \
	static void tile_##D##_##M##SUFFIX(                                                                            \
		const struct ex_packed *w, uint32_t first, const float *x, float *out, size_t ldo)                     \
	{                                                                                                              \
		tile_of(EXPERTD_##D, M, P, w, first, x, out, ldo);                                                     \
	}
#define TILES(D)                                                                                                       \
	TILE(D, 1, 1, _one)                                                                                            \
	TILE(D, 2, 1, _one)                                                                                            \
	TILE(D, 3, 1, _one)                                                                                            \
	TILE(D, 4, 1, _one)                                                                                            \
	TILE(D, 1, WIDE_1, _wide)                                                                                      \
	TILE(D, 2, WIDE_2, _wide)                                                                                      \
	TILE(D, 3, WIDE_3, _wide)                                                                                      \
	TILE(D, 4, WIDE_4, _wide)
#define ROW(D, M)                                                                                                      \
	{                                                                                                              \
		tile_##D##_##M##_one, tile_##D##_##M##_wide                                                            \
	}
#define ONE(D, M)                                                                                                      \
	{                                                                                                              \
		tile_##D##_##M##_one, NULL                                                                             \
	}

TILES(F32)
TILES(BF16)
TILES(F16)
TILES(F8E4M3)

#if TILE_ROWS > 4
#define TILES_6(D) TILE(D, 5, 1, _one) TILE(D, 6, 1, _one)
TILES_6(F32)
TILES_6(BF16)
TILES_6(F16)
TILES_6(F8E4M3)
#define ROWS_6(D) , ONE(D, 5), ONE(D, 6)
#else
#define ROWS_6(D)
#endif

#if TILE_ROWS > 6
#define TILES_8(D) TILE(D, 7, 1, _one) TILE(D, 8, 1, _one)
TILES_8(F32)
TILES_8(BF16)
TILES_8(F16)
TILES_8(F8E4M3)
#define ROWS_8(D) , ONE(D, 7), ONE(D, 8)
#else
#define ROWS_8(D)
#endif

#define ROWS(D)                                                                                                        \
	{                                                                                                              \
		{NULL, NULL}, ROW(D, 1), ROW(D, 2), ROW(D, 3), ROW(D, 4) ROWS_6(D) ROWS_8(D)                           \
	}
static const struct {
	tile_fn *one, *wide;
} TILE_TABLE[EXPERTD_F8E4M3 + 1][TILE_ROWS + 1] = {
	[EXPERTD_F32] = ROWS(F32),
	[EXPERTD_BF16] = ROWS(BF16),
	[EXPERTD_F16] = ROWS(F16),
	[EXPERTD_F8E4M3] = ROWS(F8E4M3),
};

static const uint32_t WIDTH[EX_TILE_ROWS_MAX + 1] = {0, WIDE_1, WIDE_2, WIDE_3, WIDE_4, 1, 1, 1, 1};

void ISA(tile)(const struct ex_packed *w, uint32_t first, uint32_t n_panels, const float *x, uint32_t m, float *out,
	size_t ldo)
{
	assert(m >= 1 && m <= TILE_ROWS && first + n_panels <= w->n_panels);
	uint32_t p = 0, width = WIDTH[m];
	tile_fn *one = TILE_TABLE[w->dtype][m].one, *wide = TILE_TABLE[w->dtype][m].wide;
	if (width > 1)
		for (; p + width <= n_panels; p += width)
			wide(w, first + p, x, out + (size_t)p * PANEL, ldo);
	for (; p < n_panels; p++)
		one(w, first + p, x, out + (size_t)p * PANEL, ldo);
}
