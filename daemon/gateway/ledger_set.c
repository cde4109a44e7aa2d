/* SPDX-License-Identifier: Apache-2.0 */
/* Rows by key and by account. Layer L4. */
#include "gateway/ledger_set.h"

#include "base/mem.h"
#include <string.h>

#define SLOTS_MIN 1024
#define FNV_START UINT64_C(14695981039346656037) /* FNV-1a, 64 bits */
#define FNV_PRIME UINT64_C(1099511628211)

static uint64_t hash_bytes(const void *data, size_t n, uint64_t h)
{
	const uint8_t *b = data;
	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * FNV_PRIME;
	return h;
}

static uint64_t hash_key(const char *key)
{
	return hash_bytes(key, strlen(key), FNV_START);
}

static uint64_t hash_purse(int64_t account, const char *currency)
{
	return hash_bytes(currency, 3, hash_bytes(&account, sizeof account, FNV_START));
}

static uint64_t hash_at(const struct ex_set *set, const struct ex_slots *x, size_t i)
{
	if (x == &set->by_key)
		return hash_key(set->txn[i].key);
	return hash_purse(set->purse[i].p.account, set->purse[i].p.currency);
}

static void note_slot(struct ex_slots *x, uint64_t hash, size_t i)
{
	size_t at = hash & (x->cap - 1);
	while (x->slot[at])
		at = (at + 1) & (x->cap - 1);
	x->slot[at] = (uint32_t)i + 1;
	x->n++;
}

/* Room for one more at no more than half full. */
static int grow_slots(const struct ex_set *set, struct ex_slots *x)
{
	if (2 * (x->n + 1) <= x->cap)
		return 0;
	size_t n = x->n;
	struct ex_slots wider = {.cap = x->cap ? 2 * x->cap : SLOTS_MIN};
	wider.slot = ex_calloc(wider.cap, sizeof *wider.slot);
	if (!wider.slot)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		note_slot(&wider, hash_at(set, x, i), i);
	free(x->slot);
	*x = wider;
	return 0;
}

static void reset_slots(struct ex_slots *x)
{
	if (x->cap)
		memset(x->slot, 0, x->cap * sizeof *x->slot);
	x->n = 0;
}

void ex_set_done(struct ex_set *set)
{
	free(set->txn);
	free(set->purse);
	free(set->by_key.slot);
	free(set->by_account.slot);
	*set = (struct ex_set){.n_txns = 0};
}

void ex_set_reset(struct ex_set *set, const struct ex_store_head *head)
{
	set->head = *head;
	set->n_txns = set->n_loaded = set->n_purses = 0;
	reset_slots(&set->by_key);
	reset_slots(&set->by_account);
}

const struct ex_txn *ex_set_txn(const struct ex_set *set, const char *key)
{
	const struct ex_slots *x = &set->by_key;
	if (x->cap)
		for (size_t at = hash_key(key) & (x->cap - 1); x->slot[at]; at = (at + 1) & (x->cap - 1))
			if (strcmp(set->txn[x->slot[at] - 1].key, key) == 0)
				return &set->txn[x->slot[at] - 1];
	return NULL;
}

const struct ex_purse *ex_set_purse(const struct ex_set *set, int64_t account, const char *currency)
{
	const struct ex_slots *x = &set->by_account;
	if (x->cap)
		for (size_t at = hash_purse(account, currency) & (x->cap - 1); x->slot[at];
			at = (at + 1) & (x->cap - 1)) {
			const struct ex_purse *p = &set->purse[x->slot[at] - 1].p;
			if (p->account == account && strcmp(p->currency, currency) == 0)
				return p;
		}
	return NULL;
}

int ex_set_put_txn(struct ex_set *set, const struct ex_txn *t)
{
	if (ex_set_txn(set, t->key))
		return 0;
	if (grow_slots(set, &set->by_key) < 0 ||
		ex_grow(&set->txn, &set->cap_txns, set->n_txns + 1, sizeof *set->txn) < 0)
		return -ENOMEM;
	set->txn[set->n_txns] = *t;
	note_slot(&set->by_key, hash_key(t->key), set->n_txns++);
	return 0;
}

int ex_set_put_purse(struct ex_set *set, const struct ex_purse *p)
{
	if (ex_set_purse(set, p->account, p->currency))
		return 0;
	if (grow_slots(set, &set->by_account) < 0 ||
		ex_grow(&set->purse, &set->cap_purses, set->n_purses + 1, sizeof *set->purse) < 0)
		return -ENOMEM;
	set->purse[set->n_purses] = (struct ex_set_purse){.p = *p};
	note_slot(&set->by_account, hash_purse(p->account, p->currency), set->n_purses++);
	return 0;
}
