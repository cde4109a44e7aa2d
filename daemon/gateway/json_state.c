/* SPDX-License-Identifier: Apache-2.0 */
/* The automaton of one JSON object, RFC 8259. Layer L4. Narrower than the grammar where parsers are: numbers, nesting and blanks are bounded, and escapes
 * that stand for half a character or for NUL do not come. */
#include "gateway/json_guide.h"

#include <string.h>

#define BLANKS_MAX 32 /* in a row: a model may otherwise write nothing else */
#define INT_MAX_N  15 /* digits: exact as a double, too */
#define FRAC_MAX_N 17
#define EXP_MAX_N  2

enum where {
	START,
	KEY_OR_END, /* after { */
	KEY,        /* after , in an object */
	COLON,
	VALUE,
	VALUE_OR_END, /* after [ */
	AFTER,        /* a value */
	STRING,
	ESCAPE,
	HEX,
	WORD, /* true, false, null */
	MINUS,
	ZERO,
	INT,
	DOT,
	FRAC,
	EXP_SIGN, /* after e */
	EXP_FIRST,
	EXP,
	DONE,
};

void ex_json_state_init(struct ex_json_state *s)
{
	*s = (struct ex_json_state){.where = START};
}

bool ex_json_state_done(const struct ex_json_state *s)
{
	return s->where == DONE;
}

static bool is_blank(unsigned char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

static bool go(struct ex_json_state *s, enum where w)
{
	s->where = (uint8_t)w;
	s->n = 0;
	return true;
}

static bool is_in_array(const struct ex_json_state *s)
{
	return s->arrays >> (s->depth - 1) & 1;
}

static bool open_level(struct ex_json_state *s, bool array)
{
	if (s->depth == EX_JSON_GUIDE_DEPTH_MAX)
		return false;
	const uint32_t bit = UINT32_C(1) << s->depth++;
	s->arrays = array ? s->arrays | bit : s->arrays & ~bit;
	return go(s, array ? VALUE_OR_END : KEY_OR_END);
}

static bool close_level(struct ex_json_state *s, bool array)
{
	if (is_in_array(s) != array)
		return false;
	s->depth--;
	return go(s, s->depth ? AFTER : DONE);
}

static bool begin_string(struct ex_json_state *s, bool key)
{
	s->key = key;
	return go(s, STRING);
}

static bool begin_value(struct ex_json_state *s, unsigned char c)
{
	static const char *const words[] = {"true", "false", "null"};
	for (size_t i = 0; i < EX_ARRAY_LEN(words); i++)
		if (c == words[i][0]) {
			s->word = words[i] + 1;
			return go(s, WORD);
		}
	if (c == '"')
		return begin_string(s, false);
	if (c == '{' || c == '[')
		return open_level(s, c == '[');
	if (c == '-')
		return go(s, MINUS);
	if (c == '0')
		return go(s, ZERO);
	if (!is_digit(c))
		return false;
	go(s, INT);
	s->n = 1;
	return true;
}

static bool after_value(struct ex_json_state *s, unsigned char c)
{
	if (c == ',')
		return go(s, is_in_array(s) ? VALUE : KEY);
	return (c == '}' || c == ']') && close_level(s, c == ']');
}

/* --- strings --------------------------------------------------------------------------------------------- */

static bool in_string(struct ex_json_state *s, unsigned char c)
{
	if (c == '"')
		return go(s, s->key ? COLON : AFTER);
	if (c == '\\')
		return go(s, ESCAPE);
	return c >= 0x20; /* what is no UTF-8 becomes U+FFFD on its way out */
}

static bool in_escape(struct ex_json_state *s, unsigned char c)
{
	s->value = 0;
	if (c == 'u')
		return go(s, HEX);
	return c && strchr("\"\\/bfnrt", c) && go(s, STRING);
}

/* Not a surrogate, not NUL. */
static bool in_hex(struct ex_json_state *s, unsigned char c)
{
	const unsigned char low = c | 0x20;
	if (!is_digit(c) && !(low >= 'a' && low <= 'f'))
		return false;
	s->value = (uint16_t)(s->value << 4 | (is_digit(c) ? c - '0' : low - 'a' + 10));
	s->n++;
	if (s->n == 2 && s->value >= 0xd8 && s->value <= 0xdf)
		return false;
	if (s->n < 4)
		return true;
	return s->value && go(s, STRING);
}

/* --- numbers --------------------------------------------------------------------------------------------- */

static bool more_digits(struct ex_json_state *s, unsigned char c, unsigned n_max)
{
	return is_digit(c) && s->n < n_max && ++s->n;
}

static bool first_digit(struct ex_json_state *s, unsigned char c, enum where then)
{
	if (!is_digit(c))
		return false;
	go(s, then);
	s->n = 1;
	return true;
}

/* In a number that may end here. */
static bool in_number(struct ex_json_state *s, unsigned char c)
{
	const bool fraction = s->where == FRAC, exponent = s->where == EXP;
	if (s->where != ZERO && more_digits(s, c, exponent ? EXP_MAX_N : fraction ? FRAC_MAX_N : INT_MAX_N))
		return true;
	if (c == '.' && !fraction && !exponent)
		return go(s, DOT);
	if ((c == 'e' || c == 'E') && !exponent)
		return go(s, EXP_SIGN);
	if (is_blank(c)) {
		s->n_blanks = 1;
		return go(s, AFTER);
	}
	return after_value(s, c);
}

/* --- the whole ------------------------------------------------------------------------------------------- */

static bool takes_blanks(enum where w)
{
	return w <= AFTER;
}

static bool in_word(struct ex_json_state *s, unsigned char c)
{
	if (c != (unsigned char)*s->word)
		return false;
	return *++s->word || go(s, AFTER);
}

bool ex_json_state_step(struct ex_json_state *s, unsigned char c)
{
	const enum where w = s->where;
	if (takes_blanks(w) && is_blank(c))
		return ++s->n_blanks <= BLANKS_MAX;
	s->n_blanks = 0;
	switch (w) {
	case START:
		return c == '{' && open_level(s, false);
	case KEY_OR_END:
		return c == '}' ? close_level(s, false) : c == '"' && begin_string(s, true);
	case KEY:
		return c == '"' && begin_string(s, true);
	case COLON:
		return c == ':' && go(s, VALUE);
	case VALUE:
		return begin_value(s, c);
	case VALUE_OR_END:
		return c == ']' ? close_level(s, true) : begin_value(s, c);
	case AFTER:
		return after_value(s, c);
	case STRING:
		return in_string(s, c);
	case ESCAPE:
		return in_escape(s, c);
	case HEX:
		return in_hex(s, c);
	case WORD:
		return in_word(s, c);
	case MINUS:
		return c == '0' ? go(s, ZERO) : first_digit(s, c, INT);
	case DOT:
		return first_digit(s, c, FRAC);
	case EXP_SIGN:
		return c == '+' || c == '-' ? go(s, EXP_FIRST) : first_digit(s, c, EXP);
	case EXP_FIRST:
		return first_digit(s, c, EXP);
	case ZERO:
	case INT:
	case FRAC:
	case EXP:
		return in_number(s, c);
	case DONE:
		return false;
	}
	return false;
}

unsigned ex_json_state_left(const struct ex_json_state *s)
{
	const unsigned quote = s->key ? 3 : 1; /* ":0 after a key */
	switch ((enum where)s->where) {
	case START:
		return 2;
	case KEY:
		return s->depth + 4u; /* "":0 */
	case COLON:
		return s->depth + 2u;
	case VALUE:
	case MINUS:
	case DOT:
	case EXP_SIGN:
	case EXP_FIRST:
		return s->depth + 1u;
	case STRING:
		return s->depth + quote;
	case ESCAPE:
		return s->depth + 1u + quote;
	case HEX:
		return s->depth + 4u - s->n + quote;
	case WORD:
		return s->depth + (unsigned)strlen(s->word);
	case KEY_OR_END:
	case VALUE_OR_END:
	case AFTER:
	case ZERO:
	case INT:
	case FRAC:
	case EXP:
		return s->depth;
	case DONE:
		return 0;
	}
	return 0;
}
