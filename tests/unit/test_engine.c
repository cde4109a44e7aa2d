/* SPDX-License-Identifier: Apache-2.0 */
/* engine: whole generations on a small random model. Text depends on the request alone: not on chunks, company,
 * preemption or order; requests end for the right reason; nothing leaks. */
#include "small_model.h"
#include "unit.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/metrics.h"
#include "engine/engine.h"
#include "ref_ops.h"
#include "small_tokenizer.h"
#include <math.h>
#include <unistd.h>

#define TOKENS_MAX 96

/* What a client saw of one request; guarded by its lock until finished. */
struct client {
	struct ex_lock lock;
	pthread_cond_t cond;
	struct ex_request *r;
	uint32_t ids[TOKENS_MAX], n_ids, n_started;
	char text[1024];
	float logprob[TOKENS_MAX], top[TOKENS_MAX];
	uint32_t n_top;
	struct ex_finished f;
	char error[512];
	bool finished;
	uint32_t refuse_after; /* deltas; 0: never */
	uint32_t cancel_after; /* tokens; 0: never */
};

static void on_started(void *ctx, struct ex_request *r, uint32_t prompt_tokens)
{
	struct client *c = ctx;
	(void)r;
	assert_true(prompt_tokens > 0);
	c->n_started++;
}

static bool on_delta(void *ctx, struct ex_request *r, const struct ex_delta *d)
{
	struct client *c = ctx;
	assert_int_equal(d->n_ids, 1);
	assert_true(c->n_ids < TOKENS_MAX);
	if (d->logprobs) {
		c->logprob[c->n_ids] = d->logprobs->logprob;
		c->n_top = d->logprobs->n_top;
		c->top[c->n_ids] = d->logprobs->n_top ? d->logprobs->top[0].logprob : NAN;
	}
	c->ids[c->n_ids++] = d->ids[0];
	if (d->text)
		strncat(c->text, d->text, sizeof c->text - strlen(c->text) - 1);
	if (c->cancel_after && c->n_ids == c->cancel_after)
		ex_request_cancel(r);
	return !c->refuse_after || c->n_ids < c->refuse_after;
}

static void on_finished(void *ctx, struct ex_request *r, const struct ex_finished *f)
{
	struct client *c = ctx;
	(void)r;
	ex_lock_take(&c->lock);
	assert_false(c->finished);
	c->f = *f;
	snprintf(c->error, sizeof c->error, "%s", f->error ? f->error : "");
	c->finished = true;
	pthread_cond_signal(&c->cond);
	ex_lock_give(&c->lock);
}

static void client_init(struct client *c)
{
	memset(c, 0, sizeof *c);
	ex_lock_init(&c->lock, "client");
	ex_cond_init(&c->cond);
}

static void client_wait(struct client *c)
{
	ex_lock_take(&c->lock);
	while (!c->finished)
		ex_cond_wait(&c->cond, &c->lock);
	ex_lock_give(&c->lock);
}

static void client_done(struct client *c)
{
	ex_request_unref(c->r);
	ex_lock_done(&c->lock);
	pthread_cond_destroy(&c->cond);
}

/* --- the engine under test ------------------------------------------------------------------------------- */

struct fixture {
	struct small_model m;
	struct ex_tokenizer *tokenizer;
	struct ex_engine *e;
};

struct shape {
	uint32_t max_batch, step_tokens, n_pages, queue_max;
	bool tokenizer, no_queue;
};

static struct ex_tokenizer *open_tokenizer(void)
{
	char dir[64] = "";
	struct ex_err err = EX_ERR_INIT;
	struct ex_tokenizer *t = NULL;
	json_t *root = small_tokenizer();
	char *text = json_dumps(root, JSON_COMPACT);
	small_write(dir, "tokenizer.json", text);
	EXPECT_OK(err, ex_tokenizer_open(dir, &err, &t));
	free(text);
	json_decref(root);
	small_remove(dir);
	return t;
}

static void open_engine(struct fixture *f, const struct shape *s)
{
	struct ex_err err = EX_ERR_INIT;
	memset(f, 0, sizeof *f);
	small_model_open(&f->m, EXPERTD_BF16, &ref_ops, s->step_tokens, s->n_pages);
	if (s->tokenizer)
		f->tokenizer = open_tokenizer();
	const struct ex_engine_opts o = {
		.trunk = f->m.t,
		.moe = &f->m.moe,
		.config = ex_weights_config(f->m.w),
		.tokenizer = f->tokenizer,
		.max_batch = s->max_batch,
		.step_tokens_max = s->step_tokens,
		.queue_max = s->queue_max || s->no_queue ? s->queue_max : 100,
		.page_tokens = SMALL_MODEL_PAGE,
		.n_pages = s->n_pages,
		.n_ctx = SMALL_MODEL_CTX,
	};
	EXPECT_OK(err, ex_engine_new(&o, &err, &f->e));
}

/* ex_kv_free asserts that every page came back. */
static void close_engine(struct fixture *f)
{
	f->e = ex_engine_free(f->e);
	ex_tokenizer_close(f->tokenizer);
	small_model_close(&f->m);
}

static struct ex_request_params params(struct client *c, const uint32_t *ids, uint32_t n)
{
	return (struct ex_request_params){
		.ids = ids,
		.n_ids = n,
		.max_tokens = 20,
		.sampling = {.top_p = 1},
		.ignore_eos = true,
		.sink = {.started = on_started, .delta = on_delta, .finished = on_finished, .ctx = c},
	};
}

static void submit(struct fixture *f, struct client *c, const struct ex_request_params *p)
{
	struct ex_err err = EX_ERR_INIT;
	EXPECT_OK(err, ex_engine_submit(f->e, p, &err, &c->r));
}

static const uint32_t prompt_ids[40] = {7, 100, 33, 250, 12, 90, 41, 8, 77, 201, 6, 5, 180, 22, 19, 64, 3, 150, 99, 11};

/* Request i of a set: its own prompt, length and seed. */
static struct ex_request_params varied(struct client *c, uint32_t i)
{
	struct ex_request_params p = params(c, prompt_ids + i % 5, 4 + i * 3 % 11);
	p.sampling = (struct ex_sampling){
		.temperature = i % 2 ? 0.9f : 0, .top_p = 0.95f, .top_k = i % 4 == 1 ? 40 : 0, .seed = i};
	p.max_tokens = 10 + i % 7;
	return p;
}

/* Runs varied requests 0..n one after the other, or at once. Returns how often a sequence was pushed out of the batch.
 */
static uint64_t run_set(const struct shape *s, uint32_t n, bool at_once, struct client *c)
{
	struct fixture f;
	struct ex_engine_stat st;
	open_engine(&f, s);
	for (uint32_t i = 0; i < n; i++) {
		client_init(&c[i]);
		const struct ex_request_params p = varied(&c[i], i);
		submit(&f, &c[i], &p);
		if (!at_once)
			client_wait(&c[i]);
	}
	for (uint32_t i = 0; i < n; i++) {
		client_wait(&c[i]);
		assert_int_equal(c[i].f.reason, EX_FINISH_LENGTH);
		assert_int_equal(c[i].n_started, 1);
		assert_int_equal(c[i].f.completion_tokens, c[i].n_ids);
		assert_int_equal(c[i].n_ids, 10 + i % 7);
		client_done(&c[i]);
	}
	assert_true(ex_engine_drain(f.e, 10000));
	do
		ex_engine_stat(f.e, &st);
	while (st.pages_used && usleep(1000) == 0); /* published at the end of the turn */
	close_engine(&f);
	return st.n_preempted;
}

#define SET 12

static void expect_same(const struct client *a, const struct client *b)
{
	for (uint32_t i = 0; i < SET; i++) {
		assert_int_equal(a[i].n_ids, b[i].n_ids);
		assert_memory_equal(a[i].ids, b[i].ids, a[i].n_ids * sizeof a[i].ids[0]);
	}
}

/* Alone, in a batch of 8 with small chunks, and in a pool so small that sequences push each other out: always the same
 * tokens. */
static void test_scheduling_does_not_change_text(void **state)
{
	static struct client alone[SET], batch[SET], squeezed[SET];
	(void)state;
	run_set(&(struct shape){.max_batch = 1, .step_tokens = 64, .n_pages = 64}, SET, false, alone);
	run_set(&(struct shape){.max_batch = 8, .step_tokens = 9, .n_pages = 64}, SET, true, batch);
	uint64_t n = run_set(&(struct shape){.max_batch = 8, .step_tokens = 9, .n_pages = 9}, SET, true, squeezed);
	assert_true(n > 0);
	assert_int_equal(ex_metric_count(ex_metric(EX_M_PREEMPTIONS, NULL)), n);
	expect_same(alone, batch);
	expect_same(alone, squeezed);
	uint32_t n_distinct = 0;
	for (uint32_t i = 1; i < SET; i++)
		n_distinct += memcmp(alone[0].ids, alone[i].ids, sizeof alone[0].ids[0] * 10) != 0;
	assert_true(n_distinct > SET / 2); /* the model does not say one thing whatever it is asked */
}

static void test_seed_makes_the_text(void **state)
{
	struct fixture f;
	static struct client c[3];
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 4, .step_tokens = 16, .n_pages = 64});
	for (int i = 0; i < 3; i++) {
		client_init(&c[i]);
		struct ex_request_params p = params(&c[i], prompt_ids, 8);
		p.sampling = (struct ex_sampling){.temperature = 1, .top_p = 1, .seed = i == 2 ? 99 : 42};
		submit(&f, &c[i], &p);
	}
	for (int i = 0; i < 3; i++) {
		client_wait(&c[i]);
		client_done(&c[i]);
	}
	assert_memory_equal(c[0].ids, c[1].ids, 20 * sizeof c[0].ids[0]);
	assert_memory_not_equal(c[0].ids, c[2].ids, 20 * sizeof c[0].ids[0]);
	close_engine(&f);
}

static void test_logprobs_of_greedy(void **state)
{
	struct fixture f;
	static struct client c;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 16, .n_pages = 32});
	client_init(&c);
	struct ex_request_params p = params(&c, prompt_ids, 8);
	p.logprobs = true;
	p.top_logprobs = 3;
	submit(&f, &c, &p);
	client_wait(&c);
	assert_int_equal(c.n_top, 3);
	for (uint32_t i = 0; i < c.n_ids; i++) {
		assert_true(c.logprob[i] < 0 && c.logprob[i] > -6);
		assert_true(c.logprob[i] == c.top[i]); /* greedy takes the likeliest */
	}
	client_done(&c);
	close_engine(&f);
}

static bool said_before(const struct client *c, uint32_t i)
{
	for (uint32_t j = 0; j < i; j++)
		if (c->ids[j] == c->ids[i])
			return true;
	return false;
}

/* An end-of-sequence token ends the text, unless it is to be ignored. */
static void test_eos(void **state)
{
	struct fixture f;
	static struct client free_run, stopped;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 16, .n_pages = 32, .tokenizer = true});
	client_init(&free_run);
	struct ex_request_params p = params(&free_run, prompt_ids, 8);
	p.sampling = (struct ex_sampling){.temperature = 1, .top_p = 1, .seed = 8};
	submit(&f, &free_run, &p);
	client_wait(&free_run);
	/* the model seldom says token 1, so something that it says is declared the end */
	struct ex_model_config *config = (struct ex_model_config *)ex_weights_config(f.m.w);
	uint32_t eos = config->eos_id[0], last = 1;
	while (said_before(&free_run, last))
		last++;
	config->eos_id[0] = free_run.ids[last];
	client_init(&stopped);
	p.sink.ctx = &stopped;
	p.ignore_eos = false;
	submit(&f, &stopped, &p);
	client_wait(&stopped);
	config->eos_id[0] = eos;
	assert_int_equal(stopped.f.reason, EX_FINISH_STOP);
	assert_int_equal(stopped.n_ids, last + 1);
	assert_memory_equal(stopped.ids, free_run.ids, stopped.n_ids * sizeof stopped.ids[0]);
	client_done(&free_run);
	client_done(&stopped);
	close_engine(&f);
}

/* A stop string of two characters out of the free text cuts it there. */
static void test_stop_string(void **state)
{
	struct fixture f;
	static struct client free_run, stopped;
	char stop[8] = "";
	const char *stops[] = {stop};
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 16, .n_pages = 32, .tokenizer = true});
	struct ex_request_params p = params(&free_run, prompt_ids, 8);
	p.max_tokens = 60;
	p.sampling = (struct ex_sampling){.temperature = 1, .top_p = 1};
	do { /* until chance gives a text that is not all reasoning */
		if (p.sampling.seed++)
			client_done(&free_run);
		client_init(&free_run);
		submit(&f, &free_run, &p);
		client_wait(&free_run);
	} while (strlen(free_run.text) <= 20);
	const char *at = free_run.text + 8;
	while ((*at & 0xc0) == 0x80) /* to a character's first byte */
		at++;
	const char *end = at + 1;
	while ((*end & 0xc0) == 0x80)
		end++;
	memcpy(stop, at, (size_t)(end - at));
	client_init(&stopped);
	p.sink.ctx = &stopped;
	p.stop = stops;
	p.n_stop = 1;
	submit(&f, &stopped, &p);
	client_wait(&stopped);
	assert_int_equal(stopped.f.reason, EX_FINISH_STOP);
	size_t n = strlen(stopped.text);
	assert_ptr_equal(strstr(free_run.text, stop), free_run.text + n); /* the first place where it is */
	assert_memory_equal(stopped.text, free_run.text, n);
	client_done(&free_run);
	client_done(&stopped);
	close_engine(&f);
}

static void test_cancel_running_and_waiting(void **state)
{
	struct fixture f;
	static struct client a, b;
	struct ex_engine_stat st;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 8, .n_pages = 32});
	client_init(&a);
	client_init(&b);
	struct ex_request_params p = params(&a, prompt_ids, 8);
	p.max_tokens = 80;
	a.cancel_after = 5;
	submit(&f, &a, &p);
	p.sink.ctx = &b;
	submit(&f, &b, &p);
	ex_request_cancel(b.r); /* waits: the batch holds one */
	client_wait(&a);
	client_wait(&b);
	assert_int_equal(a.f.reason, EX_FINISH_CANCELLED);
	assert_int_equal(a.n_ids, 5);
	assert_int_equal(b.f.reason, EX_FINISH_CANCELLED);
	assert_int_equal(b.n_ids, 0);
	assert_true(ex_engine_drain(f.e, 10000));
	do
		ex_engine_stat(f.e, &st);
	while (st.pages_used && usleep(1000) == 0); /* published at the end of the turn */
	assert_int_equal(st.running, 0);
	assert_int_equal(st.waiting, 0);
	client_done(&a);
	client_done(&b);
	close_engine(&f);
}

static void test_client_that_does_not_read(void **state)
{
	struct fixture f;
	static struct client c;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 8, .n_pages = 32});
	client_init(&c);
	c.refuse_after = 4;
	const struct ex_request_params p = params(&c, prompt_ids, 8);
	submit(&f, &c, &p);
	client_wait(&c);
	assert_int_equal(c.f.reason, EX_FINISH_CANCELLED);
	assert_string_equal(c.error, "the client does not read");
	assert_int_equal(c.n_ids, 4);
	client_done(&c);
	close_engine(&f);
}

/* Lets through token 200 + n_left alone; nothing when 5 are left. */
static bool mask_all_but_one(void *ctx, float *logits, uint32_t vocab, bool thinking, uint32_t n_left)
{
	(void)ctx;
	assert_int_equal(vocab, SMALL_MODEL_VOCAB);
	assert_false(thinking);
	for (uint32_t i = 0; i < vocab; i++)
		if (i != 200 + n_left)
			logits[i] = -1e9f;
	return n_left != 5;
}

/* Whoever gave a request may narrow the choice of each token down, to one or to none; its company is not touched. */
static void test_mask(void **state)
{
	struct fixture f;
	static struct client alone, c, other;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 2, .step_tokens = 8, .n_pages = 64});
	client_init(&alone);
	client_init(&c);
	client_init(&other);
	struct ex_request_params p = params(&alone, prompt_ids, 8);
	submit(&f, &alone, &p);
	client_wait(&alone);
	p.sink.ctx = &other;
	submit(&f, &other, &p);
	p.sink.ctx = &c;
	p.sink.mask = mask_all_but_one;
	p.sampling.temperature = 1;
	submit(&f, &c, &p);
	client_wait(&c);
	client_wait(&other);
	assert_int_equal(c.n_ids, 15);
	for (uint32_t i = 0; i < 15; i++)
		assert_int_equal(c.ids[i], 220 - i);
	assert_int_equal(c.f.reason, EX_FINISH_NO_RESOURCE);
	assert_string_equal(c.error, "no token fits what was asked for");
	assert_int_equal(other.n_ids, 20);
	assert_memory_equal(other.ids, alone.ids, 20 * sizeof alone.ids[0]);
	client_done(&alone);
	client_done(&c);
	client_done(&other);
	close_engine(&f);
}

/* Rows that lost their experts end their request, and theirs only, without a token. */
static void test_lost_experts(void **state)
{
	struct fixture f;
	static struct client c, next;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 2, .step_tokens = 16, .n_pages = 32});
	client_init(&c);
	client_init(&next);
	f.m.fail_row = 3;
	struct ex_request_params p = params(&c, prompt_ids, 8);
	submit(&f, &c, &p);
	client_wait(&c);
	assert_int_equal(c.f.reason, EX_FINISH_NO_RESOURCE);
	assert_int_equal(c.n_ids, 0);
	assert_non_null(strstr(c.error, "routed experts are not available"));
	assert_true(ex_engine_drain(f.e, 10000));
	client_done(&c);
	client_done(&next);
	close_engine(&f);
}

static void test_engine_lives_on_after_lost_experts(void **state)
{
	struct fixture f;
	static struct client lost, good, want;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 2, .step_tokens = 16, .n_pages = 32});
	client_init(&want);
	client_init(&lost);
	client_init(&good);
	struct ex_request_params p = params(&want, prompt_ids, 3);
	submit(&f, &want, &p);
	client_wait(&want);
	f.m.fail_row = 5; /* beyond the rows of a prompt of 3 */
	p = params(&lost, prompt_ids, 8);
	submit(&f, &lost, &p);
	client_wait(&lost);
	p = params(&good, prompt_ids, 3);
	submit(&f, &good, &p);
	client_wait(&good);
	assert_int_equal(lost.f.reason, EX_FINISH_NO_RESOURCE);
	assert_int_equal(good.f.reason, EX_FINISH_LENGTH);
	assert_memory_equal(good.ids, want.ids, 20 * sizeof good.ids[0]);
	client_done(&want);
	client_done(&lost);
	client_done(&good);
	close_engine(&f);
}

static void test_refusals(void **state)
{
	struct fixture f;
	static struct client c;
	struct ex_err err = EX_ERR_INIT;
	struct ex_request *r;
	static uint32_t long_prompt[SMALL_MODEL_CTX + 10];
	const uint32_t beyond = SMALL_MODEL_VOCAB;
	const char *empty[] = {""};
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 8, .n_pages = 64, .tokenizer = true});
	client_init(&c);
	struct ex_request_params p = params(&c, long_prompt, SMALL_MODEL_CTX);
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -E2BIG);
	assert_string_equal(err.text, "the prompt has 96 tokens, the context 96, of which the answer needs one");
	p = params(&c, prompt_ids, 0);
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -EINVAL);
	p = params(&c, &beyond, 1);
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -EINVAL);
	p = params(&c, prompt_ids, 4);
	p.sampling.temperature = NAN;
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -EINVAL);
	p = params(&c, prompt_ids, 4);
	p.sampling.top_p = 0;
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -EINVAL);
	p = params(&c, prompt_ids, 4);
	p.top_logprobs = 3;
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -EINVAL);
	p = params(&c, prompt_ids, 4);
	p.stop = empty;
	p.n_stop = 1;
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -EINVAL);
	assert_true(ex_engine_drain(f.e, 0));
	p = params(&c, prompt_ids, 4);
	assert_int_equal(ex_engine_submit(f.e, &p, &err, &r), -ESHUTDOWN);
	client_done(&c);
	close_engine(&f);
}

/* The queue is bounded; what still runs when the engine goes ends as cancelled. */
static void test_queue_bound_and_stop(void **state)
{
	struct fixture f;
	static struct client c[8];
	struct ex_err err = EX_ERR_INIT;
	uint32_t n = 0;
	int rc = 0;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 1, .step_tokens = 8, .n_pages = 64, .queue_max = 2});
	for (; n < 8 && !rc; n++) {
		client_init(&c[n]);
		struct ex_request_params p = params(&c[n], prompt_ids, 8);
		p.max_tokens = 0;
		rc = ex_engine_submit(f.e, &p, &err, &c[n].r);
	}
	assert_int_equal(rc, -EAGAIN);
	assert_true(n >= 4); /* one has the place, two wait, one is refused, whatever the step thread has got to */
	close_engine(&f);
	for (uint32_t i = 0; i + 1 < n; i++) {
		assert_true(c[i].finished);
		assert_true(c[i].f.reason == EX_FINISH_CANCELLED || c[i].f.reason == EX_FINISH_LENGTH);
		client_done(&c[i]);
	}
	client_done(&c[n - 1]);
}

/* Without a queue as many are taken as have places, however fast they come; the next one is not. */
static void test_no_queue(void **state)
{
	struct fixture f;
	static struct client c[5];
	struct ex_err err = EX_ERR_INIT;
	(void)state;
	open_engine(&f, &(struct shape){.max_batch = 4, .step_tokens = 8, .n_pages = 96, .no_queue = true});
	for (uint32_t i = 0; i < 5; i++) {
		client_init(&c[i]);
		struct ex_request_params p = params(&c[i], prompt_ids, 8);
		p.max_tokens = 0;
		assert_int_equal(ex_engine_submit(f.e, &p, &err, &c[i].r), i < 4 ? 0 : -EAGAIN);
	}
	assert_string_equal(err.text, "4 requests are taken already: the batch holds 4, the queue holds 0");
	close_engine(&f);
	for (uint32_t i = 0; i < 5; i++)
		client_done(&c[i]);
}

/* max_tokens 0 goes to the end of the context; a pool smaller than the context bounds it further. */
static void test_context_end(void **state)
{
	struct fixture f;
	static struct client c;
	(void)state;
	for (uint32_t n_pages = 12; n_pages <= 24; n_pages += 12) {
		open_engine(&f, &(struct shape){.max_batch = 2, .step_tokens = 16, .n_pages = n_pages});
		client_init(&c);
		struct ex_request_params p = params(&c, prompt_ids, 9);
		p.max_tokens = 0;
		submit(&f, &c, &p);
		client_wait(&c);
		assert_int_equal(c.f.reason, EX_FINISH_LENGTH);
		assert_int_equal(c.n_ids, n_pages * SMALL_MODEL_PAGE - 9);
		client_done(&c);
		close_engine(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scheduling_does_not_change_text),
		cmocka_unit_test(test_seed_makes_the_text),
		cmocka_unit_test(test_logprobs_of_greedy),
		cmocka_unit_test(test_eos),
		cmocka_unit_test(test_stop_string),
		cmocka_unit_test(test_cancel_running_and_waiting),
		cmocka_unit_test(test_client_that_does_not_read),
		cmocka_unit_test(test_mask),
		cmocka_unit_test(test_lost_experts),
		cmocka_unit_test(test_engine_lives_on_after_lost_experts),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_queue_bound_and_stop),
		cmocka_unit_test(test_no_queue),
		cmocka_unit_test(test_context_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
