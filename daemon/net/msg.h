/* SPDX-License-Identifier: Apache-2.0 */
/* Messages in and out of gRPC without copying tensors. Layer L1. */
#ifndef EX_NET_MSG_H
#define EX_NET_MSG_H

#include "base/err.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* --- out: one packed protobuf message, and perhaps a tensor behind it as the last bytes field -------------------- */
struct ex_out;

/* Packs m. NULL when memory is out. [any] */
struct ex_out *ex_out_pack(const ProtobufCMessage *m);
/* The same, then field `field` (wire type 2) of n bytes at data, not copied: release(ctx) is called once, on any
 * thread, when gRPC no longer needs it (also when the message could not be sent). release must not call into net/;
 * NULL: data outlives the message. m's own value of the field is empty. When NULL is returned release has been called,
 * too. */
struct ex_out *ex_out_pack_tensor(
	const ProtobufCMessage *m, unsigned field, const void *data, size_t n, void (*release)(void *ctx), void *ctx);
size_t ex_out_bytes(const struct ex_out *o);
struct ex_out *ex_out_free(struct ex_out *o);
EX_DEFINE_CLEANUP(struct ex_out, ex_out_free)

/* --- in: a received message -------------------------------------------------------------------------------------- */
struct ex_msg;
size_t ex_msg_bytes(const struct ex_msg *m);
struct ex_msg *ex_msg_free(struct ex_msg *m);
EX_DEFINE_CLEANUP(struct ex_msg, ex_msg_free)
/* A message that did not come over a wire: a copy of data[0..n) in pieces of at most piece_max bytes, as gRPC would
 * deliver it. NULL when memory is out. [any] */
struct ex_msg *ex_msg_new(const void *data, size_t n, size_t piece_max);
/* What the receiver of o would get; shares o's bytes. NULL when memory is out. [any] */
struct ex_msg *ex_msg_of_out(const struct ex_out *o);

/* Unpacks the whole message (no tensor expected); free with protobuf_c_message_free_unpacked. NULL: malformed. */
ProtobufCMessage *ex_msg_unpack(const struct ex_msg *m, const ProtobufCMessageDescriptor *d);
/* Whether a string field of m, which ex_msg_unpack took, holds a NUL: unpacked it is a C string and ends there. */
bool ex_msg_has_nul(const struct ex_msg *m, const ProtobufCMessageDescriptor *d);
/* Splits off field `tensor_field`: everything else is unpacked as *ret_head; the tensor's bytes lie in *ret_pieces
 * (pointing into m, valid while m is). More than head_max bytes of header, a second tensor or a malformed message:
 * -EBADMSG. Memory comes from allocator a (NULL: malloc); the caller frees the head with
 * protobuf_c_message_free_unpacked(.., a) and the array of pieces with a's free; *ret_pieces is NULL when there is no
 * tensor. */
struct ex_piece {
	const uint8_t *data;
	size_t n;
};
int ex_msg_split(const struct ex_msg *m, const ProtobufCMessageDescriptor *d, unsigned tensor_field, size_t head_max,
	ProtobufCAllocator *a, ProtobufCMessage **ret_head, struct ex_piece **ret_pieces, size_t *ret_n_pieces,
	size_t *ret_tensor_bytes);
/* Copies the pieces to dst, one after another. */
void ex_pieces_copy(const struct ex_piece *p, size_t n, void *dst);

#endif
