/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of a server that have calls, counted, so that there is a bound on them. Private to net/. Layer L1. */
#ifndef EX_NET_PEERS_H
#define EX_NET_PEERS_H

#include "base/macro.h"

#define EX_PEER_NAME_MAX 96 /* of what gRPC calls the other end; a longer name is cut */

struct ex_peers;

/* At most n_max connections with calls at a time. NULL: memory is out. */
struct ex_peers *ex_peers_new(unsigned n_max);
struct ex_peers *ex_peers_free(struct ex_peers *p);

/* A call of the connection of that name begins: its place (0 or more) for ex_peers_leave, or -ENOSPC when n_max others have calls. [any] */
int ex_peers_enter(struct ex_peers *p, const char *name);
void ex_peers_leave(struct ex_peers *p, int place);

#endif
