/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates of the process: made at the start, read again on reload, watched for their end. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY_S          86400
#define REFUSAL_GAP_NS EX_NS_PER_S /* between two journal lines about refused peers; the metric counts all of them */

/* towards: " towards etcd", or "". One without a certificate says nothing. */
static void tell_loaded(struct ex_tls *t, const char *towards)
{
	struct ex_cert_view v;
	ex_tls_view(t, &v);
	if (!v.expires_s)
		return;
	ex_event(EX_EV_TLS_LOADED, EX_FIELDS({"EX_SAN", v.names}, {"EX_SERIAL", v.serial}),
		"certificate '%s' (serial %s, issuer '%s') is in force%s, valid until %s", v.names, v.serial, v.issuer,
		towards, v.not_after);
}

static int open_one(
	const struct ex_params *p, const struct ex_text_list *peers, struct ex_err *err, struct ex_tls **ret)
{
	struct ex_config_cert files;
	enum ex_cert_part blame;
	int rc = ex_config_cert(p, peers, &blame, err, &files);
	if (rc == 0)
		rc = ex_tls_new(&files.o, err, ret);
	return rc < 0 ? ex_err_prefix(err, "[tls]") : 0;
}

static int open_etcd(struct ex_house *h, struct ex_err *err)
{
	struct ex_config_cert files;
	enum ex_cert_part blame;
	int rc = ex_config_etcd_cert(h->p, &blame, err, &files);
	if (rc == 0)
		rc = ex_tls_new(&files.o, err, &h->tls_etcd);
	if (rc < 0)
		return ex_err_prefix(err, "[etcd]");
	tell_loaded(h->tls_etcd, " towards etcd");
	return 0;
}

int ex_house_build_tls(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	ex_lock_init(&h->refusals.lock, "refusals");
	atomic_store_explicit(&h->tls_warn_days, p->tls_warn_days, memory_order_relaxed);
	int rc = ex_config_etcd_tls(p) ? open_etcd(h, err) : 0;
	if (rc < 0 || ex_config_tls(p) == EX_TLS_OFF)
		return rc;
	rc = open_one(p, &p->tls_peers, err, &h->tls);
	if (rc == 0 && ex_config_is_router(p) && ex_config_tls_clients(p))
		rc = open_one(p, &p->tls_clients, err, &h->tls_clients);
	if (rc == 0)
		tell_loaded(h->tls, "");
	return rc;
}

void ex_house_free_tls(struct ex_house *h)
{
	ex_tls_freep(&h->tls_etcd);
	ex_tls_freep(&h->tls_clients);
	ex_tls_freep(&h->tls);
	ex_lock_done(&h->refusals.lock);
}

static int reload_one(struct ex_tls *t, const struct ex_params *p, const struct ex_text_list *peers, struct ex_err *err,
	bool *ret_changed)
{
	struct ex_config_cert files;
	enum ex_cert_part blame;
	if (!t)
		return 0;
	int rc = ex_config_cert(p, peers, &blame, err, &files);
	return rc < 0 ? rc : ex_tls_reload(t, &files.o, err, ret_changed);
}

static void reload_etcd(struct ex_house *h, const struct ex_params *p)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_config_cert files;
	enum ex_cert_part blame;
	bool changed = false;
	if (ex_config_etcd_tls(p) != (h->tls_etcd != NULL))
		ex_log(LOG_WARNING, "[etcd] ca: whether TLS is spoken to etcd changes with a restart");
	if (!h->tls_etcd || !ex_config_etcd_tls(p))
		return;
	int rc = ex_config_etcd_cert(p, &blame, &err, &files);
	if (rc == 0)
		rc = ex_tls_reload(h->tls_etcd, &files.o, &err, &changed);
	if (rc < 0)
		ex_event(EX_EV_TLS_REFUSED, NULL, "[etcd]: %s; the old certificate stays in force", ex_err_text(&err));
	if (changed) {
		atomic_store_explicit(&h->tls_etcd_warned_s, 0, memory_order_relaxed);
		tell_loaded(h->tls_etcd, " towards etcd");
	}
}

void ex_house_reload_tls(struct ex_house *h, const struct ex_params *p)
{
	reload_etcd(h, p);
	ex_house_reload_https(h, p);
	struct ex_err err = EX_ERR_INIT;
	bool changed = false, clients_changed = false;
	atomic_store_explicit(&h->tls_warn_days, p->tls_warn_days, memory_order_relaxed);
	int rc = reload_one(h->tls, p, &p->tls_peers, &err, &changed);
	if (rc == 0)
		rc = reload_one(h->tls_clients, p, &p->tls_clients, &err, &clients_changed);
	if (rc < 0)
		ex_event(EX_EV_TLS_REFUSED, NULL, "[tls]: %s; the old certificate stays in force", ex_err_text(&err));
	if (changed) {
		atomic_store_explicit(&h->tls_warned_s, 0, memory_order_relaxed);
		tell_loaded(h->tls, "");
	}
}

/* The certificate's end as metric m, and a warning once a day when it is near. */
static void watch_one(struct ex_house *h, struct ex_tls *t, enum ex_metric_id m, _Atomic int64_t *warned_s)
{
	struct ex_cert_view v;
	if (!t)
		return;
	ex_tls_view(t, &v);
	if (!v.expires_s)
		return;
	const int64_t now = (int64_t)time(NULL), left = v.expires_s - now;
	const int64_t warn_s = (int64_t)atomic_load_explicit(&h->tls_warn_days, memory_order_relaxed) * DAY_S;
	ex_metric_set(ex_metric(m, NULL), (double)left);
	if (left > warn_s || now - atomic_load_explicit(warned_s, memory_order_relaxed) < DAY_S)
		return;
	atomic_store_explicit(warned_s, now, memory_order_relaxed);
	const struct ex_field fields[] = {{"EX_SAN", v.names}, {"EX_SERIAL", v.serial}, {NULL, NULL}};
	if (left > 0)
		ex_event(EX_EV_TLS_EXPIRES, fields, "certificate '%s' expires in %" PRId64 " days, on %s", v.names,
			left / DAY_S, v.not_after);
	else
		ex_event(EX_EV_TLS_EXPIRES, fields, "certificate '%s' expired on %s: peers refuse new connections",
			v.names, v.not_after);
}

void ex_house_watch_tls(struct ex_house *h)
{
	watch_one(h, h->tls, EX_M_TLS_EXPIRY, &h->tls_warned_s);
	watch_one(h, h->tls_etcd, EX_M_ETCD_EXPIRY, &h->tls_etcd_warned_s);
}

/* [cq] A stranger may call as often as it likes: the journal gets one line a second at most. */
void ex_house_refused_peer(void *ctx, const char *peer, const char *text)
{
	struct ex_house *h = ctx;
	uint64_t now = ex_now_ns();
	ex_metric_add(ex_metric(EX_M_TLS_REFUSED, NULL), 1);
	ex_lock_take(&h->refusals.lock);
	bool tell = !h->refusals.told_ns || now - h->refusals.told_ns >= REFUSAL_GAP_NS;
	if (tell)
		h->refusals.told_ns = now;
	ex_lock_give(&h->refusals.lock);
	if (tell)
		ex_event(EX_EV_PEER_REFUSED, EX_FIELDS({"EX_PEER", peer}), "%s was refused: %s", peer, text);
}
