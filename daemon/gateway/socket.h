/* SPDX-License-Identifier: Apache-2.0 */
/* Where the HTTP server listens. Layer L4. */
#ifndef EX_GATEWAY_SOCKET_H
#define EX_GATEWAY_SOCKET_H

#include "base/bind.h"

struct ex_socket {
	int fd;                    /* -1: none */
	int port;                  /* 0: not of TCP */
	struct ex_bound_file file; /* of a unix socket */
};

/* listen: "HOST:PORT", where port 0 takes a free one, or "unix:PATH", which gets the mode. A socket file that nobody listens on is replaced.
 * Errors name the address. [loader] */
int ex_socket_listen(const char *listen, uint32_t mode, struct ex_err *err, struct ex_socket *ret);
/* Takes a listening socket that somebody else made. -EINVAL: it is none; it stays the caller's. [loader] */
int ex_socket_adopt(int fd, struct ex_err *err, struct ex_socket *ret);
/* Binds and closes again, to know early whether it can be; a unix socket's directory is only looked at. [loader] */
int ex_socket_check(const char *listen, struct ex_err *err);
/* Closes it; a socket file that is still this one is removed. */
void ex_socket_close(struct ex_socket *s);

#endif
