/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway: the HTTP API over this process's engine. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define FDS_MORE    1024  /* for all else that the process has open */
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

int ex_house_build_gateway(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	snprintf(h->fingerprint, sizeof h->fingerprint, "fp_%.10s", ex_weights_digest(h->weights));
	const struct ex_gateway_opts o = {
		.listen = p->gateway_listen,
		.socket_mode = SOCKET_MODE,
		.n_threads = p->gateway_threads,
		.engine = h->engine,
		.tokenizer = h->tokenizer,
		.chat = h->chat,
		.model_name = p->model_name,
		.fingerprint = h->fingerprint,
		.admit = &ex_admit_open,
		.connections_max = p->gateway_connections_max,
		.connections_per_ip_max = p->gateway_connections_per_ip_max,
		.header_bytes_max = (uint32_t)p->gateway_header_bytes_max,
		.json_depth_max = p->gateway_json_depth_max,
		.body_bytes_max = p->gateway_body_bytes_max,
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
	if (ex_gateway_port(h->gateway))
		ex_log(LOG_INFO, "HTTP requests are taken on %s (port %d)", p->gateway_listen,
			ex_gateway_port(h->gateway));
	else
		ex_log(LOG_INFO, "HTTP requests are taken on %s", p->gateway_listen);
	return 0;
}

void ex_house_free_gateway(struct ex_house *h)
{
	if (h->gateway)
		h->gateway = ex_gateway_stop(h->gateway, h->grace_ms);
}
