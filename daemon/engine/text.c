/* SPDX-License-Identifier: Apache-2.0 */
/* Token ids to text. Layer L3. */
#include "engine/text.h"

#include <string.h>

void ex_text_think_ids(
	const struct ex_tokenizer *tokenizer, const struct ex_chat *chat, int64_t *ret_open, int64_t *ret_close)
{
	*ret_open = *ret_close = -1;
	if (chat) {
		*ret_open = ex_chat_think_open_id(chat);
		*ret_close = ex_chat_think_close_id(chat);
	} else if (tokenizer) {
		*ret_open = ex_tokenizer_id(tokenizer, "<think>");
		*ret_close = ex_tokenizer_id(tokenizer, "</think>");
	}
}

void ex_text_init(struct ex_text *t, const struct ex_text_opts *o)
{
	*t = (struct ex_text){.o = *o, .thinking = o->starts_thinking};
}

void ex_text_done(struct ex_text *t)
{
	ex_str_done(&t->held);
	ex_str_done(&t->piece);
	ex_str_done(&t->out);
	ex_str_done(&t->reasoning);
}

void ex_text_reset(struct ex_text *t)
{
	ex_str_reset(&t->out);
	ex_str_reset(&t->reasoning);
}

/* Where the first stop string begins in s, n when there is none. */
static size_t find_stop(const struct ex_text *t, const char *s, size_t n)
{
	size_t first = n;
	for (uint32_t i = 0; i < t->o.n_stop; i++) {
		const char *at = memmem(s, n, t->o.stop[i], strlen(t->o.stop[i]));
		if (at)
			first = EX_MIN(first, (size_t)(at - s));
	}
	return first;
}

/* Length of the longest end of s that begins some stop string. */
static size_t stop_prefix(const struct ex_text *t, const char *s, size_t n)
{
	size_t longest = 0;
	for (uint32_t i = 0; i < t->o.n_stop; i++) {
		size_t len = strlen(t->o.stop[i]);
		for (size_t k = EX_MIN(n, len - 1); k > longest; k--)
			if (memcmp(s + n - k, t->o.stop[i], k) == 0) {
				longest = k;
				break;
			}
	}
	return longest;
}

/* Moves answer text on to the client: all up to a stop string, or all but a possible beginning of one. */
static void answer(struct ex_text *t, const struct ex_str *piece)
{
	if (!t->o.n_stop) {
		ex_str_addn(&t->out, piece->s, piece->n);
		return;
	}
	ex_str_addn(&t->held, piece->s, piece->n);
	if (t->held.oom || !t->held.n)
		return;
	size_t n = find_stop(t, t->held.s, t->held.n);
	t->stopped = n < t->held.n;
	if (!t->stopped)
		n -= stop_prefix(t, t->held.s, t->held.n);
	ex_str_addn(&t->out, t->held.s, n);
	if (t->stopped) {
		ex_str_reset(&t->held);
		return;
	}
	memmove(t->held.s, t->held.s + n, t->held.n - n + 1);
	t->held.n -= n;
}

/* Texts go on as C strings: a NUL character becomes U+FFFD, so that it does not cut off what follows. */
static void replace_nul(struct ex_str *s)
{
	struct ex_str clean = EX_STR_INIT;
	if (!memchr(s->s, '\0', s->n))
		return;
	for (size_t i = 0; i < s->n; i++)
		if (s->s[i])
			ex_str_addn(&clean, &s->s[i], 1);
		else
			ex_str_add(&clean, "\xef\xbf\xbd");
	ex_str_done(s);
	*s = clean;
}

static void give_piece(struct ex_text *t)
{
	if (!t->piece.n)
		return;
	replace_nul(&t->piece);
	if (t->piece.oom)
		return;
	if (t->thinking)
		ex_str_addn(&t->reasoning, t->piece.s, t->piece.n);
	else
		answer(t, &t->piece);
	ex_str_reset(&t->piece);
}

static bool ok(const struct ex_text *t)
{
	return !t->held.oom && !t->piece.oom && !t->out.oom && !t->reasoning.oom;
}

/* Ends the text of the channel at hand: half a character, half a stop string. */
static void end_channel(struct ex_text *t)
{
	ex_detok_flush(&t->detok, &t->piece);
	give_piece(t);
	if (!t->stopped && t->held.n)
		ex_str_addn(&t->out, t->held.s, t->held.n);
	if (t->held.n)
		ex_str_reset(&t->held);
}

static void switch_channel(struct ex_text *t, uint32_t id, bool thinking)
{
	size_t n;
	end_channel(t);
	if (t->stopped)
		return;
	if (t->o.keep_special) {
		const char *tag = ex_tokenizer_bytes(t->o.tokenizer, id, &n);
		ex_str_addn(&t->reasoning, tag, n);
	}
	t->thinking = thinking;
}

bool ex_text_push(struct ex_text *t, uint32_t id)
{
	if (t->stopped || !t->o.tokenizer)
		return true;
	if ((int64_t)id == t->o.think_open || (int64_t)id == t->o.think_close) {
		switch_channel(t, id, (int64_t)id == t->o.think_open);
	} else {
		ex_detok_push(&t->detok, t->o.tokenizer, id, t->o.keep_special, &t->piece);
		give_piece(t);
	}
	return ok(t);
}

bool ex_text_flush(struct ex_text *t)
{
	if (!t->stopped && t->o.tokenizer)
		end_channel(t);
	return ok(t);
}
