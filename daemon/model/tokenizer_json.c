/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json into a tokenizer: what is understood is checked, what is not is refused by name. Layer L1. */
#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include <string.h>

/* --- small helpers: `where` names the component in messages ---------------------------------------------- */

static bool is_absent(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return !v || json_is_null(v);
}

/* o must be an object whose members are all in known (n of them). */
static int check_object(const json_t *o, const char *where, const char *const *known, size_t n, struct ex_err *err)
{
	if (!json_is_object(o))
		return ex_err_set(err, -EINVAL, "%s: missing or not an object", where);
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)o, key, value)
	{
		bool found = false;
		for (size_t i = 0; i < n && !found; i++)
			found = !strcmp(key, known[i]);
		if (!found)
			return ex_err_set(err, -ENOTSUP, "%s: member '%.64s' is not understood", where, key);
	}
	return 0;
}

static int get_bool(const json_t *o, const char *key, bool fallback, const char *where, struct ex_err *err, bool *ret)
{
	const json_t *v = json_object_get(o, key);
	if (v && !json_is_boolean(v))
		return ex_err_set(err, -EINVAL, "%s: '%s' is not true or false", where, key);
	*ret = v ? json_is_true(v) : fallback;
	return 0;
}

/* A string member. Borrowed. */
static int get_string(const json_t *o, const char *key, const char *where, struct ex_err *err, const char **ret)
{
	const char *s = json_string_value(json_object_get(o, key));
	if (!s)
		return ex_err_set(err, -EINVAL, "%s: '%s' is missing or not a string", where, key);
	*ret = s;
	return 0;
}

static int refuse_type(const char *type, const char *where, const char *known, struct ex_err *err)
{
	return ex_err_set(err, -ENOTSUP, "%s: type '%.64s' is not understood; %s", where, type, known);
}

static int get_id(const json_t *v, const char *where, struct ex_err *err, uint32_t *ret)
{
	json_int_t id = json_integer_value(v);
	if (!json_is_integer(v) || id < 0 || id >= EX_TOKENIZER_IDS_MAX)
		return ex_err_set(
			err, -EINVAL, "%s: the id is not a number from 0 to %u", where, EX_TOKENIZER_IDS_MAX - 1);
	*ret = (uint32_t)id;
	return 0;
}

/* --- normalizer ------------------------------------------------------------------------------------------ */

static int parse_normalizer(struct ex_tokenizer *t, const json_t *o, unsigned depth, struct ex_err *err)
{
	static const struct {
		const char *type;
		utf8proc_option_t how;
	} row[] = {
		{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
		{"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
		{"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
		{"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
	};
	const char *const keys[] = {"type", "normalizers"}, *type = NULL;
	int r = check_object(o, "normalizer", keys, EX_ARRAY_LEN(keys), err);
	if (r < 0 || (r = get_string(o, "type", "normalizer", err, &type)) < 0)
		return r;
	if (!strcmp(type, "Sequence")) {
		const json_t *list = json_object_get(o, "normalizers");
		if (!json_is_array(list) || depth >= EX_TOKENIZER_NESTING_MAX)
			return ex_err_set(err, -EINVAL, "normalizer: a Sequence without a list, or more than %u deep",
				EX_TOKENIZER_NESTING_MAX);
		for (size_t i = 0; i < json_array_size(list) && r == 0; i++)
			r = parse_normalizer(t, json_array_get(list, i), depth + 1, err);
		return r;
	}
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		if (strcmp(type, row[i].type))
			continue;
		if (t->n_normalizers == EX_TOKENIZER_NORMALIZERS_MAX)
			return ex_err_set(err, -E2BIG, "normalizer: more than %u", EX_TOKENIZER_NORMALIZERS_MAX);
		t->normalizer[t->n_normalizers++] = row[i].how;
		return 0;
	}
	return refuse_type(type, "normalizer", "NFC, NFD, NFKC, NFKD and a Sequence of them are", err);
}

/* --- pre_tokenizer --------------------------------------------------------------------------------------- */

/* The split that ByteLevel makes with use_regex. Source: GPT-2, encoder.py. */
#define BYTE_LEVEL_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static int add_split(struct pretokenizer *p, const char *pattern, size_t n, bool literal, enum split_behavior behavior,
	bool invert, struct ex_err *err)
{
	struct split *s = &p->split[p->n_splits];
	if (p->n_splits == EX_TOKENIZER_SPLITS_MAX)
		return ex_err_set(err, -E2BIG, "more than %u splits", EX_TOKENIZER_SPLITS_MAX);
	int r = literal ? ex_regex_compile_literal(pattern, n, err, &s->code)
			: ex_regex_compile(pattern, n, err, &s->code);
	if (r < 0)
		return r;
	s->behavior = behavior;
	s->invert = invert;
	p->n_splits++;
	return 0;
}

static int parse_split(struct pretokenizer *p, const json_t *o, const char *where, struct ex_err *err)
{
	static const char *const behaviors[] = {
		[SPLIT_ISOLATED] = "Isolated",
		[SPLIT_REMOVED] = "Removed",
		[SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
		[SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
		[SPLIT_CONTIGUOUS] = "Contiguous",
	};
	const char *const keys[] = {"type", "pattern", "behavior", "invert"}, *behavior = NULL;
	size_t b = 0;
	bool invert = false;
	int r = check_object(o, where, keys, EX_ARRAY_LEN(keys), err);
	if (r == 0)
		r = get_string(o, "behavior", where, err, &behavior);
	if (r == 0)
		r = get_bool(o, "invert", false, where, err, &invert);
	if (r < 0)
		return r;
	while (b < EX_ARRAY_LEN(behaviors) && strcmp(behavior, behaviors[b]))
		b++;
	if (b == EX_ARRAY_LEN(behaviors))
		return ex_err_set(err, -ENOTSUP, "%s: behavior '%.64s' is not understood", where, behavior);
	const json_t *pattern = json_object_get(o, "pattern"), *regex = json_object_get(pattern, "Regex");
	const json_t *text = regex ? regex : json_object_get(pattern, "String");
	if (!json_is_string(text) || json_object_size(pattern) != 1)
		return ex_err_set(
			err, -EINVAL, "%s: 'pattern' is neither {\"Regex\": text} nor {\"String\": text}", where);
	r = add_split(
		p, json_string_value(text), json_string_length(text), !regex, (enum split_behavior)b, invert, err);
	return r < 0 ? ex_err_prefix(err, "%s", where) : 0;
}

static int parse_digits(struct pretokenizer *p, const json_t *o, const char *where, struct ex_err *err)
{
	const char *const keys[] = {"type", "individual_digits"};
	bool each = false;
	int r = check_object(o, where, keys, EX_ARRAY_LEN(keys), err);
	if (r < 0 || (r = get_bool(o, "individual_digits", false, where, err, &each)) < 0)
		return r;
	return add_split(p, "\\p{N}", 5, false, each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, err);
}

static int parse_byte_level(struct pretokenizer *p, const json_t *o, const char *where, struct ex_err *err)
{
	const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex"};
	bool trim = true, use_regex = true;
	int r = check_object(o, where, keys, EX_ARRAY_LEN(keys), err);
	if (r == 0)
		r = get_bool(o, "add_prefix_space", true, where, err, &p->prefix_space);
	if (r == 0)
		r = get_bool(
			o, "trim_offsets", true, where, err, &trim); /* concerns offsets only, and we report none */
	if (r == 0)
		r = get_bool(o, "use_regex", true, where, err, &use_regex);
	if (r < 0)
		return r;
	p->byte_level = true;
	p->prefix_split = p->n_splits;
	return use_regex ? add_split(p, BYTE_LEVEL_REGEX, strlen(BYTE_LEVEL_REGEX), false, SPLIT_ISOLATED, false, err)
			 : 0;
}

static int parse_pretokenizer(
	struct pretokenizer *p, const json_t *o, const char *where, unsigned depth, struct ex_err *err)
{
	const char *type = NULL;
	int r = get_string(o, "type", where, err, &type);
	if (r < 0)
		return r;
	if (p->byte_level)
		return ex_err_set(err, -ENOTSUP, "%s: '%.64s' after ByteLevel is not understood: ByteLevel comes last",
			where, type);
	if (!strcmp(type, "Split"))
		return parse_split(p, o, where, err);
	if (!strcmp(type, "Digits"))
		return parse_digits(p, o, where, err);
	if (!strcmp(type, "ByteLevel"))
		return parse_byte_level(p, o, where, err);
	if (strcmp(type, "Sequence"))
		return refuse_type(type, where, "Split, Digits, ByteLevel and a Sequence of them are", err);
	const json_t *list = json_object_get(o, "pretokenizers");
	if (!json_is_array(list) || depth >= EX_TOKENIZER_NESTING_MAX)
		return ex_err_set(err, -EINVAL, "%s: a Sequence without a list, or more than %u deep", where,
			EX_TOKENIZER_NESTING_MAX);
	for (size_t i = 0; i < json_array_size(list) && r == 0; i++) {
		char name[256];
		snprintf(name, sizeof name, "%.200s[%zu]", where, i);
		r = parse_pretokenizer(p, json_array_get(list, i), name, depth + 1, err);
	}
	return r;
}

/* --- model ----------------------------------------------------------------------------------------------- */

/* Id of a token by its text in the file. */
static uint32_t find_text(const struct vocab *v, const char *text, size_t n)
{
	char bytes[EX_TOKENIZER_TOKEN_BYTES_MAX];
	bool literal;
	if (n > sizeof bytes)
		return EX_TOKEN_NONE;
	n = ex_vocab_unmap(text, n, bytes, &literal);
	return ex_vocab_find(v, bytes, n, literal);
}

static int check_model(struct ex_tokenizer *t, const json_t *m, struct ex_err *err)
{
	/* unk_token and fuse_unk speak of characters without a token, and check_bytes sees to it that there are none */
	static const char *const keys[] = {"type", "dropout", "unk_token", "continuing_subword_prefix",
		"end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"};
	const char *const affix[] = {"continuing_subword_prefix", "end_of_word_suffix"}, *type = NULL;
	bool byte_fallback = false;
	int r = check_object(m, "model", keys, EX_ARRAY_LEN(keys), err);
	if (r < 0 || (r = get_string(m, "type", "model", err, &type)) < 0)
		return r;
	if (strcmp(type, "BPE"))
		return refuse_type(type, "model", "BPE is", err);
	if (!is_absent(m, "dropout") && json_number_value(json_object_get(m, "dropout")) != 0)
		return ex_err_set(err, -ENOTSUP, "model: 'dropout' is not understood");
	for (size_t i = 0; i < EX_ARRAY_LEN(affix); i++)
		if (!is_absent(m, affix[i]) && json_string_length(json_object_get(m, affix[i])) != 0)
			return ex_err_set(err, -ENOTSUP, "model: '%s' is not understood", affix[i]);
	if ((r = get_bool(m, "byte_fallback", false, "model", err, &byte_fallback)) < 0)
		return r;
	if (byte_fallback)
		return ex_err_set(err, -ENOTSUP, "model: 'byte_fallback' is not understood");
	if ((r = get_bool(m, "ignore_merges", false, "model", err, &t->bpe.ignore_merges)) < 0)
		return r;
	if (!json_is_object(json_object_get(m, "vocab")) || !json_is_array(json_object_get(m, "merges")))
		return ex_err_set(err, -EINVAL, "model: 'vocab' is not an object, or 'merges' not a list");
	return 0;
}

/* Sizes the vocabulary for what both lists hold. Every id is checked here. */
static int size_vocab(struct ex_tokenizer *t, const json_t *vocab, const json_t *added, struct ex_err *err)
{
	uint32_t n_ids = 0, id = 0;
	const char *text;
	json_t *v;
	size_t i;
	int r;
	if (json_object_size(vocab) == 0 || json_object_size(vocab) > EX_TOKENIZER_IDS_MAX)
		return ex_err_set(err, -EINVAL, "model.vocab: %zu tokens; from 1 to %u are allowed",
			json_object_size(vocab), EX_TOKENIZER_IDS_MAX);
	if (json_array_size(added) > EX_TOKENIZER_ADDED_MAX)
		return ex_err_set(err, -E2BIG, "added_tokens: %zu; at most %u are allowed", json_array_size(added),
			EX_TOKENIZER_ADDED_MAX);
	json_object_foreach((json_t *)vocab, text, v)
	{
		if ((r = get_id(v, "model.vocab", err, &id)) < 0)
			return ex_err_prefix(err, "token '%.64s'", text);
		n_ids = EX_MAX(n_ids, id + 1);
	}
	json_array_foreach(added, i, v)
	{
		if ((r = get_id(json_object_get(v, "id"), "added_tokens", err, &id)) < 0)
			return ex_err_prefix(err, "entry %zu", i);
		n_ids = EX_MAX(n_ids, id + 1);
	}
	r = ex_vocab_init(&t->vocab, n_ids, json_object_size(vocab));
	return r < 0 ? ex_err_errno(err, r, "model.vocab") : 0;
}

static int parse_vocab(struct ex_tokenizer *t, const json_t *vocab, struct ex_err *err)
{
	const char *text;
	json_t *v;
	json_object_foreach((json_t *)vocab, text, v)
	{
		uint32_t id = (uint32_t)json_integer_value(v);
		size_t n = strlen(text);
		if (n == 0 || n > EX_TOKENIZER_TOKEN_BYTES_MAX)
			return ex_err_set(err, -EINVAL, "model.vocab: token %u has %zu bytes; from 1 to %u are allowed",
				id, n, EX_TOKENIZER_TOKEN_BYTES_MAX);
		int r = ex_vocab_add(&t->vocab, id, text, n, 0, true);
		if (r == -EEXIST)
			return ex_err_set(
				err, -EINVAL, "model.vocab: two tokens have the id %u, one is '%.64s'", id, text);
		if (r < 0)
			return ex_err_errno(err, r, "model.vocab");
	}
	return 0;
}

/* Every byte that UTF-8 text can hold must be a token: what is not would be dropped from a prompt without a word. */
static int check_bytes(struct ex_tokenizer *t, struct ex_err *err)
{
	for (unsigned b = 0; b < 256; b++) {
		char c = (char)b;
		t->bpe.byte_id[b] = ex_vocab_find(&t->vocab, &c, 1, false);
		bool in_utf8 = b < 0xc0 || (b >= 0xc2 && b < 0xf5);
		if (in_utf8 && t->bpe.byte_id[b] == EX_TOKEN_NONE)
			return ex_err_set(err, -EINVAL, "model.vocab: no token for the byte 0x%02x", b);
	}
	return 0;
}

/* Texts of both sides of a merge: "a b" or ["a", "b"]. Borrowed. */
static bool merge_sides(const json_t *v, const char *side[2], size_t n[2])
{
	if (json_is_array(v) && json_array_size(v) == 2) {
		for (size_t k = 0; k < 2; k++) {
			side[k] = json_string_value(json_array_get(v, k));
			n[k] = json_string_length(json_array_get(v, k));
		}
		return side[0] && side[1] && n[0] && n[1];
	}
	const char *s = json_string_value(v), *gap = s ? strchr(s, ' ') : NULL;
	if (!gap || gap == s || !gap[1] || strchr(gap + 1, ' '))
		return false;
	side[0] = s;
	side[1] = gap + 1;
	n[0] = (size_t)(gap - s);
	n[1] = strlen(gap + 1);
	return true;
}

/* Id of the token that the merge yields, EX_TOKEN_NONE if the vocabulary has none. */
static uint32_t merged_id(const struct vocab *v, const char *const side[2], const size_t n[2])
{
	char text[EX_TOKENIZER_TOKEN_BYTES_MAX];
	if (n[0] > sizeof text || n[1] > sizeof text - n[0])
		return EX_TOKEN_NONE;
	memcpy(text, side[0], n[0]);
	memcpy(text + n[0], side[1], n[1]);
	return find_text(v, text, n[0] + n[1]);
}

static int parse_merges(struct ex_tokenizer *t, const json_t *merges, struct ex_err *err)
{
	size_t n = json_array_size(merges), size[2];
	const char *side[2];
	if (n > EX_TOKENIZER_MERGES_MAX)
		return ex_err_set(err, -E2BIG, "model.merges: %zu; at most %u are allowed", n, EX_TOKENIZER_MERGES_MAX);
	int r = ex_bpe_init(&t->bpe, n);
	if (r < 0)
		return ex_err_errno(err, r, "model.merges");
	for (size_t i = 0; i < n; i++) {
		if (!merge_sides(json_array_get(merges, i), side, size))
			return ex_err_set(err, -EINVAL, "model.merges[%zu]: neither \"a b\" nor [\"a\", \"b\"]", i);
		struct merge m = {
			.left = find_text(&t->vocab, side[0], size[0]),
			.right = find_text(&t->vocab, side[1], size[1]),
			.rank = (uint32_t)i,
			.id = merged_id(&t->vocab, side, size),
		};
		if (m.left == EX_TOKEN_NONE || m.right == EX_TOKEN_NONE || m.id == EX_TOKEN_NONE)
			return ex_err_set(err, -EINVAL,
				"model.merges[%zu]: '%.*s' and '%.*s', and what they merge into, are not all in the "
				"vocabulary",
				i, (int)EX_MIN(size[0], 64u), side[0], (int)EX_MIN(size[1], 64u), side[1]);
		/* text around added tokens never holds one, so this merge serves only a user who writes a control token
		 */
		if (t->vocab.token[m.id].flags & TOKEN_ADDED)
			continue;
		if (ex_bpe_add(&t->bpe, &m) < 0)
			return ex_err_set(err, -EINVAL, "model.merges[%zu]: the pair is there twice", i);
	}
	return 0;
}

/* --- added_tokens ---------------------------------------------------------------------------------------- */

/* Puts the token in the vocabulary, with its text as a has it, or marks it there. text: as the file has it. */
static int register_added(
	struct ex_tokenizer *t, const struct added *a, const char *text, size_t n, bool special, struct ex_err *err)
{
	uint32_t id = a->id;
	unsigned flags = TOKEN_ADDED | (special ? TOKEN_SPECIAL : 0);
	uint32_t known = find_text(&t->vocab, text, n);
	if (known == id) {
		t->vocab.token[id].flags |= (uint8_t)flags;
		return 0;
	}
	if (known != EX_TOKEN_NONE)
		return ex_err_set(err, -EINVAL, "'%.64s' has the id %u here and %u in model.vocab", text, id, known);
	int r = ex_vocab_add(&t->vocab, id, a->text, a->n, flags, false);
	if (r == -EEXIST)
		return ex_err_set(err, -EINVAL, "'%.64s': the id %u is another token's", text, id);
	return r < 0 ? ex_err_errno(err, r, "'%.64s'", text) : 0;
}

static int parse_added(struct ex_tokenizer *t, const json_t *o, struct ex_err *err)
{
	static const char *const keys[] = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"};
	struct added a = {.id = (uint32_t)json_integer_value(json_object_get(o, "id"))};
	EX_CLEANUP(ex_freep) char *normal = NULL;
	bool single_word = false, normalized = false, special = false;
	const char *text = NULL;
	int r = check_object(o, "entry", keys, EX_ARRAY_LEN(keys), err);
	if (r < 0 || (r = get_string(o, "content", "entry", err, &text)) < 0 ||
		(r = get_bool(o, "special", false, "entry", err, &special)) < 0 ||
		(r = get_bool(o, "normalized", !special, "entry", err, &normalized)) < 0 ||
		(r = get_bool(o, "single_word", false, "entry", err, &single_word)) < 0 ||
		(r = get_bool(o, "lstrip", false, "entry", err, &a.lstrip)) < 0 ||
		(r = get_bool(o, "rstrip", false, "entry", err, &a.rstrip)) < 0)
		return r;
	size_t n = strlen(text);
	if (n == 0 || n > EX_TOKENIZER_TOKEN_BYTES_MAX)
		return ex_err_set(err, -EINVAL, "%zu bytes of content; from 1 to %u are allowed", n,
			EX_TOKENIZER_TOKEN_BYTES_MAX);
	if (single_word)
		return ex_err_set(err, -ENOTSUP, "'%.64s': 'single_word' is not understood", text);
	size_t n_normal = n;
	if (normalized && (r = ex_normalize(t, text, n, err, &normal, &n_normal)) < 0)
		return r;
	a.text = normal ? normal : (char *)text;
	a.n = (uint32_t)n_normal;
	if (n_normal == 0 || n_normal > EX_TOKENIZER_TOKEN_BYTES_MAX)
		return ex_err_set(err, -EINVAL, "'%.64s' has %zu bytes once normalised", text, n_normal);
	if ((r = register_added(t, &a, text, n, special, err)) < 0)
		return r;
	r = ex_added_add(normalized ? &t->added_normalized : &t->added_raw, &a);
	return r < 0 ? ex_err_errno(err, r, "'%.64s'", text) : 0;
}

static int parse_all_added(struct ex_tokenizer *t, const json_t *list, struct ex_err *err)
{
	const char *twice = NULL;
	json_t *o;
	size_t i;
	json_array_foreach(list, i, o)
	{
		if (parse_added(t, o, err) < 0)
			return ex_err_prefix(err, "added_tokens[%zu]", i);
	}
	if (ex_added_close(&t->added_raw, &twice) < 0 || ex_added_close(&t->added_normalized, &twice) < 0)
		return ex_err_set(err, -EINVAL, "added_tokens: '%.64s' is there twice", twice);
	return 0;
}

/* --- post_processor -------------------------------------------------------------------------------------- */

/* A template may put one token, the BOS, before the text: {"single": [{"SpecialToken": {"id": X}}, {"Sequence": {"id":
 * "A"}}]}. */
static int parse_template(struct ex_tokenizer *t, const json_t *o, struct ex_err *err)
{
	const json_t *single = json_object_get(o, "single");
	size_t n = json_array_size(single);
	const json_t *last = n ? json_array_get(single, n - 1) : NULL;
	const json_t *first = n == 2 ? json_object_get(json_array_get(single, 0), "SpecialToken") : NULL;
	if (n < 1 || n > 2 || !json_object_get(last, "Sequence") || (n == 2 && !first))
		return ex_err_set(err, -ENOTSUP,
			"post_processor: only one special token and then the text is understood of 'single'");
	if (n == 1)
		return 0;
	const char *name = json_string_value(json_object_get(first, "id"));
	const json_t *ids =
		json_object_get(json_object_get(json_object_get(o, "special_tokens"), name ? name : ""), "ids");
	uint32_t id = 0;
	if (json_array_size(ids) != 1)
		return ex_err_set(err, -EINVAL, "post_processor: special_tokens does not give one id for '%.64s'",
			name ? name : "");
	int r = get_id(json_array_get(ids, 0), "post_processor", err, &id);
	if (r < 0)
		return r;
	if (id >= t->vocab.n_ids || !(t->vocab.token[id].flags & TOKEN_THERE))
		return ex_err_set(err, -EINVAL, "post_processor: the id %u is not in the vocabulary", id);
	t->template_bos = id;
	return 0;
}

static int parse_post_processor(struct ex_tokenizer *t, const json_t *o, unsigned depth, struct ex_err *err)
{
	const char *type = NULL;
	int r = get_string(o, "type", "post_processor", err, &type);
	if (r < 0 || !strcmp(type, "ByteLevel")) /* changes offsets only */
		return r;
	if (!strcmp(type, "TemplateProcessing"))
		return parse_template(t, o, err);
	if (strcmp(type, "Sequence"))
		return refuse_type(
			type, "post_processor", "ByteLevel, TemplateProcessing and a Sequence of them are", err);
	const json_t *list = json_object_get(o, "processors");
	if (!json_is_array(list) || depth >= EX_TOKENIZER_NESTING_MAX)
		return ex_err_set(err, -EINVAL, "post_processor: a Sequence without a list, or more than %u deep",
			EX_TOKENIZER_NESTING_MAX);
	for (size_t i = 0; i < json_array_size(list) && r == 0; i++)
		r = parse_post_processor(t, json_array_get(list, i), depth + 1, err);
	return r;
}

/* --- the whole file -------------------------------------------------------------------------------------- */

static int parse_decoder(const json_t *o, struct ex_err *err)
{
	const char *type = NULL;
	int r = get_string(o, "type", "decoder", err, &type);
	return r < 0 || !strcmp(type, "ByteLevel") ? r : refuse_type(type, "decoder", "ByteLevel is", err);
}

int ex_tokenizer_parse(struct ex_tokenizer *t, const json_t *root, struct ex_err *err)
{
	static const char *const keys[] = {"version", "truncation", "padding", "added_tokens", "normalizer",
		"pre_tokenizer", "post_processor", "decoder", "model"};
	const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
	const json_t *added = json_object_get(root, "added_tokens");
	int r = check_object(root, "top level", keys, EX_ARRAY_LEN(keys), err);
	if (r < 0)
		return r;
	if (!is_absent(root, "truncation") || !is_absent(root, "padding"))
		return ex_err_set(err, -ENOTSUP, "'truncation' and 'padding' are not understood");
	if (added && !json_is_array(added))
		return ex_err_set(err, -EINVAL, "'added_tokens' is not a list");
	if (!is_absent(root, "normalizer"))
		r = parse_normalizer(t, json_object_get(root, "normalizer"), 0, err);
	if (r == 0)
		r = parse_pretokenizer(&t->pre, json_object_get(root, "pre_tokenizer"), "pre_tokenizer", 0, err);
	if (r == 0 && !t->pre.byte_level)
		r = ex_err_set(err, -ENOTSUP, "pre_tokenizer: a byte-level vocabulary needs ByteLevel at the end");
	if (r == 0)
		r = parse_decoder(json_object_get(root, "decoder"), err);
	if (r == 0)
		r = check_model(t, model, err);
	if (r == 0)
		r = size_vocab(t, vocab, added, err);
	if (r == 0)
		r = parse_vocab(t, vocab, err);
	if (r == 0)
		r = check_bytes(t, err);
	if (r == 0)
		r = parse_all_added(t, added, err);
	if (r == 0)
		r = parse_merges(t, json_object_get(model, "merges"), err);
	if (r == 0 && !is_absent(root, "post_processor"))
		r = parse_post_processor(t, json_object_get(root, "post_processor"), 0, err);
	if (r == 0 && (r = ex_bpe_mark_whole(t)) < 0)
		ex_err_errno(err, r, "model.merges");
	return r;
}
