/* SPDX-License-Identifier: Apache-2.0 */
/* Who is in the fleet: the static list of expert hosts. Layer L2. */
#ifndef EX_FLEET_MEMBERS_H
#define EX_FLEET_MEMBERS_H

#include "base/addr.h"

#define EX_FLEET_HOSTS_MAX 1024

/* Checks addresses of expert hosts, "host:port": well-formed, with a port, each once. self: this process's own expert address,
 * which needs no entry; NULL: none. -EINVAL names the address. [any] */
int ex_members_check(const char *const *addresses, size_t n, const char *self, struct ex_err *err);

#endif
