/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server's certificate. Layer L4. GnuTLS, since that is what libmicrohttpd speaks. */
#include "gateway/https.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/str.h"
#include <gnutls/abstract.h>
#include <microhttpd.h>
#include <string.h>

#define CHAIN_MAX      16
#define FILE_BYTES_MAX (1u << 20)
#define HANDSHAKE_S_MAX                                                                                                \
	7200 /* a replaced pair is kept that long, for handshakes that were given it; they have header_timeout_s, at most 3600 */

/* Never changed once it is in force. */
struct pair {
	struct pair *next; /* the one that it replaced */
	uint64_t retired_ns;
	char *text[2]; /* as read */
	gnutls_pcert_st chain[CHAIN_MAX];
	unsigned n_chain;
	gnutls_privkey_t key;
};

struct ex_https {
	struct ex_lock lock;
	struct pair *first; /* guarded by lock: in force, and those before it */
};

static _Atomic(struct pair *) in_force; /* of the one ex_https there is: stored by new and reload, read in handshakes */

static void free_pair(struct pair *p)
{
	for (unsigned i = 0; i < p->n_chain; i++)
		gnutls_pcert_deinit(&p->chain[i]);
	if (p->key)
		gnutls_privkey_deinit(p->key);
	free(p->text[0]);
	free(p->text[1]);
	free(p);
}

static gnutls_datum_t datum(char *text)
{
	return (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned)strlen(text)};
}

static int read_chain(struct pair *p, const char *path, struct ex_err *err)
{
	const gnutls_datum_t pem = datum(p->text[0]);
	unsigned n = CHAIN_MAX;
	int rc = gnutls_pcert_list_import_x509_raw(p->chain, &n, &pem, GNUTLS_X509_FMT_PEM, 0);
	if (rc < 0)
		return ex_err_set(err, -EINVAL, "'%s' is no certificate chain: %s", path, gnutls_strerror(rc));
	p->n_chain = n;
	return 0;
}

static int read_key(struct pair *p, const char *path, struct ex_err *err)
{
	const gnutls_datum_t pem = datum(p->text[1]);
	int rc = gnutls_privkey_init(&p->key);
	if (rc < 0)
		return ex_err_set(err, -ENOMEM, "'%s': %s", path, gnutls_strerror(rc));
	rc = gnutls_privkey_import_x509_raw(p->key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
	return rc < 0 ? ex_err_set(err, -EINVAL, "'%s' is no private key: %s", path, gnutls_strerror(rc)) : 0;
}

/* The key signs, and the certificate verifies. */
static int check_pair(struct pair *p, const char *cert, const char *key, struct ex_err *err)
{
	static char text[] = "one pair";
	const gnutls_datum_t data = datum(text);
	gnutls_datum_t signature = {0};
	gnutls_pk_algorithm_t pk = gnutls_pubkey_get_pk_algorithm(p->chain[0].pubkey, NULL);
	gnutls_sign_algorithm_t how = gnutls_pk_to_sign(pk, GNUTLS_DIG_SHA256);
	if (pk == GNUTLS_PK_EDDSA_ED25519)
		how = GNUTLS_SIGN_EDDSA_ED25519;
	int rc = gnutls_privkey_get_pk_algorithm(p->key, NULL) == (int)pk ? 0 : GNUTLS_E_PK_SIG_VERIFY_FAILED;
	if (!rc)
		rc = gnutls_privkey_sign_data2(p->key, how, 0, &data, &signature);
	if (!rc)
		rc = gnutls_pubkey_verify_data2(p->chain[0].pubkey, how, 0, &data, &signature);
	gnutls_free(signature.data);
	return rc < 0 ? ex_err_set(err, -EINVAL, "'%s' is not the key of '%s': %s", key, cert, gnutls_strerror(rc)) : 0;
}

static int load_pair(const char *cert, const char *key, struct ex_err *err, struct pair **ret)
{
	size_t n;
	struct pair *p = ex_calloc(1, sizeof *p);
	if (!p)
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", cert);
	int rc = ex_read_file(cert, FILE_BYTES_MAX, err, &p->text[0], &n);
	if (!rc)
		rc = ex_read_file(key, FILE_BYTES_MAX, err, &p->text[1], &n);
	if (!rc)
		rc = read_chain(p, cert, err);
	if (!rc)
		rc = read_key(p, key, err);
	if (!rc)
		rc = check_pair(p, cert, key, err);
	if (rc) {
		free_pair(p);
		return rc;
	}
	*ret = p;
	return 0;
}

int ex_https_check(const char *cert, const char *key, struct ex_err *err)
{
	struct pair *p;
	int rc = load_pair(cert, key, err, &p);
	if (!rc)
		free_pair(p);
	return rc;
}

int ex_https_new(const char *cert, const char *key, struct ex_err *err, struct ex_https **ret)
{
	struct ex_https *h = ex_calloc(1, sizeof *h);
	if (!h)
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", cert);
	int rc = load_pair(cert, key, err, &h->first);
	if (rc) {
		free(h);
		return rc;
	}
	assert(!atomic_load_explicit(&in_force, memory_order_relaxed));
	ex_lock_init(&h->lock, "https");
	atomic_store_explicit(&in_force, h->first, memory_order_release);
	*ret = h;
	return 0;
}

/* Under the lock: pairs that no handshake can still have. */
static void forget_old(struct ex_https *h)
{
	const uint64_t now = ex_now_ns();
	struct pair **at = &h->first->next;
	while (*at && now - (*at)->retired_ns < HANDSHAKE_S_MAX * EX_NS_PER_S)
		at = &(*at)->next;
	while (*at) {
		struct pair *old = *at;
		*at = old->next;
		free_pair(old);
	}
}

int ex_https_reload(struct ex_https *h, const char *cert, const char *key, struct ex_err *err, bool *ret_changed)
{
	struct pair *p;
	int rc = load_pair(cert, key, err, &p);
	if (rc)
		return rc;
	ex_lock_take(&h->lock);
	bool changed = strcmp(p->text[0], h->first->text[0]) || strcmp(p->text[1], h->first->text[1]);
	if (changed) {
		h->first->retired_ns = ex_now_ns();
		p->next = h->first;
		h->first = p;
		atomic_store_explicit(&in_force, p, memory_order_release);
		forget_old(h);
	}
	ex_lock_give(&h->lock);
	if (!changed)
		free_pair(p);
	*ret_changed = changed;
	return 0;
}

struct ex_https *ex_https_free(struct ex_https *h)
{
	if (!h)
		return NULL;
	atomic_store_explicit(&in_force, NULL, memory_order_relaxed);
	while (h->first) {
		struct pair *p = h->first;
		h->first = p->next;
		free_pair(p);
	}
	ex_lock_done(&h->lock);
	free(h);
	return NULL;
}

/* A gnutls_certificate_retrieve_function2. [http] */
static int retrieve(gnutls_session_t session, const gnutls_datum_t *authorities, int n_authorities,
	const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **ret_chain, unsigned *ret_n,
	gnutls_privkey_t *ret_key)
{
	struct pair *p = atomic_load_explicit(&in_force, memory_order_acquire);
	(void)session, (void)authorities, (void)n_authorities, (void)algorithms, (void)n_algorithms;
	*ret_chain = p->chain;
	*ret_n = p->n_chain;
	*ret_key = p->key;
	return 0;
}

void ex_https_options(const struct ex_https *h, struct MHD_OptionItem ret[static EX_HTTPS_OPTIONS])
{
	static char versions[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
	const struct MHD_OptionItem end = {MHD_OPTION_END, 0, NULL};
	ret[0] = h ? (struct MHD_OptionItem){MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)retrieve} : end;
	ret[1] = h ? (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, versions} : end;
	ret[2] = end;
}
