/* SPDX-License-Identifier: Apache-2.0 */
/* Experts.Move: routers have this host load and unload shards. Layer L2.
 *
 * A stream is one router's claim on the host; another router is refused with the name of the first, until that one's stream has ended and
 * what it asked for is done. A router that claims anew under its own name takes its former claim over. */
#ifndef EX_EXPERT_MOVES_H
#define EX_EXPERT_MOVES_H

#include "expert/swap.h"
#include "net/server.h"

struct ex_moves;

struct ex_moves_opts {
	struct ex_swapper *swapper; /* borrowed, as all below */
	struct ex_registry *registry;
	const char *node, *model_digest;
	uint32_t n_experts, n_groups;
	bool accept; /* false: every claim is refused */
};
int ex_moves_new(const struct ex_moves_opts *o, struct ex_moves **ret);
/* After the server, and after the swapper that has its commands. [main] */
struct ex_moves *ex_moves_free(struct ex_moves *m);
struct ex_method ex_moves_method(struct ex_moves *m, int loop_i);
/* The host is going to stop: what comes from now on is refused. [any] */
void ex_moves_drain(struct ex_moves *m);

#endif
