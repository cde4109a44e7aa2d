/* SPDX-License-Identifier: Apache-2.0 */
/* The top-up gate: its figures are gathered here, and looked at on the desk's thread. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "core/config.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TRAIL      "topups.trail"
#define LOOK_NS    EX_NS_PER_S
#define SOLD_PAUSE 20 /* balances are summed up again after that many times as long as it took */

/* One look: a job that is made once. */
struct ex_house_look {
	struct ex_job job;
	struct ex_house *h;
	_Atomic bool under_way;         /* false: the rest is [main]'s */
	struct ex_topups_sample sample; /* [main], then [desk] */
	uint64_t looked_ns;             /* [main] */
	uint32_t n_held_max;            /* [main] most shards that ready hosts ever held */
	uint64_t sold_ns;               /* [desk] when they are summed up again */
	double sold_tokens;             /* [desk] */
	bool told;                      /* [desk] balances could not be read, and that was said */
};

/* --- what became of it [desk] --------------------------------------------------------------------------------------- */

static void on_changed(void *ctx, const struct ex_topup_change *c)
{
	char figure[EX_TOPUP_FIGURE_N][32];
	for (unsigned i = 0; i < EX_TOPUP_FIGURE_N; i++)
		snprintf(figure[i], sizeof figure[i], "%g", c->figure[i]);
	const struct ex_field fields[] = {{"EX_FROM", ex_topup_state_name(c->from)},
		{"EX_TO", ex_topup_state_name(c->to)}, {"EX_BY", c->by}, {"EX_REASON", c->reason},
		{"EX_COVER", figure[EX_TOPUP_COVER]}, {"EX_QUEUE_WAIT", figure[EX_TOPUP_QUEUE_WAIT]},
		{"EX_KV", figure[EX_TOPUP_KV]}, {"EX_THIN_SHARDS", figure[EX_TOPUP_THIN_SHARDS]},
		{"EX_LOST_SHARDS", figure[EX_TOPUP_LOST_SHARDS]}, {NULL, NULL}};
	(void)ctx;
	ex_event(c->to > c->from ? EX_EV_TOPUP_RESTRICTED : EX_EV_TOPUP_EASED, fields, "top-ups: %s, were %s (%s): %s",
		ex_topup_state_name(c->to), ex_topup_state_name(c->from), c->by, c->reason);
}

static void on_unwritten(void *ctx, const struct ex_err *err)
{
	(void)ctx;
	ex_event(EX_EV_TOPUP_TRAIL, NULL, "%s; the state holds until the next restart", ex_err_text(err));
}

struct sum {
	const char *currency;
	double nano;
};

static int add_purse(void *ctx, const struct ex_purse *p)
{
	struct sum *s = ctx;
	if (p->account != EX_ACCOUNT_HOUSE && strcmp(p->currency, s->currency) == 0)
		for (unsigned b = 0; b < EX_BOOK_CUSTOMER_N; b++)
			s->nano += (double)p->balance[b];
	return 0;
}

/* Tokens that all balances could buy, at the mean of what a prompt's and an answer's token cost. Nothing is sold of what has no price. */
static void sum_up(struct ex_house_look *l)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariff t;
	struct ex_store *reader = ex_desk_reader(l->h->desk);
	if (!ex_accounts_tariff(ex_desk_accounts(l->h->desk), l->h->p->model_name, (int64_t)ex_realtime_us(), &t) ||
		t.miss + t.completion == 0) {
		l->sold_tokens = 0;
		return;
	}
	struct sum s = {.currency = t.currency};
	if (reader->ops->each_purse(reader, add_purse, &s, &err) < 0) {
		if (!l->told)
			ex_log(LOG_WARNING, "top-ups: balances cannot be summed up, the last sum stands: %s",
				ex_err_text(&err));
		l->told = true;
		return;
	}
	l->told = false;
	l->sold_tokens = s.nano / ((double)(t.miss + t.completion) / 2);
}

static void look(struct ex_job *j)
{
	struct ex_house_look *l = EX_CONTAINER_OF(j, struct ex_house_look, job);
	uint64_t now_ns = ex_now_ns();
	if (now_ns >= l->sold_ns) {
		sum_up(l);
		l->sold_ns = now_ns + SOLD_PAUSE * (ex_now_ns() - now_ns);
	}
	l->sample.sold_tokens = l->sold_tokens;
	ex_topups_look(l->h->topups, &l->sample, now_ns, (int64_t)(ex_realtime_us() / 1000000));
	atomic_store_explicit(&l->under_way, false, memory_order_release); /* pairs with ex_house_look_topups */
}

/* --- figures [main] ------------------------------------------------------------------------------------------------- */

static void count_host(void *ctx, const struct ex_host_view *v)
{
	uint32_t *n = ctx;
	if (v->local || v->state == EX_HOST_READY)
		*n += v->n_shards;
}

struct replicas {
	uint32_t wanted, thin, lost;
};

static void count_shard(void *ctx, const struct ex_shard_id *id, const char *const *hosts, size_t n_hosts)
{
	struct replicas *r = ctx;
	(void)id, (void)hosts;
	r->thin += n_hosts < r->wanted;
	r->lost += n_hosts == 0;
}

static void gather(struct ex_house *h, struct ex_house_look *l)
{
	struct ex_engine_stat e;
	struct ex_limits_stat s = {.n_waiting = 0};
	struct replicas r = {.wanted = h->p->topup_min_replicas};
	uint32_t n_held = 0;
	ex_engine_stat(h->engine, &e);
	if (h->limits)
		ex_limits_stat(h->limits, &s);
	ex_lock_take(&h->models_lock);
	ex_dispatch_each_host(h->model->dispatch, count_host, &n_held);
	ex_dispatch_each_shard(h->model->dispatch, count_shard, &r);
	ex_lock_give(&h->models_lock);
	l->n_held_max = EX_MAX(l->n_held_max, n_held);
	l->sample = (struct ex_topups_sample){.tokens = e.prompt_tokens + e.generation_tokens,
		.live = l->n_held_max ? (double)n_held / l->n_held_max : 0,
		.waiting = e.waiting || s.n_waiting,
		.queue_wait_s = s.wait_p95_s,
		.kv = e.n_pages ? (double)e.pages_used / e.n_pages : 0,
		.thin = r.thin,
		.lost = r.lost};
}

static void set_metrics(struct ex_house *h)
{
	struct ex_topups_view v;
	ex_topups_view(h->topups, (int64_t)(ex_realtime_us() / 1000000), &v);
	ex_metric_set(ex_metric(EX_M_TOPUP_STATE, NULL), v.state);
	ex_metric_set(ex_metric(EX_M_TOPUP_COVER, NULL), v.figure[EX_TOPUP_COVER]);
}

void ex_house_look_topups(struct ex_house *h, uint64_t now_ns)
{
	struct ex_house_look *l = h->look;
	if (now_ns - l->looked_ns < LOOK_NS || atomic_load_explicit(&l->under_way, memory_order_acquire))
		return;
	l->looked_ns = now_ns;
	set_metrics(h);
	gather(h, l);
	l->job = (struct ex_job){.run = look};
	atomic_store_explicit(&l->under_way, true, memory_order_relaxed);
	if (!ex_desk_push(h->desk, &l->job))
		atomic_store_explicit(&l->under_way, false, memory_order_relaxed);
}

/* --- life ----------------------------------------------------------------------------------------------------------- */

int ex_house_build_topups(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	char trail[PATH_MAX];
	struct ex_topups_opts o = {.trail = trail,
		.horizon_s = p->topup_horizon_s,
		.draw_min = p->topup_draw_percent_min / 100.0,
		.capacity_tokens_s = p->topup_capacity_tokens_s,
		.changed = on_changed,
		.unwritten = on_unwritten};
	int rc = ex_config_topup_rules(p, err, &o.rules);
	if (rc == 0 && snprintf(trail, sizeof trail, "%s/" TRAIL, p->node_state) >= PATH_MAX)
		rc = ex_err_errno(err, -ENAMETOOLONG, "'%s'", p->node_state);
	if (rc == 0)
		rc = ex_topups_open(&o, ex_now_ns(), err, &h->topups);
	if (rc < 0)
		return ex_err_prefix(err, "[topup]");
	rc = ex_topup_service_new(h->desk, h->topups, &h->topup_service);
	if (rc == 0 && !(h->look = ex_calloc(1, sizeof *h->look)))
		rc = -ENOMEM;
	if (rc < 0)
		return ex_err_errno(err, rc, "[topup] cannot make the gate");
	h->look->h = h;
	ex_gate_open(&h->gate_topups, ex_topup_service_methods(h->topup_service, 0));
	return 0;
}

void ex_house_free_topups(struct ex_house *h)
{
	h->topup_service = ex_topup_service_free(h->topup_service);
	h->topups = ex_topups_free(h->topups);
	free(h->look);
	h->look = NULL;
}
