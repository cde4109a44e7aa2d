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

/* Plans with the hosts, shards and loads of this moment; nothing is moved. Hosts that drain or are down lose their shards to others; one
 * that does not say its memory gets none. Errors: those of the planner, and -EAGAIN: not one host has said what it holds.
 * [any, one at a time] */
int ex_dispatch_place(struct ex_dispatch *d, const struct ex_planner_opts *o, struct ex_err *err, struct ex_place *ret);
void ex_place_done(struct ex_place *p);

#endif
