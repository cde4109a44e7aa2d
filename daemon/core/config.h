/* SPDX-License-Identifier: Apache-2.0 */
/* The whole configuration: files read, gaps filled, values checked against each other and the machine. Layer L5. */
#ifndef EX_CORE_CONFIG_H
#define EX_CORE_CONFIG_H

#include "core/conffile.h"
#include "fleet/etcd.h"
#include "gateway/limits.h"
#include "gateway/topup_gate.h"
#include "net/cert.h"
#include <limits.h>
#include <sys/types.h>

#define EX_CONFIG_DEFAULT EX_SYSCONF_DIR "/expertd.conf"

/* Reads the files in order, each with its drop-ins, into *ret (initialised here; ex_params_done by the caller on success). -EINVAL: something
 * is wrong, e has all of it. e is the caller's. [main] */
int ex_config_load(const char *const *files, size_t n_files, struct ex_params *ret, struct ex_config_errors *e);

/* Holds the parameters to the model's config.json: an architecture that is not served, shards and ranges that it does not have, a context beyond
 * its limit. Reads no weights. -EINVAL: e has all of it. [main] */
int ex_config_check_model(const struct ex_params *p, struct ex_config_errors *e);

static inline bool ex_config_is_expert(const struct ex_params *p)
{
	return p->there[EX_SECTION_expert];
}
static inline bool ex_config_is_router(const struct ex_params *p)
{
	return p->there[EX_SECTION_router];
}

static inline bool ex_config_is_gateway(const struct ex_params *p)
{
	return p->there[EX_SECTION_gateway];
}

static inline bool ex_config_is_https(const struct ex_params *p)
{
	return ex_config_is_gateway(p) && (*p->gateway_tls_cert || *p->gateway_tls_key);
}

/* A router that keeps accounts. */
static inline bool ex_config_has_ledger(const struct ex_params *p)
{
	return ex_config_is_router(p) && p->there[EX_SECTION_ledger];
}

/* The tiers of [limits], into ret[EX_FAIR_TIERS_MAX]. -EINVAL. */
int ex_config_tiers(const struct ex_params *p, struct ex_err *err, struct ex_limits_tier *ret, uint32_t *ret_n);
/* The thresholds of [topup]. -EINVAL. */
int ex_config_topup_rules(const struct ex_params *p, struct ex_err *err, struct ex_topup_rules *ret);

enum ex_tls_mode { EX_TLS_OFF, EX_TLS_ALL, EX_TLS_CONTROL }; /* as [tls] mode's choices */
static inline enum ex_tls_mode ex_config_tls(const struct ex_params *p)
{
	return p->there[EX_SECTION_tls] ? (enum ex_tls_mode)p->tls_mode : EX_TLS_OFF;
}
/* [router] listen asks clients for certificates. */
static inline bool ex_config_tls_clients(const struct ex_params *p)
{
	return ex_config_tls(p) != EX_TLS_OFF && p->tls_client_port == 0;
}

/* Files of certificates, where they are: paths, or credentials of the service. o borrows from p and from this. */
struct ex_config_cert {
	char path[3][PATH_MAX]; /* by enum ex_cert_part */
	struct ex_cert_opts o;
};
/* peers: [tls] peers or clients. -EINVAL: err says which value stands for no file, and *blame. */
int ex_config_cert(const struct ex_params *p, const struct ex_text_list *peers, enum ex_cert_part *blame,
	struct ex_err *err, struct ex_config_cert *ret);

/* TLS is spoken to etcd. */
static inline bool ex_config_etcd_tls(const struct ex_params *p)
{
	return p->there[EX_SECTION_etcd] && *p->etcd_ca;
}
/* The files of [etcd], likewise. */
int ex_config_etcd_cert(
	const struct ex_params *p, enum ex_cert_part *blame, struct ex_err *err, struct ex_config_cert *ret);
/* The addresses in [etcd] endpoints, borrowed from p; ret[]: p->etcd_endpoints.n of them. */
void ex_config_etcd_endpoints(const struct ex_params *p, const char *ret[static EX_ETCD_ENDPOINTS_MAX]);

/* Where the file of a FILE parameter is. -EINVAL: its value stands for no file. [any] */
int ex_config_file(const char *value, struct ex_err *err, char ret[static PATH_MAX]);
/* The same for [gateway] tls_cert and tls_key. */
struct ex_config_https {
	char cert[PATH_MAX], key[PATH_MAX];
};
int ex_config_https(const struct ex_params *p, struct ex_err *err, struct ex_config_https *ret);

/* The id of a group; -ENOENT when there is none of that name. [any] */
int ex_config_group(const char *name, gid_t *ret);

/* Routers may have this expert host load and unload shards. */
static inline bool ex_config_accepts_moves(const struct ex_params *p)
{
	enum { AUTO, YES };
	return p->expert_accept_moves == YES || (p->expert_accept_moves == AUTO && ex_config_tls(p) != EX_TLS_OFF);
}

/* An expert host that registers itself. */
static inline bool ex_config_registers(const struct ex_params *p)
{
	return ex_config_is_expert(p) && p->there[EX_SECTION_etcd];
}

/* The syslog priority of [node] log_level. */
int ex_config_log_level(const struct ex_params *p);

#endif
