/* SPDX-License-Identifier: Apache-2.0 */
/* Where the HTTP server listens. Layer L4. */
#include "gateway/socket.h"

#include "base/macro.h"
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 1024

static int take_path(const char *listen_text, const char *path, struct ex_err *err, struct ex_socket *s)
{
	size_t n = strlen(path);
	if (!n || n >= sizeof s->file.address.sun_path)
		return ex_err_set(err, -EINVAL, "cannot listen on '%s': a path of 1 to %zu bytes is wanted",
			listen_text, sizeof s->file.address.sun_path - 1);
	s->file.address.sun_family = AF_UNIX;
	memcpy(s->file.address.sun_path, path, n + 1);
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
	if (!path) {
		s.fd = ex_bind_tcp(listen_text, BACKLOG, err);
		if (s.fd < 0)
			return s.fd;
		s.port = ex_bound_port(s.fd);
	} else {
		int rc = take_path(listen_text, path, err, &s);
		if (rc < 0)
			return rc;
		s.fd = ex_bind_file(&s.file, mode, BACKLOG);
		if (s.fd < 0)
			return ex_err_errno(err, s.fd, "cannot listen on '%s'", listen_text);
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
	*ret = (struct ex_socket){.fd = fd, .port = ex_bound_port(fd)};
	return 0;
}

int ex_socket_check(const char *listen_text, struct ex_err *err)
{
	struct ex_socket s = {.fd = -1};
	const char *path = path_of(listen_text);
	if (path)
		return take_path(listen_text, path, err, &s);
	int fd = ex_bind_tcp(listen_text, BACKLOG, err);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

void ex_socket_close(struct ex_socket *s)
{
	ex_unbind_file(&s->file);
	ex_closep(&s->fd);
}
