/* SPDX-License-Identifier: Apache-2.0 */
/* What the trunk's own files share: the object, its layers, its buffers. Layer L2. */
#ifndef EX_TRUNK_IMPL_H
#define EX_TRUNK_IMPL_H

#include "base/mem.h"
#include "trunk/trunk.h"

#define EX_TRUNK_MAGIC 0x6b6e7274u

/* A SwiGLU of the trunk: a dense layer's, or the shared experts of a MoE layer (one of their summed width). d_ff 0:
 * none. */
struct trunk_mlp {
	struct ex_weight *gate, *up, *down;
	uint32_t d_ff;
};

struct trunk_layer {
	bool moe;
	float *attn_norm, *ffn_norm; /* [d] on the device, as all vectors here */
	float *q_a_norm, *kv_norm;   /* [q_lora_rank], [kv_lora_rank] */
	struct ex_weight *q;         /* q_proj, or q_b_proj behind q_a */
	struct ex_weight *q_a;       /* NULL: q_lora_rank is 0 */
	struct ex_weight *kv_a, *o;
	struct ex_weight **w_uk, **w_uv; /* [n_heads] */
	struct ex_weight *router;        /* moe only: [n_experts, d] f32 */
	float *router_bias;              /* [n_experts] or NULL */
	struct trunk_mlp mlp;
};

/* Device buffers, f32, rows_max rows each where not said otherwise. */
struct trunk_buffers {
	float *x, *h;           /* [rows, d]: residual stream; normalised input of a block, then its output */
	float *q_a;             /* [rows, q_lora_rank] */
	float *q;               /* [rows, heads * (nope + rope)] */
	float *kv;              /* [rows, kv_lora + rope] */
	float *q_lat, *out_lat; /* [rows, heads, kv_lora] */
	float *attn;            /* [rows, heads * v] */
	float *gate, *up;       /* [rows, widest mlp] */
	float *mlp_out;         /* [rows, d] */
	float *router, *routed; /* [rows, n_experts], [rows, d] */
	uint32_t *topk_ids;     /* [rows, k] */
	float *topk_weights;
	float *head_in, *logits;    /* [logits_max, d], [logits_max, vocab] */
	float *rope_cos, *rope_sin; /* [n_ctx, rope / 2] */
	float *kv_pool;             /* [layers, n_pages, page_tokens, kv_lora + rope] */
};

struct ex_trunk {
	uint32_t magic;
	struct ex_model_config c;
	struct ex_trunk_opts o;
	const struct ex_ops *ops;
	struct ex_dev *dev;
	struct trunk_layer *layers;     /* [n_layers] */
	struct ex_weight *embed, *head; /* one and the same when embeddings are tied */
	float *final_norm;
	struct trunk_buffers b;
	struct ex_rope rope;
	float softmax_scale;

	/* host side of one step */
	float *moe_x, *moe_y, *moe_weights; /* [rows, d], [rows, d], [rows, k] */
	uint32_t *moe_ids;                  /* [rows, k] */
	uint8_t *moe_failed;                /* [rows] */
	const uint32_t **seq_pages;         /* [rows] distinct page tables of the step */
	uint32_t *seq_len;                  /* [rows] pages that each is read to */
	float ***seq_ptrs;                  /* [rows] each one's pointers */
	uint32_t *row_seq;                  /* [rows] */
	float *const **row_ptrs;            /* [rows]: ops' pages argument */
	float **page_ptrs;                  /* [n_pages] behind them, of the layer at hand */
	uint32_t n_ptrs;
};

/* Walks all weights in loading order and sums up their bytes; loads them into t->dev when it is there. */
int ex_trunk_load(
	struct ex_trunk *t, struct ex_weights *w, uint64_t bytes_total, struct ex_err *err, uint64_t *ret_bytes);
void ex_trunk_unload(struct ex_trunk *t);

/* Floats of one token's KV row. */
static inline uint32_t ex_trunk_kv_width(const struct ex_model_config *c)
{
	return c->kv_lora_rank + c->qk_rope_dim;
}

#endif
