/* SPDX-License-Identifier: Apache-2.0 */
/* net/peers: calls of one name share a place, names beyond the limit have none, places are used again. */
#include "unit.h"

#include "net/peers.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void test_places(void **state)
{
	(void)state;
	struct ex_peers *p = ex_peers_new(2);
	int a = ex_peers_enter(p, "ipv4:10.0.0.1:1"), b = ex_peers_enter(p, "ipv4:10.0.0.1:2");
	assert_true(a >= 0 && b >= 0 && a != b);
	assert_int_equal(ex_peers_enter(p, "ipv4:10.0.0.1:3"), -ENOSPC);
	assert_int_equal(ex_peers_enter(p, "ipv4:10.0.0.1:1"), a);
	ex_peers_leave(p, a);
	assert_int_equal(ex_peers_enter(p, "ipv4:10.0.0.1:3"), -ENOSPC); /* its second call goes on */
	ex_peers_leave(p, a);
	assert_int_equal(ex_peers_enter(p, "ipv4:10.0.0.1:3"), a);
	assert_int_equal(ex_peers_enter(p, "ipv4:10.0.0.1:2"), b);
	assert_int_equal(ex_peers_enter(p, "ipv4:10.0.0.1:1"), -ENOSPC);
	ex_peers_free(p);
}

/* A place that is freed below those in use does not make a name that is there be taken for a new one. */
static void test_gap(void **state)
{
	(void)state;
	char name[32], big[2 * EX_PEER_NAME_MAX];
	struct ex_peers *p = ex_peers_new(100);
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof name, "fd:%d", i);
		assert_int_equal(ex_peers_enter(p, name), i);
	}
	ex_peers_leave(p, 7);
	assert_int_equal(ex_peers_enter(p, "fd:99"), 99);
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	assert_int_equal(ex_peers_enter(p, big), 7);
	assert_int_equal(ex_peers_enter(p, big), 7);
	ex_peers_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_gap),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
