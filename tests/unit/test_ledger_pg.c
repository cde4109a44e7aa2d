/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/store_pg against a real server: the ledger does there what it does on SQLite; two processes on one store lose nothing and hold nothing
 * twice; a server that goes away is told, and what was acknowledged before is there once when it is back. */
#define STEPS 600
#include "ledger_cases.h"

#include "gateway/accounts.h"
#include "pg_server.h"
#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>

enum { N_EACH = 300, CRASH_OPS = 400 };

static char dir[32], conninfo[PATH_MAX];

static void run_sql(const char *sql)
{
	PGconn *c = PQconnectdb(conninfo);
	PGresult *r = PQexec(c, sql);
	if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
		fail_msg("%s: %s", sql, PQerrorMessage(c));
	PQclear(r);
	PQfinish(c);
}

static int setup_all(void **state)
{
	(void)state;
	strcpy(dir, SCRATCH_DIR);
	if (!pg_there())
		return 0;
	make_dir(dir);
	pg_make(dir);
	snprintf(conninfo, sizeof conninfo, "host=%s user=expertd dbname=postgres", dir);
	snprintf(store, sizeof store, "postgres:%s", conninfo);
	return 0;
}

static int teardown_all(void **state)
{
	(void)state;
	if (pg_there()) {
		pg_stop(dir, SIGINT);
		pg_remove(dir);
	}
	return 0;
}

static int setup(void **state)
{
	(void)state;
	if (pg_there())
		run_sql("SET client_min_messages = error; DROP SCHEMA IF EXISTS expertd CASCADE");
	return 0;
}

/* --- two routers ------------------------------------------------------------------------------------------------------- */

struct router {
	struct ex_ledger *l;
	int i, n_held;
};

/* Holds of one account that both want, and a credit of a key that both ask for. */
static void *run_router(void *arg)
{
	struct router *r = arg;
	char name[32];
	for (int i = 0; i < N_EACH; i++) {
		snprintf(name, sizeof name, "r%d.%d", r->i, i);
		r->n_held += do_op(r->l, EX_TXN_HOLD, name, 1, 1) == 0;
		snprintf(name, sizeof name, "both%d", i);
		assert_int_equal(do_op(r->l, EX_TXN_CREDIT, name, 2, 5), 0);
	}
	return NULL;
}

static void test_two_routers(void **state)
{
	(void)state;
	if (!pg_there())
		skip();
	struct router r[2] = {{.l = open_ledger(store), .i = 0}, {.l = open_ledger(store), .i = 1}};
	pthread_t thread;
	do_op(r[0].l, EX_TXN_CREDIT, "pay", 1, N_EACH); /* half of what they want */
	assert_int_equal(pthread_create(&thread, NULL, run_router, &r[0]), 0);
	run_router(&r[1]);
	pthread_join(thread, NULL);
	assert_int_equal(r[0].n_held + r[1].n_held, N_EACH);
	ex_ledger_close(r[0].l);
	ex_ledger_close(r[1].l);
	expect_books(1, 0, 0, 0, N_EACH);
	expect_books(2, 0, 5 * N_EACH, 0, 0);
	expect_clean(store);
}

/* --- the server goes away ---------------------------------------------------------------------------------------------- */

static void test_server_lost(void **state)
{
	(void)state;
	if (!pg_there())
		skip();
	struct ex_ledger_op *op = calloc(CRASH_OPS, sizeof *op);
	struct ex_ledger_stat stat;
	bool acked[CRASH_OPS] = {false};
	char name[32];
	int n_acked = 0;
	assert_non_null(op);
	struct ex_ledger *l = open_ledger(store);
	atomic_store(&n_done, 0);
	for (int i = 0; i < CRASH_OPS; i++) {
		snprintf(name, sizeof name, "op%d", i);
		op[i] = make_op(EX_TXN_CREDIT, name, 1 + i % 5, 3);
		op[i].done = count;
		assert_int_equal(ex_ledger_submit(l, &op[i]), 0);
		if (i == CRASH_OPS / 2)
			pg_stop(dir, SIGQUIT);
	}
	while (atomic_load(&n_done) < CRASH_OPS)
		usleep(1000);
	for (int i = 0; i < CRASH_OPS; i++) {
		acked[i] = op[i].rc == 0;
		n_acked += acked[i];
		assert_true(op[i].rc == 0 || op[i].rc == -ENOTCONN);
	}
	assert_true(n_acked < CRASH_OPS);
	ex_ledger_stat(l, &stat);
	assert_false(stat.up);
	pg_start(dir);
	for (int i = 0; i < 500 && !stat.up; i++, usleep(10000))
		ex_ledger_stat(l, &stat);
	assert_true(stat.up); /* found out by itself */
	for (int i = 0; i < CRASH_OPS; i++) {
		assert_int_equal(ex_ledger_do(l, &op[i]), 0);
		if (acked[i])
			assert_true(op[i].replayed);
	}
	ex_ledger_close(l);
	assert_int_equal(expect_clean(store).n_txns, CRASH_OPS);
	free(op);
}

/* A store that was tampered with by SQL: the server refuses changes of what is written, and verify finds what its owner forced. */
static void test_tampered(void **state)
{
	(void)state;
	if (!pg_there())
		skip();
	struct ex_ledger *l = open_ledger(store);
	do_op(l, EX_TXN_CREDIT, "pay", 1, 100);
	do_op(l, EX_TXN_HOLD, "r", 1, 40);
	ex_ledger_close(l);
	PGconn *c = PQconnectdb(conninfo);
	PGresult *r = PQexec(c, "UPDATE expertd.txn SET amount = 101 WHERE seq = 1");
	assert_int_equal(PQresultStatus(r), PGRES_FATAL_ERROR);
	PQclear(r);
	PQfinish(c);
	expect_clean(store);
	run_sql("DROP TRIGGER txn_kept ON expertd.txn; UPDATE expertd.txn SET amount = 101 WHERE seq = 1");
	assert_true(verify_store(store).n_findings > 0);
}

/* --- accounts ---------------------------------------------------------------------------------------------------------- */

static int count_usage(void *ctx, const struct ex_usage_row *u)
{
	struct ex_usage_row *sum = ctx;
	sum->n_requests += u->n_requests;
	sum->hit += u->hit;
	sum->charged += u->charged;
	return 0;
}

static void spend_and_refund(struct ex_ledger *l)
{
	struct ex_ledger_op op = make_op(EX_TXN_HOLD, "q", 1, 50);
	op.txn.api_key = 1;
	op.txn.tariff = 1;
	strcpy(op.txn.note, "quotes \" and \\ and {braces}, \xc3\xa9");
	do_op(l, EX_TXN_CREDIT, "pay", 1, 100);
	assert_int_equal(ex_ledger_do(l, &op), 0);
	op = make_op(EX_TXN_POST, "q", 0, 30);
	op.txn.tokens = (struct ex_txn_tokens){7, 8, 9, 1};
	assert_int_equal(ex_ledger_do(l, &op), 0);
	op = make_refund("b", EX_TXN_POST, "q", 10);
	assert_int_equal(ex_ledger_do(l, &op), 0);
}

static void test_accounts(void **state)
{
	(void)state;
	if (!pg_there())
		skip();
	struct ex_err err = EX_ERR_INIT;
	struct ex_account a;
	struct ex_api_key k;
	struct ex_tariff t = {.model = "m", .currency = "USD", .hit = 1, .miss = 2, .completion = 3};
	struct ex_usage_row sum = {.day = 0};
	struct ex_store_head head;
	char secret[EX_API_KEY_TEXT_MAX];
	int64_t id;
	struct ex_ledger *l = open_ledger(store);
	struct ex_store *reader;
	struct ex_accounts *x;
	EXPECT_OK(err, ex_store_open(store, &err, &reader));
	EXPECT_OK(err, ex_accounts_new(l, reader, &err, &x));
	EXPECT_OK(err, ex_accounts_create(x, "acme", "standard", &err, &a));
	assert_int_equal(ex_accounts_create(x, "acme", "standard", &err, &a), -EEXIST);
	EXPECT_OK(err, ex_accounts_add_key(x, "acme", "a \"label\"", &err, &k, secret));
	assert_int_equal(ex_accounts_of_key(x, secret, &a, &id), 0);
	EXPECT_OK(err, ex_accounts_change(x, "acme", "gold", 1, &err, &a));
	EXPECT_OK(err, ex_accounts_revoke_key(x, k.id, &err, &k));
	assert_int_equal(ex_accounts_of_key(x, secret, &a, &id), -ENOENT);
	EXPECT_OK(err, ex_accounts_add_tariff(x, &t, &err));
	assert_true(ex_accounts_tariff(x, "m", INT64_MAX, &t));
	assert_int_equal(t.completion, 3);
	spend_and_refund(l);
	EXPECT_OK(err, reader->ops->begin(reader, false, &err, &head));
	EXPECT_OK(err, reader->ops->each_usage(reader, 1, 0, count_usage, &sum, &err));
	reader->ops->rollback(reader);
	assert_int_equal(sum.n_requests, 1);
	assert_int_equal(sum.hit, 7);
	assert_int_equal(sum.charged, 20);
	ex_accounts_free(x);
	ex_store_close(reader);
	ex_ledger_close(l);
	expect_clean(store);
}

#define ON_SERVER(test)                                                                                                \
	static void server_##test(void **state)                                                                        \
	{                                                                                                              \
		if (!pg_there())                                                                                       \
			skip();                                                                                        \
		test(state);                                                                                           \
	}
ON_SERVER(test_hold_and_post)
ON_SERVER(test_once)
ON_SERVER(test_refunds)
ON_SERVER(test_refused)
ON_SERVER(test_batches)
ON_SERVER(test_model)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(server_test_hold_and_post, setup),
		cmocka_unit_test_setup(server_test_once, setup),
		cmocka_unit_test_setup(server_test_refunds, setup),
		cmocka_unit_test_setup(server_test_refused, setup),
		cmocka_unit_test_setup(server_test_batches, setup),
		cmocka_unit_test_setup(server_test_model, setup),
		cmocka_unit_test_setup(test_two_routers, setup),
		cmocka_unit_test_setup(test_server_lost, setup),
		cmocka_unit_test_setup(test_tampered, setup),
		cmocka_unit_test_setup(test_accounts, setup),
	};
	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
