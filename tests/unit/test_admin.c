/* SPDX-License-Identifier: Apache-2.0 */
/* admin/service over a unix socket, before any room is there, and core/gate beside it. */
#include "unit.h"

#include "admin/service.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "core/gate.h"
#include "expertd/admin.pb-c.h"
#include "net/client.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEADLINE_MS 20000

static struct fixture {
	char dir[64], address[96];
	struct ex_loop *loop, *client_loop;
	struct ex_admin *admin;
	struct ex_gate gate;
	struct ex_method methods[20];
	struct ex_server *server;
	struct ex_channel *channel;
	_Atomic int reload_rc; /* read on the loop */
} f;

static void dump_config(void *ctx, struct ex_str *out)
{
	(void)ctx;
	ex_str_add(out, "[node]\nname = n1\n");
}

static int reload(
	void *ctx, struct ex_err *err, void (*changed)(void *fn_ctx, const char *name, bool taken), void *fn_ctx)
{
	(void)ctx;
	if (f.reload_rc < 0)
		return ex_err_set(err, f.reload_rc, "x.conf:3: wrong");
	changed(fn_ctx, "[node] log_level", true);
	changed(fn_ctx, "[router] peers", false);
	return 0;
}

static int each_plugin(void *ctx,
	void (*fn)(void *fn_ctx, const char *path, const struct ex_plugin *p, const char *why), void *fn_ctx,
	struct ex_err *err)
{
	(void)ctx, (void)err;
	fn(fn_ctx, "/lib/bad\xff.so", NULL, "truncated");
	return 0;
}

static void view_model(void *ctx, struct ex_switch_view *ret)
{
	(void)ctx;
	*ret = (struct ex_switch_view){
		.path = "/srv/m", .next_path = "/srv/next", .next_digest = "abc", .before_digest = "def"};
}

static int switch_model(void *ctx, const char *dir, bool move, const struct ex_switch_client *c, struct ex_err *err)
{
	struct ex_switch_report r = {.step = "prepare", .host = "h1", .done = 2, .total = 3};
	(void)ctx;
	assert_true(move);
	if (strcmp(dir, "/srv/taken") == 0)
		return ex_err_set(err, -EBUSY, "a switch to '%s' is not over", dir);
	assert_false(c->gone(c->ctx));
	c->report(c->ctx, &r);
	r = (struct ex_switch_report){.step = "cover", .failed = true, .text = "no room"};
	c->report(c->ctx, &r);
	c->done(c->ctx, false);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	static const char *const gated[] = {"/expertd.v1.Router/Tokenize", NULL};
	memset(&f, 0, sizeof f);
	strcpy(f.dir, "/tmp/test_admin.XXXXXX");
	if (!mkdtemp(f.dir))
		return -1;
	snprintf(f.address, sizeof f.address, "unix:%s/s", f.dir);
	ex_net_init();
	assert_int_equal(ex_loop_new("t-admin", NULL, &f.loop), 0);
	assert_int_equal(ex_loop_new("t-client", NULL, &f.client_loop), 0);
	const struct ex_admin_opts o = {
		.node = "n1",
		.version = "9.9",
		.model_name = "m",
		.is_expert = true,
		.is_router = true,
		.loop = f.loop,
		.dump_config = dump_config,
		.reload = reload,
		.each_plugin = each_plugin,
		.switch_model = switch_model,
		.view_model = view_model,
	};
	assert_int_equal(ex_admin_new(&o, NULL, &f.admin), 0);
	const struct ex_method *m = ex_admin_methods(f.admin, 0);
	size_t n = 0;
	for (; m[n].path; n++)
		f.methods[n] = m[n];
	ex_gate_init(&f.gate, gated, 1000, 0);
	f.methods[n] = f.gate.m[0].method;
	const struct ex_server_opts so = {.listen = f.address, .loops = &f.loop, .n_loops = 1, .methods = f.methods};
	assert_int_equal(ex_server_start(&so, NULL, &f.server), 0);
	const struct ex_channel_opts co = {.target = f.address, .loop = f.client_loop};
	return ex_channel_new(&co, NULL, &f.channel);
}

static int teardown(void **state)
{
	(void)state;
	ex_channel_freep(&f.channel);
	ex_server_stop(f.server, 0);
	ex_admin_free(f.admin);
	ex_loop_freep(&f.client_loop);
	ex_loop_freep(&f.loop);
	ex_net_done();
	return rmdir(f.dir);
}

/* The reply, unpacked; NULL and err when the call failed. */
static void *call(const char *method, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply,
	struct ex_err *err)
{
	char path[64];
	struct ex_msg *m = NULL;
	*err = EX_ERR_INIT;
	snprintf(path, sizeof path, "/expertd.v1.Admin/%s", method);
	if (ex_unary(f.channel, path, request, DEADLINE_MS, err, &m) < 0)
		return NULL;
	void *r = ex_msg_unpack(m, reply);
	ex_msg_free(m);
	assert_non_null(r);
	return r;
}

static void test_status(void **state)
{
	(void)state;
	struct ex_err err;
	Expertd__V1__StatusRequest q = EXPERTD__V1__STATUS_REQUEST__INIT;
	Expertd__V1__StatusReply *r = call("Status", &q.base, &expertd__v1__status_reply__descriptor, &err);
	assert_non_null(r);
	assert_string_equal(r->state, "starting");
	assert_string_equal(r->node, "n1");
	assert_string_equal(r->version, "9.9");
	assert_int_equal(r->n_roles, 2);
	assert_int_equal(r->pid, getpid());
	assert_true(r->resident_bytes > 0);
	assert_non_null(r->expert);
	assert_non_null(r->router);
	expertd__v1__status_reply__free_unpacked(r, NULL);
	ex_admin_set_state(f.admin, EX_ADMIN_DRAINING);
	r = call("Status", &q.base, &expertd__v1__status_reply__descriptor, &err);
	assert_string_equal(r->state, "draining");
	expertd__v1__status_reply__free_unpacked(r, NULL);
}

static void test_lists(void **state)
{
	(void)state;
	struct ex_err err;
	Expertd__V1__ListShardsRequest q = EXPERTD__V1__LIST_SHARDS_REQUEST__INIT;
	Expertd__V1__ListShardsReply *r =
		call("ListShards", &q.base, &expertd__v1__list_shards_reply__descriptor, &err);
	assert_non_null(r);
	assert_int_equal(r->n_shards, 0);
	expertd__v1__list_shards_reply__free_unpacked(r, NULL);
	q.glob = "L1-/x/y";
	assert_null(call("ListShards", &q.base, &expertd__v1__list_shards_reply__descriptor, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.text, "'L1-/x/y' is not a glob"));
	Expertd__V1__ListHostsRequest hq = EXPERTD__V1__LIST_HOSTS_REQUEST__INIT;
	Expertd__V1__ListHostsReply *h = call("ListHosts", &hq.base, &expertd__v1__list_hosts_reply__descriptor, &err);
	assert_non_null(h);
	expertd__v1__list_hosts_reply__free_unpacked(h, NULL);
}

static void expect_refused(const char *method, const ProtobufCMessage *q, int code, const char *text)
{
	struct ex_err err;
	assert_null(call(method, q, &expertd__v1__shard_step__descriptor, &err));
	if (err.code != code || !strstr(err.text, text))
		fail_msg("%s: %d: %s", method, err.code, err.text);
}

/* What is not to be taken at all; with a swapper behind it tests/sys/s01_swap.py goes on. */
static void test_changes_refused(void **state)
{
	(void)state;
	Expertd__V1__SwapShardsRequest q = EXPERTD__V1__SWAP_SHARDS_REQUEST__INIT;
	Expertd__V1__UnloadShardsRequest u = EXPERTD__V1__UNLOAD_SHARDS_REQUEST__INIT;
	char longest[400];
	memset(longest, '*', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	q.plugin = "/lib/x.so";
	q.glob = "";
	expect_refused("SwapShards", &q.base, -EINVAL, "'' is not a glob");
	q.glob = longest;
	expect_refused("SwapShards", &q.base, -EINVAL, "is not a glob");
	q.glob = "*";
	q.plugin = "x.so";
	expect_refused("SwapShards", &q.base, -EINVAL, "not an absolute path");
	q.plugin = "/lib/x.so";
	q.verify = 65;
	expect_refused("SwapShards", &q.base, -EINVAL, "at most 64 batches");
	q.verify = 64;
	q.tolerance = -1;
	expect_refused("SwapShards", &q.base, -EINVAL, "from 0 to 1");
	q.tolerance = 0;
	expect_refused("SwapShards", &q.base, -ENOTCONN, "while the node is starting");
	u.glob = "no/glob/this";
	expect_refused("UnloadShards", &u.base, -EINVAL, "is not a glob");
	u.glob = "*";
	expect_refused("UnloadShards", &u.base, -ENOTCONN, "while the node is starting");
}

/* What the switcher reports comes out in order; a switch that is not taken is refused with the reason. */
static void test_switch(void **state)
{
	(void)state;
	struct ex_err err;
	Expertd__V1__SwitchModelRequest q = EXPERTD__V1__SWITCH_MODEL_REQUEST__INIT;
	q.move = true;
	q.dir = "next";
	expect_refused("SwitchModel", &q.base, -EINVAL, "not an absolute path");
	q.dir = "/srv/taken";
	expect_refused("SwitchModel", &q.base, -EBUSY, "is not over");
	q.dir = "/srv/next";
	Expertd__V1__SwitchModelStep *s =
		call("SwitchModel", &q.base, &expertd__v1__switch_model_step__descriptor, &err);
	assert_non_null(s); /* the last of two */
	assert_string_equal(s->step, "cover");
	assert_string_equal(s->text, "no room");
	assert_true(s->failed);
	expertd__v1__switch_model_step__free_unpacked(s, NULL);
}

static void test_plugins(void **state)
{
	(void)state;
	struct ex_err err;
	Expertd__V1__ListPluginsRequest q = EXPERTD__V1__LIST_PLUGINS_REQUEST__INIT;
	assert_null(call("ListPlugins", &q.base, &expertd__v1__list_plugins_reply__descriptor, &err));
	assert_non_null(strstr(err.text, "starting"));
	ex_admin_set_state(f.admin, EX_ADMIN_READY);
	Expertd__V1__ListPluginsReply *r =
		call("ListPlugins", &q.base, &expertd__v1__list_plugins_reply__descriptor, &err);
	assert_non_null(r);
	assert_int_equal(r->n_plugins, 1);
	assert_string_equal(r->plugins[0]->path, "/lib/bad?.so"); /* a protobuf string holds UTF-8 only */
	assert_string_equal(r->plugins[0]->error, "truncated");
	expertd__v1__list_plugins_reply__free_unpacked(r, NULL);
}

static void test_metrics_config_reload(void **state)
{
	(void)state;
	struct ex_err err;
	Expertd__V1__MetricsRequest mq = EXPERTD__V1__METRICS_REQUEST__INIT;
	Expertd__V1__MetricsReply *m = call("Metrics", &mq.base, &expertd__v1__metrics_reply__descriptor, &err);
	assert_non_null(m);
	assert_non_null(strstr(m->text, "expertd_lock_taken_total{lock=\"admin\"}"));
	expertd__v1__metrics_reply__free_unpacked(m, NULL);
	Expertd__V1__ConfigRequest cq = EXPERTD__V1__CONFIG_REQUEST__INIT;
	Expertd__V1__ConfigReply *c = call("Config", &cq.base, &expertd__v1__config_reply__descriptor, &err);
	assert_non_null(c);
	assert_string_equal(c->text, "[node]\nname = n1\n");
	expertd__v1__config_reply__free_unpacked(c, NULL);
	Expertd__V1__ReloadRequest rq = EXPERTD__V1__RELOAD_REQUEST__INIT;
	Expertd__V1__ReloadReply *r = call("Reload", &rq.base, &expertd__v1__reload_reply__descriptor, &err);
	assert_non_null(r);
	assert_int_equal(r->n_changed, 1);
	assert_string_equal(r->changed[0], "[node] log_level");
	assert_int_equal(r->n_needs_restart, 1);
	assert_string_equal(r->needs_restart[0], "[router] peers");
	expertd__v1__reload_reply__free_unpacked(r, NULL);
	f.reload_rc = -EINVAL;
	assert_null(call("Reload", &rq.base, &expertd__v1__reload_reply__descriptor, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.text, "x.conf:3: wrong"));
}

/* --- events ---------------------------------------------------------------------------------------------- */

struct listener {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned n;
	uint64_t last_seq;
	bool in_order, closed;
	int status;
	char last[128];
};

static void on_event(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct listener *l = ctx;
	Expertd__V1__Event *e = (Expertd__V1__Event *)ex_msg_unpack(m, &expertd__v1__event__descriptor);
	(void)s;
	ex_msg_free(m);
	pthread_mutex_lock(&l->lock);
	l->in_order &= e->seq > l->last_seq;
	l->last_seq = e->seq;
	l->n++;
	snprintf(l->last, sizeof l->last, "%s|%s|%s", e->name, e->text, e->n_fields ? e->fields[0] : "");
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
	expertd__v1__event__free_unpacked(e, NULL);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct listener *l = ctx;
	(void)s, (void)text;
	pthread_mutex_lock(&l->lock);
	l->closed = true;
	l->status = status;
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static struct ex_stream *listen_events(struct listener *l, uint64_t after, bool follow)
{
	static const struct ex_stream_ops ops = {.message = on_event, .closed = on_closed};
	Expertd__V1__EventsRequest q = EXPERTD__V1__EVENTS_REQUEST__INIT;
	struct ex_stream *s = NULL;
	*l = (struct listener){
		.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .in_order = true};
	q.after = after;
	q.follow = follow;
	assert_int_equal(
		ex_stream_open(f.channel, "/expertd.v1.Admin/Events", DEADLINE_MS, true, &ops, l, NULL, &s), 0);
	assert_int_equal(ex_stream_send(s, ex_out_pack(&q.base)), 0);
	ex_stream_close_send(s);
	return s;
}

static void wait_events(struct listener *l, unsigned n, bool closed)
{
	pthread_mutex_lock(&l->lock);
	while (l->n < n || (closed && !l->closed)) {
		assert_true(!l->closed || closed);
		pthread_cond_wait(&l->changed, &l->lock);
	}
	pthread_mutex_unlock(&l->lock);
}

static void test_events(void **state)
{
	(void)state;
	struct listener l;
	ex_log_level(LOG_ERR);
	for (int i = 0; i < 100; i++)
		ex_event(EX_EV_DAEMON_READY, EX_FIELDS({"EX_NODE", "n1"}), "number %d", i);
	struct ex_stream *s = listen_events(&l, 0, false);
	wait_events(&l, 100, true);
	assert_int_equal(l.n, 100);
	assert_true(l.in_order);
	assert_int_equal(l.status, EX_STATUS_OK);
	assert_string_equal(l.last, "DAEMON_READY|number 99|EX_NODE=n1");
	ex_stream_drop(s);

	uint64_t last = l.last_seq;
	s = listen_events(&l, last - 1, true); /* one that is there, then those that come */
	wait_events(&l, 1, false);
	ex_event(EX_EV_DAEMON_STOPPING, NULL, "later \xff");
	wait_events(&l, 2, false);
	assert_string_equal(l.last, "DAEMON_STOPPING|later \\xff|");
	ex_stream_cancel(s);
	wait_events(&l, 2, true);
	assert_int_equal(l.status, EX_STATUS_CANCELLED);
	ex_stream_drop(s);
	ex_log_level(LOG_INFO);
}

/* --- the gate -------------------------------------------------------------------------------------------- */

static void answer(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	Expertd__V1__ConfigReply r = EXPERTD__V1__CONFIG_REPLY__INIT;
	r.text = ctx;
	ex_msg_free(m);
	ex_rpc_send(rpc, ex_out_pack(&r.base));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void test_gate(void **state)
{
	(void)state;
	static const struct ex_method real[] = {
		{.path = "/expertd.v1.Router/Other", .message = answer, .ctx = "no"},
		{.path = "/expertd.v1.Router/Tokenize", .message = answer, .ctx = "yes"},
		{0},
	};
	Expertd__V1__ConfigRequest q = EXPERTD__V1__CONFIG_REQUEST__INIT;
	struct ex_err err = EX_ERR_INIT;
	struct ex_msg *m = NULL;
	assert_int_equal(ex_unary(f.channel, real[1].path, &q.base, DEADLINE_MS, &err, &m), -ENOTCONN);
	ex_gate_open(&f.gate, real);
	EXPECT_OK(err, ex_unary(f.channel, real[1].path, &q.base, DEADLINE_MS, &err, &m));
	Expertd__V1__ConfigReply *r =
		(Expertd__V1__ConfigReply *)ex_msg_unpack(m, &expertd__v1__config_reply__descriptor);
	assert_string_equal(r->text, "yes");
	expertd__v1__config_reply__free_unpacked(r, NULL);
	ex_msg_free(m);
}

/* Nothing is moved before the router is there; with one behind it tests/sys/f14_apply.py goes on. */
static void test_apply_refused(void **state)
{
	(void)state;
	struct ex_err err;
	Expertd__V1__ApplyFleetRequest q = EXPERTD__V1__APPLY_FLEET_REQUEST__INIT;
	Expertd__V1__FleetStatusRequest s = EXPERTD__V1__FLEET_STATUS_REQUEST__INIT;
	assert_null(call("ApplyFleet", &q.base, &expertd__v1__apply_fleet_reply__descriptor, &err));
	assert_int_equal(err.code, -ENOTCONN);
	assert_non_null(strstr(err.text, "while the node is starting"));
	q.stop = true;
	assert_null(call("ApplyFleet", &q.base, &expertd__v1__apply_fleet_reply__descriptor, &err));
	assert_int_equal(err.code, -ENOTCONN);
	assert_null(call("FleetStatus", &s.base, &expertd__v1__fleet_status_reply__descriptor, &err));
	assert_int_equal(err.code, -ENOTCONN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_status, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lists, setup, teardown),
		cmocka_unit_test_setup_teardown(test_changes_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_apply_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_switch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_plugins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_metrics_config_reload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gate, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
