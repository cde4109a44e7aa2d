/* SPDX-License-Identifier: Apache-2.0 */
/* net/msg: packing before a tensor, splitting it off again, whatever the pieces. */
#include "unit.h"

#include "base/macro.h"
#include "net/loop.h"
#include "net/msg.h"
#include "proto/expertd/experts.pb-c.h"
#include "proto/expertd/router.pb-c.h"
#include <string.h>

#define TENSOR 15

static void count(void *ctx)
{
	++*(int *)ctx;
}

static Expertd__V1__DispatchRequest *split(
	const struct ex_msg *m, size_t head_max, struct ex_piece **p, size_t *n, size_t *bytes)
{
	ProtobufCMessage *head;
	int rc =
		ex_msg_split(m, &expertd__v1__dispatch_request__descriptor, TENSOR, head_max, NULL, &head, p, n, bytes);
	assert_true(rc == 0 || rc == -EBADMSG);
	return rc ? NULL : (Expertd__V1__DispatchRequest *)head;
}

/* What we send is what protobuf's own parser reads, and the tensor is released exactly once. */
static void test_tensor_is_a_plain_field(void **state)
{
	(void)state;
	uint8_t tensor[300];
	int n_released = 0;
	memset(tensor, 7, sizeof tensor);
	Expertd__V1__DispatchRequest q = EXPERTD__V1__DISPATCH_REQUEST__INIT;
	q.id = 1234567;
	struct ex_out *o = ex_out_pack_tensor(&q.base, TENSOR, tensor, sizeof tensor, count, &n_released);
	struct ex_msg *m = ex_msg_of_out(o);
	assert_int_equal(ex_msg_bytes(m), ex_out_bytes(o));
	Expertd__V1__DispatchRequest *r =
		(Expertd__V1__DispatchRequest *)ex_msg_unpack(m, &expertd__v1__dispatch_request__descriptor);
	assert_non_null(r);
	assert_int_equal(r->id, 1234567);
	assert_int_equal(r->x.len, sizeof tensor);
	assert_memory_equal(r->x.data, tensor, sizeof tensor);
	expertd__v1__dispatch_request__free_unpacked(r, NULL);
	ex_out_free(o);
	assert_int_equal(n_released, 0); /* m still points into it */
	ex_msg_free(m);
	assert_int_equal(n_released, 1);
}

/* A NUL in a string field is seen at any depth and whatever the slices; in bytes and numbers it is none. */
static void test_nul_in_a_string(void **state)
{
	(void)state;
	static const struct {
		const char *wire;
		size_t n;
		bool nul;
	} row[] = {
		{"\x12\x03"
		 "abc",
			5, false},
		{"\x12\x03"
		 "a\0c",
			5, true},
		{"\x1a\x0b\x0a\x09\x0a\x04user\x12\x01\0", 13, true},
		{"\x1a\x0b\x0a\x09\x0a\x04user\x12\x01x", 13, false},
		{"\x2a\x05\x0d\0\0\x80\x3f"
		 "\x30\x00"
		 "\xa2\x06\x01\0",
			13, false}, /* temperature 1, 0, unknown field 100 */
		{"\x3a\x01"
		 "a\x3a\x01\0",
			6, true},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		for (size_t piece = 1; piece < 14; piece += 6) {
			const ProtobufCMessageDescriptor *d = &expertd__v1__generate_request__descriptor;
			struct ex_msg *m = ex_msg_new(row[i].wire, row[i].n, piece);
			ProtobufCMessage *q = ex_msg_unpack(m, d);
			assert_non_null(q);
			assert_int_equal(ex_msg_has_nul(m, d), row[i].nul);
			protobuf_c_message_free_unpacked(q, NULL);
			ex_msg_free(m);
		}
}

static void test_empty_tensor_is_released(void **state)
{
	(void)state;
	int n_released = 0;
	Expertd__V1__DispatchRequest q = EXPERTD__V1__DISPATCH_REQUEST__INIT;
	struct ex_out *o = ex_out_pack_tensor(&q.base, TENSOR, NULL, 0, count, &n_released);
	assert_int_equal(n_released, 1);
	assert_int_equal(ex_out_bytes(o), 0);
	ex_out_free(o);
}

/* However the bytes are cut into pieces, the head and the tensor come out the same; fields after the tensor count, too.
 */
static void test_split_over_pieces(void **state)
{
	(void)state;
	uint8_t tensor[77], packed[256], back[77];
	for (size_t i = 0; i < sizeof tensor; i++)
		tensor[i] = (uint8_t)i;
	Expertd__V1__DispatchRequest q = EXPERTD__V1__DISPATCH_REQUEST__INIT;
	q.id = 99;
	q.n_rows = 3;
	q.x = (ProtobufCBinaryData){sizeof tensor, tensor};
	size_t n = expertd__v1__dispatch_request__pack(&q, packed);
	packed[n++] = 4 << 3; /* dtype = 2, after the tensor */
	packed[n++] = 2;
	for (size_t piece = 1; piece <= n; piece++) {
		struct ex_msg *m = ex_msg_new(packed, n, piece);
		struct ex_piece *p;
		size_t n_p, bytes;
		Expertd__V1__DispatchRequest *r = split(m, 64, &p, &n_p, &bytes);
		assert_non_null(r);
		assert_int_equal(r->id, 99);
		assert_int_equal(r->n_rows, 3);
		assert_int_equal(r->dtype, 2);
		assert_int_equal(r->x.len, 0);
		assert_int_equal(bytes, sizeof tensor);
		memset(back, 0xff, sizeof back);
		ex_pieces_copy(p, n_p, back);
		assert_memory_equal(back, tensor, sizeof tensor);
		expertd__v1__dispatch_request__free_unpacked(r, NULL);
		free(p);
		ex_msg_free(m);
	}
}

static void test_split_refuses(void **state)
{
	(void)state;
	static const struct {
		const char *what, *bytes;
		size_t n, head_max;
	} row[] = {
		{"second tensor", "\x7a\x01z\x7a\x01z", 6, 64},
		{"tensor longer than the message", "\x7a\x05zz", 4, 64},
		{"field longer than the message", "\x3a\x7f\x08", 3, 64},
		{"unfinished varint", "\x08\xff\xff", 3, 64},
		{"varint of 11 bytes", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, 64},
		{"group", "\x0b\x0c", 2, 64},
		{"wire type 6", "\x0e", 1, 64},
		{"cut fixed64", "\x09\x01\x02", 3, 64},
		{"head beyond its limit", "\x08\x01\x10\x02\x18\x03", 6, 5},
		{"length of 2^63", "\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11, 64},
		{"shards that are no messages", "\x3a\x02\xff\xff", 4, 64},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_msg *m = ex_msg_new(row[i].bytes, row[i].n, 2);
		struct ex_piece *p;
		size_t n_p, bytes;
		if (split(m, row[i].head_max, &p, &n_p, &bytes))
			fail_msg("taken: %s", row[i].what);
		ex_msg_free(m);
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
		cmocka_unit_test(test_tensor_is_a_plain_field),
		cmocka_unit_test(test_nul_in_a_string),
		cmocka_unit_test(test_empty_tensor_is_released),
		cmocka_unit_test(test_split_over_pieces),
		cmocka_unit_test(test_split_refuses),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
