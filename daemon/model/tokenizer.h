/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json: byte-level BPE with the file's own pre-tokenizer regexes. Layer L1. Immutable after open: shared by
 * threads. */
#ifndef EX_MODEL_TOKENIZER_H
#define EX_MODEL_TOKENIZER_H

#include "base/err.h"
#include "base/str.h"
#include <stdbool.h>

struct ex_tokenizer;

/* Reads DIR/tokenizer.json and, when there, tokenizer_config.json. A component that is not understood is refused by
 * name. */
int ex_tokenizer_open(const char *dir, struct ex_err *err, struct ex_tokenizer **ret);
struct ex_tokenizer *ex_tokenizer_close(struct ex_tokenizer *t);
EX_DEFINE_CLEANUP(struct ex_tokenizer, ex_tokenizer_close)

enum ex_encode_flags {
	EX_ENCODE_BOS = 1 << 0,     /* put the BOS token first */
	EX_ENCODE_SPECIAL = 1 << 1, /* added tokens in the text become their ids (chat templates); else they are plain
				     * text: what a user types never becomes a control token */
};

/* text[0..n), well-formed UTF-8 (else -EILSEQ) of at most 4 MiB (else -E2BIG) → ids appended to *ret_ids (grown; free()
 * it), *ret_n counts. [any] */
int ex_tokenizer_encode(const struct ex_tokenizer *t, const char *text, size_t n, unsigned flags, struct ex_err *err,
	uint32_t **ret_ids, size_t *ret_n, size_t *ret_cap);

uint32_t ex_tokenizer_vocab_size(const struct ex_tokenizer *t);           /* highest id + 1 */
int64_t ex_tokenizer_id(const struct ex_tokenizer *t, const char *token); /* id of an exact token, -1 if none */
int64_t ex_tokenizer_bos(const struct ex_tokenizer *t);                   /* -1: none */
int64_t ex_tokenizer_eos(const struct ex_tokenizer *t);
/* Bytes of one token (a special token: its text). Borrowed. *ret_n 0 for an id that is not there. */
const char *ex_tokenizer_bytes(const struct ex_tokenizer *t, uint32_t id, size_t *ret_n);
bool ex_tokenizer_is_special(const struct ex_tokenizer *t, uint32_t id);

/* Incremental detokenizer: never splits a UTF-8 character. At most 3 bytes are held back; ill-formed bytes become
 * U+FFFD. */
struct ex_detok {
	uint8_t held[4];
	uint8_t n_held;
};
/* Appends the text that token id completes to out. Special tokens yield nothing unless keep_special. [any] */
void ex_detok_push(
	struct ex_detok *d, const struct ex_tokenizer *t, uint32_t id, bool keep_special, struct ex_str *out);
/* Ends the text: bytes held back become U+FFFD. */
void ex_detok_flush(struct ex_detok *d, struct ex_str *out);

#endif
