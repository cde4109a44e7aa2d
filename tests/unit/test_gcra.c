/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/clock.h"
#include "gateway/gcra.h"
#include <string.h>

#define S EX_NS_PER_S

static uint64_t random_state;

/* splitmix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t draw(uint64_t below)
{
	uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % below;
}

static struct ex_gcra_rate rate_of(uint32_t per_min, uint32_t burst)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_gcra_rate r;
	EXPECT_OK(err, ex_gcra_rate_init(per_min, burst, &err, &r));
	return r;
}

static void test_burst_then_rate(void **state)
{
	(void)state;
	struct ex_gcra_rate r = rate_of(60, 3);
	struct ex_gcra g = {0};
	for (int i = 0; i < 3; i++)
		assert_int_equal(ex_gcra_take(&r, &g, 1, 100 * S), 0);
	assert_int_equal(ex_gcra_take(&r, &g, 1, 100 * S), S);
	assert_int_equal(ex_gcra_take(&r, &g, 3, 100 * S), 3 * S);
	assert_int_equal(ex_gcra_take(&r, &g, 4, 100 * S), EX_GCRA_NEVER);
	assert_int_equal(ex_gcra_take(&r, &g, 1, 101 * S - 1), 1);
	assert_int_equal(ex_gcra_take(&r, &g, 1, 101 * S), 0);
	assert_int_equal(ex_gcra_take(&r, &g, 3, 1000 * S), 0);
	assert_int_equal(ex_gcra_take(&r, &g, 1, 1000 * S), S);
}

/* A rate whose interval is no whole number of ns: the burst is whole all the same, and the rate is not above what was asked. */
static void test_uneven_rate(void **state)
{
	(void)state;
	struct ex_gcra_rate r = rate_of(7, 7);
	struct ex_gcra g = {0};
	for (int i = 0; i < 7; i++)
		assert_int_equal(ex_gcra_take(&r, &g, 1, S), 0);
	assert_true(ex_gcra_take(&r, &g, 7, 61 * S) > 0);
	assert_int_equal(ex_gcra_take(&r, &g, 7, 61 * S + 7), 0);
}

/* Random rates, weights and gaps: over every window no more is kept than burst + rate x time, and who waits exactly as told is let in. */
static void test_never_more_than_promised(void **state)
{
	(void)state;
	enum { N = 400 };
	for (uint64_t seed = 1; seed <= 200; seed++) {
		random_state = seed;
		uint32_t per_min = 1 + (uint32_t)draw(seed % 2 ? 100 : 2000000);
		struct ex_gcra_rate r = rate_of(per_min, 1 + (uint32_t)draw(per_min));
		struct ex_gcra g = {0};
		uint64_t at[N], now = 1 + draw(S), n_taken = 0;
		uint32_t kept[N];
		for (int i = 0; i < N; i++) {
			uint32_t n = 1 + (uint32_t)draw(draw(4) ? EX_CEIL_DIV(r.burst, 8) : r.burst);
			uint64_t wait = ex_gcra_take(&r, &g, n, now);
			if (wait && draw(2)) {
				assert_int_equal(ex_gcra_wait_ns(&r, &g, n, now + wait), 0);
				assert_int_equal(ex_gcra_wait_ns(&r, &g, n, now + wait - 1), 1);
				now += wait;
				assert_int_equal(ex_gcra_take(&r, &g, n, now), 0);
				wait = 0;
			}
			if (wait == 0) {
				at[n_taken] = now;
				kept[n_taken++] = n;
			}
			now += draw(3) ? draw(r.unit_ns) : draw(1 + r.burst_ns / 4);
		}
		assert_true(n_taken > 0);
		for (uint64_t i = 0; i < n_taken; i++) {
			uint64_t sum = 0;
			for (uint64_t k = i; k < n_taken; k++) {
				sum += kept[k];
				double most = r.burst + (double)(at[k] - at[i]) * per_min / (60.0 * S);
				if ((double)sum > most * (1 + 1e-12))
					fail_msg("seed %d: %d kept in a window for %f", (int)seed, (int)sum, most);
			}
		}
	}
}

/* 100 clients of one key are refused at one moment; each comes back when it was told, and no sooner: all are let in at the first try. */
static void test_promises_come_true(void **state)
{
	(void)state;
	for (int whole_seconds = 0; whole_seconds < 2; whole_seconds++) {
		struct ex_gcra_rate r = rate_of(120, 10);
		struct ex_gcra g = {0};
		uint64_t due[100];
		assert_int_equal(ex_gcra_take(&r, &g, 10, S), 0);
		for (int i = 0; i < 100; i++) {
			uint64_t wait = ex_gcra_promise(&r, &g, 1, S);
			assert_true(wait > 0 && (i == 0 || S + wait >= due[i - 1]));
			due[i] = S + (whole_seconds ? EX_CEIL_DIV(wait, S) * S : wait);
		}
		for (int i = 0; i < 100; i++)
			assert_int_equal(ex_gcra_take(&r, &g, 1, due[i]), 0);
		assert_true(due[99] <= 52 * S);
	}
	/* nobody came back: promises fade, and are bounded */
	struct ex_gcra_rate r = rate_of(60, 1);
	struct ex_gcra g = {0};
	for (int i = 0; i < 100000; i++)
		assert_true(ex_gcra_promise(&r, &g, 1, S) <= EX_GCRA_PROMISE_NS_MAX);
	assert_int_equal(ex_gcra_take(&r, &g, 1, S), 0);
	assert_int_equal(ex_gcra_promise(&r, &g, 1, 1000 * S), 0);
	assert_int_equal(ex_gcra_promise(&r, &g, 2, 1000 * S), EX_GCRA_NEVER);
}

static void test_give_back(void **state)
{
	(void)state;
	struct ex_gcra_rate r = rate_of(60, 10);
	struct ex_gcra g = {0};
	struct ex_gcra_room room;
	assert_int_equal(ex_gcra_take(&r, &g, 10, S), 0);
	ex_gcra_give(&r, &g, 4);
	ex_gcra_room(&r, &g, S, &room);
	assert_int_equal(room.units, 4);
	assert_int_equal(room.reset_ns, 6 * S);
	ex_gcra_give(&r, &g, UINT32_MAX);
	ex_gcra_room(&r, &g, S, &room);
	assert_int_equal(room.units, 10);
	assert_int_equal(room.reset_ns, 0);
	assert_int_equal(ex_gcra_take(&r, &g, 10, S), 0); /* no credit beyond a burst */
	assert_int_equal(ex_gcra_take(&r, &g, 1, S), S);
}

/* Out of one process into the next, whose clock begins elsewhere: as if nothing had happened, time between included. */
static void test_export_import(void **state)
{
	(void)state;
	struct ex_gcra_rate r = rate_of(60, 10);
	struct ex_gcra g = {0}, h;
	uint64_t real = 1764000000 * S;
	assert_int_equal(ex_gcra_take(&r, &g, 8, 500 * S), 0);
	uint64_t saved = ex_gcra_export(&r, &g, 502 * S, real);
	ex_gcra_import(&r, &h, saved, 3 * S, real + 2 * S);
	for (uint32_t n = 1; n <= 10; n++)
		assert_int_equal(ex_gcra_wait_ns(&r, &h, n, 3 * S), ex_gcra_wait_ns(&r, &g, n, 504 * S));
	ex_gcra_import(&r, &h, saved, 3 * S, real + 3600 * S);
	assert_int_equal(ex_gcra_wait_ns(&r, &h, 10, 3 * S), 0);
	ex_gcra_import(&r, &h, saved, 3 * S, real - 3600 * S); /* real time was set back meanwhile */
	assert_int_equal(ex_gcra_wait_ns(&r, &h, 10, 3 * S), 10 * S);
}

/* A clock that goes back at random: never more in all than the bursts and rate of the time that passed, and nobody waits longer than a burst takes. */
static void test_clock_that_goes_back(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		random_state = seed;
		struct ex_gcra_rate r = rate_of(600, 20);
		struct ex_gcra g = {0};
		uint64_t now = 1000 * S, passed = 0, taken = 0;
		for (int i = 0; i < 1000; i++) {
			uint32_t n = 1 + (uint32_t)draw(20);
			uint64_t wait = ex_gcra_take(&r, &g, n, now);
			taken += wait ? 0 : n;
			assert_true(wait <= r.burst_ns);
			assert_true(taken <= 20 + passed / r.unit_ns);
			uint64_t step = draw(S / 2);
			passed += step;
			now += step;
			if (draw(20) == 0)
				now -= draw(EX_MIN(now, 500 * S));
		}
	}
}

static void test_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_gcra_rate r;
	assert_int_equal(ex_gcra_rate_init(0, 1, &err, &r), -EINVAL);
	assert_int_equal(ex_gcra_rate_init(1, 0, &err, &r), -EINVAL);
	assert_int_equal(ex_gcra_rate_init(EX_GCRA_UNITS_MAX + 1, 1, &err, &r), -EINVAL);
	assert_int_equal(ex_gcra_rate_init(1, EX_GCRA_UNITS_MAX, &err, &r), -EINVAL);
	assert_non_null(strstr(err.text, "centuries"));
	EXPECT_OK(err, ex_gcra_rate_init(EX_GCRA_UNITS_MAX, EX_GCRA_UNITS_MAX, &err, &r));
	assert_true(r.unit_ns == 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_burst_then_rate),
		cmocka_unit_test(test_uneven_rate),
		cmocka_unit_test(test_never_more_than_promised),
		cmocka_unit_test(test_promises_come_true),
		cmocka_unit_test(test_give_back),
		cmocka_unit_test(test_export_import),
		cmocka_unit_test(test_clock_that_goes_back),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
