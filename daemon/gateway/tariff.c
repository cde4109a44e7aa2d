/* SPDX-License-Identifier: Apache-2.0 */
/* Tariffs. Layer L4. */
#include "gateway/tariff.h"

#include "base/mem.h"
#include "model/json.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define DAY_MIN    (24 * 60)
#define EPOCH_DAY  3 /* 1970-01-01 was a Thursday */
#define PREFIX_MAX (2 * EX_TARIFF_NAME_MAX)
#define ALL_DAYS   0x7f

static const char *const day_names[7] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static int take_text(const struct ex_json_reader *r, const char *key, const char **ret)
{
	json_t *v = json_object_get(r->obj, key);
	if (!v)
		return ex_json_refuse(r, key, "is missing");
	if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
		return ex_json_refuse_value(r, key, v, "a text is needed");
	*ret = json_string_value(v);
	return 0;
}

static int take_price(const struct ex_json_reader *r, const char *key, int64_t *ret)
{
	const char *text;
	int rc = take_text(r, key, &text);
	if (rc < 0)
		return rc;
	if (ex_money_parse_price(text, ret) < 0 || *ret > EX_TARIFF_PRICE_MAX)
		return ex_json_refuse_value(r, key, json_object_get(r->obj, key),
			"a price for a million tokens is needed, as in \"0.55\": at most three decimals, up to "
			"1000000");
	json_object_del(r->obj, key);
	return 0;
}

static int take_prices(const struct ex_json_reader *r, struct ex_price *ret)
{
	int rc = take_price(r, "input_hit", &ret->hit);
	if (rc == 0)
		rc = take_price(r, "input_miss", &ret->miss);
	if (rc == 0)
		rc = take_price(r, "output", &ret->output);
	return rc;
}

static int refuse_rest(const struct ex_json_reader *r)
{
	const char *key = json_object_iter_key(json_object_iter(r->obj));
	return key ? ex_json_refuse(r, key, "is not known") : 0;
}

/* "16:30" as a minute of the day. */
static int take_minute(const struct ex_json_reader *r, const char *key, uint16_t *ret)
{
	const char *s;
	int rc = take_text(r, key, &s);
	if (rc < 0)
		return rc;
	bool form = strlen(s) == 5 && s[2] == ':';
	for (int i = 0; form && i < 5; i++)
		form = i == 2 || isdigit((unsigned char)s[i]);
	unsigned hour = form ? (unsigned)(s[0] - '0') * 10 + (unsigned)(s[1] - '0') : 99;
	unsigned minute = form ? (unsigned)(s[3] - '0') * 10 + (unsigned)(s[4] - '0') : 99;
	if (hour > 23 || minute > 59)
		return ex_json_refuse_value(
			r, key, json_object_get(r->obj, key), "a time from \"00:00\" to \"23:59\" is needed");
	*ret = (uint16_t)(hour * 60 + minute);
	json_object_del(r->obj, key);
	return 0;
}

static int take_days(const struct ex_json_reader *r, uint8_t *ret)
{
	json_t *days = json_object_get(r->obj, "days"), *one;
	size_t i;
	*ret = days ? 0 : ALL_DAYS;
	if (!days)
		return 0;
	json_array_foreach(days, i, one)
	{
		unsigned d = 0;
		while (d < 7 && (!json_is_string(one) || strcmp(json_string_value(one), day_names[d]) != 0))
			d++;
		if (d == 7 || *ret & 1u << d)
			return ex_json_refuse_value(r, "days", one, "a day from mon to sun is needed, each once");
		*ret |= (uint8_t)(1u << d);
	}
	if (!*ret)
		return ex_json_refuse_value(r, "days", days, "a list of days is needed, as in [\"mon\"]");
	json_object_del(r->obj, "days");
	return 0;
}

static int take_name(
	const struct ex_json_reader *r, const char *key, const char *name, char ret[static EX_TARIFF_NAME_MAX])
{
	if (!*name || strlen(name) >= EX_TARIFF_NAME_MAX)
		return ex_json_refuse(r, key, "needs a name of 1 to 127 bytes");
	snprintf(ret, EX_TARIFF_NAME_MAX, "%s", name);
	return 0;
}

static int read_window(const struct ex_json_reader *r, struct ex_tariff_window *w)
{
	const char *name;
	uint16_t to;
	int rc = take_text(r, "name", &name);
	if (rc == 0)
		rc = take_name(r, "name", name, w->name);
	if (rc == 0)
		rc = take_days(r, &w->days);
	if (rc == 0)
		rc = take_minute(r, "from", &w->from_min);
	if (rc == 0)
		rc = take_minute(r, "to", &to);
	if (rc == 0)
		rc = take_prices(r, &w->price);
	if (rc < 0)
		return rc;
	w->for_min = (uint16_t)(to > w->from_min ? to - w->from_min : to + DAY_MIN - w->from_min);
	json_object_del(r->obj, "name");
	return refuse_rest(r);
}

/* No minute of the week is in two windows. */
static int check_overlap(const struct ex_json_reader *r, const struct ex_tariff_model *t)
{
	uint8_t owner[EX_TARIFF_WEEK_MIN] = {0}; /* window + 1 */
	char why[2 * EX_TARIFF_NAME_MAX + 64];
	for (uint32_t i = 0; i < t->n_windows; i++) {
		const struct ex_tariff_window *w = &t->windows[i];
		for (unsigned m = 0; m < 7 * w->for_min; m++) {
			unsigned day = m / w->for_min;
			unsigned at = (day * DAY_MIN + w->from_min + m % w->for_min) % EX_TARIFF_WEEK_MIN;
			if (!(w->days & 1u << day))
				continue;
			if (owner[at]) {
				snprintf(why, sizeof why, "has windows that overlap: '%s' and '%s'",
					t->windows[owner[at] - 1].name, w->name);
				return ex_json_refuse(r, "windows", why);
			}
			owner[at] = (uint8_t)(i + 1);
		}
	}
	return 0;
}

static int read_windows(const struct ex_json_reader *r, struct ex_tariff_model *t)
{
	json_t *list = json_object_get(r->obj, "windows"), *one;
	size_t i;
	char prefix[PREFIX_MAX];
	if (!list)
		return 0;
	if (!json_is_array(list) || json_array_size(list) > EX_TARIFF_WINDOWS_MAX)
		return ex_json_refuse(r, "windows", "is no list of at most 32 windows");
	json_array_foreach(list, i, one)
	{
		snprintf(prefix, sizeof prefix, "%.*swindows[%zu].", EX_TARIFF_NAME_MAX, r->prefix, i);
		struct ex_json_reader of = {.name = r->name, .prefix = prefix, .obj = one, .err = r->err};
		if (!json_is_object(one))
			return ex_json_refuse(r, "windows", "has something else than objects in its list");
		int rc = read_window(&of, &t->windows[t->n_windows++]);
		if (rc < 0)
			return rc;
	}
	json_object_del(r->obj, "windows");
	return check_overlap(r, t);
}

static int read_model(const struct ex_json_reader *r, const char *model, json_t *obj, struct ex_tariff_model *t)
{
	char prefix[PREFIX_MAX];
	snprintf(prefix, sizeof prefix, "models.%.64s.", model);
	struct ex_json_reader of = {.name = r->name, .prefix = prefix, .obj = obj, .err = r->err};
	int rc = take_name(r, "models", model, t->model);
	if (rc == 0 && !json_is_object(obj))
		rc = ex_json_refuse(r, "models", "has something else than objects in it");
	if (rc == 0)
		rc = take_prices(&of, &t->price);
	if (rc == 0)
		rc = read_windows(&of, t);
	return rc < 0 ? rc : refuse_rest(&of);
}

static int compare_models(const void *a, const void *b)
{
	return strcmp(((const struct ex_tariff_model *)a)->model, ((const struct ex_tariff_model *)b)->model);
}

static int read_all(const struct ex_json_reader *r, struct ex_tariffs *t)
{
	const char *currency, *model;
	json_t *models = json_object_get(r->obj, "models"), *one;
	int rc = take_text(r, "currency", &currency);
	if (rc < 0)
		return rc;
	if (!ex_currency_valid(currency))
		return ex_json_refuse(r, "currency", "is not three capital letters");
	snprintf(t->currency, sizeof t->currency, "%s", currency);
	if (!json_is_object(models) || !json_object_size(models) || json_object_size(models) > EX_TARIFF_MODELS_MAX)
		return ex_json_refuse(r, "models", "is no object with 1 to 64 models");
	t->v = ex_calloc(json_object_size(models), sizeof *t->v);
	if (!t->v)
		return ex_err_errno(r->err, -ENOMEM, "%s", r->name);
	json_object_foreach(models, model, one)
	{
		rc = read_model(r, model, one, &t->v[t->n++]);
		if (rc < 0)
			return rc;
	}
	qsort(t->v, t->n, sizeof *t->v, compare_models);
	json_object_del(r->obj, "currency");
	json_object_del(r->obj, "models");
	return refuse_rest(r);
}

/* Nesting is bounded before anything recurses over it. */
static bool is_deep(const char *text, size_t n)
{
	unsigned depth = 0;
	bool in_string = false;
	for (size_t i = 0; i < n; i++) {
		if (in_string && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			in_string = !in_string;
		else if (!in_string && strchr("[{", text[i]) && text[i] && ++depth > EX_TARIFF_DEPTH_MAX)
			return true;
		else if (!in_string && depth && (text[i] == ']' || text[i] == '}'))
			depth--;
	}
	return false;
}

int ex_tariffs_parse(const char *name, const char *text, size_t n, struct ex_err *err, struct ex_tariffs *ret)
{
	struct ex_tariffs t = {.n = 0};
	json_t *root;
	if (n > EX_TARIFF_BYTES_MAX || is_deep(text, n))
		return ex_err_set(err, -EINVAL, "%s: more than %zu bytes or %d levels are no tariffs", name,
			EX_TARIFF_BYTES_MAX, EX_TARIFF_DEPTH_MAX);
	int rc = ex_json_parse_object(name, text, n, err, &root);
	if (rc < 0)
		return rc;
	struct ex_json_reader r = {.name = name, .prefix = "", .obj = root, .err = err};
	rc = read_all(&r, &t);
	json_decref(root);
	if (rc < 0)
		ex_tariffs_done(&t);
	else
		*ret = t;
	return rc;
}

void ex_tariffs_done(struct ex_tariffs *t)
{
	free(t->v);
	*t = (struct ex_tariffs){.n = 0};
}

/* --- prices ------------------------------------------------------------------------------------------------------- */

const struct ex_tariff_model *ex_tariff_of(const struct ex_tariffs *t, const char *model)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (strcmp(t->v[i].model, model) == 0)
			return &t->v[i];
	return NULL;
}

/* Minutes since Monday 00:00. */
static unsigned week_minute(int64_t real_s)
{
	return (unsigned)((real_s / 60 + EPOCH_DAY * DAY_MIN) % EX_TARIFF_WEEK_MIN);
}

/* Minutes from `at` to the window's beginning on that day: how long ago, 0 to a week. */
static unsigned since_begin(const struct ex_tariff_window *w, unsigned day, unsigned at)
{
	return (at + EX_TARIFF_WEEK_MIN - (day * DAY_MIN + w->from_min)) % EX_TARIFF_WEEK_MIN;
}

const struct ex_price *ex_tariff_price(
	const struct ex_tariff_model *t, int64_t real_s, const struct ex_tariff_window **ret_window)
{
	const struct ex_tariff_window *in = NULL;
	unsigned at = week_minute(EX_MAX(real_s, 0));
	for (uint32_t i = 0; i < t->n_windows && !in; i++)
		for (unsigned day = 0; day < 7; day++)
			if (t->windows[i].days & 1u << day &&
				since_begin(&t->windows[i], day, at) < t->windows[i].for_min)
				in = &t->windows[i];
	if (ret_window)
		*ret_window = in;
	return in ? &in->price : &t->price;
}

int64_t ex_tariff_next_s(const struct ex_tariff_model *t, int64_t real_s)
{
	unsigned at = week_minute(EX_MAX(real_s, 0)), least = UINT32_MAX;
	for (uint32_t i = 0; i < t->n_windows; i++)
		for (unsigned day = 0; day < 7; day++) {
			if (!(t->windows[i].days & 1u << day))
				continue;
			unsigned since = since_begin(&t->windows[i], day, at), until_begin = EX_TARIFF_WEEK_MIN - since;
			unsigned until_end = (until_begin + t->windows[i].for_min - 1) % EX_TARIFF_WEEK_MIN + 1;
			least = EX_MIN(least, EX_MIN(until_begin, until_end));
		}
	return least == UINT32_MAX ? INT64_MAX : (EX_MAX(real_s, 0) / 60 + least) * 60;
}
