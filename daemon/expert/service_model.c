/* SPDX-License-Identifier: Apache-2.0 */
/* PrepareModel, CommitModel and DropModel: what a router that switches the fleet asks of a host. Layer L2.
 * A request is read on the loop and done on the loader's thread. */
#include "base/mem.h"
#include "expert/epochs.h"
#include "proto/expertd/experts.pb-c.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define ASK_BYTES_MAX (16 << 10)

struct ask;
typedef int ask_fn(struct ask *a, struct ex_err *err); /* [loader] */

/* One request on its way. */
struct ask {
	struct ex_epochs *e;
	struct ex_rpc *rpc;        /* held */
	ProtobufCMessage *request; /* owned */
	ask_fn *run;
};

static void ask_free(struct ask *a)
{
	ex_rpc_drop(a->rpc);
	protobuf_c_message_free_unpacked(a->request, NULL);
	free(a);
}

static int check_digest(const char *digest, struct ex_err *err)
{
	size_t n = 0;
	while (n < EX_DIGEST_HEX && isxdigit((unsigned char)digest[n]))
		n++;
	return n == EX_DIGEST_HEX - 1 && !digest[n]
		       ? 0
		       : ex_err_set(err, -EINVAL, "model_digest '%.80s' is not 64 hex digits", digest);
}

static int send(struct ask *a, const ProtobufCMessage *m, struct ex_err *err)
{
	struct ex_out *o = ex_out_pack(m);
	if (!o)
		return ex_err_errno(err, -ENOMEM, "cannot answer");
	ex_rpc_send(a->rpc, o);
	return 0;
}

static void send_progress(void *ctx, uint32_t done, uint32_t total)
{
	Expertd__V1__PrepareModelReply r = EXPERTD__V1__PREPARE_MODEL_REPLY__INIT;
	struct ex_err err = EX_ERR_INIT;
	r.done = done;
	r.total = total;
	(void)send(ctx, &r.base, &err); /* without it nobody sees how far it is; the last word counts */
}

static bool is_gone(void *ctx)
{
	const struct ask *a = ctx;
	return ex_rpc_cancelled(a->rpc);
}

static int prepare(struct ask *a, struct ex_err *err)
{
	const Expertd__V1__PrepareModelRequest *q = (const Expertd__V1__PrepareModelRequest *)a->request;
	Expertd__V1__PrepareModelReply r = EXPERTD__V1__PREPARE_MODEL_REPLY__INIT;
	const struct ex_epochs_ask ask = {
		.dir = q->dir,
		.digest = q->model_digest,
		.n_groups = q->expert_groups,
		.decided_us = q->decided_us,
		.progress = send_progress,
		.gone = is_gone,
		.ctx = a,
	};
	int rc = check_digest(q->model_digest, err);
	if (rc == 0 && q->dir[0] != '/')
		rc = ex_err_set(err, -EINVAL, "'%.200s' is not an absolute path", q->dir);
	if (rc == 0)
		rc = ex_epochs_prepare(a->e, &ask, err);
	r.ready = true;
	return rc < 0 ? rc : send(a, &r.base, err);
}

static int commit(struct ask *a, struct ex_err *err)
{
	const Expertd__V1__CommitModelRequest *q = (const Expertd__V1__CommitModelRequest *)a->request;
	Expertd__V1__CommitModelReply r = EXPERTD__V1__COMMIT_MODEL_REPLY__INIT;
	int rc = check_digest(q->model_digest, err);
	if (rc == 0)
		rc = ex_epochs_commit(a->e, q->model_digest, q->decided_us, err);
	return rc < 0 ? rc : send(a, &r.base, err);
}

static int drop(struct ask *a, struct ex_err *err)
{
	const Expertd__V1__DropModelRequest *q = (const Expertd__V1__DropModelRequest *)a->request;
	Expertd__V1__DropModelReply r = EXPERTD__V1__DROP_MODEL_REPLY__INIT;
	int rc = ex_epochs_drop(a->e, q->model_digest, err);
	return rc < 0 ? rc : send(a, &r.base, err);
}

static void run_ask(void *ctx, bool is_over)
{
	struct ask *a = ctx;
	struct ex_err err = EX_ERR_INIT;
	int rc = is_over ? ex_err_set(&err, -ESHUTDOWN, "the host is stopping") : a->run(a, &err);
	if (rc < 0)
		ex_rpc_finish_errno(a->rpc, rc, ex_err_text(&err));
	else
		ex_rpc_finish(a->rpc, EX_STATUS_OK, NULL);
	ask_free(a);
}

/* Takes m. */
static void take(
	struct ex_epochs *e, struct ex_rpc *rpc, struct ex_msg *m, const ProtobufCMessageDescriptor *d, ask_fn *run)
{
	struct ex_err err = EX_ERR_INIT;
	ProtobufCMessage *request = ex_msg_has_nul(m, d) ? NULL : ex_msg_unpack(m, d);
	ex_msg_free(m);
	struct ask *a = request ? ex_calloc(1, sizeof *a) : NULL;
	if (!a) {
		ex_rpc_finish(rpc, request ? EX_STATUS_RESOURCE_EXHAUSTED : EX_STATUS_INVALID_ARGUMENT,
			request ? "out of memory" : "the request is malformed");
		if (request)
			protobuf_c_message_free_unpacked(request, NULL);
		return;
	}
	*a = (struct ask){.e = e, .rpc = ex_rpc_hold(rpc), .request = request, .run = run};
	int rc = ex_swapper_call(ex_epochs_swapper(e), run_ask, a, &err);
	if (rc < 0) {
		ex_rpc_finish_errno(rpc, rc, ex_err_text(&err));
		ask_free(a);
	}
}

static void on_prepare(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	take(ctx, rpc, m, &expertd__v1__prepare_model_request__descriptor, prepare);
}

static void on_commit(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	take(ctx, rpc, m, &expertd__v1__commit_model_request__descriptor, commit);
}

static void on_drop(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	take(ctx, rpc, m, &expertd__v1__drop_model_request__descriptor, drop);
}

void ex_epochs_methods(struct ex_epochs *e, struct ex_method out[static EX_EPOCHS_METHODS])
{
	const struct ex_method method[] = {
		{.path = "/expertd.v1.Experts/PrepareModel", .message = on_prepare},
		{.path = "/expertd.v1.Experts/CommitModel", .message = on_commit},
		{.path = "/expertd.v1.Experts/DropModel", .message = on_drop},
		{.path = NULL},
	};
	static_assert(EX_ARRAY_LEN(method) == EX_EPOCHS_METHODS, "each has its place");
	memcpy(out, method, sizeof method);
	for (size_t i = 0; i + 1 < EX_EPOCHS_METHODS; i++) {
		out[i].message_bytes_max = ASK_BYTES_MAX;
		out[i].ctx = e;
	}
}
