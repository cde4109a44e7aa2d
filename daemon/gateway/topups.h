/* SPDX-License-Identifier: Apache-2.0 */
/* The top-up gate of one process: its figures, its trail on disk, its state for people. Layer L4.
 *
 * Every change is one line of JSON, appended to the trail and synced before anybody is told; nothing in it is ever changed. The last line is the
 * state that the next process begins with, a pin included. Looking, pinning and unpinning write to disk: they are for a thread that may block,
 * one call at a time [desk]; all else is [any]. */
#ifndef EX_GATEWAY_TOPUPS_H
#define EX_GATEWAY_TOPUPS_H

#include "base/str.h"
#include "gateway/cover.h"
#include "gateway/topup_gate.h"

#define EX_TOPUPS_HISTORY_MAX 32
#define EX_TOPUPS_LINE_MAX    2048

struct ex_topups_opts {
	const char *trail; /* path; copied */
	struct ex_topup_rules rules;
	double horizon_s, draw_min; /* as ex_cover_in */
	double capacity_tokens_s;   /* declared; 0: not */
	/* The state changed. [desk] */
	void (*changed)(void *ctx, const struct ex_topup_change *c);
	/* A change by figures could not be written to the trail; it holds all the same. [desk] */
	void (*unwritten)(void *ctx, const struct ex_err *err);
	void *ctx;
};

struct ex_topups;
/* Opens the trail, or makes it. -EINVAL: its last lines are none of ours. */
int ex_topups_open(const struct ex_topups_opts *o, uint64_t now_ns, struct ex_err *err, struct ex_topups **ret);
struct ex_topups *ex_topups_free(struct ex_topups *t);
EX_DEFINE_CLEANUP(struct ex_topups, ex_topups_free)

struct ex_topups_sample {
	uint64_t tokens;         /* served since the start */
	double live;             /* part of the fleet that lives */
	bool waiting;            /* somebody waits for a place */
	double sold_tokens;      /* that all balances could buy */
	double queue_wait_s, kv; /* 95th percentile; 0 to 1 */
	uint32_t thin, lost;     /* shards with too few holders, with none */
};
/* About once a second. [desk] */
void ex_topups_look(struct ex_topups *t, const struct ex_topups_sample *s, uint64_t now_ns, int64_t real_s);
/* By an operator. until_s 0: until it is taken back. An error: nothing was changed. [desk] */
int ex_topups_pin(struct ex_topups *t, enum ex_topup_state s, const char *by, const char *reason, int64_t until_s,
	int64_t real_s, struct ex_err *err);
/* The figures count again. -EALREADY: they do. [desk] */
int ex_topups_unpin(struct ex_topups *t, const char *by, int64_t real_s, struct ex_err *err);

struct ex_topups_view {
	enum ex_topup_state state;
	bool pinned;
	int64_t until_s;
	struct ex_topup_change last; /* real_s 0: never changed */
	double figure[EX_TOPUP_FIGURE_N];
	double capacity_tokens_s, sold_tokens, burn_tokens_s, draw,
		horizon_s; /* what cover was made of; NAN: not known */
	int64_t reopens_s; /* when it is expected to be open; 0: it is, -1: nobody can say */
	uint32_t n_history;
	struct ex_topup_change history[EX_TOPUPS_HISTORY_MAX]; /* the newest last */
};
void ex_topups_view(struct ex_topups *t, int64_t real_s, struct ex_topups_view *ret);
/* The body of GET /v1/topups/status. */
void ex_topups_status(struct ex_topups *t, int64_t real_s, struct ex_str *out);

/* One line of the trail, without the newline, and back. -EINVAL: it is none. */
void ex_topups_line(const struct ex_topup_change *c, struct ex_str *out);
int ex_topups_line_parse(const char *line, size_t n, struct ex_topup_change *ret);

#endif
