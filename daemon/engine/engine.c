/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: requests in, one step thread that works or sleeps, figures out. Layer L3. */
#include "base/clock.h"
#include "base/mem.h"
#include "engine/impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define IDLE_TURN_MS 500 /* an idle step thread still shows that it lives */

static const char *const finish_names[] = {
	[EX_FINISH_STOP] = "stop",
	[EX_FINISH_LENGTH] = "length",
	[EX_FINISH_NO_RESOURCE] = "insufficient_system_resource",
	[EX_FINISH_CANCELLED] = "cancelled",
};

const char *ex_finish_name(enum ex_finish f)
{
	assert(f >= EX_FINISH_STOP && f <= EX_FINISH_CANCELLED);
	return finish_names[f];
}

/* --- the step thread ------------------------------------------------------------------------------------- */

/* Waits for something to do, takes new requests over; *ret_all: all are to end. False when the engine stops. */
static bool take_inbox(struct ex_engine *e, bool *ret_all)
{
	ex_lock_take(&e->lock);
	while (!e->stopping && !e->inbox_first && !e->cancel_asked && !ex_sides_wait(e) && ex_side_is_empty(e->side) &&
		(!e->before || ex_side_is_empty(e->before))) {
		ex_cond_wait_until(&e->wake, &e->lock, ex_now_ns() + IDLE_TURN_MS * EX_NS_PER_MS);
		atomic_fetch_add_explicit(&e->turns, 1, memory_order_relaxed);
	}
	struct ex_request *r = e->inbox_first;
	e->inbox_first = e->inbox_last = NULL;
	e->n_inbox = 0;
	e->cancel_asked = false;
	bool go_on = !e->stopping;
	*ret_all = e->ending;
	ex_lock_give(&e->lock);
	ex_sides_turn(e); /* before requests that were taken for the next one */
	while (r) {
		struct ex_request *next = r->next;
		ex_sides_push(e, r);
		r = next;
	}
	return go_on;
}

static bool is_cancelled(const struct ex_request *r)
{
	return atomic_load_explicit(&r->cancelled, memory_order_relaxed);
}

/* Ends what was cancelled (all: everything), waiting or running. */
static void reap_side(struct ex_engine *e, struct ex_side *s, bool all)
{
	const char *error = all ? "the server stops" : NULL;
	for (struct ex_seq *q = s->sched.first, *next; q; q = next) {
		next = q->next;
		if (all || is_cancelled(ex_request_of(q)))
			ex_engine_finish(e, ex_request_of(q), EX_FINISH_CANCELLED, error);
	}
	for (uint32_t i = s->sched.n_running; i-- > 0;)
		if (all || is_cancelled(ex_request_of(s->sched.running[i])))
			ex_engine_finish(e, ex_request_of(s->sched.running[i]), EX_FINISH_CANCELLED, error);
}

static void reap(struct ex_engine *e, bool all)
{
	reap_side(e, e->side, all);
	if (e->before)
		reap_side(e, e->before, all);
}

static void start_request(struct ex_engine *e, struct ex_request *r)
{
	r->started = true;
	r->side->n_started++;
	r->admitted_ns = ex_now_ns();
	ex_metric_observe(e->m.queue_time, (double)(r->admitted_ns - r->submitted_ns) / (double)EX_NS_PER_S);
	if (r->p.sink.started)
		r->p.sink.started(r->p.sink.ctx, r, r->p.n_ids);
}

static void admit(struct ex_engine *e, struct ex_side *s)
{
	for (struct ex_seq *q; (q = ex_sched_admit(&s->sched));)
		if (!ex_request_of(q)->started)
			start_request(e, ex_request_of(q));
}

/* Figures for ex_engine_stat and the metrics. */
static void publish(struct ex_engine *e)
{
	uint64_t second = ex_now_ns() / EX_NS_PER_S;
	uint32_t slot = second % RATE_SECONDS;
	const struct ex_side *s = e->side, *b = e->before;
	uint32_t used = ex_kv_used(s->kv) + (b ? ex_kv_used(b->kv) : 0);
	uint32_t running = s->sched.n_running + (b ? b->sched.n_running : 0);
	uint64_t all_preempted = e->n_preempted_gone + s->sched.n_preempted + (b ? b->sched.n_preempted : 0);
	ex_lock_take(&e->lock);
	e->stat.running = running;
	e->stat.waiting = s->sched.n_waiting + (b ? b->sched.n_waiting : 0);
	e->stat.n_before = b ? b->sched.n_running + b->sched.n_waiting : 0;
	e->stat.n_moved = e->n_moved;
	e->stat.pages_used = used;
	uint64_t n_preempted = all_preempted - e->stat.n_preempted;
	e->stat.n_preempted = all_preempted;
	e->stat.generation_tokens += e->n_new_tokens;
	e->stat.prompt_tokens += e->n_new_prompt_tokens;
	if (e->rate_second[slot] != second) {
		e->rate_second[slot] = second;
		e->rate_tokens[slot] = 0;
	}
	e->rate_tokens[slot] += e->n_new_tokens;
	uint32_t waiting = e->stat.waiting + e->n_inbox;
	ex_lock_give(&e->lock);
	e->n_new_tokens = e->n_new_prompt_tokens = 0;
	ex_metric_set(e->m.running, running);
	ex_metric_set(e->m.waiting, waiting);
	if (n_preempted)
		ex_metric_add(e->m.preemptions, n_preempted);
	ex_metric_set(e->m.kv_usage, (double)used / e->o.n_pages);
}

static void step_side(struct ex_engine *e, struct ex_side *s)
{
	if (s->m.dispatch && !s->n_started) /* of those that were pushed out of the batch neither */
		ex_dispatch_idle(s->m.dispatch);
	admit(e, s);
	ex_engine_step(e, s);
}

static void *step_thread(void *arg)
{
	struct ex_engine *e = arg;
	bool all;
	while (take_inbox(e, &all)) {
		reap(e, all);
		if (e->before)
			step_side(e, e->before);
		step_side(e, e->side);
		ex_sides_retire(e);
		publish(e);
		atomic_fetch_add_explicit(&e->turns, 1, memory_order_relaxed);
	}
	reap(e, true);
	publish(e);
	return NULL;
}

/* --- open and close -------------------------------------------------------------------------------------- */

static void find_metrics(struct engine_metrics *m)
{
	*m = (struct engine_metrics){
		.running = ex_metric(EX_M_REQUESTS_RUNNING, NULL),
		.waiting = ex_metric(EX_M_REQUESTS_WAITING, NULL),
		.kv_usage = ex_metric(EX_M_KV_USAGE, NULL),
		.preemptions = ex_metric(EX_M_PREEMPTIONS, NULL),
		.prompt_tokens = ex_metric(EX_M_PROMPT_TOKENS, NULL),
		.generation_tokens = ex_metric(EX_M_GENERATION_TOKENS, NULL),
		.ttft = ex_metric(EX_M_TTFT, NULL),
		.itl = ex_metric(EX_M_ITL, NULL),
		.e2e = ex_metric(EX_M_E2E, NULL),
		.queue_time = ex_metric(EX_M_QUEUE_TIME, NULL),
	};
	for (int f = EX_FINISH_STOP; f <= EX_FINISH_CANCELLED; f++)
		m->success[f] = ex_metric(EX_M_REQUEST_SUCCESS, ex_finish_name((enum ex_finish)f));
}

static int check_opts(const struct ex_engine_opts *o, struct ex_err *err)
{
	if (!o->max_batch || o->step_tokens_max < o->max_batch)
		return ex_err_set(err, -EINVAL, "engine: a step of %u rows cannot serve a batch of %u sequences",
			o->step_tokens_max, o->max_batch);
	if (!o->n_pages || !o->page_tokens || !o->n_ctx)
		return ex_err_set(err, -EINVAL, "engine: %u KV pages of %u tokens, context %u", o->n_pages,
			o->page_tokens, o->n_ctx);
	return 0;
}

static int make_step_side(struct ex_engine *e)
{
	const struct ex_engine_opts *o = &e->o;
	const struct ex_engine_model m = {.trunk = o->trunk,
		.dispatch = o->dispatch,
		.moe = o->moe,
		.config = o->config,
		.tokenizer = o->tokenizer,
		.chat = o->chat,
		.user = o->user};
	int rc = ex_side_new(o, &m, &e->side);
	if (!rc)
		rc = ex_sampler_new(o->config->vocab_size, &e->sampler);
	if (rc)
		return rc;
	e->rows.ids = ex_calloc(o->step_tokens_max, sizeof *e->rows.ids);
	e->rows.pos = ex_calloc(o->step_tokens_max, sizeof *e->rows.pos);
	e->rows.pages = ex_calloc(o->step_tokens_max, sizeof *e->rows.pages);
	e->rows.logit_rows = ex_calloc(o->max_batch, sizeof *e->rows.logit_rows);
	e->batch = ex_calloc(o->max_batch, sizeof *e->batch);
	e->row_failed = ex_calloc(o->step_tokens_max, sizeof *e->row_failed);
	e->logits = ex_alloc_aligned((size_t)o->max_batch * o->config->vocab_size, sizeof *e->logits);
	return e->rows.ids && e->rows.pos && e->rows.pages && e->rows.logit_rows && e->batch && e->row_failed &&
			       e->logits
		       ? 0
		       : -ENOMEM;
}

static void free_engine(struct ex_engine *e)
{
	ex_side_free(e->side);
	ex_side_free(e->before);
	ex_side_free(e->next);
	ex_sampler_free(e->sampler);
	free(e->rows.ids);
	free(e->rows.pos);
	free(e->rows.pages);
	free(e->rows.logit_rows);
	free(e->batch);
	free(e->row_failed);
	free(e->logits);
	pthread_cond_destroy(&e->wake);
	pthread_cond_destroy(&e->idle);
	ex_lock_done(&e->lock);
	e->magic = 0;
	free(e);
}

int ex_engine_new(const struct ex_engine_opts *o, struct ex_err *err, struct ex_engine **ret)
{
	int rc = check_opts(o, err);
	if (rc)
		return rc;
	struct ex_engine *e = calloc(1, sizeof *e);
	if (!e)
		return ex_err_set(err, -ENOMEM, "engine: out of memory");
	e->magic = EX_ENGINE_MAGIC;
	e->o = *o;
	e->vocab = o->config->vocab_size;
	e->start_us = ex_realtime_us();
	e->stat = (struct ex_engine_stat){
		.max_batch = o->max_batch, .n_pages = o->n_pages, .page_tokens = o->page_tokens, .n_ctx = o->n_ctx};
	ex_lock_init(&e->lock, "engine");
	ex_cond_init(&e->wake);
	ex_cond_init(&e->idle);
	find_metrics(&e->m);
	rc = make_step_side(e);
	if (rc) {
		free_engine(e);
		return ex_err_set(err, rc, "engine: out of memory for a batch of %u", o->max_batch);
	}
	rc = -pthread_create(&e->thread, NULL, step_thread, e);
	if (rc) {
		free_engine(e);
		return ex_err_errno(err, rc, "engine: failed to start the step thread");
	}
	pthread_setname_np(e->thread, "step");
	*ret = e;
	return 0;
}

/* A step may be held for a host. Under lock, so that what it is asked of stays. */
static void give_up(struct ex_engine *e)
{
	const struct ex_side *all[] = {e->side, e->before, e->next};
	for (size_t i = 0; i < EX_ARRAY_LEN(all); i++)
		if (all[i] && all[i]->m.dispatch)
			ex_dispatch_give_up(all[i]->m.dispatch);
}

struct ex_engine *ex_engine_free(struct ex_engine *e)
{
	if (!e)
		return NULL;
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_lock_take(&e->lock);
	e->stopping = true;
	pthread_cond_signal(&e->wake);
	give_up(e);
	ex_lock_give(&e->lock);
	pthread_join(e->thread, NULL);
	free_engine(e);
	return NULL;
}

bool ex_engine_drain(struct ex_engine *e, unsigned timeout_ms)
{
	uint64_t deadline = ex_now_ns() + timeout_ms * EX_NS_PER_MS;
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_lock_take(&e->lock);
	e->draining = true;
	while (e->n_live && ex_cond_wait_until(&e->idle, &e->lock, deadline))
		;
	bool empty = e->n_live == 0;
	ex_lock_give(&e->lock);
	return empty;
}

bool ex_engine_end(struct ex_engine *e, unsigned timeout_ms)
{
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_lock_take(&e->lock);
	e->ending = e->cancel_asked = true;
	pthread_cond_signal(&e->wake);
	give_up(e);
	ex_lock_give(&e->lock);
	return ex_engine_drain(e, timeout_ms);
}

/* --- for every thread ------------------------------------------------------------------------------------ */

/* Puts r where the step thread finds it. */
static int enqueue(struct ex_engine *e, struct ex_request *r, struct ex_err *err)
{
	int rc = 0;
	ex_lock_take(&e->lock);
	if (e->stopping || e->draining) {
		rc = ex_err_set(err, -ESHUTDOWN, "the server stops and takes no new requests");
	} else if (e->n_live >= (uint64_t)e->o.max_batch + e->o.queue_max) {
		rc = ex_err_set(err, -EAGAIN, "%u requests are taken already: the batch holds %u, the queue holds %u",
			e->n_live, e->o.max_batch, e->o.queue_max);
	} else {
		snprintf(r->id, sizeof r->id, "req-%" PRIx64 "-%" PRIu64, e->start_us, ++e->n_submitted);
		r->engine = e;
		ex_request_ref(r);
		r->side->n_users++;
		if (e->inbox_last)
			e->inbox_last->next = r;
		else
			e->inbox_first = r;
		e->inbox_last = r;
		e->n_inbox++;
		e->n_live++;
		pthread_cond_signal(&e->wake);
	}
	ex_lock_give(&e->lock);
	return rc;
}

int ex_engine_submit(
	struct ex_engine *e, const struct ex_request_params *p, struct ex_err *err, struct ex_request **ret)
{
	struct ex_request *r;
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	struct ex_side *held = p->side ? NULL : ex_engine_hold(e), *side = p->side ? p->side : held;
	int rc = ex_request_new(p, &side->limits, err, &r);
	if (!rc) {
		r->side = side;
		r->submitted_ns = ex_now_ns();
		rc = enqueue(e, r, err);
		if (rc)
			ex_request_unref(r);
		else
			*ret = r;
	}
	if (held)
		ex_engine_release(e, held);
	return rc;
}

void ex_request_cancel(struct ex_request *r)
{
	EX_CHECK_OBJ(r, EX_REQUEST_MAGIC);
	struct ex_engine *e = r->engine;
	atomic_store_explicit(
		&r->cancelled, true, memory_order_relaxed); /* the lock orders it before the step thread's look */
	ex_lock_take(&e->lock);
	e->cancel_asked = true;
	pthread_cond_signal(&e->wake);
	ex_lock_give(&e->lock);
}

void ex_engine_stat(struct ex_engine *e, struct ex_engine_stat *ret)
{
	uint64_t second = ex_now_ns() / EX_NS_PER_S;
	uint32_t n = 0;
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_lock_take(&e->lock);
	*ret = e->stat;
	ret->waiting += e->n_inbox;
	for (int i = 0; i < RATE_SECONDS; i++)
		if (e->rate_second[i] + RATE_SECONDS > second)
			n += e->rate_tokens[i];
	ex_lock_give(&e->lock);
	ret->tokens_per_s = (double)n / RATE_SECONDS;
}

uint64_t ex_engine_turns(struct ex_engine *e)
{
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_lock_take(&e->lock);
	const struct ex_side *all[] = {e->side, e->before};
	uint64_t n_looks = e->n_looks_gone;
	for (size_t i = 0; i < EX_ARRAY_LEN(all); i++)
		n_looks += all[i] && all[i]->m.dispatch ? ex_dispatch_looks(all[i]->m.dispatch) : 0;
	ex_lock_give(&e->lock);
	return atomic_load_explicit(&e->turns, memory_order_relaxed) + n_looks;
}
