/* SPDX-License-Identifier: Apache-2.0 */
/* base/lock: counters by class, waits with a deadline. */
#include "unit.h"

#include "base/clock.h"
#include "base/lock.h"
#include <string.h>

struct sums {
	const char *name;
	uint64_t taken, waited;
};

static void pick(void *ctx, const char *name, uint64_t taken, uint64_t waited)
{
	struct sums *s = ctx;
	if (strcmp(name, s->name) == 0) {
		s->taken += taken;
		s->waited += waited;
	}
}

static void test_counts_by_class(void **state)
{
	(void)state;
	struct ex_lock a, b, other;
	struct sums s = {.name = "t-count"}, o = {.name = "t-other"};
	ex_lock_init(&a, "t-count");
	ex_lock_init(&b, "t-count");
	ex_lock_init(&other, "t-other");
	for (int i = 0; i < 3; i++) {
		ex_lock_take(&a);
		ex_lock_give(&a);
	}
	ex_lock_take(&b);
	ex_lock_give(&b);
	ex_lock_done(&a); /* what it counted stays in its class */
	ex_lock_each(pick, &s);
	ex_lock_each(pick, &o);
	assert_int_equal(s.taken, 4);
	assert_int_equal(s.waited, 0);
	assert_int_equal(o.taken, 0);
	ex_lock_done(&b);
	ex_lock_done(&other);
}

struct shared {
	struct ex_lock lock;
	pthread_cond_t cond;
	int value;
	_Atomic bool inside;
};

static void *add_one(void *arg)
{
	struct shared *s = arg;
	atomic_store(&s->inside, true);
	ex_lock_take(&s->lock);
	s->value++;
	pthread_cond_signal(&s->cond);
	ex_lock_give(&s->lock);
	return NULL;
}

static void test_wait(void **state)
{
	(void)state;
	struct shared s = {.value = 0};
	pthread_t t;
	ex_lock_init(&s.lock, "t-wait");
	ex_cond_init(&s.cond);
	ex_lock_take(&s.lock);
	assert_false(ex_cond_wait_until(&s.cond, &s.lock, ex_now_ns() + EX_NS_PER_MS));
	assert_int_equal(pthread_create(&t, NULL, add_one, &s), 0);
	while (s.value == 0)
		assert_true(ex_cond_wait_until(&s.cond, &s.lock, ex_now_ns() + 60 * EX_NS_PER_S));
	ex_lock_give(&s.lock);
	pthread_join(t, NULL);
	assert_int_equal(s.value, 1);
	ex_lock_done(&s.lock);
	pthread_cond_destroy(&s.cond);
}

static void *take_many(void *arg)
{
	struct shared *s = arg;
	for (int i = 0; i < 20000; i++) {
		ex_lock_take(&s->lock);
		s->value++;
		ex_lock_give(&s->lock);
	}
	return NULL;
}

static void test_excludes(void **state)
{
	(void)state;
	struct shared s = {.value = 0};
	struct sums c = {.name = "t-excl"};
	pthread_t t[2];
	ex_lock_init(&s.lock, "t-excl");
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, take_many, &s), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	ex_lock_each(pick, &c);
	assert_int_equal(s.value, 40000);
	assert_int_equal(c.taken, 40000);
	ex_lock_done(&s.lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts_by_class),
		cmocka_unit_test(test_wait),
		cmocka_unit_test(test_excludes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
