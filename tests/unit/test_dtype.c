/* SPDX-License-Identifier: Apache-2.0 */
/* base/dtype: every narrow value survives a round trip; narrowing is checked against a search for the nearest value. */
#include "unit.h"

#include "base/dtype.h"
#include <math.h>

/* The nearest of the finite values of a format, ties to the even code: what narrowing a must give, found by bisection.
 * Codes 0..n-1 are the non-negative finite values in ascending order. */
static uint32_t nearest(float (*widen)(uint32_t), uint32_t n, double a)
{
	uint32_t lo = 0, hi = n - 1;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (widen(mid) <= a)
			lo = mid;
		else
			hi = mid;
	}
	double below = a - widen(lo), above = widen(hi) - a;
	if (below == above)
		return lo % 2 ? hi : lo;
	return below < above ? lo : hi;
}

static float widen_bf16(uint32_t c)
{
	return ex_bf16_to_f32((uint16_t)c);
}

static float widen_f16(uint32_t c)
{
	return ex_f16_to_f32((uint16_t)c);
}

static float widen_e4m3(uint32_t c)
{
	return ex_e4m3_to_f32((uint8_t)c);
}

static uint32_t narrow_bf16(float f)
{
	return ex_f32_to_bf16(f);
}

static uint32_t narrow_f16(float f)
{
	return ex_f32_to_f16(f);
}

static uint32_t narrow_e4m3(float f)
{
	return ex_f32_to_e4m3(f);
}

static const struct format {
	const char *name;
	float (*widen)(uint32_t);
	uint32_t (*narrow)(float);
	uint32_t n_finite, sign;
} formats[] = {
	{"bf16", widen_bf16, narrow_bf16, 0x7f80, 0x8000},
	{"f16", widen_f16, narrow_f16, 0x7c00, 0x8000},
	{"e4m3", widen_e4m3, narrow_e4m3, 0x7f, 0x80},
};

static void test_round_trip(void **state)
{
	(void)state;
	for (size_t f = 0; f < EX_ARRAY_LEN(formats); f++)
		for (uint32_t c = 0; c < 2 * formats[f].sign; c++) {
			float v = formats[f].widen(c);
			if (!isnan(v))
				assert_int_equal(formats[f].narrow(v), c);
			else
				assert_true(isnan(formats[f].widen(formats[f].narrow(v))));
		}
}

/* Midpoints, their neighbours and a walk over all of f32's range. */
static void test_narrow_is_nearest(void **state)
{
	(void)state;
	for (size_t f = 0; f < EX_ARRAY_LEN(formats); f++) {
		const struct format *t = &formats[f];
		float top = t->widen(t->n_finite - 1);
		for (uint32_t c = 0; c + 1 < t->n_finite; c++) {
			float mid = (float)(((double)t->widen(c) + t->widen(c + 1)) / 2);
			float tries[] = {mid, nextafterf(mid, 0), nextafterf(mid, INFINITY)};
			for (size_t i = 0; i < EX_ARRAY_LEN(tries); i++) {
				assert_int_equal(t->narrow(tries[i]), nearest(t->widen, t->n_finite, tries[i]));
				assert_int_equal(t->narrow(-tries[i]), t->narrow(tries[i]) | t->sign);
			}
		}
		for (uint32_t u = 0; u < 0x7f800000; u += 65521) {
			float a = ex_f32_from_bits(u);
			if (a <= top)
				assert_int_equal(t->narrow(a), nearest(t->widen, t->n_finite, a));
		}
	}
}

static void test_known_values(void **state)
{
	(void)state;
	assert_int_equal(ex_f32_to_bf16(1.0f), 0x3f80);
	assert_int_equal(ex_f32_to_f16(1.0f), 0x3c00);
	assert_int_equal(ex_f32_to_e4m3(1.0f), 0x38);
	assert_true(ex_e4m3_to_f32(0x7e) == 448.0f);
	assert_true(ex_e4m3_to_f32(0x01) == 0x1p-9f);
	assert_true(ex_f16_to_f32(0x7bff) == 65504.0f);
	assert_true(ex_f16_to_f32(0x0001) == 0x1p-24f);
}

static void test_overflow_and_nan(void **state)
{
	(void)state;
	assert_int_equal(ex_f32_to_bf16(INFINITY), 0x7f80);
	assert_int_equal(ex_f32_to_bf16(0x1.fffffep127f), 0x7f80);
	assert_int_equal(ex_f32_to_f16(65519.0f), 0x7bff);
	assert_int_equal(ex_f32_to_f16(65520.0f), 0x7c00);
	assert_int_equal(ex_f32_to_f16(-INFINITY), 0xfc00);
	assert_int_equal(ex_f32_to_e4m3(1e9f), 0x7e);
	assert_int_equal(ex_f32_to_e4m3(-INFINITY), 0xfe);
	assert_int_equal(ex_f32_to_e4m3(NAN) & 0x7f, 0x7f);
	/* the payload's high bits are clear: cutting it must not make an infinity */
	assert_true(isnan(ex_bf16_to_f32(ex_f32_to_bf16(ex_f32_from_bits(0x7f800001)))));
	assert_true(isnan(ex_f16_to_f32(ex_f32_to_f16(ex_f32_from_bits(0x7f800001)))));
}

static void test_arrays(void **state)
{
	(void)state;
	static const uint32_t dtype[] = {EXPERTD_F32, EXPERTD_BF16, EXPERTD_F16, EXPERTD_F8E4M3};
	const float in[] = {0.0f, -1.5f, 0.25f, 448.0f, -0.0f};
	float out[EX_ARRAY_LEN(in)];
	uint8_t raw[1 + sizeof in];
	for (size_t i = 0; i < EX_ARRAY_LEN(dtype); i++) {
		ex_dtype_from_f32(dtype[i], in, EX_ARRAY_LEN(in), raw + 1); /* odd address */
		ex_dtype_to_f32(dtype[i], raw + 1, EX_ARRAY_LEN(in), out);
		assert_memory_equal(in, out, sizeof in);
		assert_int_equal(ex_dtype_parse(ex_dtype_name(dtype[i])), dtype[i]);
	}
	assert_int_equal(ex_dtype_size(EXPERTD_F8E4M3), 1);
	assert_int_equal(ex_dtype_size(0), 0);
	assert_int_equal(ex_dtype_size(99), 0);
	assert_string_equal(ex_dtype_name(99), "?");
	assert_int_equal(ex_dtype_parse("fp4"), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_narrow_is_nearest),
		cmocka_unit_test(test_known_values),
		cmocka_unit_test(test_overflow_and_nan),
		cmocka_unit_test(test_arrays),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
