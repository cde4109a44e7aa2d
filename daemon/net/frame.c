/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch frames: packing without copying the tensor, parsing with every number checked. Layer L1. */
#include "net/frame.h"

#include "base/mem.h"
#include "net/scratch.h"
#include "proto/expertd/experts.pb-c.h"
#include <math.h>

#define FIELD_X     15 /* experts.proto: DispatchRequest.x */
#define FIELD_Y     15 /* DispatchReply.y */
#define F32         1  /* DispatchRequest.dtype */
#define BF16        2
#define ERRNO_MAX   4095                                  /* of Linux */
#define SCRATCH_MAX ((size_t)8 * EX_FRAME_HEAD_BYTES_MAX) /* varints of one byte become four, and there are structs */

typedef Expertd__V1__DispatchRequest request;
typedef Expertd__V1__DispatchReply reply;
typedef Expertd__V1__ShardRows shard_rows;
typedef Expertd__V1__ShardPartial shard_partial;

/* --- packing --------------------------------------------------------------------------------------------- */

static struct ex_out *no_memory(void (*release)(void *), void *ctx)
{
	if (release)
		release(ctx);
	return NULL;
}

struct ex_out *ex_frame_request_pack(
	const struct ex_frame_request *f, const void *x, size_t x_bytes, void (*release)(void *), void *ctx)
{
	EX_CLEANUP(ex_freep) shard_rows *rows = ex_calloc(f->n_shards, sizeof *rows);
	EX_CLEANUP(ex_freep) shard_rows **list = ex_calloc(f->n_shards, sizeof(shard_rows *));
	if (!rows || !list)
		return no_memory(release, ctx);
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const struct ex_frame_shard *s = &f->shards[i];
		expertd__v1__shard_rows__init(&rows[i]);
		rows[i].first_expert = s->first_expert;
		rows[i].n_experts = s->n_experts;
		rows[i].n_rows = s->n_rows;
		rows[i].rows = s->rows;
		rows[i].n_offset = (size_t)s->n_experts + 1;
		rows[i].offset = s->offset;
		rows[i].n_token = rows[i].n_weight = s->n_assignments;
		rows[i].token = s->token;
		rows[i].weight = s->weight;
		list[i] = &rows[i];
	}
	request q = EXPERTD__V1__DISPATCH_REQUEST__INIT;
	q.id = f->id;
	q.epoch = f->epoch;
	q.layer = f->layer;
	q.dtype = f->x_dtype;
	q.n_rows = f->n_rows;
	q.d_model = f->d_model;
	q.n_shards = f->n_shards;
	q.shards = list;
	q.sent_ns = f->sent_ns;
	return ex_out_pack_tensor(&q.base, FIELD_X, x, x_bytes, release, ctx);
}

static char *text_or_empty(const char *text)
{
	return text ? (char *)text : (char *)protobuf_c_empty_string;
}

struct ex_out *ex_frame_reply_pack(
	const struct ex_frame_reply *f, const void *y, size_t y_bytes, void (*release)(void *), void *ctx)
{
	EX_CLEANUP(ex_freep) shard_partial *partials = ex_calloc(f->n_shards, sizeof *partials);
	EX_CLEANUP(ex_freep) shard_partial **list = ex_calloc(f->n_shards, sizeof(shard_partial *));
	if (!partials || !list)
		return no_memory(release, ctx);
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const struct ex_frame_partial *s = &f->shards[i];
		expertd__v1__shard_partial__init(&partials[i]);
		partials[i].first_expert = s->first_expert;
		partials[i].n_rows = s->n_rows;
		partials[i].status = s->status;
		partials[i].generation = s->generation;
		partials[i].identity = s->identity;
		partials[i].error = text_or_empty(s->error);
		list[i] = &partials[i];
	}
	reply r = EXPERTD__V1__DISPATCH_REPLY__INIT;
	r.id = f->id;
	r.status = f->status;
	r.error = text_or_empty(f->error);
	r.n_shards = f->n_shards;
	r.shards = list;
	r.sent_ns = f->sent_ns;
	r.queued = f->queued;
	r.compute_ns = f->compute_ns;
	r.draining = f->draining;
	r.revision = f->revision;
	return ex_out_pack_tensor(&r.base, FIELD_Y, y, y_bytes, release, ctx);
}

/* --- parsing a request ----------------------------------------------------------------------------------- */

/* Ascending and below n. what: "rows", for the error. */
static int check_ascending(
	struct ex_err *err, size_t shard, const char *what, const uint32_t *v, size_t first, size_t end, uint32_t n)
{
	for (size_t i = first; i < end; i++) {
		if (v[i] >= n)
			return ex_err_set(
				err, -EBADMSG, "shards[%zu].%s[%zu] is %u; there are %u", shard, what, i, v[i], n);
		if (i > first && v[i] <= v[i - 1])
			return ex_err_set(err, -EBADMSG, "shards[%zu].%s[%zu] is %u after %u; it must ascend", shard,
				what, i, v[i], v[i - 1]);
	}
	return 0;
}

/* offset[], token[] and weight[] of shard i fit each other. */
static int check_assignments(struct ex_err *err, size_t i, const shard_rows *s)
{
	if (s->n_offset != (size_t)s->n_experts + 1)
		return ex_err_set(err, -EBADMSG, "shards[%zu].offset has %zu entries; %u experts need %zu", i,
			s->n_offset, s->n_experts, (size_t)s->n_experts + 1);
	if (s->n_weight != s->n_token)
		return ex_err_set(
			err, -EBADMSG, "shards[%zu].weight has %zu entries, token %zu", i, s->n_weight, s->n_token);
	if (s->offset[0] != 0 || s->offset[s->n_experts] != s->n_token)
		return ex_err_set(err, -EBADMSG, "shards[%zu].offset runs from %u to %u; token has %zu entries", i,
			s->offset[0], s->offset[s->n_experts], s->n_token);
	for (uint32_t e = 0; e < s->n_experts; e++)
		if (s->offset[e + 1] < s->offset[e])
			return ex_err_set(err, -EBADMSG, "shards[%zu].offset[%u] is %u after %u; it must not descend",
				i, e + 1, s->offset[e + 1], s->offset[e]);
	for (uint32_t e = 0; e < s->n_experts; e++) {
		int rc =
			check_ascending(err, i, "token", s->token, s->offset[e], s->offset[e + 1], (uint32_t)s->n_rows);
		if (rc)
			return rc;
	}
	for (size_t a = 0; a < s->n_weight; a++)
		if (!isfinite(s->weight[a]))
			return ex_err_set(err, -EBADMSG, "shards[%zu].weight[%zu] is %g", i, a, (double)s->weight[a]);
	return 0;
}

/* Shard i of q: its experts, rows and assignments. */
static int check_shard(struct ex_err *err, const request *q, size_t i, uint32_t n_experts_max)
{
	const shard_rows *s = q->shards[i];
	uint64_t end = (uint64_t)s->first_expert + s->n_experts;
	uint64_t before = i ? (uint64_t)q->shards[i - 1]->first_expert + q->shards[i - 1]->n_experts : 0;
	if (s->n_experts == 0 || end > n_experts_max)
		return ex_err_set(err, -EBADMSG, "shards[%zu] has %u experts from %u; the model has %u", i,
			s->n_experts, s->first_expert, n_experts_max);
	if (s->first_expert < before)
		return ex_err_set(err, -EBADMSG, "shards[%zu].first_expert is %u; the shard before ends at %llu", i,
			s->first_expert, (unsigned long long)before);
	if (s->n_rows == 0 || s->n_rows > q->n_rows)
		return ex_err_set(err, -EBADMSG, "shards[%zu].rows has %zu entries; the frame has %u rows", i,
			s->n_rows, q->n_rows);
	int rc = check_ascending(err, i, "rows", s->rows, 0, s->n_rows, q->n_rows);
	return rc ? rc : check_assignments(err, i, s);
}

static int check_request(
	struct ex_err *err, const request *q, size_t x_bytes, uint32_t d_model_expected, uint32_t n_experts_max)
{
	if (q->id == 0) {
		if (q->n_rows || q->n_shards || x_bytes)
			return ex_err_set(err, -EBADMSG,
				"id is 0, a heartbeat, with %u rows, %zu shards and %zu bytes of x", q->n_rows,
				q->n_shards, x_bytes);
		return 0;
	}
	if (q->dtype != F32 && q->dtype != BF16)
		return ex_err_set(err, -EBADMSG, "dtype is %u; it must be %d (f32) or %d (bf16)", q->dtype, F32, BF16);
	if (q->d_model != d_model_expected)
		return ex_err_set(err, -EBADMSG, "d_model is %u; the model's is %u", q->d_model, d_model_expected);
	if (q->n_rows == 0 || q->n_rows > EX_FRAME_ROWS_MAX)
		return ex_err_set(err, -EBADMSG, "n_rows is %u; it must be 1 to %d", q->n_rows, EX_FRAME_ROWS_MAX);
	uint64_t x_expected = (uint64_t)q->n_rows * q->d_model * (q->dtype == F32 ? 4 : 2);
	if (x_bytes != x_expected)
		return ex_err_set(err, -EBADMSG, "x has %zu bytes; %u rows of %u elements need %llu", x_bytes,
			q->n_rows, q->d_model, (unsigned long long)x_expected);
	if (q->n_shards == 0 || q->n_shards > EX_FRAME_SHARDS_MAX)
		return ex_err_set(err, -EBADMSG, "shards has %zu entries; it must have 1 to %d", q->n_shards,
			EX_FRAME_SHARDS_MAX);
	size_t n_assignments = 0, n_partial_rows = 0;
	for (size_t i = 0; i < q->n_shards; i++) {
		int rc = check_shard(err, q, i, n_experts_max);
		if (rc)
			return rc;
		n_assignments += q->shards[i]->n_token;
		n_partial_rows += q->shards[i]->n_rows;
	}
	if (n_assignments > EX_FRAME_ASSIGN_MAX)
		return ex_err_set(err, -EBADMSG, "token has %zu entries in all; at most %d are allowed", n_assignments,
			EX_FRAME_ASSIGN_MAX);
	uint64_t y_bytes = (uint64_t)n_partial_rows * q->d_model * sizeof(float);
	if (y_bytes > EX_FRAME_BYTES_MAX - EX_FRAME_HEAD_BYTES_MAX)
		return ex_err_set(err, -EBADMSG,
			"rows has %zu entries in all: a reply of %llu bytes; at most %u are allowed", n_partial_rows,
			(unsigned long long)y_bytes, EX_FRAME_BYTES_MAX - EX_FRAME_HEAD_BYTES_MAX);
	return 0;
}

static int fill_request(const request *q, struct ex_frame_request *f)
{
	f->id = q->id;
	f->epoch = q->epoch;
	f->sent_ns = q->sent_ns;
	f->layer = q->layer;
	f->x_dtype = q->dtype;
	f->n_rows = q->n_rows;
	f->d_model = q->d_model;
	f->n_shards = (uint32_t)q->n_shards;
	f->shards = ex_scratch_alloc(f->scratch, q->n_shards * sizeof *f->shards);
	if (!f->shards)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const shard_rows *s = q->shards[i];
		f->shards[i] = (struct ex_frame_shard){
			.first_expert = s->first_expert,
			.n_experts = s->n_experts,
			.n_rows = (uint32_t)s->n_rows,
			.n_assignments = (uint32_t)s->n_token,
			.rows = s->rows,
			.offset = s->offset,
			.token = s->token,
			.weight = s->weight,
		};
		f->n_partial_rows += (uint32_t)s->n_rows;
	}
	return 0;
}

/* Unpacks m's head into scratch. */
static int split(const struct ex_msg *m, const ProtobufCMessageDescriptor *d, unsigned field, struct ex_err *err,
	struct ex_scratch **ret_scratch, ProtobufCMessage **ret_head, const struct ex_piece **ret_pieces, size_t *ret_n,
	size_t *ret_bytes)
{
	if (ex_msg_bytes(m) > EX_FRAME_BYTES_MAX)
		return ex_err_set(err, -EBADMSG, "%s of %zu bytes; at most %u are allowed", d->short_name,
			ex_msg_bytes(m), EX_FRAME_BYTES_MAX);
	struct ex_scratch *s = ex_scratch_new(SCRATCH_MAX);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "failed to read a %s", d->short_name);
	struct ex_piece *pieces;
	int rc = ex_msg_split(
		m, d, field, EX_FRAME_HEAD_BYTES_MAX, ex_scratch_allocator(s), ret_head, &pieces, ret_n, ret_bytes);
	if (rc) {
		ex_scratch_free(s);
		return ex_err_set(err, rc, "malformed %s of %zu bytes", d->short_name, ex_msg_bytes(m));
	}
	*ret_pieces = pieces;
	*ret_scratch = s;
	return 0;
}

int ex_frame_request_parse(const struct ex_msg *m, uint32_t d_model_expected, uint32_t n_experts_max,
	struct ex_err *err, struct ex_frame_request *ret)
{
	struct ex_frame_request f = {0};
	ProtobufCMessage *head;
	int rc = split(m, &expertd__v1__dispatch_request__descriptor, FIELD_X, err, &f.scratch, &head, &f.x, &f.n_x,
		&f.x_bytes);
	if (rc)
		return rc;
	const request *q = (const request *)head;
	rc = check_request(err, q, f.x_bytes, d_model_expected, n_experts_max);
	if (!rc) {
		rc = fill_request(q, &f);
		if (rc)
			ex_err_errno(err, rc, "failed to read a frame of %zu shards", q->n_shards);
	}
	if (rc) {
		ex_scratch_free(f.scratch);
		return rc;
	}
	*ret = f;
	return 0;
}

void ex_frame_request_done(struct ex_frame_request *f)
{
	f->scratch = ex_scratch_free(f->scratch);
}

/* --- parsing a reply ------------------------------------------------------------------------------------- */

static int check_reply(struct ex_err *err, const reply *r, size_t y_bytes, uint32_t d_model)
{
	if (r->n_shards > EX_FRAME_SHARDS_MAX)
		return ex_err_set(err, -EBADMSG, "shards has %zu entries; at most %d are allowed", r->n_shards,
			EX_FRAME_SHARDS_MAX);
	if (r->status > 0 || r->status < -ERRNO_MAX)
		return ex_err_set(err, -EBADMSG, "status is %d; it must be 0 or -errno", r->status);
	uint64_t y_rows = 0;
	for (size_t i = 0; i < r->n_shards; i++) {
		const shard_partial *s = r->shards[i];
		if (i && s->first_expert <= r->shards[i - 1]->first_expert)
			return ex_err_set(err, -EBADMSG, "shards[%zu].first_expert is %u after %u; it must ascend", i,
				s->first_expert, r->shards[i - 1]->first_expert);
		if (s->n_rows == 0 || s->n_rows > EX_FRAME_ROWS_MAX)
			return ex_err_set(err, -EBADMSG, "shards[%zu].n_rows is %u; it must be 1 to %d", i, s->n_rows,
				EX_FRAME_ROWS_MAX);
		if (s->status > 0 || s->status < -ERRNO_MAX)
			return ex_err_set(
				err, -EBADMSG, "shards[%zu].status is %d; it must be 0 or -errno", i, s->status);
		if (s->status == 0)
			y_rows += s->n_rows;
	}
	if (y_bytes != y_rows * d_model * sizeof(float))
		return ex_err_set(err, -EBADMSG, "y has %zu bytes; %llu rows of %u elements need %llu", y_bytes,
			(unsigned long long)y_rows, d_model, (unsigned long long)(y_rows * d_model * sizeof(float)));
	return 0;
}

static const char *text_or_null(const char *text)
{
	return text && text[0] ? text : NULL;
}

static int fill_reply(const reply *r, struct ex_frame_reply *f)
{
	f->id = r->id;
	f->sent_ns = r->sent_ns;
	f->compute_ns = r->compute_ns;
	f->draining = r->draining;
	f->revision = r->revision;
	f->status = r->status;
	f->queued = r->queued;
	f->error = text_or_null(r->error);
	f->n_shards = (uint32_t)r->n_shards;
	f->shards = ex_scratch_alloc(f->scratch, r->n_shards * sizeof *f->shards);
	if (!f->shards)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const shard_partial *s = r->shards[i];
		f->shards[i] = (struct ex_frame_partial){
			.first_expert = s->first_expert,
			.n_rows = s->n_rows,
			.generation = s->generation,
			.identity = s->identity,
			.status = s->status,
			.error = text_or_null(s->error),
		};
	}
	return 0;
}

int ex_frame_reply_parse(
	const struct ex_msg *m, uint32_t d_model_expected, struct ex_err *err, struct ex_frame_reply *ret)
{
	struct ex_frame_reply f = {0};
	ProtobufCMessage *head;
	int rc = split(
		m, &expertd__v1__dispatch_reply__descriptor, FIELD_Y, err, &f.scratch, &head, &f.y, &f.n_y, &f.y_bytes);
	if (rc)
		return rc;
	const reply *r = (const reply *)head;
	rc = check_reply(err, r, f.y_bytes, d_model_expected);
	if (!rc) {
		rc = fill_reply(r, &f);
		if (rc)
			ex_err_errno(err, rc, "failed to read a reply of %zu shards", r->n_shards);
	}
	if (rc) {
		ex_scratch_free(f.scratch);
		return rc;
	}
	*ret = f;
	return 0;
}

void ex_frame_reply_done(struct ex_frame_reply *f)
{
	f->scratch = ex_scratch_free(f->scratch);
}
