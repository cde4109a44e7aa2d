/* SPDX-License-Identifier: Apache-2.0 */
/* Messages: packing before a tensor that is not copied, and splitting one off again. Layer L1. */
#include "net/msg.h"

#include "base/mem.h"
#include "net/msg_internal.h"
#include "net/tag.h"
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <string.h>

#define VARINT_BYTES_MAX 10

struct ex_msg {
	grpc_byte_buffer *buffer;
	size_t bytes;
};

/* --- out ------------------------------------------------------------------------------------------------- */

static size_t put_varint(uint8_t *p, uint64_t v)
{
	size_t n = 0;
	while (v >= 0x80) {
		p[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	p[n++] = (uint8_t)v;
	return n;
}

/* Takes the slices. */
static struct ex_out *out_of_slices(grpc_slice *slices, size_t n)
{
	struct ex_out *o = ex_calloc(1, sizeof *o);
	if (o) {
		o->buffer = grpc_raw_byte_buffer_create(slices, n);
		o->bytes = grpc_byte_buffer_length(o->buffer);
	}
	for (size_t i = 0; i < n; i++)
		grpc_slice_unref(slices[i]);
	return o;
}

struct ex_out *ex_out_pack(const ProtobufCMessage *m)
{
	grpc_slice head = grpc_slice_malloc(protobuf_c_message_get_packed_size(m));
	protobuf_c_message_pack(m, GRPC_SLICE_START_PTR(head));
	return out_of_slices(&head, 1);
}

#ifdef EX_TSAN
/* gRPC orders what was written to a tensor before its release, perhaps on another thread: as with tags, a sanitizer
 * cannot see it. */
struct loan {
	void (*release)(void *ctx);
	void *ctx;
};

static void end_loan(void *loan)
{
	EX_TAG_RECEIVED(loan);
	struct loan l = *(struct loan *)loan;
	free(loan);
	l.release(l.ctx);
}

static grpc_slice lend(void *data, size_t n, void (*release)(void *ctx), void *ctx)
{
	struct loan *l = malloc(sizeof *l);
	assert(l); /* a sanitizer's build */
	*l = (struct loan){release, ctx};
	EX_TAG_GIVEN(l);
	return grpc_slice_new_with_user_data(data, n, end_loan, l);
}
#else
static grpc_slice lend(void *data, size_t n, void (*release)(void *ctx), void *ctx)
{
	return grpc_slice_new_with_user_data(data, n, release, ctx);
}
#endif

struct ex_out *ex_out_pack_tensor(
	const ProtobufCMessage *m, unsigned field, const void *data, size_t n, void (*release)(void *ctx), void *ctx)
{
	uint8_t key[2 * VARINT_BYTES_MAX];
	size_t key_n = put_varint(key, (uint64_t)field << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
	key_n += put_varint(key + key_n, n);
	if (!n) { /* proto3 leaves an empty field out */
		if (release)
			release(ctx);
		return ex_out_pack(m);
	}
	size_t head_n = protobuf_c_message_get_packed_size(m);
	grpc_slice s[2] = {grpc_slice_malloc(head_n + key_n)};
	s[1] = release ? lend((void *)data, n, release, ctx) : grpc_slice_from_static_buffer(data, n);
	uint8_t *head = GRPC_SLICE_START_PTR(s[0]);
	protobuf_c_message_pack(m, head);
	memcpy(head + head_n, key, key_n);
	return out_of_slices(s, 2);
}

size_t ex_out_bytes(const struct ex_out *o)
{
	return o->bytes;
}

struct ex_out *ex_out_free(struct ex_out *o)
{
	if (o) {
		grpc_byte_buffer_destroy(o->buffer);
		free(o);
	}
	return NULL;
}

/* --- in -------------------------------------------------------------------------------------------------- */

struct ex_msg *ex_msg_wrap(grpc_byte_buffer *b)
{
	struct ex_msg *m = ex_calloc(1, sizeof *m);
	if (!m) {
		grpc_byte_buffer_destroy(b);
		return NULL;
	}
	m->buffer = b;
	m->bytes = grpc_byte_buffer_length(b);
	return m;
}

struct ex_msg *ex_msg_new(const void *data, size_t n, size_t piece_max)
{
	assert(piece_max > 0);
	const char *from = data;
	size_t n_slices = n ? EX_CEIL_DIV(n, piece_max) : 1;
	EX_CLEANUP(ex_freep) grpc_slice *slices = ex_calloc(n_slices, sizeof *slices);
	if (!slices)
		return NULL;
	for (size_t i = 0; i < n_slices; i++) {
		size_t at = i * piece_max;
		slices[i] = grpc_slice_from_copied_buffer(from + at, EX_MIN(piece_max, n - at));
	}
	grpc_byte_buffer *b = grpc_raw_byte_buffer_create(slices, n_slices);
	for (size_t i = 0; i < n_slices; i++)
		grpc_slice_unref(slices[i]);
	return ex_msg_wrap(b);
}

struct ex_msg *ex_msg_of_out(const struct ex_out *o)
{
	return ex_msg_wrap(grpc_byte_buffer_copy(o->buffer));
}

size_t ex_msg_bytes(const struct ex_msg *m)
{
	return m->bytes;
}

struct ex_msg *ex_msg_free(struct ex_msg *m)
{
	if (m) {
		grpc_byte_buffer_destroy(m->buffer);
		free(m);
	}
	return NULL;
}

ProtobufCMessage *ex_msg_unpack(const struct ex_msg *m, const ProtobufCMessageDescriptor *d)
{
	grpc_byte_buffer_reader r;
	if (!grpc_byte_buffer_reader_init(&r, m->buffer))
		return NULL;
	grpc_slice whole = grpc_byte_buffer_reader_readall(&r);
	grpc_byte_buffer_reader_destroy(&r);
	ProtobufCMessage *p = protobuf_c_message_unpack(d, NULL, GRPC_SLICE_LENGTH(whole), GRPC_SLICE_START_PTR(whole));
	grpc_slice_unref(whole);
	return p;
}

static uint64_t get_varint(const uint8_t *p, size_t n, size_t *at)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < VARINT_BYTES_MAX && *at < n; i++) {
		uint8_t b = p[(*at)++];
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (!(b & 0x80))
			break;
	}
	return v;
}

/* p: a message that protobuf-c has parsed; a lie would only end the walk early. */
static bool has_nul(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n)
{
	for (size_t at = 0; at < n;) {
		uint64_t key = get_varint(p, n, &at);
		uint64_t len = (key & 7) == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : 4;
		bool is_bytes = (key & 7) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
		if (is_bytes || (key & 7) == PROTOBUF_C_WIRE_TYPE_VARINT)
			len = get_varint(p, n, &at);
		if ((key & 7) == PROTOBUF_C_WIRE_TYPE_VARINT)
			continue;
		if (len > n - at)
			return false;
		const ProtobufCFieldDescriptor *f =
			is_bytes ? protobuf_c_message_descriptor_get_field(d, (unsigned)(key >> 3)) : NULL;
		if (f && f->type == PROTOBUF_C_TYPE_STRING && memchr(p + at, 0, len))
			return true;
		if (f && f->type == PROTOBUF_C_TYPE_MESSAGE && has_nul(f->descriptor, p + at, len))
			return true;
		at += len;
	}
	return false;
}

bool ex_msg_has_nul(const struct ex_msg *m, const ProtobufCMessageDescriptor *d)
{
	grpc_byte_buffer_reader r;
	if (!grpc_byte_buffer_reader_init(&r, m->buffer))
		return false;
	grpc_slice whole = grpc_byte_buffer_reader_readall(&r);
	grpc_byte_buffer_reader_destroy(&r);
	bool found = has_nul(d, GRPC_SLICE_START_PTR(whole), GRPC_SLICE_LENGTH(whole));
	grpc_slice_unref(whole);
	return found;
}

/* --- splitting off a tensor ------------------------------------------------------------------------------ */

/* Walks the fields of a message that lies in several slices. */
struct walker {
	grpc_byte_buffer_reader reader;
	const uint8_t *at, *end; /* what is left of the current slice */
	ProtobufCAllocator *allocator;
	uint8_t *head; /* every field but the tensor, as they came */
	size_t head_n, head_cap, head_max;
	struct ex_piece *pieces;
	size_t n_pieces, pieces_cap, tensor_bytes;
	bool seen; /* a tensor */
};

static void *system_alloc(void *ctx, size_t n)
{
	(void)ctx;
	return malloc(n);
}

static void system_free(void *ctx, void *p)
{
	(void)ctx;
	free(p);
}

static ProtobufCAllocator system_allocator = {.alloc = system_alloc, .free = system_free};

static bool fill(struct walker *w)
{
	while (w->at == w->end) {
		grpc_slice *s;
		if (!grpc_byte_buffer_reader_peek(&w->reader, &s))
			return false;
		w->at = GRPC_SLICE_START_PTR(*s);
		w->end = w->at + GRPC_SLICE_LENGTH(*s);
	}
	return true;
}

/* The value, and its bytes as they came at raw[*n..]. */
static bool read_varint(struct walker *w, uint64_t *ret, uint8_t *raw, size_t *n)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < VARINT_BYTES_MAX; i++) {
		if (!fill(w))
			return false;
		uint8_t b = *w->at++;
		raw[(*n)++] = b;
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (!(b & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

static bool keep(struct walker *w, const void *data, size_t n)
{
	if (n > w->head_max - w->head_n || ex_grow(&w->head, &w->head_cap, w->head_n + n, 1))
		return false;
	memcpy(w->head + w->head_n, data, n);
	w->head_n += n;
	return true;
}

static bool keep_next(struct walker *w, uint64_t n)
{
	while (n) {
		if (!fill(w))
			return false;
		size_t take = EX_MIN((size_t)(w->end - w->at), n);
		if (!keep(w, w->at, take))
			return false;
		w->at += take;
		n -= take;
	}
	return true;
}

static bool add_piece(struct walker *w, const uint8_t *data, size_t n)
{
	if (w->n_pieces == w->pieces_cap) {
		size_t cap = w->pieces_cap ? 2 * w->pieces_cap : 8;
		struct ex_piece *p = w->allocator->alloc(w->allocator->allocator_data, cap * sizeof *p);
		if (!p)
			return false;
		if (w->pieces)
			memcpy(p, w->pieces, w->n_pieces * sizeof *p);
		w->allocator->free(w->allocator->allocator_data, w->pieces);
		w->pieces = p;
		w->pieces_cap = cap;
	}
	w->pieces[w->n_pieces++] = (struct ex_piece){data, n};
	return true;
}

static bool take_tensor(struct walker *w, uint64_t n)
{
	if (w->seen)
		return false;
	w->seen = true;
	w->tensor_bytes = n;
	while (n) {
		if (!fill(w))
			return false;
		size_t take = EX_MIN((size_t)(w->end - w->at), n);
		if (!add_piece(w, w->at, take))
			return false;
		w->at += take;
		n -= take;
	}
	return true;
}

static bool walk_field(struct walker *w, unsigned tensor_field)
{
	uint8_t raw[2 * VARINT_BYTES_MAX];
	size_t n = 0;
	uint64_t key, value;
	if (!read_varint(w, &key, raw, &n))
		return false;
	switch (key & 7) {
	case PROTOBUF_C_WIRE_TYPE_VARINT:
		return read_varint(w, &value, raw, &n) && keep(w, raw, n);
	case PROTOBUF_C_WIRE_TYPE_64BIT:
		return keep(w, raw, n) && keep_next(w, 8);
	case PROTOBUF_C_WIRE_TYPE_32BIT:
		return keep(w, raw, n) && keep_next(w, 4);
	case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
		if (!read_varint(w, &value, raw, &n))
			return false;
		if (key >> 3 == tensor_field)
			return take_tensor(w, value);
		return keep(w, raw, n) && keep_next(w, value);
	default:
		return false;
	}
}

int ex_msg_split(const struct ex_msg *m, const ProtobufCMessageDescriptor *d, unsigned tensor_field, size_t head_max,
	ProtobufCAllocator *a, ProtobufCMessage **ret_head, struct ex_piece **ret_pieces, size_t *ret_n_pieces,
	size_t *ret_tensor_bytes)
{
	struct walker w = {.allocator = a ? a : &system_allocator, .head_max = head_max};
	if (!grpc_byte_buffer_reader_init(&w.reader, m->buffer))
		return -EBADMSG;
	bool good = true;
	while (good && fill(&w))
		good = walk_field(&w, tensor_field);
	ProtobufCMessage *head = good ? protobuf_c_message_unpack(d, a, w.head_n, w.head) : NULL;
	free(w.head);
	grpc_byte_buffer_reader_destroy(&w.reader);
	if (!head) {
		w.allocator->free(w.allocator->allocator_data, w.pieces);
		return -EBADMSG;
	}
	*ret_head = head;
	*ret_pieces = w.pieces;
	*ret_n_pieces = w.n_pieces;
	*ret_tensor_bytes = w.tensor_bytes;
	return 0;
}

void ex_pieces_copy(const struct ex_piece *p, size_t n, void *dst)
{
	uint8_t *to = dst;
	for (size_t i = 0; i < n; i++) {
		memcpy(to, p[i].data, p[i].n);
		to += p[i].n;
	}
}
