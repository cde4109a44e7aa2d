/* SPDX-License-Identifier: Apache-2.0 */
/* What every source of members is made of. Private to fleet/members*.c. Layer L2. */
#ifndef EX_FLEET_MEMBERS_INT_H
#define EX_FLEET_MEMBERS_INT_H

#include "base/lock.h"
#include "fleet/members.h"

/* The first part of each source. */
struct ex_members {
	uint32_t magic;
	void (*free)(struct ex_members *m); /* all but what follows */
	const struct ex_members_ops *ops;
	void *ctx;
	struct ex_lock lock;
	struct ex_members_view view; /* guarded by lock */
};

void ex_members_init(
	struct ex_members *m, void (*free_fn)(struct ex_members *m), const struct ex_members_ops *ops, void *ctx);
void ex_members_done(struct ex_members *m);
/* Sets the view, and tells the user of another state or reason; why: less than EX_MEMBERS_WHY_MAX bytes. [cq] */
void ex_members_set_state(struct ex_members *m, enum ex_members_state s, const char *why);
void ex_members_deliver(struct ex_members *m, const struct ex_member *list, size_t n);

#endif
