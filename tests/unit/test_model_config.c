/* SPDX-License-Identifier: Apache-2.0 */
/* model/config: published configs give the figures that their model cards state; every key that changes the math is
 * understood or refused by name. */
#include "unit.h"

#include "base/str.h"
#include "model/config.h"
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* DeepSeek-V3's published config.json, without bookkeeping keys. */
static const char v3_json[] =
	"{'architectures': ['DeepseekV3ForCausalLM'], 'model_type': 'deepseek_v3', 'vocab_size': 129280,"
	" 'hidden_size': 7168, 'intermediate_size': 18432, 'moe_intermediate_size': 2048, 'num_hidden_layers': 61,"
	" 'num_attention_heads': 128, 'num_key_value_heads': 128, 'n_shared_experts': 1, 'n_routed_experts': 256,"
	" 'ep_size': 1, 'routed_scaling_factor': 2.5, 'kv_lora_rank': 512, 'q_lora_rank': 1536, 'qk_rope_head_dim': 64,"
	" 'v_head_dim': 128, 'qk_nope_head_dim': 128, 'topk_method': 'noaux_tc', 'n_group': 8, 'topk_group': 4,"
	" 'num_experts_per_tok': 8, 'moe_layer_freq': 1, 'first_k_dense_replace': 3, 'norm_topk_prob': true,"
	" 'scoring_func': 'sigmoid', 'hidden_act': 'silu', 'max_position_embeddings': 163840,"
	" 'num_nextn_predict_layers': 1, 'rms_norm_eps': 1e-06, 'bos_token_id': 0, 'eos_token_id': 1,"
	" 'rope_theta': 10000, 'attention_bias': false, 'tie_word_embeddings': false, 'torch_dtype': 'bfloat16',"
	" 'rope_scaling': {'beta_fast': 32, 'beta_slow': 1, 'factor': 40, 'mscale': 1.0, 'mscale_all_dim': 1.0,"
	" 'original_max_position_embeddings': 4096, 'type': 'yarn'},"
	" 'quantization_config': {'activation_scheme': 'dynamic', 'fmt': 'e4m3', 'quant_method': 'fp8',"
	" 'weight_block_size': [128, 128]}}";

/* DeepSeek-V2-Lite's. */
static const char v2_lite_json[] =
	"{'architectures': ['DeepseekV2ForCausalLM'], 'model_type': 'deepseek_v2', 'attention_bias': false,"
	" 'aux_loss_alpha': 0.001, 'bos_token_id': 100000, 'eos_token_id': 100001, 'first_k_dense_replace': 1,"
	" 'hidden_act': 'silu', 'hidden_size': 2048, 'intermediate_size': 10944, 'kv_lora_rank': 512,"
	" 'max_position_embeddings': 163840, 'moe_intermediate_size': 1408, 'moe_layer_freq': 1, 'n_group': 1,"
	" 'n_routed_experts': 64, 'n_shared_experts': 2, 'norm_topk_prob': false, 'num_attention_heads': 16,"
	" 'num_experts_per_tok': 6, 'num_hidden_layers': 27, 'num_key_value_heads': 16, 'q_lora_rank': null,"
	" 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'rms_norm_eps': 1e-06, 'rope_theta': 10000,"
	" 'rope_scaling': {'beta_fast': 32, 'beta_slow': 1, 'factor': 40, 'mscale': 0.707, 'mscale_all_dim': 0.707,"
	" 'original_max_position_embeddings': 4096, 'type': 'yarn'}, 'routed_scaling_factor': 1.0,"
	" 'scoring_func': 'softmax', 'seq_aux': true, 'tie_word_embeddings': false, 'topk_group': 1,"
	" 'topk_method': 'greedy', 'v_head_dim': 128, 'vocab_size': 102400}";

/* Single quotes stand for double ones in this file's JSON. */
static json_t *parse(const char *text)
{
	char *copy = strdup(text);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	json_t *v = json_loads(copy, JSON_DECODE_ANY, NULL);
	assert_non_null(v);
	free(copy);
	return v;
}

/* `key` ("a.b" goes into an object) becomes `value`, or goes away when value is NULL. */
static void change(json_t *root, const char *key, const char *value)
{
	char outer[64];
	const char *dot = strchr(key, '.');
	if (dot) {
		snprintf(outer, sizeof outer, "%.*s", (int)(dot - key), key);
		change(json_object_get(root, outer), dot + 1, value);
	} else if (value)
		assert_int_equal(json_object_set_new(root, key, parse(value)), 0);
	else
		assert_int_equal(json_object_del(root, key), 0);
}

static int parse_config(json_t *root, struct ex_err *err, struct ex_model_config *ret)
{
	char *text = json_dumps(root, 0);
	int rc = ex_model_config_parse("config.json", text, strlen(text), err, ret);
	free(text);
	json_decref(root);
	return rc;
}

/* The base config with one key changed. */
static int parse_changed(
	const char *base, const char *key, const char *value, struct ex_err *err, struct ex_model_config *ret)
{
	json_t *root = parse(base);
	if (key)
		change(root, key, value);
	return parse_config(root, err, ret);
}

static void test_v3(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	EXPECT_OK(err, parse_changed(v3_json, NULL, NULL, &err, &c));
	assert_int_equal(c.arch, EX_ARCH_DEEPSEEK_V3);
	assert_int_equal(c.d_model, 7168);
	assert_int_equal(c.n_layers, 61);
	assert_int_equal(c.q_lora_rank, 1536);
	assert_int_equal(c.qk_rope_dim, 64);
	assert_int_equal(c.gate_method, EX_GATE_NOAUX_TC);
	assert_int_equal(c.gate_score, EX_SCORE_SIGMOID);
	assert_int_equal(c.n_group, 8);
	assert_int_equal(c.topk_group, 4);
	assert_true(c.norm_topk_prob && c.fp8_block_scaled && c.yarn && !c.tie_word_embeddings);
	assert_true(c.routed_scale == 2.5f && c.rms_norm_eps == 1e-6f && c.rope_theta == 10000.0f);
	assert_true(c.yarn_factor == 40.0f && c.yarn_mscale_all_dim == 1.0f && c.yarn_beta_fast == 32.0f);
	assert_int_equal(c.yarn_n_ctx_original, 4096);
	assert_int_equal(c.n_ctx_max, 163840);
	assert_int_equal(c.n_mtp_layers, 1);
	assert_int_equal(c.bos_id, 0);
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(c.eos_id[0], 1);
	assert_false(ex_model_layer_is_moe(&c, 2));
	assert_true(ex_model_layer_is_moe(&c, 3));
}

static void test_v2_lite(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	EXPECT_OK(err, parse_changed(v2_lite_json, NULL, NULL, &err, &c));
	assert_int_equal(c.arch, EX_ARCH_DEEPSEEK_V2);
	assert_int_equal(c.q_lora_rank, 0);
	assert_int_equal(c.gate_method, EX_GATE_GREEDY);
	assert_int_equal(c.gate_score, EX_SCORE_SOFTMAX);
	assert_int_equal(c.n_shared_experts, 2);
	assert_true(!c.norm_topk_prob && !c.fp8_block_scaled && c.routed_scale == 1.0f);
	assert_true(c.yarn_mscale == 0.707f && c.yarn_mscale_all_dim == 0.707f);
}

/* Absent keys mean what the architecture's own configuration class says. */
static void test_defaults(void **state)
{
	(void)state;
	static const char *const keys[] = {"topk_method", "scoring_func", "norm_topk_prob", "routed_scaling_factor",
		"first_k_dense_replace", "moe_layer_freq", "n_group", "topk_group", "rope_theta", "rope_scaling",
		"rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "attention_bias",
		"bos_token_id", "eos_token_id", "num_key_value_heads"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	json_t *v2 = parse(v2_lite_json), *v3 = parse(v3_json);
	for (size_t i = 0; i < EX_ARRAY_LEN(keys); i++) {
		change(v2, keys[i], NULL);
		change(v3, keys[i], NULL);
	}
	EXPECT_OK(err, parse_config(v2, &err, &c));
	assert_int_equal(c.gate_method, EX_GATE_GREEDY);
	assert_int_equal(c.gate_score, EX_SCORE_SOFTMAX);
	assert_int_equal(c.first_k_dense, 0);
	assert_int_equal(c.n_ctx_max, 2048);
	assert_true(!c.norm_topk_prob && c.routed_scale == 1.0f && c.rope_theta == 10000.0f && !c.yarn);
	assert_int_equal(c.bos_id, -1);
	assert_int_equal(c.n_eos, 0);
	EXPECT_OK(err, parse_config(v3, &err, &c));
	assert_int_equal(c.gate_method, EX_GATE_NOAUX_TC);
	assert_int_equal(c.gate_score, EX_SCORE_SIGMOID);
	assert_int_equal(c.first_k_dense, 3);
	assert_int_equal(c.n_group, 8);
	assert_int_equal(c.topk_group, 4);
	assert_true(c.norm_topk_prob && c.routed_scale == 2.5f);
}

/* The nulls of published configs, and transformers 5's rope_parameters. */
static void test_other_forms(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c, older;
	EXPECT_OK(err, parse_changed(v2_lite_json, "n_group", "null", &err, &c));
	assert_int_equal(c.n_group, 1);
	EXPECT_OK(err, parse_changed(v2_lite_json, "rope_scaling", "null", &err, &c));
	assert_false(c.yarn);
	EXPECT_OK(err, parse_changed(v2_lite_json, "eos_token_id", "[7, 8, 7]", &err, &c));
	assert_int_equal(c.n_eos, 2);
	assert_int_equal(c.eos_id[1], 8);
	EXPECT_OK(err, parse_changed(v3_json, "model_type", NULL, &err, &c));
	assert_int_equal(c.arch, EX_ARCH_DEEPSEEK_V3);
	EXPECT_OK(err, parse_changed(v3_json, "num_nextn_predict_layers", NULL, &err, &c));
	assert_int_equal(c.n_mtp_layers, 0);

	json_t *root = parse(v3_json);
	json_t *rope = json_incref(json_object_get(root, "rope_scaling"));
	json_object_del(root, "rope_scaling");
	json_object_del(root, "rope_theta");
	json_object_del(rope, "type");
	json_object_set_new(rope, "rope_type", json_string("yarn"));
	json_object_set_new(rope, "rope_theta", json_real(10000.0));
	json_object_set_new(root, "rope_parameters", rope);
	EXPECT_OK(err, parse_config(root, &err, &c));
	EXPECT_OK(err, parse_changed(v3_json, NULL, NULL, &err, &older));
	assert_memory_equal(&c, &older, sizeof c);

	EXPECT_OK(err, parse_changed(v3_json, "n_routed_experts", "null", &err, &c)); /* all layers dense */
	assert_false(ex_model_layer_is_moe(&c, 60));
}

static const struct refusal {
	const char *base, *key, *value, *message;
} refusals[] = {
	{v3_json, "model_type", "'deepseek_v32'", "key 'model_type' is \"deepseek_v32\""},
	{v3_json, "model_type", "'deepseek_v2'", "key 'architectures' is [\"DeepseekV3ForCausalLM\"]"},
	{v3_json, "architectures", "['DeepseekV3ForSequenceClassification']", "key 'architectures'"},
	{v3_json, "hidden_size", NULL, "key 'hidden_size' is missing"},
	{v3_json, "q_lora_rank", NULL, "key 'q_lora_rank' is missing"},
	{v3_json, "hidden_size", "0", "key 'hidden_size' is 0: an integer from 1 to 1048576"},
	{v3_json, "hidden_size", "-1", "key 'hidden_size' is -1"},
	{v3_json, "hidden_size", "4294967296", "key 'hidden_size' is 4294967296"},
	{v3_json, "hidden_size", "'7168'", "key 'hidden_size' is \"7168\""},
	{v3_json, "hidden_size", "7168.0", "key 'hidden_size' is 7168.0"},
	{v3_json, "num_hidden_layers", "513", "key 'num_hidden_layers' is 513"},
	{v3_json, "n_routed_experts", "5000", "key 'n_routed_experts' is 5000"},
	{v3_json, "n_routed_experts", "250", "n_routed_experts 250 is not a multiple of n_group 8"},
	{v3_json, "n_routed_experts", "8", "leaves one expert a group"},
	{v3_json, "num_experts_per_tok", "65", "key 'num_experts_per_tok' is 65"},
	{v3_json, "num_experts_per_tok", "null", "key 'num_experts_per_tok' is null"},
	{v3_json, "n_routed_experts", "8", "n_group 8"},
	{v3_json, "topk_group", "9", "topk_group 9 is more than n_group 8"},
	{v2_lite_json, "n_routed_experts", "4", "num_experts_per_tok 6 is more than the 4 experts"},
	{v3_json, "moe_layer_freq", "0", "key 'moe_layer_freq' is 0"},
	{v3_json, "moe_layer_freq", "[0, 1]", "key 'moe_layer_freq' is [0,1]"},
	{v3_json, "hidden_act", "'gelu'", "key 'hidden_act' is \"gelu\": only \"silu\""},
	{v3_json, "attention_bias", "true", "key 'attention_bias' is true: only false"},
	{v3_json, "mlp_bias", "true", "key 'mlp_bias' is true"},
	{v3_json, "rope_interleave", "false", "key 'rope_interleave' is false"},
	{v3_json, "sliding_window", "4096", "key 'sliding_window' is 4096"},
	{v3_json, "num_key_value_heads", "8", "key 'num_key_value_heads' is 8: only 128"},
	{v3_json, "qk_head_dim", "128", "key 'qk_head_dim' is 128: only 192"},
	{v3_json, "topk_method", "'greedy'", "key 'topk_method' is \"greedy\": deepseek_v3 does not define it"},
	{v2_lite_json, "topk_method", "'noaux_tc'", "key 'topk_method' is \"noaux_tc\""},
	{v3_json, "scoring_func", "'sqrtsoftplus'", "key 'scoring_func' is \"sqrtsoftplus\""},
	{v3_json, "norm_topk_prob", "1", "key 'norm_topk_prob' is 1"},
	{v3_json, "routed_scaling_factor", "0", "key 'routed_scaling_factor' is 0"},
	{v3_json, "rms_norm_eps", "-1e-6", "key 'rms_norm_eps'"},
	{v3_json, "rope_theta", "'x'", "key 'rope_theta' is \"x\""},
	{v3_json, "rope_scaling", "7", "key 'rope_scaling' is 7: an object"},
	{v3_json, "rope_scaling.type", "'linear'", "key 'rope_scaling.type' is \"linear\""},
	{v3_json, "rope_scaling.type", NULL, "key 'rope_scaling.rope_type' is missing"},
	{v3_json, "rope_scaling.rope_type", "'default'",
		"key 'rope_scaling.rope_type' is \"default\": it differs from type"},
	{v3_json, "rope_scaling.factor", NULL, "key 'rope_scaling.factor' is missing"},
	{v3_json, "rope_scaling.factor", "0.5", "key 'rope_scaling.factor' is 0.5"},
	{v3_json, "rope_scaling.original_max_position_embeddings", NULL,
		"original_max_position_embeddings' is missing"},
	{v3_json, "rope_scaling.original_max_position_embeddings", "200000",
		"is more than max_position_embeddings 163840"},
	{v3_json, "rope_scaling.attention_factor", "1.2", "key 'rope_scaling.attention_factor' is 1.2"},
	{v3_json, "rope_scaling.truncate", "false", "key 'rope_scaling.truncate' is false"},
	{v3_json, "rope_scaling.long_factor", "[1]", "key 'rope_scaling.long_factor' is not understood"},
	{v3_json, "rope_scaling.beta_slow", "64", "key 'rope_scaling.beta_fast' must be greater"},
	{v3_json, "rope_parameters", "{'rope_type': 'default'}", "key 'rope_parameters' is given beside rope_scaling"},
	{v3_json, "quantization_config.quant_method", "'gptq'", "key 'quantization_config.quant_method' is \"gptq\""},
	{v3_json, "quantization_config.quant_method", NULL, "key 'quantization_config.quant_method' is missing"},
	{v3_json, "quantization_config.fmt", "'e5m2'", "key 'quantization_config.fmt' is \"e5m2\""},
	{v3_json, "quantization_config.weight_block_size", "[64, 64]",
		"weight_block_size' is [64,64]: only [128, 128]"},
	{v3_json, "quantization_config.weight_block_size", NULL, "weight_block_size' is missing"},
	{v3_json, "quantization_config.activation_scheme", "'static'", "activation_scheme' is \"static\""},
	{v3_json, "quantization_config.bits", "4", "key 'quantization_config.bits' is not understood"},
	{v3_json, "qk_rope_head_dim", "63", "qk_rope_head_dim 63 is odd"},
	{v3_json, "num_attention_heads", "1048576", "key 'num_key_value_heads'"},
	{v3_json, "v_head_dim", "1000000", "num_attention_heads 128 times qk_nope_head_dim + v_head_dim 1000128"},
	{v3_json, "eos_token_id", "129280", "key 'eos_token_id' is 129280: a token id below vocab_size"},
	{v3_json, "eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9]", "key 'eos_token_id' has more than 8 ids"},
	{v3_json, "eos_token_id", "[]", "key 'eos_token_id'"},
	{v3_json, "bos_token_id", "-1", "key 'bos_token_id' is -1"},
	{v3_json, "tie_word_embeddings", "'no'", "key 'tie_word_embeddings' is \"no\""},
	{v3_json, "swiglu_limit", "7.0", "key 'swiglu_limit' is not understood"},
	{v3_json, "index_topk", "2048", "key 'index_topk' is not understood"},
};

static void test_refusals(void **state)
{
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(refusals); i++) {
		const struct refusal *t = &refusals[i];
		struct ex_err err = EX_ERR_INIT;
		struct ex_model_config c;
		if (parse_changed(t->base, t->key, t->value, &err, &c) != -EINVAL)
			fail_msg("%s = %s was taken", t->key, t->value ? t->value : "(absent)");
		if (!strstr(err.text, t->message) || strncmp(err.text, "config.json: ", 13) != 0)
			fail_msg("%s = %s: '%s' does not say '%s'", t->key, t->value ? t->value : "(absent)", err.text,
				t->message);
	}
}

static void test_bad_text(void **state)
{
	(void)state;
	static const struct {
		const char *text, *message;
	} row[] = {
		{"", "c.json: line 1"},
		{"[]", "c.json: a JSON object is needed"},
		{"{\"model_type\": \"deepseek_v3\", \"model_type\": \"deepseek_v2\"}", "duplicate object key"},
		{"{}", "key 'model_type' is missing"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_model_config c;
		assert_int_equal(ex_model_config_parse("c.json", row[i].text, strlen(row[i].text), &err, &c), -EINVAL);
		assert_non_null(strstr(err.text, row[i].message));
	}
}

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	for (const char *p = text; *p; p++)
		fputc(*p == '\'' ? '"' : *p, f);
	assert_int_equal(fclose(f), 0);
}

static void test_load(void **state)
{
	(void)state;
	char dir[] = "/tmp/expertd-test-XXXXXX", path[256];
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(ex_model_config_load(dir, &err, &c), -ENOENT);
	assert_non_null(strstr(err.text, "/config.json"));
	write_file(dir, "config.json", v3_json);
	EXPECT_OK(err, ex_model_config_load(dir, &err, &c));
	assert_int_equal(c.n_eos, 1);
	write_file(dir, "generation_config.json", "{'eos_token_id': [1, 5], 'temperature': 0.6}");
	EXPECT_OK(err, ex_model_config_load(dir, &err, &c));
	assert_int_equal(c.n_eos, 2);
	assert_int_equal(c.eos_id[1], 5);
	write_file(dir, "generation_config.json", "{'eos_token_id': 129280}");
	assert_int_equal(ex_model_config_load(dir, &err, &c), -EINVAL);
	assert_non_null(strstr(err.text, "generation_config.json: key 'eos_token_id'"));
	static const char *const names[] = {"config.json", "generation_config.json"};
	for (size_t i = 0; i < EX_ARRAY_LEN(names); i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_v3),
		cmocka_unit_test(test_v2_lite),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_other_forms),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_bad_text),
		cmocka_unit_test(test_load),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
