/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/money: text and amounts become each other without a loss; what is no amount is refused. */
#include "unit.h"

#include "gateway/money.h"
#include <string.h>

static void test_text(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t nano;
		const char *back;
	} row[] = {{"0", 0, "0.00"}, {"12", 12 * EX_NANO, "12.00"}, {"-0.5", -EX_NANO / 2, "-0.50"},
		{"110.00", 110 * EX_NANO, "110.00"}, {"3.000000001", 3 * EX_NANO + 1, "3.000000001"},
		{"0.000100000", 100000, "0.0001"}, {"-0", 0, "0.00"},
		{"9223372036.854775807", INT64_MAX, "9223372036.854775807"},
		{"-9223372036.854775808", INT64_MIN, "-9223372036.854775808"}};
	char buf[EX_MONEY_TEXT_MAX];
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		int64_t v = 77;
		assert_int_equal(ex_money_parse(row[i].text, &v), 0);
		assert_int_equal(v, row[i].nano);
		assert_string_equal(ex_money_text(v, buf), row[i].back);
	}
}

static void test_refused(void **state)
{
	(void)state;
	static const char *const no[] = {"", "-", ".", "1.", ".5", "1.0000000001", "1e3", " 1", "1 ", "+1", "--1",
		"0x1", "1,5", "1.-5", "1.2.3"};
	static const char *const beyond[] = {
		"9223372036.854775808", "-9223372036.854775809", "99999999999", "100000000000000000000000"};
	int64_t v = 77;
	for (size_t i = 0; i < EX_ARRAY_LEN(no); i++)
		assert_int_equal(ex_money_parse(no[i], &v), -EINVAL);
	for (size_t i = 0; i < EX_ARRAY_LEN(beyond); i++)
		assert_int_equal(ex_money_parse(beyond[i], &v), -ERANGE);
	assert_int_equal(v, 77);
}

static void test_prices(void **state)
{
	(void)state;
	char buf[EX_MONEY_TEXT_MAX];
	int64_t v = 77;
	assert_int_equal(ex_money_parse_price("0.55", &v), 0);
	assert_int_equal(v, 550); /* nano-units a token: a million of them are 0.55 */
	assert_int_equal(v * EX_NANO_A_MTOKEN, 550000000);
	assert_string_equal(ex_money_price_text(v, buf), "0.55");
	assert_int_equal(ex_money_parse_price("0.001", &v), 0);
	assert_int_equal(v, 1);
	assert_int_equal(ex_money_parse_price("0.0005", &v), -EINVAL); /* no half nano-units */
	assert_int_equal(ex_money_parse_price("-1", &v), -EINVAL);
	assert_int_equal(ex_money_parse_price("9223372036854775", &v), -ERANGE);
	assert_int_equal(ex_money_parse_price("9223372036", &v), 0);
	assert_string_equal(ex_money_price_text(v, buf), "9223372036.00");
}

static void test_sums(void **state)
{
	(void)state;
	int64_t sum = 5;
	assert_int_equal(ex_money_add(&sum, 3, 550), 0);
	assert_int_equal(sum, 1655);
	assert_int_equal(ex_money_add(&sum, INT64_MAX, 2), -EOVERFLOW);
	assert_int_equal(ex_money_add(&sum, INT64_MAX, 1), -EOVERFLOW);
	assert_int_equal(sum, 1655);
	assert_true(ex_currency_valid("USD"));
	assert_false(ex_currency_valid("usd"));
	assert_false(ex_currency_valid("US"));
	assert_false(ex_currency_valid("USDT"));
	assert_false(ex_currency_valid(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_prices), cmocka_unit_test(test_sums)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
