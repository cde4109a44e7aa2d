/* SPDX-License-Identifier: Apache-2.0 */
/* Added tokens: texts that are one token whatever is around them. The leftmost match wins, of those the longest. Layer
 * L1. */
#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include <string.h>

void ex_added_done(struct added_set *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i].text);
	free(s->v);
	*s = (struct added_set){0};
}

int ex_added_add(struct added_set *s, const struct added *a)
{
	int r = ex_grow(&s->v, &s->cap, s->n + 1, sizeof *s->v);
	if (r < 0)
		return r;
	char *text = malloc(a->n + 1);
	if (!text)
		return -ENOMEM;
	memcpy(text, a->text, a->n);
	text[a->n] = '\0';
	s->v[s->n] = *a;
	s->v[s->n++].text = text;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct added *x = a, *y = b;
	int r = memcmp(x->text, y->text, EX_MIN(x->n, y->n));
	return r ? r : (x->n > y->n) - (x->n < y->n);
}

int ex_added_close(struct added_set *s, const char **ret_twice)
{
	if (s->n)
		qsort(s->v, s->n, sizeof *s->v, compare);
	for (size_t i = 0; i < s->n; i++) {
		s->first_byte[(uint8_t)s->v[i].text[0]] = true;
		if (i > 0 && compare(&s->v[i - 1], &s->v[i]) == 0) {
			*ret_twice = s->v[i].text;
			return -EEXIST;
		}
	}
	return 0;
}

uint32_t ex_added_find(const struct added_set *s, const char *text, size_t n)
{
	struct added key = {.text = (char *)text, .n = (uint32_t)n};
	const struct added *a = s->n ? bsearch(&key, s->v, s->n, sizeof *s->v, compare) : NULL;
	return a ? a->id : EX_TOKEN_NONE;
}

/* The first of v[lo..hi), all alike in their first `depth` bytes and longer than that, whose byte there is not below c.
 */
static size_t lower_bound(const struct added *v, size_t lo, size_t hi, size_t depth, unsigned c)
{
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if ((uint8_t)v[mid].text[depth] < c)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The longest token that text begins with, NULL for none. Narrows the sorted list byte by byte. */
static const struct added *longest_at(const struct added_set *s, const char *text, size_t n)
{
	const struct added *best = NULL;
	size_t lo = 0, hi = s->n;
	for (size_t depth = 0; depth < n; depth++) {
		unsigned c = (uint8_t)text[depth];
		lo = lower_bound(s->v, lo, hi, depth, c);
		hi = lower_bound(s->v, lo, hi, depth, c + 1);
		if (lo == hi)
			break;
		if (s->v[lo].n == depth + 1) /* sorted: the one that ends here comes first */
			best = &s->v[lo++];
	}
	return best;
}

/* Length of the white space character (Unicode property White_Space) at s, 0 if another is there. */
static size_t space_len(const char *s, size_t n)
{
	utf8proc_int32_t c;
	utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c);
	if (len <= 0)
		return 0;
	bool space = (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
		     (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
		     c == 0x3000;
	return space ? (size_t)len : 0;
}

static size_t skip_spaces(const char *text, size_t n, size_t at)
{
	size_t len;
	while (at < n && (len = space_len(text + at, n - at)) > 0)
		at += len;
	return at;
}

/* Where the run of white space that ends at `at` begins, not before `floor`. */
static size_t back_over_spaces(const char *text, size_t at, size_t floor)
{
	while (at > floor) {
		size_t begin = at - 1;
		while (begin > floor && ((uint8_t)text[begin] & 0xc0) == 0x80)
			begin--;
		if (space_len(text + begin, at - begin) != at - begin)
			break;
		at = begin;
	}
	return at;
}

bool ex_added_next(
	const struct added_set *s, const char *text, size_t n, size_t taken, size_t *pos, struct added_match *ret)
{
	for (size_t i = *pos; i < n; i++) {
		const struct added *a = s->first_byte[(uint8_t)text[i]] ? longest_at(s, text + i, n - i) : NULL;
		if (!a)
			continue;
		*ret = (struct added_match){.begin = EX_MAX(i, taken), .end = i + a->n, .id = a->id};
		*pos = i + a->n;
		if (a->lstrip)
			ret->begin = back_over_spaces(text, ret->begin, taken);
		if (a->rstrip)
			ret->end = skip_spaces(text, n, ret->end);
		return true;
	}
	return false;
}
