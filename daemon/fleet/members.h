/* SPDX-License-Identifier: Apache-2.0 */
/* Who is in the fleet: expert hosts, from a list in the configuration or from etcd, behind one interface. Layer L2.
 *
 * A source delivers the whole list each time, and says whether it still follows: a source that lost etcd is stale, and
 * its last list stays good. A member's absence says that it left or that its lease ended, not that it is dead. */
#ifndef EX_FLEET_MEMBERS_H
#define EX_FLEET_MEMBERS_H

#include "base/addr.h"
#include "base/shard.h"
#include "net/client.h"

#define EX_FLEET_HOSTS_MAX       1024
#define EX_MEMBER_NAME_MAX       64 /* as [node] name, and NUL */
#define EX_MEMBER_ADDRESS_MAX    (EX_HOST_TEXT_MAX + 8)
#define EX_MEMBER_SHARDS_MAX     16384 /* text of [expert] shards, and NUL */
#define EX_FLEET_PREFIX_MAX      255
#define EX_FLEET_LEASE_TTL_S_MIN 2 /* etcd grants no less with its default heartbeat */

struct ex_member {
	char name[EX_MEMBER_ADDRESS_MAX];    /* unique; the address when the list has no names */
	char address[EX_MEMBER_ADDRESS_MAX]; /* "host:port"; unique */
	/* What only etcd's members say; empty or 0: not said. */
	char zone[EX_MEMBER_NAME_MAX];
	char machine[33];      /* 32 hex digits: of the machine it runs on */
	char version[32];      /* of expertd */
	char plugin[96];       /* what computes there, "cpu 0.1.0" */
	char model_digest[65]; /* 64 hex digits */
	/* How it computes: the kind of its shards' numeric identities, or EX_IDENTITY_MIXED. */
	char identity[EX_IDENTITY_KIND_MAX];
	uint32_t expert_groups; /* ranges per layer */
	uint64_t memory_bytes;  /* that the process has or could have */
	const char *shards;     /* globs; never NULL; borrowed, valid during the callback */
};

enum ex_members_state {
	EX_MEMBERS_STARTING, /* no list yet */
	EX_MEMBERS_LIVE,
	EX_MEMBERS_STALE, /* the last list stands, and may be old */
};
const char *ex_members_state_name(enum ex_members_state s);

/* Called on the source's loop, one at a time. */
struct ex_members_ops {
	/* The list, ascending by name; it replaces the one before. */
	void (*changed)(void *ctx, const struct ex_member *m, size_t n);
	/* Another state, or another reason in it. why: when stale, or while starting; else "". */
	void (*state)(void *ctx, enum ex_members_state s, const char *why);
	/* An entry that is not in the list, or whose new value was not taken, and why; told once. NULL: not wanted. */
	void (*refused)(void *ctx, const char *key, const char *why);
};

struct ex_members;
/* No callback runs any more when it returns. Not from the loop. */
struct ex_members *ex_members_free(struct ex_members *m);
EX_DEFINE_CLEANUP(struct ex_members, ex_members_free)

#define EX_MEMBERS_WHY_MAX 256
struct ex_members_view {
	enum ex_members_state state;
	uint64_t since_ns; /* of the state, ex_now_ns time */
	char why[EX_MEMBERS_WHY_MAX];
	size_t n_members;
};
void ex_members_view(struct ex_members *m, struct ex_members_view *ret); /* [any] */

/* --- from the configuration ------------------------------------------------------------------------------ */

/* Checks addresses of expert hosts, "host:port": well-formed, with a port, each once. self: this process's own expert address,
 * which needs no entry; NULL: none. -EINVAL names the address. [any] */
int ex_members_check(const char *const *addresses, size_t n, const char *self, struct ex_err *err);

/* A source that says what it is told: live from the start. addresses: copied; they were checked. [any] */
int ex_members_static_new(struct ex_loop *loop, const char *const *addresses, size_t n,
	const struct ex_members_ops *ops, void *ctx, struct ex_err *err, struct ex_members **ret);
/* Another list, after a reload; `changed` follows unless it is the same one. -ENOMEM: the old one stays. [any] */
int ex_members_static_set(struct ex_members *m, const char *const *addresses, size_t n, struct ex_err *err);

/* --- from etcd ------------------------------------------------------------------------------------------- */

struct ex_members_etcd_opts {
	const char *const *endpoints; /* [n_endpoints] "host:port"; copied */
	size_t n_endpoints;
	struct ex_channel_opts channel; /* how to reach them, its loop above all */
	const char *prefix;             /* members are the keys PREFIX/hosts/NAME; copied */
	unsigned timeout_ms, lease_ttl_s;
	const struct ex_members_ops *ops;
	void *ctx;
};
/* Reads the list and follows it. When etcd has lost data (another cluster, or revisions gone back) the last list stands
 * for lease_ttl_s more, stale, for the hosts to register again. -EINVAL: no endpoints, or too many. [any] */
int ex_members_etcd_new(const struct ex_members_etcd_opts *o, struct ex_err *err, struct ex_members **ret);

#endif
