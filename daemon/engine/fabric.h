/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of dispatch share: the object, its hosts, the jobs of one begin. Layer L3.
 *
 * Threads: begin and wait on the step thread; a host's Hello on the control loop, its stream and heartbeats on the data
 * loop, so that callbacks of a stream never meet the code that opened it. What both sides touch is guarded by d->lock,
 * which is never held across a call into net/ or the executor.
 */
#ifndef EX_ENGINE_FABRIC_H
#define EX_ENGINE_FABRIC_H

#include "base/lock.h"
#include "base/metrics.h"
#include "engine/dispatch.h"
#include "engine/plan.h"
#include "net/frame.h"
#include <stdatomic.h>

#define EX_DISPATCH_MAGIC   0x70736964u
#define EX_HOST_MISSES_MAX  3    /* silent heartbeat periods until a host is down */
#define EX_HELLO_REFRESH_MS 1000 /* while a host still loads shards */

/* Rows on their way out: all rows of the step in x_dtype, then the selections of single hosts. gRPC may hold it after
 * the step. */
struct send_buffer {
	_Atomic unsigned n_refs; /* the pool's, the step's, one per frame that gRPC still holds */
	uint8_t *data;           /* [rows_max * (1 + hosts a row can travel to), d_model] x_dtype */
};

/* One shard's share of the begin at hand. */
struct shard_job {
	struct ex_dispatch *d;
	const struct ex_plan_shard *s;
	struct fleet_host *host; /* NULL: local, or nobody when status says so from the start */
	float *y;                /* [s->n_rows, d_model] its stretch of d->partials */
	int status;              /* guarded by d->lock until wait is through */
	struct ex_work work;
};

enum frame_state { FRAME_NONE, FRAME_SENT, FRAME_RECEIVING };

/* The frame that a host works on: at most one. Guarded by d->lock. */
struct host_frame {
	enum frame_state state;
	uint64_t id, sent_ns;
};

struct host_metrics {
	struct ex_metric *rows, *frames, *seconds, *errors;
};

struct fleet_host {
	struct ex_dispatch *d;
	const char *address;
	struct ex_channel *control, *data; /* fixed */
	/* guarded by d->lock */
	char name[64], version[32], error[256]; /* name: the address until Hello tells */
	enum ex_host_state state;
	uint64_t state_ns, next_try_ns, heard_ns, hello_ns;
	struct ex_stream *stream; /* its reference; NULL: none */
	bool hello_pending;       /* [control loop] */
	bool hello_answered;      /* [control loop] by a message, good or not */
	bool hello_good;          /* Hello was accepted: a stream may be opened */
	bool loading; /* some of its shards were not ready at the last Hello, or one has gone since: ask again */
	uint8_t *has; /* [n_layers * n_groups] ready shards */
	uint32_t n_shards;
	struct host_frame frame;
	struct host_metrics m;
	uint64_t n_rows, n_errors;
};

struct ex_dispatch {
	uint32_t magic;
	struct ex_dispatch_opts o;
	struct ex_moe_ops moe;
	struct ex_lock lock;
	pthread_cond_t cond;      /* a job ended, coverage grew */
	struct fleet_host *hosts; /* [o.n_peers] in the order of the configuration */
	struct ex_timer *timer_control, *timer_data;
	uint64_t ticked_ns, beat_ns; /* [data loop] */
	struct host_metrics local;
	bool stopping; /* guarded by lock */
	uint64_t start_ns;

	/* [step] */
	struct ex_plan plan;
	struct shard_job *jobs;       /* [n_groups], the first plan.n_shards of the begin at hand, ascending */
	float *partials;              /* [rows_max * shards a row can need, d_model] */
	struct send_buffer **buffers; /* [n_buffers] */
	uint32_t n_buffers;
	struct send_buffer *buffer;          /* of the begin at hand */
	uint32_t layer, n_rows, n_selected;  /* of the begin; rows behind them that hosts' selections took */
	uint32_t *row_at, *frame_rows;       /* [rows_max], [rows_max * topk] */
	struct ex_frame_shard *frame_shards; /* [n_groups] */
	uint32_t *row_sends;                 /* [rows_max] */
	uint8_t *row_void;                   /* [rows_max] 1: its weights are not finite */
	uint64_t rows_sent, frame_id, begin_ns;
	char failure[512];

	_Atomic uint64_t n_looks; /* of the step thread at frames it waits for */
	uint32_t n_open;          /* guarded by lock: works and frames that have not ended */
};

static inline size_t ex_dispatch_x_bytes(const struct ex_dispatch *d)
{
	return (size_t)d->o.d_model * (d->o.x_dtype == EXPERTD_BF16 ? 2 : 4);
}

/* --- host.c ---------------------------------------------------------------------------------------------- */
int ex_host_open(struct fleet_host *h, struct ex_dispatch *d, const char *address, struct ex_err *err);
void ex_host_close(struct fleet_host *h);
/* Periodic work: Hello when it is time [control loop]; stream, heartbeats, silence [data loop]. */
void ex_host_tick_control(struct fleet_host *h);
void ex_host_tick_data(struct fleet_host *h, bool trust_clock, bool beat);
/* Ends the host's stream and its frame; it is tried again later. Not under d->lock. */
void ex_host_fail(struct fleet_host *h, const char *text);

/* --- fabric.c: frames of the begin at hand --------------------------------------------------------------- */
/* Drops one reference; the last one frees. Its type is net's release callback. [any] */
void ex_fabric_release_buffer(void *buffer);
/* Sends h the frame of its jobs. On failure the jobs carry the status. [step] */
void ex_fabric_send(struct ex_dispatch *d, struct fleet_host *h, uint32_t layer);
/* Takes the data of a reply to h's frame; a reply to no frame at hand is dropped. -EBADMSG: it does not answer what was
 * asked. [data loop] */
int ex_fabric_receive(struct fleet_host *h, const struct ex_frame_reply *reply, struct ex_err *err);
/* Copies what a peer says of itself: what is not printable ASCII becomes '?', for it goes to terminals and into UTF-8. */
void ex_peer_text(char *dst, size_t size, const char *text);
/* Ends h's frame, if it waits for an answer, with `status` for all its jobs. Under d->lock. */
void ex_fabric_abort(struct fleet_host *h, int status);

#endif
