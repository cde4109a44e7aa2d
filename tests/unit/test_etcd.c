/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/etcd: endpoints that are no etcd, or silent, are passed over; without a good one the cluster is down, with the
 * reason. */
#include "etcd_cluster.h"
#include "members_seen.h"

#include "fleet/etcd.h"
#include "net/server.h"
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ex_loop *loop, *server_loop;
static struct seen seen;
static const char *mode; /* of the false etcd */

static int setup(void **state)
{
	(void)state;
	ex_net_init();
	seen_init(&seen);
	assert_int_equal(ex_loop_new("server", NULL, &server_loop), 0);
	return ex_loop_new("test", NULL, &loop);
}

static int teardown(void **state)
{
	(void)state;
	ex_loop_freep(&loop);
	ex_loop_freep(&server_loop);
	seen_done(&seen);
	ex_net_done();
	return 0;
}

static struct ex_members *follow(const char *const *endpoints, size_t n)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_members *m;
	const struct ex_members_etcd_opts o = {
		.endpoints = endpoints,
		.n_endpoints = n,
		.channel = {.loop = loop},
		.prefix = "/t",
		.timeout_ms = 500,
		.lease_ttl_s = 2,
		.ops = &seen_ops,
		.ctx = &seen,
	};
	EXPECT_OK(err, ex_members_etcd_new(&o, &err, &m));
	return m;
}

/* Listens, and never answers. */
static int open_silent(char address[static 32])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	snprintf(address, 32, "127.0.0.1:%d", ntohs(a.sin_port));
	return fd;
}

static void false_answer(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	(void)ctx;
	ex_msg_free(m);
	if (strcmp(mode, "refuse") == 0) {
		ex_rpc_finish(rpc, EX_STATUS_PERMISSION_DENIED, "etcdserver: \x1b[2J user name is empty");
		return;
	}
	/* a range response whose first field is cut short */
	Etcdserverpb__LeaseGrantResponse r = ETCDSERVERPB__LEASE_GRANT_RESPONSE__INIT;
	r.error = (char[]){"\x0a\x7f"};
	r.id = 1; /* field 2 of wire type 0 where a message is wanted */
	ex_rpc_send(rpc, ex_out_pack(&r.base));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void check_false_etcd(const char *how, const char *why)
{
	const struct ex_method methods[] = {
		{.path = "/etcdserverpb.KV/Range", .message = false_answer}, {.path = NULL}};
	struct ex_loop *const loops[] = {server_loop};
	const struct ex_server_opts o = {.listen = "127.0.0.1:0", .loops = loops, .n_loops = 1, .methods = methods};
	struct ex_err err = EX_ERR_INIT;
	struct ex_server *server;
	char address[32];
	const char *endpoints[] = {address};
	mode = how;
	EXPECT_OK(err, ex_server_start(&o, &err, &server));
	snprintf(address, sizeof address, "127.0.0.1:%d", ex_server_port(server));
	struct ex_members *m = follow(endpoints, 1);
	SEEN_WAIT(&seen, *s->why);
	SEEN_CHECK(&seen, strstr(s->why, why));
	SEEN_CHECK(&seen, s->state == EX_MEMBERS_STARTING);
	SEEN_CHECK(&seen, s->n_lists == 0);
	ex_members_free(m);
	ex_server_stop(server, 0);
}

static void test_refusing(void **state)
{
	(void)state;
	check_false_etcd("refuse", "the list cannot be read: PERMISSION_DENIED: etcdserver: ?[2J user name is empty");
}

static void test_malformed(void **state)
{
	(void)state;
	check_false_etcd("garbage", "the answer is malformed");
}

static void test_nobody_and_silence(void **state)
{
	(void)state;
	int port;
	char nobody[32], silent[32];
	const char *endpoints[] = {nobody, silent};
	int fd = open_silent(silent);
	free_ports(&port, 1);
	snprintf(nobody, sizeof nobody, "127.0.0.1:%d", port);
	struct ex_members *m = follow(endpoints, 2);
	SEEN_WAIT(&seen, *s->why);
	SEEN_CHECK(&seen, strstr(s->why, "DEADLINE_EXCEEDED") || strstr(s->why, "UNAVAILABLE"));
	ex_members_free(m);
	close(fd);
}

/* The good one is the last of three. */
static void test_passed_over(void **state)
{
	(void)state;
	int port;
	char nobody[32], silent[32];
	struct cluster c;
	if (!cluster_possible())
		skip();
	cluster_start(&c, 1);
	int fd = open_silent(silent);
	free_ports(&port, 1);
	snprintf(nobody, sizeof nobody, "127.0.0.1:%d", port);
	const char *endpoints[] = {nobody, silent, c.endpoints[0]};
	struct ex_members *m = follow(endpoints, 3);
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE && s->n_lists == 1);
	SEEN_CHECK(&seen, strcmp(s->names, "") == 0);
	ex_members_free(m);
	close(fd);
	cluster_end(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_refusing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_and_silence, setup, teardown),
		cmocka_unit_test_setup_teardown(test_passed_over, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
