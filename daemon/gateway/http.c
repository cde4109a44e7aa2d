/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server: paths, bodies, the life of connections and of the whole. Layer L4. */
#include "gateway/exchange.h"

#include "base/clock.h"
#include "base/mem.h"
#include "gateway/text.h"
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define GATEWAY_MAGIC 0x77746167u
#define HEADERS_MAX   100
#define LONG_ASKS_MAX 32         /* waiting for the reader thread */
#define DROPPED_MAX   (1u << 20) /* of a body that is not wanted, read for the answer to arrive */

/* --- routes ---------------------------------------------------------------------------------------------- */

static void start_models(struct ex_exchange *x)
{
	const struct ex_gateway *g = x->g;
	struct ex_str out = EX_STR_INIT;
	ex_str_add(&out, "{\"object\":\"list\",\"data\":[{\"id\":");
	ex_json_put(&out, g->o.model_name);
	ex_str_addf(&out, ",\"object\":\"model\",\"created\":%" PRIu64 ",\"owned_by\":\"expertd\"}]}", g->start_s);
	ex_exchange_answer(x, MHD_HTTP_OK, &out);
}

static void on_balance(void *ctx, int status, const char *json)
{
	struct ex_exchange *x = ctx;
	struct ex_str out = EX_STR_INIT;
	ex_str_add(&out, json);
	ex_exchange_answer(x, status, &out);
	ex_exchange_unref(x);
}

static void start_balance(struct ex_exchange *x)
{
	const struct ex_admit *admit = x->g->o.admit;
	admit->ops->balance(admit->ctx, x->key, on_balance, ex_exchange_ref(x));
}

static void start_topup_status(struct ex_exchange *x)
{
	struct ex_api_error e;
	struct ex_str out = EX_STR_INIT;
	if (!x->g->o.topups) {
		ex_api_error_set(&e, MHD_HTTP_NOT_FOUND, "unknown_url", NULL, "there is no gate on top-ups here");
		ex_exchange_fail(x, &e);
		return;
	}
	ex_topups_status(x->g->o.topups, (int64_t)(ex_realtime_us() / 1000000), &out);
	ex_exchange_answer(x, MHD_HTTP_OK, &out);
}

static const struct ex_route routes[] = {
	{MHD_HTTP_METHOD_POST, "/chat/completions", EX_ASK_CHAT, ex_generation_start},
	{MHD_HTTP_METHOD_POST, "/completions", EX_ASK_COMPLETION, ex_generation_start},
	{MHD_HTTP_METHOD_POST, "/beta/completions", EX_ASK_COMPLETION, ex_generation_start},
	{MHD_HTTP_METHOD_GET, "/models", 0, start_models},
	{MHD_HTTP_METHOD_GET, "/user/balance", 0, start_balance},
	{MHD_HTTP_METHOD_GET, "/topups/status", 0, start_topup_status},
};

static const struct ex_route *find_route(const char *url, const char *method, struct ex_api_error *e)
{
	const char *path = strncmp(url, "/v1/", 4) ? url : url + 3;
	for (size_t i = 0; i < EX_ARRAY_LEN(routes); i++) {
		if (strcmp(routes[i].path, path))
			continue;
		if (!strcmp(routes[i].method, method))
			return &routes[i];
		ex_api_error_set(e, MHD_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed", routes[i].method,
			"%.16s is not answered here, %s is", method, routes[i].method);
		return NULL;
	}
	ex_api_error_set(e, MHD_HTTP_NOT_FOUND, "unknown_url", NULL, "there is nothing at %.16s %.200s", method, url);
	return NULL;
}

/* --- requests [http] ------------------------------------------------------------------------------------- */

static bool list_exchange(struct ex_gateway *g, struct ex_exchange *x)
{
	ex_lock_take(&g->lock);
	g->n_live++;
	x->serial = ++g->n_exchanges;
	x->next = g->first;
	if (g->first)
		g->first->prev = x;
	g->first = x;
	bool stopping = g->stopping;
	ex_lock_give(&g->lock);
	return !stopping;
}

static void unlist_exchange(struct ex_gateway *g, struct ex_exchange *x)
{
	ex_lock_take(&g->lock);
	if (x->next)
		x->next->prev = x->prev;
	if (x->prev)
		x->prev->next = x->next;
	else
		g->first = x->next;
	pthread_cond_broadcast(&g->gone);
	ex_lock_give(&g->lock);
}

/* The bearer token; -ENOMEM. */
static int take_key(struct ex_exchange *x, struct MHD_Connection *c)
{
	static const char scheme[] = "Bearer ";
	const char *v = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
	if (!v || strncasecmp(v, scheme, sizeof scheme - 1))
		return 0;
	x->key = strdup(v + sizeof scheme - 1);
	return x->key ? 0 : -ENOMEM;
}

static bool is_too_large(const struct ex_gateway *g, struct MHD_Connection *c)
{
	const char *v = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
	return v && strtoull(v, NULL, 10) > g->o.body_bytes_max; /* the library has checked it */
}

static void set_size_error(const struct ex_gateway *g, struct ex_api_error *e)
{
	ex_api_error_set(e, MHD_HTTP_CONTENT_TOO_LARGE, "request_too_large", NULL,
		"the body has more than %" PRIu64 " bytes", g->o.body_bytes_max);
}

/* The header is there. What is refused for it is so once the body was read, but for one that is too long. */
static enum MHD_Result begin(
	struct ex_gateway *g, struct MHD_Connection *c, const char *url, const char *method, void **state)
{
	struct ex_api_error e;
	struct ex_exchange *x = ex_exchange_new(g, c);
	if (!x)
		return MHD_NO;
	*state = x;
	bool serves = list_exchange(g, x);
	ex_watch_add(g->watch, x);
	ex_conn_expect(ex_conn_of(c), g->o.body_timeout_s);
	if (take_key(x, c) < 0)
		return MHD_NO;
	x->route = find_route(url, method, &e);
	if (!x->route) {
		ex_exchange_fail(x, &e);
	} else if (!serves) {
		ex_api_error_errno(&e, -ESHUTDOWN, "the server stops and takes no new requests");
		ex_exchange_fail(x, &e);
	}
	if (MHD_get_connection_values(c, MHD_HEADER_KIND, NULL, NULL) > HEADERS_MAX) {
		ex_api_error_set(&e, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", NULL,
			"more than %d headers", HEADERS_MAX);
		ex_exchange_fail(x, &e);
		return ex_exchange_reply(x, c);
	}
	if (!is_too_large(g, c))
		return MHD_YES;
	set_size_error(g, &e);
	ex_exchange_fail(x, &e);
	return ex_exchange_reply(x, c);
}

/* Keeps a piece of the body, or says why the request is refused. */
static bool keep_piece(struct ex_exchange *x, const char *data, size_t n, struct ex_api_error *e)
{
	struct ex_gateway *g = x->g;
	if (x->body.n + n > g->o.body_bytes_max) {
		set_size_error(g, e);
		return false;
	}
	if (atomic_load_explicit(&g->bodies_bytes, memory_order_relaxed) + n > g->o.bodies_bytes_max) {
		ex_api_error_errno(e, -EAGAIN, "as many bytes of requests as are kept wait to be read already");
		return false;
	}
	size_t before = x->body.n;
	ex_str_addn(&x->body, data, n);
	atomic_fetch_add_explicit(&g->bodies_bytes, x->body.n - before, memory_order_relaxed);
	return true;
}

/* What is refused is read on to its end, within bounds, so that the answer arrives. */
static enum MHD_Result take_body(struct ex_exchange *x, const char *data, size_t *n)
{
	struct ex_api_error e;
	bool wanted = x->route && !x->n_dropped;
	if (wanted && !keep_piece(x, data, *n, &e)) {
		ex_exchange_fail(x, &e);
		ex_exchange_drop_body(x);
		wanted = false;
	}
	if (!wanted)
		x->n_dropped += *n;
	*n = 0;
	return x->n_dropped > DROPPED_MAX || x->body.oom ? MHD_NO : MHD_YES;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
	const char *version, const char *data, size_t *n_data, void **state)
{
	struct ex_exchange *x = *state;
	(void)version;
	if (!x)
		return begin(ctx, c, url, method, state);
	EX_CHECK_OBJ(x, EX_EXCHANGE_MAGIC);
	if (*n_data)
		return take_body(x, data, n_data);
	ex_conn_relax(ex_conn_of(c));
	if (!x->started && ex_exchange_suspend(x)) {
		x->started = true;
		x->route->start(x);
		return MHD_YES;
	}
	return ex_exchange_reply(x, c);
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why)
{
	struct ex_gateway *g = ctx;
	struct ex_exchange *x = *state;
	(void)why;
	if (!x)
		return;
	*state = NULL;
	ex_conn_expect(ex_conn_of(c), g->o.idle_timeout_s);
	ex_watch_remove(g->watch, x);
	unlist_exchange(g, x);
	ex_lock_take(&x->lock);
	x->c = NULL;
	ex_lock_give(&x->lock);
	ex_exchange_abandon(x);
	ex_exchange_unref(x);
}

/* --- the whole ------------------------------------------------------------------------------------------- */

static int start_daemon(struct ex_gateway *g, struct ex_err *err)
{
	const struct ex_gateway_opts *o = &g->o;
	const unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | (o->https ? MHD_USE_TLS : 0);
	struct MHD_OptionItem tls[EX_HTTPS_OPTIONS];
	ex_https_options(o->https, tls);
	g->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, g, MHD_OPTION_LISTEN_SOCKET, g->socket.fd,
		MHD_OPTION_THREAD_POOL_SIZE, o->n_threads, MHD_OPTION_CONNECTION_LIMIT, o->connections_max,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)o->header_bytes_max, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, g, MHD_OPTION_NOTIFY_CONNECTION, ex_conn_notify, g, MHD_OPTION_CONNECTION_TIMEOUT,
		o->idle_timeout_s, MHD_OPTION_PER_IP_CONNECTION_LIMIT, o->connections_per_ip_max, MHD_OPTION_ARRAY, tls,
		MHD_OPTION_END);
	return g->daemon ? 0 : ex_err_set(err, -EIO, "cannot serve HTTP on '%s'", o->listen);
}

static void free_gateway(struct ex_gateway *g)
{
	g->reader = ex_jobs_free(g->reader);
	g->watch = ex_watch_free(g->watch);
	ex_socket_close(&g->socket);
	pthread_cond_destroy(&g->gone);
	ex_lock_done(&g->conns_lock);
	ex_lock_done(&g->lock);
	g->magic = 0;
	free(g);
}

int ex_gateway_start(const struct ex_gateway_opts *o, struct ex_err *err, struct ex_gateway **ret)
{
	struct ex_engine_stat s;
	struct ex_gateway *g = ex_calloc(1, sizeof *g);
	if (!g)
		return ex_err_errno(err, -ENOMEM, "cannot serve HTTP");
	g->magic = GATEWAY_MAGIC;
	g->o = *o;
	g->socket.fd = -1;
	g->start_s = ex_realtime_us() / 1000000;
	ex_engine_stat(o->engine, &s);
	g->n_ctx = (uint32_t)EX_MIN((uint64_t)s.n_pages * s.page_tokens, (uint64_t)s.n_ctx);
	ex_lock_init(&g->lock, "gateway");
	ex_lock_init(&g->conns_lock, "connections");
	ex_cond_init(&g->gone);
	int rc = ex_jobs_new("http-reader", LONG_ASKS_MAX, &g->reader);
	if (rc)
		ex_err_errno(err, rc, "cannot serve HTTP");
	if (!rc)
		rc = ex_watch_new(g, err, &g->watch);
	if (!rc)
		rc = o->listen_fd >= 0 ? ex_socket_adopt(o->listen_fd, err, &g->socket)
				       : ex_socket_listen(o->listen, o->socket_mode, err, &g->socket);
	if (!rc)
		rc = start_daemon(g, err);
	if (rc) {
		free_gateway(g);
		return rc;
	}
	*ret = g;
	return 0;
}

int ex_gateway_port(const struct ex_gateway *g)
{
	EX_CHECK_OBJ(g, GATEWAY_MAGIC);
	return g->socket.port;
}

uint64_t ex_gateway_turns(const struct ex_gateway *g)
{
	return ex_watch_turns(g->watch);
}

/* Whatever still has a connection is cut off; from now on nothing is suspended any more. */
static void cut_all(struct ex_gateway *g)
{
	ex_lock_take(&g->lock);
	for (struct ex_exchange *x = g->first; x; x = x->next)
		ex_exchange_abandon(x);
	ex_lock_give(&g->lock);
}

struct ex_gateway *ex_gateway_stop(struct ex_gateway *g, unsigned grace_ms)
{
	if (!g)
		return NULL;
	EX_CHECK_OBJ(g, GATEWAY_MAGIC);
	uint64_t deadline = ex_now_ns() + grace_ms * EX_NS_PER_MS;
	MHD_quiesce_daemon(g->daemon); /* the socket is ours to close */
	ex_socket_close(&g->socket);
	ex_lock_take(&g->lock);
	g->stopping = true;
	while (g->first && ex_cond_wait_until(&g->gone, &g->lock, deadline))
		;
	ex_lock_give(&g->lock);
	cut_all(g);
	MHD_stop_daemon(g->daemon);
	g->reader = ex_jobs_free(g->reader);
	ex_lock_take(&g->lock);
	while (g->n_live) /* what the engine and who admits still hold */
		ex_cond_wait(&g->gone, &g->lock);
	ex_lock_give(&g->lock);
	free_gateway(g);
	return NULL;
}
