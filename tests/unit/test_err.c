/* SPDX-License-Identifier: Apache-2.0 */
/* base/err: texts are set, prefixed, cut; NULL is fine. */
#include "unit.h"

#include <string.h>

static void test_set_and_prefix(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	assert_int_equal(ex_err_set(&err, -EINVAL, "key '%s'", "x"), -EINVAL);
	assert_int_equal(ex_err_prefix(&err, "file '%s'", "f"), -EINVAL);
	assert_string_equal(ex_err_text(&err), "file 'f': key 'x'");
	assert_int_equal(ex_err_errno(&err, -ENOENT, "cannot open"), -ENOENT);
	assert_string_equal(ex_err_text(&err), "cannot open: No such file or directory");
}

static void test_null_and_empty(void **state)
{
	(void)state;
	assert_int_equal(ex_err_set(NULL, -EIO, "lost"), -EIO);
	struct ex_err err = EX_ERR_INIT;
	assert_int_equal(ex_err_prefix(&err, "outer"), -EIO);
	err = (struct ex_err){.code = -ENOSPC};
	assert_string_equal(ex_err_text(&err), "No space left on device");
}

static void test_cut(void **state)
{
	(void)state;
	char text[2 * EX_ERR_TEXT_MAX];
	memset(text, 'a', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	struct ex_err err = EX_ERR_INIT;
	ex_err_set(&err, -EINVAL, "%s", text);
	assert_int_equal(strlen(err.text), EX_ERR_TEXT_MAX - 1);
	ex_err_errno(&err, -EINVAL, "%s", text);
	assert_int_equal(strlen(err.text), EX_ERR_TEXT_MAX - 1);
}

/* What a file or a peer put into a message makes no second line and does not steer a terminal, however often it is carried up. */
static void test_control_characters(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	ex_err_set(&err, -EINVAL, "key '%s'", "\n\x1b[31mevil\xff");
	assert_string_equal(ex_err_text(&err), "key '\\x0a\\x1b[31mevil\\xff'");
	ex_err_prefix(&err, "file '%s'", "a\rz");
	assert_string_equal(ex_err_text(&err), "file 'a\\x0dz': key '\\x0a\\x1b[31mevil\\xff'");
	ex_err_errno(&err, -ENOENT, "cannot open '%s'", "\x9b");
	assert_string_equal(ex_err_text(&err), "cannot open '\\x9b': No such file or directory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_and_prefix),
		cmocka_unit_test(test_null_and_empty),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_control_characters),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
