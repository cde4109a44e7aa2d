/* SPDX-License-Identifier: Apache-2.0 */
/* expert/starts: what does not last is counted over restarts, and what was counted too often is set aside until somebody asks for it anew. */
#include "model_dir.h"

#include "expert/starts.h"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHA_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SHA_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static char dir[32];
static const char *const both[] = {SHA_A, SHA_B};

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

/* A start with the first n of both, at most n_max that did not last. */
static struct ex_starts *begin(size_t n, unsigned n_max)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_starts *s;
	EXPECT_OK(err, ex_starts_open(dir, &err, &s));
	EXPECT_OK(err, ex_starts_begin(s, both, n, n_max, &err));
	return s;
}

static void test_set_aside(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	char path[PATH_MAX];
	struct ex_starts *s;
	for (int i = 0; i < 3; i++) {
		s = begin(1, 3);
		assert_int_equal(ex_starts_aside(s, SHA_A), 0);
		ex_starts_free(s); /* as if it had died */
	}
	s = begin(2, 3);
	assert_int_equal(ex_starts_aside(s, SHA_A), 3);
	assert_int_equal(ex_starts_aside(s, SHA_B), 0);
	EXPECT_OK(err, ex_starts_lasted(s, &err)); /* without it */
	ex_starts_free(s);
	s = begin(2, 3);
	assert_int_equal(ex_starts_aside(s, SHA_A), 3);
	EXPECT_OK(err, ex_starts_forget(s, SHA_A, &err));
	EXPECT_OK(err, ex_starts_forget(s, "nobody's", &err));
	assert_int_equal(ex_starts_aside(s, SHA_A), 0);
	EXPECT_OK(err, ex_starts_lasted(s, &err));
	ex_starts_free(s);
	assert_int_equal(access(path_in(dir, "starts", path), F_OK), -1);
	s = begin(2, 1);
	assert_int_equal(ex_starts_aside(s, SHA_A), 0);
	ex_starts_free(s);
	s = begin(2, 1);
	assert_int_equal(ex_starts_aside(s, SHA_A), 1);
	assert_int_equal(ex_starts_aside(s, SHA_B), 1);
	ex_starts_free(s);
}

/* Starts that last break the row; so does one without the plugin. 0: nothing is counted. */
static void test_row_is_broken(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_starts *s;
	for (int i = 0; i < 6; i++) {
		s = begin(2, 3);
		assert_int_equal(ex_starts_aside(s, SHA_B), 0);
		if (i % 3 == 2)
			EXPECT_OK(err, ex_starts_lasted(s, &err));
		ex_starts_free(s);
	}
	for (int i = 0; i < 6; i++) {
		s = begin(i % 3 == 2 ? 1 : 2, 3);
		assert_int_equal(ex_starts_aside(s, SHA_B), 0);
		ex_starts_free(s);
	}
	s = begin(2, 0);
	assert_int_equal(ex_starts_aside(s, SHA_A), 0);
	ex_starts_free(s);
	s = begin(2, 1);
	assert_int_equal(ex_starts_aside(s, SHA_A), 0);
	ex_starts_free(s);
}

static void test_damaged(void **state)
{
	(void)state;
	static const char *const row[] = {
		"",
		"expertd-starts 2\n",
		"expertd-starts 1\n" SHA_A "\n",
		"expertd-starts 1\n" SHA_A " 0\n",
		"expertd-starts 1\n" SHA_A " 3 \n",
		"expertd-starts 1\n" SHA_A "b 3\n",
		"expertd-starts 1\n" SHA_A " 99999999999999999999\n",
		"expertd-starts 1\n" SHA_A " -1\n",
		"expertd-starts 1\n\n" SHA_A " 1\n",
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_starts *s;
		write_text(dir, "starts", row[i]);
		if (ex_starts_open(dir, &err, &s) != -EINVAL)
			fail_msg("row %zu was taken", i);
		assert_non_null(strstr(err.text, "starts'"));
		assert_int_equal(ex_starts_aside(s, SHA_A), 0);
		EXPECT_OK(err, ex_starts_begin(s, both, 2, 3, &err)); /* and is a good one from now on */
		ex_starts_free(s);
	}
	ex_starts_free(begin(2, 3));
}

/* A count that cannot be written is an error, and the plugins can be used all the same. */
static void test_unwritable(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	char path[PATH_MAX];
	struct ex_starts *s;
	assert_int_equal(mkdir(path_in(dir, ".starts", path), 0700), 0);
	EXPECT_OK(err, ex_starts_open(dir, &err, &s));
	assert_true(ex_starts_begin(s, both, 2, 3, &err) < 0);
	assert_non_null(strstr(err.text, "cannot write '"));
	assert_int_equal(ex_starts_aside(s, SHA_A), 0);
	ex_starts_free(s);
	assert_int_equal(rmdir(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_set_aside, setup, teardown),
		cmocka_unit_test_setup_teardown(test_row_is_broken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unwritable, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
