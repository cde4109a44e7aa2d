/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/planner: what every plan must hold, over thousands of small random fleets, and plans that can be worked out by hand.
 * The seed is printed; EX_TEST_SEED and EX_TEST_CASES set it and how many. */
#include "unit.h"

#include "base/mem.h"
#include "fleet/planner_state.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define HOSTS_MAX  12
#define SHARDS_MAX 40

struct fleet {
	struct ex_planner_host host[HOSTS_MAX];
	struct ex_planner_shard shard[SHARDS_MAX];
	struct ex_planner_pair pair[HOSTS_MAX * SHARDS_MAX];
	struct ex_planner_input in;
};

static uint64_t seed;
static const char *const names[] = {"h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10", "h11"};
static const char *const zones[] = {"a", "b", "c", "d"};

/* splitmix64 */
static uint64_t next(void)
{
	uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)(next() % n);
}

static void init_fleet(struct fleet *f, size_t n_hosts, size_t n_shards)
{
	*f = (struct fleet){0};
	f->in = (struct ex_planner_input){
		.hosts = f->host,
		.n_hosts = n_hosts,
		.shards = f->shard,
		.n_shards = n_shards,
		.pairs = f->pair,
		.opts = {.min_replicas = 1, .max_replicas = 8, .threshold = 0},
	};
	for (size_t h = 0; h < n_hosts; h++)
		f->host[h] = (struct ex_planner_host){
			.name = names[h], .zone = "a", .memory_bytes = 1000, .speed = 1, .state = EX_PLANNER_READY};
	for (size_t s = 0; s < n_shards; s++)
		f->shard[s] = (struct ex_planner_shard){{0, (uint32_t)s, 1}, 10, 1.0};
}

static void hold(struct fleet *f, uint32_t s, uint32_t h)
{
	f->pair[f->in.n_pairs++] = (struct ex_planner_pair){s, h};
}

/* --- what every plan must hold ------------------------------------------------------------------------------------ */

struct replay {
	bool held[SHARDS_MAX][HOSTS_MAX];
	uint64_t used[HOSTS_MAX];
	uint32_t count[SHARDS_MAX];
};

static void start_replay(const struct ex_planner_input *in, struct replay *r)
{
	*r = (struct replay){0};
	for (size_t i = 0; i < in->n_pairs; i++) {
		uint32_t s = in->pairs[i].shard, h = in->pairs[i].host;
		if (in->hosts[h].state == EX_PLANNER_LOST)
			continue;
		r->held[s][h] = true;
		r->used[h] += in->shards[s].bytes;
		r->count[s]++;
	}
}

/* Each move by itself: loads go to ready hosts with room beside all that is there, unloads leave enough replicas. */
static void check_moves(const struct ex_planner_input *in, const struct ex_planner_result *p, struct replay *r)
{
	uint32_t start[SHARDS_MAX];
	char why[EX_PLANNER_REASON_MAX];
	uint64_t bytes = 0;
	memcpy(start, r->count, sizeof start);
	for (size_t i = 0; i < p->n_moves; i++) {
		const struct ex_planner_move *m = &p->moves[i];
		uint32_t s = m->shard, h = m->host;
		assert_true(s < in->n_shards && h < in->n_hosts && !in->hosts[h].fixed);
		assert_true(*ex_planner_reason_text(in, &m->reason, why));
		assert_int_equal(r->held[s][h], !m->load);
		r->held[s][h] = m->load;
		if (m->load) {
			assert_int_equal(in->hosts[h].state, EX_PLANNER_READY);
			r->used[h] += in->shards[s].bytes;
			r->count[s]++;
			bytes += in->shards[s].bytes;
			assert_true(r->used[h] <= in->hosts[h].memory_bytes);
		} else {
			assert_int_not_equal(in->hosts[h].state, EX_PLANNER_LOST);
			r->used[h] -= in->shards[s].bytes;
			r->count[s]--;
			assert_true(r->count[s] >= EX_MIN(start[s], in->opts.min_replicas));
		}
	}
	assert_int_equal(bytes, p->bytes_moved);
	assert_true(!in->opts.budget_bytes || bytes <= in->opts.budget_bytes);
}

static size_t count_zones(const struct ex_planner_input *in, const struct replay *r, size_t s)
{
	size_t n = 0;
	for (size_t z = 0; z < EX_ARRAY_LEN(zones); z++)
		for (size_t h = 0; h < in->n_hosts; h++)
			if (r->held[s][h] && strcmp(in->hosts[h].zone, zones[z]) == 0) {
				n++;
				break;
			}
	return n;
}

/* Greatest time over mean, from the definition in planner.h. */
static double imbalance_of(const struct ex_planner_input *in, const struct replay *r)
{
	double total = 0, speed = 0, most = 0;
	for (size_t s = 0; s < in->n_shards; s++)
		total += in->shards[s].load;
	for (size_t h = 0; h < in->n_hosts; h++) {
		double time = 0;
		speed += in->hosts[h].state == EX_PLANNER_READY ? in->hosts[h].speed : 0;
		for (size_t s = 0; s < in->n_shards; s++) {
			double sum = 0;
			for (size_t k = 0; k < in->n_hosts; k++)
				sum += r->held[s][k] ? in->hosts[k].speed : 0;
			time += r->held[s][h] ? in->shards[s].load / sum : 0;
		}
		most = EX_MAX(most, time);
	}
	return most / (total / speed);
}

static void check_plan(const struct ex_planner_input *in, const struct ex_planner_result *p)
{
	struct replay r;
	size_t n = 0;
	start_replay(in, &r);
	check_moves(in, p, &r);
	for (size_t s = 0; s < in->n_shards; s++) {
		n += r.count[s];
		assert_true(p->over_budget || r.count[s] >= in->opts.min_replicas);
		uint32_t n_fixed = 0;
		for (size_t h = 0; h < in->n_hosts; h++)
			n_fixed += in->hosts[h].fixed && r.held[s][h];
		assert_true(p->over_budget || r.count[s] <= in->opts.max_replicas + n_fixed);
	}
	for (size_t h = 0; h < in->n_hosts && !p->over_budget; h++) {
		if (in->hosts[h].fixed)
			continue;
		assert_true(r.used[h] <= in->hosts[h].memory_bytes);
		assert_true(in->hosts[h].state == EX_PLANNER_READY || r.used[h] == 0);
	}
	assert_int_equal(n, p->n_pairs);
	for (size_t i = 0; i < p->n_pairs; i++)
		assert_true(r.held[p->pairs[i].shard][p->pairs[i].host]);
	double got = imbalance_of(in, &r);
	assert_true(fabs(got - p->after.imbalance) <= 1e-9 * got);
}

/* --- random fleets ------------------------------------------------------------------------------------------------ */

/* memory: of each host, in parts of what its share of all replicas would be, in per cent. */
static void random_fleet(struct fleet *f, uint32_t memory_pct)
{
	bool equal = below(2), same_speed = below(2), settled = below(3) > 0;
	uint64_t all = 0;
	init_fleet(f, 2 + below(HOSTS_MAX - 1), 1 + below(SHARDS_MAX));
	size_t n_zones = 1 + below(EX_ARRAY_LEN(zones));
	f->in.opts.min_replicas = 1 + below((uint32_t)EX_MIN(f->in.n_hosts, 3u));
	f->in.opts.max_replicas = f->in.opts.min_replicas + below(4);
	f->in.opts.threshold = below(2) * 0.05;
	for (size_t s = 0; s < f->in.n_shards; s++) {
		f->shard[s].id = (struct ex_shard_id){(uint32_t)s / 8, (uint32_t)s % 8, 1};
		f->shard[s].bytes = equal ? 100 : 1 + below(200);
		f->shard[s].load = below(4) ? 1.0 + below(100) : below(2) * 1000.0;
		all += f->shard[s].bytes;
	}
	f->shard[0].load += 1;
	for (size_t h = 0; h < f->in.n_hosts; h++) {
		f->host[h].zone = zones[below((uint32_t)n_zones)];
		f->host[h].speed = same_speed ? 1 : 0.5 * (1 + below(6));
		f->host[h].memory_bytes = 200 + all * f->in.opts.min_replicas / f->in.n_hosts *
							(memory_pct / 2 + below(memory_pct)) / 100;
		if (below(8) == 0)
			f->host[h].state = below(2) ? EX_PLANNER_DRAINING : EX_PLANNER_LOST;
		f->host[h].fixed = below(12) == 0;
	}
	for (uint32_t s = 0; settled && s < f->in.n_shards; s++) {
		uint32_t first = below((uint32_t)f->in.n_hosts), n = below(f->in.opts.max_replicas + 2);
		for (uint32_t k = 0; k < EX_MIN(n, f->in.n_hosts); k++)
			hold(f, s, (first + k) % (uint32_t)f->in.n_hosts);
	}
	if (below(4) == 0)
		f->in.opts.budget_bytes = 1 + below(3000);
}

static unsigned n_cases(unsigned otherwise)
{
	const char *s = getenv("EX_TEST_CASES");
	return s ? (unsigned)strtoul(s, NULL, 10) : otherwise;
}

/* Fails when any plan breaks a promise of planner.h, differs the second time, or when nearly all are refused. */
static void test_random(void **state)
{
	(void)state;
	unsigned n_planned = 0, n = n_cases(6000);
	for (unsigned i = 0; i < n; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_planner_result p, again;
		struct fleet f;
		random_fleet(&f, 100 + below(400));
		int rc = ex_planner_plan(&f.in, &err, &p);
		if (rc < 0) {
			assert_int_equal(rc, -ENOSPC);
			assert_true(err.text[0]);
			continue;
		}
		n_planned++;
		check_plan(&f.in, &p);
		EXPECT_OK(err, ex_planner_plan(&f.in, &err, &again));
		assert_int_equal(p.n_moves, again.n_moves);
		for (size_t k = 0; k < p.n_moves; k++)
			assert_true(p.moves[k].shard == again.moves[k].shard &&
				    p.moves[k].host == again.moves[k].host && p.moves[k].load == again.moves[k].load);
		ex_planner_done(&p);
		ex_planner_done(&again);
	}
	assert_true(n_planned > n / 3);
}

/* With room to spare: zones are distinct, the loss of any one host leaves every shard covered, and the plan that follows restores it. */
static void test_random_loss(void **state)
{
	(void)state;
	for (unsigned i = 0; i < n_cases(6000) / 10; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_planner_result p, q;
		struct replay r;
		struct fleet f;
		random_fleet(&f, 1000);
		f.in.opts = (struct ex_planner_opts){.min_replicas = 2, .max_replicas = 4};
		size_t all = 0, n_zones = 0;
		for (size_t s = 0; s < f.in.n_shards; s++)
			all += f.shard[s].bytes;
		for (size_t h = 0; h < f.in.n_hosts; h++) {
			f.host[h].state = EX_PLANNER_READY;
			f.host[h].memory_bytes = 2 * all;
			f.host[h].fixed = false;
		}
		if (f.in.n_hosts < 3)
			continue;
		EXPECT_OK(err, ex_planner_plan(&f.in, &err, &p));
		check_plan(&f.in, &p);
		start_replay(&(struct ex_planner_input){.hosts = f.host,
				     .n_hosts = f.in.n_hosts,
				     .shards = f.shard,
				     .n_shards = f.in.n_shards,
				     .pairs = p.pairs,
				     .n_pairs = p.n_pairs},
			&r);
		for (size_t z = 0; z < EX_ARRAY_LEN(zones); z++)
			for (size_t h = 0; h < f.in.n_hosts; h++)
				if (strcmp(f.host[h].zone, zones[z]) == 0) {
					n_zones++;
					break;
				}
		for (size_t s = 0; s < f.in.n_shards; s++)
			assert_true(count_zones(&f.in, &r, s) >= EX_MIN(n_zones, 2u));
		assert_int_equal(p.after.n_few_zones, 0);
		f.in.pairs = p.pairs;
		f.in.n_pairs = p.n_pairs;
		f.host[below((uint32_t)f.in.n_hosts)].state = EX_PLANNER_LOST;
		EXPECT_OK(err, ex_planner_plan(&f.in, &err, &q));
		assert_int_equal(q.before.n_uncovered, 0);
		assert_int_equal(q.after.n_under, 0);
		check_plan(&f.in, &q);
		ex_planner_done(&p);
		ex_planner_done(&q);
	}
}

/* What stands in when no order of the moves is found: the steps of a strict search are moves that may be made as they come, undone they lead
 * back to the start, and cut short by the budget to a state that is as good. */
static void test_random_replay(void **state)
{
	(void)state;
	unsigned n_replayed = 0;
	for (unsigned i = 0; i < n_cases(6000) / 4; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_planner_result as_plan = {0};
		struct replay r;
		struct fleet f;
		struct ps p;
		random_fleet(&f, 100 + below(200));
		if (ex_planner_plan(&f.in, &err, &as_plan) < 0)
			continue;
		ex_planner_done(&as_plan);
		assert_int_equal(ps_init(&p, &f.in), 0);
		p.strict = true;
		if (ps_repair(&p, &err) == 0) {
			ps_replicate(&p);
			ps_balance(&p, false);
			assert_int_equal(ps_replay(&p, &as_plan.moves, &as_plan.n_moves), 0);
			for (size_t k = 0; k < as_plan.n_moves; k++)
				as_plan.bytes_moved +=
					as_plan.moves[k].load ? f.shard[as_plan.moves[k].shard].bytes : 0;
			start_replay(&f.in, &r);
			check_moves(&f.in, &as_plan, &r);
			for (uint32_t s = 0; s < f.in.n_shards; s++)
				assert_int_equal(r.count[s], p.shard[s].n);
			n_replayed += as_plan.n_moves > 0;
			ps_undo(&p, 0);
			start_replay(&f.in, &r);
			for (uint32_t s = 0; s < f.in.n_shards; s++)
				for (uint32_t h = 0; h < f.in.n_hosts; h++)
					assert_int_equal(ps_holds(&p, s, h), r.held[s][h]);
		}
		free(as_plan.moves);
		ps_done(&p);
	}
	assert_true(n_replayed > n_cases(6000) / 20);
}

/* A plan of what the planner itself made moves nothing but what pays. */
static void test_settles(void **state)
{
	(void)state;
	for (unsigned i = 0; i < n_cases(6000) / 10; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_planner_result p, q;
		struct fleet f;
		random_fleet(&f, 300);
		f.in.opts.budget_bytes = 0;
		f.in.opts.threshold = 0.05;
		if (ex_planner_plan(&f.in, &err, &p) < 0)
			continue;
		f.in.pairs = p.pairs;
		f.in.n_pairs = p.n_pairs;
		EXPECT_OK(err, ex_planner_plan(&f.in, &err, &q));
		check_plan(&f.in, &q);
		if (q.n_moves) /* what is moved after all must have paid */
			assert_true(q.after.n_few_zones < q.before.n_few_zones ||
				    q.after.imbalance < q.before.imbalance ||
				    q.after.imbalance_layer < q.before.imbalance_layer);
		ex_planner_done(&p);
		ex_planner_done(&q);
	}
}

/* --- by hand ------------------------------------------------------------------------------------------------------ */

/* The loads of one layer of the example that EPLB's authors publish: 12 experts, 16 places on 8 devices of two each. */
static void test_hot_experts(void **state)
{
	(void)state;
	static const double load[2][12] = {
		{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
		{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27},
	};
	/* the greatest over the mean when the 4 replicas beyond 12 go one by one to the expert with most load per replica, and the 16
	 * are then packed, greatest first, on the least loaded device with a place */
	static const double greedy[2] = {1.0726, 1.1903};
	for (int l = 0; l < 2; l++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_planner_result p;
		struct fleet f;
		init_fleet(&f, 8, 12);
		for (int s = 0; s < 12; s++)
			f.shard[s].load = load[l][s];
		for (int h = 0; h < 8; h++)
			f.host[h].memory_bytes = 20;
		EXPECT_OK(err, ex_planner_plan(&f.in, &err, &p));
		check_plan(&f.in, &p);
		print_message("layer %d: %.4f with %.2f replicas a shard, greedy %.4f\n", l, p.after.imbalance,
			p.after.replicas_mean, greedy[l]);
		assert_true(p.after.imbalance <= 1.01 * greedy[l]);
		assert_true(p.n_pairs <= 16);
		ex_planner_done(&p);
	}
}

static void plan(struct fleet *f, struct ex_planner_result *ret)
{
	struct ex_err err = EX_ERR_INIT;
	EXPECT_OK(err, ex_planner_plan(&f->in, &err, ret));
	check_plan(&f->in, ret);
}

static void expect_why(
	const struct fleet *f, const struct ex_planner_move *m, bool load, uint32_t s, uint32_t h, const char *why)
{
	char text[EX_PLANNER_REASON_MAX];
	assert_int_equal(m->load, load);
	assert_int_equal(m->shard, s);
	assert_int_equal(m->host, h);
	assert_string_equal(ex_planner_reason_text(&f->in, &m->reason, text), why);
}

/* Twice the speed takes twice the work. */
static void test_speeds(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	size_t n[3] = {0};
	init_fleet(&f, 3, 40);
	f.host[0].speed = 2;
	plan(&f, &p);
	assert_true(p.after.imbalance < 1.01);
	for (size_t i = 0; i < p.n_pairs; i++)
		n[p.pairs[i].host]++;
	assert_int_equal(n[0], 20);
	assert_int_equal(n[1], 10);
	assert_int_equal(n[2], 10);
	ex_planner_done(&p);
}

static void test_balanced_stays(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 4, 8);
	f.in.opts.threshold = 0.05;
	for (uint32_t s = 0; s < 8; s++)
		hold(&f, s, s % 4);
	plan(&f, &p);
	assert_int_equal(p.n_moves, 0);
	assert_true(fabs(p.before.imbalance - 1) < 1e-9);
	ex_planner_done(&p);
	f.shard[0].load = 1.1; /* 1.04 at best: less than the threshold can be had */
	plan(&f, &p);
	assert_int_equal(p.n_moves, 0);
	ex_planner_done(&p);
}

static void test_hot_shard(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 2, 3);
	f.shard[0].load = 8;
	hold(&f, 0, 0);
	hold(&f, 1, 1);
	hold(&f, 2, 1);
	plan(&f, &p);
	assert_true(fabs(p.before.imbalance - 1.6) < 1e-9);
	assert_true(p.n_moves >= 1 && p.after.imbalance < 1.21);
	expect_why(&f, &p.moves[0], true, 0, 1, "hot: 2.4x mean");
	ex_planner_done(&p);
	f.in.opts.repair_only = true;
	plan(&f, &p);
	assert_int_equal(p.n_moves, 0);
	ex_planner_done(&p);
}

/* Each of four hosts holds one layer whole: even in sum, but every layer waits for one host. */
static void test_hot_in_its_layer(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 4, 4);
	for (uint32_t s = 0; s < 4; s++) {
		f.shard[s].id.layer = s;
		hold(&f, s, s);
	}
	f.in.opts.threshold = 0.05;
	plan(&f, &p);
	assert_true(fabs(p.before.imbalance - 1) < 1e-9 && fabs(p.before.imbalance_layer - 4) < 1e-9);
	assert_true(fabs(p.after.imbalance - 1) < 1e-9 && fabs(p.after.imbalance_layer - 1) < 1e-9);
	assert_int_equal(p.n_pairs, 16);
	ex_planner_done(&p);
	f.in.opts.max_replicas = 2;
	plan(&f, &p);
	assert_true(fabs(p.after.imbalance_layer - 2) < 1e-9);
	ex_planner_done(&p);
}

static void test_lost_host(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 3, 1);
	f.in.opts.min_replicas = 2;
	f.host[1].state = EX_PLANNER_LOST;
	hold(&f, 0, 0);
	hold(&f, 0, 1);
	plan(&f, &p);
	assert_int_equal(p.before.n_under, 1);
	assert_int_equal(p.n_moves, 1);
	expect_why(&f, &p.moves[0], true, 0, 2, "replica lost with host h1");
	ex_planner_done(&p);
}

static void test_drain(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 2, 1);
	f.host[0].state = EX_PLANNER_DRAINING;
	hold(&f, 0, 0);
	plan(&f, &p);
	assert_int_equal(p.n_moves, 2);
	expect_why(&f, &p.moves[0], true, 0, 1, "host h0 drains");
	expect_why(&f, &p.moves[1], false, 0, 0, "host h0 drains");
	ex_planner_done(&p);
}

static void test_zone_and_memory(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 3, 1);
	f.in.opts.min_replicas = 2;
	f.in.opts.repair_only = true;
	f.host[2].zone = "b";
	hold(&f, 0, 0);
	hold(&f, 0, 1);
	plan(&f, &p);
	assert_int_equal(p.n_moves, 2);
	assert_string_equal(f.host[p.moves[0].host].zone, "b");
	expect_why(&f, &p.moves[0], true, 0, 2, "too many replicas in zone a");
	ex_planner_done(&p);

	init_fleet(&f, 2, 2);
	f.host[0].memory_bytes = 15;
	hold(&f, 0, 0);
	hold(&f, 1, 0);
	plan(&f, &p);
	assert_int_equal(p.n_moves, 2);
	expect_why(&f, &p.moves[0], true, 0, 1, "host h0 over memory");
	expect_why(&f, &p.moves[1], false, 0, 0, "host h0 over memory");
	ex_planner_done(&p);
}

/* Two full hosts, hot together on one: nothing can be loaded beside what is there, so nothing moves; one free place is enough. */
static void test_full_hosts(void **state)
{
	(void)state;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 3, 4);
	for (uint32_t s = 0; s < 4; s++) {
		f.shard[s].load = s < 2 ? 10 : 1;
		hold(&f, s, s / 2);
	}
	for (int h = 0; h < 2; h++)
		f.host[h].memory_bytes = 20;
	f.host[2].memory_bytes = 5; /* of no use */
	plan(&f, &p);
	assert_int_equal(p.n_moves, 0);
	ex_planner_done(&p);
	f.host[0].memory_bytes = 30;
	plan(&f, &p);
	assert_true(p.after.imbalance < p.before.imbalance);
	ex_planner_done(&p);
}

/* The budget ends the plan; planning on from where it ended comes to the same as without it. */
static void test_budget(void **state)
{
	(void)state;
	struct ex_planner_pair now[HOSTS_MAX * SHARDS_MAX];
	struct ex_planner_result p;
	struct fleet f;
	int n_plans = 0;
	init_fleet(&f, 4, 20);
	f.in.opts.min_replicas = 2;
	f.in.opts.budget_bytes = 70;
	for (bool more = true; more; n_plans++) {
		plan(&f, &p);
		assert_true(n_plans < 10);
		more = p.over_budget;
		memcpy(now, p.pairs, p.n_pairs * sizeof *now);
		f.in.pairs = now;
		f.in.n_pairs = p.n_pairs;
		assert_true(more || p.after.n_under == 0);
		ex_planner_done(&p);
	}
	assert_true(n_plans >= 6); /* 40 replicas of 10 bytes, 7 at a time */
}

static void refuse(struct fleet *f, int code, const char *a, const char *b)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_planner_result p;
	assert_int_equal(ex_planner_plan(&f->in, &err, &p), code);
	if (!strstr(err.text, a) || !strstr(err.text, b))
		fail_msg("'%s' and '%s' are not in: %s", a, b, err.text);
}

static void test_impossible(void **state)
{
	(void)state;
	struct fleet f;
	init_fleet(&f, 2, 10);
	f.in.opts.min_replicas = 3;
	refuse(&f, -ENOSPC, "3 replicas", "2 hosts are ready");
	f.in.opts.min_replicas = 2;
	f.host[1].memory_bytes = 60;
	refuse(&f, -ENOSPC, "2 replicas of 10 shards need 200 B", "hold 160 B");
	f.host[1].memory_bytes = 5;
	refuse(&f, -ENOSPC, "shard L0/E0-0 of 10 B", "1 of 2 ready hosts");
	init_fleet(&f, 2, 3); /* sums fit, pieces do not */
	f.host[0].memory_bytes = f.host[1].memory_bytes = 15;
	refuse(&f, -ENOSPC, "shard L0/E2-2 needs 10 B for replica 1 of 1", "5 B, on h0");
	init_fleet(&f, 2, 1);
	hold(&f, 0, 1);
	hold(&f, 0, 1);
	refuse(&f, -EINVAL, "L0/E0-0", "h1 twice");
	f.in.n_pairs = 1;
	f.host[0].speed = NAN;
	refuse(&f, -EINVAL, "h0", "speed");
	f.host[0].speed = 1;
	f.shard[0].load = -1;
	refuse(&f, -EINVAL, "L0/E0-0", "-1");
	f.shard[0].load = 1;
	f.shard[0].bytes = 0;
	refuse(&f, -EINVAL, "L0/E0-0", "0 bytes");
	f.shard[0].bytes = 1;
	f.pair[0].host = 2;
	refuse(&f, -EINVAL, "replica 0", "host 2 of 2");
	f.in.n_pairs = 0;
	f.in.opts.max_replicas = 0;
	refuse(&f, -EINVAL, "1 to 0 replicas", "1 to 64");
	f.in.opts.max_replicas = 1;
	f.in.opts.threshold = NAN;
	refuse(&f, -EINVAL, "threshold", "0 to 1");
}

/* A host that may not be touched keeps what it has too much of, gets nothing though others are full of work, and still counts as a holder. */
static void test_fixed(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_planner_result p;
	struct fleet f;
	init_fleet(&f, 3, 4);
	f.in.opts = (struct ex_planner_opts){.min_replicas = 2, .max_replicas = 2};
	f.host[0] = (struct ex_planner_host){.name = "h0", .zone = "a", .memory_bytes = 5, .speed = 1, .fixed = true};
	hold(&f, 0, 0);
	hold(&f, 1, 0);
	for (uint32_t s = 0; s < 4; s++)
		hold(&f, s, 1);
	EXPECT_OK(err, ex_planner_plan(&f.in, &err, &p));
	check_plan(&f.in, &p);
	assert_true(p.n_moves >= 2 && p.after.n_under == 0); /* check_plan: none on h0 */
	ex_planner_done(&p);
	f.host[0].state = EX_PLANNER_DRAINING; /* what it holds is held elsewhere as well, and stays here */
	EXPECT_OK(err, ex_planner_plan(&f.in, &err, &p));
	for (size_t i = 0; i < p.n_moves; i++)
		assert_true(p.n_moves == 4 && p.moves[i].load && p.moves[i].host == 2);
	ex_planner_done(&p);
}

int main(void)
{
	const char *s = getenv("EX_TEST_SEED");
	seed = s ? strtoull(s, NULL, 10) : 20261124;
	print_message("EX_TEST_SEED=%llu\n", (unsigned long long)seed);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hot_experts),
		cmocka_unit_test(test_speeds),
		cmocka_unit_test(test_balanced_stays),
		cmocka_unit_test(test_hot_shard),
		cmocka_unit_test(test_hot_in_its_layer),
		cmocka_unit_test(test_lost_host),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_zone_and_memory),
		cmocka_unit_test(test_full_hosts),
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_impossible),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_random_loss),
		cmocka_unit_test(test_random_replay),
		cmocka_unit_test(test_settles),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
