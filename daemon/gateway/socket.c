/* SPDX-License-Identifier: Apache-2.0 */
/* Where the HTTP server listens. Layer L4. Sockets are made here and not by libmicrohttpd, which would not say what is wrong. */
#include "gateway/socket.h"

#include "base/addr.h"
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 1024

static int listen_tcp(const char *listen_text, struct ex_err *err)
{
	struct ex_addr addr;
	struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	char port[8];
	static const int one = 1;
	if (ex_addr_parse(listen_text, err, &addr) < 0)
		return -EINVAL;
	snprintf(port, sizeof port, "%u", addr.port);
	int rc = getaddrinfo(addr.host, port, &hints, &list);
	if (rc)
		return ex_err_set(err, -EINVAL, "cannot resolve '%s': %s", listen_text, gai_strerror(rc));
	EX_CLEANUP(ex_closep) int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = 0;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
		bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, BACKLOG))
		rc = ex_err_errno(err, -errno, "cannot listen on '%s'", listen_text);
	freeaddrinfo(list);
	if (rc)
		return rc;
	int taken = fd;
	fd = -1;
	return taken;
}

static int bound_port(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} a;
	socklen_t n = sizeof a;
	if (getsockname(fd, &a.any, &n) < 0)
		return 0;
	if (a.any.sa_family == AF_INET6)
		return ntohs(a.v6.sin6_port);
	return a.any.sa_family == AF_INET ? ntohs(a.v4.sin_port) : 0;
}

/* A socket file that nobody listens on is removed. -EADDRINUSE: somebody does; -EEXIST: it is no socket. */
static int remove_stale(const struct sockaddr_un *a)
{
	struct stat st;
	if (lstat(a->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	EX_CLEANUP(ex_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (!connect(fd, (const struct sockaddr *)a, sizeof *a) || errno == EAGAIN)
		return -EADDRINUSE;
	if (errno != ECONNREFUSED)
		return -errno;
	return unlink(a->sun_path) ? -errno : 0;
}

/* Before listen() nobody gets in, so the mode is in time. */
static int bind_path(struct ex_socket *s, uint32_t mode)
{
	const struct sockaddr *a = (const struct sockaddr *)&s->address;
	struct stat st;
	int rc = remove_stale(&s->address);
	if (rc)
		return rc;
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0 || bind(s->fd, a, sizeof s->address))
		return -errno;
	if (chmod(s->address.sun_path, mode) || lstat(s->address.sun_path, &st) || listen(s->fd, BACKLOG))
		return -errno;
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

static int take_path(const char *listen_text, const char *path, struct ex_err *err, struct ex_socket *s)
{
	size_t n = strlen(path);
	if (!n || n >= sizeof s->address.sun_path)
		return ex_err_set(err, -EINVAL, "cannot listen on '%s': a path of 1 to %zu bytes is wanted",
			listen_text, sizeof s->address.sun_path - 1);
	s->address.sun_family = AF_UNIX;
	memcpy(s->address.sun_path, path, n + 1);
	return 0;
}

static const char *path_of(const char *listen_text)
{
	return strncmp(listen_text, "unix:", 5) ? NULL : listen_text + 5;
}

int ex_socket_listen(const char *listen_text, uint32_t mode, struct ex_err *err, struct ex_socket *ret)
{
	struct ex_socket s = {.fd = -1};
	const char *path = path_of(listen_text);
	int rc;
	if (!path) {
		s.fd = listen_tcp(listen_text, err);
		if (s.fd < 0)
			return s.fd;
		s.port = bound_port(s.fd);
	} else if ((rc = take_path(listen_text, path, err, &s)) < 0 || (rc = bind_path(&s, mode)) < 0) {
		ex_closep(&s.fd);
		return s.address.sun_path[0] ? ex_err_errno(err, rc, "cannot listen on '%s'", listen_text) : rc;
	}
	*ret = s;
	return 0;
}

int ex_socket_adopt(int fd, struct ex_err *err, struct ex_socket *ret)
{
	int listens = 0, type = 0;
	socklen_t n = sizeof listens, n_type = sizeof type;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) || !listens ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n_type) || type != SOCK_STREAM)
		return ex_err_set(
			err, -EINVAL, "descriptor %d, which was handed over, is no listening stream socket", fd);
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return ex_err_errno(err, -errno, "cannot use descriptor %d, which was handed over", fd);
	*ret = (struct ex_socket){.fd = fd, .port = bound_port(fd)};
	return 0;
}

int ex_socket_check(const char *listen_text, struct ex_err *err)
{
	struct ex_socket s = {.fd = -1};
	const char *path = path_of(listen_text);
	if (path)
		return take_path(listen_text, path, err, &s);
	int fd = listen_tcp(listen_text, err);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

void ex_socket_close(struct ex_socket *s)
{
	struct stat st;
	if (s->ino && !lstat(s->address.sun_path, &st) && st.st_dev == s->dev && st.st_ino == s->ino)
		unlink(s->address.sun_path);
	s->ino = 0;
	ex_closep(&s->fd);
}
