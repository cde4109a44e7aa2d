/* SPDX-License-Identifier: Apache-2.0 */
/* Replies of the Admin service, filled from the rooms. Layer L4. */
#include "admin/views.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "engine/place.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PLAN_THRESHOLD 0.05 /* as expertctl fleet simulate */

/* Makes room for one more pointer in a repeated field, and a zeroed message of `size` bytes for it. NULL: k->oom. */
static void *add_message(struct ex_keep *k, void *array, size_t *n, size_t *cap, size_t size)
{
	void **grown, **old;
	memcpy(&old, array, sizeof old);
	if (*n == *cap) {
		size_t more = *cap ? *cap * 2 : 16;
		grown = ex_keep_alloc(k, more, sizeof *grown);
		if (!grown)
			return NULL;
		if (*n)
			memcpy(grown, old, *n * sizeof *grown);
		memcpy(array, &grown, sizeof grown);
		old = grown;
		*cap = more;
	}
	void *m = ex_keep_alloc(k, 1, size);
	if (m)
		old[(*n)++] = m;
	return m;
}

/* --- status ---------------------------------------------------------------------------------------------- */

static double median(enum ex_metric_id id)
{
	double q = ex_metric_quantile(ex_metric(id, NULL), 0.5);
	return isnan(q) ? 0 : q;
}

static void fill_router(const struct ex_admin_parts *p, Expertd__V1__RouterStatus *r)
{
	struct ex_engine_stat s = {0};
	if (p->engine)
		ex_engine_stat(p->engine, &s);
	r->running = s.running;
	r->waiting = s.waiting;
	r->max_batch = s.max_batch;
	r->kv_pages_used = s.pages_used;
	r->kv_pages = s.n_pages;
	r->kv_page_tokens = s.page_tokens;
	r->context = s.n_ctx;
	r->prompt_tokens = s.prompt_tokens;
	r->generation_tokens = s.generation_tokens;
	r->tokens_per_second = s.tokens_per_s;
	r->ttft_p50_seconds = median(EX_M_TTFT);
	r->itl_p50_seconds = median(EX_M_ITL);
	if (p->dispatch)
		ex_dispatch_coverage(p->dispatch, &r->shards_covered, &r->shards, &r->hosts_ready, &r->hosts);
}

static void count_shard(void *ctx, const struct ex_shard_view *v)
{
	Expertd__V1__ExpertStatus *s = ctx;
	s->shards++;
	s->shards_ready += v->state == EX_SHARD_READY;
	s->shards_failed += v->state == EX_SHARD_FAILED;
	s->bytes += v->bytes;
	s->rows += v->rows;
}

static void fill_model(struct ex_weights *w, struct ex_keep *k, Expertd__V1__StatusReply *r)
{
	struct ex_weights_stat s;
	ex_weights_stat(w, &s);
	r->model_arch = ex_keep_text(k, ex_arch_name(ex_weights_config(w)->arch));
	r->model_digest = ex_keep_text(k, ex_weights_digest(w));
	r->n_params = s.n_params;
}

void ex_view_status(
	const struct ex_admin_opts *o, const struct ex_admin_parts *p, struct ex_keep *k, Expertd__V1__StatusReply *r)
{
	r->node = ex_keep_text(k, o->node);
	r->version = ex_keep_text(k, o->version);
	r->model_name = ex_keep_text(k, o->model_name);
	r->resident_bytes = ex_mem_resident();
	r->available_bytes = ex_mem_available();
	r->roles = ex_keep_alloc(k, 2, sizeof *r->roles);
	if (!r->roles)
		return;
	if (p->weights)
		fill_model(p->weights, k, r);
	if (o->is_expert) {
		r->roles[r->n_roles++] = ex_keep_text(k, "expert");
		r->expert = ex_keep_alloc(k, 1, sizeof *r->expert);
	}
	if (o->is_router) {
		r->roles[r->n_roles++] = ex_keep_text(k, "router");
		r->router = ex_keep_alloc(k, 1, sizeof *r->router);
	}
	if (r->expert) {
		expertd__v1__expert_status__init(r->expert);
		r->expert->plugin = ex_keep_text(k, p->expert_plugin);
		r->expert->threads = p->expert_threads;
		if (p->registry)
			ex_registry_each(p->registry, count_shard, r->expert);
	}
	if (r->router) {
		expertd__v1__router_status__init(r->router);
		fill_router(p, r->router);
	}
}

/* --- hosts ----------------------------------------------------------------------------------------------- */

struct hosts {
	struct ex_keep *k;
	Expertd__V1__ListHostsReply *r;
	size_t cap;
};

static void add_host(void *ctx, const struct ex_host_view *v)
{
	struct hosts *h = ctx;
	Expertd__V1__Host *m = add_message(h->k, &h->r->hosts, &h->r->n_hosts, &h->cap, sizeof *m);
	if (!m)
		return;
	expertd__v1__host__init(m);
	m->name = ex_keep_text(h->k, v->name);
	m->address = ex_keep_text(h->k, v->address);
	m->state = ex_keep_text(h->k, v->local ? "local" : ex_host_state_name(v->state));
	m->shards = v->n_shards;
	m->rtt_p50_seconds = v->rtt_p50_s;
	m->rtt_p99_seconds = v->rtt_p99_s;
	m->rows = v->rows;
	m->errors = v->errors;
	m->error = ex_keep_text(h->k, v->error);
	m->version = ex_keep_text(h->k, v->version);
	m->state_seconds = v->state_s;
	m->shards_alone = v->n_alone;
	m->frames_in_flight = v->n_frames;
	m->load = v->load;
	m->plugin = ex_keep_text(h->k, v->plugin);
	m->identity = ex_keep_text(h->k, v->identity);
	m->zone = ex_keep_text(h->k, v->zone);
	m->memory_bytes = v->memory_bytes;
	m->accepts_moves = v->accepts_moves;
}

static void count_self(void *ctx, const struct ex_shard_view *v)
{
	struct ex_host_view *self = ctx;
	self->rows += v->rows;
	if (v->state != EX_SHARD_READY)
		return;
	ex_shard_count_kind(self->identity, v->identity);
	if (!self->n_shards)
		snprintf(self->plugin, sizeof self->plugin, "%s", v->plugin);
	else if (strcmp(self->plugin, v->plugin) != 0)
		snprintf(self->plugin, sizeof self->plugin, "%s", EX_IDENTITY_MIXED);
	self->n_shards++;
}

void ex_view_hosts(const struct ex_admin_opts *o, const struct ex_admin_parts *p, struct ex_keep *k,
	Expertd__V1__ListHostsReply *r)
{
	struct hosts h = {.k = k, .r = r};
	if (p->dispatch) {
		ex_dispatch_each_host(p->dispatch, add_host, &h);
		return;
	}
	if (!p->registry)
		return;
	/* an expert host without a router knows itself only */
	struct ex_host_view self = {.state = EX_HOST_READY, .local = true};
	ex_registry_each(p->registry, count_self, &self);
	snprintf(self.name, sizeof self.name, "%s", o->node);
	snprintf(self.version, sizeof self.version, "%s", o->version);
	add_host(&h, &self);
}

/* --- placement ------------------------------------------------------------------------------------------- */

static Expertd__V1__PlanFigures *figures(struct ex_keep *k, const struct ex_planner_figures *f)
{
	Expertd__V1__PlanFigures *m = ex_keep_alloc(k, 1, sizeof *m);
	if (!m)
		return NULL;
	expertd__v1__plan_figures__init(m);
	m->imbalance = f->imbalance;
	m->imbalance_layer = f->imbalance_layer;
	m->replicas_min = f->replicas_min;
	m->replicas_max = f->replicas_max;
	m->replicas_mean = f->replicas_mean;
	m->bytes = f->bytes;
	m->shards_uncovered = f->n_uncovered;
	m->shards_under = f->n_under;
	m->shards_few_zones = f->n_few_zones;
	return m;
}

static void add_move(struct ex_keep *k, Expertd__V1__PlanFleetReply *r, size_t *cap, const struct ex_place_move *v)
{
	char name[EX_SHARD_NAME_MAX];
	Expertd__V1__PlanMove *m = add_message(k, &r->moves, &r->n_moves, cap, sizeof *m);
	if (!m)
		return;
	expertd__v1__plan_move__init(m);
	m->host = ex_keep_text(k, v->host);
	m->shard = ex_keep_text(k, ex_shard_name(&v->shard, name));
	m->load = v->load;
	m->bytes = v->bytes;
	m->why = ex_keep_text(k, v->why);
}

void ex_view_planner_opts(
	const struct ex_admin_opts *o, const Expertd__V1__PlanFleetRequest *q, struct ex_planner_opts *ret)
{
	uint32_t min = q->min_replicas ? q->min_replicas : o->min_replicas;
	*ret = (struct ex_planner_opts){
		.min_replicas = min,
		.max_replicas = q->max_replicas ? q->max_replicas : EX_MAX(min, o->max_replicas),
		.budget_bytes = q->budget_bytes,
		.threshold = PLAN_THRESHOLD,
		.repair_only = q->repair_only,
	};
}

int ex_view_plan(const struct ex_admin_opts *o, const struct ex_admin_parts *p, const Expertd__V1__PlanFleetRequest *q,
	struct ex_keep *k, struct ex_err *err, Expertd__V1__PlanFleetReply *r)
{
	struct ex_place plan;
	struct ex_place_opts po = {.to_apply = q->to_apply};
	ex_view_planner_opts(o, q, &po.planner);
	int rc = ex_dispatch_place(p->dispatch, &po, err, &plan);
	if (rc < 0)
		return rc;
	size_t cap = 0;
	for (size_t i = 0; i < plan.n_moves; i++)
		add_move(k, r, &cap, &plan.moves[i]);
	r->before = figures(k, &plan.before);
	r->after = figures(k, &plan.after);
	r->bytes_moved = plan.bytes_moved;
	r->over_budget = plan.over_budget;
	r->hosts = plan.n_hosts;
	r->shards = plan.n_shards;
	ex_place_done(&plan);
	return k->oom ? ex_err_set(err, -ENOMEM, "out of memory for the plan") : 0;
}

struct moves {
	struct ex_keep *k;
	Expertd__V1__FleetStatusReply *r;
	size_t cap;
};

static void add_fleet_move(void *ctx, size_t i, const struct ex_haul_move *v)
{
	struct moves *l = ctx;
	char name[EX_SHARD_NAME_MAX];
	(void)i;
	Expertd__V1__FleetMove *m = add_message(l->k, &l->r->moves, &l->r->n_moves, &l->cap, sizeof *m);
	if (!m)
		return;
	expertd__v1__fleet_move__init(m);
	m->host = ex_keep_text(l->k, v->m.host);
	m->shard = ex_keep_text(l->k, ex_shard_name(&v->m.shard, name));
	m->load = v->m.load;
	m->bytes = v->m.bytes;
	m->why = ex_keep_text(l->k, v->m.why);
	m->state = ex_keep_text(l->k, ex_haul_move_state_name(v->state));
	m->tries = v->n_tries;
	m->text = ex_keep_text(l->k, v->text);
}

void ex_view_moves(const struct ex_admin_parts *p, struct ex_keep *k, Expertd__V1__FleetStatusReply *r)
{
	struct moves l = {.k = k, .r = r};
	struct ex_mover_view v;
	ex_mover_view(p->mover, &v, add_fleet_move, &l);
	r->placement = ex_keep_text(k, v.automatic ? "auto" : "manual");
	r->go = v.go;
	r->why = ex_keep_text(k, v.why);
	r->state = ex_keep_text(k, !v.go || v.sum.over ? "idle" : v.sum.stopping ? "stopping" : "moving");
	r->failed = v.go && v.sum.over && v.sum.rc < 0;
	r->text = ex_keep_text(k, v.sum.text);
	r->plans = v.sum.n_rounds;
	r->loaded = v.sum.n_loaded;
	r->unloaded = v.sum.n_unloaded;
	r->skipped = v.sum.n_skipped;
	r->failures = v.sum.n_failed;
	r->open = v.sum.n_open;
	r->bytes = v.sum.bytes;
}

/* --- shards ---------------------------------------------------------------------------------------------- */

struct shards {
	struct ex_keep *k;
	const char *glob;
	Expertd__V1__ListShardsReply *r;
	size_t cap;
	size_t next; /* of the local ones, when the fleet's are merged in */
};

static Expertd__V1__Shard *new_shard(struct ex_keep *k, const struct ex_shard_id *id)
{
	Expertd__V1__Shard *m = ex_keep_alloc(k, 1, sizeof *m);
	Expertd__V1__ShardInfo *info = m ? ex_keep_alloc(k, 1, sizeof *info) : NULL;
	if (!info)
		return NULL;
	expertd__v1__shard__init(m);
	expertd__v1__shard_info__init(info);
	info->layer = id->layer;
	info->first_expert = id->first_expert;
	info->n_experts = id->n_experts;
	m->info = info;
	return m;
}

static void append_shard(struct shards *s, Expertd__V1__Shard *m)
{
	Expertd__V1__Shard *place = add_message(s->k, &s->r->shards, &s->r->n_shards, &s->cap, sizeof *place);
	if (place)
		s->r->shards[s->r->n_shards - 1] = m;
}

static void add_local_shard(void *ctx, const struct ex_shard_view *v)
{
	struct shards *s = ctx;
	Expertd__V1__Shard *m;
	if (!ex_shard_glob_match(s->glob, &v->id) || !(m = new_shard(s->k, &v->id)))
		return;
	m->info->generation = v->generation;
	m->info->identity = ex_keep_text(s->k, v->identity);
	m->info->plugin = ex_keep_text(s->k, v->plugin);
	m->info->bytes = v->bytes;
	m->info->state = ex_keep_text(s->k, ex_shard_state_name(v->state));
	m->info->error = ex_keep_text(s->k, v->error);
	m->plugin_sha256 = ex_keep_text(s->k, v->sha256);
	m->lingering = v->lingering;
	uint64_t now = ex_now_ns();
	if (v->linger_until_ns > now)
		m->lingering_seconds = (double)(v->linger_until_ns - now) / (double)EX_NS_PER_S;
	append_shard(s, m);
}

struct fleet_shards {
	struct shards all;
	const Expertd__V1__ListShardsReply *local; /* ascending, as the fleet's */
};

static void add_fleet_shard(void *ctx, const struct ex_shard_id *id, const char *const *hosts, size_t n_hosts)
{
	struct fleet_shards *f = ctx;
	struct shards *s = &f->all;
	Expertd__V1__Shard *m = NULL;
	if (!ex_shard_glob_match(s->glob, id))
		return;
	for (; s->next < f->local->n_shards && !m; s->next++) {
		const Expertd__V1__ShardInfo *l = f->local->shards[s->next]->info;
		if (l->layer > id->layer || (l->layer == id->layer && l->first_expert > id->first_expert))
			break;
		if (l->layer == id->layer && l->first_expert == id->first_expert)
			m = f->local->shards[s->next];
	}
	if (!m && (m = new_shard(s->k, id)))
		m->info->state = ex_keep_text(s->k, n_hosts ? "ready" : "missing");
	if (!m || !(m->hosts = ex_keep_alloc(s->k, n_hosts, sizeof *m->hosts)))
		return;
	for (size_t i = 0; i < n_hosts; i++)
		m->hosts[m->n_hosts++] = ex_keep_text(s->k, hosts[i]);
	append_shard(s, m);
}

void ex_view_shards(const struct ex_admin_opts *o, const struct ex_admin_parts *p, const char *glob, struct ex_keep *k,
	Expertd__V1__ListShardsReply *r)
{
	Expertd__V1__ListShardsReply local = EXPERTD__V1__LIST_SHARDS_REPLY__INIT;
	struct shards s = {.k = k, .glob = glob, .r = p->dispatch ? &local : r};
	if (p->registry)
		ex_registry_each(p->registry, add_local_shard, &s);
	if (p->dispatch) {
		struct fleet_shards f = {.all = {.k = k, .glob = glob, .r = r}, .local = &local};
		ex_dispatch_each_shard(p->dispatch, add_fleet_shard, &f);
		return;
	}
	for (size_t i = 0; i < r->n_shards; i++) {
		Expertd__V1__Shard *m = r->shards[i];
		if (strcmp(m->info->state, ex_shard_state_name(EX_SHARD_READY)) == 0 &&
			(m->hosts = ex_keep_alloc(k, 1, sizeof *m->hosts)))
			m->hosts[m->n_hosts++] = ex_keep_text(k, o->node);
	}
}

/* --- plugins --------------------------------------------------------------------------------------------- */

struct plugins {
	struct ex_keep *k;
	const struct ex_admin_parts *parts;
	Expertd__V1__ListPluginsReply *r;
	size_t cap;
};

static void add_plugin(void *ctx, const char *path, const struct ex_plugin *p, const char *why)
{
	static const struct {
		uint64_t flag;
		const char *name;
	} flags[] = {{EXPERTD_UNLOADABLE, "unloadable"}, {EXPERTD_BATCH_INVARIANT, "batch-invariant"}};
	struct plugins *s = ctx;
	Expertd__V1__Plugin *m = add_message(s->k, &s->r->plugins, &s->r->n_plugins, &s->cap, sizeof *m);
	if (!m)
		return;
	expertd__v1__plugin__init(m);
	m->path = ex_keep_text(s->k, path);
	if (!p) {
		m->error = ex_keep_text(s->k, why);
		return;
	}
	const struct expertd_plugin *t = ex_plugin_table(p);
	const char *cannot = NULL;
	m->name = ex_keep_text(s->k, t->name);
	m->version = ex_keep_text(s->k, t->version);
	m->abi_major = t->abi_major;
	m->abi_minor = t->abi_minor;
	m->score = t->probe(&cannot);
	m->why = ex_keep_text(s->k, m->score > 0 ? NULL : cannot);
	m->build_id = ex_keep_text(s->k, ex_plugin_build_id(p));
	m->flags = ex_keep_alloc(s->k, EX_ARRAY_LEN(flags), sizeof *m->flags);
	for (size_t i = 0; m->flags && i < EX_ARRAY_LEN(flags); i++)
		if (t->flags & flags[i].flag)
			m->flags[m->n_flags++] = ex_keep_text(s->k, flags[i].name);
	size_t n = strlen(t->name); /* expert_plugin is "name version .." */
	m->loaded = strncmp(s->parts->expert_plugin, t->name, n) == 0 && s->parts->expert_plugin[n] == ' ';
}

int ex_view_plugins(const struct ex_admin_opts *o, const struct ex_admin_parts *p, struct ex_keep *k,
	struct ex_err *err, Expertd__V1__ListPluginsReply *r)
{
	struct plugins s = {.k = k, .parts = p, .r = r};
	return o->each_plugin(o->ctx, add_plugin, &s, err);
}
