/* SPDX-License-Identifier: Apache-2.0 */
/* The trunk backend: what a model family's forward pass is written over. Private to this tree: a plugin's `expertd_trunk` is used only
 * when its build id equals the daemon's. Layer L2 (plugins include it too).
 *
 * All activations are f32, row-major, [n, d] with n rows of independent tokens. Every op is batch invariant: the bits of a row
 * depend on that row alone, on no other row, on no thread count. Ops of one device are called by one thread at a time [step];
 * the device may use threads of its own inside. Buffers are device memory: for the cpu backend plain host memory.
 */
#ifndef EX_TRUNK_OPS_H
#define EX_TRUNK_OPS_H

#include "expertd/plugin.h"
#include "model/config.h"
#include <stdbool.h>

#define EX_OPS_VERSION 1

struct ex_dev;    /* defined by the backend */
struct ex_weight; /* defined by the backend: one matrix in its own layout */

/* A linear map's weights may be the same f32/bf16/f16/f8 forms as plugin.h's expertd_matrix. */

/* Rotary embedding table, built by the trunk: cos/sin [n_ctx, half] f32. */
struct ex_rope {
	const float *cos, *sin; /* [n_ctx, half], already scaled by yarn's factor */
	uint32_t half;          /* qk_rope_dim / 2 */
};

/* MLA in latent form. A KV row is [kv_lora_rank + rope_dim] f32: normalised latent, then rotated key. Pages hold page_tokens rows. */
struct ex_mla_batch {
	const float *q_lat; /* [n, heads, kv_lora_rank]: q_nope through W_uk */
	/* rotated: [rope_dim] of row i, head h at q_rope + i*ldq_rope + h*q_rope_step (it lies inside q, behind q_nope) */
	const float *q_rope;
	size_t ldq_rope, q_rope_step;
	float *out_lat; /* [n, heads, kv_lora_rank] */
	/* [n] → that row's sequence's page table for this layer; page p holds positions p*page_tokens.. */
	float *const *const *pages;
	const uint32_t *pos; /* [n]: row attends to positions 0..pos inclusive */
	uint32_t n, n_heads, kv_lora_rank, rope_dim, page_tokens;
	float scale;
};

struct ex_gate_batch {
	const float *logits; /* [n, n_experts] */
	const float *bias;   /* [n_experts] or NULL: e_score_correction_bias */
	uint32_t *ids;       /* out [n, k], ascending expert id */
	float *weights;      /* out [n, k], final (normalised and scaled) */
	uint32_t n, n_experts, k, n_group, topk_group;
	int method, score; /* enum ex_gate_method, enum ex_gate_score of model/config.h */
	bool norm_topk_prob;
	float routed_scale;
};

struct ex_ops {
	uint32_t version; /* EX_OPS_VERSION */
	uint32_t size;    /* sizeof(struct ex_ops) */
	char build[24];   /* of the tree: EX_BUILD, must equal the daemon's */
	const char *name; /* "cpu avx2" */

	int (*open)(const struct expertd_host *host, const char *which, struct ex_dev **ret);
	void (*close)(struct ex_dev *dev);

	int (*buffer_new)(struct ex_dev *dev, size_t bytes, void **ret); /* 64-byte aligned, zeroed */
	void (*buffer_free)(struct ex_dev *dev, void *p);
	int (*upload)(struct ex_dev *dev, void *dst, const void *src, size_t bytes);   /* host → device */
	int (*download)(struct ex_dev *dev, void *dst, const void *src, size_t bytes); /* device → host, waits */

	/* Copies and repacks m; the source may go after. */
	int (*weight_new)(struct ex_dev *dev, const struct expertd_matrix *m, struct ex_weight **ret);
	void (*weight_free)(struct ex_dev *dev, struct ex_weight *w);

	/* y[i, :rows] = W x[i, :cols]. ldx, ldy: elements between rows. x and y do not overlap. */
	int (*linear)(struct ex_dev *dev, const struct ex_weight *w, const float *x, size_t ldx, float *y, size_t ldy,
		uint32_t n);
	/* For h in 0..heads: y[i, h*y_step + :rows] = W[h] x[i, h*x_step + :cols]. All W[h] have one shape. MLA's absorbed maps. */
	int (*linear_heads)(struct ex_dev *dev, const struct ex_weight *const *w, uint32_t n_heads, const float *x,
		size_t ldx, size_t x_step, float *y, size_t ldy, size_t y_step, uint32_t n);
	/* y[i] = row ids[i] of the embedding matrix [vocab, d]; table keeps its dtype (weight_embed_new). */
	int (*embed)(struct ex_dev *dev, const struct ex_weight *table, const uint32_t *ids, float *y, uint32_t n,
		uint32_t d);
	/* out = x / rms(x) * w. x: [n, d] rows ldx apart, out rows ldo apart, may alias; w: [d]. Source: arXiv:1910.07467. */
	int (*rmsnorm)(struct ex_dev *dev, const float *x, size_t ldx, const float *w, float eps, float *out,
		size_t ldo, uint32_t n, uint32_t d);
	/* In place on n rows of heads x [2*half] pairs, row i at position pos[i]; interleaved pairs (2j, 2j+1) when interleaved. x + i*ldx + h*head_step. */
	int (*rope)(struct ex_dev *dev, const struct ex_rope *r, const uint32_t *pos, float *x, size_t ldx,
		uint32_t n_heads, size_t head_step, uint32_t n, bool interleaved);
	/* Writes kv row i ([width] f32, rows ldkv apart) to position pos[i] of its page table. */
	int (*kv_write)(struct ex_dev *dev, float *const *const *pages, const uint32_t *pos, uint32_t page_tokens,
		const float *kv, size_t ldkv, uint32_t n, uint32_t width);
	int (*mla)(struct ex_dev *dev, const struct ex_mla_batch *b);
	int (*gate)(struct ex_dev *dev, const struct ex_gate_batch *b);
	/* out[i, j] = silu(gate[i, j]) * up[i, j]; out may alias gate. */
	int (*swiglu)(struct ex_dev *dev, const float *gate, const float *up, float *out, uint32_t n, uint32_t d);
	/* y += x, n*d elements. */
	int (*add)(struct ex_dev *dev, const float *x, float *y, size_t n);
};

extern __attribute__((visibility("default"))) const struct ex_ops expertd_trunk;

#endif
