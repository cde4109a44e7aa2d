/* SPDX-License-Identifier: Apache-2.0 */
/* Regexes of tokenizer.json for PCRE2. Layer L1.
 *
 * They are written for Oniguruma in its Ruby syntax, where some constructs mean another thing than in PCRE2: \s, \w, \v
 * and \h are other sets, \p{Greek} is the script and not its extensions, {1,3}+ is not possessive, [a[b]] and && are
 * set operations. Patterns are rewritten piece by piece; what is not known here to mean the same is refused, never
 * guessed.
 */
#include "model/tokenizer_impl.h"

#include <ctype.h>
#include <string.h>

#define REGEX_NESTING_MAX 64
#define PROPERTY_MAX      48

/* A pattern on its way: what is read, and what is written. */
struct rewrite {
	const char *in;
	size_t n, i;
	bool in_class;
	struct ex_str out;
	struct ex_err *err;
};

/* A character counts as a word's in Oniguruma by these properties, and below U+0100 these fractions and superscripts
 * too. */
#define WORD_SET "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

static int refuse(struct rewrite *w, const char *what, size_t n_chars)
{
	size_t n = EX_MIN(n_chars, w->n - w->i);
	return ex_err_set(w->err, -ENOTSUP, "regex '%.*s': %s '%.*s' at byte %zu is not understood", (int)w->n, w->in,
		what, (int)n, w->in + w->i, w->i);
}

static char peek(const struct rewrite *w, size_t ahead)
{
	return w->i + ahead < w->n ? w->in[w->i + ahead] : '\0';
}

static void copy(struct rewrite *w, size_t n)
{
	ex_str_addn(&w->out, w->in + w->i, n);
	w->i += n;
}

static bool is_general_category(const char *name)
{
	static const char *const known[] = {"C", "Cc", "Cf", "Cn", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M",
		"Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk",
		"Sm", "So", "Z", "Zl", "Zp", "Zs"};
	for (size_t i = 0; i < EX_ARRAY_LEN(known); i++)
		if (!strcmp(name, known[i]))
			return true;
	return false;
}

/* \p{Name}, \P{Name}, \p{^Name}: a general category, or a script, which PCRE2 then knows or not. */
static int rewrite_property(struct rewrite *w)
{
	size_t at = 3, n = 0;
	char name[PROPERTY_MAX];
	bool inverse = peek(w, 1) == 'P';
	if (peek(w, 2) != '{')
		return refuse(w, "property", 3);
	if (peek(w, at) == '^') {
		inverse = !inverse;
		at++;
	}
	while (n + 1 < sizeof name && (isalpha((unsigned char)peek(w, at)) || peek(w, at) == '_'))
		name[n++] = peek(w, at++);
	name[n] = '\0';
	if (n == 0 || peek(w, at) != '}')
		return refuse(w, "property", at + 1);
	ex_str_addf(&w->out, "\\%c{%s%s}", inverse ? 'P' : 'p', is_general_category(name) ? "" : "sc:", name);
	w->i += at + 1;
	return 0;
}

/* \uHHHH, \xHH (ASCII only: in Oniguruma it is a byte) and \x{H...}. */
static int rewrite_code_point(struct rewrite *w)
{
	bool braced = peek(w, 1) == 'x' && peek(w, 2) == '{';
	size_t begin = braced ? 3 : 2, max = braced ? 6 : peek(w, 1) == 'u' ? 4 : 2, n = 0;
	uint32_t c = 0;
	for (; n < max && isxdigit((unsigned char)peek(w, begin + n)); n++) {
		char d = peek(w, begin + n);
		c = c << 4 | (uint32_t)(isdigit((unsigned char)d) ? d - '0' : (d | 0x20) - 'a' + 10);
	}
	bool whole = braced ? n > 0 && peek(w, begin + n) == '}' : n == max;
	if (!whole || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || (!braced && max == 2 && c > 0x7f))
		return refuse(w, "code point", begin + n);
	ex_str_addf(&w->out, "\\x{%x}", c);
	w->i += begin + n + braced;
	return 0;
}

static int rewrite_escape(struct rewrite *w)
{
	static const struct {
		char c;
		const char *text, *text_in_class; /* NULL: refused there */
	} row[] = {
		{'n', "\\n", "\\n"},
		{'r', "\\r", "\\r"},
		{'t', "\\t", "\\t"},
		{'f', "\\f", "\\f"},
		{'v', "\\x{b}", "\\x{b}"},
		{'s', "\\p{White_Space}", "\\p{White_Space}"},
		{'S', "\\P{White_Space}", "\\P{White_Space}"},
		{'d', "\\p{Nd}", "\\p{Nd}"},
		{'D', "\\P{Nd}", "\\P{Nd}"},
		{'w', "[" WORD_SET "]", WORD_SET},
		{'W', "[^" WORD_SET "]", NULL},
	};
	char c = peek(w, 1);
	if (c == 'p' || c == 'P')
		return rewrite_property(w);
	if (c == 'u' || c == 'x')
		return rewrite_code_point(w);
	for (size_t k = 0; k < EX_ARRAY_LEN(row); k++) {
		const char *text = w->in_class ? row[k].text_in_class : row[k].text;
		if (row[k].c != c || !text)
			continue;
		ex_str_add(&w->out, text);
		w->i += 2;
		return 0;
	}
	if (c != ' ' && !ispunct((unsigned char)c))
		return refuse(w, "escape", 2);
	copy(w, 2);
	return 0;
}

static int rewrite_class_open(struct rewrite *w)
{
	copy(w, peek(w, 1) == '^' ? 2 : 1);
	w->in_class = true;
	return peek(w, 0) == ']' ? refuse(w, "empty class before", 1) : 0;
}

static int rewrite_in_class(struct rewrite *w)
{
	char c = peek(w, 0);
	if (c == '[')
		return refuse(w, "class within a class", 1);
	if (c == '&' && peek(w, 1) == '&')
		return refuse(w, "class operator", 2);
	if (c == ']')
		w->in_class = false;
	copy(w, 1);
	return 0;
}

static int rewrite_group(struct rewrite *w)
{
	static const char *const known[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:"};
	if (peek(w, 1) == '*')
		return refuse(w, "group", 2);
	if (peek(w, 1) != '?') {
		copy(w, 1);
		return 0;
	}
	for (size_t k = 0; k < EX_ARRAY_LEN(known); k++) {
		size_t len = strlen(known[k]);
		if (w->n - w->i >= len && !memcmp(w->in + w->i, known[k], len)) {
			copy(w, len);
			return 0;
		}
	}
	return refuse(w, "group", 4);
}

/* {n}, {n,}, {n,m}. A '+' or '?' behind them means another thing in either engine. */
static int rewrite_interval(struct rewrite *w)
{
	size_t k = 1;
	while (isdigit((unsigned char)peek(w, k)))
		k++;
	bool has_min = k > 1;
	if (peek(w, k) == ',')
		for (k++; isdigit((unsigned char)peek(w, k));)
			k++;
	if (!has_min || peek(w, k) != '}')
		return refuse(w, "interval", k + 1);
	if (peek(w, k + 1) == '+' || peek(w, k + 1) == '?')
		return refuse(w, "interval", k + 2);
	copy(w, k + 1);
	return 0;
}

static int rewrite_pattern(struct rewrite *w)
{
	int r = 0;
	while (r == 0 && w->i < w->n) {
		char c = peek(w, 0);
		if (c == '\\')
			r = rewrite_escape(w);
		else if (w->in_class)
			r = rewrite_in_class(w);
		else if (c == '[')
			r = rewrite_class_open(w);
		else if (c == '(')
			r = rewrite_group(w);
		else if (c == '{')
			r = rewrite_interval(w);
		else
			copy(w, 1);
	}
	return r;
}

static int compile(const char *pattern, size_t n, uint32_t options, const char *origin, size_t n_origin,
	struct ex_err *err, pcre2_code **ret)
{
	int code;
	size_t at;
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	if (!context)
		return ex_err_errno(err, -ENOMEM, "regex '%.*s'", (int)n_origin, origin);
	pcre2_set_newline(context, PCRE2_NEWLINE_LF);
	pcre2_set_parens_nest_limit(context, REGEX_NESTING_MAX);
	pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, n, options | PCRE2_UTF, &code, &at, context);
	pcre2_compile_context_free(context);
	if (!re) {
		char text[128];
		pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
		return ex_err_set(err, -ENOTSUP, "regex '%.*s' is refused by PCRE2: %s", (int)n_origin, origin, text);
	}
	/* Where writable and executable memory is denied, and on machines without a JIT, PCRE2 interprets: slower, and
	 * the same. */
	pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
	*ret = re;
	return 0;
}

int ex_regex_compile(const char *pattern, size_t n, struct ex_err *err, pcre2_code **ret)
{
	if (n > EX_TOKENIZER_REGEX_BYTES_MAX)
		return ex_err_set(
			err, -EFBIG, "regex of %zu bytes: at most %u are allowed", n, EX_TOKENIZER_REGEX_BYTES_MAX);
	struct rewrite w = {.in = pattern, .n = n, .err = err};
	int r = rewrite_pattern(&w);
	if (r == 0 && w.out.oom)
		r = ex_err_errno(err, -ENOMEM, "regex '%.*s'", (int)n, pattern);
	/* in Ruby's syntax ^ and $ are a line's, always */
	if (r == 0)
		r = compile(w.out.s ? w.out.s : "", w.out.n, PCRE2_UCP | PCRE2_MULTILINE, pattern, n, err, ret);
	ex_str_done(&w.out);
	return r;
}

int ex_regex_compile_literal(const char *text, size_t n, struct ex_err *err, pcre2_code **ret)
{
	if (n > EX_TOKENIZER_REGEX_BYTES_MAX)
		return ex_err_set(
			err, -EFBIG, "pattern of %zu bytes: at most %u are allowed", n, EX_TOKENIZER_REGEX_BYTES_MAX);
	return compile(text, n, PCRE2_LITERAL, text, n, err, ret);
}
