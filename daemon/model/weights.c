/* SPDX-License-Identifier: Apache-2.0 */
/* The tensors of a checkpoint by the roles the model gives them. Layer L1. */
#include "model/weights.h"

#include "base/dtype.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/safetensors.h"
#include "model/tensors.h"
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define SAMPLE_BYTES 64 /* of a tensor's beginning, middle and end, in the digest */

struct ex_weights {
	atomic_uint n_refs;
	struct ex_model_config config;
	struct ex_safetensors *files;
	char *dir;
	bool *asked; /* [n tensors]: the config asks for it */
	char digest[EX_DIGEST_HEX];
	struct ex_weights_stat stat;
	struct ex_lock lock; /* the rest is immutable after open */
	void **copies;       /* [n tensors] aligned copies, NULL where none was needed yet; guarded by lock */
};

static size_t index_of(const struct ex_weights *w, const struct ex_tensor *t)
{
	return (size_t)(t - ex_safetensors_at(w->files, 0));
}

/* "[3, 4]" */
static void shape_text(const uint64_t *dims, uint32_t n, char *buf, size_t size)
{
	size_t at = 0;
	buf[0] = '\0';
	for (uint32_t i = 0; i < n && at < size; i++)
		at += (size_t)snprintf(buf + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)dims[i]);
}

static int check_shape(
	const struct ex_weights *w, const struct ex_tensor *t, const uint64_t *dims, uint32_t n, struct ex_err *err)
{
	char have[192], want[64];
	if (t->n_dims == n && memcmp(t->dims, dims, n * sizeof *dims) == 0)
		return 0;
	shape_text(t->dims, t->n_dims, have, sizeof have);
	shape_text(dims, n, want, sizeof want);
	return ex_err_set(err, -EINVAL, "'%s': tensor '%s' has shape [%s]; [%s] is needed",
		ex_safetensors_file_path(w->files, t->file), t->name, have, want);
}

static int check_dtype(const struct ex_weights *w, const struct ex_tensor *t, bool f8, struct ex_err *err)
{
	if (t->dtype && (f8 || t->dtype != EXPERTD_F8E4M3))
		return 0;
	return ex_err_set(err, -EINVAL, "'%s': tensor '%s' has dtype %s; F32, BF16%s F16%s can be used here",
		ex_safetensors_file_path(w->files, t->file), t->name, t->dtype_name, f8 ? "," : " and",
		f8 ? " and F8_E4M3" : "");
}

/* t's block scales: F32 [ceil(rows/128), ceil(cols/128)]. */
static int find_scale(
	const struct ex_weights *w, const struct ex_tensor *t, struct ex_err *err, const struct ex_tensor **ret)
{
	char name[512];
	const uint64_t dims[] = {EX_CEIL_DIV(t->dims[0], EX_SCALE_BLOCK), EX_CEIL_DIV(t->dims[1], EX_SCALE_BLOCK)};
	snprintf(name, sizeof name, "%s" EX_SCALE_SUFFIX, t->name);
	const struct ex_tensor *s = ex_safetensors_find(w->files, name);
	if (!s)
		return ex_err_set(err, -EINVAL, "'%s': tensor '%s' is F8_E4M3, and '%s' is missing",
			ex_safetensors_file_path(w->files, t->file), t->name, name);
	if (s->dtype != EXPERTD_F32)
		return ex_err_set(err, -EINVAL, "'%s': tensor '%s' has dtype %s; F32 is needed",
			ex_safetensors_file_path(w->files, s->file), s->name, s->dtype_name);
	int rc = check_shape(w, s, dims, 2, err);
	if (rc == 0)
		*ret = s;
	return rc;
}

struct open_ctx {
	struct ex_weights *w;
	struct ex_err *err;
};

/* Checks one tensor that the config asks for, and counts it. */
static int check_asked(void *ctx, const struct ex_tensor_spec *spec)
{
	struct open_ctx *o = ctx;
	struct ex_weights *w = o->w;
	const struct ex_tensor *t = ex_safetensors_find(w->files, spec->name), *scale = NULL;
	const uint64_t dims[] = {spec->rows, spec->cols};
	bool vector = ex_tensor_is_vector(spec);
	int rc;
	if (!t)
		return ex_err_set(o->err, -EINVAL, "'%s': tensor '%s', which config.json asks for, is missing", w->dir,
			spec->name);
	if ((rc = check_shape(w, t, vector ? dims + 1 : dims, vector ? 1 : 2, o->err)) < 0 ||
		(rc = check_dtype(w, t, spec->role == EX_ROLE_LINEAR, o->err)) < 0)
		return rc;
	if (t->dtype == EXPERTD_F8E4M3 && (rc = find_scale(w, t, o->err, &scale)) < 0)
		return rc;
	uint64_t bytes = t->bytes + (scale ? scale->bytes : 0);
	w->asked[index_of(w, t)] = true;
	if (scale)
		w->asked[index_of(w, scale)] = true;
	w->stat.bytes_total += bytes;
	w->stat.n_params += (uint64_t)spec->rows * spec->cols;
	if (spec->part == EX_PART_EXPERT)
		w->stat.bytes_experts += bytes;
	return 0;
}

/* Tensors that published checkpoints hold beside those that we use: the layers of multi-token prediction, and a table
 * that old conversions wrote out. */
static bool may_ignore(const struct ex_model_config *c, const char *name)
{
	unsigned layer;
	int n = 0;
	const char *end = strstr(name, ".rotary_emb.inv_freq");
	if (end && strcmp(end, ".rotary_emb.inv_freq") == 0)
		return true;
	return sscanf(name, "model.layers.%9u.%n", &layer, &n) == 1 && n && layer >= c->n_layers &&
	       layer < c->n_layers + EX_MAX(c->n_mtp_layers, 1u);
}

static int check_extra(const struct ex_weights *w, struct ex_err *err)
{
	for (size_t i = 0; i < ex_safetensors_count(w->files); i++) {
		const struct ex_tensor *t = ex_safetensors_at(w->files, i);
		if (!w->asked[i] && !may_ignore(&w->config, t->name))
			return ex_err_set(err, -EINVAL,
				"'%s': tensor '%s' has no place in the model that config.json describes",
				ex_safetensors_file_path(w->files, t->file), t->name);
	}
	return 0;
}

static int check_all(struct ex_weights *w, struct ex_err *err)
{
	struct open_ctx o = {.w = w, .err = err};
	size_t n = ex_safetensors_count(w->files);
	w->asked = ex_calloc(n, sizeof *w->asked);
	w->copies = ex_calloc(n, sizeof *w->copies);
	if (!w->asked || !w->copies)
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", w->dir);
	int rc = ex_tensors_each(&w->config, check_asked, &o);
	if (rc < 0 || (rc = check_extra(w, err)) < 0)
		return rc;
	uint64_t n_experts = 0;
	for (uint32_t l = 0; l < w->config.n_layers; l++)
		n_experts += ex_model_layer_is_moe(&w->config, l) ? w->config.n_experts : 0;
	w->stat.bytes_trunk = w->stat.bytes_total - w->stat.bytes_experts;
	w->stat.bytes_per_expert = n_experts ? w->stat.bytes_experts / n_experts : 0;
	w->stat.n_tensors = (uint32_t)n;
	w->stat.n_files = ex_safetensors_n_files(w->files);
	return 0;
}

/* What the forward pass depends on, in a fixed order. Token ids and the context limit are not part of it. */
static void add_config(struct ex_str *t, const struct ex_model_config *c)
{
	ex_str_addf(t, "%s %u %u %u %u %u\n", ex_arch_name(c->arch), c->vocab_size, c->d_model, c->n_layers, c->n_heads,
		c->d_ff);
	ex_str_addf(t, "%u %u %u %u %u\n", c->q_lora_rank, c->kv_lora_rank, c->qk_nope_dim, c->qk_rope_dim, c->v_dim);
	ex_str_addf(t, "%u %u %u %u %u %u\n", c->first_k_dense, c->moe_layer_freq, c->n_experts, c->n_experts_per_tok,
		c->n_shared_experts, c->d_ff_expert);
	ex_str_addf(t, "%u %u %d %d %d %a\n", c->n_group, c->topk_group, c->gate_method, c->gate_score,
		c->norm_topk_prob, (double)c->routed_scale);
	ex_str_addf(
		t, "%a %a %d %d\n", (double)c->rms_norm_eps, (double)c->rope_theta, c->tie_word_embeddings, c->yarn);
	if (c->yarn)
		ex_str_addf(t, "%a %a %a %a %a %u\n", (double)c->yarn_factor, (double)c->yarn_beta_fast,
			(double)c->yarn_beta_slow, (double)c->yarn_mscale, (double)c->yarn_mscale_all_dim,
			c->yarn_n_ctx_original);
}

static bool hash_tensor(EVP_MD_CTX *md, const struct ex_tensor *t)
{
	EX_CLEANUP(ex_str_done) struct ex_str text = EX_STR_INIT;
	const uint8_t *p = t->data;
	size_t n = EX_MIN(t->bytes, (uint64_t)SAMPLE_BYTES);
	ex_str_addf(&text, "%s %s", t->name, t->dtype_name);
	for (uint32_t i = 0; i < t->n_dims; i++)
		ex_str_addf(&text, " %llu", (unsigned long long)t->dims[i]);
	ex_str_add(&text, "\n");
	return !text.oom && EVP_DigestUpdate(md, text.s, text.n) && EVP_DigestUpdate(md, p, n) &&
	       EVP_DigestUpdate(md, p + (t->bytes - n) / 2, n) && EVP_DigestUpdate(md, p + t->bytes - n, n);
}

static int make_digest(struct ex_weights *w, struct ex_err *err)
{
	EX_CLEANUP(ex_str_done) struct ex_str text = EX_STR_INIT;
	uint8_t sum[32];
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	add_config(&text, &w->config);
	/* Three small reads a tensor: read-ahead around each would fetch a good part of the checkpoint. */
	ex_safetensors_scattered(w->files, true);
	bool ok = md && !text.oom && EVP_DigestInit_ex(md, EVP_sha256(), NULL) && EVP_DigestUpdate(md, text.s, text.n);
	for (size_t i = 0; ok && i < ex_safetensors_count(w->files); i++)
		ok = !w->asked[i] || hash_tensor(md, ex_safetensors_at(w->files, i));
	ok = ok && EVP_DigestFinal_ex(md, sum, NULL);
	EVP_MD_CTX_free(md);
	ex_safetensors_scattered(w->files, false);
	if (!ok)
		return ex_err_errno(err, -ENOMEM, "cannot make the digest of '%s'", w->dir);
	ex_hex(sum, sizeof sum, w->digest);
	return 0;
}

int ex_weights_open(const char *dir, struct ex_err *err, struct ex_weights **ret)
{
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = calloc(1, sizeof *w);
	if (!w)
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", dir);
	atomic_init(&w->n_refs, 1);
	ex_lock_init(&w->lock, "weights");
	w->dir = strdup(dir);
	if (!w->dir)
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", dir);
	int rc = ex_model_config_load(dir, err, &w->config);
	if (rc < 0 || (rc = ex_safetensors_open(dir, err, &w->files)) < 0 || (rc = check_all(w, err)) < 0 ||
		(rc = make_digest(w, err)) < 0)
		return rc;
	*ret = EX_TAKE(w);
	return 0;
}

struct ex_weights *ex_weights_ref(struct ex_weights *w)
{
	atomic_fetch_add_explicit(&w->n_refs, 1, memory_order_relaxed);
	return w;
}

struct ex_weights *ex_weights_close(struct ex_weights *w)
{
	/* release what this holder did; the last one acquires it before freeing */
	if (!w || atomic_fetch_sub_explicit(&w->n_refs, 1, memory_order_acq_rel) > 1)
		return NULL;
	for (size_t i = 0; w->copies && i < ex_safetensors_count(w->files); i++)
		free(w->copies[i]);
	free(w->copies);
	free(w->asked);
	free(w->dir);
	ex_safetensors_close(w->files);
	ex_lock_done(&w->lock);
	free(w);
	return NULL;
}

const struct ex_model_config *ex_weights_config(const struct ex_weights *w)
{
	return &w->config;
}

const struct ex_safetensors *ex_weights_files(const struct ex_weights *w)
{
	return w->files;
}

/* t's data at the alignment of its dtype: in the mapping, or a copy made on first use. */
static int aligned_data(struct ex_weights *w, const struct ex_tensor *t, struct ex_err *err, const void **ret)
{
	if ((uintptr_t)t->data % ex_dtype_size(t->dtype) == 0) {
		*ret = t->data;
		return 0;
	}
	ex_lock_take(&w->lock);
	void **copy = &w->copies[index_of(w, t)];
	if (!*copy) {
		*copy = ex_alloc_aligned(t->bytes, 1);
		if (*copy)
			memcpy(*copy, t->data, t->bytes);
	}
	*ret = *copy;
	ex_lock_give(&w->lock);
	if (!*ret)
		return ex_err_errno(err, -ENOMEM, "tensor '%s' needs an aligned copy of %llu bytes", t->name,
			(unsigned long long)t->bytes);
	return 0;
}

static int find_tensor(const struct ex_weights *w, const char *name, struct ex_err *err, const struct ex_tensor **ret)
{
	if (w->config.tie_word_embeddings && strcmp(name, "lm_head.weight") == 0)
		name = "model.embed_tokens.weight";
	*ret = ex_safetensors_find(w->files, name);
	return *ret ? 0 : ex_err_set(err, -ENOENT, "'%s': no tensor '%s'", w->dir, name);
}

int ex_weights_matrix(struct ex_weights *w, const char *name, uint32_t rows, uint32_t cols, struct ex_err *err,
	struct expertd_matrix *ret)
{
	struct expertd_matrix m = {.rows = rows, .cols = cols};
	const uint64_t dims[] = {rows, cols};
	const struct ex_tensor *t, *s;
	const void *scale;
	int rc;
	if ((rc = find_tensor(w, name, err, &t)) < 0 || (rc = check_shape(w, t, dims, 2, err)) < 0 ||
		(rc = check_dtype(w, t, true, err)) < 0 || (rc = aligned_data(w, t, err, &m.data)) < 0)
		return rc;
	m.dtype = t->dtype;
	if (t->dtype == EXPERTD_F8E4M3) {
		if ((rc = find_scale(w, t, err, &s)) < 0 || (rc = aligned_data(w, s, err, &scale)) < 0)
			return rc;
		m.scale = scale;
	}
	*ret = m;
	return 0;
}

int ex_weights_vector(struct ex_weights *w, const char *name, uint32_t n, struct ex_err *err, float *out)
{
	const uint64_t dims[] = {n};
	const struct ex_tensor *t;
	int rc;
	if ((rc = find_tensor(w, name, err, &t)) < 0 || (rc = check_shape(w, t, dims, 1, err)) < 0 ||
		(rc = check_dtype(w, t, false, err)) < 0)
		return rc;
	ex_dtype_to_f32(t->dtype, t->data, n, out);
	return 0;
}

int ex_weights_expert(
	struct ex_weights *w, uint32_t layer, uint32_t expert, struct ex_err *err, struct expertd_ffn *ret)
{
	const struct ex_model_config *c = &w->config;
	struct expertd_ffn f = {.act = EXPERTD_SILU};
	const struct {
		const char *name;
		struct expertd_matrix *m;
		uint32_t rows, cols;
	} part[] = {
		{"gate_proj", &f.gate, c->d_ff_expert, c->d_model},
		{"up_proj", &f.up, c->d_ff_expert, c->d_model},
		{"down_proj", &f.down, c->d_model, c->d_ff_expert},
	};
	char name[EX_TENSOR_NAME_MAX];
	if (layer >= c->n_layers || !ex_model_layer_is_moe(c, layer) || expert >= c->n_experts)
		return ex_err_set(err, -EINVAL, "'%s': no expert %u in layer %u", w->dir, expert, layer);
	for (size_t i = 0; i < EX_ARRAY_LEN(part); i++) {
		snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.%s.weight", layer, expert, part[i].name);
		int rc = ex_weights_matrix(w, name, part[i].rows, part[i].cols, err, part[i].m);
		if (rc < 0)
			return rc;
	}
	*ret = f;
	return 0;
}

/* Gives back the pages that hold [p, p + n); neighbours on the same pages are read again when touched. */
static void drop_pages(const struct ex_weights *w, const void *p, size_t n)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)p / page * page;
	if (n && ex_safetensors_maps(w->files, p, n))
		madvise((void *)begin, (uintptr_t)p + n - begin, MADV_DONTNEED);
}

void ex_weights_forget(struct ex_weights *w, const struct expertd_matrix *m)
{
	size_t bytes = (size_t)m->rows * m->cols * ex_dtype_size(m->dtype);
	drop_pages(w, m->data, bytes);
	if (m->scale)
		drop_pages(w, m->scale, ex_matrix_bytes(m) - bytes);
}

const char *ex_weights_digest(const struct ex_weights *w)
{
	return w->digest;
}

void ex_weights_stat(const struct ex_weights *w, struct ex_weights_stat *ret)
{
	*ret = w->stat;
}
