/* SPDX-License-Identifier: Apache-2.0 */
/* What a completion queue hands back: who to tell. Private to net/. Layer L1. */
#ifndef EX_NET_TAG_H
#define EX_NET_TAG_H

#include "net/loop.h"
#include <grpc/grpc.h>

/* Embedded in the object that waits; fn runs on the loop's thread. ok: the operation succeeded. */
struct ex_tag {
	void (*fn)(struct ex_tag *t, bool ok);
};

grpc_completion_queue *ex_loop_queue(const struct ex_loop *l);
bool ex_loop_is_current(const struct ex_loop *l); /* called from l's thread? */

/* gRPC orders "tag given" before "tag handed back", which a thread sanitizer cannot see inside a library built without
 * it. */
#if defined(__SANITIZE_THREAD__)
#define EX_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EX_TSAN 1
#endif
#endif
#ifdef EX_TSAN
#include <sanitizer/tsan_interface.h>
#define EX_TAG_GIVEN(t)    __tsan_release(t)
#define EX_TAG_RECEIVED(t) __tsan_acquire(t)
#else
#define EX_TAG_GIVEN(t)    ((void)(t))
#define EX_TAG_RECEIVED(t) ((void)(t))
#endif

#endif
