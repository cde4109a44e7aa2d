/* SPDX-License-Identifier: Apache-2.0 */
/* Which host should hold which shard, and the moves that lead there from what is. Layer L2.
 *
 * Pure: no clock, no input or output, no randomness; the same input gives the same plan. All functions [any].
 *
 * The model of load: a shard's rows are split among its replicas in proportion to their hosts' speed, so each of them spends
 * load / (sum of its holders' speeds) on it. The time of a host is the sum over its shards. The mean is total load / total speed of
 * the hosts that are ready, whatever the placement, so imbalance = greatest time / mean is 1 at best. */
#ifndef EX_FLEET_PLANNER_H
#define EX_FLEET_PLANNER_H

#include "base/err.h"
#include "base/shard.h"

#define EX_PLANNER_HOSTS_MAX    1024
#define EX_PLANNER_SHARDS_MAX   (1 << 20)
#define EX_PLANNER_LAYERS_MAX   4096 /* of shard ids */
#define EX_PLANNER_REPLICAS_MAX 64   /* of one shard */
#define EX_PLANNER_SPEED_MIN    1e-3
#define EX_PLANNER_SPEED_MAX    1e6
#define EX_PLANNER_BYTES_MAX    (UINT64_C(1) << 53) /* of a host's memory, of a shard */
#define EX_PLANNER_NONE         UINT32_MAX

enum ex_planner_host_state {
	EX_PLANNER_READY,
	EX_PLANNER_DRAINING, /* serves what it holds until that is elsewhere; gets nothing new */
	EX_PLANNER_LOST,     /* what it held is gone */
};

struct ex_planner_host {
	const char *name, *zone; /* borrowed, never NULL; hosts of one zone may fail together */
	uint64_t memory_bytes;   /* for shards */
	double speed;            /* relative: twice the speed takes twice the rows in the same time */
	enum ex_planner_host_state state;
	bool fixed; /* nothing comes to it, and nothing leaves it, whatever its state and memory */
};

struct ex_planner_shard {
	struct ex_shard_id id; /* names it in messages; its layer tells what runs one after the other */
	uint64_t bytes;
	double load; /* in any unit, not negative; all zero: bytes stand for it */
};

/* One replica: indexes into hosts and shards. */
struct ex_planner_pair {
	uint32_t shard, host;
};

struct ex_planner_opts {
	uint32_t min_replicas, max_replicas;
	/* Bytes that the plan's loads may have; 0: no limit. What is under min_replicas comes first. */
	uint64_t budget_bytes;
	/* Moves for balance alone are left out when they lower both imbalances by less than this share of them (0.05). */
	double threshold;
	bool repair_only; /* no moves for balance */
};

struct ex_planner_input {
	const struct ex_planner_host *hosts;
	size_t n_hosts;
	const struct ex_planner_shard *shards;
	size_t n_shards;
	const struct ex_planner_pair *pairs; /* what is now, in any order, those of lost hosts included */
	size_t n_pairs;
	struct ex_planner_opts opts;
};

enum ex_planner_why {
	EX_WHY_MISSING = 1, /* fewer than min_replicas, and no host is known to have had it */
	EX_WHY_LOST,        /* about: the lost host */
	EX_WHY_DRAIN,       /* about: the draining host */
	EX_WHY_ZONE,        /* about: a host of the zone that has too many replicas */
	EX_WHY_MEMORY,      /* about: the host that holds more than its memory */
	EX_WHY_EXCESS,      /* more than max_replicas */
	EX_WHY_ROOM,        /* about: the shard that room is made for */
	EX_WHY_HOT,         /* figure: load over the mean load of a shard */
	EX_WHY_BALANCE,     /* about: the busiest host; figure: its time over the mean */
};
struct ex_planner_reason {
	enum ex_planner_why why;
	uint32_t about;
	float figure;
};

struct ex_planner_move {
	uint32_t shard, host;
	bool load; /* false: unload */
	struct ex_planner_reason reason;
};

struct ex_planner_figures {
	double imbalance;       /* greatest time / mean; 0: nothing is placed */
	double imbalance_layer; /* the same within each layer, averaged by load: layers run one after the other */
	uint32_t busiest_host;  /* EX_PLANNER_NONE: nothing is placed */
	uint32_t replicas_min, replicas_max;
	double replicas_mean;
	uint64_t bytes;       /* held in all */
	uint32_t n_uncovered; /* shards without a replica */
	uint32_t n_under;     /* shards with fewer than min_replicas */
	uint32_t n_few_zones; /* shards in fewer zones than could be: min(min_replicas, zones with a ready host) */
};

struct ex_planner_result {
	struct ex_planner_pair *pairs; /* after all moves, ascending by (shard, host) */
	size_t n_pairs;
	/* In this order, at no point has a shard fewer than min_replicas, or than it had at the start if that was less, and no load
	 * exceeds a host's memory beside all that is there. */
	struct ex_planner_move *moves;
	size_t n_moves;
	uint64_t bytes_moved; /* by loads */
	bool over_budget; /* more is wanted than budget_bytes allows: plan again after these moves; without moves, it is too small */
	struct ex_planner_figures before, after;
};

/* Plans. -EINVAL: the input contradicts itself; -ENOSPC: what is asked cannot be had; err has the numbers and the shard. The result is
 * to be freed with ex_planner_done; untouched on failure. */
int ex_planner_plan(const struct ex_planner_input *in, struct ex_err *err, struct ex_planner_result *ret);
void ex_planner_done(struct ex_planner_result *p);

/* The figures of in->pairs as they are. */
int ex_planner_measure(const struct ex_planner_input *in, struct ex_err *err, struct ex_planner_figures *ret);

/* "replica lost with host h3", "hot: 3.1x mean" into buf; returns buf. */
#define EX_PLANNER_REASON_MAX 160
char *ex_planner_reason_text(
	const struct ex_planner_input *in, const struct ex_planner_reason *r, char buf[static EX_PLANNER_REASON_MAX]);

#endif
