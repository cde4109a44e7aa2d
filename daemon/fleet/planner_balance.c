/* SPDX-License-Identifier: Apache-2.0 */
/* Lowers the time of the busiest host, one step after another: a replica moves, is added, is dropped, or changes places with a colder
 * one. Every step leaves all hosts that it touches below what the busiest had, so the steps come to an end. Layer L2. */
#include "fleet/planner_state.h"

#include "base/mem.h"
#include <string.h>

#define SLACK          0.01 /* over the mean: no host is relieved below it */
#define GAIN_MIN       1e-4 /* of the mean, that a step must lower the busiest host's time by */
#define GAIN_PAID_MIN  0.01 /* the same for a step that costs bytes, .. */
#define GAIN_PAID_PART 0.25 /* .. or this share of the mean weight of a replica, whichever is less */
#define FREE_COST      0.1  /* of a shard's bytes, that a step counts for which costs none */
#define TARGETS_MAX    4    /* hosts that are tried for one shard, least busy first */
#define SWAP_HOSTS_MAX 8    /* hosts that are tried for exchanges */
#define SWAP_NEAR      2    /* shards on either side of the ideal weight */
#define AWAY_HOSTS_MAX 4    /* hosts that are tried for what gives way to a hot shard */
#define AWAY_MAX       4    /* shards of one host that are tried as giving way, coldest first */
#define AWAY_HOT_MAX   32   /* shards of the busiest host that others are tried to give way to, hottest first */
#define STEPS_MAX(p)   ((p)->n_hosts * 64 + (p)->n_shards * 4)

/* s gets a replica on `add` and loses the one on `remove`, either may be EX_PLANNER_NONE. */
struct change {
	uint32_t s, add, remove;
};

struct step {
	struct change change[2];
	size_t n;
	double gain, score;
};

struct weighed {
	double w;
	uint32_t s;
};

/* A host's shards, coldest first; made when first asked for, and kept up to date by the steps. */
struct weighed_list {
	struct weighed *v;
	size_t n, cap;
	bool valid;
};

struct balance {
	struct ps *p;
	uint32_t *order; /* [n] ready hosts, least busy first */
	size_t n;
	uint32_t busiest;
	double gain_paid_min;
	bool only_new;   /* only replicas that must be loaded anyway may change their place */
	uint32_t *roomy; /* [n_roomy] of order: less busy than the busiest, and with room for the smallest shard */
	size_t n_roomy;
	struct weighed_list *lists; /* [n_hosts] */
	struct step best;
};

/* The greatest time of the hosts that the changes touch, after them. */
static double try_changes(struct ps *p, const struct change *c, size_t n)
{
	double most = 0;
	for (int pass = 0; pass < 3; pass++) /* sum up, look, put back */
		for (size_t i = 0; i < n; i++) {
			const struct ps_shard *sh = &p->shard[c[i].s];
			const struct ps_replica *r = ps_replicas(p, c[i].s);
			double speed = sh->speed, w = sh->load / sh->speed;
			speed += c[i].add != EX_PLANNER_NONE ? p->host[c[i].add].speed : 0;
			speed -= c[i].remove != EX_PLANNER_NONE ? p->host[c[i].remove].speed : 0;
			double new_w = sh->load / speed;
			for (uint32_t k = 0; k <= sh->n; k++) {
				uint32_t h = k < sh->n ? r[k].host : c[i].add;
				if (h == EX_PLANNER_NONE)
					continue;
				if (pass == 0)
					p->delta[h] += k == sh->n ? new_w : h == c[i].remove ? -w : new_w - w;
				else if (pass == 1)
					most = EX_MAX(most, p->host[h].time + p->delta[h]);
				else
					p->delta[h] = 0;
			}
		}
	return most;
}

static bool touches_fixed(const struct ps *p, const struct change *c)
{
	return (c->add != EX_PLANNER_NONE && p->host[c->add].fixed) ||
	       (c->remove != EX_PLANNER_NONE && p->host[c->remove].fixed);
}

static bool keeps_zones(const struct ps *p, const struct change *c)
{
	if (c->remove == EX_PLANNER_NONE || p->n_zones < 2)
		return true;
	uint32_t after = ps_count_zones(p, c->s, c->remove, c->add);
	return after >= p->zones_wanted || after >= ps_count_zones(p, c->s, EX_PLANNER_NONE, EX_PLANNER_NONE);
}

static int64_t cost_of(const struct ps *p, const struct change *c)
{
	int64_t bytes = (int64_t)p->shard[c->s].bytes, cost = 0;
	if (c->add != EX_PLANNER_NONE && !ps_held_at_start(p, c->s, c->add))
		cost += bytes;
	if (c->remove != EX_PLANNER_NONE && !ps_held_at_start(p, c->s, c->remove))
		cost -= bytes;
	return cost;
}

/* A replica that was nowhere at the start goes elsewhere. */
static bool is_of_new(const struct ps *p, const struct change *c)
{
	return c->add != EX_PLANNER_NONE && c->remove != EX_PLANNER_NONE && !ps_held_at_start(p, c->s, c->remove);
}

/* Takes the step as the best so far if it is. Memory and replica counts were looked at. */
static void consider(struct balance *b, const struct change *c, size_t n)
{
	struct ps *p = b->p;
	double gain = p->host[b->busiest].time - try_changes(p, c, n), bytes = 0;
	int64_t cost = 0;
	if (gain < GAIN_MIN * p->mean || gain <= 0)
		return;
	for (size_t i = 0; i < n; i++) {
		if (touches_fixed(p, &c[i]) || !keeps_zones(p, &c[i]) || (b->only_new && !is_of_new(p, &c[i])))
			return;
		cost += cost_of(p, &c[i]);
		bytes += (double)p->shard[c[i].s].bytes;
	}
	uint64_t budget = p->in->opts.budget_bytes;
	if (cost > 0 && gain < b->gain_paid_min)
		return;
	if (budget && cost > 0 && p->spent + (uint64_t)cost > budget) {
		p->over_budget = true;
		return;
	}
	double score = gain / ((double)EX_MAX(cost, 0) + FREE_COST * bytes);
	if (score <= b->best.score)
		return;
	b->best = (struct step){.n = n, .gain = gain, .score = score};
	for (size_t i = 0; i < n; i++)
		b->best.change[i] = c[i];
}

/* A step that takes work of s off the busiest host may be worth considering: it gains its weight at most. */
static bool may_pay(const struct balance *b, uint32_t s)
{
	double w = ps_weight(b->p, s);
	if (b->only_new && ps_held_at_start(b->p, s, b->busiest))
		return false;
	return w >= GAIN_MIN * b->p->mean && w > b->best.score * FREE_COST * (double)b->p->shard[s].bytes;
}

/* Steps that concern s alone: it leaves the busiest host, moves away, or gets another replica. */
static void consider_shard(struct balance *b, uint32_t s)
{
	struct ps *p = b->p;
	size_t n_tried = 0;
	if (!may_pay(b, s))
		return;
	if (ps_is_surplus(p, s, b->busiest) && ps_heat(p, s, p->shard[s].speed - p->host[b->busiest].speed) <= 1)
		consider(b, &(struct change){s, EX_PLANNER_NONE, b->busiest}, 1);
	for (size_t i = 0; i < b->n_roomy && n_tried < TARGETS_MAX; i++) {
		uint32_t h = b->roomy[i];
		if (!ps_fits(p, s, h) || ps_holds(p, s, h))
			continue;
		n_tried++;
		consider(b, &(struct change){s, h, b->busiest}, 1);
		if (p->shard[s].n < p->in->opts.max_replicas)
			consider(b, &(struct change){s, h, EX_PLANNER_NONE}, 1);
	}
}

/* --- exchanges ---------------------------------------------------------------------------------------------------- */

static int by_weight(const void *a, const void *b)
{
	const struct weighed *x = a, *y = b;
	if (x->w != y->w)
		return x->w < y->w ? -1 : 1;
	return x->s < y->s ? -1 : x->s > y->s;
}

static const struct weighed_list *weigh_host(struct balance *b, uint32_t h)
{
	const struct ps_host *x = &b->p->host[h];
	struct weighed_list *l = &b->lists[h];
	if (l->valid)
		return l;
	l->n = 0;
	if (ex_grow(&l->v, &l->cap, x->n_list + 1, sizeof *l->v) < 0) {
		b->p->oom = true;
		return l;
	}
	for (l->n = 0; l->n < x->n_list; l->n++)
		l->v[l->n] = (struct weighed){ps_weight(b->p, x->list[l->n]), x->list[l->n]};
	qsort(l->v, l->n, sizeof *l->v, by_weight);
	l->valid = true;
	return l;
}

/* s of the busiest host against u of t: u goes for good where it may, or to where s was. */
static void consider_pair(struct balance *b, uint32_t s, uint32_t t, uint32_t u)
{
	struct ps *p = b->p;
	const struct ps_host *from = &p->host[b->busiest], *to = &p->host[t];
	if (s == u || to->used - p->shard[u].bytes + p->shard[s].bytes > to->memory || ps_holds(p, s, t))
		return;
	if (ps_is_surplus(p, u, t) && ps_heat(p, u, p->shard[u].speed - to->speed) <= 1) {
		struct change drop = {u, EX_PLANNER_NONE, t};
		consider(b, (struct change[]){drop, {s, t, b->busiest}}, 2);
		if (p->shard[s].n < p->in->opts.max_replicas)
			consider(b, (struct change[]){drop, {s, t, EX_PLANNER_NONE}}, 2);
	}
	if (p->strict || ps_holds(p, u, b->busiest) ||
		from->used - p->shard[s].bytes + p->shard[u].bytes > from->memory)
		return;
	consider(b, (struct change[]){{u, b->busiest, t}, {s, t, b->busiest}}, 2);
}

/* For each shard of the busiest host the ones on t that would even both out best. */
static void consider_exchanges(struct balance *b, uint32_t t)
{
	struct ps *p = b->p;
	const struct ps_host *from = &p->host[b->busiest];
	const struct weighed_list *mine = weigh_host(b, b->busiest), *theirs = weigh_host(b, t);
	double half = (from->time - p->host[t].time) / 2;
	for (size_t i = mine->n; i-- > 0;) {
		uint32_t s = mine->v[i].s;
		double w = mine->v[i].w, ideal = w - half;
		if (!may_pay(b, s))
			continue;
		size_t lo = 0, hi = theirs->n;
		while (lo < hi) {
			size_t mid = (lo + hi) / 2;
			if (theirs->v[mid].w < ideal)
				lo = mid + 1;
			else
				hi = mid;
		}
		size_t first = lo > SWAP_NEAR ? lo - SWAP_NEAR : 0;
		for (size_t k = first; k < EX_MIN(lo + SWAP_NEAR, theirs->n) && theirs->v[k].w < w; k++)
			consider_pair(b, s, t, theirs->v[k].s);
	}
}

/* What is coldest on t gives way to the hottest of the busiest host, and goes there or to a third host, where there is room. */
static void consider_giving_way(struct balance *b, uint32_t t)
{
	struct ps *p = b->p;
	const struct weighed_list *mine = weigh_host(b, b->busiest), *theirs = weigh_host(b, t);
	size_t first = mine->n > AWAY_HOT_MAX ? mine->n - AWAY_HOT_MAX : 0;
	for (size_t i = 0; i < EX_MIN(theirs->n, (size_t)AWAY_MAX); i++)
		for (size_t k = 0, n_tried = 0; k <= b->n_roomy && n_tried < AWAY_HOSTS_MAX; k++) {
			uint32_t u = theirs->v[i].s, to = k ? b->roomy[k - 1] : b->busiest;
			if (to == t || !ps_fits(p, u, to) || ps_holds(p, u, to))
				continue;
			n_tried++;
			struct change away = {u, to, t};
			for (size_t j = first; j < mine->n; j++) {
				uint32_t s = mine->v[j].s;
				if (s == u || ps_holds(p, s, t) ||
					p->host[t].used - p->shard[u].bytes + p->shard[s].bytes > p->host[t].memory)
					continue;
				consider(b, (struct change[]){away, {s, t, b->busiest}}, 2);
				if (p->shard[s].n < p->in->opts.max_replicas)
					consider(b, (struct change[]){away, {s, t, EX_PLANNER_NONE}}, 2);
			}
		}
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

/* Restores the order after a few hosts' times changed: they are nearly sorted. */
static void sort_hosts(struct balance *b)
{
	const struct ps_host *host = b->p->host;
	for (size_t i = 1; i < b->n; i++) {
		uint32_t h = b->order[i];
		size_t k = i;
		for (; k > 0 && (host[b->order[k - 1]].time > host[h].time ||
					(host[b->order[k - 1]].time == host[h].time && b->order[k - 1] > h));
			k--)
			b->order[k] = b->order[k - 1];
		b->order[k] = h;
	}
	b->busiest = b->order[b->n - 1];
}

/* The place of s in a list, or where it would be. */
static size_t place_in(const struct weighed_list *l, struct weighed x)
{
	size_t lo = 0, hi = l->n;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (by_weight(&l->v[mid], &x) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Takes s out of the lists of its holders, before its weight changes; or in, after. */
static void update_lists(struct balance *b, uint32_t s, bool in)
{
	const struct ps_replica *r = ps_replicas(b->p, s);
	struct weighed x = {ps_weight(b->p, s), s};
	for (uint32_t i = 0; i < b->p->shard[s].n; i++) {
		struct weighed_list *l = &b->lists[r[i].host];
		if (!l->valid)
			continue;
		size_t k = place_in(l, x);
		if (in && ex_grow(&l->v, &l->cap, l->n + 1, sizeof *l->v) < 0) {
			b->p->oom = true;
			return;
		}
		assert(in || (k < l->n && l->v[k].s == s));
		memmove(&l->v[k + in], &l->v[k + !in], (l->n - k - !in) * sizeof *l->v);
		if (in)
			l->v[k] = x;
		l->n += in ? 1 : (size_t)-1;
	}
}

static void apply(struct balance *b)
{
	struct ps *p = b->p;
	struct ex_planner_reason balance = {EX_WHY_BALANCE, b->busiest, (float)(p->host[b->busiest].time / p->mean)};
	for (size_t i = 0; i < b->best.n && !p->oom; i++) {
		const struct change *c = &b->best.change[i];
		struct ex_planner_reason why = balance;
		if (c->remove == EX_PLANNER_NONE)
			why = (struct ex_planner_reason){EX_WHY_HOT, c->s, (float)(p->shard[c->s].load / p->load_mean)};
		update_lists(b, c->s, false);
		if (c->add != EX_PLANNER_NONE)
			ps_add(p, c->s, c->add, why);
		if (c->remove != EX_PLANNER_NONE && !p->oom)
			ps_remove(p, c->s, c->remove, why);
		update_lists(b, c->s, true);
	}
}

static void list_roomy(struct balance *b)
{
	const struct ps_host *host = b->p->host;
	b->n_roomy = 0;
	for (size_t i = 0; i < b->n && host[b->order[i]].time < host[b->busiest].time; i++)
		if (host[b->order[i]].used + b->p->bytes_min <= host[b->order[i]].memory)
			b->roomy[b->n_roomy++] = b->order[i];
}

static bool find_step(struct balance *b)
{
	const struct ps_host *from = &b->p->host[b->busiest];
	b->best = (struct step){0};
	if (from->time <= (1 + SLACK) * b->p->mean)
		return false;
	list_roomy(b);
	const struct weighed_list *mine = weigh_host(b, b->busiest);
	for (size_t i = mine->n; i-- > 0;)
		consider_shard(b, mine->v[i].s);
	if (b->only_new)
		return b->best.n > 0;
	for (size_t i = 0; i < EX_MIN(b->n - 1, (size_t)SWAP_HOSTS_MAX) && !b->best.n && !b->p->oom; i++)
		consider_exchanges(b, b->order[i]);
	for (size_t i = 0; i < EX_MIN(b->n - 1, (size_t)SWAP_HOSTS_MAX) && !b->best.n && !b->p->oom; i++)
		consider_giving_way(b, b->order[i]);
	return b->best.n > 0;
}

void ps_balance(struct ps *p, bool only_new)
{
	struct balance b = {.p = p, .only_new = only_new};
	uint64_t n_replicas = 0;
	b.order = ex_calloc(p->n_hosts, 2 * sizeof *b.order);
	b.lists = ex_calloc(p->n_hosts, sizeof *b.lists);
	if (!b.order || !b.lists) {
		free(b.order);
		free(b.lists);
		p->oom = true;
		return;
	}
	b.roomy = b.order + p->n_hosts;
	for (uint32_t h = 0; h < p->n_hosts; h++)
		if (p->host[h].ready) {
			b.order[b.n++] = h;
			n_replicas += p->host[h].n_list;
		}
	b.gain_paid_min =
		EX_MIN(GAIN_PAID_MIN, GAIN_PAID_PART * (double)b.n / (double)EX_MAX(n_replicas, 1u)) * p->mean;
	sort_hosts(&b);
	for (uint32_t i = 0; i < STEPS_MAX(p) && !p->oom && find_step(&b); i++) {
		apply(&b);
		sort_hosts(&b);
	}
	free(b.order);
	for (uint32_t h = 0; h < p->n_hosts; h++)
		free(b.lists[h].v);
	free(b.lists);
	ps_recount(p);
}
