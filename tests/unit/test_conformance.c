/* SPDX-License-Identifier: Apache-2.0 */
/* expert/conformance: our own plugins and the documented example pass; every planted mistake fails the check that is there for it, and no other;
 * a crash is a result. */
#include "unit.h"

#include "config.h"
#include "expert/conformance.h"
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#ifdef EX_SANITIZED
#define N_SANITIZED 1 /* the leak check is skipped */
#else
#define N_SANITIZED 0
#endif

struct results {
	struct ex_check c[32];
	size_t n;
	char under_way[48];
};

static void keep(void *ctx, const struct ex_check *c)
{
	struct results *r = ctx;
	if (c->result == EX_CHECK_BEGINS) {
		snprintf(r->under_way, sizeof r->under_way, "%s", c->name);
		return;
	}
	assert_string_equal(c->name, r->under_way);
	assert_true(r->n < EX_ARRAY_LEN(r->c));
	r->c[r->n++] = *c;
}

static void no_log(void *ctx, int priority, const char *fmt, ...) EX_PRINTF(3, 4);
static void no_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	(void)fmt;
}

static const char *mistake; /* of wrong.so */

static const char *option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "2" : strcmp(key, "mistake") == 0 ? mistake : NULL;
}

static int run(const char *dir, const char *name, bool forked, unsigned hang_s, struct results *r)
{
	static const struct expertd_host host = {.log = no_log, .option = option};
	struct ex_err err = EX_ERR_INIT;
	const struct ex_conformance_opts o = {
		.path = name, .loader = {.dir = dir}, .host = &host, .hang_s = hang_s, .report = keep, .ctx = r};
	memset(r, 0, sizeof *r);
	return forked ? ex_conformance_run_forked(&o, &err) : (int)ex_conformance_run(&o);
}

static const struct ex_check *find(const struct results *r, const char *name)
{
	for (size_t i = 0; i < r->n; i++)
		if (strcmp(r->c[i].name, name) == 0)
			return &r->c[i];
	fail_msg("no check '%s'", name);
	return NULL;
}

static void expect_clean(const char *dir, const char *name, size_t n_skipped)
{
	struct results r;
	size_t n = 0;
	for (int forked = 0; forked < 2; forked++, n = 0) {
		int n_failed = run(dir, name, forked, 0, &r);
		for (size_t i = 0; i < r.n; i++) {
			if (r.c[i].result == EX_CHECK_FAIL)
				fail_msg("%s: %s: %s", name, r.c[i].name, r.c[i].detail);
			n += r.c[i].result == EX_CHECK_SKIP;
		}
		assert_int_equal(n_failed, 0);
		assert_int_equal(n, n_skipped + N_SANITIZED);
		assert_int_equal(r.n, 16);
	}
}

static void test_good(void **state)
{
	(void)state;
	expect_clean(".libs", "cpu", 0);
	expect_clean(".libs", "ref", 0);
	expect_clean("tests/unit/plugins/.libs", "example", 3); /* f32 only */
}

static void test_mistakes(void **state)
{
	(void)state;
	static const struct {
		const char *plugin, *mistake, *check, *detail;
		unsigned hang_s;
	} row[] = {
		{"wrong", "inexact", "parity f32", "instead of", 0},
		{"wrong", "crashes", "parity f32", "SIGSEGV", 0},
		{"wrong", "exits", "parity f32", "ended the process, with status 0", 0},
		{"wrong", "before", "parity f32", "overwrote memory before y", 0},
		{"wrong", "after", "parity f32", "overwrote memory after y", 0},
		{"wrong", "input", "parity f32", "overwrote x", 0},
		{"wrong", "weights", "parity f32", "overwrote the weights", 0},
		{"wrong", "positive_open", "open", "gave 1", 0},
		{"wrong", "positive_load", "parity f32", "gave 2", 0},
		{"wrong", "positive_run", "parity f32", "gave 3", 0},
		{"wrong", "company", "batch invariance", "in a batch of 23", 0},
		{"wrong", "crowd", "batch invariance", "in a batch of 150", 0},
		{"wrong", "hangs", "parity f32", "killed", 2},
		{"wrong", "any_device", "open", "-ENODEV", 0},
		{"wrong", "any_dtype", "refusals", "unknown dtype", 0},
		{"wrong", "leaks", "leaks", "memory grew", 0},
		{"wrong", "leaks_in_run", "leaks", "memory grew", 0},
		{"wrong", "files", "close", "open files after close()", 0},
		{"bad_major", NULL, "load", "major version", 0},
		{"absent", NULL, "load", "No such file", 0},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct results r;
		if (N_SANITIZED && strcmp(row[i].check, "leaks") == 0)
			continue;
		mistake = row[i].mistake;
		if (run("tests/unit/plugins/.libs", row[i].plugin, true, row[i].hang_s, &r) < 1)
			fail_msg("%s %s: nothing failed", row[i].plugin, mistake);
		const struct ex_check *c = find(&r, row[i].check);
		if (c->result != EX_CHECK_FAIL || !strstr(c->detail, row[i].detail))
			fail_msg("%s %s: %s: %d: %s", row[i].plugin, mistake, row[i].check, c->result, c->detail);
	}
	mistake = NULL;
}

/* What a plugin forked keeps the pipe open, and is ended with the plugin's process. Fails when the crash is called a hang, and by not
 * ending when the orphan lives. */
static void test_orphans(void **state)
{
	(void)state;
	struct results r;
	int status;
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	mistake = "forks";
	assert_true(run("tests/unit/plugins/.libs", "wrong", true, 2, &r) >= 1);
	mistake = NULL;
	const struct ex_check *c = find(&r, "parity f32");
	if (c->result != EX_CHECK_FAIL || !strstr(c->detail, "SIGSEGV"))
		fail_msg("%d: %s", c->result, c->detail);
	assert_true(waitpid(-1, &status, 0) > 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
}

/* The structs are the caller's only until load() returns; what they point to is the plugin's until unload(). */
static void test_kept_structs(void **state)
{
	(void)state;
	struct results r;
	mistake = "keeps_structs";
	assert_true(run("tests/unit/plugins/.libs", "wrong", true, 0, &r) >= 1);
	assert_int_equal(find(&r, "parity f32")->result, EX_CHECK_FAIL);
	mistake = NULL;
}

static void test_unfit_is_skipped(void **state)
{
	(void)state;
	struct results r;
	assert_int_equal(run("tests/unit/plugins/.libs", "unfit", true, 0, &r), 0);
	assert_int_equal(find(&r, "probe")->result, EX_CHECK_SKIP);
	assert_string_equal(find(&r, "probe")->detail, "the variant says so");
	assert_int_equal(find(&r, "parity f32")->result, EX_CHECK_SKIP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_orphans),
		cmocka_unit_test(test_kept_structs),
		cmocka_unit_test(test_unfit_is_skipped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
