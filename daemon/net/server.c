/* SPDX-License-Identifier: Apache-2.0 */
/* Servers: methods, listening, graceful stop. Layer L1. */
#include "net/server.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "net/listen.h"
#include "net/peers.h"
#include "net/rpc.h"
#include "net/service.h"
#include "net/tag.h"
#include "net/tls_creds.h"
#include <ctype.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define SERVER_MAGIC      UINT32_C(0x73727672)
#define REQUESTS_WAITING  4 /* per method: calls taken at once before the loop has come round */
#define OWN_METHODS       (EX_HEALTH_METHODS + EX_REFLECTION_METHODS)
#define KEEPALIVE_MS      10000
#define KEEPALIVE_WAIT_MS 5000
#define CLIENT_PING_MS    500 /* how often a client may ping */
#define IDLE_MS           300000
#define SWEEP_MS          1000 /* how often calls that nobody reads to the end are looked for */
/* gRPC 1.51 loses the list of the handshake's read slices when there are more than the 8 that it keeps in place: 3 KB a connection with
 * reads of 4 MiB */
#define TLS_READ_BYTES (256 << 10)

/* The methods of one server, and one more for unknown paths. */
struct route {
	struct ex_rpc_env env; /* first: an env is its route */
	unsigned n_waiting;    /* requests that no call has taken; guarded by server->lock */
};

struct ex_server {
	uint32_t magic;
	grpc_server *grpc;
	int port;
	struct ex_unix_listener *listener; /* NULL: TCP */
	struct ex_peers *peers;
	struct ex_rpc_ending ending;
	struct ex_timer *sweep;
	struct ex_tls *tls; /* NULL: plain text, or a unix socket */
	void (*refused)(void *ctx, const char *peer, const char *text);
	void *refused_ctx;
	struct ex_health *health; /* NULL: a bare server, as reflection */
	struct ex_reflection *reflection;
	struct ex_service_list services;
	struct ex_method methods[EX_SERVER_METHODS_MAX + OWN_METHODS];
	struct route routes[EX_SERVER_METHODS_MAX + OWN_METHODS + 1];
	size_t n_methods, n_routes;
	struct ex_tag on_shutdown;

	struct ex_lock lock;
	pthread_cond_t changed;
	unsigned n_open; /* requests and calls that gRPC or a loop holds; guarded by lock */
	bool stopping;   /* guarded by lock */
	bool started;    /* [main] */
	bool shut_down;  /* gRPC says so; guarded by lock */
};

/* --- requests and calls ---------------------------------------------------------------------------------- */

/* Keeps REQUESTS_WAITING requests open for the route. An allocation that fails is made up for at the next call. */
static void request_calls(struct route *r)
{
	struct ex_server *s = r->env.server;
	ex_lock_take(&s->lock);
	unsigned n = s->stopping ? 0 : REQUESTS_WAITING - r->n_waiting;
	r->n_waiting += n;
	s->n_open += n;
	ex_lock_give(&s->lock);
	while (n && !ex_rpc_request(s->grpc, &r->env))
		n--;
	if (!n)
		return;
	ex_lock_take(&s->lock);
	r->n_waiting -= n;
	s->n_open -= n;
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

static void ended(struct ex_rpc_env *env, int place)
{
	struct ex_server *s = env->server;
	if (place >= 0)
		ex_peers_leave(s->peers, place);
	ex_lock_take(&s->lock);
	s->n_open--;
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

static void taken(struct ex_rpc_env *env, bool ok)
{
	struct route *r = (struct route *)env;
	struct ex_server *s = env->server;
	ex_lock_take(&s->lock);
	r->n_waiting--;
	ex_lock_give(&s->lock);
	if (ok)
		request_calls(r);
	else
		ended(env, -1);
}

/* "ipv4:127.0.0.1:40312" → "127.0.0.1:40312", "ipv6:%5B::1%5D:9" → "[::1]:9", "fd:7" → "unix:uid=0,pid=71". */
static void name_peer(struct ex_rpc_env *env, const char *grpc_peer, char *buf)
{
	struct ex_server *s = env->server;
	if (s->listener && !strncmp(grpc_peer, "fd:", 3)) {
		ex_unix_listener_name_peer(s->listener, atoi(grpc_peer + 3), buf, EX_RPC_PEER_MAX);
		return;
	}
	const char *from = strchr(grpc_peer, ':');
	from = from ? from + 1 : grpc_peer;
	size_t n = 0;
	while (*from && n + 1 < EX_RPC_PEER_MAX) {
		unsigned byte;
		if (*from == '%' && isxdigit((unsigned char)from[1]) && sscanf(from + 1, "%2x", &byte) == 1 &&
			from[2]) {
			buf[n++] = (char)byte;
			from += 3;
		} else {
			buf[n++] = *from++;
		}
	}
	buf[n] = '\0';
}

static int admit(struct ex_rpc_env *env, grpc_call *call, const char *peer, struct ex_err *err)
{
	struct ex_server *s = env->server;
	int rc = s->tls ? ex_tls_check_call(s->tls, call, err) : 0;
	if (rc && s->refused)
		s->refused(s->refused_ctx, peer, ex_err_text(err));
	return rc;
}

static int enter(struct ex_rpc_env *env, const char *grpc_peer)
{
	return ex_peers_enter(env->server->peers, grpc_peer);
}

/* --- start ------------------------------------------------------------------------------------------------------- */

/* Health and reflection, on the last loop. */
static int add_own_methods(struct ex_server *s, const struct ex_server_opts *o, struct ex_err *err)
{
	int rc = ex_health_new(&s->services, &s->health);
	if (!rc)
		rc = ex_reflection_new(&s->services, &s->reflection);
	if (rc)
		return ex_err_errno(err, rc, "failed to make the health and reflection services");
	int loop_i = (int)o->n_loops - 1;
	ex_health_methods(s->health, loop_i, s->methods + s->n_methods);
	s->n_methods += EX_HEALTH_METHODS;
	ex_reflection_methods(s->reflection, loop_i, s->methods + s->n_methods);
	s->n_methods += EX_REFLECTION_METHODS;
	for (size_t i = s->n_methods - OWN_METHODS; i < s->n_methods; i++) {
		rc = ex_service_list_add(&s->services, s->methods[i].path);
		if (rc)
			return ex_err_errno(err, rc, "failed to list service of '%s'", s->methods[i].path);
	}
	return 0;
}

static int add_methods(struct ex_server *s, const struct ex_server_opts *o, struct ex_err *err)
{
	for (const struct ex_method *m = o->methods; m->path; m++) {
		if (s->n_methods == EX_SERVER_METHODS_MAX)
			return ex_err_set(err, -ENOSPC, "a server has at most %d methods", EX_SERVER_METHODS_MAX);
		if (m->loop_i < 0 || (size_t)m->loop_i >= o->n_loops || ex_service_list_add(&s->services, m->path))
			return ex_err_set(
				err, -EINVAL, "method '%s' of loop %d does not fit the server", m->path, m->loop_i);
		s->methods[s->n_methods++] = *m;
	}
	return o->bare ? 0 : add_own_methods(s, o, err);
}

static void add_routes(struct ex_server *s, const struct ex_server_opts *o)
{
	for (size_t i = 0; i <= s->n_methods; i++) {
		struct route *r = &s->routes[s->n_routes++];
		r->env = (struct ex_rpc_env){.server = s,
			.ending = &s->ending,
			.taken = taken,
			.ended = ended,
			.name_peer = name_peer,
			.admit = admit,
			.enter = enter};
		r->env.loop = o->loops[0];
		if (i == s->n_methods) /* the last one: unknown methods */
			break;
		r->env.method = &s->methods[i];
		r->env.loop = o->loops[s->methods[i].loop_i];
		r->env.registered =
			grpc_server_register_method(s->grpc, s->methods[i].path, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
		assert(r->env.registered); /* NULL: a path given twice */
	}
}

static grpc_arg int_arg(const char *key, int value)
{
	return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

/* Received and not yet freed, all connections together. Beyond it gRPC gives up idle connections, then calls, and takes no new connection.
 * Below two of the largest messages none would ever get through. */
static grpc_resource_quota *create_quota(size_t bytes, size_t message_bytes_max)
{
	grpc_resource_quota *q = grpc_resource_quota_create("server");
	grpc_resource_quota_resize(q, EX_MAX(bytes, 2 * message_bytes_max));
	return q;
}

static grpc_server *create_server(const struct ex_server *s, const struct ex_server_opts *o)
{
	size_t max = EX_SERVER_MESSAGE_BYTES_MAX;
	for (size_t i = 0; i < s->n_methods; i++)
		max = EX_MAX(max, s->methods[i].message_bytes_max);
	assert(max <= INT32_MAX);
	grpc_resource_quota *quota =
		create_quota(o->receive_bytes_max ? o->receive_bytes_max : EX_SERVER_RECEIVE_BYTES_MAX, max);
	grpc_arg args[] = {
		{.type = GRPC_ARG_POINTER,
			.key = (char *)GRPC_ARG_RESOURCE_QUOTA,
			.value.pointer = {quota, grpc_resource_quota_arg_vtable()}},
		int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, IDLE_MS),
		int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0), /* else two processes would share a port without a word */
		int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max),
		int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, EX_SERVER_STREAMS_MAX),
		int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
		int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_WAIT_MS),
		int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
		int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, CLIENT_PING_MS),
		int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
		int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0), /* from here on: bulk only */
		int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 32 << 20),
		int_arg(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 4 << 20),
		int_arg(GRPC_ARG_TCP_READ_CHUNK_SIZE, s->tls ? TLS_READ_BYTES : 4 << 20),
	};
	grpc_channel_args a = {.num_args = EX_ARRAY_LEN(args) - (o->bulk ? 0 : 4), .args = args};
	grpc_server *g = grpc_server_create(&a, NULL);
	grpc_resource_quota_unref(quota);
	return g;
}

static int listen_tcp(struct ex_server *s, const char *listen, struct ex_err *err)
{
	char address[EX_ADDRESS_MAX];
	int rc = ex_listen_tcp_check(listen, err, address);
	if (rc)
		return rc;
	grpc_server_credentials *c =
		s->tls ? ex_tls_server_credentials(s->tls) : grpc_insecure_server_credentials_create();
	if (!c)
		return ex_err_errno(err, -ENOMEM, "failed to listen on '%s'", listen);
	s->port = grpc_server_add_http2_port(s->grpc, address, c);
	grpc_server_credentials_release(c);
	if (s->port <= 0)
		return ex_err_set(err, -EADDRINUSE, "failed to listen on '%s': the port was taken meanwhile", listen);
	return 0;
}

static void on_shutdown(struct ex_tag *t, bool ok)
{
	struct ex_server *s = EX_CONTAINER_OF(t, struct ex_server, on_shutdown);
	(void)ok;
	ex_lock_take(&s->lock);
	s->shut_down = true;
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

static void sweep(void *ctx)
{
	struct ex_server *s = ctx;
	ex_rpc_end_unread(&s->ending);
}

static int start(struct ex_server *s, const struct ex_server_opts *o, struct ex_err *err)
{
	int rc = add_methods(s, o, err);
	if (rc)
		return rc;
	s->peers = ex_peers_new(o->connections_max ? o->connections_max : EX_SERVER_CONNECTIONS_MAX);
	if (!s->peers)
		return ex_err_errno(err, -ENOMEM, "failed to start a server on '%s'", o->listen);
	unsigned finish_ms = o->finish_ms ? o->finish_ms : EX_SERVER_FINISH_MS;
	s->ending.wait_ns = finish_ms * EX_NS_PER_MS;
	rc = ex_timer_start(o->loops[0], EX_MIN(finish_ms, (unsigned)SWEEP_MS), sweep, s, &s->sweep);
	if (rc)
		return ex_err_errno(err, rc, "failed to start a server on '%s'", o->listen);
	s->grpc = create_server(s, o);
	for (size_t i = 0; i < o->n_loops; i++)
		grpc_server_register_completion_queue(s->grpc, ex_loop_queue(o->loops[i]), NULL);
	add_routes(s, o);
	rc = ex_listen_unix_path(o->listen) ? ex_unix_listener_new(o, err, &s->listener)
					    : listen_tcp(s, o->listen, err);
	if (rc)
		return rc;
	grpc_server_start(s->grpc);
	s->started = true;
	for (size_t i = 0; i < s->n_routes; i++)
		request_calls(&s->routes[i]);
	if (s->listener)
		rc = ex_unix_listener_start(s->listener, s->grpc);
	return rc ? ex_err_errno(err, rc, "failed to accept on '%s'", o->listen) : 0;
}

int ex_server_start(const struct ex_server_opts *o, struct ex_err *err, struct ex_server **ret)
{
	assert(o->n_loops > 0 && o->listen && o->methods);
	struct ex_server *s = ex_calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "failed to start a server on '%s'", o->listen);
	s->magic = SERVER_MAGIC;
	s->on_shutdown.fn = on_shutdown;
	s->tls = ex_listen_unix_path(o->listen) ? NULL : o->tls;
	s->refused = o->refused;
	s->refused_ctx = o->refused_ctx;
	ex_lock_init(&s->lock, "server");
	ex_cond_init(&s->changed);
	pthread_mutex_init(&s->ending.lock, NULL);
	int rc = start(s, o, err);
	if (rc) {
		ex_server_stop(s, 0);
		return rc;
	}
	*ret = s;
	return 0;
}

int ex_server_check_listen(const char *listen, struct ex_err *err)
{
	char address[EX_ADDRESS_MAX];
	return ex_listen_tcp_check(listen, err, address);
}

int ex_server_port(const struct ex_server *s)
{
	return s->port;
}

void ex_server_set_serving(struct ex_server *s, bool serving)
{
	EX_CHECK_OBJ(s, SERVER_MAGIC);
	if (s->health)
		ex_health_set(s->health, serving);
}

/* --- stop -------------------------------------------------------------------------------------------------------- */

/* Waits until gRPC has shut down and every call has ended; until_ns: ex_now_ns time, UINT64_MAX: for ever. False: time
 * is up. */
static bool wait_ended(struct ex_server *s, uint64_t until_ns)
{
	bool in_time = true;
	ex_lock_take(&s->lock);
	while ((s->n_open || !s->shut_down) && in_time)
		in_time = ex_cond_wait_until(&s->changed, &s->lock, until_ns);
	bool ended_all = !s->n_open && s->shut_down;
	ex_lock_give(&s->lock);
	return ended_all;
}

static void shut_down(struct ex_server *s, unsigned grace_ms)
{
	ex_lock_take(&s->lock);
	s->stopping = true;
	ex_lock_give(&s->lock);
	if (s->listener)
		ex_unix_listener_stop(s->listener);
	if (s->health)
		ex_health_set(s->health, false);
	EX_TAG_GIVEN(&s->on_shutdown);
	grpc_server_shutdown_and_notify(s->grpc, ex_loop_queue(s->routes[0].env.loop), &s->on_shutdown);
	if (s->health)
		ex_health_end(s->health);
	if (!wait_ended(s, ex_now_ns() + grace_ms * EX_NS_PER_MS)) {
		grpc_server_cancel_all_calls(s->grpc);
		while (!wait_ended(s, ex_now_ns() + EX_NS_PER_S))
			;
	}
}

struct ex_server *ex_server_stop(struct ex_server *s, unsigned grace_ms)
{
	if (!s)
		return NULL;
	EX_CHECK_OBJ(s, SERVER_MAGIC);
	if (s->started)
		shut_down(s, grace_ms);
	ex_timer_cancel(s->sweep);
	if (s->grpc)
		grpc_server_destroy(s->grpc);
	s->listener = ex_unix_listener_free(s->listener);
	ex_peers_free(s->peers);
	ex_health_free(s->health);
	ex_reflection_free(s->reflection);
	ex_lock_done(&s->lock);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->ending.lock);
	s->magic = 0;
	free(s);
	return NULL;
}
