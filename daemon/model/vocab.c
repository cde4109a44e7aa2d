/* SPDX-License-Identifier: Apache-2.0 */
/* The vocabulary: ids and their bytes, and tokens found by their bytes. Layer L1.
 *
 * tokenizer.json writes a token's bytes in an alphabet of printable characters (GPT-2's): the printable bytes of
 * Latin-1 stand for themselves, the 68 others for U+0100 onwards, in order. Here tokens are kept as the bytes they
 * mean.
 */
#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include <string.h>

#define ALPHABET_HIGH 0x100 /* first character of the 68 */
#define ALPHABET_END  0x144

static bool is_own_char(unsigned b)
{
	return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

/* The byte that character c stands for, -1 for none. */
static int byte_of_char(int32_t c)
{
	if (c >= 0 && c < ALPHABET_HIGH)
		return is_own_char((unsigned)c) ? c : -1;
	if (c < 0 || c >= ALPHABET_END)
		return -1;
	/* the gaps of Latin-1 in order: 00-20, 7f-a0, ad */
	int i = c - ALPHABET_HIGH;
	return i < 0x21 ? i : i < 0x43 ? i - 0x21 + 0x7f : 0xad;
}

size_t ex_vocab_unmap(const char *text, size_t n, char *out, bool *ret_literal)
{
	size_t n_out = 0;
	*ret_literal = false;
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t c;
		utf8proc_ssize_t len =
			utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
		int byte = len > 0 ? byte_of_char(c) : -1;
		if (byte < 0) {
			*ret_literal = true;
			memcpy(out, text, n);
			return n;
		}
		out[n_out++] = (char)byte;
		i += (size_t)len;
	}
	return n_out;
}

static uint32_t hash_bytes(const char *s, size_t n, bool literal)
{
	uint64_t h = UINT64_C(0x9e3779b97f4a7c15) ^ (n << 1 | literal), w;
	for (; n >= 8; s += 8, n -= 8) {
		memcpy(&w, s, 8);
		h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 32;
	}
	for (w = 0; n; n--)
		w = w << 8 | (uint8_t)s[n - 1];
	h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
	h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
	return (uint32_t)(h >> 32);
}

int ex_vocab_init(struct vocab *v, uint32_t n_ids, size_t n_tokens)
{
	size_t n_slots = 16;
	while (n_slots < 2 * n_tokens)
		n_slots *= 2;
	v->token = ex_calloc(n_ids, sizeof *v->token);
	v->slot = ex_calloc(n_slots, sizeof *v->slot);
	if (!v->token || !v->slot)
		return -ENOMEM;
	for (size_t i = 0; i < n_slots; i++)
		v->slot[i].id = EX_TOKEN_NONE;
	v->slot_mask = (uint32_t)(n_slots - 1);
	v->n_ids = n_ids;
	return 0;
}

void ex_vocab_done(struct vocab *v)
{
	free(v->blob);
	free(v->token);
	free(v->slot);
	*v = (struct vocab){0};
}

int ex_vocab_add(struct vocab *v, uint32_t id, const char *text, size_t n, unsigned flags, bool findable)
{
	char bytes[EX_TOKENIZER_TOKEN_BYTES_MAX];
	bool literal;
	assert(id < v->n_ids && n <= sizeof bytes);
	struct token *k = &v->token[id];
	if (k->flags & TOKEN_THERE)
		return -EEXIST;
	size_t n_bytes = ex_vocab_unmap(text, n, bytes, &literal);
	int r = ex_grow(&v->blob, &v->blob_cap, v->blob_n + n_bytes, 1);
	if (r < 0)
		return r;
	*k = (struct token){
		.off = (uint32_t)v->blob_n,
		.n = (uint16_t)n_bytes,
		.flags = (uint8_t)(flags | TOKEN_THERE | (literal ? TOKEN_LITERAL : 0)),
	};
	memcpy(v->blob + v->blob_n, bytes, n_bytes);
	v->blob_n += n_bytes;
	if (!findable)
		return 0;
	uint32_t hash = hash_bytes(bytes, n_bytes, literal), i = hash & v->slot_mask;
	while (v->slot[i].id != EX_TOKEN_NONE)
		i = (i + 1) & v->slot_mask;
	v->slot[i] = (struct vocab_slot){.hash = hash, .id = id};
	return 0;
}

uint32_t ex_vocab_find(const struct vocab *v, const char *bytes, size_t n, bool literal)
{
	uint32_t hash = hash_bytes(bytes, n, literal);
	for (uint32_t i = hash & v->slot_mask; v->slot[i].id != EX_TOKEN_NONE; i = (i + 1) & v->slot_mask) {
		if (v->slot[i].hash != hash)
			continue;
		const struct token *k = &v->token[v->slot[i].id];
		if (k->n == n && !(k->flags & TOKEN_LITERAL) == !literal && !memcmp(v->blob + k->off, bytes, n))
			return v->slot[i].id;
	}
	return EX_TOKEN_NONE;
}
