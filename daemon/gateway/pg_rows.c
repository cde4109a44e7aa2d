/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of the PostgreSQL store, in and out. A batch goes out in a few statements, each with one array a column. Layer L4. */
#include "gateway/store_pg.h"

#include <stdlib.h>
#include <string.h>

/* --- out of an answer ------------------------------------------------------------------------------------------------ */

int64_t ex_pg_int(const PGresult *r, int column)
{
	return strtoll(PQgetvalue(r, 0, column), NULL, 10);
}

bool ex_pg_text(const PGresult *r, int column, char *out, size_t size)
{
	const char *text = PQgetvalue(r, 0, column);
	size_t n = strlen(text);
	if (n >= size)
		return false;
	memcpy(out, text, n + 1);
	return true;
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool ex_pg_hex(const PGresult *r, int column, uint8_t *out, size_t n)
{
	const char *text = PQgetvalue(r, 0, column);
	if (strlen(text) != 2 * n)
		return false;
	for (size_t i = 0; i < n; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool take_u32(const PGresult *r, int column, uint32_t *ret)
{
	int64_t v = ex_pg_int(r, column);
	*ret = (uint32_t)v;
	return v >= 0 && v <= UINT32_MAX;
}

/* "0:-5,2:5" */
static bool take_entries(const char *text, int64_t moved[static EX_BOOK_N])
{
	while (*text) {
		char *end;
		long book = strtol(text, &end, 10);
		if (end == text || *end != ':' || book < 0 || book >= EX_BOOK_N)
			return false;
		text = end + 1;
		moved[book] = strtoll(text, &end, 10);
		if (end == text || (*end && *end != ','))
			return false;
		text = *end ? end + 1 : end;
	}
	return true;
}

static bool take_txn(const PGresult *r, struct ex_txn *t)
{
	*t = (struct ex_txn){
		.seq = ex_pg_int(r, 0),
		.time_us = ex_pg_int(r, 1),
		.kind = (enum ex_txn_kind)ex_pg_int(r, 2),
		.account = ex_pg_int(r, 4),
		.amount = ex_pg_int(r, 6),
		.ref = ex_pg_int(r, 7),
		.tariff = ex_pg_int(r, 8),
		.api_key = ex_pg_int(r, 9),
		.expires_us = ex_pg_int(r, 10),
	};
	return t->kind >= EX_TXN_CREDIT && t->kind < EX_TXN_KIND_N && ex_pg_text(r, 3, t->key, sizeof t->key) &&
	       ex_pg_text(r, 5, t->currency, sizeof t->currency) && take_u32(r, 11, &t->tokens.prompt_hit) &&
	       take_u32(r, 12, &t->tokens.prompt_miss) && take_u32(r, 13, &t->tokens.completion) &&
	       take_u32(r, 14, &t->tokens.reasoning) && ex_pg_text(r, 15, t->owner, sizeof t->owner) &&
	       ex_pg_text(r, 16, t->note, sizeof t->note) && ex_pg_hex(r, 17, t->hash, sizeof t->hash) &&
	       take_entries(PQgetvalue(r, 0, 18), t->moved);
}

struct txn_call {
	ex_txn_fn *fn;
	void *ctx;
};

static int on_txn(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct txn_call *c = ctx;
	struct ex_txn t;
	return take_txn(r, &t) ? c->fn(c->ctx, &t) : ex_pg_damaged(err, "transaction", t.seq);
}

struct purse_call {
	ex_purse_fn *fn;
	void *ctx;
};

static int on_purse(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct purse_call *c = ctx;
	struct ex_purse p = {.account = ex_pg_int(r, 0)};
	for (int b = 0; b < EX_BOOK_N; b++)
		p.balance[b] = ex_pg_int(r, 2 + b);
	return ex_pg_text(r, 1, p.currency, sizeof p.currency)
		       ? c->fn(c->ctx, &p)
		       : ex_pg_damaged(err, "the balance of account", p.account);
}

struct hold_call {
	ex_hold_fn *fn;
	void *ctx;
};

static int on_hold(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct hold_call *c = ctx;
	struct ex_hold h = {.txn = ex_pg_int(r, 0), .account = ex_pg_int(r, 1), .expires_us = ex_pg_int(r, 2)};
	return ex_pg_text(r, 3, h.key, sizeof h.key) && ex_pg_text(r, 4, h.owner, sizeof h.owner)
		       ? c->fn(c->ctx, &h)
		       : ex_pg_damaged(err, "hold", h.txn);
}

/* --- arrays ---------------------------------------------------------------------------------------------------------- */

static void add_int(struct ex_str *a, int64_t v)
{
	ex_str_addf(a, "%c%lld", a->n ? ',' : '{', (long long)v);
}

static void add_text(struct ex_str *a, const char *text)
{
	ex_str_add(a, a->n ? ",\"" : "{\"");
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			ex_str_addn(a, "\\", 1);
		ex_str_addn(a, text, 1);
	}
	ex_str_add(a, "\"");
}

static void add_hex(struct ex_str *a, const uint8_t *data, size_t n)
{
	char hex[2 * EX_LEDGER_HASH + 1];
	assert(n <= EX_LEDGER_HASH);
	ex_hex(data, n, hex);
	add_text(a, hex);
}

/* Runs a statement whose parameters are the n arrays, which are freed. */
static int run_arrays(struct ex_pg *s, enum ex_pg_sql which, struct ex_str *a, int n, ex_pg_row_fn *row, void *ctx,
	int64_t *ret_n, struct ex_err *err)
{
	const char *param[EX_PG_PARAMS_MAX];
	bool oom = false;
	for (int i = 0; i < n; i++) {
		ex_str_add(&a[i], a[i].n ? "}" : "{}");
		oom |= a[i].oom;
		param[i] = a[i].s;
	}
	int rc = oom ? ex_err_errno(err, -ENOMEM, "cannot ask the ledger")
		     : ex_pg_run(s, which, param, n, row, ctx, ret_n, err);
	for (int i = 0; i < n; i++)
		ex_str_done(&a[i]);
	return rc;
}

int ex_pg_find_txns(
	struct ex_store *store, const char *const *keys, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_str array = EX_STR_INIT;
	struct txn_call c = {fn, ctx};
	for (size_t i = 0; i < n; i++)
		add_text(&array, keys[i]);
	return run_arrays(ex_pg_of(store), EX_PG_TXNS_BY_KEY, &array, 1, on_txn, &c, NULL, err);
}

int ex_pg_find_refunds(
	struct ex_store *store, const int64_t *refs, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_str array = EX_STR_INIT;
	struct txn_call c = {fn, ctx};
	for (size_t i = 0; i < n; i++)
		add_int(&array, refs[i]);
	return run_arrays(ex_pg_of(store), EX_PG_REFUNDS, &array, 1, on_txn, &c, NULL, err);
}

int ex_pg_find_purses(
	struct ex_store *store, const int64_t *accounts, size_t n, ex_purse_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_str array = EX_STR_INIT;
	struct purse_call c = {fn, ctx};
	for (size_t i = 0; i < n; i++)
		add_int(&array, accounts[i]);
	return run_arrays(ex_pg_of(store), EX_PG_PURSES_OF, &array, 1, on_purse, &c, NULL, err);
}

int ex_pg_each_txn(struct ex_store *store, int64_t after_seq, int64_t account, size_t max, ex_txn_fn *fn, void *ctx,
	struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	struct txn_call c = {fn, ctx};
	const char *const param[] = {ex_pg_number(s, 0, after_seq),
		ex_pg_number(s, 1, max > INT64_MAX ? INT64_MAX : (int64_t)max), ex_pg_number(s, 2, account)};
	return ex_pg_run(s, account ? EX_PG_TXNS_OF : EX_PG_TXNS, param, account ? 3 : 2, on_txn, &c, NULL, err);
}

int ex_pg_each_purse(struct ex_store *store, ex_purse_fn *fn, void *ctx, struct ex_err *err)
{
	struct purse_call c = {fn, ctx};
	return ex_pg_run(ex_pg_of(store), EX_PG_PURSES, NULL, 0, on_purse, &c, NULL, err);
}

int ex_pg_each_hold(
	struct ex_store *store, int64_t expired_us, const char *owner, ex_hold_fn *fn, void *ctx, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	struct hold_call c = {fn, ctx};
	const char *const param[] = {ex_pg_number(s, 0, expired_us), owner};
	return ex_pg_run(s, EX_PG_HOLDS, param, 2, on_hold, &c, NULL, err);
}

/* --- a batch --------------------------------------------------------------------------------------------------------- */

static int add_txns(struct ex_pg *s, const struct ex_txn *txns, size_t n, struct ex_err *err)
{
	struct ex_str a[18] = {EX_STR_INIT};
	for (const struct ex_txn *t = txns; t < txns + n; t++) {
		const int64_t number[] = {t->seq, t->time_us, t->kind, 0, t->account, 0, t->amount, t->ref, t->tariff,
			t->api_key, t->expires_us, t->tokens.prompt_hit, t->tokens.prompt_miss, t->tokens.completion,
			t->tokens.reasoning};
		for (size_t i = 0; i < EX_ARRAY_LEN(number); i++)
			if (i != 3 && i != 5)
				add_int(&a[i], number[i]);
		add_text(&a[3], t->key);
		add_text(&a[5], t->currency);
		add_text(&a[15], t->owner);
		add_text(&a[16], t->note);
		add_hex(&a[17], t->hash, sizeof t->hash);
	}
	return run_arrays(s, EX_PG_ADD_TXNS, a, 18, NULL, NULL, NULL, err);
}

static int add_entries(struct ex_pg *s, const struct ex_txn *txns, size_t n, struct ex_err *err)
{
	struct ex_str a[3] = {EX_STR_INIT};
	for (const struct ex_txn *t = txns; t < txns + n; t++)
		for (int b = 0; b < EX_BOOK_N; b++)
			if (t->moved[b]) {
				add_int(&a[0], t->seq);
				add_int(&a[1], b);
				add_int(&a[2], t->moved[b]);
			}
	return run_arrays(s, EX_PG_ADD_ENTRIES, a, 3, NULL, NULL, NULL, err);
}

/* Holds that begin before those that end: one may do both in a batch. */
static int note_holds(struct ex_pg *s, const struct ex_txn *txns, size_t n, struct ex_err *err)
{
	struct ex_str begun[3] = {EX_STR_INIT}, ended = EX_STR_INIT;
	int64_t n_begun = 0, n_ended = 0, n_gone = 0;
	for (const struct ex_txn *t = txns; t < txns + n; t++)
		if (t->kind == EX_TXN_HOLD) {
			add_int(&begun[0], t->seq);
			add_int(&begun[1], t->expires_us);
			add_text(&begun[2], t->owner);
			n_begun++;
		} else if (t->kind == EX_TXN_POST || t->kind == EX_TXN_VOID || t->kind == EX_TXN_TIMEOUT) {
			add_int(&ended, t->ref);
			n_ended++;
		}
	int rc = n_begun ? run_arrays(s, EX_PG_ADD_HOLDS, begun, 3, NULL, NULL, NULL, err) : 0;
	if (rc == 0 && n_ended)
		rc = run_arrays(s, EX_PG_END_HOLDS, &ended, 1, NULL, NULL, &n_gone, err);
	else
		ex_str_done(&ended);
	if (rc == 0 && n_gone != n_ended)
		rc = ex_pg_damaged(err, "holds that end with the batch from transaction", txns[0].seq);
	return rc;
}

static int set_purses(struct ex_pg *s, const struct ex_purse *purses, size_t n, struct ex_err *err)
{
	struct ex_str a[2 + EX_BOOK_N] = {EX_STR_INIT};
	for (const struct ex_purse *p = purses; p < purses + n; p++) {
		add_int(&a[0], p->account);
		add_text(&a[1], p->currency);
		for (int b = 0; b < EX_BOOK_N; b++)
			add_int(&a[2 + b], p->balance[b]);
	}
	return run_arrays(s, EX_PG_SET_PURSES, a, 2 + EX_BOOK_N, NULL, NULL, NULL, err);
}

int ex_pg_save(struct ex_store *store, const struct ex_store_head *head, const struct ex_txn *txns, size_t n_txns,
	const struct ex_purse *purses, size_t n_purses, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	char hex[2 * EX_LEDGER_HASH + 1];
	int rc = n_txns ? add_txns(s, txns, n_txns, err) : 0;
	if (rc == 0 && n_txns)
		rc = add_entries(s, txns, n_txns, err);
	if (rc == 0 && n_txns)
		rc = note_holds(s, txns, n_txns, err);
	if (rc == 0 && n_purses)
		rc = set_purses(s, purses, n_purses, err);
	if (rc < 0)
		return rc;
	ex_hex(head->hash, sizeof head->hash, hex);
	const char *const param[] = {ex_pg_number(s, 0, head->seq), hex};
	return ex_pg_run(s, EX_PG_SET_HEAD, param, 2, NULL, NULL, NULL, err);
}
