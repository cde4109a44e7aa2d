/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a file of tariffs: refused with a message, or prices that are right at every minute of a week. */
#include "fuzz.h"

#include "gateway/tariff.h"

static void check_model(const struct ex_tariff_model *m)
{
	assert(*m->model && m->n_windows <= EX_TARIFF_WINDOWS_MAX);
	for (int64_t minute = 0, next = 0; minute < EX_TARIFF_WEEK_MIN; minute++) {
		const struct ex_tariff_window *w;
		const struct ex_price *p = ex_tariff_price(m, minute * 60 + 59, &w);
		assert(p == (w ? &w->price : &m->price));
		assert(p->hit >= 0 && p->hit <= EX_TARIFF_PRICE_MAX && p->miss >= 0 && p->output >= 0);
		if (minute * 60 < next)
			continue;
		next = ex_tariff_next_s(m, minute * 60);
		assert(next > minute * 60 && (next == INT64_MAX || next <= (minute + EX_TARIFF_WEEK_MIN) * 60));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariffs t;
	if (ex_tariffs_parse("tariffs.json", (const char *)data, size, &err, &t) < 0) {
		assert(err.text[0]);
		return 0;
	}
	assert(t.n > 0 && t.n <= EX_TARIFF_MODELS_MAX && ex_currency_valid(t.currency));
	for (uint32_t i = 0; i < t.n; i++)
		check_model(&t.v[i]);
	ex_tariffs_done(&t);
	return 0;
}
