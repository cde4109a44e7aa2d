/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP edge: the public API in front of an engine. Layer L4. Threads of libmicrohttpd, one that watches clients, one that reads long requests. */
#ifndef EX_GATEWAY_EDGE_H
#define EX_GATEWAY_EDGE_H

#include "engine/engine.h"
#include "gateway/admit.h"
#include "gateway/edge_model.h"
#include "gateway/topups.h"
#include "gateway/https.h"

struct ex_gateway;

struct ex_gateway_opts {
	const char *listen;     /* "HOST:PORT", port 0 takes a free one, or "unix:PATH"; unused with listen_fd */
	int listen_fd;          /* a listening socket that was handed over, taken; -1: none */
	uint32_t socket_mode;   /* of a unix socket */
	struct ex_https *https; /* NULL: plain HTTP */
	unsigned n_threads;
	struct ex_engine *engine; /* borrowed, as all pointers; its models' `user` is an ex_edge_model */
	const char *model_name;   /* what answers carry */
	const struct ex_admit *admit;
	struct ex_topups *topups;                         /* whose state is public; NULL: none */
	uint32_t connections_max, connections_per_ip_max; /* per ip 0: no limit */
	uint32_t header_bytes_max; /* of a request line and its headers; also what a connection takes at least */
	uint32_t json_depth_max;
	uint64_t body_bytes_max, bodies_bytes_max, prompt_bytes_max; /* bodies: of all that were not read yet */
	uint64_t
		reply_bytes_max; /* of an answer that is not read, or is not streamed; beyond it the request is cancelled */
	uint32_t max_tokens_default;
	unsigned keep_alive_s, start_timeout_s, header_timeout_s, idle_timeout_s, body_timeout_s;
};

/* Serves. -EADDRINUSE and others name the address. [loader] */
int ex_gateway_start(const struct ex_gateway_opts *o, struct ex_err *err, struct ex_gateway **ret);
int ex_gateway_port(const struct ex_gateway *g); /* 0: a unix socket */
/* Takes no connections any more, waits up to grace_ms for answers to get out, cuts the rest. The engine's requests have ended by then, or end while
 * this waits for them. [main] */
struct ex_gateway *ex_gateway_stop(struct ex_gateway *g, unsigned grace_ms);
uint64_t ex_gateway_turns(const struct ex_gateway *g); /* for the watchdog: of the watching thread */

#endif
