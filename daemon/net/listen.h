/* SPDX-License-Identifier: Apache-2.0 */
/* Where a server listens: address syntax, and a unix socket of our own whose peers are checked. Private to net/. Layer
 * L1. */
#ifndef EX_NET_LISTEN_H
#define EX_NET_LISTEN_H

#include "net/server.h"
#include <grpc/grpc.h>

#define EX_ADDRESS_MAX 64 /* "[" IPv6 literal "]:" port */

/* The path of "unix:PATH", else NULL. */
const char *ex_listen_unix_path(const char *listen);

/* Resolves "HOST:PORT", "[V6]:PORT" and tries to bind it, so that a refusal has a reason: -EINVAL (syntax, name),
 * -EADDRINUSE, -EADDRNOTAVAIL, -EACCES. ret: numeric. gRPC binds it afterwards. */
int ex_listen_tcp_check(const char *listen, struct ex_err *err, char ret[static EX_ADDRESS_MAX]);

struct ex_unix_listener; /* a listening socket and the thread that accepts on it */

/* Binds and listens at o->listen; who connects waits. */
int ex_unix_listener_new(const struct ex_server_opts *o, struct ex_err *err, struct ex_unix_listener **ret);
/* From now on a thread hands each peer that o->authorize lets in to the (started) server. -errno: no thread. */
int ex_unix_listener_start(struct ex_unix_listener *l, grpc_server *server);
/* Accepts no more, joins, removes the socket file if it is still ours. Connections live on, and have names. */
void ex_unix_listener_stop(struct ex_unix_listener *l);
/* After stop, if it was started. */
struct ex_unix_listener *ex_unix_listener_free(struct ex_unix_listener *l);
/* Names the peer of a connection that gRPC calls "fd:N". [any] */
void ex_unix_listener_name_peer(struct ex_unix_listener *l, int fd, char *buf, size_t size);

#endif
