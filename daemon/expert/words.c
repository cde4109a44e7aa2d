/* SPDX-License-Identifier: Apache-2.0 */
/* Words for streams in plain text: random, used once, forgotten soon. Layer L2. */
#include "expert/words.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/str.h"
#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/random.h>

#define RAW_BYTES ((EX_WORD_MAX - 1) / 2)

struct ex_words {
	struct ex_lock lock;
	size_t next; /* guarded by lock: the place of the next word, and the oldest */
	struct word {
		uint64_t given_ns; /* 0: none */
		char text[EX_WORD_MAX];
	} words[EX_WORDS_MAX]; /* guarded by lock */
};

struct ex_words *ex_words_new(void)
{
	struct ex_words *w = ex_calloc(1, sizeof *w);
	if (w)
		ex_lock_init(&w->lock, "words");
	return w;
}

struct ex_words *ex_words_free(struct ex_words *w)
{
	if (w)
		ex_lock_done(&w->lock);
	free(w);
	return NULL;
}

int ex_words_give(struct ex_words *w, char ret[static EX_WORD_MAX])
{
	unsigned char raw[RAW_BYTES];
	if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw) /* up to 256 bytes come whole */
		return errno ? -errno : -EIO;
	ex_hex(raw, sizeof raw, ret);
	ex_lock_take(&w->lock);
	struct word *at = &w->words[w->next++ % EX_WORDS_MAX];
	at->given_ns = ex_now_ns();
	memcpy(at->text, ret, EX_WORD_MAX);
	ex_lock_give(&w->lock);
	return 0;
}

bool ex_words_take(struct ex_words *w, const char *word)
{
	bool good = false;
	if (strlen(word) != EX_WORD_MAX - 1)
		return false;
	ex_lock_take(&w->lock);
	for (size_t i = 0; i < EX_WORDS_MAX && !good; i++) {
		struct word *at = &w->words[i];
		if (!at->given_ns || CRYPTO_memcmp(at->text, word, EX_WORD_MAX) != 0)
			continue;
		good = ex_now_ns() - at->given_ns < EX_WORD_MS * EX_NS_PER_MS;
		*at = (struct word){0};
		break;
	}
	ex_lock_give(&w->lock);
	return good;
}
