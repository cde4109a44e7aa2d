/* SPDX-License-Identifier: Apache-2.0 */
/* Router.Generate and Router.Tokenize. Layer L3.
 *
 * A call of Generate lives as long as its rpc or its request, whichever ends last: the rpc's callbacks come on the
 * loop, the request's on the step thread, and they meet in the call's reference count only. A long request is read on
 * the reader thread, for encoding megabytes takes seconds, in which no client of the loop would get its tokens. */
#include "engine/service.h"
#include "base/mem.h"
#include "engine/jobs.h"
#include "engine/text.h"
#include "expertd/router.pb-c.h"

#include <stdatomic.h>
#include <string.h>

#define SERVICE_MAGIC  0x65747572u
#define LISTS_MAX      4          /* servers that list the methods */
#define ASK_BYTES_MORE (64 << 10) /* of a request, beside the prompt */
#define LONG_ASK_BYTES (16 << 10) /* requests of more are read on the reader thread; this one takes milliseconds */
#define LONG_ASKS_MAX  32         /* of them waiting for it */

struct ex_router_service {
	uint32_t magic;
	struct ex_router_service_opts o;
	struct ex_method methods[LISTS_MAX][3];
	int n_lists;
	struct ex_jobs *reader;
};

struct call {
	struct ex_router_service *s;
	struct ex_rpc *rpc;
	/* NULL until it was submitted, and after the rpc's end. Reader: stores request, looks at is_over; loop: sets is_over,
	 * takes request. In sequentially consistent order one of them sees the other. */
	struct ex_request *_Atomic request;
	atomic_bool is_over;
	atomic_uint n_refs;
};

static void call_unref(struct call *c)
{
	if (atomic_fetch_sub_explicit(&c->n_refs, 1, memory_order_acq_rel) > 1)
		return;
	ex_rpc_drop(c->rpc);
	free(c);
}

/* The rpc is over: so is its request, if there is one. */
static void let_go(struct call *c)
{
	struct ex_request *r = atomic_exchange(&c->request, NULL);
	if (r)
		ex_request_cancel(r);
	ex_request_unref(r);
}

/* --- long requests --------------------------------------------------------------------------------------- */

typedef void read_fn(struct ex_router_service *s, struct ex_rpc *rpc, struct ex_msg *m); /* takes m. [any] */

struct long_request {
	struct ex_job job;
	struct ex_router_service *s;
	struct ex_rpc *rpc; /* held */
	struct ex_msg *m;
	read_fn *read;
};

static void read_long(struct ex_job *job)
{
	struct long_request *l = EX_CONTAINER_OF(job, struct long_request, job);
	l->read(l->s, l->rpc, l->m);
	ex_rpc_drop(l->rpc);
	free(l);
}

/* Has m read, here when it is short. False: it was not taken, and the rpc is finished. */
static bool take_request(struct ex_router_service *s, struct ex_rpc *rpc, struct ex_msg *m, read_fn *read)
{
	if (ex_msg_bytes(m) <= LONG_ASK_BYTES) {
		read(s, rpc, m);
		return true;
	}
	struct long_request *l = calloc(1, sizeof *l);
	if (l) {
		*l = (struct long_request){.job.run = read_long, .s = s, .rpc = ex_rpc_hold(rpc), .m = m, .read = read};
		if (ex_jobs_push(s->reader, &l->job))
			return true;
		ex_rpc_drop(rpc);
	}
	ex_msg_free(m);
	ex_rpc_finish_errno(rpc, l ? -EAGAIN : -ENOMEM,
		l ? "as many long requests as are taken wait to be read already" : "out of memory");
	free(l);
	return false;
}

/* --- prompts --------------------------------------------------------------------------------------------- */

struct prompt {
	const struct ex_side *side; /* that it is encoded for */
	uint32_t *ids;
	size_t n, cap;
	bool starts_thinking;
};

static int encode_text(const struct ex_router_service *s, const char *text, struct ex_err *err, struct prompt *p)
{
	size_t n = strlen(text);
	const struct ex_tokenizer *t = ex_side_tokenizer(p->side);
	if (!t)
		return ex_err_set(err, -ENOTSUP, "the model has no tokenizer: send token ids");
	if (n > s->o.prompt_bytes_max)
		return ex_err_set(
			err, -E2BIG, "the prompt has %zu bytes, at most %u are taken", n, s->o.prompt_bytes_max);
	unsigned flags = ex_tokenizer_bos(t) >= 0 ? EX_ENCODE_BOS : 0;
	return ex_tokenizer_encode(t, text, n, flags, err, &p->ids, &p->n, &p->cap);
}

static int encode_chat(
	const struct ex_router_service *s, const Expertd__V1__ChatPrompt *chat, struct ex_err *err, struct prompt *p)
{
	size_t bytes = 0;
	const struct ex_chat *template = ex_side_chat(p->side);
	if (!template)
		return ex_err_set(
			err, -ENOTSUP, "the model has no chat template that is understood: send text or token ids");
	EX_CLEANUP(ex_freep) struct ex_chat_message *m = ex_calloc(chat->n_messages, sizeof *m);
	if (!m)
		return ex_err_set(err, -ENOMEM, "prompt: out of memory");
	for (size_t i = 0; i < chat->n_messages; i++) {
		m[i] = (struct ex_chat_message){.role = chat->messages[i]->role, .content = chat->messages[i]->content};
		bytes += strlen(m[i].content);
	}
	if (bytes > s->o.prompt_bytes_max)
		return ex_err_set(
			err, -E2BIG, "the messages have %zu bytes, at most %u are taken", bytes, s->o.prompt_bytes_max);
	p->starts_thinking = ex_chat_starts_thinking(template);
	return ex_chat_encode(template, m, chat->n_messages, err, &p->ids, &p->n, &p->cap);
}

static int copy_tokens(const Expertd__V1__TokenPrompt *tokens, struct ex_err *err, struct prompt *p)
{
	if (ex_grow(&p->ids, &p->cap, tokens->n_ids, sizeof *p->ids) < 0)
		return ex_err_set(err, -ENOMEM, "prompt: out of memory");
	if (tokens->n_ids)
		memcpy(p->ids, tokens->ids, tokens->n_ids * sizeof *p->ids);
	p->n = tokens->n_ids;
	return 0;
}

/* A prompt that was not made by the template begins the answer inside the reasoning when its last think token opens. */
static bool ends_thinking(const struct prompt *p)
{
	int64_t open, close;
	ex_text_think_ids(ex_side_tokenizer(p->side), ex_side_chat(p->side), &open, &close);
	for (size_t i = p->n; i-- > 0;) {
		if ((int64_t)p->ids[i] == close)
			return false;
		if ((int64_t)p->ids[i] == open)
			return true;
	}
	return false;
}

static int take_prompt(
	const struct ex_router_service *s, const Expertd__V1__GenerateRequest *q, struct ex_err *err, struct prompt *p)
{
	int rc;
	switch (q->prompt_case) {
	case EXPERTD__V1__GENERATE_REQUEST__PROMPT_CHAT:
		return encode_chat(s, q->chat, err, p);
	case EXPERTD__V1__GENERATE_REQUEST__PROMPT_TEXT:
		rc = encode_text(s, q->text, err, p);
		break;
	case EXPERTD__V1__GENERATE_REQUEST__PROMPT_TOKENS:
		rc = copy_tokens(q->tokens, err, p);
		break;
	default:
		return ex_err_set(err, -EINVAL, "the request has no prompt");
	}
	p->starts_thinking = !rc && ends_thinking(p);
	return rc;
}

/* The request in m, which it takes. NULL: err says why. A text with a NUL would be cut there without a word. */
static ProtobufCMessage *unpack_request(struct ex_msg *m, const ProtobufCMessageDescriptor *d, struct ex_err *err)
{
	ProtobufCMessage *q = ex_msg_unpack(m, d);
	if (!q)
		ex_err_set(err, -EINVAL, "the request is malformed");
	if (q && ex_msg_has_nul(m, d)) {
		ex_err_set(err, -EINVAL, "a text of the request holds a NUL character");
		protobuf_c_message_free_unpacked(q, NULL);
		q = NULL;
	}
	ex_msg_free(m);
	return q;
}

/* --- events to the client [step] ------------------------------------------------------------------------- */

static bool is_full(const struct call *c)
{
	return ex_rpc_queued_bytes(c->rpc) > c->s->o.reply_bytes_max;
}

/* False when the call is over. */
static bool send_reply(struct call *c, const Expertd__V1__GenerateReply *reply)
{
	struct ex_out *out = ex_out_pack(&reply->base);
	return out && ex_rpc_send(c->rpc, out) == 0;
}

static void on_started(void *ctx, struct ex_request *r, uint32_t prompt_tokens)
{
	struct call *c = ctx;
	Expertd__V1__GenerateReply reply = EXPERTD__V1__GENERATE_REPLY__INIT;
	Expertd__V1__Started started = EXPERTD__V1__STARTED__INIT;
	started.request_id = (char *)ex_request_id(r);
	started.prompt_tokens = prompt_tokens;
	started.model = (char *)c->s->o.model_name;
	reply.event_case = EXPERTD__V1__GENERATE_REPLY__EVENT_STARTED;
	reply.started = &started;
	send_reply(c, &reply); /* if it fails, the first delta tells the engine */
}

static void fill_logprob(
	const struct ex_tokenizer *tokenizer, uint32_t id, float logprob, Expertd__V1__TokenLogprob *ret)
{
	size_t n = 0;
	expertd__v1__token_logprob__init(ret);
	ret->id = id;
	ret->logprob = logprob;
	if (tokenizer) {
		ret->text.data = (uint8_t *)ex_tokenizer_bytes(tokenizer, id, &n);
		ret->text.len = n;
	}
}

static bool on_delta(void *ctx, struct ex_request *r, const struct ex_delta *d)
{
	struct call *c = ctx;
	Expertd__V1__GenerateReply reply = EXPERTD__V1__GENERATE_REPLY__INIT;
	Expertd__V1__Delta delta = EXPERTD__V1__DELTA__INIT;
	Expertd__V1__TokenLogprob token, top[EX_TOP_LOGPROBS_MAX];
	Expertd__V1__TokenLogprob *tokens[] = {&token}, *tops[EX_TOP_LOGPROBS_MAX];
	(void)r;
	assert(d->n_ids == 1);
	if (d->text)
		delta.text = (char *)d->text;
	if (d->reasoning)
		delta.reasoning = (char *)d->reasoning;
	delta.n_ids = d->n_ids;
	delta.ids = (uint32_t *)d->ids;
	if (d->logprobs) {
		fill_logprob(d->tokenizer, d->logprobs->id, d->logprobs->logprob, &token);
		for (uint32_t i = 0; i < d->logprobs->n_top; i++) {
			fill_logprob(d->tokenizer, d->logprobs->top[i].id, d->logprobs->top[i].logprob, &top[i]);
			tops[i] = &top[i];
		}
		token.n_top = d->logprobs->n_top;
		token.top = tops;
		delta.n_logprobs = 1;
		delta.logprobs = tokens;
	}
	if (d->logits) {
		delta.logits.data = (uint8_t *)d->logits;
		delta.logits.len = d->n_logits_bytes;
	}
	reply.event_case = EXPERTD__V1__GENERATE_REPLY__EVENT_DELTA;
	reply.delta = &delta;
	return !is_full(c) && send_reply(c, &reply);
}

/* The end of an answer that was taken whole is sent even if its last delta filled the buffer. */
static void on_finished(void *ctx, struct ex_request *r, const struct ex_finished *f)
{
	struct call *c = ctx;
	Expertd__V1__GenerateReply reply = EXPERTD__V1__GENERATE_REPLY__INIT;
	Expertd__V1__Finished finished = EXPERTD__V1__FINISHED__INIT;
	(void)r;
	finished.reason = (char *)ex_finish_name(f->reason);
	if (f->error)
		finished.error = (char *)f->error;
	finished.prompt_tokens = f->prompt_tokens;
	finished.completion_tokens = f->completion_tokens;
	finished.reasoning_tokens = f->reasoning_tokens;
	finished.queue_seconds = f->queue_s;
	finished.first_token_seconds = f->first_token_s;
	finished.total_seconds = f->total_s;
	finished.rows_dispatched = f->rows_dispatched;
	reply.event_case = EXPERTD__V1__GENERATE_REPLY__EVENT_FINISHED;
	reply.finished = &finished;
	bool cut_off = f->reason == EX_FINISH_CANCELLED && is_full(c);
	if (!cut_off && send_reply(c, &reply))
		ex_rpc_finish(c->rpc, EX_STATUS_OK, NULL);
	else
		ex_rpc_abort(c->rpc, EX_STATUS_RESOURCE_EXHAUSTED, f->error ? f->error : "the client does not read");
	call_unref(c);
}

/* --- Generate [cq], but for reading ----------------------------------------------------------------------- */

static struct ex_request_params request_params(
	const Expertd__V1__GenerateRequest *q, const struct prompt *p, struct call *c)
{
	struct ex_request_params r = {
		.ids = p->ids,
		.n_ids = (uint32_t)p->n,
		.max_tokens = q->max_tokens,
		.sampling = {.top_p = 1},
		.stop = (const char *const *)q->stop,
		.n_stop = (uint32_t)q->n_stop,
		.top_logprobs = q->top_logprobs,
		.logprobs = q->logprobs,
		.ignore_eos = q->ignore_eos,
		.keep_special = q->keep_special,
		.want_logits = q->want_logits != 0,
		.starts_thinking = p->starts_thinking,
		.side = (struct ex_side *)p->side,
		.sink = {.started = on_started, .delta = on_delta, .finished = on_finished, .ctx = c},
	};
	if (q->sampling)
		r.sampling = (struct ex_sampling){
			.temperature = q->sampling->temperature,
			.top_p = q->sampling->top_p == 0 ? 1 : q->sampling->top_p,
			.top_k = q->sampling->top_k,
			.seed = q->sampling->seed,
		};
	return r;
}

static int check_model(const struct ex_router_service *s, const char *model, struct ex_err *err)
{
	if (model[0] && strcmp(model, s->o.model_name) != 0)
		return ex_err_set(err, -ENOENT, "model '%s' is not served here, '%s' is", model, s->o.model_name);
	return 0;
}

static int submit(struct call *c, const Expertd__V1__GenerateRequest *q, struct ex_err *err)
{
	struct ex_side *side = ex_engine_hold(c->s->o.engine);
	struct prompt p = {.side = side};
	int rc = check_model(c->s, q->model, err);
	if (!rc)
		rc = take_prompt(c->s, q, err, &p);
	if (!rc && p.n > UINT32_MAX)
		rc = ex_err_set(err, -E2BIG, "the prompt has %zu tokens", p.n);
	if (!rc) {
		const struct ex_request_params params = request_params(q, &p, c);
		atomic_fetch_add_explicit(&c->n_refs, 1, memory_order_relaxed); /* the request's, until on_finished */
		struct ex_request *r;
		rc = ex_engine_submit(c->s->o.engine, &params, err, &r);
		if (rc)
			atomic_fetch_sub_explicit(&c->n_refs, 1, memory_order_relaxed);
		else
			atomic_store(&c->request, r);
		if (atomic_load(&c->is_over))
			let_go(c);
	}
	ex_engine_release(c->s->o.engine, side);
	free(p.ids);
	return rc;
}

static int generate_start(struct ex_rpc *rpc, void *ctx)
{
	struct call *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->s = ctx;
	c->rpc = ex_rpc_hold(rpc);
	atomic_init(&c->n_refs, 1);
	ex_rpc_set_data(rpc, c);
	return 0;
}

/* Takes a reference of the call. */
static void read_generate(struct ex_router_service *s, struct ex_rpc *rpc, struct ex_msg *m)
{
	struct call *c = ex_rpc_data(rpc);
	struct ex_err err = EX_ERR_INIT;
	(void)s;
	if (atomic_load(&c->is_over)) {
		ex_msg_free(m);
		call_unref(c);
		return;
	}
	ProtobufCMessage *q = unpack_request(m, &expertd__v1__generate_request__descriptor, &err);
	int rc = q ? submit(c, (const Expertd__V1__GenerateRequest *)q, &err) : -EINVAL;
	if (q)
		protobuf_c_message_free_unpacked(q, NULL);
	if (rc)
		ex_rpc_finish_errno(rpc, rc, ex_err_text(&err));
	call_unref(c);
}

static void generate_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct call *c = ex_rpc_data(rpc);
	atomic_fetch_add_explicit(&c->n_refs, 1, memory_order_relaxed);
	if (!take_request(ctx, rpc, m, read_generate))
		call_unref(c);
}

static void generate_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	struct call *c = ex_rpc_data(rpc);
	(void)ctx;
	(void)cancelled; /* a call may also be finished for a second message while its request waits */
	atomic_store(&c->is_over, true);
	let_go(c);
	call_unref(c);
}

/* --- Tokenize [cq], but for reading ----------------------------------------------------------------------- */

static int tokenize(
	const struct ex_router_service *s, const Expertd__V1__TokenizeRequest *q, struct ex_err *err, struct prompt *p)
{
	switch (q->prompt_case) {
	case EXPERTD__V1__TOKENIZE_REQUEST__PROMPT_TEXT:
		return encode_text(s, q->text, err, p);
	case EXPERTD__V1__TOKENIZE_REQUEST__PROMPT_CHAT:
		return encode_chat(s, q->chat, err, p);
	default:
		return ex_err_set(err, -EINVAL, "the request has no prompt");
	}
}

static void read_tokenize(struct ex_router_service *s, struct ex_rpc *rpc, struct ex_msg *m)
{
	struct ex_err err = EX_ERR_INIT;
	struct prompt p = {.n = 0};
	Expertd__V1__TokenizeReply reply = EXPERTD__V1__TOKENIZE_REPLY__INIT;
	if (ex_rpc_cancelled(rpc)) {
		ex_msg_free(m);
		return;
	}
	ProtobufCMessage *q = unpack_request(m, &expertd__v1__tokenize_request__descriptor, &err);
	struct ex_side *side = ex_engine_hold(s->o.engine);
	p.side = side;
	int rc = q ? tokenize(s, (const Expertd__V1__TokenizeRequest *)q, &err, &p) : -EINVAL;
	ex_engine_release(s->o.engine, side);
	reply.n_ids = p.n;
	reply.ids = p.ids;
	struct ex_out *out = rc ? NULL : ex_out_pack(&reply.base);
	if (!rc && !out)
		rc = ex_err_set(&err, -ENOMEM, "reply: out of memory");
	if (out)
		ex_rpc_send(rpc, out);
	if (rc)
		ex_rpc_finish_errno(rpc, rc, ex_err_text(&err));
	else
		ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
	free(p.ids);
	if (q)
		protobuf_c_message_free_unpacked(q, NULL);
}

static void tokenize_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	take_request(ctx, rpc, m, read_tokenize);
}

/* --- the service ----------------------------------------------------------------------------------------- */

int ex_router_service_new(const struct ex_router_service_opts *o, struct ex_router_service **ret)
{
	struct ex_router_service *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->magic = SERVICE_MAGIC;
	s->o = *o;
	int rc = ex_jobs_new("reader", LONG_ASKS_MAX, &s->reader);
	if (rc) {
		free(s);
		return rc;
	}
	*ret = s;
	return 0;
}

void ex_router_service_stop(struct ex_router_service *s)
{
	EX_CHECK_OBJ(s, SERVICE_MAGIC);
	s->reader = ex_jobs_free(s->reader);
}

struct ex_router_service *ex_router_service_free(struct ex_router_service *s)
{
	if (s) {
		EX_CHECK_OBJ(s, SERVICE_MAGIC);
		assert(!s->reader);
		s->magic = 0;
		free(s);
	}
	return NULL;
}

const struct ex_method *ex_router_service_methods(struct ex_router_service *s, int loop_i)
{
	EX_CHECK_OBJ(s, SERVICE_MAGIC);
	assert(s->n_lists < LISTS_MAX);
	struct ex_method *list = s->methods[s->n_lists++];
	list[0] = (struct ex_method){
		.path = "/expertd.v1.Router/Generate",
		.loop_i = loop_i,
		.message_bytes_max = (size_t)s->o.prompt_bytes_max + ASK_BYTES_MORE,
		.start = generate_start,
		.message = generate_message,
		.done = generate_done,
		.ctx = s,
	};
	list[1] = (struct ex_method){
		.path = "/expertd.v1.Router/Tokenize",
		.loop_i = loop_i,
		.message_bytes_max = (size_t)s->o.prompt_bytes_max + ASK_BYTES_MORE,
		.message = tokenize_message,
		.ctx = s,
	};
	return list;
}
