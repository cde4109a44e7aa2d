/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch frames: the packed form of experts.proto's DispatchRequest and DispatchReply, validated. Layer L1.
 * A parsed frame never has an index out of range: every count and index was checked against the limits and each other.
 */
#ifndef EX_NET_FRAME_H
#define EX_NET_FRAME_H

#include "net/msg.h"

#define EX_WIRE_VERSION         1
#define EX_FRAME_ROWS_MAX       8192
#define EX_FRAME_SHARDS_MAX     1024
#define EX_FRAME_ASSIGN_MAX     (EX_FRAME_ROWS_MAX * 64)
#define EX_FRAME_HEAD_BYTES_MAX (16u << 20)
#define EX_FRAME_BYTES_MAX      (512u << 20)

/* Rows of one shard, as in experts.proto ShardRows. */
struct ex_frame_shard {
	uint32_t first_expert, n_experts;
	uint32_t n_rows, n_assignments;
	uint32_t *rows;   /* [n_rows] strictly ascending, < frame's n_rows */
	uint32_t *offset; /* [n_experts + 1] */
	uint32_t *token;  /* [n_assignments] < n_rows, strictly ascending within an expert */
	float *weight;    /* [n_assignments] finite */
};

struct ex_frame_request {
	uint64_t id, epoch, sent_ns;
	uint32_t layer, x_dtype, n_rows, d_model, n_shards;
	struct ex_frame_shard *shards; /* ascending first_expert, not overlapping */
	/* parsed only: [n_rows, d_model] of x_dtype in pieces that point into the message */
	const struct ex_piece *x;
	size_t n_x, x_bytes;
	uint32_t n_partial_rows; /* parsed only: sum of the shards' n_rows, the rows of a whole reply */
	struct ex_scratch *scratch;
};

struct ex_frame_partial {
	uint32_t first_expert, n_rows, generation;
	int32_t status;
	uint64_t identity; /* ex_shard_identity of what computed it; 0: not said */
	const char *error; /* NULL: none */
};
struct ex_frame_reply {
	uint64_t id, sent_ns, compute_ns, revision;
	bool draining;
	int32_t status;
	uint32_t queued, n_shards;
	const char *error;
	struct ex_frame_partial *shards;
	/* parsed only: f32 [sum of n_rows with status 0, d_model] in pieces that point into the message */
	const struct ex_piece *y;
	size_t n_y, y_bytes;
	struct ex_scratch *scratch;
};

/* Builds. x, y: one block, borrowed until release(ctx) (see ex_out_pack_tensor). NULL when memory is out: then release
 * has been called, too. [any] */
struct ex_out *ex_frame_request_pack(
	const struct ex_frame_request *f, const void *x, size_t x_bytes, void (*release)(void *), void *ctx);
struct ex_out *ex_frame_reply_pack(
	const struct ex_frame_reply *f, const void *y, size_t y_bytes, void (*release)(void *), void *ctx);

/* Parses and validates m (borrowed; x and y point into it, all else is the frame's own). -EBADMSG with the offending
 * field and both numbers. Free with *_done. d_model_expected and n_experts_max: the receiver's model. A heartbeat (id
 * 0) has no rows and no shards. That a reply fits its request is for the receiver to check. [any] */
int ex_frame_request_parse(const struct ex_msg *m, uint32_t d_model_expected, uint32_t n_experts_max,
	struct ex_err *err, struct ex_frame_request *ret);
void ex_frame_request_done(struct ex_frame_request *f);
int ex_frame_reply_parse(
	const struct ex_msg *m, uint32_t d_model_expected, struct ex_err *err, struct ex_frame_reply *ret);
void ex_frame_reply_done(struct ex_frame_reply *f);

#endif
