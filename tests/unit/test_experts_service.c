/* SPDX-License-Identifier: Apache-2.0 */
/* expert/service: the handshake, and Dispatch streams over a real connection. Registry and executor are played by this
 * file (its symbols come before the library's), so that work can be held back, refused or fail at will. */
#include "unit.h"

#include "base/macro.h"
#include "expert/service.h"
#include "expertd/plugin.h"
#include "net/client.h"
#include "net/frame.h"
#include "proto/expertd/experts.pb-c.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define D_MODEL   8
#define N_EXPERTS 16
#define DIGEST    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* --- the executor ------------------------------------------------------------------------------------------------ */

struct ex_executor {
	pthread_mutex_t lock;
	_Atomic bool hold;       /* keep work until release_work */
	_Atomic int refuse;      /* submit returns it */
	_Atomic uint32_t absent; /* this first_expert is not here */
	struct ex_work *held;
	_Atomic unsigned n_submitted, n_held;
};

/* y = weight * x for the one expert of each assignment; enough to see who got what. */
static void compute(struct ex_executor *e, struct ex_work *w)
{
	w->generation = 7;
	w->status = w->first_expert == e->absent ? -ENOENT : 0;
	memset(w->y, w->status ? 0xff : 0, w->n_rows * D_MODEL * sizeof(float));
	for (uint32_t a = 0; !w->status && a < w->offset[w->n_experts]; a++)
		for (uint32_t c = 0; c < D_MODEL; c++) {
			size_t from = (size_t)w->rows[w->token[a]] * D_MODEL + c;
			float x;
			if (w->x_dtype == EXPERTD_F32) {
				x = ((const float *)w->x)[from];
			} else {
				uint32_t bits = (uint32_t)((const uint16_t *)w->x)[from] << 16;
				memcpy(&x, &bits, sizeof x);
			}
			w->y[w->token[a] * D_MODEL + c] += w->weight[a] * x;
		}
	w->done(w);
}

int ex_executor_submit(struct ex_executor *e, struct ex_work *w)
{
	assert_int_equal((uintptr_t)w->x % 64, 0);
	pthread_mutex_lock(&e->lock);
	e->n_submitted++;
	bool hold = e->hold;
	int rc = e->refuse;
	if (!rc && hold) {
		w->next = e->held;
		e->held = w;
		e->n_held++;
	}
	pthread_mutex_unlock(&e->lock);
	if (!rc && !hold)
		compute(e, w);
	return rc;
}

static void release_work(struct ex_executor *e)
{
	pthread_mutex_lock(&e->lock);
	struct ex_work *w = e->held;
	e->held = NULL;
	e->hold = false;
	e->n_held = 0;
	pthread_mutex_unlock(&e->lock);
	while (w) {
		struct ex_work *next = w->next;
		compute(e, w);
		w = next;
	}
}

uint32_t ex_executor_queued_rows(const struct ex_executor *e)
{
	pthread_mutex_lock((pthread_mutex_t *)&e->lock);
	uint32_t n = 0;
	for (const struct ex_work *w = e->held; w; w = w->next)
		n += w->n_rows;
	pthread_mutex_unlock((pthread_mutex_t *)&e->lock);
	return n;
}

const char *ex_shard_state_name(enum ex_shard_state s)
{
	return s == EX_SHARD_READY ? "ready" : "failed";
}

static _Atomic uint64_t revision = 7;

uint64_t ex_registry_revision(const struct ex_registry *r)
{
	(void)r;
	return revision;
}

uint64_t ex_registry_epoch(const struct ex_registry *r)
{
	(void)r;
	return 0;
}

bool ex_registry_has_epoch(const struct ex_registry *r, uint64_t epoch)
{
	(void)r;
	return epoch == 0;
}

void ex_registry_each_of(
	struct ex_registry *r, uint64_t epoch, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx)
{
	(void)r, (void)epoch;
	fn(ctx, &(struct ex_shard_view){
			.id = {1, 0, 8}, .state = EX_SHARD_READY, .generation = 3, .bytes = 99, .plugin = "cpu 1.0"});
	fn(ctx, &(struct ex_shard_view){.id = {1, 8, 8}, .state = EX_SHARD_FAILED, .error = "no room"});
}

/* --- the pair ---------------------------------------------------------------------------------------------------- */

struct fixture {
	struct ex_executor executor;
	struct ex_experts_service *service;
	struct ex_loop *control, *data, *client;
	struct ex_server *server;
	struct ex_channel *channel;
	struct ex_stream *stream;
	/* what came back */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic unsigned n_replies;
	struct ex_msg *replies[64];
	bool closed;
	int status;
	char text[256];
};

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct fixture *f = ctx;
	(void)s;
	pthread_mutex_lock(&f->lock);
	assert_true(f->n_replies < EX_ARRAY_LEN(f->replies));
	f->replies[f->n_replies++] = m;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct fixture *f = ctx;
	(void)s;
	pthread_mutex_lock(&f->lock);
	f->closed = true;
	f->status = status;
	snprintf(f->text, sizeof f->text, "%s", text);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static void wait_closed(struct fixture *f)
{
	pthread_mutex_lock(&f->lock);
	while (!f->closed)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

static void start(struct fixture *f, uint64_t reply_bytes_max, uint64_t in_flight_bytes_max)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	struct ex_err err = EX_ERR_INIT;
	struct ex_experts_service_opts o = {
		.executor = &f->executor,
		.node = "h1",
		.version = "0.1.0",
		.model_digest = DIGEST,
		.d_model = D_MODEL,
		.n_experts = N_EXPERTS,
		.n_groups = 2,
		.reply_bytes_max = reply_bytes_max,
		.in_flight_bytes_max = in_flight_bytes_max,
	};
	EXPECT_OK(err, ex_experts_service_new(&o, &f->service));
	struct ex_loop *loops[] = {f->data, f->control};
	struct ex_server_opts so = {.listen = "127.0.0.1:0",
		.loops = loops,
		.n_loops = 2,
		.methods = ex_experts_service_methods(f->service, 1, 0)};
	EXPECT_OK(err, ex_server_start(&so, &err, &f->server));
	char target[64];
	snprintf(target, sizeof target, "127.0.0.1:%d", ex_server_port(f->server));
	struct ex_channel_opts co = {.target = target, .loop = f->client};
	EXPECT_OK(err, ex_channel_new(&co, &err, &f->channel));
	EXPECT_OK(err,
		ex_stream_open(f->channel, "/expertd.v1.Experts/Dispatch", 20000, true, &ops, f, &err, &f->stream));
}

static int setup_bare(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct ex_err err = EX_ERR_INIT;
	pthread_mutex_init(&f->lock, NULL);
	pthread_mutex_init(&f->executor.lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->executor.absent = UINT32_MAX;
	EXPECT_OK(err, ex_loop_new("control", &err, &f->control));
	EXPECT_OK(err, ex_loop_new("data", &err, &f->data));
	EXPECT_OK(err, ex_loop_new("client", &err, &f->client));
	*state = f;
	return 0;
}

static int setup(void **state)
{
	setup_bare(state);
	start(*state, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	ex_stream_drop(f->stream);
	ex_channel_free(f->channel);
	ex_server_stop(f->server, 0);
	assert_int_equal(ex_experts_service_in_flight(f->service), 0);
	ex_experts_service_free(f->service);
	ex_loop_free(f->control);
	ex_loop_free(f->data);
	ex_loop_free(f->client);
	for (unsigned i = 0; i < f->n_replies; i++)
		ex_msg_free(f->replies[i]);
	free(f);
	return 0;
}

/* --- frames ------------------------------------------------------------------------------------------------------ */

/* Three rows of x, three shards of one expert each that take rows {0,1,2}, {1}, {0,2} with weights 1, 10, 100. */
static uint32_t all[] = {0, 1, 2}, one[] = {1}, two[] = {0, 2}, offset3[] = {0, 3}, offset1[] = {0, 1},
		offset2[] = {0, 2};
static float weights1[] = {1, 1, 1}, weights10[] = {10}, weights100[] = {100, 100};
static struct ex_frame_shard shards[] = {
	{.first_expert = 0,
		.n_experts = 1,
		.n_rows = 3,
		.n_assignments = 3,
		.rows = all,
		.offset = offset3,
		.token = all,
		.weight = weights1},
	{.first_expert = 4,
		.n_experts = 1,
		.n_rows = 1,
		.n_assignments = 1,
		.rows = one,
		.offset = offset1,
		.token = all,
		.weight = weights10},
	{.first_expert = 9,
		.n_experts = 1,
		.n_rows = 2,
		.n_assignments = 2,
		.rows = two,
		.offset = offset2,
		.token = all,
		.weight = weights100},
};

static void send_frame(struct fixture *f, uint64_t id, uint32_t dtype)
{
	static float x[3 * D_MODEL];
	static uint16_t x16[3 * D_MODEL];
	for (int i = 0; i < 3 * D_MODEL; i++) {
		x[i] = (float)i;
		uint32_t bits;
		memcpy(&bits, &x[i], sizeof bits);
		x16[i] = (uint16_t)(bits >> 16); /* exact for small integers */
	}
	struct ex_frame_request q = {.id = id,
		.sent_ns = id * 10,
		.layer = 1,
		.x_dtype = dtype,
		.n_rows = 3,
		.d_model = D_MODEL,
		.n_shards = 3,
		.shards = shards};
	bool f32 = dtype == EXPERTD_F32;
	assert_int_equal(ex_stream_send(f->stream, ex_frame_request_pack(&q, f32 ? (void *)x : x16,
							   f32 ? sizeof x : sizeof x16, NULL, NULL)),
		0);
}

static void send_heartbeat(struct fixture *f, uint64_t sent_ns)
{
	struct ex_frame_request q = {.sent_ns = sent_ns};
	assert_int_equal(ex_stream_send(f->stream, ex_frame_request_pack(&q, NULL, 0, NULL, NULL)), 0);
}

/* The i-th reply, parsed. */
static struct ex_frame_reply wait_reply(struct fixture *f, unsigned i)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_frame_reply r;
	pthread_mutex_lock(&f->lock);
	while (f->n_replies <= i && !f->closed)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
	if (f->n_replies <= i)
		fail_msg("stream closed: %d %s", f->status, f->text);
	EXPECT_OK(err, ex_frame_reply_parse(f->replies[i], D_MODEL, &err, &r));
	return r;
}

/* y row `row` is factor * x row `x_row`. */
static void expect_row(const float *y, size_t row, float factor, size_t x_row)
{
	for (size_t c = 0; c < D_MODEL; c++)
		assert_true(y[row * D_MODEL + c] == factor * (float)(x_row * D_MODEL + c));
}

static void test_dispatch(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < 20; i++) { /* blocks are recycled from the second on */
		uint64_t id = 100 + i;
		send_frame(f, id, i % 2 ? EXPERTD_BF16 : EXPERTD_F32);
		struct ex_frame_reply r = wait_reply(f, i);
		float y[6 * D_MODEL];
		assert_int_equal(r.id, id);
		assert_int_equal(r.sent_ns, id * 10);
		assert_int_equal(r.status, 0);
		assert_int_equal(r.n_shards, 3);
		assert_int_equal(r.shards[1].first_expert, 4);
		assert_int_equal(r.shards[1].generation, 7);
		assert_int_equal(r.y_bytes, sizeof y);
		ex_pieces_copy(r.y, r.n_y, y);
		for (size_t k = 0; k < 3; k++)
			expect_row(y, k, 1, k);
		expect_row(y, 3, 10, 1);
		expect_row(y, 4, 100, 0);
		expect_row(y, 5, 100, 2);
		ex_frame_reply_done(&r);
	}
}

/* A shard that fails is an error of that shard alone, and leaves no hole in y. */
static void test_one_shard_fails(void **state)
{
	struct fixture *f = *state;
	f->executor.absent = 4;
	send_frame(f, 1, EXPERTD_F32);
	struct ex_frame_reply r = wait_reply(f, 0);
	float y[5 * D_MODEL];
	assert_int_equal(r.status, 0);
	assert_int_equal(r.shards[0].status, 0);
	assert_int_equal(r.shards[1].status, -ENOENT);
	assert_string_equal(r.shards[1].error, "the shard is not on this host");
	assert_int_equal(r.shards[2].status, 0);
	assert_int_equal(r.y_bytes, sizeof y);
	ex_pieces_copy(r.y, r.n_y, y);
	expect_row(y, 2, 1, 2);
	expect_row(y, 3, 100, 0);
	expect_row(y, 4, 100, 2);
	ex_frame_reply_done(&r);
}

static void test_queue_full(void **state)
{
	struct fixture *f = *state;
	f->executor.refuse = -EAGAIN;
	send_frame(f, 1, EXPERTD_F32);
	struct ex_frame_reply r = wait_reply(f, 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(r.shards[i].status, -EAGAIN);
		assert_string_equal(r.shards[i].error, "the queue is full");
	}
	assert_int_equal(r.y_bytes, 0);
	ex_frame_reply_done(&r);
}

/* Heartbeats are answered while every worker is busy, and tell how much waits. */
static void test_heartbeat_while_busy(void **state)
{
	struct fixture *f = *state;
	f->executor.hold = true;
	send_frame(f, 1, EXPERTD_F32);
	send_heartbeat(f, 4242);
	struct ex_frame_reply r = wait_reply(f, 0);
	assert_int_equal(r.id, 0);
	assert_int_equal(r.sent_ns, 4242);
	assert_int_equal(r.queued, 6);
	assert_int_equal(r.n_shards, 0);
	ex_frame_reply_done(&r);
	assert_int_equal(ex_experts_service_in_flight(f->service), 1);
	release_work(&f->executor);
	r = wait_reply(f, 1);
	assert_int_equal(r.id, 1);
	ex_frame_reply_done(&r);
}

static void test_wrong_epoch(void **state)
{
	struct fixture *f = *state;
	struct ex_frame_request q = {
		.id = 5, .epoch = 3, .x_dtype = 1, .n_rows = 3, .d_model = D_MODEL, .n_shards = 3, .shards = shards};
	static const float x[3 * D_MODEL];
	ex_stream_send(f->stream, ex_frame_request_pack(&q, x, sizeof x, NULL, NULL));
	struct ex_frame_reply r = wait_reply(f, 0);
	assert_int_equal(r.id, 5);
	assert_int_equal(r.status, -ESTALE);
	assert_string_equal(r.error, "epoch 3 is not here; epoch 0 is");
	ex_frame_reply_done(&r);
}

static void test_bad_frame_ends_the_stream(void **state)
{
	struct fixture *f = *state;
	struct ex_frame_request q = {
		.id = 5, .x_dtype = 1, .n_rows = 2, .d_model = D_MODEL, .n_shards = 3, .shards = shards};
	static const float x[2 * D_MODEL];
	ex_stream_send(f->stream, ex_frame_request_pack(&q, x, sizeof x, NULL, NULL));
	wait_closed(f);
	assert_int_equal(f->status, EX_STATUS_INVALID_ARGUMENT);
	assert_string_equal(f->text, "shards[0].rows has 3 entries; the frame has 2 rows");
	assert_int_equal(f->executor.n_submitted, 0);
}

/* What no frame of this model can be is not even buffered. */
static void test_frame_beyond_the_model(void **state)
{
	struct fixture *f = *state;
	struct ex_frame_request q = {
		.id = 5, .x_dtype = 1, .n_rows = 3, .d_model = D_MODEL, .n_shards = 3, .shards = shards};
	static const uint8_t x[24u << 20];
	ex_stream_send(f->stream, ex_frame_request_pack(&q, x, sizeof x, NULL, NULL));
	wait_closed(f);
	assert_int_equal(f->status, EX_STATUS_RESOURCE_EXHAUSTED);
}

/* The router goes while its frames are computed: the work ends by itself, in nobody's arms (a sanitizer sees what
 * leaks). */
static void test_stream_dies_mid_work(void **state)
{
	struct fixture *f = *state;
	f->executor.hold = true;
	for (uint64_t i = 1; i <= 5; i++)
		send_frame(f, i, EXPERTD_F32);
	send_heartbeat(f, 1);
	struct ex_frame_reply r = wait_reply(f, 0); /* all five are with the executor */
	ex_frame_reply_done(&r);
	assert_int_equal(f->executor.n_held, 15);
	ex_stream_cancel(f->stream);
	wait_closed(f);
	f->server = ex_server_stop(f->server, 0); /* the call is over on the host's side, too */
	assert_int_equal(ex_experts_service_in_flight(f->service), 5);
	release_work(&f->executor);
	assert_int_equal(ex_experts_service_in_flight(f->service), 0);
	assert_int_equal(f->n_replies, 1);
}

/* A half-closed stream gets what it is owed, then OK. */
static void test_half_close(void **state)
{
	struct fixture *f = *state;
	f->executor.hold = true;
	send_frame(f, 1, EXPERTD_F32);
	send_heartbeat(f, 1);
	struct ex_frame_reply r = wait_reply(f, 0);
	ex_frame_reply_done(&r);
	ex_stream_close_send(f->stream);
	release_work(&f->executor);
	wait_closed(f);
	assert_int_equal(f->status, EX_STATUS_OK);
	assert_int_equal(f->n_replies, 2);
}

/* --- bounds ------------------------------------------------------------------------------------------------------ */

#define FRAME_IN_FLIGHT ((20u << 10) + 512 + (3 + 6) * D_MODEL * 4) /* the job, its head, x and y of send_frame's */

static unsigned n_submitted(struct fixture *f)
{
	pthread_mutex_lock(&f->executor.lock);
	unsigned n = f->executor.n_submitted;
	pthread_mutex_unlock(&f->executor.lock);
	return n;
}

/* With two frames' worth allowed, the third is taken and no more; the rest comes when there is room. */
static void test_in_flight_is_bounded(void **state)
{
	struct fixture *f = *state;
	start(f, 0, 2 * FRAME_IN_FLIGHT);
	f->executor.hold = true;
	for (uint64_t i = 1; i <= 10; i++)
		send_frame(f, i, EXPERTD_F32);
	while (n_submitted(f) < 9)
		usleep(1000);
	usleep(20000); /* time for a fourth frame to come, if it could */
	assert_int_equal(n_submitted(f), 9);
	assert_int_equal(ex_experts_service_in_flight(f->service), 3);
	release_work(&f->executor);
	for (unsigned i = 0; i < 10; i++) {
		struct ex_frame_reply r = wait_reply(f, i);
		assert_int_equal(r.status, 0);
		ex_frame_reply_done(&r);
	}
}

/* A frame larger than all that is allowed is computed, and heartbeats behind it are answered meanwhile. */
static void test_heartbeat_behind_a_huge_frame(void **state)
{
	struct fixture *f = *state;
	start(f, 0, FRAME_IN_FLIGHT / 2);
	f->executor.hold = true;
	send_frame(f, 1, EXPERTD_F32);
	send_heartbeat(f, 4242);
	struct ex_frame_reply r = wait_reply(f, 0);
	assert_int_equal(r.id, 0);
	assert_int_equal(r.sent_ns, 4242);
	ex_frame_reply_done(&r);
	send_frame(f, 2, EXPERTD_F32);
	send_frame(f, 3, EXPERTD_F32);
	while (n_submitted(f) < 6)
		usleep(1000);
	usleep(20000); /* time for the third frame to come, if it could */
	assert_int_equal(n_submitted(f), 6);
	release_work(&f->executor);
	for (unsigned i = 1; i < 4; i++) {
		r = wait_reply(f, i);
		assert_int_equal(r.status, 0);
		ex_frame_reply_done(&r);
	}
}

static void block_loop(void *ctx)
{
	sem_wait(ctx);
}

/* Replies to a router that does not read pile up to the bound, then the stream is ended. */
static void test_router_that_does_not_read(void **state)
{
	struct fixture *f = *state;
	static uint8_t x[EX_FRAME_ROWS_MAX * D_MODEL * 4];
	static uint32_t rows[EX_FRAME_ROWS_MAX], none[2];
	sem_t block;
	sem_init(&block, 0, 0);
	start(f, 1 << 20, 0);
	f->executor.hold = true;
	for (uint32_t i = 0; i < EX_FRAME_ROWS_MAX; i++)
		rows[i] = i;
	struct ex_frame_shard s = {.n_experts = 1, .n_rows = EX_FRAME_ROWS_MAX, .rows = rows, .offset = none};
	struct ex_frame_request q = {
		.x_dtype = 1, .n_rows = EX_FRAME_ROWS_MAX, .d_model = D_MODEL, .n_shards = 1, .shards = &s};
	for (q.id = 1; q.id <= 60; q.id++) /* replies of 256 KiB */
		ex_stream_send(f->stream, ex_frame_request_pack(&q, x, sizeof x, NULL, NULL));
	while (n_submitted(f) < 60)
		usleep(1000);
	ex_loop_post(f->client, block_loop, &block); /* the router's thread hangs */
	release_work(&f->executor);
	while (ex_experts_service_in_flight(f->service))
		usleep(1000);
	sem_post(&block);
	wait_closed(f);
	assert_int_equal(f->status, EX_STATUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(f->text, "at most 1048576 may: the router does not read"));
	assert_in_range(f->n_replies, 0, 50);
	sem_destroy(&block);
}

/* --- Hello ------------------------------------------------------------------------------------------------------- */

static int say_hello(
	struct fixture *f, uint32_t wire, const char *digest, uint32_t groups, struct ex_err *err, struct ex_msg **ret)
{
	Expertd__V1__HelloRequest q = EXPERTD__V1__HELLO_REQUEST__INIT;
	q.node = (char *)"r1";
	q.version = (char *)"0.0.9";
	q.wire = wire;
	q.model_digest = (char *)digest;
	q.expert_groups = groups;
	*err = EX_ERR_INIT;
	return ex_unary(f->channel, "/expertd.v1.Experts/Hello", &q.base, 20000, err, ret);
}

static void test_hello(void **state)
{
	struct fixture *f = *state;
	struct ex_err err;
	struct ex_msg *m;
	EXPECT_OK(err, say_hello(f, EX_WIRE_VERSION, DIGEST, 2, &err, &m));
	Expertd__V1__HelloReply *r = (Expertd__V1__HelloReply *)ex_msg_unpack(m, &expertd__v1__hello_reply__descriptor);
	ex_msg_free(m);
	assert_string_equal(r->node, "h1");
	assert_string_equal(r->model_digest, DIGEST);
	assert_int_equal(r->wire, EX_WIRE_VERSION);
	assert_int_equal(r->n_shards, 2);
	assert_string_equal(r->shards[0]->state, "ready");
	assert_string_equal(r->shards[0]->plugin, "cpu 1.0");
	assert_int_equal(r->shards[0]->generation, 3);
	assert_int_equal(r->shards[1]->first_expert, 8);
	assert_string_equal(r->shards[1]->state, "failed");
	assert_string_equal(r->shards[1]->error, "no room");
	expertd__v1__hello_reply__free_unpacked(r, NULL);
}

static void test_hello_refuses(void **state)
{
	struct fixture *f = *state;
	struct ex_err err;
	struct ex_msg *m;
	assert_int_equal(say_hello(f, 2, DIGEST, 2, &err, &m), -EPROTO);
	assert_string_equal(err.text, "FAILED_PRECONDITION: wire version 2 of router 'r1' (expertd 0.0.9); this host "
				      "speaks 1 (expertd 0.1.0)");
	assert_int_equal(say_hello(f, 1, "beef", 2, &err, &m), -EPROTO);
	assert_string_equal(err.text, "FAILED_PRECONDITION: model beef of router 'r1'; this host holds model " DIGEST);
	assert_int_equal(say_hello(f, 1, DIGEST, 4, &err, &m), -EPROTO);
	assert_string_equal(err.text, "FAILED_PRECONDITION: expert_groups 4 of router 'r1'; this host has 2");
}

static int group_setup(void **state)
{
	(void)state;
	ex_net_init();
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	ex_net_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_dispatch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shard_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_queue_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_heartbeat_while_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_epoch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_frame_ends_the_stream, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stream_dies_mid_work, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_close, setup, teardown),
		cmocka_unit_test_setup_teardown(test_frame_beyond_the_model, setup, teardown),
		cmocka_unit_test_setup_teardown(test_in_flight_is_bounded, setup_bare, teardown),
		cmocka_unit_test_setup_teardown(test_heartbeat_behind_a_huge_frame, setup_bare, teardown),
		cmocka_unit_test_setup_teardown(test_router_that_does_not_read, setup_bare, teardown),
		cmocka_unit_test_setup_teardown(test_hello, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hello_refuses, setup, teardown),
	};
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
