/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a trunk: what it needs, what it gets. Layer L2. */
#include "trunk/impl.h"
#include "base/str.h"
#include "trunk/rope.h"

#include <string.h>

/* One device buffer: where its pointer goes, how long it is. */
struct plan_buffer {
	void *ret; /* of a pointer to 4-byte elements */
	uint64_t n;
};
#define N_BUFFERS 19

static uint32_t widest_mlp(const struct ex_trunk *t)
{
	uint32_t d_ff = 0;
	for (uint32_t i = 0; i < t->c.n_layers; i++)
		d_ff = EX_MAX(d_ff, t->layers[i].mlp.d_ff);
	return d_ff;
}

static void plan_buffers(struct ex_trunk *t, struct plan_buffer plan[static N_BUFFERS])
{
	const struct ex_model_config *c = &t->c;
	struct trunk_buffers *b = &t->b;
	uint64_t rows = t->o.rows_max, d = c->d_model, heads = c->n_heads;
	uint64_t rope = (uint64_t)t->o.n_ctx * (c->qk_rope_dim / 2);
	const struct plan_buffer all[N_BUFFERS] = {
		{&b->x, rows * d},
		{&b->h, rows * d},
		{&b->q_a, rows * c->q_lora_rank},
		{&b->q, rows * heads * (c->qk_nope_dim + c->qk_rope_dim)},
		{&b->kv, rows * ex_trunk_kv_width(c)},
		{&b->q_lat, rows * heads * c->kv_lora_rank},
		{&b->out_lat, rows * heads * c->kv_lora_rank},
		{&b->attn, rows * heads * c->v_dim},
		{&b->gate, rows * widest_mlp(t)},
		{&b->up, rows * widest_mlp(t)},
		{&b->mlp_out, rows * d},
		{&b->router, rows * c->n_experts},
		{&b->routed, rows * d},
		{&b->topk_ids, rows * c->n_experts_per_tok},
		{&b->topk_weights, rows * c->n_experts_per_tok},
		{&b->head_in, t->o.logits_max * d},
		{&b->logits, (uint64_t)t->o.logits_max * c->vocab_size},
		{&b->rope_cos, rope},
		{&b->rope_sin, rope},
	};
	memcpy(plan, all, sizeof all);
}

static uint64_t kv_bytes(const struct ex_trunk *t)
{
	return (uint64_t)t->c.n_layers * t->o.n_pages * t->o.page_tokens * ex_trunk_kv_width(&t->c) * sizeof(float);
}

static uint64_t buffer_bytes(struct ex_trunk *t)
{
	struct plan_buffer plan[N_BUFFERS];
	uint64_t n = 0;
	plan_buffers(t, plan);
	for (size_t i = 0; i < N_BUFFERS; i++)
		n += plan[i].n * sizeof(float);
	return n;
}

static int check_opts(const struct ex_model_config *c, const struct ex_trunk_opts *o, struct ex_err *err)
{
	if (!o->rows_max || !o->logits_max || o->logits_max > o->rows_max || !o->page_tokens || !o->n_pages ||
		!o->n_ctx)
		return ex_err_set(err, -EINVAL,
			"trunk: rows %u, logits %u, page tokens %u, pages %u, context %u do not go together",
			o->rows_max, o->logits_max, o->page_tokens, o->n_pages, o->n_ctx);
	if (o->n_ctx > c->n_ctx_max)
		return ex_err_set(
			err, -EINVAL, "context of %u tokens is beyond the model's %u", o->n_ctx, c->n_ctx_max);
	if (o->ops->version != EX_OPS_VERSION || o->ops->size < sizeof(struct ex_ops))
		return ex_err_set(err, -EPROTO, "trunk backend %s: table version %u of %u bytes, wanted %u of %zu",
			o->ops->name, o->ops->version, o->ops->size, EX_OPS_VERSION, sizeof(struct ex_ops));
	return 0;
}

static struct ex_trunk *trunk_free(struct ex_trunk *t)
{
	for (uint32_t i = 0; t->layers && i < t->c.n_layers; i++) {
		free(t->layers[i].w_uk);
		free(t->layers[i].w_uv);
	}
	free(t->layers);
	free(t->moe_x);
	free(t->moe_y);
	free(t->moe_weights);
	free(t->moe_ids);
	free(t->moe_failed);
	free(t->seq_pages);
	free(t->seq_len);
	free(t->seq_ptrs);
	free(t->row_seq);
	free(t->row_ptrs);
	free(t->page_ptrs);
	t->magic = 0;
	free(t);
	return NULL;
}
EX_DEFINE_CLEANUP(struct ex_trunk, trunk_free)

/* The object and its layers' widths, without device, weights or buffers. */
static int trunk_alloc(struct ex_weights *w, const struct ex_trunk_opts *o, struct ex_err *err, struct ex_trunk **ret)
{
	const struct ex_model_config *c = ex_weights_config(w);
	int rc = check_opts(c, o, err);
	if (rc)
		return rc;
	EX_CLEANUP(trunk_freep) struct ex_trunk *t = calloc(1, sizeof *t);
	if (!t)
		return ex_err_set(err, -ENOMEM, "trunk: out of memory");
	*t = (struct ex_trunk){.magic = EX_TRUNK_MAGIC, .c = *c, .o = *o, .ops = o->ops};
	t->layers = ex_calloc(c->n_layers, sizeof *t->layers);
	for (uint32_t i = 0; t->layers && i < c->n_layers; i++) {
		struct trunk_layer *l = &t->layers[i];
		l->moe = ex_model_layer_is_moe(c, i);
		l->mlp.d_ff = l->moe ? c->n_shared_experts * c->d_ff_expert : c->d_ff;
		l->w_uk = ex_calloc(c->n_heads, sizeof *l->w_uk);
		l->w_uv = ex_calloc(c->n_heads, sizeof *l->w_uv);
		if (!l->w_uk || !l->w_uv)
			return ex_err_set(err, -ENOMEM, "trunk: out of memory");
	}
	if (!t->layers)
		return ex_err_set(err, -ENOMEM, "trunk: out of memory");
	*ret = EX_TAKE(t);
	return 0;
}

int ex_trunk_bytes(struct ex_weights *w, const struct ex_trunk_opts *o, uint64_t *ret_weights, uint64_t *ret_kv,
	uint64_t *ret_buffers)
{
	EX_CLEANUP(trunk_freep) struct ex_trunk *t = NULL;
	int rc = trunk_alloc(w, o, NULL, &t);
	if (!rc)
		rc = ex_trunk_load(t, w, 0, NULL, ret_weights);
	if (rc)
		return rc;
	*ret_kv = kv_bytes(t);
	*ret_buffers = buffer_bytes(t);
	return 0;
}

/* Refuses what cannot fit before anything is taken. */
static int check_memory(struct ex_trunk *t, uint64_t weights, struct ex_err *err)
{
	char need[EX_BYTES_TEXT_MAX], w[EX_BYTES_TEXT_MAX], kv[EX_BYTES_TEXT_MAX], b[EX_BYTES_TEXT_MAX],
		have[EX_BYTES_TEXT_MAX];
	uint64_t buffers = buffer_bytes(t), pool = kv_bytes(t), available = ex_mem_available();
	if (!available || weights + pool + buffers <= available)
		return 0;
	return ex_err_set(err, -ENOMEM,
		"the trunk needs %s (weights %s, KV cache of %u pages %s, buffers %s) and %s are available",
		ex_bytes_text(weights + pool + buffers, need), ex_bytes_text(weights, w), t->o.n_pages,
		ex_bytes_text(pool, kv), ex_bytes_text(buffers, b), ex_bytes_text(available, have));
}

static int new_buffer(struct ex_trunk *t, const char *what, uint64_t bytes, void *ret, struct ex_err *err)
{
	char text[EX_BYTES_TEXT_MAX];
	void *p;
	int rc = t->ops->buffer_new(t->dev, bytes ? bytes : 1, &p);
	if (rc)
		return ex_err_errno(err, rc, "failed to allocate %s for %s in backend %s", ex_bytes_text(bytes, text),
			what, t->ops->name);
	memcpy(ret, &p, sizeof p);
	return 0;
}

static int make_buffers(struct ex_trunk *t, struct ex_err *err)
{
	struct plan_buffer plan[N_BUFFERS];
	plan_buffers(t, plan);
	int rc = new_buffer(t, "the KV cache", kv_bytes(t), &t->b.kv_pool, err);
	for (size_t i = 0; i < N_BUFFERS && !rc; i++)
		rc = new_buffer(t, "step buffers", plan[i].n * sizeof(float), plan[i].ret, err);
	return rc;
}

static int make_host_side(struct ex_trunk *t, struct ex_err *err)
{
	size_t rows = t->o.rows_max, k = t->c.n_experts_per_tok;
	t->moe_x = ex_alloc_aligned(rows * t->c.d_model, sizeof *t->moe_x);
	t->moe_y = ex_alloc_aligned(rows * t->c.d_model, sizeof *t->moe_y);
	t->moe_weights = ex_calloc(rows * k, sizeof *t->moe_weights);
	t->moe_ids = ex_calloc(rows * k, sizeof *t->moe_ids);
	t->moe_failed = ex_calloc(rows, 1);
	t->seq_pages = ex_calloc(rows, sizeof *t->seq_pages);
	t->seq_len = ex_calloc(rows, sizeof *t->seq_len);
	t->seq_ptrs = ex_calloc(rows, sizeof *t->seq_ptrs);
	t->row_seq = ex_calloc(rows, sizeof *t->row_seq);
	t->row_ptrs = ex_calloc(rows, sizeof *t->row_ptrs);
	t->page_ptrs = ex_calloc(t->o.n_pages, sizeof *t->page_ptrs);
	if (!t->moe_x || !t->moe_y || !t->moe_weights || !t->moe_ids || !t->moe_failed || !t->seq_pages ||
		!t->seq_len || !t->seq_ptrs || !t->row_seq || !t->row_ptrs || !t->page_ptrs)
		return ex_err_set(err, -ENOMEM, "trunk: out of memory");
	return 0;
}

static int make_rope(struct ex_trunk *t, struct ex_err *err)
{
	size_t n = (size_t)t->o.n_ctx * (t->c.qk_rope_dim / 2);
	EX_CLEANUP(ex_freep) float *table = ex_alloc_aligned(2 * n, sizeof *table);
	if (!table)
		return ex_err_set(
			err, -ENOMEM, "trunk: out of memory for the rotary table of %u positions", t->o.n_ctx);
	ex_rope_table(&t->c, t->o.n_ctx, table, table + n);
	int rc = t->ops->upload(t->dev, t->b.rope_cos, table, n * sizeof *table);
	if (!rc)
		rc = t->ops->upload(t->dev, t->b.rope_sin, table + n, n * sizeof *table);
	if (rc)
		return ex_err_errno(err, rc, "failed to upload the rotary table to backend %s", t->ops->name);
	t->rope = (struct ex_rope){.cos = t->b.rope_cos, .sin = t->b.rope_sin, .half = t->c.qk_rope_dim / 2};
	t->softmax_scale = ex_rope_softmax_scale(&t->c);
	return 0;
}

int ex_trunk_open(struct ex_weights *w, const struct ex_trunk_opts *o, struct ex_err *err, struct ex_trunk **ret)
{
	struct ex_trunk *t;
	uint64_t bytes, loaded;
	int rc = trunk_alloc(w, o, err, &t);
	if (rc)
		return rc;
	rc = ex_trunk_load(t, w, 0, err, &bytes);
	if (!rc)
		rc = check_memory(t, bytes, err);
	if (!rc) {
		rc = o->ops->open(o->host, o->which, &t->dev);
		if (rc)
			ex_err_errno(err, rc, "failed to open device '%s' of trunk backend %s",
				o->which ? o->which : "", o->ops->name);
	}
	if (!rc)
		rc = ex_trunk_load(t, w, bytes, err, &loaded);
	if (!rc)
		rc = make_buffers(t, err);
	if (!rc)
		rc = make_host_side(t, err);
	if (!rc)
		rc = make_rope(t, err);
	if (rc) {
		ex_trunk_close(t);
		return rc;
	}
	*ret = t;
	return 0;
}

struct ex_trunk *ex_trunk_close(struct ex_trunk *t)
{
	if (!t)
		return NULL;
	EX_CHECK_OBJ(t, EX_TRUNK_MAGIC);
	if (t->dev) {
		struct plan_buffer plan[N_BUFFERS];
		ex_trunk_unload(t);
		plan_buffers(t, plan);
		for (size_t i = 0; i < N_BUFFERS; i++) {
			void *p;
			memcpy(&p, plan[i].ret, sizeof p);
			if (p)
				t->ops->buffer_free(t->dev, p);
		}
		if (t->b.kv_pool)
			t->ops->buffer_free(t->dev, t->b.kv_pool);
		t->ops->close(t->dev);
	}
	return trunk_free(t);
}
