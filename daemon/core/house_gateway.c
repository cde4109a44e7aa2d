/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway: the HTTP API over this process's engine. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#define FDS_MORE    1024 /* for all else that the process has open */
#define FD_NAME     "http"
#define SOCKET_MODE 0660u /* of unix:PATH: the daemon's group may connect */

/* Every connection is a descriptor: the soft limit is raised as far as it may be. */
static void make_room(uint32_t connections_max)
{
	const rlim_t need = (rlim_t)connections_max + FDS_MORE;
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur >= need)
		return;
	l.rlim_cur = EX_MIN(l.rlim_max, need);
	if (setrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur < need)
		ex_log(LOG_WARNING,
			"[gateway] connections_max = %u needs %llu descriptors, and this process may have %llu: "
			"connections beyond wait",
			connections_max, (unsigned long long)need, (unsigned long long)l.rlim_cur);
}

/* The socket that systemd hands over for HTTP; -1: none. */
static int handed_over(void)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(0, &names), fd = -1;
	for (int i = 0; i < n; i++) {
		if (fd < 0 && !strcmp(names[i], FD_NAME))
			fd = SD_LISTEN_FDS_START + i;
		free(names[i]);
	}
	free(names);
	return fd;
}

int ex_house_build_https(struct ex_house *h, struct ex_err *err)
{
	struct ex_config_https files;
	h->http_fd = ex_config_is_gateway(h->p) ? handed_over() : -1;
	if (!ex_config_is_https(h->p))
		return 0;
	int rc = ex_config_https(h->p, err, &files);
	if (rc == 0)
		rc = ex_https_new(files.cert, files.key, err, &h->https);
	return rc < 0 ? ex_err_prefix(err, "[gateway] tls_cert") : 0;
}

void ex_house_reload_https(struct ex_house *h, const struct ex_params *p)
{
	struct ex_config_https files;
	struct ex_err err = EX_ERR_INIT;
	bool changed = false;
	if (!h->https) {
		if (ex_config_is_https(p))
			ex_log(LOG_WARNING, "[gateway] tls_cert: HTTP becomes HTTPS with a restart only");
		return;
	}
	int rc = ex_config_https(p, &err, &files);
	if (rc == 0)
		rc = ex_https_reload(h->https, files.cert, files.key, &err, &changed);
	if (rc < 0)
		ex_event(EX_EV_TLS_REFUSED, NULL, "[gateway] tls_cert: %s; the old certificate stays in force",
			ex_err_text(&err));
	else if (changed)
		ex_event(EX_EV_TLS_LOADED, NULL, "the certificate of HTTPS in '%s' is in force", files.cert);
}

int ex_house_build_gateway(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	const struct ex_admit *admit =
		p->gateway_accounts ? ex_admit_accounts_admit(h->admit_accounts) : &ex_admit_open;
	if (p->there[EX_SECTION_limits] && ex_house_build_limits(h, &admit, err) < 0)
		return ex_err_prefix(err, "[limits]");
	const struct ex_gateway_opts o = {
		.listen = p->gateway_listen,
		.listen_fd = h->http_fd,
		.https = h->https,
		.socket_mode = SOCKET_MODE,
		.n_threads = p->gateway_threads,
		.engine = h->engine,
		.model_name = p->model_name,
		.admit = admit,
		.topups = h->topups,
		.connections_max = p->gateway_connections_max,
		.connections_per_ip_max = p->gateway_connections_per_ip_max,
		.header_bytes_max = (uint32_t)p->gateway_header_bytes_max,
		.json_depth_max = p->gateway_json_depth_max,
		.body_bytes_max = p->gateway_body_bytes_max,
		.bodies_bytes_max = p->gateway_bodies_bytes_max,
		.prompt_bytes_max = p->router_prompt_bytes_max,
		.reply_bytes_max = p->gateway_reply_bytes_max,
		.max_tokens_default = p->gateway_max_tokens_default,
		.keep_alive_s = p->gateway_keep_alive_s,
		.start_timeout_s = p->gateway_start_timeout_s,
		.header_timeout_s = p->gateway_header_timeout_s,
		.idle_timeout_s = p->gateway_idle_timeout_s,
		.body_timeout_s = p->gateway_body_timeout_s,
	};
	make_room(p->gateway_connections_max);
	if (ex_gateway_start(&o, err, &h->gateway) < 0)
		return ex_err_prefix(err, "[gateway] listen");
	h->http_fd = -1;
	ex_log(LOG_INFO, "%s requests are taken on %s (port %d)", h->https ? "HTTPS" : "HTTP",
		o.listen_fd >= 0 ? "a socket of systemd" : p->gateway_listen, ex_gateway_port(h->gateway));
	return 0;
}

void ex_house_free_gateway(struct ex_house *h)
{
	if (h->limits)
		ex_limits_close(h->limits);
	if (h->gateway)
		h->gateway = ex_gateway_stop(h->gateway, h->grace_ms);
	h->https = ex_https_free(h->https);
	ex_house_free_limits(h);
}
