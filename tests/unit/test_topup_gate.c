/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/clock.h"
#include "gateway/topup_gate.h"
#include <math.h>
#include <string.h>

#define S    EX_NS_PER_S
#define REAL 1764000000 /* seconds since the epoch when the simulated clock is 0 */

static uint64_t random_state;

/* splitmix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t draw(uint64_t below)
{
	uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % below;
}

static struct ex_topup_rules make_rules(void)
{
	struct ex_topup_rules r = {.enter_dwell_ns = 60 * S, .leave_dwell_ns = 300 * S};
	static const double cover[EX_TOPUP_STATE_N][2] = {{0}, {0.9, 1.1}, {0.7, 0.9}, {0.4, 0.6}};
	static const double wait[EX_TOPUP_STATE_N][2] = {{0}, {5, 2}, {10, 5}, {30, 10}};
	for (int s = 0; s < EX_TOPUP_STATE_N; s++)
		for (int f = 0; f < EX_TOPUP_FIGURE_N; f++)
			r.at[s][f] = (struct ex_topup_threshold){NAN, NAN};
	for (int s = EX_TOPUP_LIMITED; s < EX_TOPUP_STATE_N; s++) {
		r.at[s][EX_TOPUP_COVER] = (struct ex_topup_threshold){cover[s][0], cover[s][1]};
		r.at[s][EX_TOPUP_QUEUE_WAIT] = (struct ex_topup_threshold){wait[s][0], wait[s][1]};
	}
	r.at[EX_TOPUP_WAITLIST][EX_TOPUP_LOST_SHARDS] = (struct ex_topup_threshold){0, 0};
	return r;
}

static struct ex_topup_gate make_gate(void)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_topup_rules r = make_rules();
	struct ex_topup_gate g;
	EXPECT_OK(err, ex_topup_rules_check(&r, &err));
	ex_topup_gate_init(&g, &r, NULL);
	return g;
}

/* Looks once a second, from *t on for n seconds, with these figures; the number of transitions. */
static unsigned look(struct ex_topup_gate *g, unsigned *t, unsigned n, double cover, double wait)
{
	unsigned changes = 0;
	for (unsigned i = 0; i < n; i++, ++*t) {
		double f[EX_TOPUP_FIGURE_N] = {cover, wait, 0, 0, 0};
		changes += ex_topup_gate_look(g, f, *t * S, REAL + *t);
	}
	return changes;
}

static void test_closes_and_says_why(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate();
	unsigned t = 0;
	assert_int_equal(look(&g, &t, 1000, 1.5, 0), 0);
	assert_int_equal(look(&g, &t, 60, 0.81, 2.3), 0);
	assert_int_equal(look(&g, &t, 1, 0.81, 2.3), 1); /* 60 s after the first look that was bad */
	assert_int_equal(g.state, EX_TOPUP_LIMITED);
	assert_string_equal(g.last.reason, "liability cover 0.81 < 0.90 for 60 s; queue wait p95 2.3 s");
	assert_string_equal(g.last.by, "auto");
	assert_int_equal(g.last.real_s, REAL + 1060);
	assert_true(g.last.figure[EX_TOPUP_COVER] == 0.81 && g.last.figure[EX_TOPUP_QUEUE_WAIT] == 2.3);
	/* between leave and enter nothing happens for ever */
	assert_int_equal(look(&g, &t, 10000, 1.0, 0), 0);
	assert_int_equal(look(&g, &t, 300, 1.2, 0), 0);
	assert_int_equal(look(&g, &t, 1, 1.2, 0), 1);
	assert_int_equal(g.state, EX_TOPUP_OPEN);
	assert_string_equal(g.last.reason, "good for 300 s; liability cover 1.20; queue wait p95 0.0 s");
	/* a dip that is shorter than the dwell, again and again */
	for (int i = 0; i < 100; i++)
		assert_int_equal(look(&g, &t, 59, 0.1, 100) + look(&g, &t, 1, 1.2, 0), 0);
}

static void test_straight_to_the_worst(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate();
	unsigned t = 0;
	double lost[EX_TOPUP_FIGURE_N] = {INFINITY, 0, 0, 0, 2};
	assert_int_equal(look(&g, &t, 61, 0.3, 0), 1);
	assert_int_equal(g.state, EX_TOPUP_SUSPENDED);
	assert_int_equal(look(&g, &t, 301, INFINITY, 0), 1); /* nothing is owed any more */
	assert_int_equal(g.state, EX_TOPUP_OPEN);
	for (unsigned i = 0; i < 61; i++, t++)
		ex_topup_gate_look(&g, lost, t * S, REAL + t);
	assert_int_equal(g.state, EX_TOPUP_WAITLIST);
	assert_non_null(strstr(g.last.reason, "shards without a host 2 > 0 for 60 s"));
}

/* A surge with noise: figures fall through all thresholds and rise again; the gate only closes, then only opens. */
static void test_one_surge(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct ex_topup_gate g = make_gate();
		unsigned t = 0, n_open = 0, n_close = 0;
		random_state = seed;
		while (t < 8000) {
			double way = t < 1000   ? 0
				     : t < 3000 ? (t - 1000) / 2000.0
				     : t < 5000 ? 1
				     : t < 7000 ? (7000 - t) / 2000.0
						: 0;
			double noise = (double)draw(1000) / 1000 - 0.5;
			enum ex_topup_state from = g.state;
			if (look(&g, &t, 1, 1.5 - 1.2 * way + 0.2 * noise, 40 * way * (1 + noise))) {
				n_close += g.state > from;
				n_open += g.state < from;
				if (g.state > from && n_open)
					fail_msg("seed %d: closed at %u after it had opened", (int)seed, t);
			}
		}
		assert_true(n_close >= 1 && n_open >= 1 && n_close <= 3 && n_open <= 3);
		assert_int_equal(g.state, EX_TOPUP_OPEN);
	}
}

/* Whatever the figures do, unknown ones included: two transitions are as far apart as the dwell of the second; none without a look that justifies it;
 * and each says its figures. */
static void test_never_flaps(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		struct ex_topup_gate g = make_gate();
		uint64_t now = 0, last = 0;
		unsigned n_changes = 0;
		random_state = seed;
		double f[EX_TOPUP_FIGURE_N] = {1.5, 0, 0, 0, 0};
		g.rules.enter_dwell_ns = (1 + draw(60)) * S;
		g.rules.leave_dwell_ns = (1 + draw(60)) * S;
		for (int i = 0; i < 5000; i++) {
			now += 1 + draw(2 * S);
			if (draw(40) == 0)
				f[EX_TOPUP_COVER] = draw(10) ? (double)draw(200) / 100 : NAN;
			if (draw(40) == 0)
				f[EX_TOPUP_QUEUE_WAIT] = draw(10) ? (double)draw(40) : NAN;
			if (draw(40) == 0)
				f[EX_TOPUP_LOST_SHARDS] = draw(5) ? 0 : (double)draw(3);
			enum ex_topup_state from = g.state;
			if (!ex_topup_gate_look(&g, f, now, REAL)) {
				assert_int_equal(g.state, from);
				continue;
			}
			bool closing = g.state > from;
			assert_true(g.state != from && g.last.from == from && g.last.to == g.state && g.last.reason[0]);
			assert_memory_equal(g.last.figure, f, sizeof f);
			if (n_changes++)
				assert_true(now - last >= (closing ? g.rules.enter_dwell_ns : g.rules.leave_dwell_ns));
			last = now;
			/* by the figures of this moment it is right: some is beyond the state's threshold, or all are on the good side of the state that was left */
			bool bad = false, good = true;
			for (int s = closing ? (int)g.state : (int)g.state + 1; s < EX_TOPUP_STATE_N; s++)
				for (int k = 0; k < EX_TOPUP_FIGURE_N; k++) {
					struct ex_topup_threshold th = g.rules.at[s][k];
					if (isnan(th.enter))
						continue;
					double sign = k == EX_TOPUP_COVER ? -1 : 1;
					bad = bad || sign * f[k] > sign * th.enter;
					good = good && sign * f[k] <= sign * th.leave;
				}
			assert_true(closing ? bad : good);
		}
		assert_true(n_changes > 0);
	}
}

static void test_unknown_figures_move_nothing(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate();
	unsigned t = 0;
	assert_int_equal(look(&g, &t, 10000, NAN, NAN), 0);
	assert_int_equal(look(&g, &t, 61, 0.8, NAN), 1);
	assert_int_equal(look(&g, &t, 10000, 1.5, NAN), 0); /* the wait may be long */
	assert_int_equal(look(&g, &t, 10000, NAN, 0), 0);
	assert_int_equal(look(&g, &t, 301, 1.5, 0), 1);
	assert_int_equal(g.state, EX_TOPUP_OPEN);
}

static void test_pins(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate();
	unsigned t = 0;
	look(&g, &t, 100, 1.5, 0);
	ex_topup_gate_pin(&g, EX_TOPUP_SUSPENDED, "root", "GPU outage in zone a", REAL + 1000, REAL + t);
	assert_int_equal(g.state, EX_TOPUP_SUSPENDED);
	assert_string_equal(g.last.by, "root");
	assert_string_equal(g.last.reason, "GPU outage in zone a");
	assert_true(g.last.from == EX_TOPUP_OPEN && g.last.pins && g.last.until_s == REAL + 1000);
	assert_int_equal(look(&g, &t, 900, 1.5, 0), 0); /* until it ends the figures change nothing */
	assert_int_equal(g.state, EX_TOPUP_SUSPENDED);
	assert_int_equal(look(&g, &t, 1, 1.5, 0), 1);
	assert_int_equal(g.state, EX_TOPUP_OPEN);
	assert_false(g.last.pins);
	assert_string_equal(g.last.by, "auto");

	/* pinned open while the figures are bad: at its end the state is at once what they say */
	ex_topup_gate_pin(&g, EX_TOPUP_OPEN, "root", "we know", 0, REAL + t);
	assert_int_equal(look(&g, &t, 10000, 0.8, 0), 0);
	assert_int_equal(g.state, EX_TOPUP_OPEN);
	ex_topup_gate_unpin(&g, "root", REAL + t);
	assert_int_equal(g.state, EX_TOPUP_LIMITED);
	assert_false(g.last.pins);

	/* a pin replaces a pin */
	ex_topup_gate_pin(&g, EX_TOPUP_SUSPENDED, "a", "x", REAL + t + 10, REAL + t);
	ex_topup_gate_pin(&g, EX_TOPUP_WAITLIST, "b", "y", 0, REAL + t);
	assert_int_equal(look(&g, &t, 100, 0.8, 0), 0);
	assert_int_equal(g.state, EX_TOPUP_WAITLIST);
}

/* What is saved is what comes back, a pin with its end as well; thresholds are counted anew. */
static void test_saved(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate(), h;
	unsigned t = 0;
	look(&g, &t, 61, 0.6, 0);
	assert_int_equal(g.state, EX_TOPUP_WAITLIST);
	ex_topup_gate_init(&h, &g.rules, &g.last);
	assert_int_equal(h.state, EX_TOPUP_WAITLIST);
	assert_false(h.pinned);
	t = 0; /* another clock */
	assert_int_equal(look(&h, &t, 300, 1.5, 0), 0);
	assert_int_equal(look(&h, &t, 1, 1.5, 0), 1);
	assert_int_equal(h.state, EX_TOPUP_OPEN);

	ex_topup_gate_pin(&g, EX_TOPUP_SUSPENDED, "root", "x", REAL + 500, REAL);
	ex_topup_gate_init(&h, &g.rules, &g.last);
	assert_int_equal(h.state, EX_TOPUP_SUSPENDED);
	t = 0;
	assert_int_equal(look(&h, &t, 500, 1.5, 0), 0);
	assert_int_equal(look(&h, &t, 1, 1.5, 0), 1);
	assert_int_equal(h.state, EX_TOPUP_OPEN);
	ex_topup_gate_unpin(&g, "root", REAL);
	ex_topup_gate_init(&h, &g.rules, &g.last);
	assert_false(h.pinned);
}

static void test_other_rules(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate();
	struct ex_topup_rules r = g.rules;
	unsigned t = 0;
	look(&g, &t, 50, 0.8, 0);
	r.at[EX_TOPUP_LIMITED][EX_TOPUP_COVER] = (struct ex_topup_threshold){0.85, 0.95};
	ex_topup_gate_set_rules(&g, &r);
	assert_int_equal(look(&g, &t, 60, 0.8, 0), 0);
	assert_int_equal(look(&g, &t, 1, 0.8, 0), 1);
}

static void test_verdicts(void **state)
{
	(void)state;
	struct ex_topup_gate g = make_gate();
	struct ex_topup_ask plain = {.amount_nano = 10, .today_nano = 5, .day_limit_nano = 15}, much = plain,
			    exempt = plain, late = plain;
	much.amount_nano = 11;
	exempt.exempt = true;
	late.others_wait = true;
	assert_int_equal(ex_topup_gate_decide(&g, &plain), EX_TOPUP_CREDITED);
	assert_int_equal(ex_topup_gate_decide(&g, &much), EX_TOPUP_CREDITED);
	assert_int_equal(ex_topup_gate_decide(&g, &late), EX_TOPUP_WAITS);
	g.state = EX_TOPUP_LIMITED;
	assert_int_equal(ex_topup_gate_decide(&g, &plain), EX_TOPUP_CREDITED);
	assert_int_equal(ex_topup_gate_decide(&g, &much), EX_TOPUP_TOO_MUCH);
	much.amount_nano = INT64_MAX;
	assert_int_equal(ex_topup_gate_decide(&g, &much), EX_TOPUP_TOO_MUCH);
	much.exempt = true;
	assert_int_equal(ex_topup_gate_decide(&g, &much), EX_TOPUP_CREDITED);
	g.state = EX_TOPUP_WAITLIST;
	assert_int_equal(ex_topup_gate_decide(&g, &plain), EX_TOPUP_WAITS);
	assert_int_equal(ex_topup_gate_decide(&g, &exempt), EX_TOPUP_CREDITED);
	g.state = EX_TOPUP_SUSPENDED;
	assert_int_equal(ex_topup_gate_decide(&g, &plain), EX_TOPUP_HELD);
	assert_int_equal(ex_topup_gate_decide(&g, &exempt), EX_TOPUP_CREDITED);
	ex_topup_gate_pin(&g, EX_TOPUP_SUSPENDED, "root", "x", 0, REAL);
	assert_int_equal(ex_topup_gate_decide(&g, &exempt), EX_TOPUP_HELD);
}

static void test_rules_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_topup_rules r = make_rules();
	r.at[EX_TOPUP_LIMITED][EX_TOPUP_COVER].leave = 0.8; /* below what enters it */
	assert_int_equal(ex_topup_rules_check(&r, &err), -EINVAL);
	assert_non_null(strstr(err.text, "limited by liability cover 0.9"));
	r = make_rules();
	r.at[EX_TOPUP_LIMITED][EX_TOPUP_QUEUE_WAIT].leave = 6;
	assert_int_equal(ex_topup_rules_check(&r, &err), -EINVAL);
	r = make_rules();
	r.at[EX_TOPUP_SUSPENDED][EX_TOPUP_COVER] = (struct ex_topup_threshold){0.8, 0.85}; /* above waitlist's */
	assert_int_equal(ex_topup_rules_check(&r, &err), -EINVAL);
	assert_non_null(strstr(err.text, "suspended"));
	r = make_rules();
	r.at[EX_TOPUP_LIMITED][EX_TOPUP_KV].enter = 1;
	assert_int_equal(ex_topup_rules_check(&r, &err), -EINVAL);
}

static void test_names(void **state)
{
	(void)state;
	enum ex_topup_state s;
	for (unsigned i = 0; i < EX_TOPUP_STATE_N; i++) {
		assert_int_equal(ex_topup_state_parse(ex_topup_state_name(i), &s), 0);
		assert_int_equal(s, i);
	}
	assert_int_equal(ex_topup_state_parse("OPEN", &s), -EINVAL);
	assert_string_equal(ex_topup_verdict_name(EX_TOPUP_TOO_MUCH), "limited");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_closes_and_says_why),
		cmocka_unit_test(test_straight_to_the_worst),
		cmocka_unit_test(test_one_surge),
		cmocka_unit_test(test_never_flaps),
		cmocka_unit_test(test_unknown_figures_move_nothing),
		cmocka_unit_test(test_pins),
		cmocka_unit_test(test_saved),
		cmocka_unit_test(test_other_rules),
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_rules_refused),
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
