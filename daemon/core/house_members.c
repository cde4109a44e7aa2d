/* SPDX-License-Identifier: Apache-2.0 */
/* Which expert hosts the router knows: those of [router] peers, and those that are registered in etcd. Layer L5.
 *
 * Sources call back on the control loop and are only noted; the list is applied by the thread that looks after the house,
 * for it waits until hosts that left are gone. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define LOOK_AGAIN_NS (5 * EX_NS_PER_S)

static void free_list(struct ex_house_listed *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct ex_house_listed){0};
}

/* --- from the sources [cq of the control loop] ------------------------------------------------------------ */

/* A copy of the addresses, this process's own left out. False: out of memory, and ret is empty. */
static bool copy_list(const struct ex_house *h, const struct ex_member *m, size_t n, struct ex_house_listed *ret)
{
	*ret = (struct ex_house_listed){.v = ex_calloc(n, sizeof *ret->v)};
	for (size_t i = 0; ret->v && i < n; i++) {
		if (ex_config_is_expert(h->p) && strcmp(m[i].name, h->p->node_name) == 0)
			continue;
		char *address = strdup(m[i].address);
		if (!address) {
			free_list(ret);
			return false;
		}
		ret->v[ret->n++] = address;
	}
	return ret->v != NULL;
}

static void on_changed(void *ctx, const struct ex_member *m, size_t n)
{
	struct ex_house_source *s = ctx;
	struct ex_house_listed fresh;
	if (!copy_list(s->house, m, n, &fresh)) {
		ex_log(LOG_ERR, "out of memory for a new list of %zu expert hosts: the old one stays", n);
		return;
	}
	ex_lock_take(&s->house->members_lock);
	free_list(&s->listed);
	s->listed = fresh;
	s->changed = true;
	ex_lock_give(&s->house->members_lock);
}

static void on_state(void *ctx, enum ex_members_state state, const char *why)
{
	struct ex_house_source *s = ctx;
	if (state == EX_MEMBERS_STALE || (state == EX_MEMBERS_STARTING && *why))
		ex_event(EX_EV_ETCD_UNREACHABLE, NULL,
			"etcd cannot be reached: %s; serving goes on with the hosts that are known", why);
	else if (state == EX_MEMBERS_LIVE && s->stale)
		ex_event(EX_EV_ETCD_BACK, NULL, "etcd answers again: expert hosts are followed");
	s->stale = state != EX_MEMBERS_LIVE;
}

static void on_refused(void *ctx, const char *key, const char *why)
{
	(void)ctx;
	ex_log(LOG_WARNING, "etcd key '%s' is not taken for an expert host: %s", key, why);
}

/* --- into dispatch ---------------------------------------------------------------------------------------- */

/* Addresses of all sources, borrowed from them, each once; under members_lock. */
static const char **merge(struct ex_house *h, size_t *ret_n)
{
	size_t n = 0;
	const char **all = ex_calloc(h->source[0].listed.n + h->source[1].listed.n, sizeof *all);
	for (size_t s = 0; all && s < EX_ARRAY_LEN(h->source); s++)
		for (size_t i = 0; i < h->source[s].listed.n; i++) {
			bool there = false;
			for (size_t k = 0; k < n; k++)
				there |= strcmp(all[k], h->source[s].listed.v[i]) == 0;
			if (!there)
				all[n++] = h->source[s].listed.v[i];
		}
	*ret_n = n;
	return all;
}

/* Takes the sources' lists as they are. *ret_keep: only etcd's has changed. NULL: nothing has, or memory is out. */
static char **take_lists(struct ex_house *h, size_t *ret_n, bool *ret_keep)
{
	char **copy = NULL;
	ex_lock_take(&h->members_lock);
	bool changed = h->source[EX_SOURCE_PEERS].changed || h->source[EX_SOURCE_ETCD].changed;
	const char **all = changed ? merge(h, ret_n) : NULL;
	if (all)
		copy = ex_calloc(*ret_n, sizeof *copy);
	bool whole = copy != NULL;
	for (size_t i = 0; whole && i < *ret_n; i++)
		whole = (copy[i] = strdup(all[i])) != NULL;
	if (whole) {
		*ret_keep = !h->source[EX_SOURCE_PEERS].changed;
		h->source[EX_SOURCE_PEERS].changed = h->source[EX_SOURCE_ETCD].changed = false;
	} else if (copy) {
		struct ex_house_listed l = {copy, *ret_n};
		free_list(&l);
		copy = NULL;
	}
	ex_lock_give(&h->members_lock);
	free(all);
	return copy;
}

/* Hosts that were kept though etcd does not list them may have died meanwhile: they go at the next look. */
static void look_again(struct ex_house *h)
{
	if (!h->members_ns || ex_now_ns() - h->members_ns < LOOK_AGAIN_NS)
		return;
	ex_lock_take(&h->members_lock);
	h->source[EX_SOURCE_ETCD].changed = true;
	ex_lock_give(&h->members_lock);
}

/* Of all models alike; under models_lock once the house is built. */
void ex_house_apply_members(struct ex_house *h)
{
	look_again(h);
	struct ex_err err = EX_ERR_INIT;
	size_t n = 0;
	bool keep = false;
	char **list = take_lists(h, &n, &keep);
	if (!list)
		return;
	/* a host whose lease ended may be well, and cut off from etcd alone: as long as it answers, it stays */
	struct ex_house_model *const models[] = {h->model, h->next, h->before};
	for (size_t i = 0; i < EX_ARRAY_LEN(models); i++)
		if (models[i] && models[i]->dispatch &&
			ex_dispatch_set_members(models[i]->dispatch, (const char *const *)list, n, keep, &err) < 0)
			ex_log(LOG_ERR, "not every expert host could be taken up: %s", ex_err_text(&err));
	h->members_ns = keep ? ex_now_ns() : 0;
	struct ex_house_listed l = {list, n};
	free_list(&l);
}

/* --- life ------------------------------------------------------------------------------------------------- */

int ex_house_copy_peers(struct ex_house *h, struct ex_err *err)
{
	struct ex_house_listed *l = &h->source[EX_SOURCE_PEERS].listed;
	const struct ex_text_list *peers = &h->p->router_peers;
	ex_lock_take(h->o.params_lock);
	bool whole = (l->v = ex_calloc(peers->n, sizeof *l->v)) != NULL;
	for (size_t i = 0; whole && i < peers->n; i++) {
		whole = (l->v[i] = strdup(peers->v[i])) != NULL;
		l->n += whole;
	}
	ex_lock_give(h->o.params_lock);
	return whole ? 0 : ex_err_errno(err, -ENOMEM, "cannot list the expert hosts");
}

int ex_house_follow_members(struct ex_house *h, struct ex_err *err)
{
	static const struct ex_members_ops ops = {.changed = on_changed, .state = on_state, .refused = on_refused};
	const struct ex_params *p = h->p;
	for (size_t s = 0; s < EX_ARRAY_LEN(h->source); s++)
		h->source[s].house = h;
	ex_lock_take(h->o.params_lock); /* a reload comes before, and then these are its peers, or after */
	int rc = ex_members_static_new(h->loop_control, (const char *const *)p->router_peers.v, p->router_peers.n, &ops,
		&h->source[EX_SOURCE_PEERS], err, &h->source[EX_SOURCE_PEERS].members);
	ex_lock_give(h->o.params_lock);
	if (rc < 0 || !p->there[EX_SECTION_etcd])
		return rc;
	const char *endpoints[EX_ETCD_ENDPOINTS_MAX];
	ex_config_etcd_endpoints(p, endpoints);
	const struct ex_members_etcd_opts o = {
		.endpoints = endpoints,
		.n_endpoints = p->etcd_endpoints.n,
		.channel = {.loop = h->loop_control, .tls = h->tls_etcd},
		.prefix = p->etcd_prefix,
		.timeout_ms = p->etcd_timeout_ms,
		.lease_ttl_s = p->etcd_lease_ttl_s,
		.ops = &ops,
		.ctx = &h->source[EX_SOURCE_ETCD],
	};
	rc = ex_members_etcd_new(&o, err, &h->source[EX_SOURCE_ETCD].members);
	return rc < 0 ? ex_err_prefix(err, "[etcd]") : 0;
}

void ex_house_reload(struct ex_house *h)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_text_list *peers = &h->p->router_peers;
	struct ex_members *m = h->source[EX_SOURCE_PEERS].members;
	if (m && ex_members_static_set(m, (const char *const *)peers->v, peers->n, &err) < 0)
		ex_log(LOG_ERR, "[router] peers: %s; the old list stays", ex_err_text(&err));
	ex_house_reload_placement(h);
}

void ex_house_leave_members(struct ex_house *h)
{
	for (size_t s = 0; s < EX_ARRAY_LEN(h->source); s++) {
		ex_members_freep(&h->source[s].members);
		free_list(&h->source[s].listed);
	}
}
