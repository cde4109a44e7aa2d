/* SPDX-License-Identifier: Apache-2.0 */
/* Accounts, keys, tariffs and usage in the SQLite store. Layer L4. */
#include "gateway/store_sqlite.h"

#include <string.h>

/* --- out of the file ----------------------------------------------------------------------------------------------------- */

/* Reads the row at q and calls fn with it. */
typedef int row_fn(struct ex_sqlite *s, sqlite3_stmt *q, void *fn, void *ctx, struct ex_err *err);

static int each(struct ex_sqlite *s, sqlite3_stmt *q, row_fn *row, void *fn, void *ctx, struct ex_err *err)
{
	int code = SQLITE_DONE, rc = 0;
	while (rc == 0 && (code = sqlite3_step(q)) == SQLITE_ROW)
		rc = row(s, q, fn, ctx, err);
	if (rc == 0 && code != SQLITE_DONE)
		rc = ex_sqlite_failed(s, code, err);
	sqlite3_reset(q);
	return rc;
}

static int account_row(struct ex_sqlite *s, sqlite3_stmt *q, void *fn, void *ctx, struct ex_err *err)
{
	struct ex_account a = {.id = sqlite3_column_int64(q, 0),
		.created_us = sqlite3_column_int64(q, 1),
		.suspended = sqlite3_column_int(q, 4) != 0};
	if (!ex_sqlite_take_text(q, 2, a.name, sizeof a.name) || !ex_sqlite_take_text(q, 3, a.tier, sizeof a.tier))
		return ex_sqlite_damaged(s, err, "account", a.id);
	return ((ex_account_fn *)fn)(ctx, &a);
}

static int key_row(struct ex_sqlite *s, sqlite3_stmt *q, void *fn, void *ctx, struct ex_err *err)
{
	struct ex_api_key k = {.id = sqlite3_column_int64(q, 0),
		.account = sqlite3_column_int64(q, 1),
		.created_us = sqlite3_column_int64(q, 2),
		.revoked_us = sqlite3_column_int64(q, 3)};
	if (sqlite3_column_bytes(q, 4) != (int)sizeof k.sha256 || !ex_sqlite_take_text(q, 5, k.tail, sizeof k.tail) ||
		!ex_sqlite_take_text(q, 6, k.label, sizeof k.label))
		return ex_sqlite_damaged(s, err, "key", k.id);
	memcpy(k.sha256, sqlite3_column_blob(q, 4), sizeof k.sha256);
	return ((ex_api_key_fn *)fn)(ctx, &k);
}

static int tariff_row(struct ex_sqlite *s, sqlite3_stmt *q, void *fn, void *ctx, struct ex_err *err)
{
	struct ex_tariff t = {.id = sqlite3_column_int64(q, 0),
		.from_us = sqlite3_column_int64(q, 1),
		.hit = sqlite3_column_int64(q, 4),
		.miss = sqlite3_column_int64(q, 5),
		.completion = sqlite3_column_int64(q, 6)};
	if (!ex_sqlite_take_text(q, 2, t.model, sizeof t.model) ||
		!ex_sqlite_take_text(q, 3, t.currency, sizeof t.currency))
		return ex_sqlite_damaged(s, err, "tariff", t.id);
	return ((ex_tariff_fn *)fn)(ctx, &t);
}

static int usage_row(struct ex_sqlite *s, sqlite3_stmt *q, void *fn, void *ctx, struct ex_err *err)
{
	(void)s, (void)err;
	const struct ex_usage_row u = {.day = sqlite3_column_int64(q, 0),
		.api_key = sqlite3_column_int64(q, 1),
		.tariff = sqlite3_column_int64(q, 2),
		.n_requests = sqlite3_column_int64(q, 3),
		.hit = sqlite3_column_int64(q, 4),
		.miss = sqlite3_column_int64(q, 5),
		.completion = sqlite3_column_int64(q, 6),
		.reasoning = sqlite3_column_int64(q, 7),
		.charged = sqlite3_column_int64(q, 8)};
	return ((ex_usage_fn *)fn)(ctx, &u);
}

int ex_sqlite_each_account(struct ex_store *store, ex_account_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	return each(s, ex_sqlite_stmt(s, EX_SQL_ACCOUNTS), account_row, (void *)fn, ctx, err);
}

int ex_sqlite_each_key(struct ex_store *store, ex_api_key_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	return each(s, ex_sqlite_stmt(s, EX_SQL_KEYS), key_row, (void *)fn, ctx, err);
}

int ex_sqlite_each_tariff(struct ex_store *store, ex_tariff_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	return each(s, ex_sqlite_stmt(s, EX_SQL_TARIFFS), tariff_row, (void *)fn, ctx, err);
}

int ex_sqlite_each_usage(
	struct ex_store *store, int64_t account, int64_t since_us, ex_usage_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_USAGE);
	sqlite3_bind_int64(q, 1, account);
	sqlite3_bind_int64(q, 2, since_us);
	return each(s, q, usage_row, (void *)fn, ctx, err);
}

/* --- into the file ------------------------------------------------------------------------------------------------------- */

/* Runs q, which changes one row, and counts the revision up. */
static int change(struct ex_sqlite *s, sqlite3_stmt *q, int otherwise, struct ex_err *err, int64_t *ret_id)
{
	int rc = ex_sqlite_run(s, q, err);
	if (rc == 0 && sqlite3_changes(s->db) != 1)
		return ex_err_set(
			err, otherwise, "%s", otherwise == -EEXIST ? "there is one already" : "there is none");
	if (rc == 0 && ret_id)
		*ret_id = sqlite3_last_insert_rowid(s->db);
	return rc < 0 ? rc : ex_sqlite_run(s, ex_sqlite_stmt(s, EX_SQL_REVISE), err);
}

int ex_sqlite_add_account(struct ex_store *store, struct ex_account *a, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_ADD_ACCOUNT);
	sqlite3_bind_int64(q, 1, a->created_us);
	sqlite3_bind_text(q, 2, a->name, -1, SQLITE_STATIC);
	sqlite3_bind_text(q, 3, a->tier, -1, SQLITE_STATIC);
	sqlite3_bind_int(q, 4, a->suspended);
	return change(s, q, -EEXIST, err, &a->id);
}

int ex_sqlite_add_key(struct ex_store *store, struct ex_api_key *k, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_ADD_KEY);
	sqlite3_bind_int64(q, 1, k->account);
	sqlite3_bind_int64(q, 2, k->created_us);
	sqlite3_bind_blob(q, 3, k->sha256, sizeof k->sha256, SQLITE_STATIC);
	sqlite3_bind_text(q, 4, k->tail, -1, SQLITE_STATIC);
	sqlite3_bind_text(q, 5, k->label, -1, SQLITE_STATIC);
	return change(s, q, -EEXIST, err, &k->id);
}

int ex_sqlite_add_tariff(struct ex_store *store, struct ex_tariff *t, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_ADD_TARIFF);
	sqlite3_bind_int64(q, 1, t->from_us);
	sqlite3_bind_text(q, 2, t->model, -1, SQLITE_STATIC);
	sqlite3_bind_text(q, 3, t->currency, -1, SQLITE_STATIC);
	sqlite3_bind_int64(q, 4, t->hit);
	sqlite3_bind_int64(q, 5, t->miss);
	sqlite3_bind_int64(q, 6, t->completion);
	return change(s, q, -EEXIST, err, &t->id);
}

int ex_sqlite_set_account(struct ex_store *store, const struct ex_account *a, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_SET_ACCOUNT);
	sqlite3_bind_int64(q, 1, a->id);
	sqlite3_bind_text(q, 2, a->tier, -1, SQLITE_STATIC);
	sqlite3_bind_int(q, 3, a->suspended);
	return change(s, q, -ENOENT, err, NULL);
}

int ex_sqlite_set_key(struct ex_store *store, const struct ex_api_key *k, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_SET_KEY);
	sqlite3_bind_int64(q, 1, k->id);
	sqlite3_bind_int64(q, 2, k->revoked_us);
	return change(s, q, -ENOENT, err, NULL);
}
