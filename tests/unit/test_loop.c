/* SPDX-License-Identifier: Apache-2.0 */
/* net/loop: posts, timers, turns, the end. */
#include "unit.h"

#include "net/loop.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

struct fixture {
	struct ex_loop *loop;
	sem_t sem;
	pthread_t thread;
	int order[100], n;
	struct ex_timer *timer;
	_Atomic int n_runs;
};

static int setup(void **state)
{
	static struct fixture f;
	struct ex_err err = EX_ERR_INIT;
	memset(&f, 0, sizeof f);
	sem_init(&f.sem, 0, 0);
	ex_net_init();
	EXPECT_OK(err, ex_loop_new("test", &err, &f.loop));
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	ex_loop_free(f->loop);
	ex_net_done();
	sem_destroy(&f->sem);
	return 0;
}

struct item {
	struct fixture *f;
	int i;
};

static void note(void *ctx)
{
	struct item *it = ctx;
	it->f->order[it->f->n++] = it->i;
	it->f->thread = pthread_self();
	if (it->i == 99)
		sem_post(&it->f->sem);
}

/* Posts run in order, on the loop's thread and not on ours. */
static void test_posts_run_in_order(void **state)
{
	struct fixture *f = *state;
	struct item items[100];
	for (int i = 0; i < 100; i++) {
		items[i] = (struct item){f, i};
		assert_int_equal(ex_loop_post(f->loop, note, &items[i]), 0);
	}
	sem_wait(&f->sem);
	assert_int_equal(f->n, 100);
	for (int i = 0; i < 100; i++)
		assert_int_equal(f->order[i], i);
	assert_false(pthread_equal(f->thread, pthread_self()));
}

/* What was posted before free has run when free returns. */
static void test_free_runs_what_was_posted(void **state)
{
	struct fixture *f = *state;
	struct item items[99];
	for (int i = 0; i < 99; i++) {
		items[i] = (struct item){f, i};
		assert_int_equal(ex_loop_post(f->loop, note, &items[i]), 0);
	}
	f->loop = ex_loop_free(f->loop);
	assert_int_equal(f->n, 99);
}

static void tick(void *ctx)
{
	struct fixture *f = ctx;
	if (atomic_fetch_add(&f->n_runs, 1) == 2)
		sem_post(&f->sem);
}

/* A timer runs again and again, and not after cancel returned. */
static void test_timer_repeats_until_cancelled(void **state)
{
	struct fixture *f = *state;
	struct ex_timer *t;
	assert_int_equal(ex_timer_start(f->loop, 1, tick, f, &t), 0);
	sem_wait(&f->sem);
	assert_null(ex_timer_cancel(t));
	int n = f->n_runs;
	assert_true(n >= 3);
	struct fixture other = {0};
	sem_init(&other.sem, 0, 0);
	assert_int_equal(ex_timer_start(f->loop, 1, tick, &other, &t), 0);
	sem_wait(&other.sem); /* three periods later */
	ex_timer_cancel(t);
	sem_destroy(&other.sem);
	assert_int_equal(f->n_runs, n);
}

static void tick_once(void *ctx)
{
	struct fixture *f = ctx;
	f->n_runs++;
	f->timer = ex_timer_cancel(f->timer);
	sem_post(&f->sem);
}

/* A timer may cancel itself from its own callback. */
static void test_timer_cancels_itself(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(ex_timer_start(f->loop, 1, tick_once, f, &f->timer), 0);
	sem_wait(&f->sem);
	struct ex_timer *t;
	sem_t *sem = &f->sem;
	struct fixture other = {0};
	sem_init(&other.sem, 0, 0);
	assert_int_equal(ex_timer_start(f->loop, 1, tick, &other, &t), 0);
	sem_wait(&other.sem); /* three periods later */
	ex_timer_cancel(t);
	assert_int_equal(sem_trywait(sem), -1);
	assert_int_equal(f->n_runs, 1);
	sem_destroy(&other.sem);
}

static void test_timers_are_limited(void **state)
{
	struct fixture *f = *state;
	struct ex_timer *t[EX_LOOP_TIMERS_MAX], *one_more;
	for (size_t i = 0; i < EX_LOOP_TIMERS_MAX; i++)
		assert_int_equal(ex_timer_start(f->loop, 60000, tick, f, &t[i]), 0);
	assert_int_equal(ex_timer_start(f->loop, 60000, tick, f, &one_more), -ENOSPC);
	ex_timer_cancel(t[7]);
	assert_int_equal(ex_timer_start(f->loop, 60000, tick, f, &one_more), 0);
	/* the rest is left to ex_loop_free */
}

/* The thread of an idle loop turns by itself. */
static void test_idle_loop_turns(void **state)
{
	struct fixture *f = *state;
	uint64_t n = ex_loop_turns(f->loop);
	while (ex_loop_turns(f->loop) < n + 2)
		usleep(1000); /* a loop that sleeps for ever hangs the test */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_posts_run_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_free_runs_what_was_posted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer_repeats_until_cancelled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer_cancels_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timers_are_limited, setup, teardown),
		cmocka_unit_test_setup_teardown(test_idle_loop_turns, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
