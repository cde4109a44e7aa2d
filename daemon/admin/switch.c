/* SPDX-License-Identifier: Apache-2.0 */
/* Reports of a switch as messages. Layer L4. */
#include "admin/switch.h"

#include "base/keep.h"
#include "base/mem.h"
#include "expertd/admin.pb-c.h"

struct call {
	struct ex_rpc *rpc; /* held */
};

static void send_report(void *ctx, const struct ex_switch_report *r)
{
	struct call *c = ctx;
	struct ex_keep k = {0};
	Expertd__V1__SwitchModelStep m = EXPERTD__V1__SWITCH_MODEL_STEP__INIT;
	m.step = ex_keep_text(&k, r->step);
	m.host = ex_keep_text(&k, r->host);
	m.failed = r->failed;
	m.done = r->done;
	m.total = r->total;
	m.text = ex_keep_text(&k, r->text);
	struct ex_out *o = k.oom ? NULL : ex_out_pack(&m.base);
	if (o)
		ex_rpc_send(c->rpc, o);
	else
		ex_rpc_finish(c->rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	ex_keep_done(&k);
}

static bool is_gone(void *ctx)
{
	const struct call *c = ctx;
	return ex_rpc_cancelled(c->rpc);
}

static void on_done(void *ctx, bool switched)
{
	struct call *c = ctx;
	(void)switched; /* the reports say so */
	ex_rpc_finish(c->rpc, EX_STATUS_OK, NULL);
	ex_rpc_drop(c->rpc);
	free(c);
}

void ex_switch_call(struct ex_rpc *rpc,
	int (*start)(void *ctx, const char *dir, bool move, const struct ex_switch_client *c, struct ex_err *err),
	void *ctx, const char *dir, bool move)
{
	struct ex_err err = EX_ERR_INIT;
	struct call *c = ex_calloc(1, sizeof *c);
	if (!c) {
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	c->rpc = ex_rpc_hold(rpc);
	const struct ex_switch_client client = {.report = send_report, .gone = is_gone, .done = on_done, .ctx = c};
	int rc = dir[0] == '/' ? start(ctx, dir, move, &client, &err)
			       : ex_err_set(&err, -EINVAL, "'%.200s' is not an absolute path", dir);
	if (rc < 0) {
		ex_rpc_finish_errno(rpc, rc, ex_err_text(&err));
		ex_rpc_drop(c->rpc);
		free(c);
	}
}
