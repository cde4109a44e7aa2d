/* SPDX-License-Identifier: Apache-2.0 */
/* The whole configuration: defaults that follow from other values, and checks across values. Layer L5. */
#include "core/config.h"

#include "base/addr.h"
#include "fleet/members.h"
#include "fleet/placement.h"
#include "gateway/https.h"
#include "gateway/store.h"
#include <ctype.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#define GROUP_BYTES_MAX ((size_t)4 << 20)

/* "FILE:LINE: [section] key = value: <text>", or without an origin when the value is the default. */
EX_PRINTF(4, 5)
static void wrong(struct ex_config_errors *e, const struct ex_params *p, enum ex_param_id id, const char *fmt, ...)
{
	const struct ex_param *row = &ex_param_table[id];
	struct ex_str value = EX_STR_INIT;
	char text[512], origin[EX_ORIGIN_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	ex_params_print(p, row, &value);
	const char *v = value.s ? value.s : "";
	if (p->origin[id].file)
		ex_config_error(e, "%s: [%s] %s = %.200s: %s", ex_params_origin(p, row, origin), row->section, row->key,
			v, text);
	else if (*v)
		ex_config_error(e, "[%s] %s = %.200s (default): %s", row->section, row->key, v, text);
	else
		ex_config_error(e, "[%s] %s is not set: %s", row->section, row->key, text);
	ex_str_done(&value);
}

int ex_config_log_level(const struct ex_params *p)
{
	static const int level[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG};
	return level[p->node_log_level];
}

int ex_config_group(const char *name, gid_t *ret)
{
	struct group g, *found = NULL;
	int rc = ERANGE;
	/* the whole group with its members has to fit */
	for (size_t n = 1024; n <= GROUP_BYTES_MAX && rc == ERANGE; n *= 4) {
		EX_CLEANUP(ex_freep) char *buf = malloc(n);
		if (!buf)
			return -ENOMEM;
		rc = getgrnam_r(name, &g, buf, n, &found);
		if (rc == 0 && found)
			*ret = g.gr_gid;
	}
	return rc ? -rc : found ? 0 : -ENOENT;
}

/* --- gaps ------------------------------------------------------------------------------------------------ */

/* A name from free text: what a name may not hold becomes '-'. Empty when nothing is left. */
static void to_name(const char *text, char out[static 64])
{
	size_t n = 0;
	while (*text && !isalnum((unsigned char)*text))
		text++;
	for (; *text && n < 63; text++)
		out[n++] = isalnum((unsigned char)*text) || strchr(".-_", *text) ? *text : '-';
	out[n] = '\0';
}

static void fill_gaps(struct ex_params *p, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	char host[HOST_NAME_MAX + 1] = "", name[64];
	if (!*p->node_name) {
		gethostname(host, sizeof host - 1);
		to_name(host, name);
		if (ex_params_set(p, &ex_param_table[EX_P_node_name], *name ? name : "expertd", NULL, 0, &err) < 0)
			wrong(e, p, EX_P_node_name, "%s", ex_err_text(&err));
	}
	if (!*p->model_name && *p->model_path) {
		size_t n = strlen(p->model_path);
		while (n > 1 && p->model_path[n - 1] == '/')
			n--;
		EX_CLEANUP(ex_freep) char *path = strndup(p->model_path, n);
		to_name(path ? strrchr(path, '/') + 1 : "", name);
		if (ex_params_set(p, &ex_param_table[EX_P_model_name], *name ? name : "model", NULL, 0, &err) < 0)
			wrong(e, p, EX_P_model_name, "%s", ex_err_text(&err));
	}
}

/* --- checks ---------------------------------------------------------------------------------------------- */

static void check_roles(const struct ex_params *p, struct ex_config_errors *e)
{
	if (!ex_config_is_expert(p) && !ex_config_is_router(p))
		ex_config_error(e, "no role is given: a section [expert], [router] or both are needed");
	if (ex_config_is_router(p) && !ex_config_is_expert(p) && p->router_peers.n == 0 && !p->there[EX_SECTION_etcd])
		wrong(e, p, EX_P_router_peers,
			"a router needs expert hosts: list them here, add [etcd] where they are registered, or "
			"[expert] to "
			"this process");
	if (p->there[EX_SECTION_ledger] && !ex_config_is_router(p))
		ex_config_error(e, "[ledger] needs [router]: accounts are kept where requests are taken");
	if (p->there[EX_SECTION_ledger] && *p->ledger_store && !ex_store_known(p->ledger_store))
		wrong(e, p, EX_P_ledger_store, "'%.100s' names no store: allowed is " EX_STORE_ALLOWED,
			p->ledger_store);
	if (p->there[EX_SECTION_metrics] && !*p->metrics_listen)
		wrong(e, p, EX_P_metrics_listen, "[metrics] is there without an address: allowed is HOST:PORT");
}

static void check_model(const struct ex_params *p, struct ex_config_errors *e)
{
	static const char *const file[] = {"config.json", "tokenizer.json"};
	struct stat st;
	if (!*p->model_path) {
		wrong(e, p, EX_P_model_path, "a checkpoint directory is needed");
		return;
	}
	if (stat(p->model_path, &st) < 0) {
		wrong(e, p, EX_P_model_path, "%s", strerrordesc_np(errno));
		return;
	}
	if (!S_ISDIR(st.st_mode)) {
		wrong(e, p, EX_P_model_path, "not a directory");
		return;
	}
	for (int i = 0; i < 1 + ex_config_is_router(p); i++) {
		EX_CLEANUP(ex_freep) char *path = NULL;
		if (asprintf(&path, "%s/%s", p->model_path, file[i]) < 0)
			path = NULL;
		else if (access(path, R_OK) < 0)
			wrong(e, p, EX_P_model_path, "%s in it: %s", file[i], strerrordesc_np(errno));
	}
}

/* plugin: a name in dir, a path, or auto. */
static void check_plugin(
	const struct ex_params *p, enum ex_param_id id, const char *plugin, const char *dir, struct ex_config_errors *e)
{
	EX_CLEANUP(ex_freep) char *path = NULL;
	if (strcmp(plugin, "auto") == 0)
		return;
	bool is_path = strchr(plugin, '/') != NULL;
	if ((is_path ? asprintf(&path, "%s", plugin) : asprintf(&path, "%s/%s.so", dir, plugin)) < 0)
		path = NULL;
	else if (access(path, R_OK) < 0)
		wrong(e, p, id, "%s: %s", path, strerrordesc_np(errno));
}

int ex_config_file(const char *value, struct ex_err *err, char ret[static PATH_MAX])
{
	const char *dir = getenv("CREDENTIALS_DIRECTORY");
	const size_t skip = strlen(EX_PARAM_CREDENTIAL);
	bool credential = strncmp(value, EX_PARAM_CREDENTIAL, skip) == 0;
	if (credential && !dir)
		return ex_err_set(err, -EINVAL,
			"there are no credentials: CREDENTIALS_DIRECTORY is not set, as LoadCredential= in the unit "
			"would");
	int n = credential ? snprintf(ret, PATH_MAX, "%s/%s", dir, value + skip) : snprintf(ret, PATH_MAX, "%s", value);
	return n < PATH_MAX ? 0 : ex_err_set(err, -EINVAL, "the path is too long");
}

int ex_config_cert(const struct ex_params *p, const struct ex_text_list *peers, enum ex_cert_part *blame,
	struct ex_err *err, struct ex_config_cert *ret)
{
	const char *const value[] = {
		[EX_CERT_CHAIN] = p->tls_cert, [EX_CERT_KEY] = p->tls_key, [EX_CERT_CA] = p->tls_ca};
	for (size_t i = 0; i < EX_ARRAY_LEN(value); i++) {
		*blame = (enum ex_cert_part)i;
		if (!*value[i])
			return ex_err_set(err, -EINVAL, "[tls] needs a file here");
		int rc = ex_config_file(value[i], err, ret->path[i]);
		if (rc < 0)
			return rc;
	}
	ret->o = (struct ex_cert_opts){
		.cert = ret->path[EX_CERT_CHAIN],
		.key = ret->path[EX_CERT_KEY],
		.ca = ret->path[EX_CERT_CA],
		.peers = (const char *const *)peers->v,
		.n_peers = peers->n,
	};
	return 0;
}

int ex_config_etcd_cert(
	const struct ex_params *p, enum ex_cert_part *blame, struct ex_err *err, struct ex_config_cert *ret)
{
	const char *const value[] = {
		[EX_CERT_CHAIN] = p->etcd_cert, [EX_CERT_KEY] = p->etcd_key, [EX_CERT_CA] = p->etcd_ca};
	const bool shows = *p->etcd_cert || *p->etcd_key;
	for (size_t i = 0; i < EX_ARRAY_LEN(value); i++) {
		*blame = (enum ex_cert_part)i;
		if (!*value[i] && (shows || i == EX_CERT_CA))
			return ex_err_set(err, -EINVAL, "[etcd] needs a file here, as the other ones are given");
		int rc = ex_config_file(value[i], err, ret->path[i]);
		if (rc < 0)
			return rc;
	}
	ret->o = (struct ex_cert_opts){
		.cert = shows ? ret->path[EX_CERT_CHAIN] : NULL,
		.key = shows ? ret->path[EX_CERT_KEY] : NULL,
		.ca = ret->path[EX_CERT_CA],
		.section = "[etcd]",
		.calls_only = true,
	};
	return 0;
}

void ex_config_etcd_endpoints(const struct ex_params *p, const char *ret[static EX_ETCD_ENDPOINTS_MAX])
{
	for (size_t i = 0; i < p->etcd_endpoints.n; i++)
		ex_addr_scheme(p->etcd_endpoints.v[i], &ret[i]);
}

int ex_config_https(const struct ex_params *p, struct ex_err *err, struct ex_config_https *ret)
{
	if (!*p->gateway_tls_cert || !*p->gateway_tls_key)
		return ex_err_set(err, -EINVAL, "tls_cert and tls_key go together");
	int rc = ex_config_file(p->gateway_tls_cert, err, ret->cert);
	return rc < 0 ? rc : ex_config_file(p->gateway_tls_key, err, ret->key);
}

static void check_tls(const struct ex_params *p, struct ex_config_errors *e)
{
	static const enum ex_param_id of[] = {
		[EX_CERT_CHAIN] = EX_P_tls_cert, [EX_CERT_KEY] = EX_P_tls_key, [EX_CERT_CA] = EX_P_tls_ca};
	const bool data = ex_config_tls(p) == EX_TLS_CONTROL && ex_config_is_expert(p);
	struct ex_err err = EX_ERR_INIT;
	struct ex_config_cert files;
	enum ex_cert_part blame;
	struct ex_cert *c;
	if (data && !*p->tls_listen_data)
		wrong(e, p, EX_P_tls_listen_data, "an expert host with mode = control needs HOST:PORT here");
	if (!data && *p->tls_listen_data && ex_config_tls(p) != EX_TLS_OFF)
		wrong(e, p, EX_P_tls_listen_data, "used by expert hosts with mode = control only");
	if (ex_config_tls(p) == EX_TLS_OFF)
		return;
	if (ex_config_cert(p, &p->tls_peers, &blame, &err, &files) < 0 || ex_cert_load(&files.o, &blame, &err, &c) < 0)
		wrong(e, p, of[blame], "%s", ex_err_text(&err));
	else
		ex_cert_drop(c);
}

static bool is_unix(const char *listen)
{
	return strncmp(listen, "unix:", 5) == 0;
}

struct listener {
	enum ex_param_id id;
	const char *text;
	bool used;
	bool plain_ok; /* off loopback, too: it is protected, or asked for by name */
	struct ex_addr addr;
};

static void check_listeners(const struct ex_params *p, struct ex_config_errors *e)
{
	char origin[EX_ORIGIN_TEXT_MAX];
	const bool tls = ex_config_tls(p) != EX_TLS_OFF, http = ex_config_is_gateway(p);
	struct listener l[] = {
		{.id = EX_P_node_listen, .text = p->node_listen, .used = ex_config_is_expert(p), .plain_ok = tls},
		{.id = EX_P_router_listen,
			.text = p->router_listen,
			.used = ex_config_is_router(p),
			.plain_ok = ex_config_tls_clients(p)},
		{.id = EX_P_tls_listen_data,
			.text = p->tls_listen_data,
			.used = ex_config_tls(p) == EX_TLS_CONTROL && ex_config_is_expert(p) && *p->tls_listen_data,
			.plain_ok = true},
		{.id = EX_P_gateway_listen, .text = p->gateway_listen, .used = http && !is_unix(p->gateway_listen)},
		{.id = EX_P_metrics_listen, .text = p->metrics_listen, .used = p->there[EX_SECTION_metrics]},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(l); i++) {
		l[i].used = l[i].used && ex_addr_parse(l[i].text, NULL, &l[i].addr) == 0;
		if (!l[i].used)
			continue;
		if (!p->node_insecure && !l[i].plain_ok && !ex_addr_is_loopback(&l[i].addr))
			wrong(e, p, l[i].id,
				"not a loopback address, and traffic is neither encrypted nor authenticated: say "
				"insecure = yes in [node] to allow it%s",
				l[i].id == EX_P_metrics_listen || l[i].id == EX_P_gateway_listen
					? ""
					: ", or protect it by [tls]");
		for (size_t j = 0; j < i; j++) {
			const struct ex_param *other = &ex_param_table[l[j].id];
			if (l[j].used && ex_addr_clash(&l[i].addr, &l[j].addr))
				wrong(e, p, l[i].id, "the port belongs to [%s] %s = %s already (%s)", other->section,
					other->key, l[j].text, ex_params_origin(p, other, origin));
		}
	}
}

static void check_router(const struct ex_params *p, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_addr addr;
	const char *self = ex_config_is_expert(p) ? p->node_listen : NULL;
	if (ex_members_check((const char *const *)p->router_peers.v, p->router_peers.n, self, &err) < 0)
		wrong(e, p, EX_P_router_peers, "%s", ex_err_text(&err));
	const bool plain_ok = p->node_insecure || ex_config_tls(p) != EX_TLS_OFF;
	for (size_t i = 0; i < p->router_peers.n && !plain_ok; i++)
		if (ex_addr_parse(p->router_peers.v[i], NULL, &addr) == 0 && !ex_addr_is_loopback(&addr))
			wrong(e, p, EX_P_router_peers,
				"%s is not a loopback address, and traffic is neither encrypted nor authenticated: say "
				"insecure = yes in [node] to allow it, or protect it by [tls]",
				p->router_peers.v[i]);
	if (p->router_step_tokens_max < p->router_max_batch)
		wrong(e, p, EX_P_router_step_tokens_max,
			"less than max_batch = %u: each running sequence needs a token per step", p->router_max_batch);
	if (p->router_max_replicas < p->router_min_replicas)
		wrong(e, p, EX_P_router_max_replicas, "less than min_replicas = %u", p->router_min_replicas);
	if (p->router_context && p->router_page_tokens > p->router_context)
		wrong(e, p, EX_P_router_page_tokens, "more than context = %u", p->router_context);
	if (p->router_frame_timeout_ms < p->router_heartbeat_ms)
		wrong(e, p, EX_P_router_frame_timeout_ms, "less than heartbeat_ms = %u", p->router_heartbeat_ms);
	check_plugin(p, EX_P_router_plugin, p->router_plugin, p->router_plugin_dir, e);
}

/* Where an expert host says that it is reached must be an address that others can use. */
static void check_advertised(const struct ex_params *p, struct ex_config_errors *e)
{
	static const char *const wildcard[] = {"0.0.0.0", "::"};
	struct ex_addr a;
	const bool own = *p->node_advertise != '\0';
	const enum ex_param_id id = own ? EX_P_node_advertise : EX_P_node_listen;
	if (ex_addr_parse(own ? p->node_advertise : p->node_listen, NULL, &a) < 0)
		return;
	for (size_t i = 0; i < EX_ARRAY_LEN(wildcard); i++)
		if (strcmp(a.host, wildcard[i]) == 0)
			wrong(e, p, id,
				"every address of this host, but [etcd] needs one that routers can connect to: %s",
				own ? "name it" : "say it with [node] advertise");
	if (own && a.port == 0)
		wrong(e, p, id, "the port must be from 1 to 65535");
}

static void check_endpoint(const struct ex_params *p, const char *url, struct ex_config_errors *e)
{
	const bool tls = ex_config_etcd_tls(p);
	const char *address;
	struct ex_addr a;
	enum ex_scheme scheme = ex_addr_scheme(url, &address);
	if (ex_addr_parse(address, NULL, &a) < 0)
		return;
	if (a.port == 0)
		wrong(e, p, EX_P_etcd_endpoints, "'%s': the port must be from 1 to 65535", url);
	if (scheme == EX_SCHEME_HTTPS && !tls)
		wrong(e, p, EX_P_etcd_endpoints, "%s needs [etcd] ca, the CA that etcd's certificate comes from", url);
	else if (scheme == EX_SCHEME_HTTP && tls)
		wrong(e, p, EX_P_etcd_endpoints, "%s is plain text, and [etcd] ca asks for TLS", url);
	else if (!p->node_insecure && !tls && !ex_addr_is_loopback(&a))
		wrong(e, p, EX_P_etcd_endpoints,
			"%s is not a loopback address, and traffic is neither encrypted nor authenticated: say "
			"insecure = yes in [node] to allow it, or protect it by [etcd] ca",
			url);
}

/* The files of [etcd]. */
static void check_etcd_cert(const struct ex_params *p, struct ex_config_errors *e)
{
	static const enum ex_param_id of[] = {
		[EX_CERT_CHAIN] = EX_P_etcd_cert, [EX_CERT_KEY] = EX_P_etcd_key, [EX_CERT_CA] = EX_P_etcd_ca};
	struct ex_err err = EX_ERR_INIT;
	struct ex_config_cert files;
	enum ex_cert_part blame;
	struct ex_cert *c;
	if (!*p->etcd_ca && !*p->etcd_cert && !*p->etcd_key)
		return;
	if (ex_config_etcd_cert(p, &blame, &err, &files) < 0 || ex_cert_load(&files.o, &blame, &err, &c) < 0)
		wrong(e, p, of[blame], "%s", ex_err_text(&err));
	else
		ex_cert_drop(c);
}

static void check_etcd(const struct ex_params *p, struct ex_config_errors *e)
{
	if (p->etcd_endpoints.n == 0)
		wrong(e, p, EX_P_etcd_endpoints, "[etcd] is there without addresses: allowed are HOST:PORT");
	for (size_t i = 0; i < p->etcd_endpoints.n; i++)
		check_endpoint(p, p->etcd_endpoints.v[i], e);
	check_etcd_cert(p, e);
	if (p->etcd_prefix[strlen(p->etcd_prefix) - 1] == '/')
		wrong(e, p, EX_P_etcd_prefix, "the last character must not be '/'");
	if (ex_config_is_expert(p))
		check_advertised(p, e);
}

static void check_gateway(const struct ex_params *p, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_config_https files;
	struct ex_addr a;
	if (ex_config_is_https(p) &&
		(ex_config_https(p, &err, &files) < 0 || ex_https_check(files.cert, files.key, &err) < 0))
		wrong(e, p, *p->gateway_tls_cert ? EX_P_gateway_tls_cert : EX_P_gateway_tls_key, "%s",
			ex_err_text(&err));
	if (!ex_config_is_router(p))
		wrong(e, p, EX_P_gateway_listen, "[gateway] needs [router] in the same process");
	if (p->gateway_accounts && !ex_config_has_ledger(p))
		wrong(e, p, EX_P_gateway_accounts, "accounts are kept in a [ledger], and there is none");
	if (!is_unix(p->gateway_listen) && ex_addr_parse(p->gateway_listen, &err, &a) < 0)
		wrong(e, p, EX_P_gateway_listen, "%s", ex_err_text(&err));
	else if (is_unix(p->gateway_listen) && p->gateway_listen[5] != '/')
		wrong(e, p, EX_P_gateway_listen, "an absolute path is wanted after unix:");
}

static struct ex_limits_words words_of(const struct ex_text_list *l)
{
	return (struct ex_limits_words){.v = (const char *const *)l->v, .n = l->n};
}

int ex_config_tiers(const struct ex_params *p, struct ex_err *err, struct ex_limits_tier *ret, uint32_t *ret_n)
{
	const struct ex_limits_conf c = {.weight = words_of(&p->limits_weight),
		.requests_per_min = words_of(&p->limits_requests_per_min),
		.tokens_per_min = words_of(&p->limits_tokens_per_min),
		.concurrency = words_of(&p->limits_concurrency)};
	return ex_limits_tiers_parse(&c, err, ret, ret_n);
}

static void check_limits(const struct ex_params *p, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_limits_tier tiers[EX_FAIR_TIERS_MAX];
	uint32_t n;
	if (!ex_config_is_gateway(p))
		wrong(e, p, EX_P_limits_queue_wait_ms, "[limits] needs [gateway] in the same process");
	if (ex_config_tiers(p, &err, tiers, &n) < 0)
		wrong(e, p, EX_P_limits_weight, "[limits] %s", ex_err_text(&err));
}

static void check_topup(const struct ex_params *p, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_topup_rules rules;
	if (!ex_config_has_ledger(p))
		wrong(e, p, EX_P_topup_cover_enter, "[topup] needs [ledger]: top-ups are of its accounts");
	if (ex_config_topup_rules(p, &err, &rules) < 0)
		wrong(e, p, EX_P_topup_cover_enter, "[topup] %s", ex_err_text(&err));
}

static void check_all(const struct ex_params *p, struct ex_config_errors *e)
{
	check_roles(p, e);
	check_model(p, e);
	check_tls(p, e);
	check_listeners(p, e);
	if (ex_config_is_router(p))
		check_router(p, e);
	if (ex_config_is_expert(p))
		check_plugin(p, EX_P_expert_plugin, p->expert_plugin, p->expert_plugin_dir, e);
	if (ex_config_is_gateway(p))
		check_gateway(p, e);
	if (p->there[EX_SECTION_limits])
		check_limits(p, e);
	if (p->there[EX_SECTION_topup])
		check_topup(p, e);
	if (p->there[EX_SECTION_etcd])
		check_etcd(p, e);
	gid_t gid;
	int rc = *p->node_admin_group ? ex_config_group(p->node_admin_group, &gid) : 0;
	if (rc < 0)
		wrong(e, p, EX_P_node_admin_group, "%s",
			rc == -ENOENT ? "there is no such group" : strerrordesc_np(-rc));
	if (!*p->node_admin)
		wrong(e, p, EX_P_node_admin, "a socket path is needed");
	if (!*p->node_state)
		wrong(e, p, EX_P_node_state, "a directory is needed");
}

int ex_config_load(const char *const *files, size_t n_files, struct ex_params *ret, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	if (ex_params_init(ret, &err) < 0) {
		ex_config_error(e, "%s", ex_err_text(&err));
		return -EINVAL;
	}
	bool all_read = true;
	for (size_t i = 0; i < n_files; i++)
		all_read &= ex_conffile_read(files[i], ret, e);
	fill_gaps(ret, e);
	if (all_read) /* else what is missing may well be in the file that could not be read */
		check_all(ret, e);
	if (e->n == 0)
		return 0;
	ex_params_done(ret);
	if (e->n > EX_CONFIG_ERRORS_MAX)
		ex_str_addf(&e->text, "... and %u more\n", e->n - EX_CONFIG_ERRORS_MAX);
	return -EINVAL;
}

int ex_config_check_model(const struct ex_params *p, struct ex_config_errors *e)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	EX_CLEANUP(ex_freep) struct ex_shard_id *shards = NULL;
	uint32_t n_groups;
	size_t n;
	if (ex_model_config_load(p->model_path, &err, &c) < 0) {
		wrong(e, p, EX_P_model_path, "%s", ex_err_text(&err));
		return -EINVAL;
	}
	if (ex_placement_groups(&c, p->model_expert_groups, &err, &n_groups) < 0)
		wrong(e, p, EX_P_model_expert_groups, "%s", ex_err_text(&err));
	else if (ex_config_is_expert(p) && ex_placement_select(&c, n_groups, (const char *const *)p->expert_shards.v,
						   p->expert_shards.n, &err, &shards, &n) < 0)
		wrong(e, p, EX_P_expert_shards, "%s", ex_err_text(&err));
	if (ex_config_is_router(p) && p->router_context > c.n_ctx_max)
		wrong(e, p, EX_P_router_context, "the model's limit is %u", c.n_ctx_max);
	return e->n ? -EINVAL : 0;
}
