/* SPDX-License-Identifier: Apache-2.0 */
/* What this process shows of itself and whom it trusts: a certificate chain, its key, the CA's certificates and the names that peers may
 * have. Read as a whole, checked as a whole, and never changed afterwards. Layer L1. */
#ifndef EX_NET_CERT_H
#define EX_NET_CERT_H

#include "base/err.h"
#include <stdbool.h>

#define EX_CERT_FILE_BYTES_MAX (1u << 20)
#define EX_CERT_NAMES_MAX      256 /* subject alternative names looked at; a certificate with more has the first ones only */
#define EX_CERT_TEXT_MAX       256

struct ex_cert;

struct ex_cert_opts {
	const char *cert; /* path, PEM: the certificate, and behind it those of authorities between it and the CA */
	const char *key;  /* path, PEM: its private key, not encrypted */
	const char *ca;   /* path, PEM: the certificates that peers' certificates must come from */
	/* [n_peers] globs; a peer must have a DNS or URI name that one of them matches. None: see ex_cert_check_host. */
	const char *const *peers;
	size_t n_peers;
	const char *section; /* of the configuration, as errors call it; lives on. NULL: "[tls]" */
	/* For calling alone: cert and key may both be NULL, and a certificate needs no name. */
	bool calls_only;
};
enum ex_cert_part { EX_CERT_CHAIN, EX_CERT_KEY, EX_CERT_CA };

/* Reads and checks: each file is PEM, the key belongs to the certificate, which is valid now, names somebody and comes from the CA. On
 * failure *blame says which file is at fault. [any] */
int ex_cert_load(const struct ex_cert_opts *o, enum ex_cert_part *blame, struct ex_err *err, struct ex_cert **ret);
struct ex_cert *ex_cert_hold(struct ex_cert *c);
struct ex_cert *ex_cert_drop(struct ex_cert *c); /* takes NULL; the last reference frees. [any] */
bool ex_cert_equal(const struct ex_cert *a, const struct ex_cert *b);

/* PEM, NUL-terminated, borrowed; chain and key: NULL when there are none. */
const char *ex_cert_chain_pem(const struct ex_cert *c);
const char *ex_cert_key_pem(const struct ex_cert *c);
const char *ex_cert_ca_pem(const struct ex_cert *c);

struct ex_cert_view {
	char names[EX_CERT_TEXT_MAX];  /* "h1, spiffe://fleet/h1, 10.0.0.1"; without such, the subject: "CN = h1" */
	char issuer[EX_CERT_TEXT_MAX]; /* "CN = fleet CA" */
	char serial[64];               /* hex */
	char not_after[32];            /* "2027-02-01 12:00:00 UTC" */
	int64_t expires_s; /* the earliest end in the chain, seconds since 1970; 0: there is no certificate */
};
void ex_cert_view(const struct ex_cert *c, struct ex_cert_view *ret);

/* Whether the server at `address` ("host:port"), which showed this PEM (certificate first), is who it should be: it comes from the CA, is
 * valid now and for servers, and has a name among the peers; without peers one that is the address's host. -EACCES, and err says what
 * is wrong with whom. [any] */
int ex_cert_check_host(const struct ex_cert *c, const char *pem, const char *address, struct ex_err *err);
/* The same for a caller, whose chain the handshake has verified: only its names are looked at. Without peers every one may call. [any] */
int ex_cert_check_caller(const struct ex_cert *c, const char *pem, struct ex_err *err);

#endif
