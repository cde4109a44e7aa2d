/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: checks the input, repairs, balances, and orders the moves. Layer L2. */
#include "fleet/planner.h"

#include "base/mem.h"
#include "base/str.h"
#include "fleet/planner_state.h"
#include <math.h>
#include <stdio.h>

/* --- the input ---------------------------------------------------------------------------------------------------- */

static int check_hosts(const struct ex_planner_input *in, struct ex_err *err)
{
	uint32_t n_ready = 0;
	if (in->n_hosts > EX_PLANNER_HOSTS_MAX)
		return ex_err_set(
			err, -EINVAL, "%zu hosts, at most %d are planned for", in->n_hosts, EX_PLANNER_HOSTS_MAX);
	for (size_t i = 0; i < in->n_hosts; i++) {
		const struct ex_planner_host *h = &in->hosts[i];
		n_ready += h->state == EX_PLANNER_READY;
		if (!(h->speed >= EX_PLANNER_SPEED_MIN && h->speed <= EX_PLANNER_SPEED_MAX))
			return ex_err_set(err, -EINVAL, "host %s: speed %g is not from %g to %g", h->name, h->speed,
				EX_PLANNER_SPEED_MIN, EX_PLANNER_SPEED_MAX);
		if (h->memory_bytes > EX_PLANNER_BYTES_MAX)
			return ex_err_set(err, -EINVAL, "host %s: %llu bytes of memory are more than %llu", h->name,
				(unsigned long long)h->memory_bytes, (unsigned long long)EX_PLANNER_BYTES_MAX);
	}
	if (n_ready < in->opts.min_replicas)
		return ex_err_set(err, -ENOSPC, "%u replicas are asked for, but %u hosts are ready",
			in->opts.min_replicas, n_ready);
	return 0;
}

static int check_shards(const struct ex_planner_input *in, struct ex_err *err)
{
	char name[EX_SHARD_NAME_MAX];
	if (in->n_shards == 0 || in->n_shards > EX_PLANNER_SHARDS_MAX)
		return ex_err_set(
			err, -EINVAL, "%zu shards; 1 to %d are planned for", in->n_shards, EX_PLANNER_SHARDS_MAX);
	for (size_t i = 0; i < in->n_shards; i++) {
		const struct ex_planner_shard *s = &in->shards[i];
		ex_shard_name(&s->id, name);
		if (s->id.layer >= EX_PLANNER_LAYERS_MAX)
			return ex_err_set(err, -EINVAL, "shard %s: at most %d layers are planned for", name,
				EX_PLANNER_LAYERS_MAX);
		if (!(s->load >= 0 && s->load <= 1e30))
			return ex_err_set(err, -EINVAL, "shard %s: a load of %g", name, s->load);
		if (s->bytes == 0 || s->bytes > EX_PLANNER_BYTES_MAX)
			return ex_err_set(err, -EINVAL, "shard %s: %llu bytes", name, (unsigned long long)s->bytes);
	}
	return 0;
}

static int by_shard_host(const void *a, const void *b)
{
	const struct ex_planner_pair *x = a, *y = b;
	if (x->shard != y->shard)
		return x->shard < y->shard ? -1 : 1;
	return x->host < y->host ? -1 : x->host > y->host;
}

static int check_pairs(const struct ex_planner_input *in, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) struct ex_planner_pair *sorted = ex_calloc(in->n_pairs, sizeof *sorted);
	char name[EX_SHARD_NAME_MAX];
	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_pairs; i++) {
		sorted[i] = in->pairs[i];
		if (sorted[i].shard >= in->n_shards || sorted[i].host >= in->n_hosts)
			return ex_err_set(err, -EINVAL, "replica %zu is of shard %u of %zu on host %u of %zu", i,
				sorted[i].shard, in->n_shards, sorted[i].host, in->n_hosts);
	}
	qsort(sorted, in->n_pairs, sizeof *sorted, by_shard_host);
	for (size_t i = 1; i < in->n_pairs; i++)
		if (by_shard_host(&sorted[i - 1], &sorted[i]) == 0)
			return ex_err_set(err, -EINVAL, "shard %s is on host %s twice",
				ex_shard_name(&in->shards[sorted[i].shard].id, name), in->hosts[sorted[i].host].name);
	return 0;
}

static int check_input(const struct ex_planner_input *in, struct ex_err *err)
{
	const struct ex_planner_opts *o = &in->opts;
	if (o->min_replicas < 1 || o->min_replicas > o->max_replicas || o->max_replicas > EX_PLANNER_REPLICAS_MAX)
		return ex_err_set(err, -EINVAL, "%u to %u replicas: allowed are 1 to %d", o->min_replicas,
			o->max_replicas, EX_PLANNER_REPLICAS_MAX);
	if (!(o->threshold >= 0 && o->threshold <= 1))
		return ex_err_set(err, -EINVAL, "a threshold of %g is not from 0 to 1", o->threshold);
	int rc = check_shards(in, err);
	if (rc == 0)
		rc = check_hosts(in, err);
	return rc < 0 ? rc : check_pairs(in, err);
}

/* Whether min_replicas of everything can be held at all, as far as sums tell. */
static int check_room(const struct ex_planner_input *in, struct ex_err *err)
{
	char name[EX_SHARD_NAME_MAX], need_text[EX_BYTES_TEXT_MAX], room_text[EX_BYTES_TEXT_MAX];
	double all = 0, room = 0, need;
	size_t largest = 0;
	uint32_t n_ready = 0, n_large = 0;
	for (size_t s = 0; s < in->n_shards; s++) {
		all += (double)in->shards[s].bytes;
		largest = in->shards[s].bytes > in->shards[largest].bytes ? s : largest;
	}
	for (size_t h = 0; h < in->n_hosts; h++)
		if (in->hosts[h].state == EX_PLANNER_READY) {
			n_ready++;
			n_large += in->hosts[h].memory_bytes >= in->shards[largest].bytes;
			room += EX_MIN(all, (double)in->hosts[h].memory_bytes);
		}
	need = all * in->opts.min_replicas;
	if (n_large < in->opts.min_replicas)
		return ex_err_set(err, -ENOSPC,
			"shard %s of %s fits on %u of %u ready hosts, and %u replicas are asked for",
			ex_shard_name(&in->shards[largest].id, name),
			ex_bytes_text(in->shards[largest].bytes, need_text), n_large, n_ready, in->opts.min_replicas);
	if (need > room)
		return ex_err_set(err, -ENOSPC, "%u replica%s of %zu shards need %s, and %u ready hosts can hold %s",
			in->opts.min_replicas, in->opts.min_replicas > 1 ? "s" : "", in->n_shards,
			ex_bytes_text((uint64_t)EX_MIN(need, 1e18), need_text), n_ready,
			ex_bytes_text((uint64_t)EX_MIN(room, 1e18), room_text));
	return 0;
}

/* --- planning ----------------------------------------------------------------------------------------------------- */

struct mode {
	bool strict, tight;
	bool balance; /* false: of replicas that are loaded anyway only */
};

static void balance(struct ps *p)
{
	ps_replicate(p);
	ps_balance(p, false);
}

/* A placement by the rules of the mode. p is to be freed by ps_done in any case. */
static int run(struct ps *p, const struct ex_planner_input *in, struct mode mode, struct ex_err *err)
{
	int rc = ps_init(p, in);
	p->strict = mode.strict;
	p->tight = mode.tight;
	if (rc == 0)
		rc = ps_repair(p, err);
	if (rc == 0)
		ps_balance(p, true);
	if (rc == 0 && mode.balance)
		balance(p);
	return p->oom ? -ENOMEM : rc;
}

static int rerun(struct ps *p, const struct ex_planner_input *in, struct mode mode, struct ex_err *err)
{
	ps_done(p);
	return run(p, in, mode, err);
}

/* Whether one of the imbalances fell by the threshold's share. */
static bool pays(const struct ex_planner_figures *before, const struct ex_planner_figures *after, double threshold)
{
	return before->imbalance - after->imbalance >= threshold * before->imbalance ||
	       before->imbalance_layer - after->imbalance_layer >= threshold * before->imbalance_layer;
}

/* Runs for what must be and, where that may be, on for balance; goes back when that gains less than the threshold. */
static int search(struct ps *p, const struct ex_planner_input *in, struct mode *mode, struct ex_err *err)
{
	struct ex_planner_figures before, after;
	mode->balance = false;
	int rc = run(p, in, *mode, err);
	if (rc == -ENOSPC && !mode->tight) { /* hosts chosen by load leave gaps that others must fill */
		mode->tight = true;
		rc = rerun(p, in, *mode, err);
	}
	if (rc < 0 || in->opts.repair_only)
		return rc;
	ps_figures(p, &before);
	uint64_t spent = p->spent;
	size_t n_trace = p->n_trace;
	bool over_budget = p->over_budget;
	balance(p);
	if (p->oom)
		return -ENOMEM;
	mode->balance = true;
	ps_figures(p, &after);
	if (p->spent <= spent || pays(&before, &after, in->opts.threshold))
		return 0;
	mode->balance = false;
	ps_undo(p, n_trace);
	p->over_budget = over_budget;
	return p->oom ? -ENOMEM : 0;
}

/* p is what the moves lead to. Takes the moves. */
static int take_result(struct ps *p, struct ex_planner_move *moves, size_t n_moves, struct ex_planner_result *ret)
{
	struct ex_planner_result plan = {
		.moves = moves, .n_moves = n_moves, .over_budget = p->over_budget, .before = p->at_start};
	size_t n = 0;
	for (uint32_t s = 0; s < p->n_shards; s++)
		n += p->shard[s].n;
	plan.pairs = ex_calloc(n, sizeof *plan.pairs);
	if (!plan.pairs) {
		ex_planner_done(&plan);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n_moves; i++)
		plan.bytes_moved += moves[i].load ? p->shard[moves[i].shard].bytes : 0;
	for (uint32_t s = 0; s < p->n_shards; s++)
		for (uint32_t i = 0; i < p->shard[s].n; i++)
			plan.pairs[plan.n_pairs++] = (struct ex_planner_pair){s, ps_replicas(p, s)[i].host};
	qsort(plan.pairs, plan.n_pairs, sizeof *plan.pairs, by_shard_host);
	ps_figures(p, &plan.after);
	*ret = plan;
	return 0;
}

static int plan(struct ps *p, const struct ex_planner_input *in, struct ex_err *err, struct ex_planner_result *ret)
{
	struct ex_planner_move *moves;
	struct mode mode = {0};
	size_t n_moves;
	int rc = search(p, in, &mode, err);
	if (rc < 0)
		return rc;
	rc = ps_schedule(p, &moves, &n_moves);
	if (rc == -EAGAIN) { /* exchanges without room for either side: only steps that are moves themselves */
		mode.strict = true;
		rc = rerun(p, in, mode, err);
		if (rc == 0)
			rc = ps_schedule(p, &moves, &n_moves);
		if (rc == -EAGAIN)
			rc = ps_replay(p, &moves, &n_moves);
	}
	return rc < 0 ? rc : take_result(p, moves, n_moves, ret);
}

int ex_planner_plan(const struct ex_planner_input *in, struct ex_err *err, struct ex_planner_result *ret)
{
	struct ps p = {0};
	int rc = check_input(in, err);
	if (rc == 0)
		rc = check_room(in, err);
	if (rc == 0)
		rc = plan(&p, in, err, ret);
	ps_done(&p);
	return rc == -ENOMEM
		       ? ex_err_errno(err, rc, "cannot plan for %zu shards on %zu hosts", in->n_shards, in->n_hosts)
		       : rc;
}

void ex_planner_done(struct ex_planner_result *p)
{
	free(p->pairs);
	free(p->moves);
	*p = (struct ex_planner_result){0};
}

int ex_planner_measure(const struct ex_planner_input *in, struct ex_err *err, struct ex_planner_figures *ret)
{
	struct ps p = {0};
	int rc = check_input(in, err);
	if (rc == 0)
		rc = ps_init(&p, in);
	if (rc == 0)
		*ret = p.at_start;
	ps_done(&p);
	return rc == -ENOMEM ? ex_err_errno(err, rc, "cannot measure %zu replicas", in->n_pairs) : rc;
}

char *ex_planner_reason_text(
	const struct ex_planner_input *in, const struct ex_planner_reason *r, char buf[static EX_PLANNER_REASON_MAX])
{
	const char *host = r->about < in->n_hosts ? in->hosts[r->about].name : "-";
	char name[EX_SHARD_NAME_MAX];
	size_t n = EX_PLANNER_REASON_MAX;
	buf[0] = '\0';
	switch (r->why) {
	case EX_WHY_MISSING:
		snprintf(buf, n, "fewer than %u replicas", in->opts.min_replicas);
		break;
	case EX_WHY_LOST:
		snprintf(buf, n, "replica lost with host %s", host);
		break;
	case EX_WHY_DRAIN:
		snprintf(buf, n, "host %s drains", host);
		break;
	case EX_WHY_ZONE:
		snprintf(buf, n, "too many replicas in zone %s",
			r->about < in->n_hosts ? in->hosts[r->about].zone : "-");
		break;
	case EX_WHY_MEMORY:
		snprintf(buf, n, "host %s over memory", host);
		break;
	case EX_WHY_EXCESS:
		snprintf(buf, n, "more than %u replicas", in->opts.max_replicas);
		break;
	case EX_WHY_ROOM:
		snprintf(buf, n, "makes room for %s",
			r->about < in->n_shards ? ex_shard_name(&in->shards[r->about].id, name) : "-");
		break;
	case EX_WHY_HOT:
		snprintf(buf, n, "hot: %.1fx mean", (double)r->figure);
		break;
	case EX_WHY_BALANCE:
		snprintf(buf, n, "host %s at %.2fx mean", host, (double)r->figure);
		break;
	}
	return buf;
}
