/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "gateway/tariff.h"
#include <stdio.h>
#include <string.h>

#define PRICES "\"input_hit\": \"0.14\", \"input_miss\": \"0.55\", \"output\": \"2.19\""
#define CHEAP  "\"input_hit\": \"0.07\", \"input_miss\": \"0.275\", \"output\": \"1.095\""
#define FREE   "\"input_hit\": \"0\", \"input_miss\": \"0\", \"output\": \"0.001\""
#define MONDAY INT64_C(1764547200) /* 2025-12-01 00:00 UTC */
#define HOUR   3600
#define DAY    (24 * HOUR)

static int parse(const char *text, struct ex_err *err, struct ex_tariffs *ret)
{
	return ex_tariffs_parse("t.json", text, strlen(text), err, ret);
}

/* One model, x, with these windows. */
static int parse_windows(const char *windows, struct ex_err *err, struct ex_tariffs *ret)
{
	char text[4096];
	snprintf(text, sizeof text, "{\"currency\": \"USD\", \"models\": {\"x\": {" PRICES ", \"windows\": [%s]}}}",
		windows);
	return parse(text, err, ret);
}

static const char *window_at(const struct ex_tariffs *t, int64_t real_s)
{
	const struct ex_tariff_window *w;
	ex_tariff_price(&t->v[0], real_s, &w);
	return w ? w->name : "";
}

static void test_prices(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariffs t;
	EXPECT_OK(
		err, parse("{\"currency\": \"USD\", \"models\": {\"b\": {" PRICES "}, \"a\": {" FREE "}}}", &err, &t));
	assert_string_equal(t.currency, "USD");
	assert_int_equal(t.n, 2);
	assert_string_equal(t.v[0].model, "a");
	assert_null(ex_tariff_of(&t, "c"));
	const struct ex_tariff_model *b = ex_tariff_of(&t, "b");
	const struct ex_price *p = ex_tariff_price(b, MONDAY, NULL);
	assert_int_equal(p->hit, 140);
	assert_int_equal(p->miss, 550);
	assert_int_equal(p->output, 2190);
	assert_int_equal(ex_tariff_price(&t.v[0], MONDAY, NULL)->output, 1);
	assert_true(ex_tariff_next_s(b, MONDAY) == INT64_MAX);
	ex_tariffs_done(&t);
}

static void test_windows(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariffs t;
	EXPECT_OK(err,
		parse_windows(
			"{\"name\": \"night\", \"days\": [\"mon\", \"sun\"], \"from\": \"16:30\", \"to\": "
			"\"00:30\", " CHEAP "},"
			"{\"name\": \"wednesday\", \"days\": [\"wed\"], \"from\": \"00:00\", \"to\": \"00:00\", " FREE
			"}",
			&err, &t));
	const int64_t begin = MONDAY + 16 * HOUR + 1800, end = MONDAY + DAY + 1800;
	assert_string_equal(window_at(&t, begin - 1), "");
	assert_string_equal(window_at(&t, begin), "night");
	assert_string_equal(window_at(&t, MONDAY + DAY - 1), "night");
	assert_string_equal(window_at(&t, end - 1), "night"); /* Tuesday, but it began on Monday */
	assert_string_equal(window_at(&t, end), "");
	assert_string_equal(window_at(&t, begin + DAY), ""); /* none begins on a Tuesday */
	/* from Sunday into Monday */
	assert_string_equal(window_at(&t, MONDAY + 1799), "night");
	assert_string_equal(window_at(&t, MONDAY + 1800), "");
	assert_string_equal(window_at(&t, MONDAY + 7 * DAY - 1), "night");
	/* a whole day */
	assert_string_equal(window_at(&t, MONDAY + 2 * DAY - 1), "");
	assert_string_equal(window_at(&t, MONDAY + 2 * DAY), "wednesday");
	assert_string_equal(window_at(&t, MONDAY + 3 * DAY - 1), "wednesday");
	assert_string_equal(window_at(&t, MONDAY + 3 * DAY), "");
	assert_int_equal(ex_tariff_price(&t.v[0], begin, NULL)->miss, 275);
	/* weeks on */
	assert_string_equal(window_at(&t, begin + 520 * 7 * DAY), "night");
	assert_true(ex_tariff_next_s(&t.v[0], MONDAY + 5) == MONDAY + 1800);
	assert_true(ex_tariff_next_s(&t.v[0], MONDAY + 1800) == begin);
	assert_true(ex_tariff_next_s(&t.v[0], begin) == end);
	assert_true(ex_tariff_next_s(&t.v[0], end) == MONDAY + 2 * DAY);
	ex_tariffs_done(&t);
}

/* The next change is the first instant with another price, for every minute of a week: nothing changes before it. */
static void test_next_change(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariffs t;
	EXPECT_OK(err,
		parse_windows("{\"name\": \"a\", \"from\": \"23:59\", \"to\": \"00:01\", " CHEAP "},"
			      "{\"name\": \"b\", \"days\": [\"fri\"], \"from\": \"00:01\", \"to\": \"12:00\", " FREE
			      "}",
			&err, &t));
	for (int64_t s = MONDAY; s < MONDAY + 7 * DAY; s += 60) {
		const char *now = window_at(&t, s);
		int64_t next = ex_tariff_next_s(&t.v[0], s);
		assert_true(next > s && next <= s + DAY);
		for (int64_t k = s; k < next; k += 60)
			assert_string_equal(window_at(&t, k), now);
		assert_string_not_equal(window_at(&t, next), now);
	}
	ex_tariffs_done(&t);
}

static void expect_refused(const char *text, const char *why)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariffs t;
	if (parse(text, &err, &t) != -EINVAL)
		fail_msg("taken: %s", text);
	if (!strstr(err.text, why))
		fail_msg("'%s' is not in: %s", why, err.text);
}

static void expect_windows_refused(const char *windows, const char *why)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariffs t;
	if (parse_windows(windows, &err, &t) != -EINVAL)
		fail_msg("taken: %s", windows);
	if (!strstr(err.text, why))
		fail_msg("'%s' is not in: %s", why, err.text);
}

static void test_refused(void **state)
{
	(void)state;
	expect_refused("", "t.json");
	expect_refused("[]", "object");
	expect_refused("{\"models\": {\"x\": {" PRICES "}}}", "'currency' is missing");
	expect_refused("{\"currency\": \"usd\", \"models\": {\"x\": {" PRICES "}}}", "capital");
	expect_refused("{\"currency\": \"USD\", \"models\": {}}", "1 to 64");
	expect_refused(
		"{\"currency\": \"USD\", \"models\": {\"x\": {" PRICES "}}, \"more\": 1}", "'more' is not known");
	expect_refused(
		"{\"currency\": \"USD\", \"models\": {\"x\": {" PRICES ", \"outptu\": \"1\"}}}", "models.x.outptu");
	expect_refused(
		"{\"currency\": \"USD\", \"models\": {\"x\": {\"input_hit\": \"0.14\"}}}", "models.x.input_miss");
	expect_refused("{\"currency\": \"USD\", \"models\": {\"x\": {\"input_hit\": 0.14}}}", "text is needed");
	expect_refused("{\"currency\": \"USD\", \"models\": {\"x\": {\"input_hit\": \"0.1405\"}}}", "three decimals");
	expect_refused("{\"currency\": \"USD\", \"models\": {\"x\": {\"input_hit\": \"-1\"}}}", "three decimals");
	expect_refused(
		"{\"currency\": \"USD\", \"models\": {\"x\": {\"input_hit\": \"1000000.001\"}}}", "up to 1000000");
	expect_refused("{\"currency\": \"USD\", \"models\": {\"\": {" PRICES "}}}", "name of 1");
	expect_refused("{\"a\": [[[[[[[[]]]]]]]]}", "levels");
	expect_windows_refused(
		"{\"name\": \"a\", \"from\": \"24:00\", \"to\": \"01:00\", " CHEAP "}", "models.x.windows[0].from");
	expect_windows_refused("{\"name\": \"a\", \"from\": \"1:00\", \"to\": \"02:00\", " CHEAP "}", "23:59");
	expect_windows_refused(
		"{\"name\": \"a\", \"days\": [\"monday\"], \"from\": \"01:00\", \"to\": \"02:00\", " CHEAP "}",
		"mon to sun");
	expect_windows_refused(
		"{\"name\": \"a\", \"days\": [\"mon\", \"mon\"], \"from\": \"01:00\", \"to\": \"02:00\", " CHEAP "}",
		"each once");
	expect_windows_refused(
		"{\"name\": \"a\", \"days\": [], \"from\": \"01:00\", \"to\": \"02:00\", " CHEAP "}", "list of days");
	expect_windows_refused(
		"{\"name\": \"a\", \"from\": \"01:00\", \"to\": \"02:00\"}", "models.x.windows[0].input_hit");
	expect_windows_refused("7", "objects");
	/* the night of Sunday reaches into Monday */
	expect_windows_refused(
		"{\"name\": \"a\", \"days\": [\"mon\"], \"from\": \"01:00\", \"to\": \"02:00\", " CHEAP "},"
		"{\"name\": \"b\", \"days\": [\"sun\"], \"from\": \"23:00\", \"to\": \"01:01\", " CHEAP "}",
		"'a' and 'b'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prices),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_next_change),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
