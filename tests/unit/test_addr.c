/* SPDX-License-Identifier: Apache-2.0 */
/* base/addr: addresses as people write them. */
#include "unit.h"

#include "base/addr.h"
#include <string.h>

static void test_good(void **state)
{
	(void)state;
	static const struct {
		const char *text, *host;
		uint16_t port;
		bool loopback;
	} row[] = {
		{"127.0.0.1:7101", "127.0.0.1", 7101, true},
		{"127.8.9.1:0", "127.8.9.1", 0, true},
		{"0.0.0.0:65535", "0.0.0.0", 65535, false},
		{"h1.example:80", "h1.example", 80, false},
		{"LocalHost:80", "LocalHost", 80, true},
		{"[::1]:9", "::1", 9, true},
		{"[fd00::2]:9", "fd00::2", 9, false},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_addr a;
		EXPECT_OK(err, ex_addr_parse(row[i].text, &err, &a));
		assert_string_equal(a.host, row[i].host);
		assert_int_equal(a.port, row[i].port);
		assert_int_equal(ex_addr_is_loopback(&a), row[i].loopback);
	}
}

static void test_schemes(void **state)
{
	(void)state;
	static const struct {
		const char *text, *rest;
		enum ex_scheme scheme;
	} row[] = {
		{"h1:80", "h1:80", EX_SCHEME_NONE},
		{"http://h1:80", "h1:80", EX_SCHEME_HTTP},
		{"HTTPS://[::1]:9", "[::1]:9", EX_SCHEME_HTTPS},
		{"https:/h1:9", "https:/h1:9", EX_SCHEME_NONE},
		{"https://http://h1:9", "http://h1:9", EX_SCHEME_HTTPS},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		const char *rest;
		assert_int_equal(ex_addr_scheme(row[i].text, &rest), row[i].scheme);
		assert_string_equal(rest, row[i].rest);
	}
}

static void test_bad(void **state)
{
	(void)state;
	static const struct {
		const char *text, *why;
	} row[] = {
		{"", "no port"},
		{"127.0.0.1", "no port"},
		{":80", "0 characters"},
		{"h:", "'' is not a port"},
		{"h:65536", "'65536' is not a port"},
		{"h:-1", "'-1' is not a port"},
		{"h:80x", "'80x' is not a port"},
		{"h:000080", "'000080' is not a port"},
		{"::1:80", "brackets"},
		{"[::1]80", "no port"},
		{"[::1:80", "no port"},
		{"[localhost]:80", "not an IPv6"},
		{"256.0.0.1:80", "neither"},
		{"127.1:80", "neither"},
		{"a b:80", "neither"},
		{"-h:80", "neither"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_addr a;
		assert_int_equal(ex_addr_parse(row[i].text, &err, &a), -EINVAL);
		if (!strstr(err.text, row[i].why))
			fail_msg("'%s': '%s' does not say '%s'", row[i].text, err.text, row[i].why);
	}
	char longest[400];
	memset(longest, 'a', sizeof longest);
	strcpy(longest + 300, ":80");
	struct ex_addr a;
	assert_int_equal(ex_addr_parse(longest, NULL, &a), -EINVAL);
}

static bool clash(const char *x, const char *y)
{
	struct ex_addr a, b;
	assert_int_equal(ex_addr_parse(x, NULL, &a), 0);
	assert_int_equal(ex_addr_parse(y, NULL, &b), 0);
	assert_int_equal(ex_addr_clash(&a, &b), ex_addr_clash(&b, &a));
	return ex_addr_clash(&a, &b);
}

static void test_clash(void **state)
{
	(void)state;
	assert_true(clash("127.0.0.1:80", "127.0.0.1:80"));
	assert_true(clash("0.0.0.0:80", "127.0.0.1:80"));
	assert_true(clash("[::]:80", "127.0.0.1:80"));
	assert_true(clash("localhost:80", "127.0.0.1:80"));
	assert_true(clash("LOCALHOST:80", "[::1]:80"));
	assert_true(clash("[::1]:80", "[0:0:0:0:0:0:0:1]:80"));
	assert_true(clash("[FD00::2]:80", "[fd00:0::2]:80"));
	assert_false(clash("localhost:80", "127.0.0.2:80"));
	assert_false(clash("[::1]:80", "[::2]:80"));
	assert_false(clash("127.0.0.1:80", "127.0.0.2:80"));
	assert_false(clash("127.0.0.1:80", "127.0.0.1:81"));
	assert_false(clash("127.0.0.1:0", "127.0.0.1:0"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_schemes),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_clash),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
