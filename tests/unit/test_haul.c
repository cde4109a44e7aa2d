/* SPDX-License-Identifier: Apache-2.0 */
/* engine/haul on a fleet that is simulated, with a clock of its own: hosts die, refuse, dawdle and come back in the middle. At each move that is
 * sent the simulation looks whether it may be made. The seed is printed; EX_TEST_SEED and EX_TEST_CASES set it and how many. */
#include "unit.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/haul.h"
#include <stdio.h>
#include <string.h>

#define HOSTS   5
#define SHARDS  12
#define STEP_NS (20 * EX_NS_PER_MS)
#define LAG_NS  (300 * EX_NS_PER_MS) /* until the router sees what a host has done */
#define NEVER   UINT64_MAX

struct sim_host {
	bool alive, drained, other_identity;
	uint64_t memory;
	bool holds[SHARDS], seen[SHARDS];
	uint64_t seen_ns[SHARDS]; /* when seen becomes what holds is */
	/* the move at hand */
	bool busy, load;
	uint32_t shard;
	uint64_t done_ns;
	int result;
	unsigned n_sent;
	/* what goes wrong */
	int fails;        /* every move, with that */
	unsigned n_fails; /* only the first ones; 0: all */
	bool hangs;
};

struct sim {
	struct sim_host host[HOSTS];
	uint32_t n_hosts, n_shards, min_replicas;
	uint64_t now, last_load_ns, sent_ns[256];
	unsigned n_sent, n_done, n_failed, n_skipped, n_dropped, n_released, n_busy_most;
	int claim_rc;
	unsigned n_claims_wait;
};

static uint64_t seed;
static const char *const names[] = {"h0", "h1", "h2", "h3", "h4"};

/* splitmix64 */
static uint32_t below(uint32_t n)
{
	uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t)((z ^ z >> 31) % n);
}

static uint64_t bytes_of(uint32_t s)
{
	return 100 + s;
}

static struct sim_host *named(struct sim *f, const char *name)
{
	for (uint32_t h = 0; h < f->n_hosts; h++)
		if (strcmp(names[h], name) == 0)
			return &f->host[h];
	fail_msg("no host %s", name);
	return NULL;
}

/* --- the fleet ------------------------------------------------------------------------------------------- */

static void start_pairs(struct sim *f, struct ex_planner_host *hosts, struct ex_planner_pair *pairs, size_t *n)
{
	for (uint32_t h = 0; h < f->n_hosts; h++) {
		const struct sim_host *x = &f->host[h];
		hosts[h] = (struct ex_planner_host){.name = names[h],
			.zone = names[h],
			.memory_bytes = x->memory,
			.speed = 1,
			.state = !x->alive    ? EX_PLANNER_LOST
				 : x->drained ? EX_PLANNER_DRAINING
					      : EX_PLANNER_READY};
		for (uint32_t s = 0; s < f->n_shards; s++)
			if (x->seen[s])
				pairs[(*n)++] = (struct ex_planner_pair){s, h};
	}
}

static int sim_plan(void *ctx, const struct ex_place_opts *o, struct ex_err *err, struct ex_place *ret)
{
	struct sim *f = ctx;
	struct ex_planner_host hosts[HOSTS];
	struct ex_planner_shard shards[SHARDS];
	struct ex_planner_pair pairs[HOSTS * SHARDS];
	struct ex_planner_result r;
	size_t n = 0;
	start_pairs(f, hosts, pairs, &n);
	for (size_t i = 0; i < o->n_shut; i++)
		hosts[named(f, o->shut[i]) - f->host].fixed = true;
	for (uint32_t s = 0; s < f->n_shards; s++)
		shards[s] = (struct ex_planner_shard){.id = {0, s, 1}, .bytes = bytes_of(s), .load = 1};
	const struct ex_planner_input in = {.hosts = hosts,
		.n_hosts = f->n_hosts,
		.shards = shards,
		.n_shards = f->n_shards,
		.pairs = pairs,
		.n_pairs = n,
		.opts = o->planner};
	int rc = ex_planner_plan(&in, err, &r);
	if (rc < 0)
		return rc;
	*ret = (struct ex_place){.moves = ex_calloc(r.n_moves, sizeof *ret->moves)};
	for (size_t i = 0; i < r.n_moves; i++) {
		struct ex_place_move *m = &ret->moves[ret->n_moves++];
		*m = (struct ex_place_move){.shard = shards[r.moves[i].shard].id,
			.load = r.moves[i].load,
			.bytes = shards[r.moves[i].shard].bytes};
		strcpy(m->host, names[r.moves[i].host]);
	}
	ex_planner_done(&r);
	return 0;
}

static int sim_claim(void *ctx, struct ex_err *err)
{
	struct sim *f = ctx;
	if (f->n_claims_wait && f->n_claims_wait--)
		return -EAGAIN;
	return f->claim_rc ? ex_err_set(err, f->claim_rc, "host h0: router r9 moves shards here") : 0;
}

static void sim_release(void *ctx)
{
	struct sim *f = ctx;
	f->n_released++;
}

static void sim_look(void *ctx, const char *host, const struct ex_shard_id *shard, struct ex_place_look *ret)
{
	struct sim *f = ctx;
	const struct sim_host *x = named(f, host);
	*ret = (struct ex_place_look){.there = x->alive, .holds = x->seen[shard->first_expert]};
	for (uint32_t h = 0; h < f->n_hosts; h++) {
		const struct sim_host *o = &f->host[h];
		ret->n_others += o != x && o->alive && !o->drained && o->seen[shard->first_expert] &&
				 o->other_identity == x->other_identity;
	}
}

static uint64_t sim_usage(void *ctx)
{
	struct sim *f = ctx;
	uint64_t bits = 0;
	for (uint32_t h = 0; h < f->n_hosts; h++)
		bits = bits << 2 | f->host[h].alive << 1 | f->host[h].drained;
	return bits;
}

/* Whether it may be made, by what is true rather than by what the router sees. */
static void check_move(struct sim *f, const struct sim_host *x, const struct ex_place_move *m)
{
	uint32_t n_others = 0, n_busy = 0;
	uint64_t used = 0;
	assert_false(x->busy);
	for (uint32_t h = 0; h < f->n_hosts; h++) {
		const struct sim_host *o = &f->host[h];
		n_others += o != x && o->alive && !o->drained && o->holds[m->shard.first_expert];
		n_busy += o->busy;
	}
	for (uint32_t s = 0; s < f->n_shards; s++)
		used += x->holds[s] ? bytes_of(s) : 0;
	if (m->load)
		assert_true(x->holds[m->shard.first_expert] || used + m->bytes <= x->memory);
	else
		assert_true(n_others >= f->min_replicas);
	f->n_busy_most = EX_MAX(f->n_busy_most, n_busy + 1);
}

static int sim_send(void *ctx, const struct ex_place_move *m, struct ex_err *err)
{
	struct sim *f = ctx;
	struct sim_host *x = named(f, m->host);
	if (!x->alive)
		return ex_err_set(err, -ENOTCONN, "it is not there");
	check_move(f, x, m);
	x->busy = true;
	x->load = m->load;
	x->shard = m->shard.first_expert;
	x->n_sent++;
	x->result = x->fails && (!x->n_fails || x->n_sent <= x->n_fails) ? x->fails : 0;
	x->done_ns = x->hangs ? NEVER : f->now + below(10) * STEP_NS;
	if (m->load && f->n_sent < EX_ARRAY_LEN(f->sent_ns))
		f->sent_ns[f->n_sent] = f->now;
	f->n_sent += m->load;
	return 0;
}

static int sim_answer(void *ctx, const struct ex_place_move *m, struct ex_err *err)
{
	struct sim *f = ctx;
	struct sim_host *x = named(f, m->host);
	if (!x->alive)
		return ex_err_set(err, -ENOTCONN, "the connection ended");
	if (x->busy)
		return -EINPROGRESS;
	return x->result ? ex_err_set(err, x->result, "load: it cannot") : 0;
}

static void sim_drop(void *ctx, const struct ex_place_move *m)
{
	struct sim *f = ctx;
	named(f, m->host)->busy = false;
	f->n_dropped++;
}

static void sim_moved(void *ctx, const struct ex_haul_move *m)
{
	struct sim *f = ctx;
	f->n_done += m->state == EX_MOVE_DONE;
	f->n_failed += m->state == EX_MOVE_FAILED;
	f->n_skipped += m->state == EX_MOVE_SKIPPED;
}

static void pass_time(struct sim *f)
{
	f->now += STEP_NS;
	for (uint32_t h = 0; h < f->n_hosts; h++) {
		struct sim_host *x = &f->host[h];
		if (x->alive && x->busy && f->now >= x->done_ns) {
			x->busy = false;
			if (!x->result) {
				x->holds[x->shard] = x->load;
				x->seen_ns[x->shard] = f->now + LAG_NS;
			}
		}
		for (uint32_t s = 0; s < f->n_shards; s++)
			if (x->alive && f->now >= x->seen_ns[s])
				x->seen[s] = x->holds[s];
	}
}

static void set_alive(struct sim_host *x, bool alive)
{
	x->alive = alive;
	x->busy = false;
	for (uint32_t s = 0; s < SHARDS; s++) {
		x->seen_ns[s] = 0;
		if (alive)
			x->seen[s] = x->holds[s];
	}
}

/* --- running --------------------------------------------------------------------------------------------- */

/* n_replicas of each shard, on hosts one after the other; room for all. */
static void init_sim(struct sim *f, uint32_t n_hosts, uint32_t n_replicas)
{
	*f = (struct sim){.n_hosts = n_hosts, .n_shards = SHARDS, .min_replicas = 2, .now = EX_NS_PER_S};
	for (uint32_t h = 0; h < n_hosts; h++)
		f->host[h] = (struct sim_host){.alive = true, .memory = 200 * SHARDS};
	for (uint32_t s = 0; s < SHARDS; s++)
		for (uint32_t k = 0; k < n_replicas; k++)
			f->host[(s + k) % n_hosts].holds[s] = f->host[(s + k) % n_hosts].seen[s] = true;
}

static struct ex_haul *begin(struct sim *f, unsigned at_once, uint64_t bytes_per_s)
{
	struct ex_haul *h = NULL;
	const struct ex_haul_opts o = {
		.planner = {.min_replicas = f->min_replicas, .max_replicas = 3, .threshold = 0.05, .repair_only = true},
		.moves_at_once = at_once,
		.bytes_per_s = bytes_per_s,
		.timeout_ns = 30 * EX_NS_PER_S,
		.ops = {.plan = sim_plan,
			.claim = sim_claim,
			.release = sim_release,
			.look = sim_look,
			.usage = sim_usage,
			.send = sim_send,
			.answer = sim_answer,
			.drop = sim_drop,
			.moved = sim_moved,
			.ctx = f},
	};
	assert_int_equal(ex_haul_new(&o, f->now, &h), 0);
	return h;
}

/* Until it is over, or n_moves loads have been sent. */
static bool run_until(struct sim *f, struct ex_haul *h, unsigned n_loads)
{
	for (unsigned i = 0; i < 100000; i++) {
		if (!ex_haul_step(h, f->now))
			return false;
		if (f->n_sent >= n_loads)
			return true;
		pass_time(f);
	}
	fail_msg("it comes to no end");
	return false;
}

static struct ex_haul_sum finish(struct sim *f, struct ex_haul *h)
{
	struct ex_haul_sum s;
	assert_false(run_until(f, h, UINT32_MAX));
	ex_haul_sum(h, &s);
	assert_true(s.over);
	assert_int_equal(s.n_open, 0);
	assert_int_equal(s.n_loaded + s.n_unloaded, f->n_done);
	assert_int_equal(s.n_failed, f->n_failed);
	assert_int_equal(f->n_released, 1);
	ex_haul_free(h);
	assert_int_equal(f->n_released, 1);
	return s;
}

static void expect_whole(const struct sim *f)
{
	for (uint32_t s = 0; s < f->n_shards; s++) {
		uint32_t n = 0;
		for (uint32_t h = 0; h < f->n_hosts; h++)
			n += f->host[h].alive && !f->host[h].drained && f->host[h].holds[s];
		assert_true(n >= f->min_replicas);
	}
}

static unsigned count_held(const struct sim_host *x)
{
	unsigned n = 0;
	for (uint32_t s = 0; s < SHARDS; s++)
		n += x->holds[s];
	return n;
}

static void test_drained(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	f.n_claims_wait = 3;
	struct ex_haul_sum s = finish(&f, begin(&f, 2, 0));
	assert_int_equal(s.rc, 0);
	assert_int_equal(s.n_rounds, 1);
	assert_int_equal(count_held(&f.host[1]), 0);
	assert_true(f.n_busy_most == 2 && s.n_loaded == 6 && s.n_unloaded == 6 && s.bytes > 600);
	expect_whole(&f);
}

static void test_at_rest(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	struct ex_haul_sum s = finish(&f, begin(&f, 2, 0));
	assert_int_equal(s.rc, 0);
	assert_int_equal(f.n_done, 0);
}

/* The target dies with its first shard on the way: the rest is planned anew, for the others. */
static void test_target_lost(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	struct ex_haul *h = begin(&f, 1, 0);
	assert_true(run_until(&f, h, 1));
	for (uint32_t i = 0; i < 4; i++)
		if (f.host[i].busy)
			set_alive(&f.host[i], false);
	struct ex_haul_sum s = finish(&f, h);
	assert_int_equal(s.rc, 0);
	assert_true(s.n_rounds == 2 && s.n_failed == 1);
	assert_int_equal(count_held(&f.host[1]), 0);
	expect_whole(&f);
}

/* Too few are left for a plan, for a while: it waits a little before it gives up. */
static void test_comes_back(void **state)
{
	(void)state;
	for (int back = 0; back < 2; back++) {
		struct sim f;
		init_sim(&f, 3, 2);
		f.host[1].drained = true;
		struct ex_haul *h = begin(&f, 1, 0);
		assert_true(run_until(&f, h, 1));
		set_alive(&f.host[0], false);
		for (unsigned i = 0; i < 100; i++) {
			assert_true(ex_haul_step(h, f.now));
			pass_time(&f);
		}
		if (back)
			set_alive(&f.host[0], true);
		struct ex_haul_sum s = finish(&f, h);
		assert_int_equal(s.rc, back ? 0 : -ENOSPC);
		assert_int_equal(count_held(&f.host[1]), back ? 0 : 8);
	}
}

/* A host without room is asked once, and the others take what it was to have. */
static void test_no_memory(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	f.host[0].fails = -ENOMEM;
	struct ex_haul_sum s = finish(&f, begin(&f, 3, 0));
	assert_int_equal(s.rc, 0);
	assert_true(f.host[0].n_sent == 1 && s.n_failed == 1);
	assert_int_equal(count_held(&f.host[1]), 0);
	expect_whole(&f);
}

static void test_tried_again(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 3, 2);
	f.host[1].drained = true;
	f.host[0].fails = f.host[2].fails = -EIO;
	f.host[0].n_fails = f.host[2].n_fails = EX_HAUL_TRIES_MAX - 1;
	struct ex_haul_sum s = finish(&f, begin(&f, 2, 0));
	assert_int_equal(s.rc, 0);
	assert_int_equal(s.n_failed, 0);
	expect_whole(&f);
	init_sim(&f, 3, 2);
	f.host[1].drained = true;
	f.host[0].fails = f.host[2].fails = -EIO; /* for ever: nobody is left to ask */
	s = finish(&f, begin(&f, 2, 0));
	assert_true(s.rc < 0 && *s.text);
	assert_true(f.host[0].n_sent <= EX_HAUL_TRIES_MAX && f.host[2].n_sent <= EX_HAUL_TRIES_MAX);
}

static void test_hangs(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	f.host[2].hangs = true;
	struct ex_haul_sum s = finish(&f, begin(&f, 2, 0));
	assert_int_equal(s.rc, 0);
	assert_true(f.n_dropped == 1 && f.host[2].n_sent == 1);
	assert_int_equal(count_held(&f.host[1]), 0);
}

/* Replicas that could not take over do not count: the unload is not made, and that is said. */
static void test_skipped(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = f.host[1].other_identity = true;
	struct ex_haul_sum s = finish(&f, begin(&f, 2, 0));
	assert_int_equal(s.rc, -EBUSY);
	assert_true(s.n_skipped == 6 && s.n_unloaded == 0);
	assert_int_equal(count_held(&f.host[1]), 6);
	expect_whole(&f);
}

static void test_rate(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	struct ex_haul_sum s = finish(&f, begin(&f, 8, 100)); /* a shard of 100 bytes and some is a second and some */
	assert_int_equal(s.rc, 0);
	for (unsigned i = 1; i < f.n_sent; i++)
		assert_true(f.sent_ns[i] - f.sent_ns[i - 1] >= EX_NS_PER_S);
}

static void test_stopped(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	struct ex_haul *h = begin(&f, 2, 0);
	assert_true(run_until(&f, h, 2));
	ex_haul_stop(h);
	struct ex_haul_sum s = finish(&f, h);
	assert_int_equal(s.rc, -ECANCELED);
	assert_true(f.n_sent == 2 && s.n_loaded == 2);
}

static void test_claimed_by_another(void **state)
{
	(void)state;
	struct sim f;
	init_sim(&f, 4, 2);
	f.host[1].drained = true;
	f.claim_rc = -EPROTO;
	struct ex_haul_sum s = finish(&f, begin(&f, 2, 0));
	assert_int_equal(s.rc, -EPROTO);
	assert_non_null(strstr(s.text, "router r9"));
	assert_int_equal(f.n_sent, 0);
}

/* Hosts die, come back, are drained, fail and hang at random; check_move looks at each move. When that is over the fleet comes to rest. */
static void test_random(void **state)
{
	(void)state;
	const char *text = getenv("EX_TEST_CASES");
	for (unsigned i = 0; i < (text ? strtoul(text, NULL, 10) : 300); i++) {
		struct sim f;
		init_sim(&f, HOSTS, 1 + below(3));
		for (uint32_t h = 0; h < HOSTS; h++)
			if (below(4) == 0) {
				f.host[h].fails = below(2) ? -EIO : -ENOMEM;
				f.host[h].n_fails = 1 + below(4);
			}
		f.host[below(HOSTS)].drained = true;
		f.min_replicas = 1 + below(2);
		struct ex_haul *h = begin(&f, 1 + below(4), below(2) * 1000);
		for (unsigned k = 0; k < 2000 && ex_haul_step(h, f.now); k++) {
			struct sim_host *x = &f.host[below(HOSTS)];
			if (below(60) == 0)
				set_alive(x, !x->alive);
			if (below(300) == 0)
				x->drained = !x->drained;
			pass_time(&f);
		}
		finish(&f, h);
		for (uint32_t k = 0; k < HOSTS; k++) {
			set_alive(&f.host[k], true);
			f.host[k].drained = false;
			f.host[k].fails = 0;
		}
		f.n_released = f.n_done = f.n_failed = 0;
		assert_int_equal(finish(&f, begin(&f, 3, 0)).rc, 0);
		expect_whole(&f);
	}
}

int main(void)
{
	const char *s = getenv("EX_TEST_SEED");
	seed = s ? strtoull(s, NULL, 10) : 20261125;
	print_message("EX_TEST_SEED=%llu\n", (unsigned long long)seed);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_drained),
		cmocka_unit_test(test_at_rest),
		cmocka_unit_test(test_target_lost),
		cmocka_unit_test(test_comes_back),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_tried_again),
		cmocka_unit_test(test_hangs),
		cmocka_unit_test(test_skipped),
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_stopped),
		cmocka_unit_test(test_claimed_by_another),
		cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
