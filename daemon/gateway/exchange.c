/* SPDX-License-Identifier: Apache-2.0 */
/* A request's way out: the buffer between who makes the answer and who sends it. Layer L4. */
#include "gateway/exchange.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/metrics.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define ID_BYTES    16
#define BLOCK_BYTES 4096 /* handed to the connection at a time */

/* --- life ------------------------------------------------------------------------------------------------ */

struct ex_exchange *ex_exchange_new(struct ex_gateway *g, struct MHD_Connection *c)
{
	uint8_t random[ID_BYTES];
	struct ex_exchange *x = ex_calloc(1, sizeof *x);
	if (!x || getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
		free(x);
		return NULL;
	}
	ex_hex(random, sizeof random, x->id);
	x->magic = EX_EXCHANGE_MAGIC;
	atomic_init(&x->n_refs, 1);
	x->g = g;
	x->c = c;
	x->status = MHD_HTTP_OK;
	x->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	ex_lock_init(&x->lock, "exchange");
	return x;
}

void ex_exchange_drop_body(struct ex_exchange *x)
{
	atomic_fetch_sub_explicit(&x->g->bodies_bytes, x->body.n, memory_order_relaxed);
	ex_str_done(&x->body);
}

struct ex_exchange *ex_exchange_ref(struct ex_exchange *x)
{
	EX_CHECK_OBJ(x, EX_EXCHANGE_MAGIC);
	atomic_fetch_add_explicit(&x->n_refs, 1, memory_order_relaxed);
	return x;
}

void ex_exchange_unref(struct ex_exchange *x)
{
	EX_CHECK_OBJ(x, EX_EXCHANGE_MAGIC);
	/* release what this holder did; the last one acquires it before freeing */
	if (atomic_fetch_sub_explicit(&x->n_refs, 1, memory_order_acq_rel) > 1)
		return;
	struct ex_gateway *g = x->g;
	ex_generation_done(x);
	ex_exchange_drop_body(x);
	ex_str_done(&x->out);
	free(x->key);
	ex_lock_done(&x->lock);
	x->magic = 0;
	free(x);
	ex_lock_take(&g->lock);
	g->n_live--;
	pthread_cond_broadcast(&g->gone);
	ex_lock_give(&g->lock);
}

/* --- waiting and waking ---------------------------------------------------------------------------------- */

static void suspend(struct ex_exchange *x)
{
	x->suspended = true;
	MHD_suspend_connection(x->c);
}

bool ex_exchange_suspend(struct ex_exchange *x)
{
	ex_lock_take(&x->lock);
	bool ok = !x->ended;
	if (ok)
		suspend(x);
	ex_lock_give(&x->lock);
	return ok;
}

void ex_exchange_wake(struct ex_exchange *x)
{
	if (!x->suspended || !x->c)
		return;
	x->suspended = false;
	MHD_resume_connection(x->c);
}

void ex_exchange_end(struct ex_exchange *x)
{
	x->ready = x->ended = true;
	x->cut |= x->out.oom;
	x->waits_since_ns = 0;
	ex_exchange_wake(x);
}

void ex_exchange_fail(struct ex_exchange *x, const struct ex_api_error *e)
{
	ex_lock_take(&x->lock);
	if (!x->ended) {
		if (!x->replied) /* events that nobody has seen */
			ex_str_reset(&x->out);
		if (x->replied && x->ask.stream)
			ex_str_add(&x->out, "data: ");
		ex_api_error_body(e, &x->out);
		ex_str_add(&x->out, x->replied && x->ask.stream ? "\n\n" : "\n");
		x->status = e->status;
		x->error = *e;
		ex_exchange_end(x);
	}
	ex_lock_give(&x->lock);
}

void ex_exchange_answer(struct ex_exchange *x, int status, struct ex_str *body)
{
	ex_lock_take(&x->lock);
	if (!x->ended) {
		x->status = status;
		x->out = *body;
		*body = EX_STR_INIT;
		ex_exchange_end(x);
	}
	ex_lock_give(&x->lock);
	ex_str_done(body);
}

void ex_exchange_abandon(struct ex_exchange *x)
{
	ex_lock_take(&x->lock);
	if (!x->ended) {
		x->cut = true;
		ex_exchange_end(x);
	}
	ex_generation_cancel(x);
	ex_lock_give(&x->lock);
}

/* An answer that waits is begun with blank lines, a stream's with comments: proxies and clients see that somebody is there. */
void ex_exchange_tick(struct ex_exchange *x, uint64_t now_ns)
{
	const struct ex_gateway_opts *o = &x->g->o;
	ex_lock_take(&x->lock);
	bool late = x->waits_since_ns && !x->running && !x->error.status &&
		    now_ns - x->waits_since_ns >= o->start_timeout_s * EX_NS_PER_S;
	if (late) {
		ex_api_error_set(&x->error, MHD_HTTP_SERVICE_UNAVAILABLE, "overloaded", NULL,
			"the request was not begun within %u s", o->start_timeout_s);
		ex_generation_cancel(x);
	} else if (x->waits_since_ns && !x->ended && now_ns - x->last_ns >= o->keep_alive_s * EX_NS_PER_S) {
		ex_str_add(&x->out, x->ask.stream ? EX_REPLY_KEEP_ALIVE : "\n");
		x->ready = true;
		x->last_ns = now_ns;
		ex_exchange_wake(x);
	}
	ex_lock_give(&x->lock);
}

/* --- the reply [http] ------------------------------------------------------------------------------------ */

static ssize_t pull(void *ctx, uint64_t pos, char *buf, size_t max)
{
	struct ex_exchange *x = ctx;
	ssize_t n = 0;
	(void)pos;
	ex_lock_take(&x->lock);
	if (x->cut || x->out.oom) {
		n = MHD_CONTENT_READER_END_WITH_ERROR;
	} else if (x->out_at < x->out.n) {
		size_t part = EX_MIN(max, x->out.n - x->out_at);
		memcpy(buf, x->out.s + x->out_at, part);
		x->out_at += part;
		x->last_ns = ex_now_ns();
		n = (ssize_t)part;
		if (x->out_at == x->out.n) {
			ex_str_reset(&x->out);
			x->out_at = 0;
		}
	} else if (x->ended) {
		n = MHD_CONTENT_READER_END_OF_STREAM;
	} else {
		suspend(x);
	}
	ex_lock_give(&x->lock);
	return n;
}

static void drop(void *ctx)
{
	ex_exchange_unref(ctx);
}

static bool put_header(struct MHD_Response *r, const char *name, const char *value)
{
	return MHD_add_response_header(r, name, value) == MHD_YES;
}

static bool put_number(struct MHD_Response *r, const char *name, int64_t value, const char *unit)
{
	char text[40];
	if (value < 0)
		return true;
	snprintf(text, sizeof text, "%" PRId64 "%s", value, unit);
	return put_header(r, name, text);
}

static bool put_headers(const struct ex_exchange *x, struct MHD_Response *r)
{
	const struct ex_admit_answer *l = &x->limits;
	const bool events = x->ask.stream && x->status == MHD_HTTP_OK;
	bool ok = put_header(r, "x-request-id", x->id) &&
		  put_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, events ? "text/event-stream" : "application/json") &&
		  put_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
	if (x->error.retry_after_s)
		ok = ok && put_number(r, MHD_HTTP_HEADER_RETRY_AFTER, x->error.retry_after_s, "");
	if (x->status == MHD_HTTP_METHOD_NOT_ALLOWED)
		ok = ok && put_header(r, MHD_HTTP_HEADER_ALLOW, x->error.param);
	if (x->status == MHD_HTTP_UNAUTHORIZED)
		ok = ok && put_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
	if (!x->has_limits)
		return ok;
	return ok && put_number(r, "x-ratelimit-limit-requests", l->limit_requests, "") &&
	       put_number(r, "x-ratelimit-remaining-requests", l->remaining_requests, "") &&
	       put_number(r, "x-ratelimit-reset-requests", l->reset_requests_ms, "ms") &&
	       put_number(r, "x-ratelimit-limit-tokens", l->limit_tokens, "") &&
	       put_number(r, "x-ratelimit-remaining-tokens", l->remaining_tokens, "") &&
	       put_number(r, "x-ratelimit-reset-tokens", l->reset_tokens_ms, "ms");
}

/* Under the lock: an answer that is there whole goes out with its length, another in pieces. */
static struct MHD_Response *make_response(struct ex_exchange *x)
{
	if (!x->ended) {
		struct MHD_Response *r = MHD_create_response_from_callback(
			MHD_SIZE_UNKNOWN, BLOCK_BYTES, pull, ex_exchange_ref(x), drop);
		if (!r)
			ex_exchange_unref(x);
		return r;
	}
	if (x->cut || x->out.oom)
		return NULL;
	size_t n = x->out.n;
	char *body = ex_str_take(&x->out);
	struct MHD_Response *r = MHD_create_response_from_buffer(n, body, MHD_RESPMEM_MUST_FREE);
	if (!r)
		free(body);
	return r;
}

enum MHD_Result ex_exchange_reply(struct ex_exchange *x, struct MHD_Connection *c)
{
	ex_lock_take(&x->lock);
	assert(x->ready);
	struct MHD_Response *r = make_response(x);
	bool ok = r && put_headers(x, r);
	unsigned status = (unsigned)x->status;
	x->replied = true;
	ex_lock_give(&x->lock);
	char text[12];
	snprintf(text, sizeof text, "%u", status);
	if (ok)
		ex_metric_add(ex_metric(EX_M_HTTP_REQUESTS, text), 1);
	enum MHD_Result rc = ok ? MHD_queue_response(c, status, r) : MHD_NO;
	if (r)
		MHD_destroy_response(r);
	return rc;
}
