/* SPDX-License-Identifier: Apache-2.0 */
/* Money as text. Layer L4. */
#include "gateway/money.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DECIMALS       9
#define PRICE_DECIMALS 3 /* a thousandth for a million tokens is one nano-unit a token */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Digits at *s, as many as there are but at most max, appended to *v in negative numbers, whose range is the greater one. */
static int take_digits(const char **s, unsigned max, int64_t *v, unsigned *ret_n)
{
	unsigned n = 0;
	for (; is_digit(**s); (*s)++, n++) {
		if (n == max)
			return -EINVAL;
		if (__builtin_mul_overflow(*v, 10, v) || __builtin_sub_overflow(*v, **s - '0', v))
			return -ERANGE;
	}
	*ret_n = n;
	return 0;
}

/* text as a number with `decimals` decimals, times 10^decimals. */
static int parse(const char *text, unsigned decimals, int64_t *ret)
{
	const char *s = text;
	bool negative = *s == '-';
	int64_t v = 0;
	unsigned n_whole, n_part = 0;
	s += negative;
	int rc = take_digits(&s, UINT32_MAX, &v, &n_whole);
	if (rc < 0)
		return rc;
	bool point = *s == '.';
	s += point;
	if (point)
		rc = take_digits(&s, decimals, &v, &n_part);
	if (rc < 0)
		return rc;
	if (*s || !n_whole || (point && !n_part))
		return -EINVAL;
	for (; n_part < decimals; n_part++)
		if (__builtin_mul_overflow(v, 10, &v))
			return -ERANGE;
	if (!negative && __builtin_sub_overflow(0, v, &v))
		return -ERANGE;
	*ret = v;
	return 0;
}

int ex_money_parse(const char *text, int64_t *ret_nano)
{
	return parse(text, DECIMALS, ret_nano);
}

int ex_money_parse_price(const char *text, int64_t *ret_nano)
{
	int64_t v;
	int rc = parse(text, PRICE_DECIMALS, &v);
	if (rc < 0)
		return rc;
	if (v < 0 || *text == '-')
		return -EINVAL;
	if (v > EX_PRICE_MAX)
		return -ERANGE;
	*ret_nano = v;
	return 0;
}

char *ex_money_text(int64_t nano, char buf[static EX_MONEY_TEXT_MAX])
{
	uint64_t v = nano < 0 ? -(uint64_t)nano : (uint64_t)nano;
	int n = snprintf(buf, EX_MONEY_TEXT_MAX, "%s%" PRIu64 ".%09" PRIu64, nano < 0 ? "-" : "", v / (uint64_t)EX_NANO,
		v % (uint64_t)EX_NANO);
	for (int most = DECIMALS - 2; most > 0 && buf[n - 1] == '0'; most--)
		buf[--n] = '\0';
	return buf;
}

char *ex_money_price_text(int64_t nano, char buf[static EX_MONEY_TEXT_MAX])
{
	return ex_money_text(nano * EX_NANO_A_MTOKEN, buf);
}

bool ex_currency_valid(const char *text)
{
	for (int i = 0; i < 3; i++)
		if (text[i] < 'A' || text[i] > 'Z')
			return false;
	return !text[3];
}

int ex_money_add(int64_t *sum, int64_t n, int64_t price)
{
	int64_t product, total;
	if (__builtin_mul_overflow(n, price, &product) || __builtin_add_overflow(*sum, product, &total))
		return -EOVERFLOW;
	*sum = total;
	return 0;
}
