/* SPDX-License-Identifier: Apache-2.0 */
/* Decaying counts of rows per shard. Layer L2. */
#include "fleet/load.h"

#include "base/clock.h"
#include "base/mem.h"
#include <math.h>

int ex_load_new(uint32_t n_shards, double half_life_s, uint64_t now_ns, struct ex_err *err, struct ex_load **ret)
{
	if (n_shards > EX_LOAD_SHARDS_MAX)
		return ex_err_set(err, -EINVAL, "%u shards, at most %d are counted", n_shards, EX_LOAD_SHARDS_MAX);
	if (!(half_life_s > 0 && half_life_s <= 1e9))
		return ex_err_set(err, -EINVAL, "a half-life of %g s is not above 0 and at most 1e9", half_life_s);
	EX_CLEANUP(ex_load_freep) struct ex_load *l = ex_calloc(1, sizeof *l);
	if (!l)
		return ex_err_errno(err, -ENOMEM, "cannot count rows");
	l->n_shards = n_shards;
	l->half_life_ns = half_life_s * (double)EX_NS_PER_S;
	l->looked_ns = now_ns;
	l->rows = ex_calloc(n_shards, sizeof *l->rows);
	l->seen = ex_calloc(n_shards, sizeof *l->seen);
	l->decayed = ex_calloc(n_shards, sizeof *l->decayed);
	if (!l->rows || !l->seen || !l->decayed)
		return ex_err_errno(err, -ENOMEM, "cannot count rows of %u shards", n_shards);
	*ret = EX_TAKE(l);
	return 0;
}

struct ex_load *ex_load_free(struct ex_load *l)
{
	if (l) {
		free(l->rows);
		free(l->seen);
		free(l->decayed);
		free(l);
	}
	return NULL;
}

void ex_load_look(struct ex_load *l, uint64_t now_ns, double *ret_loads)
{
	double halvings = now_ns > l->looked_ns ? (double)(now_ns - l->looked_ns) / l->half_life_ns : 0;
	double keep = exp2(-halvings);
	/* the mean of 2^-t for t evenly from 0 to halvings */
	double fresh = halvings > 1e-9 ? (1 - keep) / (halvings * M_LN2) : 1;
	for (uint32_t i = 0; i < l->n_shards; i++) {
		uint64_t rows = atomic_load_explicit(&l->rows[i], memory_order_relaxed);
		l->decayed[i] = l->decayed[i] * keep + (double)(rows - l->seen[i]) * fresh;
		l->seen[i] = rows;
		ret_loads[i] = l->decayed[i];
	}
	l->looked_ns = EX_MAX(l->looked_ns, now_ns);
}
