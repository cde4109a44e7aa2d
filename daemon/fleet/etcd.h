/* SPDX-License-Identifier: Apache-2.0 */
/* A client of an etcd v3 cluster: several endpoints, of which one is in use. Layer L2.
 *
 * A call or stream that fails moves the client on to the next endpoint; nothing is repeated by itself, for only the user
 * knows what is still wanted. A linearizable read of one key now and then, and after every failure, (the probe) tells
 * whether the endpoint has a quorum behind it: an answer makes the cluster up, as many failed probes in a row as there
 * are endpoints make it down.
 *
 * Everything runs on the thread of the loop that was given [cq], but for new and free. Calls are made and streams opened
 * in `tick` only: free stops the ticks first, and then knows all that is open. */
#ifndef EX_FLEET_ETCD_H
#define EX_FLEET_ETCD_H

#include "etcd/rpc.pb-c.h"
#include "net/client.h"

#define EX_ETCD_ENDPOINTS_MAX     16
#define EX_ETCD_TICK_MS           50
#define EX_ETCD_MESSAGE_BYTES_MAX (32u << 20)
#define EX_ETCD_WHY_MAX           256

struct ex_etcd;

struct ex_etcd_ops {
	void (*tick)(void *ctx); /* every EX_ETCD_TICK_MS while the cluster is up */
	/* Another endpoint is in use from now on, or the same one anew: streams that were open are of no use. */
	void (*moved)(void *ctx);
	/* Changed, or known for the first time, or down for another reason; why: when down. */
	void (*state)(void *ctx, bool up, const char *why);
	void (*probed)(void *ctx, const Etcdserverpb__RangeResponse *r); /* the probe's answer; it has a header */
};

struct ex_etcd_opts {
	const char *const *endpoints; /* [n_endpoints] "host:port", 1 to EX_ETCD_ENDPOINTS_MAX; copied */
	size_t n_endpoints;
	/* How to reach any of them, its loop above all; target, message_bytes_max and no_pings are filled in. */
	struct ex_channel_opts channel;
	unsigned timeout_ms;   /* of one call */
	unsigned probe_ms;     /* between probes */
	const char *probe_key; /* copied */
	const struct ex_etcd_ops *ops;
	void *ctx;
};
/* *ret is set before the first callback. [any] */
int ex_etcd_new(const struct ex_etcd_opts *o, struct ex_err *err, struct ex_etcd **ret);
/* No callback runs any more when it returns; those of calls under way have run with CANCELLED. [any] but the loop */
struct ex_etcd *ex_etcd_free(struct ex_etcd *e);

/* Calls of one answer. */
enum ex_etcd_method {
	EX_ETCD_RANGE,
	EX_ETCD_PUT,
	EX_ETCD_DELETE_RANGE,
	EX_ETCD_TXN,
	EX_ETCD_LEASE_GRANT,
	EX_ETCD_LEASE_REVOKE,
	EX_ETCD_METHOD_N
};
/* status: enum ex_status; OK: reply is there, of the method's type, and valid during the callback; else text says why. */
typedef void ex_etcd_done_fn(void *ctx, int status, const char *text, const ProtobufCMessage *reply);
/* done follows, unless it fails: -ENOMEM, -ENOSPC. */
int ex_etcd_call(
	struct ex_etcd *e, enum ex_etcd_method m, const ProtobufCMessage *request, ex_etcd_done_fn *done, void *ctx);

struct ex_etcd_stream;
struct ex_etcd_stream_ops {
	const char *path;
	const ProtobufCMessageDescriptor *reply;
	void (*message)(void *ctx, const ProtobufCMessage *m); /* valid during the callback */
	void (*closed)(void *ctx); /* last callback; the stream is gone. Not after ex_etcd_stream_close. */
};
/* ops: borrowed until the end. Errors as ex_etcd_call's. */
int ex_etcd_stream_open(
	struct ex_etcd *e, const struct ex_etcd_stream_ops *ops, void *ctx, struct ex_etcd_stream **ret);
int ex_etcd_stream_send(struct ex_etcd_stream *s, const ProtobufCMessage *m); /* -ENOMEM, -EPIPE */
/* Ends it without further callbacks; also from its own `message`. Takes NULL, returns NULL. */
struct ex_etcd_stream *ex_etcd_stream_close(struct ex_etcd_stream *s);

/* Text of keys and values as protobuf wants it; borrows s. */
static inline ProtobufCBinaryData ex_etcd_bytes(const char *s)
{
	return (ProtobufCBinaryData){.len = __builtin_strlen(s), .data = (uint8_t *)s};
}

/* Copies text from etcd for people: what is not printable ASCII becomes '?', what does not fit is cut. */
void ex_etcd_text(char *dst, size_t size, const void *text, size_t n);

#endif
