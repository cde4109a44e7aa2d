/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger in PostgreSQL, for several routers: its own schema, every commit synced. Layer L4.
 *
 * Writers take turns at the one head row (FOR UPDATE), so what a batch has read does not change before it commits; a writer that freezes in between
 * loses its transaction after 10 s, and others wait for it no longer than 15 s. A broken connection is made anew with the next transaction. */
#include "gateway/store_pg.h"

#include "base/mem.h"
#include <string.h>

#define CONNECT_S "5"
#define VERSION   "1"

#define TXN_COLUMNS                                                                                                    \
	"t.seq, t.time_us, t.kind, t.key, t.account, t.currency, t.amount, t.ref, t.tariff, t.api_key, t.expires_us, " \
	"t.prompt_hit, t.prompt_miss, t.completion, t.reasoning, t.owner, t.note, encode(t.hash, 'hex'), "             \
	"coalesce((SELECT "                                                                                            \
	"string_agg(e.book || ':' || e.amount, ',') FROM entry e WHERE e.txn = t.seq), '')"
#define PURSE_COLUMNS "account, currency, granted, topped, held_granted, held_topped, payments, grants, revenue"

const char *const ex_pg_sql[EX_PG_SQL_N] = {
	[EX_PG_HEAD] = "SELECT seq, encode(hash, 'hex'), revision FROM head",
	[EX_PG_LOCK_HEAD] = "SELECT seq, encode(hash, 'hex'), revision FROM head FOR UPDATE",
	[EX_PG_SET_HEAD] = "UPDATE head SET seq = $1, hash = decode($2, 'hex')",
	[EX_PG_TXNS_BY_KEY] = "SELECT " TXN_COLUMNS " FROM txn t WHERE t.key = ANY ($1::text[])",
	[EX_PG_REFUNDS] = "SELECT " TXN_COLUMNS " FROM txn t WHERE t.kind = 7 AND t.ref = ANY ($1::bigint[])",
	[EX_PG_TXNS] = "SELECT " TXN_COLUMNS " FROM txn t WHERE t.seq > $1 ORDER BY t.seq LIMIT $2",
	[EX_PG_TXNS_OF] =
		"SELECT " TXN_COLUMNS " FROM txn t WHERE t.account = $3 AND t.seq > $1 ORDER BY t.seq LIMIT $2",
	[EX_PG_ADD_TXNS] =
		("INSERT INTO txn SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, decode(r, 'hex') FROM "
		 "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], "
		 "$8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], "
		 "$14::bigint[], "
		 "$15::bigint[], $16::text[], $17::text[], $18::text[]) AS x (a, b, c, d, e, f, g, h, i, j, k, l, m, "
		 "n, o, p, "
		 "q, r)"),
	[EX_PG_ADD_ENTRIES] = "INSERT INTO entry SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])",
	[EX_PG_ADD_HOLDS] = "INSERT INTO hold SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])",
	[EX_PG_END_HOLDS] = "DELETE FROM hold WHERE txn = ANY ($1::bigint[])",
	[EX_PG_PURSES_OF] = "SELECT " PURSE_COLUMNS " FROM purse WHERE account = ANY ($1::bigint[])",
	[EX_PG_PURSES] = "SELECT " PURSE_COLUMNS " FROM purse ORDER BY account, currency",
	[EX_PG_SET_PURSES] =
		("INSERT INTO purse SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], "
		 "$5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]) ON CONFLICT (account, "
		 "currency) DO "
		 "UPDATE SET granted = excluded.granted, topped = excluded.topped, held_granted = "
		 "excluded.held_granted, "
		 "held_topped = excluded.held_topped, payments = excluded.payments, grants = excluded.grants, revenue "
		 "= "
		 "excluded.revenue"),
	[EX_PG_HOLDS] =
		("SELECT h.txn, t.account, h.expires_us, t.key, h.owner FROM hold h JOIN txn t ON t.seq = h.txn WHERE "
		 "($1::bigint = 0 OR h.expires_us < $1::bigint) AND ($2::text IS NULL OR h.owner = $2::text) ORDER BY "
		 "h.txn"),
	[EX_PG_ACCOUNTS] = "SELECT id, created_us, name, tier, suspended::int FROM account ORDER BY id",
	[EX_PG_KEYS] = ("SELECT id, account, created_us, revoked_us, encode(sha256, 'hex'), tail, label FROM api_key "
			"ORDER BY id"),
	[EX_PG_TARIFFS] = "SELECT id, from_us, model, currency, hit, miss, completion FROM tariff ORDER BY id",
	[EX_PG_ADD_ACCOUNT] =
		("INSERT INTO account (created_us, name, tier, suspended) VALUES ($1, $2, $3, $4::int <> 0) ON "
		 "CONFLICT DO NOTHING RETURNING id"),
	[EX_PG_ADD_KEY] =
		("INSERT INTO api_key (account, created_us, revoked_us, sha256, tail, label) VALUES ($1, $2, 0, "
		 "decode($3, 'hex'), $4, $5) ON CONFLICT DO NOTHING RETURNING id"),
	[EX_PG_ADD_TARIFF] =
		("INSERT INTO tariff (from_us, model, currency, hit, miss, completion) VALUES ($1, $2, $3, $4, $5, $6) "
		 "ON CONFLICT DO NOTHING RETURNING id"),
	[EX_PG_SET_ACCOUNT] = "UPDATE account SET tier = $2, suspended = $3::int <> 0 WHERE id = $1",
	[EX_PG_SET_KEY] = "UPDATE api_key SET revoked_us = $2 WHERE id = $1",
	[EX_PG_REVISE] = "UPDATE head SET revision = revision + 1",
	[EX_PG_USAGE] = ("SELECT t.time_us / 86400000000, t.api_key, t.tariff, count(*) FILTER (WHERE t.kind = 4), "
			 "sum(t.prompt_hit)::bigint, sum(t.prompt_miss)::bigint, sum(t.completion)::bigint, "
			 "sum(t.reasoning)::bigint, "
			 "coalesce(sum(e.amount), 0)::bigint FROM txn t LEFT JOIN entry e ON e.txn = t.seq AND e.book "
			 "= 6 WHERE t.account "
			 "= $1 AND t.time_us >= $2 AND (t.kind = 4 OR (t.kind = 7 AND e.amount < 0)) GROUP BY 1, 2, 3 "
			 "ORDER BY 1, 2, 3"),
};

/* Made once, by whoever comes first: the lock makes others wait. */
static const char schema[] =
	"BEGIN;"
	"SELECT pg_advisory_xact_lock(1163415623);"
	"CREATE SCHEMA IF NOT EXISTS expertd;"
	"CREATE TABLE IF NOT EXISTS head (one int PRIMARY KEY CHECK (one = 1), version int NOT NULL, seq bigint NOT "
	"NULL,"
	" hash bytea NOT NULL, revision bigint NOT NULL);"
	"INSERT INTO head VALUES (1, " VERSION ", 0, decode(repeat('00', 32), 'hex'), 0) ON CONFLICT DO NOTHING;"
	"CREATE TABLE IF NOT EXISTS txn (seq bigint PRIMARY KEY, time_us bigint NOT NULL, kind bigint NOT NULL,"
	" key text NOT NULL UNIQUE, account bigint NOT NULL CHECK (account > 0), currency text NOT NULL,"
	" amount bigint NOT NULL CHECK (amount >= 0), ref bigint NOT NULL, tariff bigint NOT NULL, api_key bigint NOT "
	"NULL,"
	" expires_us bigint NOT NULL, prompt_hit bigint NOT NULL, prompt_miss bigint NOT NULL, completion bigint NOT "
	"NULL,"
	" reasoning bigint NOT NULL, owner text NOT NULL, note text NOT NULL, hash bytea NOT NULL);"
	"CREATE INDEX IF NOT EXISTS txn_account ON txn (account, seq);"
	"CREATE INDEX IF NOT EXISTS txn_refund ON txn (ref) WHERE kind = 7;"
	"CREATE TABLE IF NOT EXISTS entry (txn bigint NOT NULL REFERENCES txn, book bigint NOT NULL, amount bigint NOT "
	"NULL,"
	" PRIMARY KEY (txn, book));"
	"CREATE TABLE IF NOT EXISTS purse (account bigint NOT NULL, currency text NOT NULL,"
	" granted bigint NOT NULL CHECK (granted >= 0), topped bigint NOT NULL CHECK (topped >= 0),"
	" held_granted bigint NOT NULL CHECK (held_granted >= 0), held_topped bigint NOT NULL CHECK (held_topped >= 0),"
	" payments bigint NOT NULL, grants bigint NOT NULL, revenue bigint NOT NULL, PRIMARY KEY (account, currency));"
	"CREATE TABLE IF NOT EXISTS hold (txn bigint PRIMARY KEY REFERENCES txn, expires_us bigint NOT NULL, owner "
	"text NOT NULL);"
	"CREATE TABLE IF NOT EXISTS account (id bigserial PRIMARY KEY, created_us bigint NOT NULL, name text NOT NULL "
	"UNIQUE,"
	" tier text NOT NULL, suspended boolean NOT NULL);"
	"CREATE TABLE IF NOT EXISTS api_key (id bigserial PRIMARY KEY, account bigint NOT NULL REFERENCES account,"
	" created_us bigint NOT NULL, revoked_us bigint NOT NULL, sha256 bytea NOT NULL UNIQUE, tail text NOT NULL,"
	" label text NOT NULL);"
	"CREATE TABLE IF NOT EXISTS tariff (id bigserial PRIMARY KEY, from_us bigint NOT NULL, model text NOT NULL,"
	" currency text NOT NULL, hit bigint NOT NULL CHECK (hit >= 0), miss bigint NOT NULL CHECK (miss >= 0),"
	" completion bigint NOT NULL CHECK (completion >= 0), UNIQUE (model, from_us));"
	"CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
	" $$BEGIN RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END$$;"
	"CREATE OR REPLACE TRIGGER txn_kept BEFORE UPDATE OR DELETE ON txn FOR EACH ROW EXECUTE FUNCTION "
	"refuse_change();"
	"CREATE OR REPLACE TRIGGER entry_kept BEFORE UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION "
	"refuse_change();"
	"CREATE OR REPLACE TRIGGER tariff_kept BEFORE UPDATE OR DELETE ON tariff FOR EACH ROW EXECUTE FUNCTION "
	"refuse_change();"
	"COMMIT;";

static const char session[] = "SET search_path = expertd; SET synchronous_commit = on; SET lock_timeout = '15s';"
			      "SET idle_in_transaction_session_timeout = '10s'; SET client_min_messages = warning;"
			      "SET standard_conforming_strings = on";

/* --- errors ---------------------------------------------------------------------------------------------------------- */

static int errno_of(const char *sqlstate)
{
	static const struct {
		const char *prefix;
		int code;
	} row[] = {{"53100", -ENOSPC}, {"23", -EUCLEAN}, {"XX001", -EUCLEAN}, {"XX002", -EUCLEAN}, {"P0001", -EUCLEAN},
		{"53", -ENOTCONN}, {"40", -ENOTCONN}, {"55P03", -ENOTCONN}, {"57", -ENOTCONN}, {"25", -ENOTCONN},
		{"08", -ENOTCONN}};
	for (size_t i = 0; sqlstate && i < EX_ARRAY_LEN(row); i++)
		if (strncmp(sqlstate, row[i].prefix, strlen(row[i].prefix)) == 0)
			return row[i].code;
	return -EIO;
}

/* r: NULL when there is only the connection to be asked. */
static int failed(struct ex_pg *s, const PGresult *r, struct ex_err *err)
{
	const char *text = r ? PQresultErrorMessage(r) : PQerrorMessage(s->c);
	int rc = PQstatus(s->c) != CONNECTION_OK ? -ENOTCONN
						 : errno_of(r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL);
	char line[256];
	snprintf(line, sizeof line, "%.*s", (int)strcspn(text, "\n"), text);
	return ex_err_set(err, rc, "the ledger in PostgreSQL: %s", *line ? line : "the connection was lost");
}

int ex_pg_damaged(struct ex_err *err, const char *what, int64_t id)
{
	return ex_err_set(err, -EUCLEAN,
		"the ledger in PostgreSQL: %s %lld cannot be read (the database is damaged: restore a backup)", what,
		(long long)id);
}

/* --- the connection -------------------------------------------------------------------------------------------------- */

static int run_text(struct ex_pg *s, const char *sql, struct ex_err *err)
{
	PGresult *r = PQexec(s->c, sql);
	ExecStatusType status = PQresultStatus(r);
	int rc = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : failed(s, r, err);
	PQclear(r);
	return rc;
}

static void disconnect(struct ex_pg *s)
{
	PQfinish(s->c);
	s->c = NULL;
	memset(s->prepared, 0, sizeof s->prepared);
}

static void drop_notice(void *ctx, const PGresult *r)
{
	(void)ctx, (void)r;
}

static int check_version(struct ex_pg *s, struct ex_err *err)
{
	PGresult *r = PQexec(s->c, "SELECT version FROM head");
	int rc = PQresultStatus(r) != PGRES_TUPLES_OK ? failed(s, r, err) : 0;
	if (rc == 0 && (PQntuples(r) != 1 || strcmp(PQgetvalue(r, 0, 0), VERSION) != 0))
		rc = ex_err_set(err, -EUCLEAN,
			"the ledger in PostgreSQL has another version of the tables; this expertd knows "
			"version " VERSION);
	PQclear(r);
	return rc;
}

/* Makes the tables when there are none; a role that may only use them need not be able to. */
static int make_tables(struct ex_pg *s, struct ex_err *err)
{
	PGresult *r = PQexec(s->c, "SELECT to_regclass('expertd.tariff') IS NOT NULL");
	int rc = PQresultStatus(r) != PGRES_TUPLES_OK ? failed(s, r, err) : 0;
	const bool there = rc == 0 && strcmp(PQgetvalue(r, 0, 0), "t") == 0;
	PQclear(r);
	if (rc == 0 && !there)
		rc = run_text(s, schema, err);
	return rc;
}

static int connect_server(struct ex_pg *s, struct ex_err *err)
{
	const char *const key[] = {"connect_timeout", "application_name", "tcp_user_timeout", "dbname", NULL};
	const char *const value[] = {CONNECT_S, "expertd", "10000", s->conninfo, NULL};
	s->c = PQconnectdbParams(key, value, 1);
	int rc = !s->c                             ? ex_err_errno(err, -ENOMEM, "cannot open the ledger")
		 : PQstatus(s->c) != CONNECTION_OK ? failed(s, NULL, err)
						   : 0;
	if (rc == 0) {
		PQsetNoticeReceiver(s->c, drop_notice, NULL);
		rc = run_text(s, session, err);
	}
	if (rc == 0)
		rc = make_tables(s, err);
	if (rc == 0)
		rc = check_version(s, err);
	if (rc < 0)
		disconnect(s);
	return rc;
}

/* --- statements ------------------------------------------------------------------------------------------------------ */

static int prepare(struct ex_pg *s, enum ex_pg_sql which, char name[static 16], struct ex_err *err)
{
	snprintf(name, 16, "q%d", (int)which);
	if (s->prepared[which])
		return 0;
	PGresult *r = PQprepare(s->c, name, ex_pg_sql[which], 0, NULL);
	int rc = PQresultStatus(r) == PGRES_COMMAND_OK ? 0 : failed(s, r, err);
	PQclear(r);
	s->prepared[which] = rc == 0;
	return rc;
}

int ex_pg_run(struct ex_pg *s, enum ex_pg_sql which, const char *const *params, int n, ex_pg_row_fn *row, void *ctx,
	int64_t *ret_n, struct ex_err *err)
{
	char name[16];
	int rc = prepare(s, which, name, err);
	if (rc < 0)
		return rc;
	if (!PQsendQueryPrepared(s->c, name, n, params, NULL, NULL, 0) || !PQsetSingleRowMode(s->c))
		return failed(s, NULL, err);
	for (PGresult *r; (r = PQgetResult(s->c)); PQclear(r)) {
		ExecStatusType status = PQresultStatus(r);
		if (rc != 0)
			continue; /* to its end, so that the connection is free again */
		if (status == PGRES_SINGLE_TUPLE)
			rc = row ? row(ctx, r, err) : 0;
		else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
			rc = failed(s, r, err);
		else if (ret_n)
			*ret_n = strtoll(PQcmdTuples((PGresult *)r), NULL, 10);
	}
	if (rc == 0 && PQstatus(s->c) != CONNECTION_OK)
		rc = failed(s, NULL, err);
	return rc;
}

const char *ex_pg_number(struct ex_pg *s, int i, int64_t v)
{
	snprintf(s->number[i], sizeof s->number[i], "%lld", (long long)v);
	return s->number[i];
}

/* --- transactions ---------------------------------------------------------------------------------------------------- */

static int on_head(void *ctx, const PGresult *r, struct ex_err *err)
{
	struct ex_store_head *h = ctx;
	h->seq = ex_pg_int(r, 0);
	h->revision = ex_pg_int(r, 2);
	return ex_pg_hex(r, 1, h->hash, sizeof h->hash) ? 0 : ex_pg_damaged(err, "the head after transaction", h->seq);
}

static void roll_back(struct ex_store *store)
{
	struct ex_pg *s = ex_pg_of(store);
	if (s->c && PQtransactionStatus(s->c) != PQTRANS_IDLE && run_text(s, "ROLLBACK", NULL) < 0)
		disconnect(s);
}

static int begin(struct ex_store *store, bool write, struct ex_err *err, struct ex_store_head *ret)
{
	struct ex_pg *s = ex_pg_of(store);
	struct ex_store_head head = {.seq = -1};
	if (s->c && PQstatus(s->c) != CONNECTION_OK)
		disconnect(s);
	int rc = s->c ? 0 : connect_server(s, err);
	if (rc == 0)
		rc = run_text(s, write ? "BEGIN" : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", err);
	if (rc < 0)
		return rc;
	rc = ex_pg_run(s, write ? EX_PG_LOCK_HEAD : EX_PG_HEAD, NULL, 0, on_head, &head, NULL, err);
	if (rc == 0 && head.seq < 0)
		rc = ex_pg_damaged(err, "the head of ledger", 0);
	if (rc < 0)
		roll_back(store);
	else
		*ret = head;
	return rc;
}

static int commit(struct ex_store *store, struct ex_err *err)
{
	struct ex_pg *s = ex_pg_of(store);
	PGresult *r = PQexec(s->c, "COMMIT");
	int rc = PQresultStatus(r) == PGRES_COMMAND_OK ? 0 : failed(s, r, err);
	if (rc == 0 && strcmp(PQcmdStatus(r), "COMMIT") != 0) /* a transaction that had failed is rolled back instead */
		rc = ex_err_set(err, -EIO, "the ledger in PostgreSQL: the transaction was rolled back");
	PQclear(r);
	return rc;
}

static struct ex_store *close_store(struct ex_store *store)
{
	struct ex_pg *s = ex_pg_of(store);
	disconnect(s);
	free(s->conninfo);
	free(s);
	return NULL;
}

int ex_store_open_pg(const char *conninfo, struct ex_err *err, struct ex_store **ret)
{
	static const struct ex_store_ops ops = {
		.begin = begin,
		.commit = commit,
		.rollback = roll_back,
		.find_txns = ex_pg_find_txns,
		.find_refunds = ex_pg_find_refunds,
		.find_purses = ex_pg_find_purses,
		.save = ex_pg_save,
		.each_txn = ex_pg_each_txn,
		.each_purse = ex_pg_each_purse,
		.each_hold = ex_pg_each_hold,
		.each_account = ex_pg_each_account,
		.each_key = ex_pg_each_key,
		.each_tariff = ex_pg_each_tariff,
		.add_account = ex_pg_add_account,
		.add_key = ex_pg_add_key,
		.add_tariff = ex_pg_add_tariff,
		.set_account = ex_pg_set_account,
		.set_key = ex_pg_set_key,
		.each_usage = ex_pg_each_usage,
		.close = close_store,
	};
	struct ex_pg *s = ex_calloc(1, sizeof *s);
	if (s)
		s->conninfo = strdup(conninfo);
	if (!s || !s->conninfo) {
		free(s);
		return ex_err_errno(err, -ENOMEM, "cannot open the ledger");
	}
	s->store.ops = &ops;
	int rc = connect_server(s, err);
	if (rc < 0) {
		close_store(&s->store);
		return rc;
	}
	*ret = &s->store;
	return 0;
}
