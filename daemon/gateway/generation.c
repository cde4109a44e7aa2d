/* SPDX-License-Identifier: Apache-2.0 */
/* POST /chat/completions and /completions: read, encoded, admitted, submitted, and the engine's events made an answer. Layer L4.
 *
 * The way is taken on whichever thread has the next step: [http] or the reader's up to the admission, the policy's after it, the step thread for
 * events. The choices hold the exchange; the last one to finish ends the ticket and the answer. */
#include "gateway/exchange.h"

#include "base/clock.h"
#include "base/mem.h"
#include <string.h>
#include <sys/random.h>

#define RETRY_S         1          /* after which a client may try again, when the server could not */
#define LONG_BODY_BYTES (16 << 10) /* requests of more are read on the reader thread; this one takes milliseconds */

/* --- events of the engine [step] ------------------------------------------------------------------------- */

static bool wants_null_usage(const struct ex_exchange *x)
{
	return x->ask.include_usage;
}

/* Under the lock. A request may have gone over to another model. */
static void note_model(struct ex_exchange *x, const struct ex_request *r)
{
	const struct ex_edge_model *m = ex_request_user(r);
	snprintf(x->fingerprint, sizeof x->fingerprint, "%s", ex_edge_model_fingerprint(m));
}

static void on_started(void *ctx, struct ex_request *r, uint32_t prompt_tokens)
{
	struct ex_choice *c = ctx;
	struct ex_exchange *x = c->x;
	ex_lock_take(&x->lock);
	note_model(x, r);
	x->running = true;
	x->used.prompt_miss = prompt_tokens; /* once for all choices */
	if (x->ask.stream && !x->ended) {
		ex_reply_event_role(&x->head, c->index, wants_null_usage(x), &x->out);
		ex_exchange_wake(x);
	}
	ex_lock_give(&x->lock);
}

/* Under the lock: adds a delta to the answer. False: there is no room or no reader for it. */
static bool take_delta(struct ex_choice *c, const struct ex_delta *d)
{
	struct ex_exchange *x = c->x;
	if (x->ended)
		return false;
	if (!x->ask.stream) {
		size_t before = ex_reply_choice_bytes(&c->reply);
		bool kept = ex_reply_choice_add(&c->reply, &x->head, d);
		x->n_whole_bytes += ex_reply_choice_bytes(&c->reply) - before;
		x->too_large |= x->n_whole_bytes > x->g->o.reply_bytes_max;
		return kept && !x->too_large;
	}
	ex_reply_event_delta(&x->head, &c->reply, c->index, d, wants_null_usage(x), &x->out);
	ex_exchange_wake(x);
	x->too_large |= x->out.n - x->out_at > x->g->o.reply_bytes_max;
	return !x->out.oom && !x->too_large;
}

static bool has_penalties(const struct ex_chat_ask *a)
{
	return a->frequency_penalty != 0 || a->presence_penalty != 0;
}

static bool on_mask(void *ctx, float *logits, uint32_t vocab, bool thinking, uint32_t n_left)
{
	struct ex_choice *c = ctx;
	const struct ex_chat_ask *a = &c->x->ask;
	ex_penalty_apply(&c->penalty, a->frequency_penalty, a->presence_penalty, logits, vocab);
	return !a->json || ex_json_guide_mask(&c->guide, logits, vocab, thinking, n_left);
}

/* What the next masks go by. False: out of memory. */
static bool note_token(struct ex_choice *c, const struct ex_delta *d)
{
	const struct ex_chat_ask *a = &c->x->ask;
	if (a->json && !d->thinking && !d->control)
		ex_json_guide_take(&c->guide, d->ids[0]);
	return !has_penalties(a) || ex_penalty_count(&c->penalty, d->ids[0]) == 0;
}

static bool on_delta(void *ctx, struct ex_request *r, const struct ex_delta *d)
{
	struct ex_choice *c = ctx;
	struct ex_exchange *x = c->x;
	const struct ex_admit *admit = x->g->o.admit;
	bool noted = note_token(c, d);
	ex_lock_take(&x->lock);
	note_model(x, r);
	bool taken = take_delta(c, d) && noted;
	x->used.completion += d->n_ids;
	x->used.reasoning += d->thinking ? d->n_ids : 0;
	const struct ex_usage_tokens used = x->used;
	ex_lock_give(&x->lock);
	admit->ops->progress(admit->ctx, x->ticket, &used);
	return taken;
}

/* --- the end --------------------------------------------------------------------------------------------- */

/* Under the lock: an error that stands for the whole answer, when the engine or the server ended it. */
static void note_failure(struct ex_exchange *x, const struct ex_finished *f)
{
	if (x->error.status)
		return;
	if (x->too_large)
		ex_api_error_set(&x->error, 500, "reply_too_large", NULL,
			"the answer has more bytes than are kept for a client that does not read it");
	else if (f->reason == EX_FINISH_CANCELLED)
		ex_api_error_set(&x->error, 503, "stopping", NULL, "%s", f->error ? f->error : "cancelled");
	else if (f->reason == EX_FINISH_NO_RESOURCE && !f->completion_tokens && !x->replied)
		ex_api_error_set(&x->error, 503, "insufficient_system_resource", NULL, "%s",
			f->error ? f->error : "no resources");
	if (x->error.status == 503)
		x->error.retry_after_s = RETRY_S;
}

/* Under the lock: the last choice is done. The answer's JSON, or what ends a stream. */
static void write_end(struct ex_exchange *x)
{
	if (x->ask.stream) {
		if (x->ask.include_usage)
			ex_reply_event_usage(&x->head, &x->used, &x->out);
		ex_str_add(&x->out, EX_REPLY_DONE);
		return;
	}
	ex_reply_whole_begin(&x->head, &x->out);
	for (uint32_t i = 0; i < x->ask.n_choices; i++)
		ex_reply_whole_choice(
			&x->head, &x->choices[i].reply, i, x->choices[i].reason, x->ask.logprobs, &x->out);
	ex_reply_whole_end(&x->used, &x->out);
}

/* Under the lock: what is charged. A client that gets an error instead of an answer has had nothing. */
static struct ex_usage_tokens charged(const struct ex_exchange *x)
{
	const bool nothing = x->error.status && !x->ended && !(x->ask.stream && x->replied);
	return nothing ? (struct ex_usage_tokens){0} : x->used;
}

/* The last choice is done, or was never begun. */
static void conclude(struct ex_exchange *x)
{
	const struct ex_admit *admit = x->g->o.admit;
	struct ex_api_error e;
	ex_lock_take(&x->lock);
	const struct ex_usage_tokens used = charged(x);
	e = x->error;
	if (!e.status && !x->ended) {
		write_end(x);
		ex_exchange_end(x);
	}
	ex_lock_give(&x->lock);
	admit->ops->finish(admit->ctx, x->ticket, &used);
	if (e.status)
		ex_exchange_fail(x, &e);
}

/* One choice less. Its part of a stream ends here. */
static void close_choice(struct ex_choice *c, const struct ex_finished *f)
{
	struct ex_exchange *x = c->x;
	ex_lock_take(&x->lock);
	c->finished = true;
	c->reason = f->reason;
	note_failure(x, f);
	bool last = --x->n_choices_open == 0;
	if (x->ask.stream && !x->error.status && !x->ended) {
		ex_reply_event_finish(&x->head, c->index, f->reason, last && !x->ask.include_usage ? &x->used : NULL,
			wants_null_usage(x), &x->out);
		ex_exchange_wake(x);
	}
	ex_lock_give(&x->lock);
	if (last)
		conclude(x);
	ex_exchange_unref(x);
}

static void on_finished(void *ctx, struct ex_request *r, const struct ex_finished *f)
{
	struct ex_choice *c = ctx;
	struct ex_exchange *x = c->x;
	(void)r;
	ex_lock_take(&x->lock);
	struct ex_request *held = EX_TAKE(c->request);
	ex_lock_give(&x->lock);
	ex_request_unref(held);
	close_choice(c, f);
}

void ex_generation_cancel(struct ex_exchange *x)
{
	for (uint32_t i = 0; x->choices && i < x->ask.n_choices; i++)
		if (x->choices[i].request)
			ex_request_cancel(x->choices[i].request);
}

/* The engine's requests are users of their own from then on. */
static void leave_side(struct ex_exchange *x)
{
	struct ex_side *side = EX_TAKE(x->side);
	if (side)
		ex_engine_release(x->g->o.engine, side);
}

void ex_generation_done(struct ex_exchange *x)
{
	for (uint32_t i = 0; x->choices && i < x->ask.n_choices; i++) {
		ex_reply_choice_done(&x->choices[i].reply);
		ex_penalty_done(&x->choices[i].penalty);
	}
	free(x->choices);
	free(x->prompt.ids);
	ex_chat_ask_done(&x->ask);
	leave_side(x);
	ex_edge_model_unref(x->model);
}

/* --- submission ------------------------------------------------------------------------------------------ */

static int submit_choice(struct ex_choice *c, struct ex_err *err)
{
	struct ex_exchange *x = c->x;
	const struct ex_chat_ask *a = &x->ask;
	struct ex_request_params p = {
		.ids = x->prompt.ids,
		.n_ids = (uint32_t)x->prompt.n,
		.max_tokens = x->n_tokens_max,
		.sampling = a->sampling,
		.stop = a->stop,
		.n_stop = a->n_stop,
		.logprobs = a->logprobs,
		.top_logprobs = a->top_logprobs,
		.keep_special = a->kind == EX_ASK_COMPLETION,
		.starts_thinking = x->prompt.starts_thinking,
		.side = x->side,
		.sink = {.started = on_started,
			.delta = on_delta,
			.finished = on_finished,
			.ctx = c,
			.mask = a->json || has_penalties(a) ? on_mask : NULL},
	};
	struct ex_request *r;
	p.sampling.seed += c->index; /* choices differ, and the first is what a request for one gives */
	int rc = ex_engine_submit(x->g->o.engine, &p, err, &r);
	if (rc)
		return rc;
	ex_lock_take(&x->lock);
	bool over = c->finished, unwanted = x->ended || x->error.status;
	if (!over)
		c->request = r;
	if (unwanted)
		ex_request_cancel(r);
	ex_lock_give(&x->lock);
	if (over)
		ex_request_unref(r);
	return 0;
}

/* Every choice is submitted, or finished without. Holds the exchange for each. */
static void submit(struct ex_exchange *x)
{
	const uint32_t n = x->ask.n_choices; /* x may end with its last choice */
	static const struct ex_finished none = {.reason = EX_FINISH_CANCELLED};
	ex_exchange_ref(x);
	ex_lock_take(&x->lock);
	bool failed = x->ended; /* the client left meanwhile */
	ex_lock_give(&x->lock);
	for (uint32_t i = 0; i < n; i++)
		ex_exchange_ref(x);
	for (uint32_t i = 0; i < n; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_api_error e;
		int rc = failed ? -ECANCELED : submit_choice(&x->choices[i], &err);
		if (!rc)
			continue;
		if (!failed) {
			ex_api_error_errno(&e, rc, ex_err_text(&err));
			ex_lock_take(&x->lock);
			x->error = e;
			ex_generation_cancel(x);
			ex_lock_give(&x->lock);
		}
		failed = true;
		close_choice(&x->choices[i], &none);
	}
	leave_side(x);
	ex_lock_take(&x->lock);
	if (!x->error.status && x->ask.stream && !x->ready) {
		x->ready = true;
		ex_exchange_wake(x);
	}
	ex_lock_give(&x->lock);
	ex_exchange_unref(x);
}

/* --- admission ------------------------------------------------------------------------------------------- */

static void take_limits(struct ex_exchange *x, const struct ex_admit_answer *r)
{
	ex_lock_take(&x->lock);
	x->limits = *r;
	x->limits.code = x->limits.message = NULL; /* borrowed */
	x->has_limits = true;
	x->ticket = r->ticket;
	x->waits_since_ns = x->last_ns = ex_now_ns();
	ex_lock_give(&x->lock);
}

/* Takes the hold on x that the question had. [any] */
static void on_admitted(void *ctx, const struct ex_admit_answer *r)
{
	struct ex_exchange *x = ctx;
	struct ex_api_error e;
	take_limits(x, r);
	if (r->status == MHD_HTTP_OK) {
		submit(x);
	} else {
		ex_api_error_set(&e, r->status, NULL, NULL, "%s", r->message ? r->message : "refused");
		snprintf(x->code, sizeof x->code, "%s", r->code ? r->code : "");
		e.code = r->code ? x->code : NULL;
		e.retry_after_s = r->retry_after_s;
		ex_exchange_fail(x, &e);
	}
	ex_exchange_unref(x);
}

/* FNV-1a over the prompt's token ids and the number of tokens. Source: Fowler, Noll, Vo. */
static uint64_t likeness_of(const struct ex_exchange *x)
{
	uint64_t h = UINT64_C(14695981039346656037) ^ x->n_tokens_max;
	for (size_t i = 0; i < x->prompt.n; i++)
		h = (h ^ x->prompt.ids[i]) * UINT64_C(1099511628211);
	return h;
}

static void ask_admission(struct ex_exchange *x)
{
	const struct ex_admit *admit = x->g->o.admit;
	const uint64_t most = (uint64_t)x->n_tokens_max * x->ask.n_choices;
	const struct ex_admit_ask a = {
		.key = x->key,
		.request_id = x->id,
		.prompt_tokens = (uint32_t)x->prompt.n,
		.max_tokens = (uint32_t)EX_MIN(most, (uint64_t)UINT32_MAX),
		.likeness = likeness_of(x),
	};
	admit->ops->ask(admit->ctx, &a, on_admitted, ex_exchange_ref(x));
}

/* --- reading --------------------------------------------------------------------------------------------- */

static int encode(struct ex_exchange *x, struct ex_api_error *e)
{
	const struct ex_gateway_opts *o = &x->g->o;
	const struct ex_prompt_opts p = {
		.tokenizer = ex_side_tokenizer(x->side),
		.chat = ex_side_chat(x->side),
		.bytes_max = o->prompt_bytes_max,
		.n_ctx = x->g->n_ctx,
	};
	if (ex_prompt_encode(&p, &x->ask, e, &x->prompt))
		return -1;
	ex_chat_ask_trim(&x->ask);
	const uint32_t room = x->g->n_ctx - (uint32_t)x->prompt.n;
	x->n_tokens_max = EX_MIN(x->ask.max_tokens ? x->ask.max_tokens : o->max_tokens_default, room);
	if (x->ask.json && !ex_edge_model_json(x->model))
		return ex_api_error_set(
			e, 400, "unsupported", "response_format", "the model's vocabulary cannot be held to JSON");
	if (x->ask.json && x->n_tokens_max < EX_JSON_GUIDE_TOKENS_MIN)
		return ex_api_error_set(e, 422, "invalid_value", "max_tokens",
			"max_tokens: json_object needs %d, and the context has room for %u", EX_JSON_GUIDE_TOKENS_MIN,
			room);
	return 0;
}

/* They are there at once: a client may leave meanwhile, and then whoever sees it looks for them. */
static int make_choices(struct ex_exchange *x)
{
	const uint32_t n = x->ask.n_choices;
	struct ex_choice *choices = ex_calloc(n, sizeof *choices);
	if (!choices)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		choices[i] = (struct ex_choice){.x = x, .index = i};
		ex_json_guide_init(&choices[i].guide, ex_edge_model_json(x->model));
	}
	ex_lock_take(&x->lock);
	x->choices = choices;
	x->n_choices_open = n;
	ex_lock_give(&x->lock);
	return 0;
}

static int read_ask(struct ex_exchange *x, struct ex_api_error *e)
{
	const struct ex_gateway_opts *o = &x->g->o;
	struct ex_chat_ask *a = &x->ask;
	int rc = ex_chat_ask_parse(x->route->kind, x->body.s ? x->body.s : "", x->body.n, o->json_depth_max, e, a);
	ex_exchange_drop_body(x);
	if (rc)
		return rc;
	if (strcmp(a->model, o->model_name))
		return ex_api_error_set(e, 404, "model_not_found", "model",
			"the model '%.128s' does not exist here; '%s' does", a->model, o->model_name);
	if (!a->has_seed && getrandom(&a->sampling.seed, sizeof a->sampling.seed, 0) < 0)
		return ex_api_error_set(e, 500, "internal_error", NULL, "no random numbers");
	x->side = ex_engine_hold(o->engine);
	x->model = ex_edge_model_ref(ex_side_user(x->side));
	snprintf(x->fingerprint, sizeof x->fingerprint, "%s", ex_edge_model_fingerprint(x->model));
	if (make_choices(x) < 0)
		return ex_api_error_set(e, 500, "internal_error", NULL, "out of memory");
	x->head = (struct ex_reply_head){
		.id = x->id,
		.model = o->model_name,
		.fingerprint = x->fingerprint,
		.created_s = ex_realtime_us() / 1000000,
		.completion = a->kind == EX_ASK_COMPLETION,
		.echo = a->echo ? a->prompt : NULL,
	};
	return encode(x, e);
}

/* Takes a hold on x. [http, reader] */
static void read_and_ask(struct ex_exchange *x)
{
	struct ex_api_error e;
	if (read_ask(x, &e)) {
		/* an error has no events */
		x->ask.stream = false;
		ex_exchange_fail(x, &e);
	} else {
		ask_admission(x);
	}
	ex_exchange_unref(x);
}

static void read_long(struct ex_job *job)
{
	read_and_ask(EX_CONTAINER_OF(job, struct ex_exchange, job));
}

void ex_generation_start(struct ex_exchange *x)
{
	struct ex_api_error e;
	ex_exchange_ref(x);
	if (x->body.n <= LONG_BODY_BYTES) {
		read_and_ask(x);
		return;
	}
	x->job.run = read_long;
	if (ex_jobs_push(x->g->reader, &x->job))
		return;
	ex_api_error_errno(&e, -EAGAIN, "as many long requests as are taken wait to be read already");
	ex_exchange_fail(x, &e);
	ex_exchange_unref(x);
}
