/* SPDX-License-Identifier: Apache-2.0 */
/* The small model. */
#include "small_model.h"
#include "model_dir.h"

#include "base/mem.h"
#include "expert/loader.h"
#include "model/synth.h"
#include "trunk/latent.h"
#include <math.h>

static const char config[] =
	"{\"model_type\": \"deepseek_v3\", \"vocab_size\": 280, \"hidden_size\": 32, \"intermediate_size\": 48,"
	" \"moe_intermediate_size\": 24, \"num_hidden_layers\": 3, \"num_attention_heads\": 2, \"n_shared_experts\": 1,"
	" \"n_routed_experts\": 8, \"num_experts_per_tok\": 3, \"n_group\": 2, \"topk_group\": 2, \"kv_lora_rank\": 16,"
	" \"q_lora_rank\": 12, \"qk_rope_head_dim\": 8, \"v_head_dim\": 8, \"qk_nope_head_dim\": 8,"
	" \"first_k_dense_replace\": 1, \"max_position_embeddings\": 96, \"eos_token_id\": 1}";

static const char *host_option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "2" : NULL;
}

static __attribute__((format(printf, 3, 4))) void host_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	(void)fmt;
}

static const struct expertd_host host = {.log = host_log, .option = host_option};

const struct ex_ops *small_model_cpu_ops(void)
{
	static struct ex_plugin *plugin;
	const struct ex_loader_opts o = {.dir = ".libs"};
	struct ex_err err = EX_ERR_INIT;
	const char *why = "";
	if (!plugin)
		EXPECT_OK(err, ex_plugin_open(&o, "cpu", &err, &plugin));
	const struct ex_ops *ops = ex_plugin_ops(plugin, &why);
	if (!ops)
		fail_msg("cpu plugin has no trunk: %s", why);
	return ops;
}

/* out += weight * expert(x). */
static void add_expert(const struct expertd_ffn *e, const float *x, float weight, float *out)
{
	double h[64];
	assert_true(e->gate.rows <= EX_ARRAY_LEN(h));
	for (uint32_t r = 0; r < e->gate.rows; r++) {
		double g = 0, u = 0;
		for (uint32_t c = 0; c < e->gate.cols; c++) {
			g += (double)ex_matrix_at(&e->gate, r, c) * (double)x[c];
			u += (double)ex_matrix_at(&e->up, r, c) * (double)x[c];
		}
		h[r] = g / (1 + exp(-g)) * u;
	}
	for (uint32_t r = 0; r < e->down.rows; r++) {
		double y = 0;
		for (uint32_t c = 0; c < e->down.cols; c++)
			y += (double)ex_matrix_at(&e->down, r, c) * h[c];
		out[r] += (float)((double)weight * y);
	}
}

static int begin(
	void *ctx, uint32_t layer, const float *x, uint32_t n, const uint32_t *ids, const float *weights, uint32_t k)
{
	struct small_model *m = ctx;
	m->layer = layer;
	m->x = x;
	m->n = n;
	m->ids = ids;
	m->weights = weights;
	m->k = k;
	return 0;
}

static int wait(void *ctx, float *y, uint8_t *row_failed)
{
	struct small_model *m = ctx;
	struct ex_err err = EX_ERR_INIT;
	uint32_t d = ex_weights_config(m->w)->d_model;
	int rc = 0;
	memset(y, 0, (size_t)m->n * d * sizeof *y);
	for (uint32_t i = 0; i < m->n; i++) {
		for (uint32_t j = 0; j < m->k; j++) {
			struct expertd_ffn e;
			EXPECT_OK(err, ex_weights_expert(m->w, m->layer, m->ids[i * m->k + j], &err, &e));
			add_expert(&e, m->x + (size_t)i * d, m->weights[i * m->k + j], y + (size_t)i * d);
		}
		if (m->layer == 1 && (int)i == m->fail_row) {
			row_failed[i] = 1;
			rc = -EHOSTDOWN;
		}
	}
	return rc;
}

uint64_t small_model_seed = 7;

void small_model_weights(struct small_model *m, uint32_t dtype)
{
	char path[PATH_MAX], out[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	const struct ex_synth_opts o = {.seed = small_model_seed, .dtype = dtype};
	*m = (struct small_model){.fail_row = -1};
	m->moe = (struct ex_moe_ops){.begin = begin, .wait = wait, .ctx = m};
	strcpy(m->dir, SCRATCH_DIR);
	make_dir(m->dir);
	write_text(m->dir, "in.json", config);
	EXPECT_OK(err, ex_model_synth(path_in(m->dir, "in.json", path), path_in(m->dir, "out", out), &o, &err));
	EXPECT_OK(err, ex_weights_open(out, &err, &m->w));
}

struct ex_trunk_opts small_model_trunk_opts(const struct ex_ops *ops, uint32_t rows_max, uint32_t n_pages)
{
	return (struct ex_trunk_opts){
		.ops = ops,
		.host = &host,
		.which = "0",
		.rows_max = rows_max,
		.logits_max = rows_max,
		.page_tokens = SMALL_MODEL_PAGE,
		.n_pages = n_pages,
		.n_ctx = SMALL_MODEL_CTX,
		.check_finite = true,
	};
}

void small_model_open(
	struct small_model *m, uint32_t dtype, const struct ex_ops *ops, uint32_t rows_max, uint32_t n_pages)
{
	struct ex_err err = EX_ERR_INIT;
	small_model_weights(m, dtype);
	const struct ex_trunk_opts o = small_model_trunk_opts(ops, rows_max, n_pages);
	EXPECT_OK(err, ex_trunk_open(m->w, &o, &err, &m->t));
}

void small_model_close(struct small_model *m)
{
	char out[PATH_MAX];
	m->t = ex_trunk_close(m->t);
	m->w = ex_weights_close(m->w);
	remove_dir(path_in(m->dir, "out", out));
	remove_dir(m->dir);
}
