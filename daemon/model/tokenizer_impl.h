/* SPDX-License-Identifier: Apache-2.0 */
/* What the tokenizer's files share: vocabulary, merges, splits, added tokens, and the working memory of one call. Layer
 * L1, private.
 *
 * The way of a text: added tokens are cut out (added.c), what is left is normalised (normalize.c), split by the file's
 * regexes (pretokenize.c, regex.c), and every piece is merged pair by pair into tokens (bpe.c) found in the vocabulary
 * (vocab.c).
 */
#ifndef EX_MODEL_TOKENIZER_IMPL_H
#define EX_MODEL_TOKENIZER_IMPL_H

#include "model/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <utf8proc.h>

#define EX_TOKENIZER_FILE_BYTES_MAX  (64u << 20) /* DeepSeek-V3's has 7.8 MB */
#define EX_TOKENIZER_IDS_MAX         (1u << 21)
#define EX_TOKENIZER_MERGES_MAX      (1u << 21)
#define EX_TOKENIZER_TOKEN_BYTES_MAX 4096u
#define EX_TOKENIZER_ADDED_MAX       65536u
#define EX_TOKENIZER_SPLITS_MAX      16u
#define EX_TOKENIZER_NORMALIZERS_MAX 4u
#define EX_TOKENIZER_NESTING_MAX     4u
#define EX_TOKENIZER_REGEX_BYTES_MAX 16384u
/* of one encode call; at the worst it needs 40 times that while it runs */
#define EX_TOKENIZER_TEXT_BYTES_MAX (4u << 20)

#define EX_TOKEN_NONE               UINT32_MAX

/* --- vocab.c: ids and their bytes ------------------------------------------------------------------------ */

enum token_flags {
	TOKEN_THERE = 1 << 0,
	TOKEN_LITERAL =
		1 << 1, /* holds a character that stands for no byte: it is its own text, and no piece can become it */
	TOKEN_WHOLE = 1 << 2, /* merging its bytes gives this very token, so a piece of these bytes needs no merging */
	TOKEN_ADDED = 1 << 3, /* in added_tokens: never made from plain text */
	TOKEN_SPECIAL = 1 << 4,
};

struct token {
	uint32_t off; /* of its bytes in the blob */
	uint16_t n;
	uint8_t flags;
};

struct vocab_slot {
	uint32_t hash, id; /* id EX_TOKEN_NONE: empty */
};

struct vocab {
	char *blob;
	size_t blob_n, blob_cap;
	struct token *token; /* [n_ids] */
	uint32_t n_ids;      /* highest id + 1 */
	struct vocab_slot *slot;
	uint32_t slot_mask;
};

/* A token text in the byte-level alphabet → its bytes in out[EX_TOKENIZER_TOKEN_BYTES_MAX]; a text with a character
 * outside the alphabet is copied as it is, with *ret_literal. text: well-formed UTF-8, n <=
 * EX_TOKENIZER_TOKEN_BYTES_MAX. Returns the length. */
size_t ex_vocab_unmap(const char *text, size_t n, char *out, bool *ret_literal);
/* Makes room for n_ids ids and n_tokens tokens found by their bytes. 0 or -ENOMEM. */
int ex_vocab_init(struct vocab *v, uint32_t n_ids, size_t n_tokens);
void ex_vocab_done(struct vocab *v);
/* Gives id the text (as in the file). -EEXIST when the id is taken, -ENOMEM. `findable`: ex_vocab_find returns it. */
int ex_vocab_add(struct vocab *v, uint32_t id, const char *text, size_t n, unsigned flags, bool findable);
/* Id of a token by its bytes, EX_TOKEN_NONE if there is none. literal: among those outside the byte alphabet. */
uint32_t ex_vocab_find(const struct vocab *v, const char *bytes, size_t n, bool literal);

/* --- bpe.c: pieces into tokens --------------------------------------------------------------------------- */

struct merge {
	uint32_t left, right; /* left EX_TOKEN_NONE: empty slot */
	uint32_t rank, id;
};

struct bpe {
	struct merge *slot;
	uint32_t slot_mask;
	uint32_t byte_id[256];
	bool ignore_merges; /* a piece that is a token is that token, whether merges lead to it or not */
};

struct bpe_symbol {
	uint32_t id, prev, next; /* id EX_TOKEN_NONE: merged into the one before */
};

int ex_bpe_init(struct bpe *b, size_t n_merges);
void ex_bpe_done(struct bpe *b);
/* -EEXIST when the pair has a rank already. */
int ex_bpe_add(struct bpe *b, const struct merge *m);

/* --- regex.c, pretokenize.c: text into pieces ------------------------------------------------------------ */

enum split_behavior {
	SPLIT_ISOLATED,
	SPLIT_REMOVED,
	SPLIT_MERGED_WITH_PREVIOUS,
	SPLIT_MERGED_WITH_NEXT,
	SPLIT_CONTIGUOUS
};

struct split {
	pcre2_code *code;
	enum split_behavior behavior;
	bool invert;
};

struct pretokenizer {
	struct split split[EX_TOKENIZER_SPLITS_MAX];
	unsigned n_splits;
	bool byte_level;   /* a ByteLevel was read: nothing may follow it */
	bool prefix_space; /* before split[prefix_split], every piece that does not begin with a space is given one */
	unsigned prefix_split;
};

/* A stretch of text. match: made by a regex rather than between its matches (used while splitting only). */
struct piece {
	uint32_t begin, end;
	bool match;
};

struct piece_list {
	struct piece *v;
	size_t n, cap;
};

/* Compiles a pattern written for Oniguruma (the library's engine) to match alike in PCRE2; a construct whose meaning
 * differs or is unknown is refused by name. */
int ex_regex_compile(const char *pattern, size_t n, struct ex_err *err, pcre2_code **ret);
/* Compiles text that stands for itself. */
int ex_regex_compile_literal(const char *text, size_t n, struct ex_err *err, pcre2_code **ret);

/* later.c: the text as regexes are to see it, of the same length: text itself, or a copy in *copy. 0 or -ENOMEM. */
int ex_later_replace(const char *text, size_t n, struct ex_str *copy, const char **ret);

/* --- added.c: added tokens in the text ------------------------------------------------------------------- */

struct added {
	char *text; /* owned */
	uint32_t n, id;
	bool lstrip, rstrip;
};

struct added_set {
	struct added *v; /* sorted by text once closed */
	size_t n, cap;
	bool first_byte[256];
};

struct added_match {
	size_t begin, end; /* the token with the white space that it swallows */
	uint32_t id;
};

void ex_added_done(struct added_set *s);
/* Copies a and its text. 0 or -ENOMEM. */
int ex_added_add(struct added_set *s, const struct added *a);
/* Sorts; after it the set is only read. -EEXIST with *ret_twice (borrowed) when a text is there twice. */
int ex_added_close(struct added_set *s, const char **ret_twice);
uint32_t ex_added_find(const struct added_set *s, const char *text, size_t n);
/* The next match at or after *pos: leftmost, longest. White space is not taken from before `taken`. False when there is
 * none; *pos moves past the match. */
bool ex_added_next(
	const struct added_set *s, const char *text, size_t n, size_t taken, size_t *pos, struct added_match *ret);

/* --- tokenizer.c ----------------------------------------------------------------------------------------- */

struct ex_tokenizer {
	uint32_t magic;
	struct vocab vocab;
	struct bpe bpe;
	struct pretokenizer pre;
	struct added_set added_raw, added_normalized; /* matched before and after normalising */
	utf8proc_option_t normalizer[EX_TOKENIZER_NORMALIZERS_MAX];
	unsigned n_normalizers;
	int64_t bos, eos, template_bos;
};

/* Working memory of one encode call. */
struct encode_work {
	const struct ex_tokenizer *t;
	struct ex_err *err;
	pcre2_match_data *match;
	pcre2_match_context *limits;
	struct piece_list pieces, next;
	struct ex_str prefixed; /* the text with prefix spaces */
	struct ex_str shown;    /* the text as regexes see it, where that differs */
	struct bpe_symbol *symbol;
	size_t symbol_cap;
	uint64_t *heap;
	size_t heap_n, heap_cap;
	uint32_t *ids; /* the caller's, grown */
	size_t n_ids, ids_cap;
};

/* Appends the tokens of one piece to w->ids. 0 or -ENOMEM. */
int ex_bpe_encode(struct encode_work *w, const char *piece, size_t n);
/* Marks the tokens that merging their own bytes gives: TOKEN_WHOLE. */
int ex_bpe_mark_whole(struct ex_tokenizer *t);

/* Splits text into w->pieces. *ret_text is what they index: text itself, or w->prefixed. */
int ex_pretokenize(struct encode_work *w, const char *text, size_t n, const char **ret_text);

/* text in the normal form of the tokenizer: *ret (free() it), NULL when the tokenizer has no normalizer. */
int ex_normalize(
	const struct ex_tokenizer *t, const char *text, size_t n, struct ex_err *err, char **ret, size_t *ret_n);

/* A tokenizer of the root of tokenizer.json alone. */
int ex_tokenizer_new(const json_t *root, struct ex_err *err, struct ex_tokenizer **ret);
/* Fills t from the root of tokenizer.json. Errors name the component. */
int ex_tokenizer_parse(struct ex_tokenizer *t, const json_t *root, struct ex_err *err);

/* Reads DIR/name as JSON into *ret (json_decref() it). -ENOENT when there is no such file. */
int ex_tokenizer_read_json(const char *dir, const char *name, struct ex_err *err, json_t **ret);

#endif
