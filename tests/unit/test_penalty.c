/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/penalty: counts in any order, and what they take from logits. */
#include "unit.h"

#include "base/macro.h"
#include "gateway/penalty.h"

static void test_penalty(void **state)
{
	static const uint32_t came[] = {5, 0, 7, 5, 2, 5, 0, 9};
	static const float want[] = {
		10 - 2 * 0.5f - 0.25f, 10, 10 - 0.75f, 10, 10, 10 - 3 * 0.5f - 0.25f, 10, 10 - 0.75f};
	float logits[8];
	struct ex_penalty p = {0};
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(logits); i++)
		logits[i] = 10;
	ex_penalty_apply(&p, 1, 1, logits, 8);
	for (size_t i = 0; i < EX_ARRAY_LEN(came); i++)
		assert_int_equal(ex_penalty_count(&p, came[i]), 0);
	assert_int_equal(p.n, 5);
	ex_penalty_apply(&p, 0.5f, 0.25f, logits, 8); /* 9 is beyond */
	for (size_t i = 0; i < EX_ARRAY_LEN(logits); i++)
		assert_true(logits[i] == want[i]);
	ex_penalty_apply(&p, -0.5f, -0.25f, logits, 8);
	for (size_t i = 0; i < EX_ARRAY_LEN(logits); i++)
		assert_true(logits[i] == 10);
	ex_penalty_done(&p);
	for (uint32_t i = 1000; i-- > 0;)
		assert_int_equal(ex_penalty_count(&p, i * 7919 % 1000), 0);
	for (uint32_t i = 0; i < 1000; i++)
		assert_true(p.seen[i].id == i && p.seen[i].count == 1);
	ex_penalty_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_penalty)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
