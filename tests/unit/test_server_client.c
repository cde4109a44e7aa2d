/* SPDX-License-Identifier: Apache-2.0 */
/* net/server and net/client against each other: every kind of call, its limits and its ends. */
#include "server_pair.h"

#include "base/macro.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* --- unary ------------------------------------------------------------------------------------------------------- */

static void test_unary(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char back[64];
	for (int i = 0; i < 20; i++) {
		EXPECT_OK(err, call(f, "/t.Test/Echo", "hello", 20000, &err, back, sizeof back));
		assert_string_equal(back, "hello");
		sem_wait(&f->done);
	}
	assert_int_equal(f->n_cancelled, 0);
	assert_int_equal(strncmp(f->peer, "127.0.0.1:", 10), 0);
}

static void test_unknown_method(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char back[64];
	assert_int_equal(call(f, "/t.Test/Nope", "x", 20000, &err, back, sizeof back), -ENOSYS);
	assert_string_equal(err.text, "UNIMPLEMENTED: unknown method /t.Test/Nope");
}

static void test_refused_at_start(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char back[64];
	assert_int_equal(call(f, "/t.Test/Refused", "x", 20000, &err, back, sizeof back), -EACCES);
	assert_int_equal(call(f, "/t.Test/Echo", "x", 20000, &err, back, sizeof back), 0);
	sem_wait(&f->done);
	assert_int_equal(f->n_done, 1); /* Echo's: the refused call has no callbacks */
}

/* An answer from another thread. */
static void test_late_answer(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char back[64];
	EXPECT_OK(err, call(f, "/t.Test/Late", "x", 20000, &err, back, sizeof back));
	assert_string_equal(back, "late");
}

/* The deadline passes while the service is at work: both sides hear of it. On a slow machine it may pass before the call has
 * reached the server; then a longer one is tried. */
static void test_deadline(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	for (unsigned deadline_ms = 50; f->n_messages == 0; deadline_ms *= 2) {
		struct heard h = HEARD_INIT;
		struct ex_stream *s;
		EXPECT_OK(err, ex_stream_open(f->channel, "/t.Test/Slow", deadline_ms, true, &heard_ops, &h, &err, &s));
		ex_stream_send(s, pack_note("x"));
		wait_closed(&h);
		assert_int_equal(h.status, EX_STATUS_DEADLINE_EXCEEDED);
		ex_stream_drop(s);
	}
	sem_wait(&f->done);
	assert_int_equal(f->n_cancelled, f->n_done);
}

/* The client goes before the answer: the late answer finds a dead call and does no harm. */
static void test_answer_to_nobody(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Late", &h);
	ex_stream_send(s, pack_note("x"));
	sem_wait(&f->arrived);
	ex_stream_cancel(s);
	wait_closed(&h);
	assert_int_equal(h.n_messages, 0);
	sem_wait(&f->done);
	assert_int_equal(f->n_cancelled, 1);
	ex_stream_drop(s);
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

static void test_chat_and_half_close(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Chat", &h);
	for (int i = 0; i < 200; i++) {
		char text[16];
		snprintf(text, sizeof text, "m%d", i);
		assert_int_equal(ex_stream_send(s, pack_note(text)), 0);
	}
	ex_stream_close_send(s);
	assert_int_equal(ex_stream_send(s, pack_note("too late")), -EPIPE);
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_OK);
	assert_string_equal(h.text, "bye");
	assert_int_equal(h.n_messages, 200); /* all of them, before `closed` */
	assert_string_equal(h.last, "m199");
	assert_int_equal(ex_stream_queued_bytes(s), 0);
	ex_stream_drop(s);
	sem_wait(&f->done);
	assert_int_equal(f->n_cancelled, 0);
}

static void test_client_cancels(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Chat", &h);
	ex_stream_send(s, pack_note("a"));
	wait_messages(&h, 1);
	ex_stream_cancel(s);
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_CANCELLED);
	assert_int_equal(ex_stream_send(s, pack_note("b")), -EPIPE);
	ex_stream_cancel(s); /* of a closed one: nothing */
	ex_stream_drop(s);
	sem_wait(&f->done);
	assert_int_equal(f->n_cancelled, 1);
}

static void test_message_too_long_for_the_method(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	char text[1100];
	memset(text, 'a', sizeof text);
	text[sizeof text - 1] = '\0';
	struct ex_stream *s = open_stream(f, "/t.Test/Chat", &h);
	ex_stream_send(s, pack_note(text));
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_RESOURCE_EXHAUSTED);
	assert_string_equal(h.text, "message of 1102 bytes; /t.Test/Chat takes at most 1000");
	assert_int_equal(f->n_messages, 0);
	ex_stream_drop(s);
}

static void test_one_request_is_one(void **state)
{
	struct fixture *f = *state;
	struct heard none = HEARD_INIT, two = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Echo", &none);
	ex_stream_close_send(s);
	wait_closed(&none);
	assert_int_equal(none.status, EX_STATUS_INVALID_ARGUMENT);
	ex_stream_drop(s);
	s = open_stream(f, "/t.Test/Late", &two);
	ex_stream_send(s, pack_note("1"));
	ex_stream_send(s, pack_note("2"));
	wait_closed(&two);
	assert_int_equal(two.status, EX_STATUS_INVALID_ARGUMENT);
	ex_stream_drop(s);
}

/* A paused call delivers nothing more; after resume, the next message. */
static void test_pause_and_resume(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT, other = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Slow", &h);
	for (int i = 0; i < 3; i++)
		ex_stream_send(s, pack_note("x"));
	sem_wait(&f->arrived);
	/* a whole other call on the same loop goes by meanwhile */
	struct ex_stream *o = open_stream(f, "/t.Test/Echo", &other);
	ex_stream_send(o, pack_note("y"));
	wait_closed(&other);
	assert_int_equal(f->n_messages, 1);
	ex_rpc_resume(f->held);
	sem_wait(&f->arrived);
	ex_rpc_resume(f->held);
	sem_wait(&f->arrived);
	assert_int_equal(f->n_messages, 3);
	ex_stream_cancel(s);
	wait_closed(&h);
	ex_stream_drop(s);
	ex_stream_drop(o);
}

/* A client that does not read is cut off, with bounded memory; the server's other calls go on. */
static void test_client_that_does_not_read(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	sem_t block;
	sem_init(&block, 0, 0);
	h.block = &block;
	struct ex_stream *s = open_stream(f, "/t.Other/Flood", &h);
	ex_stream_send(s, pack_note("go"));
	sem_wait(&f->done);
	assert_int_equal(f->n_cancelled, 1);
	assert_in_range(f->n_messages, 16, 200);
	for (int i = 0; i < 1000; i++)
		sem_post(&block);
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_RESOURCE_EXHAUSTED);
	assert_string_equal(h.text, "the client does not read");
	ex_stream_drop(s);
	sem_destroy(&block);
}

/* --- ends -------------------------------------------------------------------------------------------------------- */

/* Streams that are still open are cancelled by ex_channel_free, and `closed` has run when it returns. */
static void test_channel_free_closes_streams(void **state)
{
	struct fixture *f = *state;
	struct heard h[3] = {HEARD_INIT, HEARD_INIT, HEARD_INIT};
	struct ex_stream *s[3];
	for (int i = 0; i < 3; i++) {
		s[i] = open_stream(f, "/t.Test/Chat", &h[i]);
		ex_stream_send(s[i], pack_note("x"));
	}
	wait_messages(&h[2], 1);
	f->channel = ex_channel_free(f->channel);
	for (int i = 0; i < 3; i++) {
		assert_true(h[i].closed);
		ex_stream_drop(s[i]);
	}
}

/* A server that stops lets a call end within its grace ... */
static void *stop_server(void *arg)
{
	struct fixture *f = arg;
	f->server = ex_server_stop(f->server, 20000);
	return NULL;
}

static void test_stop_waits_for_calls(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Chat", &h);
	ex_stream_send(s, pack_note("a"));
	wait_messages(&h, 1);
	pthread_t t;
	pthread_create(&t, NULL, stop_server, f);
	ex_stream_send(s, pack_note("b"));
	wait_messages(&h, 2);
	assert_int_equal(h.n_messages, 2);
	ex_stream_close_send(s);
	wait_closed(&h);
	pthread_join(t, NULL);
	assert_int_equal(h.status, EX_STATUS_OK);
	assert_int_equal(f->n_done, 1);
	assert_int_equal(f->n_cancelled, 0);
	ex_stream_drop(s);
}

/* ... and cancels it after. */
static void test_stop_cancels_after_grace(void **state)
{
	struct fixture *f = *state;
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Slow", &h);
	ex_stream_send(s, pack_note("a"));
	sem_wait(&f->arrived);
	f->server = ex_server_stop(f->server, 10);
	assert_int_equal(f->n_done, 1);
	assert_int_equal(f->n_cancelled, 1);
	assert_int_equal(ex_rpc_send(f->held, pack_note("x")), -ECANCELED); /* held, and dead */
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_UNAVAILABLE);
	ex_stream_drop(s);
}

/* The peer goes and comes back on its port: the same channel works again. */
static void test_reconnect(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char back[64];
	EXPECT_OK(err, call(f, "/t.Test/Echo", "1", 20000, &err, back, sizeof back));
	f->server = ex_server_stop(f->server, 0);
	assert_int_equal(call(f, "/t.Test/Echo", "2", 20000, &err, back, sizeof back), -ENOTCONN);
	struct ex_method methods[N_METHODS];
	fill_methods(f, methods);
	struct ex_server_opts o = {.listen = f->address, .loops = f->loops, .n_loops = 2, .methods = methods};
	EXPECT_OK(err, ex_server_start(&o, &err, &f->server));
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/t.Test/Echo", &h); /* waits for a connection */
	ex_stream_send(s, pack_note("3"));
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_OK);
	ex_stream_drop(s);
}

/* --- addresses --------------------------------------------------------------------------------------------------- */

static int try_listen(struct fixture *f, const char *listen, struct ex_err *err)
{
	struct ex_method methods[N_METHODS];
	fill_methods(f, methods);
	struct ex_server_opts o = {.listen = listen, .loops = f->loops, .n_loops = 2, .methods = methods};
	struct ex_server *s = NULL;
	*err = EX_ERR_INIT;
	int rc = ex_server_start(&o, err, &s);
	ex_server_stop(s, 0);
	return rc;
}

static void test_bad_addresses(void **state)
{
	struct fixture *f = *state;
	struct ex_err err;
	char listen[256];
	static const char *const bad[] = {"", "7101", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x",
		"127.0.0.1:-1", "::1:7101", "[::1:7101", "no such host:1", ":7101", "unix:"};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++) {
		snprintf(listen, sizeof listen, "'%s'", bad[i]);
		assert_int_equal(try_listen(f, bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, listen));
	}
	assert_int_equal(try_listen(f, f->address, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, f->address));
	assert_int_equal(try_listen(f, "192.0.2.1:7101", &err), -EADDRNOTAVAIL);
}

static void test_unix_paths(void **state)
{
	struct fixture *f = *state;
	struct ex_err err;
	char listen[256];
	memset(listen, 'a', sizeof listen);
	memcpy(listen, "unix:/tmp/", 10);
	listen[5 + 108] = '\0';
	assert_int_equal(try_listen(f, listen, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "has 108 bytes; the system allows at most 107"));
	snprintf(listen, sizeof listen, "unix:%s/none/s", f->dir);
	assert_int_equal(try_listen(f, listen, &err), -ENOENT);
	snprintf(listen, sizeof listen, "unix:%s", f->dir); /* a directory */
	assert_int_equal(try_listen(f, listen, &err), -EEXIST);
}

/* --- unix sockets ------------------------------------------------------------------------------------------------ */

static void test_unix_socket(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char listen[100], back[64], expected[64];
	struct stat st;
	snprintf(listen, sizeof listen, "unix:%s/s", f->dir);
	/* a stale file: bound once, nobody listens */
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	memcpy(a.sun_path, listen + 5, strlen(listen + 5) + 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	close(fd);
	start(f, listen);
	assert_int_equal(stat(listen + 5, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	EXPECT_OK(err, call(f, "/t.Test/Echo", "hello", 20000, &err, back, sizeof back));
	assert_string_equal(back, "hello");
	sem_wait(&f->done);
	snprintf(expected, sizeof expected, "unix:uid=%d,pid=%d", geteuid(), getpid());
	assert_string_equal(f->peer, expected);
	assert_int_equal(try_listen(f, listen, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "another process listens there"));
	f->server = ex_server_stop(f->server, 0);
	assert_int_equal(stat(listen + 5, &st), -1); /* removed */
}

static int nobody(void *ctx, uint32_t uid, uint32_t gid, int32_t pid)
{
	struct fixture *f = ctx;
	(void)uid;
	(void)gid;
	f->n_messages += pid == getpid();
	return -EACCES;
}

struct starter {
	struct fixture *f;
	pthread_t thread;
	pthread_barrier_t *together;
	const char *listen;
	int rc;
	struct ex_server *server;
};

static void *start_one(void *arg)
{
	struct starter *st = arg;
	struct ex_method methods[N_METHODS];
	fill_methods(st->f, methods);
	struct ex_server_opts o = {.listen = st->listen, .loops = st->f->loops, .n_loops = 2, .methods = methods};
	pthread_barrier_wait(st->together);
	st->rc = ex_server_start(&o, NULL, &st->server);
	return NULL;
}

/* Of several that start at once on a socket that a dead process left behind one gets it. Fails when a second takes the first one's away. */
static void test_unix_started_at_once(void **state)
{
	struct fixture *f = *state;
	char listen[128];
	pthread_barrier_t together;
	snprintf(listen, sizeof listen, "unix:%s/s", f->dir);
	for (int round = 0; round < 50; round++) {
		struct starter st[4];
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		int n = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		memcpy(a.sun_path, listen + 5, strlen(listen + 5));
		assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
		close(fd);
		pthread_barrier_init(&together, NULL, EX_ARRAY_LEN(st));
		for (size_t i = 0; i < EX_ARRAY_LEN(st); i++) {
			st[i] = (struct starter){.f = f, .listen = listen, .together = &together};
			pthread_create(&st[i].thread, NULL, start_one, &st[i]);
		}
		for (size_t i = 0; i < EX_ARRAY_LEN(st); i++) {
			pthread_join(st[i].thread, NULL);
			n += st[i].rc == 0;
			assert_true(st[i].rc == 0 || st[i].rc == -EADDRINUSE);
		}
		assert_int_equal(n, 1);
		assert_int_equal(access(listen + 5, F_OK), 0);
		for (size_t i = 0; i < EX_ARRAY_LEN(st); i++)
			ex_server_stop(st[i].server, 0);
		pthread_barrier_destroy(&together);
	}
}

static void test_unix_peer_is_refused(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	char listen[100], back[64];
	snprintf(listen, sizeof listen, "unix:%s/s", f->dir);
	struct ex_method methods[N_METHODS];
	fill_methods(f, methods);
	struct ex_server_opts o = {.listen = listen,
		.loops = f->loops,
		.n_loops = 1,
		.methods = &methods[2],
		.authorize = nobody,
		.authorize_ctx = f};
	EXPECT_OK(err, ex_server_start(&o, &err, &f->server));
	struct ex_channel_opts c = {.target = listen, .loop = f->client_loop};
	EXPECT_OK(err, ex_channel_new(&c, &err, &f->channel));
	assert_int_equal(call(f, "/t.Test/Slow", "x", 20000, &err, back, sizeof back), -ENOTCONN);
	assert_true(f->n_messages >= 1);
	assert_int_equal(f->n_done, 0);
}

/* --- health ------------------------------------------------------------------------------------------------------ */

typedef Grpc__Health__V1__HealthCheckResponse health_reply;

static int check_health(struct fixture *f, const char *service, struct ex_err *err)
{
	Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	q.service = (char *)service;
	struct ex_msg *m;
	int rc = ex_unary(f->channel, "/grpc.health.v1.Health/Check", &q.base, 20000, err, &m);
	if (rc)
		return rc;
	health_reply *r = (health_reply *)ex_msg_unpack(m, &grpc__health__v1__health_check_response__descriptor);
	ex_msg_free(m);
	rc = (int)r->status;
	grpc__health__v1__health_check_response__free_unpacked(r, NULL);
	return rc;
}

static void test_health(void **state)
{
	struct fixture *f = *state;
	struct ex_err err = EX_ERR_INIT;
	assert_int_equal(check_health(f, "", &err), 1);
	assert_int_equal(check_health(f, "t.Test", &err), 1);
	assert_int_equal(check_health(f, "grpc.health.v1.Health", &err), 1);
	assert_int_equal(check_health(f, "t.Tes", &err), -ENOENT);
	ex_server_set_serving(f->server, false);
	assert_int_equal(check_health(f, "t.Other", &err), 2);
	struct heard h = HEARD_INIT;
	struct ex_stream *s = open_stream(f, "/grpc.health.v1.Health/Watch", &h);
	Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	ex_stream_send(s, ex_out_pack(&q.base));
	ex_stream_close_send(s);
	wait_messages(&h, 1);
	ex_server_set_serving(f->server, true);
	wait_messages(&h, 2);
	ex_server_set_serving(f->server, true);       /* no change, no message */
	f->server = ex_server_stop(f->server, 20000); /* says NOT_SERVING and ends the Watch: no grace is spent */
	wait_closed(&h);
	assert_int_equal(h.n_messages, 3);
	assert_int_equal(h.status, EX_STATUS_UNAVAILABLE);
	ex_stream_drop(s);
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
		cmocka_unit_test_setup_teardown(test_unary, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_method, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_at_start, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(test_answer_to_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chat_and_half_close, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_cancels, setup, teardown),
		cmocka_unit_test_setup_teardown(test_message_too_long_for_the_method, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_request_is_one, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pause_and_resume, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_that_does_not_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_channel_free_closes_streams, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_waits_for_calls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_cancels_after_grace, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reconnect, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unix_paths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unix_socket, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_unix_peer_is_refused, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_unix_started_at_once, setup_loops, teardown),
		cmocka_unit_test_setup_teardown(test_health, setup, teardown),
	};
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
