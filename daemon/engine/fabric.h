/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of dispatch share: the object, its hosts, the jobs and frames of one begin. Layer L3.
 *
 * Threads: begin and wait on the step thread; a host's Hello on the control loop, its stream and heartbeats on the data
 * loop, so that callbacks of a stream never meet the code that opened it. What both sides touch is guarded by d->lock,
 * which is never held across a call into net/ or the executor.
 *
 *   dispatch.c  options, begin, wait, the sum      route.c   whom to ask, again and for how long
 *   fabric.c    frames out and in                  host.c    one remote host: Hello, stream, heartbeats
 *   roster.c    which hosts there are              view.c    what is shown
 */
#ifndef EX_ENGINE_FABRIC_H
#define EX_ENGINE_FABRIC_H

#include "base/clock.h"
#include "base/lock.h"
#include "base/metrics.h"
#include "engine/dispatch.h"
#include "engine/plan.h"
#include "fleet/load.h"
#include "fleet/members.h"
#include "net/frame.h"
#include <stdatomic.h>

#define EX_DISPATCH_MAGIC      0x70736964u
#define EX_HOST_MISSES_MAX     3                        /* silent heartbeat periods until a host is down */
#define EX_HELLO_REFRESH_MS    1000                     /* while a host still loads shards */
#define EX_DISPATCH_FRAMES_MAX (4 * EX_FLEET_HOSTS_MAX) /* that may be answered in one begin; more wait their turn */
#define EX_JOB_WORDS           (2 * EX_FRAME_SHARDS_MAX / 64) /* every shard of a layer, and a check of each */
#define EX_HOST_WORDS          (EX_FLEET_HOSTS_MAX / 64)

static inline bool ex_bit(const uint64_t *set, size_t i)
{
	return set[i / 64] >> i % 64 & 1;
}

static inline void ex_bit_set(uint64_t *set, size_t i)
{
	set[i / 64] |= UINT64_C(1) << i % 64;
}

/* Rows on their way out: all rows of the step in x_dtype, then the selections of single hosts. gRPC may hold it after
 * the step. */
struct send_buffer {
	_Atomic unsigned n_refs; /* the pool's, the step's, one per frame that gRPC still holds */
	uint8_t *data;           /* [rows_max * (1 + hosts a row can travel to), d_model] x_dtype */
};

/* OPEN: nobody works on it. OUT: n_out frames or works may answer it. TAKING: the data loop reads its answer. */
enum job_state { JOB_OPEN, JOB_OUT, JOB_TAKING, JOB_DONE, JOB_FAILED };

/* One shard's share of the begin at hand, or a check of one: the same rows on another host, to be compared. Guarded by d->lock, but for what is fixed by begin (d, s, y). */
struct shard_job {
	struct ex_dispatch *d;
	const struct ex_plan_shard *s;
	float *y;                         /* [s->n_rows, d_model] its stretch of d->partials */
	const struct shard_job *check_of; /* NULL: it is no check */
	enum job_state state;
	uint32_t n_out;
	int status;                /* of the last failure; -EHOSTUNREACH: nobody could be asked */
	struct fleet_host *host;   /* who failed or answered last; NULL: this process, or nobody */
	struct fleet_host *target; /* [step] whom the next frame goes to */
	uint64_t
		identity; /* numeric identity of whom was asked last: all who are asked at once have one; of who answered */
	bool local, local_out, local_failed; /* [step] target is this process; it computes; it has failed */
	uint64_t retry_ns;                   /* when those that failed may be asked again; 0: nobody has failed */
	uint64_t asked[EX_HOST_WORDS];       /* by place in d->hosts */
	struct ex_work work;
};

/* A frame that may still be answered for the begin at hand. Guarded by d->lock. */
struct out_frame {
	struct fleet_host *host; /* NULL: a free place */
	uint64_t id, sent_ns;
	uint32_t n_rows;
	bool taking; /* its reply is being read: only the data loop ends it */
	uint64_t jobs[EX_JOB_WORDS];
};

struct host_metrics {
	struct ex_metric *rows, *frames, *seconds, *errors, *resent;
};

struct fleet_host {
	struct ex_dispatch *d;
	char address[EX_ADDR_MAX]; /* fixed while it is used, as the channels are */
	struct ex_channel *control, *data;
	/* guarded by d->lock */
	bool used, leaving;                     /* a member of the fleet; on its way out of it */
	char name[64], version[32], error[256]; /* name: the address until Hello tells */
	enum ex_host_state state;
	uint64_t state_ns, next_try_ns, heard_ns, hello_ns;
	struct ex_stream *stream; /* its reference; NULL: none */
	bool hello_pending;       /* [control loop] */
	bool hello_answered;      /* [control loop] by a message, good or not */
	bool hello_good;          /* Hello was accepted: a stream may be opened */
	bool refused;             /* at the last Hello, for what it is */
	bool behind;              /* another model than ours is its live one */
	bool stale;               /* its list of shards is not the newest, or some were loading: ask again */
	uint64_t revision;        /* of its list, as it counts them */
	uint64_t *identity; /* [n_layers * n_groups] of its ready shards; 0: not held. Set by ex_host_set_identity */
	uint32_t n_shards;
	bool distrusted;                  /* its results differed from those of two others; until it is restarted */
	uint64_t differed[EX_HOST_WORDS]; /* from whom, by place */
	bool drained;                     /* an operator wants it unused */
	char plugin[64];                  /* that computes its shards, by its word; EX_IDENTITY_MIXED: several do */
	char kind[EX_IDENTITY_KIND_MAX];  /* of its shards' identities */
	char zone[64];
	uint64_t memory_bytes; /* for shards, by its word; 0: not said */
	bool accepts_moves;    /* by its word */
	uint32_t n_downs;      /* in a row, each soon after it had come up */
	struct host_metrics m;
	uint64_t n_rows, n_errors;
	/* what it costs to ask: time to a reply and rows of a frame (both smoothed), rows waiting there by its own word */
	uint64_t reply_ns, p99_ns, used_ns;
	uint64_t busy_ns, beat_ns; /* computing for us since the last beat, and when that was */
	double load;               /* share of the time computing for us, smoothed */
	uint32_t frame_rows, queued;
};

/* [step] What a host is to be sent in the begin at hand; by place. */
struct aimed {
	uint32_t n_rows;             /* of jobs that it was given */
	uint64_t jobs[EX_JOB_WORDS]; /* that its next frame takes */
};

struct ex_dispatch {
	uint32_t magic;
	struct ex_dispatch_opts o;
	struct ex_moe_ops moe;
	struct ex_lock lock;
	pthread_cond_t cond;      /* a job ended, coverage grew */
	struct fleet_host *hosts; /* [EX_FLEET_HOSTS_MAX] places */
	_Atomic uint32_t n_hosts; /* places that were ever used: the first ones. Written under lock */
	size_t room_rows;         /* in a send buffer behind the step's own: for selections */
	struct ex_timer *timer_control, *timer_data;
	uint64_t ticked_ns, beat_ns; /* [data loop] */
	struct host_metrics local;
	struct ex_metric *m_verified;
	bool stopping, give_up; /* guarded by lock */
	uint64_t start_ns;

	/* [step] */
	struct ex_plan plan;
	struct aimed *aimed;    /* [EX_FLEET_HOSTS_MAX] */
	struct shard_job *jobs; /* [2 * n_groups]: of plan.n_shards shards, ascending, then their checks, ascending */
	uint32_t n_jobs;        /* of the begin at hand */
	uint32_t verify_due;    /* percent of the next check */
	float *check_partials;  /* as partials; NULL: nothing is checked */
	float *partials;        /* [rows_max * shards a row can need, d_model] */
	struct send_buffer **buffers; /* [n_buffers] */
	uint32_t n_buffers;
	struct send_buffer *buffer;          /* of the begin at hand */
	uint32_t layer, n_rows, n_selected;  /* of the begin; rows behind them that hosts' selections took */
	uint32_t *row_at, *frame_rows;       /* [rows_max], [rows_max * topk] */
	struct ex_frame_shard *frame_shards; /* [n_groups] */
	uint32_t *row_sends;                 /* [rows_max] */
	uint8_t *row_void;                   /* [rows_max] 1: its weights are not finite */
	uint64_t rows_sent, frame_id, begin_ns;
	uint64_t rows_budget, rows_hedged; /* sent and sent twice, of late */
	uint64_t *lost_ns;  /* [n_layers * n_groups] since when nobody has answered for a shard; 0: somebody has */
	uint64_t held_ns;   /* since when the step is held; 0: it was not */
	uint64_t *identity; /* [n_layers * n_groups] in use; 0: none yet. Written while no frame and no work is out */
	uint64_t *
		shard_bytes; /* [n_layers * n_groups] by the word of whoever holds it; 0: nobody has said. Guarded by lock */
	/* [n_layers * n_groups] who holds it, by place: whose identity is not 0. Guarded by lock. For choosing: most hosts hold few of the shards. */
	uint64_t (*holders)[EX_HOST_WORDS];
	struct ex_load *load; /* of each slot */
	char failure[1024];

	_Atomic uint64_t n_looks; /* of the step thread at frames it waits for */
	/* guarded by lock */
	struct out_frame *frames; /* [EX_DISPATCH_FRAMES_MAX], the first n_frames in use or free again */
	uint32_t n_frames;
	uint32_t n_works, n_taking; /* local works out; replies being read */
};

static inline size_t ex_dispatch_x_bytes(const struct ex_dispatch *d)
{
	return (size_t)d->o.d_model * (d->o.x_dtype == EXPERTD_BF16 ? 2 : 4);
}

static inline size_t ex_dispatch_slot(const struct ex_dispatch *d, uint32_t layer, uint32_t group)
{
	return (size_t)layer * d->o.n_groups + group;
}

/* 0: it does not hold the shard (any more). Under d->lock. */
static inline void ex_host_set_identity(struct fleet_host *h, size_t slot, uint64_t identity)
{
	const size_t place = (size_t)(h - h->d->hosts);
	uint64_t *word = &h->d->holders[slot][place / 64];
	h->identity[slot] = identity;
	*word &= ~(UINT64_C(1) << place % 64);
	*word |= (uint64_t)(identity != 0) << place % 64;
}

/* The first place from `from` on that holds the slot and is not in `except`; EX_FLEET_HOSTS_MAX: none. Under d->lock. */
static inline size_t ex_next_holder(const struct ex_dispatch *d, size_t slot, const uint64_t *except, size_t from)
{
	for (size_t w = from / 64; w < EX_HOST_WORDS; w++) {
		uint64_t set = d->holders[slot][w] & ~except[w];
		if (w == from / 64)
			set &= UINT64_MAX << from % 64;
		if (set)
			return w * 64 + (size_t)__builtin_ctzll(set);
	}
	return EX_FLEET_HOSTS_MAX;
}

/* Places that were ever used; a place is a host only while it is `used`. [any] */
static inline uint32_t ex_dispatch_n_hosts(const struct ex_dispatch *d)
{
	return atomic_load_explicit(&d->n_hosts, memory_order_acquire);
}

/* May be sent frames. Under d->lock. */
static inline bool ex_host_usable(const struct fleet_host *h)
{
	return h->stream && (h->state == EX_HOST_READY || h->state == EX_HOST_SUSPECT || h->state == EX_HOST_DRAINING);
}

/* --- host.c ---------------------------------------------------------------------------------------------- */
/* Makes the free place h a host. [main] */
int ex_host_open(struct fleet_host *h, struct ex_dispatch *d, const char *address, struct ex_err *err);
/* Its rows go to others, its connections end, its place is free. [main] */
void ex_host_close(struct fleet_host *h);
/* Periodic work: Hello when it is time [control loop]; stream, heartbeats, silence [data loop]. */
void ex_host_tick_control(struct fleet_host *h);
void ex_host_tick_data(struct fleet_host *h, bool trust_clock, bool beat);
/* Ends the host's stream and its frames; it is tried again later. Not under d->lock. */
void ex_host_fail(struct fleet_host *h, const char *text);
/* It has come up and gone down several times of late: asked only when no other holder is there. Under d->lock. */
bool ex_host_flaps(const struct fleet_host *h, uint64_t now);

/* --- roster.c: the places of hosts ------------------------------------------------------------------------ */
int ex_roster_start(struct ex_dispatch *d, struct ex_err *err); /* with o.peers [main] */
void ex_roster_stop(struct ex_dispatch *d);                     /* also when start failed [main] */

/* --- route.c [step] -------------------------------------------------------------------------------------- */
/* Chooses whom to ask for what is open, and sends. */
void ex_route_send(struct ex_dispatch *d);
/* Until every job is done or failed: asks others when somebody fails, falls silent or is late. */
void ex_route_wait(struct ex_dispatch *d);
/* Compares checks with what they check, and tells what differs. */
void ex_route_compare(struct ex_dispatch *d);

/* --- fabric.c: frames of the begin at hand --------------------------------------------------------------- */
/* Drops one reference; the last one frees. Its type is net's release callback. [any] */
void ex_fabric_release_buffer(void *buffer);
struct send_buffer *ex_fabric_new_buffer(const struct ex_dispatch *d, size_t n_rows);
/* Sends h a frame of these jobs. On failure they are open again. [step] */
void ex_fabric_send(struct ex_dispatch *d, struct fleet_host *h, const uint64_t *jobs);
/* Takes the data of a reply to one of h's frames; a reply to no frame at hand is dropped. -EBADMSG: it does not answer
 * what was asked. [data loop] */
int ex_fabric_receive(struct fleet_host *h, const struct ex_frame_reply *reply, struct ex_err *err);
/* Whether a result that was computed with this numeric identity (0: not said) may answer j: that of whom was asked, or, when that was swapped
 * meanwhile, one that nothing speaks against. Under d->lock. */
bool ex_fabric_fits(struct shard_job *j, uint64_t identity);
/* Copies what a peer says of itself: what is not printable ASCII becomes '?', for it goes to terminals and into UTF-8. */
void ex_peer_text(char *dst, size_t size, const char *text);
/* Ends h's frames, but for one whose reply is being read: their jobs are open again. Under d->lock. */
void ex_fabric_abort(struct fleet_host *h, int status);

#endif
