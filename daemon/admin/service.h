/* SPDX-License-Identifier: Apache-2.0 */
/* The Admin service (proto/expertd/admin.proto): what operators see and ask for. Layer L4.
 * It serves from the first moment of a start on; rooms are shown to it as they come up and taken away before they go. */
#ifndef EX_ADMIN_SERVICE_H
#define EX_ADMIN_SERVICE_H

#include "admin/switch.h"
#include "engine/engine.h"
#include "engine/mover.h"
#include "expert/swap.h"
#include "net/server.h"

struct ex_admin;

enum ex_admin_state { EX_ADMIN_STARTING, EX_ADMIN_READY, EX_ADMIN_DRAINING };

struct ex_admin_opts {
	const char *node, *version, *model_name; /* borrowed, as all */
	bool is_expert, is_router;
	uint32_t min_replicas, max_replicas; /* of plans that do not say */
	struct ex_loop *loop;                /* that serves the methods; also runs the timer of followed events */
	/* All [cq] of loop. */
	void (*dump_config)(void *ctx, struct ex_str *out);
	int (*reload)(void *ctx, struct ex_err *err, void (*changed)(void *fn_ctx, const char *name, bool taken),
		void *fn_ctx);
	/* Calls fn for every plugin file, as ex_plugin_each. Not asked while starting. */
	int (*each_plugin)(void *ctx,
		void (*fn)(void *fn_ctx, const char *path, const struct ex_plugin *p, const char *why), void *fn_ctx,
		struct ex_err *err);
	/* Takes a switch to another model; NULL: this node is no router. */
	int (*switch_model)(
		void *ctx, const char *dir, bool move, const struct ex_switch_client *c, struct ex_err *err);
	void (*view_model)(void *ctx, struct ex_switch_view *ret);
	void *ctx;
};
int ex_admin_new(const struct ex_admin_opts *o, struct ex_err *err, struct ex_admin **ret);
/* After the server is stopped. [main] */
struct ex_admin *ex_admin_free(struct ex_admin *a);

/* The rooms, each NULL while it is not there. Returns when no view of what was there before is in progress: then it may go. [any] */
struct ex_admin_parts {
	struct ex_weights *weights;
	struct ex_registry *registry;
	struct ex_swapper *swapper;
	struct ex_dispatch *dispatch;
	struct ex_mover *mover;
	struct ex_engine *engine;
	char expert_plugin[64]; /* "cpu 1.0 avx2" */
	unsigned expert_threads;
};
void ex_admin_show(struct ex_admin *a, const struct ex_admin_parts *parts);
void ex_admin_set_state(struct ex_admin *a, enum ex_admin_state s); /* [any] */

/* Path-NULL-terminated; live as long as a. */
const struct ex_method *ex_admin_methods(struct ex_admin *a, int loop_i);

#endif
