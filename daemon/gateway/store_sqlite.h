/* SPDX-License-Identifier: Apache-2.0 */
/* The SQLite store from the inside: opening is in store_sqlite.c, rows are in sqlite_rows.c. Layer L4. */
#ifndef EX_GATEWAY_STORE_SQLITE_H
#define EX_GATEWAY_STORE_SQLITE_H

#include "gateway/store.h"
#include <sqlite3.h>

#define EX_SQLITE_APPLICATION "0x45584c47" /* "EXLG" */
#define EX_SQLITE_VERSION     "1"

#define EX_SQL_TXN_COLUMNS                                                                                             \
	"seq, time_us, kind, key, account, currency, amount, ref, tariff, api_key, expires_us, prompt_hit, "           \
	"prompt_miss, "                                                                                                \
	"completion, reasoning, owner, note, hash"
#define EX_SQL_PURSE_COLUMNS "account, currency, granted, topped, held_granted, held_topped, payments, grants, revenue"

enum ex_sql {
	EX_SQL_BEGIN,
	EX_SQL_BEGIN_WRITE,
	EX_SQL_COMMIT,
	EX_SQL_ROLLBACK,
	EX_SQL_HEAD,
	EX_SQL_SET_HEAD,
	EX_SQL_TXN_BY_KEY,
	EX_SQL_REFUNDS,
	EX_SQL_TXNS,
	EX_SQL_TXNS_OF,
	EX_SQL_ENTRIES,
	EX_SQL_ADD_TXN,
	EX_SQL_ADD_ENTRY,
	EX_SQL_ADD_HOLD,
	EX_SQL_END_HOLD,
	EX_SQL_PURSE,
	EX_SQL_PURSES,
	EX_SQL_SET_PURSE,
	EX_SQL_HOLDS,
	EX_SQL_ACCOUNTS,
	EX_SQL_KEYS,
	EX_SQL_TARIFFS,
	EX_SQL_ADD_ACCOUNT,
	EX_SQL_ADD_KEY,
	EX_SQL_ADD_TARIFF,
	EX_SQL_SET_ACCOUNT,
	EX_SQL_SET_KEY,
	EX_SQL_REVISE,
	EX_SQL_USAGE,
	EX_SQL_N,
};
extern const char *const ex_sqlite_sql[EX_SQL_N];

struct ex_sqlite {
	struct ex_store store;
	char *path;
	sqlite3 *db; /* NULL: to be opened anew */
	sqlite3_stmt *stmt[EX_SQL_N];
	bool broken; /* an I/O error: close it before it is used again */
};

static inline struct ex_sqlite *ex_sqlite_of(struct ex_store *s)
{
	return EX_CONTAINER_OF(s, struct ex_sqlite, store);
}

/* err, and the -errno of a result code. */
int ex_sqlite_failed(struct ex_sqlite *s, int code, struct ex_err *err);
sqlite3_stmt *ex_sqlite_stmt(struct ex_sqlite *s, enum ex_sql which); /* reset, nothing bound */
int ex_sqlite_run(struct ex_sqlite *s, sqlite3_stmt *q, struct ex_err *err);

/* Of struct ex_store_ops. */
int ex_sqlite_find_txns(
	struct ex_store *store, const char *const *keys, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_find_refunds(
	struct ex_store *store, const int64_t *refs, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_find_purses(
	struct ex_store *store, const int64_t *accounts, size_t n, ex_purse_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_save(struct ex_store *store, const struct ex_store_head *head, const struct ex_txn *txns, size_t n_txns,
	const struct ex_purse *purses, size_t n_purses, struct ex_err *err);
int ex_sqlite_each_txn(struct ex_store *store, int64_t after_seq, int64_t account, size_t max, ex_txn_fn *fn, void *ctx,
	struct ex_err *err);
int ex_sqlite_each_purse(struct ex_store *store, ex_purse_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_each_hold(
	struct ex_store *store, int64_t expired_us, const char *owner, ex_hold_fn *fn, void *ctx, struct ex_err *err);

int ex_sqlite_each_account(struct ex_store *store, ex_account_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_each_key(struct ex_store *store, ex_api_key_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_each_tariff(struct ex_store *store, ex_tariff_fn *fn, void *ctx, struct ex_err *err);
int ex_sqlite_add_account(struct ex_store *store, struct ex_account *a, struct ex_err *err);
int ex_sqlite_add_key(struct ex_store *store, struct ex_api_key *k, struct ex_err *err);
int ex_sqlite_add_tariff(struct ex_store *store, struct ex_tariff *t, struct ex_err *err);
int ex_sqlite_set_account(struct ex_store *store, const struct ex_account *a, struct ex_err *err);
int ex_sqlite_set_key(struct ex_store *store, const struct ex_api_key *k, struct ex_err *err);
int ex_sqlite_each_usage(
	struct ex_store *store, int64_t account, int64_t since_us, ex_usage_fn *fn, void *ctx, struct ex_err *err);

/* A text column into out; false when it does not fit, or is none. */
bool ex_sqlite_take_text(sqlite3_stmt *q, int column, char *out, size_t size);
/* err says what cannot be read; -EUCLEAN. */
int ex_sqlite_damaged(struct ex_sqlite *s, struct ex_err *err, const char *what, int64_t id);

#endif
