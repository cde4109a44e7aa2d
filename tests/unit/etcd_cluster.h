/* SPDX-License-Identifier: Apache-2.0 */
/* A real etcd on loopback for tests, of one member or three, in a directory of its own; and etcdctl. */
#ifndef EX_TESTS_UNIT_ETCD_CLUSTER_H
#define EX_TESTS_UNIT_ETCD_CLUSTER_H

#include "unit.h"

#include <stdbool.h>
#include <sys/types.h>

#define CLUSTER_MAX 3

struct cluster {
	char dir[64];
	size_t n;
	struct etcd_member {
		char endpoint[32], hidden[32], peer[32]; /* "127.0.0.1:PORT"; hidden: a second one for clients */
		pid_t pid;                               /* 0: not running */
	} m[CLUSTER_MAX];
	const char *endpoints[CLUSTER_MAX]; /* the first ones */
};

/* etcd and etcdctl can be run; a test program without them exits with 77. */
bool cluster_possible(void);
/* Starts n members; returns when they answer with a quorum. */
void cluster_start(struct cluster *c, size_t n);
void cluster_end(struct cluster *c);
/* One member. hidden: it does not listen on its first endpoint. Returns without waiting. */
void member_start(struct cluster *c, size_t i, bool hidden);
void member_kill(struct cluster *c, size_t i); /* SIGKILL */
void member_wipe(struct cluster *c, size_t i); /* removes the data of one that is not running */
size_t cluster_leader(struct cluster *c);

/* Runs etcdctl at endpoints ("a,b") until it succeeds, for at most 20 s. Its output goes to out (size; NULL: nowhere). */
void ctl(const char *endpoints, char *out, size_t size, const char *const *args);
#define CTL(endpoints, ...)                ctl(endpoints, NULL, 0, (const char *const[]){__VA_ARGS__, NULL})
#define CTL_OUT(endpoints, out, size, ...) ctl(endpoints, out, size, (const char *const[]){__VA_ARGS__, NULL})

/* n ports of 127.0.0.1 that were free a moment ago. */
void free_ports(int *port, size_t n);

#endif
