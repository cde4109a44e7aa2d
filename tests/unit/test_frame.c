/* SPDX-License-Identifier: Apache-2.0 */
/* net/frame: what is packed comes back the same, and every lie of a peer is refused by name. */
#include "unit.h"

#include "net/frame.h"
#include "net/loop.h"
#include "proto/expertd/experts.pb-c.h"
#include <math.h>
#include <string.h>

#define D_MODEL   4
#define N_EXPERTS 8

typedef Expertd__V1__DispatchRequest request;
typedef Expertd__V1__DispatchReply reply;

/* --- round trips ------------------------------------------------------------------------------------------------- */

static void count(void *ctx)
{
	++*(int *)ctx;
}

/* Two shards: experts 0-3 with rows 0 and 2, experts 6-7 with row 1. */
static uint32_t rows0[] = {0, 2}, offset0[] = {0, 1, 1, 3, 3}, token0[] = {1, 0, 1}, rows1[] = {1},
		offset1[] = {0, 0, 1}, token1[] = {0};
static float weight0[] = {0.5f, 0.25f, -1.0f}, weight1[] = {1.0f};

static struct ex_frame_shard two_shards[] = {
	{.first_expert = 0,
		.n_experts = 4,
		.n_rows = 2,
		.n_assignments = 3,
		.rows = rows0,
		.offset = offset0,
		.token = token0,
		.weight = weight0},
	{.first_expert = 6,
		.n_experts = 2,
		.n_rows = 1,
		.n_assignments = 1,
		.rows = rows1,
		.offset = offset1,
		.token = token1,
		.weight = weight1},
};

static void test_request_round_trip(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	float x[3 * D_MODEL], back[3 * D_MODEL];
	int n_released = 0;
	for (int i = 0; i < 3 * D_MODEL; i++)
		x[i] = (float)i / 3;
	struct ex_frame_request f = {.id = 77,
					.epoch = 5,
					.sent_ns = 123456789012,
					.layer = 3,
					.x_dtype = 1,
					.n_rows = 3,
					.d_model = D_MODEL,
					.n_shards = 2,
					.shards = two_shards},
				g;
	struct ex_out *o = ex_frame_request_pack(&f, x, sizeof x, count, &n_released);
	struct ex_msg *m = ex_msg_of_out(o);
	EXPECT_OK(err, ex_frame_request_parse(m, D_MODEL, N_EXPERTS, &err, &g));
	assert_int_equal(g.id, 77);
	assert_int_equal(g.epoch, 5);
	assert_int_equal(g.sent_ns, 123456789012);
	assert_int_equal(g.layer, 3);
	assert_int_equal(g.x_dtype, 1);
	assert_int_equal(g.n_rows, 3);
	assert_int_equal(g.n_shards, 2);
	assert_int_equal(g.n_partial_rows, 3);
	for (int i = 0; i < 2; i++) {
		const struct ex_frame_shard *a = &two_shards[i], *b = &g.shards[i];
		assert_int_equal(a->first_expert, b->first_expert);
		assert_int_equal(a->n_experts, b->n_experts);
		assert_int_equal(a->n_rows, b->n_rows);
		assert_int_equal(a->n_assignments, b->n_assignments);
		assert_memory_equal(a->rows, b->rows, a->n_rows * 4);
		assert_memory_equal(a->offset, b->offset, (a->n_experts + 1) * 4);
		assert_memory_equal(a->token, b->token, a->n_assignments * 4);
		assert_memory_equal(a->weight, b->weight, a->n_assignments * 4);
	}
	assert_int_equal(g.x_bytes, sizeof x);
	ex_pieces_copy(g.x, g.n_x, back);
	assert_memory_equal(back, x, sizeof x);
	ex_frame_request_done(&g);
	ex_out_free(o);
	ex_msg_free(m);
	assert_int_equal(n_released, 1);
}

static void test_heartbeat(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_frame_request f = {.sent_ns = 9}, g;
	struct ex_out *o = ex_frame_request_pack(&f, NULL, 0, NULL, NULL);
	struct ex_msg *m = ex_msg_of_out(o);
	EXPECT_OK(err, ex_frame_request_parse(m, D_MODEL, N_EXPERTS, &err, &g));
	assert_int_equal(g.id, 0);
	assert_int_equal(g.sent_ns, 9);
	assert_int_equal(g.n_shards, 0);
	ex_frame_request_done(&g);
	ex_out_free(o);
	ex_msg_free(m);
}

static void test_reply_round_trip(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	float y[3 * D_MODEL] = {1, 2, 3}, back[3 * D_MODEL];
	int n_released = 0;
	struct ex_frame_partial partials[] = {
		{.first_expert = 0, .n_rows = 2, .generation = 4, .identity = UINT64_C(0xfedcba9876543210)},
		{.first_expert = 4, .n_rows = 9, .status = -EIO, .error = "sick"},
		{.first_expert = 6, .n_rows = 1, .generation = 1},
	};
	struct ex_frame_reply f = {.id = 8,
				      .sent_ns = 1,
				      .compute_ns = 2,
				      .queued = 3,
				      .n_shards = 3,
				      .shards = partials},
			      g;
	struct ex_out *o = ex_frame_reply_pack(&f, y, sizeof y, count, &n_released);
	struct ex_msg *m = ex_msg_of_out(o);
	EXPECT_OK(err, ex_frame_reply_parse(m, D_MODEL, &err, &g));
	assert_int_equal(g.id, 8);
	assert_int_equal(g.compute_ns, 2);
	assert_int_equal(g.queued, 3);
	assert_null(g.error);
	assert_int_equal(g.n_shards, 3);
	assert_int_equal(g.shards[1].status, -EIO);
	assert_string_equal(g.shards[1].error, "sick");
	assert_null(g.shards[2].error);
	assert_int_equal(g.shards[0].generation, 4);
	assert_true(g.shards[0].identity == UINT64_C(0xfedcba9876543210));
	assert_int_equal(g.y_bytes, sizeof y);
	ex_pieces_copy(g.y, g.n_y, back);
	assert_memory_equal(back, y, sizeof y);
	ex_frame_reply_done(&g);
	ex_out_free(o);
	ex_msg_free(m);
	assert_int_equal(n_released, 1);
}

/* --- lies in a request ------------------------------------------------------------------------------------------- */

/* A good request in protobuf's own terms, to be spoilt. */
struct draft {
	request q;
	Expertd__V1__ShardRows shard[2], *list[2];
	uint32_t rows[2][4], offset[2][6], token[2][4];
	float weight[2][4];
	uint8_t x[3 * D_MODEL * 4];
};

static void make_draft(struct draft *d)
{
	memset(d, 0, sizeof *d);
	expertd__v1__dispatch_request__init(&d->q);
	for (int i = 0; i < 2; i++) {
		const struct ex_frame_shard *s = &two_shards[i];
		memcpy(d->rows[i], s->rows, s->n_rows * 4);
		memcpy(d->offset[i], s->offset, (s->n_experts + 1) * 4);
		memcpy(d->token[i], s->token, s->n_assignments * 4);
		memcpy(d->weight[i], s->weight, s->n_assignments * 4);
		expertd__v1__shard_rows__init(&d->shard[i]);
		d->shard[i].first_expert = s->first_expert;
		d->shard[i].n_experts = s->n_experts;
		d->shard[i].n_rows = s->n_rows;
		d->shard[i].rows = d->rows[i];
		d->shard[i].n_offset = s->n_experts + 1;
		d->shard[i].offset = d->offset[i];
		d->shard[i].n_token = d->shard[i].n_weight = s->n_assignments;
		d->shard[i].token = d->token[i];
		d->shard[i].weight = d->weight[i];
		d->list[i] = &d->shard[i];
	}
	d->q.id = 1;
	d->q.dtype = 1;
	d->q.n_rows = 3;
	d->q.d_model = D_MODEL;
	d->q.n_shards = 2;
	d->q.shards = d->list;
	d->q.x = (ProtobufCBinaryData){sizeof d->x, d->x};
}

/* clang-format off */
#define SPOILER(name, ...) static void name(struct draft *d) { __VA_ARGS__; }
SPOILER(nothing, (void)d)
SPOILER(bf16, d->q.dtype = 2; d->q.x.len /= 2)
SPOILER(no_dtype, d->q.dtype = 0)
SPOILER(other_dtype, d->q.dtype = 3)
SPOILER(other_d_model, d->q.d_model = 5)
SPOILER(no_rows, d->q.n_rows = 0)
SPOILER(many_rows, d->q.n_rows = EX_FRAME_ROWS_MAX + 1)
SPOILER(short_x, d->q.x.len--)
SPOILER(no_x, d->q.x.len = 0)
SPOILER(no_shards, d->q.n_shards = 0)
SPOILER(no_experts, d->shard[0].n_experts = 0; d->shard[0].n_offset = 1)
SPOILER(expert_beyond, d->shard[1].first_expert = 7)
SPOILER(expert_wraps, d->shard[1].first_expert = UINT32_MAX)
SPOILER(overlap, d->shard[1].first_expert = 3)
SPOILER(descending_shards, d->list[0] = &d->shard[1]; d->list[1] = &d->shard[0])
SPOILER(shard_without_rows, d->shard[1].n_rows = 0)
SPOILER(shard_of_more_rows, d->shard[0].n_rows = 4; d->rows[0][2] = 3; d->rows[0][3] = 4)
SPOILER(row_beyond, d->rows[0][1] = 3)
SPOILER(row_twice, d->rows[0][1] = 0)
SPOILER(short_offset, d->shard[0].n_offset--)
SPOILER(long_offset, d->shard[0].n_offset++; d->offset[0][5] = 3)
SPOILER(no_offset, d->shard[0].n_offset = 0)
SPOILER(offset_from_1, d->offset[0][0] = 1)
SPOILER(offset_short_of_token, d->offset[0][4] = 2; d->offset[0][3] = 2)
SPOILER(offset_descends, d->offset[0][1] = 2; d->offset[0][2] = 1)
SPOILER(offset_far, d->offset[0][1] = 4000000000)
SPOILER(fewer_weights, d->shard[0].n_weight--)
SPOILER(token_beyond, d->token[0][2] = 2)
SPOILER(token_twice, d->token[0][2] = 0)
SPOILER(nan_weight, d->weight[0][1] = NAN)
SPOILER(infinite_weight, d->weight[1][0] = INFINITY)
SPOILER(busy_heartbeat, d->q.id = 0)
/* clang-format on */

static void test_request_lies(void **state)
{
	(void)state;
	static const struct {
		void (*spoil)(struct draft *d);
		const char *text; /* NULL: it is good */
	} row[] = {
		{nothing, NULL},
		{bf16, NULL},
		{no_dtype, "dtype is 0; it must be 1 (f32) or 2 (bf16)"},
		{other_dtype, "dtype is 3; it must be 1 (f32) or 2 (bf16)"},
		{other_d_model, "d_model is 5; the model's is 4"},
		{no_rows, "n_rows is 0; it must be 1 to 8192"},
		{many_rows, "n_rows is 8193; it must be 1 to 8192"},
		{short_x, "x has 47 bytes; 3 rows of 4 elements need 48"},
		{no_x, "x has 0 bytes; 3 rows of 4 elements need 48"},
		{no_shards, "shards has 0 entries; it must have 1 to 1024"},
		{no_experts, "shards[0] has 0 experts from 0; the model has 8"},
		{expert_beyond, "shards[1] has 2 experts from 7; the model has 8"},
		{expert_wraps, "shards[1] has 2 experts from 4294967295; the model has 8"},
		{overlap, "shards[1].first_expert is 3; the shard before ends at 4"},
		{descending_shards, "shards[1].first_expert is 0; the shard before ends at 8"},
		{shard_without_rows, "shards[1].rows has 0 entries; the frame has 3 rows"},
		{shard_of_more_rows, "shards[0].rows has 4 entries; the frame has 3 rows"},
		{row_beyond, "shards[0].rows[1] is 3; there are 3"},
		{row_twice, "shards[0].rows[1] is 0 after 0; it must ascend"},
		{short_offset, "shards[0].offset has 4 entries; 4 experts need 5"},
		{long_offset, "shards[0].offset has 6 entries; 4 experts need 5"},
		{no_offset, "shards[0].offset has 0 entries; 4 experts need 5"},
		{offset_from_1, "shards[0].offset runs from 1 to 3; token has 3 entries"},
		{offset_short_of_token, "shards[0].offset runs from 0 to 2; token has 3 entries"},
		{offset_descends, "shards[0].offset[2] is 1 after 2; it must not descend"},
		{offset_far, "shards[0].offset[2] is 1 after 4000000000; it must not descend"},
		{fewer_weights, "shards[0].weight has 2 entries, token 3"},
		{token_beyond, "shards[0].token[2] is 2; there are 2"},
		{token_twice, "shards[0].token[2] is 0 after 0; it must ascend"},
		{nan_weight, "shards[0].weight[1] is nan"},
		{infinite_weight, "shards[1].weight[0] is inf"},
		{busy_heartbeat, "id is 0, a heartbeat, with 3 rows, 2 shards and 48 bytes of x"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct draft d;
		uint8_t packed[512];
		make_draft(&d);
		row[i].spoil(&d);
		assert_true(expertd__v1__dispatch_request__get_packed_size(&d.q) <= sizeof packed);
		size_t n = expertd__v1__dispatch_request__pack(&d.q, packed);
		struct ex_msg *m = ex_msg_new(packed, n, 7);
		struct ex_err err = EX_ERR_INIT;
		struct ex_frame_request f;
		int rc = ex_frame_request_parse(m, D_MODEL, N_EXPERTS, &err, &f);
		assert_int_equal(rc, row[i].text ? -EBADMSG : 0);
		assert_string_equal(err.text, row[i].text ? row[i].text : "");
		if (!rc)
			ex_frame_request_done(&f);
		ex_msg_free(m);
	}
}

/* Every shard with every row: a small request whose reply would not fit. */
static void test_reply_would_be_too_large(void **state)
{
	(void)state;
	enum { ROWS = 1024, SHARDS = 256, WIDE = 512 };
	struct ex_frame_shard *shards = calloc(SHARDS, sizeof *shards);
	uint32_t *rows = calloc(ROWS, sizeof *rows), offset[2] = {0, 0};
	uint16_t *x = calloc(ROWS * WIDE, sizeof *x);
	for (uint32_t i = 0; i < ROWS; i++)
		rows[i] = i;
	for (uint32_t i = 0; i < SHARDS; i++)
		shards[i] = (struct ex_frame_shard){
			.first_expert = i, .n_experts = 1, .n_rows = ROWS, .rows = rows, .offset = offset};
	struct ex_frame_request f = {.id = 1,
					.x_dtype = 2,
					.n_rows = ROWS,
					.d_model = WIDE,
					.n_shards = SHARDS,
					.shards = shards},
				g;
	struct ex_out *o = ex_frame_request_pack(&f, x, ROWS * WIDE * 2, NULL, NULL);
	struct ex_msg *m = ex_msg_of_out(o);
	struct ex_err err = EX_ERR_INIT;
	assert_int_equal(ex_frame_request_parse(m, WIDE, SHARDS, &err, &g), -EBADMSG);
	assert_string_equal(
		err.text, "rows has 262144 entries in all: a reply of 536870912 bytes; at most 520093696 are allowed");
	ex_msg_free(m);
	ex_out_free(o);
	free(shards);
	free(rows);
	free(x);
}

/* Small bytes that unpack into much memory run into the limit, not into the machine's: a million empty shards. */
static void test_memory_is_limited(void **state)
{
	(void)state;
	size_t n = 15 << 20;
	uint8_t *bytes = malloc(n);
	for (size_t i = 0; i + 1 < n; i += 2) {
		bytes[i] = 7 << 3 | 2;
		bytes[i + 1] = 0;
	}
	struct ex_msg *m = ex_msg_new(bytes, n, 64 << 10);
	struct ex_err err = EX_ERR_INIT;
	struct ex_frame_request f;
	assert_int_equal(ex_frame_request_parse(m, D_MODEL, N_EXPERTS, &err, &f), -EBADMSG);
	assert_string_equal(err.text, "malformed DispatchRequest of 15728640 bytes");
	ex_msg_free(m);
	free(bytes);
}

/* --- lies in a reply --------------------------------------------------------------------------------------------- */

static void test_reply_lies(void **state)
{
	(void)state;
	static const struct {
		uint32_t first[2], n_rows[2];
		int32_t status[2], frame_status;
		size_t y_bytes;
		const char *text;
	} row[] = {
		{{0, 4}, {1, 2}, {0, 0}, 0, 48, NULL},
		{{0, 4}, {1, 2}, {0, -5}, 0, 16, NULL},
		{{0, 4}, {1, 2}, {0, 0}, 0, 44, "y has 44 bytes; 3 rows of 4 elements need 48"},
		{{0, 4}, {1, 2}, {0, -5}, 0, 48, "y has 48 bytes; 1 rows of 4 elements need 16"},
		{{4, 4}, {1, 2}, {0, 0}, 0, 48, "shards[1].first_expert is 4 after 4; it must ascend"},
		{{0, 4}, {0, 2}, {0, 0}, 0, 32, "shards[0].n_rows is 0; it must be 1 to 8192"},
		{{0, 4}, {1, 8193}, {0, -5}, 0, 16, "shards[1].n_rows is 8193; it must be 1 to 8192"},
		{{0, 4}, {1, 2}, {7, 0}, 0, 32, "shards[0].status is 7; it must be 0 or -errno"},
		{{0, 4}, {1, 2}, {0, 0}, 1, 48, "status is 1; it must be 0 or -errno"},
		{{0, 4}, {1, 2}, {INT32_MIN, 0}, 0, 32, "shards[0].status is -2147483648; it must be 0 or -errno"},
	};
	static const uint8_t y[64];
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_frame_partial p[2];
		for (int k = 0; k < 2; k++)
			p[k] = (struct ex_frame_partial){.first_expert = row[i].first[k],
				.n_rows = row[i].n_rows[k],
				.status = row[i].status[k]};
		struct ex_frame_reply f = {.id = 1, .status = row[i].frame_status, .n_shards = 2, .shards = p}, g;
		struct ex_out *o = ex_frame_reply_pack(&f, y, row[i].y_bytes, NULL, NULL);
		struct ex_msg *m = ex_msg_of_out(o);
		struct ex_err err = EX_ERR_INIT;
		int rc = ex_frame_reply_parse(m, D_MODEL, &err, &g);
		assert_int_equal(rc, row[i].text ? -EBADMSG : 0);
		assert_string_equal(err.text, row[i].text ? row[i].text : "");
		if (!rc)
			ex_frame_reply_done(&g);
		ex_msg_free(m);
		ex_out_free(o);
	}
}

static int setup(void **state)
{
	(void)state;
	ex_net_init();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ex_net_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request_round_trip),
		cmocka_unit_test(test_heartbeat),
		cmocka_unit_test(test_reply_round_trip),
		cmocka_unit_test(test_request_lies),
		cmocka_unit_test(test_reply_would_be_too_large),
		cmocka_unit_test(test_memory_is_limited),
		cmocka_unit_test(test_reply_lies),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
