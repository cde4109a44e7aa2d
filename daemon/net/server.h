/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC server over the C core. Layer L1. Brings grpc.health.v1 (Check, Watch), reflection (v1, v1alpha) and
 * UNIMPLEMENTED for unknown methods. */
#ifndef EX_NET_SERVER_H
#define EX_NET_SERVER_H

#include "net/loop.h"
#include "net/msg.h"
#include "net/status.h"
#include "net/tls.h"

#define EX_SERVER_METHODS_MAX       64
#define EX_SERVER_STREAMS_MAX       1024              /* calls at once on one connection; more wait at the client */
#define EX_SERVER_CONNECTIONS_MAX   4096              /* of a server that names none */
#define EX_SERVER_RECEIVE_BYTES_MAX ((size_t)1 << 30) /* of a server that names none */
#define EX_SERVER_FINISH_MS         60000             /* of a server that names none */
#define EX_SERVER_MESSAGE_BYTES_MAX (4u << 20)        /* a method's limit when it names none */

struct ex_server;
struct ex_rpc; /* one call, server side; all kinds (unary, server, client and bidirectional streaming) look alike */

/* What a service does with a call. All [cq] of the call's loop. `done` is the last callback; after it the rpc is gone
 * unless held. */
struct ex_method {
	const char *path; /* "/expertd.v1.Experts/Dispatch" */
	int loop_i;       /* which of the server's loops serves it */
	/* Longer requests end the call with RESOURCE_EXHAUSTED; 0: 4 MiB. The transport buffers a message up to the
	 * largest limit among the server's methods. */
	size_t message_bytes_max;
	/* May set ex_rpc_data; -errno refuses the call (mapped to a status), and no other callback follows. NULL: none.
	 */
	int (*start)(struct ex_rpc *rpc, void *ctx);
	/* Takes m. The next message is read after it returns, unless ex_rpc_pause was called; none after ex_rpc_finish.
	 */
	void (*message)(struct ex_rpc *rpc, struct ex_msg *m, void *ctx);
	/* The client will send no more (or was cancelled: `done` tells). NULL: the method takes one request; none, or a
	 * second, ends the call with INVALID_ARGUMENT. */
	void (*half_close)(struct ex_rpc *rpc, void *ctx);
	void (*done)(struct ex_rpc *rpc, bool cancelled, void *ctx); /* NULL: none */
	void *ctx;
};

struct ex_server_opts {
	const char *listen; /* "127.0.0.1:7101", "[::1]:0"; "unix:/run/expertd/h1.sock": peer credentials are checked */
	struct ex_loop *const *loops; /* borrowed; outlive the server. The last one serves health and reflection */
	size_t n_loops;
	const struct ex_method *methods; /* borrowed; path-NULL-terminated list */
	/* unix sockets only: 0 lets the peer in, -errno refuses. NULL: same uid or root. [any] */
	int (*authorize)(void *ctx, uint32_t uid, uint32_t gid, int32_t pid);
	void *authorize_ctx;
	uint32_t socket_mode; /* unix sockets only, 0: 0600 */
	bool bulk;            /* tuned for large frames, see docs/ARCHITECTURE.md */
	bool bare;            /* no health, no reflection */
	struct ex_tls *tls;   /* TCP only; borrowed, outlives the server. NULL: plain text */
	/* A caller with a certificate of the CA was refused: text names it, and says why. [cq] NULL: none */
	void (*refused)(void *ctx, const char *peer, const char *text);
	void *refused_ctx;
	/* Connections with calls at a time; calls of others end with RESOURCE_EXHAUSTED. Those without a call are closed
	 * after 5 minutes. 0: the default above. */
	unsigned connections_max;
	/* What was received and is not yet freed, of all connections. Beyond it connections without calls are closed, then
	 * calls end with RESOURCE_EXHAUSTED. Not below two of the longest messages. 0: the default above. */
	size_t receive_bytes_max;
	/* How long after the end of a call its client may take to read what is queued; then the call is aborted. 0: the
	 * default above. */
	unsigned finish_ms;
};

/* -EADDRINUSE, -ENAMETOOLONG (socket path), -EINVAL (address) say the address. A socket file that nobody listens on is
 * replaced. [main] */
int ex_server_start(const struct ex_server_opts *o, struct ex_err *err, struct ex_server **ret);
/* Whether a TCP address can be listened on just now; the errors of ex_server_start. A start tries it before hours of loading. [any] */
int ex_server_check_listen(const char *listen, struct ex_err *err);
int ex_server_port(const struct ex_server *s); /* the bound TCP port; 0 for unix */
/* The answer of health checks for service "" and every service listed by reflection; true at the start. [any] */
void ex_server_set_serving(struct ex_server *s, bool serving);
/* GOAWAY, waits up to grace_ms for calls to end, cancels the rest, frees. Every `done` has run when it returns. Not
 * from a loop. [main] */
struct ex_server *ex_server_stop(struct ex_server *s, unsigned grace_ms);

/* Sends o (takes it). Queued without bound checks: the service looks at ex_rpc_queued_bytes. After finish or cancel:
 * dropped, -ECANCELED. [any] */
int ex_rpc_send(struct ex_rpc *rpc, struct ex_out *o);
/* The same in place of all that is queued and not being sent yet: for states, of which only the newest matters. [any] */
int ex_rpc_send_newest(struct ex_rpc *rpc, struct ex_out *o);
size_t ex_rpc_queued_bytes(const struct ex_rpc *rpc); /* accepted, not yet given to the transport. [any] */
/* Ends the call after what is queued, which the client has finish_ms to read; status: enum ex_status. First one wins. text: copied,
 * NULL: none. [any] */
void ex_rpc_finish(struct ex_rpc *rpc, int status, const char *text);
void ex_rpc_finish_errno(struct ex_rpc *rpc, int code, const char *text); /* maps -errno to a status */
/* The same at once: what is queued is dropped. For a client that does not read. [any] */
void ex_rpc_abort(struct ex_rpc *rpc, int status, const char *text);
/* Stops and resumes reading; a client that sends on is held back by flow control. [any] */
void ex_rpc_pause(struct ex_rpc *rpc);
void ex_rpc_resume(struct ex_rpc *rpc);
bool ex_rpc_cancelled(const struct ex_rpc *rpc); /* [any] */
struct ex_rpc *ex_rpc_hold(struct ex_rpc *rpc);  /* a reference, for replies from other threads. [any] */
void ex_rpc_drop(struct ex_rpc *rpc);
void ex_rpc_set_data(struct ex_rpc *rpc,
	void *data); /* the service's own pointer, set in `start` or before other threads know the rpc */
void *ex_rpc_data(const struct ex_rpc *rpc);
const char *ex_rpc_peer(const struct ex_rpc *rpc); /* "127.0.0.1:40312", "unix:uid=0,pid=71" */
/* The value of the caller's metadata `key` into buf. -ENOENT: there is none; -EMSGSIZE: it does not fit. In `start` only. */
int ex_rpc_metadata(const struct ex_rpc *rpc, const char *key, char *buf, size_t size);

#endif
