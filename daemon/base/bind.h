/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that listen: on an address, and on a file. Layer L0. */
#ifndef EX_BASE_BIND_H
#define EX_BASE_BIND_H

#include "base/err.h"
#include <sys/types.h>
#include <sys/un.h>

/* Listens on "HOST:PORT", where port 0 takes a free one. A descriptor that is closed on exec and does not block, or -errno: the address is in err. [any] */
int ex_bind_tcp(const char *listen, int backlog, struct ex_err *err);
/* The port of a listening socket; 0: not of TCP. [any] */
int ex_bound_port(int fd);

struct ex_bound_file {
	struct sockaddr_un address; /* filled in by the caller */
	dev_t dev;                  /* of the socket file, to know it again */
	ino_t ino;                  /* 0: there is none */
};
/* Listens on f->address, whose file gets the mode before anybody gets in. One that nobody listens on is replaced; meanwhile the directory is locked, at most 5 s.
 * A descriptor as above, or -errno; -EADDRINUSE: another process listens there, -EEXIST: a file that is no socket is there, -EWOULDBLOCK: the lock. [any] */
int ex_bind_file(struct ex_bound_file *f, mode_t mode, int backlog);
/* Removes the file, if it is still this socket's. [any] */
void ex_unbind_file(struct ex_bound_file *f);

#endif
