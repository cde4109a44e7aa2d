/* SPDX-License-Identifier: Apache-2.0 */
/* Mutual TLS for servers and channels: both sides show a certificate of the CA and look at each other's name. For channels alone
 * (calls_only) there may be no certificate to show. Layer L1.
 *
 * What a process shows may be replaced while it runs: handshakes from then on use the new certificate, connections that are there live on.
 * Server: the handshake requires and verifies the caller's certificate, and each call is refused with PERMISSION_DENIED before its service
 * sees it when the name is not among the peers. Client: see ex_cert_check_host; what is wrong is the text of the stream's end. */
#ifndef EX_NET_TLS_H
#define EX_NET_TLS_H

#include "net/cert.h"

struct ex_tls;

/* -errno and err as of ex_cert_load. [any] */
int ex_tls_new(const struct ex_cert_opts *o, struct ex_err *err, struct ex_tls **ret);
/* Reads the files again. *ret_changed: something is new. On failure what was there stays in force. [any] */
int ex_tls_reload(struct ex_tls *t, const struct ex_cert_opts *o, struct ex_err *err, bool *ret_changed);
/* After its servers were stopped and its channels freed. Takes NULL. */
struct ex_tls *ex_tls_free(struct ex_tls *t);
EX_DEFINE_CLEANUP(struct ex_tls, ex_tls_free)
/* What is in force now. [any] */
void ex_tls_view(struct ex_tls *t, struct ex_cert_view *ret);

#endif
