/* SPDX-License-Identifier: Apache-2.0 */
/* Experts.Move. Requests come on the loop, the swapper's reports on its thread. Layer L2. */
#include "expert/moves.h"

#include "base/lock.h"
#include "base/mem.h"
#include "base/shard.h"
#include "proto/expertd/experts.pb-c.h"
#include <stdio.h>
#include <string.h>

#define REQUEST_BYTES_MAX 4096

typedef Expertd__V1__MoveRequest move_request;

/* One stream. Freed by whoever is last: its `done`, or the end of its move. */
struct session {
	struct ex_moves *m;
	struct ex_rpc *rpc;               /* borrowed; a move holds it */
	char router[EX_MOVES_ROUTER_MAX]; /* "": has not said */
	bool busy, over;                  /* a move is with the swapper; the call has ended. Guarded by m->lock */
};

struct ex_moves {
	struct ex_moves_opts o;
	struct ex_lock lock;
	struct session *claimed; /* guarded by lock */
	_Atomic bool draining;
};

/* A command of the swapper. */
struct errand {
	struct session *s;
	struct ex_rpc *rpc; /* held */
	uint64_t id;
	struct ex_swap_report r; /* [loader] */
};

/* --- answers --------------------------------------------------------------------------------------------- */

static void answer(struct ex_rpc *rpc, uint64_t id, int status, const char *step, const char *text)
{
	Expertd__V1__MoveReply r = EXPERTD__V1__MOVE_REPLY__INIT;
	r.id = id;
	r.status = status;
	r.step = (char *)step;
	r.text = (char *)text;
	struct ex_out *o = ex_out_pack(&r.base);
	if (o)
		ex_rpc_send(rpc, o);
	else
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

/* The stream, or else its move, ended: when both have, the claim is free. */
static void leave(struct session *s, bool stream)
{
	struct ex_moves *m = s->m;
	ex_lock_take(&m->lock);
	if (stream)
		s->over = true;
	else
		s->busy = false;
	bool last = s->over && !s->busy;
	if (last && m->claimed == s)
		m->claimed = NULL;
	ex_lock_give(&m->lock);
	if (last)
		free(s);
}

/* --- from the swapper [loader] --------------------------------------------------------------------------- */

static void on_report(void *ctx, const struct ex_swap_report *r)
{
	struct errand *e = ctx;
	e->r = *r;
}

static bool is_gone(void *ctx)
{
	const struct errand *e = ctx;
	return ex_rpc_cancelled(e->rpc);
}

static void on_done(void *ctx, unsigned n_done, unsigned n_failed)
{
	struct errand *e = ctx;
	const char *step = ex_swap_step_name(e->r.step);
	leave(e->s, false); /* first: the answer may bring the next move at once */
	if (n_done)
		answer(e->rpc, e->id, 0, step, "");
	else if (n_failed)
		answer(e->rpc, e->id, e->r.step == EX_STEP_MEMORY ? -ENOMEM : -EIO, step, e->r.text);
	else
		answer(e->rpc, e->id, -ESHUTDOWN, "select", "the host is stopping");
	ex_rpc_drop(e->rpc);
	free(e);
}

/* --- requests [cq] --------------------------------------------------------------------------------------- */

/* What keeps s from the claim; 0: it has it now. A former stream of the same router is ended. */
static int take_claim(struct session *s, struct ex_err *err)
{
	struct ex_moves *m = s->m;
	struct ex_rpc *former = NULL;
	int rc = 0;
	ex_lock_take(&m->lock);
	struct session *by = m->claimed;
	if (by && (by->busy || strcmp(by->router, s->router) != 0))
		rc = ex_err_set(err, -EBUSY, "router %s moves shards here%s: one router at a time", by->router,
			by->over ? ", and its last move is not through" : "");
	else {
		former = by ? ex_rpc_hold(by->rpc) : NULL;
		m->claimed = s;
	}
	ex_lock_give(&m->lock);
	if (former) {
		ex_rpc_finish(former, EX_STATUS_ABORTED, "its router has claimed the host anew");
		ex_rpc_drop(former);
	}
	return rc;
}

static int claim(struct session *s, const move_request *q, struct ex_err *err)
{
	const struct ex_moves_opts *o = &s->m->o;
	char digest[EX_DIGEST_HEX];
	if (!o->accept)
		return ex_err_set(err, -EACCES, "host %s takes no moves: [expert] accept_moves", o->node);
	if (!*q->router || strlen(q->router) >= sizeof s->router)
		return ex_err_set(err, -EINVAL, "a router's name has 1 to %zu bytes", sizeof s->router - 1);
	const char *frozen = o->model(o->ctx, digest);
	if (frozen)
		return ex_err_set(err, -EBUSY, "host %s: %s", o->node, frozen);
	if (strcmp(q->model_digest, digest) != 0 || q->expert_groups != o->n_groups)
		return ex_err_set(err, -EPERM, "host %s holds model %.16s in %u expert groups, not %.16s in %u",
			o->node, digest, o->n_groups, q->model_digest, q->expert_groups);
	if (atomic_load_explicit(&s->m->draining, memory_order_relaxed))
		return ex_err_set(err, -ESHUTDOWN, "host %s is going to stop", o->node);
	snprintf(s->router, sizeof s->router, "%s", q->router);
	int rc = take_claim(s, err);
	if (rc < 0)
		s->router[0] = '\0';
	return rc;
}

static int submit(struct session *s, const move_request *q, const struct ex_shard_id *id, struct ex_err *err)
{
	struct ex_swap_request r = {.action = q->load ? EX_SWAP_LOAD : EX_SWAP_UNLOAD, .force = true};
	struct errand *e = ex_calloc(1, sizeof *e);
	if (!e)
		return ex_err_errno(err, -ENOMEM, "cannot take the move");
	*e = (struct errand){.s = s, .rpc = ex_rpc_hold(s->rpc), .id = q->id};
	const struct ex_swap_client c = {.report = on_report, .gone = is_gone, .done = on_done, .ctx = e};
	ex_shard_name(id, r.glob);
	ex_lock_take(&s->m->lock);
	s->busy = true;
	ex_lock_give(&s->m->lock);
	int rc = ex_swapper_submit(s->m->o.swapper, &r, &c, err);
	if (rc < 0) {
		ex_lock_take(&s->m->lock);
		s->busy = false;
		ex_lock_give(&s->m->lock);
		ex_rpc_drop(e->rpc);
		free(e);
	}
	return rc;
}

/* -EINVAL: the fleet has no such shard. */
static int take_shard(const struct ex_moves *m, const move_request *q, struct ex_shard_id *ret, struct ex_err *err)
{
	if (q->first_expert < m->o.n_experts) {
		uint32_t g = ex_shard_group_of_expert(m->o.n_experts, m->o.n_groups, q->first_expert);
		*ret = ex_shard_of_group(q->layer, m->o.n_experts, m->o.n_groups, g);
		if (ret->first_expert == q->first_expert && ret->n_experts == q->n_experts)
			return 0;
	}
	return ex_err_set(err, -EINVAL, "layer %u, experts %u and %u on, are no shard of this fleet", q->layer,
		q->first_expert, q->n_experts);
}

static void move(struct session *s, const move_request *q)
{
	struct ex_moves *m = s->m;
	struct ex_err err = EX_ERR_INIT;
	struct ex_shard_id id;
	ex_lock_take(&m->lock);
	bool busy = s->busy;
	ex_lock_give(&m->lock);
	if (busy || !q->id || take_shard(m, q, &id, &err) < 0) {
		ex_rpc_finish(s->rpc, EX_STATUS_INVALID_ARGUMENT,
			busy     ? "one move at a time"
			: !q->id ? "a move has a number"
				 : ex_err_text(&err));
		return;
	}
	if (atomic_load_explicit(&m->draining, memory_order_relaxed)) {
		answer(s->rpc, q->id, -ESHUTDOWN, "select", "the host is going to stop");
		return;
	}
	struct ex_generation *g = ex_registry_pin(m->o.registry, id.layer, id.first_expert);
	ex_generation_unpin(g);
	if ((g != NULL) == q->load) /* an answer that was lost, or an operator was faster */
		answer(s->rpc, q->id, 0, "done", "");
	else if (submit(s, q, &id, &err) < 0)
		answer(s->rpc, q->id, err.code, "select", ex_err_text(&err));
}

static void on_request(struct session *s, const move_request *q)
{
	struct ex_err err = EX_ERR_INIT;
	if (*s->router)
		move(s, q);
	else if (claim(s, q, &err) < 0)
		ex_rpc_finish(s->rpc,
			err.code == -EACCES   ? EX_STATUS_PERMISSION_DENIED
			: err.code == -EINVAL ? EX_STATUS_INVALID_ARGUMENT
					      : EX_STATUS_FAILED_PRECONDITION,
			ex_err_text(&err));
	else
		answer(s->rpc, 0, 0, "", "");
}

static void on_message(struct ex_rpc *rpc, struct ex_msg *msg, void *ctx)
{
	(void)ctx;
	ProtobufCMessage *p = ex_msg_unpack(msg, &expertd__v1__move_request__descriptor);
	ex_msg_free(msg);
	if (!p) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "malformed MoveRequest");
		return;
	}
	on_request(ex_rpc_data(rpc), (const move_request *)p);
	protobuf_c_message_free_unpacked(p, NULL);
}

static int on_start(struct ex_rpc *rpc, void *ctx)
{
	struct session *s = ex_calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	*s = (struct session){.m = ctx, .rpc = rpc};
	ex_rpc_set_data(rpc, s);
	return 0;
}

static void on_half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void on_end(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	(void)cancelled, (void)ctx;
	leave(ex_rpc_data(rpc), true);
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_moves_new(const struct ex_moves_opts *o, struct ex_moves **ret)
{
	struct ex_moves *m = ex_calloc(1, sizeof *m);
	if (!m)
		return -ENOMEM;
	m->o = *o;
	ex_lock_init(&m->lock, "moves");
	*ret = m;
	return 0;
}

struct ex_moves *ex_moves_free(struct ex_moves *m)
{
	if (m) {
		assert(!m->claimed);
		ex_lock_done(&m->lock);
		free(m);
	}
	return NULL;
}

bool ex_moves_claimed(struct ex_moves *m, char router[static EX_MOVES_ROUTER_MAX])
{
	ex_lock_take(&m->lock);
	bool claimed = m->claimed != NULL;
	if (claimed)
		snprintf(router, EX_MOVES_ROUTER_MAX, "%s", m->claimed->router);
	ex_lock_give(&m->lock);
	return claimed;
}

struct ex_method ex_moves_method(struct ex_moves *m, int loop_i)
{
	return (struct ex_method){
		.path = "/expertd.v1.Experts/Move",
		.loop_i = loop_i,
		.message_bytes_max = REQUEST_BYTES_MAX,
		.start = on_start,
		.message = on_message,
		.half_close = on_half_close,
		.done = on_end,
		.ctx = m,
	};
}

void ex_moves_drain(struct ex_moves *m)
{
	atomic_store_explicit(&m->draining, true, memory_order_relaxed);
}
