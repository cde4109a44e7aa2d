/* SPDX-License-Identifier: Apache-2.0 */
/* A method of an admin service that may block: answered on the desk's thread. Layer L4. */
#ifndef EX_GATEWAY_DESK_CALL_H
#define EX_GATEWAY_DESK_CALL_H

#include "base/keep.h"
#include "gateway/desk.h"
#include "net/server.h"

/* Part of a struct with what the method needs besides. Outlives the jobs of the desk, and of slow. */
struct ex_desk_method {
	struct ex_desk *desk; /* borrowed, as all */
	struct ex_jobs *slow; /* whose thread is taken instead; NULL: the desk's */
	const ProtobufCMessageDescriptor *request;
	/* A reply that points into keep, packed. NULL: err, or out of memory when that is not set. [desk, slow] */
	struct ex_out *(*answer)(const struct ex_desk_method *m, const ProtobufCMessage *request, const char *peer,
		struct ex_keep *keep, struct ex_err *err);
};
/* The `message` of an ex_method, whose ctx is a struct ex_desk_method. A request that is malformed, or one too many, is refused. [cq] */
void ex_desk_on_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx);

#endif
