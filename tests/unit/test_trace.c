/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/trace: samples add up in the right shard; made-up traces have the shape and the sum they say; mistakes are named. */
#include "unit.h"

#include "fleet/trace.h"
#include <math.h>
#include <string.h>

#define N_GROUPS 3
#define N_SHARDS (3 * N_GROUPS)

/* layers 1, 2, 3 have experts; 10 in ranges of 4, 3, 3 */
static const struct ex_model_config model = {
	.n_layers = 4, .first_k_dense = 1, .moe_layer_freq = 1, .n_experts = 10, .n_experts_per_tok = 2};

static void test_samples(void **state)
{
	(void)state;
	static const char text[] = "# layer expert rows\n1 0 5\n1 3 7\r\n\n  3\t9  11\n2 4 1\n1 4 2";
	static const double wanted[N_SHARDS] = {12, 2, 0, 0, 1, 0, 0, 0, 11};
	struct ex_err err = EX_ERR_INIT;
	double load[N_SHARDS];
	EXPECT_OK(err, ex_trace_parse("t", text, sizeof text - 1, &model, N_GROUPS, &err, load));
	for (size_t i = 0; i < N_SHARDS; i++)
		assert_true(load[i] == wanted[i]);
}

static void refuse(const char *text, const char *wanted)
{
	struct ex_err err = EX_ERR_INIT;
	double load[N_SHARDS];
	assert_int_equal(ex_trace_parse("t", text, strlen(text), &model, N_GROUPS, &err, load), -EINVAL);
	if (!strstr(err.text, wanted))
		fail_msg("'%s' is not in: %s", wanted, err.text);
}

static void test_mistakes(void **state)
{
	(void)state;
	refuse("", "'t' has no sample");
	refuse("# nothing\n", "'t' has no sample");
	refuse("1 0 5\n1 0\n", "t:2: a sample is three whole numbers");
	refuse("1 0 5 6\n", "t:1: a sample is three");
	refuse("1 0 -5\n", "t:1: a sample is three");
	refuse("1 0 5.5\n", "t:1: a sample is three");
	refuse("1 0 99999999999999999999999\n", "t:1: a sample is three");
	refuse("1 0 999999999999999999\n", "t:1: 999999999999999999 rows, at most");
	refuse("0 0 5\n", "t:1: layer 0 of a model with 4 has no experts");
	refuse("4 0 5\n", "t:1: layer 4 of a model with 4 has no experts");
	refuse("1 10 5\n", "t:1: expert 10, but layers have 10");
}

static void test_zipf(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	double a[30], b[30], sum = 0, most = 0, sum_inverse = 0;
	EXPECT_OK(err, ex_trace_read("zipf:1.5:7", &model, 10, &err, a));
	EXPECT_OK(err, ex_trace_read("zipf:1.5:7", &model, 10, &err, b));
	assert_memory_equal(a, b, sizeof a);
	EXPECT_OK(err, ex_trace_read("zipf:1.5:8", &model, 10, &err, b));
	assert_memory_not_equal(a, b, sizeof a);
	for (int k = 0; k < 10; k++) {
		sum += a[k];
		most = EX_MAX(most, a[k]);
		sum_inverse += pow(k + 1, -1.5);
	}
	assert_true(fabs(sum - 2.0 * EX_TRACE_TOKENS_ZIPF) < 1);
	assert_true(fabs(most / sum - 1 / sum_inverse) < 1e-9);
	EXPECT_OK(err, ex_trace_read("zipf:0:1", &model, 10, &err, a)); /* all alike */
	for (int k = 1; k < 30; k++)
		assert_true(fabs(a[k] - a[0]) < 1e-6);
}

static void test_zipf_mistakes(void **state)
{
	(void)state;
	static const char *const bad[] = {"zipf:", "zipf:1", "zipf:1:", "zipf::1", "zipf:-1:1", "zipf:11:1",
		"zipf:nan:1", "zipf:1:-1", "zipf:1:1x", "zipf:1x:1", "zipf:1:99999999999999999999"};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++) {
		struct ex_err err = EX_ERR_INIT;
		double load[N_SHARDS];
		assert_int_equal(ex_trace_read(bad[i], &model, N_GROUPS, &err, load), -EINVAL);
		assert_non_null(strstr(err.text, "expected zipf:S:SEED"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_samples),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_zipf),
		cmocka_unit_test(test_zipf_mistakes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
