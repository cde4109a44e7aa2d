/* SPDX-License-Identifier: Apache-2.0 */
/* Holds a model to writing one JSON object: which tokens may come next, and which must when few are left. Layer L4.
 *
 * An automaton over bytes knows what may follow and how many bytes would end the object. A token is let through when all its bytes may follow and the
 * object can still be ended within the tokens that are left, of which one is the end. Since each byte of the shortest end is a token of its own, there is
 * always one that may come. */
#ifndef EX_GATEWAY_JSON_GUIDE_H
#define EX_GATEWAY_JSON_GUIDE_H

#include "model/tokenizer.h"

#define EX_JSON_GUIDE_DEPTH_MAX  32
#define EX_JSON_GUIDE_TOKENS_MIN 4 /* the end of the reasoning, "{", "}", the end: less cannot be an answer */

/* --- the automaton ---------------------------------------------------------------------------------------- */

struct ex_json_state {
	uint8_t where; /* private, as all here */
	uint8_t n;     /* digits of a number's part or of \uXXXX; bytes of a word */
	uint8_t n_blanks, depth;
	uint16_t value;
	bool key; /* a string is one */
	const char *word;
	uint32_t arrays; /* bit i: level i is an array */
};
void ex_json_state_init(struct ex_json_state *s);
/* False: this byte cannot follow; s is void then. [any] */
bool ex_json_state_step(struct ex_json_state *s, unsigned char byte);
bool ex_json_state_done(const struct ex_json_state *s);
/* How many bytes the shortest end has. */
unsigned ex_json_state_left(const struct ex_json_state *s);

/* --- a vocabulary, and who is guided through it ------------------------------------------------------------- */

struct ex_json_vocab; /* immutable, shared by threads, on its own */
struct ex_json_vocab_opts {
	const struct ex_tokenizer *tokenizer; /* for the call only, as eos */
	const uint32_t *eos;                  /* [n_eos] */
	uint32_t n_eos;
	int64_t think_open, think_close; /* -1: none */
};
/* -ENOTSUP: the vocabulary has no end token, or not every printable byte as a token. [any] */
int ex_json_vocab_new(const struct ex_json_vocab_opts *o, struct ex_err *err, struct ex_json_vocab **ret);
struct ex_json_vocab *ex_json_vocab_free(struct ex_json_vocab *v);

struct ex_json_guide {
	const struct ex_json_vocab *v;
	struct ex_json_state s;
};
void ex_json_guide_init(struct ex_json_guide *g, const struct ex_json_vocab *v);
/* Lowers the logits [n_logits] of what may not come next, of n_left tokens that may still come. thinking: the model is in its reasoning, which is free but
 * for its end. False: nothing may come. One thread. */
bool ex_json_guide_mask(struct ex_json_guide *g, float *logits, uint32_t n_logits, bool thinking, uint32_t n_left);
/* Token id of the answer came: no end, no think tag. */
void ex_json_guide_take(struct ex_json_guide *g, uint32_t id);

#endif
