/* SPDX-License-Identifier: Apache-2.0 */
/* engine/dispatch over real gRPC to fake hosts: the sum has the same bits however shards are spread; every kind of
 * failing host ends its rows, those only, and in bounded time; a host that comes back serves again. */
#include "dispatch_rig.h"

static void test_spread_does_not_change_bits(void **state)
{
	static const struct {
		uint32_t n_hosts, shards[HOSTS];
	} spread[] = {{1, {0xf}}, {2, {0x5, 0xa}}, {2, {0x3, 0xc}}, {3, {0x8, 0x6, 0x1}}, {3, {0xf, 0xf, 0xf}}};
	static const uint32_t dtypes[] = {EXPERTD_F32, EXPERTD_BF16};
	static float y[ROWS][FAKE_D], want[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	(void)state;
	for (size_t t = 0; t < EX_ARRAY_LEN(dtypes); t++)
		for (size_t i = 0; i < EX_ARRAY_LEN(spread); i++) {
			struct fixture f;
			open_fixture(&f, spread[i].n_hosts, spread[i].shards, dtypes[t]);
			for (uint32_t layer = FAKE_FIRST_MOE; layer < FAKE_LAYERS; layer++) {
				make_rows(layer + 3);
				expected(layer, dtypes[t], want);
				assert_int_equal(run(&f, layer, ROWS, y, failed), 0);
				assert_memory_equal(y, want, sizeof y);
				memset(y, 0, sizeof y);
				assert_int_equal(run(&f, layer, 1, y, failed), 0); /* one row alone: the same bits */
				assert_memory_equal(y[0], want[0], sizeof y[0]);
			}
			/* of several owners any one may have been ready first: the others saw no frame */
			uint32_t seen = 0;
			for (uint32_t h = 0; h < spread[i].n_hosts; h++)
				seen |= f.host[h].x_dtype;
			assert_int_equal(seen, dtypes[t]);
			close_fixture(&f);
		}
}

/* A row travels once to each host that needs it, and the counters say so. */
static void test_rows_travel_once(void **state)
{
	struct fixture f;
	static float y[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	const uint32_t shards[] = {0x1, 0xe};
	(void)state;
	open_fixture(&f, 2, shards, EXPERTD_F32);
	make_rows(1);
	ex_dispatch_step_begins(f.d);
	uint32_t n_first = 0, n_second = 0;
	for (uint32_t i = 0; i < ROWS; i++) {
		bool first = false, second = false;
		for (uint32_t j = 0; j < TOPK; j++)
			if (ids[i][j] < 3)
				first = true;
			else
				second = true;
		n_first += first;
		n_second += second;
	}
	assert_int_equal(run(&f, 1, ROWS, y, failed), 0);
	assert_int_equal(f.host[0].n_frames, 1);
	assert_int_equal(f.host[1].n_frames, 1);
	assert_int_equal(f.host[0].n_rows, n_first);
	assert_int_equal(f.host[1].n_rows, n_second);
	assert_int_equal(ex_dispatch_rows_sent(f.d), n_first + n_second);
	uint32_t n = 0;
	for (uint32_t i = 0; i < ROWS; i++)
		n += ex_dispatch_row_sends(f.d)[i];
	assert_int_equal(n, n_first + n_second);
	close_fixture(&f);
}

/* Rows that need group 0 (on h1) and others (on h2). */
static bool needs_first(uint32_t row)
{
	for (uint32_t j = 0; j < TOPK; j++)
		if (ids[row][j] < 3)
			return true;
	return false;
}

/* Runs with h1 in `mode`: exactly its rows fail, the others keep their bits; the reason is told. */
static void fail_with(int mode, const char *reason, bool goes_down)
{
	struct fixture f;
	static float y[ROWS][FAKE_D], want[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	const uint32_t shards[] = {0x1, 0xe};
	open_fixture(&f, 2, shards, EXPERTD_F32);
	make_rows(1);
	for (uint32_t i = 0; i < ROWS; i += 3) /* some rows that do without h1 */
		for (uint32_t j = 0; j < TOPK; j++)
			ids[i][j] = 4 + 2 * j;
	expected(2, EXPERTD_F32, want);
	assert_int_equal(run(&f, 2, ROWS, y, failed), 0);
	assert_memory_equal(y, want, sizeof y);
	f.host[0].mode = mode;
	assert_true(run(&f, 2, ROWS, y, failed) < 0);
	for (uint32_t i = 0; i < ROWS; i++) {
		assert_int_equal(failed[i], needs_first(i));
		if (!failed[i])
			assert_memory_equal(y[i], want[i], sizeof y[i]);
	}
	if (!strstr(ex_dispatch_failure(f.d), reason))
		fail_msg("'%s' is not in '%s'", reason, ex_dispatch_failure(f.d));
	while (goes_down && f.n_down == 0) /* told after the rows were released */
		usleep(1000);
	assert_true(goes_down ? f.n_down >= 1 : f.n_down == 0);
	/* it comes back */
	f.host[0].mode = FAKE_GOOD;
	struct ex_err err = EX_ERR_INIT;
	if (!ex_dispatch_wait_covered(f.d, 10000, &err))
		fail_msg("%s", ex_err_text(&err));
	assert_int_equal(run(&f, 2, ROWS, y, failed), 0);
	assert_memory_equal(y, want, sizeof y);
	close_fixture(&f);
}

static void test_silent_host(void **state)
{
	(void)state;
	asked.frame_timeout_ms = 1000;
	fail_with(FAKE_SILENT, "a frame was not answered within 1000 ms", true);
	asked.frame_timeout_ms = 20000;
}

static void test_frozen_host(void **state)
{
	(void)state;
	asked.heartbeat_ms = 400;
	fail_with(FAKE_FROZEN, "no heartbeat for 1200 ms", true);
	asked.heartbeat_ms = 5000;
}

static void test_host_that_closes(void **state)
{
	(void)state;
	fail_with(FAKE_CLOSES, "this host falls over", true);
}

static void test_host_that_answers_something_else(void **state)
{
	(void)state;
	fail_with(FAKE_WRONG_REPLY, "does not answer the shard", true);
}

static void test_shard_that_fails(void **state)
{
	(void)state;
	fail_with(FAKE_SHARD_FAILS, "device is sick", false);
}

/* A killed host: its rows fail at once, later begins fail without waiting, and after its return all is well. */
static void test_host_that_dies_and_returns(void **state)
{
	struct fixture f;
	static float y[ROWS][FAKE_D], want[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	const uint32_t shards[] = {0x1, 0xe};
	uint32_t covered, n_shards, ready, hosts;
	struct ex_err err = EX_ERR_INIT;
	(void)state;
	open_fixture(&f, 2, shards, EXPERTD_F32);
	make_rows(5);
	expected(1, EXPERTD_F32, want);
	fake_host_stop(&f.host[0]);
	while (f.n_down == 0)
		usleep(1000);
	assert_true(run(&f, 1, ROWS, y, failed) < 0);
	assert_non_null(strstr(ex_dispatch_failure(f.d), "shard L1/E0-2 on host h1 ("));
	assert_non_null(strstr(ex_dispatch_failure(f.d), ", down): "));
	ex_dispatch_coverage(f.d, &covered, &n_shards, &ready, &hosts);
	assert_int_equal(n_shards, 12);
	assert_int_equal(covered, 9);
	assert_int_equal(ready, 1);
	assert_int_equal(hosts, 2);
	assert_false(ex_dispatch_wait_covered(f.d, 1, &err));
	assert_non_null(
		strstr(err.text, "3 of 12 shards have no ready host: L1/E0-2, L2/E0-2, L3/E0-2; host h1 is down"));
	fake_host_restart(&f.host[0]);
	if (!ex_dispatch_wait_covered(f.d, 10000, &err))
		fail_msg("%s", ex_err_text(&err));
	assert_int_equal(run(&f, 1, ROWS, y, failed), 0);
	assert_memory_equal(y, want, sizeof y);
	close_fixture(&f);
}

/* With two owners the second one serves when the first is down; before, either may have. */
static void test_second_owner(void **state)
{
	struct fixture f;
	static float y[ROWS][FAKE_D], want[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	const uint32_t shards[] = {0xf, 0xf};
	(void)state;
	open_fixture(&f, 2, shards, EXPERTD_F32);
	while (f.n_ready < 2)
		usleep(1000);
	make_rows(5);
	expected(1, EXPERTD_F32, want);
	assert_int_equal(run(&f, 1, ROWS, y, failed), 0);
	int before = f.host[1].n_frames;
	fake_host_stop(&f.host[0]);
	while (f.n_down == 0)
		usleep(1000);
	assert_int_equal(run(&f, 1, ROWS, y, failed), 0);
	assert_memory_equal(y, want, sizeof y);
	assert_int_equal(f.host[1].n_frames, before + 1);
	close_fixture(&f);
}

/* A peer that does not fit is never used, and the reason is told. */
static void refuse(int mode, const char *reason)
{
	struct fixture f;
	struct ex_err err = EX_ERR_INIT;
	memset(&f, 0, sizeof f);
	ex_lock_init(&f.lock, "test");
	EXPECT_OK(err, ex_loop_new("data", &err, &f.data));
	EXPECT_OK(err, ex_loop_new("control", &err, &f.control));
	f.n_hosts = 1;
	fake_host_start(&f.host[0], "h1", 0xf);
	f.host[0].mode = mode;
	open_dispatch(&f, EXPERTD_F32);
	for (bool told = false; !told; usleep(1000)) {
		ex_lock_take(&f.lock);
		told = strstr(f.why, reason) != NULL;
		ex_lock_give(&f.lock);
	}
	assert_false(ex_dispatch_wait_covered(f.d, 1, &err));
	if (!strstr(err.text, reason))
		fail_msg("'%s' is not in '%s'", reason, err.text);
	assert_int_equal(f.n_ready, 0);
	f.host[0].mode = FAKE_GOOD; /* and when it was put right, it is taken */
	if (!ex_dispatch_wait_covered(f.d, 10000, &err))
		fail_msg("%s", ex_err_text(&err));
	close_fixture(&f);
}

static void test_other_model(void **state)
{
	(void)state;
	refuse(FAKE_OTHER_MODEL, "serves another model");
}

static void test_other_wire(void **state)
{
	(void)state;
	refuse(FAKE_OTHER_WIRE, "speaks wire version 2, this router 1");
}

/* Told, and not asked again at once for ever. */
static void test_hello_without_reply(void **state)
{
	(void)state;
	refuse(FAKE_HELLO_EMPTY, "handshake: no answer");
}

struct seen {
	uint32_t n_hosts, n_shards, n_holders;
};

static void see_host(void *ctx, const struct ex_host_view *v)
{
	struct seen *s = ctx;
	s->n_hosts++;
	assert_int_equal(v->state, EX_HOST_READY);
	assert_false(v->local);
	assert_string_equal(v->name, s->n_hosts == 1 ? "h1" : "h2");
	assert_string_equal(v->version, "0.test");
	assert_int_equal(v->n_shards, s->n_hosts == 1 ? 6 : 9);
	assert_true(v->rows > 0 && v->errors == 0 && v->rtt_p50_s > 0);
}

static void see_shard(void *ctx, const struct ex_shard_id *id, const char *const *hosts, size_t n_hosts)
{
	struct seen *s = ctx;
	s->n_shards++;
	s->n_holders += (uint32_t)n_hosts;
	if (id->first_expert == 0)
		assert_string_equal(hosts[0], "h1");
}

static void test_views(void **state)
{
	struct fixture f;
	static float y[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	struct seen s = {0};
	const uint32_t shards[] = {0x3, 0xe};
	(void)state;
	open_fixture(&f, 2, shards, EXPERTD_F32);
	make_rows(1);
	assert_int_equal(run(&f, 1, ROWS, y, failed), 0);
	ex_dispatch_each_host(f.d, see_host, &s);
	ex_dispatch_each_shard(f.d, see_shard, &s);
	assert_int_equal(s.n_hosts, 2);
	assert_int_equal(s.n_shards, 12);
	assert_int_equal(s.n_holders, 15);
	close_fixture(&f);
}

/* Rows whose partial sums would not fit one reply are refused before any host is asked. */
static void test_step_beyond_a_frame(void **state)
{
	(void)state;
	static const char *const peers[] = {"127.0.0.1:1"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_dispatch *d = NULL;
	const struct ex_dispatch_opts o = {
		.d_model = 7168,
		.n_layers = 61,
		.n_experts = 256,
		.n_groups = 32,
		.rows_max = 8192,
		.topk = 8,
		.x_dtype = EXPERTD_F32,
		.peers = peers,
		.n_peers = 1,
		.connect_ms = 1,
		.heartbeat_ms = 1,
		.frame_timeout_ms = 1,
	};
	assert_int_equal(ex_dispatch_new(&o, &err, &d), -EINVAL);
	assert_non_null(strstr(ex_err_text(&err), "step_tokens_max = 8192"));
	assert_non_null(strstr(ex_err_text(&err), "at most 2267 are allowed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spread_does_not_change_bits),
		cmocka_unit_test(test_rows_travel_once),
		cmocka_unit_test(test_silent_host),
		cmocka_unit_test(test_frozen_host),
		cmocka_unit_test(test_host_that_closes),
		cmocka_unit_test(test_host_that_answers_something_else),
		cmocka_unit_test(test_shard_that_fails),
		cmocka_unit_test(test_host_that_dies_and_returns),
		cmocka_unit_test(test_second_owner),
		cmocka_unit_test(test_other_model),
		cmocka_unit_test(test_other_wire),
		cmocka_unit_test(test_hello_without_reply),
		cmocka_unit_test(test_views),
		cmocka_unit_test(test_step_beyond_a_frame),
	};
	return cmocka_run_group_tests(tests, start_net, stop_net);
}
