/* SPDX-License-Identifier: Apache-2.0 */
/* The Experts service (proto/expertd/experts.proto) over registry and executor. Layer L2.
 *
 * Hello refuses a router of another wire version, model or expert_groups with FAILED_PRECONDITION and both values. On a
 * Dispatch stream frames are computed as they come and answered as they are done, in any order; a heartbeat is answered
 * at once, by the loop, whatever the workers do. A frame that is not one ends the stream with INVALID_ARGUMENT and the
 * field's name; a shard that cannot be computed is an error of that shard alone. */
#ifndef EX_EXPERT_SERVICE_H
#define EX_EXPERT_SERVICE_H

#include "expert/executor.h"
#include "net/server.h"

#define EX_EXPERTS_REPLY_BYTES_MAX     ((size_t)256 << 20) /* what 0 in the options means */
#define EX_EXPERTS_IN_FLIGHT_BYTES_MAX ((size_t)128 << 20)

#define EX_EXPERTS_MORE_MAX            4

struct ex_experts_service;

struct ex_experts_service_opts {
	struct ex_registry *registry; /* borrowed, as all below */
	struct ex_executor *executor;
	const char *node, *version, *model_digest, *zone; /* zone: "" when it is not said */
	uint64_t memory_bytes;                            /* that shards may have in all; 0: not known */
	uint32_t d_model, n_experts, n_groups;
	/* Replies queued towards one router that does not read; beyond: the stream is ended. */
	uint64_t reply_bytes_max;
	/* x and y of one stream's frames that are being computed; beyond, with more than one frame: it is not read,
	 * heartbeats included, until some are done. */
	uint64_t in_flight_bytes_max;
	/* Whether this host holds that model, and by what epoch; *ret_live: the digest of the live one. NULL: model_digest is the only one; else
	 * that is not looked at. [cq] */
	bool (*find_model)(void *ctx, const char *digest, uint64_t *ret_epoch, char ret_live[static 65]);
	const struct ex_method
		*more; /* methods beside, path-NULL-terminated, EX_EXPERTS_MORE_MAX at most; NULL: none */
	void *ctx;
	/* Routers may open Dispatch streams in plain text, too, on the server of ex_experts_service_data_methods. */
	bool plain_data;
	bool accepts_moves; /* Hello says so; the method is in moves.h */
};
int ex_experts_service_new(const struct ex_experts_service_opts *o, struct ex_experts_service **ret);
/* The server is stopped and no frame is in flight. [main] */
struct ex_experts_service *ex_experts_service_free(struct ex_experts_service *s);
/* Its rows for ex_server_opts.methods, path-NULL-terminated; loop_control serves Hello, loop_data Dispatch. */
const struct ex_method *ex_experts_service_methods(struct ex_experts_service *s, int loop_control, int loop_data);
/* The same for a server in plain text beside it, with plain_data: Dispatch for those who show a word that Hello gave them. */
const struct ex_method *ex_experts_service_data_methods(struct ex_experts_service *s, int loop_data);
/* The port of that server, for Hello. Before the other server starts. */
void ex_experts_service_set_data_port(struct ex_experts_service *s, int port);
/* Tells every router on its stream, and on each reply from now on, that this host is going to stop. [any] */
void ex_experts_service_drain(struct ex_experts_service *s);
/* Streams of routers that use the weights of that epoch. [any] */
unsigned ex_experts_service_users(struct ex_experts_service *s, uint64_t epoch);
/* Frames still being computed: a drain waits until it is 0. [any] */
uint32_t ex_experts_service_in_flight(const struct ex_experts_service *s);

#endif
