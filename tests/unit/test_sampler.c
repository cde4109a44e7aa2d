/* SPDX-License-Identifier: Apache-2.0 */
/* engine/sampler: Philox against the published vectors, ties, filters, frequencies, reproducibility, log-probabilities.
 */
#include "unit.h"

#include "engine/sampler.h"
#include <math.h>

#define VOCAB 8

static int make(void **state)
{
	return ex_sampler_new(VOCAB, (struct ex_sampler **)state);
}

static int drop(void **state)
{
	ex_sampler_free(*state);
	return 0;
}

static uint32_t pick(struct ex_sampler *s, const float *logits, struct ex_sampling p, uint64_t position)
{
	uint32_t id = UINT32_MAX;
	assert_int_equal(ex_sampler_pick(s, logits, &p, position, &id), 0);
	return id;
}

/* Known answers of philox4x32-10 from the Random123 distribution (kat_vectors). */
static void test_philox_vectors(void **state)
{
	(void)state;
	static const struct {
		uint32_t counter[4], key[2], want[4];
	} row[] = {
		{{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		uint32_t got[4];
		ex_philox4x32(row[i].counter, row[i].key, got);
		assert_memory_equal(got, row[i].want, sizeof got);
	}
}

static void test_greedy_ties_go_low(void **state)
{
	const float logits[VOCAB] = {0, 3, 1, 3, 3, -1, 2, 0};
	assert_int_equal(pick(*state, logits, (struct ex_sampling){.top_p = 1, .seed = 9}, 4), 1);
	assert_int_equal(pick(*state, logits, (struct ex_sampling){.temperature = 5, .top_k = 1, .top_p = 1}, 4), 1);
}

/* Which ids come up in 4000 draws, as a mask; freq counts them. */
static unsigned draw(struct ex_sampler *s, const float *logits, struct ex_sampling p, unsigned freq[VOCAB])
{
	unsigned mask = 0;
	for (int i = 0; i < VOCAB; i++)
		freq[i] = 0;
	for (uint64_t position = 0; position < 4000; position++) {
		uint32_t id = pick(s, logits, p, position);
		assert_true(id < VOCAB);
		mask |= 1u << id;
		freq[id]++;
	}
	return mask;
}

static void test_top_k_keeps_lowest_of_ties(void **state)
{
	const float logits[VOCAB] = {1, 2, 2, 2, 0, 0, 0, 0};
	unsigned freq[VOCAB];
	assert_int_equal(
		draw(*state, logits, (struct ex_sampling){.temperature = 1, .top_k = 2, .top_p = 1}, freq), 0x6);
	assert_in_range(freq[1], 1850, 2150); /* 4.7 sigma about 2000 */
}

/* Probabilities .5 .25 .125 .0625 ..: top_p of .7 needs the first two, .75 too, .76 a third. */
static void test_top_p_is_the_fewest(void **state)
{
	float logits[VOCAB];
	unsigned freq[VOCAB];
	for (int i = 0; i < VOCAB; i++)
		logits[i] = -(float)((i < VOCAB - 1 ? i : i - 1) * M_LN2);
	assert_int_equal(draw(*state, logits, (struct ex_sampling){.temperature = 1, .top_p = 0.7f}, freq), 0x3);
	assert_int_equal(draw(*state, logits, (struct ex_sampling){.temperature = 1, .top_p = 0.76f}, freq), 0x7);
	assert_int_equal(draw(*state, logits, (struct ex_sampling){.temperature = 1, .top_p = 1e-6f}, freq), 0x1);
	/* top_k first: of {.5, .25} the first alone is 2/3 */
	assert_int_equal(
		draw(*state, logits, (struct ex_sampling){.temperature = 1, .top_k = 2, .top_p = 0.66f}, freq), 0x1);
}

static void test_frequencies_follow_softmax(void **state)
{
	const float logits[VOCAB] = {0, 1, 2, -50, -50, -50, -50, -50};
	unsigned freq[VOCAB];
	assert_int_equal(
		draw(*state, logits, (struct ex_sampling){.temperature = 0.5f, .top_p = 1, .seed = 77}, freq), 0x7);
	double z = 1 + exp(2) + exp(4);
	for (int i = 0; i < 3; i++) {
		double p = exp(2.0 * i) / z;
		assert_float_equal(freq[i] / 4000.0, p, 5 * sqrt(p * (1 - p) / 4000));
	}
}

/* The same (seed, position) draws the same whatever was drawn before; another seed draws otherwise somewhere. */
static void test_counter_based(void **state)
{
	const float logits[VOCAB] = {0};
	struct ex_sampling p = {.temperature = 1, .top_p = 1, .seed = 1};
	uint32_t forward[64];
	int n_other = 0;
	for (uint64_t i = 0; i < 64; i++)
		forward[i] = pick(*state, logits, p, i);
	for (uint64_t i = 64; i-- > 0;)
		assert_int_equal(pick(*state, logits, p, i), forward[i]);
	p.seed = UINT64_C(1) << 32 | 1;
	for (uint64_t i = 0; i < 64; i++)
		n_other += pick(*state, logits, p, i) != forward[i];
	assert_true(n_other > 32);
}

/* Draws that differ in the seed alone, or in the position alone, are fair and independent of their neighbours: chi-square of
 * single draws (7 degrees of freedom) and of neighbouring pairs (63) stays below the 1 in 10,000 quantile. */
static void test_seeds_and_positions_are_independent(void **state)
{
	const float logits[VOCAB] = {0};
	for (int by_seed = 0; by_seed < 2; by_seed++) {
		double single[VOCAB] = {0}, pair[VOCAB][VOCAB] = {{0}}, chi_single = 0, chi_pair = 0;
		uint32_t before = 0;
		const int n = 64000;
		for (int i = 0; i <= n; i++) {
			const struct ex_sampling p = {.temperature = 1, .top_p = 1, .seed = by_seed ? (uint64_t)i : 3};
			uint32_t id = pick(*state, logits, p, by_seed ? 17 : (uint64_t)i);
			single[id] += i > 0;
			pair[before][id] += i > 0;
			before = id;
		}
		for (int i = 0; i < VOCAB; i++) {
			chi_single += pow(single[i] - n / 8.0, 2) / (n / 8.0);
			for (int j = 0; j < VOCAB; j++)
				chi_pair += pow(pair[i][j] - n / 64.0, 2) / (n / 64.0);
		}
		assert_true(chi_single < 29.9);
		assert_true(chi_pair < 113);
	}
}

static void test_not_finite_is_refused(void **state)
{
	float logits[VOCAB] = {0};
	uint32_t id;
	const struct ex_sampling p = {.top_p = 1};
	logits[5] = NAN;
	assert_int_equal(ex_sampler_pick(*state, logits, &p, 0, &id), -EDOM);
	logits[5] = INFINITY;
	assert_int_equal(ex_sampler_pick(*state, logits, &p, 0, &id), -EDOM);
}

static void test_logprobs(void **state)
{
	const float logits[VOCAB] = {1000, 1001, 999, 1001, 990, 990, 990, 995};
	struct ex_token_logprob lp;
	double z = exp(-1) + 1 + exp(-2) + 1 + 3 * exp(-11) + exp(-6);
	ex_sampler_logprobs(*state, logits, 2, 4, &lp);
	assert_int_equal(lp.id, 2);
	assert_float_equal(lp.logprob, -2 - log(z), 1e-6);
	static const uint32_t order[] = {1, 3, 0, 2};
	assert_int_equal(lp.n_top, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(lp.top[i].id, order[i]);
		assert_float_equal(lp.top[i].logprob, logits[order[i]] - 1001 - log(z), 1e-6);
	}
	ex_sampler_logprobs(*state, logits, 2, 0, &lp);
	assert_int_equal(lp.n_top, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_philox_vectors),
		cmocka_unit_test_setup_teardown(test_greedy_ties_go_low, make, drop),
		cmocka_unit_test_setup_teardown(test_top_k_keeps_lowest_of_ties, make, drop),
		cmocka_unit_test_setup_teardown(test_top_p_is_the_fewest, make, drop),
		cmocka_unit_test_setup_teardown(test_frequencies_follow_softmax, make, drop),
		cmocka_unit_test_setup_teardown(test_counter_based, make, drop),
		cmocka_unit_test_setup_teardown(test_seeds_and_positions_are_independent, make, drop),
		cmocka_unit_test_setup_teardown(test_not_finite_is_refused, make, drop),
		cmocka_unit_test_setup_teardown(test_logprobs, make, drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
