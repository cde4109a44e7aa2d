/* SPDX-License-Identifier: Apache-2.0 */
/* expert/moves: one router at a time has shards loaded and unloaded over a real connection; everybody else is told who does. */
#include "expert_setup.h"

#include "base/clock.h"
#include "base/lock.h"
#include "expert/moves.h"
#include "net/client.h"
#include "proto/expertd/experts.pb-c.h"
#include <sys/stat.h>

#define WAIT_NS    (20 * EX_NS_PER_S)
#define ANSWER_MAX 16

struct fixture {
	struct setup s;
	struct ex_plugin *plugin;
	struct ex_executor *executor;
	struct ex_published *published;
	struct ex_swapper *swapper;
	struct ex_moves *moves;
	struct ex_method methods[2];
	struct ex_loop *loop, *client;
	struct ex_server *server;
	struct ex_channel *channel;
	char state[32];
	_Atomic bool frozen;
};

/* A router's stream, and what came on it. */
struct router {
	struct ex_stream *stream;
	struct ex_lock lock;
	pthread_cond_t changed;
	struct {
		uint64_t id;
		int status;
		char step[16], text[256];
	} answer[ANSWER_MAX];
	size_t n;
	bool closed;
	int status;
	char text[256];
};

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct router *r = ctx;
	(void)s;
	Expertd__V1__MoveReply *p = (Expertd__V1__MoveReply *)ex_msg_unpack(m, &expertd__v1__move_reply__descriptor);
	ex_msg_free(m);
	assert_non_null(p);
	ex_lock_take(&r->lock);
	assert_true(r->n < ANSWER_MAX);
	r->answer[r->n].id = p->id;
	r->answer[r->n].status = p->status;
	snprintf(r->answer[r->n].step, sizeof r->answer[r->n].step, "%s", p->step);
	snprintf(r->answer[r->n].text, sizeof r->answer[r->n].text, "%s", p->text);
	r->n++;
	pthread_cond_broadcast(&r->changed);
	ex_lock_give(&r->lock);
	expertd__v1__move_reply__free_unpacked(p, NULL);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct router *r = ctx;
	(void)s;
	ex_lock_take(&r->lock);
	r->closed = true;
	r->status = status;
	snprintf(r->text, sizeof r->text, "%s", text);
	pthread_cond_broadcast(&r->changed);
	ex_lock_give(&r->lock);
}

static void open_router(struct fixture *f, struct router *r)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	struct ex_err err = EX_ERR_INIT;
	memset(r, 0, sizeof *r);
	ex_lock_init(&r->lock, "test");
	ex_cond_init(&r->changed);
	EXPECT_OK(err, ex_stream_open(f->channel, "/expertd.v1.Experts/Move", 0, true, &ops, r, &err, &r->stream));
}

static void close_router(struct router *r)
{
	ex_stream_cancel(r->stream);
	ex_lock_take(&r->lock);
	while (!r->closed)
		assert_true(ex_cond_wait_until(&r->changed, &r->lock, ex_now_ns() + WAIT_NS));
	ex_lock_give(&r->lock);
	ex_stream_drop(r->stream);
	pthread_cond_destroy(&r->changed);
	ex_lock_done(&r->lock);
}

static void send_claim(struct fixture *f, struct router *r, const char *name)
{
	Expertd__V1__MoveRequest q = EXPERTD__V1__MOVE_REQUEST__INIT;
	q.router = (char *)name;
	q.model_digest = (char *)ex_weights_digest(f->s.w);
	q.expert_groups = 2;
	assert_int_equal(ex_stream_send(r->stream, ex_out_pack(&q.base)), 0);
}

static void send_move(struct router *r, uint64_t id, uint32_t first_expert, bool load)
{
	Expertd__V1__MoveRequest q = EXPERTD__V1__MOVE_REQUEST__INIT;
	q.id = id;
	q.layer = 1;
	q.first_expert = first_expert;
	q.n_experts = 2;
	q.load = load;
	assert_int_equal(ex_stream_send(r->stream, ex_out_pack(&q.base)), 0);
}

/* The n-th answer has come, or the stream has ended: then false. */
static bool wait_answer(struct router *r, size_t n)
{
	ex_lock_take(&r->lock);
	while (r->n < n && !r->closed)
		assert_true(ex_cond_wait_until(&r->changed, &r->lock, ex_now_ns() + WAIT_NS));
	bool there = r->n >= n;
	ex_lock_give(&r->lock);
	return there;
}

static void expect_answer(struct router *r, size_t n, uint64_t id, int status)
{
	if (!wait_answer(r, n))
		fail_msg("stream closed: %d %s", r->status, r->text);
	if (r->answer[n - 1].id != id || r->answer[n - 1].status != status)
		fail_msg("answer %zu: id %llu, status %d at %s: %s", n, (unsigned long long)r->answer[n - 1].id,
			r->answer[n - 1].status, r->answer[n - 1].step, r->answer[n - 1].text);
}

static void expect_refused(struct router *r, size_t n, int status, const char *text)
{
	if (wait_answer(r, n + 1) || r->status != status || !strstr(r->text, text))
		fail_msg("ended with %d: %s", r->status, r->text);
}

static bool holds(struct fixture *f, uint32_t first_expert)
{
	struct ex_generation *g = ex_registry_pin(f->s.registry, 1, first_expert);
	ex_generation_unpin(g);
	return g != NULL;
}

/* --- the host -------------------------------------------------------------------------------------------- */

static void open_swapper(struct fixture *f)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_published_for pf = {
		.model_digest = ex_weights_digest(f->s.w), .base_sha256 = ex_plugin_sha256(f->plugin), .n_groups = 2};
	EXPECT_OK(err, ex_published_open(f->state, &pf, &err, &f->published));
	const struct ex_executor_opts eo = {.registry = f->s.registry,
		.d_model = SETUP_D_MODEL,
		.n_workers = 1,
		.batch_rows_max = 64,
		.queue_rows_max = 64};
	EXPECT_OK(err, ex_executor_new(&eo, &err, &f->executor));
	const struct ex_swapper_opts o = {
		.registry = f->s.registry,
		.executor = f->executor,
		.weights = f->s.w,
		.published = f->published,
		.plugin = f->plugin,
		.host = &f->s.host,
		.which = "0",
		.plugin_dir = "tests/unit/plugins/.libs/",
		.model = f->s.model,
		.shards = SETUP_SHARDS,
		.n_shards = 2,
		.configured = SETUP_SHARDS,
		.n_configured = 1,
		.deadline_s = 300,
	};
	EXPECT_OK(err, ex_swapper_new(&o, &err, &f->swapper));
}

static const char *say_model(void *ctx, char digest[static EX_DIGEST_HEX])
{
	struct fixture *f = ctx;
	memcpy(digest, ex_weights_digest(f->s.w), EX_DIGEST_HEX);
	return atomic_load(&f->frozen) ? "another model is on its way" : NULL;
}

static void open_host(struct fixture *f, bool accept)
{
	struct ex_err err = EX_ERR_INIT;
	*f = (struct fixture){.state = SCRATCH_DIR};
	make_dir(f->state);
	setup_init(&f->s);
	f->plugin = setup_plugin("example");
	EXPECT_OK(err, ex_registry_load(f->s.registry, &SETUP_SHARDS[0], f->plugin, &f->s.host, "0", f->s.w, &err));
	open_swapper(f);
	EXPECT_OK(err, ex_loop_new("host", &err, &f->loop));
	EXPECT_OK(err, ex_loop_new("client", &err, &f->client));
	const struct ex_moves_opts o = {
		.swapper = f->swapper,
		.registry = f->s.registry,
		.node = "h1",
		.n_experts = 4,
		.n_groups = 2,
		.accept = accept,
		.model = say_model,
		.ctx = f,
	};
	assert_int_equal(ex_moves_new(&o, &f->moves), 0);
	f->methods[0] = ex_moves_method(f->moves, 0);
	const struct ex_server_opts so = {
		.listen = "127.0.0.1:0", .loops = &f->loop, .n_loops = 1, .methods = f->methods};
	EXPECT_OK(err, ex_server_start(&so, &err, &f->server));
	char target[64];
	snprintf(target, sizeof target, "127.0.0.1:%d", ex_server_port(f->server));
	EXPECT_OK(
		err, ex_channel_new(&(struct ex_channel_opts){.target = target, .loop = f->client}, &err, &f->channel));
}

static void close_host(struct fixture *f)
{
	char path[PATH_MAX];
	ex_channel_free(f->channel);
	ex_server_stop(f->server, 0);
	ex_swapper_free(f->swapper);
	ex_moves_free(f->moves);
	ex_published_free(f->published);
	ex_executor_free(f->executor);
	ex_loop_free(f->client);
	ex_loop_free(f->loop);
	setup_done(&f->s);
	ex_plugin_unref(f->plugin);
	remove_dir(path_in(f->state, "plugins", path));
	remove_dir(f->state);
}

static void test_moves(void **state)
{
	(void)state;
	struct fixture f;
	struct router r;
	open_host(&f, true);
	open_router(&f, &r);
	send_claim(&f, &r, "r1");
	expect_answer(&r, 1, 0, 0);
	send_move(&r, 1, 2, true);
	expect_answer(&r, 2, 1, 0);
	assert_true(holds(&f, 2));
	send_move(&r, 2, 2, true); /* once more: it is so already */
	expect_answer(&r, 3, 2, 0);
	send_move(&r, 3, 0, false);
	expect_answer(&r, 4, 3, 0);
	assert_false(holds(&f, 0));
	assert_true(ex_published_find(f.published, &SETUP_SHARDS[0])->gone); /* a restart keeps it so */
	ex_moves_drain(f.moves);
	send_move(&r, 4, 0, true);
	expect_answer(&r, 5, 4, -ESHUTDOWN);
	assert_false(holds(&f, 0));
	close_router(&r);
	close_host(&f);
}

static void test_failed(void **state)
{
	(void)state;
	struct fixture f;
	struct router r;
	open_host(&f, true);
	char path[PATH_MAX];
	unlink(path_in(f.state, "published", path));
	assert_int_equal(mkdir(path, 0700), 0); /* what cannot be written down is not done */
	open_router(&f, &r);
	send_claim(&f, &r, "r1");
	expect_answer(&r, 1, 0, 0);
	send_move(&r, 7, 0, false);
	expect_answer(&r, 2, 7, -EIO);
	assert_string_equal(r.answer[1].step, "publish");
	assert_true(holds(&f, 0));
	close_router(&r);
	rmdir(path);
	close_host(&f);
}

/* While another model is on its way nothing is moved; who has the claim is known. */
static void test_frozen(void **state)
{
	(void)state;
	struct fixture f;
	struct router r;
	char name[EX_MOVES_ROUTER_MAX];
	open_host(&f, true);
	atomic_store(&f.frozen, true);
	open_router(&f, &r);
	send_claim(&f, &r, "r1");
	expect_refused(&r, 0, EX_STATUS_FAILED_PRECONDITION, "another model is on its way");
	assert_false(ex_moves_claimed(f.moves, name));
	close_router(&r);
	atomic_store(&f.frozen, false);
	open_router(&f, &r);
	send_claim(&f, &r, "r1");
	expect_answer(&r, 1, 0, 0);
	assert_true(ex_moves_claimed(f.moves, name));
	assert_string_equal(name, "r1");
	ex_swapper_freeze(f.swapper, "frozen meanwhile"); /* it has nothing to do and does not look */
	send_move(&r, 1, 2, true);
	expect_answer(&r, 2, 1, -EIO);
	assert_non_null(strstr(r.answer[1].text, "frozen meanwhile"));
	assert_false(holds(&f, 2));
	close_router(&r);
	close_host(&f);
}

/* A second router is told whose host it is, and has it when the first has gone; the first one takes over from itself. */
static void test_claims(void **state)
{
	(void)state;
	struct fixture f;
	struct router r1, r2, again;
	open_host(&f, true);
	open_router(&f, &r1);
	send_claim(&f, &r1, "r1");
	expect_answer(&r1, 1, 0, 0);
	open_router(&f, &r2);
	send_claim(&f, &r2, "r2");
	expect_refused(&r2, 0, EX_STATUS_FAILED_PRECONDITION, "router r1 moves shards here");
	close_router(&r2);
	open_router(&f, &again);
	send_claim(&f, &again, "r1");
	expect_answer(&again, 1, 0, 0);
	expect_refused(&r1, 1, EX_STATUS_ABORTED, "claimed the host anew");
	close_router(&r1);
	close_router(&again);
	for (bool good = false; !good;) { /* the host hears of the end a little later */
		open_router(&f, &r2);
		send_claim(&f, &r2, "r2");
		good = wait_answer(&r2, 1);
		if (!good)
			assert_non_null(strstr(r2.text, "router r1"));
		close_router(&r2);
	}
	close_host(&f);
}

static void test_refused(void **state)
{
	(void)state;
	struct fixture f;
	struct router r;
	Expertd__V1__MoveRequest q = EXPERTD__V1__MOVE_REQUEST__INIT;
	open_host(&f, true);
	open_router(&f, &r);
	send_move(&r, 1, 0, false); /* nobody said who it is */
	expect_refused(&r, 0, EX_STATUS_INVALID_ARGUMENT, "router's name");
	close_router(&r);
	open_router(&f, &r);
	q.router = (char *)"r1";
	q.model_digest = (char *)"another";
	q.expert_groups = 2;
	assert_int_equal(ex_stream_send(r.stream, ex_out_pack(&q.base)), 0);
	expect_refused(&r, 0, EX_STATUS_FAILED_PRECONDITION, "not another in 2");
	close_router(&r);
	for (uint32_t wrong = 1; wrong < 5; wrong += 2) {
		open_router(&f, &r);
		send_claim(&f, &r, "r1");
		expect_answer(&r, 1, 0, 0);
		send_move(&r, 1, wrong, false); /* 1 is in the middle of a shard, 3 too */
		expect_refused(&r, 1, EX_STATUS_INVALID_ARGUMENT, "are no shard of this fleet");
		close_router(&r);
	}
	assert_true(holds(&f, 0));
	close_host(&f);
	open_host(&f, false);
	open_router(&f, &r);
	send_claim(&f, &r, "r1");
	expect_refused(&r, 0, EX_STATUS_PERMISSION_DENIED, "accept_moves");
	close_router(&r);
	close_host(&f);
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
		cmocka_unit_test(test_moves),
		cmocka_unit_test(test_failed),
		cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, start_net, stop_net);
}
