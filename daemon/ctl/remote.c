/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl's connection: one channel to the admin socket, unary calls and server streams. */
#include "base/clock.h"
#include "ctl/ctl.h"
#include "net/status.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define REPLY_BYTES_MAX  (64u << 20)
#define STREAM_QUEUE_MAX 4096 /* replies read ahead of a slow terminal; the reader waits beyond */

int ctl_connect(struct ctl *c)
{
	struct ex_err err = EX_ERR_INIT;
	if (c->channel)
		return CTL_OK;
	struct ex_str target = EX_STR_INIT;
	ex_net_init();
	bool is_path = strchr(c->socket, '/') != NULL;
	ex_str_addf(&target, "%s%s", is_path && strncmp(c->socket, "unix:", 5) != 0 ? "unix:" : "", c->socket);
	int rc = target.oom ? -ENOMEM : ex_loop_new("ctl", &err, &c->loop);
	if (!rc)
		rc = ex_channel_new(
			&(struct ex_channel_opts){
				.target = target.s,
				.loop = c->loop,
				.message_bytes_max = REPLY_BYTES_MAX,
			},
			&err, &c->channel);
	ex_str_done(&target);
	return rc ? ctl_fail(CTL_UNREACHABLE, "%s", ex_err_text(&err)) : CTL_OK;
}

void ctl_disconnect(struct ctl *c)
{
	if (!c->loop)
		return;
	c->channel = c->channel ? ex_channel_free(c->channel) : NULL;
	c->loop = ex_loop_free(c->loop);
	ex_net_done();
}

/* The exit code for a failed call, after its message. */
static int call_failed(const struct ctl *c, int code, const char *text)
{
	if (code == -ENOTCONN || code == -ETIMEDOUT)
		return ctl_fail(CTL_UNREACHABLE, "expertd on '%s' is not available: %s", c->socket, text);
	return ctl_fail(CTL_FAILED, "%s", text);
}

int ctl_call(struct ctl *c, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply,
	ProtobufCMessage **ret)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_msg *m;
	int rc = ctl_connect(c);
	if (rc)
		return rc;
	rc = ex_unary(c->channel, path, request, c->timeout_ms, &err, &m);
	if (rc)
		return call_failed(c, rc, ex_err_text(&err));
	*ret = ex_msg_unpack(m, reply);
	ex_msg_free(m);
	return *ret ? CTL_OK : ctl_fail(CTL_FAILED, "malformed reply to %s: is the daemon of another version?", path);
}

int ctl_ask(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret)
{
	ProtobufCMessage *m = NULL;
	int rc = ctl_call(c, path, q, d, &m);
	if (!rc && c->json) {
		ctl_print_json(ctl_json(m), false);
		protobuf_c_message_free_unpacked(m, NULL);
		m = NULL;
	}
	memcpy(ret, &m, sizeof m); /* ret is a T ** */
	return rc;
}

int ctl_admin(
	struct ctl *c, const char *method, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret)
{
	char path[64];
	snprintf(path, sizeof path, CTL_ADMIN "%s", method);
	return ctl_ask(c, path, q, d, ret);
}

/* --- streams: the loop's thread queues what comes, the main thread takes it out -------------------------- */

struct reader {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct ex_msg *queue[STREAM_QUEUE_MAX]; /* ring, guarded by mutex */
	size_t head, n;
	bool closed, overrun, any; /* any: a message has come */
	int status;
	char text[512];
};

static volatile sig_atomic_t interrupted;

static void on_sigint(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct reader *r = ctx;
	pthread_mutex_lock(&r->mutex);
	r->any = true;
	if (r->n == STREAM_QUEUE_MAX) {
		r->overrun = true;
		ex_msg_free(m);
		ex_stream_cancel(s);
	} else
		r->queue[(r->head + r->n++) % STREAM_QUEUE_MAX] = m;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->mutex);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct reader *r = ctx;
	(void)s;
	pthread_mutex_lock(&r->mutex);
	r->closed = true;
	r->status = status;
	snprintf(r->text, sizeof r->text, "%s", text ? text : "");
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->mutex);
}

/* The next message; NULL when the stream is over or, every 100 ms, to look at `interrupted`. */
static struct ex_msg *next_message(struct reader *r, bool *ret_closed)
{
	struct ex_msg *m = NULL;
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until); /* an interrupt is heeded whatever the time of day does */
	until.tv_nsec += 100000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&r->mutex);
	if (!r->n && !r->closed)
		pthread_cond_clockwait(&r->changed, &r->mutex, CLOCK_MONOTONIC, &until);
	if (r->n) {
		m = r->queue[r->head];
		r->head = (r->head + 1) % STREAM_QUEUE_MAX;
		r->n--;
	}
	*ret_closed = r->closed && !m;
	pthread_mutex_unlock(&r->mutex);
	return m;
}

/* Hands messages to fn until the stream is closed and empty. After an interrupt or fn's non-zero the stream is
 * cancelled and drained. */
static int read_stream(struct reader *r, struct ex_stream *s, const ProtobufCMessageDescriptor *reply,
	int (*fn)(void *ctx, const ProtobufCMessage *m), void *ctx)
{
	bool closed = false, cancelled = false;
	int rc = CTL_OK;
	while (!closed) {
		struct ex_msg *m = next_message(r, &closed);
		if (m && rc == CTL_OK && !interrupted) {
			ProtobufCMessage *p = ex_msg_unpack(m, reply);
			rc = p ? fn(ctx, p) : ctl_fail(CTL_FAILED, "malformed message from the daemon");
			if (p)
				protobuf_c_message_free_unpacked(p, NULL);
		}
		if (m)
			ex_msg_free(m);
		if ((interrupted || rc) && !cancelled) {
			cancelled = true;
			ex_stream_cancel(s);
		}
	}
	return interrupted ? 130 : rc;
}

int ctl_stream(struct ctl *c, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *reply, int (*fn)(void *ctx, const ProtobufCMessage *m), void *ctx)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	struct ex_err err = EX_ERR_INIT;
	struct ex_stream *s;
	int rc = ctl_connect(c);
	if (rc)
		return rc;
	struct reader *r = calloc(1, sizeof *r);
	struct ex_out *o = ex_out_pack(request);
	if (!r || !o) {
		free(r);
		ex_out_free(o);
		return ctl_fail(CTL_FAILED, "out of memory");
	}
	pthread_mutex_init(&r->mutex, NULL);
	pthread_cond_init(&r->changed, NULL);
	rc = ex_stream_open(c->channel, path, 0, false, &ops, r, &err, &s);
	if (rc) {
		ex_out_free(o);
		rc = call_failed(c, rc, ex_err_text(&err));
	} else {
		interrupted = 0;
		struct sigaction old, on = {.sa_handler = on_sigint};
		sigaction(SIGINT, &on, &old);
		ex_stream_send(s, o); /* a closed stream says why in `closed` */
		ex_stream_close_send(s);
		rc = read_stream(r, s, reply, fn, ctx);
		sigaction(SIGINT, &old, NULL);
		ex_stream_drop(s);
		if (rc == CTL_OK && r->overrun)
			rc = ctl_fail(CTL_FAILED, "the output is read too slowly: more than %d messages waited",
				STREAM_QUEUE_MAX);
		else if (rc == CTL_OK && r->status == EX_STATUS_UNAVAILABLE && r->any)
			rc = ctl_fail(CTL_FAILED, "expertd on '%s' went away: %s", c->socket, r->text);
		else if (rc == CTL_OK && r->status == EX_STATUS_UNAVAILABLE)
			rc = call_failed(c, -ENOTCONN, r->text);
		else if (rc == CTL_OK && r->status == EX_STATUS_UNIMPLEMENTED)
			rc = ctl_fail(CTL_FAILED, "expertd on '%s' has no %s: is it a router?", c->socket, path);
		else if (rc == CTL_OK && r->status != EX_STATUS_OK)
			rc = call_failed(c, -EIO, r->text);
	}
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->mutex);
	free(r);
	return rc;
}
