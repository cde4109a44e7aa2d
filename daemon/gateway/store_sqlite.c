/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger in one SQLite file: WAL, every commit synced. Layer L4.
 *
 * A transaction's rows are kept from change by triggers, balances from going below zero by constraints: a program with the file in hand is told,
 * too. After an I/O error the file is closed, and opened anew with the next transaction: what SQLite holds of it may not be what is on the disk. */
#include "gateway/store.h"

#include "base/mem.h"
#include "base/str.h"
#include "gateway/store_sqlite.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BUSY_MS 10000 /* for another process's transaction */

const char *const ex_sqlite_sql[EX_SQL_N] = {
	[EX_SQL_BEGIN] = "BEGIN",
	[EX_SQL_BEGIN_WRITE] = "BEGIN IMMEDIATE",
	[EX_SQL_COMMIT] = "COMMIT",
	[EX_SQL_ROLLBACK] = "ROLLBACK",
	[EX_SQL_HEAD] = "SELECT seq, hash, revision FROM head",
	[EX_SQL_SET_HEAD] = "UPDATE head SET seq = ?1, hash = ?2",
	[EX_SQL_TXN_BY_KEY] = "SELECT " EX_SQL_TXN_COLUMNS " FROM txn WHERE key = ?1",
	[EX_SQL_REFUNDS] = "SELECT " EX_SQL_TXN_COLUMNS " FROM txn WHERE kind = 7 AND ref = ?1",
	[EX_SQL_TXNS] = "SELECT " EX_SQL_TXN_COLUMNS " FROM txn WHERE seq > ?1 ORDER BY seq LIMIT ?2",
	[EX_SQL_TXNS_OF] =
		"SELECT " EX_SQL_TXN_COLUMNS " FROM txn WHERE account = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2",
	[EX_SQL_ENTRIES] = "SELECT book, amount FROM entry WHERE txn = ?1",
	[EX_SQL_ADD_TXN] = ("INSERT INTO txn (" EX_SQL_TXN_COLUMNS
			    ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, "
			    "?14, ?15, ?16, ?17, ?18)"),
	[EX_SQL_ADD_ENTRY] = "INSERT INTO entry (txn, book, amount) VALUES (?1, ?2, ?3)",
	[EX_SQL_ADD_HOLD] = "INSERT INTO hold (txn, expires_us, owner) VALUES (?1, ?2, ?3)",
	[EX_SQL_END_HOLD] = "DELETE FROM hold WHERE txn = ?1",
	[EX_SQL_PURSE] = "SELECT " EX_SQL_PURSE_COLUMNS " FROM purse WHERE account = ?1",
	[EX_SQL_PURSES] = "SELECT " EX_SQL_PURSE_COLUMNS " FROM purse ORDER BY account, currency",
	[EX_SQL_SET_PURSE] =
		"REPLACE INTO purse (" EX_SQL_PURSE_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
	[EX_SQL_HOLDS] =
		("SELECT h.txn, t.account, h.expires_us, t.key, h.owner FROM hold h JOIN txn t ON t.seq = h.txn "
		 "WHERE (?1 = 0 OR h.expires_us < ?1) AND (?2 IS NULL OR h.owner = ?2) ORDER BY h.txn"),
	[EX_SQL_ACCOUNTS] = "SELECT id, created_us, name, tier, suspended FROM account ORDER BY id",
	[EX_SQL_KEYS] = "SELECT id, account, created_us, revoked_us, sha256, tail, label FROM api_key ORDER BY id",
	[EX_SQL_TARIFFS] = "SELECT id, from_us, model, currency, hit, miss, completion FROM tariff ORDER BY id",
	[EX_SQL_ADD_ACCOUNT] = ("INSERT INTO account (created_us, name, tier, suspended) VALUES (?1, ?2, ?3, ?4) "
				"ON CONFLICT DO NOTHING"),
	[EX_SQL_ADD_KEY] = ("INSERT INTO api_key (account, created_us, revoked_us, sha256, tail, label) "
			    "VALUES (?1, ?2, 0, ?3, ?4, ?5) ON CONFLICT DO NOTHING"),
	[EX_SQL_ADD_TARIFF] = ("INSERT INTO tariff (from_us, model, currency, hit, miss, completion) "
			       "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING"),
	[EX_SQL_SET_ACCOUNT] = "UPDATE account SET tier = ?2, suspended = ?3 WHERE id = ?1",
	[EX_SQL_SET_KEY] = "UPDATE api_key SET revoked_us = ?2 WHERE id = ?1",
	[EX_SQL_REVISE] = "UPDATE head SET revision = revision + 1",
	[EX_SQL_USAGE] =
		("SELECT t.time_us / 86400000000 AS day, t.api_key, t.tariff, sum(t.kind = 4), sum(t.prompt_hit), "
		 "sum(t.prompt_miss), sum(t.completion), sum(t.reasoning), coalesce(sum(e.amount), 0) FROM txn t "
		 "LEFT JOIN entry e ON e.txn = t.seq AND e.book = 6 WHERE t.account = ?1 AND t.time_us >= ?2 "
		 "AND (t.kind = 4 OR (t.kind = 7 AND e.amount < 0)) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"),
};

/* user_version: of these tables. */
static const char schema[] =
	"BEGIN EXCLUSIVE;"
	"CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL,"
	" revision INTEGER NOT NULL);"
	"INSERT INTO head VALUES (1, 0, zeroblob(32), 0);"
	"CREATE TABLE txn (seq INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, kind INTEGER NOT NULL, key TEXT NOT NULL "
	"UNIQUE,"
	" account INTEGER NOT NULL CHECK (account > 0), currency TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount "
	">= 0),"
	" ref INTEGER NOT NULL, tariff INTEGER NOT NULL, api_key INTEGER NOT NULL, expires_us INTEGER NOT NULL,"
	" prompt_hit INTEGER NOT NULL, prompt_miss INTEGER NOT NULL, completion INTEGER NOT NULL, reasoning INTEGER "
	"NOT NULL,"
	" owner TEXT NOT NULL, note TEXT NOT NULL, hash BLOB NOT NULL);"
	"CREATE INDEX txn_account ON txn (account, seq);"
	"CREATE INDEX txn_refund ON txn (ref) WHERE kind = 7;"
	"CREATE TABLE entry (txn INTEGER NOT NULL REFERENCES txn (seq), book INTEGER NOT NULL, amount INTEGER NOT NULL,"
	" PRIMARY KEY (txn, book)) WITHOUT ROWID;"
	"CREATE TABLE purse (account INTEGER NOT NULL, currency TEXT NOT NULL,"
	" granted INTEGER NOT NULL CHECK (granted >= 0), topped INTEGER NOT NULL CHECK (topped >= 0),"
	" held_granted INTEGER NOT NULL CHECK (held_granted >= 0), held_topped INTEGER NOT NULL CHECK (held_topped >= "
	"0),"
	" payments INTEGER NOT NULL, grants INTEGER NOT NULL, revenue INTEGER NOT NULL,"
	" PRIMARY KEY (account, currency)) WITHOUT ROWID;"
	"CREATE TABLE hold (txn INTEGER PRIMARY KEY REFERENCES txn (seq), expires_us INTEGER NOT NULL, owner TEXT NOT "
	"NULL);"
	"CREATE TABLE account (id INTEGER PRIMARY KEY AUTOINCREMENT, created_us INTEGER NOT NULL, name TEXT NOT NULL "
	"UNIQUE,"
	" tier TEXT NOT NULL, suspended INTEGER NOT NULL);"
	"CREATE TABLE api_key (id INTEGER PRIMARY KEY AUTOINCREMENT, account INTEGER NOT NULL REFERENCES account (id),"
	" created_us INTEGER NOT NULL, revoked_us INTEGER NOT NULL, sha256 BLOB NOT NULL UNIQUE, tail TEXT NOT NULL,"
	" label TEXT NOT NULL);"
	"CREATE TABLE tariff (id INTEGER PRIMARY KEY AUTOINCREMENT, from_us INTEGER NOT NULL, model TEXT NOT NULL,"
	" currency TEXT NOT NULL, hit INTEGER NOT NULL CHECK (hit >= 0), miss INTEGER NOT NULL CHECK (miss >= 0),"
	" completion INTEGER NOT NULL CHECK (completion >= 0), UNIQUE (model, from_us));"
	"CREATE TRIGGER txn_update BEFORE UPDATE ON txn BEGIN SELECT RAISE(ABORT, 'transactions are never changed'); "
	"END;"
	"CREATE TRIGGER txn_delete BEFORE DELETE ON txn BEGIN SELECT RAISE(ABORT, 'transactions are never deleted'); "
	"END;"
	"CREATE TRIGGER entry_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries are never changed'); "
	"END;"
	"CREATE TRIGGER entry_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); "
	"END;"
	"CREATE TRIGGER tariff_update BEFORE UPDATE ON tariff BEGIN SELECT RAISE(ABORT, 'tariffs are never changed'); "
	"END;"
	"PRAGMA application_id = " EX_SQLITE_APPLICATION ";"
	"PRAGMA user_version = " EX_SQLITE_VERSION ";"
	"COMMIT;";

/* --- errors ---------------------------------------------------------------------------------------------------------- */

static int errno_of(int code)
{
	switch (code & 0xff) {
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_CONSTRAINT: /* the rows contradict what the ledger knows of them */
		return -EUCLEAN;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_CANTOPEN:
		return -ENOTCONN;
	default:
		return -EIO;
	}
}

int ex_sqlite_failed(struct ex_sqlite *s, int code, struct ex_err *err)
{
	int rc = errno_of(code);
	if (rc == -EIO || rc == -ENOTCONN)
		s->broken = true;
	return ex_err_set(err, rc, "the ledger '%s': %s%s", s->path,
		s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(code),
		rc == -EUCLEAN ? " (the database is damaged: restore a backup)" : "");
}

/* --- statements ------------------------------------------------------------------------------------------------------ */

sqlite3_stmt *ex_sqlite_stmt(struct ex_sqlite *s, enum ex_sql which)
{
	sqlite3_stmt *q = s->stmt[which];
	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
	return q;
}

int ex_sqlite_run(struct ex_sqlite *s, sqlite3_stmt *q, struct ex_err *err)
{
	int code = sqlite3_step(q);
	int rc = code == SQLITE_DONE ? 0 : ex_sqlite_failed(s, code, err);
	sqlite3_reset(q);
	return rc;
}

static void finalize_all(struct ex_sqlite *s)
{
	for (int i = 0; i < EX_SQL_N; i++) {
		sqlite3_finalize(s->stmt[i]);
		s->stmt[i] = NULL;
	}
}

static int prepare_all(struct ex_sqlite *s, struct ex_err *err)
{
	for (int i = 0; i < EX_SQL_N; i++) {
		int code =
			sqlite3_prepare_v3(s->db, ex_sqlite_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->stmt[i], NULL);
		if (code != SQLITE_OK)
			return ex_sqlite_failed(s, code, err);
	}
	return 0;
}

/* --- opening --------------------------------------------------------------------------------------------------------- */

static int pragma_number(struct ex_sqlite *s, const char *sql, int64_t *ret, struct ex_err *err)
{
	sqlite3_stmt *q = NULL;
	int code = sqlite3_prepare_v2(s->db, sql, -1, &q, NULL);
	if (code == SQLITE_OK)
		code = sqlite3_step(q);
	if (code == SQLITE_ROW)
		*ret = sqlite3_column_int64(q, 0);
	sqlite3_finalize(q);
	return code == SQLITE_ROW ? 0 : ex_sqlite_failed(s, code, err);
}

/* A new file gets the tables; one that is something else is left alone. */
static int check_schema(struct ex_sqlite *s, struct ex_err *err)
{
	int64_t application = 0, version = 0, n_tables = 0;
	int rc = pragma_number(s, "PRAGMA application_id", &application, err);
	if (rc == 0)
		rc = pragma_number(s, "PRAGMA user_version", &version, err);
	if (rc == 0)
		rc = pragma_number(s, "SELECT count(*) FROM sqlite_schema", &n_tables, err);
	if (rc < 0)
		return rc;
	if (application == 0 && n_tables == 0) {
		int code = sqlite3_exec(s->db, schema, NULL, NULL, NULL);
		return code == SQLITE_OK ? 0 : ex_sqlite_failed(s, code, err);
	}
	if (application != strtol(EX_SQLITE_APPLICATION, NULL, 0))
		return ex_err_set(err, -EUCLEAN, "'%s' is a database, but no ledger", s->path);
	if (version != strtol(EX_SQLITE_VERSION, NULL, 0))
		return ex_err_set(err, -EUCLEAN,
			"the ledger '%s' has version %lld of the tables; this expertd knows version %s", s->path,
			(long long)version, EX_SQLITE_VERSION);
	return 0;
}

static void close_file(struct ex_sqlite *s)
{
	finalize_all(s);
	sqlite3_close_v2(s->db);
	s->db = NULL;
}

/* The file is made here, so that nobody else can read it. */
static int make_file(const struct ex_sqlite *s, struct ex_err *err)
{
	EX_CLEANUP(ex_closep) int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? ex_err_errno(err, -errno, "cannot open the ledger '%s'", s->path) : 0;
}

static int open_file(struct ex_sqlite *s, struct ex_err *err)
{
	static const char setup[] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
				    "PRAGMA wal_autocheckpoint = 4000; PRAGMA trusted_schema = OFF;";
	int rc = make_file(s, err);
	if (rc < 0)
		return rc;
	int code = sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (code == SQLITE_OK)
		code = sqlite3_busy_timeout(s->db, BUSY_MS);
	if (code == SQLITE_OK)
		code = sqlite3_exec(s->db, setup, NULL, NULL, NULL);
	rc = code == SQLITE_OK ? check_schema(s, err) : ex_sqlite_failed(s, code, err);
	if (rc == 0)
		rc = prepare_all(s, err);
	if (rc < 0)
		close_file(s);
	s->broken = false;
	return rc;
}

/* --- transactions ---------------------------------------------------------------------------------------------------- */

static int read_head(struct ex_sqlite *s, struct ex_err *err, struct ex_store_head *ret)
{
	sqlite3_stmt *q = ex_sqlite_stmt(s, EX_SQL_HEAD);
	int code = sqlite3_step(q), rc = 0;
	if (code != SQLITE_ROW || sqlite3_column_bytes(q, 1) != EX_LEDGER_HASH)
		rc = code == SQLITE_ROW || code == SQLITE_DONE
			     ? ex_err_set(
				       err, -EUCLEAN, "the ledger '%s' has no head (the database is damaged)", s->path)
			     : ex_sqlite_failed(s, code, err);
	else {
		ret->seq = sqlite3_column_int64(q, 0);
		ret->revision = sqlite3_column_int64(q, 2);
		memcpy(ret->hash, sqlite3_column_blob(q, 1), EX_LEDGER_HASH);
	}
	sqlite3_reset(q);
	return rc;
}

static void roll_back(struct ex_store *store)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	if (!s->db)
		return;
	for (int i = 0; i < EX_SQL_N; i++)
		sqlite3_reset(s->stmt[i]);
	if (!sqlite3_get_autocommit(s->db) && sqlite3_step(ex_sqlite_stmt(s, EX_SQL_ROLLBACK)) != SQLITE_DONE)
		s->broken = true;
	if (s->db)
		sqlite3_reset(s->stmt[EX_SQL_ROLLBACK]);
}

static int begin(struct ex_store *store, bool write, struct ex_err *err, struct ex_store_head *ret)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	int rc = 0;
	if (s->broken)
		close_file(s);
	if (!s->db)
		rc = open_file(s, err);
	if (rc == 0)
		rc = ex_sqlite_run(s, ex_sqlite_stmt(s, write ? EX_SQL_BEGIN_WRITE : EX_SQL_BEGIN), err);
	if (rc < 0)
		return rc;
	rc = read_head(s, err, ret);
	if (rc < 0)
		roll_back(store);
	return rc;
}

static int commit(struct ex_store *store, struct ex_err *err)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	return ex_sqlite_run(s, ex_sqlite_stmt(s, EX_SQL_COMMIT), err);
}

static struct ex_store *close_store(struct ex_store *store)
{
	struct ex_sqlite *s = ex_sqlite_of(store);
	close_file(s);
	free(s->path);
	free(s);
	return NULL;
}

int ex_store_open_sqlite(const char *path, struct ex_err *err, struct ex_store **ret)
{
	static const struct ex_store_ops ops = {
		.begin = begin,
		.commit = commit,
		.rollback = roll_back,
		.find_txns = ex_sqlite_find_txns,
		.find_refunds = ex_sqlite_find_refunds,
		.find_purses = ex_sqlite_find_purses,
		.save = ex_sqlite_save,
		.each_txn = ex_sqlite_each_txn,
		.each_purse = ex_sqlite_each_purse,
		.each_hold = ex_sqlite_each_hold,
		.each_account = ex_sqlite_each_account,
		.each_key = ex_sqlite_each_key,
		.each_tariff = ex_sqlite_each_tariff,
		.add_account = ex_sqlite_add_account,
		.add_key = ex_sqlite_add_key,
		.add_tariff = ex_sqlite_add_tariff,
		.set_account = ex_sqlite_set_account,
		.set_key = ex_sqlite_set_key,
		.each_usage = ex_sqlite_each_usage,
		.close = close_store,
	};
	struct ex_sqlite *s = ex_calloc(1, sizeof *s);
	if (s)
		s->path = strdup(path);
	if (!s || !s->path) {
		free(s);
		return ex_err_errno(err, -ENOMEM, "cannot open the ledger");
	}
	s->store.ops = &ops;
	int rc = open_file(s, err);
	if (rc < 0) {
		close_store(&s->store);
		return rc;
	}
	*ret = &s->store;
	return 0;
}
