/* SPDX-License-Identifier: Apache-2.0 */
/* From the swapper's thread to a client. Layer L4. */
#include "admin/shards.h"

#include "base/keep.h"
#include "base/clock.h"
#include "base/mem.h"
#include "expertd/admin.pb-c.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

int ex_shards_check(struct ex_swap_request *q, const char *glob, struct ex_err *err)
{
	if (!*glob || strlen(glob) >= sizeof q->glob || ex_shard_glob_check(glob) < 0)
		return ex_err_set(err, -EINVAL, "'%.100s' is not a glob over LAYER/RANGE, as in */E0-7", glob);
	strcpy(q->glob, glob);
	if (q->action != EX_SWAP_SWAP)
		return 0;
	if (q->plugin[0] != '/')
		return ex_err_set(err, -EINVAL, "plugin '%.200s' is not an absolute path", q->plugin);
	if (q->n_verify > EX_SWAP_VERIFY_MAX)
		return ex_err_set(err, -EINVAL, "verify = %u: at most %d batches", q->n_verify, EX_SWAP_VERIFY_MAX);
	if (!isfinite(q->tolerance) || q->tolerance < 0 || q->tolerance > 1)
		return ex_err_set(err, -EINVAL, "tolerance = %g: from 0 to 1", (double)q->tolerance);
	return 0;
}

struct change {
	struct ex_rpc *rpc; /* held */
};

static void send_report(void *ctx, const struct ex_swap_report *r)
{
	struct change *c = ctx;
	struct ex_keep k = {0};
	Expertd__V1__ShardStep m = EXPERTD__V1__SHARD_STEP__INIT;
	m.action = ex_keep_text(&k, ex_swap_action_name(r->action));
	m.shard = ex_keep_text(&k, r->shard);
	m.step = ex_keep_text(&k, ex_swap_step_name(r->step));
	m.failed = r->failed;
	m.generation = r->generation;
	m.before = r->before;
	m.batches = r->n_batches;
	m.synthetic = r->synthetic;
	m.exact = r->exact;
	m.worst = r->worst;
	m.drain_seconds = (double)r->drain_ns / (double)EX_NS_PER_S;
	m.plugin = ex_keep_text(&k, r->plugin);
	m.sha256 = ex_keep_text(&k, r->sha256);
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
	const struct change *c = ctx;
	return ex_rpc_cancelled(c->rpc);
}

static void on_done(void *ctx, unsigned n_done, unsigned n_failed)
{
	struct change *c = ctx;
	if (n_done + n_failed)
		ex_rpc_finish(c->rpc, EX_STATUS_OK, NULL);
	else
		ex_rpc_finish_errno(c->rpc, -ESHUTDOWN, "the host is stopping");
	ex_rpc_drop(c->rpc);
	free(c);
}

int ex_shards_change(struct ex_swapper *s, const struct ex_swap_request *q, struct ex_rpc *rpc, struct ex_err *err)
{
	struct change *c = ex_calloc(1, sizeof *c);
	if (!c)
		return ex_err_errno(err, -ENOMEM, "cannot take the command");
	c->rpc = ex_rpc_hold(rpc);
	const struct ex_swap_client client = {.report = send_report, .gone = is_gone, .done = on_done, .ctx = c};
	int rc = ex_swapper_submit(s, q, &client, err);
	if (rc < 0) {
		ex_rpc_drop(c->rpc);
		free(c);
	}
	return rc;
}
