/* SPDX-License-Identifier: Apache-2.0 */
/* The math of the cpu plugin: one set of C bodies, compiled once for each instruction set, behind a table chosen at run
 * time.
 *
 * Every output is one accumulator, its terms added in ascending order, in f32. So the bits of a row depend neither on
 * the other rows, nor on how the work is cut into tiles or shared among threads. They do depend on the instruction set
 * (fused multiply-add or not). Nothing here allocates, locks or keeps state: all functions are [any]. */
#ifndef EX_KERNELS_CPU_KERNELS_H
#define EX_KERNELS_CPU_KERNELS_H

#include "expertd/plugin.h"
#include <stdbool.h>

#define EX_PANEL_MAX     32  /* widest panel of any instruction set */
#define EX_TILE_ROWS_MAX 8   /* most rows of a tile of any instruction set */
#define EX_F8_BLOCK      128 /* F8E4M3 weights have one scale for each 128 x 128 block */
#define EX_MLA_BLOCK     32  /* positions per step of the running softmax; fixed, counted from position 0 */

/* A matrix in the kernels' layout: panels of `panel` outputs, for each k one line of `panel` weights in their storage
 * form, so that a panel is read front to back, once. Outputs beyond `rows` in the last panel are zero. */
struct ex_packed {
	uint8_t *data; /* [n_panels][cols][panel], 64-byte aligned */
	float *scale;  /* F8E4M3: [ceil(rows/128), ceil(cols/128)], times 2^8 (see vec.h); else NULL */
	size_t panel_bytes;
	uint32_t rows, cols, n_panels, dtype;
};

/* One row of q, a few heads of it, over the KV rows of one sequence. Shapes as struct ex_mla_batch in trunk/ops.h. */
struct ex_mla_part {
	const float *q_lat;  /* [n_heads, rank] */
	const float *q_rope; /* [rope] of head h at q_rope + h * q_rope_step */
	size_t q_rope_step;
	float *out;          /* [n_heads, rank] */
	float *const *pages; /* page p holds positions p * page_tokens.. as rows of rank + rope floats */
	float *scratch;      /* mla_scratch(rank, rope) floats, 64-byte aligned */
	uint32_t n_heads;    /* <= mla_heads */
	uint32_t n_pos;      /* positions 0..n_pos - 1 */
	uint32_t rank, rope, page_tokens;
	float scale;
};

struct ex_kernels {
	const char *isa;    /* "generic", "avx2", "avx512" */
	uint32_t panel;     /* outputs per panel */
	uint32_t tile_rows; /* most rows per tile, <= EX_TILE_ROWS_MAX */
	uint32_t mla_heads; /* most heads per ex_mla_part */

	/* Fills p->rows .. p->dtype for m; returns the bytes that pack() wants at p->data, scales included. */
	size_t (*shape)(const struct expertd_matrix *m, struct ex_packed *p);
	/* Repacks m, which may lie at any alignment, to p->data (set by the caller after shape). -EINVAL: an F8E4M3
	 * weight is NaN. */
	int (*pack)(const struct expertd_matrix *m, struct ex_packed *p);
	/* Row r of the matrix, widened (F8E4M3: scaled): out [cols]. */
	void (*unpack_row)(const struct ex_packed *p, uint32_t r, float *out);
	/* out[i * ldo + j] = sum over k of W[first * panel + j][k] * x[k * m + i], for i < m <= tile_rows, j < n_panels
	 * * panel. x: m rows interleaved (ex_spread below). */
	void (*tile)(const struct ex_packed *w, uint32_t first, uint32_t n_panels, const float *x, uint32_t m,
		float *out, size_t ldo);

	/* out[i] = silu(gate[i]) * up[i]; out may be gate or up. */
	void (*silu_mul)(const float *gate, const float *up, float *out, size_t n);
	void (*exp)(const float *x, float *out, size_t n); /* out may be x */
	/* x[i] = exp(x[i] - max) / sum; the sum in ascending order. */
	void (*softmax)(float *x, size_t n);
	void (*sigmoid)(float *x, size_t n);
	void (*add)(const float *x, float *y, size_t n);                 /* y += x */
	void (*add_scaled)(float a, const float *x, float *y, size_t n); /* y += a * x */
	/* One row: out = x / sqrt(mean(x^2) + eps) * w; out may be x. */
	void (*rmsnorm)(const float *x, const float *w, float eps, float *out, size_t d);
	/* One head, in place: pairs (2j, 2j+1) when interleaved, else (j, j + half). cos, sin: [half] of the row's
	 * position. */
	void (*rope)(float *x, const float *cos, const float *sin, uint32_t half, bool interleaved);
	size_t (*mla_scratch)(uint32_t rank, uint32_t rope); /* floats */
	void (*mla)(const struct ex_mla_part *a);
};

/* The table for `isa` ("generic", "avx2", "avx512"); NULL or "" or "auto": the best that this machine runs. NULL when
 * it is unknown or cannot run here; *ret_why then says why. */
const struct ex_kernels *ex_kernels_get(const char *isa, const char **ret_why);

/* out[k * step] = x[k] for k < n: row i of an interleaved block of m rows is spread to block + i with step m. x of
 * spread_bf16 is widened, exactly. */
void ex_spread(const float *x, size_t n, float *out, size_t step);
void ex_spread_bf16(const uint16_t *x, size_t n, float *out, size_t step);

#endif
