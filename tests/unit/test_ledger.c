/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/ledger: what each operation moves, what is refused, that a key is used once, that tampering is found; and that random operations leave
 * what a plain model of them leaves. Any operation that books otherwise, and any balance that differs by a nano-unit, fails it. */
#include "ledger_cases.h"

#include <sqlite3.h>

static char dir[32], path[PATH_MAX];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, SCRATCH_DIR);
	make_dir(dir);
	snprintf(store, sizeof store, "sqlite:%s", path_in(dir, "ledger.db", path));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_dir(dir);
	return 0;
}

/* --- what verify finds --------------------------------------------------------------------------------------------------- */

static void tamper(const char *sql)
{
	sqlite3 *db;
	char *text = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
		fail_msg("%s: %s", sql, text);
	sqlite3_close(db);
}

static void test_tampered(void **state)
{
	(void)state;
	static const struct {
		const char *sql, *finding;
	} row[] = {
		{"DROP TRIGGER txn_update; UPDATE txn SET amount = 101 WHERE seq = 1", "transaction 1: its hash"},
		{"DROP TRIGGER entry_update; UPDATE entry SET amount = amount + 1 WHERE txn = 2 AND book = 0",
			"transaction 2: its hash"},
		{"DROP TRIGGER entry_delete; DROP TRIGGER txn_delete; DELETE FROM entry WHERE txn = 2; DELETE FROM txn "
		 "WHERE seq = 2",
			"transaction 3 follows 1"},
		{"UPDATE purse SET topped = topped + 1 WHERE account = 1", "account 1: book topped says"},
		{"DELETE FROM hold", "0 holds are said to be pending"},
		{"DELETE FROM purse WHERE account = 1", "1 balances are missing"},
		{"UPDATE head SET seq = 3", "the head says transaction 3"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_ledger *l = open_ledger(store);
		do_op(l, EX_TXN_CREDIT, "pay", 1, 100);
		do_op(l, EX_TXN_GRANT, "gift", 1, 10);
		do_op(l, EX_TXN_HOLD, "r", 1, 40);
		do_op(l, EX_TXN_HOLD, "s", 1, 4);
		do_op(l, EX_TXN_POST, "s", 0, 3);
		ex_ledger_close(l);
		expect_clean(store);
		tamper(row[i].sql);
		struct ex_ledger_report r = verify_store(store);
		if (!r.n_findings || strncmp(r.finding[0], row[i].finding, strlen(row[i].finding)) != 0)
			fail_msg("%s: %s", row[i].sql, r.n_findings ? r.finding[0] : "nothing found");
		teardown(state);
		setup(state);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hold_and_post, setup, teardown),
		cmocka_unit_test_setup_teardown(test_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refunds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batches, setup, teardown),
		cmocka_unit_test_setup_teardown(test_model, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tampered, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
