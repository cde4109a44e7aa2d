/* SPDX-License-Identifier: Apache-2.0 */
/* model/detok: characters split between tokens, ill-formed bytes, special tokens. */
#include "unit.h"

#include "model/tokenizer.h"
#include "small_tokenizer.h"

static struct ex_tokenizer *t;

static int setup(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	char dir[64] = "";
	json_t *root = small_tokenizer();
	char *text = json_dumps(root, 0);
	small_write(dir, "tokenizer.json", text);
	int r = ex_tokenizer_open(dir, &err, &t);
	small_remove(dir);
	free(text);
	json_decref(root);
	return r;
}

static int teardown(void **state)
{
	(void)state;
	t = ex_tokenizer_close(t);
	return 0;
}

/* Pushes the bytes of s one token each, and wants the text after them, then the text after the end. */
static void expect_bytes(const char *s, const char *want, const char *want_end)
{
	struct ex_detok d = {0};
	struct ex_str out = EX_STR_INIT;
	for (; *s; s++) {
		ex_detok_push(&d, t, SMALL_BYTES_ID + (uint8_t)*s, false, &out);
		assert_true(d.n_held <= 3);
	}
	assert_string_equal(out.s ? out.s : "", want);
	ex_detok_flush(&d, &out);
	assert_string_equal(out.s ? out.s : "", want_end);
	assert_int_equal(d.n_held, 0);
	ex_str_done(&out);
}

#define R "\xef\xbf\xbd"

static void test_bytes(void **state)
{
	(void)state;
	expect_bytes("plain", "plain", "plain");
	expect_bytes("é中😀", "é中😀", "é中😀");
	expect_bytes("a\xe4\xb8", "a", "a" R); /* held back, then given up as one */
	expect_bytes("a\xf0\x9f\x98", "a", "a" R);
	expect_bytes("\xe4\xb8z", R "z", R "z");
	expect_bytes("\xe4\xb8\xe4\xb8\xad", R "中", R "中");
	expect_bytes("\x80\xff\xfez", R R R "z", R R R "z");
	expect_bytes("\xc0\xaf", R R, R R);                 /* overlong: no sequence begins so */
	expect_bytes("\xe0\x80\xaf", R R R, R R R);         /* overlong in the second byte */
	expect_bytes("\xed\xa0\x80", R R R, R R R);         /* a surrogate */
	expect_bytes("\xf4\x90\x80\x80", R R R R, R R R R); /* past U+10FFFF */
	expect_bytes("\xf5", R, R);
	expect_bytes("\xf0\x9f\x41\xf0\x9f", R "A", R "A" R);
}

static void test_special(void **state)
{
	(void)state;
	static const uint32_t ids[] = {SMALL_BOS_ID, SMALL_BYTES_ID + 0xc3, SMALL_EOS_ID, SMALL_BYTES_ID + 0xa9,
		SMALL_USER_ID, 268, UINT32_MAX};
	struct ex_detok d = {0}, keep = {0};
	struct ex_str out = EX_STR_INIT, kept = EX_STR_INIT;
	for (size_t i = 0; i < EX_ARRAY_LEN(ids); i++) {
		ex_detok_push(&d, t, ids[i], false, &out);
		ex_detok_push(&keep, t, ids[i], true, &kept);
	}
	assert_string_equal(out.s, "é<｜User｜>"); /* User is not a special token in DeepSeek's files */
	assert_string_equal(kept.s, SMALL_BOS R SMALL_EOS R "<｜User｜>");
	ex_str_done(&out);
	ex_str_done(&kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_special),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
