/* SPDX-License-Identifier: Apache-2.0 */
/* engine/kv: pages are given out once, come back all, and a request that cannot be met changes nothing. */
#include "unit.h"

#include "engine/kv.h"

static void test_pages_are_exclusive(void **state)
{
	(void)state;
	struct ex_kv *kv;
	struct ex_kv_table a, b;
	uint8_t seen[8] = {0};
	assert_int_equal(ex_kv_new(8, 16, &kv), 0);
	assert_int_equal(ex_kv_table_init(kv, 128, &a), 0);
	assert_int_equal(ex_kv_table_init(kv, 128, &b), 0);
	assert_true(ex_kv_reserve(kv, &a, 17));
	assert_true(ex_kv_reserve(kv, &b, 1));
	assert_true(ex_kv_reserve(kv, &a, 64));
	assert_true(ex_kv_reserve(kv, &b, 64));
	assert_int_equal(ex_kv_used(kv), 8);
	for (uint32_t i = 0; i < 4; i++) {
		seen[a.pages[i]]++;
		seen[b.pages[i]]++;
	}
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(seen[i], 1);
	ex_kv_release(kv, &a);
	ex_kv_release(kv, &b);
	assert_int_equal(ex_kv_used(kv), 0);
	ex_kv_table_done(&a);
	ex_kv_table_done(&b);
	ex_kv_free(kv);
}

static void test_full_pool_changes_nothing(void **state)
{
	(void)state;
	struct ex_kv *kv;
	struct ex_kv_table a, b;
	assert_int_equal(ex_kv_new(3, 4, &kv), 0);
	assert_int_equal(ex_kv_table_init(kv, 12, &a), 0);
	assert_int_equal(ex_kv_table_init(kv, 12, &b), 0);
	assert_true(ex_kv_reserve(kv, &a, 8));
	assert_false(ex_kv_reserve(kv, &b, 5));
	assert_int_equal(b.n, 0);
	assert_int_equal(ex_kv_used(kv), 2);
	assert_true(ex_kv_reserve(kv, &b, 4));
	assert_true(ex_kv_reserve(kv, &a, 3)); /* never shrinks */
	assert_int_equal(a.n, 2);
	ex_kv_release(kv, &a);
	ex_kv_release(kv, &b);
	ex_kv_table_done(&a);
	ex_kv_table_done(&b);
	ex_kv_free(kv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages_are_exclusive),
		cmocka_unit_test(test_full_pool_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
