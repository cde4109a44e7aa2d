/* SPDX-License-Identifier: Apache-2.0 */
/* Weights reach the accumulators exactly: every bit pattern of bf16, f16 and f8e4m3 and many of f32, subnormal, infinite and NaN ones among
 * them, packed from any alignment and multiplied by one, on every instruction set and with every number of rows. */
#include "unit.h"

#include "base/dtype.h"
#include "base/mem.h"
#include "expert/reference.h"
#include "kernels/cpu/kernels.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PATTERNS 65536

static const char *const ISAS[] = {"generic", "avx2", "avx512"};

/* Memory of PATTERNS weights, the first at an odd address: the second byte. f8e4m3 has no NaN: those are refused. */
static uint8_t *make_weights(uint32_t dtype)
{
	struct ex_ref_rng rng = {.state = 3};
	size_t size = ex_dtype_size(dtype);
	uint8_t *mem = ex_alloc_aligned(PATTERNS * size + 1, 1), *data = mem + 1;
	assert_non_null(mem);
	for (uint32_t i = 0; i < PATTERNS; i++) {
		uint32_t bits = dtype == EXPERTD_F32 ? (uint32_t)ex_ref_next(&rng) : i;
		if (dtype == EXPERTD_F32 && i % 8 == 0)
			bits &= 0x807fffff; /* subnormal */
		if (dtype == EXPERTD_F32 && i % 64 == 1)
			bits |= 0x7f800000; /* NaN, or nearly never infinity */
		if (dtype == EXPERTD_F32 && i % 64 == 2)
			bits = (bits & 0x80000000) | 0x7f800000;
		if (dtype == EXPERTD_F8E4M3 && (i & 0x7f) == 0x7f)
			bits = 0;
		memcpy(data + i * size, &bits, size); /* little-endian, as kernels/cpu/vec.h asks for */
	}
	return mem;
}

static void compare(const char *isa, uint32_t dtype, uint32_t m, const uint8_t *data, const float *got)
{
	size_t size = ex_dtype_size(dtype);
	for (uint32_t i = 0; i < PATTERNS * m; i++) {
		float want;
		uint32_t r = i % PATTERNS;
		ex_dtype_to_f32(dtype, data + r * size, 1, &want);
		if (!(got[i] == want || (isnan(got[i]) && isnan(want))))
			fail_msg("%s %s, %u rows: weight %u is %a instead of %a", isa, ex_dtype_name(dtype), m, r,
				(double)got[i], (double)want);
	}
}

static void check(const char *isa, const struct ex_kernels *k, uint32_t dtype)
{
	float scale[PATTERNS / EX_F8_BLOCK], x[EX_TILE_ROWS_MAX];
	EX_CLEANUP(ex_freep) uint8_t *mem = make_weights(dtype);
	const uint8_t *data = mem + 1;
	EX_CLEANUP(ex_freep) float *out = ex_alloc_aligned((size_t)PATTERNS * EX_TILE_ROWS_MAX, sizeof *out);
	struct expertd_matrix w = {.data = data, .rows = PATTERNS, .cols = 1, .dtype = dtype};
	struct ex_packed p;
	for (size_t i = 0; i < EX_ARRAY_LEN(scale); i++)
		scale[i] = 1;
	for (size_t i = 0; i < EX_ARRAY_LEN(x); i++)
		x[i] = 1;
	if (dtype == EXPERTD_F8E4M3)
		w.scale = scale;
	EX_CLEANUP(ex_freep) uint8_t *packed = ex_alloc_aligned(k->shape(&w, &p), 1);
	assert_true(out && packed);
	p.data = packed;
	assert_int_equal(k->pack(&w, &p), 0);
	for (uint32_t m = 1; m <= k->tile_rows; m++) {
		k->tile(&p, 0, p.n_panels, x, m, out, PATTERNS);
		compare(isa, dtype, m, data, out);
	}
}

static void test_widening_is_exact(void **state)
{
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++) {
		const char *why;
		const struct ex_kernels *k = ex_kernels_get(ISAS[i], &why);
		for (uint32_t dtype = EXPERTD_F32; k && dtype <= EXPERTD_F8E4M3; dtype++)
			check(ISAS[i], k, dtype);
	}
}

/* Both NaN codes of f8e4m3, wherever they stand, are refused by pack(). */
static void test_f8_nan_is_refused(void **state)
{
	(void)state;
	uint8_t data[3 * 5] = {0}, mem[16 << 10] __attribute__((aligned(64)));
	const float scale = 1;
	const struct expertd_matrix w = {.data = data, .scale = &scale, .rows = 3, .cols = 5, .dtype = EXPERTD_F8E4M3};
	for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++) {
		const char *why;
		const struct ex_kernels *k = ex_kernels_get(ISAS[i], &why);
		struct ex_packed p;
		if (!k)
			continue;
		assert_true(k->shape(&w, &p) <= sizeof mem);
		p.data = mem;
		for (size_t at = 0; at < sizeof data; at++)
			for (int sign = 0; sign < 2; sign++) {
				data[at] = sign ? 0xff : 0x7f;
				assert_int_equal(k->pack(&w, &p), -EINVAL);
				data[at] = sign ? 0xfe : 0x7e;
				assert_int_equal(k->pack(&w, &p), 0);
			}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_widening_is_exact),
		cmocka_unit_test(test_f8_nan_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
