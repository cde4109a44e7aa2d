/* SPDX-License-Identifier: Apache-2.0 */
/* Channels and streams of the client. Layer L1.
 *
 * A stream's batches are counted as a server call's are (rpc.c): STATUS is under way until the end, so zero means that
 * nothing more comes. Reading goes on until a NULL message, so every message is delivered before `closed`. */
#include "net/client.h"

#include "base/addr.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "net/msg_internal.h"
#include "net/tag.h"
#include "net/tls_creds.h"
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define CHANNEL_MAGIC     UINT32_C(0x6368616e)
#define STREAM_MAGIC      UINT32_C(0x7374726d)
#define MESSAGE_BYTES_MAX (4u << 20) /* when the options name none */
#define KEEPALIVE_MS      5000 /* a backstop: streams that must notice a silent peer sooner have heartbeats of their own */
#define KEEPALIVE_WAIT_MS 5000
#define BACKOFF_MS        100 /* gRPC's own backoff lets a peer that came back wait for seconds */
#define BACKOFF_MAX_MS    200
#define CONNECT_MS        1000                 /* one try; a lost SYN should not take longer */
#define LATE_NS           (200 * EX_NS_PER_MS) /* a deadline that gRPC has not noticed by then it will not notice soon */
#define AGAIN_NS          EX_NS_PER_S          /* between two tries of a connection that gRPC does not make by itself */
#define CONNECT_UNIX_MS   20000                /* nothing is lost on a unix socket: whoever listens is alive, if slow */

#define TARGET_MAX        EX_MAX(EX_ADDR_MAX, 128) /* a unix path has 107 bytes at most */

struct ex_channel {
	uint32_t magic;
	struct ex_loop *loop;
	size_t message_bytes_max;
	bool bulk, no_pings;
	struct ex_lock lock;
	grpc_channel *grpc;      /* where streams go that are opened now; guarded by lock, as all below */
	struct ex_tls *tls;      /* NULL: plain text */
	unsigned tls_generation; /* of the certificate that grpc was made with */
	bool moved;              /* grpc is of another route, or of no use any more */
	bool failed;             /* a stream has ended badly since the connection was last tried again */
	uint64_t again_ns;       /* when that was */
	char target[TARGET_MAX], key[EX_CHANNEL_METADATA_MAX], value[EX_CHANNEL_METADATA_MAX];
	pthread_cond_t changed;
	struct ex_stream *streams; /* guarded by lock */
	unsigned n_streams;        /* guarded by lock */
	bool closing;              /* guarded by lock */
};

struct ex_stream {
	uint32_t magic;
	_Atomic unsigned refs; /* the user's and, until `closed` has run, the channel's */
	struct ex_channel *channel;
	struct ex_stream *prev, *next; /* the channel's list; guarded by channel->lock */
	const struct ex_stream_ops *ops;
	void *ctx;
	struct ex_tag on_open, on_recv, on_send, on_half_close, on_status;
	grpc_metadata_array initial, trailing;
	grpc_status_code status; /* this and the next two: written by gRPC */
	grpc_slice status_text;
	grpc_byte_buffer *incoming;

	pthread_mutex_t lock; /* guards all below */
	grpc_call *call;      /* NULL after the end */
	struct ex_sendq out;
	unsigned n_batches;
	bool close_wanted, close_started;
	bool broken; /* status is known, or a send failed: no more of them */
	bool no_memory;
	bool tls;             /* fixed */
	uint64_t deadline_ns; /* ex_now_ns time; 0: none. Guarded by channel->lock */
};

/* --- channels ---------------------------------------------------------------------------------------------------- */

static grpc_arg int_arg(const char *key, int value)
{
	return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static bool is_unix(const char *target)
{
	return !strncmp(target, "unix:", 5);
}

/* Of c's route, as it is now. A bad target makes streams fail with their status. */
static grpc_channel *create_channel(struct ex_channel *c)
{
	size_t max = c->message_bytes_max;
	grpc_arg args[] = {
		int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
			1), /* else channels of equal arguments share a connection */
		int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
		int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0), /* peers are ours; the environment's proxy is not for them */
		int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
		int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
		int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max),
		int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_MS),
		int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, /* by its name a backoff, in fact the time for one try */
			is_unix(c->target) ? CONNECT_UNIX_MS : CONNECT_MS),
		int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MAX_MS),
		int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, c->no_pings ? INT32_MAX : KEEPALIVE_MS),
		int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_WAIT_MS),
		int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
		int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA,
			0),                           /* else a hung peer on an idle connection is never noticed */
		int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0), /* from here on: bulk only */
		int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 32 << 20),
		int_arg(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 4 << 20),
		int_arg(GRPC_ARG_TCP_READ_CHUNK_SIZE, 4 << 20),
	};
	grpc_channel_args a = {.num_args = EX_ARRAY_LEN(args) - (c->bulk ? 0 : 4), .args = args};
	grpc_channel_credentials *credentials =
		c->tls ? ex_tls_channel_credentials(c->tls, c->target, &c->tls_generation)
		       : grpc_insecure_credentials_create();
	grpc_channel *g =
		grpc_channel_create(c->target, credentials, &a); /* without credentials: one that always fails */
	if (credentials)
		grpc_channel_credentials_release(credentials);
	return g;
}

/* Another route, or another certificate: streams go to a new connection. The old one ends with its last stream. */
static void renew_channel(struct ex_channel *c)
{
	if (!c->moved && !(c->tls && ex_tls_generation(c->tls) != c->tls_generation))
		return;
	c->moved = false;
	grpc_channel *old = c->grpc;
	c->grpc = create_channel(c);
	grpc_channel_destroy(old);
}

/* gRPC would refuse the whole call. */
static bool is_metadata(const char *text, int (*legal)(grpc_slice slice))
{
	return strlen(text) < EX_CHANNEL_METADATA_MAX && legal(grpc_slice_from_static_string(text));
}

static int take_route(struct ex_channel *c, const struct ex_channel_route *r)
{
	if (strlen(r->target) >= sizeof c->target)
		return -ENAMETOOLONG;
	if (r->key && (!is_metadata(r->key, grpc_header_key_is_legal) ||
			      !is_metadata(r->value, grpc_header_nonbin_value_is_legal)))
		return -EINVAL;
	strcpy(c->target, r->target);
	strcpy(c->key, r->key ? r->key : "");
	strcpy(c->value, r->key ? r->value : "");
	c->tls = is_unix(r->target) ? NULL : r->tls;
	return 0;
}

int ex_channel_set_route(struct ex_channel *c, const struct ex_channel_route *r)
{
	EX_CHECK_OBJ(c, CHANNEL_MAGIC);
	ex_lock_take(&c->lock);
	bool elsewhere = strcmp(c->target, r->target) != 0 || c->tls != r->tls;
	int rc = take_route(c, r);
	c->moved |= !rc && elsewhere;
	ex_lock_give(&c->lock);
	return rc;
}

int ex_channel_new(const struct ex_channel_opts *o, struct ex_err *err, struct ex_channel **ret)
{
	const size_t path_max = sizeof((struct sockaddr_un *)NULL)->sun_path - 1;
	if (is_unix(o->target) && strlen(o->target + 5) > path_max)
		return ex_err_set(err, -ENAMETOOLONG, "socket path '%s' has %zu bytes; the system allows at most %zu",
			o->target + 5, strlen(o->target + 5), path_max);
	struct ex_channel *c = ex_calloc(1, sizeof *c);
	if (!c)
		return ex_err_errno(err, -ENOMEM, "failed to make a channel to '%s'", o->target);
	c->magic = CHANNEL_MAGIC;
	c->loop = o->loop;
	c->bulk = o->bulk;
	c->no_pings = o->no_pings;
	c->message_bytes_max = o->message_bytes_max ? o->message_bytes_max : MESSAGE_BYTES_MAX;
	assert(c->message_bytes_max <= INT32_MAX);
	const struct ex_channel_route r = {.target = o->target, .tls = o->tls};
	if (take_route(c, &r)) {
		free(c);
		return ex_err_set(err, -ENAMETOOLONG, "'%s' is too long for an address", o->target);
	}
	ex_lock_init(&c->lock, "channel");
	ex_cond_init(&c->changed);
	c->grpc = create_channel(c);
	*ret = c;
	return 0;
}

struct ex_channel *ex_channel_free(struct ex_channel *c)
{
	if (!c)
		return NULL;
	EX_CHECK_OBJ(c, CHANNEL_MAGIC);
	assert(!ex_loop_is_current(c->loop));
	ex_lock_take(&c->lock);
	c->closing = true;
	for (struct ex_stream *s = c->streams; s; s = s->next)
		ex_stream_cancel(s);
	while (c->n_streams)
		ex_cond_wait(&c->changed, &c->lock);
	ex_lock_give(&c->lock);
	grpc_channel_destroy(c->grpc);
	ex_lock_done(&c->lock);
	pthread_cond_destroy(&c->changed);
	c->magic = 0;
	free(c);
	return NULL;
}

/* Under c->lock. */
static void add_stream(struct ex_channel *c, struct ex_stream *s)
{
	s->next = c->streams;
	if (s->next)
		s->next->prev = s;
	c->streams = s;
	c->n_streams++;
}

static void remove_stream(struct ex_channel *c, struct ex_stream *s, bool failed)
{
	ex_lock_take(&c->lock);
	c->failed |= failed;
	if (s->prev)
		s->prev->next = s->next;
	else
		c->streams = s->next;
	if (s->next)
		s->next->prev = s->prev;
	ex_lock_give(&c->lock);
}

/* --- a stream's batches ------------------------------------------------------------------------------------------ */

static void start_batch(struct ex_stream *s, const grpc_op *ops, size_t n, struct ex_tag *tag)
{
	s->n_batches++;
	EX_TAG_GIVEN(tag);
	grpc_call_error e = grpc_call_start_batch(s->call, ops, n, tag, NULL);
	assert(e == GRPC_CALL_OK);
	(void)e;
}

/* Starts the next SEND, or the half-close after the last. */
static void push(struct ex_stream *s)
{
	grpc_op op = {0};
	if (s->broken || s->out.sending || s->close_started)
		return;
	if (s->out.head) {
		op.op = GRPC_OP_SEND_MESSAGE;
		op.data.send_message.send_message = ex_sendq_next(&s->out)->buffer;
		start_batch(s, &op, 1, &s->on_send);
	} else if (s->close_wanted) {
		s->close_started = true;
		op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
		start_batch(s, &op, 1, &s->on_half_close);
	}
}

static void read_next(struct ex_stream *s)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->incoming};
	start_batch(s, &op, 1, &s->on_recv);
}

static void stream_free(struct ex_stream *s)
{
	grpc_metadata_array_destroy(&s->initial);
	grpc_metadata_array_destroy(&s->trailing);
	grpc_slice_unref(s->status_text);
	pthread_mutex_destroy(&s->lock);
	s->magic = 0;
	free(s);
}

/* The status's text; of a connection that the check of the peer's certificate refused, what that said and nothing else. A peer that ends a
 * connection before it began does not say why: the likely reason is added. */
static void status_text(const struct ex_stream *s, char *text, size_t size)
{
	const char *from = (const char *)GRPC_SLICE_START_PTR(s->status_text);
	size_t n = GRPC_SLICE_LENGTH(s->status_text);
	const char *begin = memmem(from, n, EX_TLS_REASON_BEGIN, strlen(EX_TLS_REASON_BEGIN));
	if (begin) {
		n -= (size_t)(begin - from) + strlen(EX_TLS_REASON_BEGIN);
		from = begin + strlen(EX_TLS_REASON_BEGIN);
		const char *end = memmem(from, n, EX_TLS_REASON_END, strlen(EX_TLS_REASON_END));
		n = end ? (size_t)(end - from) : n;
	}
	int len = snprintf(text, size, "%.*s", (int)EX_MIN(n, size - 1), from);
	/* the second one: with TLS 1.3 a server looks at our certificate when the handshake is over for us */
	if (!begin && strstr(text, "failed to connect") &&
		(strstr(text, "Socket closed") || (s->tls && strstr(text, "Endpoint read failed"))))
		snprintf(text + len, size - (size_t)len, "%s",
			s->tls ? ": it may not accept our certificate" : ": it may want TLS");
}

static void close_stream(struct ex_stream *s, grpc_call *call)
{
	struct ex_channel *c = s->channel;
	char text[512];
	status_text(s, text, sizeof text);
	grpc_call_unref(call);
	remove_stream(c, s, s->status != GRPC_STATUS_OK);
	if (s->no_memory)
		s->ops->closed(s, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory", s->ctx);
	else
		s->ops->closed(s, (int)s->status, text, s->ctx);
	ex_stream_drop(s);
	ex_lock_take(&c->lock); /* from here on the channel may be gone */
	c->n_streams--;
	pthread_cond_broadcast(&c->changed);
	ex_lock_give(&c->lock);
}

static void batch_done(struct ex_stream *s)
{
	pthread_mutex_lock(&s->lock);
	bool over = --s->n_batches == 0;
	grpc_call *call = s->call;
	if (over) {
		s->broken = true;
		s->call = NULL;
		ex_sendq_drop(&s->out);
	}
	pthread_mutex_unlock(&s->lock);
	if (over)
		close_stream(s, call);
}

static void on_open(struct ex_tag *t, bool ok)
{
	(void)ok; /* when it failed, STATUS says why */
	batch_done(EX_CONTAINER_OF(t, struct ex_stream, on_open));
}

static void on_half_close(struct ex_tag *t, bool ok)
{
	(void)ok;
	batch_done(EX_CONTAINER_OF(t, struct ex_stream, on_half_close));
}

static void on_send(struct ex_tag *t, bool ok)
{
	struct ex_stream *s = EX_CONTAINER_OF(t, struct ex_stream, on_send);
	pthread_mutex_lock(&s->lock);
	ex_sendq_sent(&s->out);
	if (!ok)
		s->broken = true;
	push(s);
	pthread_mutex_unlock(&s->lock);
	batch_done(s);
}

static void on_status(struct ex_tag *t, bool ok)
{
	struct ex_stream *s = EX_CONTAINER_OF(t, struct ex_stream, on_status);
	(void)ok; /* STATUS always succeeds */
	pthread_mutex_lock(&s->lock);
	s->broken = true;
	ex_sendq_drop(&s->out);
	pthread_mutex_unlock(&s->lock);
	batch_done(s);
}

static void on_recv(struct ex_tag *t, bool ok)
{
	struct ex_stream *s = EX_CONTAINER_OF(t, struct ex_stream, on_recv);
	grpc_byte_buffer *b = EX_TAKE(s->incoming);
	if (ok && b) {
		struct ex_msg *m = ex_msg_wrap(b);
		if (m)
			s->ops->message(s, m, s->ctx);
		pthread_mutex_lock(&s->lock);
		if (!m) {
			s->no_memory = true;
			grpc_call_cancel(s->call, NULL);
		}
		read_next(s);
		pthread_mutex_unlock(&s->lock);
	}
	batch_done(s);
}

/* --- what users call --------------------------------------------------------------------------------------------- */

static struct ex_stream *stream_new(struct ex_channel *c, const struct ex_stream_ops *ops, void *ctx)
{
	struct ex_stream *s = ex_calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->magic = STREAM_MAGIC;
	s->refs = 2;
	s->channel = c;
	s->ops = ops;
	s->ctx = ctx;
	s->on_open.fn = on_open;
	s->on_recv.fn = on_recv;
	s->on_send.fn = on_send;
	s->on_half_close.fn = on_half_close;
	s->on_status.fn = on_status;
	s->status_text = grpc_empty_slice();
	grpc_metadata_array_init(&s->initial);
	grpc_metadata_array_init(&s->trailing);
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

static gpr_timespec deadline_of(unsigned deadline_ms)
{
	if (!deadline_ms)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(deadline_ms, GPR_TIMESPAN));
}

/* Starts what is under way all the time: reading, and waiting for the end. Under s->lock, so that a batch that comes
 * back early waits. */
static void start_call(struct ex_stream *s, const char *path, unsigned deadline_ms, bool wait_for_ready)
{
	struct ex_channel *c = s->channel;
	grpc_slice method = grpc_slice_from_copied_string(path);
	s->call = grpc_channel_create_call(c->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, ex_loop_queue(c->loop), method, NULL,
		deadline_of(deadline_ms), NULL);
	grpc_slice_unref(method);
	grpc_metadata extra = {
		.key = grpc_slice_from_copied_string(c->key), .value = grpc_slice_from_copied_string(c->value)};
	grpc_op open[2] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA,
			.data.send_initial_metadata = {.count = c->key[0] != 0, .metadata = &extra},
			.flags = wait_for_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY : 0},
		/* without it STATUS never comes */
		{.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &s->initial},
	};
	grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
	status.data.recv_status_on_client.status = &s->status;
	status.data.recv_status_on_client.status_details = &s->status_text;
	status.data.recv_status_on_client.trailing_metadata = &s->trailing;
	start_batch(s, open, 2, &s->on_open); /* copies what it sends */
	grpc_slice_unref(extra.key);
	grpc_slice_unref(extra.value);
	start_batch(s, &status, 1, &s->on_status);
	read_next(s);
}

int ex_stream_open(struct ex_channel *c, const char *path, unsigned deadline_ms, bool wait_for_ready,
	const struct ex_stream_ops *ops, void *ctx, struct ex_err *err, struct ex_stream **ret)
{
	EX_CHECK_OBJ(c, CHANNEL_MAGIC);
	struct ex_stream *s = stream_new(c, ops, ctx);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "failed to call %s", path);
	ex_lock_take(&c->lock);
	int rc = c->closing ? -ESHUTDOWN : c->n_streams == EX_CHANNEL_STREAMS_MAX ? -ENOSPC : 0;
	if (!rc) {
		renew_channel(c);
		s->tls = c->tls != NULL;
		s->deadline_ns = deadline_ms ? ex_now_ns() + deadline_ms * EX_NS_PER_MS : 0;
		*ret = s; /* before a callback can run */
		add_stream(c, s);
		pthread_mutex_lock(&s->lock);
		start_call(s, path, deadline_ms, wait_for_ready);
		pthread_mutex_unlock(&s->lock);
	}
	ex_lock_give(&c->lock);
	if (!rc)
		return 0;
	stream_free(s);
	return ex_err_errno(err, rc, "failed to call %s", path);
}

/* Under c->lock: the stream is in the list, and so is not freed. */
static void end_late(struct ex_channel *c, struct ex_stream *s)
{
	s->deadline_ns = 0;
	c->moved = true; /* its timers may stand still as well: the next stream gets another */
	pthread_mutex_lock(&s->lock);
	if (s->call)
		grpc_call_cancel_with_status(s->call, GRPC_STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded", NULL);
	pthread_mutex_unlock(&s->lock);
}

void ex_channel_check(struct ex_channel *c)
{
	EX_CHECK_OBJ(c, CHANNEL_MAGIC);
	const uint64_t now = ex_now_ns();
	ex_lock_take(&c->lock);
	for (struct ex_stream *s = c->streams; s; s = s->next)
		if (s->deadline_ns && now > s->deadline_ns + LATE_NS)
			end_late(c, s);
	if (c->failed && now - c->again_ns >= AGAIN_NS) {
		c->failed = false;
		c->again_ns = now;
		grpc_channel_reset_connect_backoff(c->grpc);
	}
	ex_lock_give(&c->lock);
}

int ex_stream_send(struct ex_stream *s, struct ex_out *o)
{
	EX_CHECK_OBJ(s, STREAM_MAGIC);
	pthread_mutex_lock(&s->lock);
	bool dead = s->broken || s->close_wanted;
	if (!dead) {
		ex_sendq_push(&s->out, o);
		push(s);
	}
	pthread_mutex_unlock(&s->lock);
	if (!dead)
		return 0;
	ex_out_free(o);
	return -EPIPE;
}

size_t ex_stream_queued_bytes(const struct ex_stream *s)
{
	return atomic_load_explicit(&s->out.bytes, memory_order_relaxed);
}

void ex_stream_close_send(struct ex_stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->close_wanted = true;
	push(s);
	pthread_mutex_unlock(&s->lock);
}

void ex_stream_cancel(struct ex_stream *s)
{
	EX_CHECK_OBJ(s, STREAM_MAGIC);
	pthread_mutex_lock(&s->lock);
	if (s->call)
		grpc_call_cancel(s->call, NULL);
	pthread_mutex_unlock(&s->lock);
}

struct ex_loop *ex_channel_loop(const struct ex_channel *c)
{
	return c->loop;
}

struct ex_stream *ex_stream_hold(struct ex_stream *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void ex_stream_drop(struct ex_stream *s)
{
	EX_CHECK_OBJ(s, STREAM_MAGIC);
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		stream_free(s);
}
