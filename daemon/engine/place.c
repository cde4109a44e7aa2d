/* SPDX-License-Identifier: Apache-2.0 */
/* The fleet as input of the planner, and its plan in the fleet's words. Layer L3. */
#include "engine/place.h"
#include "base/mem.h"
#include "engine/fabric.h"

#include <stdio.h>
#include <string.h>

/* The planner's input, and what it borrows. */
struct input {
	struct ex_planner_host *hosts;
	struct ex_planner_shard *shards;
	struct ex_planner_pair *pairs;
	uint32_t *shard_of;              /* [slots] index into shards, EX_PLANNER_NONE: no shard of the model */
	double *loads;                   /* [slots] */
	char (*names)[64], (*zones)[64]; /* [n_hosts] */
	char (*addresses)[EX_ADDR_MAX];
	size_t n_hosts, n_shards, n_pairs;
};

static void input_done(struct input *in)
{
	free(in->hosts);
	free(in->shards);
	free(in->pairs);
	free(in->shard_of);
	free(in->loads);
	free(in->names);
	free(in->zones);
	free(in->addresses);
}

static int input_init(struct input *in, const struct ex_dispatch *d)
{
	size_t n_slots = (size_t)d->o.n_layers * d->o.n_groups, n_hosts = ex_dispatch_n_hosts(d) + (size_t)1;
	*in = (struct input){
		.hosts = ex_calloc(n_hosts, sizeof *in->hosts),
		.shards = ex_calloc(n_slots, sizeof *in->shards),
		.pairs = ex_calloc(n_slots * n_hosts, sizeof *in->pairs),
		.shard_of = ex_calloc(n_slots, sizeof *in->shard_of),
		.loads = ex_calloc(n_slots, sizeof *in->loads),
		.names = ex_calloc(n_hosts, sizeof *in->names),
		.zones = ex_calloc(n_hosts, sizeof *in->zones),
		.addresses = ex_calloc(n_hosts, sizeof *in->addresses),
	};
	bool whole = in->hosts && in->shards && in->pairs && in->shard_of && in->loads && in->names && in->zones;
	return whole && in->addresses ? 0 : -ENOMEM;
}

/* Every shard of the model; one that nobody has told the size of counts as the largest. */
static void add_shards(struct input *in, struct ex_dispatch *d)
{
	uint64_t largest = 1;
	ex_load_look(d->load, ex_now_ns(), in->loads);
	for (uint32_t layer = 0; layer < d->o.n_layers; layer++)
		for (uint32_t g = 0; g < d->o.n_groups; g++) {
			size_t slot = ex_dispatch_slot(d, layer, g);
			in->shard_of[slot] = EX_PLANNER_NONE;
			if (layer < d->o.first_k_dense || layer % d->o.moe_layer_freq)
				continue;
			in->shard_of[slot] = (uint32_t)in->n_shards;
			in->shards[in->n_shards++] = (struct ex_planner_shard){
				.id = ex_shard_of_group(layer, d->o.n_experts, d->o.n_groups, g),
				.bytes = d->shard_bytes[slot],
				.load = in->loads[slot],
			};
			largest = EX_MAX(largest, d->shard_bytes[slot]);
		}
	for (size_t i = 0; i < in->n_shards; i++)
		if (!in->shards[i].bytes)
			in->shards[i].bytes = largest;
}

static enum ex_planner_host_state planner_state(const struct fleet_host *h)
{
	if (!ex_host_usable(h))
		return EX_PLANNER_LOST;
	return h->drained || h->distrusted || h->state == EX_HOST_DRAINING ? EX_PLANNER_DRAINING : EX_PLANNER_READY;
}

static bool is_fixed(const struct fleet_host *h, const struct ex_place_opts *o)
{
	if (!o->to_apply)
		return false;
	for (size_t i = 0; i < o->n_shut; i++)
		if (strcmp(o->shut[i], h->name) == 0)
			return true;
	return !h->accepts_moves || h->state == EX_HOST_DRAINING;
}

static void add_host(
	struct input *in, const struct ex_dispatch *d, const struct fleet_host *h, const struct ex_place_opts *o)
{
	size_t n = in->n_hosts++;
	uint64_t held = 0;
	for (size_t slot = 0; slot < (size_t)d->o.n_layers * d->o.n_groups; slot++)
		if (h->identity[slot] && in->shard_of[slot] != EX_PLANNER_NONE) {
			in->pairs[in->n_pairs++] =
				(struct ex_planner_pair){.shard = in->shard_of[slot], .host = (uint32_t)n};
			held += in->shards[in->shard_of[slot]].bytes;
		}
	snprintf(in->names[n], sizeof in->names[n], "%s", h->name);
	snprintf(in->zones[n], sizeof in->zones[n], "%s", h->zone[0] ? h->zone : h->name); /* alone in its zone */
	snprintf(in->addresses[n], sizeof in->addresses[n], "%s", h->address);
	in->hosts[n] = (struct ex_planner_host){
		.name = in->names[n],
		.zone = in->zones[n],
		.memory_bytes = EX_MIN(EX_MAX(h->memory_bytes, held), EX_PLANNER_BYTES_MAX),
		.speed = 1,
		.state = planner_state(h),
		.fixed = is_fixed(h, o),
	};
}

/* The shards of this process: they stay, and no others come. */
static void add_local(struct input *in, struct ex_dispatch *d)
{
	size_t n = in->n_hosts;
	uint64_t held = 0;
	for (size_t i = 0; d->o.local && i < in->n_shards; i++) {
		const struct ex_shard_id *id = &in->shards[i].id;
		struct ex_generation *g = ex_registry_pin_epoch(d->o.registry, d->o.epoch, id->layer, id->first_expert);
		if (!g)
			continue;
		ex_generation_unpin(g);
		in->pairs[in->n_pairs++] = (struct ex_planner_pair){.shard = (uint32_t)i, .host = (uint32_t)n};
		held += in->shards[i].bytes;
	}
	if (!held)
		return;
	snprintf(in->names[n], sizeof in->names[n], "%s", d->o.node);
	in->hosts[n] = (struct ex_planner_host){.name = in->names[n],
		.zone = in->names[n],
		.memory_bytes = held,
		.speed = 1,
		.state = EX_PLANNER_READY,
		.fixed = true};
	in->n_hosts++;
}

static void take_fleet(struct input *in, struct ex_dispatch *d, const struct ex_place_opts *o)
{
	ex_lock_take(&d->lock);
	add_shards(in, d);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used && d->hosts[p].state != EX_HOST_JOINING)
			add_host(in, d, &d->hosts[p], o);
	ex_lock_give(&d->lock);
	add_local(in, d);
}

static int tell_moves(const struct ex_planner_input *pi, const struct input *in, const struct ex_planner_result *r,
	struct ex_place *ret)
{
	ret->moves = ex_calloc(r->n_moves, sizeof *ret->moves);
	if (!ret->moves)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_moves; i++) {
		const struct ex_planner_move *m = &r->moves[i];
		struct ex_place_move *to = &ret->moves[ret->n_moves++];
		*to = (struct ex_place_move){
			.shard = in->shards[m->shard].id, .load = m->load, .bytes = in->shards[m->shard].bytes};
		memcpy(to->host, in->names[m->host], sizeof to->host);
		memcpy(to->address, in->addresses[m->host], sizeof to->address);
		ex_planner_reason_text(pi, &m->reason, to->why);
	}
	return 0;
}

static int plan(const struct ex_planner_input *pi, const struct input *in, struct ex_err *err, struct ex_place *ret)
{
	struct ex_planner_result r;
	int rc = ex_planner_plan(pi, err, &r);
	if (rc)
		return rc;
	struct ex_place p = {
		.bytes_moved = r.bytes_moved,
		.over_budget = r.over_budget,
		.before = r.before,
		.after = r.after,
		.n_hosts = (uint32_t)in->n_hosts,
		.n_shards = (uint32_t)in->n_shards,
	};
	rc = tell_moves(pi, in, &r, &p);
	ex_planner_done(&r);
	if (rc)
		return ex_err_errno(err, rc, "cannot plan");
	*ret = p;
	return 0;
}

int ex_dispatch_place(struct ex_dispatch *d, const struct ex_place_opts *o, struct ex_err *err, struct ex_place *ret)
{
	struct input in;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	int rc = input_init(&in, d);
	if (rc) {
		input_done(&in);
		return ex_err_errno(err, rc, "cannot plan");
	}
	take_fleet(&in, d, o);
	const struct ex_planner_input pi = {
		.hosts = in.hosts,
		.n_hosts = in.n_hosts,
		.shards = in.shards,
		.n_shards = in.n_shards,
		.pairs = in.pairs,
		.n_pairs = in.n_pairs,
		.opts = o->planner,
	};
	bool movable = !o->to_apply;
	for (size_t i = 0; i < in.n_hosts; i++)
		movable |= !in.hosts[i].fixed && in.hosts[i].state != EX_PLANNER_LOST;
	if (in.n_hosts && movable)
		rc = plan(&pi, &in, err, ret);
	else if (in.n_hosts)
		rc = ex_err_set(err, -EPERM, "no expert host takes moves from this router: [expert] accept_moves");
	else
		rc = ex_err_set(err, -EAGAIN, "no expert host has said what it holds yet");
	input_done(&in);
	return rc;
}

/* --- single looks ----------------------------------------------------------------------------------------- */

/* Its replicas count. Under d->lock. */
static bool in_use(const struct fleet_host *h)
{
	return h->used && planner_state(h) == EX_PLANNER_READY;
}

static bool is_local(struct ex_dispatch *d, const struct ex_shard_id *id)
{
	struct ex_generation *g = d->o.local ? ex_registry_pin(d->o.registry, id->layer, id->first_expert) : NULL;
	ex_generation_unpin(g);
	return g != NULL;
}

void ex_dispatch_look(
	struct ex_dispatch *d, const char *host, const struct ex_shard_id *shard, struct ex_place_look *ret)
{
	uint32_t group = ex_shard_group_of_expert(d->o.n_experts, d->o.n_groups, shard->first_expert);
	size_t slot = ex_dispatch_slot(d, shard->layer, group);
	const struct fleet_host *h = NULL;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	*ret = (struct ex_place_look){.n_others = is_local(d, shard)};
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used && strcmp(d->hosts[p].name, host) == 0 && (!h || ex_host_usable(&d->hosts[p])))
			h = &d->hosts[p];
	if (h) {
		ret->there = ex_host_usable(h);
		ret->holds = h->identity[slot] != 0;
	}
	for (uint32_t p = 0; h && p < ex_dispatch_n_hosts(d); p++) {
		const struct fleet_host *o = &d->hosts[p];
		ret->n_others += o != h && in_use(o) && o->state == EX_HOST_READY && o->identity[slot] &&
				 (d->o.failover == EX_FAILOVER_ANY || o->identity[slot] == h->identity[slot]);
	}
	ex_lock_give(&d->lock);
}

uint32_t ex_dispatch_n_under(struct ex_dispatch *d, uint32_t min_replicas)
{
	uint32_t n_under = 0;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	for (uint32_t layer = d->o.first_k_dense; layer < d->o.n_layers; layer++)
		for (uint32_t g = 0; g < d->o.n_groups && layer % d->o.moe_layer_freq == 0; g++) {
			struct ex_shard_id id = ex_shard_of_group(layer, d->o.n_experts, d->o.n_groups, g);
			uint32_t n = is_local(d, &id);
			ex_lock_take(&d->lock);
			for (uint32_t p = 0; p < ex_dispatch_n_hosts(d) && n < min_replicas; p++)
				n += in_use(&d->hosts[p]) && d->hosts[p].identity[ex_dispatch_slot(d, layer, g)];
			ex_lock_give(&d->lock);
			n_under += n < min_replicas;
		}
	return n_under;
}

uint64_t ex_dispatch_usage(struct ex_dispatch *d)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++) {
		const struct fleet_host *h = &d->hosts[p];
		uint64_t state = !h->used ? 0 : in_use(h) ? 1 + h->accepts_moves : ex_host_usable(h) ? 3 : 4;
		hash = (hash ^ state) * UINT64_C(0x100000001b3);
		for (const char *c = h->used ? h->name : ""; *c; c++)
			hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
	}
	ex_lock_give(&d->lock);
	return hash;
}

double ex_dispatch_rows_lately(struct ex_dispatch *d)
{
	size_t n = (size_t)d->o.n_layers * d->o.n_groups;
	double sum = 0;
	EX_CLEANUP(ex_freep) double *loads = ex_calloc(n, sizeof *loads);
	if (!loads)
		return 0;
	ex_lock_take(&d->lock);
	ex_load_look(d->load, ex_now_ns(), loads);
	ex_lock_give(&d->lock);
	for (size_t i = 0; i < n; i++)
		sum += loads[i];
	return sum;
}

void ex_place_done(struct ex_place *p)
{
	free(p->moves);
	*p = (struct ex_place){0};
}
