/* SPDX-License-Identifier: Apache-2.0 */
/* A placement that is being worked on. Layer L2. */
#include "fleet/planner_state.h"

#include "base/mem.h"
#include <string.h>

bool ps_holds(const struct ps *p, uint32_t s, uint32_t h)
{
	const struct ps_replica *r = ps_replicas(p, s);
	for (uint32_t i = 0; i < p->shard[s].n; i++)
		if (r[i].host == h)
			return true;
	return false;
}

bool ps_held_at_start(const struct ps *p, uint32_t s, uint32_t h)
{
	const struct ps_replica *r = ps_start(p, s);
	for (uint32_t i = 0; i < p->shard[s].n_start; i++)
		if (r[i].host == h)
			return true;
	return false;
}

uint32_t ps_count_ready(const struct ps *p, uint32_t s)
{
	const struct ps_replica *r = ps_replicas(p, s);
	uint32_t n = 0;
	for (uint32_t i = 0; i < p->shard[s].n; i++)
		n += p->host[r[i].host].ready;
	return n;
}

bool ps_in_zone(const struct ps *p, uint32_t s, uint32_t zone)
{
	const struct ps_replica *r = ps_replicas(p, s);
	for (uint32_t i = 0; i < p->shard[s].n; i++)
		if (p->host[r[i].host].ready && p->host[r[i].host].zone == zone)
			return true;
	return false;
}

uint32_t ps_count_zones(const struct ps *p, uint32_t s, uint32_t without, uint32_t with)
{
	const struct ps_replica *r = ps_replicas(p, s);
	uint32_t zone[EX_PLANNER_REPLICAS_MAX + 2], n = 0;
	for (uint32_t i = 0; i <= p->shard[s].n; i++) {
		uint32_t h = i < p->shard[s].n ? r[i].host : with, k = 0;
		if (h == EX_PLANNER_NONE || h == without || !p->host[h].ready)
			continue;
		while (k < n && zone[k] != p->host[h].zone)
			k++;
		if (k == n && n < EX_ARRAY_LEN(zone))
			zone[n++] = p->host[h].zone;
	}
	return n;
}

bool ps_is_surplus(const struct ps *p, uint32_t s, uint32_t h)
{
	if (p->host[h].fixed || p->shard[s].n <= p->in->opts.min_replicas ||
		ps_count_ready(p, s) <= p->in->opts.min_replicas)
		return false;
	uint32_t zones = ps_count_zones(p, s, h, EX_PLANNER_NONE);
	return zones >= p->zones_wanted || zones == ps_count_zones(p, s, EX_PLANNER_NONE, EX_PLANNER_NONE);
}

bool ps_affords(const struct ps *p, uint32_t s, uint32_t h, uint64_t more)
{
	uint64_t budget = p->in->opts.budget_bytes;
	uint64_t cost = (ps_held_at_start(p, s, h) ? 0 : p->shard[s].bytes) + more;
	return !budget || cost == 0 || p->spent + cost <= budget;
}

/* The time of every holder of s changes by dw. */
static void shift_holders(struct ps *p, uint32_t s, double dw)
{
	const struct ps_replica *r = ps_replicas(p, s);
	for (uint32_t i = 0; i < p->shard[s].n; i++) {
		p->host[r[i].host].time += dw;
		p->layer_time[(size_t)r[i].host * p->n_layers + p->shard[s].layer] += dw;
	}
}

/* h joins or leaves those who hold s. */
static void share(struct ps *p, uint32_t s, uint32_t h, float load)
{
	const struct ps_replica *r = ps_replicas(p, s);
	for (uint32_t i = 0; i < p->shard[s].n; i++) {
		p->shared[(size_t)h * p->n_hosts + r[i].host] += load;
		p->shared[(size_t)r[i].host * p->n_hosts + h] += load;
	}
}

static int keep_trace(struct ps *p, struct ps_step step)
{
	int rc = ex_grow(&p->trace, &p->cap_trace, p->n_trace + 1, sizeof *p->trace);
	if (rc == 0)
		p->trace[p->n_trace++] = step;
	return rc;
}

void ps_add(struct ps *p, uint32_t s, uint32_t h, struct ex_planner_reason why)
{
	struct ps_shard *sh = &p->shard[s];
	struct ps_host *to = &p->host[h];
	assert(sh->n < p->cap && !ps_holds(p, s, h));
	if (ex_grow(&to->list, &to->cap_list, to->n_list + 1, sizeof *to->list) < 0 ||
		keep_trace(p, (struct ps_step){{s, h, true, why}, {0}}) < 0) {
		p->oom = true;
		return;
	}
	double before = ps_weight(p, s);
	sh->speed += to->speed;
	shift_holders(p, s, sh->load / sh->speed - before);
	share(p, s, h, (float)sh->load);
	p->now[(size_t)s * p->cap + sh->n++] = (struct ps_replica){h, why};
	to->list[to->n_list++] = s;
	to->used += sh->bytes;
	to->time += sh->load / sh->speed;
	p->layer_time[(size_t)h * p->n_layers + sh->layer] += sh->load / sh->speed;
	p->n_surplus += sh->n > p->in->opts.min_replicas;
	if (!ps_held_at_start(p, s, h))
		p->spent += sh->bytes;
}

void ps_remove(struct ps *p, uint32_t s, uint32_t h, struct ex_planner_reason why)
{
	struct ps_shard *sh = &p->shard[s];
	struct ps_host *from = &p->host[h];
	struct ps_replica *r = p->now + (size_t)s * p->cap, *start = ps_start(p, s);
	uint32_t i = 0, k = 0;
	while (i < sh->n && r[i].host != h)
		i++;
	while (k < from->n_list && from->list[k] != s)
		k++;
	assert(i < sh->n && k < from->n_list);
	if (keep_trace(p, (struct ps_step){{s, h, false, why}, r[i].reason}) < 0) {
		p->oom = true;
		return;
	}
	double before = sh->load / sh->speed;
	p->n_surplus -= sh->n > p->in->opts.min_replicas;
	from->used -= sh->bytes;
	from->time -= before;
	p->layer_time[(size_t)h * p->n_layers + sh->layer] -= before;
	from->list[k] = from->list[--from->n_list];
	r[i] = r[--sh->n];
	share(p, s, h, -(float)sh->load);
	sh->speed = 0;
	for (uint32_t j = 0; j < sh->n; j++)
		sh->speed += p->host[r[j].host].speed;
	shift_holders(p, s, ps_weight(p, s) - before);
	if (!ps_held_at_start(p, s, h)) {
		p->spent -= sh->bytes;
		return;
	}
	for (uint32_t j = 0; j < sh->n_start; j++)
		if (start[j].host == h)
			start[j].reason = why;
}

void ps_undo(struct ps *p, size_t n_trace)
{
	while (p->n_trace > n_trace && !p->oom) {
		struct ps_step step = p->trace[p->n_trace - 1];
		if (step.move.load)
			ps_remove(p, step.move.shard, step.move.host, step.move.reason);
		else
			ps_add(p, step.move.shard, step.move.host, step.was);
		if (!p->oom)
			p->n_trace -= 2; /* the step and its contrary */
	}
	ps_recount(p);
}

/* --- making one --------------------------------------------------------------------------------------------------- */

static void number_zones(struct ps *p)
{
	uint32_t n = 0;
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		const struct ex_planner_host *in = &p->in->hosts[h];
		bool seen_ready = false;
		p->host[h].zone = n;
		for (uint32_t k = 0; k < h; k++)
			if (strcmp(p->in->hosts[k].zone, in->zone) == 0) {
				p->host[h].zone = p->host[k].zone;
				seen_ready |= p->host[k].ready;
			}
		n += p->host[h].zone == n;
		p->n_zones += p->host[h].ready && !seen_ready;
	}
	p->zones_wanted = EX_MIN(p->in->opts.min_replicas, p->n_zones);
}

/* Loads, and what they come to for a host of speed 1; without any load, bytes stand for it. */
static void take_loads(struct ps *p)
{
	double total = 0, speed = 0;
	for (uint32_t s = 0; s < p->n_shards; s++)
		total += p->in->shards[s].load;
	for (uint32_t s = 0; s < p->n_shards; s++) {
		const struct ex_planner_shard *in = &p->in->shards[s];
		p->shard[s] = (struct ps_shard){
			.load = total > 0 ? in->load : (double)in->bytes,
			.bytes = in->bytes,
			.layer = in->id.layer,
			.lost_host = EX_PLANNER_NONE,
		};
		p->bytes_min = s ? EX_MIN(p->bytes_min, in->bytes) : in->bytes;
		p->layer_mean[in->id.layer] += p->shard[s].load;
	}
	for (uint32_t h = 0; h < p->n_hosts; h++)
		speed += p->host[h].ready ? p->host[h].speed : 0;
	for (uint32_t l = 0; l < p->n_layers; l++) {
		p->layer_mean[l] /= speed;
		p->mean += p->layer_mean[l];
	}
	p->load_mean = p->mean * speed / p->n_shards;
}

static void take_pairs(struct ps *p)
{
	for (size_t i = 0; i < p->in->n_pairs; i++) {
		uint32_t s = p->in->pairs[i].shard, h = p->in->pairs[i].host;
		struct ps_shard *sh = &p->shard[s];
		if (p->in->hosts[h].state == EX_PLANNER_LOST) {
			sh->lost_host = h;
			continue;
		}
		p->start[(size_t)s * p->cap + sh->n_start++] = (struct ps_replica){.host = h};
		ps_add(p, s, h, (struct ex_planner_reason){0});
	}
}

/* The most replicas that a shard may have while it is worked on: one more while it changes its host; what draining hosts hold stays beside
 * all others for a while. */
static uint32_t count_most(const struct ps *p)
{
	uint32_t most = 0, max = p->in->opts.max_replicas;
	bool draining = false;
	for (size_t i = 0; i < p->in->n_pairs; i++)
		most = EX_MAX(most, ++p->shard[p->in->pairs[i].shard].n);
	for (uint32_t s = 0; s < p->n_shards; s++)
		p->shard[s].n = 0;
	for (uint32_t h = 0; h < p->n_hosts; h++)
		draining |= p->in->hosts[h].state == EX_PLANNER_DRAINING;
	return (draining ? most + max : EX_MAX(most, max)) + 1;
}

int ps_init(struct ps *p, const struct ex_planner_input *in)
{
	*p = (struct ps){.in = in, .n_shards = (uint32_t)in->n_shards, .n_hosts = (uint32_t)in->n_hosts};
	for (size_t s = 0; s < in->n_shards; s++)
		p->n_layers = EX_MAX(p->n_layers, in->shards[s].id.layer + 1);
	p->shard = ex_calloc(p->n_shards, sizeof *p->shard);
	p->host = ex_calloc(p->n_hosts, sizeof *p->host);
	p->layer_time = ex_calloc((size_t)p->n_hosts * p->n_layers, sizeof *p->layer_time);
	p->layer_mean = ex_calloc(p->n_layers, sizeof *p->layer_mean);
	p->shared = ex_calloc((size_t)p->n_hosts * p->n_hosts, sizeof *p->shared);
	p->delta = ex_calloc(p->n_hosts, sizeof *p->delta);
	if (!p->shard || !p->host || !p->layer_time || !p->layer_mean || !p->shared || !p->delta)
		return -ENOMEM;
	p->cap = count_most(p);
	p->now = ex_alloc_aligned((size_t)p->n_shards * p->cap, sizeof *p->now);
	p->start = ex_alloc_aligned((size_t)p->n_shards * p->cap, sizeof *p->start);
	if (!p->now || !p->start)
		return -ENOMEM;
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		p->host[h].speed = in->hosts[h].speed;
		p->host[h].memory = in->hosts[h].memory_bytes;
		p->host[h].ready = in->hosts[h].state == EX_PLANNER_READY;
		p->host[h].fixed = in->hosts[h].fixed;
	}
	number_zones(p);
	take_loads(p);
	take_pairs(p);
	p->n_trace = 0;
	ps_figures(p, &p->at_start);
	return p->oom ? -ENOMEM : 0;
}

void ps_done(struct ps *p)
{
	for (uint32_t h = 0; p->host && h < p->n_hosts; h++)
		free(p->host[h].list);
	free(p->shard);
	free(p->host);
	free(p->now);
	free(p->start);
	free(p->layer_time);
	free(p->layer_mean);
	free(p->shared);
	free(p->delta);
	free(p->trace);
	*p = (struct ps){0};
}

/* --- figures ------------------------------------------------------------------------------------------------------ */

void ps_recount(struct ps *p)
{
	for (uint32_t h = 0; h < p->n_hosts; h++)
		p->host[h].time = 0;
	for (size_t i = 0; i < (size_t)p->n_hosts * p->n_layers; i++)
		p->layer_time[i] = 0;
	for (uint32_t s = 0; s < p->n_shards; s++)
		shift_holders(p, s, ps_weight(p, s));
}

static double layer_imbalance(const struct ps *p)
{
	double sum = 0;
	for (uint32_t l = 0; l < p->n_layers; l++) {
		double most = 0;
		for (uint32_t h = 0; h < p->n_hosts; h++)
			most = EX_MAX(most, p->layer_time[(size_t)h * p->n_layers + l]);
		sum += most; /* each layer counts by its mean, which is what its imbalance is divided by */
	}
	return sum / p->mean;
}

void ps_figures(struct ps *p, struct ex_planner_figures *ret)
{
	struct ex_planner_figures f = {.busiest_host = EX_PLANNER_NONE, .replicas_min = UINT32_MAX};
	uint64_t n_replicas = 0;
	ps_recount(p);
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		f.bytes += p->host[h].used;
		if (p->host[h].time > 0 &&
			(f.busiest_host == EX_PLANNER_NONE || p->host[h].time > p->host[f.busiest_host].time))
			f.busiest_host = h;
	}
	f.imbalance = f.busiest_host == EX_PLANNER_NONE ? 0 : p->host[f.busiest_host].time / p->mean;
	f.imbalance_layer = layer_imbalance(p);
	for (uint32_t s = 0; s < p->n_shards; s++) {
		uint32_t n = p->shard[s].n;
		n_replicas += n;
		f.replicas_min = EX_MIN(f.replicas_min, n);
		f.replicas_max = EX_MAX(f.replicas_max, n);
		f.n_uncovered += n == 0;
		f.n_under += n < p->in->opts.min_replicas;
		f.n_few_zones += n && ps_count_zones(p, s, EX_PLANNER_NONE, EX_PLANNER_NONE) < p->zones_wanted;
	}
	f.replicas_mean = (double)n_replicas / p->n_shards;
	*ret = f;
}
