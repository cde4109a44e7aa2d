/* SPDX-License-Identifier: Apache-2.0 */
/* engine/plan: random routings grouped by shard, checked against the routing itself; bad routings refused. */
#include "unit.h"

#include "engine/plan.h"

#define ROWS_MAX 40
#define TOPK     4

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* k different experts in ascending order, and the weight 1000 * row + expert. */
static void random_routing(uint32_t n, uint32_t n_experts, uint32_t *state, uint32_t *ids, float *weights)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = 0;
		for (uint32_t e = 0; e < n_experts && at < TOPK; e++)
			if (next_random(state) % (n_experts - e) < TOPK - at) {
				ids[i * TOPK + at] = e;
				weights[i * TOPK + at++] = (float)(1000 * i + e);
			}
		assert_int_equal(at, TOPK);
	}
}

/* Every assignment of s is one of the routing, in the promised order; returns how many there are. */
static uint32_t check_shard(const struct ex_plan_shard *s, const uint32_t *ids)
{
	for (uint32_t r = 1; r < s->n_rows; r++)
		assert_true(s->rows[r] > s->rows[r - 1]);
	assert_int_equal(s->offset[0], 0);
	assert_int_equal(s->offset[s->n_experts], s->n_assignments);
	for (uint32_t e = 0; e < s->n_experts; e++)
		for (uint32_t a = s->offset[e]; a < s->offset[e + 1]; a++) {
			uint32_t row = s->rows[s->token[a]], expert = s->first_expert + e, found = 0;
			assert_true(s->token[a] < s->n_rows);
			assert_true(a == s->offset[e] || s->token[a] > s->token[a - 1]);
			for (uint32_t j = 0; j < TOPK; j++)
				found += ids[row * TOPK + j] == expert;
			assert_int_equal(found, 1);
			assert_true(s->weight[a] == (float)(1000 * row + expert));
		}
	return s->n_assignments;
}

static void test_random_routings(void **state)
{
	(void)state;
	static const uint32_t shape[][2] = {{4, 1}, {8, 8}, {10, 3}, {64, 7}};
	uint32_t random = 1, ids[ROWS_MAX * TOPK];
	float weights[ROWS_MAX * TOPK];
	for (size_t i = 0; i < EX_ARRAY_LEN(shape); i++) {
		struct ex_plan p;
		const struct ex_plan_opts o = {
			.n_experts = shape[i][0], .n_groups = shape[i][1], .rows_max = ROWS_MAX, .topk = TOPK};
		assert_int_equal(ex_plan_init(&p, &o), 0);
		for (uint32_t n = 1; n <= ROWS_MAX; n += 3) {
			uint32_t n_assignments = 0;
			random_routing(n, o.n_experts, &random, ids, weights);
			assert_int_equal(ex_plan_group(&p, n, TOPK, ids, weights), 0);
			for (uint32_t s = 0; s < p.n_shards; s++) {
				assert_true(s == 0 || p.shards[s].group > p.shards[s - 1].group);
				assert_true(p.shards[s].n_rows > 0);
				n_assignments += check_shard(&p.shards[s], ids);
			}
			assert_int_equal(n_assignments, n * TOPK);
		}
		ex_plan_done(&p);
	}
}

static void test_bad_routings(void **state)
{
	(void)state;
	struct ex_plan p;
	const struct ex_plan_opts o = {.n_experts = 8, .n_groups = 2, .rows_max = 2, .topk = 2};
	const uint32_t beyond[] = {0, 8}, twice[] = {3, 3}, descending[] = {4, 3};
	const float weights[6] = {0};
	assert_int_equal(ex_plan_init(&p, &o), 0);
	assert_int_equal(ex_plan_group(&p, 1, 2, beyond, weights), -EINVAL);
	assert_int_equal(ex_plan_group(&p, 1, 2, twice, weights), -EINVAL);
	assert_int_equal(ex_plan_group(&p, 1, 2, descending, weights), -EINVAL);
	assert_int_equal(ex_plan_group(&p, 3, 2, beyond, weights), -EINVAL);
	ex_plan_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_routings),
		cmocka_unit_test(test_bad_routings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
