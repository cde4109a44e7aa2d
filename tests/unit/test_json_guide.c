/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/json_guide: what the automaton takes, and that whatever is chosen of what it lets through is a JSON object, however few tokens there are. */
#include "unit.h"

#include "base/str.h"
#include "gateway/json_guide.h"
#include "small_tokenizer.h"

enum { VOCAB = 280 };

static struct ex_json_vocab *vocab;
static struct ex_tokenizer *tokenizer;
static const uint32_t eos = SMALL_EOS_ID;

static int setup(void **state)
{
	struct ex_err err = EX_ERR_INIT;
	char dir[64] = "";
	json_t *root = small_tokenizer();
	char *text = json_dumps(root, JSON_COMPACT);
	(void)state;
	small_write(dir, "tokenizer.json", text);
	EXPECT_OK(err, ex_tokenizer_open(dir, &err, &tokenizer));
	free(text);
	json_decref(root);
	small_remove(dir);
	const struct ex_json_vocab_opts o = {.tokenizer = tokenizer,
		.eos = &eos,
		.n_eos = 1,
		.think_open = SMALL_THINK_ID,
		.think_close = SMALL_END_THINK_ID};
	EXPECT_OK(err, ex_json_vocab_new(&o, &err, &vocab));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ex_json_vocab_free(vocab);
	ex_tokenizer_close(tokenizer);
	return 0;
}

/* How many bytes of text the automaton takes; *ret_done: and it is whole. */
static size_t taken(const char *text, bool *ret_done)
{
	struct ex_json_state s;
	size_t n = 0;
	ex_json_state_init(&s);
	while (text[n] && ex_json_state_step(&s, (unsigned char)text[n]))
		n++;
	*ret_done = !text[n] && ex_json_state_done(&s);
	return n;
}

static void test_automaton(void **state)
{
	static const char *const whole[] = {"{}", " \n{ } ", "{\"a\":1}", "{\"\":\"\\u00e9\\n\\\"é\xff\"}",
		"{\"a\":[],\"b\":[{}, [0]]}", "{\"a\" : -0.5e+10 , \"b\":1E5}", "{\"a\":true,\"b\":false,\"c\":null}",
		"{\"a\":[-1,0,10,2.5]}"};
	static const struct {
		const char *text;
		size_t n; /* bytes that are taken */
	} broken[] = {{"[]", 0}, {"1", 0}, {"\"\"", 0}, {"{]", 1}, {"{,", 1}, {"{\"a\",", 4}, {"{\"a\":}", 5},
		{"{\"a\":1,}", 7}, {"{\"a\":[1,]}", 8}, {"{\"a\":01", 6}, {"{\"a\":-}", 6}, {"{\"a\":1.}", 7},
		{"{\"a\":1e}", 7}, {"{\"a\":tru}", 8}, {"{\"a\":\"\n", 6}, {"{\"a\":\"\\x", 7}, {"{\"a\":\"\\ud8", 9},
		{"{\"a\":\"\\u0000", 11}, {"{\"a\":[1}", 7}, {"{}{", 2}, {"{\"a\":1234567890123456", 20}, {"{1", 1},
		{"{\"a\" 1", 5}};
	bool done;
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(whole); i++) {
		size_t n = strlen(whole[i]), want = n;
		while (want && whole[i][want - 1] == ' ')
			want--; /* nothing follows the end */
		if (taken(whole[i], &done) != want || (want == n && !done))
			fail_msg("%s", whole[i]);
	}
	for (size_t i = 0; i < EX_ARRAY_LEN(broken); i++)
		if (taken(broken[i].text, &done) != broken[i].n || done)
			fail_msg("%s: %zu bytes were taken", broken[i].text, taken(broken[i].text, &done));
}

/* The shortest end is one byte shorter after one of its bytes, in every state that texts lead to. */
static void test_left(void **state)
{
	static const char *const texts[] = {
		"{\"a\\\"\\u12aB\":[true,-1.5e-3,{\"b\":null}],\"c\":{\"\\u0001\":false}}", "{\"\\ud7ff\":[0,\"x\"]}"};
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(texts); i++) {
		struct ex_json_state s;
		ex_json_state_init(&s);
		for (const char *c = texts[i]; *c; c++) {
			bool nearer = false;
			assert_true(ex_json_state_step(&s, (unsigned char)*c));
			for (unsigned b = 0; b < 256 && !ex_json_state_done(&s); b++) {
				struct ex_json_state t = s;
				nearer |= ex_json_state_step(&t, (unsigned char)b) &&
					  ex_json_state_left(&t) + 1 == ex_json_state_left(&s);
			}
			assert_true(nearer || ex_json_state_done(&s));
		}
		assert_int_equal(ex_json_state_left(&s), 0);
	}
}

static uint32_t seed;

static uint32_t draw(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

static uint32_t best(const float *logits)
{
	uint32_t id = 0;
	for (uint32_t i = 1; i < VOCAB; i++)
		if (logits[i] > logits[id])
			id = i;
	return id;
}

/* A model of random wishes writes an answer within n tokens; thinks: after a reasoning. */
static void write_one(uint32_t n, bool thinks)
{
	struct ex_json_guide g;
	struct ex_str text = EX_STR_INIT;
	float logits[VOCAB];
	uint32_t id = UINT32_MAX;
	ex_json_guide_init(&g, vocab);
	for (; n && id != SMALL_EOS_ID; n--) {
		for (uint32_t i = 0; i < VOCAB; i++)
			logits[i] = (float)(draw() % 1000);
		assert_true(ex_json_guide_mask(&g, logits, VOCAB, thinks, n));
		id = best(logits);
		assert_true(logits[id] >= 0);
		if (thinks) {
			assert_true(id != SMALL_EOS_ID);
			thinks = id != SMALL_END_THINK_ID;
		} else if (id != SMALL_EOS_ID) {
			size_t bytes;
			const char *s = ex_tokenizer_bytes(tokenizer, id, &bytes);
			ex_str_addn(&text, s, bytes);
			ex_json_guide_take(&g, id);
		}
	}
	assert_int_equal(id, SMALL_EOS_ID);
	for (size_t i = 0; i < text.n; i++) /* as the detokenizer would with what is no UTF-8 */
		if ((unsigned char)text.s[i] >= 0x80)
			text.s[i] = '?';
	json_error_t why;
	json_t *v = json_loadb(text.s, text.n, 0, &why);
	if (!json_is_object(v))
		fail_msg("%s: %s", why.text, text.s);
	json_decref(v);
	ex_str_done(&text);
}

static void test_always_parses(void **state)
{
	(void)state;
	for (seed = 1; seed < 400; seed++) {
		const uint32_t kept = seed;
		write_one(EX_JSON_GUIDE_TOKENS_MIN + kept % 40, false);
		write_one(EX_JSON_GUIDE_TOKENS_MIN + kept % 70, true);
		write_one(3, false);
		seed = kept;
	}
}

static void test_unfit(void **state)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_json_vocab *v;
	const struct ex_json_vocab_opts o = {.tokenizer = tokenizer, .think_open = -1, .think_close = -1};
	struct ex_json_guide g;
	float logits[VOCAB] = {0};
	(void)state;
	assert_int_equal(ex_json_vocab_new(&o, &err, &v), -ENOTSUP);
	ex_json_guide_init(&g, vocab);
	assert_false(ex_json_guide_mask(&g, logits, VOCAB, false, 2)); /* too few for an answer */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_automaton),
		cmocka_unit_test(test_left),
		cmocka_unit_test(test_always_parses),
		cmocka_unit_test(test_unfit),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
