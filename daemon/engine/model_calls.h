/* SPDX-License-Identifier: Apache-2.0 */
/* What a router that switches the fleet to another model asks of expert hosts. Layer L3. Calls block: not from a loop. */
#ifndef EX_ENGINE_MODEL_CALLS_H
#define EX_ENGINE_MODEL_CALLS_H

#include "base/addr.h"
#include "net/client.h"

struct ex_model_calls {
	struct ex_loop *loop; /* borrowed, as all */
	struct ex_tls *tls;
	const char *node; /* name of this router */
	const char *dir, *digest;
	uint32_t n_groups;
	uint64_t decided_us; /* 0: not yet */
	unsigned timeout_ms; /* of commit and drop */
};

/* One host that is asked to prepare the model. */
struct ex_model_host {
	char name[64], address[EX_ADDR_MAX];
	/* out */
	int rc; /* 0: it holds the model */
	struct ex_err err;
	uint32_t done, total; /* shards */
};

/* Asks all at once and returns when each has answered. progress: a host has come further, or has answered (ended). go_on: false gives
 * up: -ECANCELED for those that have not answered. */
void ex_models_prepare(const struct ex_model_calls *c, struct ex_model_host *hosts, size_t n,
	void (*progress)(void *ctx, const struct ex_model_host *h, bool ended), bool (*go_on)(void *ctx), void *ctx);
/* -EBUSY: routers use the model before. */
int ex_models_commit(const struct ex_model_calls *c, const char *address, struct ex_err *err);
int ex_models_drop(const struct ex_model_calls *c, const char *address, struct ex_err *err);

#endif
