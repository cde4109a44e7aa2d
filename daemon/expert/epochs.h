/* SPDX-License-Identifier: Apache-2.0 */
/* The models that a host holds: the live one, and at most one that a router is going to switch to. Layer L2.
 *
 * An epoch is not a counter but the model's digest as a number (ex_epoch_of): hosts and routers need not agree on anything to mean the same
 * weights by it, and it stays good over restarts.
 *
 * prepare: the next model's shards are loaded beside the live ones and found by frames of its epoch.
 * commit:  on the disk first, then the next model is the live one and the one before is gone. Refused while routers use the one before.
 * drop:    the next model is gone again. Also by itself, when no router has used it for EX_EPOCHS_UNUSED_NS. */
#ifndef EX_EXPERT_EPOCHS_H
#define EX_EXPERT_EPOCHS_H

#include "expert/moves.h"
#include "expert/service.h"
#include "expert/swap.h"
#include <limits.h>

#define EX_EPOCHS_UNUSED_NS (600 * UINT64_C(1000000000))

#define EX_EPOCHS_FROZEN                                                                                               \
	"a switch to another model is under way on this host: shards cannot be changed until it is over"

struct ex_epochs;

/* The number that frames name a model by. */
static inline uint64_t ex_epoch_of(const char *digest)
{
	return ex_shard_identity(digest);
}

enum ex_epochs_event { EX_EPOCHS_PREPARED, EX_EPOCHS_COMMITTED, EX_EPOCHS_DROPPED };

struct ex_epochs_opts {
	struct ex_registry *registry; /* borrowed, as all but weights; its epoch is that of weights */
	struct ex_published *published;
	struct ex_swapper *swapper;
	struct ex_weights *weights; /* of the live model; a reference is taken */
	const char *dir;            /* its directory */
	uint64_t decided_us;        /* when it was switched to; 0: it is the configured one */
	struct ex_plugin *plugin;   /* the configured one */
	const struct expertd_host *host;
	const char *which;
	uint32_t n_groups;
	/* Streams of routers that use the weights of that epoch. [loader] */
	unsigned (*users)(void *ctx, uint64_t epoch);
	/* The router that moves shards here; NULL: none ever does. [loader] */
	bool (*claimed)(void *ctx, char router[static EX_MOVES_ROUTER_MAX]);
	/* Leaves on the disk that this model is the live one. [loader] */
	int (*keep)(void *ctx, const char *dir, const char *digest, uint64_t decided_us, struct ex_err *err);
	/* w in dir is the live model; a reference is to be taken. Returns when nobody looks at the one before any more. [loader] */
	void (*turned)(void *ctx, struct ex_weights *w, const char *dir);
	void (*told)(void *ctx, enum ex_epochs_event e, const char *dir, const char *digest); /* [loader] */
	void *ctx;
};
int ex_epochs_new(const struct ex_epochs_opts *o, struct ex_err *err, struct ex_epochs **ret);
/* After the swapper is gone, before the registry. [main] */
struct ex_epochs *ex_epochs_free(struct ex_epochs *e);

struct ex_epochs_ask {
	const char *dir, *digest; /* digest: of 64 hex digits */
	uint32_t n_groups;
	uint64_t decided_us; /* 0: not yet */
	void (*progress)(void *ctx, uint32_t done, uint32_t total);
	bool (*gone)(void *ctx); /* nobody waits for it any more */
	void *ctx;
};
/* On success the host holds the model, be it live or beside. On failure it holds what it held. -EINVAL: another digest, groups or shape than
 * asked; -ENOMEM: needed and available bytes in err; -EBUSY: routers use another next model; -ESTALE: the host was switched by a later
 * decision; -ECANCELED. [loader] */
int ex_epochs_prepare(struct ex_epochs *e, const struct ex_epochs_ask *ask, struct ex_err *err);
/* The published set for the model is on the disk: whoever decides that it is live may do so now, and a restart finds the set. commit does it
 * by itself. [loader] */
int ex_epochs_decide(struct ex_epochs *e, const char *digest, struct ex_err *err);
/* When it is live already, what else is prepared, and not used, is dropped. -EBUSY: routers use the model before; -ENOENT: it is not
 * prepared. [loader] */
int ex_epochs_commit(struct ex_epochs *e, const char *digest, uint64_t decided_us, struct ex_err *err);
/* 0 also when it is not there. -EBUSY: routers use it. [loader] */
int ex_epochs_drop(struct ex_epochs *e, const char *digest, struct ex_err *err);

struct ex_epochs_view {
	char live[EX_DIGEST_HEX], next[EX_DIGEST_HEX]; /* next "": none */
	uint64_t live_epoch, next_epoch;
};
void ex_epochs_view(struct ex_epochs *e, struct ex_epochs_view *ret); /* [any] */
/* The next model's directory, cut to fit, and digest; "": there is none. [any] */
void ex_epochs_next(struct ex_epochs *e, char dir[static PATH_MAX], char digest[static EX_DIGEST_HEX]);

/* PrepareModel, CommitModel and DropModel over it, path-NULL-terminated, for ex_experts_service_opts.more. In service_model.c. */
#define EX_EPOCHS_METHODS 4
void ex_epochs_methods(struct ex_epochs *e, struct ex_method out[static EX_EPOCHS_METHODS]);
struct ex_swapper *ex_epochs_swapper(const struct ex_epochs *e);

#endif
