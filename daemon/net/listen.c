/* SPDX-License-Identifier: Apache-2.0 */
/* Listening: addresses, and the unix socket with peer credentials. Layer L1. */
#include "net/listen.h"

#include "base/addr.h"
#include "base/bind.h"
#include "base/lock.h"
#include "base/mem.h"
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG        64
#define PEERS_MAX      4096 /* descriptors whose peer is remembered; above, a peer has no name */
#define FD_SHORTAGE_MS 100  /* pause after an accept that failed for want of descriptors or memory */
#define SUN_PATH_MAX   (sizeof((struct sockaddr_un *)NULL)->sun_path - 1)

const char *ex_listen_unix_path(const char *listen)
{
	return strncmp(listen, "unix:", 5) ? NULL : listen + 5;
}

/* --- TCP ------------------------------------------------------------------------------------------------- */

static int try_bind(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	static const int on = 1;
	int rc = 0;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(fd, ai->ai_addr, ai->ai_addrlen))
		rc = -errno;
	close(fd);
	return rc;
}

int ex_listen_tcp_check(const char *listen, struct ex_err *err, char ret[static EX_ADDRESS_MAX])
{
	struct ex_addr a;
	int rc = ex_addr_parse(listen, err, &a);
	if (rc)
		return ex_err_prefix(err, "failed to listen");
	char port[8], numeric[NI_MAXHOST];
	snprintf(port, sizeof port, "%u", a.port);
	struct addrinfo hint = {
		.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *ai;
	rc = getaddrinfo(a.host, port, &hint, &ai);
	if (rc)
		return ex_err_set(err, -EINVAL, "failed to listen on '%s': %s", listen, gai_strerror(rc));
	rc = try_bind(ai);
	if (!rc && getnameinfo(ai->ai_addr, ai->ai_addrlen, numeric, sizeof numeric, NULL, 0, NI_NUMERICHOST))
		rc = -EINVAL;
	bool v6 = ai->ai_family == AF_INET6;
	freeaddrinfo(ai);
	if (rc)
		return ex_err_errno(err, rc, "failed to listen on '%s'", listen);
	if (snprintf(ret, EX_ADDRESS_MAX, v6 ? "[%s]:%u" : "%s:%u", numeric, a.port) >= EX_ADDRESS_MAX)
		return ex_err_set(err, -EINVAL, "failed to listen on '%s': the address is too long", listen);
	return 0;
}

/* --- unix sockets ------------------------------------------------------------------------------------------------ */

struct ex_unix_listener {
	int fd, stop_fd;
	pthread_t thread;
	bool started;
	grpc_server *server;
	int (*authorize)(void *ctx, uint32_t uid, uint32_t gid, int32_t pid);
	void *authorize_ctx;
	struct ex_bound_file file;
	struct ex_lock lock;
	struct ucred peers[PEERS_MAX]; /* by descriptor, of the latest connection on it; guarded by lock */
};

static int same_user_or_root(void *ctx, uint32_t uid, uint32_t gid, int32_t pid)
{
	(void)ctx;
	(void)gid;
	(void)pid;
	return uid == geteuid() || uid == 0 ? 0 : -EACCES;
}

void ex_unix_listener_name_peer(struct ex_unix_listener *l, int fd, char *buf, size_t size)
{
	struct ucred c = {0};
	ex_lock_take(&l->lock);
	bool known = fd >= 0 && fd < PEERS_MAX;
	if (known)
		c = l->peers[fd];
	ex_lock_give(&l->lock);
	if (known)
		snprintf(buf, size, "unix:uid=%u,pid=%d", c.uid, c.pid);
	else
		snprintf(buf, size, "unix:");
}

static void admit(struct ex_unix_listener *l, int fd)
{
	struct ucred c;
	socklen_t n = sizeof c;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) || l->authorize(l->authorize_ctx, c.uid, c.gid, c.pid)) {
		close(fd);
		return;
	}
	if (fd < PEERS_MAX) {
		ex_lock_take(&l->lock);
		l->peers[fd] = c;
		ex_lock_give(&l->lock);
	}
	grpc_server_credentials *insecure = grpc_insecure_server_credentials_create();
	grpc_server_add_channel_from_fd(l->server, fd, insecure); /* takes fd */
	grpc_server_credentials_release(insecure);
}

static void *accept_peers(void *arg)
{
	struct ex_unix_listener *l = arg;
	struct pollfd p[2] = {{.fd = l->fd, .events = POLLIN}, {.fd = l->stop_fd, .events = POLLIN}};
	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		if (!p[0].revents)
			continue;
		/* gRPC hangs on a blocking descriptor */
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(l, fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			poll(&p[1], 1, FD_SHORTAGE_MS);
	}
}

int ex_unix_listener_new(const struct ex_server_opts *o, struct ex_err *err, struct ex_unix_listener **ret)
{
	const char *path = ex_listen_unix_path(o->listen);
	size_t n = strlen(path);
	if (!n)
		return ex_err_set(err, -EINVAL, "listen address '%s' has no path", o->listen);
	if (n > SUN_PATH_MAX)
		return ex_err_set(err, -ENAMETOOLONG, "socket path '%s' has %zu bytes; the system allows at most %zu",
			path, n, SUN_PATH_MAX);
	struct ex_unix_listener *l = ex_calloc(1, sizeof *l);
	if (!l)
		return ex_err_errno(err, -ENOMEM, "failed to listen on '%s'", o->listen);
	l->fd = -1;
	l->stop_fd = eventfd(0, EFD_CLOEXEC);
	l->authorize = o->authorize ? o->authorize : same_user_or_root;
	l->authorize_ctx = o->authorize_ctx;
	l->file.address.sun_family = AF_UNIX;
	memcpy(l->file.address.sun_path, path, n);
	ex_lock_init(&l->lock, "listener");
	l->fd = l->stop_fd < 0 ? -errno : ex_bind_file(&l->file, o->socket_mode ? o->socket_mode : 0600, BACKLOG);
	if (l->fd >= 0) {
		*ret = l;
		return 0;
	}
	int rc = l->fd;
	l->fd = -1;
	ex_unix_listener_free(l);
	if (rc == -EADDRINUSE)
		return ex_err_set(err, rc, "failed to listen on '%s': another process listens there", o->listen);
	if (rc == -EEXIST)
		return ex_err_set(err, rc, "failed to listen on '%s': a file that is not a socket is there", o->listen);
	return ex_err_errno(err, rc, "failed to listen on '%s'", o->listen);
}

int ex_unix_listener_start(struct ex_unix_listener *l, grpc_server *server)
{
	sigset_t all, old;
	l->server = server;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&l->thread, NULL, accept_peers, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	pthread_setname_np(l->thread, "accept");
	l->started = true;
	return 0;
}

void ex_unix_listener_stop(struct ex_unix_listener *l)
{
	if (l->started) {
		eventfd_write(l->stop_fd, 1);
		pthread_join(l->thread, NULL);
	}
	l->started = false;
	ex_unbind_file(&l->file);
	ex_closep(&l->fd);
}

struct ex_unix_listener *ex_unix_listener_free(struct ex_unix_listener *l)
{
	if (!l)
		return NULL;
	ex_unix_listener_stop(l);
	ex_closep(&l->stop_fd);
	ex_lock_done(&l->lock);
	free(l);
	return NULL;
}
