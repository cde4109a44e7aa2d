/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/hostfile: both forms of a section, and every mistake named with its line. */
#include "unit.h"

#include "fleet/hostfile.h"
#include <string.h>

static void test_both_forms(void **state)
{
	(void)state;
	static const char text[] = "# a comment\n"
				   "[host h1]\r\n"
				   "memory = 80G\n"
				   "zone=a\n"
				   "speed = 1.5\n"
				   "\n"
				   "  [hosts gpu]  \n"
				   "; another\n"
				   "memory = 64g\n"
				   "zones = a, b ,c\n"
				   "count = 4\n"
				   "[host h2]\n"
				   "memory = 1000";
	struct ex_err err = EX_ERR_INIT;
	struct ex_hosts h;
	EXPECT_OK(err, ex_hostfile_parse("hosts.ini", text, sizeof text - 1, &err, &h));
	assert_int_equal(h.n, 6);
	assert_string_equal(h.v[0].name, "h1");
	assert_string_equal(h.v[0].zone, "a");
	assert_true(h.v[0].memory_bytes == UINT64_C(80) << 30 && h.v[0].speed == 1.5);
	assert_string_equal(h.v[1].name, "gpu-1");
	assert_string_equal(h.v[4].name, "gpu-4");
	assert_string_equal(h.v[3].zone, "c");
	assert_string_equal(h.v[4].zone, "a");
	assert_true(h.v[4].memory_bytes == UINT64_C(64) << 30 && h.v[4].speed == 1);
	assert_string_equal(h.v[5].zone, "");
	assert_int_equal(h.v[5].memory_bytes, 1000);
	ex_hosts_done(&h);
}

/* Parsing text fails, and the message has wanted. */
static void refuse(const char *text, size_t n, const char *wanted)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_hosts h;
	assert_int_equal(ex_hostfile_parse("hosts.ini", text, n, &err, &h), -EINVAL);
	if (!strstr(err.text, wanted))
		fail_msg("'%s' is not in: %s", wanted, err.text);
}

static void test_mistakes(void **state)
{
	(void)state;
	static const struct {
		const char *text, *wanted;
	} row[] = {
		{"", "'hosts.ini' describes no host"},
		{"memory = 1G\n", "hosts.ini:1: 'memory' comes before any [host NAME]"},
		{"[host h1]\nmemory = 1G\n[host h1]\nmemory = 1G\n",
			"hosts.ini:3: [host h1]: there is a host h1 already"},
		{"[host g-2]\nmemory = 1G\n[hosts g]\ncount = 2\nmemory = 1G\n",
			"hosts.ini:3: [hosts g]: there is a host g-2"},
		{"[host h1]\nzone = a\n", "hosts.ini:1: [host h1] has no 'memory'"},
		{"[host h1]\n", "hosts.ini:1: [host h1] has no 'memory'"},
		{"[hosts g]\nmemory = 1G\n", "hosts.ini:1: [hosts g] has no 'count'"},
		{"[host h1]\nmemroy = 1G\n", "hosts.ini:2: [host h1] has no key 'memroy'; did you mean 'memory'?"},
		{"[host h1]\nzones = a\n", "hosts.ini:2: [host h1] has no key 'zones'; did you mean 'zone'?"},
		{"[host h1]\nmemory = 1G\nmemory = 2G\n", "hosts.ini:3: [host h1] memory is given on line 2 already"},
		{"[host h1]\nmemory = lots\n", "hosts.ini:2: [host h1] memory = lots: allowed is"},
		{"[host h1]\nmemory = 0\n", "memory = 0: allowed is"},
		{"[host h1]\nmemory = -1G\n", "memory = -1G"},
		{"[host h1]\nmemory = 99999999T\n", "memory = 99999999T"},
		{"[host h1]\nmemory = 1Gi\n", "memory = 1Gi"},
		{"[host h1]\nspeed = 0\n", "speed = 0: allowed is a number"},
		{"[host h1]\nspeed = nan\n", "speed = nan"},
		{"[host h1]\nspeed = 1x\n", "speed = 1x"},
		{"[host h1]\nzone = a b\n", "zone = a b: allowed is names"},
		{"[host h1]\nzone = a,b\n", "zone: more than 1"},
		{"[hosts g]\nzones = a,,b\n", "zones = : allowed is names"},
		{"[hosts g]\ncount = 0\n", "count = 0: allowed is"},
		{"[hosts g]\ncount = 1025\n", "count = 1025: allowed is"},
		{"[hosts g]\ncount = 1024\nmemory = 1\n[host h]\nmemory = 1\n", "hosts.ini:4: more than 1024 hosts"},
		{"[host h1\n", "hosts.ini:1: the section's ']' is missing"},
		{"[node]\n", "hosts.ini:1: unknown section [node]"},
		{"[host]\n", "hosts.ini:1: [host ]: a name has"},
		{"[host h 1]\n", "hosts.ini:1: [host h 1]: a name has"},
		{"[host h1]\nnonsense\n", "hosts.ini:2: 'nonsense' is neither"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		refuse(row[i].text, strlen(row[i].text), row[i].wanted);
	refuse("[host h1]\nmemory\0 = 1G\n", 22, "hosts.ini:2: the line has a NUL byte");
	char line[5000];
	memset(line, '#', sizeof line);
	refuse(line, sizeof line, "hosts.ini:1: the line is longer than 4095 bytes");
}

static void test_missing_file(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_hosts h;
	assert_int_equal(ex_hostfile_read("/nonexistent/hosts.ini", &err, &h), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/hosts.ini"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_forms),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_missing_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
