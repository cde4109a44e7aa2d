/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/clock.h"
#include "gateway/topups.h"
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#define S    EX_NS_PER_S
#define REAL 1764000000

static char dir[64], trail[80];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_topups.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(trail, sizeof trail, "%s/trail", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(trail);
	return rmdir(dir);
}

struct seen {
	unsigned n_changed, n_unwritten;
	struct ex_topup_change last;
};

static void on_changed(void *ctx, const struct ex_topup_change *c)
{
	struct seen *s = ctx;
	s->n_changed++;
	s->last = *c;
}

static void on_unwritten(void *ctx, const struct ex_err *err)
{
	struct seen *s = ctx;
	assert_non_null(strstr(err->text, "trail"));
	s->n_unwritten++;
}

static struct ex_topups_opts opts(struct seen *s)
{
	struct ex_topups_opts o = {.trail = trail,
		.rules = {.enter_dwell_ns = 10 * S, .leave_dwell_ns = 20 * S},
		.horizon_s = 1000,
		.draw_min = 1,
		.capacity_tokens_s = 100,
		.changed = on_changed,
		.unwritten = on_unwritten,
		.ctx = s};
	for (int st = 0; st < EX_TOPUP_STATE_N; st++)
		for (int f = 0; f < EX_TOPUP_FIGURE_N; f++)
			o.rules.at[st][f] = (struct ex_topup_threshold){NAN, NAN};
	o.rules.at[EX_TOPUP_LIMITED][EX_TOPUP_COVER] = (struct ex_topup_threshold){0.9, 1.0};
	o.rules.at[EX_TOPUP_SUSPENDED][EX_TOPUP_COVER] = (struct ex_topup_threshold){0.4, 0.5};
	return o;
}

static struct ex_topups *make(struct seen *s)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_topups_opts o = opts(s);
	struct ex_topups *t = NULL;
	EXPECT_OK(err, ex_topups_open(&o, 0, &err, &t));
	return t;
}

/* n seconds in which tokens_s are used up and balances could buy `sold`. */
static void look(struct ex_topups *t, unsigned *now_s, unsigned n, double sold, double live, uint64_t tokens_s)
{
	for (unsigned i = 0; i < n; i++, ++*now_s) {
		struct ex_topups_sample s = {.tokens = *now_s * tokens_s, .live = live, .sold_tokens = sold};
		ex_topups_look(t, &s, *now_s * S, REAL + *now_s);
	}
}

static void test_figures_close_and_open(void **state)
{
	(void)state;
	struct seen seen = {0};
	struct ex_topups_view v;
	unsigned now = 0;
	unlink(trail);
	EX_CLEANUP(ex_topups_freep) struct ex_topups *t = make(&seen);
	look(t, &now, 100, 50000, 1, 50); /* 100 tokens/s for 1000 s, twice what was sold */
	ex_topups_view(t, REAL + now, &v);
	assert_int_equal(v.state, EX_TOPUP_OPEN);
	assert_true(v.figure[EX_TOPUP_COVER] == 2 && v.capacity_tokens_s == 100 && v.reopens_s == 0);
	look(t, &now, 11, 200000, 1, 50); /* half of what was sold */
	ex_topups_view(t, REAL + now, &v);
	assert_int_equal(v.state, EX_TOPUP_LIMITED);
	assert_int_equal(seen.n_changed, 1);
	assert_string_equal(seen.last.reason, "liability cover 0.50 < 0.90 for 10 s; queue wait p95 0.0 s");
	/* 100000 of it must be used up, 50 a second, and then it must be good for 20 s */
	assert_in_range(v.reopens_s, REAL + now + 2020, REAL + now + 2061);
	/* half of the hosts die: what the fleet can serve is halved in the same look */
	look(t, &now, 1, 200000, 0.5, 50);
	ex_topups_view(t, REAL + now, &v);
	assert_true(v.figure[EX_TOPUP_COVER] == 0.25 && v.capacity_tokens_s == 50);
	look(t, &now, 10, 200000, 0.5, 50);
	assert_int_equal(seen.last.to, EX_TOPUP_SUSPENDED);
	look(t, &now, 21, 90000, 1, 50);
	assert_int_equal(seen.last.to, EX_TOPUP_OPEN);
	assert_int_equal(seen.n_changed, 3);
	ex_topups_view(t, REAL + now, &v);
	assert_int_equal(v.n_history, 3);
	assert_int_equal(v.history[1].to, EX_TOPUP_SUSPENDED);
}

static void test_pins_outlive_the_process(void **state)
{
	(void)state;
	struct seen seen = {0};
	struct ex_err err = EX_ERR_INIT;
	struct ex_topups_view v;
	unsigned now = 0;
	unlink(trail);
	struct ex_topups *t = make(&seen);
	assert_int_equal(ex_topups_unpin(t, "root", REAL, &err), -EALREADY);
	assert_int_equal(ex_topups_pin(t, EX_TOPUP_SUSPENDED, "root", "x", REAL, REAL, &err), -EINVAL);
	EXPECT_OK(err,
		ex_topups_pin(t, EX_TOPUP_SUSPENDED, "unix:uid=0", "an outage: \"zone a\"\n", REAL + 100, REAL, &err));
	assert_int_equal(seen.last.to, EX_TOPUP_SUSPENDED);
	t = ex_topups_free(t);
	t = make(&seen);
	ex_topups_view(t, REAL + 1, &v);
	assert_true(v.state == EX_TOPUP_SUSPENDED && v.pinned && v.until_s == REAL + 100 && v.reopens_s == REAL + 100);
	assert_string_equal(v.last.by, "unix:uid=0");
	assert_string_equal(v.last.reason, "an outage: \"zone a\"\\x0a");
	look(t, &now, 100, 10, 1, 0);
	ex_topups_view(t, REAL + now, &v);
	assert_true(v.state == EX_TOPUP_SUSPENDED);
	look(t, &now, 1, 10, 1, 0);
	ex_topups_view(t, REAL + now, &v);
	assert_true(v.state == EX_TOPUP_OPEN && !v.pinned);
	ex_topups_free(t);
}

static void test_status(void **state)
{
	(void)state;
	struct seen seen = {0};
	struct ex_err err = EX_ERR_INIT;
	struct ex_str out = EX_STR_INIT;
	unlink(trail);
	EX_CLEANUP(ex_topups_freep) struct ex_topups *t = make(&seen);
	EXPECT_OK(err, ex_topups_pin(t, EX_TOPUP_WAITLIST, "root", "a \"reason\"", 0, REAL, &err));
	ex_topups_status(t, REAL + 5, &out);
	json_t *o = json_loads(out.s, 0, NULL);
	assert_non_null(o);
	assert_string_equal(json_string_value(json_object_get(o, "state")), "waitlist");
	assert_string_equal(json_string_value(json_object_get(o, "reason")), "a \"reason\"");
	assert_int_equal(json_integer_value(json_object_get(o, "since")), REAL);
	assert_true(json_is_true(json_object_get(o, "by_operator")));
	assert_true(
		json_is_null(json_object_get(o, "until")) && json_is_null(json_object_get(o, "expected_reopening")));
	assert_true(json_is_null(json_object_get(json_object_get(o, "figures"), "cover")));
	json_decref(o);
	ex_str_done(&out);
}

static off_t size_of_trail(void)
{
	int fd = open(trail, O_RDONLY | O_CLOEXEC);
	off_t n = lseek(fd, 0, SEEK_END);
	close(fd);
	return n;
}

static void append(const char *text)
{
	int fd = open(trail, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
	close(fd);
}

/* A crash in the middle of a line; thousands of lines; something that is no trail. */
static void test_trails(void **state)
{
	(void)state;
	struct seen seen = {0};
	struct ex_err err = EX_ERR_INIT;
	struct ex_topups_view v;
	unlink(trail);
	struct ex_topups *t = make(&seen);
	for (int i = 0; i < 2000; i++)
		EXPECT_OK(err, ex_topups_pin(t, i % 2 ? EX_TOPUP_OPEN : EX_TOPUP_LIMITED, "root",
				       "again and again and again and again", 0, REAL + i, &err));
	t = ex_topups_free(t);
	off_t whole = size_of_trail();
	append("{\"at\":176400");
	t = make(&seen);
	assert_true(size_of_trail() == whole);
	ex_topups_view(t, REAL, &v);
	assert_int_equal(v.n_history, EX_TOPUPS_HISTORY_MAX);
	assert_int_equal(v.last.real_s, REAL + 1999);
	EXPECT_OK(err, ex_topups_pin(t, EX_TOPUP_SUSPENDED, "root", "one more", 0, REAL + 5000, &err));
	t = ex_topups_free(t);
	t = make(&seen);
	ex_topups_view(t, REAL, &v);
	assert_string_equal(v.last.reason, "one more");
	t = ex_topups_free(t);
	append("no line of ours\n");
	struct ex_topups_opts o = opts(&seen);
	assert_int_equal(ex_topups_open(&o, 0, &err, &t), -EINVAL);
	assert_non_null(strstr(err.text, trail));
}

/* A disk that takes no more: an operator's change is refused and leaves no half line; one by figures holds, and that is told. */
static void test_full_disk(void **state)
{
	(void)state;
	struct seen seen = {0};
	struct ex_err err = EX_ERR_INIT;
	struct ex_topups_view v;
	struct rlimit before, tight;
	unsigned now = 0;
	unlink(trail);
	EX_CLEANUP(ex_topups_freep) struct ex_topups *t = make(&seen);
	EXPECT_OK(err, ex_topups_pin(t, EX_TOPUP_OPEN, "root", "x", REAL + 1, REAL, &err));
	off_t whole = size_of_trail();
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	tight = (struct rlimit){.rlim_cur = (rlim_t)whole + 10, .rlim_max = before.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	int rc = ex_topups_pin(t, EX_TOPUP_SUSPENDED, "root", "x", 0, REAL + 1, &err);
	ex_topups_view(t, REAL + 1, &v);
	off_t after = size_of_trail();
	look(t, &now, 12, 200000, 1, 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_true(rc < 0 && after == whole && v.state == EX_TOPUP_OPEN);
	assert_true(seen.n_unwritten > 0 && seen.last.to == EX_TOPUP_LIMITED);
	EXPECT_OK(err, ex_topups_pin(t, EX_TOPUP_SUSPENDED, "root", "x", 0, REAL + 99, &err));
	assert_int_equal(seen.last.from, EX_TOPUP_LIMITED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_figures_close_and_open),
		cmocka_unit_test(test_pins_outlive_the_process),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_trails),
		cmocka_unit_test(test_full_disk),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
