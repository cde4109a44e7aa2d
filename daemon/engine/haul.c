/* SPDX-License-Identifier: Apache-2.0 */
/* Carrying out a plan. Layer L3. */
#include "engine/haul.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

enum phase { CLAIMING, PLANNING, MOVING, PAUSING, OVER };

struct ex_haul {
	struct ex_haul_opts o;
	/* [owner] */
	enum phase phase;
	uint64_t phase_ns;     /* since when; PAUSING: until when */
	size_t first;          /* open move */
	struct ex_err refused; /* the last claim that was */
	uint64_t usage;        /* at the plan */
	uint64_t load_ns;      /* no load begins before */
	bool again;            /* no more moves of this plan */
	unsigned n_vain, n_ended_at_plan;
	char shut[EX_HAUL_SHUT_MAX][64];
	size_t n_shut;
	/* written by the owner under lock, read by all under lock */
	struct ex_lock lock;
	struct ex_haul_move *move; /* [n] of all rounds */
	size_t n, cap;
	struct ex_haul_sum sum;
};

const char *ex_haul_move_state_name(enum ex_haul_move_state s)
{
	static const char *const name[] = {"waiting", "moving", "settling", "done", "skipped", "failed", "dropped"};
	assert(s < EX_ARRAY_LEN(name));
	return name[s];
}

static void go(struct ex_haul *h, enum phase p, uint64_t now)
{
	h->phase = p;
	h->phase_ns = now;
}

static bool is_stopping(struct ex_haul *h)
{
	ex_lock_take(&h->lock);
	bool stopping = h->sum.stopping;
	ex_lock_give(&h->lock);
	return stopping;
}

static void end(struct ex_haul *h, int rc, const char *text)
{
	h->phase = OVER;
	h->o.ops.release(h->o.ops.ctx);
	ex_lock_take(&h->lock);
	h->sum.over = true;
	h->sum.rc = rc;
	snprintf(h->sum.text, sizeof h->sum.text, "%s", text);
	ex_lock_give(&h->lock);
}

/* --- one move -------------------------------------------------------------------------------------------- */

static bool is_open(const struct ex_haul_move *m)
{
	return m->state < EX_MOVE_DONE;
}

static void set_state(struct ex_haul *h, struct ex_haul_move *m, enum ex_haul_move_state s, uint64_t now)
{
	ex_lock_take(&h->lock);
	m->state = s;
	m->since_ns = now;
	h->sum.n_loaded += s == EX_MOVE_DONE && m->m.load;
	h->sum.n_unloaded += s == EX_MOVE_DONE && !m->m.load;
	h->sum.n_skipped += s == EX_MOVE_SKIPPED;
	h->sum.n_failed += s == EX_MOVE_FAILED;
	h->sum.n_open -= !is_open(m);
	h->sum.bytes += s == EX_MOVE_DONE && m->m.load ? m->m.bytes : 0;
	ex_lock_give(&h->lock);
	if (!is_open(m) && s != EX_MOVE_DROPPED && h->o.ops.moved)
		h->o.ops.moved(h->o.ops.ctx, m);
}

static void set_text(struct ex_haul *h, struct ex_haul_move *m, const char *text)
{
	ex_lock_take(&h->lock);
	snprintf(m->text, sizeof m->text, "%s", text);
	ex_lock_give(&h->lock);
}

/* Nothing more is asked of the host in this go. */
static void shut(struct ex_haul *h, const char *host)
{
	if (h->n_shut < EX_HAUL_SHUT_MAX)
		snprintf(h->shut[h->n_shut], sizeof h->shut[0], "%s", host);
	h->n_shut++; /* beyond the limit it is given up */
}

/* Once more, a while later: true; or, for the last time, `otherwise` (WAITING: nothing is done). */
static bool put_off(struct ex_haul *h, struct ex_haul_move *m, enum ex_haul_move_state otherwise, uint64_t now)
{
	ex_lock_take(&h->lock);
	unsigned n = ++m->n_tries;
	ex_lock_give(&h->lock);
	if (n < EX_HAUL_TRIES_MAX)
		set_state(h, m, EX_MOVE_WAITING, now + (EX_HAUL_BACKOFF_MS << (n - 1)) * EX_NS_PER_MS);
	else if (otherwise != EX_MOVE_WAITING)
		set_state(h, m, otherwise, now);
	return n < EX_HAUL_TRIES_MAX;
}

static void fail(struct ex_haul *h, struct ex_haul_move *m, int rc, const char *text, uint64_t now)
{
	struct ex_place_look l;
	h->o.ops.look(h->o.ops.ctx, m->m.host, &m->m.shard, &l);
	set_text(h, m, text);
	bool gone = !l.there || rc == -ENOTCONN;
	bool final = rc == -ENOMEM || rc == -ETIMEDOUT || rc == -ESHUTDOWN;
	if (!gone && !final && put_off(h, m, EX_MOVE_WAITING, now))
		return;
	if (!gone)
		shut(h, m->m.host);
	h->again = true;
	set_state(h, m, EX_MOVE_FAILED, now);
}

static void follow(struct ex_haul *h, struct ex_haul_move *m, uint64_t now)
{
	const struct ex_haul_ops *ops = &h->o.ops;
	struct ex_err err = EX_ERR_INIT;
	struct ex_place_look l;
	if (m->state == EX_MOVE_SENT) {
		int rc = ops->answer(ops->ctx, &m->m, &err);
		ops->look(ops->ctx, m->m.host, &m->m.shard, &l);
		if (rc == 0)
			set_state(h, m, EX_MOVE_SETTLING, now);
		else if (!l.there || (rc == -EINPROGRESS && now - m->since_ns > h->o.timeout_ns)) {
			ops->drop(ops->ctx, &m->m);
			fail(h, m, l.there ? -ETIMEDOUT : -ENOTCONN,
				l.there ? "no answer within move_timeout_s" : "the host was lost meanwhile", now);
		} else if (rc != -EINPROGRESS)
			fail(h, m, rc, ex_err_text(&err), now);
		return;
	}
	ops->look(ops->ctx, m->m.host, &m->m.shard, &l);
	if (!l.there)
		fail(h, m, -ENOTCONN, "the host was lost meanwhile", now);
	else if (l.holds == m->m.load)
		set_state(h, m, EX_MOVE_DONE, now);
	else if (now - m->since_ns > EX_HAUL_SETTLE_MS * EX_NS_PER_MS)
		fail(h, m, -ETIMEDOUT, "the host says that it is done, but this router does not see it", now);
}

/* An unload that would leave too few is not made: a holder that is suspect may be back soon, so it is looked at again before it is skipped. */
static bool is_safe(struct ex_haul *h, struct ex_haul_move *m, uint64_t now)
{
	struct ex_place_look l;
	char text[EX_HAUL_TEXT_MAX];
	if (m->m.load)
		return true;
	h->o.ops.look(h->o.ops.ctx, m->m.host, &m->m.shard, &l);
	if (l.n_others >= h->o.planner.min_replicas)
		return true;
	snprintf(text, sizeof text, "%u other replica%s could take over for it, and %u must remain: it stays",
		l.n_others, l.n_others == 1 ? "" : "s", h->o.planner.min_replicas);
	set_text(h, m, text);
	put_off(h, m, EX_MOVE_SKIPPED, now);
	return false;
}

static void begin(struct ex_haul *h, struct ex_haul_move *m, uint64_t now)
{
	struct ex_err err = EX_ERR_INIT;
	if (!is_safe(h, m, now))
		return;
	int rc = h->o.ops.send(h->o.ops.ctx, &m->m, &err);
	if (rc < 0) {
		fail(h, m, rc, ex_err_text(&err), now);
		return;
	}
	set_state(h, m, EX_MOVE_SENT, now);
	if (m->m.load && h->o.bytes_per_s)
		h->load_ns = now + (uint64_t)((double)m->m.bytes / (double)h->o.bytes_per_s * (double)EX_NS_PER_S);
}

/* --- a round --------------------------------------------------------------------------------------------- */

/* An open move before it has its host or its shard. */
static bool is_blocked(const struct ex_haul *h, const struct ex_haul_move *m)
{
	for (const struct ex_haul_move *x = &h->move[h->first]; x < m; x++) {
		bool host = x->state < EX_MOVE_SETTLING && strcmp(x->m.host, m->m.host) == 0;
		if (is_open(x) && (host || memcmp(&x->m.shard, &m->m.shard, sizeof m->m.shard) == 0))
			return true;
	}
	return false;
}

static void move_on(struct ex_haul *h, uint64_t now)
{
	unsigned n_sent = 0, n_open = 0;
	bool stop = is_stopping(h);
	while (h->first < h->n && !is_open(&h->move[h->first]))
		h->first++;
	for (size_t i = h->first; i < h->n; i++)
		if (h->move[i].state == EX_MOVE_SENT || h->move[i].state == EX_MOVE_SETTLING) {
			follow(h, &h->move[i], now);
			n_sent += h->move[i].state == EX_MOVE_SENT;
		}
	for (size_t i = h->first; i < h->n && n_open < EX_HAUL_AHEAD_MAX && !h->again && !stop; i++) {
		struct ex_haul_move *m = &h->move[i];
		n_open += is_open(m);
		if (m->state != EX_MOVE_WAITING || n_sent >= h->o.moves_at_once || now < m->since_ns ||
			(m->m.load && now < h->load_ns) || is_blocked(h, m))
			continue;
		begin(h, m, now);
		n_sent += m->state == EX_MOVE_SENT;
	}
}

/* What has not begun is left; false while something is under way. */
static bool drop_rest(struct ex_haul *h, uint64_t now)
{
	bool whole = true;
	for (size_t i = h->first; i < h->n; i++)
		if (h->move[i].state == EX_MOVE_WAITING)
			set_state(h, &h->move[i], EX_MOVE_DROPPED, now);
		else
			whole &= !is_open(&h->move[i]);
	return whole;
}

static void pause_for(struct ex_haul *h, uint64_t now)
{
	uint64_t ms = h->n_vain ? (uint64_t)EX_HAUL_BACKOFF_MS << (h->n_vain - 1) : 0;
	go(h, PAUSING, now + ms * EX_NS_PER_MS);
}

static void finish_round(struct ex_haul *h, uint64_t now)
{
	struct ex_haul_sum s;
	char text[EX_ERR_TEXT_MAX];
	ex_haul_sum(h, &s);
	unsigned n_ended = s.n_loaded + s.n_unloaded;
	h->n_vain = n_ended > h->n_ended_at_plan ? 0 : h->n_vain + 1;
	if (s.stopping)
		end(h, -ECANCELED, "stopped as asked");
	else if (h->again && h->n_shut <= EX_HAUL_SHUT_MAX && h->n_vain < EX_HAUL_VAIN_MAX &&
		 s.n_rounds < EX_HAUL_ROUNDS_MAX)
		pause_for(h, now);
	else if (h->again) {
		snprintf(text, sizeof text, "given up after %u plan%s and %u failed move%s", s.n_rounds,
			s.n_rounds == 1 ? "" : "s", s.n_failed, s.n_failed == 1 ? "" : "s");
		end(h, -EIO, text);
	} else if (s.n_skipped) {
		snprintf(text, sizeof text, "%u unload%s would have left too few replicas", s.n_skipped,
			s.n_skipped == 1 ? "" : "s");
		end(h, -EBUSY, text);
	} else
		end(h, 0, "");
}

static int take_plan(struct ex_haul *h, const struct ex_place *p, uint64_t now)
{
	ex_lock_take(&h->lock);
	int rc = ex_grow(&h->move, &h->cap, h->n + p->n_moves, sizeof *h->move);
	for (size_t i = 0; rc == 0 && i < p->n_moves; i++)
		h->move[h->n++] = (struct ex_haul_move){.m = p->moves[i], .since_ns = now};
	if (rc == 0) {
		h->sum.n_rounds++;
		h->sum.n_open += (unsigned)p->n_moves;
	}
	h->n_ended_at_plan = h->sum.n_loaded + h->sum.n_unloaded;
	ex_lock_give(&h->lock);
	return rc;
}

static void plan(struct ex_haul *h, uint64_t now)
{
	const struct ex_haul_ops *ops = &h->o.ops;
	const char *names[EX_HAUL_SHUT_MAX];
	struct ex_place_opts o = {.planner = h->o.planner, .to_apply = true, .shut = names, .n_shut = h->n_shut};
	struct ex_err err = EX_ERR_INIT;
	struct ex_place p = {0};
	for (size_t i = 0; i < h->n_shut; i++)
		names[i] = h->shut[i];
	if (o.planner.budget_bytes && h->sum.bytes >= o.planner.budget_bytes) {
		end(h, 0, "what may be moved has been");
		return;
	}
	o.planner.budget_bytes -= o.planner.budget_bytes ? h->sum.bytes : 0;
	h->usage = ops->usage(ops->ctx);
	h->again = false;
	int rc = ops->plan(ops->ctx, &o, &err, &p);
	if (rc == 0 && (rc = take_plan(h, &p, now)) < 0)
		ex_err_errno(&err, rc, "cannot take the plan");
	if (rc < 0 && h->sum.n_rounds && ++h->n_vain < EX_HAUL_VAIN_MAX)
		pause_for(h, now); /* there was a plan: who was lost meanwhile may be back soon */
	else if (rc < 0)
		end(h, rc, ex_err_text(&err));
	else {
		if (p.n_moves && ops->begun)
			ops->begun(ops->ctx, &p, h->sum.n_rounds);
		go(h, MOVING, now);
	}
	ex_place_done(&p);
}

static void claim(struct ex_haul *h, uint64_t now)
{
	struct ex_err err = EX_ERR_INIT;
	int rc = h->o.ops.claim(h->o.ops.ctx, &err);
	if (err.code && err.code != -EAGAIN)
		h->refused = err;
	if (rc == 0) {
		h->refused = EX_ERR_INIT;
		go(h, PLANNING, now);
	} else if (now - h->phase_ns > EX_HAUL_CLAIM_MS * EX_NS_PER_MS)
		end(h, h->refused.code ? h->refused.code : -ETIMEDOUT,
			h->refused.code ? ex_err_text(&h->refused) : "the hosts do not answer");
}

bool ex_haul_step(struct ex_haul *h, uint64_t now)
{
	const struct ex_haul_ops *ops = &h->o.ops;
	if (h->phase != MOVING && h->phase != OVER && is_stopping(h))
		end(h, -ECANCELED, "stopped as asked");
	if (h->phase == PAUSING && now >= h->phase_ns)
		go(h, CLAIMING, now);
	if (h->phase == CLAIMING)
		claim(h, now);
	if (h->phase == PLANNING)
		plan(h, now);
	if (h->phase == MOVING) {
		h->again |= h->first < h->n && ops->usage(ops->ctx) != h->usage;
		move_on(h, now);
		bool rest = !h->again && !is_stopping(h);
		if (rest ? h->first >= h->n : drop_rest(h, now))
			finish_round(h, now);
	}
	return h->phase != OVER;
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_haul_new(const struct ex_haul_opts *o, uint64_t now, struct ex_haul **ret)
{
	struct ex_haul *h = ex_calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->o = *o;
	ex_lock_init(&h->lock, "haul");
	go(h, CLAIMING, now);
	*ret = h;
	return 0;
}

struct ex_haul *ex_haul_free(struct ex_haul *h)
{
	if (!h)
		return NULL;
	if (h->phase != OVER)
		h->o.ops.release(h->o.ops.ctx);
	ex_lock_done(&h->lock);
	free(h->move);
	free(h);
	return NULL;
}

void ex_haul_stop(struct ex_haul *h)
{
	ex_lock_take(&h->lock);
	h->sum.stopping = true;
	ex_lock_give(&h->lock);
}

void ex_haul_sum(struct ex_haul *h, struct ex_haul_sum *ret)
{
	ex_lock_take(&h->lock);
	*ret = h->sum;
	ex_lock_give(&h->lock);
}

void ex_haul_each(struct ex_haul *h, void (*fn)(void *ctx, size_t i, const struct ex_haul_move *m), void *ctx)
{
	ex_lock_take(&h->lock);
	for (size_t i = 0; i < h->n; i++)
		fn(ctx, i, &h->move[i]);
	ex_lock_give(&h->lock);
}
