/* SPDX-License-Identifier: Apache-2.0 */
/* base/metrics: series, quantiles, text form. */
#include "unit.h"

#include "base/metrics.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static char *text(void)
{
	struct ex_str out = EX_STR_INIT;
	ex_metrics_write(&out);
	return ex_str_take(&out);
}

static void expect_line(const char *line)
{
	EX_CLEANUP(ex_freep) char *t = text();
	char want[256];
	snprintf(want, sizeof want, "\n%s\n", line);
	if (!strstr(t, want))
		fail_msg("no line '%s' in:\n%s", line, t);
}

static void test_counter_and_gauge(void **state)
{
	(void)state;
	struct ex_metric *c = ex_metric(EX_M_PROMPT_TOKENS, NULL), *g = ex_metric(EX_M_KV_USAGE, NULL);
	expect_line("expertd_prompt_tokens_total 0");
	ex_metric_add(c, 40);
	ex_metric_add(c, 2);
	ex_metric_set(g, 0.25);
	assert_int_equal(ex_metric_count(c), 42);
	expect_line("# TYPE expertd_prompt_tokens_total counter");
	expect_line("expertd_prompt_tokens_total 42");
	expect_line("expertd_kv_cache_usage_perc 0.25");
}

static void test_labels(void **state)
{
	(void)state;
	struct ex_metric *a = ex_metric(EX_M_DISPATCH_ROWS, "h1"), *b = ex_metric(EX_M_DISPATCH_ROWS, "a\"b\\c\nd");
	assert_ptr_equal(a, ex_metric(EX_M_DISPATCH_ROWS, "h1"));
	assert_ptr_not_equal(a, b);
	ex_metric_add(a, 7);
	ex_metric_add(b, 1);
	expect_line("expertd_dispatch_rows_total{host=\"h1\"} 7");
	expect_line("expertd_dispatch_rows_total{host=\"a\\\"b\\\\c\\nd\"} 1");
}

static void test_histogram(void **state)
{
	(void)state;
	struct ex_metric *h = ex_metric(EX_M_TTFT, NULL);
	assert_true(isnan(ex_metric_quantile(h, 0.5)));
	for (int i = 0; i < 99; i++)
		ex_metric_observe(h, 15e-6); /* in (10 us, 20 us] */
	ex_metric_observe(h, 1000);          /* beyond the last bound */
	assert_int_equal(ex_metric_count(h), 100);
	double p50 = ex_metric_quantile(h, 0.5);
	assert_true(p50 > 10e-6 && p50 <= 20e-6);
	assert_true(fabs(ex_metric_quantile(h, 1) - ldexp(10e-6, 23)) < 1e-6);
	expect_line("expertd_time_to_first_token_seconds_bucket{le=\"1e-05\"} 0");
	expect_line("expertd_time_to_first_token_seconds_bucket{le=\"2e-05\"} 99");
	expect_line("expertd_time_to_first_token_seconds_bucket{le=\"+Inf\"} 100");
	expect_line("expertd_time_to_first_token_seconds_count 100");
	expect_line("expertd_time_to_first_token_seconds_sum 1000.00149");
	ex_metric_observe(ex_metric(EX_M_DISPATCH_SECONDS, "h9"), NAN);
	expect_line("expertd_dispatch_seconds_bucket{host=\"h9\",le=\"1e-05\"} 1");
	expect_line("expertd_dispatch_seconds_count{host=\"h9\"} 1");
}

/* More label values than there is room for share one series, and it is shown. Last: it fills the registry. */
static void test_overflow(void **state)
{
	(void)state;
	struct ex_metric *m = NULL;
	char label[32];
	for (int i = 0; i < EX_METRIC_SERIES_MAX + 10; i++) {
		snprintf(label, sizeof label, "x%d", i);
		m = ex_metric(EX_M_DISPATCH_ERRORS, label);
	}
	assert_ptr_equal(m, ex_metric(EX_M_DISPATCH_ERRORS, "one more"));
	ex_metric_add(m, 3);
	expect_line("expertd_dispatch_errors_total{host=\"_other\"} 3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counter_and_gauge),
		cmocka_unit_test(test_labels),
		cmocka_unit_test(test_histogram),
		cmocka_unit_test(test_overflow),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
