/* SPDX-License-Identifier: Apache-2.0 */
/* A placement that is being worked on: who holds what, and each host's time and memory, kept up to date by add and remove. Private to
 * the planner. Layer L2. */
#ifndef EX_FLEET_PLANNER_STATE_H
#define EX_FLEET_PLANNER_STATE_H

#include "fleet/planner.h"

struct ps_replica {
	uint32_t host;
	struct ex_planner_reason reason; /* of being there, or, in `start`, of having gone */
};

struct ps_step {
	struct ex_planner_move move;
	struct ex_planner_reason was; /* of a replica that was unloaded: why it had been there */
};

struct ps_shard {
	double load, speed; /* speed: of all holders together */
	uint64_t bytes;
	uint32_t layer, n, n_start; /* replicas now, and at the start */
	uint32_t lost_host;         /* one that held it and is lost, or EX_PLANNER_NONE */
};

struct ps_host {
	double time, speed;
	uint64_t memory, used;
	uint32_t zone;
	bool ready, fixed;
	uint32_t *list; /* [n_list] shards held, in no order */
	size_t n_list, cap_list;
};

struct ps {
	const struct ex_planner_input *in;
	uint32_t n_shards, n_hosts, n_layers;
	uint32_t n_zones; /* with a ready host */
	uint32_t zones_wanted;
	uint32_t cap; /* replicas per shard that `now` and `start` have room for */
	struct ps_shard *shard;
	struct ps_host *host;
	struct ps_replica *now, *start;  /* [n_shards, cap] */
	double *layer_time, *layer_mean; /* [n_hosts, n_layers], [n_layers] */
	float *shared;                   /* [n_hosts, n_hosts] load of the shards that both hold */
	double mean, load_mean;          /* time of a host, load of a shard */
	double *delta;                   /* [n_hosts] scratch, all zero between calls */
	uint64_t spent;                  /* bytes of replicas that are not where one was at the start */
	uint64_t n_surplus;              /* replicas beyond min_replicas */
	uint64_t bytes_min;              /* of the smallest shard */
	bool oom, over_budget;
	bool strict;           /* every add and remove is to be a move that may be made */
	bool tight;            /* memory is scarce: hosts are chosen by free memory */
	struct ps_step *trace; /* [n_trace] every add and remove since the start */
	size_t n_trace, cap_trace;
	struct ex_planner_figures at_start;
};

/* The state that in describes; in must have been checked. -ENOMEM. Freed with ps_done, also after a failure. */
int ps_init(struct ps *p, const struct ex_planner_input *in);
void ps_done(struct ps *p);

/* Takes s onto h, or off it. Memory runs out: p->oom is set, and nothing changes. */
void ps_add(struct ps *p, uint32_t s, uint32_t h, struct ex_planner_reason why);
void ps_remove(struct ps *p, uint32_t s, uint32_t h, struct ex_planner_reason why);

/* Takes back what came after the first n_trace steps. */
void ps_undo(struct ps *p, size_t n_trace);

static inline const struct ps_replica *ps_replicas(const struct ps *p, uint32_t s)
{
	return p->now + (size_t)s * p->cap;
}
static inline struct ps_replica *ps_start(const struct ps *p, uint32_t s)
{
	return p->start + (size_t)s * p->cap;
}
/* What one replica costs each holder of s. */
static inline double ps_weight(const struct ps *p, uint32_t s)
{
	return p->shard[s].n ? p->shard[s].load / p->shard[s].speed : 0;
}
bool ps_holds(const struct ps *p, uint32_t s, uint32_t h);
bool ps_held_at_start(const struct ps *p, uint32_t s, uint32_t h);
static inline bool ps_fits(const struct ps *p, uint32_t s, uint32_t h)
{
	return !p->host[h].fixed && p->host[h].used + p->shard[s].bytes <= p->host[h].memory;
}
/* Replicas on ready hosts. */
uint32_t ps_count_ready(const struct ps *p, uint32_t s);
/* What the replicas of s must not go below on the way. */
static inline uint32_t ps_floor(const struct ps *p, uint32_t s)
{
	return EX_MIN(p->in->opts.min_replicas, p->shard[s].n_start);
}
/* Distinct zones of s's replicas on ready hosts, `without` and `with` one (either EX_PLANNER_NONE). */
uint32_t ps_count_zones(const struct ps *p, uint32_t s, uint32_t without, uint32_t with);
/* True when one of s's replicas on ready hosts is in that zone. */
bool ps_in_zone(const struct ps *p, uint32_t s, uint32_t zone);
/* What a holder of s does for it over the mean of its layer, when the holders' speeds come to `speed`: above 1 no placement of the
 * others makes the layer even. */
static inline double ps_heat(const struct ps *p, uint32_t s, double speed)
{
	double mean = p->layer_mean[p->shard[s].layer];
	return mean > 0 ? p->shard[s].load / speed / mean : 0;
}
/* s may lose its replica on h without going below min_replicas or into fewer zones than wanted. */
bool ps_is_surplus(const struct ps *p, uint32_t s, uint32_t h);
/* Loading s onto h stays within the budget, `more` bytes beside it. */
bool ps_affords(const struct ps *p, uint32_t s, uint32_t h, uint64_t more);

/* Times of all hosts from nothing, which takes rounding errors out. */
void ps_recount(struct ps *p);
void ps_figures(struct ps *p, struct ex_planner_figures *ret);

/* planner_repair.c: all that is wrong rather than uneven: missing replicas, draining hosts, too little memory, shared zones. -ENOSPC. */
int ps_repair(struct ps *p, struct ex_err *err);
/* The best ready host for one more replica of s that has room and keeps `spare` of its memory free, or EX_PLANNER_NONE; new_zone: none in a zone
 * that s is in already. */
uint32_t ps_pick_host(const struct ps *p, uint32_t s, bool new_zone, double spare);
/* planner_hot.c: replicas for shards that are too hot for the hosts they have. */
void ps_replicate(struct ps *p);
/* planner_balance.c: lowers the greatest time. only_new: by giving replicas that were nowhere at the start another place, and no others. */
void ps_balance(struct ps *p, bool only_new);
/* planner_moves.c: the moves from the start to now. -EAGAIN: no order of them was found. */
int ps_schedule(struct ps *p, struct ex_planner_move **ret, size_t *ret_n);
/* The trace of a strict search as moves: those that undo each other at once are left out, and it ends where the budget does. p is then what they
 * lead to. */
int ps_replay(struct ps *p, struct ex_planner_move **ret, size_t *ret_n);

#endif
