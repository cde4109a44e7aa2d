/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates: reading, checking, names. OpenSSL does the arithmetic. Layer L1. */
#include "net/cert.h"

#include "base/addr.h"
#include "base/mem.h"
#include "base/str.h"
#include <fnmatch.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define CERT_MAGIC      UINT32_C(0x63657274)
#define CHAIN_MAX       16   /* certificates of a chain */
#define AUTHORITIES_MAX 1024 /* certificates of the CA file */
#define SECURITY_LEVEL  2    /* 112 bits: RSA of 2048 bits, SHA-2; what Debian asks of handshakes */

struct ex_cert {
	uint32_t magic;
	_Atomic unsigned refs;
	char *chain_pem, *key_pem, *ca_pem;
	X509 *leaf;             /* NULL: it shows none */
	STACK_OF(X509) * above; /* of the chain, behind the leaf */
	X509_STORE *store;
	char **peers; /* [n_peers] */
	size_t n_peers;
	int64_t expires_s;
	const char *section;
	bool calls_only;
};

typedef STACK_OF(X509) x509_stack;

static void free_stack(x509_stack **s)
{
	sk_X509_pop_free(*s, X509_free);
	*s = NULL;
}

static void free_x509(X509 **x)
{
	X509_free(*x);
	*x = NULL;
}

/* OpenSSL's last word on what failed, in short. */
static const char *reason(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_last_error());
	ERR_clear_error();
	return text ? text : "unknown reason";
}

/* --- names --------------------------------------------------------------------------------------------------------- */

/* A name of the certificate as text, what is not printable ASCII as '?'. False for kinds that name no host, and for text with a NUL in it:
 * it would not be what it looks like. */
static bool name_text(const GENERAL_NAME *g, char out[static EX_CERT_TEXT_MAX])
{
	const ASN1_STRING *s = g->type == GEN_DNS || g->type == GEN_URI ? g->d.ia5
			       : g->type == GEN_IPADD                   ? g->d.ip
									: NULL;
	if (!s)
		return false;
	const unsigned char *data = ASN1_STRING_get0_data(s);
	size_t n = (size_t)ASN1_STRING_length(s);
	if (g->type == GEN_IPADD) {
		if (n == 4)
			snprintf(out, EX_CERT_TEXT_MAX, "%u.%u.%u.%u", data[0], data[1], data[2], data[3]);
		for (size_t i = 0, at = 0; n == 16 && i < 16; i += 2)
			at += (size_t)snprintf(
				out + at, EX_CERT_TEXT_MAX - at, "%s%x", i ? ":" : "", data[i] << 8 | data[i + 1]);
		return n == 4 || n == 16;
	}
	if (n == 0 || n >= EX_CERT_TEXT_MAX || memchr(data, 0, n))
		return false;
	for (size_t i = 0; i < n; i++)
		out[i] = data[i] > ' ' && data[i] < 127 ? (char)data[i] : '?';
	out[n] = '\0';
	return true;
}

/* Calls fn for each name until it returns true; whether it did. kind: GEN_DNS, GEN_URI, GEN_IPADD. */
static bool each_name(const X509 *x, bool (*fn)(void *ctx, const char *name, int kind), void *ctx)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	char text[EX_CERT_TEXT_MAX];
	bool found = false;
	for (int i = 0; i < EX_MIN(sk_GENERAL_NAME_num(names), EX_CERT_NAMES_MAX) && !found; i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		found = name_text(g, text) && fn(ctx, text, g->type);
	}
	GENERAL_NAMES_free(names);
	return found;
}

static bool add_name(void *ctx, const char *name, int kind)
{
	char *out = ctx;
	size_t n = strlen(out);
	(void)kind;
	if (n + strlen(name) + 8 > EX_CERT_TEXT_MAX) {
		snprintf(out + n, EX_CERT_TEXT_MAX - n, ", ..");
		return true;
	}
	snprintf(out + n, EX_CERT_TEXT_MAX - n, "%s%s", n ? ", " : "", name);
	return false;
}

/* "h1, spiffe://fleet/h1"; "" when it has none. */
static void list_names(const X509 *x, char out[static EX_CERT_TEXT_MAX])
{
	out[0] = '\0';
	each_name(x, add_name, out);
}

static bool matches_peer(void *ctx, const char *name, int kind)
{
	const struct ex_cert *c = ctx;
	for (size_t i = 0; i < c->n_peers && kind != GEN_IPADD; i++)
		if (fnmatch(c->peers[i], name, FNM_NOESCAPE | (kind == GEN_DNS ? FNM_CASEFOLD : 0)) == 0)
			return true;
	return false;
}

static int check_names(const struct ex_cert *c, const X509 *x, const char *of, struct ex_err *err)
{
	char names[EX_CERT_TEXT_MAX];
	if (each_name(x, matches_peer, (void *)c))
		return 0;
	list_names(x, names);
	if (!*names)
		return ex_err_set(err, -EACCES, "the certificate%s has no name (SAN)", of);
	return ex_err_set(err, -EACCES, "SAN '%s'%s is not among %s peers", names, of, c->section);
}

/* --- dates and issuers --------------------------------------------------------------------------------------------- */

static int64_t seconds_of(const ASN1_TIME *t)
{
	struct tm tm;
	return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static char *date_text(int64_t s, char out[static 32])
{
	time_t t = (time_t)s;
	struct tm tm;
	gmtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%d %H:%M:%S UTC", &tm);
	return out;
}

static void name_of(const X509_NAME *name, char out[static EX_CERT_TEXT_MAX])
{
	BIO *b = BIO_new(BIO_s_mem());
	int n = 0;
	if (b && X509_NAME_print_ex(b, name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB) >= 0)
		n = BIO_read(b, out, EX_CERT_TEXT_MAX - 1);
	BIO_free(b);
	out[EX_MAX(n, 0)] = '\0';
	for (char *s = out; *s; s++)
		if (*s < ' ' || *s > 126)
			*s = '?';
}

/* Whether x, with `above` between, comes from the CA and is valid now. purpose: X509_PURPOSE_*. `of` names whose it is in errors. */
static int verify(const struct ex_cert *c, X509 *x, x509_stack *above, int purpose, const char *of, struct ex_err *err)
{
	char issuer[EX_CERT_TEXT_MAX], names[EX_CERT_TEXT_MAX], date[32];
	X509_STORE_CTX *s = X509_STORE_CTX_new();
	if (!s || X509_STORE_CTX_init(s, c->store, x, above) != 1) {
		X509_STORE_CTX_free(s);
		return ex_err_errno(err, -ENOMEM, "cannot check the certificate%s", of);
	}
	X509_VERIFY_PARAM_set_auth_level(X509_STORE_CTX_get0_param(s), SECURITY_LEVEL);
	if (purpose != X509_PURPOSE_ANY)
		X509_STORE_CTX_set_purpose(s, purpose);
	int good = X509_verify_cert(s), why = X509_STORE_CTX_get_error(s);
	X509 *at = X509_STORE_CTX_get_current_cert(s);
	list_names(x, names);
	name_of(X509_get_issuer_name(at ? at : x), issuer);
	int64_t end = seconds_of(X509_get0_notAfter(at ? at : x)), begin = seconds_of(X509_get0_notBefore(at ? at : x));
	X509_STORE_CTX_free(s);
	ERR_clear_error();
	if (good == 1)
		return 0;
	switch (why) {
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
		return ex_err_set(err, -EACCES,
			"the certificate%s (SAN '%s') is not signed by %s ca: its issuer is '%s'", of, names,
			c->section, issuer);
	case X509_V_ERR_CERT_HAS_EXPIRED:
		return ex_err_set(
			err, -EACCES, "the certificate%s (SAN '%s') expired on %s", of, names, date_text(end, date));
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return ex_err_set(err, -EACCES, "the certificate%s (SAN '%s') is not valid before %s", of, names,
			date_text(begin, date));
	default:
		return ex_err_set(err, -EACCES, "the certificate%s (SAN '%s') is not accepted: %s", of, names,
			X509_verify_cert_error_string(why));
	}
}

/* --- reading ------------------------------------------------------------------------------------------------------- */

/* All certificates of a PEM text, 1 to max. */
static int parse_chain(const char *pem, size_t max, const char *path, struct ex_err *err, x509_stack **ret)
{
	EX_CLEANUP(free_stack) x509_stack *list = sk_X509_new_null();
	BIO *b = BIO_new_mem_buf(pem, -1);
	X509 *x;
	bool full = false;
	if (!b || !list) {
		BIO_free(b);
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", path);
	}
	ERR_clear_error();
	while (!full && (x = PEM_read_bio_X509(b, NULL, NULL, NULL))) {
		full = (size_t)sk_X509_num(list) == max;
		if (full || !sk_X509_push(list, x))
			X509_free(x);
	}
	BIO_free(b);
	if (full)
		return ex_err_set(err, -E2BIG, "'%s' has more than %zu certificates", path, max);
	bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
	if (!at_end)
		return ex_err_set(
			err, -EBADMSG, "certificate %d of '%s' is damaged: %s", sk_X509_num(list) + 1, path, reason());
	ERR_clear_error();
	if (sk_X509_num(list) == 0)
		return ex_err_set(err, -EBADMSG, "there is no PEM certificate in '%s'", path);
	*ret = EX_TAKE(list);
	return 0;
}

static int refuse_passphrase(char *buf, int size, int writing, void *asked)
{
	(void)buf, (void)size, (void)writing;
	*(bool *)asked = true;
	return -1;
}

static int check_key(const struct ex_cert *c, const struct ex_cert_opts *o, struct ex_err *err)
{
	bool encrypted = false;
	BIO *b = BIO_new_mem_buf(c->key_pem, -1);
	if (!b)
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", o->key);
	ERR_clear_error();
	EVP_PKEY *key = PEM_read_bio_PrivateKey(b, NULL, refuse_passphrase, &encrypted);
	BIO_free(b);
	if (encrypted) {
		EVP_PKEY_free(key);
		ERR_clear_error();
		return ex_err_set(err, -EBADMSG,
			"the key in '%s' is encrypted; it must be readable without a passphrase", o->key);
	}
	if (!key && !strstr(c->key_pem, "PRIVATE KEY-----"))
		return ex_err_set(err, -EBADMSG, "there is no PEM private key in '%s'", o->key);
	if (!key)
		return ex_err_set(err, -EBADMSG, "the key in '%s' is damaged: %s", o->key, reason());
	bool fits = X509_check_private_key(c->leaf, key) == 1;
	EVP_PKEY_free(key);
	ERR_clear_error();
	if (!fits)
		return ex_err_set(
			err, -EINVAL, "the key in '%s' does not belong to the certificate in '%s'", o->key, o->cert);
	return 0;
}

static int read_pem(const char *path, struct ex_err *err, char **ret)
{
	size_t n;
	int rc = ex_read_file(path, EX_CERT_FILE_BYTES_MAX, err, ret, &n);
	if (!rc && strlen(*ret) != n)
		return ex_err_set(err, -EBADMSG, "'%s' is not PEM: it has NUL bytes", path);
	return rc;
}

static int load_chain(struct ex_cert *c, const char *path, struct ex_err *err)
{
	int rc = read_pem(path, err, &c->chain_pem);
	if (!rc)
		rc = parse_chain(c->chain_pem, CHAIN_MAX, path, err, &c->above);
	if (rc)
		return rc;
	c->leaf = sk_X509_shift(c->above);
	c->expires_s = seconds_of(X509_get0_notAfter(c->leaf));
	for (int i = 0; i < sk_X509_num(c->above); i++)
		c->expires_s = EX_MIN(c->expires_s, seconds_of(X509_get0_notAfter(sk_X509_value(c->above, i))));
	return 0;
}

static int load_ca(struct ex_cert *c, const char *path, struct ex_err *err)
{
	EX_CLEANUP(free_stack) x509_stack *list = NULL;
	int rc = read_pem(path, err, &c->ca_pem);
	if (!rc)
		rc = parse_chain(c->ca_pem, AUTHORITIES_MAX, path, err, &list);
	if (rc)
		return rc;
	c->store = X509_STORE_new();
	if (!c->store)
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", path);
	for (int i = 0; i < sk_X509_num(list); i++)
		if (X509_STORE_add_cert(c->store, sk_X509_value(list, i)) != 1)
			return ex_err_set(err, -EBADMSG, "certificate %d of '%s': %s", i + 1, path, reason());
	return 0;
}

static int copy_peers(struct ex_cert *c, const struct ex_cert_opts *o)
{
	c->peers = ex_calloc(o->n_peers + 1, sizeof *c->peers);
	for (; c->peers && c->n_peers < o->n_peers; c->n_peers++)
		if (!(c->peers[c->n_peers] = strdup(o->peers[c->n_peers])))
			return -ENOMEM;
	return c->peers ? 0 : -ENOMEM;
}

/* The certificate and its key. */
static int load_own(struct ex_cert *c, const struct ex_cert_opts *o, enum ex_cert_part *blame, struct ex_err *err)
{
	*blame = EX_CERT_CHAIN;
	int rc = load_chain(c, o->cert, err);
	if (rc)
		return rc;
	*blame = EX_CERT_KEY;
	rc = read_pem(o->key, err, &c->key_pem);
	return rc ? rc : check_key(c, o, err);
}

static int load(struct ex_cert *c, const struct ex_cert_opts *o, enum ex_cert_part *blame, struct ex_err *err)
{
	char names[EX_CERT_TEXT_MAX];
	int rc = o->cert || !o->calls_only ? load_own(c, o, blame, err) : 0;
	if (rc)
		return rc;
	*blame = EX_CERT_CA;
	rc = load_ca(c, o->ca, err);
	if (rc)
		return rc;
	if (copy_peers(c, o))
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", o->ca);
	if (!c->leaf)
		return 0;
	*blame = EX_CERT_CHAIN;
	list_names(c->leaf, names);
	if (!*names && !o->calls_only)
		return ex_err_set(err, -EINVAL,
			"the certificate in '%s' has no subjectAltName: peers could not tell whose it is", o->cert);
	return verify(c, c->leaf, c->above, X509_PURPOSE_ANY, "", err);
}

int ex_cert_load(const struct ex_cert_opts *o, enum ex_cert_part *blame, struct ex_err *err, struct ex_cert **ret)
{
	struct ex_cert *c = ex_calloc(1, sizeof *c);
	*blame = EX_CERT_CHAIN;
	if (!c)
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", o->ca);
	c->magic = CERT_MAGIC;
	c->refs = 1;
	c->section = o->section ? o->section : "[tls]";
	c->calls_only = o->calls_only;
	int rc = load(c, o, blame, err);
	if (rc) {
		ex_cert_drop(c);
		return rc;
	}
	*ret = c;
	return 0;
}

/* --- life ---------------------------------------------------------------------------------------------------------- */

struct ex_cert *ex_cert_hold(struct ex_cert *c)
{
	EX_CHECK_OBJ(c, CERT_MAGIC);
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

struct ex_cert *ex_cert_drop(struct ex_cert *c)
{
	if (!c)
		return NULL;
	EX_CHECK_OBJ(c, CERT_MAGIC);
	if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	if (c->key_pem)
		OPENSSL_cleanse(c->key_pem, strlen(c->key_pem));
	free(c->chain_pem);
	free(c->key_pem);
	free(c->ca_pem);
	X509_free(c->leaf);
	free_stack(&c->above);
	X509_STORE_free(c->store);
	for (size_t i = 0; i < c->n_peers; i++)
		free(c->peers[i]);
	free(c->peers);
	c->magic = 0;
	free(c);
	return NULL;
}

/* Either may be NULL. */
static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

bool ex_cert_equal(const struct ex_cert *a, const struct ex_cert *b)
{
	bool same = a->n_peers == b->n_peers && same_text(a->chain_pem, b->chain_pem) &&
		    same_text(a->key_pem, b->key_pem) && same_text(a->ca_pem, b->ca_pem);
	for (size_t i = 0; same && i < a->n_peers; i++)
		same = !strcmp(a->peers[i], b->peers[i]);
	return same;
}

const char *ex_cert_chain_pem(const struct ex_cert *c)
{
	return c->chain_pem;
}

const char *ex_cert_key_pem(const struct ex_cert *c)
{
	return c->key_pem;
}

const char *ex_cert_ca_pem(const struct ex_cert *c)
{
	return c->ca_pem;
}

void ex_cert_view(const struct ex_cert *c, struct ex_cert_view *ret)
{
	EX_CHECK_OBJ(c, CERT_MAGIC);
	*ret = (struct ex_cert_view){.expires_s = c->expires_s};
	if (!c->leaf)
		return;
	list_names(c->leaf, ret->names);
	if (!*ret->names)
		name_of(X509_get_subject_name(c->leaf), ret->names);
	name_of(X509_get_issuer_name(c->leaf), ret->issuer);
	date_text(c->expires_s, ret->not_after);
	BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(c->leaf), NULL);
	char *hex = n ? BN_bn2hex(n) : NULL;
	snprintf(ret->serial, sizeof ret->serial, "%s", hex ? hex : "?");
	OPENSSL_free(hex);
	BN_free(n);
}

/* --- peers --------------------------------------------------------------------------------------------------------- */

/* The certificate is for the host by whose name or address it is reached. */
static int check_address(
	const struct ex_cert *c, const X509 *x, const char *address, const char *of, struct ex_err *err)
{
	struct ex_addr a;
	char names[EX_CERT_TEXT_MAX];
	int rc = ex_addr_parse(address, err, &a);
	if (rc)
		return rc;
	X509 *leaf = (X509 *)x;
	if (X509_check_ip_asc(leaf, a.host, 0) == 1 ||
		X509_check_host(leaf, a.host, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) == 1)
		return 0;
	ERR_clear_error();
	list_names(x, names);
	return ex_err_set(err, -EACCES, "the certificate%s is for '%s', not for '%s'%s", of, names, a.host,
		c->calls_only ? "" : ", and [tls] peers lists no names");
}

int ex_cert_check_host(const struct ex_cert *c, const char *pem, const char *address, struct ex_err *err)
{
	EX_CLEANUP(free_stack) x509_stack *chain = NULL;
	char of[EX_ADDR_MAX + 8];
	EX_CHECK_OBJ(c, CERT_MAGIC);
	snprintf(of, sizeof of, " of %s", address);
	if (parse_chain(pem, CHAIN_MAX, address, err, &chain))
		return -EACCES;
	EX_CLEANUP(free_x509) X509 *leaf = sk_X509_shift(chain);
	int rc = verify(c, leaf, chain, X509_PURPOSE_SSL_SERVER, of, err);
	if (rc)
		return rc;
	return c->n_peers ? check_names(c, leaf, of, err) : check_address(c, leaf, address, of, err);
}

int ex_cert_check_caller(const struct ex_cert *c, const char *pem, struct ex_err *err)
{
	EX_CLEANUP(free_stack) x509_stack *chain = NULL;
	EX_CHECK_OBJ(c, CERT_MAGIC);
	if (parse_chain(pem, CHAIN_MAX, "the handshake", err, &chain))
		return -EACCES;
	return c->n_peers ? check_names(c, sk_X509_value(chain, 0), " of the caller", err) : 0;
}
