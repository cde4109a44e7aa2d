/* SPDX-License-Identifier: Apache-2.0 */
/* The expert role: plugin, shards, executor, Experts service. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include "base/mem.h"
#include "fleet/placement.h"
#include <config.h> /* of the build; not core/config.h */
#include <stdio.h>
#include <string.h>

/* Loads one shard. A failure is told and survived: the others are served. True when it is loaded, or unloaded by an operator. */
static bool load_shard(struct ex_house *h, const struct ex_shard_id *id)
{
	struct ex_err err = EX_ERR_INIT;
	char name[EX_SHARD_NAME_MAX];
	ex_shard_name(id, name);
	const struct ex_field fields[] = {{"EX_SHARD", name}, {"EX_PLUGIN", h->expert_host.name}, {NULL, NULL}};
	if (ex_house_is_unloaded(h, id)) {
		ex_log(LOG_NOTICE, "shard %s was unloaded by an operator, and stays so", name);
		return true;
	}
	int rc = ex_house_load_published(h, id, &err);
	if (rc < 0)
		ex_event(EX_EV_SHARD_FAILED, fields, "%s; it is not served here", ex_err_text(&err));
	else
		ex_event(EX_EV_SHARD_LOADED, fields, "shard %s loaded", name);
	return rc == 0;
}

static void tell_memory(struct ex_house *h, size_t n_shards, uint64_t n_experts)
{
	struct ex_weights_stat s;
	char need[EX_BYTES_TEXT_MAX], there[EX_BYTES_TEXT_MAX];
	ex_weights_stat(h->weights, &s);
	uint64_t bytes = n_experts * s.bytes_per_expert, available = ex_mem_available();
	ex_log(bytes > available && available ? LOG_WARNING : LOG_INFO,
		"loading %zu shards (%llu experts) with plugin %s: about %s needed, %s available", n_shards,
		(unsigned long long)n_experts, h->expert_host.name, ex_bytes_text(bytes, need),
		ex_bytes_text(available, there));
}

static bool is_configured(const struct ex_house *h, const struct ex_shard_id *id)
{
	for (size_t i = 0; i < h->n_configured; i++)
		if (memcmp(&h->configured[i], id, sizeof *id) == 0)
			return true;
	return false;
}

/* Those that the configuration asks for, and those that an operator loaded. */
static int list_shards(struct ex_house *h, struct ex_err *err, struct ex_shard_id **ret, size_t *ret_n)
{
	size_t n = h->n_configured, n_published = ex_published_n(h->published);
	struct ex_shard_id *list = ex_calloc(n + n_published, sizeof *list);
	if (!list)
		return ex_err_errno(err, -ENOMEM, "cannot list the shards");
	memcpy(list, h->configured, n * sizeof *list);
	for (size_t i = 0; i < n_published; i++) {
		const struct ex_published_entry *e = ex_published_at(h->published, i);
		if (e->added && !is_configured(h, &e->id)) /* it may ask for it by now */
			list[n++] = e->id;
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

static int load_shards(struct ex_house *h, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) struct ex_shard_id *list = NULL;
	size_t n = 0, n_loaded = 0;
	uint64_t n_experts = 0;
	int rc = list_shards(h, err, &list, &n);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++)
		n_experts += list[i].n_experts;
	tell_memory(h, n, n_experts);
	for (size_t i = 0; i < n; i++) {
		rc = ex_house_check_cancelled(h, err);
		if (rc < 0)
			return rc;
		n_loaded += load_shard(h, &list[i]);
		ex_house_progress(h, "loading shards", i + 1, n);
	}
	if (n_loaded == 0)
		return ex_err_set(err, -EIO, "none of the %zu shards could be loaded", n);
	ex_log(LOG_NOTICE, "%zu of %zu shards loaded", n_loaded, n);
	return 0;
}

static void keep_plugin_text(void *ctx, const struct ex_shard_view *v)
{
	struct ex_house *h = ctx;
	if (v->plugin[0])
		snprintf(h->shown.expert_plugin, sizeof h->shown.expert_plugin, "%s", v->plugin);
}

static void add_bytes(void *ctx, const struct ex_shard_view *v)
{
	*(uint64_t *)ctx += v->bytes;
}

/* What shards have now, and what is left for more. */
static uint64_t shard_memory(struct ex_house *h)
{
	uint64_t held = 0, available = ex_mem_available();
	ex_registry_each(h->registry, add_bytes, &held);
	return available > EX_REGISTRY_RESERVE_BYTES ? held + available - EX_REGISTRY_RESERVE_BYTES : held;
}

/* Beside the server with TLS, before it: Hello tells its port. */
static int start_data_server(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	struct ex_loop *const loops[] = {h->loop_data};
	const struct ex_server_opts s = {
		.listen = p->tls_listen_data,
		.loops = loops,
		.n_loops = EX_ARRAY_LEN(loops),
		.methods = ex_experts_service_data_methods(h->experts_service, 0),
		.bulk = true,
		.bare = true,
		.connections_max = p->node_connections_max,
		.receive_bytes_max = ex_house_receive_bytes_max(h),
	};
	int rc = ex_server_start(&s, err, &h->expert_data_server);
	if (rc < 0)
		return ex_err_prefix(err, "[tls] listen_data");
	ex_experts_service_set_data_port(h->experts_service, ex_server_port(h->expert_data_server));
	ex_log(LOG_INFO, "rows are taken in plain text on %s (port %d)", p->tls_listen_data,
		ex_server_port(h->expert_data_server));
	return 0;
}

static bool find_model(void *ctx, const char *digest, uint64_t *ret_epoch, char live[static 65])
{
	const struct ex_house *h = ctx;
	struct ex_epochs_view v;
	ex_epochs_view(h->epochs, &v);
	bool is_next = *v.next && strcmp(digest, v.next) == 0;
	*ret_epoch = is_next ? v.next_epoch : v.live_epoch;
	strcpy(live, v.live);
	return is_next || strcmp(digest, v.live) == 0;
}

/* The live model, and why nothing is moved now. */
static const char *say_model(void *ctx, char digest[static EX_DIGEST_HEX])
{
	const struct ex_house *h = ctx;
	struct ex_epochs_view v;
	ex_epochs_view(h->epochs, &v);
	memcpy(digest, v.live, EX_DIGEST_HEX);
	return *v.next ? EX_EPOCHS_FROZEN : NULL;
}

/* Experts.Move beside the other methods of Experts; control traffic is on loop 1. */
static int make_moves(struct ex_house *h, struct ex_err *err)
{
	const struct ex_moves_opts o = {
		.swapper = h->swapper,
		.registry = h->registry,
		.node = h->p->node_name,
		.n_experts = ex_weights_config(h->weights)->n_experts,
		.n_groups = h->n_groups,
		.accept = ex_config_accepts_moves(h->p),
		.model = say_model,
		.ctx = h,
	};
	const struct ex_method *m = ex_experts_service_methods(h->experts_service, 1, 0);
	size_t n = 0;
	int rc = ex_moves_new(&o, &h->moves);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot make the Experts service");
	for (; m[n].path; n++)
		h->expert_methods[n] = m[n];
	assert(n + 1 < EX_ARRAY_LEN(h->expert_methods));
	h->expert_methods[n] = ex_moves_method(h->moves, 1);
	return 0;
}

static int start_service(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	const struct ex_model_config *c = ex_weights_config(h->weights);
	struct ex_loop *const loops[] = {h->loop_data, h->loop_control}; /* health is on the last */
	const struct ex_experts_service_opts o = {
		.registry = h->registry,
		.executor = h->executor,
		.node = p->node_name,
		.zone = p->node_zone,
		.memory_bytes = shard_memory(h),
		.version = PACKAGE_VERSION,
		.d_model = c->d_model,
		.n_experts = c->n_experts,
		.n_groups = h->n_groups,
		.reply_bytes_max = p->expert_reply_bytes_max,
		.find_model = find_model,
		.more = h->epochs_methods,
		.ctx = h,
		.plain_data = ex_config_tls(p) == EX_TLS_CONTROL,
		.accepts_moves = ex_config_accepts_moves(p),
	};
	int rc = ex_experts_service_new(&o, &h->experts_service);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot make the Experts service");
	rc = make_moves(h, err);
	if (rc == 0 && o.plain_data)
		rc = start_data_server(h, err);
	if (rc < 0)
		return rc;
	const struct ex_server_opts s = {
		.listen = p->node_listen,
		.loops = loops,
		.n_loops = EX_ARRAY_LEN(loops),
		.methods = h->expert_methods,
		.bulk = true,
		.tls = h->tls,
		.refused = ex_house_refused_peer,
		.refused_ctx = h,
		.connections_max = p->node_connections_max,
		.receive_bytes_max = ex_house_receive_bytes_max(h),
	};
	rc = ex_server_start(&s, err, &h->expert_server);
	if (rc < 0)
		return ex_err_prefix(err, "[node] listen");
	ex_log(LOG_INFO, "experts are served on %s (port %d)", p->node_listen, ex_server_port(h->expert_server));
	return 0;
}

int ex_house_build_experts(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	const struct ex_model_config *c = ex_weights_config(h->weights);
	int rc = ex_house_open_plugin(p->expert_plugin, p->expert_plugin_dir, p->expert_threads, &p->expert_options,
		err, &h->expert_host, &h->expert_plugin);
	if (rc < 0)
		return ex_err_prefix(err, "[expert] plugin");
	const struct ex_text_list *globs = &p->expert_shards;
	rc = ex_placement_select(
		c, h->n_groups, (const char *const *)globs->v, globs->n, err, &h->configured, &h->n_configured);
	if (rc < 0)
		return ex_err_prefix(err, "[expert] shards");
	const struct ex_registry_opts ro = {
		.n_experts = c->n_experts,
		.n_groups = h->n_groups,
		.n_layers = c->n_layers,
		.d_model = c->d_model,
		.epoch = ex_epoch_of(ex_weights_digest(h->weights)),
		.check_finite = p->model_check_finite,
		.record_bytes = p->expert_record_bytes,
		.record_bytes_each = p->expert_record_bytes / EX_MAX(h->n_configured, (size_t)1),
	};
	rc = ex_registry_new(&ro, &h->registry);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot make the shard registry");
	snprintf(h->shown.expert_plugin, sizeof h->shown.expert_plugin, "%s", h->expert_host.name);
	h->shown.expert_threads = (unsigned)atoi(h->expert_host.threads);
	ex_house_show(h);
	rc = ex_house_open_published(h, err);
	if (rc == 0)
		rc = load_shards(h, err);
	if (rc < 0)
		return rc;
	ex_registry_each(h->registry, keep_plugin_text, h);
	const struct ex_executor_opts eo = {
		.registry = h->registry,
		.d_model = c->d_model,
		.n_workers = p->expert_workers,
		.batch_rows_max = p->expert_batch_rows_max,
		.queue_rows_max = p->expert_queue_rows_max,
	};
	rc = ex_executor_new(&eo, err, &h->executor);
	if (rc == 0)
		rc = ex_house_build_swapper(h, err);
	if (rc == 0)
		rc = ex_house_build_epochs(h, err);
	if (rc < 0)
		return rc;
	ex_house_show(h);
	rc = start_service(h, err);
	return rc == 0 && ex_config_registers(p) ? ex_house_register(h, err) : rc;
}

void ex_house_free_experts(struct ex_house *h)
{
	ex_registrar_freep(&h->registrar);
	if (h->expert_server)
		h->expert_server = ex_server_stop(h->expert_server, 0);
	if (h->expert_data_server)
		h->expert_data_server = ex_server_stop(h->expert_data_server, 0);
	if (h->swapper) /* it runs shards, and the executor lends them */
		h->swapper = ex_swapper_free(h->swapper);
	h->moves = ex_moves_free(h->moves);
	if (h->executor) { /* first: it ends the jobs of streams that were cut, and the service outlives its jobs */
		ex_executor_abandon(h->executor);
		h->executor = ex_executor_free(h->executor);
	}
	h->epochs = ex_epochs_free(h->epochs);
	if (h->experts_service)
		h->experts_service = ex_experts_service_free(h->experts_service);
	if (h->registry)
		h->registry = ex_registry_free(h->registry);
	ex_house_free_published(h);
	ex_plugin_unrefp(&h->expert_plugin);
}
