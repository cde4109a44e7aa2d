/* SPDX-License-Identifier: Apache-2.0 */
/* engine/text: stop strings across tokens, held-back beginnings, the think channel, whole characters. */
#include "unit.h"

#include "engine/text.h"
#include "small_tokenizer.h"

static struct ex_tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
	char dir[64] = "";
	struct ex_err err = EX_ERR_INIT;
	json_t *root = small_tokenizer();
	char *text = json_dumps(root, JSON_COMPACT);
	(void)state;
	small_write(dir, "tokenizer.json", text);
	int rc = ex_tokenizer_open(dir, &err, &tokenizer);
	free(text);
	json_decref(root);
	small_remove(dir);
	return rc;
}

static int close_tokenizer(void **state)
{
	(void)state;
	tokenizer = ex_tokenizer_close(tokenizer);
	return 0;
}

static struct ex_text make(const char *const *stop, uint32_t n_stop)
{
	struct ex_text t;
	const struct ex_text_opts o = {
		.tokenizer = tokenizer,
		.think_open = SMALL_THINK_ID,
		.think_close = SMALL_END_THINK_ID,
		.stop = stop,
		.n_stop = n_stop,
	};
	ex_text_init(&t, &o);
	return t;
}

/* One token per byte of s, and what is ready for the client after each of them is appended to `seen`, parted by '|'. */
static void push_bytes(struct ex_text *t, const char *s, struct ex_str *seen)
{
	for (; *s; s++) {
		assert_true(ex_text_push(t, SMALL_BYTES_ID + (uint8_t)*s));
		if (t->out.n)
			ex_str_addn(seen, t->out.s, t->out.n);
		ex_str_add(seen, "|");
		ex_text_reset(t);
	}
}

static void test_stop_across_tokens(void **state)
{
	(void)state;
	static const char *const stop[] = {"END", "\n\n"};
	struct ex_text t = make(stop, 2);
	struct ex_str seen = EX_STR_INIT;
	push_bytes(&t, "aEEND!", &seen);
	assert_string_equal(seen.s, "a||E||||"); /* an E may begin END until the next one shows that it did not */
	assert_true(t.stopped);
	assert_true(ex_text_flush(&t));
	assert_int_equal(t.out.n, 0);
	ex_str_done(&seen);
	ex_text_done(&t);
}

static void test_stop_inside_one_token(void **state)
{
	(void)state;
	static const char *const stop[] = {"ell"};
	struct ex_text t = make(stop, 1);
	assert_true(ex_text_push(&t, SMALL_MERGES_ID + 3)); /* "hello" */
	assert_true(t.stopped);
	assert_string_equal(t.out.s, "h");
	ex_text_done(&t);
}

static void test_held_text_comes_out_at_the_end(void **state)
{
	(void)state;
	static const char *const stop[] = {"xyz"};
	struct ex_text t = make(stop, 1);
	struct ex_str seen = EX_STR_INIT;
	push_bytes(&t, "wxy", &seen);
	assert_string_equal(seen.s, "w|||");
	assert_true(ex_text_flush(&t));
	assert_false(t.stopped);
	assert_string_equal(t.out.s, "xy");
	ex_str_done(&seen);
	ex_text_done(&t);
}

/* "aab" in "aaab": after the mismatch the search goes back one place, not to the start. */
static void test_overlapping_beginning(void **state)
{
	(void)state;
	static const char *const stop[] = {"aab"};
	struct ex_text t = make(stop, 1);
	struct ex_str seen = EX_STR_INIT;
	push_bytes(&t, "aaab", &seen);
	assert_string_equal(seen.s, "||a||");
	assert_true(t.stopped);
	ex_str_done(&seen);
	ex_text_done(&t);
}

static void test_characters_stay_whole(void **state)
{
	(void)state;
	static const char *const stop[] = {"\xe4\xb8\xad"};
	struct ex_text t = make(stop, 1);
	struct ex_str seen = EX_STR_INIT;
	push_bytes(&t, "\xc3\xa9\xe4\xb8\xad", &seen);
	assert_string_equal(seen.s, "|\xc3\xa9||||");
	assert_true(t.stopped);
	ex_str_done(&seen);
	ex_text_done(&t);
}

/* Held back behind a possible stop string, what follows a NUL must come out with it. */
static void test_nul_cuts_nothing(void **state)
{
	(void)state;
	static const char *const stop[] = {"\nX"};
	struct ex_text t = make(stop, 1);
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + '\n'));
	assert_true(ex_text_push(&t, SMALL_BYTES_ID));
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + 'a'));
	assert_string_equal(t.out.s, "\n\xef\xbf\xbd"
				     "a");
	assert_int_equal(t.out.n, strlen(t.out.s));
	ex_text_done(&t);
}

static void test_think_channel(void **state)
{
	(void)state;
	static const char *const stop[] = {"b"};
	struct ex_text t = make(stop, 1);
	assert_true(ex_text_push(&t, SMALL_THINK_ID));
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + 'b'));  /* a stop string in the reasoning stops nothing */
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + 0xc3)); /* half a character is not carried over */
	assert_true(ex_text_push(&t, SMALL_END_THINK_ID));
	assert_string_equal(t.reasoning.s, "b\xef\xbf\xbd");
	assert_int_equal(t.out.n, 0);
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + 'a'));
	assert_string_equal(t.out.s, "a");
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + 'b'));
	assert_true(t.stopped);
	ex_text_done(&t);
}

static void test_keep_special_shows_tags(void **state)
{
	(void)state;
	struct ex_text t = make(NULL, 0);
	t.o.keep_special = true;
	assert_true(ex_text_push(&t, SMALL_THINK_ID));
	assert_true(ex_text_push(&t, SMALL_BYTES_ID + 'r'));
	assert_true(ex_text_push(&t, SMALL_END_THINK_ID));
	assert_true(ex_text_push(&t, SMALL_BOS_ID));
	assert_string_equal(t.reasoning.s, "<think>r</think>");
	assert_string_equal(t.out.s, SMALL_BOS);
	ex_text_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stop_across_tokens),
		cmocka_unit_test(test_stop_inside_one_token),
		cmocka_unit_test(test_held_text_comes_out_at_the_end),
		cmocka_unit_test(test_overlapping_beginning),
		cmocka_unit_test(test_characters_stay_whole),
		cmocka_unit_test(test_nul_cuts_nothing),
		cmocka_unit_test(test_think_channel),
		cmocka_unit_test(test_keep_special_shows_tags),
	};
	return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
