/* SPDX-License-Identifier: Apache-2.0 */
/* The trunk's ops in scalar C. Weights are widened to f32, sums are taken in double, rows are done one by one. */
#include "ref_ops.h"
#include "base/mem.h"
#include "model/config.h"
#include "trunk/latent.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct ex_dev {
	int unused;
};
struct ex_weight {
	float *w; /* [rows, cols] */
	uint32_t rows, cols;
};

static int ref_open(const struct expertd_host *host, const char *which, struct ex_dev **ret)
{
	(void)host;
	(void)which;
	*ret = calloc(1, sizeof **ret);
	return *ret ? 0 : -ENOMEM;
}

static void ref_close(struct ex_dev *dev)
{
	free(dev);
}

static int ref_buffer_new(struct ex_dev *dev, size_t bytes, void **ret)
{
	(void)dev;
	void *p = ex_alloc_aligned(bytes, 1);
	if (!p)
		return -ENOMEM;
	*ret = memset(p, 0, bytes);
	return 0;
}

static void ref_buffer_free(struct ex_dev *dev, void *p)
{
	(void)dev;
	free(p);
}

static int ref_copy(struct ex_dev *dev, void *dst, const void *src, size_t bytes)
{
	(void)dev;
	memcpy(dst, src, bytes);
	return 0;
}

static int ref_weight_new(struct ex_dev *dev, const struct expertd_matrix *m, struct ex_weight **ret)
{
	(void)dev;
	struct ex_weight *w = calloc(1, sizeof *w);
	if (w)
		w->w = ex_alloc_aligned((size_t)m->rows * m->cols, sizeof *w->w);
	if (!w || !w->w) {
		free(w);
		return -ENOMEM;
	}
	w->rows = m->rows;
	w->cols = m->cols;
	for (uint32_t r = 0; r < m->rows; r++)
		for (uint32_t c = 0; c < m->cols; c++)
			w->w[(size_t)r * m->cols + c] = ex_matrix_at(m, r, c);
	*ret = w;
	return 0;
}

static void ref_weight_free(struct ex_dev *dev, struct ex_weight *w)
{
	(void)dev;
	free(w->w);
	free(w);
}

static double dot(const float *a, const float *b, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

static int ref_linear(
	struct ex_dev *dev, const struct ex_weight *w, const float *x, size_t ldx, float *y, size_t ldy, uint32_t n)
{
	(void)dev;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t r = 0; r < w->rows; r++)
			y[i * ldy + r] = (float)dot(w->w + (size_t)r * w->cols, x + i * ldx, w->cols);
	return 0;
}

static int ref_linear_heads(struct ex_dev *dev, const struct ex_weight *const *w, uint32_t n_heads, const float *x,
	size_t ldx, size_t x_step, float *y, size_t ldy, size_t y_step, uint32_t n)
{
	for (uint32_t h = 0; h < n_heads; h++)
		ref_linear(dev, w[h], x + h * x_step, ldx, y + h * y_step, ldy, n);
	return 0;
}

static int ref_embed(
	struct ex_dev *dev, const struct ex_weight *table, const uint32_t *ids, float *y, uint32_t n, uint32_t d)
{
	(void)dev;
	for (uint32_t i = 0; i < n; i++)
		memcpy(y + (size_t)i * d, table->w + (size_t)ids[i] * d, d * sizeof *y);
	return 0;
}

static int ref_rmsnorm(struct ex_dev *dev, const float *x, size_t ldx, const float *w, float eps, float *out,
	size_t ldo, uint32_t n, uint32_t d)
{
	(void)dev;
	for (uint32_t i = 0; i < n; i++) {
		const float *row = x + i * ldx;
		double scale = 1 / sqrt(dot(row, row, d) / d + (double)eps);
		for (uint32_t j = 0; j < d; j++)
			out[i * ldo + j] = (float)((double)row[j] * scale * (double)w[j]);
	}
	return 0;
}

static int ref_rope(struct ex_dev *dev, const struct ex_rope *r, const uint32_t *pos, float *x, size_t ldx,
	uint32_t n_heads, size_t head_step, uint32_t n, bool interleaved)
{
	(void)dev;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t h = 0; h < n_heads; h++)
			for (uint32_t j = 0; j < r->half; j++) {
				float *v = x + i * ldx + h * head_step;
				float *a = interleaved ? v + 2 * j : v + j,
				      *b = interleaved ? v + 2 * j + 1 : v + j + r->half;
				float c = r->cos[(size_t)pos[i] * r->half + j],
				      s = r->sin[(size_t)pos[i] * r->half + j];
				float va = *a, vb = *b;
				*a = va * c - vb * s;
				*b = vb * c + va * s;
			}
	return 0;
}

static int ref_kv_write(struct ex_dev *dev, float *const *const *pages, const uint32_t *pos, uint32_t page_tokens,
	const float *kv, size_t ldkv, uint32_t n, uint32_t width)
{
	(void)dev;
	for (uint32_t i = 0; i < n; i++)
		memcpy(pages[i][pos[i] / page_tokens] + (size_t)(pos[i] % page_tokens) * width, kv + i * ldkv,
			width * sizeof *kv);
	return 0;
}

static const float *kv_row(const struct ex_mla_batch *b, uint32_t i, uint32_t p)
{
	return b->pages[i][p / b->page_tokens] + (size_t)(p % b->page_tokens) * (b->kv_lora_rank + b->rope_dim);
}

/* Row i, head h: softmax over positions 0..pos, then the weighted latents. */
static int attend_head(const struct ex_mla_batch *b, uint32_t i, uint32_t h)
{
	uint32_t n = b->pos[i] + 1, rank = b->kv_lora_rank;
	size_t lat = ((size_t)i * b->n_heads + h) * rank;
	const float *q_rope = b->q_rope + i * b->ldq_rope + h * b->q_rope_step;
	double max = -INFINITY, sum = 0;
	double *score = calloc(n, sizeof *score);
	if (!score)
		return -ENOMEM;
	for (uint32_t p = 0; p < n; p++) {
		const float *kv = kv_row(b, i, p);
		score[p] = (dot(b->q_lat + lat, kv, rank) + dot(q_rope, kv + rank, b->rope_dim)) * (double)b->scale;
		max = fmax(max, score[p]);
	}
	for (uint32_t p = 0; p < n; p++)
		sum += score[p] = exp(score[p] - max);
	for (uint32_t j = 0; j < rank; j++) {
		double out = 0;
		for (uint32_t p = 0; p < n; p++)
			out += score[p] * (double)kv_row(b, i, p)[j];
		b->out_lat[lat + j] = (float)(out / sum);
	}
	free(score);
	return 0;
}

static int ref_mla(struct ex_dev *dev, const struct ex_mla_batch *b)
{
	(void)dev;
	int rc = 0;
	for (uint32_t i = 0; i < b->n && !rc; i++)
		for (uint32_t h = 0; h < b->n_heads && !rc; h++)
			rc = attend_head(b, i, h);
	return rc;
}

/* The gate's sums go in f32 or wider; ties fall to the lowest expert or group. */
static void score_experts(const struct ex_gate_batch *b, const float *logits, float *score)
{
	double max = -INFINITY, sum = 0;
	for (uint32_t e = 0; e < b->n_experts; e++)
		max = fmax(max, logits[e]);
	for (uint32_t e = 0; e < b->n_experts; e++)
		sum += exp(logits[e] - max);
	for (uint32_t e = 0; e < b->n_experts; e++)
		score[e] = b->score == EX_SCORE_SIGMOID ? (float)(1 / (1 + exp(-(double)logits[e])))
							: (float)(exp(logits[e] - max) / sum);
}

static float group_score(const struct ex_gate_batch *b, const float *choice, uint32_t g)
{
	uint32_t width = b->n_experts / b->n_group;
	float best = -INFINITY, second = -INFINITY;
	for (uint32_t e = g * width; e < (g + 1) * width; e++)
		if (choice[e] > best) {
			second = best;
			best = choice[e];
		} else if (choice[e] > second) {
			second = choice[e];
		}
	return b->method == EX_GATE_NOAUX_TC ? best + second : best;
}

/* Marks the k greatest of v[0..n) in chosen. */
static void mark_top(const float *v, uint32_t n, uint32_t k, uint8_t *chosen)
{
	memset(chosen, 0, n);
	for (uint32_t j = 0; j < k; j++) {
		uint32_t best = UINT32_MAX;
		for (uint32_t i = 0; i < n; i++)
			if (!chosen[i] && (best == UINT32_MAX || v[i] > v[best]))
				best = i;
		chosen[best] = 1;
	}
}

static void gate_row(const struct ex_gate_batch *b, uint32_t row)
{
	assert(b->n_experts && b->k && b->k <= b->n_experts);
	float score[EX_MODEL_EXPERTS_MAX], choice[EX_MODEL_EXPERTS_MAX] = {0}, groups[EX_MODEL_EXPERTS_MAX];
	uint8_t chosen[EX_MODEL_EXPERTS_MAX];
	uint32_t k = 0;
	double sum = 0;
	score_experts(b, b->logits + (size_t)row * b->n_experts, score);
	for (uint32_t e = 0; e < b->n_experts; e++)
		choice[e] = score[e] + (b->bias ? b->bias[e] : 0);
	if (b->method != EX_GATE_GREEDY) {
		for (uint32_t g = 0; g < b->n_group; g++)
			groups[g] = group_score(b, choice, g);
		mark_top(groups, b->n_group, b->topk_group, chosen);
		for (uint32_t e = 0; e < b->n_experts; e++)
			if (!chosen[e / (b->n_experts / b->n_group)])
				choice[e] = b->method == EX_GATE_NOAUX_TC ? -INFINITY : 0;
	}
	mark_top(choice, b->n_experts, b->k, chosen);
	uint32_t *ids = b->ids + (size_t)row * b->k;
	float *weights = b->weights + (size_t)row * b->k;
	for (uint32_t e = 0; e < b->n_experts; e++)
		if (chosen[e]) {
			ids[k] = e;
			weights[k++] = score[e];
			sum += (double)score[e];
		}
	/* V2 either normalises (more than one) or scales, V3 does both */
	bool is_v3 = b->method == EX_GATE_NOAUX_TC, norm = b->norm_topk_prob && (is_v3 || b->k > 1);
	for (uint32_t j = 0; j < b->k; j++) {
		if (norm)
			weights[j] = (float)((double)weights[j] / (sum + 1e-20));
		if (is_v3 || !norm)
			weights[j] *= b->routed_scale;
	}
}

static int ref_gate(struct ex_dev *dev, const struct ex_gate_batch *b)
{
	(void)dev;
	for (uint32_t i = 0; i < b->n; i++)
		gate_row(b, i);
	return 0;
}

static int ref_swiglu(struct ex_dev *dev, const float *gate, const float *up, float *out, uint32_t n, uint32_t d)
{
	(void)dev;
	for (size_t i = 0; i < (size_t)n * d; i++)
		out[i] = (float)((double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i]);
	return 0;
}

static int ref_add(struct ex_dev *dev, const float *x, float *y, size_t n)
{
	(void)dev;
	for (size_t i = 0; i < n; i++)
		y[i] += x[i];
	return 0;
}

const struct ex_ops ref_ops = {
	.version = EX_OPS_VERSION,
	.size = sizeof(struct ex_ops),
	.name = "reference",
	.open = ref_open,
	.close = ref_close,
	.buffer_new = ref_buffer_new,
	.buffer_free = ref_buffer_free,
	.upload = ref_copy,
	.download = ref_copy,
	.weight_new = ref_weight_new,
	.weight_free = ref_weight_free,
	.linear = ref_linear,
	.linear_heads = ref_linear_heads,
	.embed = ref_embed,
	.rmsnorm = ref_rmsnorm,
	.rope = ref_rope,
	.kv_write = ref_kv_write,
	.mla = ref_mla,
	.gate = ref_gate,
	.swiglu = ref_swiglu,
	.add = ref_add,
};
