/* SPDX-License-Identifier: Apache-2.0 */
/* engine/dispatch over real gRPC to fake hosts: the sum has the same bits however shards are spread; every kind of
 * failing host ends its rows, those only, and in bounded time; a host that comes back serves again. */
#include "fake_host.h"
#include "unit.h"

#include "base/dtype.h"
#include "base/lock.h"
#include "engine/dispatch.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ROWS  24
#define TOPK  3
#define HOSTS 3

struct fixture {
	struct ex_loop *data, *control;
	struct fake_host host[HOSTS];
	uint32_t n_hosts;
	const char *peers[HOSTS];
	struct ex_dispatch *d;
	_Atomic int n_ready, n_down;
	char why[256]; /* of the last change to another state than ready; guarded by lock */
	struct ex_lock lock;
};

/* longer than a loaded machine lets a thread wait: only what a test provokes happens */
static unsigned frame_timeout_ms = 20000, heartbeat_ms = 5000;
static float x[ROWS][FAKE_D], weights[ROWS][TOPK];
static uint32_t ids[ROWS][TOPK];

static void host_changed(void *ctx, const char *host, const char *address, enum ex_host_state s, const char *why)
{
	struct fixture *f = ctx;
	(void)host;
	(void)address;
	ex_lock_take(&f->lock);
	if (s != EX_HOST_READY)
		snprintf(f->why, sizeof f->why, "%s", why);
	ex_lock_give(&f->lock);
	f->n_ready += s == EX_HOST_READY;
	f->n_down += s == EX_HOST_DOWN;
}

static void open_dispatch(struct fixture *f, uint32_t dtype)
{
	struct ex_err err = EX_ERR_INIT;
	for (uint32_t i = 0; i < f->n_hosts; i++)
		f->peers[i] = f->host[i].address;
	const struct ex_dispatch_opts o = {
		.node = "r1",
		.version = "0.test",
		.model_digest = FAKE_DIGEST,
		.d_model = FAKE_D,
		.n_layers = FAKE_LAYERS,
		.n_experts = FAKE_EXPERTS,
		.n_groups = FAKE_GROUPS,
		.first_k_dense = FAKE_FIRST_MOE,
		.moe_layer_freq = 1,
		.rows_max = ROWS,
		.topk = TOPK,
		.x_dtype = dtype,
		.loop_data = f->data,
		.loop_control = f->control,
		.peers = f->peers,
		.n_peers = f->n_hosts,
		.connect_ms = 500,
		.heartbeat_ms = heartbeat_ms,
		.frame_timeout_ms = frame_timeout_ms,
		.host_changed = host_changed,
		.ctx = f,
	};
	EXPECT_OK(err, ex_dispatch_new(&o, &err, &f->d));
}

/* shards: of each host, one mask per host. */
static void open_fixture(struct fixture *f, uint32_t n_hosts, const uint32_t *shards, uint32_t dtype)
{
	static const char *const names[HOSTS] = {"h1", "h2", "h3"};
	struct ex_err err = EX_ERR_INIT;
	memset(f, 0, sizeof *f);
	ex_lock_init(&f->lock, "test");
	EXPECT_OK(err, ex_loop_new("data", &err, &f->data));
	EXPECT_OK(err, ex_loop_new("control", &err, &f->control));
	f->n_hosts = n_hosts;
	for (uint32_t i = 0; i < n_hosts; i++)
		fake_host_start(&f->host[i], names[i], shards[i]);
	open_dispatch(f, dtype);
	if (!ex_dispatch_wait_covered(f->d, 10000, &err))
		fail_msg("%s", ex_err_text(&err));
}

static void close_fixture(struct fixture *f)
{
	f->d = ex_dispatch_free(f->d);
	for (uint32_t i = 0; i < f->n_hosts; i++)
		if (f->host[i].server)
			fake_host_stop(&f->host[i]);
	ex_loop_free(f->data);
	ex_loop_free(f->control);
	ex_lock_done(&f->lock);
}

static void make_rows(uint32_t salt)
{
	uint32_t state = salt;
	for (uint32_t i = 0; i < ROWS; i++) {
		for (uint32_t c = 0; c < FAKE_D; c++) {
			state = state * 1664525 + 1013904223;
			x[i][c] = (float)(int32_t)state / (float)INT32_MAX;
		}
		for (uint32_t j = 0; j < TOPK; j++) {
			ids[i][j] = (i * 7 + salt) % 3 + j * 3 + (j == 2 && i % 2);
			weights[i][j] = 0.1f + 0.2f * (float)j + 0.01f * (float)i;
		}
	}
}

static int run(struct fixture *f, uint32_t layer, uint32_t n, float y[ROWS][FAKE_D], uint8_t failed[ROWS])
{
	const struct ex_moe_ops *ops = ex_dispatch_moe_ops(f->d);
	memset(failed, 0, ROWS);
	assert_int_equal(ops->begin(ops->ctx, layer, x[0], n, ids[0], weights[0], TOPK), 0);
	return ops->wait(ops->ctx, y[0], failed);
}

/* The sum by its definition: partials of shards in f32, added in ascending order. */
static void expected(uint32_t layer, uint32_t dtype, float y[ROWS][FAKE_D])
{
	memset(y, 0, sizeof(float) * ROWS * FAKE_D);
	for (uint32_t i = 0; i < ROWS; i++) {
		float row[FAKE_D];
		for (uint32_t c = 0; c < FAKE_D; c++)
			row[c] = dtype == EXPERTD_BF16 ? ex_bf16_to_f32(ex_f32_to_bf16(x[i][c])) : x[i][c];
		for (uint32_t g = 0; g < FAKE_GROUPS; g++) {
			float partial[FAKE_D] = {0};
			for (uint32_t j = 0; j < TOPK; j++)
				if (ex_shard_group_of_expert(FAKE_EXPERTS, FAKE_GROUPS, ids[i][j]) == g)
					fake_expert(layer, ids[i][j], row, weights[i][j], partial);
			for (uint32_t c = 0; c < FAKE_D; c++)
				y[i][c] += partial[c];
		}
	}
}

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
	frame_timeout_ms = 1000;
	fail_with(FAKE_SILENT, "a frame was not answered within 1000 ms", true);
	frame_timeout_ms = 20000;
}

static void test_frozen_host(void **state)
{
	(void)state;
	heartbeat_ms = 400;
	fail_with(FAKE_FROZEN, "no heartbeat for 1200 ms", true);
	heartbeat_ms = 5000;
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

/* With two owners the second one serves when the first is down. */
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
	assert_int_equal(f.host[1].n_frames, 0);
	fake_host_stop(&f.host[0]);
	while (f.n_down == 0)
		usleep(1000);
	assert_int_equal(run(&f, 1, ROWS, y, failed), 0);
	assert_memory_equal(y, want, sizeof y);
	assert_int_equal(f.host[1].n_frames, 1);
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

static int start_net(void **state)
{
	(void)state;
	ex_net_init();
	return 0;
}

static int stop_net(void **state)
{
	(void)state;
	ex_net_done();
	return 0;
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
