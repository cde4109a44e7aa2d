/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass of a model: everything but the routed experts, which are asked for through a callback. Layer L2.
 * One step thread uses a trunk. Nothing is allocated after ex_trunk_open. */
#ifndef EX_TRUNK_TRUNK_H
#define EX_TRUNK_TRUNK_H

#include "model/weights.h"
#include "trunk/ops.h"

struct ex_trunk;

/* Routed experts of one MoE layer. begin hands over rows and returns at once; wait blocks until y (zeroed by begin's callee) holds the
 * routed sum [n, d_model], partials added in ascending shard order. On failure wait returns -errno and names which rows failed: row_failed[i] != 0; the others are good. */
struct ex_moe_ops {
	int (*begin)(void *ctx, uint32_t layer, const float *x, uint32_t n, const uint32_t *ids, const float *weights,
		uint32_t k);
	int (*wait)(void *ctx, float *y, uint8_t *row_failed);
	void *ctx;
};

struct ex_trunk_opts {
	const struct ex_ops *ops; /* borrowed */
	const struct expertd_host *host;
	const char *which;             /* device */
	uint32_t rows_max;             /* per step */
	uint32_t logits_max;           /* rows per step whose logits are wanted */
	uint32_t page_tokens, n_pages; /* of the KV pool */
	uint32_t n_ctx;                /* positions per sequence at most */
	bool check_finite;
	void (*progress)(void *ctx, uint64_t bytes_done, uint64_t bytes_total);
	void *progress_ctx;
};
/* Loads the trunk's weights into the backend and makes the KV pool. -ENOMEM gives needed and available bytes. [main] */
int ex_trunk_open(struct ex_weights *w, const struct ex_trunk_opts *o, struct ex_err *err, struct ex_trunk **ret);
struct ex_trunk *ex_trunk_close(struct ex_trunk *t);
/* Bytes that open would take, for the memory message: weights, kv, buffers. */
int ex_trunk_bytes(struct ex_weights *w, const struct ex_trunk_opts *o, uint64_t *ret_weights, uint64_t *ret_kv,
	uint64_t *ret_buffers);

/* One step: rows of several sequences, several rows of one sequence at ascending positions (prefill chunk). A row sees the KV rows
 * that this same step writes at lower positions of its sequence. */
struct ex_step {
	uint32_t n;
	const uint32_t *ids;          /* [n] token ids < vocab */
	const uint32_t *pos;          /* [n] */
	const uint32_t *const *pages; /* [n] page table of the row's sequence: page numbers of the pool */
	uint8_t *row_failed; /* [n] out: set where the routed experts failed; such a row's KV is to be recomputed */
	uint32_t n_logits;
	const uint32_t *logit_rows; /* [n_logits] which rows */
	float *logits;              /* out [n_logits, vocab], host */
};
/* 0, or -errno when the whole step failed. [step] */
int ex_trunk_step(struct ex_trunk *t, const struct ex_moe_ops *moe, struct ex_step *s, struct ex_err *err);

#endif
