/* SPDX-License-Identifier: Apache-2.0 */
/* The registry from the inside: what registry.c and generation.c share. Layer L2. */
#ifndef EX_EXPERT_REGISTRY_INT_H
#define EX_EXPERT_REGISTRY_INT_H

#include "base/lock.h"
#include "expert/registry.h"
#include "expert/ring.h"
#include <stdatomic.h>

#define EX_REGISTRY_MAGIC   0x72656769
#define EX_GENERATION_MAGIC 0x67656e65

/* An opened device of a plugin, shared by its shards. Loader thread only, but for `which`, which is constant. */
struct ex_device {
	struct ex_device *next;
	struct ex_plugin *plugin;
	char *which;
	const struct expertd_host *host;
	struct expertd_device *dev;
	uint32_t n_shards;
};

struct ex_generation {
	uint32_t magic;
	struct ex_registry *registry;
	struct ex_shard_id id;
	uint32_t number; /* 0: not published yet */
	uint64_t epoch;  /* of its weights, once published or staged */
	struct ex_device *device;
	struct expertd_shard *shard;
	uint64_t bytes;
	char plugin[64], identity[EX_IDENTITY_HEX];
	uint64_t identity_number;
	struct ex_metric *m_rows, *m_seconds; /* of its layer */
	struct ex_ring *ring;                 /* of its slot, once published; NULL: nothing is recorded */
	_Atomic uint64_t n_rows, last_run_ns;
	_Atomic uint32_t n_pins;
	struct ex_generation *next; /* in r->retired; guarded by r->lock */
};

struct ex_slot {
	struct ex_shard_id id;
	_Atomic(struct ex_generation *) live;   /* release by the loader, acquire by readers */
	_Atomic(struct ex_generation *) staged; /* of the next epoch; as live */
	struct ex_ring *ring;                   /* made at the first publish, [loader] */
	/* guarded by r->lock */
	enum ex_shard_state state; /* 0: never asked for */
	uint32_t n_generations;
	struct ex_generation *linger; /* unpublished, kept for a rollback */
	uint64_t linger_until_ns;
	char error[256];
};

struct ex_registry {
	uint32_t magic;
	struct ex_registry_opts o;
	struct ex_lock lock;
	struct ex_device *devices;     /* [loader] */
	size_t record_bytes;           /* of all rings, [loader] */
	struct ex_generation *retired; /* unpublished, not yet unloaded; guarded by lock */
	_Atomic uint64_t revision;
	_Atomic uint64_t epoch, next_epoch; /* of what is live, of what is staged; written under lock */
	_Atomic bool staging;               /* next_epoch counts */
	uint32_t n_slots;
	struct ex_slot slot[];
};

/* The slot of a shard, NULL when the fleet has no such range. */
struct ex_slot *ex_registry_slot(struct ex_registry *r, uint32_t layer, uint32_t first_expert);
/* A slot's memory for batches, while all of it is not given out; NULL: none. [loader] */
struct ex_ring *ex_slot_ring(struct ex_registry *r, struct ex_slot *s);
/* Makes `next` (or nothing) the slot's live generation; returns the one that was. r->lock is held. */
struct ex_generation *ex_slot_exchange(struct ex_registry *r, struct ex_slot *s, struct ex_generation *next);
/* g, unpublished, is to be unloaded at the next reap; NULL: nothing. r->lock is held. */
void ex_registry_retire(struct ex_registry *r, struct ex_generation *g);
/* Unloads what is retired. [loader] */
void ex_registry_reap(struct ex_registry *r);
/* What g says of the shard, into v. r->lock is held. */
void ex_generation_view(const struct ex_generation *g, struct ex_shard_view *v);

/* What a plugin's function said: 0 or -errno; anything else, and a success without its result, is -EPROTO. */
int ex_plugin_answer(int rc, const void *result);

/* Loads the shard for no one to find. -ENOMEM and others as ex_registry_load, without the shard's name. [loader] */
int ex_generation_load(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err,
	struct ex_generation **ret);
/* Unloads: nobody can find it, nobody pins it. [loader] */
void ex_generation_unload(struct ex_generation *g);
/* Closes the devices that hold no shard. [loader] */
void ex_devices_close(struct ex_registry *r);

#endif
