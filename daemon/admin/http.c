/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics over HTTP. Layer L4. */
#include "admin/http.h"

#include "base/addr.h"
#include "base/metrics.h"
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16u /* more wait in the kernel's queue */
#define TIMEOUT_S       10u
#define BACKLOG         64

struct ex_metrics_http {
	struct MHD_Daemon *daemon;
	int port;
};

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, char *text, size_t n, const char *type)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE);
	if (!r) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	enum MHD_Result rc = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return rc;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *why)
{
	char *text = strdup(why);
	return text ? reply(c, status, text, strlen(text), "text/plain") : MHD_NO;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
	const char *version, const char *data, size_t *data_size, void **state)
{
	static char seen; /* a request is answered on a later call: the first brings the header alone */
	(void)ctx, (void)version, (void)data;
	if (!*state) {
		*state = &seen;
		return MHD_YES;
	}
	if (*data_size) { /* a body is of no interest */
		*data_size = 0;
		return MHD_YES;
	}
	if (strcmp(url, "/metrics") != 0)
		return refuse(c, MHD_HTTP_NOT_FOUND, "only /metrics is here\n");
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET is answered\n");
	struct ex_str text = EX_STR_INIT;
	ex_metrics_write(&text);
	size_t n = text.n;
	char *taken = ex_str_take(&text);
	if (!taken)
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n");
	return reply(c, MHD_HTTP_OK, taken, n, "text/plain; version=0.0.4; charset=utf-8");
}

/* A listening socket, or -errno. Made here and not by the library, which would not say what is wrong. */
static int listen_on(const char *listen_text, struct ex_err *err)
{
	struct ex_addr addr;
	struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	char port[8];
	const int one = 1;
	if (ex_addr_parse(listen_text, err, &addr) < 0)
		return -EINVAL;
	snprintf(port, sizeof port, "%u", addr.port);
	int rc = getaddrinfo(addr.host, port, &hints, &list);
	if (rc != 0)
		return ex_err_set(err, -EINVAL, "cannot resolve '%s': %s", listen_text, gai_strerror(rc));
	EX_CLEANUP(ex_closep) int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = 0;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
		bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		rc = ex_err_errno(err, -errno, "cannot listen on '%s'", listen_text);
	freeaddrinfo(list);
	if (rc < 0)
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
	return ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}

int ex_metrics_http_start(const char *listen_text, struct ex_err *err, struct ex_metrics_http **ret)
{
	struct ex_metrics_http *h = calloc(1, sizeof *h);
	if (!h)
		return ex_err_errno(err, -ENOMEM, "cannot serve metrics on '%s'", listen_text);
	int fd = listen_on(listen_text, err);
	if (fd < 0) {
		free(h);
		return fd;
	}
	h->port = bound_port(fd);
	/* AUTO: not select(), which cannot serve a descriptor above 1023, and clients may hold those below */
	h->daemon = MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD, 0, NULL, NULL, on_request, h,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, TIMEOUT_S, MHD_OPTION_END);
	if (!h->daemon) {
		close(fd);
		free(h);
		return ex_err_set(err, -EIO, "cannot serve metrics on '%s'", listen_text);
	}
	*ret = h;
	return 0;
}

int ex_metrics_http_port(const struct ex_metrics_http *h)
{
	return h->port;
}

struct ex_metrics_http *ex_metrics_http_stop(struct ex_metrics_http *h)
{
	if (h) {
		MHD_stop_daemon(h->daemon);
		free(h);
	}
	return NULL;
}
