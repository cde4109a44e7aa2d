/* SPDX-License-Identifier: Apache-2.0 */
/* The figures of a checkpoint for `expertctl model show`. Layer L1. */
#include "model/show.h"

#include "model/safetensors.h"
#include "model/tensors.h"
#include "model/weights.h"
#include <stdio.h>

struct sums {
	const struct ex_safetensors *files;
	uint64_t bytes[EX_PART_N], params[EX_PART_N];
	uint64_t n_used;
};

static int add_tensor(void *ctx, const struct ex_tensor_spec *spec)
{
	struct sums *s = ctx;
	char name[EX_TENSOR_NAME_MAX + sizeof EX_SCALE_SUFFIX];
	const struct ex_tensor *t = ex_safetensors_find(s->files, spec->name);
	snprintf(name, sizeof name, "%s" EX_SCALE_SUFFIX, spec->name);
	const struct ex_tensor *scale = ex_safetensors_find(s->files, name);
	s->bytes[spec->part] += t->bytes + (scale ? scale->bytes : 0);
	s->params[spec->part] += (uint64_t)spec->rows * spec->cols;
	s->n_used += scale ? 2 : 1;
	return 0;
}

static uint32_t count_moe_layers(const struct ex_model_config *c)
{
	uint32_t n = 0;
	for (uint32_t l = 0; l < c->n_layers; l++)
		n += ex_model_layer_is_moe(c, l);
	return n;
}

static json_t *show_rope(const struct ex_model_config *c)
{
	if (!c->yarn)
		return json_pack("{s:f}", "theta", (double)c->rope_theta);
	return json_pack("{s:f, s:f, s:I}", "theta", (double)c->rope_theta, "yarn_factor", (double)c->yarn_factor,
		"yarn_context_original", (json_int_t)c->yarn_n_ctx_original);
}

static json_t *show_experts(const struct ex_model_config *c)
{
	static const char *const methods[] = {
		[EX_GATE_GREEDY] = "greedy",
		[EX_GATE_GROUP_LIMITED_GREEDY] = "group_limited_greedy",
		[EX_GATE_NOAUX_TC] = "noaux_tc",
	};
	if (!c->n_experts)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:f}", "routed", (json_int_t)c->n_experts,
		"per_token", (json_int_t)c->n_experts_per_tok, "shared", (json_int_t)c->n_shared_experts, "d_ff",
		(json_int_t)c->d_ff_expert, "groups", (json_int_t)c->n_group, "groups_per_token",
		(json_int_t)c->topk_group, "gate", methods[c->gate_method], "score",
		c->gate_score == EX_SCORE_SIGMOID ? "sigmoid" : "softmax", "normalised", c->norm_topk_prob, "scale",
		(double)c->routed_scale);
}

static json_t *show_params(const struct ex_model_config *c, const struct sums *s)
{
	uint64_t total = 0, routed = s->params[EX_PART_EXPERT];
	for (size_t i = 0; i < EX_PART_N; i++)
		total += s->params[i];
	uint64_t chosen = c->n_experts ? routed / c->n_experts * c->n_experts_per_tok : 0;
	return json_pack("{s:I, s:I}", "total", (json_int_t)total, "active", (json_int_t)(total - routed + chosen));
}

static json_t *show_bytes(const struct sums *s, const struct ex_weights_stat *stat)
{
	static const char *const parts[EX_PART_N] = {
		[EX_PART_EMBED] = "embed",
		[EX_PART_ATTENTION] = "attention",
		[EX_PART_DENSE] = "dense",
		[EX_PART_GATE] = "gate",
		[EX_PART_SHARED] = "shared",
		[EX_PART_EXPERT] = "expert",
		[EX_PART_NORM] = "norm",
	};
	json_t *o = json_pack("{s:I}", "total", (json_int_t)stat->bytes_total);
	for (size_t i = 0; i < EX_PART_N; i++)
		json_object_set_new(o, parts[i], json_integer((json_int_t)s->bytes[i]));
	json_object_set_new(o, "per_expert", json_integer((json_int_t)stat->bytes_per_expert));
	return o;
}

static json_t *show_dtypes(const struct ex_safetensors *files)
{
	json_t *o = json_object();
	for (size_t i = 0; i < ex_safetensors_count(files); i++) {
		const char *name = ex_safetensors_at(files, i)->dtype_name;
		json_int_t n = json_integer_value(json_object_get(o, name));
		json_object_set_new(o, name, json_integer(n + 1));
	}
	return o;
}

static json_t *show_model(const char *dir, const struct ex_weights *w)
{
	const struct ex_model_config *c = ex_weights_config(w);
	struct sums s = {.files = ex_weights_files(w)};
	struct ex_weights_stat stat;
	ex_weights_stat(w, &stat);
	ex_tensors_each(c, add_tensor, &s);
	uint64_t kv = (uint64_t)c->n_layers * (c->kv_lora_rank + c->qk_rope_dim) * sizeof(float);
	json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "path", dir, "architecture",
		ex_arch_name(c->arch), "digest", ex_weights_digest(w), "layers", (json_int_t)c->n_layers, "moe_layers",
		(json_int_t)count_moe_layers(c), "d_model", (json_int_t)c->d_model, "heads", (json_int_t)c->n_heads,
		"d_ff", (json_int_t)c->d_ff, "vocab", (json_int_t)c->vocab_size, "context", (json_int_t)c->n_ctx_max,
		"tied_embeddings", c->tie_word_embeddings);
	json_t *attention = json_pack("{s:I, s:I, s:I, s:I, s:I}", "q_lora_rank", (json_int_t)c->q_lora_rank,
		"kv_lora_rank", (json_int_t)c->kv_lora_rank, "qk_nope_dim", (json_int_t)c->qk_nope_dim, "qk_rope_dim",
		(json_int_t)c->qk_rope_dim, "v_dim", (json_int_t)c->v_dim);
	json_t *rest = json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:o}", "attention", attention, "rope",
		show_rope(c), "experts", show_experts(c), "params", show_params(c, &s), "bytes", show_bytes(&s, &stat),
		"kv_bytes_per_token", (json_int_t)kv, "files", (json_int_t)stat.n_files, "tensors",
		(json_int_t)stat.n_tensors, "tensors_unused", (json_int_t)(stat.n_tensors - s.n_used), "dtypes",
		show_dtypes(s.files));
	int rc = root && rest ? json_object_update(root, rest) : -1;
	json_decref(rest);
	if (rc < 0) {
		json_decref(root);
		return NULL;
	}
	return root;
}

int ex_model_show(const char *dir, struct ex_err *err, json_t **ret)
{
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = NULL;
	int rc = ex_weights_open(dir, err, &w);
	if (rc < 0)
		return rc;
	json_t *root = show_model(dir, w);
	if (!root)
		return ex_err_set(
			err, -ENOMEM, "cannot describe '%s': out of memory, or a path that is not UTF-8", dir);
	*ret = root;
	return 0;
}
