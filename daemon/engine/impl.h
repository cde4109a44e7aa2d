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

struct ex_engine {
	uint32_t magic;
	struct ex_engine_opts o;
	const struct ex_moe_ops *moe;
	struct ex_request_limits limits;
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

	/* [step] */
	struct ex_kv *kv;
	struct ex_sched sched;
	struct ex_sampler *sampler;
	struct ex_sched_rows rows;
	struct ex_request **batch;                  /* [max_batch] with rows in the step at hand */
	uint8_t *row_failed;                        /* [step_tokens_max] */
	float *logits;                              /* [max_batch, vocab] */
	uint32_t n_started;                         /* requests that were in the batch, and have not ended */
	uint32_t n_new_tokens, n_new_prompt_tokens; /* since the last publish */
};

/* One step of the batch: rows through the trunk, tokens out of it. [step] */
void ex_engine_step(struct ex_engine *e);
/* Ends r: out of the batch, pages back, the client told, the engine's reference gone. error: NULL or text. [step] */
void ex_engine_finish(struct ex_engine *e, struct ex_request *r, enum ex_finish reason, const char *error);

static inline struct ex_request *ex_request_of(struct ex_seq *q)
{
	return EX_CONTAINER_OF(q, struct ex_request, seq);
}

#endif
