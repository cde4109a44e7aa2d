/* SPDX-License-Identifier: Apache-2.0 */
/* Simulated fleets. Layer L2. */
#include "fleet/simulate.h"

#include "base/mem.h"
#include "fleet/placement.h"
#include "model/tensors.h"
#include <stdio.h>
#include <string.h>

#define THRESHOLD 0.05 /* after a loss: balance that gains less is not paid for */

uint64_t ex_simulate_expert_bytes(const struct ex_model_config *c)
{
	uint64_t in = c->d_model, out = c->d_ff_expert;
	uint64_t blocks = EX_CEIL_DIV(in, (uint64_t)EX_SCALE_BLOCK) * EX_CEIL_DIV(out, (uint64_t)EX_SCALE_BLOCK);
	return 3 * (c->fp8_block_scaled ? in * out + blocks * sizeof(float) : 2 * in * out);
}

static int make_shards(const struct ex_simulate_opts *o, struct ex_err *err, struct ex_simulate *s)
{
	static const char *const all[] = {"*"};
	EX_CLEANUP(ex_freep) struct ex_shard_id *ids = NULL;
	double sum = 0, most = 0;
	size_t n;
	int rc = ex_placement_select(o->model, o->expert_groups, all, 1, err, &ids, &n);
	if (rc < 0)
		return rc;
	s->shards = ex_calloc(n, sizeof *s->shards);
	if (!s->shards)
		return -ENOMEM;
	s->bytes_expert = ex_simulate_expert_bytes(o->model);
	for (size_t i = 0; i < n; i++) {
		s->shards[i] = (struct ex_planner_shard){ids[i], ids[i].n_experts * s->bytes_expert, o->loads[i]};
		s->bytes_all += s->shards[i].bytes;
		sum += o->loads[i];
		most = EX_MAX(most, o->loads[i]);
	}
	s->load_max = sum > 0 ? most / (sum / (double)n) : 1;
	s->input = (struct ex_planner_input){
		.hosts = o->hosts,
		.n_hosts = o->n_hosts,
		.shards = s->shards,
		.n_shards = n,
		.opts = {.min_replicas = o->min_replicas, .max_replicas = o->max_replicas},
	};
	return 0;
}

/* What an operator would write down without a planner: the shards in order, as many times as replicas are wanted, dealt out in runs as
 * long as each host's memory. */
static int place_naively(struct ex_simulate *s, struct ex_err *err)
{
	struct ex_planner_input in = s->input;
	uint32_t k = in.opts.min_replicas, h = 0;
	double memory = 0, until, at = 0;
	EX_CLEANUP(ex_freep) struct ex_planner_pair *pairs = ex_calloc(in.n_shards * k, sizeof *pairs);
	EX_CLEANUP(ex_freep) uint32_t *last = ex_calloc(in.n_shards, sizeof *last);
	if (!pairs || !last)
		return -ENOMEM;
	for (size_t i = 0; i < in.n_hosts; i++)
		memory += (double)in.hosts[i].memory_bytes;
	double per_byte = (double)s->bytes_all * k / memory;
	until = (double)in.hosts[0].memory_bytes * per_byte;
	for (size_t i = 0; i < in.n_shards * k; i++) {
		uint32_t shard = (uint32_t)(i % in.n_shards);
		double middle = at + (double)in.shards[shard].bytes / 2;
		while (middle > until && h + 1 < in.n_hosts)
			until += (double)in.hosts[++h].memory_bytes * per_byte;
		at += (double)in.shards[shard].bytes;
		/* a host so large that two copies' runs meet in it holds one */
		if (i < in.n_shards || last[shard] != h)
			pairs[in.n_pairs++] = (struct ex_planner_pair){shard, h};
		last[shard] = h;
	}
	in.pairs = pairs;
	return ex_planner_measure(&in, err, &s->naive);
}

static int count_hosts(struct ex_simulate *s)
{
	const struct ex_planner_result *p = &s->plan;
	EX_CLEANUP(ex_freep) double *speed = ex_calloc(s->input.n_shards, sizeof *speed);
	double total = 0, total_speed = 0;
	s->hosts = ex_calloc(s->input.n_hosts, sizeof *s->hosts);
	if (!speed || !s->hosts)
		return -ENOMEM;
	for (size_t h = 0; h < s->input.n_hosts; h++)
		total_speed += s->input.hosts[h].speed;
	for (size_t i = 0; i < s->input.n_shards; i++)
		total += s->shards[i].load;
	for (size_t i = 0; i < p->n_pairs; i++)
		speed[p->pairs[i].shard] += s->input.hosts[p->pairs[i].host].speed;
	for (size_t i = 0; i < p->n_pairs; i++) {
		struct ex_simulate_host *h = &s->hosts[p->pairs[i].host];
		const struct ex_planner_shard *shard = &s->shards[p->pairs[i].shard];
		h->n_shards++;
		h->bytes += shard->bytes;
		h->time += total > 0 ? shard->load / speed[p->pairs[i].shard] / (total / total_speed) : 0;
	}
	return 0;
}

/* --- losses ------------------------------------------------------------------------------------------------------- */

/* Time and bytes of a plan's loads, each host taking its own at the link's rate. */
static int time_moves(const struct ex_simulate_opts *o, const struct ex_planner_input *in,
	const struct ex_planner_result *p, struct ex_simulate_loss *l)
{
	EX_CLEANUP(ex_freep) uint64_t *bytes = ex_calloc(2 * in->n_hosts, sizeof *bytes);
	uint64_t *repair = bytes ? bytes + in->n_hosts : NULL, most = 0, most_repair = 0;
	if (!bytes)
		return -ENOMEM;
	for (size_t i = 0; i < p->n_moves; i++) {
		const struct ex_planner_move *m = &p->moves[i];
		if (!m->load)
			continue;
		uint64_t n = in->shards[m->shard].bytes;
		bytes[m->host] += n;
		most = EX_MAX(most, bytes[m->host]);
		if (m->reason.why == EX_WHY_HOT || m->reason.why == EX_WHY_BALANCE)
			continue;
		repair[m->host] += n;
		most_repair = EX_MAX(most_repair, repair[m->host]);
		l->bytes_recover += n;
	}
	l->bytes = p->bytes_moved;
	l->recover_s = (double)most_repair / o->link_bytes_per_s;
	l->all_s = (double)most / o->link_bytes_per_s;
	return 0;
}

/* Plans again without the hosts that are marked lost, for fewer replicas where there is no room for all. */
static int plan_again(
	const struct ex_simulate_opts *o, struct ex_planner_input *in, struct ex_simulate_loss *l, struct ex_err *err)
{
	struct ex_err why = EX_ERR_INIT;
	for (uint32_t k = o->min_replicas; k; k--) {
		struct ex_planner_result p;
		in->opts.min_replicas = k;
		int rc = ex_planner_plan(in, &why, &p);
		if (rc == -ENOSPC) {
			if (!l->why[0])
				snprintf(l->why, sizeof l->why, "%s", why.text);
			continue;
		}
		if (rc < 0)
			return ex_err_set(err, rc, "%s", ex_err_text(&why));
		l->replicas = k;
		l->n_uncovered = p.before.n_uncovered;
		l->at_once = p.before.imbalance;
		l->after = p.after.imbalance;
		rc = time_moves(o, in, &p, l);
		ex_planner_done(&p);
		return rc;
	}
	uint32_t *count = ex_calloc(in->n_shards, sizeof *count);
	if (!count)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_pairs; i++)
		count[in->pairs[i].shard] += in->hosts[in->pairs[i].host].state == EX_PLANNER_READY;
	for (size_t i = 0; i < in->n_shards; i++)
		l->n_uncovered += count[i] == 0;
	free(count);
	return 0;
}

/* One entry for each host and, from two zones on, for each zone. */
static int list_losses(struct ex_simulate *s)
{
	const struct ex_planner_host *hosts = s->input.hosts;
	size_t n = s->input.n_hosts, n_zones = 0;
	s->losses = ex_calloc(2 * n, sizeof *s->losses);
	if (!s->losses)
		return -ENOMEM;
	for (size_t h = 0; h < n; h++)
		s->losses[h] = (struct ex_simulate_loss){.name = hosts[h].name, .n_hosts = 1};
	for (size_t h = 0; h < n; h++) {
		size_t z = 0;
		while (z < n_zones && strcmp(s->losses[n + z].name, hosts[h].zone) != 0)
			z++;
		if (z == n_zones)
			s->losses[n + n_zones++] = (struct ex_simulate_loss){.name = hosts[h].zone, .is_zone = true};
		s->losses[n + z].n_hosts++;
	}
	s->n_losses = n + (n_zones > 1 ? n_zones : 0);
	return 0;
}

static int look_at_losses(const struct ex_simulate_opts *o, struct ex_err *err, struct ex_simulate *s)
{
	size_t n = s->input.n_hosts;
	EX_CLEANUP(ex_freep) struct ex_planner_host *hosts = ex_calloc(n, sizeof *hosts);
	struct ex_planner_input in = s->input;
	int rc = hosts ? list_losses(s) : -ENOMEM;
	in.hosts = hosts;
	in.pairs = s->plan.pairs;
	in.n_pairs = s->plan.n_pairs;
	in.opts.threshold = THRESHOLD;
	for (size_t i = 0; i < s->n_losses && rc == 0; i++) {
		struct ex_simulate_loss *l = &s->losses[i];
		for (size_t h = 0; h < n; h++) {
			hosts[h] = o->hosts[h];
			if (l->is_zone ? strcmp(hosts[h].zone, l->name) == 0 : h == i)
				hosts[h].state = EX_PLANNER_LOST;
		}
		rc = plan_again(o, &in, l, err);
		const struct ex_simulate_loss *time = &s->losses[s->worst_time];
		if (l->n_uncovered > time->n_uncovered ||
			(l->n_uncovered == time->n_uncovered && l->recover_s > time->recover_s))
			s->worst_time = i;
		if (l->at_once > s->losses[s->worst_imbalance].at_once)
			s->worst_imbalance = i;
		if (o->progress && rc == 0)
			o->progress(o->ctx, i + 1, s->n_losses);
	}
	return rc;
}

int ex_simulate_run(const struct ex_simulate_opts *o, struct ex_err *err, struct ex_simulate *ret)
{
	struct ex_simulate s = {0};
	int rc = make_shards(o, err, &s);
	if (rc == 0)
		rc = ex_planner_plan(&s.input, err, &s.plan);
	if (rc == 0)
		rc = place_naively(&s, err);
	if (rc == 0)
		rc = count_hosts(&s);
	if (rc == 0)
		rc = look_at_losses(o, err, &s);
	if (rc == 0)
		*ret = s;
	else
		ex_simulate_done(&s);
	return rc == -ENOMEM ? ex_err_errno(err, rc, "cannot simulate") : rc;
}

void ex_simulate_done(struct ex_simulate *s)
{
	ex_planner_done(&s->plan);
	free(s->shards);
	free(s->hosts);
	free(s->losses);
	*s = (struct ex_simulate){0};
}
