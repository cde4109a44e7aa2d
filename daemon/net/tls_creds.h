/* SPDX-License-Identifier: Apache-2.0 */
/* TLS as gRPC takes it. Private to net/. Layer L1. */
#ifndef EX_NET_TLS_CREDS_H
#define EX_NET_TLS_CREDS_H

#include "net/tls.h"
#include <grpc/grpc_security.h>

/* For one server; each handshake asks t for its certificate. NULL: out of memory. */
grpc_server_credentials *ex_tls_server_credentials(struct ex_tls *t);
/* For one channel to target ("host:port"), with the certificate of now: *ret_generation says of which one. */
grpc_channel_credentials *ex_tls_channel_credentials(struct ex_tls *t, const char *target, unsigned *ret_generation);
/* Grows when what t shows is replaced. [any] */
unsigned ex_tls_generation(const struct ex_tls *t);
/* Whether the peer of a server's call may call. -EACCES: err says why not. [cq] */
int ex_tls_check_call(struct ex_tls *t, grpc_call *call, struct ex_err *err);

/* Around what the check of a server's certificate says, in gRPC's longer text of a connection that failed. */
#define EX_TLS_REASON_BEGIN "{tls: "
#define EX_TLS_REASON_END   " :tls}"

#endif
