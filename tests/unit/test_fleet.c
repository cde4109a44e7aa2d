/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/members and fleet/placement. */
#include "unit.h"

#include "fleet/members.h"
#include "fleet/placement.h"
#include <string.h>

static void test_members(void **state)
{
	(void)state;
	static const char *const good[] = {"127.0.0.1:7101", "127.0.0.1:7102", "h3:7101", "[::1]:7103"};
	static const char *const twice[] = {"H3:7101", "h3:7101"};
	static const char *const no_port[] = {"h3"};
	static const char *const port_0[] = {"h3:0"};
	struct ex_err err = EX_ERR_INIT;
	EXPECT_OK(err, ex_members_check(good, 4, NULL, &err));
	EXPECT_OK(err, ex_members_check(good, 4, "127.0.0.1:7104", &err));
	EXPECT_OK(err, ex_members_check(NULL, 0, NULL, &err));
	assert_int_equal(ex_members_check(twice, 2, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "listed twice"));
	assert_int_equal(ex_members_check(no_port, 1, NULL, &err), -EINVAL);
	assert_int_equal(ex_members_check(port_0, 1, NULL, &err), -EINVAL);
	assert_int_equal(ex_members_check(good, 4, "127.0.0.1:7102", &err), -EINVAL);
	assert_non_null(strstr(err.text, "127.0.0.1:7102"));
	assert_int_equal(ex_members_check(good, 4, "0.0.0.0:7102", &err), -EINVAL);
	assert_int_equal(ex_members_check(good, EX_FLEET_HOSTS_MAX + 1, NULL, &err), -EINVAL);
}

static const struct ex_model_config model = {.n_layers = 4, .first_k_dense = 1, .moe_layer_freq = 1, .n_experts = 10};

static void test_groups(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config few = model;
	uint32_t n = 0;
	EXPECT_OK(err, ex_placement_groups(&model, 0, &err, &n));
	assert_int_equal(n, 8);
	EXPECT_OK(err, ex_placement_groups(&model, 10, &err, &n));
	assert_int_equal(n, 10);
	assert_int_equal(ex_placement_groups(&model, 11, &err, &n), -EINVAL);
	assert_non_null(strstr(err.text, "11"));
	assert_non_null(strstr(err.text, "10"));
	few.n_experts = 3;
	EXPECT_OK(err, ex_placement_groups(&few, 0, &err, &n));
	assert_int_equal(n, 3);
}

static void expect_shards(const char *const *globs, size_t n_globs, const char *const *want, size_t n_want)
{
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) struct ex_shard_id *s = NULL;
	char name[EX_SHARD_NAME_MAX];
	size_t n = 0;
	EXPECT_OK(err, ex_placement_select(&model, 3, globs, n_globs, &err, &s, &n));
	assert_int_equal(n, n_want);
	for (size_t i = 0; i < n; i++)
		assert_string_equal(ex_shard_name(&s[i], name), want[i]);
}

static void test_select(void **state)
{
	(void)state;
	/* 10 experts in 3 ranges: 4, 3, 3; layer 0 is dense */
	static const char *const all[] = {
		"L1/E0-3", "L1/E4-6", "L1/E7-9", "L2/E0-3", "L2/E4-6", "L2/E7-9", "L3/E0-3", "L3/E4-6", "L3/E7-9"};
	static const char *const some[] = {"L1/E0-3", "L2/E0-3", "L3/E0-3", "L3/E7-9"};
	expect_shards((const char *const[]){"auto"}, 1, all, 9);
	expect_shards((const char *const[]){"*"}, 1, all, 9);
	expect_shards((const char *const[]){"L3/7-9", "*/E0-3", "L1/E0-*"}, 3, some, 4); /* overlap: once each */
}

static void test_select_nothing(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_shard_id *s = NULL;
	size_t n = 0;
	static const char *const dense[] = {"*/E0-3", "L0/*"};
	static const char *const other_range[] = {"*/E0-7"};
	static const char *const bad[] = {"x/y/z"};
	assert_int_equal(ex_placement_select(&model, 3, dense, 2, &err, &s, &n), -ENOENT);
	assert_non_null(strstr(err.text, "'L0/*' matches no shard"));
	assert_int_equal(ex_placement_select(&model, 3, other_range, 1, &err, &s, &n), -ENOENT);
	assert_non_null(strstr(err.text, "'*/E0-7' cuts shard L1/E7-9"));
	assert_int_equal(ex_placement_select(&model, 3, bad, 1, &err, &s, &n), -EINVAL);
	assert_null(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_members),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_select),
		cmocka_unit_test(test_select_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
