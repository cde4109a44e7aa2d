/* SPDX-License-Identifier: Apache-2.0 */
/* The PostgreSQL store from the inside: the connection is in store_pg.c, rows are in pg_rows.c and pg_accounts.c. Layer L4. */
#ifndef EX_GATEWAY_STORE_PG_H
#define EX_GATEWAY_STORE_PG_H

#include "base/str.h"
#include "gateway/store.h"
#include <libpq-fe.h>

#define EX_PG_PARAMS_MAX 20

enum ex_pg_sql {
	EX_PG_HEAD,
	EX_PG_LOCK_HEAD,
	EX_PG_SET_HEAD,
	EX_PG_TXNS_BY_KEY,
	EX_PG_REFUNDS,
	EX_PG_TXNS,
	EX_PG_TXNS_OF,
	EX_PG_ADD_TXNS,
	EX_PG_ADD_ENTRIES,
	EX_PG_ADD_HOLDS,
	EX_PG_END_HOLDS,
	EX_PG_PURSES_OF,
	EX_PG_PURSES,
	EX_PG_SET_PURSES,
	EX_PG_HOLDS,
	EX_PG_ACCOUNTS,
	EX_PG_KEYS,
	EX_PG_TARIFFS,
	EX_PG_ADD_ACCOUNT,
	EX_PG_ADD_KEY,
	EX_PG_ADD_TARIFF,
	EX_PG_SET_ACCOUNT,
	EX_PG_SET_KEY,
	EX_PG_REVISE,
	EX_PG_USAGE,
	EX_PG_SQL_N,
};
extern const char *const ex_pg_sql[EX_PG_SQL_N];

struct ex_pg {
	struct ex_store store;
	char *conninfo;
	PGconn *c; /* NULL: to be connected anew */
	bool prepared[EX_PG_SQL_N];
	char number[EX_PG_PARAMS_MAX][24]; /* parameters of one statement as text */
};

static inline struct ex_pg *ex_pg_of(struct ex_store *s)
{
	return EX_CONTAINER_OF(s, struct ex_pg, store);
}

/* Runs a statement with n text parameters (NULL: null), and calls row for each row of its answer as it comes; non-zero from row ends it and is
 * returned. row NULL: no rows are wanted. ret_n: rows that were touched, NULL: not wanted. */
typedef int ex_pg_row_fn(void *ctx, const PGresult *r, struct ex_err *err);
int ex_pg_run(struct ex_pg *s, enum ex_pg_sql which, const char *const *params, int n, ex_pg_row_fn *row, void *ctx,
	int64_t *ret_n, struct ex_err *err);
/* v as text in place i of s->number. */
const char *ex_pg_number(struct ex_pg *s, int i, int64_t v);

/* Columns of the row at hand. */
int64_t ex_pg_int(const PGresult *r, int column);
/* False: it does not fit. */
bool ex_pg_text(const PGresult *r, int column, char *out, size_t size);
/* A column of hex digits; false: it is not n bytes. */
bool ex_pg_hex(const PGresult *r, int column, uint8_t *out, size_t n);
int ex_pg_damaged(struct ex_err *err, const char *what, int64_t id); /* -EUCLEAN */

/* Of struct ex_store_ops. */
int ex_pg_find_txns(
	struct ex_store *store, const char *const *keys, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_find_refunds(
	struct ex_store *store, const int64_t *refs, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_find_purses(
	struct ex_store *store, const int64_t *accounts, size_t n, ex_purse_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_save(struct ex_store *store, const struct ex_store_head *head, const struct ex_txn *txns, size_t n_txns,
	const struct ex_purse *purses, size_t n_purses, struct ex_err *err);
int ex_pg_each_txn(struct ex_store *store, int64_t after_seq, int64_t account, size_t max, ex_txn_fn *fn, void *ctx,
	struct ex_err *err);
int ex_pg_each_purse(struct ex_store *store, ex_purse_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_each_hold(
	struct ex_store *store, int64_t expired_us, const char *owner, ex_hold_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_each_account(struct ex_store *store, ex_account_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_each_key(struct ex_store *store, ex_api_key_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_each_tariff(struct ex_store *store, ex_tariff_fn *fn, void *ctx, struct ex_err *err);
int ex_pg_add_account(struct ex_store *store, struct ex_account *a, struct ex_err *err);
int ex_pg_add_key(struct ex_store *store, struct ex_api_key *k, struct ex_err *err);
int ex_pg_add_tariff(struct ex_store *store, struct ex_tariff *t, struct ex_err *err);
int ex_pg_set_account(struct ex_store *store, const struct ex_account *a, struct ex_err *err);
int ex_pg_set_key(struct ex_store *store, const struct ex_api_key *k, struct ex_err *err);
int ex_pg_each_usage(
	struct ex_store *store, int64_t account, int64_t since_us, ex_usage_fn *fn, void *ctx, struct ex_err *err);

#endif
