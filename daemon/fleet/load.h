/* SPDX-License-Identifier: Apache-2.0 */
/* How much work each shard gets: rows counted as they go by, old ones for less and less. Layer L2. */
#ifndef EX_FLEET_LOAD_H
#define EX_FLEET_LOAD_H

#include "base/err.h"
#include <stdatomic.h>

#define EX_LOAD_SHARDS_MAX (1 << 20)

/* Counters of rows since the start, one a shard; the decay is worked out when they are looked at. */
struct ex_load {
	uint32_t n_shards;
	double half_life_ns;
	_Atomic uint64_t *rows; /* relaxed: a look may miss what is being added, and sees it the next time */
	/* of whoever looks */
	uint64_t *seen;
	double *decayed;
	uint64_t looked_ns;
};

/* Rows that came half_life_s ago count half. now_ns: a monotonic clock, as in every call. -EINVAL, -ENOMEM. [any] */
int ex_load_new(uint32_t n_shards, double half_life_s, uint64_t now_ns, struct ex_err *err, struct ex_load **ret);
struct ex_load *ex_load_free(struct ex_load *l);
EX_DEFINE_CLEANUP(struct ex_load, ex_load_free)

/* Adds rows to a shard's count. No lock, no allocation. [any] */
static inline void ex_load_add(struct ex_load *l, uint32_t shard, uint32_t rows)
{
	assert(shard < l->n_shards);
	atomic_fetch_add_explicit(&l->rows[shard], rows, memory_order_relaxed);
}

/* The decayed counts at now_ns into ret_loads[n_shards]. Rows since the last look are taken as having come evenly since then. A clock that
 * went back counts as one that stood. One caller at a time. */
void ex_load_look(struct ex_load *l, uint64_t now_ns, double *ret_loads);

#endif
