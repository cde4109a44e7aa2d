/* SPDX-License-Identifier: Apache-2.0 */
/* The shards that this process holds: loaded through plugins, pinned while they run. Layer L2.
 * Readers find a shard's live generation under RCU and pin it; a generation is unloaded when it is unpublished and
 * unpinned. */
#ifndef EX_EXPERT_REGISTRY_H
#define EX_EXPERT_REGISTRY_H

#include "base/shard.h"
#include "expert/loader.h"
#include "model/weights.h"

/* That shards leave free: threads, streams and batches come after them. */
#define EX_REGISTRY_RESERVE_BYTES ((size_t)128 << 20)

struct ex_registry;
struct ex_generation; /* one loaded shard: (shard id, plugin device, number) */

enum ex_shard_state { EX_SHARD_LOADING = 1, EX_SHARD_READY, EX_SHARD_FAILED, EX_SHARD_DRAINING };
const char *ex_shard_state_name(enum ex_shard_state s);

struct ex_registry_opts {
	uint32_t n_experts, n_groups, n_layers; /* of the model */
	bool check_finite;                      /* look for NaN in weights while loading */
};
int ex_registry_new(const struct ex_registry_opts *o, struct ex_registry **ret);
/* Unloads everything; no work may be in progress. [loader] */
struct ex_registry *ex_registry_free(struct ex_registry *r);

/* Loads one shard with plugin p (its device `which`) from w and publishes it as the next generation. On failure the
 * shard is FAILED with the error kept, an older generation serves on, and the process lives: -ENOMEM (needed and
 * available bytes in err), -EINVAL (NaN: tensor named). [loader] */
int ex_registry_load(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err);

/* The live generation of the shard, pinned; NULL when it is not here. [any] */
struct ex_generation *ex_registry_pin(struct ex_registry *r, uint32_t layer, uint32_t first_expert);
void ex_generation_unpin(struct ex_generation *g);
const struct ex_shard_id *ex_generation_id(const struct ex_generation *g);
uint32_t ex_generation_number(const struct ex_generation *g);
uint64_t ex_generation_identity(const struct ex_generation *g); /* ex_shard_identity of its numeric identity */
/* plugin->run, and -EIO bookkeeping; -EPROTO when it answers neither 0 nor -errno. Never twice at once on one generation: the executor sees to it. [worker] */
int ex_generation_run(struct ex_generation *g, const struct expertd_batch *b);

/* Grows whenever a shard is published or withdrawn. [any] */
uint64_t ex_registry_revision(const struct ex_registry *r);

struct ex_shard_view {
	struct ex_shard_id id;
	enum ex_shard_state state; /* READY with an error: the last load failed, an older generation serves on */
	uint32_t generation;
	uint64_t bytes, rows;
	char plugin[64];   /* "cpu 1.0 avx2" */
	char identity[65]; /* numeric identity, hex */
	char error[256];
};
/* Calls fn for every shard, ascending by (layer, first_expert). fn must not call back into the registry. [any] */
void ex_registry_each(struct ex_registry *r, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx);

#endif
