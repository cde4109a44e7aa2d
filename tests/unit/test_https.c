/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/https: certificates read, refused with the file at fault, and replaced. */
#include "unit.h"

#include "certs.h"
#include "gateway/https.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/test_https.XXXXXX";
static const char *const names[] = {"ca.crt", "a.crt", "a.key", "b.crt", "b.key", "r.crt", "r.key", "text"};

static char *at(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned i;
	char *p = path[i++ % 4];
	snprintf(p, PATH_MAX, "%s/%s", dir, name);
	return p;
}

static int setup(void **state)
{
	struct authority ca;
	(void)state;
	assert_non_null(mkdtemp(dir));
	authority_new(&ca, "CA");
	write_authority(&ca, dir, "ca");
	write_leaf(&ca, dir, &(struct leaf){.name = "a", .san = "DNS:a"});
	write_leaf(&ca, dir, &(struct leaf){.name = "b", .san = "DNS:b"});
	write_leaf(&ca, dir, &(struct leaf){.name = "r", .san = "DNS:r", .rsa_bits = 2048});
	write_text(dir, "text", "no certificate\n");
	authority_done(&ca);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_files(dir, names, EX_ARRAY_LEN(names));
	return 0;
}

static void refused(const char *cert, const char *key, const char *text)
{
	struct ex_err err = EX_ERR_INIT;
	assert_true(ex_https_check(at(cert), at(key), &err) < 0);
	if (!strstr(err.text, text))
		fail_msg("'%s' is not in '%s'", text, err.text);
}

static void test_check(void **state)
{
	struct ex_err err = EX_ERR_INIT;
	(void)state;
	EXPECT_OK(err, ex_https_check(at("a.crt"), at("a.key"), &err));
	EXPECT_OK(err, ex_https_check(at("r.crt"), at("r.key"), &err));
	refused("none", "a.key", "none': No such file");
	refused("a.crt", "none", "none': No such file");
	refused("text", "a.key", "text' is no certificate chain");
	refused("a.crt", "text", "text' is no private key");
	refused("a.crt", "b.key", "b.key' is not the key of '");
	refused("a.crt", "r.key", "r.key' is not the key of '");
}

static void test_reload(void **state)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_https *h;
	struct MHD_OptionItem o[EX_HTTPS_OPTIONS];
	bool changed = true;
	(void)state;
	assert_true(ex_https_new(at("a.crt"), at("b.key"), &err, &h) < 0);
	EXPECT_OK(err, ex_https_new(at("a.crt"), at("a.key"), &err, &h));
	EXPECT_OK(err, ex_https_reload(h, at("a.crt"), at("a.key"), &err, &changed));
	assert_false(changed);
	EXPECT_OK(err, ex_https_reload(h, at("r.crt"), at("r.key"), &err, &changed));
	assert_true(changed);
	changed = false;
	assert_true(ex_https_reload(h, at("text"), at("r.key"), &err, &changed) < 0);
	assert_false(changed);
	ex_https_options(h, o);
	assert_int_equal(o[0].option, MHD_OPTION_HTTPS_CERT_CALLBACK);
	assert_int_equal(o[EX_HTTPS_OPTIONS - 1].option, MHD_OPTION_END);
	ex_https_free(h);
	ex_https_options(NULL, o);
	assert_int_equal(o[0].option, MHD_OPTION_END);
	EXPECT_OK(err, ex_https_new(at("b.crt"), at("b.key"), &err, &h));
	ex_https_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_reload),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
