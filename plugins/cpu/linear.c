/* SPDX-License-Identifier: Apache-2.0 */
/* Linear maps over packed weights: rows in blocks of a tile, interleaved once; then tasks of a few panels over all row
 * blocks. */
#include "device.h"

#include <errno.h>
#include <string.h>

#define TASK_BYTES    ((size_t)128 << 10) /* weights of one task: a part of the second-level cache */
#define TASKS_PER_CPU 4
#define PANELS_WIDE   4 /* a tile takes at most so many panels side by side */

uint32_t panels_per_task(const struct device *d, const struct ex_packed *w, uint64_t n_panels)
{
	uint64_t by_cache = TASK_BYTES / w->panel_bytes, by_share = n_panels / ((uint64_t)d->n_threads * TASKS_PER_CPU);
	uint64_t n = by_cache;
	if (d->n_threads > 1 && by_share < n)
		n = by_share;
	n = (n + PANELS_WIDE - 1) / PANELS_WIDE * PANELS_WIDE;
	return n < PANELS_WIDE ? PANELS_WIDE : (uint32_t)n;
}

struct job {
	const struct device *d;
	const struct linear *l;
	float *blocks; /* [n_heads][n * cols]: each head's rows, interleaved block by block */
	uint32_t tile_rows, n_blocks, panels, tasks_per_head;
};

static void pack_block(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct job *j = ctx;
	const struct linear *l = j->l;
	uint32_t head = task / j->n_blocks, first = task % j->n_blocks * j->tile_rows;
	size_t cols = l->w[head]->cols;
	uint32_t m = l->n - first < j->tile_rows ? l->n - first : j->tile_rows;
	float *block = j->blocks + ((size_t)head * l->n + first) * cols;
	for (uint32_t i = 0; i < m; i++)
		ex_spread(l->x + (first + i) * l->ldx + head * l->x_step, cols, block + i, m);
}

/* Panels first.. of one head for one block of rows. The last panel may be wider than the matrix: it goes by way of
 * `wide`. */
static void put_block(const struct job *j, const struct ex_packed *w, uint32_t first, uint32_t n_panels, const float *x,
	uint32_t m, float *y)
{
	const struct ex_kernels *k = j->d->k;
	size_t ldy = j->l->ldy;
	uint32_t whole = n_panels;
	if (((uint64_t)first + n_panels) * k->panel > w->rows)
		whole--;
	if (whole)
		k->tile(w, first, whole, x, m, y + (size_t)first * k->panel, ldy);
	if (whole < n_panels) {
		float wide[EX_TILE_ROWS_MAX * EX_PANEL_MAX];
		size_t column = (size_t)(first + whole) * k->panel;
		k->tile(w, first + whole, 1, x, m, wide, k->panel);
		for (uint32_t i = 0; i < m; i++)
			memcpy(y + i * ldy + column, wide + i * k->panel, (w->rows - column) * sizeof *y);
	}
}

static void multiply(void *ctx, uint32_t task, unsigned worker)
{
	(void)worker;
	const struct job *j = ctx;
	const struct linear *l = j->l;
	uint32_t head = task / j->tasks_per_head, first = task % j->tasks_per_head * j->panels;
	const struct ex_packed *w = l->w[head];
	uint32_t n_panels = w->n_panels - first < j->panels ? w->n_panels - first : j->panels;
	for (uint32_t i = 0; i < l->n; i += j->tile_rows) {
		uint32_t m = l->n - i < j->tile_rows ? l->n - i : j->tile_rows;
		const float *x = j->blocks ? j->blocks + ((size_t)head * l->n + i) * w->cols : l->x + head * l->x_step;
		put_block(j, w, first, n_panels, x, m, l->y + i * l->ldy + head * l->y_step);
	}
}

int linear_run(struct device *d, const struct linear *l)
{
	if (l->n == 0 || l->n_heads == 0)
		return 0;
	const struct ex_packed *w = l->w[0];
	uint64_t macs = (uint64_t)w->rows * w->cols * l->n * l->n_heads;
	struct pool *pool = macs < WORTH_MACS ? NULL : d->pool;
	struct scratch *s = NULL;
	struct job j = {
		.d = d,
		.l = l,
		.tile_rows = d->k->tile_rows,
		.n_blocks = (l->n + d->k->tile_rows - 1) / d->k->tile_rows,
		.panels = panels_per_task(d, w, (uint64_t)w->n_panels * l->n_heads),
	};
	j.tasks_per_head = (w->n_panels + j.panels - 1) / j.panels;
	if (l->n > 1) { /* one row is its own interleaved form */
		s = device_take(d, (size_t)l->n_heads * l->n * w->cols);
		if (!s)
			return -ENOMEM;
		j.blocks = s->mem;
		pool_run(pool, l->n_heads * j.n_blocks, pack_block, &j);
	}
	pool_run(pool, l->n_heads * j.tasks_per_head, multiply, &j);
	if (s)
		device_give(d, s);
	return 0;
}
