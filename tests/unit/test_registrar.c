/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/registrar against a real etcd: a name is held as long as its process lives, and by one process only. */
#include "etcd_cluster.h"
#include "members_seen.h"

#include "etcd/rpc.pb-c.h"
#include "net/server.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TTL_S      2
#define TIMEOUT_MS 1000
#define DIGEST     "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MACHINE    "00112233445566778899aabbccddeeff"

static struct cluster cluster;
static struct ex_loop *loop;
static struct seen seen, seen2;
static struct ex_registrar *started[4]; /* what a failed test leaves behind */
static struct ex_members *members;
extern char **environ;

static void fill_member(struct ex_member *m, const char *name, const char *address, const char *machine)
{
	*m = (struct ex_member){.model_digest = DIGEST, .expert_groups = 8, .zone = "a", .shards = "*/E0-7"};
	snprintf(m->name, sizeof m->name, "%s", name);
	snprintf(m->address, sizeof m->address, "%s", address);
	snprintf(m->machine, sizeof m->machine, "%s", machine);
}

static struct ex_registrar *start(const char *const *endpoints, size_t n, const char *name, const char *address,
	const char *machine, struct seen *s)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_registrar *r;
	struct ex_member m;
	fill_member(&m, name, address, machine);
	const struct ex_registrar_opts o = {
		.endpoints = endpoints,
		.n_endpoints = n,
		.channel = {.loop = loop},
		.prefix = "/t",
		.timeout_ms = TIMEOUT_MS,
		.lease_ttl_s = TTL_S,
		.self = &m,
		.event = seen_event,
		.ctx = s,
	};
	EXPECT_OK(err, ex_registrar_new(&o, &err, &r));
	for (size_t i = 0; i < EX_ARRAY_LEN(started); i++)
		if (!started[i]) {
			started[i] = r;
			return r;
		}
	fail_msg("more registrars than a test may start");
	return NULL;
}

static void leave(struct ex_registrar *r)
{
	for (size_t i = 0; i < EX_ARRAY_LEN(started); i++)
		if (started[i] == r)
			started[i] = NULL;
	ex_registrar_free(r);
}

static void assert_key(const char *name, const char *want)
{
	char key[64], text[1024];
	snprintf(key, sizeof key, "/t/hosts/%s", name);
	CTL_OUT(cluster.m[0].endpoint, text, sizeof text, "get", "--print-value-only", key);
	if (*want ? !strstr(text, want) : *text)
		fail_msg("%s is '%s', wanted '%s'", key, text, want);
}

static int setup_cluster(void **state)
{
	(void)state;
	cluster_start(&cluster, 1);
	ex_net_init();
	return 0;
}

static int teardown_cluster(void **state)
{
	(void)state;
	ex_net_done();
	cluster_end(&cluster);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	seen_init(&seen);
	seen_init(&seen2);
	return ex_loop_new("test", NULL, &loop);
}

static int teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(started); i++)
		ex_registrar_freep(&started[i]);
	ex_members_freep(&members);
	ex_loop_freep(&loop);
	seen_done(&seen2);
	seen_done(&seen);
	return 0;
}

/* Registered beyond the lease's term, which only keep-alives do; gone at once after free, long before the term. */
static void test_register_and_leave(void **state)
{
	(void)state;
	struct ex_registrar *r = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	assert_key("h1", "\"address\":\"127.0.0.1:1001\"");
	sleep(2 * TTL_S);
	assert_key("h1", "\"zone\":\"a\"");
	SEEN_CHECK(&seen, s->n_events[EX_REGISTRAR_LOST] == 0);
	leave(r);
	assert_key("h1", "");
}

/* Two hosts with one name: the second is told who has it, and gets it when the first leaves. */
static void test_name_clash(void **state)
{
	(void)state;
	struct ex_registrar *a = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	struct ex_registrar *b = start(cluster.endpoints, 1, "h1", "127.0.0.1:1002", MACHINE, &seen2);
	SEEN_WAIT(&seen2, s->n_events[EX_REGISTRAR_CLASH] == 1);
	SEEN_CHECK(&seen2, strstr(s->event[EX_REGISTRAR_CLASH], "127.0.0.1:1001"));
	SEEN_CHECK(&seen2, strstr(s->event[EX_REGISTRAR_CLASH], "'h1'"));
	sleep(1);
	assert_key("h1", "127.0.0.1:1001");
	leave(a);
	SEEN_WAIT(&seen2, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	SEEN_CHECK(&seen2, s->n_events[EX_REGISTRAR_CLASH] == 1); /* told once, however often it was tried */
	SEEN_CHECK(&seen, s->n_events[EX_REGISTRAR_LOST] == 0);
	assert_key("h1", "127.0.0.1:1002");
	leave(b);
}

/* A host that was killed finds its own key, under a lease that still lives, and takes it over; one of another machine
 * with the same address does not. */
static void test_former_self(void **state)
{
	(void)state;
	struct ex_registrar *a = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	struct ex_registrar *other =
		start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", "ffffffffffffffffffffffffffffffff", &seen2);
	SEEN_WAIT(&seen2, s->n_events[EX_REGISTRAR_CLASH] == 1);
	leave(other);
	struct ex_registrar *b = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen2);
	SEEN_WAIT(&seen2, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	/* the first one sees that it was replaced, and does not take the name back */
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_LOST] == 1 && s->n_events[EX_REGISTRAR_CLASH] == 1);
	sleep(1);
	SEEN_CHECK(&seen2, s->n_events[EX_REGISTRAR_LOST] == 0);
	leave(a);
	assert_key("h1", "127.0.0.1:1001");
	leave(b);
}

/* An operator's hand: a key that was deleted is made again; a lease that was revoked is replaced. */
static void test_key_and_lease_taken_away(void **state)
{
	(void)state;
	char lease[64];
	struct ex_registrar *r = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	CTL(cluster.m[0].endpoint, "del", "/t/hosts/h1");
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGAINED] == 1);
	SEEN_CHECK(&seen, s->n_events[EX_REGISTRAR_LOST] == 1);
	SEEN_CHECK(&seen, strstr(s->event[EX_REGISTRAR_LOST], "its key is gone"));
	assert_key("h1", "127.0.0.1:1001");
	ex_lock_take(&seen.lock);
	const char *id = strstr(seen.event[EX_REGISTRAR_REGAINED], "lease ");
	snprintf(lease, sizeof lease, "%s", id ? id + 6 : "not told");
	ex_lock_give(&seen.lock);
	CTL(cluster.m[0].endpoint, "lease", "revoke", lease);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGAINED] == 2);
	assert_key("h1", "127.0.0.1:1001");
	leave(r);
}

/* etcd goes and comes back: told once each, and the registration is there again. Leaving while it is down does not wait. */
static void test_etcd_restart(void **state)
{
	(void)state;
	struct ex_registrar *r = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	member_kill(&cluster, 0);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_UNREACHABLE] == 1);
	SEEN_CHECK(&seen, strstr(s->event[EX_REGISTRAR_UNREACHABLE], cluster.endpoints[0]));
	sleep(1);
	member_start(&cluster, 0, false);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_BACK] == 1);
	SEEN_CHECK(&seen, s->n_events[EX_REGISTRAR_UNREACHABLE] == 1);
	assert_key("h1", "127.0.0.1:1001");
	member_kill(&cluster, 0);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_UNREACHABLE] == 2);
	leave(r);
	member_start(&cluster, 0, false);
	CTL(cluster.m[0].endpoint, "del", "/t/hosts/h1"); /* the lease would do it, later */
}

/* --- a process that is stopped until its lease has ended ------------------------------------------------- */

/* Registers h9 and says what happens, a line an event, until its input ends. */
static int be_registrar(const char *endpoint)
{
	char c;
	ex_net_init();
	seen_init(&seen);
	if (ex_loop_new("test", NULL, &loop) < 0)
		return 1;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct ex_registrar *r = start(&endpoint, 1, "h9", "127.0.0.1:1009", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	assert_int_equal(write(STDOUT_FILENO, "r", 1), 1);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGAINED] == 1 && s->n_events[EX_REGISTRAR_LOST] == 1);
	assert_int_equal(write(STDOUT_FILENO, "a", 1), 1);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	leave(r);
	ex_loop_freep(&loop);
	seen_done(&seen);
	ex_net_done();
	return 0;
}

static char read_one(int fd)
{
	char c = 0;
	assert_int_equal(read(fd, &c, 1), 1);
	return c;
}

static void test_stopped_process(void **state)
{
	(void)state;
	int in[2], out[2], status;
	pid_t pid;
	char self[] = "/proc/self/exe", word[] = "register";
	char *argv[] = {self, word, cluster.m[0].endpoint, NULL};
	posix_spawn_file_actions_t fa;
	struct ex_err err = EX_ERR_INIT;
	const struct ex_members_etcd_opts o = {
		.endpoints = cluster.endpoints,
		.n_endpoints = 1,
		.channel = {.loop = loop},
		.prefix = "/t",
		.timeout_ms = TIMEOUT_MS,
		.lease_ttl_s = TTL_S,
		.ops = &seen_ops,
		.ctx = &seen,
	};
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&fa, out[1], STDOUT_FILENO);
	assert_int_equal(posix_spawn(&pid, self, &fa, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(out[1]);
	EXPECT_OK(err, ex_members_etcd_new(&o, &err, &members));
	assert_int_equal(read_one(out[0]), 'r');
	SEEN_NAMES(&seen, "h9");
	kill(pid, SIGSTOP);
	SEEN_NAMES(&seen, "");
	kill(pid, SIGCONT);
	SEEN_NAMES(&seen, "h9");
	assert_int_equal(read_one(out[0]), 'a');
	close(in[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	SEEN_NAMES(&seen, "");
	SEEN_CHECK(&seen, s->n_state[EX_MEMBERS_STALE] == 0);
	ex_members_freep(&members);
	close(out[0]);
}

/* --- an etcd that can be read and not written ------------------------------------------------------------ */

static void answer_range(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	Etcdserverpb__ResponseHeader h = ETCDSERVERPB__RESPONSE_HEADER__INIT;
	Etcdserverpb__RangeResponse r = ETCDSERVERPB__RANGE_RESPONSE__INIT;
	(void)ctx;
	ex_msg_free(m);
	r.header = &h;
	ex_rpc_send(rpc, ex_out_pack(&r.base));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void refuse_grant(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	const int *status = ctx;
	ex_msg_free(m);
	ex_rpc_finish(rpc, *status, "database space exceeded");
}

/* Told once in etcd's words, and not as an etcd that is away. */
static void check_refused(int status, const char *want)
{
	const struct ex_method methods[] = {{.path = "/etcdserverpb.KV/Range", .message = answer_range},
		{.path = "/etcdserverpb.Lease/LeaseGrant", .message = refuse_grant, .ctx = &status}, {.path = NULL}};
	struct ex_err err = EX_ERR_INIT;
	struct ex_loop *server_loop;
	struct ex_server *server;
	char address[32];
	const char *endpoint = address;
	EXPECT_OK(err, ex_loop_new("server", &err, &server_loop));
	const struct ex_server_opts o = {
		.listen = "127.0.0.1:0", .loops = &server_loop, .n_loops = 1, .methods = methods};
	EXPECT_OK(err, ex_server_start(&o, &err, &server));
	snprintf(address, sizeof address, "127.0.0.1:%d", ex_server_port(server));
	struct ex_registrar *r = start(&endpoint, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REFUSED] == 1);
	sleep(1);
	leave(r);
	ex_server_stop(server, 0);
	ex_loop_free(server_loop);
	SEEN_CHECK(&seen, strstr(s->event[EX_REGISTRAR_REFUSED], want));
	SEEN_CHECK(&seen, s->n_events[EX_REGISTRAR_REFUSED] == 1);
	SEEN_CHECK(&seen, s->n_events[EX_REGISTRAR_UNREACHABLE] == 0);
}

static void test_refused_by_answer(void **state)
{
	(void)state;
	check_refused(
		EX_STATUS_RESOURCE_EXHAUSTED, "grant a lease for 'h1': RESOURCE_EXHAUSTED: database space exceeded");
}

static void test_refused_by_failing(void **state)
{
	(void)state;
	check_refused(EX_STATUS_UNAVAILABLE, "grant a lease for 'h1': UNAVAILABLE: database space exceeded");
}

static void test_bad_options(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_registrar *r;
	struct ex_member m;
	fill_member(&m, "h1", "127.0.0.1:1001", "");
	struct ex_registrar_opts o = {.channel = {.loop = loop}, .prefix = "/t", .lease_ttl_s = TTL_S, .self = &m};
	assert_int_equal(ex_registrar_new(&o, &err, &r), -EINVAL);
	assert_non_null(strstr(err.text, "0 etcd endpoints"));
	o.lease_ttl_s = 1;
	assert_int_equal(ex_registrar_new(&o, &err, &r), -EINVAL);
	assert_non_null(strstr(err.text, "a lease of 1 s"));
}

/* What the key says changes under the same lease; a name that another has taken meanwhile is not written to. */
static void test_update(void **state)
{
	(void)state;
	struct ex_member m;
	struct ex_registrar *r = start(cluster.endpoints, 1, "h1", "127.0.0.1:1001", MACHINE, &seen);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGISTERED] == 1);
	fill_member(&m, "h1", "127.0.0.1:1001", MACHINE);
	for (int i = 0; i < 3; i++) {
		char want[64];
		snprintf(m.identity, sizeof m.identity, "001122334455667%c", '0' + i);
		snprintf(want, sizeof want, "\"identity\":\"%s\"", m.identity);
		assert_int_equal(ex_registrar_update(r, &m), 0);
		char text[1024] = "";
		for (int k = 0; k < 100 && !strstr(text, want); k++) {
			CTL_OUT(cluster.m[0].endpoint, text, sizeof text, "get", "--print-value-only", "/t/hosts/h1");
			usleep(50000);
		}
		assert_non_null(strstr(text, want));
	}
	CTL(cluster.m[0].endpoint, "put", "/t/hosts/h1", "{}");
	snprintf(m.identity, sizeof m.identity, "mixed");
	assert_int_equal(ex_registrar_update(r, &m), 0);
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_LOST] == 1);
	assert_key("h1", "{}");
	CTL(cluster.m[0].endpoint, "del", "/t/hosts/h1");
	SEEN_WAIT(&seen, s->n_events[EX_REGISTRAR_REGAINED] == 1);
	assert_key("h1", "\"identity\":\"mixed\"");
	leave(r);
	assert_key("h1", "");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_bad_options, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_by_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_by_failing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_register_and_leave, setup, teardown),
		cmocka_unit_test_setup_teardown(test_update, setup, teardown),
		cmocka_unit_test_setup_teardown(test_name_clash, setup, teardown),
		cmocka_unit_test_setup_teardown(test_former_self, setup, teardown),
		cmocka_unit_test_setup_teardown(test_key_and_lease_taken_away, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stopped_process, setup, teardown),
		cmocka_unit_test_setup_teardown(test_etcd_restart, setup, teardown),
	};
	if (argc == 3 && strcmp(argv[1], "register") == 0)
		return be_registrar(argv[2]);
	if (!cluster_possible())
		return 77;
	return cmocka_run_group_tests(tests, setup_cluster, teardown_cluster);
}
