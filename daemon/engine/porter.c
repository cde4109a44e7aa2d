/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of Experts.Move. The owner opens and ends them; what comes on them is noted by the loop, and looked at by the owner. Layer L3. */
#include "engine/porter.h"

#include "base/lock.h"
#include "base/mem.h"
#include "expertd/experts.pb-c.h"
#include "fleet/members.h"
#include <stdio.h>
#include <string.h>

#define MOVE_PATH "/expertd.v1.Experts/Move"

/* A claim on one host. */
struct way {
	struct ex_porter *porter;
	char host[64];
	struct ex_channel *channel;
	struct ex_stream *stream;
	uint64_t sent; /* number of the last move */
	struct way *next;
	/* written by the loop; guarded by porter->lock */
	bool claimed, closed;
	int status; /* of the stream, when it is closed */
	uint64_t answered;
	int answer;                         /* 0 or -errno */
	char step[16], text[256], why[256]; /* of the answer; of the end */
};

struct ex_porter {
	struct ex_porter_opts o;
	struct ex_lock lock;
	struct way *first; /* [owner] */
};

/* --- what comes [cq] ------------------------------------------------------------------------------------- */

static void note(struct way *w, const Expertd__V1__MoveReply *r)
{
	ex_lock_take(&w->porter->lock);
	if (r->id) {
		w->answered = r->id;
		w->answer = r->status < 0 ? r->status : r->status ? -EPROTO : 0;
		snprintf(w->step, sizeof w->step, "%s", r->step);
		snprintf(w->text, sizeof w->text, "%s", r->text);
	} else
		w->claimed = true;
	ex_lock_give(&w->porter->lock);
	w->porter->o.changed(w->porter->o.ctx);
}

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	ProtobufCMessage *p = ex_msg_unpack(m, &expertd__v1__move_reply__descriptor);
	ex_msg_free(m);
	if (!p) {
		ex_stream_cancel(s);
		return;
	}
	note(ctx, (const Expertd__V1__MoveReply *)p);
	protobuf_c_message_free_unpacked(p, NULL);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct way *w = ctx;
	(void)s;
	ex_lock_take(&w->porter->lock);
	w->closed = true;
	w->status = status;
	snprintf(w->why, sizeof w->why, "%s", text);
	ex_lock_give(&w->porter->lock);
	w->porter->o.changed(w->porter->o.ctx);
}

/* --- claims ---------------------------------------------------------------------------------------------- */

static struct way *find(struct ex_porter *p, const char *host)
{
	for (struct way *w = p->first; w; w = w->next)
		if (strcmp(w->host, host) == 0)
			return w;
	return NULL;
}

static void free_way(struct way *w)
{
	if (w->stream) {
		ex_stream_cancel(w->stream);
		ex_stream_drop(w->stream);
	}
	if (w->channel)
		ex_channel_free(w->channel); /* on_closed has run then */
	free(w);
}

static int send_claim(struct way *w)
{
	const struct ex_porter_opts *o = &w->porter->o;
	Expertd__V1__MoveRequest q = EXPERTD__V1__MOVE_REQUEST__INIT;
	q.router = (char *)o->node;
	q.model_digest = (char *)o->model_digest;
	q.expert_groups = o->n_groups;
	struct ex_out *out = ex_out_pack(&q.base);
	return out ? ex_stream_send(w->stream, out) : -ENOMEM;
}

static int open_way(struct ex_porter *p, const char *host, const char *address, struct ex_err *err)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	const struct ex_channel_opts co = {.target = address, .loop = p->o.loop, .tls = p->o.tls};
	struct way *w = ex_calloc(1, sizeof *w);
	if (!w)
		return ex_err_errno(err, -ENOMEM, "cannot claim host %s", host);
	w->porter = p;
	snprintf(w->host, sizeof w->host, "%s", host);
	int rc = ex_channel_new(&co, err, &w->channel);
	if (rc == 0)
		rc = ex_stream_open(w->channel, MOVE_PATH, 0, false, &ops, w, err, &w->stream);
	if (rc == 0 && send_claim(w) == -ENOMEM)
		rc = ex_err_errno(err, -ENOMEM, "cannot claim host %s", host);
	if (rc < 0) {
		free_way(w);
		return rc;
	}
	w->next = p->first;
	p->first = w;
	return -EAGAIN;
}

int ex_porter_claim(struct ex_porter *p, const char *host, const char *address, struct ex_err *err)
{
	struct way *w = find(p, host);
	if (!w)
		return open_way(p, host, address, err);
	ex_lock_take(&p->lock);
	bool closed = w->closed;
	int rc = closed ? ex_status_to_errno(w->status) : w->claimed ? 0 : -EAGAIN;
	if (closed)
		rc = ex_err_set(
			err, rc ? rc : -ENOTCONN, "host %s: %s", host, *w->why ? w->why : "it ended the stream");
	ex_lock_give(&p->lock);
	if (closed)
		ex_porter_drop(p, host);
	return rc;
}

void ex_porter_drop(struct ex_porter *p, const char *host)
{
	for (struct way **w = &p->first; *w; w = &(*w)->next)
		if (strcmp((*w)->host, host) == 0) {
			struct way *gone = *w;
			*w = gone->next;
			free_way(gone);
			return;
		}
}

void ex_porter_release(struct ex_porter *p)
{
	while (p->first) {
		struct way *w = p->first;
		p->first = w->next;
		free_way(w);
	}
}

/* --- moves ----------------------------------------------------------------------------------------------- */

int ex_porter_send(struct ex_porter *p, const struct ex_place_move *m, struct ex_err *err)
{
	struct way *w = find(p, m->host);
	Expertd__V1__MoveRequest q = EXPERTD__V1__MOVE_REQUEST__INIT;
	if (!w)
		return ex_err_set(err, -ENOTCONN, "the claim on the host was lost");
	q.id = ++w->sent;
	q.layer = m->shard.layer;
	q.first_expert = m->shard.first_expert;
	q.n_experts = m->shard.n_experts;
	q.load = m->load;
	struct ex_out *out = ex_out_pack(&q.base);
	int rc = out ? ex_stream_send(w->stream, out) : -ENOMEM;
	if (rc == -EPIPE)
		return ex_err_set(err, -ENOTCONN, "the claim on the host was lost");
	return rc < 0 ? ex_err_errno(err, rc, "cannot ask the host") : 0;
}

int ex_porter_answer(struct ex_porter *p, const struct ex_place_move *m, struct ex_err *err)
{
	struct way *w = find(p, m->host);
	int rc;
	if (!w)
		return ex_err_set(err, -ENOTCONN, "the claim on the host was lost");
	ex_lock_take(&p->lock);
	if (w->answered == w->sent)
		rc = w->answer < 0 ? ex_err_set(err, w->answer, "%s: %s", w->step, w->text) : 0;
	else if (w->closed)
		rc = ex_err_set(err, -ENOTCONN, "the connection ended: %s", *w->why ? w->why : "no reason given");
	else
		rc = -EINPROGRESS;
	ex_lock_give(&p->lock);
	return rc;
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_porter_new(const struct ex_porter_opts *o, struct ex_porter **ret)
{
	struct ex_porter *p = ex_calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	p->o = *o;
	ex_lock_init(&p->lock, "porter");
	*ret = p;
	return 0;
}

void ex_porter_set_model(struct ex_porter *p, const char *model_digest)
{
	assert(!p->first);
	p->o.model_digest = model_digest;
}

struct ex_porter *ex_porter_free(struct ex_porter *p)
{
	if (!p)
		return NULL;
	ex_porter_release(p);
	ex_lock_done(&p->lock);
	free(p);
	return NULL;
}
