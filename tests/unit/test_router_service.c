/* SPDX-License-Identifier: Apache-2.0 */
/* engine/service: Generate and Tokenize over gRPC: events in order, every refusal with its status, a client that leaves or does not read. */
#include "small_model.h"
#include "unit.h"

#include "base/lock.h"
#include "engine/service.h"
#include "expertd/router.pb-c.h"
#include "net/client.h"
#include "ref_ops.h"
#include "small_tokenizer.h"
#include <unistd.h>

struct fixture {
	struct small_model m;
	struct ex_tokenizer *tokenizer;
	struct ex_engine *e;
	struct ex_router_service *service;
	struct ex_loop *loops[2]; /* server's, client's */
	struct ex_server *server;
	struct ex_channel *channel;
};

/* What came over one call; guarded by lock until closed. */
struct reader {
	struct ex_lock lock;
	pthread_cond_t cond;
	bool started, finished, closed;
	uint32_t prompt_tokens, n_deltas, n_ids, ids[128], n_top;
	uint32_t completion_tokens;
	size_t logits_bytes, n_text_bytes;
	float logprob, top0;
	char reason[40], error[256], status_text[256], model[32];
	int status;
	uint32_t cancel_after;
	struct ex_engine *sleep_while; /* the first delta is held until this engine has nothing left to do */
};

static void take_event(struct reader *r, const Expertd__V1__GenerateReply *e)
{
	switch (e->event_case) {
	case EXPERTD__V1__GENERATE_REPLY__EVENT_STARTED:
		assert_false(r->started);
		r->started = true;
		r->prompt_tokens = e->started->prompt_tokens;
		snprintf(r->model, sizeof r->model, "%s", e->started->model);
		assert_memory_equal(e->started->request_id, "req-", 4);
		break;
	case EXPERTD__V1__GENERATE_REPLY__EVENT_DELTA:
		assert_true(r->started && !r->finished);
		r->n_deltas++;
		for (size_t i = 0; i < e->delta->n_ids; i++)
			r->ids[r->n_ids++] = e->delta->ids[i];
		r->logits_bytes = e->delta->logits.len;
		r->n_text_bytes += strlen(e->delta->text) + strlen(e->delta->reasoning);
		if (e->delta->n_logprobs) {
			r->logprob = e->delta->logprobs[0]->logprob;
			r->n_top = (uint32_t)e->delta->logprobs[0]->n_top;
			r->top0 = r->n_top ? e->delta->logprobs[0]->top[0]->logprob : 0;
		}
		break;
	default:
		assert_int_equal(e->event_case, EXPERTD__V1__GENERATE_REPLY__EVENT_FINISHED);
		r->finished = true;
		snprintf(r->reason, sizeof r->reason, "%s", e->finished->reason);
		snprintf(r->error, sizeof r->error, "%s", e->finished->error);
		r->completion_tokens = e->finished->completion_tokens;
	}
}

static void wait_idle(struct ex_engine *e)
{
	struct ex_engine_stat s;
	do {
		usleep(1000);
		ex_engine_stat(e, &s);
	} while (s.running || s.waiting || s.pages_used);
}

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct reader *r = ctx;
	ProtobufCMessage *e = ex_msg_unpack(m, &expertd__v1__generate_reply__descriptor);
	ex_msg_free(m);
	assert_non_null(e);
	ex_lock_take(&r->lock);
	take_event(r, (const Expertd__V1__GenerateReply *)e);
	struct ex_engine *sleep_while = r->n_deltas == 1 ? r->sleep_while : NULL;
	bool cancel = r->cancel_after && r->n_deltas == r->cancel_after;
	ex_lock_give(&r->lock);
	protobuf_c_message_free_unpacked(e, NULL);
	if (sleep_while)
		wait_idle(sleep_while);
	if (cancel)
		ex_stream_cancel(s);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct reader *r = ctx;
	(void)s;
	ex_lock_take(&r->lock);
	r->status = status;
	snprintf(r->status_text, sizeof r->status_text, "%s", text);
	r->closed = true;
	pthread_cond_signal(&r->cond);
	ex_lock_give(&r->lock);
}

static uint64_t reply_bytes_max = 1 << 20;

static int open_fixture(void **state)
{
	static struct fixture f;
	struct ex_err err = EX_ERR_INIT;
	char dir[64] = "", address[32];
	memset(&f, 0, sizeof f);
	json_t *root = small_tokenizer();
	char *text = json_dumps(root, JSON_COMPACT);
	small_write(dir, "tokenizer.json", text);
	small_write(dir, "tokenizer_config.json", "{\"bos_token\": \"" SMALL_BOS "\"}");
	EXPECT_OK(err, ex_tokenizer_open(dir, &err, &f.tokenizer));
	free(text);
	json_decref(root);
	small_remove(dir);
	small_model_open(&f.m, EXPERTD_BF16, &ref_ops, 16, 64);
	const struct ex_engine_opts eo = {
		.trunk = f.m.t,
		.moe = &f.m.moe,
		.config = ex_weights_config(f.m.w),
		.tokenizer = f.tokenizer,
		.max_batch = 2,
		.step_tokens_max = 16,
		.queue_max = 4,
		.page_tokens = SMALL_MODEL_PAGE,
		.n_pages = 64,
		.n_ctx = SMALL_MODEL_CTX,
	};
	EXPECT_OK(err, ex_engine_new(&eo, &err, &f.e));
	const struct ex_router_service_opts so = {
		.engine = f.e,
		.model_name = "small",
		.reply_bytes_max = reply_bytes_max,
		.prompt_bytes_max = 300,
	};
	assert_int_equal(ex_router_service_new(&so, &f.service), 0);
	EXPECT_OK(err, ex_loop_new("server", &err, &f.loops[0]));
	EXPECT_OK(err, ex_loop_new("client", &err, &f.loops[1]));
	const struct ex_server_opts o = {.listen = "127.0.0.1:0",
		.loops = f.loops,
		.n_loops = 1,
		.methods = ex_router_service_methods(f.service, 0)};
	EXPECT_OK(err, ex_server_start(&o, &err, &f.server));
	snprintf(address, sizeof address, "127.0.0.1:%d", ex_server_port(f.server));
	const struct ex_channel_opts co = {.target = address, .loop = f.loops[1]};
	EXPECT_OK(err, ex_channel_new(&co, &err, &f.channel));
	*state = &f;
	return 0;
}

static int close_fixture(void **state)
{
	struct fixture *f = *state;
	ex_channel_free(f->channel);
	ex_server_stop(f->server, 0);
	ex_router_service_stop(f->service);
	ex_engine_free(f->e);
	ex_router_service_free(f->service);
	ex_loop_free(f->loops[0]);
	ex_loop_free(f->loops[1]);
	ex_tokenizer_close(f->tokenizer);
	small_model_close(&f->m);
	return 0;
}

static const uint32_t prompt_ids[] = {7, 100, 33, 250, 12, 90};

/* A request for 10 tokens after prompt_ids. */
static Expertd__V1__GenerateRequest ask(Expertd__V1__TokenPrompt *tokens)
{
	Expertd__V1__GenerateRequest q = EXPERTD__V1__GENERATE_REQUEST__INIT;
	expertd__v1__token_prompt__init(tokens);
	tokens->n_ids = EX_ARRAY_LEN(prompt_ids);
	tokens->ids = (uint32_t *)prompt_ids;
	q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_TOKENS;
	q.tokens = tokens;
	q.max_tokens = 10;
	q.ignore_eos = true;
	return q;
}

static void call(struct fixture *f, const Expertd__V1__GenerateRequest *q, struct reader *r)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	struct ex_err err = EX_ERR_INIT;
	struct ex_stream *s;
	*r = (struct reader){.cancel_after = r->cancel_after, .sleep_while = r->sleep_while};
	ex_lock_init(&r->lock, "reader");
	ex_cond_init(&r->cond);
	EXPECT_OK(err, ex_stream_open(f->channel, "/expertd.v1.Router/Generate", 20000, true, &ops, r, &err, &s));
	ex_stream_send(s, ex_out_pack(&q->base));
	ex_stream_close_send(s);
	ex_lock_take(&r->lock);
	while (!r->closed)
		ex_cond_wait(&r->cond, &r->lock);
	ex_lock_give(&r->lock);
	ex_stream_drop(s);
	ex_lock_done(&r->lock);
	pthread_cond_destroy(&r->cond);
}

static void test_generate(void **state)
{
	static struct reader a, b;
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__GenerateRequest q = ask(&tokens);
	q.logprobs = true;
	q.top_logprobs = 4;
	call(*state, &q, &a);
	assert_int_equal(a.status, EX_STATUS_OK);
	assert_true(a.started && a.finished);
	assert_string_equal(a.reason, "length");
	assert_string_equal(a.model, "small");
	assert_int_equal(a.prompt_tokens, 6);
	assert_int_equal(a.n_ids, 10);
	assert_int_equal(a.completion_tokens, 10);
	assert_int_equal(a.n_top, 4);
	assert_true(a.logprob < 0 && a.logprob == a.top0);
	q = ask(&tokens);
	q.want_logits = 1;
	q.model = (char *)"small";
	call(*state, &q, &b);
	assert_memory_equal(a.ids, b.ids, 10 * sizeof a.ids[0]);
	assert_int_equal(b.logits_bytes, SMALL_MODEL_VOCAB * sizeof(float));
}

static void test_text_prompt(void **state)
{
	static struct reader r;
	Expertd__V1__GenerateRequest q = EXPERTD__V1__GENERATE_REQUEST__INIT;
	Expertd__V1__Sampling sampling = EXPERTD__V1__SAMPLING__INIT;
	sampling.temperature = 1;
	sampling.seed = 4;
	q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_TEXT;
	q.text = (char *)"hello hello";
	q.sampling = &sampling;
	q.max_tokens = 40;
	q.ignore_eos = true;
	call(*state, &q, &r);
	assert_int_equal(r.status, EX_STATUS_OK);
	assert_int_equal(r.prompt_tokens, 3); /* BOS, "hello", " hello" */
	assert_int_equal(r.n_ids, 40);
	assert_true(r.n_text_bytes > 20);
}

static void refused(struct fixture *f, const Expertd__V1__GenerateRequest *q, int status, const char *text)
{
	static struct reader r;
	call(f, q, &r);
	assert_int_equal(r.status, status);
	assert_false(r.started);
	if (!strstr(r.status_text, text))
		fail_msg("'%s' is not in '%s'", text, r.status_text);
}

static void test_refusals(void **state)
{
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__Sampling hot = EXPERTD__V1__SAMPLING__INIT;
	static uint32_t many[SMALL_MODEL_CTX + 4];
	static char long_text[400];
	Expertd__V1__GenerateRequest q = ask(&tokens);
	q.model = (char *)"other";
	refused(*state, &q, EX_STATUS_NOT_FOUND, "model 'other' is not served here, 'small' is");
	q = ask(&tokens);
	tokens.n_ids = EX_ARRAY_LEN(many);
	tokens.ids = many;
	refused(*state, &q, ex_status_from_errno(-E2BIG), "the prompt has 100 tokens, the context 96");
	q = ask(&tokens);
	hot.temperature = -1;
	q.sampling = &hot;
	refused(*state, &q, EX_STATUS_INVALID_ARGUMENT, "temperature is -1");
	q = ask(&tokens);
	q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT__NOT_SET;
	refused(*state, &q, EX_STATUS_INVALID_ARGUMENT, "the request has no prompt");
	memset(long_text, 'a', sizeof long_text - 1);
	q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_TEXT;
	q.text = long_text;
	refused(*state, &q, ex_status_from_errno(-E2BIG), "the prompt has 399 bytes, at most 300 are taken");
	Expertd__V1__ChatPrompt chat = EXPERTD__V1__CHAT_PROMPT__INIT;
	q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_CHAT;
	q.chat = &chat;
	refused(*state, &q, ex_status_from_errno(-ENOTSUP), "no chat template");
}

static void test_client_leaves(void **state)
{
	static struct reader r;
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__GenerateRequest q = ask(&tokens);
	q.max_tokens = 80;
	r.cancel_after = 3;
	call(*state, &q, &r);
	r.cancel_after = 0;
	assert_int_equal(r.status, EX_STATUS_CANCELLED);
	assert_false(r.finished);
	wait_idle(((struct fixture *)*state)->e);
}

#define BUFFER_TINY 1000

static int open_with_tiny_buffer(void **state)
{
	reply_bytes_max = BUFFER_TINY;
	int rc = open_fixture(state);
	reply_bytes_max = 1 << 20;
	return rc;
}

/* Padded with a field that the service does not know, a request is read on the reader thread: the answer is the same, and so are a
 * refusal and the end when the client leaves. */
static void test_long_request(void **state)
{
	static struct reader a, b;
	static uint8_t pad[3 + 20000] = {0xa0, 0x9c, 0x01}; /* 20000 as a varint, then as many bytes */
	ProtobufCMessageUnknownField field = {
		.tag = 100, .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, .len = sizeof pad, .data = pad};
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__GenerateRequest q = ask(&tokens);
	call(*state, &q, &a);
	q.base.n_unknown_fields = 1;
	q.base.unknown_fields = &field;
	call(*state, &q, &b);
	assert_int_equal(b.status, EX_STATUS_OK);
	assert_int_equal(b.n_ids, 10);
	assert_memory_equal(a.ids, b.ids, 10 * sizeof a.ids[0]);
	q.model = (char *)"other";
	refused(*state, &q, EX_STATUS_NOT_FOUND, "model 'other' is not served here, 'small' is");
	q.model = (char *)"";
	q.max_tokens = 80;
	b.cancel_after = 3;
	call(*state, &q, &b);
	b.cancel_after = 0;
	assert_int_equal(b.status, EX_STATUS_CANCELLED);
	wait_idle(((struct fixture *)*state)->e);
}

static int open_with_small_buffer(void **state)
{
	reply_bytes_max = 2000;
	int rc = open_fixture(state);
	reply_bytes_max = 1 << 20;
	return rc;
}

/* A delta larger than the whole buffer still lies there when the answer ends: that is no reason to throw the end away. */
static void test_last_delta_fills_the_buffer(void **state)
{
	static struct reader r;
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__GenerateRequest q = ask(&tokens);
	q.max_tokens = 1;
	q.want_logits = 1;
	static_assert(SMALL_MODEL_VOCAB * sizeof(float) > BUFFER_TINY, "one delta is more than the buffer");
	for (int i = 0; i < 50; i++) {
		call(*state, &q, &r);
		assert_string_equal(r.status_text, "");
		assert_int_equal(r.status, EX_STATUS_OK);
		assert_string_equal(r.reason, "length");
	}
}

#define TRIES_MAX 20

/* The client's thread sleeps in its first delta: flow control fills, then the bounded queue, then the request is ended. When the
 * machine is busy that thread may come so late that the transport has read ahead and takes a whole answer: then once more. */
static void test_client_does_not_read(void **state)
{
	static struct reader r;
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__GenerateRequest q = ask(&tokens);
	q.max_tokens = 0;
	q.want_logits = 1;
	r.sleep_while = ((struct fixture *)*state)->e;
	for (int i = 0; i < TRIES_MAX && r.status == EX_STATUS_OK; i++)
		call(*state, &q, &r);
	assert_int_equal(r.status, EX_STATUS_RESOURCE_EXHAUSTED);
	assert_string_equal(r.status_text, "the client does not read");
	assert_false(r.finished);
	assert_true(r.n_ids < 90);
}

/* Routed experts that fail: the reason comes as an event, in an orderly end. */
static void test_no_resource(void **state)
{
	static struct reader r;
	struct fixture *f = *state;
	Expertd__V1__TokenPrompt tokens;
	Expertd__V1__GenerateRequest q = ask(&tokens);
	f->m.fail_row = 2;
	call(f, &q, &r);
	f->m.fail_row = -1;
	assert_int_equal(r.status, EX_STATUS_OK);
	assert_string_equal(r.reason, "insufficient_system_resource");
	assert_non_null(strstr(r.error, "routed experts are not available"));
	assert_int_equal(r.n_ids, 0);
}

static void test_tokenize(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_msg *m;
	Expertd__V1__TokenizeRequest q = EXPERTD__V1__TOKENIZE_REQUEST__INIT;
	q.prompt_case = EXPERTD__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
	q.text = (char *)"hello hello";
	EXPECT_OK(err, ex_unary(f->channel, "/expertd.v1.Router/Tokenize", &q.base, 20000, &err, &m));
	Expertd__V1__TokenizeReply *r =
		(Expertd__V1__TokenizeReply *)ex_msg_unpack(m, &expertd__v1__tokenize_reply__descriptor);
	ex_msg_free(m);
	assert_non_null(r);
	static const uint32_t want[] = {SMALL_BOS_ID, SMALL_MERGES_ID + 3, SMALL_MERGES_ID + 4};
	assert_int_equal(r->n_ids, 3);
	assert_memory_equal(r->ids, want, sizeof want);
	protobuf_c_message_free_unpacked(&r->base, NULL);
	q.text = (char *)"\xff";
	assert_true(ex_unary(f->channel, "/expertd.v1.Router/Tokenize", &q.base, 20000, &err, &m) < 0);
}

static int start_net(void **state)
{
	(void)state;
	ex_net_init();
	return 0;
}

static int stop_net(void **state)
{
	(void)state;
	ex_net_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_generate, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_text_prompt, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_refusals, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_long_request, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_client_leaves, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_last_delta_fills_the_buffer, open_with_tiny_buffer, close_fixture),
		cmocka_unit_test_setup_teardown(test_client_does_not_read, open_with_small_buffer, close_fixture),
		cmocka_unit_test_setup_teardown(test_no_resource, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_tokenize, open_fixture, close_fixture),
	};
	return cmocka_run_group_tests(tests, start_net, stop_net);
}
