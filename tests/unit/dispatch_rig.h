/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch over fake hosts, for its tests: made, fed with rows, and compared with the sum by its definition. */
#ifndef EX_TESTS_DISPATCH_RIG_H
#define EX_TESTS_DISPATCH_RIG_H

#include "fake_host.h"
#include "unit.h"

#include "base/dtype.h"
#include "base/lock.h"
#include "engine/dispatch.h"
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
	_Atomic int n_ready, n_down, n_suspect, n_draining;
	int n_differs, n_named; /* [step] */
	int n_identity_changes; /* [step] */
	char why[256];          /* of the last change to another state than ready; guarded by lock */
	struct ex_lock lock;
};

/* What a test asks for. Times are longer than a loaded machine lets a thread wait: only what a test provokes happens. */
static struct {
	unsigned frame_timeout_ms, heartbeat_ms, hold_ms, late_ms, hedge_ms, hedge_budget_percent, verify_percent;
	enum ex_failover failover;
	enum ex_hedge hedge;
	struct ex_tls *tls;
	bool plain_data;
} asked = {.frame_timeout_ms = 20000, .heartbeat_ms = 5000, .late_ms = 20000};
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
	f->n_suspect += s == EX_HOST_SUSPECT;
	f->n_draining += s == EX_HOST_DRAINING;
}

static void identity_changed(void *ctx, const struct ex_shard_id *shard, const char *host)
{
	struct fixture *f = ctx;
	(void)shard;
	(void)host;
	f->n_identity_changes++;
}

static void differs(void *ctx, const struct ex_shard_id *shard, const char *host, const char *other)
{
	struct fixture *f = ctx;
	(void)shard;
	f->n_differs++;
	f->n_named += strcmp(host, "h3") == 0 || strcmp(other, "h3") == 0;
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
		.tls = asked.tls,
		.plain_data = asked.plain_data,
		.peers = f->peers,
		.n_peers = f->n_hosts,
		.connect_ms = 500,
		.heartbeat_ms = asked.heartbeat_ms,
		.frame_timeout_ms = asked.frame_timeout_ms,
		.late_ms = asked.late_ms,
		.hold_ms = asked.hold_ms,
		.failover = asked.failover,
		.hedge = asked.hedge,
		.hedge_ms = asked.hedge_ms,
		.hedge_budget_percent = asked.hedge_budget_percent,
		.verify_percent = asked.verify_percent,
		.differs = differs,
		.identity_changed = identity_changed,
		.host_changed = host_changed,
		.ctx = f,
	};
	EXPECT_OK(err, ex_dispatch_new(&o, &err, &f->d));
}

/* shards: of each host, one mask per host. */
static inline void open_fixture(struct fixture *f, uint32_t n_hosts, const uint32_t *shards, uint32_t dtype)
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

static inline void close_fixture(struct fixture *f)
{
	f->d = ex_dispatch_free(f->d);
	for (uint32_t i = 0; i < f->n_hosts; i++)
		if (f->host[i].server)
			fake_host_stop(&f->host[i]);
	ex_loop_free(f->data);
	ex_loop_free(f->control);
	ex_lock_done(&f->lock);
}

static inline void make_rows(uint32_t salt)
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

static inline int run(struct fixture *f, uint32_t layer, uint32_t n, float y[ROWS][FAKE_D], uint8_t failed[ROWS])
{
	const struct ex_moe_ops *ops = ex_dispatch_moe_ops(f->d);
	memset(failed, 0, ROWS);
	assert_int_equal(ops->begin(ops->ctx, layer, x[0], n, ids[0], weights[0], TOPK), 0);
	return ops->wait(ops->ctx, y[0], failed);
}

/* The sum by its definition: partials of shards in f32, added in ascending order. */
static inline void expected(uint32_t layer, uint32_t dtype, float y[ROWS][FAKE_D])
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

static inline int start_net(void **state)
{
	(void)state;
	ex_net_init();
	return 0;
}

static inline int stop_net(void **state)
{
	(void)state;
	ex_net_done();
	return 0;
}

#endif
