/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/load: what a count comes to after some time, on a clock that the test turns. */
#include "unit.h"

#include "base/clock.h"
#include "fleet/load.h"
#include <math.h>
#include <pthread.h>
#include <string.h>

#define S EX_NS_PER_S

static void expect_near(double got, double wanted)
{
	if (fabs(got - wanted) > 1e-6 * (1 + fabs(wanted)))
		fail_msg("%.9g, wanted %.9g", got, wanted);
}

static void test_halves(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_load_freep) struct ex_load *l = NULL;
	double load[2];
	EXPECT_OK(err, ex_load_new(2, 10, 100 * S, &err, &l));
	ex_load_add(l, 1, 1000);
	ex_load_look(l, 100 * S, load);
	expect_near(load[0], 0);
	expect_near(load[1], 1000);
	ex_load_look(l, 110 * S, load);
	expect_near(load[1], 500);
	ex_load_look(l, 115 * S, load);
	expect_near(load[1], 500 * M_SQRT1_2);
	ex_load_look(l, 100000 * S, load);
	expect_near(load[1], 0);
}

/* How often it is looked at changes little: a steady rate comes to rate * half-life / ln 2. */
static void test_steady_rate(void **state)
{
	(void)state;
	static const unsigned every_s[] = {1, 7, 60};
	for (size_t k = 0; k < EX_ARRAY_LEN(every_s); k++) {
		struct ex_err err = EX_ERR_INIT;
		EX_CLEANUP(ex_load_freep) struct ex_load *l = NULL;
		double load;
		EXPECT_OK(err, ex_load_new(1, 30, 0, &err, &l));
		for (unsigned t = 1; t <= 6000; t++) {
			ex_load_add(l, 0, 50);
			if (t % every_s[k] == 0)
				ex_load_look(l, t * S, &load);
		}
		if (fabs(load / (50 * 30 / M_LN2) - 1) > 1e-3)
			fail_msg("looked at every %u s: %g", every_s[k], load);
	}
}

static void test_clock_that_goes_back(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_load_freep) struct ex_load *l = NULL;
	double load;
	EXPECT_OK(err, ex_load_new(1, 10, 50 * S, &err, &l));
	ex_load_add(l, 0, 8);
	ex_load_look(l, 20 * S, &load);
	expect_near(load, 8);
	ex_load_look(l, 50 * S, &load);
	expect_near(load, 8);
	ex_load_look(l, 60 * S, &load);
	expect_near(load, 4);
}

static void *add_many(void *ctx)
{
	for (int i = 0; i < 100000; i++)
		ex_load_add(ctx, 0, 1);
	return NULL;
}

/* Nothing that two threads add is lost, looked at meanwhile or not. */
static void test_threads(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_load_freep) struct ex_load *l = NULL;
	pthread_t thread[2];
	double load;
	EXPECT_OK(err, ex_load_new(1, 1, 0, &err, &l));
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, add_many, l), 0);
	for (int i = 0; i < 100; i++)
		ex_load_look(l, 0, &load);
	for (size_t i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	ex_load_look(l, 0, &load);
	expect_near(load, 200000);
}

static void test_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_load *l = NULL;
	assert_int_equal(ex_load_new(1, 0, 0, &err, &l), -EINVAL);
	assert_non_null(strstr(err.text, "half-life"));
	assert_int_equal(ex_load_new(1, NAN, 0, &err, &l), -EINVAL);
	assert_int_equal(ex_load_new(EX_LOAD_SHARDS_MAX + 1, 1, 0, &err, &l), -EINVAL);
	assert_null(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_halves),
		cmocka_unit_test(test_steady_rate),
		cmocka_unit_test(test_clock_that_goes_back),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
