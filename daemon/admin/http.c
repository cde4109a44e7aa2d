/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics over HTTP. Layer L4. */
#include "admin/http.h"

#include "base/bind.h"
#include "base/metrics.h"
#include <microhttpd.h>
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

int ex_metrics_http_start(const char *listen_text, struct ex_err *err, struct ex_metrics_http **ret)
{
	struct ex_metrics_http *h = calloc(1, sizeof *h);
	if (!h)
		return ex_err_errno(err, -ENOMEM, "cannot serve metrics on '%s'", listen_text);
	int fd = ex_bind_tcp(listen_text, BACKLOG, err);
	if (fd < 0) {
		free(h);
		return fd;
	}
	h->port = ex_bound_port(fd);
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
