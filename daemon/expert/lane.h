/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch streams, one lane each. Private to the Experts service. Layer L2. */
#ifndef EX_EXPERT_LANE_H
#define EX_EXPERT_LANE_H

#include "expert/pool.h"
#include "expert/service.h"
#include "expert/words.h"
#include "base/lock.h"
#include <stdatomic.h>

struct lane;

/* What the lanes of a service share; outlives them. */
struct ex_lane_env {
	struct ex_executor *executor;
	struct ex_pool *pool;
	uint32_t d_model, n_experts;
	size_t reply_bytes_max, in_flight_bytes_max;
	_Atomic uint32_t n_in_flight; /* frames */
	struct ex_registry *registry;
	struct ex_words *words; /* NULL: no streams in plain text beside those of TLS */
	_Atomic bool draining;
	struct ex_lock lock;
	struct lane *lanes; /* with a stream; guarded by lock */
};

/* The method's callbacks; its ctx is a struct ex_lane_env. */
int ex_lane_start(struct ex_rpc *rpc, void *ctx);
int ex_lane_start_with_word(struct ex_rpc *rpc, void *ctx); /* -EACCES: it shows no word that is good */
void ex_lane_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx);
void ex_lane_half_close(struct ex_rpc *rpc, void *ctx);
/* Tells the routers of all lanes that this host is going to stop. [any] */
void ex_lanes_drain(struct ex_lane_env *env);
/* Streams whose last frame or heartbeat was of that epoch. [any] */
unsigned ex_lanes_of_epoch(struct ex_lane_env *env, uint64_t epoch);
void ex_lane_done(struct ex_rpc *rpc, bool cancelled, void *ctx);

#endif
