/* SPDX-License-Identifier: Apache-2.0 */
/* Mutual TLS over gRPC's credentials. Layer L1.
 *
 * Servers take gRPC's SSL credentials with a fetcher, which is asked at each handshake. Channels take its TLS credentials with a verifier of
 * ours, made anew with each certificate: gRPC's own check would say "handshake failed" and no more, and could not be told to look for one
 * of several names. gRPC's file watchers are not used: they poll, and take what they find, whole or not. */
#include "net/tls_creds.h"

#include "base/lock.h"
#include "base/mem.h"
#include <grpc/grpc_security_constants.h>
#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define TLS_MAGIC UINT32_C(0x746c7331)

/* What one server's handshakes were given last; lives as long as the ex_tls. */
struct served {
	struct ex_tls *tls;
	unsigned generation; /* gRPC calls the fetcher under a lock of its own */
	struct served *next;
};

struct ex_tls {
	uint32_t magic;
	_Atomic unsigned generation; /* from 1; written under lock */
	struct ex_lock lock;
	struct ex_cert *cert;  /* guarded by lock */
	struct served *served; /* guarded by lock */
};

/* A reference to what is in force, and of which generation it is. */
static struct ex_cert *current(struct ex_tls *t, unsigned *ret_generation)
{
	EX_CHECK_OBJ(t, TLS_MAGIC);
	ex_lock_take(&t->lock);
	struct ex_cert *c = ex_cert_hold(t->cert);
	*ret_generation = atomic_load_explicit(&t->generation, memory_order_relaxed);
	ex_lock_give(&t->lock);
	return c;
}

int ex_tls_new(const struct ex_cert_opts *o, struct ex_err *err, struct ex_tls **ret)
{
	enum ex_cert_part blame;
	struct ex_cert *c;
	int rc = ex_cert_load(o, &blame, err, &c);
	if (rc)
		return rc;
	struct ex_tls *t = ex_calloc(1, sizeof *t);
	if (!t) {
		ex_cert_drop(c);
		return ex_err_errno(err, -ENOMEM, "cannot use '%s'", o->ca);
	}
	t->magic = TLS_MAGIC;
	t->generation = 1;
	t->cert = c;
	ex_lock_init(&t->lock, "tls");
	*ret = t;
	return 0;
}

int ex_tls_reload(struct ex_tls *t, const struct ex_cert_opts *o, struct ex_err *err, bool *ret_changed)
{
	enum ex_cert_part blame;
	struct ex_cert *fresh;
	EX_CHECK_OBJ(t, TLS_MAGIC);
	int rc = ex_cert_load(o, &blame, err, &fresh);
	if (rc)
		return rc;
	ex_lock_take(&t->lock);
	*ret_changed = !ex_cert_equal(t->cert, fresh);
	if (*ret_changed) {
		struct ex_cert *old = t->cert;
		t->cert = fresh;
		fresh = old;
		atomic_fetch_add_explicit(&t->generation, 1, memory_order_release);
	}
	ex_lock_give(&t->lock);
	ex_cert_drop(fresh);
	return 0;
}

struct ex_tls *ex_tls_free(struct ex_tls *t)
{
	if (!t)
		return NULL;
	EX_CHECK_OBJ(t, TLS_MAGIC);
	while (t->served) {
		struct served *s = t->served;
		t->served = s->next;
		free(s);
	}
	ex_cert_drop(t->cert);
	ex_lock_done(&t->lock);
	t->magic = 0;
	free(t);
	return NULL;
}

void ex_tls_view(struct ex_tls *t, struct ex_cert_view *ret)
{
	unsigned generation;
	struct ex_cert *c = current(t, &generation);
	ex_cert_view(c, ret);
	ex_cert_drop(c);
}

unsigned ex_tls_generation(const struct ex_tls *t)
{
	return atomic_load_explicit(&t->generation, memory_order_acquire);
}

/* --- servers ------------------------------------------------------------------------------------------------------- */

/* gRPC asks at each handshake, on a thread of its own. */
static grpc_ssl_certificate_config_reload_status fetch(void *ctx, grpc_ssl_server_certificate_config **ret)
{
	struct served *s = ctx;
	unsigned generation;
	struct ex_cert *c = current(s->tls, &generation);
	bool news = generation != s->generation;
	if (news) {
		grpc_ssl_pem_key_cert_pair pair = {
			.private_key = ex_cert_key_pem(c), .cert_chain = ex_cert_chain_pem(c)};
		*ret = grpc_ssl_server_certificate_config_create(ex_cert_ca_pem(c), &pair, 1);
		s->generation = generation;
	}
	ex_cert_drop(c);
	return news ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

grpc_server_credentials *ex_tls_server_credentials(struct ex_tls *t)
{
	struct served *s = ex_calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->tls = t;
	ex_lock_take(&t->lock);
	s->next = t->served;
	t->served = s;
	ex_lock_give(&t->lock);
	return grpc_ssl_server_credentials_create_with_options(
		grpc_ssl_server_credentials_create_options_using_config_fetcher(
			GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, fetch, s));
}

int ex_tls_check_call(struct ex_tls *t, grpc_call *call, struct ex_err *err)
{
	unsigned generation;
	EX_CLEANUP(ex_freep) char *pem = NULL;
	grpc_auth_context *a = grpc_call_auth_context(call);
	if (a && grpc_auth_context_peer_is_authenticated(a)) {
		grpc_auth_property_iterator i =
			grpc_auth_context_find_properties_by_name(a, GRPC_X509_PEM_CERT_PROPERTY_NAME);
		const grpc_auth_property *p = grpc_auth_property_iterator_next(&i);
		pem = p ? strndup(p->value, p->value_length) : NULL;
	}
	grpc_auth_context_release(a);
	if (!pem)
		return ex_err_set(err, -EACCES, "the caller shows no certificate");
	struct ex_cert *c = current(t, &generation);
	int rc = ex_cert_check_caller(c, pem, err);
	ex_cert_drop(c);
	return rc;
}

/* --- channels ------------------------------------------------------------------------------------------------------ */

/* Belongs to gRPC, which ends it by destruct. */
struct verifier {
	grpc_tls_certificate_verifier_external external;
	struct ex_cert *cert;
	char target[];
};

/* After the handshake and before a byte of a call is sent. */
static int verify(void *ctx, grpc_tls_custom_verification_check_request *q,
	grpc_tls_on_custom_verification_check_done_cb done, void *done_ctx, grpc_status_code *status, char **text)
{
	const struct verifier *v = ctx;
	struct ex_err err = EX_ERR_INIT;
	const char *leaf = q->peer_info.peer_cert, *chain = q->peer_info.peer_cert_full_chain;
	char *pem = NULL;
	(void)done;
	(void)done_ctx;
	/* the leaf whose key signed the handshake comes first, whatever order the chain has */
	if (leaf)
		gpr_asprintf(&pem, "%s\n%s", leaf, chain ? chain : "");
	int rc = pem ? ex_cert_check_host(v->cert, pem, v->target, &err)
		     : ex_err_set(&err, -EACCES, "%s shows no certificate", v->target);
	gpr_free(pem);
	*status = rc ? GRPC_STATUS_UNAUTHENTICATED : GRPC_STATUS_OK;
	if (rc)
		gpr_asprintf(text, EX_TLS_REASON_BEGIN "%s" EX_TLS_REASON_END, ex_err_text(&err));
	return 1; /* it is done */
}

static void cancel(void *ctx, grpc_tls_custom_verification_check_request *q)
{
	(void)ctx;
	(void)q;
}

static void destruct(void *ctx)
{
	struct verifier *v = ctx;
	ex_cert_drop(v->cert);
	free(v);
}

grpc_channel_credentials *ex_tls_channel_credentials(struct ex_tls *t, const char *target, unsigned *ret_generation)
{
	struct ex_cert *c = current(t, ret_generation);
	struct verifier *v = ex_calloc(1, sizeof *v + strlen(target) + 1);
	if (!v) {
		ex_cert_drop(c);
		return NULL;
	}
	v->cert = c;
	strcpy(v->target, target);
	v->external = (grpc_tls_certificate_verifier_external){
		.user_data = v, .verify = verify, .cancel = cancel, .destruct = destruct};
	const bool shows = ex_cert_chain_pem(c) != NULL;
	grpc_tls_identity_pairs *pairs = shows ? grpc_tls_identity_pairs_create() : NULL;
	if (shows)
		grpc_tls_identity_pairs_add_pair(pairs, ex_cert_key_pem(c), ex_cert_chain_pem(c));
	grpc_tls_certificate_provider *p = grpc_tls_certificate_provider_static_data_create(ex_cert_ca_pem(c), pairs);
	grpc_tls_certificate_verifier *g = grpc_tls_certificate_verifier_external_create(&v->external);
	grpc_tls_credentials_options *o = grpc_tls_credentials_options_create();
	grpc_tls_credentials_options_set_certificate_provider(o, p);
	grpc_tls_credentials_options_watch_root_certs(o);
	if (shows)
		grpc_tls_credentials_options_watch_identity_key_cert_pairs(o);
	grpc_tls_credentials_options_set_certificate_verifier(o, g);
	grpc_tls_credentials_options_set_verify_server_cert(o, 0); /* the verifier does, and says what is wrong */
	grpc_tls_credentials_options_set_check_call_host(o, 0);
	grpc_channel_credentials *credentials = grpc_tls_credentials_create(o); /* takes o */
	grpc_tls_certificate_verifier_release(g);
	grpc_tls_certificate_provider_release(p);
	return credentials;
}
