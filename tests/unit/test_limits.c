/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "gateway/limits.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GIVE_UP_NS (60 * EX_NS_PER_S)
#define ACCOUNT(k) ((k) / 100) /* a key is a number; a hundred of them are an account's */

/* --- the admission behind ------------------------------------------------------------------------------------------ */

struct behind {
	int status; /* what it answers */
	_Atomic int n_asked, n_open, n_open_max;
	_Atomic uint64_t n_used;
};

static void behind_ask(void *ctx, const struct ex_admit_ask *a,
	void (*done)(void *done_ctx, const struct ex_admit_answer *r), void *done_ctx)
{
	struct behind *b = ctx;
	struct ex_admit_answer r = {.status = b->status, .limit_requests = -1, .limit_tokens = -1};
	atomic_fetch_add(&b->n_asked, 1);
	if (!a->key || !strcmp(a->key, "0")) {
		r.status = 401;
		r.code = "invalid_api_key";
	}
	if (r.status == 200) {
		int n = atomic_fetch_add(&b->n_open, 1) + 1, most = atomic_load(&b->n_open_max);
		while (n > most && !atomic_compare_exchange_weak(&b->n_open_max, &most, n))
			;
		r.ticket = ctx;
	}
	done(done_ctx, &r);
}

static void behind_progress(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	(void)u;
	assert_ptr_equal(t, ctx);
}

static void behind_finish(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	struct behind *b = ctx;
	assert_ptr_equal(t, ctx);
	atomic_fetch_sub(&b->n_open, 1);
	atomic_fetch_add(&b->n_used, u->completion);
}

static const struct ex_admit_ops behind_ops = {.ask = behind_ask, .progress = behind_progress, .finish = behind_finish};

/* --- the edge ------------------------------------------------------------------------------------------------------ */

struct asked {
	_Atomic int n_done;
	struct ex_admit_answer r;
	char code[32];
	_Atomic unsigned *turn; /* counted up when it is admitted */
	unsigned at;
};

static void on_done(void *ctx, const struct ex_admit_answer *r)
{
	struct asked *a = ctx;
	a->r = *r;
	snprintf(a->code, sizeof a->code, "%s", r->code ? r->code : "");
	if (r->status == 200 && a->turn)
		a->at = atomic_fetch_add(a->turn, 1);
	atomic_fetch_add_explicit(&a->n_done, 1, memory_order_release); /* pairs with wait_done */
}

static bool who(void *ctx, const char *key, struct ex_limits_who *ret)
{
	long k = key ? atol(key) : 0;
	(void)ctx;
	*ret = (struct ex_limits_who){.account = ACCOUNT(k), .key = k, .tier = k >= 10000};
	return k != 0;
}

static void ask(struct ex_limits *l, struct asked *a, long key, uint32_t prompt, uint32_t most)
{
	const struct ex_admit *admit = ex_limits_admit(l);
	char text[24];
	snprintf(text, sizeof text, "%ld", key);
	const struct ex_admit_ask q = {.key = text,
		.request_id = "req",
		.prompt_tokens = prompt,
		.max_tokens = most,
		.likeness = (uint64_t)(uintptr_t)a};
	atomic_store(&a->n_done, 0);
	admit->ops->ask(admit->ctx, &q, on_done, a);
}

static void wait_done(struct asked *a)
{
	uint64_t end = ex_now_ns() + GIVE_UP_NS;
	while (!atomic_load_explicit(&a->n_done, memory_order_acquire) && ex_now_ns() < end)
		usleep(1000);
	assert_int_equal(a->n_done, 1);
}

static int ask_now(struct ex_limits *l, struct asked *a, long key, uint32_t prompt, uint32_t most)
{
	ask(l, a, key, prompt, most);
	assert_int_equal(a->n_done, 1);
	return a->r.status;
}

static void finish(struct ex_limits *l, struct asked *a, uint32_t prompt, uint32_t completion)
{
	const struct ex_admit *admit = ex_limits_admit(l);
	const struct ex_usage_tokens u = {.prompt_miss = prompt, .completion = completion};
	admit->ops->progress(admit->ctx, a->r.ticket, &u);
	admit->ops->finish(admit->ctx, a->r.ticket, &u);
}

static struct ex_limits *make(const struct behind *b, struct ex_admit *inner, const struct ex_limits_tier *tiers,
	uint32_t n_tiers, uint32_t places)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_limits *l = NULL;
	*inner = (struct ex_admit){.ops = &behind_ops, .ctx = (void *)b};
	EXPECT_OK(err, ex_limits_new(&(struct ex_limits_opts){.inner = inner,
					     .who = who,
					     .tiers = tiers,
					     .n_tiers = n_tiers,
					     .places = places,
					     .queue_max = 4096,
					     .queue_wait_ms = 3600000},
			       &err, &l));
	return l;
}

static const struct ex_limits_tier no_limits[] = {{.name = "a", .weight = 1}, {.name = "b", .weight = 1}};

/* --- tests --------------------------------------------------------------------------------------------------------- */

static void test_requests_a_minute(void **state)
{
	(void)state;
	static const struct ex_limits_tier tiers[] = {{.name = "a", .weight = 1, .requests_per_min = 3}};
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct asked a[5] = {0};
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, tiers, 1, 10);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ask_now(l, &a[i], 101, 5, 5), 200);
		assert_int_equal(a[i].r.limit_requests, 3);
		assert_int_equal(a[i].r.remaining_requests, 2 - i);
		assert_int_equal(a[i].r.limit_tokens, -1);
	}
	assert_int_equal(ask_now(l, &a[3], 101, 5, 5), 429);
	assert_string_equal(a[3].code, "rate_limit_exceeded");
	assert_true(a[3].r.retry_after_s >= 1 && a[3].r.retry_after_s <= 20);
	assert_true(a[3].r.reset_requests_ms > 0);
	assert_int_equal(ask_now(l, &a[4], 101, 5, 5), 429); /* behind the one before */
	assert_true(a[4].r.retry_after_s > a[3].r.retry_after_s);
	assert_int_equal(b.n_asked, 3);
	for (int i = 0; i < 3; i++)
		finish(l, &a[i], 5, 1);
	assert_int_equal(ask_now(l, &a[0], 102, 5, 5), 200); /* another key of the account */
	finish(l, &a[0], 5, 5);
}

static void test_tokens_a_minute(void **state)
{
	(void)state;
	static const struct ex_limits_tier tiers[] = {{.name = "a", .weight = 1, .tokens_per_min = 1000}};
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct asked a[3] = {0};
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, tiers, 1, 10);
	assert_int_equal(ask_now(l, &a[0], 101, 100, 901), 429);
	assert_string_equal(a[0].code, "request_too_large");
	assert_int_equal(a[0].r.retry_after_s, 0); /* never */
	assert_int_equal(ask_now(l, &a[0], 101, 100, 900), 200);
	assert_int_equal(a[0].r.remaining_tokens, 0);
	assert_int_equal(ask_now(l, &a[1], 101, 100, 500), 429);
	assert_true(a[1].r.retry_after_s >= 35 && a[1].r.retry_after_s <= 36); /* 600 of 1000 a minute */
	finish(l, &a[0], 100, 50);                                             /* what it did not use is there again */
	assert_int_equal(ask_now(l, &a[1], 101, 100, 740), 200);
	assert_int_equal(ask_now(l, &a[2], 101, 100, 500), 429);
	/* refused behind: neither requests nor tokens are kept */
	finish(l, &a[1], 0, 0);
	b.status = 402;
	for (int i = 0; i < 10; i++)
		assert_int_equal(ask_now(l, &a[1], 101, 100, 740), 402);
	b.status = 200;
	assert_int_equal(ask_now(l, &a[1], 101, 100, 740), 200);
	finish(l, &a[1], 0, 0);
}

static void test_concurrency(void **state)
{
	(void)state;
	static const struct ex_limits_tier tiers[] = {{.name = "a", .weight = 1, .concurrency = 2}};
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct asked a[4] = {0};
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, tiers, 1, 10);
	assert_int_equal(ask_now(l, &a[0], 101, 1, 1), 200);
	assert_int_equal(ask_now(l, &a[1], 102, 1, 1), 200);
	assert_int_equal(ask_now(l, &a[2], 103, 1, 1), 429);
	assert_string_equal(a[2].code, "concurrency_exceeded");
	assert_true(a[2].r.retry_after_s >= 1);
	assert_int_equal(ask_now(l, &a[3], 201, 1, 1), 200); /* another account */
	finish(l, &a[0], 1, 1);
	assert_int_equal(ask_now(l, &a[2], 103, 1, 1), 200);
	for (int i = 1; i < 4; i++)
		finish(l, &a[i], 1, 1);
}

/* One place; an account queues 50 requests, then another one its one: that begins as the next. */
static void test_fair(void **state)
{
	(void)state;
	struct behind b = {.status = 200};
	struct ex_admit inner;
	static struct asked many[50], one;
	_Atomic unsigned turn = 0;
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, no_limits, 2, 1);
	for (int i = 0; i < 50; i++) {
		many[i].turn = &turn;
		ask(l, &many[i], 101, 10, 10);
	}
	one.turn = &turn;
	ask(l, &one, 201, 10, 10);
	struct ex_limits_stat s;
	ex_limits_stat(l, &s);
	assert_int_equal(s.n_running, 1);
	assert_int_equal(s.n_waiting, 50);
	assert_int_equal(s.n_accounts_waiting, 2);
	for (unsigned n = 0; n < 51; n++) {
		struct asked *now = NULL;
		uint64_t end = ex_now_ns() + GIVE_UP_NS;
		while (!now && ex_now_ns() < end) {
			for (int i = 0; i < 51; i++) {
				struct asked *x = i < 50 ? &many[i] : &one;
				if (atomic_load_explicit(&x->n_done, memory_order_acquire) && x->r.ticket)
					now = x;
			}
			usleep(100);
		}
		assert_non_null(now);
		finish(l, now, 10, 10);
		now->r.ticket = NULL;
	}
	assert_true(one.at <= 2);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(many[i].at, i < one.at ? i : i + 1);
	assert_int_equal(b.n_open_max, 1);
	ex_limits_stat(l, &s);
	assert_true(s.wait_p95_s > 0);
}

static void test_nobodys_key(void **state)
{
	(void)state;
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct asked a = {0};
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, no_limits, 2, 1);
	assert_int_equal(ask_now(l, &a, 0, 1, 1), 401);
	assert_string_equal(a.code, "invalid_api_key");
	assert_int_equal(a.r.limit_requests, -1);
}

static void test_close(void **state)
{
	(void)state;
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct asked a[5] = {0};
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, no_limits, 2, 1);
	for (int i = 0; i < 4; i++)
		ask(l, &a[i], 101, 1, 1);
	ex_limits_close(l);
	for (int i = 1; i < 4; i++) {
		wait_done(&a[i]);
		assert_int_equal(a[i].r.status, 503);
		assert_string_equal(a[i].code, "stopping");
	}
	assert_int_equal(ask_now(l, &a[4], 201, 1, 1), 503);
	finish(l, &a[0], 1, 1);
}

static void test_saved(void **state)
{
	(void)state;
	static const struct ex_limits_tier tiers[] = {
		{.name = "a", .weight = 1, .requests_per_min = 2}, {.name = "b", .weight = 1, .tokens_per_min = 100}};
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct asked a[3] = {0};
	struct ex_err err = EX_ERR_INIT;
	struct ex_str text = EX_STR_INIT;
	uint64_t real = ex_realtime_us() * 1000;
	struct ex_limits *l = make(&b, &inner, tiers, 2, 10);
	assert_int_equal(ask_now(l, &a[0], 101, 1, 1), 200);
	assert_int_equal(ask_now(l, &a[1], 101, 1, 1), 200);
	assert_int_equal(ask_now(l, &a[2], 10001, 50, 50), 200);
	finish(l, &a[0], 1, 1);
	finish(l, &a[1], 1, 1);
	finish(l, &a[2], 50, 50);
	ex_limits_save(l, real, &text);
	l = ex_limits_free(l);
	l = make(&b, &inner, tiers, 2, 10);
	EXPECT_OK(err, ex_limits_load(l, text.s, text.n, real, &err));
	assert_int_equal(ask_now(l, &a[0], 101, 1, 1), 429);
	assert_int_equal(ask_now(l, &a[0], 10001, 50, 0), 429);
	assert_int_equal(ask_now(l, &a[0], 102, 1, 1), 200);
	finish(l, &a[0], 1, 1);
	l = ex_limits_free(l);
	/* a day later nothing is left of it; what is no state is refused */
	l = make(&b, &inner, tiers, 2, 10);
	EXPECT_OK(err, ex_limits_load(l, text.s, text.n, real + 86400 * EX_NS_PER_S, &err));
	assert_int_equal(ask_now(l, &a[0], 101, 1, 1), 200);
	finish(l, &a[0], 1, 1);
	assert_int_equal(ex_limits_load(l, "1 a 5\n", 6, real, &err), -EINVAL);
	assert_non_null(strstr(err.text, "line 1"));
	assert_int_equal(ex_limits_load(l, "1 gone 5 6\nx", 12, real, &err), -EINVAL);
	assert_non_null(strstr(err.text, "line 2"));
	ex_limits_free(l);
	ex_str_done(&text);
}

/* --- many at once -------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 200 };

struct client {
	struct ex_limits *l;
	long key;
	int n_ok, n_refused;
};

static void *run_client(void *ctx)
{
	struct client *c = ctx;
	for (int i = 0; i < ROUNDS; i++) {
		struct asked a[3] = {0};
		for (int k = 0; k < 3; k++)
			ask(c->l, &a[k], c->key, 10, 20);
		for (int k = 0; k < 3; k++) {
			wait_done(&a[k]);
			c->n_ok += a[k].r.status == 200;
			c->n_refused += a[k].r.status != 200;
			if (a[k].r.status == 200)
				finish(c->l, &a[k], 10, 7);
		}
	}
	return NULL;
}

/* Every question is answered once, no more are open than there are places, and what is finished is told behind. */
static void test_threads(void **state)
{
	(void)state;
	static const struct ex_limits_tier tiers[] = {
		{.name = "a", .weight = 1}, {.name = "b", .weight = 3, .concurrency = 4, .requests_per_min = 300}};
	struct behind b = {.status = 200};
	struct ex_admit inner;
	struct client c[THREADS];
	pthread_t thread[THREADS];
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = make(&b, &inner, tiers, 2, 2);
	for (int i = 0; i < THREADS; i++) {
		c[i] = (struct client){.l = l, .key = i < 2 ? 101 + 100 * i : 10001};
		assert_int_equal(pthread_create(&thread[i], NULL, run_client, &c[i]), 0);
	}
	int n_ok = 0, n_refused = 0;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		n_ok += c[i].n_ok;
		n_refused += c[i].n_refused;
	}
	assert_int_equal(n_ok + n_refused, 3 * THREADS * ROUNDS);
	assert_true(c[0].n_refused == 0 && c[1].n_refused == 0 && c[2].n_refused + c[3].n_refused > 0);
	assert_int_equal(b.n_asked, n_ok);
	assert_int_equal(b.n_open, 0);
	assert_true(b.n_open_max <= 2);
	assert_int_equal(b.n_used, 7 * n_ok);
}

static void test_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_limits *l = NULL;
	struct ex_limits_opts o = {.tiers = no_limits, .n_tiers = 2, .places = 0, .queue_max = 1, .who = who};
	assert_int_equal(ex_limits_new(&o, &err, &l), -EINVAL);
	const struct ex_limits_tier bad = {.name = "x", .weight = 1, .tokens_per_min = UINT32_MAX};
	o = (struct ex_limits_opts){.tiers = &bad, .n_tiers = 1, .places = 1, .queue_max = 1, .who = who};
	assert_int_equal(ex_limits_new(&o, &err, &l), -EINVAL);
	assert_non_null(strstr(err.text, "tier x"));
	assert_null(l);
}

static void test_tiers(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_limits_tier t[EX_FAIR_TIERS_MAX];
	uint32_t n;
	const struct ex_limits_conf c = {.weight = {.v = (const char *const[]){"b=4"}, .n = 1},
		.requests_per_min = {.v = (const char *const[]){"a=60", "b=600"}, .n = 2},
		.concurrency = {.v = (const char *const[]){"default=3"}, .n = 1}};
	EXPECT_OK(err, ex_limits_tiers_parse(&c, &err, t, &n));
	assert_int_equal(n, 3);
	assert_string_equal(t[0].name, "default");
	assert_true(t[0].weight == 1 && t[0].concurrency == 3 && !t[0].requests_per_min && !t[0].tokens_per_min);
	uint32_t a = ex_limits_tier_find(t, n, "a"), b = ex_limits_tier_find(t, n, "b");
	assert_true(t[a].weight == 1 && t[a].requests_per_min == 60 && !t[a].concurrency);
	assert_true(t[b].weight == 4 && t[b].requests_per_min == 600);
	assert_int_equal(ex_limits_tier_find(t, n, "c"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests_a_minute),
		cmocka_unit_test(test_tokens_a_minute),
		cmocka_unit_test(test_concurrency),
		cmocka_unit_test(test_fair),
		cmocka_unit_test(test_nobodys_key),
		cmocka_unit_test(test_close),
		cmocka_unit_test(test_saved),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_tiers),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
