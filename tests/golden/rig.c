/* SPDX-License-Identifier: Apache-2.0 */
/* See rig.h. Test support. */
#include "rig.h"

#include "engine/dispatch.h"
#include "expert/executor.h"
#include "expert/loader.h"
#include "expert/registry.h"
#include "net/loop.h"
#include <stdio.h>
#include <string.h>

#define RIG_ROWS_MAX  256
#define RIG_SEQ_PAGES (RIG_N_CTX / RIG_PAGE_TOKENS)

struct rig {
	struct ex_weights *weights;
	struct ex_plugin *plugin;
	struct ex_registry *registry;
	struct ex_executor *executor;
	struct ex_loop *loop_data, *loop_control;
	struct ex_dispatch *dispatch;
	struct ex_trunk *trunk;
	uint32_t pages[RIG_SEQS_MAX][RIG_SEQ_PAGES];
};

static void host_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx, (void)priority, (void)fmt;
}

static const char *isa_option; /* of the one rig that is open */

static const char *host_option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "2" : strcmp(key, "isa") == 0 ? isa_option : NULL;
}

static const struct expertd_host host = {.log = host_log, .option = host_option};

static int load_shards(struct rig *r, uint32_t n_groups, struct ex_err *err)
{
	const struct ex_model_config *c = rig_config(r);
	int rc = ex_registry_new(
		&(struct ex_registry_opts){
			.n_experts = c->n_experts, .n_groups = n_groups, .n_layers = c->n_layers, .check_finite = true},
		&r->registry);
	for (uint32_t layer = 0; rc == 0 && layer < c->n_layers; layer++)
		for (uint32_t g = 0; rc == 0 && ex_model_layer_is_moe(c, layer) && g < n_groups; g++) {
			struct ex_shard_id id = ex_shard_of_group(layer, c->n_experts, n_groups, g);
			rc = ex_registry_load(r->registry, &id, r->plugin, &host, "0", r->weights, err);
		}
	return rc;
}

static int open_dispatch(struct rig *r, uint32_t n_groups, struct ex_err *err)
{
	const struct ex_model_config *c = rig_config(r);
	struct ex_executor_opts executor = {.registry = r->registry,
		.d_model = c->d_model,
		.n_workers = 2,
		.batch_rows_max = 64,
		.queue_rows_max = RIG_ROWS_MAX * n_groups};
	struct ex_dispatch_opts dispatch = {.node = "golden",
		.version = "0",
		.model_digest = ex_weights_digest(r->weights),
		.d_model = c->d_model,
		.n_layers = c->n_layers,
		.n_experts = c->n_experts,
		.n_groups = n_groups,
		.first_k_dense = c->first_k_dense,
		.moe_layer_freq = c->moe_layer_freq,
		.rows_max = RIG_ROWS_MAX,
		.topk = c->n_experts_per_tok,
		.x_dtype = EXPERTD_F32,
		.registry = r->registry,
		.connect_ms = 1000,
		.heartbeat_ms = 250,
		.frame_timeout_ms = 60000};
	int rc = ex_executor_new(&executor, err, &r->executor);
	if (rc < 0)
		return rc;
	if ((rc = ex_loop_new("data", err, &r->loop_data)) < 0 ||
		(rc = ex_loop_new("control", err, &r->loop_control)) < 0)
		return rc;
	dispatch.local = r->executor;
	dispatch.loop_data = r->loop_data;
	dispatch.loop_control = r->loop_control;
	if ((rc = ex_dispatch_new(&dispatch, err, &r->dispatch)) < 0)
		return rc;
	return ex_dispatch_wait_covered(r->dispatch, 5000, err) ? 0 : -ETIMEDOUT;
}

static int open_trunk(struct rig *r, struct ex_err *err)
{
	const char *why = "";
	struct ex_trunk_opts opts = {.ops = ex_plugin_ops(r->plugin, &why),
		.host = &host,
		.which = "0",
		.rows_max = RIG_ROWS_MAX,
		.logits_max = RIG_ROWS_MAX,
		.page_tokens = RIG_PAGE_TOKENS,
		.n_pages = RIG_SEQS_MAX * RIG_SEQ_PAGES,
		.n_ctx = RIG_N_CTX,
		.check_finite = true};
	if (!opts.ops)
		return ex_err_set(err, -ENOTSUP, "plugin cpu has no trunk ops: %s", why);
	return ex_trunk_open(r->weights, &opts, err, &r->trunk);
}

/* Pages of one sequence lie apart from each other and run backwards, so that an index that forgets the page table
 * shows. */
static void deal_pages(struct rig *r)
{
	for (uint32_t s = 0; s < RIG_SEQS_MAX; s++)
		for (uint32_t p = 0; p < RIG_SEQ_PAGES; p++)
			r->pages[s][p] = (RIG_SEQ_PAGES - 1 - p) * RIG_SEQS_MAX + s;
}

int rig_open(const char *dir, const char *isa, uint32_t n_groups, struct ex_err *err, struct rig **ret)
{
	const char *plugins = getenv("EX_TEST_PLUGIN_DIR");
	struct ex_loader_opts loader = {.dir = plugins ? plugins : ".libs"};
	struct rig *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	isa_option = isa;
	ex_net_init();
	deal_pages(r);
	int rc = ex_weights_open(dir, err, &r->weights);
	if (rc == 0)
		rc = ex_plugin_open(&loader, "cpu", err, &r->plugin);
	if (rc == 0)
		rc = load_shards(r, n_groups, err);
	if (rc == 0)
		rc = open_dispatch(r, n_groups, err);
	if (rc == 0)
		rc = open_trunk(r, err);
	if (rc < 0) {
		rig_close(r);
		return rc;
	}
	*ret = r;
	return 0;
}

struct rig *rig_close(struct rig *r)
{
	if (r->trunk)
		ex_trunk_close(r->trunk);
	if (r->dispatch)
		ex_dispatch_free(r->dispatch);
	if (r->executor)
		ex_executor_free(r->executor);
	if (r->registry)
		ex_registry_free(r->registry);
	if (r->loop_data)
		ex_loop_free(r->loop_data);
	if (r->loop_control)
		ex_loop_free(r->loop_control);
	if (r->plugin)
		ex_plugin_unref(r->plugin);
	if (r->weights)
		ex_weights_close(r->weights);
	ex_net_done();
	free(r);
	return NULL;
}

const struct ex_model_config *rig_config(const struct rig *r)
{
	return ex_weights_config(r->weights);
}

int rig_step(struct rig *r, const struct rig_row *rows, uint32_t n, float *logits, struct ex_err *err)
{
	uint32_t ids[RIG_ROWS_MAX], pos[RIG_ROWS_MAX], logit_rows[RIG_ROWS_MAX];
	const uint32_t *pages[RIG_ROWS_MAX];
	uint8_t failed[RIG_ROWS_MAX] = {0};
	assert(n <= RIG_ROWS_MAX);
	for (uint32_t i = 0; i < n; i++) {
		ids[i] = rows[i].id;
		pos[i] = rows[i].pos;
		pages[i] = r->pages[rows[i].seq];
		logit_rows[i] = i;
	}
	struct ex_step step = {.n = n,
		.ids = ids,
		.pos = pos,
		.pages = pages,
		.row_failed = failed,
		.n_logits = n,
		.logit_rows = logit_rows,
		.logits = logits};
	int rc = ex_trunk_step(r->trunk, ex_dispatch_moe_ops(r->dispatch), &step, err);
	for (uint32_t i = 0; rc == 0 && i < n; i++)
		if (failed[i])
			rc = ex_err_set(err, -EIO, "row %u (position %u) lost its experts", i, pos[i]);
	return rc;
}
