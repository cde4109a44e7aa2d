/* SPDX-License-Identifier: Apache-2.0 */
/* engine/dispatch with real executors and Experts services: a generation has the same tokens and logits, to the bit, wherever its experts are; a host
 * that dies under it ends it clearly, and the router goes on. */
#include "small_model.h"
#include "unit.h"

#include "base/lock.h"
#include "engine/engine.h"
#include "expert/service.h"
#include "net/frame.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GROUPS    4
#define NODES_MAX 3
#define N_NEW     12
#define VOCAB     SMALL_MODEL_VOCAB

/* One process's expert side. */
struct node {
	struct ex_registry *registry;
	struct ex_executor *executor;
	struct ex_experts_service *service;
	struct ex_loop *loops[2];
	struct ex_server *server;
	char address[32];
};

struct client {
	struct ex_lock lock;
	pthread_cond_t cond;
	uint32_t ids[N_NEW + 60], n;
	float logits[N_NEW][VOCAB];
	bool finished;
	struct ex_finished f;
	char error[512];
	struct node *kill_at_5; /* stopped when the fifth token is there */
};

struct fleet {
	struct small_model m;
	struct ex_plugin *plugin;
	struct node node[NODES_MAX], local;
	uint32_t n_nodes;
	struct ex_loop *data, *control;
	struct ex_dispatch *d;
	struct ex_engine *e;
};

static const char *option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "1" : NULL;
}

static __attribute__((format(printf, 3, 4))) void no_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	(void)fmt;
}

static const struct expertd_host host = {.log = no_log, .option = option};

/* --- nodes ----------------------------------------------------------------------------------------------------------------------------- */

/* Loads the groups of `mask` of both MoE layers. */
static void load_node(struct fleet *f, struct node *n, uint32_t mask)
{
	const struct ex_model_config *c = ex_weights_config(f->m.w);
	struct ex_err err = EX_ERR_INIT;
	const struct ex_registry_opts ro = {.n_experts = c->n_experts, .n_groups = GROUPS, .n_layers = c->n_layers};
	assert_int_equal(ex_registry_new(&ro, &n->registry), 0);
	for (uint32_t layer = c->first_k_dense; layer < c->n_layers; layer++)
		for (uint32_t g = 0; g < GROUPS; g++) {
			struct ex_shard_id id = ex_shard_of_group(layer, c->n_experts, GROUPS, g);
			if (mask >> g & 1)
				EXPECT_OK(err, ex_registry_load(n->registry, &id, f->plugin, &host, "0", f->m.w, &err));
		}
	const struct ex_executor_opts eo = {.registry = n->registry,
		.d_model = c->d_model,
		.n_workers = 2,
		.batch_rows_max = 64,
		.queue_rows_max = 4096};
	EXPECT_OK(err, ex_executor_new(&eo, &err, &n->executor));
}

static void serve_node(struct fleet *f, struct node *n, const char *name)
{
	const struct ex_model_config *c = ex_weights_config(f->m.w);
	struct ex_err err = EX_ERR_INIT;
	const struct ex_experts_service_opts so = {
		.registry = n->registry,
		.executor = n->executor,
		.node = name,
		.version = "0.test",
		.model_digest = ex_weights_digest(f->m.w),
		.d_model = c->d_model,
		.n_experts = c->n_experts,
		.n_groups = GROUPS,
	};
	assert_int_equal(ex_experts_service_new(&so, &n->service), 0);
	EXPECT_OK(err, ex_loop_new("n-control", &err, &n->loops[0]));
	EXPECT_OK(err, ex_loop_new("n-data", &err, &n->loops[1]));
	const struct ex_server_opts o = {
		.listen = n->address[0] ? n->address : "127.0.0.1:0",
		.loops = n->loops,
		.n_loops = 2,
		.methods = ex_experts_service_methods(n->service, 0, 1),
	};
	EXPECT_OK(err, ex_server_start(&o, &err, &n->server));
	snprintf(n->address, sizeof n->address, "127.0.0.1:%d", ex_server_port(n->server));
}

static void stop_serving(struct node *n)
{
	if (!n->server)
		return;
	n->server = ex_server_stop(n->server, 0);
	while (ex_experts_service_in_flight(n->service))
		usleep(1000);
	n->service = ex_experts_service_free(n->service);
	ex_loop_free(n->loops[0]);
	ex_loop_free(n->loops[1]);
}

static void drop_node(struct node *n)
{
	stop_serving(n);
	n->executor = ex_executor_free(n->executor);
	if (n->registry)
		n->registry = ex_registry_free(n->registry);
}

/* --- the fleet ------------------------------------------------------------------------------------------------------------------------- */

static void open_dispatch(struct fleet *f)
{
	const struct ex_model_config *c = ex_weights_config(f->m.w);
	struct ex_err err = EX_ERR_INIT;
	const char *peers[NODES_MAX];
	for (uint32_t i = 0; i < f->n_nodes; i++)
		peers[i] = f->node[i].address;
	const struct ex_dispatch_opts o = {
		.node = "r1",
		.version = "0.test",
		.model_digest = ex_weights_digest(f->m.w),
		.d_model = c->d_model,
		.n_layers = c->n_layers,
		.n_experts = c->n_experts,
		.n_groups = GROUPS,
		.first_k_dense = c->first_k_dense,
		.moe_layer_freq = c->moe_layer_freq,
		.rows_max = 16,
		.topk = c->n_experts_per_tok,
		.x_dtype = EXPERTD_BF16,
		.local = f->local.executor,
		.registry = f->local.registry,
		.loop_data = f->data,
		.loop_control = f->control,
		.peers = peers,
		.n_peers = f->n_nodes,
		.connect_ms = 1000,
		.heartbeat_ms = 5000,
		.frame_timeout_ms = 20000,
	};
	EXPECT_OK(err, ex_dispatch_new(&o, &err, &f->d));
	if (!ex_dispatch_wait_covered(f->d, 20000, &err))
		fail_msg("%s", ex_err_text(&err));
}

static void open_fleet(struct fleet *f, uint32_t local, uint32_t n_nodes, const uint32_t *masks)
{
	static const char *const names[] = {"h1", "h2", "h3"};
	const struct ex_loader_opts lo = {.dir = ".libs"};
	struct ex_err err = EX_ERR_INIT;
	memset(f, 0, sizeof *f);
	small_model_open(&f->m, EXPERTD_BF16, small_model_cpu_ops(), 16, 64);
	EXPECT_OK(err, ex_plugin_open(&lo, "cpu", &err, &f->plugin));
	f->n_nodes = n_nodes;
	for (uint32_t i = 0; i < n_nodes; i++) {
		load_node(f, &f->node[i], masks[i]);
		serve_node(f, &f->node[i], names[i]);
	}
	if (local)
		load_node(f, &f->local, local);
	EXPECT_OK(err, ex_loop_new("data", &err, &f->data));
	EXPECT_OK(err, ex_loop_new("control", &err, &f->control));
	open_dispatch(f);
	const struct ex_engine_opts eo = {
		.trunk = f->m.t,
		.dispatch = f->d,
		.config = ex_weights_config(f->m.w),
		.max_batch = 4,
		.step_tokens_max = 16,
		.queue_max = 10,
		.page_tokens = SMALL_MODEL_PAGE,
		.n_pages = 64,
		.n_ctx = SMALL_MODEL_CTX,
	};
	EXPECT_OK(err, ex_engine_new(&eo, &err, &f->e));
}

static void close_fleet(struct fleet *f)
{
	f->e = ex_engine_free(f->e);
	f->d = ex_dispatch_free(f->d);
	for (uint32_t i = 0; i < f->n_nodes; i++)
		drop_node(&f->node[i]);
	drop_node(&f->local);
	ex_loop_free(f->data);
	ex_loop_free(f->control);
	ex_plugin_unref(f->plugin);
	small_model_close(&f->m);
}

/* --- generations ------------------------------------------------------------------------------------------------------------------------ */

static bool on_delta(void *ctx, struct ex_request *r, const struct ex_delta *d)
{
	struct client *c = ctx;
	(void)r;
	if (d->logits)
		memcpy(c->logits[c->n], d->logits, sizeof c->logits[0]);
	c->ids[c->n++] = d->ids[0];
	if (c->kill_at_5 && c->n == 5)
		stop_serving(c->kill_at_5);
	return true;
}

static void on_finished(void *ctx, struct ex_request *r, const struct ex_finished *f)
{
	struct client *c = ctx;
	(void)r;
	ex_lock_take(&c->lock);
	c->f = *f;
	snprintf(c->error, sizeof c->error, "%s", f->error ? f->error : "");
	c->finished = true;
	pthread_cond_signal(&c->cond);
	ex_lock_give(&c->lock);
}

static const uint32_t prompts[2][9] = {{5, 90, 17, 222, 6, 41, 88, 9, 130}, {12, 13, 200, 4, 77, 51, 33, 8, 101}};

/* Runs both prompts at once. */
static void generate(struct fleet *f, struct client c[2], uint32_t n_new, bool logits, struct node *kill)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_request *r[2];
	for (int i = 0; i < 2; i++) {
		memset(&c[i], 0, sizeof c[i]);
		ex_lock_init(&c[i].lock, "client");
		ex_cond_init(&c[i].cond);
		c[i].kill_at_5 = i == 0 ? kill : NULL;
		const struct ex_request_params p = {
			.ids = prompts[i],
			.n_ids = 9,
			.max_tokens = n_new,
			.sampling = {.temperature = i ? 0.8f : 0, .top_p = 1, .seed = 5},
			.ignore_eos = true,
			.want_logits = logits,
			.sink = {.delta = on_delta, .finished = on_finished, .ctx = &c[i]},
		};
		EXPECT_OK(err, ex_engine_submit(f->e, &p, &err, &r[i]));
	}
	for (int i = 0; i < 2; i++) {
		ex_lock_take(&c[i].lock);
		while (!c[i].finished)
			ex_cond_wait(&c[i].cond, &c[i].lock);
		ex_lock_give(&c[i].lock);
		ex_request_unref(r[i]);
		ex_lock_done(&c[i].lock);
		pthread_cond_destroy(&c[i].cond);
	}
}

static void test_placement_does_not_change_bits(void **state)
{
	static const struct {
		uint32_t local, n_nodes, masks[NODES_MAX];
	} placement[] = {{0xf, 0, {0}}, {0, 1, {0xf}}, {0, 2, {0x3, 0xc}}, {0, 2, {0x9, 0x6}}, {0, 3, {0x4, 0x3, 0x8}},
		{0x5, 2, {0x2, 0x8}}};
	static struct client want[2], got[2];
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(placement); i++) {
		struct fleet f;
		struct client *c = i ? got : want;
		open_fleet(&f, placement[i].local, placement[i].n_nodes, placement[i].masks);
		generate(&f, c, N_NEW, true, NULL);
		for (int j = 0; j < 2; j++) {
			assert_int_equal(c[j].f.reason, EX_FINISH_LENGTH);
			assert_int_equal(c[j].n, N_NEW);
			assert_memory_equal(c[j].ids, want[j].ids, N_NEW * sizeof c[j].ids[0]);
			assert_memory_equal(c[j].logits, want[j].logits, sizeof c[j].logits);
			/* both MoE layers send each of the 9 + N_NEW - 1 rows to at least one host, when all hosts are remote */
			if (placement[i].local == 0xf)
				assert_int_equal(c[j].f.rows_dispatched, 0);
			else if (!placement[i].local)
				assert_true(c[j].f.rows_dispatched >= 2 * (9 + N_NEW - 1));
			if (placement[i].n_nodes == 1)
				assert_int_equal(c[j].f.rows_dispatched, 2 * (9 + N_NEW - 1));
		}
		close_fleet(&f);
	}
}

static void test_host_lost_under_a_request(void **state)
{
	struct fleet f;
	static struct client want[2], c[2];
	const uint32_t masks[] = {0x3, 0xc};
	struct ex_err err = EX_ERR_INIT;
	(void)state;
	open_fleet(&f, 0, 2, masks);
	generate(&f, want, N_NEW, false, NULL);
	generate(&f, c, 60, false, &f.node[1]);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(c[i].f.reason, EX_FINISH_NO_RESOURCE);
		/* what was said before is right, and nothing after; the host goes with the first one's token, when the second may not have begun */
		assert_in_range(c[i].n, i == 0 ? 4 : 0, 6);
		assert_memory_equal(c[i].ids, want[i].ids, c[i].n * sizeof c[i].ids[0]);
		assert_non_null(strstr(c[i].error, "routed experts are not available: shard L"));
	}
	serve_node(&f, &f.node[1], "h2");
	if (!ex_dispatch_wait_covered(f.d, 20000, &err))
		fail_msg("%s", ex_err_text(&err));
	generate(&f, c, N_NEW, false, NULL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(c[i].f.reason, EX_FINISH_LENGTH);
		assert_memory_equal(c[i].ids, want[i].ids, N_NEW * sizeof c[i].ids[0]);
	}
	close_fleet(&f);
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
		cmocka_unit_test(test_placement_does_not_change_bits),
		cmocka_unit_test(test_host_lost_under_a_request),
	};
	return cmocka_run_group_tests(tests, start_net, stop_net);
}
