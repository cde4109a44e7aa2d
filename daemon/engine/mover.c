/* SPDX-License-Identifier: Apache-2.0 */
/* The mover's thread: it carries out the plan at hand, and looks whether one is due. Layer L3. */
#include "engine/mover.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "engine/porter.h"
#include <stdio.h>
#include <string.h>

struct ex_mover {
	struct ex_mover_opts o;
	struct ex_porter *porter; /* [mover] */
	pthread_t thread;
	_Atomic uint64_t turns;

	struct ex_lock lock;
	pthread_cond_t wake, turned;
	/* guarded by lock */
	bool turning;          /* the thread looks at the fleet */
	const char *suspended; /* why nothing begins; NULL: it may */
	bool stop, automatic, poked;
	struct ex_haul *haul; /* changed by the thread, and by apply when it is over; NULL: none yet */
	uint64_t go;
	char why[128];
	bool running; /* haul is not over */

	/* [mover] of auto */
	bool is_repair; /* the plan at hand */
	uint64_t usage, usage_ns, under_ns, repair_ns, even_ns;
	unsigned n_vain, n_streak;
};

/* --- the fleet, for haul --------------------------------------------------------------------------------- */

static int op_plan(void *ctx, const struct ex_place_opts *o, struct ex_err *err, struct ex_place *ret)
{
	struct ex_mover *m = ctx;
	return ex_dispatch_place(m->o.dispatch, o, err, ret);
}

struct claims {
	struct ex_mover *m;
	struct ex_err err; /* the first one */
	bool pending;
};

static void claim_host(void *ctx, const struct ex_host_view *v)
{
	struct claims *c = ctx;
	struct ex_err err = EX_ERR_INIT;
	bool usable =
		v->state == EX_HOST_READY || v->state == EX_HOST_SUSPECT || (v->state == EX_HOST_DRAINING && !v->stops);
	if (v->local || !usable || !v->accepts_moves)
		return;
	int rc = ex_porter_claim(c->m->porter, v->name, v->address, &err);
	c->pending |= rc < 0;
	if (rc < 0 && rc != -EAGAIN && !c->err.code)
		c->err = err;
}

static int op_claim(void *ctx, struct ex_err *err)
{
	struct claims c = {.m = ctx, .err = EX_ERR_INIT};
	ex_dispatch_each_host(c.m->o.dispatch, claim_host, &c);
	if (c.err.code)
		*err = c.err;
	return c.err.code ? c.err.code : c.pending ? -EAGAIN : 0;
}

static void op_release(void *ctx)
{
	struct ex_mover *m = ctx;
	ex_porter_release(m->porter);
}

static void op_look(void *ctx, const char *host, const struct ex_shard_id *shard, struct ex_place_look *ret)
{
	struct ex_mover *m = ctx;
	ex_dispatch_look(m->o.dispatch, host, shard, ret);
}

static uint64_t op_usage(void *ctx)
{
	struct ex_mover *m = ctx;
	return ex_dispatch_usage(m->o.dispatch);
}

static int op_send(void *ctx, const struct ex_place_move *v, struct ex_err *err)
{
	struct ex_mover *m = ctx;
	return ex_porter_send(m->porter, v, err);
}

static int op_answer(void *ctx, const struct ex_place_move *v, struct ex_err *err)
{
	struct ex_mover *m = ctx;
	return ex_porter_answer(m->porter, v, err);
}

static void op_drop(void *ctx, const struct ex_place_move *v)
{
	struct ex_mover *m = ctx;
	ex_porter_drop(m->porter, v->host);
}

static void op_begun(void *ctx, const struct ex_place *p, unsigned round)
{
	struct ex_mover *m = ctx;
	m->o.begun(m->o.ctx, m->why, p, round);
}

static void op_moved(void *ctx, const struct ex_haul_move *v)
{
	struct ex_mover *m = ctx;
	m->o.moved(m->o.ctx, v);
}

static void on_changed(void *ctx)
{
	struct ex_mover *m = ctx;
	ex_lock_take(&m->lock);
	m->poked = true;
	pthread_cond_signal(&m->wake);
	ex_lock_give(&m->lock);
}

/* --- beginning ------------------------------------------------------------------------------------------- */

/* In place of the one before, which is over. Under m->lock. */
static int start(struct ex_mover *m, const struct ex_planner_opts *planner, const char *why)
{
	const struct ex_haul_opts o = {
		.planner = *planner,
		.moves_at_once = m->o.moves_at_once,
		.bytes_per_s = m->o.bytes_per_s,
		.timeout_ns = m->o.timeout_s * EX_NS_PER_S,
		.ops = {op_plan, op_claim, op_release, op_look, op_usage, op_send, op_answer, op_drop, op_begun,
			op_moved, m},
	};
	struct ex_haul *haul;
	int rc = ex_haul_new(&o, ex_now_ns(), &haul);
	if (rc < 0)
		return rc;
	ex_haul_free(m->haul);
	m->haul = haul;
	m->running = true;
	m->go++;
	snprintf(m->why, sizeof m->why, "%s", why);
	pthread_cond_signal(&m->wake);
	return 0;
}

/* Under m->lock. */
static int check_idle(const struct ex_mover *m, struct ex_err *err)
{
	if (m->suspended)
		return ex_err_set(err, -EBUSY, "%s", m->suspended);
	if (m->running)
		return ex_err_set(err, -EBUSY,
			"plan %llu is being carried out (%s): see fleet status, fleet apply --stop",
			(unsigned long long)m->go, m->why);
	return 0;
}

int ex_mover_apply(struct ex_mover *m, const struct ex_planner_opts *o, struct ex_err *err, uint64_t *ret_go)
{
	ex_lock_take(&m->lock);
	int rc = check_idle(m, err);
	if (rc == 0 && (rc = start(m, o, "asked for by an operator")) < 0)
		ex_err_errno(err, rc, "cannot begin");
	if (rc == 0)
		*ret_go = m->go;
	ex_lock_give(&m->lock);
	return rc;
}

int ex_mover_stop(struct ex_mover *m, struct ex_err *err)
{
	ex_lock_take(&m->lock);
	int rc = m->running ? 0 : ex_err_set(err, -ENOENT, "no plan is being carried out");
	if (rc == 0)
		ex_haul_stop(m->haul);
	ex_lock_give(&m->lock);
	return rc;
}

int ex_mover_suspend(struct ex_mover *m, const char *why, struct ex_err *err)
{
	ex_lock_take(&m->lock);
	int rc = check_idle(m, err);
	if (rc == 0)
		m->suspended = why;
	while (rc == 0 && m->turning)
		ex_cond_wait(&m->turned, &m->lock);
	ex_lock_give(&m->lock);
	return rc;
}

void ex_mover_resume(struct ex_mover *m, struct ex_dispatch *d, const char *model_digest)
{
	ex_lock_take(&m->lock);
	assert(m->suspended && !m->running);
	while (m->turning)
		ex_cond_wait(&m->turned, &m->lock);
	m->o.dispatch = d;
	ex_porter_set_model(m->porter, model_digest);
	m->suspended = NULL;
	ex_lock_give(&m->lock);
}

bool ex_mover_set_auto(struct ex_mover *m, bool automatic)
{
	ex_lock_take(&m->lock);
	bool before = m->automatic;
	m->automatic = automatic;
	ex_lock_give(&m->lock);
	return before;
}

/* --- auto [mover] ---------------------------------------------------------------------------------------- */

static struct ex_planner_opts auto_opts(const struct ex_mover *m, bool repair)
{
	return (struct ex_planner_opts){
		.min_replicas = m->o.min_replicas,
		.max_replicas = EX_MAX(m->o.min_replicas, m->o.max_replicas),
		.threshold = m->o.threshold,
		.repair_only = repair,
	};
}

static void begin_auto(struct ex_mover *m, bool repair, const char *why)
{
	const struct ex_planner_opts o = auto_opts(m, repair);
	ex_lock_take(&m->lock);
	if (!m->running && !m->suspended && start(m, &o, why) == 0)
		m->is_repair = repair;
	ex_lock_give(&m->lock);
}

/* Shards with too few replicas, for long enough. */
static bool look_for_repair(struct ex_mover *m, uint64_t now)
{
	char why[128];
	uint32_t n = ex_dispatch_n_under(m->o.dispatch, m->o.min_replicas);
	if (!n) {
		m->under_ns = m->repair_ns = 0;
		m->n_vain = 0;
		return false;
	}
	if (!m->under_ns)
		m->under_ns = now;
	if (now - m->under_ns >= m->o.repair_s * EX_NS_PER_S && now >= m->repair_ns) {
		snprintf(why, sizeof why, "%u shard%s had fewer than %u replicas for %u s", n, n == 1 ? "" : "s",
			m->o.min_replicas, m->o.repair_s);
		begin_auto(m, true, why);
	}
	return true;
}

/* There is something to move; or no plan, which is to be told. */
static bool is_uneven(struct ex_mover *m)
{
	const struct ex_place_opts o = {.planner = auto_opts(m, false), .to_apply = true};
	struct ex_err err = EX_ERR_INIT;
	struct ex_place p;
	if (ex_dispatch_place(m->o.dispatch, &o, &err, &p) < 0)
		return true;
	bool uneven = p.n_moves > 0;
	ex_place_done(&p);
	return uneven;
}

static void look_for_auto(struct ex_mover *m, uint64_t now)
{
	uint64_t usage = ex_dispatch_usage(m->o.dispatch), pause = m->o.interval_s * EX_NS_PER_S;
	if (usage != m->usage || !m->usage_ns) {
		m->usage = usage;
		m->usage_ns = now;
		m->n_streak = 0;
		m->even_ns = now + pause;
	}
	if (look_for_repair(m, now) || now < m->even_ns)
		return;
	m->even_ns = now + (pause << m->n_streak);
	if (ex_dispatch_rows_lately(m->o.dispatch) < EX_MOVER_ROWS_MIN)
		return;
	if (is_uneven(m))
		begin_auto(m, false, "the load was to be evened out");
	else
		m->n_streak = 0;
}

static void note_end(struct ex_mover *m, const struct ex_haul_sum *s)
{
	uint64_t now = ex_now_ns();
	bool moved = s->n_loaded + s->n_unloaded > 0;
	if (m->is_repair) {
		m->n_vain = s->rc == 0 || moved ? 0 : EX_MIN(m->n_vain + 1, (unsigned)EX_MOVER_BACKOFF_MAX);
		m->repair_ns = now + (EX_MAX(m->o.repair_s, 1u) * EX_NS_PER_S << m->n_vain);
	}
	m->n_streak = !moved || m->is_repair ? 0 : EX_MIN(m->n_streak + 1, (unsigned)EX_MOVER_STREAK_MAX);
	m->even_ns = now + (m->o.interval_s * EX_NS_PER_S << m->n_streak);
	m->is_repair = false;
}

/* --- the thread ------------------------------------------------------------------------------------------ */

/* One look; true while a plan is being carried out. */
static bool turn(struct ex_mover *m)
{
	ex_lock_take(&m->lock);
	bool running = m->running, automatic = m->automatic && !m->suspended;
	struct ex_haul *haul = m->haul; /* nobody takes its place while it runs */
	ex_lock_give(&m->lock);
	if (running && !ex_haul_step(haul, ex_now_ns())) {
		struct ex_haul_sum s;
		ex_haul_sum(haul, &s);
		note_end(m, &s);
		m->o.ended(m->o.ctx, m->why, &s);
		ex_lock_take(&m->lock);
		m->running = running = false;
		ex_lock_give(&m->lock);
	} else if (!running && automatic)
		look_for_auto(m, ex_now_ns());
	else if (!running)
		m->usage_ns = m->under_ns = 0;
	return running;
}

static void *mover_main(void *arg)
{
	struct ex_mover *m = arg;
	pthread_setname_np(pthread_self(), "mover");
	ex_lock_take(&m->lock);
	while (!m->stop) {
		m->poked = false;
		m->turning = true;
		ex_lock_give(&m->lock);
		bool running = turn(m);
		atomic_fetch_add_explicit(&m->turns, 1, memory_order_relaxed);
		uint64_t until = ex_now_ns() + (running ? EX_MOVER_TICK_MS : EX_MOVER_IDLE_MS) * EX_NS_PER_MS;
		ex_lock_take(&m->lock);
		m->turning = false;
		pthread_cond_broadcast(&m->turned);
		if (!m->stop && !m->poked && m->running == running)
			ex_cond_wait_until(&m->wake, &m->lock, until);
	}
	ex_lock_give(&m->lock);
	return NULL;
}

/* --- views and life -------------------------------------------------------------------------------------- */

void ex_mover_view(struct ex_mover *m, struct ex_mover_view *ret,
	void (*fn)(void *ctx, size_t i, const struct ex_haul_move *m), void *ctx)
{
	*ret = (struct ex_mover_view){.go = 0};
	ex_lock_take(&m->lock);
	ret->automatic = m->automatic;
	ret->go = m->go;
	memcpy(ret->why, m->why, sizeof ret->why);
	if (m->haul) {
		ex_haul_sum(m->haul, &ret->sum);
		ret->sum.over = !m->running;
		ex_haul_each(m->haul, fn, ctx);
	}
	ex_lock_give(&m->lock);
}

uint64_t ex_mover_turns(const struct ex_mover *m)
{
	return atomic_load_explicit(&m->turns, memory_order_relaxed);
}

int ex_mover_new(const struct ex_mover_opts *o, struct ex_err *err, struct ex_mover **ret)
{
	struct ex_mover *m = ex_calloc(1, sizeof *m);
	if (!m)
		return ex_err_errno(err, -ENOMEM, "cannot start the mover");
	m->o = *o;
	m->automatic = o->automatic;
	ex_lock_init(&m->lock, "mover");
	ex_cond_init(&m->wake);
	ex_cond_init(&m->turned);
	const struct ex_porter_opts po = {.loop = o->loop,
		.tls = o->tls,
		.node = o->node,
		.model_digest = o->model_digest,
		.n_groups = o->n_groups,
		.changed = on_changed,
		.ctx = m};
	int rc = ex_porter_new(&po, &m->porter);
	if (rc == 0)
		rc = -pthread_create(&m->thread, NULL, mover_main, m);
	if (rc < 0) {
		ex_porter_free(m->porter);
		pthread_cond_destroy(&m->wake);
		pthread_cond_destroy(&m->turned);
		ex_lock_done(&m->lock);
		free(m);
		return ex_err_errno(err, rc, "cannot start the mover");
	}
	*ret = m;
	return 0;
}

struct ex_mover *ex_mover_free(struct ex_mover *m)
{
	if (!m)
		return NULL;
	ex_lock_take(&m->lock);
	m->stop = true;
	pthread_cond_signal(&m->wake);
	ex_lock_give(&m->lock);
	pthread_join(m->thread, NULL);
	ex_haul_free(m->haul); /* releases its claims */
	ex_porter_free(m->porter);
	pthread_cond_destroy(&m->wake);
	pthread_cond_destroy(&m->turned);
	ex_lock_done(&m->lock);
	free(m);
	return NULL;
}
