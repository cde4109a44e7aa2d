/* SPDX-License-Identifier: Apache-2.0 */
/* The cpu plugin's trunk backend: trunk/ops.h over the kernels. Device memory is host memory. */
#include "trunk/ops.h"

#include "build/id.h"
#include "device.h"
#include "gate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GATE_ROWS   16    /* rows of one task of gate */
#define TASK_FLOATS 16384 /* elements of one task of the element-wise ops */

struct ex_dev {
	struct device d;
};

struct ex_weight {
	struct ex_packed p; /* first: an ex_weight * is an ex_packed * */
};

static int cpu_dev_open(const struct expertd_host *host, const char *which, struct ex_dev **ret)
{
	struct ex_dev *dev = calloc(1, sizeof *dev);
	if (!dev)
		return -ENOMEM;
	int rc = device_init(&dev->d, host, which);
	if (rc < 0) {
		free(dev);
		return rc;
	}
	*ret = dev;
	return 0;
}

static void cpu_dev_close(struct ex_dev *dev)
{
	device_done(&dev->d);
	free(dev);
}

static int cpu_buffer_new(struct ex_dev *dev, size_t bytes, void **ret)
{
	(void)dev;
	void *p = weights_alloc(bytes ? bytes : 1);
	if (!p)
		return -ENOMEM;
	memset(p, 0, bytes);
	*ret = p;
	return 0;
}

static void cpu_buffer_free(struct ex_dev *dev, void *p)
{
	(void)dev;
	free(p);
}

static int cpu_copy(struct ex_dev *dev, void *dst, const void *src, size_t bytes)
{
	(void)dev;
	memcpy(dst, src, bytes);
	return 0;
}

static int cpu_weight_new(struct ex_dev *dev, const struct expertd_matrix *m, struct ex_weight **ret)
{
	int rc = check_matrix(m);
	if (rc < 0)
		return rc;
	struct ex_weight *w = calloc(1, sizeof *w);
	if (!w)
		return -ENOMEM;
	uint8_t *data = weights_alloc(dev->d.k->shape(m, &w->p));
	w->p.data = data;
	rc = data ? dev->d.k->pack(m, &w->p) : -ENOMEM;
	if (rc < 0) {
		free(data);
		free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

static void cpu_weight_free(struct ex_dev *dev, struct ex_weight *w)
{
	(void)dev;
	if (w)
		free(w->p.data);
	free(w);
}

static int cpu_linear_heads(struct ex_dev *dev, const struct ex_weight *const *w, uint32_t n_heads, const float *x,
	size_t ldx, size_t x_step, float *y, size_t ldy, size_t y_step, uint32_t n)
{
	const struct linear l = {
		.w = (const struct ex_packed *const *)w,
		.n_heads = n_heads,
		.n = n,
		.x = x,
		.ldx = ldx,
		.x_step = x_step,
		.y = y,
		.ldy = ldy,
		.y_step = y_step,
	};
	return linear_run(&dev->d, &l);
}

static int cpu_linear(
	struct ex_dev *dev, const struct ex_weight *w, const float *x, size_t ldx, float *y, size_t ldy, uint32_t n)
{
	return cpu_linear_heads(dev, &w, 1, x, ldx, 0, y, ldy, 0, n);
}

static int cpu_embed(
	struct ex_dev *dev, const struct ex_weight *table, const uint32_t *ids, float *y, uint32_t n, uint32_t d)
{
	if (d != table->p.cols)
		return -EINVAL;
	for (uint32_t i = 0; i < n; i++)
		if (ids[i] >= table->p.rows)
			return -EINVAL;
	for (uint32_t i = 0; i < n; i++)
		dev->d.k->unpack_row(&table->p, ids[i], y + (size_t)i * d);
	return 0;
}

struct rows_job {
	const struct ex_kernels *k;
	const float *x, *w;
	float *out;
	size_t ldx, ldo, d;
	float eps;
	uint32_t n, rows_per_task;
};

static void rmsnorm_rows(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct rows_job *j = ctx;
	uint32_t first = task * j->rows_per_task,
		 last = j->n - first < j->rows_per_task ? j->n : first + j->rows_per_task;
	for (size_t i = first; i < last; i++)
		j->k->rmsnorm(j->x + i * j->ldx, j->w, j->eps, j->out + i * j->ldo, j->d);
}

static int cpu_rmsnorm(struct ex_dev *dev, const float *x, size_t ldx, const float *w, float eps, float *out,
	size_t ldo, uint32_t n, uint32_t d)
{
	struct rows_job j = {
		.k = dev->d.k, .x = x, .w = w, .out = out, .ldx = ldx, .ldo = ldo, .d = d, .eps = eps, .n = n};
	j.rows_per_task = d < TASK_FLOATS ? TASK_FLOATS / (d ? d : 1) : 1;
	pool_run(dev->d.pool, (n + j.rows_per_task - 1) / j.rows_per_task, rmsnorm_rows, &j);
	return 0;
}

static int cpu_rope(struct ex_dev *dev, const struct ex_rope *r, const uint32_t *pos, float *x, size_t ldx,
	uint32_t n_heads, size_t head_step, uint32_t n, bool interleaved)
{
	for (size_t i = 0; i < n; i++)
		for (size_t h = 0; h < n_heads; h++)
			dev->d.k->rope(x + i * ldx + h * head_step, r->cos + (size_t)pos[i] * r->half,
				r->sin + (size_t)pos[i] * r->half, r->half, interleaved);
	return 0;
}

static int cpu_kv_write(struct ex_dev *dev, float *const *const *pages, const uint32_t *pos, uint32_t page_tokens,
	const float *kv, size_t ldkv, uint32_t n, uint32_t width)
{
	(void)dev;
	for (size_t i = 0; i < n; i++)
		memcpy(pages[i][pos[i] / page_tokens] + (size_t)(pos[i] % page_tokens) * width, kv + i * ldkv,
			width * sizeof *kv);
	return 0;
}

struct mla_job {
	const struct ex_kernels *k;
	const struct ex_mla_batch *b;
	float *scratch;
	size_t scratch_step;
	uint32_t parts; /* of one row */
};

static void mla_part(void *ctx, uint32_t task, unsigned worker)
{
	const struct mla_job *j = ctx;
	const struct ex_mla_batch *b = j->b;
	/* later rows of a prompt see more positions: the long ones go first, so that no thread ends alone with one */
	size_t i = b->n - 1 - task / j->parts, h = task % j->parts * j->k->mla_heads;
	const struct ex_mla_part a = {
		.q_lat = b->q_lat + (i * b->n_heads + h) * b->kv_lora_rank,
		.q_rope = b->q_rope + i * b->ldq_rope + h * b->q_rope_step,
		.q_rope_step = b->q_rope_step,
		.out = b->out_lat + (i * b->n_heads + h) * b->kv_lora_rank,
		.pages = b->pages[i],
		.scratch = j->scratch + worker * j->scratch_step,
		.n_heads = b->n_heads - h < j->k->mla_heads ? (uint32_t)(b->n_heads - h) : j->k->mla_heads,
		.n_pos = b->pos[i] + 1,
		.rank = b->kv_lora_rank,
		.rope = b->rope_dim,
		.page_tokens = b->page_tokens,
		.scale = b->scale,
	};
	j->k->mla(&a);
}

static int cpu_mla(struct ex_dev *dev, const struct ex_mla_batch *b)
{
	struct mla_job j = {.k = dev->d.k, .b = b};
	j.scratch_step = (j.k->mla_scratch(b->kv_lora_rank, b->rope_dim) + 63) & ~(size_t)63;
	j.parts = (b->n_heads + j.k->mla_heads - 1) / j.k->mla_heads;
	struct scratch *s = device_take(&dev->d, j.scratch_step * dev->d.n_threads);
	if (!s)
		return -ENOMEM;
	j.scratch = s->mem;
	pool_run(dev->d.pool, b->n * j.parts, mla_part, &j);
	device_give(&dev->d, s);
	return 0;
}

struct gate_job {
	const struct ex_kernels *k;
	const struct ex_gate_batch *b;
	float *scratch;
};

static void gate_rows(void *ctx, uint32_t task, unsigned worker)
{
	const struct gate_job *j = ctx;
	for (uint32_t i = task * GATE_ROWS; i < j->b->n && i < (task + 1) * GATE_ROWS; i++)
		gate_row(j->k, j->b, i, j->scratch + worker * GATE_SCRATCH(j->b->n_experts));
}

static int cpu_gate(struct ex_dev *dev, const struct ex_gate_batch *b)
{
	int rc = gate_check(b);
	if (rc < 0)
		return rc;
	struct scratch *s = device_take(&dev->d, GATE_SCRATCH(b->n_experts) * dev->d.n_threads);
	if (!s)
		return -ENOMEM;
	struct gate_job j = {.k = dev->d.k, .b = b, .scratch = s->mem};
	pool_run(dev->d.pool, (b->n + GATE_ROWS - 1) / GATE_ROWS, gate_rows, &j);
	device_give(&dev->d, s);
	return 0;
}

struct flat_job {
	const struct ex_kernels *k;
	const float *a, *b;
	float *out;
	size_t n;
};

static void swiglu_flat(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct flat_job *j = ctx;
	size_t first = (size_t)task * TASK_FLOATS, n = j->n - first < TASK_FLOATS ? j->n - first : TASK_FLOATS;
	j->k->silu_mul(j->a + first, j->b + first, j->out + first, n);
}

static int cpu_swiglu(struct ex_dev *dev, const float *gate, const float *up, float *out, uint32_t n, uint32_t d)
{
	struct flat_job j = {.k = dev->d.k, .a = gate, .b = up, .out = out, .n = (size_t)n * d};
	pool_run(dev->d.pool, (uint32_t)((j.n + TASK_FLOATS - 1) / TASK_FLOATS), swiglu_flat, &j);
	return 0;
}

static int cpu_add(struct ex_dev *dev, const float *x, float *y, size_t n)
{
	dev->d.k->add(x, y, n);
	return 0;
}

const struct ex_ops expertd_trunk = {
	.version = EX_OPS_VERSION,
	.size = sizeof(struct ex_ops),
	.build = EX_BUILD,
	.name = cpu_name,
	.open = cpu_dev_open,
	.close = cpu_dev_close,
	.buffer_new = cpu_buffer_new,
	.buffer_free = cpu_buffer_free,
	.upload = cpu_copy,
	.download = cpu_copy,
	.weight_new = cpu_weight_new,
	.weight_free = cpu_weight_free,
	.linear = cpu_linear,
	.linear_heads = cpu_linear_heads,
	.embed = cpu_embed,
	.rmsnorm = cpu_rmsnorm,
	.rope = cpu_rope,
	.kv_write = cpu_kv_write,
	.mla = cpu_mla,
	.gate = cpu_gate,
	.swiglu = cpu_swiglu,
	.add = cpu_add,
};
