/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "gateway/waitlist.h"
#include <stdio.h>
#include <string.h>

static uint64_t random_state;

/* splitmix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t draw(uint64_t below)
{
	uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % below;
}

static struct ex_wait_ticket ticket(uint64_t id, int64_t amount_nano, int64_t expires_s)
{
	struct ex_wait_ticket t = {.id = id, .amount_nano = amount_nano, .added_s = 100, .expires_s = expires_s};
	snprintf(t.account, sizeof t.account, "acct-%u", (unsigned)id);
	return t;
}

static int add(struct ex_waitlist *l, uint64_t id, int64_t amount_nano, int64_t expires_s)
{
	struct ex_wait_ticket t = ticket(id, amount_nano, expires_s);
	return ex_waitlist_add(l, &t, NULL);
}

static struct ex_waitlist *make(uint32_t tickets_max)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_waitlist *l = NULL;
	EXPECT_OK(err, ex_waitlist_new(tickets_max, &err, &l));
	return l;
}

static void test_first_come(void **state)
{
	(void)state;
	EX_CLEANUP(ex_waitlist_freep) struct ex_waitlist *l = make(3);
	assert_null(ex_waitlist_first(l, 0));
	assert_int_equal(add(l, 4, 10, 200), 0);
	assert_int_equal(add(l, 7, 20, 150), 0);
	assert_int_equal(add(l, 9, 30, 300), 0);
	assert_int_equal(add(l, 10, 30, 300), -ENOSPC);
	assert_false(ex_waitlist_has_room(l));
	assert_int_equal(ex_waitlist_amount_nano(l), 60);
	assert_int_equal(ex_waitlist_first(l, 100)->id, 4);
	assert_string_equal(ex_waitlist_find(l, 7)->account, "acct-7");
	assert_null(ex_waitlist_find(l, 8));
	assert_int_equal(ex_waitlist_remove(l, 4), 0);
	assert_int_equal(ex_waitlist_remove(l, 4), -ENOENT);
	assert_int_equal(ex_waitlist_first(l, 100)->id, 7);
	/* 7 expires at 150: it is not released any more, and to be refunded */
	assert_null(ex_waitlist_expired(l, 149));
	assert_int_equal(ex_waitlist_expired(l, 150)->id, 7);
	assert_int_equal(ex_waitlist_first(l, 150)->id, 9);
	assert_int_equal(ex_waitlist_remove(l, 7), 0);
	assert_null(ex_waitlist_expired(l, 150));
	assert_int_equal(add(l, 9, 1, 500), -EEXIST);
	assert_int_equal(add(l, 8, 1, 500), -EEXIST);
	assert_int_equal(add(l, 11, 0, 500), -EINVAL);
	assert_int_equal(add(l, 11, INT64_MAX, 500), -EINVAL);
	assert_int_equal(ex_waitlist_count(l), 1);
	assert_int_equal(ex_waitlist_amount_nano(l), 30);
}

struct seen {
	uint64_t last, n;
	int64_t sum;
};

static void look(void *ctx, const struct ex_wait_ticket *t)
{
	struct seen *s = ctx;
	assert_true(t->id > s->last && t->amount_nano > 0);
	s->last = t->id;
	s->n++;
	s->sum += t->amount_nano;
}

/* Random additions, releases, refunds and expiries against what a plain list says. */
static void test_random_operations(void **state)
{
	(void)state;
	enum { N = 40, IDS = 5000 };
	for (uint64_t seed = 1; seed <= 20; seed++) {
		EX_CLEANUP(ex_waitlist_freep) struct ex_waitlist *l = make(N);
		static struct ex_wait_ticket plain[IDS];
		uint64_t n_ids = 0;
		int64_t now = 0;
		uint32_t n = 0;
		random_state = seed;
		memset(plain, 0, sizeof plain);
		while (n_ids + 1 < IDS) {
			now += (int64_t)draw(3);
			uint64_t first = 0, some = draw(n_ids + 1);
			for (uint64_t i = 1; i <= n_ids && !first; i++)
				first = plain[i].amount_nano && plain[i].expires_s > now ? i : 0;
			const struct ex_wait_ticket *t = ex_waitlist_first(l, now);
			assert_int_equal(t ? t->id : 0, first);
			switch (draw(5)) {
			case 0:
				some = first;
				/* fallthrough */
			case 1:
				assert_int_equal(ex_waitlist_remove(l, some), plain[some].amount_nano ? 0 : -ENOENT);
				n -= plain[some].amount_nano != 0;
				plain[some].amount_nano = 0;
				break;
			case 2:
				for (; (t = ex_waitlist_expired(l, now)); n--) {
					assert_true(plain[t->id].amount_nano && plain[t->id].expires_s <= now);
					plain[t->id].amount_nano = 0;
					assert_int_equal(ex_waitlist_remove(l, t->id), 0);
				}
				for (uint64_t i = 1; i <= n_ids; i++)
					assert_true(!plain[i].amount_nano || plain[i].expires_s > now);
				break;
			default:
				n_ids++;
				plain[n_ids] = ticket(n_ids, 1 + (int64_t)draw(1000), now + (int64_t)draw(200));
				if (n == N)
					plain[n_ids].amount_nano = 0;
				assert_int_equal(
					add(l, n_ids, EX_MAX(plain[n_ids].amount_nano, 1), plain[n_ids].expires_s),
					n == N ? -ENOSPC : 0);
				n += n < N;
			}
			struct seen seen = {0};
			ex_waitlist_each(l, look, &seen);
			assert_int_equal(seen.n, n);
			assert_int_equal(ex_waitlist_count(l), n);
			assert_int_equal(ex_waitlist_amount_nano(l), seen.sum);
		}
	}
}

static void test_eta(void **state)
{
	(void)state;
	EX_CLEANUP(ex_waitlist_freep) struct ex_waitlist *l = make(10);
	struct ex_waitlist_outlook o = {
		.excess_tokens = 1000, .burn_tokens_s = 10, .tokens_per_nano = 0.5, .dwell_s = 60};
	assert_int_equal(add(l, 1, 400, 1000000), 0);
	assert_int_equal(add(l, 2, 600, 1000000), 0);
	assert_int_equal(ex_waitlist_eta_s(l, 0, &o), 160);
	assert_int_equal(ex_waitlist_eta_s(l, 1, &o), 160);
	assert_int_equal(ex_waitlist_eta_s(l, 2, &o), 180);
	assert_int_equal(ex_waitlist_eta_s(l, 3, &o), -1);
	o.excess_tokens = 0;
	assert_int_equal(ex_waitlist_eta_s(l, 1, &o), 60);
	o.burn_tokens_s = 0;
	assert_int_equal(ex_waitlist_eta_s(l, 1, &o), 60); /* nothing needs to be used up */
	assert_int_equal(ex_waitlist_eta_s(l, 2, &o), -1); /* never */
	o.burn_tokens_s = 1e-9;
	assert_int_equal(ex_waitlist_eta_s(l, 2, &o), -1);
}

/* Never sooner for a later ticket, never later for a faster fleet, never sooner for a greater excess. */
static void test_eta_is_monotone(void **state)
{
	(void)state;
	random_state = 3;
	for (int n = 0; n < 300; n++) {
		EX_CLEANUP(ex_waitlist_freep) struct ex_waitlist *l = make(50);
		struct ex_waitlist_outlook o = {.excess_tokens = (double)draw(1000000),
			.burn_tokens_s = (double)draw(1000),
			.tokens_per_nano = (double)draw(100) / 7,
			.dwell_s = (double)draw(1000)};
		for (uint64_t id = 1; id <= 50; id++)
			assert_int_equal(add(l, id, 1 + (int64_t)draw(100000), 1000000), 0);
		for (uint64_t id = 0; id <= 50; id++) {
			struct ex_waitlist_outlook faster = o, more = o;
			faster.burn_tokens_s += 1 + (double)draw(100);
			more.excess_tokens += (double)draw(100000);
			/* -1, no expectation, is later than all */
			uint64_t eta = (uint64_t)ex_waitlist_eta_s(l, id, &o);
			assert_true(id == 50 || (uint64_t)ex_waitlist_eta_s(l, id + 1, &o) >= eta);
			assert_true((uint64_t)ex_waitlist_eta_s(l, id, &faster) <= eta);
			assert_true((uint64_t)ex_waitlist_eta_s(l, id, &more) >= eta);
		}
	}
}

static void test_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_waitlist *l = NULL;
	assert_int_equal(ex_waitlist_new(0, &err, &l), -EINVAL);
	assert_int_equal(ex_waitlist_new(EX_WAITLIST_MAX + 1, &err, &l), -EINVAL);
	assert_null(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_come),
		cmocka_unit_test(test_random_operations),
		cmocka_unit_test(test_eta),
		cmocka_unit_test(test_eta_is_monotone),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
