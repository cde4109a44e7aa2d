/* SPDX-License-Identifier: Apache-2.0 */
/* An allocator for unpacking one message: grows by chunks up to a limit, everything is freed at once. Private to net/.
 * Layer L1. */
#ifndef EX_NET_SCRATCH_H
#define EX_NET_SCRATCH_H

#include <protobuf-c/protobuf-c.h>

struct ex_scratch;

/* bytes_max: what it hands out in all; a peer's message cannot make it take more. NULL when memory is out. */
struct ex_scratch *ex_scratch_new(size_t bytes_max);
struct ex_scratch *ex_scratch_free(struct ex_scratch *s);
/* n bytes, aligned for any type, not zeroed; NULL at the limit or when memory is out. */
void *ex_scratch_alloc(struct ex_scratch *s, size_t n);
/* For protobuf-c; its free does nothing. */
ProtobufCAllocator *ex_scratch_allocator(struct ex_scratch *s);

#endif
