/* SPDX-License-Identifier: Apache-2.0 */
/* The top-up gate as JSON: lines of the trail, the public status. Layer L4. */
#include "gateway/topups.h"

#include "model/json.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const keys[EX_TOPUP_FIGURE_N] = {
	"cover", "queue_wait_p95_s", "kv_use", "thin_shards", "lost_shards"};

/* null: not known, or without bound. */
static json_t *number(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

static json_t *figures(const double v[static EX_TOPUP_FIGURE_N])
{
	json_t *o = json_object();
	for (unsigned i = 0; i < EX_TOPUP_FIGURE_N; i++)
		json_object_set_new(o, keys[i], number(v[i]));
	return o;
}

static void print(json_t *o, struct ex_str *out)
{
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (text)
		ex_str_add(out, text);
	else
		out->oom = true;
	free(text);
	json_decref(o);
}

/* What people wrote may be any bytes. */
static json_t *words(const char *s)
{
	char plain[EX_TOPUP_REASON_MAX];
	ex_printable(s, plain, sizeof plain);
	return json_string(plain);
}

void ex_topups_line(const struct ex_topup_change *c, struct ex_str *out)
{
	print(json_pack("{s:I, s:s, s:s, s:s, s:o, s:o, s:b, s:I, s:o}", "at", (json_int_t)c->real_s, "from",
		      ex_topup_state_name(c->from), "to", ex_topup_state_name(c->to), "by_figures",
		      ex_topup_state_name(c->by_figures), "by", words(c->by), "reason", words(c->reason), "pins",
		      (int)c->pins, "until", (json_int_t)c->until_s, "figures", figures(c->figure)),
		out);
}

static int read_change(json_t *o, struct ex_topup_change *ret)
{
	const char *from, *to, *by_figures, *by, *reason;
	json_int_t at, until;
	json_t *f;
	int pins;
	if (json_unpack(o, "{s:I, s:s, s:s, s:s, s:s, s:s, s:b, s:I, s:o}", "at", &at, "from", &from, "to", &to,
		    "by_figures", &by_figures, "by", &by, "reason", &reason, "pins", &pins, "until", &until, "figures",
		    &f) < 0)
		return -EINVAL;
	if (at < 0 || until < 0 || !json_is_object(f) || strlen(by) >= EX_TOPUP_BY_MAX ||
		strlen(reason) >= EX_TOPUP_REASON_MAX || ex_topup_state_parse(from, &ret->from) < 0 ||
		ex_topup_state_parse(to, &ret->to) < 0 || ex_topup_state_parse(by_figures, &ret->by_figures) < 0)
		return -EINVAL;
	ret->real_s = at;
	ret->until_s = until;
	ret->pins = pins;
	snprintf(ret->by, sizeof ret->by, "%s", by);
	snprintf(ret->reason, sizeof ret->reason, "%s", reason);
	for (unsigned i = 0; i < EX_TOPUP_FIGURE_N; i++) {
		json_t *v = json_object_get(f, keys[i]);
		ret->figure[i] = json_is_number(v) ? json_number_value(v) : NAN;
	}
	return 0;
}

int ex_topups_line_parse(const char *line, size_t n, struct ex_topup_change *ret)
{
	json_error_t why;
	if (n > EX_TOPUPS_LINE_MAX)
		return -EINVAL;
	json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, &why);
	int rc = o ? read_change(o, ret) : -EINVAL;
	json_decref(o);
	return rc;
}

static json_t *instant(int64_t real_s)
{
	return real_s > 0 ? json_integer(real_s) : json_null();
}

void ex_topups_status(struct ex_topups *t, int64_t real_s, struct ex_str *out)
{
	struct ex_topups_view v;
	ex_topups_view(t, real_s, &v);
	print(json_pack("{s:s, s:o, s:b, s:o, s:o, s:o, s:o}", "state", ex_topup_state_name(v.state), "since",
		      instant(v.last.real_s), "by_operator", (int)v.pinned, "reason", words(v.last.reason), "until",
		      instant(v.until_s), "expected_reopening", instant(v.reopens_s), "figures", figures(v.figure)),
		out);
}
