/* SPDX-License-Identifier: Apache-2.0 */
/* PrepareModel of many hosts at once; CommitModel and DropModel of one. Layer L3. */
#include "engine/model_calls.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "expertd/experts.pb-c.h"
#include "net/status.h"

#include <stdio.h>

#define LOOK_NS (100 * EX_NS_PER_MS)

struct prepare;

/* One host's call. */
struct one {
	struct prepare *p;
	struct ex_channel *channel;
	struct ex_stream *stream;
	uint32_t done, total; /* guarded by p->lock, as all below */
	bool ready, ended;
	struct ex_err err;
	/* of the caller's thread: what was told */
	uint32_t told;
	bool told_end;
};

struct prepare {
	struct ex_lock lock;
	pthread_cond_t changed;
	struct one *one; /* [n] */
	size_t n;
};

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct one *o = ctx;
	ProtobufCMessage *reply = ex_msg_unpack(m, &expertd__v1__prepare_model_reply__descriptor);
	const Expertd__V1__PrepareModelReply *r = (const Expertd__V1__PrepareModelReply *)reply;
	ex_msg_free(m);
	if (!reply) {
		ex_stream_cancel(s);
		return;
	}
	ex_lock_take(&o->p->lock);
	o->done = r->done ? r->done : o->done;
	o->total = r->total ? r->total : o->total;
	o->ready |= r->ready;
	pthread_cond_signal(&o->p->changed);
	ex_lock_give(&o->p->lock);
	protobuf_c_message_free_unpacked(reply, NULL);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct one *o = ctx;
	(void)s;
	ex_lock_take(&o->p->lock);
	if (status || !o->ready)
		ex_err_set(&o->err, status ? ex_status_to_errno(status) : -EPROTO, "%s",
			*text ? text : "it ended the call without an answer");
	o->ended = true;
	pthread_cond_signal(&o->p->changed);
	ex_lock_give(&o->p->lock);
}

static int ask(const struct ex_model_calls *c, const char *address, struct one *o, struct ex_err *err)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	const struct ex_channel_opts co = {.target = address, .loop = c->loop, .tls = c->tls};
	Expertd__V1__PrepareModelRequest q = EXPERTD__V1__PREPARE_MODEL_REQUEST__INIT;
	q.node = (char *)c->node;
	q.dir = (char *)c->dir;
	q.model_digest = (char *)c->digest;
	q.expert_groups = c->n_groups;
	q.decided_us = c->decided_us;
	int rc = ex_channel_new(&co, err, &o->channel);
	if (rc)
		return rc;
	struct ex_out *out = ex_out_pack(&q.base);
	if (!out)
		return ex_err_errno(err, -ENOMEM, "cannot ask");
	rc = ex_stream_open(o->channel, "/expertd.v1.Experts/PrepareModel", 0, false, &ops, o, err, &o->stream);
	if (rc) {
		ex_out_free(out);
		return rc;
	}
	ex_stream_send(o->stream, out); /* when it fails, on_closed tells why */
	ex_stream_close_send(o->stream);
	return 0;
}

/* Tells what is new. True when all have ended. */
static bool tell(struct prepare *p, struct ex_model_host *hosts,
	void (*progress)(void *ctx, const struct ex_model_host *h, bool ended), void *ctx)
{
	bool all = true;
	for (size_t i = 0; i < p->n; i++) {
		struct one *o = &p->one[i];
		ex_lock_take(&p->lock);
		bool news = o->done != o->told || o->ended != o->told_end, ended = o->ended;
		hosts[i].done = o->told = o->done;
		hosts[i].total = o->total;
		hosts[i].err = o->err;
		hosts[i].rc = o->ended ? o->err.code : -EINPROGRESS;
		o->told_end = ended;
		ex_lock_give(&p->lock);
		if (news && progress)
			progress(ctx, &hosts[i], ended);
		all &= ended;
	}
	return all;
}

static void cancel_all(struct prepare *p)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->one[i].stream)
			ex_stream_cancel(p->one[i].stream);
}

void ex_models_prepare(const struct ex_model_calls *c, struct ex_model_host *hosts, size_t n,
	void (*progress)(void *ctx, const struct ex_model_host *h, bool ended), bool (*go_on)(void *ctx), void *ctx)
{
	struct prepare p = {.n = n, .one = ex_calloc(n, sizeof *p.one)};
	for (size_t i = 0; !p.one && i < n; i++)
		hosts[i].rc = ex_err_errno(&hosts[i].err, -ENOMEM, "cannot ask");
	if (!p.one)
		return;
	ex_lock_init(&p.lock, "prepare");
	ex_cond_init(&p.changed);
	for (size_t i = 0; i < n; i++) {
		struct one *o = &p.one[i];
		struct ex_err err = EX_ERR_INIT;
		o->p = &p;
		if (ask(c, hosts[i].address, o, &err) < 0) {
			ex_lock_take(&p.lock);
			o->err = err;
			o->ended = true;
			ex_lock_give(&p.lock);
		}
	}
	for (bool cancelled = false; !tell(&p, hosts, progress, ctx);) {
		if (!cancelled && !go_on(ctx)) {
			cancelled = true;
			cancel_all(&p);
		}
		ex_lock_take(&p.lock);
		ex_cond_wait_until(&p.changed, &p.lock, ex_now_ns() + LOOK_NS);
		ex_lock_give(&p.lock);
	}
	for (size_t i = 0; i < n; i++) {
		if (p.one[i].stream)
			ex_stream_drop(p.one[i].stream);
		ex_channel_free(p.one[i].channel);
	}
	pthread_cond_destroy(&p.changed);
	ex_lock_done(&p.lock);
	free(p.one);
}

static int call(const struct ex_model_calls *c, const char *address, const char *path, const ProtobufCMessage *q,
	struct ex_err *err)
{
	EX_CLEANUP(ex_channel_freep) struct ex_channel *channel = NULL;
	const struct ex_channel_opts co = {.target = address, .loop = c->loop, .tls = c->tls};
	struct ex_msg *m = NULL;
	int rc = ex_channel_new(&co, err, &channel);
	if (rc == 0)
		rc = ex_unary(channel, path, q, c->timeout_ms, err, &m);
	if (rc == 0)
		ex_msg_free(m);
	return rc;
}

int ex_models_commit(const struct ex_model_calls *c, const char *address, struct ex_err *err)
{
	Expertd__V1__CommitModelRequest q = EXPERTD__V1__COMMIT_MODEL_REQUEST__INIT;
	q.model_digest = (char *)c->digest;
	q.decided_us = c->decided_us;
	return call(c, address, "/expertd.v1.Experts/CommitModel", &q.base, err);
}

int ex_models_drop(const struct ex_model_calls *c, const char *address, struct ex_err *err)
{
	Expertd__V1__DropModelRequest q = EXPERTD__V1__DROP_MODEL_REQUEST__INIT;
	q.model_digest = (char *)c->digest;
	return call(c, address, "/expertd.v1.Experts/DropModel", &q.base, err);
}
