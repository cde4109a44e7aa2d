/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints, calls and streams of the etcd client. Layer L2. */
#include "fleet/etcd.h"

#include "base/clock.h"
#include "base/mem.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define ETCD_MAGIC UINT32_C(0x65746364)
#define RETRY_NS   (200 * EX_NS_PER_MS) /* between probes while the cluster is down */
#define RETELL_NS  (10 * EX_NS_PER_S)   /* between two reasons why it is */

static ex_etcd_done_fn probe_done;

enum up_state { UP_UNKNOWN, UP_YES, UP_NO };

struct endpoint {
	char *name;
	struct ex_channel *channel;
	char said[EX_ETCD_WHY_MAX - 80]; /* why it failed, as it was told last */
};

struct ex_etcd {
	uint32_t magic;
	struct ex_etcd_opts o;
	char *probe_key;
	_Atomic bool stopping;
	struct endpoint endpoints[EX_ETCD_ENDPOINTS_MAX];
	struct ex_timer *timer;
	/* [cq] */
	size_t active;
	enum up_state up;
	unsigned n_failures; /* of probes, in a row */
	bool probing;
	uint64_t next_probe_ns, told_ns;
};

struct etcd_call {
	struct ex_etcd *etcd;
	size_t endpoint;
	enum ex_etcd_method method;
	struct ex_msg *reply;
	ex_etcd_done_fn *done;
	void *ctx;
};

struct ex_etcd_stream {
	struct ex_etcd *etcd;
	size_t endpoint;
	const struct ex_etcd_stream_ops *ops;
	void *ctx;
	struct ex_stream *stream;
	bool detached; /* its user has closed it */
	bool malformed;
};

static const struct {
	const char *path;
	const ProtobufCMessageDescriptor *reply;
} methods[EX_ETCD_METHOD_N] = {
	[EX_ETCD_RANGE] = {"/etcdserverpb.KV/Range", &etcdserverpb__range_response__descriptor},
	[EX_ETCD_PUT] = {"/etcdserverpb.KV/Put", &etcdserverpb__put_response__descriptor},
	[EX_ETCD_DELETE_RANGE] = {"/etcdserverpb.KV/DeleteRange", &etcdserverpb__delete_range_response__descriptor},
	[EX_ETCD_TXN] = {"/etcdserverpb.KV/Txn", &etcdserverpb__txn_response__descriptor},
	[EX_ETCD_LEASE_GRANT] = {"/etcdserverpb.Lease/LeaseGrant", &etcdserverpb__lease_grant_response__descriptor},
	[EX_ETCD_LEASE_REVOKE] = {"/etcdserverpb.Lease/LeaseRevoke", &etcdserverpb__lease_revoke_response__descriptor},
};

void ex_etcd_text(char *dst, size_t size, const void *text, size_t n)
{
	const unsigned char *s = text;
	size_t i = 0;
	for (; i < n && i + 1 < size; i++)
		dst[i] = s[i] >= ' ' && s[i] <= '~' ? (char)s[i] : '?';
	dst[i] = '\0';
}

static bool is_stopping(const struct ex_etcd *e)
{
	return atomic_load_explicit(&e->stopping, memory_order_relaxed);
}

/* --- which endpoint, up or down -------------------------------------------------------------------------- */

static void set_up(struct ex_etcd *e, enum up_state up, const char *why)
{
	e->up = up;
	e->told_ns = ex_now_ns();
	e->o.ops->state(e->o.ctx, up == UP_YES, why);
}

/* Probes of all endpoints failed, that of p last. While the cluster is down, another reason at an endpoint is told as well. */
static void set_down(struct ex_etcd *e, struct endpoint *p, int status, const char *text)
{
	char why[EX_ETCD_WHY_MAX], said[sizeof p->said];
	ex_etcd_text(said, sizeof said, text, strlen(text));
	const bool news = strcmp(said, p->said) != 0, first = e->up != UP_NO;
	if (!first && (!news || ex_now_ns() - e->told_ns < RETELL_NS))
		return;
	memcpy(p->said, said, sizeof said);
	snprintf(why, sizeof why, "%.48s: %s: %s", p->name, ex_status_name(status), said);
	set_up(e, UP_NO, why);
}

/* Something sent to endpoint i failed: another is used, and probed at once. What comes late from one that is not in use
 * any more says nothing. Only probes make the cluster down: a single kind of call may fail for reasons of its own. */
static void endpoint_failed(struct ex_etcd *e, size_t i, bool probe, int status, const char *text)
{
	struct endpoint *p = &e->endpoints[i];
	if (is_stopping(e) || i != e->active)
		return;
	e->active = (i + 1) % e->o.n_endpoints;
	if (probe && e->n_failures < e->o.n_endpoints)
		e->n_failures++;
	bool down = e->n_failures == e->o.n_endpoints;
	e->next_probe_ns = ex_now_ns() + (down ? RETRY_NS : 0);
	e->o.ops->moved(e->o.ctx);
	if (down)
		set_down(e, p, status, text);
	else if (e->up != UP_NO)
		ex_etcd_text(p->said, sizeof p->said, text, strlen(text));
}

static void probe_answered(struct ex_etcd *e, size_t i)
{
	if (is_stopping(e) || i != e->active)
		return;
	e->n_failures = 0;
	if (e->up != UP_YES)
		set_up(e, UP_YES, "");
}

/* These are etcd's answers to a request; every other status says that this endpoint is of no use now. */
static bool is_answer(int status)
{
	switch (status) {
	case EX_STATUS_OK:
	case EX_STATUS_INVALID_ARGUMENT:
	case EX_STATUS_NOT_FOUND:
	case EX_STATUS_ALREADY_EXISTS:
	case EX_STATUS_FAILED_PRECONDITION:
	case EX_STATUS_OUT_OF_RANGE:
	case EX_STATUS_RESOURCE_EXHAUSTED:
	case EX_STATUS_PERMISSION_DENIED:
	case EX_STATUS_UNAUTHENTICATED:
		return true;
	default:
		return false;
	}
}

/* --- calls ----------------------------------------------------------------------------------------------- */

static void call_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct etcd_call *c = ctx;
	(void)s;
	ex_msg_free(c->reply);
	c->reply = m;
}

static void call_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct etcd_call *c = ctx;
	ProtobufCMessage *reply = NULL;
	(void)s;
	if (status == EX_STATUS_OK && c->reply)
		reply = ex_msg_unpack(c->reply, methods[c->method].reply);
	if (status == EX_STATUS_OK && !reply) {
		status = EX_STATUS_INTERNAL;
		text = "the answer is malformed";
	}
	const bool probe = c->done == probe_done;
	if (!is_answer(status))
		endpoint_failed(c->etcd, c->endpoint, probe, status, text);
	else if (probe)
		probe_answered(c->etcd, c->endpoint);
	c->done(c->ctx, status, text, reply);
	if (reply)
		protobuf_c_message_free_unpacked(reply, NULL);
	ex_msg_free(c->reply);
	free(c);
}

int ex_etcd_call(
	struct ex_etcd *e, enum ex_etcd_method m, const ProtobufCMessage *request, ex_etcd_done_fn *done, void *ctx)
{
	static const struct ex_stream_ops ops = {.message = call_message, .closed = call_closed};
	EX_CHECK_OBJ(e, ETCD_MAGIC);
	EX_CLEANUP(ex_out_freep) struct ex_out *o = ex_out_pack(request);
	struct etcd_call *c = ex_calloc(1, sizeof *c);
	struct ex_stream *s;
	if (!o || !c) {
		free(c);
		return -ENOMEM;
	}
	*c = (struct etcd_call){.etcd = e, .endpoint = e->active, .method = m, .done = done, .ctx = ctx};
	int rc = ex_stream_open(
		e->endpoints[e->active].channel, methods[m].path, e->o.timeout_ms, false, &ops, c, NULL, &s);
	if (rc < 0) {
		free(c);
		return rc;
	}
	/* a call that has ended meanwhile says so in `closed`, which is to come on this thread */
	if (ex_stream_send(s, EX_TAKE(o)) == 0)
		ex_stream_close_send(s);
	ex_stream_drop(s);
	return 0;
}

/* --- streams --------------------------------------------------------------------------------------------- */

static void stream_message(struct ex_stream *stream, struct ex_msg *m, void *ctx)
{
	struct ex_etcd_stream *s = ctx;
	ProtobufCMessage *reply = s->detached ? NULL : ex_msg_unpack(m, s->ops->reply);
	ex_msg_free(m);
	if (reply) {
		s->ops->message(s->ctx, reply);
		protobuf_c_message_free_unpacked(reply, NULL);
	} else if (!s->detached) {
		s->malformed = true;
		ex_stream_cancel(stream);
	}
}

static void stream_closed(struct ex_stream *stream, int status, const char *text, void *ctx)
{
	struct ex_etcd_stream *s = ctx;
	(void)stream;
	if (!s->detached) {
		s->ops->closed(s->ctx);
		if (s->malformed)
			text = "a message is malformed";
		endpoint_failed(s->etcd, s->endpoint, false, status, text);
	}
	ex_stream_drop(s->stream);
	free(s);
}

int ex_etcd_stream_open(struct ex_etcd *e, const struct ex_etcd_stream_ops *ops, void *ctx, struct ex_etcd_stream **ret)
{
	static const struct ex_stream_ops stream_ops = {.message = stream_message, .closed = stream_closed};
	EX_CHECK_OBJ(e, ETCD_MAGIC);
	struct ex_etcd_stream *s = ex_calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	*s = (struct ex_etcd_stream){.etcd = e, .endpoint = e->active, .ops = ops, .ctx = ctx};
	int rc = ex_stream_open(e->endpoints[e->active].channel, ops->path, 0, false, &stream_ops, s, NULL, &s->stream);
	if (rc < 0) {
		free(s);
		return rc;
	}
	*ret = s;
	return 0;
}

int ex_etcd_stream_send(struct ex_etcd_stream *s, const ProtobufCMessage *m)
{
	struct ex_out *o = ex_out_pack(m);
	return o ? ex_stream_send(s->stream, o) : -ENOMEM;
}

struct ex_etcd_stream *ex_etcd_stream_close(struct ex_etcd_stream *s)
{
	if (s) {
		s->detached = true;
		ex_stream_cancel(s->stream);
	}
	return NULL;
}

/* --- the probe ------------------------------------------------------------------------------------------- */

static void probe_done(void *ctx, int status, const char *text, const ProtobufCMessage *reply)
{
	struct ex_etcd *e = ctx;
	const Etcdserverpb__RangeResponse *r = (const Etcdserverpb__RangeResponse *)reply;
	(void)text;
	e->probing = false;
	if (status == EX_STATUS_OK && r->header && !is_stopping(e))
		e->o.ops->probed(e->o.ctx, r);
}

static void on_tick(void *ctx)
{
	struct ex_etcd *e = ctx;
	uint64_t now = ex_now_ns();
	for (size_t i = 0; i < e->o.n_endpoints; i++)
		ex_channel_check(e->endpoints[i].channel);
	if (!e->probing && now >= e->next_probe_ns) {
		Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;
		r.key = ex_etcd_bytes(e->probe_key);
		e->next_probe_ns = now + e->o.probe_ms * EX_NS_PER_MS;
		e->probing = ex_etcd_call(e, EX_ETCD_RANGE, &r.base, probe_done, e) == 0;
	}
	if (e->up == UP_YES)
		e->o.ops->tick(e->o.ctx);
}

/* --- life ------------------------------------------------------------------------------------------------ */

static void destroy(struct ex_etcd *e)
{
	for (size_t i = 0; i < e->o.n_endpoints; i++) {
		ex_channel_free(e->endpoints[i].channel);
		free(e->endpoints[i].name);
	}
	free(e->probe_key);
	e->magic = 0;
	free(e);
}

static int open_endpoints(struct ex_etcd *e, struct ex_err *err)
{
	struct ex_channel_opts c = e->o.channel;
	c.message_bytes_max = EX_ETCD_MESSAGE_BYTES_MAX;
	c.no_pings = true; /* the probe finds a silent peer, and etcd cuts a client that pings it while idle */
	for (size_t i = 0; i < e->o.n_endpoints; i++) {
		struct endpoint *p = &e->endpoints[i];
		p->name = strdup(e->o.endpoints[i]);
		if (!p->name)
			return ex_err_errno(err, -ENOMEM, "cannot make a client of etcd");
		c.target = p->name;
		int rc = ex_channel_new(&c, err, &p->channel);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int ex_etcd_new(const struct ex_etcd_opts *o, struct ex_err *err, struct ex_etcd **ret)
{
	if (o->n_endpoints == 0 || o->n_endpoints > EX_ETCD_ENDPOINTS_MAX)
		return ex_err_set(
			err, -EINVAL, "%zu etcd endpoints; 1 to %d are allowed", o->n_endpoints, EX_ETCD_ENDPOINTS_MAX);
	struct ex_etcd *e = ex_calloc(1, sizeof *e);
	if (!e)
		return ex_err_errno(err, -ENOMEM, "cannot make a client of etcd");
	e->magic = ETCD_MAGIC;
	e->o = *o;
	e->probe_key = strdup(o->probe_key);
	int rc = e->probe_key ? open_endpoints(e, err) : ex_err_errno(err, -ENOMEM, "cannot make a client of etcd");
	e->o.endpoints = NULL; /* theirs; the names are kept beside the channels */
	if (rc == 0) {
		*ret = e;
		rc = ex_timer_start(o->channel.loop, EX_ETCD_TICK_MS, on_tick, e, &e->timer);
		if (rc == 0)
			return 0;
		*ret = NULL;
		ex_err_errno(err, rc, "cannot start the timer of the etcd client");
	}
	destroy(e);
	return rc;
}

struct ex_etcd *ex_etcd_free(struct ex_etcd *e)
{
	if (!e)
		return NULL;
	EX_CHECK_OBJ(e, ETCD_MAGIC);
	atomic_store_explicit(&e->stopping, true, memory_order_relaxed);
	e->timer = ex_timer_cancel(e->timer);
	destroy(e);
	return NULL;
}
