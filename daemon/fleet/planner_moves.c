/* SPDX-License-Identifier: Apache-2.0 */
/* From one placement to another, one load or unload at a time, never below what must be there and never beyond a host's memory. Layer L2. */
#include "fleet/planner_state.h"

#include "base/mem.h"

struct pending {
	struct ex_planner_move move;
	uint32_t n_at_start;
	double load;
	bool done;
};

struct schedule {
	const struct ps *p;
	uint64_t *used;           /* [n_hosts] */
	uint32_t *count;          /* [n_shards] replicas, those of draining hosts included */
	struct pending *in, *out; /* loads by urgency; unloads by shard */
	size_t n_in, n_out;
	size_t *first_out;     /* [n_shards + 1] of a shard, in out */
	uint32_t *n_wanted_by; /* [n_hosts] loads that wait */
	struct ex_planner_move *moves;
	size_t n_moves;
	bool at_floor; /* shards may go down to min_replicas, not just to what they have in both placements */
};

/* Repairs first, of these what has the fewest replicas, then what does most work. */
static int by_urgency(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;
	bool x_late = x->move.reason.why >= EX_WHY_HOT, y_late = y->move.reason.why >= EX_WHY_HOT;
	if (x_late != y_late)
		return x_late ? 1 : -1;
	if (!x_late && x->n_at_start != y->n_at_start)
		return x->n_at_start < y->n_at_start ? -1 : 1;
	if (x->load != y->load)
		return x->load > y->load ? -1 : 1;
	if (x->move.shard != y->move.shard)
		return x->move.shard < y->move.shard ? -1 : 1;
	return x->move.host < y->move.host ? -1 : x->move.host > y->move.host;
}

/* Loads are what is now and was not at the start, unloads the other way round. */
static int list_pending(struct schedule *q)
{
	const struct ps *p = q->p;
	size_t n = 0;
	for (uint32_t s = 0; s < p->n_shards; s++)
		n += EX_MAX(p->shard[s].n, p->shard[s].n_start);
	q->in = ex_calloc(n, sizeof *q->in);
	q->out = ex_calloc(n, sizeof *q->out);
	q->moves = ex_calloc(2 * n, sizeof *q->moves);
	if (!q->in || !q->out || !q->moves)
		return -ENOMEM;
	for (uint32_t s = 0; s < p->n_shards; s++) {
		const struct ps_replica *now = ps_replicas(p, s), *start = ps_start(p, s);
		const struct ps_shard *sh = &p->shard[s];
		q->first_out[s] = q->n_out;
		q->count[s] = sh->n_start;
		for (uint32_t i = 0; i < sh->n; i++)
			if (!ps_held_at_start(p, s, now[i].host))
				q->in[q->n_in++] = (struct pending){
					{s, now[i].host, true, now[i].reason}, sh->n_start, sh->load, false};
		for (uint32_t i = 0; i < sh->n_start; i++) {
			q->used[start[i].host] += sh->bytes;
			if (!ps_holds(p, s, start[i].host))
				q->out[q->n_out++] = (struct pending){
					{s, start[i].host, false, start[i].reason}, sh->n_start, sh->load, false};
		}
	}
	q->first_out[p->n_shards] = q->n_out;
	for (size_t i = 0; i < q->n_in; i++)
		q->n_wanted_by[q->in[i].move.host]++;
	qsort(q->in, q->n_in, sizeof *q->in, by_urgency);
	return 0;
}

static bool may_unload(const struct schedule *q, const struct pending *x)
{
	uint32_t s = x->move.shard, floor = ps_floor(q->p, s);
	const struct ps_shard *sh = &q->p->shard[s];
	if (!q->at_floor)
		floor = EX_MAX(floor, EX_MIN(sh->n, sh->n_start));
	return q->count[s] > floor;
}

static void unload(struct schedule *q, struct pending *x)
{
	x->done = true;
	q->count[x->move.shard]--;
	q->used[x->move.host] -= q->p->shard[x->move.shard].bytes;
	q->moves[q->n_moves++] = x->move;
}

static void load(struct schedule *q, struct pending *x)
{
	uint32_t s = x->move.shard;
	x->done = true;
	q->count[s]++;
	q->used[x->move.host] += q->p->shard[s].bytes;
	q->n_wanted_by[x->move.host]--;
	q->moves[q->n_moves++] = x->move;
	for (size_t i = q->first_out[s]; i < q->first_out[s + 1]; i++)
		if (!q->out[i].done && may_unload(q, &q->out[i]))
			unload(q, &q->out[i]);
}

/* One pass over the loads; true when one was made. */
static bool load_what_fits(struct schedule *q)
{
	bool any = false;
	for (size_t i = 0; i < q->n_in; i++) {
		struct pending *x = &q->in[i];
		if (x->done ||
			q->used[x->move.host] + q->p->shard[x->move.shard].bytes > q->p->host[x->move.host].memory)
			continue;
		load(q, x);
		any = true;
	}
	return any;
}

/* Unloads that may be; only_wanted: from hosts that something waits for. True when one was made. */
static bool unload_what_may(struct schedule *q, bool only_wanted)
{
	bool any = false;
	for (size_t i = 0; i < q->n_out; i++) {
		struct pending *x = &q->out[i];
		if (x->done || (only_wanted && !q->n_wanted_by[x->move.host]) || !may_unload(q, x))
			continue;
		unload(q, x);
		any = true;
	}
	return any;
}

/* False when loads are left that nothing makes room for. */
static bool order_moves(struct schedule *q)
{
	bool going = true;
	while (going) {
		going = load_what_fits(q) || unload_what_may(q, true);
		if (!going && !q->at_floor)
			going = q->at_floor = true;
	}
	unload_what_may(q, false);
	return q->n_moves == q->n_in + q->n_out;
}

int ps_schedule(struct ps *p, struct ex_planner_move **ret, size_t *ret_n)
{
	struct schedule q = {.p = p};
	q.used = ex_calloc(p->n_hosts, sizeof *q.used);
	q.n_wanted_by = ex_calloc(p->n_hosts, sizeof *q.n_wanted_by);
	q.count = ex_calloc(p->n_shards, sizeof *q.count);
	q.first_out = ex_calloc((size_t)p->n_shards + 1, sizeof *q.first_out);
	int rc = -ENOMEM;
	if (q.used && q.n_wanted_by && q.count && q.first_out)
		rc = list_pending(&q);
	if (rc == 0 && !order_moves(&q))
		rc = -EAGAIN;
	if (rc == 0) {
		*ret = EX_TAKE(q.moves);
		*ret_n = q.n_moves;
	}
	free(q.used);
	free(q.n_wanted_by);
	free(q.count);
	free(q.first_out);
	free(q.in);
	free(q.out);
	free(q.moves);
	return rc;
}

int ps_replay(struct ps *p, struct ex_planner_move **ret, size_t *ret_n)
{
	uint64_t budget = p->in->opts.budget_bytes, bytes = 0;
	struct ex_planner_move *moves = ex_calloc(p->n_trace, sizeof *moves);
	size_t n = 0;
	if (!moves)
		return -ENOMEM;
	for (size_t i = 0; i < p->n_trace; i++) {
		const struct ex_planner_move *m = &p->trace[i].move;
		bytes += m->load ? p->shard[m->shard].bytes : 0;
		if (budget && bytes > budget) {
			p->over_budget = true;
			break;
		}
		if (n && moves[n - 1].load && !m->load && moves[n - 1].shard == m->shard &&
			moves[n - 1].host == m->host)
			n--;
		else
			moves[n++] = *m;
	}
	ps_undo(p, 0);
	for (size_t i = 0; i < n && !p->oom; i++)
		(moves[i].load ? ps_add : ps_remove)(p, moves[i].shard, moves[i].host, moves[i].reason);
	if (p->oom) {
		free(moves);
		return -ENOMEM;
	}
	*ret = moves;
	*ret_n = n;
	return 0;
}
