/* SPDX-License-Identifier: Apache-2.0 */
/* Which sequences compute which rows in a step: admission, chunked prefill, preemption. Layer L3. One thread: [step].
 *
 * A sequence's tokens are known up to n_ids, its KV rows up to n_cached. A step computes rows from n_cached on; when
 * the row of its last known token is among them, the sequence gets logits. So decoding is the case of one missing row,
 * and a preempted sequence that comes back is a long prefill. Batch invariance of the ops makes all of it one and the
 * same to the bit.
 */
#ifndef EX_ENGINE_SCHEDULER_H
#define EX_ENGINE_SCHEDULER_H

#include "engine/kv.h"

struct ex_seq {
	const uint32_t *ids; /* [n_ids] */
	uint32_t n_ids, n_cached;
	struct ex_kv_table kv;
	uint64_t turn; /* of its last admission: greater is younger */
	bool running, waiting;
	uint32_t first_row, n_rows; /* of the step at hand; n_rows 0: none */
	uint32_t logits_i;          /* its place among the step's logits, UINT32_MAX: none this time */
	struct ex_seq *next;        /* waiting list */
};

struct ex_sched {
	struct ex_kv *kv;        /* borrowed */
	struct ex_seq **running; /* [max_batch], oldest admission first */
	uint32_t n_running, max_batch, step_tokens_max;
	struct ex_seq *first, *last; /* waiting, in order */
	uint32_t n_waiting;
	uint64_t turn, n_preempted;
};

/* The rows of one step; arrays are the caller's. */
struct ex_sched_rows {
	uint32_t *ids, *pos;    /* [step_tokens_max] */
	const uint32_t **pages; /* [step_tokens_max] */
	uint32_t *logit_rows;   /* [max_batch] */
	uint32_t n, n_logits;
};

int ex_sched_init(struct ex_sched *s, struct ex_kv *kv, uint32_t max_batch, uint32_t step_tokens_max);
/* Nothing waits or runs any more. */
void ex_sched_done(struct ex_sched *s);

void ex_sched_push(struct ex_sched *s, struct ex_seq *q);   /* to the end of the waiting list */
void ex_sched_remove(struct ex_sched *s, struct ex_seq *q); /* wherever it is; its pages are given back */
/* Moves the first waiting sequence into the batch when there is a place and pages for its tokens and one more; else
 * NULL. The caller sees to it that any one sequence fits the pool by itself. */
struct ex_seq *ex_sched_admit(struct ex_sched *s);
/* Fills r: first one row of each decoding sequence, then chunks of prompts, oldest first, up to step_tokens_max. A
 * decoding sequence for which no page is left pushes the youngest one out of the batch, back to the head of the waiting
 * list; that one starts over later. */
void ex_sched_plan(struct ex_sched *s, struct ex_sched_rows *r);

#endif
