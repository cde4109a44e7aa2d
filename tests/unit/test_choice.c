/* SPDX-License-Identifier: Apache-2.0 */
/* core/choice: what was chosen is there again, for the configuration that it was chosen under; what is damaged is refused. */
#include "model_dir.h"

#include "core/choice.h"
#include <stdio.h>
#include <string.h>

#define DIGEST "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static char dir[32];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, SCRATCH_DIR);
	make_dir(dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_dir(dir);
	return 0;
}

static void test_again(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_choice c = {.dir = "/srv/next model", .digest = DIGEST, .decided_us = UINT64_C(1764000000000000)},
			 got;
	EXPECT_OK(err, ex_choice_read(dir, "/srv/base", &err, &got));
	assert_string_equal(got.dir, "");
	assert_int_equal(got.decided_us, 0);
	EXPECT_OK(err, ex_choice_write(dir, "/srv/base", &c, &err));
	EXPECT_OK(err, ex_choice_read(dir, "/srv/base", &err, &got));
	assert_string_equal(got.dir, c.dir);
	assert_string_equal(got.digest, c.digest);
	assert_int_equal(got.decided_us, c.decided_us);
	EXPECT_OK(err, ex_choice_read(dir, "/srv/elsewhere", &err, &got));
	assert_string_equal(got.dir, "");
	struct ex_choice none = {.decided_us = 0};
	EXPECT_OK(err, ex_choice_write(dir, "/srv/base", &none, &err));
	EXPECT_OK(err, ex_choice_write(dir, "/srv/base", &none, &err));
	EXPECT_OK(err, ex_choice_read(dir, "/srv/base", &err, &got));
	assert_string_equal(got.dir, "");
	EXPECT_OK(err, ex_choice_write(dir, "/srv/base", &c, &err));
	strcpy(c.dir, "/srv/a\nb");
	assert_int_equal(ex_choice_write(dir, "/srv/base", &c, &err), -EINVAL);
	EXPECT_OK(err, ex_choice_read(dir, "/srv/base", &err, &got));
	assert_string_equal(got.dir, "/srv/next model");
}

static void test_damaged(void **state)
{
	static const char *const texts[] = {
		"",
		"expertd-model 1\n",
		"expertd-model 2\n1\n" DIGEST "\n/b\n/d\n",
		"expertd-model 1\n-1\n" DIGEST "\n/b\n/d\n",
		"expertd-model 1\n1x\n" DIGEST "\n/b\n/d\n",
		"expertd-model 1\n1\nabc\n/b\n/d\n",
		"expertd-model 1\n1\n" DIGEST "\n/b\nd\n",
		"expertd-model 1\n1\n" DIGEST "\n/b\n/d",
		"expertd-model 1\n1\n" DIGEST "\n/b\n/d\nmore\n",
	};
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(texts); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_choice got;
		write_text(dir, "model", texts[i]);
		assert_int_equal(ex_choice_read(dir, "/b", &err, &got), -EINVAL);
		assert_non_null(strstr(ex_err_text(&err), "remove it"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
