/* SPDX-License-Identifier: Apache-2.0 */
/* A server of net/ for clients that are not ours. It speaks the messages of expertd.v1.Experts, so that reflection describes them,
 * but means something simpler by them:
 *   Hello      node "slow": no answer, until the client goes; else the same node and version, and epoch: calls cancelled so far
 *   Dispatch   every request is answered with its id; layer N: by N answers; at half-close the stream ends with OK
 * Prints the port, and stops when its input ends. Each line of input flips the health status. */
#include "net/frame.h"
#include "net/server.h"
#include "proto/expertd/experts.pb-c.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES_MAX (1 << 20)
#define ANSWERS_MAX       100000

static _Atomic uint64_t n_cancelled;

static void hello(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	(void)ctx;
	Expertd__V1__HelloRequest *q =
		(Expertd__V1__HelloRequest *)ex_msg_unpack(m, &expertd__v1__hello_request__descriptor);
	ex_msg_free(m);
	if (!q) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "malformed HelloRequest");
		return;
	}
	if (strcmp(q->node, "slow") != 0) {
		Expertd__V1__HelloReply r = EXPERTD__V1__HELLO_REPLY__INIT;
		r.node = q->node;
		r.version = q->version;
		r.epoch = n_cancelled;
		ex_rpc_send(rpc, ex_out_pack(&r.base));
		ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
	}
	expertd__v1__hello_request__free_unpacked(q, NULL);
}

static void dispatch(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	(void)ctx;
	ProtobufCMessage *p = ex_msg_unpack(m, &expertd__v1__dispatch_request__descriptor);
	ex_msg_free(m);
	if (!p) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "malformed DispatchRequest");
		return;
	}
	const Expertd__V1__DispatchRequest *q = (const Expertd__V1__DispatchRequest *)p;
	for (uint32_t i = 0; i < EX_MAX(q->layer, 1u) && i < ANSWERS_MAX; i++) {
		Expertd__V1__DispatchReply r = EXPERTD__V1__DISPATCH_REPLY__INIT;
		r.id = q->id;
		r.queued = i;
		ex_rpc_send(rpc, ex_out_pack(&r.base));
	}
	protobuf_c_message_free_unpacked(p, NULL);
}

static void half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	(void)rpc;
	(void)ctx;
	n_cancelled += cancelled;
}

int main(int argc, char **argv)
{
	static const struct ex_method methods[] = {
		{.path = "/expertd.v1.Experts/Hello",
			.message_bytes_max = MESSAGE_BYTES_MAX,
			.message = hello,
			.done = done},
		{.path = "/expertd.v1.Experts/Dispatch", .message = dispatch, .half_close = half_close, .done = done},
		{.path = NULL},
	};
	struct ex_err err = EX_ERR_INIT;
	struct ex_loop *loop = NULL;
	struct ex_server *server = NULL;
	char line[16];
	bool serving = true;
	ex_net_init();
	int rc = ex_loop_new("server", &err, &loop);
	if (!rc) {
		struct ex_server_opts o = {
			.listen = argc > 1 ? argv[1] : "127.0.0.1:0", .loops = &loop, .n_loops = 1, .methods = methods};
		rc = ex_server_start(&o, &err, &server);
	}
	if (rc) {
		fprintf(stderr, "rpc_server: %s\n", ex_err_text(&err));
	} else {
		printf("%d\n", ex_server_port(server));
		fflush(stdout);
		while (fgets(line, sizeof line, stdin)) {
			serving = !serving;
			ex_server_set_serving(server, serving);
		}
	}
	ex_server_stop(server, 100);
	ex_loop_free(loop);
	ex_net_done();
	return rc ? 1 : 0;
}
