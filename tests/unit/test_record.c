/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/record: what was printed is read back; whatever else is refused by name. */
#include "unit.h"

#include "fleet/record.h"
#include <string.h>

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define GOOD   "\"name\":\"h1\",\"address\":\"10.0.0.1:7101\",\"model_digest\":\"" DIGEST "\",\"expert_groups\":8"

static void test_round_trip(void **state)
{
	(void)state;
	const struct ex_member m = {
		.name = "h1",
		.address = "[fd00::1]:7101",
		.zone = "rack-2",
		.machine = "00112233445566778899aabbccddeeff",
		.version = "0.1.0",
		.plugin = "cpu 0.1.0",
		.identity = "0011223344556677",
		.model_digest = DIGEST,
		.expert_groups = 8,
		.memory_bytes = UINT64_C(96) << 30,
		.shards = "*/E0-7 L1/E8-15",
	};
	struct ex_err err = EX_ERR_INIT;
	struct ex_str text = EX_STR_INIT;
	struct ex_member back;
	ex_record_print(&m, &text);
	assert_false(text.oom);
	EXPECT_OK(err, ex_record_parse("h1", text.s, text.n, &err, &back));
	assert_string_equal(back.name, m.name);
	assert_string_equal(back.address, m.address);
	assert_string_equal(back.zone, m.zone);
	assert_string_equal(back.machine, m.machine);
	assert_string_equal(back.version, m.version);
	assert_string_equal(back.plugin, m.plugin);
	assert_string_equal(back.identity, m.identity);
	assert_string_equal(back.model_digest, m.model_digest);
	assert_string_equal(back.shards, m.shards);
	assert_int_equal(back.expert_groups, m.expert_groups);
	assert_int_equal(back.memory_bytes, m.memory_bytes);
	free((char *)back.shards);
	ex_str_done(&text);
}

/* A newer release's keys are passed over; what may be missing is empty. */
static void test_unknown_keys(void **state)
{
	(void)state;
	static const char text[] = "{" GOOD ",\"colour\":[1,2]}";
	struct ex_err err = EX_ERR_INIT;
	struct ex_member m;
	EXPECT_OK(err, ex_record_parse("h1", text, strlen(text), &err, &m));
	assert_string_equal(m.zone, "");
	assert_string_equal(m.identity, "");
	assert_string_equal(m.shards, "");
	assert_int_equal(m.memory_bytes, 0);
	free((char *)m.shards);
}

static void refused(const char *name, const char *text, const char *why)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_member m;
	int rc = ex_record_parse(name, text, strlen(text), &err, &m);
	if (rc >= 0 || !strstr(err.text, why))
		fail_msg("%s: %d '%s', wanted '%s'", text, rc, err.text, why);
}

static void test_refused(void **state)
{
	(void)state;
	refused("h1", "", "h1");
	refused("h1", "hello", "h1");
	refused("h1", "[]", "a JSON object is needed");
	refused("h1", "{}", "key 'name' says ''");
	refused("h2", "{" GOOD "}", "key 'name' says 'h1'");
	refused("../h1", "{" GOOD "}", "no name of a host");
	refused("", "{" GOOD "}", "no name of a host");
	refused("h1", "{" GOOD ",\"name\":\"h1\"}", "duplicate");
	refused("h1", "{" GOOD ",\"zone\":7}", "a text is needed");
	refused("h1", "{" GOOD ",\"zone\":\"a b\"}", "is no name");
	refused("h1", "{" GOOD ",\"zone\":\"a\\u001b[2J\"}", "printable");
	refused("h1", "{" GOOD ",\"machine\":\"xyz\"}", "32 hexadecimal");
	refused("h1", "{" GOOD ",\"identity\":\"9f3c\"}", "16 hexadecimal");
	refused("h1", "{" GOOD ",\"identity\":\"00112233445566778\"}", "at most 16");
	refused("h1", "{" GOOD ",\"shards\":\"L1/E0-3 nonsense\"}", "'nonsense'");
	refused("h1", "{" GOOD ",\"memory_bytes\":-1}", "a number of bytes");
	refused("h1", "{" GOOD ",\"memory_bytes\":1e99}", "a number of bytes");
	refused("h1", "{\"name\":\"h1\",\"address\":\"10.0.0.1:7101\",\"expert_groups\":8}", "64 hexadecimal");
	refused("h1", "{\"name\":\"h1\",\"model_digest\":\"" DIGEST "\",\"expert_groups\":8}", "key 'address'");
	refused("h1", "{\"name\":\"h1\",\"address\":\"x:0\",\"model_digest\":\"" DIGEST "\",\"expert_groups\":8}",
		"port 0");
	refused("h1", "{\"name\":\"h1\",\"address\":\"x:1\",\"model_digest\":\"" DIGEST "\",\"expert_groups\":0}",
		"from 1");
	refused("h1", "{\"name\":\"h1\",\"address\":\"x:1\",\"model_digest\":\"" DIGEST "\"}", "is missing");
}

static void test_too_long(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_member m;
	struct ex_str text = EX_STR_INIT;
	ex_str_add(&text, "{" GOOD ",\"zone\":\"");
	for (int i = 0; i < EX_MEMBER_NAME_MAX; i++)
		ex_str_add(&text, "z");
	ex_str_add(&text, "\"}");
	assert_int_equal(ex_record_parse("h1", text.s, text.n, &err, &m), -EINVAL);
	assert_non_null(strstr(err.text, "at most 63"));
	while (text.n <= EX_RECORD_BYTES_MAX)
		ex_str_add(&text, " ");
	assert_int_equal(ex_record_parse("h1", text.s, text.n, &err, &m), -EFBIG);
	ex_str_done(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_unknown_keys),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_too_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
