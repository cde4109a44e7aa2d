/* SPDX-License-Identifier: Apache-2.0 */
/* What must be put right in a placement, whatever the load: missing replicas, draining hosts, hosts that hold more than their memory,
 * replicas that share a zone. Layer L2. */
#include "fleet/planner_state.h"

#include "base/mem.h"
#include "base/str.h"
#include <math.h>

#define FILL_WEIGHT         0.1 /* of a host's share of used memory beside its time over the mean: breaks ties of cold shards */
#define VAIN_SEARCHES_MAX   64 /* in a row, for room in another zone, before zones are taken as they come */
#define HOSTS_WITH_ROOM_MAX 16 /* tried for one shard that is to give way */

#define REASON(...)         ((struct ex_planner_reason){__VA_ARGS__})

struct repair {
	struct ps *p;
	unsigned n_vain; /* searches for room in another zone */
};

/* --- choosing a host ---------------------------------------------------------------------------------------------- */

/* What the loss of one of s's holders would add to h's time if h held s too, or h's loss to theirs: half of what they share. */
static double time_at_loss(const struct ps *p, uint32_t s, uint32_t h)
{
	const struct ps_replica *r = ps_replicas(p, s);
	double most = 0;
	for (uint32_t i = 0; i < p->shard[s].n; i++) {
		double load = (double)p->shared[(size_t)h * p->n_hosts + r[i].host] + p->shard[s].load;
		double speed = EX_MIN(p->host[h].speed, p->host[r[i].host].speed);
		most = EX_MAX(most, load / 2 / speed);
	}
	return most;
}

/* Smaller is better: time with s on h, of the host, within the layer and when another is lost, over the mean. */
static double key_of(const struct ps *p, uint32_t s, uint32_t h)
{
	const struct ps_host *to = &p->host[h];
	const struct ps_shard *sh = &p->shard[s];
	double free_bytes = (double)(to->memory - to->used - sh->bytes);
	double fill = 1 - free_bytes / (double)to->memory;
	if (p->tight)
		return -free_bytes;
	double w = sh->load / (sh->speed + to->speed), mean = p->layer_mean[sh->layer];
	double layer = mean > 0 ? (p->layer_time[(size_t)h * p->n_layers + sh->layer] + w) / mean : 0;
	return (to->time + w + time_at_loss(p, s, h)) / p->mean + layer + FILL_WEIGHT * fill;
}

static bool may_take(const struct ps *p, uint32_t s, uint32_t h, bool new_zone)
{
	return p->host[h].ready && !p->host[h].fixed && !ps_holds(p, s, h) &&
	       !(new_zone && ps_in_zone(p, s, p->host[h].zone));
}

uint32_t ps_pick_host(const struct ps *p, uint32_t s, bool new_zone, double spare)
{
	uint32_t best = EX_PLANNER_NONE;
	double best_key = INFINITY;
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		const struct ps_host *to = &p->host[h];
		if (to->used + p->shard[s].bytes > to->memory - (uint64_t)(spare * (double)to->memory) ||
			!may_take(p, s, h, new_zone))
			continue;
		double key = key_of(p, s, h);
		if (key < best_key) {
			best = h;
			best_key = key;
		}
	}
	return best;
}

/* --- making room -------------------------------------------------------------------------------------------------- */

/* The coldest shard on h that may go, by weight; EX_PLANNER_NONE. */
static uint32_t coldest_surplus(const struct ps *p, uint32_t h)
{
	uint32_t best = EX_PLANNER_NONE;
	double best_w = INFINITY;
	for (size_t i = 0; i < p->host[h].n_list; i++) {
		uint32_t u = p->host[h].list[i];
		double w = ps_weight(p, u);
		if ((w < best_w || (w == best_w && u < best)) && ps_is_surplus(p, u, h)) {
			best = u;
			best_w = w;
		}
	}
	return best;
}

static uint64_t surplus_bytes(const struct ps *p, uint32_t h)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < p->host[h].n_list; i++)
		if (ps_is_surplus(p, p->host[h].list[i], h))
			sum += p->shard[p->host[h].list[i]].bytes;
	return sum;
}

/* Unloads replicas beyond min_replicas from the least busy host where that makes room for s; the host, or EX_PLANNER_NONE. */
static uint32_t evict(struct ps *p, uint32_t s, bool new_zone)
{
	uint32_t best = EX_PLANNER_NONE;
	if (!p->n_surplus)
		return EX_PLANNER_NONE;
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		const struct ps_host *to = &p->host[h];
		if (!may_take(p, s, h, new_zone) || p->shard[s].bytes > to->memory)
			continue;
		if (best != EX_PLANNER_NONE && to->time >= p->host[best].time)
			continue;
		if (to->used + p->shard[s].bytes <= to->memory + surplus_bytes(p, h))
			best = h;
	}
	while (best != EX_PLANNER_NONE && !ps_fits(p, s, best) && !p->oom) {
		uint32_t u = coldest_surplus(p, best);
		if (u == EX_PLANNER_NONE)
			return EX_PLANNER_NONE;
		ps_remove(p, u, best, REASON(.why = EX_WHY_ROOM, .about = s));
	}
	return best;
}

/* Hosts with room for the smallest shard, most room first. */
static size_t list_roomy(const struct ps *p, uint32_t list[static HOSTS_WITH_ROOM_MAX])
{
	size_t n = 0;
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		const struct ps_host *x = &p->host[h];
		if (!x->ready || x->fixed || x->used + p->bytes_min > x->memory)
			continue;
		size_t i = n;
		for (; i > 0 && p->host[list[i - 1]].memory - p->host[list[i - 1]].used < x->memory - x->used; i--)
			if (i < HOSTS_WITH_ROOM_MAX)
				list[i] = list[i - 1];
		if (i < HOSTS_WITH_ROOM_MAX)
			list[i] = h;
		n = EX_MIN(n + 1, (size_t)HOSTS_WITH_ROOM_MAX);
	}
	return n;
}

/* Whether u may go from `from` to `to` without its zones getting fewer. */
static bool may_give_way(const struct ps *p, uint32_t u, uint32_t from, uint32_t to)
{
	if (!ps_fits(p, u, to) || ps_holds(p, u, to))
		return false;
	uint32_t zones = ps_count_zones(p, u, from, to);
	return zones >= p->zones_wanted || zones >= ps_count_zones(p, u, EX_PLANNER_NONE, EX_PLANNER_NONE);
}

/* Moves one shard u from a host that may take s to one that has room for u; the host that then has room for s. */
static uint32_t displace(struct ps *p, uint32_t s, bool new_zone)
{
	uint32_t roomy[HOSTS_WITH_ROOM_MAX];
	size_t n_roomy = list_roomy(p, roomy);
	for (uint32_t h = 0; n_roomy && h < p->n_hosts; h++) {
		const struct ps_host *from = &p->host[h];
		if (!may_take(p, s, h, new_zone) || p->shard[s].bytes > from->memory)
			continue;
		for (size_t i = 0; i < from->n_list; i++) {
			uint32_t u = from->list[i];
			if (from->used - p->shard[u].bytes + p->shard[s].bytes > from->memory)
				continue;
			for (size_t k = 0; k < n_roomy; k++) {
				if (roomy[k] == h || !may_give_way(p, u, h, roomy[k]) ||
					!ps_affords(p, u, roomy[k], p->shard[s].bytes))
					continue;
				ps_add(p, u, roomy[k], REASON(.why = EX_WHY_ROOM, .about = s));
				if (!p->oom)
					ps_remove(p, u, h, REASON(.why = EX_WHY_ROOM, .about = s));
				return p->oom ? EX_PLANNER_NONE : h;
			}
		}
	}
	return EX_PLANNER_NONE;
}

/* A host with room for s, if need be after making it; EX_PLANNER_NONE. */
static uint32_t find_host(struct repair *r, uint32_t s, bool new_zone)
{
	uint32_t h = ps_pick_host(r->p, s, new_zone, 0);
	if (h != EX_PLANNER_NONE || (new_zone && r->n_vain >= VAIN_SEARCHES_MAX))
		return h;
	h = evict(r->p, s, new_zone);
	if (h == EX_PLANNER_NONE)
		h = displace(r->p, s, new_zone);
	if (new_zone)
		r->n_vain = h == EX_PLANNER_NONE ? r->n_vain + 1 : 0;
	return h;
}

/* --- the repairs -------------------------------------------------------------------------------------------------- */

static int no_room(const struct ps *p, uint32_t s, uint32_t n_has, struct ex_err *err)
{
	char name[EX_SHARD_NAME_MAX], need[EX_BYTES_TEXT_MAX], most[EX_BYTES_TEXT_MAX];
	uint32_t best = EX_PLANNER_NONE;
	uint64_t room = 0;
	for (uint32_t h = 0; h < p->n_hosts; h++) {
		const struct ps_host *x = &p->host[h];
		if (!may_take(p, s, h, false))
			continue;
		if (best == EX_PLANNER_NONE || (x->used < x->memory && x->memory - x->used > room)) {
			best = h;
			room = x->used < x->memory ? x->memory - x->used : 0;
		}
	}
	ex_shard_name(&p->in->shards[s].id, name);
	if (best == EX_PLANNER_NONE)
		return ex_err_set(err, -ENOSPC, "shard %s has %u of %u replicas, and no other ready host", name, n_has,
			p->in->opts.min_replicas);
	return ex_err_set(err, -ENOSPC,
		"shard %s needs %s for replica %u of %u; the most that is free on a host without it is %s, on %s", name,
		ex_bytes_text(p->shard[s].bytes, need), n_has + 1, EX_MAX(p->in->opts.min_replicas, n_has + 1),
		ex_bytes_text(room, most), p->in->hosts[best].name);
}

static struct ex_planner_reason why_missing(const struct ps *p, uint32_t s)
{
	const struct ps_replica *r = ps_replicas(p, s);
	for (uint32_t i = 0; i < p->shard[s].n; i++)
		if (!p->host[r[i].host].ready)
			return REASON(.why = EX_WHY_DRAIN, .about = r[i].host);
	if (p->shard[s].lost_host != EX_PLANNER_NONE)
		return REASON(.why = EX_WHY_LOST, .about = p->shard[s].lost_host);
	return REASON(.why = EX_WHY_MISSING);
}

/* Puts s on one more host. *ret is false when the budget does not allow it. */
static int place(struct repair *r, uint32_t s, struct ex_planner_reason why, struct ex_err *err, bool *ret)
{
	struct ps *p = r->p;
	*ret = false;
	if (p->in->opts.budget_bytes && p->spent + p->shard[s].bytes > p->in->opts.budget_bytes) {
		p->over_budget = true;
		return 0;
	}
	bool new_zone = ps_count_zones(p, s, EX_PLANNER_NONE, EX_PLANNER_NONE) < p->zones_wanted;
	uint32_t h = new_zone ? find_host(r, s, true) : EX_PLANNER_NONE;
	if (h == EX_PLANNER_NONE)
		h = find_host(r, s, false);
	if (p->oom)
		return -ENOMEM;
	if (h == EX_PLANNER_NONE && p->in->opts.budget_bytes && p->spent) {
		p->over_budget = true; /* what would make room may be beyond it too: the next plan tells */
		return 0;
	}
	if (h == EX_PLANNER_NONE)
		return no_room(p, s, ps_count_ready(p, s), err);
	ps_add(p, s, h, why);
	*ret = !p->oom;
	return p->oom ? -ENOMEM : 0;
}

struct order {
	uint32_t s, n;
	double load;
	uint64_t bytes;
};

/* Fewest replicas first, then what is hardest to place. */
static int by_need(const void *a, const void *b)
{
	const struct order *x = a, *y = b;
	if (x->n != y->n)
		return x->n < y->n ? -1 : 1;
	if (x->load != y->load)
		return x->load > y->load ? -1 : 1;
	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return x->s < y->s ? -1 : x->s > y->s;
}

static int add_missing(struct repair *r, struct ex_err *err)
{
	struct ps *p = r->p;
	size_t n = 0;
	int rc = 0;
	EX_CLEANUP(ex_freep) struct order *list = ex_calloc(p->n_shards, sizeof *list);
	if (!list)
		return -ENOMEM;
	for (uint32_t s = 0; s < p->n_shards; s++) {
		uint32_t ready = ps_count_ready(p, s);
		if (ready < p->in->opts.min_replicas)
			list[n++] = (struct order){s, ready, p->tight ? 0 : p->shard[s].load, p->shard[s].bytes};
	}
	qsort(list, n, sizeof *list, by_need);
	for (size_t i = 0; i < n && rc == 0; i++) {
		bool placed = true;
		while (rc == 0 && placed && ps_count_ready(p, list[i].s) < p->in->opts.min_replicas)
			rc = place(r, list[i].s, why_missing(p, list[i].s), err, &placed);
	}
	return rc;
}

/* Of s's replicas, the one that is best gone: one of a zone that has two, then the busiest host's. EX_PLANNER_NONE: none may go. */
static uint32_t least_wanted(const struct ps *p, uint32_t s)
{
	const struct ps_replica *r = ps_replicas(p, s);
	uint32_t zones = ps_count_zones(p, s, EX_PLANNER_NONE, EX_PLANNER_NONE), best = EX_PLANNER_NONE;
	bool best_double = false;
	for (uint32_t i = 0; i < p->shard[s].n; i++) {
		uint32_t h = r[i].host;
		if (!p->host[h].ready || p->host[h].fixed)
			continue;
		bool twice = ps_count_zones(p, s, h, EX_PLANNER_NONE) == zones;
		if (best == EX_PLANNER_NONE || twice > best_double ||
			(twice == best_double && p->host[h].time > p->host[best].time)) {
			best = h;
			best_double = twice;
		}
	}
	return best;
}

static void drop_excess(struct ps *p)
{
	for (uint32_t s = 0; s < p->n_shards && !p->oom; s++)
		while (ps_count_ready(p, s) > p->in->opts.max_replicas && !p->oom) {
			uint32_t h = least_wanted(p, s);
			if (h == EX_PLANNER_NONE)
				break;
			ps_remove(p, s, h, REASON(.why = EX_WHY_EXCESS));
		}
}

/* Takes what draining hosts hold away, as far as there are enough replicas elsewhere. */
static void empty_draining(struct ps *p)
{
	for (uint32_t h = 0; h < p->n_hosts; h++)
		for (size_t i = p->host[h].n_list; !p->host[h].ready && !p->host[h].fixed && i-- > 0 && !p->oom;) {
			uint32_t s = p->host[h].list[i];
			if (ps_count_ready(p, s) >= p->in->opts.min_replicas)
				ps_remove(p, s, h, REASON(.why = EX_WHY_DRAIN, .about = h));
		}
}

/* The shard on h whose leaving shifts the least work and for which there is a host; EX_PLANNER_NONE. */
static uint32_t coldest_movable(const struct ps *p, uint32_t h, uint32_t *ret_to)
{
	uint32_t best = EX_PLANNER_NONE;
	double best_w = INFINITY;
	for (size_t i = 0; i < p->host[h].n_list; i++) {
		uint32_t u = p->host[h].list[i];
		double w = ps_weight(p, u);
		if (w > best_w || (w == best_w && u > best))
			continue;
		uint32_t zones = ps_count_zones(p, u, EX_PLANNER_NONE, EX_PLANNER_NONE);
		uint32_t to = ps_pick_host(p, u, false, 0);
		if (to != EX_PLANNER_NONE && ps_count_zones(p, u, h, to) < EX_MIN(zones, p->zones_wanted))
			to = ps_pick_host(p, u, true, 0);
		if (to == EX_PLANNER_NONE)
			continue;
		best = u;
		best_w = w;
		*ret_to = to;
	}
	return best;
}

static int relieve_memory(struct ps *p, uint32_t h, struct ex_err *err)
{
	const struct ex_planner_reason why = REASON(.why = EX_WHY_MEMORY, .about = h);
	char used[EX_BYTES_TEXT_MAX], memory[EX_BYTES_TEXT_MAX];
	while (p->host[h].used > p->host[h].memory && !p->oom) {
		uint32_t u = coldest_surplus(p, h), to = EX_PLANNER_NONE;
		if (u == EX_PLANNER_NONE) {
			u = coldest_movable(p, h, &to);
			if (u == EX_PLANNER_NONE)
				return ex_err_set(err, -ENOSPC,
					"host %s holds %s in %s, and no other host has room for what must go",
					p->in->hosts[h].name, ex_bytes_text(p->host[h].used, used),
					ex_bytes_text(p->host[h].memory, memory));
			if (!ps_affords(p, u, to, 0)) {
				p->over_budget = true;
				return 0;
			}
			ps_add(p, u, to, why);
		}
		if (!p->oom)
			ps_remove(p, u, h, why);
	}
	return p->oom ? -ENOMEM : 0;
}

/* Moves one replica of each shard whose replicas share zones more than they must; what has no room stays. */
static int spread_zones(struct repair *r)
{
	struct ps *p = r->p;
	for (uint32_t s = 0; s < p->n_shards && !p->oom; s++)
		for (;;) {
			uint32_t n = ps_count_ready(p, s), from = least_wanted(p, s);
			uint32_t zones = ps_count_zones(p, s, EX_PLANNER_NONE, EX_PLANNER_NONE);
			if (zones >= EX_MIN(n, p->zones_wanted) || from == EX_PLANNER_NONE ||
				ps_count_zones(p, s, from, EX_PLANNER_NONE) < zones) /* those of a zone are fixed */
				break;
			if (p->in->opts.budget_bytes && p->spent + p->shard[s].bytes > p->in->opts.budget_bytes) {
				p->over_budget = true;
				break;
			}
			uint32_t to = find_host(r, s, true);
			if (to == EX_PLANNER_NONE)
				break;
			struct ex_planner_reason why = {.why = EX_WHY_ZONE, .about = from};
			ps_add(p, s, to, why);
			if (p->oom)
				break;
			ps_remove(p, s, from, why);
		}
	return p->oom ? -ENOMEM : 0;
}

int ps_repair(struct ps *p, struct ex_err *err)
{
	struct repair r = {.p = p};
	drop_excess(p);
	int rc = p->oom ? -ENOMEM : add_missing(&r, err);
	if (rc < 0)
		return rc;
	empty_draining(p);
	for (uint32_t h = 0; h < p->n_hosts && rc == 0; h++)
		if (p->host[h].ready && !p->host[h].fixed)
			rc = relieve_memory(p, h, err);
	if (rc == 0)
		rc = spread_zones(&r);
	ps_recount(p);
	return rc;
}
