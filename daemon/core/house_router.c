/* SPDX-License-Identifier: Apache-2.0 */
/* The router role: tokenizer, dispatch, trunk, engine, Router service. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include <config.h> /* of the build; not core/config.h */
#include <stdio.h>
#include <systemd/sd-daemon.h>

#define CONTEXT_AUTO_MAX  8192 /* context = auto does not go beyond it: the cache of a long context is large */
#define COVERAGE_SLICE_MS 200
#define COVERAGE_TELL_NS  (2 * EX_NS_PER_S) /* waiting that long is told in the journal, and again every minute */

static void on_host_changed(void *ctx, const char *host, const char *address, enum ex_host_state s, const char *why)
{
	const struct ex_field fields[] = {{"EX_PEER", address}, {"EX_HOST", host}, {NULL, NULL}};
	const struct ex_house_model *m = ctx;
	if (atomic_load_explicit(&m->quiet, memory_order_relaxed))
		return;
	if (s == EX_HOST_READY)
		ex_event(EX_EV_HOST_READY, fields, "expert host %s (%s) is ready", host && *host ? host : "?", address);
	else if (s == EX_HOST_SUSPECT)
		ex_event(EX_EV_HOST_SUSPECT, fields, "expert host %s (%s) is suspect: %s; others are asked instead",
			host && *host ? host : "?", address, why);
	else if (s == EX_HOST_DRAINING)
		ex_event(EX_EV_HOST_DRAINING, fields, "expert host %s (%s) is draining: others are asked instead",
			host && *host ? host : "?", address);
	else if (s == EX_HOST_DOWN)
		ex_event(EX_EV_HOST_DOWN, fields, "expert host %s (%s) is down: %s", host && *host ? host : "?",
			address, why ? why : "unknown reason");
}

static void on_identity_changed(void *ctx, const struct ex_shard_id *shard, const char *host)
{
	char name[EX_SHARD_NAME_MAX];
	const struct ex_field fields[] = {{"EX_SHARD", ex_shard_name(shard, name)}, {"EX_PEER", host}, {NULL, NULL}};
	(void)ctx;
	ex_metric_add(ex_metric(EX_M_IDENTITY_CHANGES, NULL), 1);
	ex_event(EX_EV_IDENTITY_CHANGED, fields,
		"shard %s is computed by %s with another numeric identity: bits may differ from before", name, host);
}

static void on_differs(void *ctx, const struct ex_shard_id *shard, const char *host, const char *other)
{
	char name[EX_SHARD_NAME_MAX];
	const struct ex_field fields[] = {
		{"EX_SHARD", ex_shard_name(shard, name)}, {"EX_HOST", host}, {"EX_OTHER", other}, {NULL, NULL}};
	(void)ctx;
	ex_metric_add(ex_metric(EX_M_VERIFY_DIFFERENCES, NULL), 1);
	ex_event(EX_EV_VERIFY_DIFFERS, fields, "shard %s: the results of %s and %s differ; those of %s were used", name,
		host, other, host);
}

int ex_house_open_dispatch(struct ex_house_model *m, const char *const *peers, size_t n_peers, struct ex_err *err)
{
	struct ex_house *h = m->house;
	static const uint32_t dtype[] = {EXPERTD_F32, EXPERTD_BF16}; /* as dispatch_dtype's choices */
	const struct ex_params *p = h->p;
	const struct ex_model_config *c = ex_weights_config(m->weights);
	const struct ex_dispatch_opts o = {
		.node = p->node_name,
		.version = PACKAGE_VERSION,
		.model_digest = ex_weights_digest(m->weights),
		.epoch = ex_epoch_of(ex_weights_digest(m->weights)),
		.d_model = c->d_model,
		.n_layers = c->n_layers,
		.n_experts = c->n_experts,
		.n_groups = h->n_groups,
		.first_k_dense = c->first_k_dense,
		.moe_layer_freq = c->moe_layer_freq,
		.rows_max = p->router_step_tokens_max,
		.topk = c->n_experts_per_tok,
		.x_dtype = dtype[p->router_dispatch_dtype],
		.local = h->executor,
		.registry = h->registry,
		.loop_data = h->loop_dispatch,
		.loop_control = h->loop_control,
		.tls = h->tls,
		.plain_data = ex_config_tls(p) == EX_TLS_CONTROL,
		.peers = peers,
		.n_peers = n_peers,
		.connect_ms = p->router_connect_ms,
		.heartbeat_ms = p->router_heartbeat_ms,
		.frame_timeout_ms = p->router_frame_timeout_ms,
		.late_ms = p->router_late_ms,
		.hold_ms = p->router_hold_ms,
		.failover = (enum ex_failover)p->router_failover,
		.hedge = (enum ex_hedge)p->router_hedge,
		.hedge_ms = p->router_hedge_ms,
		.hedge_budget_percent = p->router_hedge_budget_percent,
		.verify_percent = p->router_verify_percent,
		.differs = on_differs,
		.identity_changed = on_identity_changed,
		.host_changed = on_host_changed,
		.ctx = m,
	};
	return ex_dispatch_new(&o, err, &m->dispatch);
}

/* Context and pages of the KV cache from the parameters, the model and the memory. o: for one page. */
static int size_cache(struct ex_house *h, const struct ex_trunk_opts *o, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	const uint32_t limit = ex_weights_config(h->weights)->n_ctx_max, page_tokens = p->router_page_tokens;
	uint64_t weights, page_bytes, buffers;
	h->n_ctx = p->router_context ? p->router_context : EX_MIN(limit, (uint32_t)CONTEXT_AUTO_MAX);
	if (h->n_ctx > limit)
		return ex_err_set(err, -EINVAL, "[router] context = %u, but the model's limit is %u", h->n_ctx, limit);
	int rc = ex_trunk_bytes(h->weights, o, &weights, &page_bytes, &buffers);
	if (rc < 0 || page_bytes == 0)
		return ex_err_errno(err, rc < 0 ? rc : -EINVAL, "cannot tell the size of the KV cache");
	uint64_t one = EX_CEIL_DIV(h->n_ctx, page_tokens), all = one * p->router_max_batch;
	uint64_t budget = p->router_kv_bytes ? p->router_kv_bytes : ex_mem_available() / 4;
	uint64_t n = EX_MIN(budget / page_bytes, p->router_kv_bytes ? UINT32_MAX : all);
	if (n < one && p->router_kv_bytes)
		return ex_err_set(err, -EINVAL,
			"[router] kv_bytes holds %llu tokens, less than one sequence of context = %u",
			(unsigned long long)(n * page_tokens), h->n_ctx);
	h->n_pages = (uint32_t)EX_MAX(n, one);
	char need[3][EX_BYTES_TEXT_MAX], there[EX_BYTES_TEXT_MAX];
	ex_log(LOG_INFO,
		"loading the trunk with plugin %s: %s of weights, %s of KV cache (%u pages of %u tokens), %s of "
		"buffers needed, %s available",
		h->trunk_host.name, ex_bytes_text(weights, need[0]), ex_bytes_text(page_bytes * h->n_pages, need[1]),
		h->n_pages, page_tokens, ex_bytes_text(buffers, need[2]), ex_bytes_text(ex_mem_available(), there));
	return 0;
}

static struct ex_trunk_opts trunk_opts(struct ex_house *h)
{
	const struct ex_params *p = h->p;
	const char *why;
	return (struct ex_trunk_opts){
		.ops = ex_plugin_ops(h->trunk_plugin, &why),
		.host = &h->trunk_host.host,
		.which = p->router_device,
		.rows_max = p->router_step_tokens_max,
		.logits_max = p->router_max_batch,
		.page_tokens = p->router_page_tokens,
		.check_finite = p->model_check_finite,
	};
}

static void on_trunk_progress(void *ctx, uint64_t done, uint64_t total)
{
	ex_house_progress(ctx, "loading the trunk, MiB", done >> 20, total >> 20);
}

/* The first model's, which the sizes come from. */
static int size_trunk(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	int rc = ex_house_open_plugin(p->router_plugin, p->router_plugin_dir, p->router_threads, &p->router_options,
		err, &h->trunk_host, &h->trunk_plugin);
	if (rc < 0)
		return ex_err_prefix(err, "[router] plugin");
	const char *why = NULL;
	const struct ex_ops *ops = ex_plugin_ops(h->trunk_plugin, &why);
	if (!ops)
		return ex_err_set(err, -ENOTSUP, "[router] plugin: '%s' has no trunk backend for this daemon: %s",
			h->trunk_host.name, why ? why : "it exports none");
	struct ex_trunk_opts o = trunk_opts(h);
	o.n_pages = 1;
	o.n_ctx = p->router_context ? p->router_context
				    : EX_MIN(ex_weights_config(h->weights)->n_ctx_max, (uint32_t)CONTEXT_AUTO_MAX);
	return size_cache(h, &o, err);
}

/* A second model must leave what shards leave. */
static int check_room(struct ex_house_model *m, const struct ex_trunk_opts *o, struct ex_err *err)
{
	uint64_t weights, kv, buffers;
	int rc = ex_trunk_bytes(m->weights, o, &weights, &kv, &buffers);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot tell the size of the trunk");
	return ex_registry_check_room(weights + kv + buffers, err);
}

static int open_trunk(struct ex_house_model *m, struct ex_err *err)
{
	struct ex_house *h = m->house;
	struct ex_trunk_opts o = trunk_opts(h);
	o.n_ctx = h->n_ctx;
	o.n_pages = h->n_pages;
	if (!h->model) { /* at the start; a switch tells its own way */
		o.progress = on_trunk_progress;
		o.progress_ctx = h;
	} else {
		uint32_t limit = ex_weights_config(m->weights)->n_ctx_max;
		int rc = h->n_ctx > limit ? ex_err_set(err, -EINVAL, "'%s' has a context of %u, this router serves %u",
						    m->dir, limit, h->n_ctx)
					  : check_room(m, &o, err);
		if (rc < 0)
			return rc;
	}
	return ex_trunk_open(m->weights, &o, err, &m->trunk);
}

static int build_engine(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	const struct ex_engine_opts o = {
		.trunk = h->model->trunk,
		.dispatch = h->model->dispatch,
		.config = ex_weights_config(h->model->weights),
		.tokenizer = h->model->tokenizer,
		.chat = h->model->chat,
		.user = h->model->edge,
		.max_batch = p->router_max_batch,
		.step_tokens_max = p->router_step_tokens_max,
		.queue_max = p->router_queue_max,
		.page_tokens = p->router_page_tokens,
		.n_pages = h->n_pages,
		.n_ctx = h->n_ctx,
	};
	return ex_engine_new(&o, err, &h->engine);
}

static int open_text(struct ex_house_model *m, struct ex_err *err)
{
	int rc = ex_tokenizer_open(m->dir, err, &m->tokenizer);
	if (rc < 0)
		return rc;
	rc = ex_chat_open(m->dir, m->tokenizer, err, &m->chat);
	if (rc == -ENOENT) {
		ex_log(LOG_NOTICE, "'%s' has no chat template: only text and token prompts are answered", m->dir);
		return 0;
	}
	return rc;
}

/* What the gateway's answers need of it. */
static int open_edge(struct ex_house_model *m, struct ex_err *err)
{
	const struct ex_model_config *c = ex_weights_config(m->weights);
	const struct ex_edge_model_opts o = {
		.digest = ex_weights_digest(m->weights),
		.tokenizer = m->tokenizer,
		.chat = m->chat,
		.eos = c->eos_id,
		.n_eos = c->n_eos,
	};
	return ex_edge_model_new(&o, err, &m->edge);
}

int ex_house_open_model(
	struct ex_house *h, const char *dir, struct ex_weights *w, struct ex_err *err, struct ex_house_model **ret)
{
	struct ex_house_model *m = ex_calloc(1, sizeof *m);
	if (!m) {
		ex_weights_close(w);
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", dir);
	}
	m->house = h;
	m->weights = w;
	snprintf(m->dir, sizeof m->dir, "%s", dir);
	int rc = open_text(m, err);
	if (rc == 0 && ex_config_is_gateway(h->p))
		rc = open_edge(m, err);
	if (rc == 0)
		rc = open_trunk(m, err);
	if (rc < 0) {
		ex_house_close_model(m);
		return rc;
	}
	*ret = m;
	return 0;
}

struct ex_house_model *ex_house_close_model(struct ex_house_model *m)
{
	if (m) {
		if (m->dispatch)
			ex_dispatch_free(m->dispatch);
		if (m->trunk)
			ex_trunk_close(m->trunk);
		ex_edge_model_unref(m->edge);
		if (m->chat)
			ex_chat_close(m->chat);
		ex_tokenizer_closep(&m->tokenizer);
		ex_weights_close(m->weights);
		free(m);
	}
	return NULL;
}

static int start_service(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	struct ex_loop *const loops[] = {h->loop_clients};
	const struct ex_router_service_opts o = {
		.engine = h->engine,
		.model_name = p->model_name,
		.reply_bytes_max = p->router_reply_bytes_max,
		.prompt_bytes_max = (uint32_t)p->router_prompt_bytes_max,
	};
	int rc = ex_router_service_new(&o, &h->router_service);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot make the Router service");
	const struct ex_method *methods = ex_router_service_methods(h->router_service, 0);
	const struct ex_server_opts s = {
		.listen = p->router_listen,
		.loops = loops,
		.n_loops = 1,
		.methods = methods,
		.tls = h->tls_clients,
		.refused = ex_house_refused_peer,
		.refused_ctx = h,
		.connections_max = p->node_connections_max,
		.receive_bytes_max = ex_house_receive_bytes_max(h),
	};
	rc = ex_server_start(&s, err, &h->router_server);
	if (rc < 0)
		return ex_err_prefix(err, "[router] listen");
	ex_server_set_serving(h->router_server, false); /* until the shards are covered */
	ex_gate_open(&h->gate, methods);
	ex_log(LOG_INFO, "requests are taken on %s (port %d)", p->router_listen, ex_server_port(h->router_server));
	return 0;
}

/* Until every shard has a ready host, or a stop is asked for. There is no other end: hosts may come up hours later. */
static int wait_covered(struct ex_house *h, struct ex_err *err)
{
	struct ex_err missing = EX_ERR_INIT;
	uint32_t covered, shards, ready, hosts;
	uint64_t tell_ns = ex_now_ns() + COVERAGE_TELL_NS;
	struct ex_dispatch *dispatch = h->model->dispatch;
	while (!ex_dispatch_wait_covered(dispatch, COVERAGE_SLICE_MS, &missing)) {
		ex_lock_take(&h->models_lock);
		ex_house_apply_members(h);
		ex_lock_give(&h->models_lock);
		int rc = ex_house_check_cancelled(h, err);
		if (rc < 0)
			return rc;
		ex_dispatch_coverage(dispatch, &covered, &shards, &ready, &hosts);
		sd_notifyf(0, "STATUS=waiting for expert hosts: %u of %u shards, %u of %u hosts ready", covered, shards,
			ready, hosts);
		if (ex_now_ns() > tell_ns) {
			ex_log(LOG_NOTICE, "waiting for expert hosts: %s", ex_err_text(&missing));
			tell_ns = ex_now_ns() + 30 * COVERAGE_TELL_NS;
		}
	}
	ex_dispatch_coverage(dispatch, &covered, &shards, &ready, &hosts);
	ex_event(EX_EV_COVERAGE_WHOLE, NULL, "all %u shards are covered by %u of %u hosts", shards, ready, hosts);
	h->covered = true;
	atomic_store_explicit(&h->covered_once, true, memory_order_release);
	ex_server_set_serving(h->router_server, true);
	return 0;
}

int ex_house_build_router(struct ex_house *h, struct ex_err *err)
{
	int rc = size_trunk(h, err);
	if (rc == 0)
		rc = ex_house_open_model(h, h->model_dir, ex_weights_ref(h->weights), err, &h->model);
	if (rc == 0)
		rc = ex_house_check_cancelled(h, err);
	if (rc == 0)
		rc = ex_house_copy_peers(h, err);
	if (rc == 0)
		rc = ex_house_open_dispatch(h->model, (const char *const *)h->source[EX_SOURCE_PEERS].listed.v,
			h->source[EX_SOURCE_PEERS].listed.n, err);
	if (rc == 0)
		rc = ex_house_follow_members(h, err);
	if (rc == 0)
		rc = build_engine(h, err);
	if (rc < 0)
		return rc;
	ex_house_show(h);
	rc = ex_config_has_ledger(h->p) ? ex_house_build_ledger(h, err) : 0;
	if (rc == 0)
		rc = start_service(h, err);
	if (rc == 0)
		rc = ex_house_build_mover(h, err);
	if (rc == 0) /* before the wait: hosts may have to be brought over to the model that was switched to */
		rc = ex_house_build_switcher(h, err);
	return rc < 0 ? rc : wait_covered(h, err);
}

void ex_house_free_router(struct ex_house *h)
{
	ex_house_stop_switcher(h);
	if (h->mover)
		h->mover = ex_mover_free(h->mover);
	if (h->router_server)
		h->router_server = ex_server_stop(h->router_server, h->grace_ms);
	if (h->router_service)
		ex_router_service_stop(h->router_service);
	if (h->engine)
		h->engine = ex_engine_free(h->engine);
	if (h->router_service)
		h->router_service = ex_router_service_free(h->router_service);
	ex_house_leave_members(h);
	ex_lock_take(&h->models_lock); /* the loader's thread looks at them */
	struct ex_house_model *const models[] = {EX_TAKE(h->before), EX_TAKE(h->next), EX_TAKE(h->model)};
	ex_lock_give(&h->models_lock);
	for (size_t i = 0; i < EX_ARRAY_LEN(models); i++)
		ex_house_close_model(models[i]);
	ex_plugin_unrefp(&h->trunk_plugin);
}
