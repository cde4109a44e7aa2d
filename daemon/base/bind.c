/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that listen. Layer L0. Made here and not by the libraries that serve on them, which would not say what is wrong. */
#include "base/bind.h"

#include "base/addr.h"
#include "base/macro.h"
#include "base/mem.h"
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_WAIT_MS 10
#define LOCK_MS_MAX  5000 /* a start holds the lock for some system calls */

int ex_bind_tcp(const char *listen_text, int backlog, struct ex_err *err)
{
	struct ex_addr addr;
	struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	char port[8];
	static const int one = 1;
	if (ex_addr_parse(listen_text, err, &addr) < 0)
		return -EINVAL;
	snprintf(port, sizeof port, "%u", addr.port);
	int rc = getaddrinfo(addr.host, port, &hints, &list);
	if (rc != 0)
		return ex_err_set(err, -EINVAL, "cannot resolve '%s': %s", listen_text, gai_strerror(rc));
	EX_CLEANUP(ex_closep) int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = 0;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
		bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, backlog) < 0)
		rc = ex_err_errno(err, -errno, "cannot listen on '%s'", listen_text);
	freeaddrinfo(list);
	if (rc < 0)
		return rc;
	int taken = fd;
	fd = -1;
	return taken;
}

int ex_bound_port(int fd)
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

/* A socket file is there: does anyone listen? Removes it if not. */
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

/* The directory of the path, locked: another process that starts on the same path would take a socket that is bound and not yet listened
 * on for a left-over one. A descriptor to close, or -errno; -EAGAIN: somebody holds the lock too long. */
static int lock_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	char dir[sizeof((struct sockaddr_un *)NULL)->sun_path] = ".";
	if (slash)
		snprintf(dir, sizeof dir, "%.*s", (int)EX_MAX(slash - path, 1), path);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (unsigned waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB); waited_ms += LOCK_WAIT_MS) {
		int rc = -errno;
		if (rc != -EWOULDBLOCK || waited_ms >= LOCK_MS_MAX) {
			close(fd);
			return rc;
		}
		poll(NULL, 0, LOCK_WAIT_MS);
	}
	return fd;
}

int ex_bind_file(struct ex_bound_file *f, mode_t mode, int backlog)
{
	const struct sockaddr *a = (const struct sockaddr *)&f->address;
	struct stat st;
	EX_CLEANUP(ex_closep) int lock = lock_directory(f->address.sun_path);
	if (lock < 0)
		return lock;
	EX_CLEANUP(ex_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, a, sizeof f->address)) {
		if (errno != EADDRINUSE)
			return -errno;
		int rc = remove_stale(&f->address);
		if (rc)
			return rc;
		if (bind(fd, a, sizeof f->address))
			return -errno;
	}
	/* before listen() nobody gets in, so the mode is in time */
	if (chmod(f->address.sun_path, mode) || lstat(f->address.sun_path, &st) || listen(fd, backlog))
		return -errno;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	int taken = fd;
	fd = -1;
	return taken;
}

void ex_unbind_file(struct ex_bound_file *f)
{
	struct stat st;
	if (f->ino && !lstat(f->address.sun_path, &st) && st.st_dev == f->dev && st.st_ino == f->ino)
		unlink(f->address.sun_path);
	f->ino = 0;
}
