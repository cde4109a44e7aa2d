/* SPDX-License-Identifier: Apache-2.0 */
/* engine/jobs: in order, bounded, and none is forgotten at the end. */
#include "unit.h"

#include "engine/jobs.h"
#include <pthread.h>

#define N 5

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static struct ex_job *ran[N];
static int n_ran;

static void run(struct ex_job *j)
{
	pthread_mutex_lock(&gate);
	ran[n_ran++] = j;
	pthread_mutex_unlock(&gate);
}

static void test_order_bound_and_end(void **state)
{
	(void)state;
	struct ex_jobs *s;
	struct ex_job j[N];
	int n = 0;
	assert_int_equal(ex_jobs_new("jobs", 2, &s), 0);
	pthread_mutex_lock(&gate); /* the first one may be on the thread already, and stays there */
	for (; n < N; n++) {
		j[n].run = run;
		if (!ex_jobs_push(s, &j[n]))
			break;
	}
	assert_in_range(n, 2, 3);
	pthread_mutex_unlock(&gate);
	assert_null(ex_jobs_free(s));
	assert_int_equal(n_ran, n);
	for (int i = 0; i < n; i++)
		assert_ptr_equal(ran[i], &j[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_bound_and_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
