/* SPDX-License-Identifier: Apache-2.0 */
/* All rooms of one process: order of building, of serving and of taking apart. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "fleet/placement.h"
#include "gateway/socket.h"
#include <config.h> /* of the build; not core/config.h */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define THREADS_AUTO_MAX 128u /* threads = auto: more would wait for memory */
#define CPUS_MAX         ((size_t)1 << 20)
#define TICK_NS          (500 * EX_NS_PER_MS)
#define PROGRESS_NS      EX_NS_PER_S        /* STATUS= this often while loading */
#define PROGRESS_LOG_NS  (10 * EX_NS_PER_S) /* and a journal line this often */
#define GRACE_MS         1000
#define END_MS           1000                 /* for the step at hand, when requests are cut */
#define QUIET_NS         (300 * EX_NS_PER_MS) /* an expert host without work that long is drained */

/* --- shared by the roles --------------------------------------------------------------------------------- */

void ex_house_show(struct ex_house *h)
{
	ex_lock_take(&h->models_lock);
	h->shown.weights = h->model ? h->model->weights : h->weights;
	h->shown.registry = h->registry;
	h->shown.swapper = h->swapper;
	h->shown.dispatch = h->model ? h->model->dispatch : NULL;
	h->shown.mover = h->mover;
	h->shown.engine = h->engine;
	ex_admin_show(h->admin, &h->shown);
	ex_lock_give(&h->models_lock);
}

int ex_house_check_cancelled(struct ex_house *h, struct ex_err *err)
{
	if (!atomic_load_explicit(&h->cancelled, memory_order_relaxed))
		return 0;
	return ex_err_set(err, -ECANCELED, "a stop was asked for");
}

void ex_house_progress(struct ex_house *h, const char *what, uint64_t done, uint64_t total)
{
	uint64_t now = ex_now_ns();
	if (now - h->progress_ns < PROGRESS_NS)
		return;
	h->progress_ns = now;
	sd_notifyf(0, "STATUS=%s: %llu of %llu", what, (unsigned long long)done, (unsigned long long)total);
	if (now - h->progress_log_ns < PROGRESS_LOG_NS)
		return;
	h->progress_log_ns = now;
	ex_log(LOG_INFO, "%s: %llu of %llu", what, (unsigned long long)done, (unsigned long long)total);
}

size_t ex_house_receive_bytes_max(const struct ex_house *h)
{
	return h->p->node_receive_bytes_max ? h->p->node_receive_bytes_max : ex_mem_available() / 2;
}

EX_PRINTF(3, 4)
static void plugin_log(void *ctx, int priority, const char *fmt, ...)
{
	const struct ex_plugin_host *host = ctx;
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	ex_log(priority, "plugin %s: %s", host->name, text);
}

static const char *plugin_option(void *ctx, const char *key)
{
	const struct ex_plugin_host *host = ctx;
	size_t n = strlen(key);
	for (size_t i = 0; i < host->options->n; i++) {
		const char *pair = host->options->v[i];
		if (strncmp(pair, key, n) == 0 && pair[n] == '=')
			return pair + n + 1;
	}
	return strcmp(key, "threads") == 0 ? host->threads : NULL;
}

/* The kernel refuses a set that is smaller than its own (EINVAL), whatever number of processors there are. */
static unsigned n_processors(void)
{
	for (size_t n = CPU_SETSIZE; n <= CPUS_MAX; n *= 2) {
		cpu_set_t *set = CPU_ALLOC(n);
		int rc = set ? sched_getaffinity(0, CPU_ALLOC_SIZE(n), set) : -1;
		unsigned count = rc == 0 ? (unsigned)CPU_COUNT_S(CPU_ALLOC_SIZE(n), set) : 0;
		bool small = rc < 0 && set && errno == EINVAL;
		if (set)
			CPU_FREE(set);
		if (!small)
			return EX_MAX(EX_MIN(count, THREADS_AUTO_MAX), 1u);
	}
	return 1;
}

static void passed_over(void *ctx, const char *path, const char *why)
{
	(void)ctx;
	ex_log(LOG_WARNING, "plugin = auto passes over '%s': %s", path, why);
}

int ex_house_open_plugin(const char *name, const char *dir, uint32_t threads, const struct ex_text_list *options,
	struct ex_err *err, struct ex_plugin_host *host, struct ex_plugin **ret)
{
	const struct ex_loader_opts o = {.dir = dir};
	int rc = strcmp(name, "auto") == 0 ? ex_plugin_open_best(&o, passed_over, NULL, err, ret)
					   : ex_plugin_open(&o, name, err, ret);
	if (rc < 0)
		return rc;
	const struct expertd_plugin *t = ex_plugin_table(*ret);
	snprintf(host->name, sizeof host->name, "%s %s", t->name, t->version);
	snprintf(host->threads, sizeof host->threads, "%u", threads ? threads : n_processors());
	host->options = options;
	host->host = (struct expertd_host){.ctx = host, .log = plugin_log, .option = plugin_option};
	return 0;
}

/* --- build ----------------------------------------------------------------------------------------------- */

int ex_house_new(const struct ex_house_opts *o, struct ex_err *err, struct ex_house **ret)
{
	struct ex_house *h = ex_calloc(1, sizeof *h);
	if (!h)
		return ex_err_errno(err, -ENOMEM, "cannot start");
	h->o = *o;
	h->p = o->params;
	ex_lock_init(&h->members_lock, "members");
	ex_lock_init(&h->models_lock, "models");
	int rc = ex_house_build_tls(h, err);
	if (rc == 0)
		rc = ex_house_build_https(h, err);
	if (rc < 0) {
		ex_house_free(h);
		return rc;
	}
	*ret = h;
	return 0;
}

void ex_house_cancel(struct ex_house *h)
{
	atomic_store_explicit(&h->cancelled, true, memory_order_relaxed);
}

/* Data, control, clients and operators each have a thread of their own: none waits behind another's frames. */
static int build_loops(struct ex_house *h, struct ex_err *err)
{
	const bool expert = ex_config_is_expert(h->p), router = ex_config_is_router(h->p);
	int rc = ex_loop_new("admin", err, &h->loop_admin);
	if (rc == 0)
		rc = ex_loop_new("control", err, &h->loop_control);
	if (rc == 0 && expert)
		rc = ex_loop_new("experts", err, &h->loop_data);
	if (rc == 0 && router)
		rc = ex_loop_new("dispatch", err, &h->loop_dispatch);
	if (rc == 0 && router)
		rc = ex_loop_new("clients", err, &h->loop_clients);
	return rc;
}

static int open_model(struct ex_house *h, struct ex_err *err)
{
	struct ex_weights_stat s;
	char bytes[EX_BYTES_TEXT_MAX];
	int rc = ex_choice_read(h->p->node_state, h->p->model_path, err, &h->choice);
	if (rc < 0)
		return rc;
	const char *dir = *h->choice.dir ? h->choice.dir : h->p->model_path;
	snprintf(h->model_dir, sizeof h->model_dir, "%s", dir);
	rc = ex_weights_open(dir, err, &h->weights);
	if (rc < 0 && *h->choice.dir)
		return ex_err_prefix(err, "the model that was switched to");
	if (rc < 0)
		return rc;
	if (*h->choice.dir && strcmp(h->choice.digest, ex_weights_digest(h->weights)) != 0)
		return ex_err_set(err, -EINVAL,
			"'%s' has digest %s, but this node was switched to %s: bring its files back, or remove "
			"'%s/model' to "
			"serve [model] path",
			dir, ex_weights_digest(h->weights), h->choice.digest, h->p->node_state);
	ex_weights_stat(h->weights, &s);
	const struct ex_model_config *c = ex_weights_config(h->weights);
	ex_event(EX_EV_MODEL_OPENED, EX_FIELDS({"EX_MODEL", dir}, {"EX_DIGEST", ex_weights_digest(h->weights)}),
		"model %s from '%s': %s, %u layers, %u experts per layer, %.3g parameters, %s, digest "
		"%.12s",
		h->p->model_name, dir, ex_arch_name(c->arch), c->n_layers, c->n_experts, (double)s.n_params,
		ex_bytes_text(s.bytes_total, bytes), ex_weights_digest(h->weights));
	rc = ex_placement_groups(c, h->p->model_expert_groups, err, &h->n_groups);
	return rc < 0 ? ex_err_prefix(err, "[model]") : 0;
}

/* The ports are opened when there is something to serve: that one is taken is told now, not after the weights are loaded. */
static int check_ports(struct ex_house *h, struct ex_err *err)
{
	if (ex_config_is_expert(h->p) && ex_server_check_listen(h->p->node_listen, err) < 0)
		return ex_err_prefix(err, "[node] listen");
	if (*h->p->tls_listen_data && ex_config_tls(h->p) == EX_TLS_CONTROL &&
		ex_server_check_listen(h->p->tls_listen_data, err) < 0)
		return ex_err_prefix(err, "[tls] listen_data");
	if (ex_config_is_router(h->p) && ex_server_check_listen(h->p->router_listen, err) < 0)
		return ex_err_prefix(err, "[router] listen");
	if (ex_config_is_gateway(h->p) && h->http_fd < 0 && ex_socket_check(h->p->gateway_listen, err) < 0)
		return ex_err_prefix(err, "[gateway] listen");
	return 0;
}

int ex_house_build(struct ex_house *h, struct ex_err *err)
{
	int rc = build_loops(h, err);
	if (rc == 0)
		rc = ex_house_build_admin(h, err);
	if (rc == 0)
		rc = check_ports(h, err);
	if (rc == 0)
		rc = open_model(h, err);
	if (rc < 0)
		return rc;
	ex_house_show(h);
	if (ex_config_is_expert(h->p))
		rc = ex_house_build_experts(h, err);
	if (rc == 0 && ex_config_is_router(h->p))
		rc = ex_house_build_router(h, err);
	if (rc == 0 && h->p->there[EX_SECTION_topup])
		rc = ex_house_build_topups(h, err);
	if (rc == 0 && ex_config_is_gateway(h->p))
		rc = ex_house_build_gateway(h, err);
	if (rc == 0)
		rc = ex_house_check_cancelled(h, err);
	if (rc < 0)
		return rc;
	ex_admin_set_state(h->admin, EX_ADMIN_READY);
	ex_server_set_serving(h->admin_server, true);
	return 0;
}

struct ex_house *ex_house_free(struct ex_house *h)
{
	if (!h)
		return NULL;
	ex_house_end_start(h);
	if (h->engine && ex_engine_end(h->engine, END_MS))
		h->grace_ms = GRACE_MS;
	if (h->admin_server) /* first: it carries calls of the Router service too */
		h->admin_server = ex_server_stop(h->admin_server, h->grace_ms);
	ex_house_free_gateway(h);
	ex_house_free_router(h);
	ex_house_free_ledger(h);
	ex_house_free_experts(h);
	ex_house_free_admin(h);
	ex_weights_closep(&h->weights);
	ex_loop_freep(&h->loop_clients);
	ex_loop_freep(&h->loop_dispatch);
	ex_loop_freep(&h->loop_data);
	ex_loop_freep(&h->loop_control);
	ex_loop_freep(&h->loop_admin);
	ex_house_free_tls(h);
	ex_lock_done(&h->members_lock);
	ex_lock_done(&h->models_lock);
	free(h);
	return NULL;
}

/* --- while it serves ------------------------------------------------------------------------------------- */

struct counts {
	unsigned state[EX_SHARD_DRAINING + 1], live, lingering;
};

static void count_state(void *ctx, const struct ex_shard_view *v)
{
	struct counts *n = ctx;
	n->state[v->state]++;
	n->live += v->generation != 0;
	n->lingering += v->lingering != 0;
}

static void set_gauges(struct ex_house *h)
{
	ex_metric_set(ex_metric(EX_M_RESIDENT_BYTES, NULL), (double)ex_mem_resident());
	if (!h->registry)
		return;
	struct counts n = {.live = 0};
	ex_registry_each(h->registry, count_state, &n);
	for (enum ex_shard_state s = EX_SHARD_LOADING; s <= EX_SHARD_DRAINING; s++)
		ex_metric_set(ex_metric(EX_M_SHARDS, ex_shard_state_name(s)), n.state[s]);
	ex_metric_set(ex_metric(EX_M_GENERATIONS, "live"), n.live);
	ex_metric_set(ex_metric(EX_M_GENERATIONS, "lingering"), n.lingering);
}

/* STATUS=, when it is another than the last one. */
EX_PRINTF(2, 3)
static void tell_status(struct ex_house *h, const char *fmt, ...)
{
	char text[sizeof h->status];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (strcmp(text, h->status) == 0)
		return;
	memcpy(h->status, text, sizeof text);
	sd_notifyf(0, "STATUS=%s", text);
}

static void watch_coverage(struct ex_house *h)
{
	uint32_t covered, shards, ready, hosts;
	struct ex_engine_stat s;
	struct ex_err missing = EX_ERR_INIT;
	struct ex_dispatch *dispatch = h->model->dispatch;
	ex_dispatch_coverage(dispatch, &covered, &shards, &ready, &hosts);
	bool whole = covered == shards;
	if (whole != h->covered && !h->draining) {
		h->covered = whole;
		ex_server_set_serving(h->router_server, whole);
		ex_server_set_serving(h->admin_server, whole);
		if (whole)
			ex_event(EX_EV_COVERAGE_WHOLE, NULL, "all %u shards are covered by %u of %u hosts", shards,
				ready, hosts);
		else if (!ex_dispatch_wait_covered(dispatch, 0, &missing))
			ex_event(EX_EV_COVERAGE_LOST, NULL, "%s", ex_err_text(&missing));
	}
	ex_engine_stat(h->engine, &s);
	tell_status(h, "%s: %u of %u shards on %u of %u hosts; %u requests running, %u waiting; %.0f tokens/s",
		h->draining ? "draining"
		: whole     ? "serving"
			    : "shards are missing",
		covered, shards, ready, hosts, s.running, s.waiting, s.tokens_per_s);
}

void ex_house_tick(struct ex_house *h)
{
	uint64_t now = ex_now_ns();
	if (now - h->tick_ns < TICK_NS)
		return;
	h->tick_ns = now;
	set_gauges(h);
	ex_house_watch_tls(h);
	ex_house_watch_registration(h);
	ex_house_watch_start(h);
	if (h->topups)
		ex_house_look_topups(h, now);
	if (h->desk)
		ex_desk_tick(h->desk);
	if (h->limits)
		ex_house_save_limits(h, now);
	if (ex_config_is_router(h->p)) {
		ex_lock_take(&h->models_lock);
		ex_house_apply_members(h);
		watch_coverage(h);
		ex_lock_give(&h->models_lock);
	} else
		tell_status(h, "%s experts; %u rows queued", h->draining ? "draining" : "serving",
			ex_executor_queued_rows(h->executor));
}

size_t ex_house_threads(const struct ex_house *h, struct ex_house_thread out[static EX_HOUSE_THREADS_MAX])
{
	const struct {
		const char *name;
		const struct ex_loop *loop;
	} loops[] = {{"admin", h->loop_admin}, {"control", h->loop_control}, {"experts", h->loop_data},
		{"dispatch", h->loop_dispatch}, {"clients", h->loop_clients}};
	size_t n = 0;
	for (size_t i = 0; i < EX_ARRAY_LEN(loops); i++)
		if (loops[i].loop)
			out[n++] = (struct ex_house_thread){loops[i].name, ex_loop_turns(loops[i].loop)};
	if (h->executor)
		out[n++] = (struct ex_house_thread){"executor", ex_executor_turns(h->executor)};
	if (h->swapper)
		out[n++] = (struct ex_house_thread){"loader", ex_swapper_turns(h->swapper)};
	if (h->mover)
		out[n++] = (struct ex_house_thread){"mover", ex_mover_turns(h->mover)};
	if (h->engine)
		out[n++] = (struct ex_house_thread){"engine", ex_engine_turns(h->engine)};
	if (h->gateway)
		out[n++] = (struct ex_house_thread){"http-watch", ex_gateway_turns(h->gateway)};
	if (h->desk)
		out[n++] = (struct ex_house_thread){"ledger", ex_ledger_turns(ex_desk_ledger(h->desk))};
	if (h->limits)
		out[n++] = (struct ex_house_thread){"limits", ex_limits_turns(h->limits)};
	return n;
}

/* Routers keep their streams open, so an expert host is drained when no frame came for a while. */
static bool drain_experts(struct ex_house *h, unsigned slice_ms)
{
	uint64_t now = ex_now_ns();
	if (ex_experts_service_in_flight(h->experts_service) > 0) {
		h->quiet_since_ns = 0;
		usleep(slice_ms * 1000);
		return false;
	}
	if (!h->quiet_since_ns)
		h->quiet_since_ns = now;
	if (now - h->quiet_since_ns >= QUIET_NS)
		return true;
	usleep(EX_MIN(slice_ms, 50u) * 1000);
	return false;
}

bool ex_house_drain(struct ex_house *h, unsigned slice_ms)
{
	if (!h->draining) {
		h->draining = true;
		if (h->mover) {
			ex_mover_set_auto(h->mover, false);
			(void)ex_mover_stop(h->mover, NULL); /* there may be nothing to stop */
		}
		h->tick_ns = 0; /* the status says so at once */
		ex_admin_set_state(h->admin, EX_ADMIN_DRAINING);
		ex_server_set_serving(h->admin_server, false);
		if (h->router_server)
			ex_server_set_serving(h->router_server, false);
		if (h->expert_server)
			ex_server_set_serving(h->expert_server, false);
		ex_registrar_freep(&h->registrar); /* routers look elsewhere from now on */
		if (h->experts_service)
			ex_experts_service_drain(h->experts_service);
		if (h->moves)
			ex_moves_drain(h->moves);
		if (h->limits)
			ex_limits_close(h->limits); /* who waits for a place waits in vain */
	}
	if (h->engine && !ex_engine_drain(h->engine, slice_ms))
		return false;
	if (h->experts_service && !drain_experts(h, slice_ms))
		return false;
	h->grace_ms = GRACE_MS;
	return true;
}
