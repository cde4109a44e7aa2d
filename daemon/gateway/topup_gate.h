/* SPDX-License-Identifier: Apache-2.0 */
/* May balances be topped up? open -> limited -> waitlist -> suspended, by figures with hysteresis and dwell, or by an operator's pin. Layer L4.
 *
 * A state is entered when one figure was beyond its `enter` threshold for enter_dwell_ns without a break, and left when every figure was on the good
 * side of its `leave` threshold for leave_dwell_ns. Two transitions by figures are never closer than the dwell of the second. A figure that is not
 * known (NAN) neither closes nor opens. A pin wins over the figures until it ends; meanwhile they are looked at all the same, so that the state is right
 * at once when it ends. Spending is never touched.
 *
 * Reads no clock: now_ns is monotonic, real_s are seconds since the epoch. Not thread-safe. */
#ifndef EX_GATEWAY_TOPUP_GATE_H
#define EX_GATEWAY_TOPUP_GATE_H

#include "base/err.h"
#include <stdbool.h>

enum ex_topup_state { EX_TOPUP_OPEN, EX_TOPUP_LIMITED, EX_TOPUP_WAITLIST, EX_TOPUP_SUSPENDED, EX_TOPUP_STATE_N };
const char *ex_topup_state_name(enum ex_topup_state s); /* "open" */
/* -EINVAL: no such state. */
int ex_topup_state_parse(const char *name, enum ex_topup_state *ret);

enum ex_topup_figure {
	EX_TOPUP_COVER,       /* liability cover; low is bad, all others: high is bad */
	EX_TOPUP_QUEUE_WAIT,  /* 95th percentile, s */
	EX_TOPUP_KV,          /* part of the KV pages in use, 0 to 1 */
	EX_TOPUP_THIN_SHARDS, /* shards with fewer live replicas than wanted */
	EX_TOPUP_LOST_SHARDS, /* shards with none */
	EX_TOPUP_FIGURE_N,
};
const char *ex_topup_figure_name(enum ex_topup_figure f); /* "liability cover" */

struct ex_topup_threshold {
	double enter, leave; /* NAN: the figure does not matter for this state */
};
struct ex_topup_rules {
	struct ex_topup_threshold at[EX_TOPUP_STATE_N][EX_TOPUP_FIGURE_N]; /* [open] is not used */
	uint64_t enter_dwell_ns, leave_dwell_ns;
};
/* -EINVAL: a `leave` is on the bad side of its `enter`, or a worse state's threshold on the good side of a better one's; err names both. */
int ex_topup_rules_check(const struct ex_topup_rules *r, struct ex_err *err);

#define EX_TOPUP_REASON_MAX 256
#define EX_TOPUP_BY_MAX     64

struct ex_topup_change {
	enum ex_topup_state from, to, by_figures; /* by_figures: what it would be without a pin */
	int64_t real_s;
	double figure[EX_TOPUP_FIGURE_N]; /* as they were */
	char by[EX_TOPUP_BY_MAX];         /* "auto", or the operator */
	char reason[EX_TOPUP_REASON_MAX]; /* "liability cover 0.81 < 0.90 for 60 s; queue wait p95 2.3 s" */
	bool pins;                        /* by an operator, to stay */
	int64_t until_s;                  /* of a pin; 0: until it is taken away */
};

struct ex_topup_gate {
	struct ex_topup_rules rules;
	enum ex_topup_state state, by_figures;
	bool pinned;
	int64_t pin_until_s; /* 0: until it is taken away */
	uint64_t changed_ns; /* by_figures changed last */
	bool ever_changed;
	uint64_t bad_since_ns[EX_TOPUP_STATE_N], good_since_ns[EX_TOPUP_STATE_N];
	bool is_bad[EX_TOPUP_STATE_N], is_good[EX_TOPUP_STATE_N];
	double figure[EX_TOPUP_FIGURE_N]; /* of the last look */
	struct ex_topup_change last;      /* what made the state what it is */
};
/* Open, or as saved: what was `last` when the process ended, pin included. NULL: nothing was saved. rules must be good. */
void ex_topup_gate_init(
	struct ex_topup_gate *g, const struct ex_topup_rules *rules, const struct ex_topup_change *saved);
/* Other thresholds from now on; what was counted towards the old ones is forgotten. */
void ex_topup_gate_set_rules(struct ex_topup_gate *g, const struct ex_topup_rules *rules);
/* To be called about once a second with the figures. True: the state changed, or a pin ended; g->last tells it. */
bool ex_topup_gate_look(
	struct ex_topup_gate *g, const double figure[static EX_TOPUP_FIGURE_N], uint64_t now_ns, int64_t real_s);
/* An operator sets the state, until until_s (0: for good) or the next pin. g->last tells it. */
void ex_topup_gate_pin(struct ex_topup_gate *g, enum ex_topup_state s, const char *by, const char *reason,
	int64_t until_s, int64_t real_s);
/* The figures count again. g->last tells it. */
void ex_topup_gate_unpin(struct ex_topup_gate *g, const char *by, int64_t real_s);

/* What becomes of a payment. */
enum ex_topup_verdict { EX_TOPUP_CREDITED, EX_TOPUP_TOO_MUCH, EX_TOPUP_WAITS, EX_TOPUP_HELD };
const char *ex_topup_verdict_name(enum ex_topup_verdict v); /* "credited", "limited", "waitlisted", "held" */
struct ex_topup_ask {
	int64_t amount_nano, today_nano,
		day_limit_nano; /* credited to the account today already; what may be while limited */
	bool exempt;            /* its tier: only a pinned suspension holds for it */
	bool others_wait;       /* somebody is on the waitlist: nobody overtakes */
};
enum ex_topup_verdict ex_topup_gate_decide(const struct ex_topup_gate *g, const struct ex_topup_ask *a);

#endif
