/* SPDX-License-Identifier: Apache-2.0 */
/* Splits a text into pieces by the file's own regexes, one after another, each within the pieces of the one before.
 * Layer L1. */
#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include <string.h>

static int add_piece(struct encode_work *w, size_t begin, size_t end, bool match)
{
	struct piece_list *l = &w->next;
	int r = ex_grow(&l->v, &l->cap, l->n + 1, sizeof *l->v);
	if (r == 0)
		l->v[l->n++] = (struct piece){.begin = (uint32_t)begin, .end = (uint32_t)end, .match = match};
	return r;
}

/* The next match in text[from..n), which is the whole of what the regex sees with text[0..from). 1 found, 0 none,
 * -errno. */
static int next_match(
	struct encode_work *w, const struct split *s, const char *text, size_t n, size_t from, uint32_t options)
{
	int r = pcre2_match(s->code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_UTF_CHECK, w->match, w->limits);
	/* the JIT's stack is small; the interpreter's grows on the heap, up to its limit */
	if (r == PCRE2_ERROR_JIT_STACKLIMIT)
		r = pcre2_match(s->code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
			w->match, w->limits);
	if (r == PCRE2_ERROR_NOMATCH)
		return 0;
	if (r >= 0)
		return 1;
	char why[128];
	pcre2_get_error_message(r, (PCRE2_UCHAR *)why, sizeof why);
	return ex_err_set(w->err, r == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -E2BIG,
		"pre-tokenizer split %td gave up on a piece of %zu bytes: %s", s - w->t->pre.split, n, why);
}

/* Appends text[begin..end) to w->next as matches and what is between them. An empty match right after a match is none.
 */
static int find_matches(struct encode_work *w, const struct split *s, const char *text, size_t begin, size_t end)
{
	const PCRE2_SIZE *span = pcre2_get_ovector_pointer(w->match);
	size_t n = end - begin, done = 0, from = 0;
	bool matched = false;
	while (from <= n) {
		int r = next_match(w, s, text + begin, n, from, 0);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		size_t b = span[0], e = span[1];
		if (b == e) {
			from = e + 1;
			while (from < n && ((uint8_t)text[begin + from] & 0xc0) == 0x80)
				from++;
			if (matched && b == done)
				continue;
		} else
			from = e;
		if (b > done && (r = add_piece(w, begin + done, begin + b, s->invert)) < 0)
			return r;
		if ((r = add_piece(w, begin + b, begin + e, !s->invert)) < 0)
			return r;
		done = e;
		matched = true;
	}
	return done < n ? add_piece(w, begin + done, end, s->invert) : 0;
}

/* Whether piece b joins the piece a before it. */
static bool joins(enum split_behavior behavior, const struct piece *a, const struct piece *b)
{
	switch (behavior) {
	case SPLIT_MERGED_WITH_PREVIOUS:
		return b->match && !a->match;
	case SPLIT_MERGED_WITH_NEXT:
		return a->match && !b->match;
	case SPLIT_CONTIGUOUS:
		return a->match == b->match;
	case SPLIT_ISOLATED:
	case SPLIT_REMOVED:
		break;
	}
	return false;
}

/* Joins or removes pieces of w->next from `first` on as the behavior says; empty ones go. */
static void apply_behavior(struct piece_list *l, size_t first, enum split_behavior behavior)
{
	size_t n = first;
	struct piece before = {0};
	for (size_t i = first; i < l->n; i++) {
		struct piece p = l->v[i];
		bool join = i > first && joins(behavior, &before, &p);
		before = p;
		if (behavior == SPLIT_REMOVED && p.match)
			continue;
		if (join)
			l->v[n - 1].end = p.end;
		else
			l->v[n++] = p;
	}
	size_t kept = first;
	for (size_t i = first; i < n; i++)
		if (l->v[i].begin < l->v[i].end)
			l->v[kept++] = l->v[i];
	l->n = kept;
}

static int run_split(struct encode_work *w, const struct split *s, const char *text)
{
	w->next.n = 0;
	for (size_t i = 0; i < w->pieces.n; i++) {
		size_t first = w->next.n;
		int r = find_matches(w, s, text, w->pieces.v[i].begin, w->pieces.v[i].end);
		if (r < 0)
			return r;
		apply_behavior(&w->next, first, s->behavior);
	}
	struct piece_list done = w->pieces;
	w->pieces = w->next;
	w->next = done;
	return 0;
}

/* Copies the pieces to w->prefixed, with a space before those that do not begin with one. */
static int prefix_spaces(struct encode_work *w, const char *text)
{
	ex_str_reset(&w->prefixed);
	for (size_t i = 0; i < w->pieces.n; i++) {
		struct piece *p = &w->pieces.v[i];
		uint32_t begin = (uint32_t)w->prefixed.n;
		if (text[p->begin] != ' ')
			ex_str_addn(&w->prefixed, " ", 1);
		ex_str_addn(&w->prefixed, text + p->begin, p->end - p->begin);
		*p = (struct piece){.begin = begin, .end = (uint32_t)w->prefixed.n};
	}
	return w->prefixed.oom ? -ENOMEM : 0;
}

int ex_pretokenize(struct encode_work *w, const char *text, size_t n, const char **ret_text)
{
	const struct pretokenizer *pre = &w->t->pre;
	int r = 0;
	w->next.n = w->pieces.n = 0;
	if (n > 0)
		r = add_piece(w, 0, n, false);
	struct piece_list whole = w->next;
	w->next = w->pieces;
	w->pieces = whole;
	const char *shown = text;
	if (r == 0)
		r = ex_later_replace(text, n, &w->shown, &shown);
	for (unsigned i = 0; r == 0 && i <= pre->n_splits; i++) {
		if (pre->prefix_space && i == pre->prefix_split && w->pieces.n) {
			r = prefix_spaces(w, text);
			text = w->prefixed.s;
			if (r == 0)
				r = ex_later_replace(text, w->prefixed.n, &w->shown, &shown);
		}
		if (r == 0 && i < pre->n_splits)
			r = run_split(w, &pre->split[i], shown);
	}
	if (r == 0)
		*ret_text = text;
	return r;
}
