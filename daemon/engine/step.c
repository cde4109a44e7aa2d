/* SPDX-License-Identifier: Apache-2.0 */
/* One step of the engine: the batch's rows through the trunk, then each sequence's next token to its client. Layer L3.
 */
#include "base/clock.h"
#include "engine/impl.h"

#include <stdio.h>

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? (double)(to_ns - from_ns) / (double)EX_NS_PER_S : 0;
}

static void observe_end(struct ex_engine *e, const struct ex_request *r, enum ex_finish reason, uint64_t now)
{
	ex_metric_add(e->m.success[reason], 1);
	ex_metric_observe(e->m.e2e, seconds(r->submitted_ns, now));
}

void ex_engine_finish(struct ex_engine *e, struct ex_request *r, enum ex_finish reason, const char *error)
{
	uint64_t now = ex_now_ns();
	ex_sched_remove(&r->side->sched, &r->seq);
	observe_end(e, r, reason, now);
	const struct ex_finished f = {
		.reason = reason,
		.error = error,
		.prompt_tokens = r->p.n_ids,
		.completion_tokens = ex_request_n_generated(r),
		.reasoning_tokens = r->n_reasoning,
		.queue_s = seconds(r->submitted_ns, r->started ? r->admitted_ns : now),
		.first_token_s = r->first_token_ns ? seconds(r->submitted_ns, r->first_token_ns) : 0,
		.total_s = seconds(r->submitted_ns, now),
		.rows_dispatched = r->rows_dispatched,
	};
	if (r->p.sink.finished)
		r->p.sink.finished(r->p.sink.ctx, r, &f);
	r->side->n_started -= r->started;
	ex_sides_leave(e, EX_TAKE(r->side));
	ex_lock_take(&e->lock);
	e->n_live--;
	pthread_cond_broadcast(&e->idle);
	ex_lock_give(&e->lock);
	ex_request_unref(r);
}

static bool is_eos(const struct ex_request *r, uint32_t id)
{
	const struct ex_model_config *c = r->side->m.config;
	for (uint32_t i = 0; i < c->n_eos; i++)
		if (c->eos_id[i] == id)
			return true;
	return false;
}

static void observe_token(struct ex_engine *e, struct ex_request *r)
{
	uint64_t now = ex_now_ns();
	if (!r->first_token_ns) {
		r->first_token_ns = now;
		ex_metric_observe(e->m.ttft, seconds(r->submitted_ns, now));
		ex_metric_add(e->m.prompt_tokens, r->p.n_ids);
		e->n_new_prompt_tokens += r->p.n_ids;
	} else {
		ex_metric_observe(e->m.itl, seconds(r->last_token_ns, now));
	}
	r->last_token_ns = now;
	ex_metric_add(e->m.generation_tokens, 1);
	e->n_new_tokens++;
}

/* Why r ends after its newest token, 0 when it goes on. */
static enum ex_finish ends(const struct ex_request *r, uint32_t id)
{
	if ((!r->p.ignore_eos && is_eos(r, id)) || r->text.stopped)
		return EX_FINISH_STOP;
	return ex_request_n_generated(r) == r->max_tokens ? EX_FINISH_LENGTH : 0;
}

static bool is_think_tag(const struct ex_request *r, uint32_t id)
{
	return (int64_t)id == r->text.o.think_open || (int64_t)id == r->text.o.think_close;
}

static bool deliver(struct ex_request *r, uint32_t id, const float *logits, uint32_t vocab)
{
	const struct ex_text *t = &r->text;
	const struct ex_delta d = {
		.text = t->out.n ? t->out.s : NULL,
		.n_text = t->out.n,
		.reasoning = t->reasoning.n ? t->reasoning.s : NULL,
		.n_reasoning = t->reasoning.n,
		.ids = &id,
		.n_ids = 1,
		.tokenizer = r->side->m.tokenizer,
		.logprobs = r->p.logprobs ? &r->logprob : NULL,
		.thinking = r->thinking,
		.control = r->control,
		.logits = r->p.want_logits ? logits : NULL,
		.n_logits_bytes = vocab * sizeof *logits,
	};
	bool taken = !r->p.sink.delta || r->p.sink.delta(r->p.sink.ctx, r, &d);
	ex_text_reset(&r->text);
	return taken;
}

/* Who gave the request may narrow the choice down; false: to nothing. */
static bool is_let_through(const struct ex_engine *e, const struct ex_request *r, float *logits)
{
	const struct ex_sink *s = &r->p.sink;
	return !s->mask ||
	       s->mask(s->ctx, logits, e->vocab, r->text.thinking, r->max_tokens - ex_request_n_generated(r));
}

/* Chooses r's next token from its logits, hands over what it gives, and ends r when that was the last. */
static void take_token(struct ex_engine *e, struct ex_request *r, float *logits)
{
	uint32_t id;
	if (!is_let_through(e, r, logits)) {
		ex_engine_finish(e, r, EX_FINISH_NO_RESOURCE, "no token fits what was asked for");
		return;
	}
	if (ex_sampler_pick(e->sampler, logits, &r->p.sampling, r->seq.n_ids, &id)) {
		ex_engine_finish(e, r, EX_FINISH_NO_RESOURCE, "the model's logits are not finite");
		return;
	}
	if (r->p.logprobs)
		ex_sampler_logprobs(e->sampler, logits, id, r->p.top_logprobs, &r->logprob);
	r->ids[r->seq.n_ids++] = id;
	observe_token(e, r);
	const bool end = is_eos(r, id) && !r->p.ignore_eos;
	r->thinking = r->text.thinking;
	r->control = end || is_think_tag(r, id);
	r->n_reasoning += r->thinking;
	bool stored = end || ex_text_push(&r->text, id);
	enum ex_finish reason = ends(r, id);
	if (reason && stored)
		stored = ex_text_flush(&r->text);
	if (!stored)
		ex_engine_finish(e, r, EX_FINISH_NO_RESOURCE, "out of memory for the text");
	else if (!deliver(r, id, logits, e->vocab))
		ex_engine_finish(e, r, EX_FINISH_CANCELLED, "the client does not read");
	else if (reason)
		ex_engine_finish(e, r, reason, NULL);
}

static void after_rows(struct ex_engine *e, struct ex_request *r, const char *failure)
{
	struct ex_seq *q = &r->seq;
	const struct ex_dispatch *d = r->side->m.dispatch;
	const uint32_t *sends = d ? ex_dispatch_row_sends(d) : NULL;
	bool failed = false;
	for (uint32_t i = q->first_row; i < q->first_row + q->n_rows; i++) {
		failed |= e->row_failed[i] != 0;
		if (sends)
			r->rows_dispatched += sends[i];
	}
	if (failed) {
		/* rows after the failed one attended to it: nothing of this step is kept */
		ex_engine_finish(e, r, EX_FINISH_NO_RESOURCE, failure);
		return;
	}
	q->n_cached += q->n_rows;
	if (q->logits_i != UINT32_MAX)
		take_token(e, r, e->logits + (size_t)q->logits_i * e->vocab);
}

void ex_engine_step(struct ex_engine *e, struct ex_side *side)
{
	struct ex_dispatch *d = side->m.dispatch;
	struct ex_err err = EX_ERR_INIT;
	char failure[EX_ERR_TEXT_MAX];
	uint32_t n = 0;
	ex_sched_plan(&side->sched, &e->rows);
	if (!e->rows.n)
		return;
	for (uint32_t i = 0; i < side->sched.n_running; i++)
		if (side->sched.running[i]->n_rows)
			e->batch[n++] = ex_request_of(side->sched.running[i]);
	struct ex_step s = {
		.n = e->rows.n,
		.ids = e->rows.ids,
		.pos = e->rows.pos,
		.pages = e->rows.pages,
		.row_failed = e->row_failed,
		.n_logits = e->rows.n_logits,
		.logit_rows = e->rows.logit_rows,
		.logits = e->logits,
	};
	if (d)
		ex_dispatch_step_begins(d);
	int rc = ex_trunk_step(side->m.trunk, side->moe, &s, &err);
	snprintf(failure, sizeof failure, "routed experts are not available: %s",
		d ? ex_dispatch_failure(d) : "rows failed");
	for (uint32_t i = 0; i < n; i++)
		if (rc)
			ex_engine_finish(e, e->batch[i], EX_FINISH_NO_RESOURCE, ex_err_text(&err));
		else
			after_rows(e, e->batch[i], failure);
}
