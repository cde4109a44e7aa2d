/* SPDX-License-Identifier: Apache-2.0 */
/* net/cert: what is taken for a certificate, what is said about one that is not, and which peers are let through. */
#include "certs.h"
#include "unit.h"

#include "base/str.h"
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char dir[64];
static struct authority ca, stranger;
static const char *const files[] = {"ca", "stranger", "h1", "h2", "old", "young", "alien", "plain", "caller", "text",
	"locked", "swapped", "nokey", "cut", "address", "weak"};

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_cert.XXXXXX");
	assert_non_null(mkdtemp(dir));
	authority_new(&ca, "fleet CA");
	authority_new(&stranger, "another CA");
	write_authority(&ca, dir, "ca");
	write_authority(&stranger, dir, "stranger");
	write_leaf(&ca, dir, &(struct leaf){.name = "h1", .san = "DNS:h1,URI:spiffe://fleet/h1,IP:127.0.0.1"});
	write_leaf(&ca, dir, &(struct leaf){.name = "h2", .san = "DNS:h2.example,IP:::1"});
	write_leaf(&ca, dir, &(struct leaf){.name = "old", .san = "DNS:old", .from_days = -9, .days = -2});
	write_leaf(&ca, dir, &(struct leaf){.name = "young", .san = "DNS:young", .from_days = 2, .days = 9});
	write_leaf(&stranger, dir, &(struct leaf){.name = "alien", .san = "DNS:h1"});
	write_leaf(&ca, dir, &(struct leaf){.name = "plain"});
	write_leaf(&ca, dir, &(struct leaf){.name = "caller", .san = "DNS:h1", .usage = "clientAuth"});
	write_leaf(&ca, dir, &(struct leaf){.name = "weak", .san = "DNS:h1", .rsa_bits = 1024});
	write_leaf(&ca, dir, &(struct leaf){.name = "address", .san = "IP:10.0.0.1"});
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	authority_done(&ca);
	authority_done(&stranger);
	remove_files(dir, files, EX_ARRAY_LEN(files));
	return 0;
}

static char *read_pem(const char *name)
{
	char path[160], *text;
	size_t n;
	struct ex_err err = EX_ERR_INIT;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	EXPECT_OK(err, ex_read_file(path, EX_CERT_FILE_BYTES_MAX, &err, &text, &n));
	return text;
}

static struct ex_cert *load(const char *name, const char *const *peers, size_t n_peers)
{
	struct cert_paths p;
	struct ex_err err = EX_ERR_INIT;
	enum ex_cert_part blame;
	struct ex_cert *c;
	EXPECT_OK(err, ex_cert_load(paths_of(&p, dir, name, "ca", peers, n_peers), &blame, &err, &c));
	return c;
}

static void test_good(void **state)
{
	(void)state;
	struct ex_cert_view v;
	struct ex_cert *c = load("h1", NULL, 0);
	ex_cert_view(c, &v);
	assert_string_equal(v.names, "h1, spiffe://fleet/h1, 127.0.0.1");
	assert_string_equal(v.issuer, "CN = fleet CA");
	assert_true(v.expires_s > time(NULL) + 29 * 86400);
	assert_int_equal(strlen(v.not_after), strlen("2027-02-01 12:00:00 UTC"));
	struct ex_cert *again = load("h1", NULL, 0), *other = load("h2", NULL, 0);
	static const char *const peers[] = {"r*"};
	struct ex_cert *choosy = load("h1", peers, 1);
	assert_true(ex_cert_equal(c, again));
	assert_false(ex_cert_equal(c, other));
	assert_false(ex_cert_equal(c, choosy));
	ex_cert_drop(ex_cert_hold(c));
	ex_cert_drop(c);
	ex_cert_drop(again);
	ex_cert_drop(other);
	ex_cert_drop(choosy);
}

/* Files that are not what they should be: the message names the file, and blame says whose key in the configuration it is. */
static void test_bad_files(void **state)
{
	(void)state;
	char *h1 = read_pem("h1.crt"), *h2 = read_pem("h2.crt"), *h2_key = read_pem("h2.key"),
	     *h1_key = read_pem("h1.key");
	write_text(dir, "text.crt", "no certificate\n");
	write_text(dir, "text.key", h1_key);
	write_text(dir, "swapped.crt", h1);
	write_text(dir, "swapped.key", h2_key);
	write_text(dir, "nokey.crt", h1);
	write_text(dir, "nokey.key", h1);
	write_text(dir, "cut.key", h1_key);
	h1[strlen(h1) / 2] = '\n';
	h1[strlen(h1) / 2 + 1] = '!';
	write_text(dir, "cut.crt", h1);
	write_text(dir, "locked.crt", h2);
	BIO *b = BIO_new_mem_buf(h2_key, -1);
	EVP_PKEY *key = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
	BIO_free(b);
	char path[160];
	snprintf(path, sizeof path, "%s/locked.key", dir);
	FILE *f = fopen(path, "we");
	assert_int_equal(PEM_write_PrivateKey(f, key, EVP_aes_128_cbc(), (unsigned char *)"pw", 2, NULL, NULL), 1);
	fclose(f);
	EVP_PKEY_free(key);
	free(h1);
	free(h2);
	free(h1_key);
	free(h2_key);
	static const struct {
		const char *name, *ca, *want;
		enum ex_cert_part blame;
	} row[] = {
		{"nosuch", "ca", "nosuch.crt': No such file", EX_CERT_CHAIN},
		{"text", "ca", "there is no PEM certificate in '", EX_CERT_CHAIN},
		{"cut", "ca", "cut.crt' is damaged", EX_CERT_CHAIN},
		{"swapped", "ca", "swapped.key' does not belong to the certificate in '", EX_CERT_KEY},
		{"nokey", "ca", "there is no PEM private key in '", EX_CERT_KEY},
		{"locked", "ca", "locked.key' is encrypted", EX_CERT_KEY},
		{"h1", "nosuch", "nosuch.crt': No such file", EX_CERT_CA},
		{"h1", "text", "there is no PEM certificate in '", EX_CERT_CA},
		{"h1", "stranger", "is not signed by [tls] ca: its issuer is 'CN = fleet CA'", EX_CERT_CHAIN},
		{"old", "ca", "(SAN 'old') expired on 20", EX_CERT_CHAIN},
		{"young", "ca", "(SAN 'young') is not valid before 20", EX_CERT_CHAIN},
		{"weak", "ca", "(SAN 'h1') is not accepted: EE certificate key too weak", EX_CERT_CHAIN},
		{"plain", "ca", "has no subjectAltName", EX_CERT_CHAIN},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct cert_paths p;
		struct ex_err err = EX_ERR_INIT;
		enum ex_cert_part blame;
		struct ex_cert *c;
		int rc = ex_cert_load(paths_of(&p, dir, row[i].name, row[i].ca, NULL, 0), &blame, &err, &c);
		if (rc >= 0 || !strstr(err.text, row[i].want) || blame != row[i].blame)
			fail_msg("%s by %s: %d, blame %d: %s", row[i].name, row[i].ca, rc, blame, err.text);
	}
}

static void test_hosts(void **state)
{
	(void)state;
	static const char *const named[] = {"h[0-9]*", "spiffe://other/*"}, *const by_uri[] = {"spiffe://fleet/*"},
				 *const by_ip[] = {"10.*"};
	static const struct {
		const char *const *peers;
		size_t n_peers;
		const char *peer, *address, *want; /* want NULL: let through */
	} row[] = {
		{named, 2, "h1.crt", "10.0.0.2:7101", NULL},
		{named, 2, "h2.crt", "10.0.0.2:7101", NULL},
		{by_uri, 1, "h1.crt", "10.0.0.2:7101", NULL},
		{by_uri, 1, "h2.crt", "10.0.0.2:7101",
			"SAN 'h2.example, 0:0:0:0:0:0:0:1' of 10.0.0.2:7101 is not among [tls] peers"},
		{NULL, 0, "h1.crt", "127.0.0.1:7101", NULL},
		{NULL, 0, "h1.crt", "h1:7101", NULL},
		{NULL, 0, "h2.crt", "[::1]:7101", NULL},
		{NULL, 0, "h1.crt", "127.0.0.2:7101", "not for '127.0.0.2', and [tls] peers lists no names"},
		{named, 2, "alien.crt", "h1:1",
			"of h1:1 (SAN 'h1') is not signed by [tls] ca: its issuer is 'CN = another CA'"},
		{named, 2, "old.crt", "h1:1", "of h1:1 (SAN 'old') expired on 20"},
		{named, 2, "young.crt", "h1:1", "is not valid before 20"},
		{named, 2, "caller.crt", "h1:1", "is not accepted: "},
		{named, 2, "weak.crt", "h1:1", "key too weak"},
		{named, 2, "plain.crt", "h1:1", "the certificate of h1:1 has no name (SAN)"},
		{by_ip, 1, "address.crt", "h1:1", "is not among [tls] peers"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_cert *c = load("h1", row[i].peers, row[i].n_peers);
		EX_CLEANUP(ex_freep) char *pem = read_pem(row[i].peer);
		int rc = ex_cert_check_host(c, pem, row[i].address, &err);
		if (rc != (row[i].want ? -EACCES : 0) || (row[i].want && !strstr(err.text, row[i].want)))
			fail_msg("%s at %s: %d: %s", row[i].peer, row[i].address, rc, err.text);
		ex_cert_drop(c);
	}
}

/* The first certificate counts, not another one that comes along with it. */
static void test_first_counts(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_cert *c = load("h1", NULL, 0);
	EX_CLEANUP(ex_freep) char *alien = read_pem("alien.crt"), *h1 = read_pem("h1.crt");
	struct ex_str both = EX_STR_INIT;
	ex_str_addf(&both, "%s%s", alien, h1);
	assert_int_equal(ex_cert_check_host(c, both.s, "h1:1", &err), -EACCES);
	ex_str_reset(&both);
	ex_str_addf(&both, "%s%s", h1, alien);
	EXPECT_OK(err, ex_cert_check_host(c, both.s, "h1:1", &err));
	assert_int_equal(ex_cert_check_host(c, "rubbish", "h1:1", &err), -EACCES);
	ex_str_done(&both);
	ex_cert_drop(c);
}

static void test_callers(void **state)
{
	(void)state;
	static const char *const peers[] = {"r?", "SPIFFE://FLEET/*", "H2.*"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_cert *anyone = load("h1", NULL, 0), *some = load("h1", peers, 3);
	EX_CLEANUP(ex_freep) char *h1 = read_pem("h1.crt"), *h2 = read_pem("h2.crt");
	EXPECT_OK(err, ex_cert_check_caller(anyone, h1, &err));
	EXPECT_OK(err, ex_cert_check_caller(some, h2, &err)); /* DNS names have no case */
	assert_int_equal(ex_cert_check_caller(some, h1, &err), -EACCES);
	assert_string_equal(err.text, "SAN 'h1, spiffe://fleet/h1, 127.0.0.1' of the caller is not among [tls] peers");
	ex_cert_drop(anyone);
	ex_cert_drop(some);
}

/* Who only calls may show nothing, or a certificate without names, and speaks of its own section. */
static void test_calls_only(void **state)
{
	(void)state;
	struct cert_paths p;
	struct ex_cert_view v;
	struct ex_err err = EX_ERR_INIT;
	enum ex_cert_part blame;
	struct ex_cert *none, *again, *plain;
	EX_CLEANUP(ex_freep) char *h1 = read_pem("h1.crt"), *alien = read_pem("alien.crt");
	struct ex_cert_opts o = *paths_of(&p, dir, "plain", "ca", NULL, 0);
	o.section = "[etcd]";
	o.calls_only = true;
	EXPECT_OK(err, ex_cert_load(&o, &blame, &err, &plain));
	ex_cert_view(plain, &v);
	assert_non_null(strstr(v.names, "CN = "));
	assert_true(v.expires_s > time(NULL));
	o.cert = o.key = NULL;
	EXPECT_OK(err, ex_cert_load(&o, &blame, &err, &none));
	EXPECT_OK(err, ex_cert_load(&o, &blame, &err, &again));
	ex_cert_view(none, &v);
	assert_int_equal(v.expires_s, 0);
	assert_null(ex_cert_chain_pem(none));
	assert_null(ex_cert_key_pem(none));
	assert_true(ex_cert_equal(none, again));
	assert_false(ex_cert_equal(none, plain));
	assert_false(ex_cert_equal(plain, none));
	EXPECT_OK(err, ex_cert_check_host(none, h1, "127.0.0.1:9", &err));
	assert_int_equal(ex_cert_check_host(none, alien, "h1:9", &err), -EACCES);
	assert_non_null(strstr(err.text, "is not signed by [etcd] ca: its issuer is 'CN = another CA'"));
	assert_int_equal(ex_cert_check_host(none, h1, "10.9.9.9:9", &err), -EACCES);
	assert_string_equal(err.text,
		"the certificate of 10.9.9.9:9 is for 'h1, spiffe://fleet/h1, 127.0.0.1', not for '10.9.9.9'");
	ex_cert_drop(none);
	ex_cert_drop(again);
	ex_cert_drop(plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_hosts),
		cmocka_unit_test(test_first_counts),
		cmocka_unit_test(test_callers),
		cmocka_unit_test(test_calls_only),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
