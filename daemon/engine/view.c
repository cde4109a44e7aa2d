/* SPDX-License-Identifier: Apache-2.0 */
/* What dispatch shows of itself: hosts, holders, coverage. Layer L3. */
#include "base/str.h"
#include "engine/fabric.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MISSING_NAMES_MAX 8 /* shards named in an error; the rest is counted */

static bool is_moe(const struct ex_dispatch *d, uint32_t layer)
{
	return layer >= d->o.first_k_dense && layer % d->o.moe_layer_freq == 0;
}

static bool is_local(struct ex_dispatch *d, const struct ex_shard_id *id)
{
	if (!d->o.local)
		return false;
	struct ex_generation *g = ex_registry_pin_epoch(d->o.registry, d->o.epoch, id->layer, id->first_expert);
	if (g)
		ex_generation_unpin(g);
	return g != NULL;
}

static bool host_has(const struct ex_dispatch *d, const struct fleet_host *h, uint32_t layer, uint32_t group)
{
	return ex_host_usable(h) && h->identity[ex_dispatch_slot(d, layer, group)];
}

/* Calls fn for every shard of the model, ascending, until it returns false. */
static void each_shard(struct ex_dispatch *d,
	bool (*fn)(struct ex_dispatch *d, void *ctx, const struct ex_shard_id *id, uint32_t group), void *ctx)
{
	for (uint32_t layer = 0; layer < d->o.n_layers; layer++)
		for (uint32_t g = 0; g < d->o.n_groups && is_moe(d, layer); g++) {
			struct ex_shard_id id = ex_shard_of_group(layer, d->o.n_experts, d->o.n_groups, g);
			if (!fn(d, ctx, &id, g))
				return;
		}
}

static bool is_covered(struct ex_dispatch *d, const struct ex_shard_id *id, uint32_t group)
{
	if (is_local(d, id))
		return true;
	bool covered = false;
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d) && !covered; p++)
		covered = host_has(d, &d->hosts[p], id->layer, group);
	ex_lock_give(&d->lock);
	return covered;
}

struct tally {
	uint32_t n_shards, n_covered;
	struct ex_str *missing; /* NULL: not wanted */
};

static bool tally_shard(struct ex_dispatch *d, void *ctx, const struct ex_shard_id *id, uint32_t group)
{
	struct tally *t = ctx;
	char name[EX_SHARD_NAME_MAX];
	t->n_shards++;
	if (is_covered(d, id, group))
		t->n_covered++;
	else if (t->missing && t->n_shards - t->n_covered <= MISSING_NAMES_MAX)
		ex_str_addf(t->missing, "%s%s", t->missing->n ? ", " : "", ex_shard_name(id, name));
	return true;
}

void ex_dispatch_coverage(struct ex_dispatch *d, uint32_t *ret_covered, uint32_t *ret_shards, uint32_t *ret_hosts_ready,
	uint32_t *ret_hosts)
{
	struct tally t = {0};
	uint32_t n_ready = d->o.local != NULL, n_hosts = n_ready;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	each_shard(d, tally_shard, &t);
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used) {
			n_hosts++;
			n_ready += ex_host_usable(&d->hosts[p]);
		}
	ex_lock_give(&d->lock);
	*ret_covered = t.n_covered;
	*ret_shards = t.n_shards;
	*ret_hosts_ready = n_ready;
	*ret_hosts = n_hosts;
}

static int describe_missing(struct ex_dispatch *d, struct ex_err *err)
{
	struct ex_str names = EX_STR_INIT, hosts = EX_STR_INIT;
	struct tally t = {.missing = &names};
	each_shard(d, tally_shard, &t);
	uint32_t n_missing = t.n_shards - t.n_covered;
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used && !ex_host_usable(&d->hosts[p]))
			ex_str_addf(&hosts, "; host %s is %s%s%s", d->hosts[p].name,
				ex_host_state_name(d->hosts[p].state), d->hosts[p].error[0] ? ": " : "",
				d->hosts[p].error);
	ex_lock_give(&d->lock);
	int rc = ex_err_set(err, -EHOSTUNREACH, "%u of %u shards have no ready host: %s%s%s", n_missing, t.n_shards,
		names.s ? names.s : "", n_missing > MISSING_NAMES_MAX ? ", .." : "", hosts.s ? hosts.s : "");
	ex_str_done(&names);
	ex_str_done(&hosts);
	return rc;
}

static bool all_covered(struct ex_dispatch *d)
{
	struct tally t = {0};
	each_shard(d, tally_shard, &t);
	return t.n_covered == t.n_shards;
}

bool ex_dispatch_wait_covered(struct ex_dispatch *d, unsigned timeout_ms, struct ex_err *err)
{
	uint64_t deadline = ex_now_ns() + timeout_ms * EX_NS_PER_MS;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	while (!all_covered(d)) {
		uint64_t now = ex_now_ns();
		if (now >= deadline) {
			describe_missing(d, err);
			return false;
		}
		/* coverage may have grown between the look and the lock: wait for a bounded while only */
		ex_lock_take(&d->lock);
		ex_cond_wait_until(&d->cond, &d->lock, EX_MIN(deadline, now + 50 * EX_NS_PER_MS));
		ex_lock_give(&d->lock);
	}
	return true;
}

static double quantile_s(const struct ex_metric *m, double q)
{
	double v = m ? ex_metric_quantile(m, q) : 0;
	return isnan(v) ? 0 : v;
}

/* Another usable host that was not taken out of use, with the shard; under d->lock. local: this process has it. */
static bool has_other(const struct ex_dispatch *d, const struct fleet_host *h, size_t slot)
{
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++) {
		const struct fleet_host *o = &d->hosts[p];
		bool fits =
			o != h && ex_host_usable(o) && !o->drained && !o->distrusted && o->state != EX_HOST_DRAINING;
		if (fits && o->identity[slot] &&
			(d->o.failover == EX_FAILOVER_ANY || o->identity[slot] == h->identity[slot]))
			return true;
	}
	return false;
}

/* Shards of h without another replica; their first names into names (may be NULL). Under d->lock. */
static uint32_t count_alone(struct ex_dispatch *d, const struct fleet_host *h, struct ex_str *names)
{
	uint32_t n = 0;
	char name[EX_SHARD_NAME_MAX];
	for (uint32_t layer = 0; layer < d->o.n_layers; layer++)
		for (uint32_t g = 0; g < d->o.n_groups; g++) {
			size_t slot = ex_dispatch_slot(d, layer, g);
			struct ex_shard_id id = ex_shard_of_group(layer, d->o.n_experts, d->o.n_groups, g);
			if (!h->identity[slot] || is_local(d, &id) || has_other(d, h, slot))
				continue;
			if (names && n < MISSING_NAMES_MAX)
				ex_str_addf(names, "%s%s", n ? ", " : "", ex_shard_name(&id, name));
			n++;
		}
	return n;
}

static uint32_t count_frames(const struct ex_dispatch *d, const struct fleet_host *h)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < d->n_frames; i++)
		n += d->frames[i].host == h;
	return n;
}

static struct fleet_host *find_host(struct ex_dispatch *d, const char *name)
{
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used && strcmp(d->hosts[p].name, name) == 0)
			return &d->hosts[p];
	return NULL;
}

int ex_dispatch_drain(
	struct ex_dispatch *d, const char *name, bool drain, bool force, struct ex_err *err, uint32_t *ret_alone)
{
	struct ex_str names = EX_STR_INIT;
	uint32_t n = 0;
	int rc = 0;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	ex_lock_take(&d->lock);
	struct fleet_host *h = find_host(d, name);
	if (!h) {
		rc = ex_err_set(err, -ENOENT, "no expert host of this router is named '%.64s'", name);
	} else {
		n = drain ? count_alone(d, h, &names) : 0;
		if (n && !force)
			rc = ex_err_set(err, -EBUSY, "%u of %u shards of %s have no other replica: %s%s", n,
				h->n_shards, name, names.s ? names.s : "", n > MISSING_NAMES_MAX ? ", .." : "");
		else
			h->drained = drain;
	}
	ex_lock_give(&d->lock);
	ex_str_done(&names);
	if (!rc)
		*ret_alone = n;
	return rc;
}

static void view_host(struct ex_dispatch *d, const struct fleet_host *h, struct ex_host_view *v)
{
	*v = (struct ex_host_view){
		.state = h->state != EX_HOST_READY ? h->state
			 : h->drained              ? EX_HOST_DRAINING
			 : h->distrusted           ? EX_HOST_SUSPECT
						   : EX_HOST_READY,
		.drained = h->drained,
		.refused = h->refused && !h->stream,
		.behind = h->behind && ex_host_usable(h),
		.n_shards = h->n_shards,
		.n_alone = ex_host_usable(h) ? count_alone(d, h, NULL) : 0,
		.n_frames = count_frames(d, h),
		.load = ex_host_usable(h) ? h->load : 0,
		.rtt_p50_s = quantile_s(h->m.seconds, 0.5),
		.rtt_p99_s = quantile_s(h->m.seconds, 0.99),
		.state_s = (double)(ex_now_ns() - h->state_ns) / (double)EX_NS_PER_S,
		.rows = h->n_rows,
		.errors = h->n_errors,
	};
	snprintf(v->name, sizeof v->name, "%s", h->name);
	snprintf(v->address, sizeof v->address, "%s", h->address);
	snprintf(v->error, sizeof v->error, "%s", h->error);
	snprintf(v->version, sizeof v->version, "%s", h->version);
	snprintf(v->plugin, sizeof v->plugin, "%s", h->plugin);
	snprintf(v->identity, sizeof v->identity, "%s", h->kind);
	snprintf(v->zone, sizeof v->zone, "%s", h->zone);
	v->memory_bytes = h->memory_bytes;
	v->accepts_moves = h->accepts_moves;
	v->stops = h->state == EX_HOST_DRAINING;
	if (h->distrusted && !h->error[0])
		snprintf(v->error, sizeof v->error, "its results differ from those of two other replicas");
	else if (h->drained && !h->error[0])
		snprintf(v->error, sizeof v->error, "taken out of use by an operator");
}

static bool count_local(struct ex_dispatch *d, void *ctx, const struct ex_shard_id *id, uint32_t group)
{
	struct ex_host_view *v = ctx;
	struct ex_generation *g = ex_registry_pin(d->o.registry, id->layer, id->first_expert);
	(void)group;
	if (!g)
		return true;
	ex_shard_count_kind(v->identity, ex_generation_identity_text(g));
	if (!v->n_shards)
		snprintf(v->plugin, sizeof v->plugin, "%s", ex_generation_plugin(g));
	else if (strcmp(v->plugin, ex_generation_plugin(g)) != 0)
		snprintf(v->plugin, sizeof v->plugin, "%s", EX_IDENTITY_MIXED);
	v->n_shards++;
	ex_generation_unpin(g);
	return true;
}

static void view_local(struct ex_dispatch *d, struct ex_host_view *v)
{
	*v = (struct ex_host_view){
		.state = EX_HOST_READY,
		.local = true,
		.rtt_p50_s = quantile_s(d->local.seconds, 0.5),
		.rtt_p99_s = quantile_s(d->local.seconds, 0.99),
		.state_s = (double)(ex_now_ns() - d->start_ns) / (double)EX_NS_PER_S,
		.rows = ex_metric_count(d->local.rows),
		.errors = ex_metric_count(d->local.errors),
	};
	each_shard(d, count_local, v);
	snprintf(v->name, sizeof v->name, "%s", d->o.node);
	snprintf(v->address, sizeof v->address, "local");
	snprintf(v->version, sizeof v->version, "%s", d->o.version);
}

void ex_dispatch_each_host(struct ex_dispatch *d, void (*fn)(void *ctx, const struct ex_host_view *v), void *ctx)
{
	struct ex_host_view v;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	if (d->o.local) {
		view_local(d, &v);
		fn(ctx, &v);
	}
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++) {
		ex_lock_take(&d->lock);
		bool used = d->hosts[p].used;
		if (used)
			view_host(d, &d->hosts[p], &v);
		ex_lock_give(&d->lock);
		if (used)
			fn(ctx, &v);
	}
}

struct holders {
	void (*fn)(void *ctx, const struct ex_shard_id *id, const char *const *hosts, size_t n_hosts);
	void *ctx;
	uint32_t n_max;
	const char **names; /* [n_max + 1] */
	char (*copies)[64]; /* [n_max] */
};

static bool show_holders(struct ex_dispatch *d, void *ctx, const struct ex_shard_id *id, uint32_t group)
{
	struct holders *s = ctx;
	size_t n = 0;
	if (is_local(d, id))
		s->names[n++] = d->o.node;
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < s->n_max; p++)
		if (host_has(d, &d->hosts[p], id->layer, group)) {
			memcpy(s->copies[p], d->hosts[p].name, sizeof s->copies[p]);
			s->names[n++] = s->copies[p];
		}
	ex_lock_give(&d->lock);
	s->fn(s->ctx, id, s->names, n);
	return true;
}

void ex_dispatch_each_shard(struct ex_dispatch *d,
	void (*fn)(void *ctx, const struct ex_shard_id *id, const char *const *hosts, size_t n_hosts), void *ctx)
{
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	struct holders s = {.fn = fn, .ctx = ctx, .n_max = ex_dispatch_n_hosts(d)};
	s.names = calloc(s.n_max + (size_t)1, sizeof *s.names);
	s.copies = calloc(s.n_max + (size_t)1, sizeof *s.copies);
	if (s.names && s.copies)
		each_shard(d, show_holders, &s);
	free(s.names);
	free(s.copies);
}
