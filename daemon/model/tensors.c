/* SPDX-License-Identifier: Apache-2.0 */
/* Which tensors a checkpoint of a given config holds. Layer L1. */
#include "model/tensors.h"

#include <stdio.h>

struct walk {
	const struct ex_model_config *c;
	ex_tensor_fn fn;
	void *ctx;
	int rc; /* the first result that is not 0: nothing is emitted after it */
	uint32_t layer;
};

static void emit_top(struct walk *w, enum ex_tensor_part part, enum ex_tensor_role role, const char *name,
	uint32_t rows, uint32_t cols)
{
	struct ex_tensor_spec s = {.role = role, .part = part, .rows = rows, .cols = cols};
	if (w->rc)
		return;
	snprintf(s.name, sizeof s.name, "%s", name);
	w->rc = w->fn(w->ctx, &s);
}

/* A tensor of the layer that the walk is at. */
static void emit(struct walk *w, enum ex_tensor_part part, enum ex_tensor_role role, const char *name, uint32_t rows,
	uint32_t cols)
{
	char full[EX_TENSOR_NAME_MAX];
	int n = snprintf(full, sizeof full, "model.layers.%u.%s", w->layer, name);
	assert(n > 0 && (size_t)n < sizeof full);
	emit_top(w, part, role, full, rows, cols);
}

static void walk_attention(struct walk *w)
{
	const struct ex_model_config *c = w->c;
	const enum ex_tensor_part part = EX_PART_ATTENTION;
	uint32_t q = c->n_heads * (c->qk_nope_dim + c->qk_rope_dim);
	if (c->q_lora_rank) {
		emit(w, part, EX_ROLE_LINEAR, "self_attn.q_a_proj.weight", c->q_lora_rank, c->d_model);
		emit(w, part, EX_ROLE_NORM, "self_attn.q_a_layernorm.weight", 1, c->q_lora_rank);
		emit(w, part, EX_ROLE_LINEAR, "self_attn.q_b_proj.weight", q, c->q_lora_rank);
	} else
		emit(w, part, EX_ROLE_LINEAR, "self_attn.q_proj.weight", q, c->d_model);
	emit(w, part, EX_ROLE_LINEAR, "self_attn.kv_a_proj_with_mqa.weight", c->kv_lora_rank + c->qk_rope_dim,
		c->d_model);
	emit(w, part, EX_ROLE_NORM, "self_attn.kv_a_layernorm.weight", 1, c->kv_lora_rank);
	emit(w, part, EX_ROLE_LINEAR, "self_attn.kv_b_proj.weight", c->n_heads * (c->qk_nope_dim + c->v_dim),
		c->kv_lora_rank);
	emit(w, part, EX_ROLE_LINEAR, "self_attn.o_proj.weight", c->d_model, c->n_heads * c->v_dim);
}

/* `prefix` ends with a dot. */
static void walk_ffn(struct walk *w, enum ex_tensor_part part, const char *prefix, uint32_t d_ff)
{
	static const char *const names[] = {"gate_proj", "up_proj", "down_proj"};
	char name[EX_TENSOR_NAME_MAX / 2];
	for (size_t i = 0; i < EX_ARRAY_LEN(names); i++) {
		bool down = i == 2;
		snprintf(name, sizeof name, "%s%s.weight", prefix, names[i]);
		emit(w, part, EX_ROLE_LINEAR, name, down ? w->c->d_model : d_ff, down ? d_ff : w->c->d_model);
	}
}

static void walk_moe(struct walk *w)
{
	const struct ex_model_config *c = w->c;
	char prefix[EX_TENSOR_NAME_MAX / 4];
	emit(w, EX_PART_GATE, EX_ROLE_GATE, "mlp.gate.weight", c->n_experts, c->d_model);
	if (c->gate_method == EX_GATE_NOAUX_TC)
		emit(w, EX_PART_GATE, EX_ROLE_BIAS, "mlp.gate.e_score_correction_bias", 1, c->n_experts);
	for (uint32_t e = 0; e < c->n_experts && !w->rc; e++) {
		snprintf(prefix, sizeof prefix, "mlp.experts.%u.", e);
		walk_ffn(w, EX_PART_EXPERT, prefix, c->d_ff_expert);
	}
	if (c->n_shared_experts)
		walk_ffn(w, EX_PART_SHARED, "mlp.shared_experts.", c->n_shared_experts * c->d_ff_expert);
}

int ex_tensors_each(const struct ex_model_config *c, ex_tensor_fn fn, void *ctx)
{
	struct walk w = {.c = c, .fn = fn, .ctx = ctx};
	emit_top(&w, EX_PART_EMBED, EX_ROLE_EMBED, "model.embed_tokens.weight", c->vocab_size, c->d_model);
	for (w.layer = 0; w.layer < c->n_layers && !w.rc; w.layer++) {
		emit(&w, EX_PART_NORM, EX_ROLE_NORM, "input_layernorm.weight", 1, c->d_model);
		walk_attention(&w);
		emit(&w, EX_PART_NORM, EX_ROLE_NORM, "post_attention_layernorm.weight", 1, c->d_model);
		if (ex_model_layer_is_moe(c, w.layer))
			walk_moe(&w);
		else
			walk_ffn(&w, EX_PART_DENSE, "mlp.", c->d_ff);
	}
	emit_top(&w, EX_PART_NORM, EX_ROLE_NORM, "model.norm.weight", 1, c->d_model);
	if (!c->tie_word_embeddings)
		emit_top(&w, EX_PART_EMBED, EX_ROLE_HEAD, "lm_head.weight", c->vocab_size, c->d_model);
	return w.rc;
}

static int count_one(void *ctx, const struct ex_tensor_spec *spec)
{
	uint64_t *n = ctx;
	(void)spec;
	return ++*n > EX_TENSORS_MAX;
}

uint64_t ex_tensors_count(const struct ex_model_config *c)
{
	uint64_t n = 0;
	ex_tensors_each(c, count_one, &n);
	return n;
}
