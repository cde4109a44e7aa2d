/* SPDX-License-Identifier: Apache-2.0 */
/* One call at the server, from request to done. Private to net/. Layer L1. */
#ifndef EX_NET_RPC_H
#define EX_NET_RPC_H

#include "net/server.h"
#include <grpc/grpc.h>
#include <pthread.h>

#define EX_RPC_PEER_MAX 96

/* Calls that are finished, but whose client has not read all yet, in the order in which they finished. Zero is empty. */
struct ex_rpc_ending {
	pthread_mutex_t lock;
	struct ex_rpc *first, *last; /* guarded by lock */
	uint64_t wait_ns;            /* how long a client has for reading the rest */
};

/* What the server gives the calls of one method. */
struct ex_rpc_env {
	const struct ex_method *method; /* NULL: any other path, answered UNIMPLEMENTED */
	struct ex_server *server;
	struct ex_loop *loop;
	struct ex_rpc_ending *ending;
	void *registered; /* gRPC's handle of the path */
	/* A request was matched by a call, or failed for good (the server is stopping). [cq] */
	void (*taken)(struct ex_rpc_env *env, bool ok);
	/* After the last callback of a call; it must not be touched any more. place: what enter returned, or negative. [cq] */
	void (*ended)(struct ex_rpc_env *env, int place);
	/* Names the peer of a call by what gRPC calls it. buf: EX_RPC_PEER_MAX bytes. */
	void (*name_peer)(struct ex_rpc_env *env, const char *grpc_peer, char *buf);
	/* Whether the peer may call at all, before anything is done for it. -errno: refused, err is the status's text. */
	int (*admit)(struct ex_rpc_env *env, grpc_call *call, const char *peer, struct ex_err *err);
	/* A call of a method begins: the place of its connection, for `ended`, or -ENOSPC: the server serves no further one. [cq] */
	int (*enter)(struct ex_rpc_env *env, const char *grpc_peer);
};

/* Asks gRPC for the next call of env's method; `taken` follows, and after taken(ok) `ended` does. -ENOMEM, -ESHUTDOWN:
 * neither will. [any] */
int ex_rpc_request(grpc_server *server, struct ex_rpc_env *env);

/* Aborts those whose time is over. [any] */
void ex_rpc_end_unread(struct ex_rpc_ending *e);

#endif
