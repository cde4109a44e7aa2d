/* SPDX-License-Identifier: Apache-2.0 */
/* The static list of expert hosts. Layer L2. */
#include "fleet/members.h"

#include <strings.h>

static bool same(const struct ex_addr *a, const struct ex_addr *b)
{
	return a->port == b->port && strcasecmp(a->host, b->host) == 0;
}

int ex_members_check(const char *const *addresses, size_t n, const char *self, struct ex_err *err)
{
	struct ex_addr me, a, b;
	if (n > EX_FLEET_HOSTS_MAX)
		return ex_err_set(err, -EINVAL, "%zu expert hosts, at most %d are allowed", n, EX_FLEET_HOSTS_MAX);
	if (self && ex_addr_parse(self, err, &me) < 0)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (ex_addr_parse(addresses[i], err, &a) < 0)
			return -EINVAL;
		if (a.port == 0)
			return ex_err_set(err, -EINVAL, "'%s': a peer's port must be from 1 to 65535", addresses[i]);
		if (self && ex_addr_clash(&me, &a) && (same(&me, &a) || ex_addr_is_loopback(&a)))
			return ex_err_set(err, -EINVAL, "'%s' is this process itself: its own shards need no entry",
				addresses[i]);
		for (size_t j = 0; j < i; j++)
			if (ex_addr_parse(addresses[j], NULL, &b) == 0 && same(&a, &b))
				return ex_err_set(err, -EINVAL, "'%s' is listed twice", addresses[i]);
	}
	return 0;
}
