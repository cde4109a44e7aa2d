/* SPDX-License-Identifier: Apache-2.0 */
/* A small tokenizer.json in DeepSeek's manner, for tests: 3 special tokens, a token for every byte, a few merges, 4
 * control tokens. Tests change the JSON before they write it. */
#ifndef EX_TESTS_SMALL_TOKENIZER_H
#define EX_TESTS_SMALL_TOKENIZER_H

#include "base/macro.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SMALL_BOS "<｜begin▁of▁sentence｜>"
#define SMALL_EOS "<｜end▁of▁sentence｜>"

enum small_ids {
	SMALL_BOS_ID = 0,
	SMALL_EOS_ID = 1,
	SMALL_BYTES_ID = 3, /* byte b has the id 3 + b */
	SMALL_MERGES_ID = 259,
	SMALL_N_MERGES = 8,
	SMALL_USER_ID = 270, /* 267 to 269 are no tokens */
	SMALL_ASSISTANT_ID,
	SMALL_THINK_ID,
	SMALL_END_THINK_ID,
	SMALL_N_IDS,
};

/* Sides of merge i, which makes the token SMALL_MERGES_ID + i. "Ġ" is the space. */
static const char *const small_merges[SMALL_N_MERGES][2] = {
	{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {"Ġ", "hello"}, {"a", "a"}, {"aa", "aa"}, {"ä", "½"}};

/* The character that stands for byte b, in UTF-8. */
static inline EX_UNUSED void small_byte_text(unsigned b, char out[3])
{
	static const unsigned gap[][2] = {{0x00, 0x20}, {0x7f, 0xa0}, {0xad, 0xad}};
	unsigned c = b, high = 0x100;
	for (size_t i = 0; i < EX_ARRAY_LEN(gap); i++) {
		if (b >= gap[i][0] && b <= gap[i][1])
			c = high + b - gap[i][0];
		high += gap[i][1] - gap[i][0] + 1;
	}
	if (c < 0x80) {
		out[0] = (char)c;
		out[1] = '\0';
		return;
	}
	out[0] = (char)(0xc0 | c >> 6);
	out[1] = (char)(0x80 | (c & 0x3f));
	out[2] = '\0';
}

static inline EX_UNUSED void small_add(json_t *list, json_int_t id, const char *text, int special)
{
	json_array_append_new(
		list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, "single_word", 0,
			      "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special));
}

/* The root of the file. */
static inline EX_UNUSED json_t *small_tokenizer(void)
{
	static const char *const split[] = {"\\p{N}{1}", "[一-龥\u3040-ゟ゠-ヿ]+",
		("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
		 "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")};
	json_t *vocab = json_object(), *merges = json_array(), *added = json_array(), *splits = json_array();
	char text[64];
	json_object_set_new(vocab, SMALL_BOS, json_integer(SMALL_BOS_ID));
	json_object_set_new(vocab, SMALL_EOS, json_integer(SMALL_EOS_ID));
	for (unsigned b = 0; b < 256; b++) {
		small_byte_text(b, text);
		json_object_set_new(vocab, text, json_integer(SMALL_BYTES_ID + b));
	}
	for (int i = 0; i < SMALL_N_MERGES; i++) {
		snprintf(text, sizeof text, "%s%s", small_merges[i][0], small_merges[i][1]);
		json_object_set_new(vocab, text, json_integer(SMALL_MERGES_ID + i));
		snprintf(text, sizeof text, "%s %s", small_merges[i][0], small_merges[i][1]);
		json_array_append_new(merges, json_string(text));
	}
	small_add(added, SMALL_BOS_ID, SMALL_BOS, 1);
	small_add(added, SMALL_EOS_ID, SMALL_EOS, 1);
	small_add(added, SMALL_USER_ID, "<｜User｜>", 0);
	small_add(added, SMALL_ASSISTANT_ID, "<｜Assistant｜>", 0);
	small_add(added, SMALL_THINK_ID, "<think>", 0);
	small_add(added, SMALL_END_THINK_ID, "</think>", 0);
	for (size_t i = 0; i < EX_ARRAY_LEN(split); i++)
		json_array_append_new(splits, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
						      split[i], "behavior", "Isolated", "invert", 0));
	json_array_append_new(splits, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
					      "trim_offsets", 1, "use_regex", 0));
	return json_pack("{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:o}, s:n, s:{s:s}, s:{s:s, s:o, s:o}}", "version", "1.0",
		"truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer", "type", "Sequence",
		"pretokenizers", splits, "post_processor", "decoder", "type", "ByteLevel", "model", "type", "BPE",
		"vocab", vocab, "merges", merges);
}

/* Writes a file of this name; makes the folder first when dir is empty. */
static inline EX_UNUSED void small_write(char dir[64], const char *name, const char *text)
{
	char path[128];
	if (!dir[0]) {
		strcpy(dir, "/tmp/expertd-tokenizer-XXXXXX");
		if (!mkdtemp(dir))
			abort();
	}
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "we");
	if (!f || fputs(text, f) < 0 || fclose(f) != 0)
		abort();
}

static inline EX_UNUSED void small_remove(char dir[64])
{
	static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
	char path[128];
	for (size_t i = 0; i < EX_ARRAY_LEN(names); i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
	dir[0] = '\0';
}

#endif
