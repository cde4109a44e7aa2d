/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/clock.h"
#include "base/mem.h"
#include "gateway/fair.h"
#include <math.h>
#include <string.h>

#define S EX_NS_PER_S

static uint64_t random_state;

/* splitmix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t draw(uint64_t below)
{
	uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % below;
}

static struct ex_fair *make(
	const uint32_t *weights, uint32_t n_tiers, uint32_t items_max, uint32_t reserve, uint64_t wait_max_ns)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_fair *q = NULL;
	EXPECT_OK(err, ex_fair_new(&(struct ex_fair_opts){.tier_weights = weights,
					   .n_tiers = n_tiers,
					   .items_max = items_max,
					   .reserve = reserve,
					   .wait_max_ns = wait_max_ns},
			       &err, &q));
	return q;
}

static void push(struct ex_fair *q, struct ex_fair_flow *f, struct ex_fair_item *item, uint32_t cost)
{
	struct ex_fair_told told;
	assert_int_equal(ex_fair_push(q, f, item, &(struct ex_fair_ask){.cost = cost, .now_ns = S}, &told), 0);
}

/* One account: in order. Two: in turns, whoever came first with how many. */
static void test_order(void **state)
{
	(void)state;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1}, 1, 16, 0, S);
	struct ex_fair_flow a = {.weight = 1}, b = {.weight = 1};
	struct ex_fair_item ia[4] = {0}, ib[2] = {0};
	for (int i = 0; i < 4; i++)
		push(q, &a, &ia[i], 10);
	for (int i = 0; i < 2; i++)
		push(q, &b, &ib[i], 10);
	struct ex_fair_item *want[] = {&ia[0], &ib[0], &ia[1], &ib[1], &ia[2], &ia[3], NULL};
	assert_null(ex_fair_pop(q, 0));
	for (size_t i = 0; i < EX_ARRAY_LEN(want); i++)
		assert_ptr_equal(ex_fair_pop(q, 1), want[i]);
	for (int i = 0; i < 6; i++)
		ex_fair_end(q, i < 4 ? &a : &b, 0);
	assert_int_equal(a.n_running + b.n_running, 0);
}

/* All tiers and accounts always have something queued: what two have been served, each by its weight, differs by at most one greatest request of each
 * (theorem 1 of the source). That holds between tiers, and between accounts of a tier. */
static void test_weights(void **state)
{
	(void)state;
	enum { TIERS = 3, FLOWS = 4, COST = 500 };
	for (uint64_t seed = 1; seed <= 30; seed++) {
		random_state = seed;
		uint32_t weights[TIERS];
		for (int t = 0; t < TIERS; t++)
			weights[t] = 1 + (uint32_t)draw(20);
		EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make(weights, TIERS, TIERS * FLOWS, 0, S);
		struct ex_fair_flow f[TIERS][FLOWS] = {0};
		struct ex_fair_item item[TIERS][FLOWS] = {0};
		double served[TIERS] = {0}, of_flow[TIERS][FLOWS] = {{0}};
		for (int t = 0; t < TIERS; t++)
			for (int k = 0; k < FLOWS; k++) {
				f[t][k] = (struct ex_fair_flow){.tier = (uint32_t)t, .weight = 1 + (uint32_t)draw(5)};
				push(q, &f[t][k], &item[t][k], 1 + (uint32_t)draw(COST));
			}
		for (int n = 0; n < 3000; n++) {
			/* the next request is there before the one at hand is taken out, so that nobody ever runs dry */
			struct ex_fair_item *one = ex_fair_pop(q, 1);
			size_t at = (size_t)(one - &item[0][0]);
			struct ex_fair_flow *own = &f[at / FLOWS][at % FLOWS];
			served[own->tier] += one->cost;
			of_flow[at / FLOWS][at % FLOWS] += one->cost;
			ex_fair_end(q, own, 0);
			push(q, own, one, 1 + (uint32_t)draw(COST));
			for (int t = 1; t < TIERS; t++)
				assert_true(fabs(served[t] / weights[t] - served[0] / weights[0]) <=
					    2 * (COST + 1.0) * (1.0 / weights[t] + 1.0 / weights[0]));
			for (int t = 0; t < TIERS; t++)
				for (int k = 1; k < FLOWS; k++)
					assert_true(
						fabs(of_flow[t][k] / f[t][k].weight - of_flow[t][0] / f[t][0].weight) <=
						2 * (COST + 1.0) * (1.0 / f[t][k].weight + 1.0 / f[t][0].weight));
		}
		for (int t = 0; t < TIERS; t++)
			for (int k = 0; k < FLOWS; k++)
				ex_fair_remove(q, &item[t][k]);
	}
}

/* A batch of 32 sequences; one account keeps a thousand requests queued that run for up to 300 steps each; another sends one now and then.
 * Its request begins in the step after the next at the latest, and the first account loses no more than the slots kept free. */
static void test_thousand_and_one(void **state)
{
	(void)state;
	enum { SLOTS = 32, RESERVE = 2, MANY = 1000, STEPS = 20000 };
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1}, 1, MANY + 1, RESERVE, 1000000 * S);
	struct ex_fair_flow many = {.weight = 1}, one = {.weight = 1};
	static struct ex_fair_item item[MANY], single;
	memset(item, 0, sizeof item);
	memset(&single, 0, sizeof single);
	struct {
		struct ex_fair_item *item;
		unsigned left;
	} slot[SLOTS] = {0};
	unsigned free_slots = SLOTS, asked_at = 0, n_asked = 0, n_begun = 0;
	bool waiting = false;
	uint64_t busy = 0;
	random_state = 1;
	ex_fair_set_rate(q, 1000);
	for (int i = 0; i < MANY; i++)
		push(q, &many, &item[i], 1 + (uint32_t)draw(300));
	for (unsigned step = 0; step < STEPS; step++) {
		if (!waiting && !one.n_running && draw(20) == 0) {
			push(q, &one, &single, 1 + (uint32_t)draw(50));
			asked_at = step;
			waiting = true;
			n_asked++;
		}
		for (struct ex_fair_item *i; (i = ex_fair_pop(q, free_slots));) {
			unsigned s = 0;
			while (slot[s].item)
				s++;
			slot[s].item = i;
			slot[s].left = 1 + (unsigned)draw(300);
			free_slots--;
			if (i == &single) {
				assert_true(step - asked_at <= 2);
				waiting = false;
				n_begun++;
			}
		}
		for (unsigned s = 0; s < SLOTS; s++) {
			busy += slot[s].item != NULL;
			if (!slot[s].item || --slot[s].left)
				continue;
			bool of_one = slot[s].item == &single;
			ex_fair_end(q, of_one ? &one : &many, 0);
			if (!of_one)
				push(q, &many, slot[s].item, 1 + (uint32_t)draw(300));
			slot[s].item = NULL;
			free_slots++;
		}
	}
	assert_true(n_asked > 50 && n_begun >= n_asked - 1);
	assert_true(busy >= (uint64_t)STEPS * (SLOTS - RESERVE));
	for (int i = 0; i < MANY; i++)
		if (item[i].flow)
			ex_fair_remove(q, &item[i]);
	if (single.flow)
		ex_fair_remove(q, &single);
}

/* However much others of all tiers send, a queued request begins: of N accounts of one weight and cost, within 2 N turns of its tier. */
static void test_no_starvation(void **state)
{
	(void)state;
	enum { N = 50 };
	random_state = 5;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){9, 1}, 2, 4 * N, 0, S);
	static struct ex_fair_flow f[N], low;
	static struct ex_fair_item item[N], low_item;
	unsigned since[N] = {0}, low_since = 0;
	low = (struct ex_fair_flow){.tier = 1, .weight = 1};
	for (int i = 0; i < N; i++) {
		f[i] = (struct ex_fair_flow){.weight = 1};
		push(q, &f[i], &item[i], 100);
	}
	push(q, &low, &low_item, 100);
	for (unsigned turn = 0; turn < 20000; turn++) {
		struct ex_fair_item *one = ex_fair_pop(q, 1);
		for (int i = 0; i < N; i++)
			since[i] = one == &item[i] ? 0 : since[i] + 1;
		low_since = one == &low_item ? 0 : low_since + 1;
		for (int i = 0; i < N; i++)
			assert_true(since[i] <= 2 * N * 10 / 9 + 2);
		assert_true(low_since <= 15); /* nine times 100 of each 70 at most, and its own */
		struct ex_fair_flow *own = one == &low_item ? &low : &f[one - item];
		ex_fair_end(q, own, draw(2) ? 30 : 0);
		push(q, own, one, 100);
	}
	for (int i = 0; i < N; i++)
		ex_fair_remove(q, &item[i]);
	ex_fair_remove(q, &low_item);
}

/* A request for 200 of a cost that 100 are served of a second, known again by its number. */
static int ask(struct ex_fair *q, struct ex_fair_flow *f, struct ex_fair_item *item, uint64_t likeness, uint64_t now_s,
	struct ex_fair_told *told)
{
	return ex_fair_push(
		q, f, item, &(struct ex_fair_ask){.cost = 200, .likeness = likeness, .now_ns = now_s * S}, told);
}

static void test_bounded_by_wait(void **state)
{
	(void)state;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1}, 1, 8, 0, 10 * S);
	struct ex_fair_flow a = {.weight = 1}, b = {.weight = 1};
	struct ex_fair_item ia[9] = {0}, ib[2] = {0};
	struct ex_fair_told told;
	ex_fair_set_rate(q, 100);
	for (uint64_t i = 0; i < 5; i++)
		assert_int_equal(ask(q, &a, &ia[i], i, 1, &told), 0);
	assert_int_equal(told.wait_ns, 10 * S); /* 4 before it and itself */
	assert_int_equal(ask(q, &a, &ia[5], 5, 1, &told), -EAGAIN);
	assert_int_equal(told.wait_ns, 12 * S);
	assert_int_equal(told.retry_s, 2);
	assert_int_equal(ask(q, &a, &ia[6], 6, 1, &told), -EAGAIN);
	assert_int_equal(told.retry_s, 4); /* behind the one before */
	assert_int_equal(ask(q, &a, &ia[6], 6, 2, &told), -EAGAIN);
	assert_int_equal(told.retry_s, 3); /* too early: its turn stands */
	/* another account does not wait for all that */
	assert_int_equal(ask(q, &b, &ib[0], 0, 1, &told), 0);
	assert_int_equal(told.wait_ns, 4 * S);
	/* what was promised is kept though nothing has been served since; to others it is not */
	assert_int_equal(ask(q, &a, &ia[7], 7, 3, &told), -EAGAIN);
	assert_int_equal(ask(q, &a, &ia[5], 5, 3, &told), 0);
	/* with no rate known the number alone bounds */
	ex_fair_set_rate(q, 0);
	assert_int_equal(ask(q, &a, &ia[7], 7, 100, &told), 0);
	assert_int_equal(ask(q, &b, &ib[1], 1, 100, &told), -ENOSPC);
	assert_int_equal(told.retry_s, 1);
	struct ex_fair_stat stat;
	ex_fair_stat(q, &stat);
	assert_int_equal(stat.n_queued, 8);
	assert_int_equal(stat.n_flows, 2);
	assert_int_equal(stat.backlog, 1600);
	for (size_t i = 0; i < EX_ARRAY_LEN(ia); i++)
		if (ia[i].flow)
			ex_fair_remove(q, &ia[i]);
	ex_fair_remove(q, &ib[0]);
	ex_fair_forget(q, &a);
	ex_fair_forget(q, &b);
}

/* There is room for as many promises as for requests; beyond it times are told all the same, and nobody's are mixed up. */
static void test_promises_are_bounded(void **state)
{
	(void)state;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1}, 1, 4, 0, 2 * S);
	struct ex_fair_flow a = {.weight = 1}, b = {.weight = 1};
	struct ex_fair_item ia[9] = {0};
	struct ex_fair_told told;
	ex_fair_set_rate(q, 100);
	assert_int_equal(ask(q, &a, &ia[0], 0, 1, &told), 0);
	for (uint64_t i = 1; i < 9; i++) {
		assert_int_equal(ask(q, &a, &ia[i], i, 1, &told), -EAGAIN);
		assert_int_equal(told.retry_s, 2 * EX_MIN(i, 5));
	}
	ex_fair_remove(q, &ia[0]);
	/* the second comes first, the fourth never: both are forgotten in the end */
	assert_int_equal(ask(q, &a, &ia[0], 2, 5, &told), 0);
	struct ex_fair_flow *flow;
	uint32_t retry_s;
	assert_null(ex_fair_shed(q, 7 * S, &flow, &retry_s));
	assert_ptr_equal(ex_fair_shed(q, 100 * S, &flow, &retry_s), &ia[0]);
	assert_ptr_equal(flow, &a);
	assert_int_equal(a.promised, 200); /* that of the one that was shed */
	ex_fair_forget(q, &a);
	assert_int_equal(a.promised, 0);
	/* all are there to be given again */
	assert_int_equal(ask(q, &b, &ia[0], 0, 100, &told), 0);
	for (uint64_t i = 1; i < 9; i++)
		assert_int_equal(ask(q, &b, &ia[i], i, 100, &told), -EAGAIN);
	assert_int_equal(b.promised, 4 * 200);
	ex_fair_remove(q, &ia[0]);
	ex_fair_forget(q, &b);
}

/* --- five times as much as can be served, for a minute ------------------------------------------------------------- */

enum { CLIENTS = 3000, ACCOUNTS = 20, COST = 50, PER_S = 500, WAIT_S = 5, TICKS_PER_S = 10 };

struct client {
	struct ex_fair_item item;
	uint64_t arrives_ns, promised_ns, queued_ns;
	bool done;
};

/* 50 requests a second of which 10 can be served; who is refused comes back when it was told, or up to a second later, once. Of those who come back
 * 95 % are let in, nobody who was let in waits longer than the bound and half of it, and the fleet is never idle meanwhile. */
static void test_surge(void **state)
{
	(void)state;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1}, 1, 4096, 0, WAIT_S * S);
	static struct ex_fair_flow f[ACCOUNTS];
	static struct client c[CLIENTS];
	unsigned n_back = 0, n_back_in = 0, n_in = 0, n_served = 0, n_shed = 0, of[ACCOUNTS] = {0};
	double room = 0;
	random_state = 11;
	memset(c, 0, sizeof c);
	for (int a = 0; a < ACCOUNTS; a++)
		f[a] = (struct ex_fair_flow){.weight = 1};
	for (int i = 0; i < CLIENTS; i++)
		c[i].arrives_ns = S + draw(60 * S);
	ex_fair_set_rate(q, PER_S);
	for (uint64_t now = S; now < 600 * S; now += S / TICKS_PER_S) {
		for (int i = 0; i < CLIENTS; i++) {
			uint64_t due = c[i].promised_ns ? c[i].promised_ns : c[i].arrives_ns;
			if (c[i].done || due > now)
				continue;
			bool back = c[i].promised_ns != 0;
			/* the first account sends half of all */
			unsigned a = i % 2 ? 0 : (unsigned)i / 2 % ACCOUNTS;
			struct ex_fair_told told;
			int rc = ex_fair_push(q, &f[a], &c[i].item,
				&(struct ex_fair_ask){.cost = COST, .likeness = (uint64_t)i, .now_ns = now}, &told);
			n_back += back;
			n_back_in += back && rc == 0;
			n_in += rc == 0;
			of[a] += rc == 0;
			c[i].done = rc == 0 || back;
			c[i].queued_ns = now;
			if (rc < 0 && !back)
				c[i].promised_ns = now + told.retry_s * S + draw(S);
		}
		room += (double)PER_S / TICKS_PER_S;
		struct ex_fair_item *one;
		struct ex_fair_flow *flow;
		uint32_t retry_s;
		while ((one = ex_fair_shed(q, now, &flow, &retry_s))) {
			struct client *own = EX_CONTAINER_OF(one, struct client, item);
			assert_true(now - own->queued_ns > WAIT_S * S / 2 * 3);
			n_back_in -= own->promised_ns != 0;
			n_in--;
			n_shed++;
			own->done = own->promised_ns != 0;
			own->promised_ns = now + retry_s * S + draw(S);
		}
		while (room >= COST && (one = ex_fair_pop(q, 1))) {
			struct client *own = EX_CONTAINER_OF(one, struct client, item);
			unsigned i = (unsigned)(own - c);
			assert_true(now - own->queued_ns <= WAIT_S * S / 2 * 3);
			ex_fair_end(q, &f[i % 2 ? 0 : i / 2 % ACCOUNTS], 0);
			room -= COST;
			n_served++;
		}
		if (now >= 3 * S && now < 61 * S)
			assert_true(room < 2 * COST);
	}
	assert_true(n_back > 1000);
	assert_true(n_shed <
		    n_in / 10); /* only while it begins: the first account had queued much before the others came */
	if (n_back_in < n_back * 95 / 100)
		fail_msg("of %u who came back %u were let in", n_back, n_back_in);
	assert_int_equal(n_served, n_in);
	for (int a = 1; a < ACCOUNTS; a++)
		assert_true(of[a] > 60);
}

static void test_unused_is_given_back(void **state)
{
	(void)state;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1}, 1, 16, 0, S);
	struct ex_fair_flow a = {.weight = 1}, b = {.weight = 1};
	struct ex_fair_item ia[3] = {0}, ib[3] = {0};
	for (int i = 0; i < 3; i++) {
		push(q, &a, &ia[i], 1000);
		push(q, &b, &ib[i], 100);
	}
	/* a asked for 1000 and used 100: it is not behind b for what it did not use */
	struct ex_fair_item *one = ex_fair_pop(q, 1);
	assert_ptr_equal(one, &ia[0]);
	ex_fair_end(q, &a, 900);
	unsigned n_a = 0;
	for (int i = 0; i < 3; i++) {
		one = ex_fair_pop(q, 1);
		bool of_a = one >= ia && one < ia + 3;
		n_a += of_a;
		ex_fair_end(q, of_a ? &a : &b, of_a ? 900 : 0);
	}
	assert_int_equal(n_a, 1);
	while ((one = ex_fair_pop(q, 1)))
		ex_fair_end(q, one >= ia && one < ia + 3 ? &a : &b, 0);
}

/* Random pushes, pops, removals and ends: within an account in order, nothing lost or doubled. */
static void test_random_operations(void **state)
{
	(void)state;
	enum { N = 64, FLOWS = 9 };
	for (uint64_t seed = 1; seed <= 50; seed++) {
		random_state = seed;
		EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){3, 1, 7}, 3, N, 2, 1000000 * S);
		struct ex_fair_flow f[FLOWS] = {0};
		struct ex_fair_item item[N] = {0};
		uint64_t number[N], next = 0, last[FLOWS] = {0};
		bool running[N] = {0};
		uint32_t owner[N], n_queued = 0, n_running = 0;
		for (uint32_t i = 0; i < FLOWS; i++)
			f[i] = (struct ex_fair_flow){.tier = i % 3, .weight = 1 + i};
		for (int n = 0; n < 4000; n++) {
			uint32_t i = (uint32_t)draw(N);
			if (running[i]) {
				ex_fair_end(q, &f[owner[i]], (uint32_t)draw(item[i].cost));
				running[i] = false;
				n_running--;
			} else if (item[i].flow && draw(4) == 0) {
				ex_fair_remove(q, &item[i]);
				n_queued--;
			} else if (!item[i].flow) {
				owner[i] = (uint32_t)draw(FLOWS);
				push(q, &f[owner[i]], &item[i], 1 + (uint32_t)draw(10000));
				number[i] = ++next;
				n_queued++;
			}
			uint32_t slots = (uint32_t)draw(5);
			struct ex_fair_item *one = draw(2) ? ex_fair_pop(q, slots) : NULL;
			if (one) {
				i = (uint32_t)(one - item);
				assert_true(!running[i] && number[i] > last[owner[i]]);
				assert_true(slots > 2 || f[owner[i]].n_running == 1);
				last[owner[i]] = number[i];
				running[i] = true;
				n_queued--;
				n_running++;
			}
			struct ex_fair_stat stat;
			uint32_t queued_of_flows = 0, running_of_flows = 0;
			ex_fair_stat(q, &stat);
			for (int k = 0; k < FLOWS; k++) {
				queued_of_flows += f[k].n_queued;
				running_of_flows += f[k].n_running;
			}
			assert_int_equal(stat.n_queued, n_queued);
			assert_int_equal(queued_of_flows, n_queued);
			assert_int_equal(running_of_flows, n_running);
		}
		while (ex_fair_pop(q, 3))
			n_queued--;
		assert_int_equal(n_queued, 0);
	}
}

/* An account that used much in its tier and comes into another one does not wait there for the others to have used as much. */
static void test_other_tier(void **state)
{
	(void)state;
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = make((uint32_t[]){1, 1}, 2, 16, 0, S);
	struct ex_fair_flow a = {.weight = 1}, b = {.tier = 1, .weight = 1};
	struct ex_fair_item ia = {0}, ib[3] = {0};
	for (int i = 0; i < 100; i++) {
		push(q, &a, &ia, 100000);
		assert_ptr_equal(ex_fair_pop(q, 1), &ia);
		ex_fair_move(&a, 1);
		assert_int_equal(a.tier, 0); /* it is running */
		ex_fair_end(q, &a, 0);
	}
	ex_fair_move(&a, 1);
	assert_int_equal(a.tier, 1);
	for (int i = 0; i < 3; i++)
		push(q, &b, &ib[i], 100);
	push(q, &a, &ia, 100);
	assert_ptr_equal(ex_fair_pop(q, 1), &ib[0]);
	assert_ptr_equal(ex_fair_pop(q, 1), &ia);
	ex_fair_remove(q, &ib[1]);
	ex_fair_remove(q, &ib[2]);
}

static void test_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_fair *q = NULL;
	struct ex_fair_opts o = {.tier_weights = (uint32_t[]){0}, .n_tiers = 1, .items_max = 1};
	assert_int_equal(ex_fair_new(&o, &err, &q), -EINVAL);
	assert_non_null(strstr(err.text, "weight"));
	o.n_tiers = 0;
	assert_int_equal(ex_fair_new(&o, &err, &q), -EINVAL);
	o = (struct ex_fair_opts){.tier_weights = (uint32_t[]){1}, .n_tiers = 1, .items_max = EX_FAIR_ITEMS_MAX + 1};
	assert_int_equal(ex_fair_new(&o, &err, &q), -EINVAL);
	assert_null(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_weights),
		cmocka_unit_test(test_thousand_and_one),
		cmocka_unit_test(test_no_starvation),
		cmocka_unit_test(test_bounded_by_wait),
		cmocka_unit_test(test_promises_are_bounded),
		cmocka_unit_test(test_surge),
		cmocka_unit_test(test_unused_is_given_back),
		cmocka_unit_test(test_random_operations),
		cmocka_unit_test(test_other_tier),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
