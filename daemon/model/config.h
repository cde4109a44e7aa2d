/* SPDX-License-Identifier: Apache-2.0 */
/* config.json of a checkpoint, validated into a struct. Layer L1.
 * Architectures: deepseek_v2 (V2-Lite, V2) and deepseek_v3 (V3, R1). A key that changes the math and is not understood
 * is refused by name. Source: the transformers modeling files and deepseek-ai's inference/model.py. */
#ifndef EX_MODEL_CONFIG_H
#define EX_MODEL_CONFIG_H

#include "base/err.h"
#include <stdbool.h>

#define EX_MODEL_LAYERS_MAX  512
#define EX_MODEL_EXPERTS_MAX 4096
#define EX_MODEL_TOPK_MAX    64
#define EX_MODEL_DIM_MAX     (1 << 20)

enum ex_arch { EX_ARCH_DEEPSEEK_V2 = 1, EX_ARCH_DEEPSEEK_V3 };
enum ex_gate_method { EX_GATE_GREEDY = 1, EX_GATE_GROUP_LIMITED_GREEDY, EX_GATE_NOAUX_TC };
enum ex_gate_score { EX_SCORE_SOFTMAX = 1, EX_SCORE_SIGMOID };

struct ex_model_config {
	enum ex_arch arch;
	uint32_t vocab_size, d_model, n_layers, n_heads;
	uint32_t d_ff;        /* dense layers: intermediate_size */
	uint32_t q_lora_rank; /* 0: q_proj without LoRA */
	uint32_t kv_lora_rank, qk_nope_dim, qk_rope_dim, v_dim;
	uint32_t first_k_dense, moe_layer_freq; /* MoE: layer >= first_k_dense && layer % freq == 0 */
	uint32_t n_experts, n_experts_per_tok, n_shared_experts, d_ff_expert;
	uint32_t n_group, topk_group; /* 1, 1 when routing is not limited by groups */
	enum ex_gate_method gate_method;
	enum ex_gate_score gate_score;
	bool norm_topk_prob;
	float routed_scale;
	float rms_norm_eps;
	float rope_theta;
	bool attention_bias; /* always false: true is refused */
	bool tie_word_embeddings;
	bool fp8_block_scaled; /* quantization_config fp8 e4m3, 128 x 128 blocks */
	uint32_t n_ctx_max;    /* max_position_embeddings, yarn included */
	bool yarn;
	float yarn_factor, yarn_beta_fast, yarn_beta_slow, yarn_mscale, yarn_mscale_all_dim;
	uint32_t yarn_n_ctx_original;
	uint32_t n_mtp_layers; /* num_nextn_predict_layers: skipped tensors */
	int64_t bos_id;        /* -1: none */
	uint32_t eos_id[8];
	uint32_t n_eos;
};

/* Reads DIR/config.json (and generation_config.json's eos_token_id when there). -EINVAL names the key. [any] */
int ex_model_config_load(const char *dir, struct ex_err *err, struct ex_model_config *ret);
/* The same from text. `name` stands in messages. [any] */
int ex_model_config_parse(
	const char *name, const char *json, size_t n, struct ex_err *err, struct ex_model_config *ret);

static inline bool ex_model_layer_is_moe(const struct ex_model_config *c, uint32_t layer)
{
	return c->n_experts && layer >= c->first_k_dense && layer % c->moe_layer_freq == 0;
}

/* "deepseek_v3" */
const char *ex_arch_name(enum ex_arch arch);

#endif
