/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of a transaction. Layer L4. The order of the fields below is the format of the chain: it is never changed. */
#include "gateway/ledger.h"

#include <openssl/evp.h>
#include <string.h>

#define TEXTS_MAX (EX_LEDGER_KEY_MAX + EX_LEDGER_OWNER_MAX + EX_LEDGER_NOTE_MAX + EX_CURRENCY_MAX)
#define BYTES_MAX (EX_LEDGER_HASH + 8 * (13 + EX_BOOK_N + 4) + TEXTS_MAX)

struct bytes {
	uint8_t b[BYTES_MAX];
	size_t n;
};

static void add_number(struct bytes *o, int64_t v)
{
	assert(o->n + 8 <= sizeof o->b);
	for (int i = 0; i < 8; i++)
		o->b[o->n++] = (uint8_t)((uint64_t)v >> 8 * i);
}

/* Its length, then its bytes: no two lists of texts look alike. */
static void add_text(struct bytes *o, const char *s)
{
	size_t n = strlen(s);
	add_number(o, (int64_t)n);
	assert(o->n + n <= sizeof o->b);
	memcpy(o->b + o->n, s, n);
	o->n += n;
}

int ex_ledger_hash(
	const uint8_t before[static EX_LEDGER_HASH], const struct ex_txn *t, uint8_t out[static EX_LEDGER_HASH])
{
	struct bytes o = {.n = EX_LEDGER_HASH};
	memcpy(o.b, before, EX_LEDGER_HASH);
	const int64_t numbers[] = {t->seq, t->time_us, t->kind, t->account, t->amount, t->ref, t->tariff, t->api_key,
		t->expires_us, t->tokens.prompt_hit, t->tokens.prompt_miss, t->tokens.completion, t->tokens.reasoning};
	for (size_t i = 0; i < EX_ARRAY_LEN(numbers); i++)
		add_number(&o, numbers[i]);
	for (int b = 0; b < EX_BOOK_N; b++)
		add_number(&o, t->moved[b]);
	add_text(&o, t->currency);
	add_text(&o, t->key);
	add_text(&o, t->owner);
	add_text(&o, t->note);
	return EVP_Digest(o.b, o.n, out, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}
