/* SPDX-License-Identifier: Apache-2.0 */
/* The cpu plugin: experts on the machine's processors, in the best instruction set that it has.
 *
 * A run goes in three loops: rows are gathered and interleaved by expert; gate and up panels give the hidden rows; down
 * panels, taken expert after expert, are added to y. A task of the last loop owns its columns of y, so that the sum
 * over experts ascends without locks. */
#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DOWN_PANELS 4 /* panels of one task: its partial sums stay on the stack */

struct expertd_device {
	struct device d;
};

struct expert {
	struct ex_packed gate, up, down;
};

struct expertd_shard {
	struct device *d;
	uint32_t n_experts, d_model, d_ff;
	uint8_t *weights;
	uint32_t *active; /* [n_experts]: experts with rows, of the run in progress */
	struct expert expert[];
};

static int cpu_probe(const char **ret_why)
{
	const struct ex_kernels *k = ex_kernels_get(NULL, ret_why);
	if (!k)
		return 0;
	name_isa(k->isa);
	return strcmp(k->isa, "avx512") == 0 ? 30 : strcmp(k->isa, "avx2") == 0 ? 20 : 10;
}

static int cpu_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	struct expertd_device *dev = calloc(1, sizeof *dev);
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

static void cpu_close(struct expertd_device *dev)
{
	device_done(&dev->d);
	free(dev);
}

static int check_ffn(const struct expertd_ffn *f, uint32_t d_ff, uint32_t d_model)
{
	const struct expertd_matrix *m[] = {&f->gate, &f->up, &f->down};
	if (f->act != EXPERTD_SILU)
		return -ENOTSUP;
	for (int i = 0; i < 3; i++) {
		int rc = check_matrix(m[i]);
		if (rc < 0)
			return rc;
		if (m[i]->rows != (i < 2 ? d_ff : d_model) || m[i]->cols != (i < 2 ? d_model : d_ff))
			return -ENOTSUP;
	}
	return 0;
}

static size_t aligned(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

static size_t shape_expert(const struct ex_kernels *k, const struct expertd_ffn *f, struct expert *x)
{
	return aligned(k->shape(&f->gate, &x->gate)) + aligned(k->shape(&f->up, &x->up)) +
	       aligned(k->shape(&f->down, &x->down));
}

static int pack_expert(const struct ex_kernels *k, const struct expertd_ffn *f, struct expert *x, uint8_t *mem)
{
	struct ex_packed ignored;
	x->gate.data = mem;
	x->up.data = x->gate.data + aligned(k->shape(&f->gate, &ignored));
	x->down.data = x->up.data + aligned(k->shape(&f->up, &ignored));
	int rc = k->pack(&f->gate, &x->gate);
	if (rc == 0)
		rc = k->pack(&f->up, &x->up);
	return rc == 0 ? k->pack(&f->down, &x->down) : rc;
}

static void cpu_unload(struct expertd_shard *s)
{
	free(s->weights);
	free(s->active);
	free(s);
}

static int cpu_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	if (!dev || !experts || !n_experts)
		return -EINVAL;
	const struct ex_kernels *k = dev->d.k;
	uint32_t d_ff = experts[0].gate.rows, d_model = experts[0].gate.cols;
	size_t bytes = 0, used = 0;
	struct expertd_shard *s = calloc(1, sizeof *s + n_experts * sizeof s->expert[0]);
	if (!s)
		return -ENOMEM;
	*s = (struct expertd_shard){.d = &dev->d, .n_experts = n_experts, .d_model = d_model, .d_ff = d_ff};
	int rc = 0;
	for (uint32_t e = 0; e < n_experts && rc == 0; e++) {
		rc = check_ffn(&experts[e], d_ff, d_model);
		if (rc == 0)
			bytes += shape_expert(k, &experts[e], &s->expert[e]);
	}
	if (rc == 0) {
		s->weights = weights_alloc(bytes);
		s->active = calloc(n_experts, sizeof *s->active);
		rc = s->weights && s->active ? 0 : -ENOMEM;
	}
	for (uint32_t e = 0; e < n_experts && rc == 0; e++) {
		struct expert shape;
		rc = pack_expert(k, &experts[e], &s->expert[e], s->weights + used);
		used += shape_expert(k, &experts[e], &shape);
	}
	if (rc < 0) {
		cpu_unload(s);
		return rc;
	}
	*ret = s;
	return 0;
}

/* One run(). Assignment a's rows of x and h stand in the block of tile_rows that it falls in, counted from its expert's
 * first. */
struct job {
	struct expertd_shard *s;
	const struct expertd_batch *b;
	float *x; /* [n_assignments * d_model]: blocks of interleaved rows */
	float *h; /* [n_assignments * d_ff]: the same of silu(gate) * up */
	uint32_t n_active, tasks_per_expert, panels;
};

struct block {
	uint32_t first, m; /* assignments */
};

static bool next_block(const struct job *j, uint32_t expert, struct block *k)
{
	uint32_t end = j->b->offset[expert + 1], rows = j->s->d->k->tile_rows;
	k->first += k->m;
	k->m = end - k->first < rows ? end - k->first : rows;
	return k->m > 0;
}

#define EACH_BLOCK(j, expert, k) for (struct block k = {.first = (j)->b->offset[expert]}; next_block(j, expert, &k);)

static void gather(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct job *j = ctx;
	uint32_t e = j->s->active[task], d = j->s->d_model;
	EACH_BLOCK(j, e, k)
	{
		float *out = j->x + (size_t)k.first * d;
		for (uint32_t i = 0; i < k.m; i++) {
			size_t at = (size_t)j->b->token[k.first + i] * d;
			if (j->b->x_dtype == EXPERTD_BF16)
				ex_spread_bf16((const uint16_t *)j->b->x + at, d, out + i, k.m);
			else
				ex_spread((const float *)j->b->x + at, d, out + i, k.m);
		}
	}
}

static void hidden(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct job *j = ctx;
	const struct ex_kernels *kernels = j->s->d->k;
	uint32_t e = j->s->active[task / j->tasks_per_expert], first = task % j->tasks_per_expert * j->panels;
	const struct expert *x = &j->s->expert[e];
	uint32_t last = first + j->panels < x->gate.n_panels ? first + j->panels : x->gate.n_panels;
	float gate[EX_TILE_ROWS_MAX * DOWN_PANELS * EX_PANEL_MAX], up[EX_TILE_ROWS_MAX * DOWN_PANELS * EX_PANEL_MAX];
	EACH_BLOCK(j, e, k)
	for (uint32_t p = first; p < last; p += DOWN_PANELS) {
		uint32_t n_panels = last - p < DOWN_PANELS ? last - p : DOWN_PANELS, f0 = p * kernels->panel,
			 width = n_panels * kernels->panel;
		uint32_t n = j->s->d_ff - f0 < width ? j->s->d_ff - f0 : width;
		const float *in = j->x + (size_t)k.first * j->s->d_model;
		kernels->tile(&x->gate, p, n_panels, in, k.m, gate, width);
		kernels->tile(&x->up, p, n_panels, in, k.m, up, width);
		kernels->silu_mul(gate, up, gate, (size_t)k.m * width);
		for (uint32_t i = 0; i < k.m; i++)
			ex_spread(gate + (size_t)i * width, n,
				j->h + (size_t)k.first * j->s->d_ff + (size_t)f0 * k.m + i, k.m);
	}
}

static void reduce(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct job *j = ctx;
	const struct expertd_batch *b = j->b;
	const struct ex_kernels *kernels = j->s->d->k;
	uint32_t d = j->s->d_model, p = task * DOWN_PANELS, n_all = j->s->expert[0].down.n_panels;
	uint32_t n_panels = n_all - p < DOWN_PANELS ? n_all - p : DOWN_PANELS, width = n_panels * kernels->panel,
		 c0 = p * kernels->panel;
	uint32_t n = d - c0 < width ? d - c0 : width;
	float part[EX_TILE_ROWS_MAX * DOWN_PANELS * EX_PANEL_MAX];
	for (uint32_t t = 0; t < b->n_tokens; t++)
		memset(b->y + (size_t)t * d + c0, 0, n * sizeof *b->y);
	for (uint32_t i = 0; i < j->n_active; i++) {
		uint32_t e = j->s->active[i];
		EACH_BLOCK(j, e, k)
		{
			kernels->tile(&j->s->expert[e].down, p, n_panels, j->h + (size_t)k.first * j->s->d_ff, k.m,
				part, width);
			for (uint32_t r = 0; r < k.m; r++)
				kernels->add_scaled(b->weight[k.first + r], part + (size_t)r * width,
					b->y + (size_t)b->token[k.first + r] * d + c0, n);
		}
	}
}

static int cpu_run(struct expertd_shard *s, const struct expertd_batch *b)
{
	if (b->n_experts != s->n_experts || (b->x_dtype != EXPERTD_F32 && b->x_dtype != EXPERTD_BF16))
		return -EINVAL;
	struct job j = {.s = s, .b = b};
	for (uint32_t e = 0; e < s->n_experts; e++)
		if (b->offset[e] < b->offset[e + 1])
			s->active[j.n_active++] = e;
	size_t x_floats = aligned((size_t)b->n_assignments * s->d_model), h_floats = (size_t)b->n_assignments * s->d_ff;
	struct scratch *mem = device_take(s->d, x_floats + h_floats);
	if (!mem)
		return -ENOMEM;
	j.x = mem->mem;
	j.h = mem->mem + x_floats;
	const struct ex_packed *gate = &s->expert[0].gate;
	j.panels = panels_per_task(s->d, gate, (uint64_t)gate->n_panels * j.n_active);
	j.tasks_per_expert = (gate->n_panels + j.panels - 1) / j.panels;
	struct pool *pool = (uint64_t)b->n_assignments * s->d_model * s->d_ff < WORTH_MACS ? NULL : s->d->pool;
	pool_run(b->n_assignments < 64 ? NULL : pool, j.n_active, gather, &j);
	pool_run(pool, j.n_active * j.tasks_per_expert, hidden, &j);
	pool_run(pool, (s->expert[0].down.n_panels + DOWN_PANELS - 1) / DOWN_PANELS, reduce, &j);
	device_give(s->d, mem);
	return 0;
}

const struct expertd_plugin expertd_plugin = {
	.abi_major = EXPERTD_ABI_MAJOR,
	.abi_minor = EXPERTD_ABI_MINOR,
	.size = sizeof(struct expertd_plugin),
	.name = "cpu",
	.version = cpu_version,
	.flags = EXPERTD_UNLOADABLE | EXPERTD_BATCH_INVARIANT,
	.probe = cpu_probe,
	.open = cpu_open,
	.load = cpu_load,
	.run = cpu_run,
	.unload = cpu_unload,
	.close = cpu_close,
};
