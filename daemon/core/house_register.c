/* SPDX-License-Identifier: Apache-2.0 */
/* An expert host in etcd: what it says of itself, and what is told of its registration. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include <config.h> /* of the build; not core/config.h */
#include <stdio.h>
#include <string.h>
#include <systemd/sd-id128.h>

/* Of this application on this machine, so that the machine's own id stays private. */
#define MACHINE_APP SD_ID128_MAKE(4b, 91, e7, 3f, e8, f1, 48, 64, b2, 96, 7a, f6, d0, 86, a4, 7b)

static void on_registrar(void *ctx, enum ex_registrar_event ev, const char *text)
{
	static const enum ex_event_id id[] = {
		[EX_REGISTRAR_REGISTERED] = EX_EV_HOST_REGISTERED,
		[EX_REGISTRAR_LOST] = EX_EV_HOST_UNREGISTERED,
		[EX_REGISTRAR_REGAINED] = EX_EV_HOST_REREGISTERED,
		[EX_REGISTRAR_CLASH] = EX_EV_HOST_NAME_TAKEN,
		[EX_REGISTRAR_REFUSED] = EX_EV_ETCD_REFUSED,
		[EX_REGISTRAR_UNREACHABLE] = EX_EV_ETCD_UNREACHABLE,
		[EX_REGISTRAR_BACK] = EX_EV_ETCD_BACK,
	};
	const struct ex_house *h = ctx;
	const struct ex_field fields[] = {{"EX_HOST", h->p->node_name}, {NULL, NULL}};
	if (ev == EX_REGISTRAR_UNREACHABLE)
		ex_event(id[ev], fields, "etcd cannot be reached: %s; serving goes on", text);
	else
		ex_event(id[ev], fields, "%s", text);
}

/* [node] advertise, else where the server listens, with the port that it got. */
static void fill_address(const struct ex_house *h, struct ex_member *m)
{
	struct ex_addr a;
	if (*h->p->node_advertise) {
		snprintf(m->address, sizeof m->address, "%s", h->p->node_advertise);
	} else if (ex_addr_parse(h->p->node_listen, NULL, &a) == 0) {
		bool v6 = strchr(a.host, ':') != NULL;
		snprintf(m->address, sizeof m->address, "%s%s%s:%d", v6 ? "[" : "", a.host, v6 ? "]" : "",
			ex_server_port(h->expert_server));
	}
}

static void count_identity(void *ctx, const struct ex_shard_view *v)
{
	struct ex_member *m = ctx;
	if (v->generation)
		ex_shard_count_kind(m->identity, v->identity);
}

static void live_digest(struct ex_house *h, char digest[static EX_DIGEST_HEX])
{
	ex_lock_take(&h->models_lock);
	memcpy(digest, ex_weights_digest(h->weights), EX_DIGEST_HEX);
	ex_lock_give(&h->models_lock);
}

/* shards: its text, which ret borrows. */
static void fill_member(struct ex_house *h, const char *shards, struct ex_member *ret)
{
	const struct ex_params *p = h->p;
	sd_id128_t machine;
	*ret = (struct ex_member){
		.expert_groups = h->n_groups,
		.memory_bytes = h->member_bytes,
		.shards = shards,
	};
	snprintf(ret->name, sizeof ret->name, "%s", p->node_name);
	snprintf(ret->zone, sizeof ret->zone, "%s", p->node_zone);
	snprintf(ret->version, sizeof ret->version, "%s", PACKAGE_VERSION);
	snprintf(ret->plugin, sizeof ret->plugin, "%s", h->expert_host.name);
	live_digest(h, ret->model_digest);
	ex_registry_each(h->registry, count_identity, ret);
	fill_address(h, ret);
	if (sd_id128_get_machine_app_specific(MACHINE_APP, &machine) >= 0) /* a container may have none */
		sd_id128_to_string(machine, ret->machine);
}

static int list_shards(const struct ex_house *h, struct ex_str *ret)
{
	const struct ex_text_list *l = &h->p->expert_shards;
	for (size_t i = 0; i < l->n; i++)
		ex_str_addf(ret, "%s%s", i ? " " : "", l->v[i]);
	return ret->oom || ret->n >= EX_MEMBER_SHARDS_MAX ? -E2BIG : 0;
}

void ex_house_watch_registration(struct ex_house *h)
{
	struct ex_str shards = EX_STR_INIT;
	struct ex_member m;
	char digest[EX_DIGEST_HEX];
	if (!h->registrar)
		return;
	const uint64_t revision = ex_registry_revision(h->registry);
	live_digest(h, digest); /* a switch turns the registry first */
	if (revision == h->member_revision && strcmp(digest, h->member_digest) == 0)
		return;
	if (list_shards(h, &shards) == 0) {
		fill_member(h, shards.s, &m);
		bool same = strcmp(m.identity, h->member_identity) == 0 && strcmp(digest, h->member_digest) == 0;
		if (same || ex_registrar_update(h->registrar, &m) == 0) {
			memcpy(h->member_identity, m.identity, sizeof m.identity);
			memcpy(h->member_digest, digest, sizeof digest);
			h->member_revision = revision;
		}
	}
	ex_str_done(&shards);
}

int ex_house_register(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	struct ex_str shards = EX_STR_INIT;
	struct ex_member m;
	if (list_shards(h, &shards) < 0) {
		ex_str_done(&shards);
		return ex_err_set(err, -E2BIG, "[expert] shards is too long to be registered in etcd");
	}
	h->member_bytes = ex_mem_available() + ex_mem_resident();
	h->member_revision = ex_registry_revision(h->registry);
	fill_member(h, shards.s, &m);
	memcpy(h->member_identity, m.identity, sizeof m.identity);
	memcpy(h->member_digest, m.model_digest, sizeof h->member_digest);
	const char *endpoints[EX_ETCD_ENDPOINTS_MAX];
	ex_config_etcd_endpoints(p, endpoints);
	const struct ex_registrar_opts o = {
		.endpoints = endpoints,
		.n_endpoints = p->etcd_endpoints.n,
		.channel = {.loop = h->loop_control, .tls = h->tls_etcd},
		.prefix = p->etcd_prefix,
		.timeout_ms = p->etcd_timeout_ms,
		.lease_ttl_s = p->etcd_lease_ttl_s,
		.self = &m,
		.event = on_registrar,
		.ctx = h,
	};
	int rc = ex_registrar_new(&o, err, &h->registrar);
	ex_str_done(&shards);
	return rc < 0 ? ex_err_prefix(err, "[etcd]") : 0;
}
