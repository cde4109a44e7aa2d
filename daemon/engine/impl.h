/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine's own files share. Layer L3. */
#ifndef EX_ENGINE_IMPL_H
#define EX_ENGINE_IMPL_H

#include "base/lock.h"
#include "base/metrics.h"
#include "engine/request.h"
#include "engine/sampler.h"

#define EX_ENGINE_MAGIC 0x696e676eu
#define RATE_SECONDS    10

/* Series that a step touches, looked up once. */
struct engine_metrics {
	struct ex_metric *running, *waiting, *kv_usage, *preemptions, *prompt_tokens, *generation_tokens;
	struct ex_metric *ttft, *itl, *e2e, *queue_time;
	struct ex_metric *success[EX_FINISH_CANCELLED + 1]; /* by enum ex_finish */
};

/* A model and the sequences that it computes. A step is of one side. */
struct ex_side {
	struct ex_engine_model m;
	const struct ex_moe_ops *moe;
	struct ex_request_limits limits;
	unsigned n_users; /* requests that have not ended, and holders; guarded by the engine's lock */
	/* [step] */
	struct ex_kv *kv;
	struct ex_sched sched;
	uint32_t n_started; /* requests that were in the batch, and have not ended */
};

struct ex_engine {
	uint32_t magic;
	struct ex_engine_opts o; /* sizes; the model in it is the first side's, and may be gone */
	uint32_t vocab;          /* of every model */
	struct engine_metrics m;
	pthread_t thread;
	_Atomic uint64_t turns;

	struct ex_lock lock;
	pthread_cond_t wake; /* the step thread has something to do */
	pthread_cond_t idle; /* a request ended */
	/* guarded by lock */
	struct ex_request *inbox_first, *inbox_last;
	bool stopping, draining, ending, cancel_asked;
	uint32_t n_inbox;
	uint32_t n_live; /* not ended */
	uint64_t n_submitted, start_us;
	struct ex_engine_stat stat;
	uint64_t rate_second[RATE_SECONDS]; /* which second of the clock each slot counts */
	uint32_t rate_tokens[RATE_SECONDS];
	struct ex_side
		*side; /* that is served. Written by the step thread, which reads it without the lock, as the next */
	struct ex_side *before; /* the one before, while it has requests */
	struct ex_side *next;   /* to be served from the next step on; for new requests already now */
	uint64_t n_looks_gone;  /* of dispatches that went */

	/* [step] */
	struct ex_sampler *sampler;
	struct ex_sched_rows rows;
	struct ex_request **batch;                  /* [max_batch] with rows in the step at hand */
	uint8_t *row_failed;                        /* [step_tokens_max] */
	float *logits;                              /* [max_batch, vocab] */
	uint64_t n_preempted_gone, n_moved;         /* preempted: by sides that went */
	uint32_t n_new_tokens, n_new_prompt_tokens; /* since the last publish */
};

/* One step of a side's batch: rows through the trunk, tokens out of it. [step] */
void ex_engine_step(struct ex_engine *e, struct ex_side *s);
/* --- sides.c --------------------------------------------------------------------------------------------- */
int ex_side_new(const struct ex_engine_opts *o, const struct ex_engine_model *m, struct ex_side **ret);
struct ex_side *ex_side_free(struct ex_side *s); /* takes NULL */
/* Takes up a switch that was asked for. [step] */
void ex_sides_turn(struct ex_engine *e);
/* The side before has ended: it goes. [step] */
void ex_sides_retire(struct ex_engine *e);
/* A switch waits, or the side before can go. Under lock. */
bool ex_sides_wait(const struct ex_engine *e);
/* r, just taken over, to the side that answers it. [step] */
void ex_sides_push(struct ex_engine *e, struct ex_request *r);
/* r has ended, or was not taken. [any] */
void ex_sides_leave(struct ex_engine *e, struct ex_side *s);

static inline bool ex_side_is_empty(const struct ex_side *s)
{
	return !s->sched.n_running && !s->sched.n_waiting;
}

/* Ends r: out of the batch, pages back, the client told, the engine's reference gone. error: NULL or text. [step] */
void ex_engine_finish(struct ex_engine *e, struct ex_request *r, enum ex_finish reason, const char *error);

static inline struct ex_request *ex_request_of(struct ex_seq *q)
{
	return EX_CONTAINER_OF(q, struct ex_request, seq);
}

#endif
