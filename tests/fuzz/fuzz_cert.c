/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a peer's certificate: refused with a message, whatever names and dates are in it. The first byte of the input picks: the rest
 * is DER, put into PEM as gRPC does, or PEM as it is. */
#include "certs.h"
#include "fuzz.h"

#include "base/str.h"
#include <assert.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 65536

/* A certificate of an authority made for this run, so that no input can have been signed by it. */
static struct ex_cert *make_own(void)
{
	static const char *const files[] = {"ca", "own"}, *const peers[] = {"h[0-9]*", "spiffe://fleet/*"};
	char dir[] = "/tmp/fuzz_cert.XXXXXX";
	struct authority ca;
	struct cert_paths p;
	struct ex_err err = EX_ERR_INIT;
	enum ex_cert_part blame;
	struct ex_cert *c = NULL;
	if (!mkdtemp(dir))
		abort();
	authority_new(&ca, "CA of this run");
	write_authority(&ca, dir, "ca");
	write_leaf(&ca, dir, &(struct leaf){.name = "own", .san = "DNS:own"});
	if (ex_cert_load(paths_of(&p, dir, "own", "ca", peers, 2), &blame, &err, &c))
		abort();
	authority_done(&ca);
	remove_files(dir, files, 2);
	return c;
}

static void add_pem(struct ex_str *out, const uint8_t *der, size_t n)
{
	unsigned char line[65];
	ex_str_add(out, "-----BEGIN CERTIFICATE-----\n");
	for (size_t at = 0; at < n; at += 48) {
		int k = EVP_EncodeBlock(line, der + at, (int)EX_MIN(n - at, (size_t)48));
		ex_str_addf(out, "%.*s\n", k, (const char *)line);
	}
	ex_str_add(out, "-----END CERTIFICATE-----\n");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ex_cert *own;
	if (!own)
		own = make_own();
	if (!size || size > INPUT_MAX)
		return 0;
	struct ex_str pem = EX_STR_INIT;
	struct ex_err err = EX_ERR_INIT;
	if (data[0] & 1)
		add_pem(&pem, data + 1, size - 1);
	else
		ex_str_addn(&pem, data + 1, size - 1);
	const char *text = pem.s ? pem.s : "";
	int rc = ex_cert_check_host(own, text, "h1.example:7101", &err);
	assert(rc == -EACCES && err.text[0]);
	for (const char *s = err.text; *s; s++)
		assert((unsigned char)*s >= ' ' && (unsigned char)*s < 127); /* it goes to terminals */
	rc = ex_cert_check_caller(own, text, &err);
	assert(rc == 0 || rc == -EACCES);
	ex_str_done(&pem);
	return 0;
}
