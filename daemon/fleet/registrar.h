/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps one member registered in etcd: key PREFIX/hosts/NAME under a lease that is kept alive. Layer L2.
 *
 * A name belongs to whoever made its key. A key that is there already is another host's, and is left alone, but for one
 * that this same host left behind when it was killed: same machine and address, looked at once, at the first try. */
#ifndef EX_FLEET_REGISTRAR_H
#define EX_FLEET_REGISTRAR_H

#include "fleet/members.h"

enum ex_registrar_event {
	EX_REGISTRAR_REGISTERED,
	EX_REGISTRAR_LOST,        /* the lease has ended, or the key is gone */
	EX_REGISTRAR_REGAINED,    /* registered again after LOST */
	EX_REGISTRAR_CLASH,       /* another host has the name; tried again for ever */
	EX_REGISTRAR_REFUSED,     /* etcd answers, but refuses; tried again for ever */
	EX_REGISTRAR_UNREACHABLE, /* no endpoint answers with a quorum */
	EX_REGISTRAR_BACK,
};

struct ex_registrar_opts {
	const char *const *endpoints; /* [n_endpoints] "host:port"; copied */
	size_t n_endpoints;
	struct ex_channel_opts channel; /* how to reach them, its loop above all */
	const char *prefix;             /* copied */
	unsigned timeout_ms, lease_ttl_s;
	const struct ex_member *self; /* copied */
	/* text: what happened, for the journal. [cq] */
	void (*event)(void *ctx, enum ex_registrar_event ev, const char *text);
	void *ctx;
};

struct ex_registrar;
/* Registers as soon as etcd can be reached. -EINVAL: no endpoints, too many, a lease below EX_FLEET_LEASE_TTL_S_MIN. [any] */
int ex_registrar_new(const struct ex_registrar_opts *o, struct ex_err *err, struct ex_registrar **ret);
/* What the key is to say from now on; name, machine and address are those of before. -ENOMEM: it stays as it was. [any] */
int ex_registrar_update(struct ex_registrar *r, const struct ex_member *self);
/* Revokes the lease, which takes the key away: blocks for timeout_ms at most, not at all while etcd is down. No callback
 * runs any more when it returns. Not from the loop. */
struct ex_registrar *ex_registrar_free(struct ex_registrar *r);
EX_DEFINE_CLEANUP(struct ex_registrar, ex_registrar_free)

#endif
