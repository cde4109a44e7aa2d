/* SPDX-License-Identifier: Apache-2.0 */
/* The top-up gate. Layer L4. */
#include "gateway/topup_gate.h"

#include "base/clock.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const state_names[EX_TOPUP_STATE_N] = {"open", "limited", "waitlist", "suspended"};

static const struct {
	const char *name, *unit;
	bool low_is_bad;
	int decimals;
} figures[EX_TOPUP_FIGURE_N] = {
	[EX_TOPUP_COVER] = {"liability cover", "", true, 2},
	[EX_TOPUP_QUEUE_WAIT] = {"queue wait p95", " s", false, 1},
	[EX_TOPUP_KV] = {"KV use", "", false, 2},
	[EX_TOPUP_THIN_SHARDS] = {"shards short of replicas", "", false, 0},
	[EX_TOPUP_LOST_SHARDS] = {"shards without a host", "", false, 0},
};

const char *ex_topup_state_name(enum ex_topup_state s)
{
	return s < EX_TOPUP_STATE_N ? state_names[s] : "unknown";
}

int ex_topup_state_parse(const char *name, enum ex_topup_state *ret)
{
	for (unsigned s = 0; s < EX_TOPUP_STATE_N; s++)
		if (strcmp(name, state_names[s]) == 0) {
			*ret = s;
			return 0;
		}
	return -EINVAL;
}

const char *ex_topup_figure_name(enum ex_topup_figure f)
{
	return f < EX_TOPUP_FIGURE_N ? figures[f].name : "unknown";
}

const char *ex_topup_verdict_name(enum ex_topup_verdict v)
{
	static const char *const names[] = {"credited", "limited", "waitlisted", "held"};
	return v < EX_ARRAY_LEN(names) ? names[v] : "unknown";
}

/* a is worse than b. False when one is not known. */
static bool is_worse(enum ex_topup_figure f, double a, double b)
{
	return figures[f].low_is_bad ? a < b : a > b;
}

int ex_topup_rules_check(const struct ex_topup_rules *r, struct ex_err *err)
{
	for (unsigned s = EX_TOPUP_LIMITED; s < EX_TOPUP_STATE_N; s++)
		for (unsigned f = 0; f < EX_TOPUP_FIGURE_N; f++) {
			const struct ex_topup_threshold *t = &r->at[s][f];
			if (isnan(t->enter) != isnan(t->leave) || is_worse(f, t->leave, t->enter))
				return ex_err_set(err, -EINVAL, "top-ups are %s by %s %g, but not left again by %g",
					state_names[s], figures[f].name, t->enter, t->leave);
			for (unsigned b = EX_TOPUP_LIMITED; b < s; b++)
				if (is_worse(f, r->at[b][f].enter, t->enter) ||
					is_worse(f, r->at[b][f].leave, t->leave))
					return ex_err_set(err, -EINVAL,
						"the thresholds of %s for %s top-ups are worse than those for %s",
						figures[f].name, state_names[b], state_names[s]);
		}
	return 0;
}

void ex_topup_gate_init(
	struct ex_topup_gate *g, const struct ex_topup_rules *rules, const struct ex_topup_change *saved)
{
	*g = (struct ex_topup_gate){.rules = *rules};
	for (unsigned f = 0; f < EX_TOPUP_FIGURE_N; f++)
		g->figure[f] = g->last.figure[f] = NAN;
	if (saved) {
		g->last = *saved;
		g->state = saved->to;
		g->by_figures = saved->by_figures;
		g->pinned = saved->pins;
		g->pin_until_s = saved->until_s;
	}
}

void ex_topup_gate_set_rules(struct ex_topup_gate *g, const struct ex_topup_rules *rules)
{
	g->rules = *rules;
	memset(g->is_bad, 0, sizeof g->is_bad);
	memset(g->is_good, 0, sizeof g->is_good);
}

/* --- figures ------------------------------------------------------------------------------------------------------ */

/* The figure for which state s, or a worse one, is to be entered; EX_TOPUP_FIGURE_N: none. */
static enum ex_topup_figure cause_of(
	const struct ex_topup_gate *g, enum ex_topup_state s, enum ex_topup_state *ret_worst)
{
	for (enum ex_topup_state w = EX_TOPUP_STATE_N; w-- > s;)
		for (enum ex_topup_figure f = 0; f < EX_TOPUP_FIGURE_N; f++)
			if (is_worse(f, g->figure[f], g->rules.at[w][f].enter)) {
				*ret_worst = w;
				return f;
			}
	return EX_TOPUP_FIGURE_N;
}

/* Every figure is on the good side for leaving s and all worse states. */
static bool may_leave(const struct ex_topup_gate *g, enum ex_topup_state s)
{
	for (enum ex_topup_state w = s; w < EX_TOPUP_STATE_N; w++)
		for (enum ex_topup_figure f = 0; f < EX_TOPUP_FIGURE_N; f++) {
			double leave = g->rules.at[w][f].leave;
			if (!isnan(leave) && (isnan(g->figure[f]) || is_worse(f, g->figure[f], leave)))
				return false;
		}
	return true;
}

static void note(bool now_so, bool *so, uint64_t *since_ns, uint64_t now_ns)
{
	if (now_so && !*so)
		*since_ns = now_ns;
	*so = now_so;
}

/* The state that the figures ask for now. */
static enum ex_topup_state wanted(struct ex_topup_gate *g, uint64_t now_ns)
{
	enum ex_topup_state worst, want = g->by_figures;
	for (enum ex_topup_state s = EX_TOPUP_LIMITED; s < EX_TOPUP_STATE_N; s++) {
		note(cause_of(g, s, &worst) != EX_TOPUP_FIGURE_N, &g->is_bad[s], &g->bad_since_ns[s], now_ns);
		note(may_leave(g, s), &g->is_good[s], &g->good_since_ns[s], now_ns);
	}
	for (enum ex_topup_state s = EX_TOPUP_LIMITED; s < EX_TOPUP_STATE_N; s++)
		if (s > want && g->is_bad[s] && now_ns - g->bad_since_ns[s] >= g->rules.enter_dwell_ns)
			want = s;
	if (want > g->by_figures)
		return want;
	while (want > EX_TOPUP_OPEN && g->is_good[want] && now_ns - g->good_since_ns[want] >= g->rules.leave_dwell_ns)
		want--;
	return want;
}

static void add_text(char *out, size_t size, const char *fmt, ...) EX_PRINTF(3, 4);
static void add_text(char *out, size_t size, const char *fmt, ...)
{
	size_t n = strlen(out);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(out + n, size - n, fmt, ap);
	va_end(ap);
}

/* "liability cover 0.81 < 0.90 for 60 s; queue wait p95 2.3 s" */
static void explain(const struct ex_topup_gate *g, enum ex_topup_state to, char out[static EX_TOPUP_REASON_MAX])
{
	enum ex_topup_state worst = to;
	bool closing = to > g->by_figures;
	enum ex_topup_figure cause = closing ? cause_of(g, to, &worst) : EX_TOPUP_FIGURE_N;
	uint64_t dwell_ns = closing ? g->rules.enter_dwell_ns : g->rules.leave_dwell_ns;
	out[0] = '\0';
	if (cause != EX_TOPUP_FIGURE_N)
		add_text(out, EX_TOPUP_REASON_MAX, "%s %.*f%s %c %.*f%s for %g s", figures[cause].name,
			figures[cause].decimals, g->figure[cause], figures[cause].unit,
			figures[cause].low_is_bad ? '<' : '>', figures[cause].decimals, g->rules.at[worst][cause].enter,
			figures[cause].unit, (double)dwell_ns / (double)EX_NS_PER_S);
	else
		add_text(out, EX_TOPUP_REASON_MAX, "good for %g s", (double)dwell_ns / (double)EX_NS_PER_S);
	for (enum ex_topup_figure f = 0; f < EX_TOPUP_FIGURE_N; f++)
		if (f != cause && !isnan(g->figure[f]) && (f < EX_TOPUP_KV || g->figure[f] > 0))
			add_text(out, EX_TOPUP_REASON_MAX, "; %s %.*f%s", figures[f].name, figures[f].decimals,
				g->figure[f], figures[f].unit);
}

/* --- transitions -------------------------------------------------------------------------------------------------- */

static void tell(struct ex_topup_gate *g, enum ex_topup_state to, const char *by, int64_t real_s)
{
	g->last.from = g->state;
	g->last.to = to;
	g->last.by_figures = g->by_figures;
	g->last.real_s = real_s;
	g->last.pins = g->pinned;
	g->last.until_s = g->pinned ? g->pin_until_s : 0;
	memcpy(g->last.figure, g->figure, sizeof g->last.figure);
	snprintf(g->last.by, sizeof g->last.by, "%s", by);
	g->state = to;
}

bool ex_topup_gate_look(
	struct ex_topup_gate *g, const double figure[static EX_TOPUP_FIGURE_N], uint64_t now_ns, int64_t real_s)
{
	memcpy(g->figure, figure, sizeof g->figure);
	enum ex_topup_state want = wanted(g, now_ns);
	uint64_t dwell_ns = want > g->by_figures ? g->rules.enter_dwell_ns : g->rules.leave_dwell_ns;
	bool changed = want != g->by_figures && (!g->ever_changed || now_ns - g->changed_ns >= dwell_ns);
	bool pin_ends = g->pinned && g->pin_until_s && real_s >= g->pin_until_s;
	char reason[EX_TOPUP_REASON_MAX];
	if (changed) {
		explain(g, want, reason);
		g->by_figures = want;
		g->changed_ns = now_ns;
		g->ever_changed = true;
	}
	if (pin_ends) {
		g->pinned = false;
		tell(g, g->by_figures, "auto", real_s);
		snprintf(g->last.reason, sizeof g->last.reason, "the operator's time is over");
		return true;
	}
	if (g->pinned || !changed)
		return false;
	tell(g, want, "auto", real_s);
	memcpy(g->last.reason, reason, sizeof reason);
	return true;
}

void ex_topup_gate_pin(struct ex_topup_gate *g, enum ex_topup_state s, const char *by, const char *reason,
	int64_t until_s, int64_t real_s)
{
	g->pinned = true;
	g->pin_until_s = until_s;
	tell(g, s, by, real_s);
	snprintf(g->last.reason, sizeof g->last.reason, "%s", reason);
}

void ex_topup_gate_unpin(struct ex_topup_gate *g, const char *by, int64_t real_s)
{
	g->pinned = false;
	tell(g, g->by_figures, by, real_s);
	snprintf(g->last.reason, sizeof g->last.reason, "the figures count again");
}

enum ex_topup_verdict ex_topup_gate_decide(const struct ex_topup_gate *g, const struct ex_topup_ask *a)
{
	if (g->state == EX_TOPUP_SUSPENDED && (g->pinned || !a->exempt))
		return EX_TOPUP_HELD;
	if (a->exempt)
		return EX_TOPUP_CREDITED;
	if (g->state == EX_TOPUP_WAITLIST || a->others_wait)
		return EX_TOPUP_WAITS;
	int64_t sum;
	if (g->state == EX_TOPUP_LIMITED &&
		(__builtin_add_overflow(a->amount_nano, a->today_nano, &sum) || sum > a->day_limit_nano))
		return EX_TOPUP_TOO_MUCH;
	return EX_TOPUP_CREDITED;
}
