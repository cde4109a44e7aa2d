/* SPDX-License-Identifier: Apache-2.0 */
/* Words that a router gets in its Hello over TLS and shows, once, on its stream in plain text. Layer L2. */
#ifndef EX_EXPERT_WORDS_H
#define EX_EXPERT_WORDS_H

#include <stdbool.h>

#define EX_WORD_MAX  65             /* 64 hex digits of 256 random bits, and NUL */
#define EX_WORDS_MAX 4096           /* not shown yet; the oldest is forgotten for a new one */
#define EX_WORD_MS   60000          /* later it is good for nothing */
#define EX_WORD_KEY  "expertd-word" /* of the stream's metadata */

struct ex_words;

struct ex_words *ex_words_new(void);                /* NULL: out of memory */
struct ex_words *ex_words_free(struct ex_words *w); /* takes NULL */
/* A new word; -errno: no randomness. [any] */
int ex_words_give(struct ex_words *w, char ret[static EX_WORD_MAX]);
/* Whether word was given, not long ago, and not shown before. [any] */
bool ex_words_take(struct ex_words *w, const char *word);

#endif
