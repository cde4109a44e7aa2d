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

#define EX_MOVES_ROUTER_MAX 64

struct ex_moves_opts {
	struct ex_swapper *swapper; /* borrowed, as all below */
	struct ex_registry *registry;
	const char *node;
	uint32_t n_experts, n_groups;
	bool accept; /* false: every claim is refused */
	/* The digest of the live model; returns why no router may move anything at the moment, NULL: it may. [cq] */
	const char *(*model)(void *ctx, char digest[static EX_DIGEST_HEX]);
	void *ctx;
};
int ex_moves_new(const struct ex_moves_opts *o, struct ex_moves **ret);
/* After the server, and after the swapper that has its commands. [main] */
struct ex_moves *ex_moves_free(struct ex_moves *m);
/* The router that has the claim. False: none has. [any] */
bool ex_moves_claimed(struct ex_moves *m, char router[static EX_MOVES_ROUTER_MAX]);
struct ex_method ex_moves_method(struct ex_moves *m, int loop_i);
/* The host is going to stop: what comes from now on is refused. [any] */
void ex_moves_drain(struct ex_moves *m);

#endif
