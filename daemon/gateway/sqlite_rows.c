/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of the SQLite store, in and out. Layer L4. */
#include "gateway/store_sqlite.h"

#include <string.h>

/* --- out of the file: what is there is not trusted to be what was written ------------------------------------------------ */

int ex_sqlite_damaged(struct ex_sqlite *s, struct ex_err *err, const char *what, int64_t seq)
{
	return ex_err_set(err, -EUCLEAN,
		"the ledger '%s': %s %lld cannot be read (the database is damaged: restore a backup)", s->path, what,
		(long long)seq);
}

bool ex_sqlite_take_text(sqlite3_stmt *q, int column, char *out, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(q, column);
	size_t n = (size_t)sqlite3_column_bytes(q, column);
	if (!text || n >= size || strlen(text) != n)
		return false;
	memcpy(out, text, n + 1);
	return true;
}

static bool take_u32(sqlite3_stmt *q, int column, uint32_t *ret)
{
	int64_t v = sqlite3_column_int64(q, column);
	*ret = (uint32_t)v;
	return v >= 0 && v <= UINT32_MAX;
}

static bool take_txn(sqlite3_stmt *q, struct ex_txn *t)
{
	*t = (struct ex_txn){
		.seq = sqlite3_column_int64(q, 0),
		.time_us = sqlite3_column_int64(q, 1),
		.kind = (enum ex_txn_kind)sqlite3_column_int(q, 2),
		.account = sqlite3_column_int64(q, 4),
		.amount = sqlite3_column_int64(q, 6),
		.ref = sqlite3_column_int64(q, 7),
		.tariff = sqlite3_column_int64(q, 8),
		.api_key = sqlite3_column_int64(q, 9),
		.expires_us = sqlite3_column_int64(q, 10),
	};
	if (sqlite3_column_bytes(q, 17) != EX_LEDGER_HASH)
		return false;
	memcpy(t->hash, sqlite3_column_blob(q, 17), EX_LEDGER_HASH);
	return t->kind >= EX_TXN_CREDIT && t->kind < EX_TXN_KIND_N &&
	       ex_sqlite_take_text(q, 3, t->key, sizeof t->key) &&
	       ex_sqlite_take_text(q, 5, t->currency, sizeof t->currency) && take_u32(q, 11, &t->tokens.prompt_hit) &&
	       take_u32(q, 12, &t->tokens.prompt_miss) && take_u32(q, 13, &t->tokens.completion) &&
	       take_u32(q, 14, &t->tokens.reasoning) && ex_sqlite_take_text(q, 15, t->owner, sizeof t->owner) &&
	       ex_sqlite_take_text(q, 16, t->note, sizeof t->note);
}

static int take_entries(struct ex_sqlite *s, struct ex_txn *t, struct ex_err *err)
{
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_ENTRIES);
	int code, rc = 0;
	sqlite3_bind_int64(q, 1, t->seq);
	while (rc == 0 && (code = sqlite3_step(q)) == SQLITE_ROW) {
		int book = sqlite3_column_int(q, 0);
		if (book < 0 || book >= EX_BOOK_N)
			rc = ex_sqlite_damaged(s, err, "transaction", t->seq);
		else
			t->moved[book] = sqlite3_column_int64(q, 1);
	}
	if (rc == 0 && code != SQLITE_DONE)
		rc = ex_sqlite_failed(s, code, err);
	sqlite3_reset(q);
	return rc;
}

/* All rows of q, which yields transactions. */
static int each_row(struct ex_sqlite *s, sqlite3_stmt *q, ex_txn_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_txn t;
	int code = SQLITE_DONE, rc = 0;
	while (rc == 0 && (code = sqlite3_step(q)) == SQLITE_ROW) {
		rc = take_txn(q, &t) ? take_entries(s, &t, err) : ex_sqlite_damaged(s, err, "transaction", t.seq);
		if (rc == 0)
			rc = fn(ctx, &t);
	}
	if (rc == 0 && code != SQLITE_DONE)
		rc = ex_sqlite_failed(s, code, err);
	sqlite3_reset(q);
	return rc;
}

int ex_sqlite_find_txns(
	struct ex_store *store, const char *const *keys, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	int rc = 0;
	for (size_t i = 0; i < n && rc == 0; i++) {
		sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_TXN_BY_KEY);
		sqlite3_bind_text(q, 1, keys[i], -1, SQLITE_STATIC);
		rc = each_row(s, q, fn, ctx, err);
	}
	return rc;
}

int ex_sqlite_find_refunds(
	struct ex_store *store, const int64_t *refs, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	int rc = 0;
	for (size_t i = 0; i < n && rc == 0; i++) {
		sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_REFUNDS);
		sqlite3_bind_int64(q, 1, refs[i]);
		rc = each_row(s, q, fn, ctx, err);
	}
	return rc;
}

int ex_sqlite_each_txn(struct ex_store *store, int64_t after_seq, int64_t account, size_t max, ex_txn_fn *fn, void *ctx,
	struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, account ? EX_SQL_TXNS_OF : EX_SQL_TXNS);
	sqlite3_bind_int64(q, 1, after_seq);
	sqlite3_bind_int64(q, 2, max > INT64_MAX ? INT64_MAX : (int64_t)max);
	if (account)
		sqlite3_bind_int64(q, 3, account);
	return each_row(s, q, fn, ctx, err);
}

static int each_purse_row(struct ex_sqlite *s, sqlite3_stmt *q, ex_purse_fn *fn, void *ctx, struct ex_err *err)
{
	int code = SQLITE_DONE, rc = 0;
	while (rc == 0 && (code = sqlite3_step(q)) == SQLITE_ROW) {
		struct ex_purse p = {.account = sqlite3_column_int64(q, 0)};
		for (int b = 0; b < EX_BOOK_N; b++)
			p.balance[b] = sqlite3_column_int64(q, 2 + b);
		rc = ex_sqlite_take_text(q, 1, p.currency, sizeof p.currency)
			     ? fn(ctx, &p)
			     : ex_sqlite_damaged(s, err, "the balance of account", p.account);
	}
	if (rc == 0 && code != SQLITE_DONE)
		rc = ex_sqlite_failed(s, code, err);
	sqlite3_reset(q);
	return rc;
}

int ex_sqlite_find_purses(
	struct ex_store *store, const int64_t *accounts, size_t n, ex_purse_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	int rc = 0;
	for (size_t i = 0; i < n && rc == 0; i++) {
		sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_PURSE);
		sqlite3_bind_int64(q, 1, accounts[i]);
		rc = each_purse_row(s, q, fn, ctx, err);
	}
	return rc;
}

int ex_sqlite_each_purse(struct ex_store *store, ex_purse_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	return each_purse_row(s, ex_sqlite_stmt(s, EX_SQL_PURSES), fn, ctx, err);
}

int ex_sqlite_each_hold(
	struct ex_store *store, int64_t expired_us, const char *owner, ex_hold_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_HOLDS);
	int code = SQLITE_DONE, rc = 0;
	sqlite3_bind_int64(q, 1, expired_us);
	if (owner)
		sqlite3_bind_text(q, 2, owner, -1, SQLITE_STATIC);
	while (rc == 0 && (code = sqlite3_step(q)) == SQLITE_ROW) {
		struct ex_hold h = {.txn = sqlite3_column_int64(q, 0),
			.account = sqlite3_column_int64(q, 1),
			.expires_us = sqlite3_column_int64(q, 2)};
		rc = ex_sqlite_take_text(q, 3, h.key, sizeof h.key) &&
				     ex_sqlite_take_text(q, 4, h.owner, sizeof h.owner)
			     ? fn(ctx, &h)
			     : ex_sqlite_damaged(s, err, "hold", h.txn);
	}
	if (rc == 0 && code != SQLITE_DONE)
		rc = ex_sqlite_failed(s, code, err);
	sqlite3_reset(q);
	return rc;
}

/* --- into the file ------------------------------------------------------------------------------------------------------- */

static int add_txn(struct ex_sqlite *s, const struct ex_txn *t, struct ex_err *err)
{
	const int64_t numbers[] = {t->seq, t->time_us, t->kind, 0, t->account, 0, t->amount, t->ref, t->tariff,
		t->api_key, t->expires_us, t->tokens.prompt_hit, t->tokens.prompt_miss, t->tokens.completion,
		t->tokens.reasoning};
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_ADD_TXN);
	for (int i = 0; i < (int)EX_ARRAY_LEN(numbers); i++)
		sqlite3_bind_int64(q, 1 + i, numbers[i]);
	sqlite3_bind_text(q, 4, t->key, -1, SQLITE_STATIC);
	sqlite3_bind_text(q, 6, t->currency, -1, SQLITE_STATIC);
	sqlite3_bind_text(q, 16, t->owner, -1, SQLITE_STATIC);
	sqlite3_bind_text(q, 17, t->note, -1, SQLITE_STATIC);
	sqlite3_bind_blob(q, 18, t->hash, EX_LEDGER_HASH, SQLITE_STATIC);
	int rc = ex_sqlite_run(s, q, err);
	for (int b = 0; b < EX_BOOK_N && rc == 0; b++) {
		if (!t->moved[b])
			continue;
		q = ex_sqlite_stmt(s, EX_SQL_ADD_ENTRY);
		sqlite3_bind_int64(q, 1, t->seq);
		sqlite3_bind_int(q, 2, b);
		sqlite3_bind_int64(q, 3, t->moved[b]);
		rc = ex_sqlite_run(s, q, err);
	}
	return rc;
}

static int note_hold(struct ex_sqlite *s, const struct ex_txn *t, struct ex_err *err)
{
	if (t->kind == EX_TXN_HOLD) {
		sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_ADD_HOLD);
		sqlite3_bind_int64(q, 1, t->seq);
		sqlite3_bind_int64(q, 2, t->expires_us);
		sqlite3_bind_text(q, 3, t->owner, -1, SQLITE_STATIC);
		return ex_sqlite_run(s, q, err);
	}
	if (t->kind != EX_TXN_POST && t->kind != EX_TXN_VOID && t->kind != EX_TXN_TIMEOUT)
		return 0;
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_END_HOLD);
	sqlite3_bind_int64(q, 1, t->ref);
	int rc = ex_sqlite_run(s, q, err);
	if (rc == 0 && sqlite3_changes(s->db) != 1)
		rc = ex_sqlite_damaged(s, err, "the hold of transaction", t->ref);
	return rc;
}

static int set_purse(struct ex_sqlite *s, const struct ex_purse *p, struct ex_err *err)
{
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_SET_PURSE);
	sqlite3_bind_int64(q, 1, p->account);
	sqlite3_bind_text(q, 2, p->currency, -1, SQLITE_STATIC);
	for (int b = 0; b < EX_BOOK_N; b++)
		sqlite3_bind_int64(q, 3 + b, p->balance[b]);
	return ex_sqlite_run(s, q, err);
}

int ex_sqlite_save(struct ex_store *store, const struct ex_store_head *head, const struct ex_txn *txns, size_t n_txns,
	const struct ex_purse *purses, size_t n_purses, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	int rc = 0;
	for (size_t i = 0; i < n_txns && rc == 0; i++) {
		rc = add_txn(s, &txns[i], err);
		if (rc == 0)
			rc = note_hold(s, &txns[i], err);
	}
	for (size_t i = 0; i < n_purses && rc == 0; i++)
		rc = set_purse(s, &purses[i], err);
	if (rc < 0)
		return rc;
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_SET_HEAD);
	sqlite3_bind_int64(q, 1, head->seq);
	sqlite3_bind_blob(q, 2, head->hash, EX_LEDGER_HASH, SQLITE_STATIC);
	return ex_sqlite_run(s, q, err);
}
