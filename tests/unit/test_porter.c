/* SPDX-License-Identifier: Apache-2.0 */
/* engine/porter against a host of a few lines that refuses, fails, lies and falls over: each is told apart. */
#include "unit.h"

#include "base/clock.h"
#include "engine/porter.h"
#include "expertd/experts.pb-c.h"
#include "net/server.h"
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum mode {
	GOOD,
	REFUSES,   /* the claim */
	FAILS,     /* moves, for want of memory */
	LIES,      /* a status that is neither 0 nor -errno */
	CONFUSED,  /* answers another move than was asked for */
	FALLS,     /* ends the stream in a move */
	LAST_WORD, /* does the move, and ends the stream */
	BABBLES,   /* sends what is no MoveReply */
};

struct fixture {
	_Atomic int mode;
	_Atomic unsigned n_claims, n_moves, n_changes;
	char router[64];
	struct ex_loop *loop, *client;
	struct ex_server *server;
	struct ex_method methods[2];
	char address[32];
	struct ex_porter *porter;
};

static const struct ex_place_move a_move = {
	.host = "h1", .shard = {.layer = 3, .first_expert = 4, .n_experts = 2}, .load = true};

/* --- the host -------------------------------------------------------------------------------------------- */

static void reply(struct ex_rpc *rpc, uint64_t id, int status)
{
	Expertd__V1__MoveReply r = EXPERTD__V1__MOVE_REPLY__INIT;
	r.id = id;
	r.status = status;
	r.step = (char *)"memory";
	r.text = (char *)"no room";
	ex_rpc_send(rpc, ex_out_pack(&r.base));
}

static void claim(struct fixture *f, struct ex_rpc *rpc, const Expertd__V1__MoveRequest *q)
{
	snprintf(f->router, sizeof f->router, "%s", q->router);
	f->n_claims++; /* whoever has seen it may read the name */
	if (f->mode == REFUSES)
		ex_rpc_finish(rpc, EX_STATUS_FAILED_PRECONDITION, "router r9 moves shards here");
	else
		reply(rpc, 0, 0);
}

static void move(struct fixture *f, struct ex_rpc *rpc, const Expertd__V1__MoveRequest *q)
{
	Expertd__V1__HelloRequest noise = EXPERTD__V1__HELLO_REQUEST__INIT;
	int mode = f->mode;
	noise.node = (char *)"a text where a number belongs";
	assert_true(q->layer == 3 && q->first_expert == 4 && q->n_experts == 2 && q->load);
	f->n_moves++;
	if (mode == BABBLES)
		ex_rpc_send(rpc, ex_out_pack(&noise.base));
	else if (mode != FALLS)
		reply(rpc, q->id + (mode == CONFUSED), mode == FAILS ? -ENOMEM : mode == LIES ? 7 : 0);
	if (mode == FALLS || mode == LAST_WORD)
		ex_rpc_finish(rpc, EX_STATUS_INTERNAL, "the host falls over");
}

static void on_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	Expertd__V1__MoveRequest *q =
		(Expertd__V1__MoveRequest *)ex_msg_unpack(m, &expertd__v1__move_request__descriptor);
	ex_msg_free(m);
	assert_non_null(q);
	(q->id ? move : claim)(ctx, rpc, q);
	expertd__v1__move_request__free_unpacked(q, NULL);
}

static void on_half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void on_changed(void *ctx)
{
	struct fixture *f = ctx;
	f->n_changes++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct ex_err err = EX_ERR_INIT;
	ex_net_init();
	EXPECT_OK(err, ex_loop_new("host", &err, &f->loop));
	EXPECT_OK(err, ex_loop_new("client", &err, &f->client));
	f->methods[0] = (struct ex_method){
		.path = "/expertd.v1.Experts/Move", .message = on_message, .half_close = on_half_close, .ctx = f};
	const struct ex_server_opts so = {
		.listen = "127.0.0.1:0", .loops = &f->loop, .n_loops = 1, .methods = f->methods};
	EXPECT_OK(err, ex_server_start(&so, &err, &f->server));
	snprintf(f->address, sizeof f->address, "127.0.0.1:%d", ex_server_port(f->server));
	const struct ex_porter_opts po = {
		.loop = f->client, .node = "r1", .model_digest = "d", .n_groups = 2, .changed = on_changed, .ctx = f};
	assert_int_equal(ex_porter_new(&po, &f->porter), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	ex_porter_free(f->porter);
	ex_server_stop(f->server, 0);
	ex_loop_free(f->client);
	ex_loop_free(f->loop);
	ex_net_done();
	free(f);
	return 0;
}

/* The claim's end: 0, or the first error. */
static int wait_claim(struct fixture *f, struct ex_err *err)
{
	int rc;
	while ((rc = ex_porter_claim(f->porter, "h1", f->address, err)) == -EAGAIN)
		usleep(1000);
	return rc;
}

static int wait_answer(struct fixture *f, struct ex_err *err)
{
	int rc;
	while ((rc = ex_porter_answer(f->porter, &a_move, err)) == -EINPROGRESS)
		usleep(1000);
	return rc;
}

/* One move of a host in that mode. */
static int try_move(struct fixture *f, enum mode mode, struct ex_err *err)
{
	*err = EX_ERR_INIT;
	f->mode = GOOD;
	assert_int_equal(wait_claim(f, err), 0);
	f->mode = mode;
	EXPECT_OK(*err, ex_porter_send(f->porter, &a_move, err));
	return wait_answer(f, err);
}

static void test_moves(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	assert_int_equal(ex_porter_send(f->porter, &a_move, &err), -ENOTCONN);
	assert_int_equal(ex_porter_answer(f->porter, &a_move, &err), -ENOTCONN);
	assert_int_equal(try_move(f, GOOD, &err), 0);
	assert_int_equal(f->n_claims, 1);
	assert_string_equal(f->router, "r1");
	assert_int_equal(try_move(f, FAILS, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "memory: no room"));
	assert_int_equal(try_move(f, LIES, &err), -EPROTO);
	assert_int_equal(try_move(f, GOOD, &err), 0); /* on the same stream still */
	assert_true(f->n_claims == 1 && f->n_moves == 4 && f->n_changes >= 5);
	ex_porter_drop(f->porter, "h1");
	assert_int_equal(ex_porter_send(f->porter, &a_move, &err), -ENOTCONN);
	assert_int_equal(try_move(f, GOOD, &err), 0);
	assert_int_equal(f->n_claims, 2);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	f->mode = REFUSES;
	assert_int_equal(wait_claim(f, &err), -EPROTO);
	assert_non_null(strstr(err.text, "host h1: router r9 moves shards here"));
	f->mode = GOOD;
	assert_int_equal(wait_claim(f, &err), 0); /* the next call tries again */
}

static void test_ends(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	static const enum mode ends[] = {FALLS, BABBLES};
	for (size_t i = 0; i < EX_ARRAY_LEN(ends); i++) {
		assert_int_equal(try_move(f, ends[i], &err), -ENOTCONN);
		assert_true(wait_claim(f, &err) < 0); /* it was lost, and is told once */
	}
	assert_int_equal(try_move(f, LAST_WORD, &err), 0);
	usleep(20000);
	assert_int_equal(wait_answer(f, &err), 0); /* the end of the stream takes nothing back */
	while (ex_porter_claim(f->porter, "h1", f->address, &err) == 0)
		usleep(1000);
	assert_int_equal(try_move(f, GOOD, &err), 0);
}

/* An answer to a move of the past is none to this one. */
static void test_confused(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	assert_int_equal(wait_claim(f, &err), 0);
	f->mode = CONFUSED;
	EXPECT_OK(err, ex_porter_send(f->porter, &a_move, &err));
	while (f->n_changes < 2)
		usleep(1000);
	assert_int_equal(ex_porter_answer(f->porter, &a_move, &err), -EINPROGRESS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_moves, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_confused, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
