/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/simulate: sizes, figures of a fleet that can be worked out by hand, losses with and without room. */
#include "unit.h"

#include "base/mem.h"
#include "fleet/simulate.h"
#include "fleet/trace.h"
#include <math.h>
#include <string.h>

/* 2 layers of 8 experts in 4 ranges: 8 shards of 2 experts */
static const struct ex_model_config model = {
	.n_layers = 2, .moe_layer_freq = 1, .n_experts = 8, .n_experts_per_tok = 2, .d_model = 256, .d_ff_expert = 130};
#define SHARD_BYTES (2 * 3 * 2 * 256 * 130)

static const double even[8] = {1, 1, 1, 1, 1, 1, 1, 1};

static void make_hosts(struct ex_planner_host *h, size_t n, uint64_t memory)
{
	static const char *const names[] = {"h0", "h1", "h2", "h3"}, *const zones[] = {"a", "b"};
	for (size_t i = 0; i < n; i++)
		h[i] = (struct ex_planner_host){
			.name = names[i], .zone = zones[i % 2], .memory_bytes = memory, .speed = 1};
}

static struct ex_simulate_opts opts(const struct ex_planner_host *h, size_t n, uint32_t min)
{
	return (struct ex_simulate_opts){.model = &model,
		.hosts = h,
		.n_hosts = n,
		.loads = even,
		.expert_groups = 4,
		.min_replicas = min,
		.max_replicas = 4,
		.link_bytes_per_s = SHARD_BYTES};
}

static void test_expert_bytes(void **state)
{
	(void)state;
	struct ex_model_config c = model;
	assert_int_equal(ex_simulate_expert_bytes(&c), 3 * 2 * 256 * 130);
	c.fp8_block_scaled = true; /* 2 x 2 blocks of 128, the last ones cut */
	assert_int_equal(ex_simulate_expert_bytes(&c), 3 * (256 * 130 + 2 * 2 * 4));
}

static void count_progress(void *ctx, size_t done, size_t total)
{
	size_t *n = ctx;
	assert_true(done == ++*n && done <= total);
}

static void test_losses(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_planner_host h[4];
	struct ex_simulate s;
	size_t n_progress = 0;
	make_hosts(h, 4, 8 * SHARD_BYTES);
	struct ex_simulate_opts o = opts(h, 4, 2);
	o.progress = count_progress;
	o.ctx = &n_progress;
	EXPECT_OK(err, ex_simulate_run(&o, &err, &s));
	assert_int_equal(s.bytes_all, 8 * SHARD_BYTES);
	assert_int_equal(s.plan.after.n_few_zones, 0);
	assert_true(fabs(s.plan.after.imbalance - 1) < 1e-9);
	assert_true(s.naive.imbalance >= 1 && s.naive.bytes == 16 * SHARD_BYTES);
	assert_int_equal(s.n_losses, 4 + 2);
	assert_int_equal(n_progress, 6);
	for (size_t i = 0; i < s.n_losses; i++) {
		const struct ex_simulate_loss *l = &s.losses[i];
		assert_int_equal(l->is_zone, i >= 4);
		assert_int_equal(l->n_hosts, i < 4 ? 1 : 2);
		assert_int_equal(l->n_uncovered, 0);
		assert_int_equal(l->replicas, 2);
		assert_string_equal(l->why, "");
		/* each of 4 replicas, or of 8, is loaded again; the link takes a shard a second */
		assert_int_equal(l->bytes_recover, (i < 4 ? 4 : 8) * SHARD_BYTES);
		assert_true(l->recover_s >= 1 && l->recover_s <= 8 && l->at_once >= l->after - 1e-9);
	}
	assert_true(s.losses[s.worst_time].recover_s >= s.losses[0].recover_s);
	ex_simulate_done(&s);
}

static void test_no_room_after_a_loss(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_planner_host h[3];
	struct ex_simulate s;
	make_hosts(h, 3, 6 * SHARD_BYTES); /* 18 places for 16 replicas */
	struct ex_simulate_opts o = opts(h, 3, 2);
	EXPECT_OK(err, ex_simulate_run(&o, &err, &s));
	assert_int_equal(s.losses[0].replicas, 1);
	assert_non_null(strstr(s.losses[0].why, "2 replicas of 8 shards need"));
	assert_int_equal(s.losses[0].n_uncovered, 0);
	ex_simulate_done(&s);
	o.min_replicas = 1;
	o.n_hosts = 2; /* and one is lost: 6 places for 8 shards */
	EXPECT_OK(err, ex_simulate_run(&o, &err, &s));
	assert_int_equal(s.losses[0].replicas, 0);
	assert_true(s.losses[0].n_uncovered > 0 && s.losses[0].why[0]);
	ex_simulate_done(&s);
}

static void test_cannot(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_planner_host h[2];
	struct ex_simulate s;
	make_hosts(h, 2, 3 * SHARD_BYTES);
	struct ex_simulate_opts o = opts(h, 2, 1);
	assert_int_equal(ex_simulate_run(&o, &err, &s), -ENOSPC);
	assert_non_null(strstr(err.text, "1 replica of 8 shards need"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_expert_bytes),
		cmocka_unit_test(test_losses),
		cmocka_unit_test(test_no_room_after_a_loss),
		cmocka_unit_test(test_cannot),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
