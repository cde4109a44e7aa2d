/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC client over the C core: a channel is one connection; streams of it live long. Layer L1. */
#ifndef EX_NET_CLIENT_H
#define EX_NET_CLIENT_H

#include "net/loop.h"
#include "net/msg.h"
#include "net/status.h"
#include "net/tls.h"

#define EX_CHANNEL_STREAMS_MAX  1024
#define EX_CHANNEL_METADATA_MAX 128 /* bytes of the value that each call carries, and of its key */

struct ex_channel;
struct ex_stream;

struct ex_channel_opts {
	const char *target;       /* "127.0.0.1:7101", "unix:/run/expertd/h1.sock" */
	struct ex_loop *loop;     /* borrowed; its callbacks */
	size_t message_bytes_max; /* replies beyond it end the call with RESOURCE_EXHAUSTED; 0: 4 MiB */
	bool bulk;
	bool no_pings; /* for peers that are not ours and limit them; streams must find out themselves whether it is alive */
	struct ex_tls *tls; /* not for unix sockets; borrowed, outlives the channel. NULL: plain text */
};
/* Connects when the first stream wants it, and again, within 200 ms, as often as streams want it. -EINVAL: a unix path
 * too long. [any] */
int ex_channel_new(const struct ex_channel_opts *o, struct ex_err *err, struct ex_channel **ret);
/* Streams opened from now on go to target, with TLS or without; those that are open stay where they are. key, value: metadata that each call
 * carries; NULL: none. -EINVAL: no call can carry them; -ENAMETOOLONG: target. [any] */
struct ex_channel_route {
	const char *target;
	struct ex_tls *tls;
	const char *key, *value;
};
int ex_channel_set_route(struct ex_channel *c, const struct ex_channel_route *r);
/* To be called every now and then, from a timer: ends streams whose deadline is over though gRPC has not noticed, and has a connection that
 * failed tried again. gRPC's own timers wait for a time of day, and stand still when the clock is set back. [any] */
void ex_channel_check(struct ex_channel *c);
struct ex_loop *ex_channel_loop(const struct ex_channel *c); /* that its callbacks run on [any] */
/* Streams are cancelled first and their `closed` has run when it returns. Not from a callback. [any] */
struct ex_channel *ex_channel_free(struct ex_channel *c);
EX_DEFINE_CLEANUP(struct ex_channel, ex_channel_free)

struct ex_stream_ops {
	void (*message)(struct ex_stream *s, struct ex_msg *m, void *ctx); /* takes m [cq] */
	/* Last callback; status: enum ex_status, text: the peer's or gRPC's words, never NULL. [cq] */
	void (*closed)(struct ex_stream *s, int status, const char *text, void *ctx);
};
/* Opens a call of any kind (a unary one: send, close_send, one message, closed). deadline_ms 0: none. wait_for_ready:
 * without a connection the stream waits for one, until the deadline; else it closes with UNAVAILABLE as soon as a try
 * to connect fails. ops: borrowed until closed. Callbacks may run before open returns. -ENOSPC: EX_CHANNEL_STREAMS_MAX
 * are open. *ret: drop it with ex_stream_drop. [any] */
int ex_stream_open(struct ex_channel *c, const char *path, unsigned deadline_ms, bool wait_for_ready,
	const struct ex_stream_ops *ops, void *ctx, struct ex_err *err, struct ex_stream **ret);
int ex_stream_send(struct ex_stream *s, struct ex_out *o); /* takes o; -EPIPE after close_send or the end. [any] */
size_t ex_stream_queued_bytes(const struct ex_stream *s);  /* accepted, not yet given to the transport [any] */
void ex_stream_close_send(struct ex_stream *s);            /* half-close after what is queued [any] */
void ex_stream_cancel(struct ex_stream *s); /* [any] `closed` follows with CANCELLED, unless the end was on its way */
struct ex_stream *ex_stream_hold(struct ex_stream *s);
void ex_stream_drop(struct ex_stream *s); /* the reference that open gave, or hold; callbacks still come */

/* One request, one reply, blocking the calling thread (not a loop's). *ret: free with ex_msg_free. -errno mapped from
 * the status (ex_status_to_errno), err: "NAME: text". */
int ex_unary(struct ex_channel *c, const char *path, const ProtobufCMessage *request, unsigned deadline_ms,
	struct ex_err *err, struct ex_msg **ret);

#endif
