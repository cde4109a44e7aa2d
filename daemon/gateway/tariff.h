/* SPDX-License-Identifier: Apache-2.0 */
/* What tokens cost, by model and by the time of the week in UTC. Layer L4.
 *
 * A file of tariffs is JSON; prices are text, in units of the currency for a million tokens, with at most three decimals, so that every price is a
 * whole number of nano-units a token and nothing is ever rounded:
 *
 *     {"currency": "USD", "models": {"tiny-r1": {
 *        "input_hit": "0.14", "input_miss": "0.55", "output": "2.19",
 *        "windows": [{"name": "off-peak", "days": ["mon", "tue"], "from": "16:30", "to": "00:30",
 *                     "input_hit": "0.07", "input_miss": "0.275", "output": "1.095"}]}}}
 *
 * A window is from `from` on, and not any more at `to`; when that is not later, it is the next day's. `days` are those on which it begins; without
 * them it is every day. Windows of a model must not overlap: at no instant are there two prices. Outside of them the model's own prices hold. */
#ifndef EX_GATEWAY_TARIFF_H
#define EX_GATEWAY_TARIFF_H

#include "base/err.h"
#include "gateway/money.h"

#define EX_TARIFF_MODELS_MAX  64
#define EX_TARIFF_WINDOWS_MAX 32
#define EX_TARIFF_NAME_MAX    128 /* of a model or window, NUL included */
#define EX_TARIFF_BYTES_MAX   ((size_t)1 << 20)
#define EX_TARIFF_DEPTH_MAX   6
#define EX_TARIFF_PRICE_MAX   INT64_C(1000000000) /* nano-units a token: a million for a million */
#define EX_TARIFF_WEEK_MIN    (7 * 24 * 60)

/* Nano-units a token. */
struct ex_price {
	int64_t hit, miss, output;
};

struct ex_tariff_window {
	char name[EX_TARIFF_NAME_MAX];
	uint8_t days;               /* bit 0: Monday */
	uint16_t from_min, for_min; /* minute of the day it begins at; its length, 1 to a day */
	struct ex_price price;
};
struct ex_tariff_model {
	char model[EX_TARIFF_NAME_MAX];
	struct ex_price price;
	uint32_t n_windows;
	struct ex_tariff_window windows[EX_TARIFF_WINDOWS_MAX];
};
struct ex_tariffs {
	char currency[EX_CURRENCY_MAX];
	uint32_t n;
	struct ex_tariff_model *v; /* ascending by model */
};

/* text[0..n) to tariffs. -EINVAL: err names file and key. [any] */
int ex_tariffs_parse(const char *name, const char *text, size_t n, struct ex_err *err, struct ex_tariffs *ret);
void ex_tariffs_done(struct ex_tariffs *t);

/* NULL: the model has no tariff. [any] */
const struct ex_tariff_model *ex_tariff_of(const struct ex_tariffs *t, const char *model);
/* In force at real_s, seconds since the epoch, not before it. ret_window: NULL outside of all windows; may itself be NULL. [any] */
const struct ex_price *ex_tariff_price(
	const struct ex_tariff_model *t, int64_t real_s, const struct ex_tariff_window **ret_window);
/* When that price may be another one: the next instant at which a window begins or ends; INT64_MAX without windows. [any] */
int64_t ex_tariff_next_s(const struct ex_tariff_model *t, int64_t real_s);

#endif
