/* SPDX-License-Identifier: Apache-2.0 */
/* expert/words: each word opens one stream, and no other one does. */
#include "unit.h"

#include "base/macro.h"
#include "expert/words.h"
#include <pthread.h>
#include <string.h>

static void test_once(void **state)
{
	(void)state;
	struct ex_words *w = ex_words_new();
	char a[EX_WORD_MAX], b[EX_WORD_MAX];
	assert_int_equal(ex_words_give(w, a), 0);
	assert_int_equal(ex_words_give(w, b), 0);
	assert_int_equal(strlen(a), EX_WORD_MAX - 1);
	assert_string_not_equal(a, b);
	assert_true(ex_words_take(w, a));
	assert_false(ex_words_take(w, a));
	assert_true(ex_words_take(w, b));
	ex_words_free(w);
}

static void test_strangers(void **state)
{
	(void)state;
	struct ex_words *w = ex_words_new();
	char a[EX_WORD_MAX], zeros[EX_WORD_MAX] = {0};
	assert_int_equal(ex_words_give(w, a), 0);
	assert_false(ex_words_take(w, ""));
	assert_false(ex_words_take(w, "0123456789abcdef"));
	memset(zeros, '0', EX_WORD_MAX - 1);
	assert_false(ex_words_take(w, zeros));
	a[5] ^= 1;
	assert_false(ex_words_take(w, a));
	a[5] ^= 1;
	assert_true(ex_words_take(w, a));
	ex_words_free(w);
}

/* The table is bounded: of more words than it holds the oldest are forgotten. */
static void test_oldest_is_forgotten(void **state)
{
	(void)state;
	struct ex_words *w = ex_words_new();
	char first[EX_WORD_MAX], second[EX_WORD_MAX], word[EX_WORD_MAX];
	assert_int_equal(ex_words_give(w, first), 0);
	assert_int_equal(ex_words_give(w, second), 0);
	for (int i = 1; i < EX_WORDS_MAX; i++)
		assert_int_equal(ex_words_give(w, word), 0);
	assert_false(ex_words_take(w, first));
	assert_true(ex_words_take(w, second));
	assert_true(ex_words_take(w, word));
	ex_words_free(w);
}

struct race {
	struct ex_words *w;
	const char *word;
	bool won;
};

static void *take(void *arg)
{
	struct race *r = arg;
	r->won = ex_words_take(r->w, r->word);
	return NULL;
}

static void test_two_takers(void **state)
{
	(void)state;
	struct ex_words *w = ex_words_new();
	for (int i = 0; i < 50; i++) {
		char word[EX_WORD_MAX];
		pthread_t t[2];
		struct race r[2] = {{w, word, false}, {w, word, false}};
		assert_int_equal(ex_words_give(w, word), 0);
		for (int k = 0; k < 2; k++)
			assert_int_equal(pthread_create(&t[k], NULL, take, &r[k]), 0);
		for (int k = 0; k < 2; k++)
			pthread_join(t[k], NULL);
		assert_int_equal(r[0].won + r[1].won, 1);
	}
	ex_words_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_once),
		cmocka_unit_test(test_strangers),
		cmocka_unit_test(test_oldest_is_forgotten),
		cmocka_unit_test(test_two_takers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
