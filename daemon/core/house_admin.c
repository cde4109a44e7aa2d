/* SPDX-License-Identifier: Apache-2.0 */
/* The admin socket: Admin, and Router once it is there. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include "base/mem.h"
#include <config.h> /* of the build; not core/config.h */
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GROUPS_MAX 256 /* of one user, looked through for admin_group */

static bool in_group(uint32_t uid, uint32_t gid, gid_t group)
{
	struct passwd pw, *found;
	char buf[4096];
	gid_t groups[GROUPS_MAX];
	int n = GROUPS_MAX;
	if (gid == group)
		return true;
	if (getpwuid_r(uid, &pw, buf, sizeof buf, &found) != 0 || !found ||
		getgrouplist(pw.pw_name, gid, groups, &n) < 0)
		return false;
	for (int i = 0; i < n; i++)
		if (groups[i] == group)
			return true;
	return false;
}

static int authorize(void *ctx, uint32_t uid, uint32_t gid, int32_t pid)
{
	const struct ex_house *h = ctx;
	if (uid == 0 || uid == geteuid() || (h->admin_gid != (gid_t)-1 && in_group(uid, gid, h->admin_gid)))
		return 0;
	ex_log(LOG_WARNING, "process %d of user %u was refused at the admin socket", pid, uid);
	return -EACCES;
}

static void dump_config(void *ctx, struct ex_str *out)
{
	const struct ex_house *h = ctx;
	h->o.dump_config(h->o.ctx, out);
}

static int reload(
	void *ctx, struct ex_err *err, void (*changed)(void *fn_ctx, const char *name, bool taken), void *fn_ctx)
{
	const struct ex_house *h = ctx;
	return h->o.reload(h->o.ctx, err, changed, fn_ctx);
}

static int each_plugin(void *ctx,
	void (*fn)(void *fn_ctx, const char *path, const struct ex_plugin *p, const char *why), void *fn_ctx,
	struct ex_err *err)
{
	const struct ex_house *h = ctx;
	const struct ex_loader_opts o = {
		.dir = ex_config_is_expert(h->p) ? h->p->expert_plugin_dir : h->p->router_plugin_dir};
	return ex_plugin_each(&o, fn, fn_ctx, err);
}

/* admin's own methods and those behind the gates, of which some have none. */
static int merge_methods(
	const struct ex_method *admin, const struct ex_gate *const *gates, size_t n_gates, struct ex_method **ret)
{
	size_t n = 0, n_all;
	while (admin[n].path)
		n++;
	n_all = n;
	for (size_t i = 0; i < n_gates; i++)
		n_all += gates[i]->n;
	struct ex_method *m = ex_calloc(n_all + 1, sizeof *m);
	if (!m)
		return -ENOMEM;
	memcpy(m, admin, n * sizeof *m);
	for (size_t i = 0; i < n_gates; i++)
		for (size_t k = 0; k < gates[i]->n; k++)
			m[n++] = gates[i]->m[k].method;
	*ret = m;
	return 0;
}

static int start_server(struct ex_house *h, struct ex_err *err)
{
	struct ex_loop *const loops[] = {h->loop_admin};
	EX_CLEANUP(ex_freep) char *listen = NULL;
	const bool grouped = h->admin_gid != (gid_t)-1;
	if (asprintf(&listen, "unix:%s", h->p->node_admin) < 0) {
		listen = NULL;
		return ex_err_errno(err, -ENOMEM, "cannot serve the admin socket");
	}
	const struct ex_server_opts s = {
		.listen = listen,
		.loops = loops,
		.n_loops = 1,
		.methods = h->admin_methods,
		.authorize = authorize,
		.authorize_ctx = h,
		.socket_mode = grouped ? 0660 : 0600,
		.connections_max = h->p->node_connections_max,
		.receive_bytes_max = ex_house_receive_bytes_max(h),
	};
	int rc = ex_server_start(&s, err, &h->admin_server);
	if (rc < 0)
		return ex_err_prefix(err, "[node] admin");
	ex_server_set_serving(h->admin_server, false); /* until the node is ready */
	if (grouped && chown(h->p->node_admin, (uid_t)-1, h->admin_gid) < 0)
		return ex_err_errno(err, -errno, "[node] admin: cannot give '%s' to group %s", h->p->node_admin,
			h->p->node_admin_group);
	return 0;
}

int ex_house_build_admin(struct ex_house *h, struct ex_err *err)
{
	static const char *const router_paths[] = {"/expertd.v1.Router/Generate", "/expertd.v1.Router/Tokenize", NULL};
	const struct ex_params *p = h->p;
	const struct ex_admin_opts o = {
		.node = p->node_name,
		.version = PACKAGE_VERSION,
		.model_name = p->model_name,
		.is_expert = ex_config_is_expert(p),
		.is_router = ex_config_is_router(p),
		.min_replicas = p->router_min_replicas,
		.max_replicas = p->router_max_replicas,
		.loop = h->loop_admin,
		.dump_config = dump_config,
		.reload = reload,
		.each_plugin = each_plugin,
		.switch_model = ex_config_is_router(p) ? ex_house_switch_model : NULL,
		.view_model = ex_house_view_model,
		.ctx = h,
	};
	const struct ex_gate *const gates[] = {&h->gate, &h->gate_accounts, &h->gate_topups};
	h->admin_gid = (gid_t)-1;
	int rc = *p->node_admin_group ? ex_config_group(p->node_admin_group, &h->admin_gid) : 0;
	if (rc < 0)
		return ex_err_errno(err, rc, "[node] admin_group: cannot find group %s", p->node_admin_group);
	rc = ex_admin_new(&o, err, &h->admin);
	if (rc < 0)
		return rc;
	if (o.is_router)
		ex_gate_init(&h->gate, router_paths, p->router_prompt_bytes_max, 0);
	if (ex_config_has_ledger(p))
		ex_gate_init(&h->gate_accounts, ex_accounts_service_paths, 0, 0);
	if (ex_config_has_ledger(p) && p->there[EX_SECTION_topup])
		ex_gate_init(&h->gate_topups, ex_topup_service_paths, 0, 0);
	rc = merge_methods(ex_admin_methods(h->admin, 0), gates, EX_ARRAY_LEN(gates), &h->admin_methods);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot serve the admin socket");
	rc = start_server(h, err);
	if (rc == 0 && *p->metrics_listen && p->there[EX_SECTION_metrics])
		rc = ex_metrics_http_start(p->metrics_listen, err, &h->http) < 0
			     ? ex_err_prefix(err, "[metrics] listen")
			     : 0;
	return rc;
}

void ex_house_free_admin(struct ex_house *h)
{
	ex_metrics_http_stopp(&h->http);
	if (h->admin)
		h->admin = ex_admin_free(h->admin);
	free(h->admin_methods);
	h->admin_methods = NULL;
}
