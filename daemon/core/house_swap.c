/* SPDX-License-Identifier: Apache-2.0 */
/* Shards as operators left them, and the swapper that changes them. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "fleet/placement.h"
#include <stdio.h>
#include <string.h>

#define LASTED_NS (30 * EX_NS_PER_S) /* a start that has served so long is a good one; told in params.h and events.h */

/* --- starts that do not last ----------------------------------------------------------------------------- */

/* The plugins that shards were swapped to, each once; pointers into the set. */
static size_t list_plugins(const struct ex_published *p, const char **ret)
{
	size_t n = 0;
	for (size_t i = 0; i < ex_published_n(p); i++) {
		const struct ex_published_entry *e = ex_published_at(p, i);
		bool there = e->gone || !*e->sha256 || n == EX_STARTS_PLUGINS_MAX;
		for (size_t k = 0; k < n; k++)
			there |= strcmp(ret[k], e->sha256) == 0;
		if (!there)
			ret[n++] = e->sha256;
	}
	return n;
}

static void tell_aside(const struct ex_house *h, const char *sha256)
{
	const unsigned n_starts = ex_starts_aside(h->starts, sha256);
	const char *plugin = "";
	size_t n = 0;
	for (size_t i = 0; n_starts && i < ex_published_n(h->published); i++) {
		const struct ex_published_entry *e = ex_published_at(h->published, i);
		if (e->gone || strcmp(e->sha256, sha256) != 0)
			continue;
		plugin = e->plugin;
		n++;
	}
	if (n)
		ex_event(EX_EV_PLUGIN_ASIDE, EX_FIELDS({"EX_PLUGIN", plugin}, {"EX_SHA256", sha256}),
			"plugin %s (%.12s) is set aside: %u starts in a row with it did not last; the configured "
			"plugin computes its %zu shards until they are swapped again",
			plugin, sha256, n_starts, n);
}

/* Counts this start. Without a count the shards are loaded all the same. */
static void begin_start(struct ex_house *h)
{
	struct ex_err err = EX_ERR_INIT;
	const char *sha256[EX_STARTS_PLUGINS_MAX];
	size_t n = list_plugins(h->published, sha256);
	if (ex_starts_open(h->p->node_state, &err, &h->starts) < 0)
		ex_log(LOG_WARNING, "earlier starts are not known: %s", ex_err_text(&err));
	if (h->starts && ex_starts_begin(h->starts, sha256, n, h->p->expert_start_tries, &err) < 0)
		ex_log(LOG_WARNING, "this start is not counted: %s", ex_err_text(&err));
	for (size_t i = 0; h->starts && i < n; i++)
		tell_aside(h, sha256[i]);
}

void ex_house_end_start(struct ex_house *h)
{
	struct ex_err err = EX_ERR_INIT;
	if (h->starts && ex_starts_lasted(h->starts, &err) < 0)
		ex_log(LOG_WARNING, "this start stays counted as one that did not last: %s", ex_err_text(&err));
}

void ex_house_watch_start(struct ex_house *h)
{
	uint64_t now = ex_now_ns();
	if (!h->starts || h->lasted)
		return;
	if (!h->served_ns)
		h->served_ns = now;
	if (now - h->served_ns < LASTED_NS)
		return;
	h->lasted = true;
	ex_house_end_start(h);
}

/* --- the published set [loader] -------------------------------------------------------------------------- */

int ex_house_open_published(struct ex_house *h, struct ex_err *err)
{
	struct ex_err why = EX_ERR_INIT;
	const struct ex_published_for f = {
		.model_digest = ex_weights_digest(h->weights),
		.base_sha256 = ex_plugin_sha256(h->expert_plugin),
		.n_groups = h->n_groups,
	};
	int rc = ex_published_open(h->p->node_state, &f, &why, &h->published);
	if (rc == -EINVAL && h->published)
		ex_event(EX_EV_PUBLISHED_VOID, NULL, "%s; the configuration alone counts", ex_err_text(&why));
	else if (rc < 0) {
		*err = why;
		return ex_err_prefix(err, "[node] state");
	}
	begin_start(h);
	return 0;
}

/* The plugin that the entry names: one that is loaded already, or its private copy. Takes a reference. */
static int open_published(
	struct ex_house *h, const struct ex_published_entry *e, struct ex_err *err, struct ex_plugin **ret)
{
	char path[PATH_MAX];
	const char *dir = ex_published_plugins(h->published);
	const struct ex_loader_opts o = {.dir = h->p->expert_plugin_dir, .private_dir = dir};
	struct ex_plugin *loaded = *e->sha256 ? ex_registry_plugin(h->registry, e->sha256) : h->expert_plugin;
	if (loaded) {
		*ret = ex_plugin_ref(loaded);
		return 0;
	}
	if ((size_t)snprintf(path, sizeof path, "%s/%s.so", dir, e->sha256) >= sizeof path)
		return ex_err_errno(err, -ENAMETOOLONG, "cannot open plugin %s", e->sha256);
	int rc = ex_plugin_open(&o, path, err, ret);
	if (rc == 0 && strcmp(ex_plugin_sha256(*ret), e->sha256) != 0) {
		ex_plugin_unrefp(ret);
		rc = ex_err_set(err, -EINVAL, "'%s' is not what its name says", path);
	}
	return rc;
}

static int load_entry(struct ex_house *h, const struct ex_published_entry *e, struct ex_err *err)
{
	EX_CLEANUP(ex_plugin_unrefp) struct ex_plugin *p = NULL;
	struct ex_generation *g = NULL;
	int rc = open_published(h, e, err, &p);
	if (rc == 0)
		rc = ex_registry_prepare(
			h->registry, &e->id, p, &h->expert_host.host, h->p->expert_device, h->weights, err, &g);
	if (rc < 0)
		return rc;
	/* verified on this plugin with this instruction set; on another machine it may be another */
	if (*e->identity && strcmp(e->plugin, ex_generation_plugin(g)) == 0)
		ex_generation_set_identity(g, e->identity);
	ex_registry_publish(g, 0);
	return 0;
}

bool ex_house_is_unloaded(const struct ex_house *h, const struct ex_shard_id *id)
{
	const struct ex_published_entry *e = ex_published_find(h->published, id);
	return e && e->gone;
}

static int load_configured(struct ex_house *h, const struct ex_shard_id *id, struct ex_err *err)
{
	return ex_registry_load(
		h->registry, id, h->expert_plugin, &h->expert_host.host, h->p->expert_device, h->weights, err);
}

/* The entry's plugin is set aside. */
static int load_instead(struct ex_house *h, const struct ex_published_entry *e, struct ex_err *err)
{
	char text[160];
	int rc = load_configured(h, &e->id, err);
	if (rc == 0) {
		snprintf(text, sizeof text, "plugin %s (%.12s) is set aside: %u starts with it did not last", e->plugin,
			e->sha256, ex_starts_aside(h->starts, e->sha256));
		ex_registry_note(h->registry, &e->id, text);
	}
	return rc;
}

int ex_house_load_published(struct ex_house *h, const struct ex_shard_id *id, struct ex_err *err)
{
	const struct ex_published_entry *e = ex_published_find(h->published, id);
	struct ex_err why = EX_ERR_INIT;
	char name[EX_SHARD_NAME_MAX];
	if (e && *e->sha256 && h->starts && ex_starts_aside(h->starts, e->sha256))
		return load_instead(h, e, err);
	if (e && load_entry(h, e, &why) == 0)
		return 0;
	if (e)
		ex_event(EX_EV_PUBLISHED_VOID, EX_FIELDS({"EX_SHARD", ex_shard_name(id, name)}),
			"shard %s cannot be loaded with plugin %s, as it was published: %s; the configured plugin is "
			"tried",
			name, *e->plugin ? e->plugin : e->sha256, ex_err_text(&why));
	return load_configured(h, id, err);
}

/* --- what is told [loader of the swapper] ------------------------------------------------------------------ */

static void on_started(void *ctx, const struct ex_swap_request *q, size_t n_shards, const char *sha256)
{
	(void)ctx;
	ex_event(EX_EV_SWAP_STARTED, EX_FIELDS({"EX_SHARD", q->glob}, {"EX_PLUGIN", q->plugin}, {"EX_SHA256", sha256}),
		"swap of %zu shards (%s) to plugin '%s'", n_shards, q->glob, q->plugin);
}

static void tell_live(const struct ex_swap_report *r, const struct ex_field *fields)
{
	char verified[128] = "not verified";
	if (r->n_batches && r->exact)
		snprintf(verified, sizeof verified, "verified on %u %sbatches, bit-exact", r->n_batches,
			r->synthetic ? "synthetic " : "");
	else if (r->n_batches)
		snprintf(verified, sizeof verified, "verified on %u %sbatches, relative error %.3g", r->n_batches,
			r->synthetic ? "synthetic " : "", (double)r->worst);
	ex_event(EX_EV_SWAP_LIVE, fields, "shard %s: generation %u (%s) is live, %s; generation %u drained in %.3f ms",
		r->shard, r->generation, r->plugin, verified, r->before, (double)r->drain_ns / 1e6);
}

static void on_told(void *ctx, const struct ex_swap_report *r)
{
	static const char *const result[] = {[EX_SWAP_SWAP] = "live",
		[EX_SWAP_LOAD] = "loaded",
		[EX_SWAP_UNLOAD] = "unloaded",
		[EX_SWAP_ROLLBACK] = "rolled_back"};
	const struct ex_house *h = ctx;
	struct ex_err err = EX_ERR_INIT;
	char generation[16];
	snprintf(generation, sizeof generation, "%u", r->generation);
	const struct ex_field fields[] = {{"EX_SHARD", r->shard}, {"EX_STEP", ex_swap_step_name(r->step)},
		{"EX_GENERATION", generation}, {"EX_PLUGIN", r->plugin}, {"EX_SHA256", r->sha256}, {NULL, NULL}};
	ex_metric_add(ex_metric(EX_M_SWAPS, r->failed ? "refused" : result[r->action]), 1);
	if (r->failed)
		ex_event(EX_EV_SWAP_REFUSED, fields, "%s of %s refused at step %s: %s", ex_swap_action_name(r->action),
			r->shard, ex_swap_step_name(r->step), r->text);
	else if (r->action == EX_SWAP_SWAP) {
		tell_live(r, fields);
		if (h->starts && ex_starts_forget(h->starts, r->sha256, &err) < 0)
			ex_log(LOG_WARNING, "earlier starts with plugin %s stay counted: %s", r->plugin,
				ex_err_text(&err));
	} else if (r->action == EX_SWAP_ROLLBACK)
		ex_event(EX_EV_SWAP_ROLLED_BACK, fields, "shard %s: generation %u (%s) serves again%s%s", r->shard,
			r->generation, r->plugin, *r->text ? ": " : "", r->text);
	else if (r->action == EX_SWAP_LOAD)
		ex_event(EX_EV_SHARD_LOADED, fields, "shard %s loaded", r->shard);
	else
		ex_event(EX_EV_SHARD_UNLOADED, fields, "shard %s unloaded", r->shard);
}

/* --- life ------------------------------------------------------------------------------------------------ */

/* What the plugin is told here, for the child of a trial. */
static int list_options(struct ex_house *h)
{
	const struct ex_text_list *l = h->expert_host.options;
	h->trial_options = ex_calloc(l->n + 1, sizeof *h->trial_options);
	if (!h->trial_options)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++) { /* an option "threads" of the operator's comes first, as here */
		if (!(h->trial_options[i] = strdup(l->v[i])))
			return -ENOMEM;
		h->n_trial_options++;
	}
	if (asprintf(&h->trial_options[l->n], "threads=%s", h->expert_host.threads) < 0)
		return -ENOMEM;
	h->n_trial_options++;
	return 0;
}

int ex_house_build_swapper(struct ex_house *h, struct ex_err *err)
{
	static const char *const all[] = {"*"};
	const struct ex_params *p = h->p;
	int rc = ex_placement_select(
		ex_weights_config(h->weights), h->n_groups, all, EX_ARRAY_LEN(all), err, &h->shards, &h->n_shards);
	if (rc == 0 && list_options(h) < 0)
		rc = ex_err_errno(err, -ENOMEM, "cannot start the loader");
	if (rc < 0)
		return rc;
	const struct ex_swapper_opts o = {
		.registry = h->registry,
		.executor = h->executor,
		.weights = h->weights,
		.published = h->published,
		.plugin = h->expert_plugin,
		.host = &h->expert_host.host,
		.which = p->expert_device,
		.plugin_dir = p->expert_plugin_dir,
		.allow = (const char *const *)p->expert_allow_plugins.v,
		.n_allow = p->expert_allow_plugins.n,
		.model = h->model_dir,
		.options = (const char *const *)h->trial_options,
		.n_options = h->n_trial_options,
		.shards = h->shards,
		.n_shards = h->n_shards,
		.configured = h->configured,
		.n_configured = h->n_configured,
		.linger_s = p->expert_linger_s,
		.deadline_s = p->expert_swap_deadline_s,
		.started = on_started,
		.told = on_told,
		.ctx = h,
	};
	return ex_swapper_new(&o, err, &h->swapper);
}

void ex_house_free_published(struct ex_house *h)
{
	for (size_t i = 0; i < h->n_trial_options; i++)
		free(h->trial_options[i]);
	free(h->trial_options);
	free(h->shards);
	free(h->configured);
	h->published = ex_published_free(h->published);
	h->starts = ex_starts_free(h->starts);
}
