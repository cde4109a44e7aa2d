/* SPDX-License-Identifier: Apache-2.0 */
/* base/shard: names have one spelling, globs select, every expert is in exactly one range. */
#include "unit.h"

#include "base/shard.h"

static void test_name(void **state)
{
	(void)state;
	char buf[EX_SHARD_NAME_MAX];
	struct ex_shard_id s;
	assert_string_equal(ex_shard_name(&(struct ex_shard_id){12, 32, 32}, buf), "L12/E32-63");
	assert_int_equal(ex_shard_parse("L12/E32-63", &s), 0);
	assert_true(s.layer == 12 && s.first_expert == 32 && s.n_experts == 32);
	assert_int_equal(ex_shard_parse("L0/E7-7", &s), 0);
	assert_int_equal(s.n_experts, 1);
	static const char *const bad[] = {
		"",
		"L12",
		"12/32-63",
		"L12/E63-32",
		"L012/E32-63",
		"L12/E32-63 ",
		"L 12/E32-63",
		"L-1/E0-7",
		"L12/E32-",
		"L4294967296/E0-7",
		"L0/E0-4294967295",
		"L12/E32-63/x",
		"L1/E0-0000000000000000000000000000000000007",
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++)
		if (ex_shard_parse(bad[i], &s) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
}

static void test_glob_match(void **state)
{
	(void)state;
	static const struct ex_shard_id s = {12, 32, 32}; /* L12/E32-63 */
	static const char *const yes[] = {"*", "auto", "*/*", "L*/E*", "12/32-63", "L12/E32-63", "L1?/*", "*/E32-*",
		"*/*-63", "L1[0-5]/*", "L10-12/*", "12-12/*", "0-60/E[!0]*", "*/E0-63", "*/E30-70", "12/0-4095"};
	static const char *const no[] = {"13/*", "L1/*", "*/E0-31", "*/32", "L13-20/*", "L1[!2]/*", "?/*", "*/E3-*",
		"*/E32-62", "*/E33-63", "*/E0-32"};
	for (size_t i = 0; i < EX_ARRAY_LEN(yes); i++)
		if (!ex_shard_glob_match(yes[i], &s) || ex_shard_glob_check(yes[i]))
			fail_msg("'%s' does not match", yes[i]);
	for (size_t i = 0; i < EX_ARRAY_LEN(no); i++)
		if (ex_shard_glob_match(no[i], &s) || ex_shard_glob_check(no[i]))
			fail_msg("'%s' matches, or is malformed", no[i]);
}

static void test_glob_cuts(void **state)
{
	(void)state;
	static const struct ex_shard_id s = {12, 32, 32}; /* L12/E32-63 */
	assert_true(ex_shard_glob_cuts("*/E32-62", &s));
	assert_true(ex_shard_glob_cuts("*/E0-32", &s));
	assert_true(ex_shard_glob_cuts("*/E40-50", &s));
	assert_false(ex_shard_glob_cuts("*/E32-63", &s));
	assert_false(ex_shard_glob_cuts("*/E0-31", &s));
	assert_false(ex_shard_glob_cuts("*/E64-95", &s));
	assert_false(ex_shard_glob_cuts("*/E3*", &s));
	assert_false(ex_shard_glob_cuts("L1/E32-63", &s)); /* another layer's, whole */
}

static void test_glob_malformed(void **state)
{
	(void)state;
	static const char *const bad[] = {"", "L3", "/", "*/", "/*", "L/E", "L3/E0-7/*", "x/*", "*/0,7", "L[1/*",
		"L1]/*", "L5-2/*", "L1-2-3/*", "-3/*", "L3-/*", "E3/*", "L3/L4", "**/ 1", "*/E7-3", "*/E3-", "*/E1-2-3",
		"L11111111111111111111111111111111111111111111111111111111111111111111/*"};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++)
		if (ex_shard_glob_check(bad[i]) != -EINVAL ||
			ex_shard_glob_match(bad[i], &(struct ex_shard_id){3, 0, 8}))
			fail_msg("'%s' was taken", bad[i]);
}

static void test_kind(void **state)
{
	(void)state;
	char kind[EX_IDENTITY_KIND_MAX] = "";
	ex_shard_count_kind(kind, "00112233445566778899");
	assert_string_equal(kind, "0011223344556677");
	ex_shard_count_kind(kind, "0011223344556677ffff");
	assert_string_equal(kind, "0011223344556677");
	ex_shard_count_kind(kind, "00112233445566");
	assert_string_equal(kind, EX_IDENTITY_MIXED);
	ex_shard_count_kind(kind, "0011223344556677ffff");
	assert_string_equal(kind, EX_IDENTITY_MIXED);
}

static void test_groups_cover(void **state)
{
	(void)state;
	static const uint32_t shape[][2] = {{1, 1}, {16, 2}, {64, 8}, {10, 3}, {7, 7}, {256, 31}, {5, 4}};
	for (size_t i = 0; i < EX_ARRAY_LEN(shape); i++) {
		uint32_t n = shape[i][0], n_groups = shape[i][1], next = 0, shortest = n, longest = 0;
		for (uint32_t g = 0; g < n_groups; g++) {
			struct ex_shard_id s = ex_shard_of_group(9, n, n_groups, g);
			assert_int_equal(s.layer, 9);
			assert_int_equal(s.first_expert, next);
			for (uint32_t e = next; e < next + s.n_experts; e++)
				assert_int_equal(ex_shard_group_of_expert(n, n_groups, e), g);
			next += s.n_experts;
			shortest = EX_MIN(shortest, s.n_experts);
			longest = EX_MAX(longest, s.n_experts);
		}
		assert_int_equal(next, n);
		assert_true(longest - shortest <= 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_name),
		cmocka_unit_test(test_glob_match),
		cmocka_unit_test(test_glob_cuts),
		cmocka_unit_test(test_glob_malformed),
		cmocka_unit_test(test_kind),
		cmocka_unit_test(test_groups_cover),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
