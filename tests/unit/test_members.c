/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/members: the source whose list is in the configuration. */
#include "members_seen.h"

#include <semaphore.h>

static struct ex_loop *loop;
static struct seen seen;

static int setup(void **state)
{
	(void)state;
	ex_net_init();
	seen_init(&seen);
	return ex_loop_new("test", NULL, &loop);
}

static int teardown(void **state)
{
	(void)state;
	ex_loop_freep(&loop);
	seen_done(&seen);
	ex_net_done();
	return 0;
}

static void test_list_and_reload(void **state)
{
	(void)state;
	static const char *const two[] = {"10.0.0.2:7101", "10.0.0.1:7101"}, *const other[] = {"10.0.0.3:7101"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_members_view v;
	struct ex_members *m;
	EXPECT_OK(err, ex_members_static_new(loop, two, 2, &seen_ops, &seen, &err, &m));
	SEEN_WAIT(&seen, s->n_lists == 1 && s->state == EX_MEMBERS_LIVE);
	SEEN_CHECK(&seen, strcmp(s->names, "10.0.0.1:7101 10.0.0.2:7101") == 0);
	SEEN_CHECK(&seen, strcmp(s->first.address, "10.0.0.1:7101") == 0);
	/* the same hosts in another order are no change */
	EXPECT_OK(err, ex_members_static_set(m, (const char *const[]){two[1], two[0]}, 2, &err));
	EXPECT_OK(err, ex_members_static_set(m, other, 1, &err));
	SEEN_NAMES(&seen, "10.0.0.3:7101");
	SEEN_CHECK(&seen, s->n_lists == 2);
	EXPECT_OK(err, ex_members_static_set(m, NULL, 0, &err));
	SEEN_NAMES(&seen, "");
	ex_members_view(m, &v);
	assert_int_equal(v.state, EX_MEMBERS_LIVE);
	assert_int_equal(v.n_members, 0);
	SEEN_CHECK(&seen, s->n_state[EX_MEMBERS_LIVE] == 1);
	assert_null(ex_members_free(m));
}

static void post_sem(void *ctx)
{
	sem_post(ctx);
}

/* Freed while lists are on their way: none comes afterwards. */
static void test_free_at_once(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	sem_t turned;
	for (int i = 0; i < 200; i++) {
		char address[32];
		const char *list[] = {address};
		struct ex_members *m;
		snprintf(address, sizeof address, "10.0.0.1:%d", 1000 + i);
		EXPECT_OK(err, ex_members_static_new(loop, list, 1, &seen_ops, &seen, &err, &m));
		EXPECT_OK(err, ex_members_static_set(m, NULL, 0, &err));
		ex_members_free(m);
	}
	unsigned n = seen.n_lists;
	sem_init(&turned, 0, 0);
	assert_int_equal(ex_loop_post(loop, post_sem, &turned), 0);
	sem_wait(&turned); /* whatever was posted before has run */
	sem_destroy(&turned);
	SEEN_CHECK(&seen, s->n_lists == n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_list_and_reload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_free_at_once, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
