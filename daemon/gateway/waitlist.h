/* SPDX-License-Identifier: Apache-2.0 */
/* Payments that wait to be credited: first come, first served, each with an expiry and an expected time. Layer L4.
 *
 * A ticket waits until it is released (credited), refunded, or expires (refunded by whoever asks ex_waitlist_expired). Numbers only grow; a list that
 * is read back from a store is added in the order of numbers. Reads no clock: times are real, in seconds since the epoch. Not thread-safe. */
#ifndef EX_GATEWAY_WAITLIST_H
#define EX_GATEWAY_WAITLIST_H

#include "base/err.h"
#include <stdbool.h>

#define EX_WAITLIST_MAX         65536
#define EX_WAITLIST_ACCOUNT_MAX 64            /* bytes of an account's name, NUL included */
#define EX_WAITLIST_ETA_S_MAX   (366 * 86400) /* later than that is no expectation */

struct ex_wait_ticket {
	uint64_t id;         /* from 1 */
	int64_t amount_nano; /* > 0 */
	int64_t added_s, expires_s;
	char account[EX_WAITLIST_ACCOUNT_MAX];
};

struct ex_waitlist;
int ex_waitlist_new(uint32_t tickets_max, struct ex_err *err, struct ex_waitlist **ret);
struct ex_waitlist *ex_waitlist_free(struct ex_waitlist *l);
EX_DEFINE_CLEANUP(struct ex_waitlist, ex_waitlist_free)

/* The list can take another ticket. */
bool ex_waitlist_has_room(const struct ex_waitlist *l);
/* -ENOSPC: full; -EEXIST: its number is not above all that were there; -EINVAL: a field is out of range. Copies t. */
int ex_waitlist_add(struct ex_waitlist *l, const struct ex_wait_ticket *t, struct ex_err *err);
/* The ticket that is released next; NULL: none. What has expired is not. Valid until the list changes. */
const struct ex_wait_ticket *ex_waitlist_first(const struct ex_waitlist *l, int64_t now_s);
/* One that has expired and is to be refunded and removed; NULL: none. */
const struct ex_wait_ticket *ex_waitlist_expired(const struct ex_waitlist *l, int64_t now_s);
/* NULL: no such ticket waits. */
const struct ex_wait_ticket *ex_waitlist_find(const struct ex_waitlist *l, uint64_t id);
/* It was released or refunded. -ENOENT. */
int ex_waitlist_remove(struct ex_waitlist *l, uint64_t id);
/* fn for each, first come first. */
void ex_waitlist_each(const struct ex_waitlist *l, void (*fn)(void *ctx, const struct ex_wait_ticket *t), void *ctx);

uint32_t ex_waitlist_count(const struct ex_waitlist *l);
int64_t ex_waitlist_amount_nano(const struct ex_waitlist *l); /* of all */

/* What is expected of the gate. */
struct ex_waitlist_outlook {
	double excess_tokens;   /* that must be used up before it opens; 0: it could open now */
	double burn_tokens_s;   /* used up a second, as measured */
	double tokens_per_nano; /* that a payment buys */
	double dwell_s;         /* for so long it must have been good before it opens */
};
/* When ticket id will be released, in seconds from now: the excess and the payments before it have been used up, and the dwell is over. -1: there is no
 * such ticket, nothing is used up, or it is beyond EX_WAITLIST_ETA_S_MAX. Never sooner for a later ticket, never later for a faster fleet. id 0: when the
 * gate opens. */
int64_t ex_waitlist_eta_s(const struct ex_waitlist *l, uint64_t id, const struct ex_waitlist_outlook *o);

#endif
