/* SPDX-License-Identifier: Apache-2.0 */
/* base/str: growing strings, byte texts, UTF-8 validity. */
#include "unit.h"

#include "base/str.h"
#include <string.h>

static void test_add_grows(void **state)
{
	(void)state;
	struct ex_str b = EX_STR_INIT;
	for (int i = 0; i < 1000; i++)
		ex_str_addf(&b, "%d,", i % 10);
	assert_false(b.oom);
	assert_int_equal(b.n, 2000);
	assert_memory_equal(b.s + 1990, "5,6,7,8,9,", 10);
	char *s = ex_str_take(&b);
	assert_int_equal(strlen(s), 2000);
	assert_null(b.s);
	free(s);
}

static void test_bytes_text(void **state)
{
	(void)state;
	char buf[EX_BYTES_TEXT_MAX];
	assert_string_equal(ex_bytes_text(0, buf), "0 B");
	assert_string_equal(ex_bytes_text(1536, buf), "1.5 KiB");
	assert_string_equal(ex_bytes_text(UINT64_C(654) << 30, buf), "654 GiB");
}

static void test_utf8(void **state)
{
	(void)state;
	static const struct {
		const char *s;
		bool ok;
	} row[] = {
		{"", true},
		{"plain", true},
		{"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80", true},
		{"\xc0\x80", false},
		{"\xed\xa0\x80", false},
		{"\xf4\x90\x80\x80", false},
		{"\xe4\xb8", false},
		{"\x80", false},
		{"a\xffz", false},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		assert_int_equal(ex_utf8_valid(row[i].s, strlen(row[i].s)), row[i].ok);
}

static void test_printable(void **state)
{
	(void)state;
	static const struct {
		const char *s, *want;
	} row[] = {
		{"", ""},
		{"a \\x1b~", "a \\x1b~"},
		{"\t\n\x1f\x7f", "\\x09\\x0a\\x1f\\x7f"},
		{"\xc2\x9b\xc2\x9f\xc2\xa0", "\\xc2\\x9b\\xc2\\x9f\xc2\xa0"}, /* C1; the first that is none */
		{"\xe4\xb8\xad\xe4\xb8", "\xe4\xb8\xad\\xe4\\xb8"},
	};
	char out[64];
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		ex_printable(row[i].s, out, sizeof out);
		assert_string_equal(out, row[i].want);
		ex_printable(out, out + 32, 32); /* nothing is escaped twice */
		assert_string_equal(out + 32, row[i].want);
	}
	/* cut before what does not fit, never within it */
	static const struct {
		size_t size;
		const char *want;
	} cut[] = {{1, ""}, {2, "a"}, {5, "a"}, {6, "a\\x0a"}, {8, "a\\x0a"}, {9, "a\\x0a\xe4\xb8\xad"}};
	for (size_t i = 0; i < EX_ARRAY_LEN(cut); i++) {
		ex_printable("a\n\xe4\xb8\xad", out, cut[i].size);
		assert_string_equal(out, cut[i].want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add_grows),
		cmocka_unit_test(test_bytes_text),
		cmocka_unit_test(test_utf8),
		cmocka_unit_test(test_printable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
