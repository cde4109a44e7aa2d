/* SPDX-License-Identifier: Apache-2.0 */
/* The Router service (proto/expertd/router.proto) over an engine. Layer L3. */
#ifndef EX_ENGINE_SERVICE_H
#define EX_ENGINE_SERVICE_H

#include "engine/engine.h"
#include "net/server.h"

struct ex_router_service;
struct ex_router_service_opts {
	struct ex_engine *engine; /* borrowed, as all */
	const char *model_name;
	uint64_t reply_bytes_max; /* queued towards a client that does not read; beyond it the request is cancelled */
	uint32_t prompt_bytes_max;
};
int ex_router_service_new(const struct ex_router_service_opts *o, struct ex_router_service **ret);
/* Reads nothing more. After the servers were stopped, before the engine is freed. [main] */
void ex_router_service_stop(struct ex_router_service *s);
struct ex_router_service *ex_router_service_free(struct ex_router_service *s);
/* Path-NULL-terminated; one list per server, 4 at most, each living as long as s. The servers are stopped, then s, before the engine and s are freed. */
const struct ex_method *ex_router_service_methods(struct ex_router_service *s, int loop_i);

#endif
