/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass of deepseek_v2 and deepseek_v3, once, over the backend's ops. Layer L2.
 *
 * Per layer: norm, MLA in latent form, residual; norm, dense SwiGLU or (gate, routed experts elsewhere while the shared
 * experts run here), residual. A KV row is the normalised latent and the rotated key, so the cache holds kv_lora_rank +
 * qk_rope_dim floats per token. Source: transformers modeling_deepseek_v2.py and modeling_deepseek_v3.py; absorption:
 * arXiv:2405.04434, section 2.1.
 */
#include "trunk/impl.h"

#include <inttypes.h>
#include <string.h>

/* The norms of the two low-rank latents keep transformers' default and do not follow rms_norm_eps. */
#define LATENT_NORM_EPS 1e-6f

/* --- page tables ----------------------------------------------------------------------------------------- */

/* The step's number for the sequence with page table `pages`; rows of one sequence mostly follow each other. */
static uint32_t find_seq(struct ex_trunk *t, const uint32_t *pages, uint32_t *n_seqs)
{
	for (uint32_t i = *n_seqs; i > 0; i--)
		if (t->seq_pages[i - 1] == pages)
			return i - 1;
	t->seq_pages[*n_seqs] = pages;
	t->seq_len[*n_seqs] = 0;
	return (*n_seqs)++;
}

/* Turns the rows' page numbers into pointers into layer 0 of the pool. */
static int map_pages(struct ex_trunk *t, const struct ex_step *s, struct ex_err *err)
{
	const struct ex_trunk_opts *o = &t->o;
	size_t page_floats = (size_t)o->page_tokens * ex_trunk_kv_width(&t->c);
	uint32_t n_seqs = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		uint32_t seq = find_seq(t, s->pages[i], &n_seqs);
		t->row_seq[i] = seq;
		t->seq_len[seq] = EX_MAX(t->seq_len[seq], s->pos[i] / o->page_tokens + 1);
	}
	t->n_ptrs = 0;
	for (uint32_t i = 0; i < n_seqs; i++) {
		if (t->seq_len[i] > o->n_pages - t->n_ptrs)
			return ex_err_set(
				err, -EINVAL, "step: its sequences hold more than the pool's %u pages", o->n_pages);
		t->seq_ptrs[i] = t->page_ptrs + t->n_ptrs;
		for (uint32_t p = 0; p < t->seq_len[i]; p++) {
			uint32_t page = t->seq_pages[i][p];
			if (page >= o->n_pages)
				return ex_err_set(err, -EINVAL, "step: page %u of a pool of %u", page, o->n_pages);
			t->page_ptrs[t->n_ptrs++] = t->b.kv_pool + page * page_floats;
		}
	}
	for (uint32_t i = 0; i < s->n; i++)
		t->row_ptrs[i] = t->seq_ptrs[t->row_seq[i]];
	return 0;
}

/* The same pages of the next layer. */
static void next_layer_pages(struct ex_trunk *t)
{
	size_t layer_floats = (size_t)t->o.n_pages * t->o.page_tokens * ex_trunk_kv_width(&t->c);
	for (uint32_t i = 0; i < t->n_ptrs; i++)
		t->page_ptrs[i] += layer_floats;
}

/* --- blocks: each reads b.h, the normalised rows, and leaves its output in b.h --------------------------- */

static int norm(struct ex_trunk *t, const float *weight, uint32_t n)
{
	uint32_t d = t->c.d_model;
	return t->ops->rmsnorm(t->dev, t->b.x, d, weight, t->c.rms_norm_eps, t->b.h, d, n, d);
}

/* b.h → b.q, its rope parts rotated. */
static int project_q(struct ex_trunk *t, const struct trunk_layer *l, const struct ex_step *s)
{
	const struct ex_model_config *c = &t->c;
	const struct ex_ops *ops = t->ops;
	const struct trunk_buffers *b = &t->b;
	uint32_t head = c->qk_nope_dim + c->qk_rope_dim, rank = c->q_lora_rank;
	size_t ldq = (size_t)c->n_heads * head;
	int rc = 0;
	if (rank) {
		rc = ops->linear(t->dev, l->q_a, b->h, c->d_model, b->q_a, rank, s->n);
		if (!rc)
			rc = ops->rmsnorm(t->dev, b->q_a, rank, l->q_a_norm, LATENT_NORM_EPS, b->q_a, rank, s->n, rank);
		if (!rc)
			rc = ops->linear(t->dev, l->q, b->q_a, rank, b->q, ldq, s->n);
	} else {
		rc = ops->linear(t->dev, l->q, b->h, c->d_model, b->q, ldq, s->n);
	}
	if (rc)
		return rc;
	return ops->rope(t->dev, &t->rope, s->pos, b->q + c->qk_nope_dim, ldq, c->n_heads, head, s->n, true);
}

/* b.h → the rows' KV: latent normalised, key rotated, written to their pages. */
static int write_kv(struct ex_trunk *t, const struct trunk_layer *l, const struct ex_step *s)
{
	const struct ex_model_config *c = &t->c;
	const struct ex_ops *ops = t->ops;
	float *kv = t->b.kv;
	uint32_t width = ex_trunk_kv_width(c), rank = c->kv_lora_rank;
	int rc = ops->linear(t->dev, l->kv_a, t->b.h, c->d_model, kv, width, s->n);
	if (!rc)
		rc = ops->rmsnorm(t->dev, kv, width, l->kv_norm, LATENT_NORM_EPS, kv, width, s->n, rank);
	if (!rc)
		rc = ops->rope(t->dev, &t->rope, s->pos, kv + rank, width, 1, 0, s->n, true);
	if (!rc)
		rc = ops->kv_write(t->dev, t->row_ptrs, s->pos, t->o.page_tokens, kv, width, s->n, width);
	return rc;
}

static int attend(struct ex_trunk *t, const struct trunk_layer *l, const struct ex_step *s)
{
	const struct ex_model_config *c = &t->c;
	const struct ex_ops *ops = t->ops;
	const struct trunk_buffers *b = &t->b;
	uint32_t heads = c->n_heads, head = c->qk_nope_dim + c->qk_rope_dim, rank = c->kv_lora_rank;
	const struct ex_mla_batch batch = {
		.q_lat = b->q_lat,
		.q_rope = b->q + c->qk_nope_dim,
		.ldq_rope = (size_t)heads * head,
		.q_rope_step = head,
		.out_lat = b->out_lat,
		.pages = t->row_ptrs,
		.pos = s->pos,
		.n = s->n,
		.n_heads = heads,
		.kv_lora_rank = rank,
		.rope_dim = c->qk_rope_dim,
		.page_tokens = t->o.page_tokens,
		.scale = t->softmax_scale,
	};
	size_t ld_lat = (size_t)heads * rank, ld_attn = (size_t)heads * c->v_dim;
	int rc = ops->linear_heads(t->dev, (const struct ex_weight *const *)l->w_uk, heads, b->q, batch.ldq_rope, head,
		b->q_lat, ld_lat, rank, s->n);
	if (!rc)
		rc = ops->mla(t->dev, &batch);
	if (!rc)
		rc = ops->linear_heads(t->dev, (const struct ex_weight *const *)l->w_uv, heads, b->out_lat, ld_lat,
			rank, b->attn, ld_attn, c->v_dim, s->n);
	if (!rc)
		rc = ops->linear(t->dev, l->o, b->attn, ld_attn, b->h, c->d_model, s->n);
	return rc;
}

/* b.h → out, [n, d]. */
static int mlp(struct ex_trunk *t, const struct trunk_mlp *m, float *out, uint32_t n)
{
	const struct ex_ops *ops = t->ops;
	const struct trunk_buffers *b = &t->b;
	uint32_t d = t->c.d_model;
	int rc = ops->linear(t->dev, m->gate, b->h, d, b->gate, m->d_ff, n);
	if (!rc)
		rc = ops->linear(t->dev, m->up, b->h, d, b->up, m->d_ff, n);
	if (!rc)
		rc = ops->swiglu(t->dev, b->gate, b->up, b->gate, n, m->d_ff);
	if (!rc)
		rc = ops->linear(t->dev, m->down, b->gate, m->d_ff, out, d, n);
	return rc;
}

/* Chooses experts for b.h and brings rows, ids and weights to the host. */
static int route(struct ex_trunk *t, const struct trunk_layer *l, uint32_t n)
{
	const struct ex_model_config *c = &t->c;
	const struct ex_ops *ops = t->ops;
	const struct trunk_buffers *b = &t->b;
	size_t n_chosen = (size_t)n * c->n_experts_per_tok;
	const struct ex_gate_batch batch = {
		.logits = b->router,
		.bias = l->router_bias,
		.ids = b->topk_ids,
		.weights = b->topk_weights,
		.n = n,
		.n_experts = c->n_experts,
		.k = c->n_experts_per_tok,
		.n_group = c->n_group,
		.topk_group = c->topk_group,
		.method = c->gate_method,
		.score = c->gate_score,
		.norm_topk_prob = c->norm_topk_prob,
		.routed_scale = c->routed_scale,
	};
	int rc = ops->linear(t->dev, l->router, b->h, c->d_model, b->router, c->n_experts, n);
	if (!rc)
		rc = ops->gate(t->dev, &batch);
	if (!rc)
		rc = ops->download(t->dev, t->moe_ids, b->topk_ids, n_chosen * sizeof *t->moe_ids);
	if (!rc)
		rc = ops->download(t->dev, t->moe_weights, b->topk_weights, n_chosen * sizeof *t->moe_weights);
	if (!rc)
		rc = ops->download(t->dev, t->moe_x, b->h, (size_t)n * c->d_model * sizeof *t->moe_x);
	return rc;
}

/* Collects the routed sums into b.routed. Rows that failed are noted in s; an error that names none fails the step. */
static int collect_routed(struct ex_trunk *t, const struct ex_moe_ops *moe, struct ex_step *s)
{
	uint32_t n_failed = 0;
	memset(t->moe_failed, 0, s->n);
	int rc = moe->wait(moe->ctx, t->moe_y, t->moe_failed);
	if (rc) {
		for (uint32_t i = 0; i < s->n; i++) {
			s->row_failed[i] |= t->moe_failed[i];
			n_failed += t->moe_failed[i] != 0;
		}
		if (!n_failed)
			return rc;
	}
	return t->ops->upload(t->dev, t->b.routed, t->moe_y, (size_t)s->n * t->c.d_model * sizeof *t->moe_y);
}

/* b.h → b.h: routed + shared. Shared experts run here while the routed ones are away. */
static int moe_block(struct ex_trunk *t, uint32_t layer, const struct ex_moe_ops *moe, struct ex_step *s)
{
	const struct trunk_layer *l = &t->layers[layer];
	const struct trunk_buffers *b = &t->b;
	size_t n_floats = (size_t)s->n * t->c.d_model;
	int rc = route(t, l, s->n);
	if (!rc)
		rc = moe->begin(moe->ctx, layer, t->moe_x, s->n, t->moe_ids, t->moe_weights, t->c.n_experts_per_tok);
	if (rc)
		return rc;
	int rc_shared = l->mlp.d_ff ? mlp(t, &l->mlp, b->mlp_out, s->n) : 0;
	rc = collect_routed(t, moe, s); /* also after a failure here: what was begun is waited for */
	if (!rc)
		rc = rc_shared;
	if (!rc && l->mlp.d_ff)
		rc = t->ops->add(t->dev, b->mlp_out, b->routed, n_floats);
	if (!rc)
		rc = t->ops->add(t->dev, b->routed, b->x, n_floats);
	return rc;
}

static int layer_step(struct ex_trunk *t, uint32_t layer, const struct ex_moe_ops *moe, struct ex_step *s)
{
	const struct trunk_layer *l = &t->layers[layer];
	size_t n_floats = (size_t)s->n * t->c.d_model;
	int rc = norm(t, l->attn_norm, s->n);
	if (!rc)
		rc = project_q(t, l, s);
	if (!rc)
		rc = write_kv(t, l, s);
	if (!rc)
		rc = attend(t, l, s);
	if (!rc)
		rc = t->ops->add(t->dev, t->b.h, t->b.x, n_floats);
	if (!rc)
		rc = norm(t, l->ffn_norm, s->n);
	if (rc)
		return rc;
	if (l->moe)
		return moe_block(t, layer, moe, s);
	rc = mlp(t, &l->mlp, t->b.mlp_out, s->n);
	return rc ? rc : t->ops->add(t->dev, t->b.mlp_out, t->b.x, n_floats);
}

/* Final norm and head of the rows whose logits are wanted. */
static int head_step(struct ex_trunk *t, struct ex_step *s)
{
	const struct trunk_buffers *b = &t->b;
	uint32_t d = t->c.d_model, vocab = t->c.vocab_size;
	int rc = 0;
	for (uint32_t i = 0; i < s->n_logits && !rc; i++)
		rc = t->ops->rmsnorm(t->dev, b->x + (size_t)s->logit_rows[i] * d, d, t->final_norm, t->c.rms_norm_eps,
			b->head_in + (size_t)i * d, d, 1, d);
	if (!rc && s->n_logits)
		rc = t->ops->linear(t->dev, t->head, b->head_in, d, b->logits, vocab, s->n_logits);
	if (!rc && s->n_logits)
		rc = t->ops->download(t->dev, s->logits, b->logits, (size_t)s->n_logits * vocab * sizeof *s->logits);
	return rc;
}

static int check_step(const struct ex_trunk *t, const struct ex_step *s, struct ex_err *err)
{
	if (!s->n || s->n > t->o.rows_max || s->n_logits > t->o.logits_max)
		return ex_err_set(err, -EINVAL, "step: %u rows and %u logits, made for %u and %u", s->n, s->n_logits,
			t->o.rows_max, t->o.logits_max);
	for (uint32_t i = 0; i < s->n; i++)
		if (s->ids[i] >= t->c.vocab_size || s->pos[i] >= t->o.n_ctx)
			return ex_err_set(err, -EINVAL, "step: token %u at position %u, vocabulary %u, context %u",
				s->ids[i], s->pos[i], t->c.vocab_size, t->o.n_ctx);
	for (uint32_t i = 0; i < s->n_logits; i++)
		if (s->logit_rows[i] >= s->n)
			return ex_err_set(err, -EINVAL, "step: logits of row %u of %u", s->logit_rows[i], s->n);
	return 0;
}

static bool all_failed(const struct ex_step *s)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (!s->row_failed[i])
			return false;
	return true;
}

int ex_trunk_step(struct ex_trunk *t, const struct ex_moe_ops *moe, struct ex_step *s, struct ex_err *err)
{
	EX_CHECK_OBJ(t, EX_TRUNK_MAGIC);
	int rc = check_step(t, s, err);
	if (!rc)
		rc = map_pages(t, s, err);
	if (rc)
		return rc;
	memset(s->row_failed, 0, s->n);
	rc = t->ops->embed(t->dev, t->embed, s->ids, t->b.x, s->n, t->c.d_model);
	if (rc)
		return ex_err_errno(err, rc, "embedding failed on backend %s", t->ops->name);
	for (uint32_t i = 0; i < t->c.n_layers; i++) {
		rc = layer_step(t, i, moe, s);
		if (rc)
			return ex_err_errno(err, rc, "layer %" PRIu32 " failed on backend %s", i, t->ops->name);
		if (all_failed(s))
			return 0;
		next_layer_pages(t);
	}
	rc = head_step(t, s);
	return rc ? ex_err_errno(err, rc, "head failed on backend %s", t->ops->name) : 0;
}
