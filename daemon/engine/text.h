/* SPDX-License-Identifier: Apache-2.0 */
/* Token ids to the text a client sees: whole characters, reasoning apart from the answer, stop strings cut off. Layer
 * L3. */
#ifndef EX_ENGINE_TEXT_H
#define EX_ENGINE_TEXT_H

#include "engine/engine.h"

struct ex_text_opts {
	const struct ex_tokenizer *tokenizer; /* borrowed; NULL: ids only, no text */
	int64_t think_open, think_close;      /* token ids, -1: none */
	bool starts_thinking, keep_special;
	const char *const *stop; /* [n_stop] borrowed, well-formed UTF-8, not empty */
	uint32_t n_stop;
};

struct ex_text {
	struct ex_text_opts o;
	struct ex_detok detok;
	bool thinking;
	bool stopped;                 /* a stop string was met: nothing more comes out */
	struct ex_str held;           /* answer text that may be the beginning of a stop string */
	struct ex_str piece;          /* what one token gave */
	struct ex_str out, reasoning; /* ready for the client since the last ex_text_reset */
};

/* The ids of <think> and </think>: the template's, else the vocabulary's; -1: none. tokenizer, chat: may be NULL. */
void ex_text_think_ids(
	const struct ex_tokenizer *tokenizer, const struct ex_chat *chat, int64_t *ret_open, int64_t *ret_close);

void ex_text_init(struct ex_text *t, const struct ex_text_opts *o);
void ex_text_done(struct ex_text *t);
/* Adds token id. A NUL character comes out as U+FFFD. The think tokens switch the channel and are no text, unless keep_special leaves them in the reasoning.
 * Stop strings are looked for in the answer only. Returns false when memory ran out. */
bool ex_text_push(struct ex_text *t, uint32_t id);
/* The end: what was held back comes out. */
bool ex_text_flush(struct ex_text *t);
/* Empties out and reasoning, after they were delivered. */
void ex_text_reset(struct ex_text *t);

#endif
