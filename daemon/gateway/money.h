/* SPDX-License-Identifier: Apache-2.0 */
/* Amounts of money: whole nano-units of a currency (1 USD = 10^9) in int64_t, as text and back without rounding. Layer L4. */
#ifndef EX_GATEWAY_MONEY_H
#define EX_GATEWAY_MONEY_H

#include "base/macro.h"
#include <stdbool.h>

#define EX_NANO           INT64_C(1000000000)
#define EX_MONEY_TEXT_MAX 24      /* "-9223372036.854775807" */
#define EX_CURRENCY_MAX   4       /* "USD" */
#define EX_NANO_A_MTOKEN  1000000 /* tokens that prices are told for: one nano-unit a token is 0.001 a million tokens */

/* "12", "-0.5", "3.000000001" to nano-units. -EINVAL: not such a number, or more than 9 decimals; -ERANGE: it does not fit. [any] */
int ex_money_parse(const char *text, int64_t *ret_nano);
/* A price for a million tokens, as in "0.55", to nano-units a token. -EINVAL: negative, or more than 3 decimals; -ERANGE. [any] */
int ex_money_parse_price(const char *text, int64_t *ret_nano);
/* Exact text with at least two decimals into buf; returns buf. [any] */
char *ex_money_text(int64_t nano, char buf[static EX_MONEY_TEXT_MAX]);
/* A price of nano-units a token as text for a million tokens. [any] price: 0 to EX_PRICE_MAX. */
#define EX_PRICE_MAX (INT64_MAX / EX_NANO_A_MTOKEN)
char *ex_money_price_text(int64_t nano, char buf[static EX_MONEY_TEXT_MAX]);

/* Three capital letters. [any] */
bool ex_currency_valid(const char *text);

/* *sum += n * price. -EOVERFLOW: *sum is as it was. [any] */
int ex_money_add(int64_t *sum, int64_t n, int64_t price);

#endif
