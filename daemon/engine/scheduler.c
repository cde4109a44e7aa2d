/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler. Layer L3. */
#include "engine/scheduler.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

int ex_sched_init(struct ex_sched *s, struct ex_kv *kv, uint32_t max_batch, uint32_t step_tokens_max)
{
	assert(max_batch && step_tokens_max >= max_batch);
	struct ex_seq **running = ex_calloc(max_batch, sizeof(struct ex_seq *));
	if (!running)
		return -ENOMEM;
	*s = (struct ex_sched){
		.kv = kv, .running = running, .max_batch = max_batch, .step_tokens_max = step_tokens_max};
	return 0;
}

void ex_sched_done(struct ex_sched *s)
{
	assert(s->n_running == 0 && s->n_waiting == 0);
	free(s->running);
	*s = (struct ex_sched){0};
}

void ex_sched_push(struct ex_sched *s, struct ex_seq *q)
{
	q->next = NULL;
	if (s->last)
		s->last->next = q;
	else
		s->first = q;
	s->last = q;
	s->n_waiting++;
	q->waiting = true;
}

static void push_front(struct ex_sched *s, struct ex_seq *q)
{
	q->next = s->first;
	s->first = q;
	if (!s->last)
		s->last = q;
	s->n_waiting++;
	q->waiting = true;
}

static void unlink_waiting(struct ex_sched *s, struct ex_seq *q)
{
	struct ex_seq *before = NULL;
	for (struct ex_seq *i = s->first; i != q; i = i->next)
		before = i;
	if (before)
		before->next = q->next;
	else
		s->first = q->next;
	if (s->last == q)
		s->last = before;
	s->n_waiting--;
	q->waiting = false;
}

static void leave_batch(struct ex_sched *s, struct ex_seq *q)
{
	uint32_t i = 0;
	while (s->running[i] != q)
		i++;
	memmove(&s->running[i], &s->running[i + 1], (s->n_running - i - 1) * sizeof(struct ex_seq *));
	s->n_running--;
	ex_kv_release(s->kv, &q->kv);
	q->n_cached = 0;
	q->running = false;
}

void ex_sched_remove(struct ex_sched *s, struct ex_seq *q)
{
	if (q->waiting)
		unlink_waiting(s, q);
	else if (q->running)
		leave_batch(s, q);
}

struct ex_seq *ex_sched_admit(struct ex_sched *s)
{
	struct ex_seq *q = s->first;
	if (!q || s->n_running == s->max_batch)
		return NULL;
	uint32_t want = q->n_ids + 1;
	if (ex_kv_pages_for(s->kv, want) > q->kv.cap)
		want = q->n_ids; /* at the end of its room: the token to come needs no row */
	if (!ex_kv_reserve(s->kv, &q->kv, want))
		return NULL;
	unlink_waiting(s, q);
	q->running = true;
	q->turn = ++s->turn;
	s->running[s->n_running++] = q;
	return q;
}

/* Makes room for q's known tokens. False when q itself had to go. */
static bool make_room(struct ex_sched *s, struct ex_seq *q)
{
	while (!ex_kv_reserve(s->kv, &q->kv, q->n_ids)) {
		struct ex_seq *youngest = s->running[s->n_running - 1];
		assert(s->n_running > 1);
		leave_batch(s, youngest);
		push_front(s, youngest);
		s->n_preempted++;
		if (youngest == q)
			return false;
	}
	return true;
}

static void add_rows(struct ex_sched_rows *r, struct ex_seq *q, uint32_t n)
{
	q->first_row = r->n;
	q->n_rows = n;
	for (uint32_t i = 0; i < n; i++, r->n++) {
		r->ids[r->n] = q->ids[q->n_cached + i];
		r->pos[r->n] = q->n_cached + i;
		r->pages[r->n] = q->kv.pages;
	}
	if (q->n_cached + n == q->n_ids) {
		q->logits_i = r->n_logits;
		r->logit_rows[r->n_logits++] = r->n - 1;
	}
}

void ex_sched_plan(struct ex_sched *s, struct ex_sched_rows *r)
{
	r->n = r->n_logits = 0;
	/* first all room, since it may push sequences out that would have had rows */
	for (uint32_t i = 0; i < s->n_running;)
		if (make_room(s, s->running[i]))
			i++;
	for (uint32_t i = 0; i < s->n_running; i++) {
		struct ex_seq *q = s->running[i];
		q->n_rows = 0;
		q->logits_i = UINT32_MAX;
		if (q->n_ids - q->n_cached == 1)
			add_rows(r, q, 1);
	}
	for (uint32_t i = 0; i < s->n_running; i++) {
		struct ex_seq *q = s->running[i];
		uint32_t n = EX_MIN(q->n_ids - q->n_cached, s->step_tokens_max - r->n);
		if (!q->n_rows && n)
			add_rows(r, q, n);
	}
}
