/* SPDX-License-Identifier: Apache-2.0 */
/* See server_pair.h. Test support. */
#include "server_pair.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct ex_out *pack_note(const char *text)
{
	note n = EXPERTD__V1__HELLO_REQUEST__INIT;
	n.node = (char *)text;
	return ex_out_pack(&n.base);
}

/* --- services ---------------------------------------------------------------------------------------------------- */

static void service_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	struct fixture *f = ctx;
	(void)rpc;
	f->n_done++;
	f->n_cancelled += cancelled;
	sem_post(&f->done);
}

static struct ex_out *echo_of(struct ex_msg *m)
{
	note *n = (note *)ex_msg_unpack(m, &expertd__v1__hello_request__descriptor);
	assert_non_null(n);
	ex_msg_free(m);
	struct ex_out *o = pack_note(n->node);
	expertd__v1__hello_request__free_unpacked(n, NULL);
	return o;
}

static void echo_once(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct fixture *f = ctx;
	snprintf(f->peer, sizeof f->peer, "%s", ex_rpc_peer(rpc));
	ex_rpc_send(rpc, echo_of(m));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void chat_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct fixture *f = ctx;
	ex_rpc_send(rpc, echo_of(m));
	f->n_messages++;
	sem_post(&f->arrived);
}

static void chat_half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, "bye");
}

/* Takes one message, then no more until someone resumes. */
static void slow_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct fixture *f = ctx;
	ex_msg_free(m);
	ex_rpc_pause(rpc);
	f->n_messages++;
	if (!f->held)
		f->held = ex_rpc_hold(rpc);
	sem_post(&f->arrived);
}

static void *answer_late(void *arg)
{
	struct ex_rpc *rpc = arg;
	for (int i = 0; i < 100 && !ex_rpc_cancelled(rpc); i++)
		usleep(1000);
	ex_rpc_send(rpc, pack_note("late"));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
	ex_rpc_drop(rpc);
	return NULL;
}

static void late_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct fixture *f = ctx;
	ex_msg_free(m);
	f->have_late = true;
	pthread_create(&f->late_thread, NULL, answer_late, ex_rpc_hold(rpc));
	sem_post(&f->arrived);
}

static int refuse(struct ex_rpc *rpc, void *ctx)
{
	(void)rpc;
	(void)ctx;
	return -EACCES;
}

static void release_block(void *ctx)
{
	free(ctx);
}

/* Sends and sends, until 1 MiB is queued: then the client is cut off. */
static void flood_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct fixture *f = ctx;
	ex_msg_free(m);
	for (int i = 0; i < 1000; i++) {
		Expertd__V1__DispatchReply r = EXPERTD__V1__DISPATCH_REPLY__INIT;
		uint8_t *block = calloc(1, 64 << 10);
		if (ex_rpc_send(rpc, ex_out_pack_tensor(&r.base, 15, block, 64 << 10, release_block, block)))
			break;
		f->n_messages++;
		if (ex_rpc_queued_bytes(rpc) > 1 << 20) {
			ex_rpc_abort(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "the client does not read");
			break;
		}
	}
}

/* --- the pair ---------------------------------------------------------------------------------------------------- */

void fill_methods(struct fixture *f, struct ex_method methods[static N_METHODS])
{
	const struct ex_method all[N_METHODS] = {
		{.path = "/t.Test/Echo", .message = echo_once, .done = service_done, .ctx = f},
		{.path = "/t.Test/Chat",
			.loop_i = 1,
			.message_bytes_max = 1000,
			.message = chat_message,
			.half_close = chat_half_close,
			.done = service_done,
			.ctx = f},
		{.path = "/t.Test/Slow",
			.message = slow_message,
			.half_close = chat_half_close,
			.done = service_done,
			.ctx = f},
		{.path = "/t.Test/Late", .message = late_message, .done = service_done, .ctx = f},
		{.path = "/t.Test/Refused", .start = refuse, .message = echo_once, .done = service_done, .ctx = f},
		{.path = "/t.Other/Flood", .message = flood_message, .done = service_done, .ctx = f},
		{.path = NULL},
	};
	memcpy(methods, all, sizeof all);
}

void start_with(struct fixture *f, const char *listen, const struct ex_server_opts *more)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_method methods[N_METHODS];
	struct ex_server_opts o = *more;
	o.listen = listen;
	o.loops = f->loops;
	o.n_loops = 2;
	o.methods = more->methods ? more->methods : methods;
	fill_methods(f, methods);
	EXPECT_OK(err, ex_server_start(&o, &err, &f->server));
	if (ex_server_port(f->server))
		snprintf(f->address, sizeof f->address, "127.0.0.1:%d", ex_server_port(f->server));
	else
		snprintf(f->address, sizeof f->address, "%s", listen);
	struct ex_channel_opts c = {.target = f->address, .loop = f->client_loop};
	EXPECT_OK(err, ex_channel_new(&c, &err, &f->channel));
}

void start(struct fixture *f, const char *listen)
{
	start_with(f, listen, &(struct ex_server_opts){0});
}

int setup_loops(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct ex_err err = EX_ERR_INIT;
	sem_init(&f->done, 0, 0);
	sem_init(&f->arrived, 0, 0);
	strcpy(f->dir, "/tmp/ex-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	EXPECT_OK(err, ex_loop_new("srv0", &err, &f->loops[0]));
	EXPECT_OK(err, ex_loop_new("srv1", &err, &f->loops[1]));
	EXPECT_OK(err, ex_loop_new("client", &err, &f->client_loop));
	*state = f;
	return 0;
}

int setup(void **state)
{
	setup_loops(state);
	start(*state, "127.0.0.1:0");
	return 0;
}

int teardown(void **state)
{
	struct fixture *f = *state;
	if (f->held)
		ex_rpc_drop(f->held);
	ex_channel_free(f->channel);
	ex_server_stop(f->server, 0);
	if (f->have_late)
		pthread_join(f->late_thread, NULL);
	ex_loop_free(f->loops[0]);
	ex_loop_free(f->client_loop);
	ex_loop_free(f->loops[1]);
	assert_int_equal(rmdir(f->dir), 0);
	sem_destroy(&f->done);
	sem_destroy(&f->arrived);
	free(f);
	return 0;
}

/* --- a stream that remembers ------------------------------------------------------------------------------------- */

static void heard_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct heard *h = ctx;
	(void)s;
	note *n = (note *)ex_msg_unpack(m, &expertd__v1__hello_request__descriptor);
	pthread_mutex_lock(&h->lock);
	h->n_messages++;
	h->bytes += ex_msg_bytes(m);
	snprintf(h->last, sizeof h->last, "%s", n ? n->node : "?");
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	if (n)
		expertd__v1__hello_request__free_unpacked(n, NULL);
	ex_msg_free(m);
	if (h->block)
		sem_wait(h->block);
}

static void heard_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct heard *h = ctx;
	(void)s;
	pthread_mutex_lock(&h->lock);
	assert_false(h->closed);
	h->closed = true;
	h->status = status;
	snprintf(h->text, sizeof h->text, "%s", text);
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

const struct ex_stream_ops heard_ops = {.message = heard_message, .closed = heard_closed};

void wait_messages(struct heard *h, int n)
{
	pthread_mutex_lock(&h->lock);
	while (h->n_messages < n && !h->closed)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
	assert_true(h->n_messages >= n);
}

void wait_closed(struct heard *h)
{
	pthread_mutex_lock(&h->lock);
	while (!h->closed)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
}

struct ex_stream *open_stream(struct fixture *f, const char *path, struct heard *h)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_stream *s;
	EXPECT_OK(err, ex_stream_open(f->channel, path, 20000, true, &heard_ops, h, &err, &s));
	return s;
}

int call(struct fixture *f, const char *path, const char *text, unsigned deadline_ms, struct ex_err *err, char *ret,
	size_t n)
{
	note q = EXPERTD__V1__HELLO_REQUEST__INIT;
	struct ex_msg *m;
	q.node = (char *)text;
	int rc = ex_unary(f->channel, path, &q.base, deadline_ms, err, &m);
	if (rc)
		return rc;
	note *r = (note *)ex_msg_unpack(m, &expertd__v1__hello_request__descriptor);
	assert_non_null(r);
	snprintf(ret, n, "%s", r->node);
	expertd__v1__hello_request__free_unpacked(r, NULL);
	ex_msg_free(m);
	return 0;
}
