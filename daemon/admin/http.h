/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics over HTTP, for Prometheus. Layer L4. A thread of its own; few and short connections. */
#ifndef EX_ADMIN_HTTP_H
#define EX_ADMIN_HTTP_H

#include "base/err.h"

struct ex_metrics_http;

/* listen: "127.0.0.1:9100"; port 0 takes a free one. -EADDRINUSE and others name the address. [any] */
int ex_metrics_http_start(const char *listen, struct ex_err *err, struct ex_metrics_http **ret);
int ex_metrics_http_port(const struct ex_metrics_http *h);
struct ex_metrics_http *ex_metrics_http_stop(struct ex_metrics_http *h); /* [any] */
EX_DEFINE_CLEANUP(struct ex_metrics_http, ex_metrics_http_stop)

#endif
