/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/members_etcd against a real etcd: the list is right after whatever happens to etcd, and stands while it is away. */
#include "etcd_cluster.h"
#include "members_seen.h"

#include <unistd.h>

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct cluster c;
static struct ex_loop *loop;
static struct seen seen;
static struct ex_members *members;

static void put(const char *endpoints, const char *name, int port)
{
	char key[64], value[256];
	snprintf(key, sizeof key, "/t/hosts/%s", name);
	snprintf(value, sizeof value,
		"{\"name\":\"%s\",\"address\":\"127.0.0.1:%d\",\"model_digest\":\"" DIGEST "\",\"expert_groups\":8}",
		name, port);
	CTL(endpoints, "put", key, value);
}

static void setup_n(size_t n)
{
	struct ex_err err = EX_ERR_INIT;
	cluster_start(&c, n);
	ex_net_init();
	seen_init(&seen);
	EXPECT_OK(err, ex_loop_new("test", &err, &loop));
	const struct ex_members_etcd_opts o = {
		.endpoints = c.endpoints,
		.n_endpoints = n,
		.channel = {.loop = loop},
		.prefix = "/t",
		.timeout_ms = 1000,
		.lease_ttl_s = 2,
		.ops = &seen_ops,
		.ctx = &seen,
	};
	EXPECT_OK(err, ex_members_etcd_new(&o, &err, &members));
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE);
}

static int setup(void **state)
{
	(void)state;
	setup_n(1);
	return 0;
}

static int setup_three(void **state)
{
	(void)state;
	setup_n(3);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ex_members_free(members);
	ex_loop_freep(&loop);
	seen_done(&seen);
	ex_net_done();
	cluster_end(&c);
	return 0;
}

static void test_list_and_watch(void **state)
{
	(void)state;
	const char *e = c.m[0].endpoint;
	put(e, "h2", 1002);
	SEEN_NAMES(&seen, "h2");
	SEEN_CHECK(&seen, strcmp(s->first.address, "127.0.0.1:1002") == 0);
	SEEN_CHECK(&seen, strcmp(s->first.model_digest, DIGEST) == 0);
	put(e, "h1", 1001);
	SEEN_NAMES(&seen, "h1 h2");
	CTL(e, "put", "/t/hostsX/h7", "of another prefix");
	CTL(e, "del", "/t/hosts/h2");
	SEEN_NAMES(&seen, "h1");
	SEEN_CHECK(&seen, s->n_refused == 0);
}

/* What is no member is named and left out; a good value that is overwritten stays until its key goes. */
static void test_garbage(void **state)
{
	(void)state;
	const char *e = c.m[0].endpoint;
	put(e, "h1", 1001);
	SEEN_NAMES(&seen, "h1");
	CTL(e, "put", "/t/hosts/h2", "garbage");
	SEEN_WAIT(&seen, strncmp(s->refused, "/t/hosts/h2: ", 13) == 0);
	CTL(e, "put", "/t/hosts/a/b", "{}");
	SEEN_WAIT(&seen, strncmp(s->refused, "/t/hosts/a/b: ", 14) == 0);
	CTL(e, "put", "/t/hosts/h1", "{\"name\":\"h1\"}");
	SEEN_WAIT(&seen, strncmp(s->refused, "/t/hosts/h1: ", 13) == 0);
	put(e, "h3", 1003);
	SEEN_NAMES(&seen, "h1 h3");
	CTL(e, "del", "/t/hosts/h1");
	SEEN_NAMES(&seen, "h3");
	SEEN_CHECK(&seen, s->n_refused == 3);
	/* one address under two names: the later one counts */
	put(e, "h0", 1003);
	SEEN_NAMES(&seen, "h0");
	SEEN_CHECK(&seen, strstr(s->refused, "/t/hosts/h3: its address was registered later by 'h0'"));
	CTL(e, "del", "/t/hosts/h0");
	SEEN_NAMES(&seen, "h3");
}

/* While the watch is down hosts come and go, and the history of it is compacted. */
static void test_compaction(void **state)
{
	(void)state;
	put(c.m[0].endpoint, "h1", 1001);
	put(c.m[0].endpoint, "h2", 1002);
	SEEN_NAMES(&seen, "h1 h2");
	member_kill(&c, 0);
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_STALE);
	member_start(&c, 0, true); /* where the source does not find it */
	CTL(c.m[0].hidden, "del", "/t/hosts/h1");
	put(c.m[0].hidden, "h3", 1003);
	put(c.m[0].hidden, "h4", 1004);
	put(c.m[0].hidden, "h4", 1005);
	CTL(c.m[0].hidden, "compact", "6"); /* of revisions: h1 2, h2 3, del 4, h3 5, h4 6 and 7 */
	member_kill(&c, 0);
	SEEN_CHECK(&seen, strcmp(s->names, "h1 h2") == 0);
	member_start(&c, 0, false);
	SEEN_NAMES(&seen, "h2 h3 h4");
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE);
	CTL(c.m[0].endpoint, "del", "/t/hosts/h4"); /* and the new watch works */
	SEEN_NAMES(&seen, "h2 h3");
}

/* Away and back with its data: stale meanwhile, the same list; what happened in between comes through the watch. */
static void test_restart(void **state)
{
	(void)state;
	struct ex_members_view v;
	put(c.m[0].endpoint, "h1", 1001);
	SEEN_NAMES(&seen, "h1");
	member_kill(&c, 0);
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_STALE);
	ex_members_view(members, &v);
	assert_int_equal(v.state, EX_MEMBERS_STALE);
	assert_int_equal(v.n_members, 1);
	assert_non_null(strstr(v.why, c.m[0].endpoint));
	assert_true(v.since_ns <= ex_now_ns());
	member_start(&c, 0, true);
	put(c.m[0].hidden, "h2", 1002);
	member_kill(&c, 0);
	SEEN_CHECK(&seen, strcmp(s->names, "h1") == 0);
	member_start(&c, 0, false);
	SEEN_NAMES(&seen, "h1 h2");
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE);
	SEEN_CHECK(&seen, s->n_state[EX_MEMBERS_STALE] == 1); /* told once, however long it took */
}

/* etcd comes back empty: the list stands until hosts had the time to register again. */
static void test_lost_data(void **state)
{
	(void)state;
	put(c.m[0].endpoint, "h1", 1001);
	put(c.m[0].endpoint, "h2", 1002);
	SEEN_NAMES(&seen, "h1 h2");
	sleep(2); /* a probe has seen this revision */
	member_kill(&c, 0);
	member_wipe(&c, 0);
	member_start(&c, 0, false);
	SEEN_WAIT(&seen, strstr(s->why, "lost data"));
	SEEN_CHECK(&seen, strcmp(s->names, "h1 h2") == 0);
	put(c.m[0].endpoint, "h1", 1001);
	SEEN_NAMES(&seen, "h1");
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE);
}

/* One of three, then the leader, then all. */
static void test_three_members(void **state)
{
	(void)state;
	char all[128];
	snprintf(all, sizeof all, "%s,%s,%s", c.m[0].hidden, c.m[1].hidden, c.m[2].hidden);
	put(all, "h1", 1001);
	SEEN_NAMES(&seen, "h1");
	member_kill(&c, 0); /* the one that the source uses */
	put(all, "h2", 1002);
	SEEN_NAMES(&seen, "h1 h2");
	member_start(&c, 0, false);
	CTL(c.m[0].hidden, "get", "ready");
	member_kill(&c, cluster_leader(&c));
	put(all, "h3", 1003);
	SEEN_NAMES(&seen, "h1 h2 h3");
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE);
	for (size_t i = 0; i < 3; i++)
		if (c.m[i].pid && i != 2)
			member_kill(&c, i);
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_STALE); /* one is left, perhaps: no quorum */
	member_kill(&c, 2);
	SEEN_CHECK(&seen, strcmp(s->names, "h1 h2 h3") == 0);
	for (size_t i = 0; i < 3; i++)
		member_start(&c, i, false);
	SEEN_WAIT(&seen, s->state == EX_MEMBERS_LIVE);
	SEEN_CHECK(&seen, strcmp(s->names, "h1 h2 h3") == 0);
	CTL(all, "del", "/t/hosts/h1");
	SEEN_NAMES(&seen, "h2 h3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_list_and_watch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_compaction, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost_data, setup, teardown),
		cmocka_unit_test_setup_teardown(test_three_members, setup_three, teardown),
	};
	if (!cluster_possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
