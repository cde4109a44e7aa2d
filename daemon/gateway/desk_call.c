/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that are answered on the desk's thread. Layer L4. */
#include "gateway/desk_call.h"

#include "base/mem.h"

struct call {
	struct ex_job job;
	const struct ex_desk_method *method;
	struct ex_rpc *rpc; /* held */
	ProtobufCMessage *request;
};

static void free_call(struct call *c)
{
	protobuf_c_message_free_unpacked(c->request, NULL);
	ex_rpc_drop(c->rpc);
	free(c);
}

/* [desk, slow] */
static void answer(struct ex_job *j)
{
	struct call *c = EX_CONTAINER_OF(j, struct call, job);
	struct ex_err err = EX_ERR_INIT;
	struct ex_keep keep = {0};
	struct ex_out *o = c->method->answer(c->method, c->request, ex_rpc_peer(c->rpc), &keep, &err);
	if (keep.oom || (!o && !err.code)) {
		ex_out_free(o);
		ex_rpc_finish(c->rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	} else if (!o)
		ex_rpc_finish_errno(c->rpc, err.code, ex_err_text(&err));
	else {
		ex_rpc_send(c->rpc, o);
		ex_rpc_finish(c->rpc, EX_STATUS_OK, NULL);
	}
	ex_keep_done(&keep);
	free_call(c);
}

void ex_desk_on_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	const struct ex_desk_method *method = ctx;
	ProtobufCMessage *request = ex_msg_unpack(m, method->request);
	const bool good = request && !ex_msg_has_nul(m, method->request);
	ex_msg_free(m);
	struct call *c = good ? ex_calloc(1, sizeof *c) : NULL;
	if (!c) {
		if (request)
			protobuf_c_message_free_unpacked(request, NULL);
		ex_rpc_finish(rpc, good ? EX_STATUS_RESOURCE_EXHAUSTED : EX_STATUS_INVALID_ARGUMENT,
			good ? "out of memory" : "the request is malformed");
		return;
	}
	*c = (struct call){.job.run = answer, .method = method, .rpc = ex_rpc_hold(rpc), .request = request};
	if (!(method->slow ? ex_jobs_push(method->slow, &c->job) : ex_desk_push(method->desk, &c->job))) {
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "too many requests wait");
		free_call(c);
	}
}
