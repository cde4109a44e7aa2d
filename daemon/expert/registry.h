/* SPDX-License-Identifier: Apache-2.0 */
/* The shards that this process holds: loaded through plugins, pinned while they run. Layer L2.
 * Readers find a shard's live generation under RCU and pin it; a generation is unloaded when it is unpublished and
 * unpinned.
 *
 * Frames name the weights that they are for by an epoch. The live generations are of one epoch; generations of the next one may be staged
 * beside them, found by frames of that epoch alone, until they turn live together (registry_epoch.c). */
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

#define EX_SHA256_BYTES 32
#define EX_IDENTITY_HEX (2 * EX_SHA256_BYTES + 1)

struct ex_registry_opts {
	uint32_t n_experts, n_groups, n_layers; /* of the model */
	uint32_t d_model;                       /* of the model; needed for recording only */
	bool check_finite;                      /* look for NaN in weights while loading */
	uint64_t epoch;                         /* that frames call these weights by */
	/* Memory for recorded batches: in all, and of one shard. 0: nothing is recorded. */
	size_t record_bytes, record_bytes_each;
};
int ex_registry_new(const struct ex_registry_opts *o, struct ex_registry **ret);
/* Unloads everything; no work may be in progress. [loader] */
struct ex_registry *ex_registry_free(struct ex_registry *r);

/* Loads one shard with plugin p (its device `which`) from w and publishes it as the next generation. On failure the
 * shard is FAILED with the error kept, an older generation serves on, and the process lives: -ENOMEM (needed and
 * available bytes in err), -EINVAL (NaN: tensor named). [loader] */
int ex_registry_load(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err);

/* Whether a shard's weights fit the memory that is there now: -ENOMEM, needed and available bytes in err. [loader] */
int ex_registry_check_memory(
	struct ex_registry *r, const struct ex_shard_id *id, struct ex_weights *w, struct ex_err *err);
/* The same for a number of bytes. */
int ex_registry_check_room(uint64_t bytes, struct ex_err *err);
/* As ex_registry_load, but nobody finds it yet: it is to be published or discarded. State and error of the shard stay. [loader] */
int ex_registry_prepare(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err,
	struct ex_generation **ret);
struct ex_generation *ex_registry_discard(struct ex_generation *g); /* [loader] */
EX_DEFINE_CLEANUP(struct ex_generation, ex_registry_discard)
/* Takes g: it is the live one from now on, and gets the next number, which is returned. The one before it lingers until then, or is
 * retired when that is 0; what lingered before is retired. Retired ones are unloaded at the next sweep. [loader] */
uint32_t ex_registry_publish(struct ex_generation *g, uint64_t linger_until_ns);
/* What an operator should know of a shard that serves; until its next generation. [loader] */
void ex_registry_note(struct ex_registry *r, const struct ex_shard_id *id, const char *text);
/* The live and the lingering generation change places. -ENOENT: none lingers. [loader] */
int ex_registry_rollback(struct ex_registry *r, const struct ex_shard_id *id, uint64_t linger_until_ns);
/* The generation that lingers, pinned; NULL: none. [loader] */
struct ex_generation *ex_registry_lingering(struct ex_registry *r, const struct ex_shard_id *id);
/* Unpublishes and unloads the shard, what lingers included. -ENOENT: it is not here. [loader] */
int ex_registry_withdraw(struct ex_registry *r, const struct ex_shard_id *id);
/* Waits until the lingering generation is not running any more. [loader] */
void ex_registry_settle(struct ex_registry *r, const struct ex_shard_id *id);
/* Unloads what is retired, and what has lingered until now_ns; returns how many of the latter. [loader] */
size_t ex_registry_sweep(struct ex_registry *r, uint64_t now_ns);

/* The live generation of the shard, pinned; NULL when it is not here. [any] */
struct ex_generation *ex_registry_pin(struct ex_registry *r, uint32_t layer, uint32_t first_expert);
/* The same of one epoch, live or staged. [any] */
struct ex_generation *ex_registry_pin_epoch(
	struct ex_registry *r, uint64_t epoch, uint32_t layer, uint32_t first_expert);
void ex_generation_unpin(struct ex_generation *g);
const struct ex_shard_id *ex_generation_id(const struct ex_generation *g);
uint32_t ex_generation_number(const struct ex_generation *g);
uint64_t ex_generation_identity(const struct ex_generation *g);         /* ex_shard_identity of its numeric identity */
const char *ex_generation_identity_text(const struct ex_generation *g); /* hex */
const char *ex_generation_plugin(const struct ex_generation *g);        /* "cpu 1.0 avx2" */
const struct ex_plugin *ex_generation_code(const struct ex_generation *g);
/* The numeric identity that the shard of w has, computed by p. [loader] */
int ex_shard_identity_with(const struct ex_shard_id *id, const struct ex_plugin *p, struct ex_weights *w,
	struct ex_err *err, char out[static EX_IDENTITY_HEX]);
/* Before it is published: its bits are known to be those of another. [loader] */
void ex_generation_set_identity(struct ex_generation *g, const char *identity);
/* plugin->run and nothing else: counted nowhere, recorded nowhere. Nobody else may run g meanwhile. [loader] */
int ex_generation_try(struct ex_generation *g, const struct expertd_batch *b);
/* g's device is sick: every shard that it computes goes out of service, or, when it was replaced lately, back to the generation before. [any] */
void ex_generation_fail(struct ex_generation *g);
/* plugin->run, and -EIO bookkeeping; -EPROTO when it answers neither 0 nor -errno. Never twice at once on one generation: the executor sees to it. [worker] */
int ex_generation_run(struct ex_generation *g, const struct expertd_batch *b);

/* The plugin of this digest that a shard is loaded with, borrowed; NULL: none. [loader] */
struct ex_plugin *ex_registry_plugin(struct ex_registry *r, const char *sha256);
uint32_t ex_registry_width(const struct ex_registry *r); /* the model's d_model */
/* The newest batches (at most max) that the shard computed; newest first, each freed by free(). Returns how many. [loader] */
struct ex_batch;
size_t ex_registry_recorded(struct ex_registry *r, const struct ex_shard_id *id, struct ex_batch **out, size_t max);

/* --- epochs: registry_epoch.c ------------------------------------------------------------------------------- */
uint64_t ex_registry_epoch(const struct ex_registry *r);                 /* of what is live [any] */
bool ex_registry_has_epoch(const struct ex_registry *r, uint64_t epoch); /* live or staged [any] */
/* Generations of `epoch` may be staged from now on; none of another one is. [loader] */
void ex_registry_stage_epoch(struct ex_registry *r, uint64_t epoch);
/* Takes g, prepared from that epoch's weights: frames of the epoch find it. [loader] */
void ex_registry_stage(struct ex_generation *g);
/* Drops what is staged, and its epoch. [loader] */
void ex_registry_unstage(struct ex_registry *r);
/* What is staged is live from now on. What was live, and what lingered, is unloaded; a shard without a staged generation goes out of
 * service. Nothing of it can fail. [loader] */
void ex_registry_turn(struct ex_registry *r);

/* Grows whenever a shard is published or withdrawn. [any] */
uint64_t ex_registry_revision(const struct ex_registry *r);

struct ex_shard_view {
	struct ex_shard_id id;
	enum ex_shard_state
		state; /* READY with an error: the last load failed and an older generation serves on, or a note */
	uint32_t generation, newest; /* number of the live one, 0: none; of the last that was published */
	uint32_t lingering;          /* number of the generation kept for a rollback; 0: none */
	uint64_t bytes, rows;
	uint64_t last_run_ns, linger_until_ns; /* ex_now_ns time; 0: never */
	char plugin[64];                       /* "cpu 1.0 avx2" */
	char identity[EX_IDENTITY_HEX];        /* numeric identity, hex */
	char sha256[65], lingering_sha256[65]; /* of the plugins' files */
	char error[256];
};
/* Calls fn for every shard, ascending by (layer, first_expert). fn must not call back into the registry. [any] */
void ex_registry_each(struct ex_registry *r, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx);
/* The same of one epoch: of a staged one only what is staged. [any] */
void ex_registry_each_of(
	struct ex_registry *r, uint64_t epoch, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx);

#endif
