/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a MoE layer to the shards that hold their experts, here or on other hosts, and the sum of what comes back. Layer L3.
 *
 * Rows are grouped by shard and host, one frame per host and layer; partials are added in ascending shard order in f32, so the bits do not
 * depend on placement. Shards of this process take the same path without the wire. begin/wait: [step] of one engine.
 *
 * A shard may live on any number of hosts. Of the usable ones the one that will probably answer first is asked; when it fails, dies or falls
 * silent, its rows go to another at once, and the first answer wins. With nobody left to ask the step is held up to hold_ms. */
#ifndef EX_ENGINE_DISPATCH_H
#define EX_ENGINE_DISPATCH_H

#include "base/addr.h"
#include "expert/executor.h"
#include "net/client.h"
#include "trunk/trunk.h"

struct ex_dispatch;

/* SUSPECT: silent for longer than a heartbeat takes; DRAINING: it said that it is going to stop. Both are asked only when no READY host
 * holds the shard. */
enum ex_host_state { EX_HOST_JOINING = 1, EX_HOST_READY, EX_HOST_SUSPECT, EX_HOST_DRAINING, EX_HOST_DOWN };
const char *ex_host_state_name(enum ex_host_state s);

/* Whether a shard may be computed by a replica of another numeric identity than the one in use: its bits may differ. */
enum ex_failover { EX_FAILOVER_IDENTICAL, EX_FAILOVER_ANY };
/* When rows are asked for a second time while the first host still works on them. */
enum ex_hedge { EX_HEDGE_OFF, EX_HEDGE_FIXED, EX_HEDGE_P99 };

struct ex_dispatch_opts {
	const char *node, *version, *model_digest;
	uint64_t epoch; /* that frames name the model by: ex_epoch_of its digest */
	uint32_t d_model, n_layers, n_experts, n_groups;
	uint32_t first_k_dense, moe_layer_freq;   /* as in ex_model_config: which layers have shards */
	uint32_t rows_max, topk;                  /* per step */
	uint32_t x_dtype;                         /* EXPERTD_F32 or EXPERTD_BF16: what rows travel as, local ones too */
	struct ex_executor *local;                /* NULL: no shards in this process */
	struct ex_registry *registry;             /* of local */
	struct ex_loop *loop_data, *loop_control; /* borrowed */
	struct ex_tls *tls;                       /* borrowed; NULL: plain text */
	bool plain_data;                          /* with tls: rows go in plain text to hosts that offer it */
	const char *const *peers;                 /* [n_peers] "host:port": the first members; read by new only */
	size_t n_peers;
	unsigned connect_ms;   /* handshake deadline and pause between tries */
	unsigned heartbeat_ms; /* period of heartbeats; a peer silent for 3 periods is down (default 250: within 1 s) */
	unsigned frame_timeout_ms; /* a frame unanswered that long fails, though heartbeats come back */
	unsigned late_ms; /* .. and that long, and longer than is usual, its rows go to another host, too; 0: 2000 */
	unsigned hold_ms; /* how long after a shard lost its last replica a step waits for one to appear */
	enum ex_failover failover;
	enum ex_hedge hedge;
	unsigned hedge_ms;             /* FIXED: after that long; P99: not before */
	unsigned hedge_budget_percent; /* rows sent twice, of all rows sent */
	unsigned verify_percent;       /* shards' shares that a second replica computes as well, to be compared */
	/* A host changed state. [cq] NULL: none. Events are logged by whoever is above. */
	void (*host_changed)(void *ctx, const char *host, const char *address, enum ex_host_state s, const char *why);
	/* Two replicas of one identity gave different results for a shard. [step] NULL: none. */
	void (*differs)(void *ctx, const struct ex_shard_id *shard, const char *host, const char *other);
	/* A shard is computed with another numeric identity from now on (failover = any, or nothing was running). [step] NULL: none. */
	void (*identity_changed)(void *ctx, const struct ex_shard_id *shard, const char *host);
	void *ctx;
};
int ex_dispatch_new(const struct ex_dispatch_opts *o, struct ex_err *err, struct ex_dispatch **ret);
struct ex_dispatch *ex_dispatch_free(struct ex_dispatch *d);
/* The fleet is these expert hosts from now on: new ones are greeted, rows of those that left go to others. keep_living: who is not
 * listed, but answers, and does not drain, stays. -ENOSPC: more than EX_FLEET_HOSTS_MAX, -ENOMEM; what could be done was done.
 * Returns after those that left are gone. One thread at a time. */
int ex_dispatch_set_members(
	struct ex_dispatch *d, const char *const *addresses, size_t n, bool keep_living, struct ex_err *err);
/* The callbacks that trunk steps take; ctx is d. */
const struct ex_moe_ops *ex_dispatch_moe_ops(struct ex_dispatch *d);

/* Waits until every shard of the model has a ready holder, or timeout_ms passed: then false and err names the missing ones. [main] */
bool ex_dispatch_wait_covered(struct ex_dispatch *d, unsigned timeout_ms, struct ex_err *err);
/* Rows sent over the wire by the last begin (0 when all local), for accounting. [step] */
uint64_t ex_dispatch_rows_sent(const struct ex_dispatch *d);
/* The same for each row, summed over the begins of this step: [rows_max], borrowed. [step] */
const uint32_t *ex_dispatch_row_sends(const struct ex_dispatch *d);
/* A new step: forgets the rows sent and the failure of the one before. [step] */
void ex_dispatch_step_begins(struct ex_dispatch *d);
/* Nothing is being generated: the next begin may take up other numeric identities. [step] */
void ex_dispatch_idle(struct ex_dispatch *d);
/* The engine stops: begins end at once, with failures where answers are missing. [any] */
void ex_dispatch_give_up(struct ex_dispatch *d);
/* Why rows of this step failed first: "shard L3/E4-7 on host h2 (127.0.0.1:7102, down): stream closed"; later layers only tell what followed from it. Borrowed. [step] */
const char *ex_dispatch_failure(const struct ex_dispatch *d);

/* Grows while a step waits for hosts, which frame_timeout_ms bounds: a sign of life for the watchdog. [any] */
uint64_t ex_dispatch_looks(const struct ex_dispatch *d);

struct ex_host_view {
	char name[64], address[EX_ADDR_MAX], error[256], version[32];
	enum ex_host_state state;
	bool local;
	bool drained;               /* by an operator */
	bool refused;               /* it does not hold this router's model */
	bool behind;                /* it does, but would come back with another one after a restart */
	uint32_t n_shards, n_alone; /* held, and of these without another usable replica */
	uint32_t n_frames;          /* sent and not yet answered */
	double rtt_p50_s, rtt_p99_s, state_s;
	double load; /* share of the last seconds in which it worked for this router, 0 to 1 */
	uint64_t rows, errors;
	char plugin[64], zone[64];           /* plugin: EX_IDENTITY_MIXED when several compute its shards */
	char identity[EX_IDENTITY_KIND_MAX]; /* kind of its shards' numeric identities */
	uint64_t memory_bytes;               /* for shards; 0: not said */
	bool accepts_moves;
	bool stops; /* it said that it is going to stop */
};
/* [any] */
void ex_dispatch_each_host(struct ex_dispatch *d, void (*fn)(void *ctx, const struct ex_host_view *v), void *ctx);
/* Takes the host named out of use, or back into it: while it is drained it is asked only for what nobody else can compute.
 * *ret_alone: its shards that have no other usable replica; with any, and without force, nothing is changed: -EBUSY, the first
 * ones named. -ENOENT: no such host. [any] */
int ex_dispatch_drain(
	struct ex_dispatch *d, const char *name, bool drain, bool force, struct ex_err *err, uint32_t *ret_alone);
/* fn for each shard of the model, ascending, with the names of its ready holders. [any] */
void ex_dispatch_each_shard(struct ex_dispatch *d,
	void (*fn)(void *ctx, const struct ex_shard_id *id, const char *const *hosts, size_t n_hosts), void *ctx);
void ex_dispatch_coverage(struct ex_dispatch *d, uint32_t *ret_covered, uint32_t *ret_shards, uint32_t *ret_hosts_ready,
	uint32_t *ret_hosts);

#endif
