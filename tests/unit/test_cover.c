/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/clock.h"
#include "gateway/cover.h"
#include <math.h>

#define S EX_NS_PER_S

static void expect_near(double got, double want)
{
	if (!(fabs(got - want) <= 1e-9 * fabs(want)))
		fail_msg("%.12g, not %.12g", got, want);
}

static void test_formula(void **state)
{
	(void)state;
	struct ex_cover_in in = {
		.capacity_tokens_s = 100, .sold_tokens = 2000, .burn_tokens_s = 50, .horizon_s = 10, .draw_min = 0.1};
	double draw;
	/* 50/s for 10 s are a quarter of what was sold; 100/s for 10 s serve twice that */
	expect_near(ex_cover(&in, &draw), 2);
	expect_near(draw, 0.25);
	in.draw_min = 0.5; /* half of it may be wanted at once: 1000 of 1000 */
	expect_near(ex_cover(&in, &draw), 1);
	expect_near(draw, 0.5);
	in.burn_tokens_s = 1000; /* more is not wanted than was sold */
	expect_near(ex_cover(&in, &draw), 0.5);
	expect_near(draw, 1);
}

static void test_edges(void **state)
{
	(void)state;
	struct ex_cover_in in = {
		.capacity_tokens_s = 0, .sold_tokens = 1, .burn_tokens_s = 0, .horizon_s = 10, .draw_min = 1};
	assert_true(ex_cover(&in, NULL) == 0);
	in.sold_tokens = 0;
	assert_true(isinf(ex_cover(&in, NULL)));
	in.capacity_tokens_s = NAN;
	assert_true(isnan(ex_cover(&in, NULL)));
	in = (struct ex_cover_in){.capacity_tokens_s = 1, .sold_tokens = 10, .horizon_s = 10};
	assert_true(isinf(ex_cover(&in, NULL))); /* nobody draws, and no minimum */
	in.burn_tokens_s = 1;
	assert_true(ex_cover(&in, NULL) == 1);
}

/* Looks once a second for n seconds, in which per_s tokens are served. */
static void look(struct ex_cover_meter *m, uint64_t *now_s, uint64_t *tokens, unsigned n, uint64_t per_s, double live,
	bool waiting)
{
	for (unsigned i = 0; i < n; i++) {
		*tokens += per_s;
		ex_cover_meter_look(m, *tokens, live, waiting, ++*now_s * S);
	}
}

static void test_capacity(void **state)
{
	(void)state;
	struct ex_cover_meter m;
	uint64_t now_s = 1000, tokens = 77;
	ex_cover_meter_init(&m, 0, now_s * S);
	assert_true(isnan(ex_cover_meter_capacity(&m)));
	ex_cover_meter_look(&m, tokens, 1, false, now_s * S);
	look(&m, &now_s, &tokens, 120, 10, 1, false);
	expect_near(ex_cover_meter_capacity(&m), 10);
	look(&m, &now_s, &tokens, 120, 30, 1, false);
	expect_near(ex_cover_meter_capacity(&m), 30);
	/* an idle fleet is none that can less */
	look(&m, &now_s, &tokens, 7200, 0, 1, false);
	expect_near(ex_cover_meter_capacity(&m), 30);
	/* one where somebody waits is; a minute in which nobody waited for a moment does not say so */
	look(&m, &now_s, &tokens, 59, 20, 1, true);
	look(&m, &now_s, &tokens, 61, 20, 1, false);
	expect_near(ex_cover_meter_capacity(&m), 30);
	look(&m, &now_s, &tokens, 180, 20, 1, true);
	expect_near(ex_cover_meter_capacity(&m), 20);
	/* and an hour later that stands */
	look(&m, &now_s, &tokens, 7200, 0, 1, false);
	expect_near(ex_cover_meter_capacity(&m), 20);
}

/* Hosts that die lower it at the next look, and raise it when they are back; what a part of the fleet served counts for its part. */
static void test_dead_hosts(void **state)
{
	(void)state;
	struct ex_cover_meter m;
	uint64_t now_s = 0, tokens = 0;
	ex_cover_meter_init(&m, 0, 0);
	ex_cover_meter_look(&m, 0, 1, true, 0);
	look(&m, &now_s, &tokens, 60, 40, 1, true);
	expect_near(ex_cover_meter_capacity(&m), 40);
	look(&m, &now_s, &tokens, 1, 40, 0.75, true);
	expect_near(ex_cover_meter_capacity(&m), 30);
	look(&m, &now_s, &tokens, 1, 0, 0, true);
	assert_true(ex_cover_meter_capacity(&m) == 0);
	look(&m, &now_s, &tokens, 1, 40, 1, true);
	expect_near(ex_cover_meter_capacity(&m), 40);
	/* of an hour at half the fleet; the minute in which both were counts as of the whole one, so that nothing is promised too much */
	look(&m, &now_s, &tokens, 3657, 20, 0.5, true);
	expect_near(ex_cover_meter_capacity(&m), 20);
	look(&m, &now_s, &tokens, 1, 20, 1, true);
	expect_near(ex_cover_meter_capacity(&m), 40);
}

static void test_declared(void **state)
{
	(void)state;
	struct ex_cover_meter m;
	uint64_t now_s = 0, tokens = 0;
	ex_cover_meter_init(&m, 100, 0);
	expect_near(ex_cover_meter_capacity(&m), 100);
	ex_cover_meter_look(&m, 0, 1, true, 0);
	look(&m, &now_s, &tokens, 120, 10, 0.5, true);
	expect_near(ex_cover_meter_capacity(&m), 50);
	look(&m, &now_s, &tokens, 60, 300, 1, true);
	expect_near(ex_cover_meter_capacity(&m), 300);
}

static void test_burn(void **state)
{
	(void)state;
	struct ex_cover_meter m;
	uint64_t now_s = 5, tokens = 1000000;
	ex_cover_meter_init(&m, 0, now_s * S);
	assert_true(ex_cover_meter_burn(&m, now_s * S) == 0);
	ex_cover_meter_look(&m, tokens, 1, false, now_s * S);
	look(&m, &now_s, &tokens, 30, 12, 1, false);
	expect_near(ex_cover_meter_burn(&m, now_s * S), 12);
	look(&m, &now_s, &tokens, 3600, 12, 1, false);
	expect_near(ex_cover_meter_burn(&m, now_s * S), 12);
	look(&m, &now_s, &tokens, 3601, 0, 1, false);
	assert_true(ex_cover_meter_burn(&m, now_s * S) == 0);
	/* nobody looked for days; a counter that began anew is no burn */
	ex_cover_meter_look(&m, 5, 1, false, (now_s + 400000) * S);
	ex_cover_meter_look(&m, 65, 1, false, (now_s + 400010) * S);
	ex_cover_meter_look(&m, 6500, 1, false, (now_s + 400021) * S);
	expect_near(ex_cover_meter_burn(&m, (now_s + 400021) * S), 60.0 / (59 * 60 + 21));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formula),
		cmocka_unit_test(test_edges),
		cmocka_unit_test(test_capacity),
		cmocka_unit_test(test_dead_hosts),
		cmocka_unit_test(test_declared),
		cmocka_unit_test(test_burn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
