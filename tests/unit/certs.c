/* SPDX-License-Identifier: Apache-2.0 */
/* See certs.h. Test support. */
#include "certs.h"
#include "unit.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void path_of(char *out, size_t size, const char *dir, const char *name, const char *suffix)
{
	assert_true((size_t)snprintf(out, size, "%s/%s%s", dir, name, suffix) < size);
}

static FILE *open_new(const char *dir, const char *name, const char *suffix)
{
	char path[160];
	path_of(path, sizeof path, dir, name, suffix);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	return f;
}

static void add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX c;
	X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &c, nid, value);
	assert_non_null(e);
	assert_int_equal(X509_add_ext(x, e, -1), 1);
	X509_EXTENSION_free(e);
}

static X509 *make(const char *name, EVP_PKEY *key, const struct authority *by, int from_days, int days)
{
	static long serial = 1000;
	X509 *x = X509_new();
	assert_non_null(x);
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(x), from_days * 86400L);
	X509_gmtime_adj(X509_getm_notAfter(x), days * 86400L);
	X509_NAME_add_entry_by_txt(
		X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(x, by ? X509_get_subject_name(by->x) : X509_get_subject_name(x));
	X509_set_pubkey(x, key);
	return x;
}

void authority_new(struct authority *a, const char *name)
{
	a->key = EVP_EC_gen("P-256");
	assert_non_null(a->key);
	a->x = make(name, a->key, NULL, -1, 3650);
	add_extension(a->x, a->x, NID_basic_constraints, "critical,CA:TRUE");
	add_extension(a->x, a->x, NID_subject_key_identifier, "hash");
	assert_true(X509_sign(a->x, a->key, EVP_sha256()) > 0);
}

void authority_done(struct authority *a)
{
	X509_free(a->x);
	EVP_PKEY_free(a->key);
}

void write_authority(const struct authority *a, const char *dir, const char *name)
{
	FILE *f = open_new(dir, name, ".crt");
	assert_int_equal(PEM_write_X509(f, a->x), 1);
	fclose(f);
}

void write_leaf(const struct authority *a, const char *dir, const struct leaf *l)
{
	bool dated = l->from_days || l->days;
	EVP_PKEY *key = l->rsa_bits ? EVP_RSA_gen(l->rsa_bits) : EVP_EC_gen("P-256");
	X509 *x = make(l->name, key, a, dated ? l->from_days : -1, dated ? l->days : 30);
	if (l->san)
		add_extension(x, a->x, NID_subject_alt_name, l->san);
	add_extension(x, a->x, NID_ext_key_usage, l->usage ? l->usage : "serverAuth,clientAuth");
	assert_true(X509_sign(x, a->key, EVP_sha256()) > 0);
	FILE *f = open_new(dir, l->name, ".crt");
	assert_int_equal(PEM_write_X509(f, x), 1);
	fclose(f);
	f = open_new(dir, l->name, ".key");
	assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
	fclose(f);
	X509_free(x);
	EVP_PKEY_free(key);
}

void write_text(const char *dir, const char *name, const char *text)
{
	FILE *f = open_new(dir, name, "");
	fputs(text, f);
	fclose(f);
}

void remove_files(const char *dir, const char *const *names, size_t n)
{
	static const char *const suffix[] = {".crt", ".key", ""};
	char path[160];
	for (size_t i = 0; i < n; i++)
		for (size_t s = 0; s < EX_ARRAY_LEN(suffix); s++) {
			path_of(path, sizeof path, dir, names[i], suffix[s]);
			unlink(path);
		}
	assert_int_equal(rmdir(dir), 0);
}

const struct ex_cert_opts *paths_of(struct cert_paths *p, const char *dir, const char *name, const char *ca,
	const char *const *peers, size_t n_peers)
{
	path_of(p->cert, sizeof p->cert, dir, name, ".crt");
	path_of(p->key, sizeof p->key, dir, name, ".key");
	path_of(p->ca, sizeof p->ca, dir, ca, ".crt");
	p->o = (struct ex_cert_opts){.cert = p->cert, .key = p->key, .ca = p->ca, .peers = peers, .n_peers = n_peers};
	return &p->o;
}
