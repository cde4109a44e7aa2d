/* SPDX-License-Identifier: Apache-2.0 */
/* JSON as text. Layer L4. */
#include "gateway/text.h"

#include <string.h>

/* Length of the well-formed UTF-8 character that s[0..n) begins with; 0: there is none. */
static size_t char_bytes(const char *s, size_t n)
{
	const unsigned char c = (unsigned char)*s;
	const size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	return len <= n && ex_utf8_valid(s, len) ? len : 0;
}

static void put_escaped(struct ex_str *out, unsigned char c)
{
	static const char name[] = "\"\"\\\\\nn\rr\tt";
	for (size_t i = 0; i < sizeof name - 1; i += 2)
		if ((unsigned char)name[i] == c) {
			ex_str_addf(out, "\\%c", name[i + 1]);
			return;
		}
	ex_str_addf(out, "\\u%04x", c);
}

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

void ex_json_putn(struct ex_str *out, const char *s, size_t n)
{
	ex_str_addn(out, "\"", 1);
	for (size_t i = 0, k; i < n; i += k) {
		for (k = 0; i + k < n && is_plain((unsigned char)s[i + k]); k++)
			;
		if (k) {
			ex_str_addn(out, s + i, k);
			continue;
		}
		k = char_bytes(s + i, n - i);
		if (!k) {
			ex_str_addf(out, "\\\\x%02x", (unsigned char)s[i]);
			k = 1;
		} else if (k == 1) {
			put_escaped(out, (unsigned char)s[i]);
		} else {
			ex_str_addn(out, s + i, k);
		}
	}
	ex_str_addn(out, "\"", 1);
}

void ex_json_put(struct ex_str *out, const char *s)
{
	ex_json_putn(out, s, strlen(s));
}

size_t ex_json_depth(const char *text, size_t n)
{
	size_t depth = 0, deepest = 0;
	bool quoted = false;
	for (size_t i = 0; i < n; i++)
		if (quoted) {
			if (text[i] == '\\')
				i++;
			else if (text[i] == '"')
				quoted = false;
		} else if (text[i] == '"') {
			quoted = true;
		} else if (text[i] == '{' || text[i] == '[') {
			depth++;
			deepest = EX_MAX(deepest, depth);
		} else if ((text[i] == '}' || text[i] == ']') && depth) {
			depth--;
		}
	return deepest;
}
