/* SPDX-License-Identifier: Apache-2.0 */
/* The insides of messages, and the queue of those waiting to be sent on one call. Private to net/. Layer L1. */
#ifndef EX_NET_MSG_INTERNAL_H
#define EX_NET_MSG_INTERNAL_H

#include "net/msg.h"
#include <grpc/byte_buffer.h>
#include <stdatomic.h>

struct ex_out {
	grpc_byte_buffer *buffer;
	size_t bytes;
	struct ex_out *next; /* the send queue's */
};

/* What a queued message takes beside its bytes: gRPC's buffer and slices, and struct ex_out. Counted, or a flood of empty
 * messages would stay below every limit. */
#define EX_OUT_OWN_BYTES 512

/* Takes b. NULL when memory is out: b has been destroyed. */
struct ex_msg *ex_msg_wrap(grpc_byte_buffer *b);

/* What one call has to send, first in first out. Guarded by the call's lock, but for `bytes`, which anyone may read. A
 * call has one SEND under way at most: `sending`. */
struct ex_sendq {
	struct ex_out *head, *tail, *sending;
	_Atomic size_t bytes; /* queued and being sent, with EX_OUT_OWN_BYTES for each message */
};

static inline void ex_sendq_push(struct ex_sendq *q, struct ex_out *o)
{
	o->next = NULL;
	if (q->head)
		q->tail->next = o;
	else
		q->head = o;
	q->tail = o;
	atomic_fetch_add_explicit(&q->bytes, o->bytes + EX_OUT_OWN_BYTES, memory_order_relaxed);
}

/* Makes the first one `sending`; there is one, and none is being sent. */
static inline struct ex_out *ex_sendq_next(struct ex_sendq *q)
{
	assert(q->head && !q->sending);
	q->sending = q->head;
	q->head = q->head->next;
	return q->sending;
}

static inline void ex_sendq_sent(struct ex_sendq *q)
{
	atomic_fetch_sub_explicit(&q->bytes, q->sending->bytes + EX_OUT_OWN_BYTES, memory_order_relaxed);
	q->sending = ex_out_free(q->sending);
}

/* Drops what is not being sent yet. */
static inline void ex_sendq_drop(struct ex_sendq *q)
{
	while (q->head) {
		struct ex_out *o = q->head;
		q->head = o->next;
		atomic_fetch_sub_explicit(&q->bytes, o->bytes + EX_OUT_OWN_BYTES, memory_order_relaxed);
		ex_out_free(o);
	}
}

#endif
