/* SPDX-License-Identifier: Apache-2.0 */
/* model/tokenizer: merging, splitting, added tokens, and every kind of damage to tokenizer.json. Equality with the
 * `tokenizers` library is tests/golden/tokenizer's. */
#include "unit.h"

#include "model/tokenizer_impl.h"
#include "small_tokenizer.h"
#include <pthread.h>

/* Opens root as tokenizer.json, and config (may be NULL) as tokenizer_config.json. Takes root. */
static int open_json(json_t *root, const char *config, struct ex_err *err, struct ex_tokenizer **ret)
{
	char dir[64] = "", *text = json_dumps(root, 0);
	assert_non_null(text);
	small_write(dir, "tokenizer.json", text);
	if (config)
		small_write(dir, "tokenizer_config.json", config);
	int r = ex_tokenizer_open(dir, err, ret);
	small_remove(dir);
	free(text);
	json_decref(root);
	return r;
}

static struct ex_tokenizer *open_small(json_t *root)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tokenizer *t = NULL;
	EXPECT_OK(err,
		open_json(root, "{\"bos_token\": {\"content\": \"" SMALL_BOS "\"}, \"eos_token\": \"" SMALL_EOS "\"}",
			&err, &t));
	return t;
}

/* The ids of text as "1 2 3", compared with want. */
static void expect_ids(const struct ex_tokenizer *t, const char *text, unsigned flags, const char *want)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_str got = EX_STR_INIT;
	uint32_t *ids = NULL;
	size_t n = 0, cap = 0;
	EXPECT_OK(err, ex_tokenizer_encode(t, text, strlen(text), flags, &err, &ids, &n, &cap));
	for (size_t i = 0; i < n; i++)
		ex_str_addf(&got, i ? " %u" : "%u", ids[i]);
	assert_string_equal(got.s ? got.s : "", want);
	ex_str_done(&got);
	free(ids);
}

static void test_merges(void **state)
{
	(void)state;
	struct ex_tokenizer *t = open_small(small_tokenizer());
	expect_ids(t, "", 0, "");
	expect_ids(t, "hello", 0, "262");   /* h e l l o → he ll → hell → hello */
	expect_ids(t, " hello", 0, "263");  /* the space belongs to the piece */
	expect_ids(t, "aaa", 0, "264 100"); /* leftmost first */
	expect_ids(t, "aaaaaaa", 0, "265 264 100");
	expect_ids(t, "你", 0, "266 163"); /* e4 bd · a0: a token may end within a character */
	expect_ids(t, "12", 0, "52 53");
	expect_ids(t, "hello1hello", 0, "262 52 262");
	assert_int_equal(ex_tokenizer_vocab_size(t), SMALL_N_IDS);
	ex_tokenizer_close(t);
}

static void test_ignore_merges(void **state)
{
	(void)state;
	json_t *root = small_tokenizer();
	json_array_remove(json_object_get(json_object_get(root, "model"), "merges"), 3);
	struct ex_tokenizer *t = open_small(json_incref(root));
	expect_ids(t, "hello", 0, "261 114"); /* nothing leads to "hello" any more */
	ex_tokenizer_close(t);
	json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_true());
	t = open_small(root);
	expect_ids(t, "hello", 0, "262");
	expect_ids(t, "hellohello", 0, "261 114 261 114");
	ex_tokenizer_close(t);
}

static void test_merges_as_pairs(void **state)
{
	(void)state;
	json_t *root = small_tokenizer(), *merges = json_array();
	for (int i = 0; i < SMALL_N_MERGES; i++)
		json_array_append_new(merges, json_pack("[s, s]", small_merges[i][0], small_merges[i][1]));
	json_object_set_new(json_object_get(root, "model"), "merges", merges);
	struct ex_tokenizer *t = open_small(root);
	expect_ids(t, "hello aaa", 0, "262 35 264 100");
	ex_tokenizer_close(t);
}

static void test_added(void **state)
{
	(void)state;
	struct ex_tokenizer *t = open_small(small_tokenizer());
	expect_ids(t, "a<think>b", EX_ENCODE_SPECIAL, "100 272 101");
	expect_ids(t, "<｜User｜><｜User｜>hello" SMALL_EOS, EX_ENCODE_SPECIAL | EX_ENCODE_BOS, "0 270 270 262 1");
	expect_ids(t, "<think", EX_ENCODE_SPECIAL, "63 119 107 108 113 110");
	/* what a user writes stays text, a control token's name too */
	expect_ids(t, "<think>", 0, "63 119 107 108 113 110 65");
	expect_ids(t, "hello", EX_ENCODE_BOS, "0 262");
	assert_int_equal(ex_tokenizer_bos(t), SMALL_BOS_ID);
	assert_int_equal(ex_tokenizer_eos(t), SMALL_EOS_ID);
	assert_int_equal(ex_tokenizer_id(t, "</think>"), SMALL_END_THINK_ID);
	assert_int_equal(ex_tokenizer_id(t, "Ġhello"), 263);
	assert_int_equal(ex_tokenizer_id(t, " hello"), -1);
	assert_true(ex_tokenizer_is_special(t, SMALL_BOS_ID));
	assert_false(ex_tokenizer_is_special(t, SMALL_USER_ID));
	assert_false(ex_tokenizer_is_special(t, UINT32_MAX));
	size_t n;
	assert_memory_equal(ex_tokenizer_bytes(t, 263, &n), " hello", 6);
	assert_int_equal(n, 6);
	assert_non_null(ex_tokenizer_bytes(t, 268, &n)); /* a hole in the ids */
	assert_int_equal(n, 0);
	ex_tokenizer_bytes(t, SMALL_N_IDS, &n);
	assert_int_equal(n, 0);
	ex_tokenizer_close(t);
}

/* Adds a token with flags to the file. */
static void add_flagged(json_t *root, json_int_t id, const char *text, const char *flag)
{
	json_t *list = json_object_get(root, "added_tokens");
	small_add(list, id, text, 0);
	if (flag)
		json_object_set_new(json_array_get(list, json_array_size(list) - 1), flag, json_true());
}

static void test_added_matching(void **state)
{
	(void)state;
	json_t *root = small_tokenizer();
	add_flagged(root, 300, "<a", NULL);
	add_flagged(root, 301, "<a><b>", NULL);
	add_flagged(root, 302, "a><", NULL);
	add_flagged(root, 303, "[L]", "lstrip");
	add_flagged(root, 304, "[R]", "rstrip");
	struct ex_tokenizer *t = open_small(root);
	expect_ids(t, "<a><b>", EX_ENCODE_SPECIAL, "301");
	expect_ids(t, "<a><b", EX_ENCODE_SPECIAL, "300 65 63 101"); /* leftmost, then longest that is whole */
	expect_ids(t, "a><b", EX_ENCODE_SPECIAL, "302 101");
	expect_ids(t, "o \u3000[L] o", EX_ENCODE_SPECIAL, "114 303 35 114");
	expect_ids(t, "o [R] \n o", EX_ENCODE_SPECIAL, "114 35 304 114");
	expect_ids(t, " [R]  [L] ", EX_ENCODE_SPECIAL, "35 304 303 35"); /* the space is taken once */
	ex_tokenizer_close(t);
}

static void test_no_control_token_by_merging(void **state)
{
	(void)state;
	json_t *root = small_tokenizer();
	add_flagged(root, 260, "ll", NULL); /* a token that merges lead to, made an added one */
	struct ex_tokenizer *t = open_small(root);
	expect_ids(t, "ll", 0, "111 111");
	expect_ids(t, "ll", EX_ENCODE_SPECIAL, "260");
	ex_tokenizer_close(t);
}

static void test_encode_appends(void **state)
{
	(void)state;
	struct ex_tokenizer *t = open_small(small_tokenizer());
	struct ex_err err = EX_ERR_INIT;
	uint32_t *ids = NULL;
	size_t n = 0, cap = 0;
	EXPECT_OK(err, ex_tokenizer_encode(t, "a", 1, 0, &err, &ids, &n, &cap));
	EXPECT_OK(err, ex_tokenizer_encode(t, "b\0c", 3, 0, &err, &ids, &n, &cap));
	assert_int_equal(n, 4);
	assert_int_equal(ids[0], 100);
	assert_int_equal(ids[2], SMALL_BYTES_ID);
	assert_int_equal(ex_tokenizer_encode(t, "ok\xff", 3, 0, &err, &ids, &n, &cap), -EILSEQ);
	assert_int_equal(n, 4); /* as it was */
	assert_int_equal(
		ex_tokenizer_encode(t, "", (size_t)EX_TOKENIZER_TEXT_BYTES_MAX + 1, 0, &err, &ids, &n, &cap), -E2BIG);
	free(ids);
	ex_tokenizer_close(t);
}

/* A megabyte without a break: with a quadratic merge this would not end in the time that a test has. */
static void test_long_piece(void **state)
{
	(void)state;
	struct ex_tokenizer *t = open_small(small_tokenizer());
	struct ex_err err = EX_ERR_INIT;
	uint32_t *ids = NULL;
	size_t n = 0, cap = 0, size = (1u << 20) + 3;
	char *text = malloc(size);
	memset(text, 'a', size);
	EXPECT_OK(err, ex_tokenizer_encode(t, text, size, 0, &err, &ids, &n, &cap));
	assert_int_equal(n, (1u << 18) + 2); /* aaaa … aaaa aa a */
	assert_int_equal(ids[0], 265);
	assert_int_equal(ids[n - 2], 264);
	assert_int_equal(ids[n - 1], 100);
	memset(text, ' ', size); /* and one where the regex goes back over all of it */
	text[size - 1] = 'x';
	n = 0;
	EXPECT_OK(err, ex_tokenizer_encode(t, text, size, 0, &err, &ids, &n, &cap));
	assert_int_equal(n, size);
	free(text);
	free(ids);
	ex_tokenizer_close(t);
}

/* Pieces of text after one split, written a|b|c. */
static void expect_pieces(
	const char *key, const char *pattern, const char *behavior, int invert, const char *text, const char *want)
{
	json_t *root = small_tokenizer(), *pre = json_object_get(root, "pre_tokenizer");
	json_object_set_new(pre, "pretokenizers",
		json_pack("[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]", "type", "Split", "pattern", key, pattern,
			"behavior", behavior, "invert", invert, "type", "ByteLevel", "add_prefix_space", 0, "use_regex",
			0));
	struct ex_tokenizer *t = open_small(root);
	struct encode_work w = {.t = t, .match = pcre2_match_data_create(1, NULL)};
	struct ex_str got = EX_STR_INIT;
	const char *at;
	assert_int_equal(ex_pretokenize(&w, text, strlen(text), &at), 0);
	for (size_t i = 0; i < w.pieces.n; i++)
		ex_str_addf(&got, "%s%.*s", i ? "|" : "", (int)(w.pieces.v[i].end - w.pieces.v[i].begin),
			at + w.pieces.v[i].begin);
	assert_string_equal(got.s ? got.s : "", want);
	ex_str_done(&got);
	free(w.pieces.v);
	free(w.next.v);
	ex_str_done(&w.shown);
	pcre2_match_data_free(w.match);
	ex_tokenizer_close(t);
}

/* The values are those of tokenizers.pre_tokenizers.Split. */
static void test_behaviors(void **state)
{
	(void)state;
	static const struct {
		const char *behavior;
		int invert;
		const char *want;
	} row[] = {
		{"Isolated", 0, "the|-|final|-|-|countdown|-"},
		{"Removed", 0, "the|final|countdown"},
		{"MergedWithPrevious", 0, "the-|final-|-|countdown-"},
		{"MergedWithNext", 0, "the|-final|-|-countdown|-"},
		{"Contiguous", 0, "the|-|final|--|countdown|-"},
		{"Isolated", 1, "the|-|final|-|-|countdown|-"},
		{"Removed", 1, "-|-|-|-"},
		{"MergedWithNext", 1, "the-|final-|-|countdown-"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		expect_pieces("Regex", "-", row[i].behavior, row[i].invert, "the-final--countdown-", row[i].want);
		expect_pieces("String", "-", row[i].behavior, row[i].invert, "the-final--countdown-", row[i].want);
	}
	expect_pieces("String", ".", "Isolated", 0, "a.b", "a|.|b"); /* not a regex */
	expect_pieces("Regex", "", "Isolated", 0, "aé", "a|é");
	expect_pieces("Regex", "b*", "Removed", 0, "abba", "a|a");
}

/* Where PCRE2 by itself would match another set of characters. */
static void test_regex_meaning(void **state)
{
	(void)state;
	expect_pieces("Regex", "\\s+", "Removed", 0,
		"a\u180eb\xc2\x85"
		"c\u2003d",
		"a\u180eb|c|d"); /* U+180E is no white space */
	expect_pieces("Regex", "[^\\S\\n]", "Isolated", 0, "a \nb", "a| |\nb");
	expect_pieces("Regex", "\\w+", "Isolated", 0, "é_1²-Ⅷ\u2080",
		"é_1²|-|Ⅷ|\u2080"); /* U+2080 is no word character, U+00B2 is */
	expect_pieces("Regex", "\\d", "Isolated", 0, "1²٣", "1|²|٣");
	expect_pieces("Regex", "\\v", "Isolated", 0, "a\x0b\nb", "a|\x0b|\nb");
	expect_pieces("Regex", "a$", "Isolated", 0, "a\nba", "a|\nb|a");
	expect_pieces(
		"Regex", "\\p{Han}", "Isolated", 0, "a\u3002中", "a\u3002|中"); /* the script, not its extensions */
	expect_pieces("Regex", "\\p{^L}", "Isolated", 0, "a1b", "a|1|b");
	expect_pieces("Regex", "\\u4e2d|\\x{6587}|\\x41", "Isolated", 0, "中xA文", "中|x|A|文");
	expect_pieces("Regex", "\\p{So}", "Isolated", 0, "a\U0001fae8b", "a|\U0001fae8|b"); /* of Unicode 15 */
	expect_pieces("Regex", "(?i:'S)", "Isolated", 0, "it's", "it|'s");
}

static void *encode_many(void *arg)
{
	const struct ex_tokenizer *t = arg;
	for (int i = 0; i < 200; i++)
		expect_ids(t, "hello 12 你 <think>", EX_ENCODE_SPECIAL, "262 35 52 53 35 266 163 35 272");
	return NULL;
}

static void test_threads(void **state)
{
	(void)state;
	struct ex_tokenizer *t = open_small(small_tokenizer());
	pthread_t thread[2];
	for (size_t i = 0; i < EX_ARRAY_LEN(thread); i++)
		assert_int_equal(pthread_create(&thread[i], NULL, encode_many, t), 0);
	for (size_t i = 0; i < EX_ARRAY_LEN(thread); i++)
		pthread_join(thread[i], NULL);
	ex_tokenizer_close(t);
}

static void test_normalizer(void **state)
{
	(void)state;
	json_t *root = small_tokenizer();
	json_object_set_new(
		root, "normalizer", json_pack("{s:s, s:[{s:s}]}", "type", "Sequence", "normalizers", "type", "NFC"));
	struct ex_tokenizer *t = open_small(root);
	expect_ids(t, "e\u0301", 0, "198 172"); /* c3 a9 */
	ex_tokenizer_close(t);
}

static void test_prefix_space(void **state)
{
	(void)state;
	json_t *root = small_tokenizer();
	json_object_set_new(
		root, "pre_tokenizer", json_pack("{s:s}", "type", "ByteLevel")); /* the library's defaults are true */
	struct ex_tokenizer *t = open_small(root);
	expect_ids(t, "hello hello", 0, "263 263");
	expect_ids(t, " hello", 0, "263");
	expect_ids(t, "", 0, "");
	ex_tokenizer_close(t);
}

static void test_template_bos(void **state)
{
	(void)state;
	json_t *root = small_tokenizer();
	struct ex_tokenizer *t = NULL;
	struct ex_err err = EX_ERR_INIT;
	json_object_set_new(root, "post_processor",
		json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:{s:{s:s, s:[i], s:[s]}}}", "type",
			"TemplateProcessing", "single", "SpecialToken", "id", "x", "type_id", 0, "Sequence", "id", "A",
			"type_id", 0, "special_tokens", "x", "id", "x", "ids", 0, "tokens", SMALL_BOS));
	EXPECT_OK(err, open_json(json_incref(root), NULL, &err, &t));
	assert_int_equal(ex_tokenizer_bos(t), 0);
	assert_int_equal(ex_tokenizer_eos(t), -1);
	ex_tokenizer_close(t);
	assert_int_equal(open_json(root, "{\"bos_token\": \"" SMALL_EOS "\"}", &err, &t), -EINVAL);
	assert_non_null(strstr(err.text, "post_processor"));
}

/* Puts the JSON text (or nothing, when empty) at a path of keys and indexes: "model/merges/0". */
static void damage(json_t *root, const char *path, const char *text)
{
	char key[64];
	json_t *o = root;
	for (;;) {
		size_t n = strcspn(path, "/");
		memcpy(key, path, n);
		key[n] = '\0';
		path += n;
		if (!*path)
			break;
		path++;
		o = json_is_array(o) ? json_array_get(o, strtoul(key, NULL, 10)) : json_object_get(o, key);
	}
	if (!*text)
		json_object_del(o, key);
	else if (json_is_array(o))
		json_array_set_new(o, strtoul(key, NULL, 10), json_loads(text, JSON_DECODE_ANY, NULL));
	else
		json_object_set_new(o, key, json_loads(text, JSON_DECODE_ANY, NULL));
}

static void test_damage(void **state)
{
	(void)state;
	static const struct {
		const char *path, *text;
		int code;
		const char *named;
	} row[] = {
		{"surprise", "1", -ENOTSUP, "surprise"},
		{"truncation", "{\"max_length\": 5}", -ENOTSUP, "truncation"},
		{"padding", "{}", -ENOTSUP, "padding"},
		{"normalizer", "{\"type\": \"Lowercase\"}", -ENOTSUP, "Lowercase"},
		{"normalizer", "[]", -EINVAL, "normalizer"},
		{"pre_tokenizer", "", -EINVAL, "pre_tokenizer"},
		{"pre_tokenizer/type", "\"Metaspace\"", -ENOTSUP, "Metaspace"},
		{"pre_tokenizer/pretokenizers", "[]", -ENOTSUP, "ByteLevel"},
		{"pre_tokenizer/pretokenizers/0", "{\"type\": \"ByteLevel\"}", -ENOTSUP, "pre_tokenizer[1]"},
		{"pre_tokenizer/pretokenizers/1/behavior", "\"Sideways\"", -ENOTSUP, "Sideways"},
		{"pre_tokenizer/pretokenizers/1/pattern", "{\"Glob\": \"*\"}", -EINVAL, "pre_tokenizer[1]"},
		{"pre_tokenizer/pretokenizers/1/invert", "1", -EINVAL, "invert"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"(unclosed\"", -ENOTSUP, "(unclosed"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"[a[b]]\"", -ENOTSUP, "class within a class"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"[a-z&&b]\"", -ENOTSUP, "&&"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"a\\\\h\"", -ENOTSUP, "\\h"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"\\\\p{Klingon}\"", -ENOTSUP, "Klingon"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"a{1,3}+\"", -ENOTSUP, "{1,3}+"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"(?m:a)\"", -ENOTSUP, "(?m:"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"(*UCP)a\"", -ENOTSUP, "(*"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"\\\\xe4\"", -ENOTSUP, "\\xe4"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"[\\\\W]\"", -ENOTSUP, "\\W"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"[]a]\"", -ENOTSUP, "]"},
		{"pre_tokenizer/pretokenizers/1/pattern/Regex", "\"a\\\\\"", -ENOTSUP, "\\"},
		{"pre_tokenizer/pretokenizers/3/mystery", "1", -ENOTSUP, "mystery"},
		{"decoder", "null", -EINVAL, "decoder"},
		{"decoder/type", "\"WordPiece\"", -ENOTSUP, "WordPiece"},
		{"post_processor", "{\"type\": \"BertProcessing\"}", -ENOTSUP, "BertProcessing"},
		{"model", "", -EINVAL, "model"},
		{"model/type", "\"Unigram\"", -ENOTSUP, "Unigram"},
		{"model/dropout", "0.1", -ENOTSUP, "dropout"},
		{"model/byte_fallback", "true", -ENOTSUP, "byte_fallback"},
		{"model/end_of_word_suffix", "\"</w>\"", -ENOTSUP, "end_of_word_suffix"},
		{"model/vocab", "[]", -EINVAL, "vocab"},
		{"model/vocab", "{}", -EINVAL, "vocab"},
		{"model/vocab/q", "", -EINVAL, "0x71"},
		{"model/vocab/q", "\"1\"", -EINVAL, "'q'"},
		{"model/vocab/q", "-1", -EINVAL, "'q'"},
		{"model/vocab/q", "99999999", -EINVAL, "'q'"},
		{"model/vocab/q", "5", -EINVAL, "two tokens have the id 5"},
		{"model/merges", "{}", -EINVAL, "merges"},
		{"model/merges/2", "\"one\"", -EINVAL, "model.merges[2]"},
		{"model/merges/2", "\"a b c\"", -EINVAL, "model.merges[2]"},
		{"model/merges/2", "[\"a\"]", -EINVAL, "model.merges[2]"},
		{"model/merges/2", "7", -EINVAL, "model.merges[2]"},
		{"model/merges/2", "\"z z\"", -EINVAL, "model.merges[2]"},
		{"model/merges/5", "\"h e\"", -EINVAL, "twice"},
		{"added_tokens", "7", -EINVAL, "added_tokens"},
		{"added_tokens/1", "7", -EINVAL, "entry 1"},
		{"added_tokens/1/id", "0", -EINVAL, "added_tokens[1]"},
		{"added_tokens/2/id", "7", -EINVAL, "<｜User｜>"},
		{"added_tokens/2/content", "\"\"", -EINVAL, "added_tokens[2]"},
		{"added_tokens/2/content", "\"<think>\"", -EINVAL, "<think>"},
		{"added_tokens/2/single_word", "true", -ENOTSUP, "single_word"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		json_t *root = small_tokenizer();
		struct ex_err err = EX_ERR_INIT;
		struct ex_tokenizer *t = NULL;
		damage(root, row[i].path, row[i].text);
		int r = open_json(root, NULL, &err, &t);
		if (r != row[i].code || !strstr(err.text, row[i].named) || !strstr(err.text, "tokenizer.json"))
			fail_msg("%s = %s: %d '%s', want %d naming '%s'", row[i].path, row[i].text, r, err.text,
				row[i].code, row[i].named);
		assert_null(t);
	}
}

static void test_bad_files(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tokenizer *t = NULL;
	char dir[64] = "";
	assert_int_equal(ex_tokenizer_open("/nonexistent", &err, &t), -ENOENT);
	small_write(dir, "tokenizer.json", "{\"model\": ");
	assert_int_equal(ex_tokenizer_open(dir, &err, &t), -EINVAL);
	assert_non_null(strstr(err.text, "not JSON"));
	small_write(dir, "tokenizer.json", "{\"model\": 1, \"model\": 2}");
	assert_int_equal(ex_tokenizer_open(dir, &err, &t), -EINVAL);
	small_remove(dir);
	static const struct {
		const char *config, *named;
	} row[] = {{"[", "not JSON"}, {"{\"bos_token\": 5}", "bos_token"}, {"{\"eos_token\": \"<nil>\"}", "<nil>"}};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		assert_int_equal(open_json(small_tokenizer(), row[i].config, &err, &t), -EINVAL);
		assert_non_null(strstr(err.text, row[i].named));
		assert_non_null(strstr(err.text, "tokenizer_config.json"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_merges),
		cmocka_unit_test(test_ignore_merges),
		cmocka_unit_test(test_merges_as_pairs),
		cmocka_unit_test(test_added),
		cmocka_unit_test(test_added_matching),
		cmocka_unit_test(test_no_control_token_by_merging),
		cmocka_unit_test(test_encode_appends),
		cmocka_unit_test(test_long_piece),
		cmocka_unit_test(test_behaviors),
		cmocka_unit_test(test_regex_meaning),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_normalizer),
		cmocka_unit_test(test_prefix_space),
		cmocka_unit_test(test_template_bos),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_bad_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
