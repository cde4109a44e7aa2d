/* SPDX-License-Identifier: Apache-2.0 */
/* A table of connections with calls, by name. Layer L1. A server's port is accepted on by gRPC, which tells of connections only by their
 * calls. */
#include "net/peers.h"

#include "base/lock.h"
#include "base/mem.h"
#include <errno.h>
#include <string.h>

struct peer {
	char name[EX_PEER_NAME_MAX];
};

struct ex_peers {
	struct ex_lock lock;
	unsigned n_max, n_used; /* places from n_used on were never taken; guarded by lock */
	/* by place; guarded by lock. The hashes lie together, for all are looked at */
	struct {
		uint32_t hash, n_calls; /* n_calls 0: free */
	} * count;
	struct peer *peer;
};

struct ex_peers *ex_peers_new(unsigned n_max)
{
	struct ex_peers *p = ex_calloc(1, sizeof *p);
	if (!p)
		return NULL;
	ex_lock_init(&p->lock, "peers");
	p->n_max = n_max;
	p->count = ex_calloc(n_max, sizeof *p->count);
	p->peer = ex_calloc(n_max, sizeof *p->peer);
	return p->count && p->peer ? p : ex_peers_free(p);
}

struct ex_peers *ex_peers_free(struct ex_peers *p)
{
	if (p) {
		ex_lock_done(&p->lock);
		free(p->count);
		free(p->peer);
		free(p);
	}
	return NULL;
}

/* FNV-1a. */
static uint32_t hash_name(const char *name)
{
	uint32_t h = 2166136261u;
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 16777619u;
	return h;
}

static int find_place(struct ex_peers *p, const char *name, uint32_t hash)
{
	unsigned place = p->n_used;
	for (unsigned i = 0; i < p->n_used; i++)
		if (!p->count[i].n_calls)
			place = EX_MIN(place, i);
		else if (p->count[i].hash == hash && !strcmp(p->peer[i].name, name))
			return (int)i;
	return place < p->n_max ? (int)place : -ENOSPC;
}

int ex_peers_enter(struct ex_peers *p, const char *name)
{
	struct peer peer = {0};
	memcpy(peer.name, name, strnlen(name, sizeof peer.name - 1));
	uint32_t hash = hash_name(peer.name);
	ex_lock_take(&p->lock);
	int place = find_place(p, peer.name, hash);
	if (place >= 0) {
		p->n_used = EX_MAX(p->n_used, (unsigned)place + 1);
		p->count[place].hash = hash;
		p->count[place].n_calls++;
		p->peer[place] = peer;
	}
	ex_lock_give(&p->lock);
	return place;
}

void ex_peers_leave(struct ex_peers *p, int place)
{
	ex_lock_take(&p->lock);
	assert(p->count[place].n_calls);
	p->count[place].n_calls--;
	ex_lock_give(&p->lock);
}
