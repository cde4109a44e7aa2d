/* SPDX-License-Identifier: Apache-2.0 */
/* expert/published: what was set is there again after a restart; a write that fails changes nothing; what is damaged is refused. */
#include "model_dir.h"

#include "expert/published.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SHA_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SHA_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define SHA_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define MODEL "1111111111111111111111111111111111111111111111111111111111111111"

static const struct ex_published_for FOR = {.model_digest = MODEL, .base_sha256 = SHA_A, .n_groups = 8};
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
	char path[PATH_MAX];
	remove_dir(path_in(dir, "plugins", path));
	remove_dir(dir);
	return 0;
}

static struct ex_published *open_set(const struct ex_published_for *f)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_published *p = NULL;
	EXPECT_OK(err, ex_published_open(dir, f, &err, &p));
	return p;
}

static const struct ex_published_entry ENTRIES[] = {
	{.id = {3, 8, 4}, .sha256 = SHA_B, .plugin = "cpu 1.0 avx2", .identity = SHA_C},
	{.id = {1, 0, 4}, .gone = true},
	{.id = {3, 4, 4}, .added = true, .plugin = "cpu 1.0 avx2", .identity = SHA_A},
};

static void fill(struct ex_published *p)
{
	struct ex_err err = EX_ERR_INIT;
	for (size_t i = 0; i < EX_ARRAY_LEN(ENTRIES); i++)
		EXPECT_OK(err, ex_published_set(p, &ENTRIES[i], &err));
}

static void expect_entry(const struct ex_published *p, const struct ex_published_entry *e)
{
	const struct ex_published_entry *f = ex_published_find(p, &e->id);
	assert_non_null(f);
	assert_memory_equal(&f->id, &e->id, sizeof e->id);
	assert_int_equal(f->gone, e->gone);
	assert_int_equal(f->added, e->added);
	assert_string_equal(f->sha256, e->sha256);
	assert_string_equal(f->plugin, e->plugin);
	assert_string_equal(f->identity, e->identity);
}

static void test_again(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_published *p = open_set(&FOR);
	assert_int_equal(ex_published_n(p), 0);
	fill(p);
	for (int again = 0; again < 2; again++) {
		assert_int_equal(ex_published_n(p), 3);
		for (size_t i = 0; i < EX_ARRAY_LEN(ENTRIES); i++)
			expect_entry(p, &ENTRIES[i]);
		assert_int_equal(ex_published_at(p, 0)->id.layer, 1);
		assert_int_equal(ex_published_at(p, 1)->id.first_expert, 4);
		assert_null(ex_published_find(p, &(struct ex_shard_id){3, 0, 4}));
		ex_published_free(p);
		p = open_set(&FOR);
	}
	struct ex_published_entry changed = ENTRIES[0];
	changed.sha256[0] = '\0';
	EXPECT_OK(err, ex_published_set(p, &changed, &err));
	assert_int_equal(ex_published_n(p), 3);
	expect_entry(p, &changed);
	ex_published_free(p);
}

/* One process has it at a time. */
static void test_locked(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_published *p = open_set(&FOR), *second = NULL;
	assert_int_equal(ex_published_open(dir, &FOR, &err, &second), -EBUSY);
	assert_non_null(strstr(ex_err_text(&err), "another expertd"));
	ex_published_free(second);
	ex_published_free(p);
	ex_published_free(open_set(&FOR));
}

/* Made for another model or other groups: void. For another configured plugin: its plugins are. */
static void test_of_others(void **state)
{
	(void)state;
	struct ex_published *p = open_set(&FOR);
	fill(p);
	ex_published_free(p);
	struct ex_published_for f = FOR;
	f.n_groups = 4;
	p = open_set(&f);
	assert_int_equal(ex_published_n(p), 0);
	ex_published_free(p);
	f = FOR;
	f.model_digest = SHA_A;
	p = open_set(&f);
	assert_int_equal(ex_published_n(p), 0);
	ex_published_free(p);
	f = FOR;
	f.base_sha256 = SHA_C;
	p = open_set(&f);
	assert_int_equal(ex_published_n(p), 3);
	assert_string_equal(ex_published_find(p, &ENTRIES[0].id)->sha256, "");
	assert_string_equal(ex_published_find(p, &ENTRIES[0].id)->identity, "");
	assert_true(ex_published_find(p, &ENTRIES[1].id)->gone);
	assert_true(ex_published_find(p, &ENTRIES[2].id)->added);
	ex_published_free(p);
}

/* The temporary file cannot be made: the set, here and on the disk, is as it was. */
static void test_unwritable(void **state)
{
	(void)state;
	char path[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	struct ex_published *p = open_set(&FOR);
	fill(p);
	assert_int_equal(mkdir(path_in(dir, ".published", path), 0700), 0);
	struct ex_published_entry changed = ENTRIES[0];
	changed.gone = true;
	assert_int_equal(ex_published_set(p, &changed, &err), -EISDIR);
	assert_non_null(strstr(ex_err_text(&err), "/published'"));
	expect_entry(p, &ENTRIES[0]);
	changed.id.layer = 9;
	assert_int_equal(ex_published_set(p, &changed, &err), -EISDIR);
	assert_int_equal(ex_published_n(p), 3);
	assert_int_equal(rmdir(path), 0);
	ex_published_free(p);
	p = open_set(&FOR);
	expect_entry(p, &ENTRIES[0]);
	assert_int_equal(ex_published_n(p), 3);
	ex_published_free(p);
}

#define HEAD_LINE "expertd-published 1 " MODEL " 8 " SHA_A "\n"

static void test_damaged(void **state)
{
	(void)state;
	static const struct {
		const char *text, *why;
	} row[] = {
		{"", "line 1"},
		{"expertd-published 2 " MODEL " 8 " SHA_A "\n", "line 1"},
		{"expertd-published 1 " MODEL " 8x " SHA_A "\n", "line 1"},
		{"expertd-published 1 " MODEL " 8 abc\n", "line 1"},
		{"expertd-published 1 " MODEL "\n", "line 1"},
		{HEAD_LINE "L1/E0-3\n", "line 2"},
		{HEAD_LINE "L1/E0-3 elsewhere - - cpu\n", "line 2"},
		{HEAD_LINE "L1/E0-3 here - -\n", "line 2"},
		{HEAD_LINE "L1/E0-3 here " SHA_A "0 - cpu\n", "line 2"},
		{HEAD_LINE "E0-3 here - - cpu\n", "line 2"},
		{HEAD_LINE "L1/E4-7 here - - cpu\nL1/E0-3 here - - cpu\n", "line 3 is out of order"},
		{HEAD_LINE "L1/E0-3 here - - cpu\nL1/E0-3 gone - - cpu\n", "line 3 is out of order"},
		{HEAD_LINE "L1/E0-3 here - - cpu\n\nL1/E4-7 here - - cpu\n", "line 3"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_published *p = NULL;
		write_text(dir, "published", row[i].text);
		if (ex_published_open(dir, &FOR, &err, &p) != -EINVAL || !strstr(ex_err_text(&err), row[i].why))
			fail_msg("%zu: %s", i, ex_err_text(&err));
		assert_int_equal(ex_published_n(p), 0);
		ex_published_free(p);
	}
	write_text(dir, "published", HEAD_LINE "L1/E0-3 here - - cpu 1.0 avx2\n");
	struct ex_published *p = open_set(&FOR);
	assert_string_equal(ex_published_at(p, 0)->plugin, "cpu 1.0 avx2");
	ex_published_free(p);
}

static bool is_used(void *ctx, const char *sha256)
{
	return strcmp(ctx, sha256) == 0;
}

static void test_collect(void **state)
{
	(void)state;
	struct ex_published *p = open_set(&FOR);
	static const char *const file[] = {SHA_A ".so", SHA_B ".so", SHA_C ".so", "." SHA_A ".77", "README"};
	char path[PATH_MAX];
	fill(p);
	for (size_t i = 0; i < EX_ARRAY_LEN(file); i++)
		write_text(ex_published_plugins(p), file[i], "x");
	/* B is named by an entry, C is in use */
	assert_int_equal(ex_published_collect(p, is_used, SHA_C), 2);
	for (size_t i = 0; i < EX_ARRAY_LEN(file); i++)
		assert_int_equal(access(path_in(ex_published_plugins(p), file[i], path), F_OK), i % 3 == 0 ? -1 : 0);
	ex_published_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_of_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unwritable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_collect, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
