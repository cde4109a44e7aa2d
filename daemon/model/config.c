/* SPDX-License-Identifier: Apache-2.0 */
/* config.json of DeepSeek V2 and V3 checkpoints into struct ex_model_config. Layer L1.
 *
 * Every key that is read is taken out of the parsed object. What is left at the end must be on the list of keys that do
 * not touch the inference math; anything else is refused by name, so that a variant of the architecture is never run as
 * the one we know. Sources: configuration_deepseek.py beside the published V2 and V3 weights, and transformers'
 * DeepseekV2Config, DeepseekV3Config. */
#include "model/config.h"

#include "base/str.h"
#include "model/json.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_BYTES_MAX (1 << 20)
#define ROWS_MAX         (1 << 24) /* of one matrix: heads times their width */

/* No effect on what a forward pass computes: training, generation defaults, bookkeeping of the transformers library. */
static const char *const ignored_keys[] = {"_attn_implementation", "_attn_implementation_autoset", "_commit_hash",
	"_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map", "aux_loss_alpha",
	"bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward", "cls_token_id", "decoder_start_token_id",
	"diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "ep_size",
	"exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "head_dim",
	"id2label", "initializer_range", "is_decoder", "label2id", "length_penalty", "max_length", "min_length",
	"no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
	"output_hidden_states", "output_router_logits", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
	"problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
	"router_aux_loss_coef", "sep_token_id", "seq_aux", "suppress_tokens", "task_specific_params", "temperature",
	"tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version",
	"typical_p", "unk_token_id", "use_bfloat16", "use_cache"};

static int refuse_rest(const struct ex_json_reader *r)
{
	const char *key;
	json_t *value;
	json_object_foreach(r->obj, key, value)
	{
		size_t i = 0;
		while (i < EX_ARRAY_LEN(ignored_keys) && strcmp(key, ignored_keys[i]) != 0)
			i++;
		if (i == EX_ARRAY_LEN(ignored_keys) || r->prefix[0])
			return ex_json_refuse(r, key, "is not understood and may change what the model computes");
	}
	return 0;
}

/* default_v2, default_v3: when the key is absent. null: what null means. */
#define REQUIRED UINT32_MAX
#define NO_NULL  UINT32_MAX
#define FIELD(f) offsetof(struct ex_model_config, f)
#define DIM(f)   FIELD(f), 1, EX_MODEL_DIM_MAX, REQUIRED, REQUIRED, NO_NULL, false
#define EXPERTS  1, EX_MODEL_EXPERTS_MAX

static const struct int_key {
	const char *key;
	size_t offset;
	uint32_t min, max, default_v2, default_v3, null;
	bool moe; /* means nothing in a model without routed experts */
} int_keys[] = {
	{"vocab_size", DIM(vocab_size)},
	{"hidden_size", DIM(d_model)},
	{"num_attention_heads", DIM(n_heads)},
	{"intermediate_size", DIM(d_ff)},
	{"kv_lora_rank", DIM(kv_lora_rank)},
	{"qk_nope_head_dim", DIM(qk_nope_dim)},
	{"qk_rope_head_dim", DIM(qk_rope_dim)},
	{"v_head_dim", DIM(v_dim)},
	{"num_hidden_layers", FIELD(n_layers), 1, EX_MODEL_LAYERS_MAX, REQUIRED, REQUIRED, NO_NULL, false},
	{"q_lora_rank", FIELD(q_lora_rank), 1, EX_MODEL_DIM_MAX, REQUIRED, REQUIRED, 0, false},
	{"max_position_embeddings", FIELD(n_ctx_max), 1, 1 << 24, 2048, 4096, NO_NULL, false},
	{"num_nextn_predict_layers", FIELD(n_mtp_layers), 0, 8, 0, 0, 0, false},
	{"n_routed_experts", FIELD(n_experts), 0, EX_MODEL_EXPERTS_MAX, REQUIRED, REQUIRED, 0, false},
	{"moe_intermediate_size", FIELD(d_ff_expert), 1, EX_MODEL_DIM_MAX, REQUIRED, REQUIRED, NO_NULL, true},
	{"num_experts_per_tok", FIELD(n_experts_per_tok), 1, EX_MODEL_TOPK_MAX, REQUIRED, REQUIRED, NO_NULL, true},
	{"n_shared_experts", FIELD(n_shared_experts), 0, 64, REQUIRED, REQUIRED, 0, true},
	{"first_k_dense_replace", FIELD(first_k_dense), 0, EX_MODEL_LAYERS_MAX, 0, 3, 0, true},
	{"moe_layer_freq", FIELD(moe_layer_freq), 1, EX_MODEL_LAYERS_MAX, 1, 1, NO_NULL, true},
	{"n_group", FIELD(n_group), EXPERTS, 1, 8, 1, true},
	{"topk_group", FIELD(topk_group), EXPERTS, 1, 4, 1, true},
};

static int read_ints(const struct ex_json_reader *r, struct ex_model_config *c)
{
	for (size_t i = 0; i < EX_ARRAY_LEN(int_keys); i++) {
		const struct int_key *k = &int_keys[i];
		uint32_t *field = (uint32_t *)((char *)c + k->offset);
		uint32_t dflt = c->arch == EX_ARCH_DEEPSEEK_V2 ? k->default_v2 : k->default_v3;
		json_t *v = json_object_get(r->obj, k->key);
		if (k->moe && !c->n_experts) {
			json_object_del(r->obj, k->key);
			continue;
		}
		if ((!v && dflt != REQUIRED) || (v && json_is_null(v) && k->null != NO_NULL)) {
			*field = v ? k->null : dflt;
			json_object_del(r->obj, k->key);
			continue;
		}
		int rc = ex_json_take_u32(r, k->key, k->min, k->max, field);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* model_type and architectures, which must agree where both are given. */
static int read_arch(const struct ex_json_reader *r, enum ex_arch *ret)
{
	static const char *const class_names[] = {
		[EX_ARCH_DEEPSEEK_V2] = "DeepseekV2ForCausalLM",
		[EX_ARCH_DEEPSEEK_V3] = "DeepseekV3ForCausalLM",
	};
	const json_t *type = json_object_get(r->obj, "model_type");
	const json_t *class = json_array_get(json_object_get(r->obj, "architectures"), 0);
	if (!type && !class)
		return ex_json_refuse(r, "model_type", "is missing");
	for (int a = EX_ARCH_DEEPSEEK_V2; a <= EX_ARCH_DEEPSEEK_V3; a++) {
		bool type_ok = json_is_string(type) && strcmp(json_string_value(type), ex_arch_name(a)) == 0;
		bool class_ok = json_is_string(class) && strcmp(json_string_value(class), class_names[a]) == 0;
		if ((type && !type_ok) || (!type && !class_ok))
			continue;
		if (class && !class_ok)
			return ex_json_refuse_value(r, "architectures", json_object_get(r->obj, "architectures"),
				"does not go with model_type");
		json_object_del(r->obj, "model_type");
		*ret = a;
		return 0;
	}
	return ex_json_refuse_value(r, type ? "model_type" : "architectures", type ? type : class,
		"deepseek_v2 and deepseek_v3 are understood");
}

struct choice {
	const char *text;
	int value;
	enum ex_arch arch;
};

/* One of a few strings, each known to one architecture. *ret keeps its value when the key is absent. */
static int read_choice(const struct ex_json_reader *r, const char *key, enum ex_arch arch, const struct choice *choices,
	size_t n, int *ret)
{
	json_t *v = json_object_get(r->obj, key);
	if (!v)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (choices[i].arch == arch && json_is_string(v) &&
			strcmp(json_string_value(v), choices[i].text) == 0) {
			*ret = choices[i].value;
			json_object_del(r->obj, key);
			return 0;
		}
	char why[80];
	snprintf(why, sizeof why, "%s does not define it", ex_arch_name(arch));
	return ex_json_refuse_value(r, key, v, why);
}

static int read_gate(const struct ex_json_reader *r, struct ex_model_config *c)
{
	static const struct choice methods[] = {
		{"greedy", EX_GATE_GREEDY, EX_ARCH_DEEPSEEK_V2},
		{"group_limited_greedy", EX_GATE_GROUP_LIMITED_GREEDY, EX_ARCH_DEEPSEEK_V2},
		{"noaux_tc", EX_GATE_NOAUX_TC, EX_ARCH_DEEPSEEK_V3},
	};
	static const struct choice scores[] = {
		{"softmax", EX_SCORE_SOFTMAX, EX_ARCH_DEEPSEEK_V2},
		{"sigmoid", EX_SCORE_SIGMOID, EX_ARCH_DEEPSEEK_V3},
	};
	bool v3 = c->arch == EX_ARCH_DEEPSEEK_V3;
	int method = v3 ? EX_GATE_NOAUX_TC : EX_GATE_GREEDY, score = v3 ? EX_SCORE_SIGMOID : EX_SCORE_SOFTMAX, rc;
	c->norm_topk_prob = v3;
	c->routed_scale = v3 ? 2.5f : 1.0f;
	if ((rc = read_choice(r, "topk_method", c->arch, methods, EX_ARRAY_LEN(methods), &method)) < 0 ||
		(rc = read_choice(r, "scoring_func", c->arch, scores, EX_ARRAY_LEN(scores), &score)) < 0 ||
		(rc = ex_json_take_bool(r, "norm_topk_prob", &c->norm_topk_prob)) < 0)
		return rc;
	c->gate_method = method;
	c->gate_score = score;
	if (json_object_get(r->obj, "routed_scaling_factor"))
		return ex_json_take_f32(r, "routed_scaling_factor", 1e-6f, 1e6f, &c->routed_scale);
	return 0;
}

/* rope_scaling, or what rope_parameters holds beside rope_theta. */
static int read_rope_scaling(const struct ex_json_reader *r, struct ex_model_config *c)
{
	static const char *const type_keys[] = {"type", "rope_type"};
	int rc;
	c->yarn = false;
	for (size_t i = 0; i < EX_ARRAY_LEN(type_keys); i++) {
		json_t *v = json_object_get(r->obj, type_keys[i]);
		if (!v)
			continue;
		const char *type = json_is_string(v) ? json_string_value(v) : "";
		if (strcmp(type, "yarn") != 0 && strcmp(type, "default") != 0)
			return ex_json_refuse_value(r, type_keys[i], v, "yarn and default are understood");
		if (i && json_object_get(r->obj, type_keys[0]) && !json_equal(v, json_object_get(r->obj, type_keys[0])))
			return ex_json_refuse_value(r, type_keys[i], v, "it differs from type");
		c->yarn = strcmp(type, "yarn") == 0;
	}
	if (json_object_size(r->obj) && !json_object_get(r->obj, "type") && !json_object_get(r->obj, "rope_type"))
		return ex_json_refuse(r, "rope_type", "is missing");
	json_object_del(r->obj, "type");
	json_object_del(r->obj, "rope_type");
	if ((rc = ex_json_take_fixed(r, "partial_rotary_factor", "1.0")) < 0)
		return rc;
	if (!c->yarn)
		return refuse_rest(r);
	c->yarn_beta_fast = 32;
	c->yarn_beta_slow = 1;
	c->yarn_mscale = 1;
	c->yarn_mscale_all_dim = 0;
	if ((rc = ex_json_take_f32(r, "factor", 1.0f, 65536.0f, &c->yarn_factor)) < 0 ||
		(rc = ex_json_take_u32(r, "original_max_position_embeddings", 1, 1 << 24, &c->yarn_n_ctx_original)) < 0)
		return rc;
	const struct {
		const char *key;
		float *field;
	} optional[] = {
		{"beta_fast", &c->yarn_beta_fast},
		{"beta_slow", &c->yarn_beta_slow},
		{"mscale", &c->yarn_mscale},
		{"mscale_all_dim", &c->yarn_mscale_all_dim},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(optional); i++)
		if (ex_json_has_value(r, optional[i].key) &&
			(rc = ex_json_take_f32(r, optional[i].key, 0, 65536.0f, optional[i].field)) < 0)
			return rc;
	if (c->yarn_beta_fast <= c->yarn_beta_slow || c->yarn_beta_slow <= 0)
		return ex_json_refuse(r, "beta_fast", "must be greater than beta_slow, and both greater than 0");
	if ((rc = ex_json_take_fixed(r, "attention_factor", "null")) < 0 ||
		(rc = ex_json_take_fixed(r, "truncate", "true")) < 0)
		return rc;
	json_object_del(r->obj, "finetuned");
	return refuse_rest(r);
}

/* rope_theta and rope_scaling beside each other, or both in rope_parameters as transformers 5 writes them. */
static int read_rope(const struct ex_json_reader *r, struct ex_model_config *c)
{
	int rc;
	c->rope_theta = 10000.0f;
	if (ex_json_has_value(r, "rope_theta") &&
		(rc = ex_json_take_f32(r, "rope_theta", 1.5f, 1e12f, &c->rope_theta)) < 0)
		return rc;
	bool newer = ex_json_has_value(r, "rope_parameters"), older = ex_json_has_value(r, "rope_scaling");
	if (!newer && !older)
		return 0;
	if (newer && older)
		return ex_json_refuse(r, "rope_parameters", "is given beside rope_scaling: only one can count");
	const char *key = newer ? "rope_parameters" : "rope_scaling";
	const struct ex_json_reader inner = {
		.name = r->name,
		.prefix = newer ? "rope_parameters." : "rope_scaling.",
		.obj = json_object_get(r->obj, key),
		.err = r->err,
	};
	if (!json_is_object(inner.obj))
		return ex_json_refuse_value(r, key, inner.obj, "an object is needed");
	if (newer && ex_json_has_value(&inner, "rope_theta") &&
		(rc = ex_json_take_f32(&inner, "rope_theta", 1.5f, 1e12f, &c->rope_theta)) < 0)
		return rc;
	if ((rc = read_rope_scaling(&inner, c)) < 0)
		return rc;
	json_object_del(r->obj, key);
	return 0;
}

static int read_quantization(const struct ex_json_reader *r, struct ex_model_config *c)
{
	static const struct {
		const char *key, *allowed;
	} fixed[] = {
		{"fmt", "\"e4m3\""},
		{"weight_block_size", "[128, 128]"},
		{"activation_scheme", "\"dynamic\""},
	};
	const char *key = "quantization_config";
	int rc;
	if (!ex_json_has_value(r, key))
		return 0;
	const struct ex_json_reader inner = {
		.name = r->name,
		.prefix = "quantization_config.",
		.obj = json_object_get(r->obj, key),
		.err = r->err,
	};
	if (!json_is_object(inner.obj))
		return ex_json_refuse_value(r, key, inner.obj, "an object is needed");
	if (!json_object_get(inner.obj, "quant_method"))
		return ex_json_refuse(&inner, "quant_method", "is missing");
	if (!json_object_get(inner.obj, "weight_block_size"))
		return ex_json_refuse(&inner, "weight_block_size", "is missing");
	if ((rc = ex_json_take_fixed(&inner, "quant_method", "\"fp8\"")) < 0)
		return rc;
	for (size_t i = 0; i < EX_ARRAY_LEN(fixed); i++)
		if ((rc = ex_json_take_fixed(&inner, fixed[i].key, fixed[i].allowed)) < 0)
			return rc;
	/* Which scales a quantiser may choose, and which tensors it left alone: the files say both for themselves. */
	json_object_del(inner.obj, "scale_fmt");
	json_object_del(inner.obj, "modules_to_not_convert");
	if ((rc = refuse_rest(&inner)) < 0)
		return rc;
	json_object_del(r->obj, key);
	c->fp8_block_scaled = true;
	return 0;
}

static int add_eos(const struct ex_json_reader *r, const json_t *id, struct ex_model_config *c)
{
	json_int_t i = json_integer_value(id);
	if (!json_is_integer(id) || i < 0 || i >= (json_int_t)c->vocab_size)
		return ex_json_refuse_value(r, "eos_token_id", id, "a token id below vocab_size is needed");
	for (uint32_t k = 0; k < c->n_eos; k++)
		if (c->eos_id[k] == (uint32_t)i)
			return 0;
	if (c->n_eos == EX_ARRAY_LEN(c->eos_id))
		return ex_json_refuse(r, "eos_token_id", "has more than 8 ids");
	c->eos_id[c->n_eos++] = (uint32_t)i;
	return 0;
}

/* Adds one id or a list of them to c's. */
static int read_eos(const struct ex_json_reader *r, struct ex_model_config *c)
{
	const char *key = "eos_token_id";
	int rc;
	if (!ex_json_has_value(r, key))
		return 0;
	const json_t *v = json_object_get(r->obj, key);
	for (size_t i = 0; i < EX_MAX(json_array_size(v), (size_t)1); i++)
		if ((rc = add_eos(r, json_is_array(v) ? json_array_get(v, i) : v, c)) < 0)
			return rc;
	json_object_del(r->obj, key);
	return 0;
}

static int read_tokens(const struct ex_json_reader *r, struct ex_model_config *c)
{
	uint32_t bos;
	int rc;
	c->bos_id = -1;
	if (ex_json_has_value(r, "bos_token_id")) {
		if ((rc = ex_json_take_u32(r, "bos_token_id", 0, c->vocab_size - 1, &bos)) < 0)
			return rc;
		c->bos_id = bos;
	}
	json_object_del(r->obj, "bos_token_id");
	return read_eos(r, c);
}

/* Keys of which one value is understood, and those that repeat what others say. */
static int check_fixed(const struct ex_json_reader *r, const struct ex_model_config *c)
{
	static const struct {
		const char *key, *allowed;
	} fixed[] = {
		{"hidden_act", "\"silu\""},
		{"attention_bias", "false"},
		{"mlp_bias", "false"},
		{"rope_interleave", "true"},
		{"add_cross_attention", "false"},
		{"cross_attention_hidden_size", "null"},
		{"is_encoder_decoder", "false"},
		{"tie_encoder_decoder", "false"},
		{"pruned_heads", "{}"},
		{"sliding_window", "null"},
		{"use_sliding_window", "false"},
	};
	const struct {
		const char *key;
		uint32_t value;
	} same[] = {
		{"num_key_value_heads", c->n_heads}, /* every head has keys of its own, out of the latent */
		{"qk_head_dim", c->qk_nope_dim + c->qk_rope_dim},
	};
	char allowed[16];
	int rc;
	for (size_t i = 0; i < EX_ARRAY_LEN(fixed); i++)
		if ((rc = ex_json_take_fixed(r, fixed[i].key, fixed[i].allowed)) < 0)
			return rc;
	for (size_t i = 0; i < EX_ARRAY_LEN(same); i++) {
		snprintf(allowed, sizeof allowed, "%u", same[i].value);
		if (ex_json_has_value(r, same[i].key) && (rc = ex_json_take_fixed(r, same[i].key, allowed)) < 0)
			return rc;
	}
	return 0;
}

static int check_moe(const char *name, struct ex_model_config *c, struct ex_err *err)
{
	if (!c->n_experts) {
		c->n_group = c->topk_group = c->moe_layer_freq = 1;
		return 0;
	}
	if (c->gate_method == EX_GATE_GREEDY)
		c->n_group = c->topk_group = 1; /* read by nothing in this method */
	if (c->n_experts % c->n_group)
		return ex_err_set(err, -EINVAL, "%s: n_routed_experts %u is not a multiple of n_group %u", name,
			c->n_experts, c->n_group);
	if (c->topk_group > c->n_group)
		return ex_err_set(
			err, -EINVAL, "%s: topk_group %u is more than n_group %u", name, c->topk_group, c->n_group);
	uint32_t group = c->n_experts / c->n_group;
	if (c->gate_method == EX_GATE_NOAUX_TC && c->n_group > 1 && group < 2)
		return ex_err_set(err, -EINVAL,
			"%s: n_group %u leaves one expert a group, and noaux_tc ranks groups by two", name, c->n_group);
	if (c->n_experts_per_tok > c->topk_group * group)
		return ex_err_set(err, -EINVAL,
			"%s: num_experts_per_tok %u is more than the %u experts in topk_group %u", name,
			c->n_experts_per_tok, c->topk_group * group, c->topk_group);
	if ((uint64_t)c->d_ff_expert * c->n_shared_experts > EX_MODEL_DIM_MAX)
		return ex_err_set(err, -EINVAL,
			"%s: n_shared_experts %u times moe_intermediate_size %u is more than %d", name,
			c->n_shared_experts, c->d_ff_expert, EX_MODEL_DIM_MAX);
	return 0;
}

static int check_attention(const char *name, const struct ex_model_config *c, struct ex_err *err)
{
	if (c->qk_rope_dim % 2)
		return ex_err_set(err, -EINVAL, "%s: qk_rope_head_dim %u is odd: rotary pairs need an even width", name,
			c->qk_rope_dim);
	const struct {
		const char *what;
		uint64_t rows;
	} row[] = {
		{"qk_nope_head_dim + qk_rope_head_dim", (uint64_t)c->qk_nope_dim + c->qk_rope_dim},
		{"qk_nope_head_dim + v_head_dim", (uint64_t)c->qk_nope_dim + c->v_dim},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		if (row[i].rows * c->n_heads > ROWS_MAX)
			return ex_err_set(err, -EINVAL, "%s: num_attention_heads %u times %s %llu is more than %d",
				name, c->n_heads, row[i].what, (unsigned long long)row[i].rows, ROWS_MAX);
	if (c->yarn && c->yarn_n_ctx_original > c->n_ctx_max)
		return ex_err_set(err, -EINVAL,
			"%s: original_max_position_embeddings %u is more than max_position_embeddings %u", name,
			c->yarn_n_ctx_original, c->n_ctx_max);
	return 0;
}

static int read_all(const struct ex_json_reader *r, struct ex_model_config *c)
{
	int rc;
	if ((rc = read_arch(r, &c->arch)) < 0 || (rc = read_ints(r, c)) < 0 || (rc = read_gate(r, c)) < 0 ||
		(rc = read_rope(r, c)) < 0 || (rc = read_quantization(r, c)) < 0 || (rc = read_tokens(r, c)) < 0)
		return rc;
	c->rms_norm_eps = 1e-6f;
	if (json_object_get(r->obj, "rms_norm_eps") &&
		(rc = ex_json_take_f32(r, "rms_norm_eps", 1e-12f, 0.1f, &c->rms_norm_eps)) < 0)
		return rc;
	if ((rc = ex_json_take_bool(r, "tie_word_embeddings", &c->tie_word_embeddings)) < 0)
		return rc;
	if ((rc = check_fixed(r, c)) < 0 || (rc = refuse_rest(r)) < 0)
		return rc;
	if ((rc = check_attention(r->name, c, r->err)) < 0)
		return rc;
	return check_moe(r->name, c, r->err);
}

int ex_model_config_parse(const char *name, const char *json, size_t n, struct ex_err *err, struct ex_model_config *ret)
{
	struct ex_model_config c = {0};
	struct ex_json_reader r = {.name = name, .prefix = "", .err = err};
	int rc = ex_json_parse_object(name, json, n, err, &r.obj);
	if (rc < 0)
		return rc;
	rc = read_all(&r, &c);
	json_decref(r.obj);
	if (rc == 0)
		*ret = c;
	return rc;
}

/* Generation may stop at more ids than config.json names. The file may be absent. */
static int add_generation_eos(const char *dir, struct ex_err *err, struct ex_model_config *c)
{
	char path[PATH_MAX];
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	snprintf(path, sizeof path, "%s/generation_config.json", dir);
	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	int rc = ex_read_file(path, CONFIG_BYTES_MAX, err, &text, &n);
	if (rc < 0)
		return rc;
	struct ex_json_reader r = {.name = path, .prefix = "", .err = err};
	rc = ex_json_parse_object(path, text, n, err, &r.obj);
	if (rc < 0)
		return rc;
	rc = read_eos(&r, c);
	json_decref(r.obj);
	return rc;
}

int ex_model_config_load(const char *dir, struct ex_err *err, struct ex_model_config *ret)
{
	char path[PATH_MAX];
	EX_CLEANUP(ex_freep) char *text = NULL;
	struct ex_model_config c;
	size_t n;
	if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
		return ex_err_set(err, -ENAMETOOLONG, "path '%.64s...' is too long", dir);
	int rc = ex_read_file(path, CONFIG_BYTES_MAX, err, &text, &n);
	if (rc < 0)
		return rc;
	if ((rc = ex_model_config_parse(path, text, n, err, &c)) < 0)
		return rc;
	if ((rc = add_generation_eos(dir, err, &c)) < 0)
		return rc;
	*ret = c;
	return 0;
}

const char *ex_arch_name(enum ex_arch arch)
{
	switch (arch) {
	case EX_ARCH_DEEPSEEK_V2:
		return "deepseek_v2";
	case EX_ARCH_DEEPSEEK_V3:
		return "deepseek_v3";
	}
	return "?";
}
