/* SPDX-License-Identifier: Apache-2.0 */
/* engine/route over real gRPC to fake hosts: with a replica no kind of failure loses a row or changes a bit; without one
 * the step is held, until somebody comes or the time is over; identities are kept apart as asked. */
#include "dispatch_rig.h"

#include <pthread.h>

static const uint32_t both[] = {0xf, 0xf};
static float y[ROWS][FAKE_D], want[ROWS][FAKE_D];
static uint8_t failed[ROWS];

static void defaults(void)
{
	asked.frame_timeout_ms = 20000;
	asked.heartbeat_ms = 5000;
	asked.hold_ms = asked.late_ms = 20000;
	asked.hedge = EX_HEDGE_OFF;
	asked.hedge_ms = 20;
	asked.hedge_budget_percent = 100;
	asked.failover = EX_FAILOVER_IDENTICAL;
	asked.verify_percent = 0;
}

static void open_pair(struct fixture *f, const char *first, const char *second)
{
	struct ex_err err = EX_ERR_INIT;
	open_fixture(f, 2, both, EXPERTD_F32);
	while (f->n_ready < 2)
		usleep(1000);
	if (first) { /* with identities: both say Hello again */
		f->d = ex_dispatch_free(f->d);
		f->n_ready = 0;
		f->host[0].identity = first;
		f->host[1].identity = second;
		open_dispatch(f, EXPERTD_F32);
		while (f->n_ready < 2)
			usleep(1000);
		if (!ex_dispatch_wait_covered(f->d, 10000, &err))
			fail_msg("%s", ex_err_text(&err));
	}
	make_rows(1);
	expected(2, EXPERTD_F32, want);
}

static void expect_good(struct fixture *f)
{
	ex_dispatch_step_begins(f->d);
	memset(y, 0xff, sizeof y);
	if (run(f, 2, ROWS, y, failed))
		fail_msg("%s", ex_dispatch_failure(f->d));
	assert_memory_equal(y, want, sizeof y);
	for (uint32_t i = 0; i < ROWS; i++)
		assert_int_equal(failed[i], 0);
}

/* The same by hosts that compute as another identity. */
static void expect_doubled(struct fixture *f)
{
	ex_dispatch_step_begins(f->d);
	if (run(f, 2, ROWS, y, failed))
		fail_msg("%s", ex_dispatch_failure(f->d));
	for (uint32_t i = 0; i < ROWS; i++)
		for (uint32_t c = 0; c < FAKE_D; c++)
			assert_true(y[i][c] == 2 * want[i][c]);
}

/* Until both of two hosts are asked. */
static void ask_both(struct fixture *f)
{
	const int first = f->host[0].n_frames, second = f->host[1].n_frames;
	for (int i = 0; i < 1000 && (f->host[0].n_frames == first || f->host[1].n_frames == second); i++) {
		expect_good(f);
		usleep(10000);
	}
	assert_true(f->host[0].n_frames > first && f->host[1].n_frames > second);
}

/* One of two hosts misbehaves for a while, then the other one: every row is answered, with the same bits. */
static void fail_over(int mode)
{
	struct fixture f;
	open_pair(&f, NULL, NULL);
	expect_good(&f);
	for (int bad = 0; bad < 2; bad++) {
		f.host[bad].mode = mode;
		for (int i = 0; i < 3; i++)
			expect_good(&f);
		f.host[bad].mode = FAKE_GOOD;
		struct ex_err err = EX_ERR_INIT;
		if (!ex_dispatch_wait_covered(f.d, 10000, &err))
			fail_msg("%s", ex_err_text(&err));
	}
	assert_true(f.host[0].n_frames > 0 && f.host[1].n_frames > 0);
	close_fixture(&f);
}

static void test_host_that_closes(void **state)
{
	(void)state;
	defaults();
	fail_over(FAKE_CLOSES);
}

static void test_shard_that_fails(void **state)
{
	(void)state;
	defaults();
	fail_over(FAKE_SHARD_FAILS);
}

static void test_host_that_answers_something_else(void **state)
{
	(void)state;
	defaults();
	fail_over(FAKE_WRONG_REPLY);
}

/* A host that answers twice is heard once. */
static void test_host_that_answers_twice(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	open_pair(&f, NULL, NULL);
	f.host[0].mode = f.host[1].mode = FAKE_TWICE;
	for (int i = 0; i < 8; i++)
		expect_good(&f);
	assert_int_equal(f.n_down, 0);
	close_fixture(&f);
}

/* Frozen: its rows go elsewhere as soon as it is suspect, not only when it is down. */
static void test_frozen_host(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.heartbeat_ms = 500;
	open_pair(&f, NULL, NULL);
	expect_good(&f);
	f.host[0].mode = FAKE_FROZEN;
	f.host[1].mode = FAKE_GOOD;
	for (int i = 0; i < 100 && f.n_suspect == 0; i++) { /* until the frozen one is among those asked */
		expect_good(&f);
		usleep(200000);
	}
	assert_true(f.n_suspect > 0);
	expect_good(&f);
	close_fixture(&f);
}

/* A host that answers heartbeats only is late with its frame: the other one is asked. */
static void hedge(enum ex_hedge kind)
{
	struct fixture f;
	defaults();
	asked.hedge = kind;
	open_pair(&f, NULL, NULL);
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	f.host[0].mode = FAKE_SILENT;
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	f.host[0].mode = FAKE_GOOD;
	f.host[1].mode = FAKE_SILENT;
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	assert_int_equal(f.n_down, 0);
	close_fixture(&f);
}

static void test_hedge_fixed(void **state)
{
	(void)state;
	hedge(EX_HEDGE_FIXED);
}

static void test_hedge_p99(void **state)
{
	(void)state;
	hedge(EX_HEDGE_P99);
}

/* Later than it ever is: asked for elsewhere even without hedging, and the host is not blamed. */
static void test_late_host(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.late_ms = 300;
	open_pair(&f, NULL, NULL);
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	for (int bad = 0; bad < 2; bad++) {
		f.host[bad].mode = FAKE_SILENT;
		expect_good(&f);
		f.host[bad].mode = FAKE_GOOD;
	}
	assert_int_equal(f.n_down, 0);
	close_fixture(&f);
}

/* The first answer decides the identity, not the first who was asked. */
static void test_identity_of_who_answers(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	open_pair(&f, "aa", "bb");
	f.host[0].mode = FAKE_SHARD_FAILS;
	f.host[1].mode = FAKE_GOOD;
	expect_good(&f);
	assert_int_equal(f.n_identity_changes, 0);
	close_fixture(&f);
}

/* Without a budget nothing is sent twice: the frame's own timeout ends the wait. */
static void test_hedge_without_budget(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.hedge = EX_HEDGE_FIXED;
	asked.hedge_budget_percent = 0;
	asked.frame_timeout_ms = 600;
	open_pair(&f, NULL, NULL);
	f.host[0].mode = f.host[1].mode = FAKE_GOOD;
	expect_good(&f);
	f.host[0].mode = FAKE_SILENT;
	while (f.n_down == 0)
		expect_good(&f);
	close_fixture(&f);
}

/* --- held ------------------------------------------------------------------------------------------------ */

static void *restart_soon(void *arg)
{
	usleep(300000);
	fake_host_restart(arg);
	return NULL;
}

static void test_held_until_a_host_returns(void **state)
{
	struct fixture f;
	pthread_t t;
	(void)state;
	defaults();
	open_fixture(&f, 1, both, EXPERTD_F32);
	make_rows(1);
	expected(2, EXPERTD_F32, want);
	fake_host_stop(&f.host[0]);
	while (f.n_down == 0)
		usleep(1000);
	assert_int_equal(pthread_create(&t, NULL, restart_soon, &f.host[0]), 0);
	expect_good(&f);
	pthread_join(t, NULL);
	close_fixture(&f);
}

/* A shard whose only holder fails each time is asked again while it is held, and served when it is well. */
static void *heal_soon(void *arg)
{
	struct fake_host *h = arg;
	int n = h->n_frames;
	while (h->n_frames < n + 3)
		usleep(1000);
	h->mode = FAKE_GOOD;
	return NULL;
}

static void test_held_while_the_only_holder_fails(void **state)
{
	struct fixture f;
	pthread_t t;
	(void)state;
	defaults();
	open_fixture(&f, 1, both, EXPERTD_F32);
	make_rows(1);
	expected(2, EXPERTD_F32, want);
	f.host[0].mode = FAKE_SHARD_FAILS;
	assert_int_equal(pthread_create(&t, NULL, heal_soon, &f.host[0]), 0);
	expect_good(&f);
	pthread_join(t, NULL);
	close_fixture(&f);
}

/* The wait has an end, and a second request of the same outage does not wait all over again. */
static void test_held_too_long(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.hold_ms = 300;
	open_fixture(&f, 1, both, EXPERTD_F32);
	make_rows(1);
	f.host[0].mode = FAKE_SHARD_FAILS;
	assert_int_equal(run(&f, 2, ROWS, y, failed), -EHOSTDOWN);
	assert_non_null(strstr(ex_dispatch_failure(f.d), "device is sick"));
	int n = f.host[0].n_frames;
	assert_true(n >= 2);
	assert_int_equal(run(&f, 2, ROWS, y, failed), -EHOSTDOWN);
	assert_int_equal(f.host[0].n_frames, n + 1);
	close_fixture(&f);
}

static void *give_up_soon(void *arg)
{
	usleep(200000);
	ex_dispatch_give_up(arg);
	return NULL;
}

/* An engine that stops does not wait out the hold, nor a frame. */
static void test_give_up(void **state)
{
	static const int modes[] = {FAKE_SHARD_FAILS, FAKE_SILENT};
	(void)state;
	defaults();
	asked.hold_ms = asked.frame_timeout_ms = 600000;
	for (size_t i = 0; i < EX_ARRAY_LEN(modes); i++) {
		struct fixture f;
		pthread_t t;
		open_fixture(&f, 1, both, EXPERTD_F32);
		make_rows(1);
		f.host[0].mode = modes[i];
		assert_int_equal(pthread_create(&t, NULL, give_up_soon, f.d), 0);
		assert_int_equal(run(&f, 2, ROWS, y, failed), -EHOSTDOWN);
		pthread_join(t, NULL);
		close_fixture(&f);
	}
}

/* --- who is asked ---------------------------------------------------------------------------------------- */

static void test_draining_host_is_not_asked(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.heartbeat_ms = 200;
	open_pair(&f, NULL, NULL);
	f.host[0].draining = true;
	while (f.n_draining == 0)
		usleep(1000);
	int n = f.host[0].n_frames;
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	assert_int_equal(f.host[0].n_frames, n);
	f.host[1].mode = FAKE_CLOSES; /* but it still serves when it must */
	expect_good(&f);
	assert_true(f.host[0].n_frames > n);
	close_fixture(&f);
}

static void add_errors(void *ctx, const struct ex_host_view *v)
{
	*(uint64_t *)ctx += v->errors;
}

/* Rows of a late host go to one that is asked last, when there is no other: they do not wait until the late one has failed. */
static void test_late_host_and_a_draining_one(void **state)
{
	struct fixture f;
	uint64_t n_errors = 0;
	(void)state;
	defaults();
	asked.heartbeat_ms = 200;
	asked.late_ms = 300;
	asked.frame_timeout_ms = 3000;
	open_pair(&f, NULL, NULL);
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	f.host[0].draining = true;
	while (f.n_draining == 0)
		usleep(1000);
	f.host[1].mode = FAKE_SILENT;
	expect_good(&f);
	ex_dispatch_each_host(f.d, add_errors, &n_errors);
	assert_int_equal(n_errors, 0); /* no frame has failed */
	assert_int_equal(f.n_down, 0);
	close_fixture(&f);
}

/* A host whose list of shards changes says so, and is greeted again. */
static void test_new_list_is_asked_for(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.heartbeat_ms = 200;
	open_pair(&f, NULL, NULL);
	f.host[0].shards = 0;
	f.host[0].revision++;
	for (int n = -1; n != f.host[0].n_frames; usleep(1500000)) {
		n = f.host[0].n_frames;
		expect_good(&f);
	}
	close_fixture(&f);
}

static void test_identical_is_kept(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.hold_ms = 300;
	open_pair(&f, "aa", "bb");
	expect_good(&f);
	int used = f.host[0].n_frames ? 0 : 1;
	assert_int_equal(
		f.host[!used].n_frames, 0); /* the other one would have halved the work, but for its identity */
	f.host[used].mode = FAKE_SHARD_FAILS;
	assert_int_equal(run(&f, 2, ROWS, y, failed), -EHOSTDOWN);
	assert_int_equal(f.host[!used].n_frames, 0);
	fake_host_stop(&f.host[used]);
	while (f.n_down == 0)
		usleep(1000);
	ex_dispatch_idle(f.d); /* nothing runs: another identity may take over */
	expect_good(&f);
	assert_int_equal(f.n_identity_changes, 0);
	close_fixture(&f);
}

/* A host that was swapped by tolerance computes other bits before Hello tells: they are not used beside those that are in use. */
static void test_swapped_between_hellos(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	open_pair(&f, "aa", "aa");
	for (int i = 0; i < 4; i++)
		expect_good(&f);
	for (int swapped = 0; swapped < 2; swapped++) {
		f.host[swapped].computes_as = "bb";
		for (int i = 0; i < 8; i++)
			expect_good(&f);
		f.host[swapped].computes_as = NULL;
		f.host[swapped].revision++;
		ask_both(&f);
	}
	assert_int_equal(f.n_identity_changes, 0);
	close_fixture(&f);
}

/* Once nothing runs the new identity may be the one that is used; then it is the old one's bits that are not mixed in. */
static void test_swapped_while_idle(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.hold_ms = 300;
	open_pair(&f, "aa", "aa");
	f.host[0].computes_as = f.host[1].computes_as = "bb";
	expect_doubled(&f);
	f.host[1].computes_as = NULL;
	for (int i = 0; i < 8; i++)
		expect_doubled(&f);
	f.host[0].computes_as = NULL; /* and nobody computes it any more */
	assert_int_equal(run(&f, 2, ROWS, y, failed), -EHOSTDOWN);
	assert_non_null(strstr(ex_dispatch_failure(f.d), "another numeric identity"));
	ex_dispatch_idle(f.d);
	expect_good(&f);
	assert_int_equal(f.n_identity_changes, 0);
	close_fixture(&f);
}

/* Where any identity is good, the change is told. */
static void test_swapped_under_any(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.failover = EX_FAILOVER_ANY;
	open_pair(&f, "aa", "aa");
	expect_good(&f);
	f.host[0].computes_as = f.host[1].computes_as = "bb";
	expect_doubled(&f);
	assert_true(f.n_identity_changes > 0);
	close_fixture(&f);
}

/* A check by a host that was swapped proves nothing. */
static void test_swapped_checker(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.verify_percent = 100;
	open_pair(&f, "aa", "aa");
	expect_good(&f);
	f.host[1].computes_as = "bb";
	for (int i = 0; i < 8; i++)
		expect_good(&f);
	assert_int_equal(f.n_differs, 0);
	close_fixture(&f);
}

static void test_any_takes_over(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.failover = EX_FAILOVER_ANY;
	open_pair(&f, "aa", "bb");
	expect_good(&f);
	int used = f.host[0].n_frames ? 0 : 1;
	assert_int_equal(f.host[!used].n_frames, 0);
	assert_int_equal(f.n_identity_changes, 0);
	f.host[used].mode = FAKE_SHARD_FAILS;
	expect_good(&f);
	assert_true(f.host[!used].n_frames > 0);
	assert_true(f.n_identity_changes > 0);
	close_fixture(&f);
}

/* Members come and go while rows travel: a host that is taken out loses none, and one that is put in serves. */
static void test_members_change(void **state)
{
	struct fixture f;
	struct ex_err err = EX_ERR_INIT;
	uint32_t covered, n_shards, ready, hosts;
	(void)state;
	defaults();
	open_pair(&f, NULL, NULL);
	expect_good(&f);
	for (int i = 0; i < 6; i++) {
		int out = i % 2, n = f.host[out].n_frames;
		const char *const one[] = {f.host[!out].address};
		EXPECT_OK(err, ex_dispatch_set_members(f.d, one, 1, true, &err)); /* it answers: it stays */
		ex_dispatch_coverage(f.d, &covered, &n_shards, &ready, &hosts);
		assert_int_equal(hosts, 2);
		EXPECT_OK(err, ex_dispatch_set_members(f.d, one, 1, false, &err));
		ex_dispatch_coverage(f.d, &covered, &n_shards, &ready, &hosts);
		assert_int_equal(hosts, 1);
		if (!ex_dispatch_wait_covered(f.d, 10000, &err))
			fail_msg("%s", ex_err_text(&err));
		expect_good(&f);
		assert_int_equal(f.host[out].n_frames, n);
		const char *const two[] = {f.host[0].address, f.host[1].address};
		int before = f.n_ready;
		EXPECT_OK(err, ex_dispatch_set_members(f.d, two, 2, false, &err));
		while (f.n_ready == before)
			usleep(1000);
	}
	close_fixture(&f);
}

/* The only holder is taken out under the rows that travel to it: they are held until another one is put in. */
static void *exchange_soon(void *arg)
{
	struct fixture *f = arg;
	const char *const other[] = {f->host[1].address};
	while (f->host[0].n_frames == 0)
		usleep(1000);
	assert_int_equal(ex_dispatch_set_members(f->d, other, 1, false, NULL), 0);
	return NULL;
}

static void test_member_leaves_at_work(void **state)
{
	struct fixture f;
	pthread_t t;
	(void)state;
	defaults();
	open_fixture(&f, 2, both, EXPERTD_F32);
	const char *const first[] = {f.host[0].address};
	assert_int_equal(ex_dispatch_set_members(f.d, first, 1, false, NULL), 0);
	make_rows(1);
	expected(2, EXPERTD_F32, want);
	f.host[0].mode = FAKE_SILENT;
	f.host[0].n_frames = 0;
	assert_int_equal(pthread_create(&t, NULL, exchange_soon, &f), 0);
	expect_good(&f);
	pthread_join(t, NULL);
	assert_true(f.host[1].n_frames > 0);
	close_fixture(&f);
}

/* Every share is computed twice; the one host that computes wrongly is found among three, and asked no more. */
static void test_verify_finds_the_odd_one(void **state)
{
	struct fixture f;
	const uint32_t all[] = {0xf, 0xf, 0xf};
	(void)state;
	defaults();
	asked.verify_percent = 100;
	open_fixture(&f, 3, all, EXPERTD_F32);
	while (f.n_ready < 3)
		usleep(1000);
	make_rows(1);
	expected(2, EXPERTD_F32, want);
	for (int i = 0; i < 6; i++)
		expect_good(&f);
	assert_int_equal(f.n_differs, 0);
	f.host[2].mode = FAKE_WRONG_BITS;
	/* one that was slow at first is tried again after some heartbeats */
	for (int i = 0; i < 5000 && f.n_suspect == 0; i++, usleep(1000))
		run(&f, 2, ROWS, y, failed);
	assert_int_equal(f.n_suspect, 1);
	assert_true(f.n_differs >= 2);
	assert_int_equal(f.n_named, f.n_differs); /* never the two good ones against each other */
	int n = f.host[2].n_frames;
	for (int i = 0; i < 6; i++)
		expect_good(&f);
	assert_int_equal(f.host[2].n_frames, n);
	close_fixture(&f);
}

/* A check whose host does not answer costs a bounded wait, and nothing else. */
static void test_verify_without_answer(void **state)
{
	struct fixture f;
	(void)state;
	defaults();
	asked.verify_percent = 50;
	asked.hedge = EX_HEDGE_FIXED;
	open_pair(&f, NULL, NULL);
	expect_good(&f);
	f.host[1].mode = FAKE_SILENT;
	for (int i = 0; i < 2; i++)
		expect_good(&f);
	assert_int_equal(f.n_differs, 0);
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_that_closes),
		cmocka_unit_test(test_shard_that_fails),
		cmocka_unit_test(test_host_that_answers_something_else),
		cmocka_unit_test(test_host_that_answers_twice),
		cmocka_unit_test(test_frozen_host),
		cmocka_unit_test(test_hedge_fixed),
		cmocka_unit_test(test_hedge_p99),
		cmocka_unit_test(test_late_host),
		cmocka_unit_test(test_identity_of_who_answers),
		cmocka_unit_test(test_hedge_without_budget),
		cmocka_unit_test(test_held_until_a_host_returns),
		cmocka_unit_test(test_held_while_the_only_holder_fails),
		cmocka_unit_test(test_held_too_long),
		cmocka_unit_test(test_give_up),
		cmocka_unit_test(test_draining_host_is_not_asked),
		cmocka_unit_test(test_late_host_and_a_draining_one),
		cmocka_unit_test(test_new_list_is_asked_for),
		cmocka_unit_test(test_identical_is_kept),
		cmocka_unit_test(test_swapped_between_hellos),
		cmocka_unit_test(test_swapped_while_idle),
		cmocka_unit_test(test_swapped_under_any),
		cmocka_unit_test(test_swapped_checker),
		cmocka_unit_test(test_any_takes_over),
		cmocka_unit_test(test_verify_finds_the_odd_one),
		cmocka_unit_test(test_verify_without_answer),
		cmocka_unit_test(test_members_change),
		cmocka_unit_test(test_member_leaves_at_work),
	};
	return cmocka_run_group_tests(tests, start_net, stop_net);
}
