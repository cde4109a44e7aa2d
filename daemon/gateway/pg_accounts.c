/* SPDX-License-Identifier: Apache-2.0 */
/* Accounts, keys, tariffs and usage in the PostgreSQL store. Layer L4. */
#include "gateway/store_pg.h"

#include <string.h>

/* --- out of an answer ------------------------------------------------------------------------------------------------ */

struct account_call {
	ex_account_fn *fn;
	void *ctx;
};

static int on_account(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct account_call *c = ctx;
	struct ex_account a = {.id = ex_pg_int(r, 0), .created_us = ex_pg_int(r, 1), .suspended = ex_pg_int(r, 4) != 0};
	return ex_pg_text(r, 2, a.name, sizeof a.name) && ex_pg_text(r, 3, a.tier, sizeof a.tier)
		       ? c->fn(c->ctx, &a)
		       : ex_pg_damaged(err, "account", a.id);
}

int ex_pg_each_account(struct ex_store *store, ex_account_fn *fn, void *ctx, struct ex_err *err)
{
	struct account_call c = {fn, ctx};
	return ex_pg_run(ex_pg_of(store), EX_PG_ACCOUNTS, NULL, 0, on_account, &c, NULL, err);
}

struct key_call {
	ex_api_key_fn *fn;
	void *ctx;
};

static int on_key(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct key_call *c = ctx;
	struct ex_api_key k = {.id = ex_pg_int(r, 0),
		.account = ex_pg_int(r, 1),
		.created_us = ex_pg_int(r, 2),
		.revoked_us = ex_pg_int(r, 3)};
	return ex_pg_hex(r, 4, k.sha256, sizeof k.sha256) && ex_pg_text(r, 5, k.tail, sizeof k.tail) &&
			       ex_pg_text(r, 6, k.label, sizeof k.label)
		       ? c->fn(c->ctx, &k)
		       : ex_pg_damaged(err, "key", k.id);
}

int ex_pg_each_key(struct ex_store *store, ex_api_key_fn *fn, void *ctx, struct ex_err *err)
{
	struct key_call c = {fn, ctx};
	return ex_pg_run(ex_pg_of(store), EX_PG_KEYS, NULL, 0, on_key, &c, NULL, err);
}

struct tariff_call {
	ex_tariff_fn *fn;
	void *ctx;
};

static int on_tariff(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct tariff_call *c = ctx;
	struct ex_tariff t = {.id = ex_pg_int(r, 0),
		.from_us = ex_pg_int(r, 1),
		.hit = ex_pg_int(r, 4),
		.miss = ex_pg_int(r, 5),
		.completion = ex_pg_int(r, 6)};
	return ex_pg_text(r, 2, t.model, sizeof t.model) && ex_pg_text(r, 3, t.currency, sizeof t.currency)
		       ? c->fn(c->ctx, &t)
		       : ex_pg_damaged(err, "tariff", t.id);
}

int ex_pg_each_tariff(struct ex_store *store, ex_tariff_fn *fn, void *ctx, struct ex_err *err)
{
	struct tariff_call c = {fn, ctx};
	return ex_pg_run(ex_pg_of(store), EX_PG_TARIFFS, NULL, 0, on_tariff, &c, NULL, err);
}

struct usage_call {
	ex_usage_fn *fn;
	void *ctx;
};

static int on_usage(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct usage_call *c = ctx;
	(void)err;
	const struct ex_usage_row u = {.day = ex_pg_int(r, 0),
		.api_key = ex_pg_int(r, 1),
		.tariff = ex_pg_int(r, 2),
		.n_requests = ex_pg_int(r, 3),
		.hit = ex_pg_int(r, 4),
		.miss = ex_pg_int(r, 5),
		.completion = ex_pg_int(r, 6),
		.reasoning = ex_pg_int(r, 7),
		.charged = ex_pg_int(r, 8)};
	return c->fn(c->ctx, &u);
}

int ex_pg_each_usage(
	struct ex_store *store, int64_t account, int64_t since_us, ex_usage_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	struct usage_call c = {fn, ctx};
	const char *const param[] = {ex_pg_number(s, 0, account), ex_pg_number(s, 1, since_us)};
	return ex_pg_run(s, EX_PG_USAGE, param, 2, on_usage, &c, NULL, err);
}

/* --- changes --------------------------------------------------------------------------------------------------------- */

static int on_id(void *ctx, const PGresult *r, struct ex_err *err)
{
	(void)err;
	*(int64_t *)ctx = ex_pg_int(r, 0);
	return 0;
}

static int add(
	struct ex_pg *s, enum ex_pg_sql which, const char *const *param, int n, int64_t *ret_id, struct ex_err *err)
{
	int64_t id = 0;
	int rc = ex_pg_run(s, which, param, n, on_id, &id, NULL, err);
	if (rc == 0 && !id)
		rc = ex_err_set(err, -EEXIST, "there is one already");
	if (rc == 0)
		rc = ex_pg_run(s, EX_PG_REVISE, NULL, 0, NULL, NULL, NULL, err);
	if (rc == 0)
		*ret_id = id;
	return rc;
}

static int set(struct ex_pg *s, enum ex_pg_sql which, const char *const *param, int n, struct ex_err *err)
{
	int64_t n_rows = 0;
	int rc = ex_pg_run(s, which, param, n, NULL, NULL, &n_rows, err);
	if (rc == 0 && n_rows != 1)
		rc = ex_err_set(err, -ENOENT, "there is none");
	return rc < 0 ? rc : ex_pg_run(s, EX_PG_REVISE, NULL, 0, NULL, NULL, NULL, err);
}

int ex_pg_add_account(struct ex_store *store, struct ex_account *a, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	const char *const param[] = {ex_pg_number(s, 0, a->created_us), a->name, a->tier, a->suspended ? "1" : "0"};
	return add(s, EX_PG_ADD_ACCOUNT, param, 4, &a->id, err);
}

int ex_pg_add_key(struct ex_store *store, struct ex_api_key *k, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	char hex[2 * sizeof k->sha256 + 1];
	ex_hex(k->sha256, sizeof k->sha256, hex);
	const char *const param[] = {
		ex_pg_number(s, 0, k->account), ex_pg_number(s, 1, k->created_us), hex, k->tail, k->label};
	return add(s, EX_PG_ADD_KEY, param, 5, &k->id, err);
}

int ex_pg_add_tariff(struct ex_store *store, struct ex_tariff *t, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	const char *const param[] = {ex_pg_number(s, 0, t->from_us), t->model, t->currency, ex_pg_number(s, 1, t->hit),
		ex_pg_number(s, 2, t->miss), ex_pg_number(s, 3, t->completion)};
	return add(s, EX_PG_ADD_TARIFF, param, 6, &t->id, err);
}

int ex_pg_set_account(struct ex_store *store, const struct ex_account *a, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	const char *const param[] = {ex_pg_number(s, 0, a->id), a->tier, a->suspended ? "1" : "0"};
	return set(s, EX_PG_SET_ACCOUNT, param, 3, err);
}

int ex_pg_set_key(struct ex_store *store, const struct ex_api_key *k, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	const char *const param[] = {ex_pg_number(s, 0, k->id), ex_pg_number(s, 1, k->revoked_us)};
	return set(s, EX_PG_SET_KEY, param, 2, err);
}
