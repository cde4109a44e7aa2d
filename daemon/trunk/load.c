/* SPDX-License-Identifier: Apache-2.0 */
/* The trunk's weights into the backend, by the names that DeepSeek checkpoints use. Layer L2.
 * One walk serves both the memory estimate (no device: bytes are counted) and loading. */
#include "trunk/impl.h"
#include "trunk/latent.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 128

struct load {
	struct ex_trunk *t;
	struct ex_weights *w;
	struct ex_err *err;
	uint64_t bytes, bytes_total;
	char name[NAME_MAX_BYTES];
};

static void name_layer(struct load *l, uint32_t layer, const char *rest)
{
	snprintf(l->name, sizeof l->name, "model.layers.%u.%s", layer, rest);
}

static void count(struct load *l, uint64_t bytes)
{
	const struct ex_trunk_opts *o = &l->t->o;
	l->bytes += bytes;
	if (l->t->dev && o->progress)
		o->progress(o->progress_ctx, l->bytes, l->bytes_total);
}

/* Hands m, which stands for tensor l->name, to the backend. */
static int put_weight(struct load *l, const struct expertd_matrix *m, struct ex_weight **ret)
{
	const struct ex_trunk *t = l->t;
	int rc = 0;
	if (t->dev)
		rc = t->ops->weight_new(t->dev, m, ret);
	if (rc)
		return ex_err_errno(l->err, rc, "failed to load '%s' [%u, %u] into backend %s", l->name, m->rows,
			m->cols, t->ops->name);
	count(l, ex_matrix_bytes(m));
	return 0;
}

static int get_matrix(struct load *l, uint32_t rows, uint32_t cols, struct expertd_matrix *ret)
{
	int rc = ex_weights_matrix(l->w, l->name, rows, cols, l->err, ret);
	if (!rc && l->t->dev && l->t->o.check_finite)
		rc = ex_matrix_check_finite(ret, l->name, l->err);
	return rc;
}

/* Tensor l->name as one matrix. */
static int load_matrix(struct load *l, uint32_t rows, uint32_t cols, struct ex_weight **ret)
{
	struct expertd_matrix m;
	int rc = get_matrix(l, rows, cols, &m);
	if (!rc)
		rc = put_weight(l, &m, ret);
	if (!rc && l->t->dev)
		ex_weights_forget(l->w, &m);
	return rc;
}

/* Tensor l->name widened to f32, whatever it is on disk: the gate's weights, since a near-tie must not flip. */
static int load_matrix_f32(struct load *l, uint32_t rows, uint32_t cols, struct ex_weight **ret)
{
	struct expertd_matrix m;
	int rc = get_matrix(l, rows, cols, &m);
	if (rc)
		return rc;
	EX_CLEANUP(ex_freep) float *wide = ex_alloc_aligned((size_t)rows * cols, sizeof *wide);
	if (!wide)
		return ex_err_set(l->err, -ENOMEM, "failed to widen '%s': out of memory", l->name);
	if (l->t->dev)
		for (uint32_t r = 0; r < rows; r++)
			for (uint32_t c = 0; c < cols; c++)
				wide[(size_t)r * cols + c] = ex_matrix_at(&m, r, c);
	struct expertd_matrix f32 = {.data = wide, .rows = rows, .cols = cols, .dtype = EXPERTD_F32};
	return put_weight(l, &f32, ret);
}

static int check_vector(struct load *l, const float *v, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!isfinite(v[i]))
			return ex_err_set(l->err, -EINVAL, "tensor '%s' is not finite at element %u", l->name, i);
	return 0;
}

/* Tensor l->name as a device vector of n f32. */
static int load_vector(struct load *l, uint32_t n, float **ret)
{
	const struct ex_trunk *t = l->t;
	void *dst;
	count(l, n * sizeof(float));
	if (!t->dev)
		return 0;
	EX_CLEANUP(ex_freep) float *v = ex_alloc_aligned(n, sizeof *v);
	if (!v)
		return ex_err_set(l->err, -ENOMEM, "failed to load '%s': out of memory", l->name);
	int rc = ex_weights_vector(l->w, l->name, n, l->err, v);
	if (!rc && t->o.check_finite)
		rc = check_vector(l, v, n);
	if (rc)
		return rc;
	rc = t->ops->buffer_new(t->dev, n * sizeof *v, &dst);
	if (!rc) {
		*ret = dst;
		rc = t->ops->upload(t->dev, dst, v, n * sizeof *v);
	}
	return rc ? ex_err_errno(l->err, rc, "failed to load '%s' into backend %s", l->name, t->ops->name) : 0;
}

/* kv_b_proj of `layer`, cut into the absorbed maps of every head. */
static int load_latent(struct load *l, uint32_t layer)
{
	const struct ex_model_config *c = &l->t->c;
	struct trunk_layer *tl = &l->t->layers[layer];
	struct expertd_matrix kv_b, uk, uv;
	uint32_t rows = c->n_heads * (c->qk_nope_dim + c->v_dim);
	name_layer(l, layer, "self_attn.kv_b_proj.weight");
	int rc = get_matrix(l, rows, c->kv_lora_rank, &kv_b);
	if (rc)
		return rc;
	if (!l->t->dev) {
		count(l, (uint64_t)rows * c->kv_lora_rank * ex_latent_element_bytes(kv_b.dtype));
		return 0;
	}
	EX_CLEANUP(ex_freep)
	void *scratch = ex_alloc_aligned(ex_latent_scratch_bytes(c->kv_lora_rank, c->qk_nope_dim, c->v_dim), 1);
	if (!scratch)
		return ex_err_set(l->err, -ENOMEM, "failed to split '%s': out of memory", l->name);
	for (uint32_t h = 0; h < c->n_heads && !rc; h++) {
		ex_latent_split(&kv_b, h, c->qk_nope_dim, c->v_dim, scratch, &uk, &uv);
		rc = put_weight(l, &uk, &tl->w_uk[h]);
		if (!rc)
			rc = put_weight(l, &uv, &tl->w_uv[h]);
	}
	if (!rc)
		ex_weights_forget(l->w, &kv_b);
	return rc;
}

static int load_q(struct load *l, uint32_t layer)
{
	const struct ex_model_config *c = &l->t->c;
	struct trunk_layer *tl = &l->t->layers[layer];
	uint32_t d_q = c->n_heads * (c->qk_nope_dim + c->qk_rope_dim);
	if (!c->q_lora_rank) {
		name_layer(l, layer, "self_attn.q_proj.weight");
		return load_matrix(l, d_q, c->d_model, &tl->q);
	}
	name_layer(l, layer, "self_attn.q_a_proj.weight");
	int rc = load_matrix(l, c->q_lora_rank, c->d_model, &tl->q_a);
	name_layer(l, layer, "self_attn.q_a_layernorm.weight");
	if (!rc)
		rc = load_vector(l, c->q_lora_rank, &tl->q_a_norm);
	name_layer(l, layer, "self_attn.q_b_proj.weight");
	return rc ? rc : load_matrix(l, d_q, c->q_lora_rank, &tl->q);
}

static int load_attention(struct load *l, uint32_t layer)
{
	const struct ex_model_config *c = &l->t->c;
	struct trunk_layer *tl = &l->t->layers[layer];
	int rc = load_q(l, layer);
	if (rc)
		return rc;
	name_layer(l, layer, "self_attn.kv_a_proj_with_mqa.weight");
	rc = load_matrix(l, ex_trunk_kv_width(c), c->d_model, &tl->kv_a);
	if (rc)
		return rc;
	name_layer(l, layer, "self_attn.kv_a_layernorm.weight");
	rc = load_vector(l, c->kv_lora_rank, &tl->kv_norm);
	if (!rc)
		rc = load_latent(l, layer);
	if (rc)
		return rc;
	name_layer(l, layer, "self_attn.o_proj.weight");
	return load_matrix(l, c->d_model, c->n_heads * c->v_dim, &tl->o);
}

/* prefix: "mlp" or "mlp.shared_experts". */
static int load_mlp(struct load *l, uint32_t layer, const char *prefix, struct trunk_mlp *mlp)
{
	uint32_t d = l->t->c.d_model;
	char rest[64];
	snprintf(rest, sizeof rest, "%s.gate_proj.weight", prefix);
	name_layer(l, layer, rest);
	int rc = load_matrix(l, mlp->d_ff, d, &mlp->gate);
	if (rc)
		return rc;
	snprintf(rest, sizeof rest, "%s.up_proj.weight", prefix);
	name_layer(l, layer, rest);
	rc = load_matrix(l, mlp->d_ff, d, &mlp->up);
	if (rc)
		return rc;
	snprintf(rest, sizeof rest, "%s.down_proj.weight", prefix);
	name_layer(l, layer, rest);
	return load_matrix(l, d, mlp->d_ff, &mlp->down);
}

static int load_ffn(struct load *l, uint32_t layer)
{
	const struct ex_model_config *c = &l->t->c;
	struct trunk_layer *tl = &l->t->layers[layer];
	if (!tl->moe)
		return load_mlp(l, layer, "mlp", &tl->mlp);
	name_layer(l, layer, "mlp.gate.weight");
	int rc = load_matrix_f32(l, c->n_experts, c->d_model, &tl->router);
	if (!rc && c->gate_method == EX_GATE_NOAUX_TC) {
		name_layer(l, layer, "mlp.gate.e_score_correction_bias");
		rc = load_vector(l, c->n_experts, &tl->router_bias);
	}
	if (!rc && tl->mlp.d_ff)
		rc = load_mlp(l, layer, "mlp.shared_experts", &tl->mlp);
	return rc;
}

static int load_layer(struct load *l, uint32_t layer)
{
	struct trunk_layer *tl = &l->t->layers[layer];
	name_layer(l, layer, "input_layernorm.weight");
	int rc = load_vector(l, l->t->c.d_model, &tl->attn_norm);
	if (!rc)
		rc = load_attention(l, layer);
	if (rc)
		return rc;
	name_layer(l, layer, "post_attention_layernorm.weight");
	rc = load_vector(l, l->t->c.d_model, &tl->ffn_norm);
	return rc ? rc : load_ffn(l, layer);
}

int ex_trunk_load(
	struct ex_trunk *t, struct ex_weights *w, uint64_t bytes_total, struct ex_err *err, uint64_t *ret_bytes)
{
	const struct ex_model_config *c = &t->c;
	struct load l = {.t = t, .w = w, .err = err, .bytes_total = bytes_total};
	snprintf(l.name, sizeof l.name, "model.embed_tokens.weight");
	int rc = load_matrix(&l, c->vocab_size, c->d_model, &t->embed);
	for (uint32_t i = 0; i < c->n_layers && !rc; i++)
		rc = load_layer(&l, i);
	snprintf(l.name, sizeof l.name, "model.norm.weight");
	if (!rc)
		rc = load_vector(&l, c->d_model, &t->final_norm);
	snprintf(l.name, sizeof l.name, "lm_head.weight");
	if (!rc && !c->tie_word_embeddings)
		rc = load_matrix(&l, c->vocab_size, c->d_model, &t->head);
	if (rc)
		return rc;
	if (c->tie_word_embeddings)
		t->head = t->embed;
	*ret_bytes = l.bytes;
	return 0;
}

static void free_weight(struct ex_trunk *t, struct ex_weight *w)
{
	if (w)
		t->ops->weight_free(t->dev, w);
}

static void free_vector(struct ex_trunk *t, float *v)
{
	if (v)
		t->ops->buffer_free(t->dev, v);
}

static void unload_layer(struct ex_trunk *t, struct trunk_layer *l)
{
	struct ex_weight *const weights[] = {
		l->q, l->q_a, l->kv_a, l->o, l->router, l->mlp.gate, l->mlp.up, l->mlp.down};
	float *const vectors[] = {l->attn_norm, l->ffn_norm, l->q_a_norm, l->kv_norm, l->router_bias};
	for (size_t i = 0; i < EX_ARRAY_LEN(weights); i++)
		free_weight(t, weights[i]);
	for (size_t i = 0; i < EX_ARRAY_LEN(vectors); i++)
		free_vector(t, vectors[i]);
	for (uint32_t h = 0; h < t->c.n_heads; h++) {
		free_weight(t, l->w_uk[h]);
		free_weight(t, l->w_uv[h]);
	}
}

void ex_trunk_unload(struct ex_trunk *t)
{
	for (uint32_t i = 0; i < t->c.n_layers; i++)
		unload_layer(t, &t->layers[i]);
	if (t->head != t->embed)
		free_weight(t, t->head);
	free_weight(t, t->embed);
	free_vector(t, t->final_norm);
}
