/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of a service that is not there yet. Layer L5. */
#include "core/gate.h"

#include <string.h>

/* A call that start let in has a service behind it: `real` is set once and never taken back. */
static const struct ex_method *behind(void *ctx)
{
	const struct ex_gate_entry *m = ctx;
	return atomic_load_explicit(&m->real, memory_order_acquire);
}

static int on_start(struct ex_rpc *rpc, void *ctx)
{
	const struct ex_method *r = behind(ctx);
	if (!r)
		return -ENOTCONN;
	return r->start ? r->start(rpc, r->ctx) : 0;
}

static void on_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	const struct ex_method *r = behind(ctx);
	r->message(rpc, m, r->ctx);
}

static void on_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	const struct ex_method *r = behind(ctx);
	if (r->done)
		r->done(rpc, cancelled, r->ctx);
}

void ex_gate_init(struct ex_gate *g, const char *const *paths, size_t message_bytes_max, int loop_i)
{
	g->n = 0;
	for (; *paths; paths++) {
		assert(g->n < EX_GATE_METHODS_MAX);
		struct ex_gate_entry *m = &g->m[g->n++];
		atomic_init(&m->real, NULL);
		m->method = (struct ex_method){
			.path = *paths,
			.loop_i = loop_i,
			.message_bytes_max = message_bytes_max,
			.start = on_start,
			.message = on_message,
			.done = on_done,
			.ctx = m,
		};
	}
}

void ex_gate_open(struct ex_gate *g, const struct ex_method *real)
{
	for (; real->path; real++) {
		assert(!real->half_close); /* one request: the server checks it */
		for (size_t i = 0; i < g->n; i++)
			if (strcmp(g->m[i].method.path, real->path) == 0)
				atomic_store_explicit(&g->m[i].real, real, memory_order_release);
	}
}
