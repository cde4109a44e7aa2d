/* SPDX-License-Identifier: Apache-2.0 */
/* Calls at the server: batches, the send queue, reading with pauses, the end. Layer L1.
 *
 * Invariants, all under rpc->lock: at most one SEND and one RECV are under way; the status goes out after the queue is
 * empty; no batch is started after `closed`. n_batches counts what gRPC still holds of the call; CLOSE is among it
 * until the call is over, so zero means that nothing more will come. A SEND is started before the next RECV: the other
 * order costs a write of its own for the window update. */
#include "net/rpc.h"

#include "base/clock.h"
#include "base/mem.h"
#include "net/msg_internal.h"
#include "net/tag.h"
#include <grpc/support/alloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define RPC_MAGIC UINT32_C(0x72706331)
#define TEXT_MAX  512 /* of a status: it travels in a header */
#define NO_STATUS (-1)

struct ex_rpc {
	uint32_t magic;
	_Atomic unsigned refs; /* one is the library's, until `done` */
	struct ex_rpc_env *env;
	grpc_call *call; /* NULL after the end; guarded by lock */
	grpc_metadata_array metadata;
	grpc_call_details details; /* of unknown methods */
	gpr_timespec deadline;
	struct ex_tag on_new, on_close, on_recv, on_send, on_status;
	void *data;
	char peer[EX_RPC_PEER_MAX];
	_Atomic bool cancelled;
	int grpc_cancelled;         /* written by gRPC before on_close */
	grpc_byte_buffer *incoming; /* written by gRPC before on_recv */
	int place;                  /* of its connection, negative: none [cq] */
	bool refused;               /* before or by start(): no more callbacks [cq] */
	bool got_message;           /* [cq] */

	struct ex_rpc *ending_prev, *ending_next; /* guarded by env->ending->lock, with the two below */
	uint64_t ending_due_ns;
	bool is_ending;

	pthread_mutex_t lock; /* guards all below; before env->ending->lock */
	struct ex_sendq out;
	unsigned n_batches;
	bool greeted; /* initial metadata went out with the first SEND or the status */
	bool reading; /* a RECV is under way, or its message is with the service */
	bool paused, ended_reading, status_started;
	bool closed; /* not open yet, or over: start no batches */
	int status;  /* NO_STATUS: not finished */
	char text[TEXT_MAX];
};

static void start_batch(struct ex_rpc *rpc, const grpc_op *ops, size_t n, struct ex_tag *tag)
{
	rpc->n_batches++;
	EX_TAG_GIVEN(tag);
	grpc_call_error e = grpc_call_start_batch(rpc->call, ops, n, tag, NULL);
	assert(e == GRPC_CALL_OK);
	(void)e;
}

/* Starts the next SEND or, when all is sent and the call is finished, sends the status. */
static void push(struct ex_rpc *rpc)
{
	grpc_op ops[2] = {0}, *op = ops;
	if (rpc->closed || rpc->out.sending || rpc->status_started)
		return;
	if (!rpc->out.head && rpc->status == NO_STATUS)
		return;
	if (!rpc->greeted)
		op++->op = GRPC_OP_SEND_INITIAL_METADATA;
	rpc->greeted = true;
	if (rpc->out.head) {
		op->op = GRPC_OP_SEND_MESSAGE;
		op->data.send_message.send_message = ex_sendq_next(&rpc->out)->buffer;
		start_batch(rpc, ops, (size_t)(op - ops) + 1, &rpc->on_send);
	} else {
		grpc_slice text = grpc_slice_from_copied_string(rpc->text);
		rpc->status_started = true;
		op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
		op->data.send_status_from_server.status = (grpc_status_code)rpc->status;
		op->data.send_status_from_server.status_details = &text;
		start_batch(rpc, ops, (size_t)(op - ops) + 1, &rpc->on_status);
		grpc_slice_unref(text);
	}
}

static void read_next(struct ex_rpc *rpc)
{
	if (rpc->reading || rpc->paused || rpc->ended_reading || rpc->closed || rpc->status != NO_STATUS)
		return;
	rpc->reading = true;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &rpc->incoming};
	start_batch(rpc, &op, 1, &rpc->on_recv);
}

/* --- finished and not read ------------------------------------------------------------------------------- */

static void add_ending(struct ex_rpc *rpc)
{
	struct ex_rpc_ending *e = rpc->env->ending;
	pthread_mutex_lock(&e->lock);
	rpc->is_ending = true;
	rpc->ending_due_ns = ex_now_ns() + e->wait_ns;
	rpc->ending_prev = e->last;
	*(e->last ? &e->last->ending_next : &e->first) = rpc;
	e->last = rpc;
	pthread_mutex_unlock(&e->lock);
}

static void unlink_ending(struct ex_rpc_ending *e, struct ex_rpc *rpc)
{
	if (!rpc->is_ending)
		return;
	*(rpc->ending_prev ? &rpc->ending_prev->ending_next : &e->first) = rpc->ending_next;
	*(rpc->ending_next ? &rpc->ending_next->ending_prev : &e->last) = rpc->ending_prev;
	rpc->ending_prev = rpc->ending_next = NULL;
	rpc->is_ending = false;
}

static void remove_ending(struct ex_rpc *rpc)
{
	struct ex_rpc_ending *e = rpc->env->ending;
	pthread_mutex_lock(&e->lock);
	unlink_ending(e, rpc);
	pthread_mutex_unlock(&e->lock);
}

/* A reference to the first one whose time is over; NULL: none. */
static struct ex_rpc *take_due(struct ex_rpc_ending *e, uint64_t now)
{
	pthread_mutex_lock(&e->lock);
	struct ex_rpc *rpc = e->first && e->first->ending_due_ns <= now ? ex_rpc_hold(e->first) : NULL;
	if (rpc)
		unlink_ending(e, rpc);
	pthread_mutex_unlock(&e->lock);
	return rpc;
}

void ex_rpc_end_unread(struct ex_rpc_ending *e)
{
	uint64_t now = ex_now_ns();
	for (struct ex_rpc *rpc; (rpc = take_due(e, now));) {
		ex_rpc_abort(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "the client does not read");
		ex_rpc_drop(rpc);
	}
}

/* --- the end --------------------------------------------------------------------------------------------- */

static void rpc_free(struct ex_rpc *rpc)
{
	grpc_metadata_array_destroy(&rpc->metadata);
	grpc_call_details_destroy(&rpc->details);
	pthread_mutex_destroy(&rpc->lock);
	rpc->magic = 0;
	free(rpc);
}

/* A batch has come back. After the last one the service is told, and the library lets go. */
static void batch_done(struct ex_rpc *rpc)
{
	pthread_mutex_lock(&rpc->lock);
	bool over = --rpc->n_batches == 0;
	grpc_call *call = rpc->call;
	if (over) {
		assert(rpc->closed);
		ex_sendq_drop(&rpc->out);
		rpc->call = NULL;
	}
	pthread_mutex_unlock(&rpc->lock);
	if (!over)
		return;
	grpc_call_unref(call);
	remove_ending(rpc);
	struct ex_rpc_env *env = rpc->env;
	int place = rpc->place;
	if (env->method && env->method->done && !rpc->refused)
		env->method->done(rpc, ex_rpc_cancelled(rpc), env->method->ctx);
	ex_rpc_drop(rpc);
	env->ended(env, place);
}

static void on_close(struct ex_tag *t, bool ok)
{
	struct ex_rpc *rpc = EX_CONTAINER_OF(t, struct ex_rpc, on_close);
	(void)ok;
	pthread_mutex_lock(&rpc->lock);
	rpc->closed = true;
	if (rpc->grpc_cancelled) {
		atomic_store_explicit(&rpc->cancelled, true, memory_order_release);
		ex_sendq_drop(&rpc->out);
	}
	pthread_mutex_unlock(&rpc->lock);
	batch_done(rpc);
}

static void on_status(struct ex_tag *t, bool ok)
{
	(void)ok; /* a status that did not arrive: CLOSE says cancelled */
	batch_done(EX_CONTAINER_OF(t, struct ex_rpc, on_status));
}

static void on_send(struct ex_tag *t, bool ok)
{
	struct ex_rpc *rpc = EX_CONTAINER_OF(t, struct ex_rpc, on_send);
	pthread_mutex_lock(&rpc->lock);
	ex_sendq_sent(&rpc->out);
	if (!ok) /* the call is broken, and CLOSE will say so */
		ex_sendq_drop(&rpc->out);
	push(rpc);
	pthread_mutex_unlock(&rpc->lock);
	batch_done(rpc);
}

/* --- reading --------------------------------------------------------------------------------------------- */

static void deliver(struct ex_rpc *rpc, grpc_byte_buffer *b)
{
	const struct ex_method *method = rpc->env->method;
	char text[TEXT_MAX];
	size_t n = grpc_byte_buffer_length(b),
	       max = method->message_bytes_max ? method->message_bytes_max : EX_SERVER_MESSAGE_BYTES_MAX;
	if (n > max) {
		grpc_byte_buffer_destroy(b);
		snprintf(text, sizeof text, "message of %zu bytes; %s takes at most %zu", n, method->path, max);
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, text);
		return;
	}
	if (!method->half_close && rpc->got_message) {
		grpc_byte_buffer_destroy(b);
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "a second request in a call that takes one");
		return;
	}
	rpc->got_message = true;
	struct ex_msg *m = ex_msg_wrap(b);
	if (m)
		method->message(rpc, m, method->ctx);
	else
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static void on_recv(struct ex_tag *t, bool ok)
{
	struct ex_rpc *rpc = EX_CONTAINER_OF(t, struct ex_rpc, on_recv);
	const struct ex_method *method = rpc->env->method;
	grpc_byte_buffer *b = EX_TAKE(rpc->incoming);
	bool message = ok && b;
	pthread_mutex_lock(&rpc->lock);
	bool deaf = rpc->status != NO_STATUS || rpc->closed;
	rpc->ended_reading = !message;
	pthread_mutex_unlock(&rpc->lock);
	if (deaf)
		grpc_byte_buffer_destroy(b); /* takes NULL */
	else if (message)
		deliver(rpc, b);
	else if (method->half_close)
		method->half_close(rpc, method->ctx);
	else if (!rpc->got_message)
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "the call ended without its request");
	pthread_mutex_lock(&rpc->lock);
	rpc->reading = false;
	read_next(rpc);
	pthread_mutex_unlock(&rpc->lock);
	batch_done(rpc);
}

/* --- the beginning --------------------------------------------------------------------------------------- */

static void set_status(struct ex_rpc *rpc, int status, const char *text)
{
	rpc->status = status;
	snprintf(rpc->text, sizeof rpc->text, "%s", text ? text : "");
}

/* Starts the call, with its status at once when it is refused. */
static void open_call(struct ex_rpc *rpc, int status, const char *text)
{
	pthread_mutex_lock(&rpc->lock);
	if (status != NO_STATUS && rpc->status == NO_STATUS)
		set_status(rpc, status, text);
	grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &rpc->grpc_cancelled};
	rpc->closed = false;
	start_batch(rpc, &op, 1, &rpc->on_close);
	push(rpc);
	read_next(rpc);
	pthread_mutex_unlock(&rpc->lock);
}

static void open_unknown(struct ex_rpc *rpc)
{
	char text[TEXT_MAX];
	int n = (int)EX_MIN(GRPC_SLICE_LENGTH(rpc->details.method), (size_t)256);
	snprintf(text, sizeof text, "unknown method %.*s", n, (const char *)GRPC_SLICE_START_PTR(rpc->details.method));
	open_call(rpc, EX_STATUS_UNIMPLEMENTED, text);
}

/* grpc_peer: what gRPC calls the other end. */
static void begin(struct ex_rpc *rpc, const char *grpc_peer)
{
	struct ex_rpc_env *env = rpc->env;
	struct ex_err err = EX_ERR_INIT;
	env->name_peer(env, grpc_peer, rpc->peer);
	if (env->admit(env, rpc->call, rpc->peer, &err)) {
		rpc->refused = true;
		open_call(rpc, EX_STATUS_PERMISSION_DENIED, ex_err_text(&err));
		return;
	}
	if (!env->method) {
		open_unknown(rpc);
		return;
	}
	rpc->place = env->enter(env, grpc_peer);
	int rc = rpc->place < 0 ? rpc->place : env->method->start ? env->method->start(rpc, env->method->ctx) : 0;
	rpc->refused = rc < 0;
	open_call(rpc, rc < 0 ? ex_status_from_errno(rc) : NO_STATUS,
		rpc->place < 0 ? "as many connections as are allowed have calls already (connections_max)" : NULL);
}

static void on_new(struct ex_tag *t, bool ok)
{
	struct ex_rpc *rpc = EX_CONTAINER_OF(t, struct ex_rpc, on_new);
	struct ex_rpc_env *env = rpc->env;
	if (!ok) {
		rpc_free(rpc);
		env->taken(env, false);
		return;
	}
	env->taken(env, true);
	char *peer = grpc_call_get_peer(rpc->call);
	begin(rpc, peer);
	gpr_free(peer);
}

int ex_rpc_request(grpc_server *server, struct ex_rpc_env *env)
{
	struct ex_rpc *rpc = ex_calloc(1, sizeof *rpc);
	if (!rpc)
		return -ENOMEM;
	rpc->magic = RPC_MAGIC;
	rpc->refs = 1;
	rpc->env = env;
	rpc->status = NO_STATUS;
	rpc->place = -1;
	rpc->closed = true; /* until open_call: what start() sends or says waits for it */
	rpc->on_new.fn = on_new;
	rpc->on_close.fn = on_close;
	rpc->on_recv.fn = on_recv;
	rpc->on_send.fn = on_send;
	rpc->on_status.fn = on_status;
	grpc_metadata_array_init(&rpc->metadata);
	grpc_call_details_init(&rpc->details);
	pthread_mutex_init(&rpc->lock, NULL);
	grpc_completion_queue *q = ex_loop_queue(env->loop);
	grpc_call_error e;
	EX_TAG_GIVEN(&rpc->on_new);
	if (env->method)
		e = grpc_server_request_registered_call(
			server, env->registered, &rpc->call, &rpc->deadline, &rpc->metadata, NULL, q, q, &rpc->on_new);
	else
		e = grpc_server_request_call(server, &rpc->call, &rpc->details, &rpc->metadata, q, q, &rpc->on_new);
	if (e == GRPC_CALL_OK)
		return 0;
	rpc_free(rpc);
	return -ESHUTDOWN;
}

/* --- what services call ---------------------------------------------------------------------------------- */

static int send_message(struct ex_rpc *rpc, struct ex_out *o, bool newest)
{
	EX_CHECK_OBJ(rpc, RPC_MAGIC);
	pthread_mutex_lock(&rpc->lock);
	bool dead = !rpc->call || rpc->status != NO_STATUS || ex_rpc_cancelled(rpc);
	if (!dead) {
		if (newest)
			ex_sendq_drop(&rpc->out);
		ex_sendq_push(&rpc->out, o);
		push(rpc);
	}
	pthread_mutex_unlock(&rpc->lock);
	if (!dead)
		return 0;
	ex_out_free(o);
	return -ECANCELED;
}

int ex_rpc_send(struct ex_rpc *rpc, struct ex_out *o)
{
	return send_message(rpc, o, false);
}

int ex_rpc_send_newest(struct ex_rpc *rpc, struct ex_out *o)
{
	return send_message(rpc, o, true);
}

size_t ex_rpc_queued_bytes(const struct ex_rpc *rpc)
{
	return atomic_load_explicit(&rpc->out.bytes, memory_order_relaxed);
}

void ex_rpc_finish(struct ex_rpc *rpc, int status, const char *text)
{
	EX_CHECK_OBJ(rpc, RPC_MAGIC);
	pthread_mutex_lock(&rpc->lock);
	if (rpc->call && rpc->status == NO_STATUS) {
		set_status(rpc, status, text);
		push(rpc);
		if (!rpc->status_started)
			add_ending(rpc);
	}
	pthread_mutex_unlock(&rpc->lock);
}

void ex_rpc_finish_errno(struct ex_rpc *rpc, int code, const char *text)
{
	ex_rpc_finish(rpc, ex_status_from_errno(code), text);
}

void ex_rpc_abort(struct ex_rpc *rpc, int status, const char *text)
{
	EX_CHECK_OBJ(rpc, RPC_MAGIC);
	pthread_mutex_lock(&rpc->lock);
	if (rpc->call && !rpc->status_started) {
		if (rpc->status == NO_STATUS || rpc->status == EX_STATUS_OK) /* without its messages it is not OK */
			set_status(rpc, status, text);
		ex_sendq_drop(&rpc->out);
	}
	if (rpc->call && !rpc->status_started && !rpc->closed) {
		rpc->status_started = true;
		grpc_call_cancel_with_status(rpc->call, (grpc_status_code)rpc->status, rpc->text, NULL);
	}
	pthread_mutex_unlock(&rpc->lock);
}

void ex_rpc_pause(struct ex_rpc *rpc)
{
	pthread_mutex_lock(&rpc->lock);
	rpc->paused = true;
	pthread_mutex_unlock(&rpc->lock);
}

void ex_rpc_resume(struct ex_rpc *rpc)
{
	pthread_mutex_lock(&rpc->lock);
	rpc->paused = false;
	if (rpc->call)
		read_next(rpc);
	pthread_mutex_unlock(&rpc->lock);
}

bool ex_rpc_cancelled(const struct ex_rpc *rpc)
{
	return atomic_load_explicit(&rpc->cancelled, memory_order_acquire);
}

struct ex_rpc *ex_rpc_hold(struct ex_rpc *rpc)
{
	atomic_fetch_add_explicit(&rpc->refs, 1, memory_order_relaxed);
	return rpc;
}

void ex_rpc_drop(struct ex_rpc *rpc)
{
	EX_CHECK_OBJ(rpc, RPC_MAGIC);
	if (atomic_fetch_sub_explicit(&rpc->refs, 1, memory_order_acq_rel) == 1)
		rpc_free(rpc);
}

void ex_rpc_set_data(struct ex_rpc *rpc, void *data)
{
	rpc->data = data;
}

void *ex_rpc_data(const struct ex_rpc *rpc)
{
	return rpc->data;
}

int ex_rpc_metadata(const struct ex_rpc *rpc, const char *key, char *buf, size_t size)
{
	EX_CHECK_OBJ(rpc, RPC_MAGIC);
	for (size_t i = 0; i < rpc->metadata.count; i++) {
		const grpc_metadata *m = &rpc->metadata.metadata[i];
		if (grpc_slice_str_cmp(m->key, key))
			continue;
		size_t n = GRPC_SLICE_LENGTH(m->value);
		if (n >= size)
			return -EMSGSIZE;
		memcpy(buf, GRPC_SLICE_START_PTR(m->value), n);
		buf[n] = '\0';
		return 0;
	}
	return -ENOENT;
}

const char *ex_rpc_peer(const struct ex_rpc *rpc)
{
	return rpc->peer;
}
