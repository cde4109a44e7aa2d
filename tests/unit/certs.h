/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates made on the fly, for the tests of TLS. */
#ifndef EX_TESTS_UNIT_CERTS_H
#define EX_TESTS_UNIT_CERTS_H

#include "net/cert.h"
#include <openssl/x509.h>

struct authority {
	X509 *x;
	EVP_PKEY *key;
};
void authority_new(struct authority *a, const char *name);
void authority_done(struct authority *a);
/* DIR/NAME.crt: the authority's own certificate. */
void write_authority(const struct authority *a, const char *dir, const char *name);

struct leaf {
	const char *name, *san; /* san: as openssl writes it, "DNS:h1,URI:spiffe://f/h1"; NULL: none */
	int from_days, days;    /* valid from and to, from now; 0, 0: yesterday to a month from now */
	const char *usage;      /* extendedKeyUsage; NULL: both */
	unsigned rsa_bits;      /* 0: an elliptic curve's key */
};
/* DIR/NAME.crt and DIR/NAME.key, signed by a. */
void write_leaf(const struct authority *a, const char *dir, const struct leaf *l);
void write_text(const char *dir, const char *name, const char *text);
void remove_files(const char *dir, const char *const *names, size_t n); /* and the directory */

/* The paths of NAME.crt, NAME.key and CA.crt in DIR as options. */
struct cert_paths {
	char cert[128], key[128], ca[128];
	struct ex_cert_opts o;
};
const struct ex_cert_opts *paths_of(struct cert_paths *p, const char *dir, const char *name, const char *ca,
	const char *const *peers, size_t n_peers);

#endif
