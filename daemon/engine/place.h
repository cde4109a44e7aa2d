/* SPDX-License-Identifier: Apache-2.0 */
/* What the planner makes of the fleet as this router sees it. Layer L3. */
#ifndef EX_ENGINE_PLACE_H
#define EX_ENGINE_PLACE_H

#include "engine/dispatch.h"
#include "fleet/planner.h"

struct ex_place_move {
	char host[64], address[EX_ADDR_MAX], why[EX_PLANNER_REASON_MAX];
	struct ex_shard_id shard;
	bool load; /* false: unload */
	uint64_t bytes;
};
struct ex_place {
	struct ex_place_move *moves; /* in the order in which they are safe */
	size_t n_moves;
	uint64_t bytes_moved;
	bool over_budget;
	struct ex_planner_figures before, after;
	uint32_t n_hosts, n_shards;
};

struct ex_place_opts {
	struct ex_planner_opts planner;
	/* The plan is to be carried out by this router: hosts that take no moves, or are going to stop, keep what they have. */
	bool to_apply;
	const char *const *shut; /* [n_shut] names of others that do, borrowed */
	size_t n_shut;
};

/* Plans with the hosts, shards and loads of this moment; nothing is moved. Hosts that drain or are down lose their shards to others; one
 * that does not say its memory gets none. Errors: those of the planner, -EAGAIN: not one host has said what it holds, and -EPERM: to_apply,
 * and no host takes moves. [any] */
int ex_dispatch_place(struct ex_dispatch *d, const struct ex_place_opts *o, struct ex_err *err, struct ex_place *ret);
void ex_place_done(struct ex_place *p);

/* A shard and the host of that name, just now. [any] */
struct ex_place_look {
	bool there; /* the host can be asked */
	bool holds; /* it has the shard ready */
	uint32_t
		n_others; /* replicas elsewhere that could take over for its own: in use, not suspect, and of its numeric identity unless failover = any */
};
void ex_dispatch_look(
	struct ex_dispatch *d, const char *host, const struct ex_shard_id *shard, struct ex_place_look *ret);
/* Shards with fewer than min_replicas on hosts that are in use, this process included. [any] */
uint32_t ex_dispatch_n_under(struct ex_dispatch *d, uint32_t min_replicas);
/* Another number when a host has come into use or gone out of it. [any] */
uint64_t ex_dispatch_usage(struct ex_dispatch *d);
/* Rows of the last minutes, older ones for less. [any] */
double ex_dispatch_rows_lately(struct ex_dispatch *d);

#endif
