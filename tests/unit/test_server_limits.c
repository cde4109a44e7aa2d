/* SPDX-License-Identifier: Apache-2.0 */
/* net/server at its limits: connections, bytes received. Each bound is reached by some clients, and others are served beside them. */
#include "server_pair.h"

#include "proto/grpc/health/v1/health.pb-c.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* --- connections ------------------------------------------------------------------------------------------------- */

static struct ex_stream *open_on(struct ex_channel *c, const char *path, struct heard *h)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_stream *s;
	EXPECT_OK(err, ex_stream_open(c, path, 20000, true, &heard_ops, h, &err, &s));
	return s;
}

static struct ex_channel *connect_again(struct fixture *f)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_channel *c;
	const struct ex_channel_opts o = {.target = f->address, .loop = f->client_loop};
	EXPECT_OK(err, ex_channel_new(&o, &err, &c));
	return c;
}

/* Three connections where two are allowed: the third is refused while the first two go on, and has a place once one of them ends its
 * calls. Fails when the third is served or the others hear of it. */
static void refuse_third(struct fixture *f)
{
	struct ex_channel *c[3] = {f->channel, connect_again(f), connect_again(f)};
	struct heard h[4] = {HEARD_INIT, HEARD_INIT, HEARD_INIT, HEARD_INIT}, more = HEARD_INIT;
	struct ex_stream *s[4];
	for (int i = 0; i < 3; i++) {
		s[i] = open_on(c[i], "/t.Test/Chat", &h[i]);
		ex_stream_send(s[i], pack_note("a"));
		if (i < 2)
			wait_messages(&h[i], 1);
	}
	wait_closed(&h[2]);
	assert_int_equal(h[2].status, EX_STATUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(h[2].text, "connections_max"));
	assert_int_equal(h[2].n_messages, 0);
	struct ex_stream *second = open_on(c[0], "/t.Test/Chat", &more); /* a further call of one that is in */
	ex_stream_send(second, pack_note("b"));
	wait_messages(&more, 1);
	ex_stream_send(s[1], pack_note("c"));
	wait_messages(&h[1], 2);
	ex_stream_close_send(s[1]);
	wait_closed(&h[1]);
	sem_wait(&f->done);
	ex_stream_drop(s[2]);
	/* `done` runs just before the place is free */
	do {
		h[3] = HEARD_INIT;
		s[3] = open_on(c[2], "/t.Test/Chat", &h[3]);
		ex_stream_close_send(s[3]);
		wait_closed(&h[3]);
		ex_stream_drop(s[3]);
	} while (h[3].status == EX_STATUS_RESOURCE_EXHAUSTED);
	assert_int_equal(h[3].status, EX_STATUS_OK);
	ex_stream_close_send(s[0]);
	ex_stream_close_send(second);
	wait_closed(&h[0]);
	wait_closed(&more);
	ex_stream_drop(s[0]);
	ex_stream_drop(s[1]);
	ex_stream_drop(second);
	ex_channel_free(c[1]);
	ex_channel_free(c[2]);
}

static void test_connections(void **state)
{
	struct fixture *f = *state;
	start_with(f, "127.0.0.1:0", &(struct ex_server_opts){.connections_max = 2});
	refuse_third(f);
}

static void test_connections_unix(void **state)
{
	struct fixture *f = *state;
	char listen[128];
	snprintf(listen, sizeof listen, "unix:%s/s", f->dir);
	start_with(f, listen, &(struct ex_server_opts){.connections_max = 2});
	refuse_third(f);
}

/* --- bytes received ---------------------------------------------------------------------------------------------- */

#define N_HOARDERS 32
#define HOARD      (3u << 20)

static struct ex_msg *hoard[2 * N_HOARDERS];
static _Atomic int n_hoarded;

static void hoard_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	(void)rpc, (void)ctx;
	if (n_hoarded == EX_ARRAY_LEN(hoard)) {
		ex_msg_free(m);
		return;
	}
	hoard[n_hoarded] = m;
	n_hoarded++;
}

static void hoard_half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void release_block(void *ctx)
{
	free(ctx);
}

static struct ex_out *pack_block(size_t n)
{
	Expertd__V1__DispatchReply r = EXPERTD__V1__DISPATCH_REPLY__INIT;
	uint8_t *block = calloc(1, n);
	return ex_out_pack_tensor(&r.base, 15, block, n, release_block, block);
}

/* 32 calls send 3 MiB each, which the service keeps, against a bound of 16 MiB: some end with RESOURCE_EXHAUSTED. Once the service has
 * let go, a new call is served. Fails when all 96 MiB are taken in. */
static void test_bytes_received(void **state)
{
	struct fixture *f = *state;
	struct ex_method methods[] = {
		{.path = "/t.Test/Hoard", .message = hoard_message, .half_close = hoard_half_close}, {.path = NULL}};
	start_with(f, "127.0.0.1:0", &(struct ex_server_opts){.methods = methods, .receive_bytes_max = 16 << 20});
	struct heard h[N_HOARDERS];
	struct ex_stream *s[N_HOARDERS];
	for (int i = 0; i < N_HOARDERS; i++) {
		h[i] = HEARD_INIT;
		s[i] = open_stream(f, "/t.Test/Hoard", &h[i]);
		ex_stream_send(s[i], pack_block(HOARD));
	}
	int n_refused = 0;
	for (int tries = 0; tries < 2000 && !n_refused && n_hoarded < N_HOARDERS; tries++) {
		usleep(10000);
		for (int i = 0; i < N_HOARDERS; i++) {
			pthread_mutex_lock(&h[i].lock);
			n_refused += h[i].closed && h[i].status == EX_STATUS_RESOURCE_EXHAUSTED;
			pthread_mutex_unlock(&h[i].lock);
		}
	}
	for (int i = 0; i < N_HOARDERS; i++)
		ex_stream_cancel(s[i]);
	for (int i = 0; i < N_HOARDERS; i++) {
		wait_closed(&h[i]);
		ex_stream_drop(s[i]);
	}
	assert_true(n_refused > 0);
	int n = n_hoarded; /* another may be on its way */
	for (int i = 0; i < n; i++)
		ex_msg_free(hoard[i]);
	struct heard last;
	int tries = 0;
	do { /* what the ended calls were sending goes away in its own time */
		last = HEARD_INIT;
		struct ex_stream *more = open_stream(f, "/t.Test/Hoard", &last);
		ex_stream_send(more, pack_note("x"));
		ex_stream_close_send(more);
		wait_closed(&last);
		ex_stream_drop(more);
		usleep(1000);
	} while (last.status != EX_STATUS_OK && ++tries < 5000);
	assert_int_equal(last.status, EX_STATUS_OK);
	f->channel = ex_channel_free(f->channel);
	f->server = ex_server_stop(f->server, 0);
	for (; n < n_hoarded; n++)
		ex_msg_free(hoard[n]);
}

/* --- clients that do not read ------------------------------------------------------------------------------------ */

#define N_STATES 40000 /* more than a call's flow control window holds */

/* Of many states a watcher that does not read them is sent the last one, and few of the others. Fails when all are queued. */
static void test_watch_unread(void **state)
{
	struct fixture *f = *state;
	sem_t block;
	struct heard h = HEARD_INIT;
	Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	sem_init(&block, 0, 0);
	h.block = &block;
	start(f, "127.0.0.1:0");
	struct ex_stream *s = open_stream(f, "/grpc.health.v1.Health/Watch", &h);
	ex_stream_send(s, ex_out_pack(&q.base));
	ex_stream_close_send(s);
	wait_messages(&h, 1);
	for (int i = 0; i < N_STATES; i++)
		ex_server_set_serving(f->server, i % 2);
	for (int i = 0; i < N_STATES + 2; i++)
		sem_post(&block);
	f->server = ex_server_stop(f->server, 20000); /* says NOT_SERVING after all that is queued */
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_UNAVAILABLE);
	assert_in_range(h.n_messages, 2, N_STATES / 2);
	ex_stream_drop(s);
	sem_destroy(&block);
}

#define PILE 512 /* blocks of 64 KiB: more than a transport takes in for a client that does not read */

static void pile_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	(void)ctx;
	ex_msg_free(m);
	for (int i = 0; i < PILE; i++)
		ex_rpc_send(rpc, pack_block(64 << 10));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void pile_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	struct fixture *f = ctx;
	(void)rpc;
	f->n_cancelled += cancelled;
	sem_post(&f->done);
}

/* A call that has finished does not wait for ever for its client to read; one that is read ends well. Fails by not ending, or when the one
 * that is read is cut. */
static void test_finished_unread(void **state)
{
	struct fixture *f = *state;
	struct ex_method methods[] = {
		{.path = "/t.Test/Pile", .message = pile_message, .done = pile_done, .ctx = f}, {.path = NULL}};
	start_with(f, "127.0.0.1:0", &(struct ex_server_opts){.methods = methods, .finish_ms = 2000});
	struct heard read = HEARD_INIT, unread = HEARD_INIT;
	sem_t block;
	sem_init(&block, 0, 0);
	unread.block = &block;
	struct ex_stream *s = open_stream(f, "/t.Test/Pile", &unread);
	ex_stream_send(s, pack_note("x"));
	ex_stream_close_send(s);
	sem_wait(&f->done); /* without a hand of the client */
	assert_int_equal(f->n_cancelled, 1);
	for (int i = 0; i < PILE; i++)
		sem_post(&block);
	wait_closed(&unread);
	assert_int_equal(unread.status, EX_STATUS_RESOURCE_EXHAUSTED);
	ex_stream_drop(s);
	sem_destroy(&block);
	s = open_stream(f, "/t.Test/Pile", &read);
	ex_stream_send(s, pack_note("x"));
	ex_stream_close_send(s);
	wait_closed(&read);
	assert_int_equal(read.status, EX_STATUS_OK);
	assert_int_equal(read.n_messages, PILE);
	ex_stream_drop(s);
	sem_wait(&f->done);
	assert_int_equal(f->n_cancelled, 1);
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
		cmocka_unit_test_setup_teardown(test_connections, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_connections_unix, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_bytes_received, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_watch_unread, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_finished_unread, setup_loops, teardown),
	};
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
