/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/admit_accounts and charges: who is let in, what is held and charged, and that a crash, or a store that is down, loses no charge that
 * the journal knows of and leaves no hold. */
#include "ledger_ops.h"

#include "gateway/admit_accounts.h"
#include "gateway/charges_file.h"
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define WAIT_TRIES 1000
#define WAIT_US    10000

static char dir[32], path[PATH_MAX], journal[PATH_MAX], store[PATH_MAX + 8], secret[EX_API_KEY_TEXT_MAX];
static struct ex_desk *desk;
static struct ex_admit_accounts *admit;

static void open_desk(const char *owner)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_desk_opts o = {.store = store, .owner = owner, .journal = journal, .journal_ms = 10};
	EXPECT_OK(err, ex_desk_open(&o, &err, &desk));
	const struct ex_admit_accounts_opts a = {.desk = desk, .model_name = "m", .hold_s = 3600};
	assert_int_equal(ex_admit_accounts_new(&a, &admit), 0);
}

static void close_desk(void)
{
	ex_desk_stop(desk);
	admit = ex_admit_accounts_free(admit);
	desk = ex_desk_close(desk);
}

static void set_prices(void)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tariff t = {.model = "m", .currency = "USD", .hit = 1, .miss = 10, .completion = 100};
	EXPECT_OK(err, ex_accounts_add_tariff(ex_desk_accounts(desk), &t, &err));
}

static int setup(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_account a;
	struct ex_api_key k;
	strcpy(dir, SCRATCH_DIR);
	make_dir(dir);
	snprintf(store, sizeof store, "sqlite:%s", path_in(dir, "ledger.db", path));
	path_in(dir, "charges.journal", journal);
	open_desk("r1");
	EXPECT_OK(err, ex_accounts_create(ex_desk_accounts(desk), "acme", "standard", &err, &a));
	EXPECT_OK(err, ex_accounts_add_key(ex_desk_accounts(desk), "acme", "", &err, &k, secret));
	assert_int_equal(do_op(ex_desk_ledger(desk), EX_TXN_CREDIT, "pay", 1, 10000), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (desk)
		close_desk();
	remove_dir(dir);
	return 0;
}

/* --- asking and waiting for the answer --------------------------------------------------------------------------------- */

struct answer {
	pthread_mutex_t mutex;
	pthread_cond_t there;
	bool is_there;
	struct ex_admit_answer r;
	char code[64], json[1024];
};

static void on_answer(void *ctx, const struct ex_admit_answer *r)
{
	struct answer *a = ctx;
	pthread_mutex_lock(&a->mutex);
	a->r = *r;
	snprintf(a->code, sizeof a->code, "%s", r->code ? r->code : "");
	a->is_there = true;
	pthread_cond_signal(&a->there);
	pthread_mutex_unlock(&a->mutex);
}

static void on_json(void *ctx, int status, const char *json)
{
	struct ex_admit_answer r = {.status = status};
	snprintf(((struct answer *)ctx)->json, sizeof((struct answer *)ctx)->json, "%s", json);
	on_answer(ctx, &r);
}

static void wait_answer(struct answer *a)
{
	pthread_mutex_lock(&a->mutex);
	while (!a->is_there)
		pthread_cond_wait(&a->there, &a->mutex);
	pthread_mutex_unlock(&a->mutex);
}

static struct ex_ticket *ask(const char *key, uint32_t prompt, uint32_t max, int status, const char *code)
{
	struct answer a = {.mutex = PTHREAD_MUTEX_INITIALIZER, .there = PTHREAD_COND_INITIALIZER};
	const struct ex_admit_ask q = {.key = key, .request_id = "req-1", .prompt_tokens = prompt, .max_tokens = max};
	const struct ex_admit *x = ex_admit_accounts_admit(admit);
	x->ops->ask(x->ctx, &q, on_answer, &a);
	wait_answer(&a);
	assert_int_equal(a.r.status, status);
	assert_string_equal(a.code, code);
	assert_true((a.r.ticket != NULL) == (status == 200));
	return a.r.ticket;
}

static void finish(struct ex_ticket *t, uint32_t hit, uint32_t miss, uint32_t completion)
{
	const struct ex_admit *x = ex_admit_accounts_admit(admit);
	const struct ex_usage_tokens u = {hit, miss, completion, 0};
	x->ops->finish(x->ctx, t, &u);
}

static void expect_books(int64_t topped, int64_t held, int64_t revenue)
{
	struct ex_purse p = {.account = -1}, house = p;
	for (int i = 0; i < WAIT_TRIES; i++, usleep(WAIT_US)) {
		p = read_purse(store, 1);
		house = read_purse(store, EX_ACCOUNT_HOUSE);
		if (p.balance[EX_BOOK_TOPPED] == topped && p.balance[EX_BOOK_HELD_TOPPED] == held &&
			house.balance[EX_BOOK_REVENUE] == revenue)
			return;
	}
	assert_int_equal(p.balance[EX_BOOK_TOPPED], topped);
	assert_int_equal(p.balance[EX_BOOK_HELD_TOPPED], held);
	assert_int_equal(house.balance[EX_BOOK_REVENUE], revenue);
}

/* --- tests ------------------------------------------------------------------------------------------------------------- */

static void test_who(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_account a;
	ask(NULL, 1, 1, 401, "invalid_api_key");
	ask("sk-0000", 1, 1, 401, "invalid_api_key");
	ask(secret, 1, 1, 503, "no_tariff");
	set_prices();
	finish(ask(secret, 1, 1, 200, ""), 0, 1, 1);
	ask(secret, 100, 91, 402, "insufficient_balance"); /* 1000 + 9100 */
	ask(secret, UINT32_MAX, UINT32_MAX, 402, "insufficient_balance");
	EXPECT_OK(err, ex_accounts_change(ex_desk_accounts(desk), "acme", NULL, 1, &err, &a));
	ask(secret, 1, 1, 403, "account_suspended");
	expect_books(9890, 0, 110);
	close_desk();
	assert_int_equal(expect_clean(store).n_holds, 0);
}

static void test_charges(void **state)
{
	(void)state;
	struct answer b = {.mutex = PTHREAD_MUTEX_INITIALIZER, .there = PTHREAD_COND_INITIALIZER};
	const struct ex_admit *x = ex_admit_accounts_admit(admit);
	set_prices();
	struct ex_ticket *t = ask(secret, 100, 50, 200, ""); /* 1000 + 5000 */
	expect_books(4000, 6000, 0);
	ask(secret, 100, 50, 402, "insufficient_balance");
	finish(t, 60, 40, 7); /* 60 + 400 + 700 */
	expect_books(8840, 0, 1160);
	t = ask(secret, 1, 1, 200, "");
	finish(t, 0, 900, 900); /* more than was asked for is not charged */
	expect_books(8730, 0, 1270);
	x->ops->balance(x->ctx, secret, on_json, &b);
	wait_answer(&b);
	assert_int_equal(b.r.status, 200);
	assert_string_equal(b.json,
		"{\"is_available\": true, \"balance_infos\": [{\"currency\": \"USD\", \"total_balance\": "
		"\"0.00000873\", \"granted_balance\": \"0.00\", \"topped_up_balance\": \"0.00000873\"}]}");
	b.is_there = false;
	x->ops->balance(x->ctx, "sk-no", on_json, &b);
	wait_answer(&b);
	assert_int_equal(b.r.status, 401);
}

/* A child is killed with three requests running: one that said what it used, one that did not, one that ended. */
static void test_crash(void **state)
{
	(void)state;
	int status, ready[2];
	char c;
	struct ex_charges_stat stat;
	set_prices();
	close_desk();
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		open_desk("r1");
		const struct ex_admit *x = ex_admit_accounts_admit(admit);
		struct ex_ticket *said = ask(secret, 10, 10, 200, ""), *ended = ask(secret, 10, 10, 200, "");
		ask(secret, 10, 10, 200, "");
		const struct ex_usage_tokens u = {0, 10, 2, 0}, v = {0, 10, 3, 0};
		x->ops->progress(x->ctx, said, &u);
		x->ops->progress(x->ctx, said, &v);
		finish(ended, 10, 0, 1);
		expect_books(7690, 2200, 110);
		for (int i = 0; i < 50; i++, usleep(20000)) {
			struct ex_charge *known = NULL;
			size_t n = 0, rest;
			if (ex_charges_read(journal, NULL, &known, &n, &rest) == 0 && n == 1 && known->amount == 400)
				break;
			free(known);
		}
		assert_int_equal(write(ready[1], "x", 1), 1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(expect_clean(store).n_holds, 2);
	open_desk("r2"); /* of another name: what the journal knows is charged, the other hold is not its own */
	ex_charges_stat(ex_desk_charges(desk), &stat);
	assert_int_equal(stat.n_recovered, 1);
	assert_int_equal(stat.n_voided, 0);
	expect_books(10000 - 110 - 400 - 1100, 1100, 110 + 400);
	close_desk();
	open_desk("r1");
	ex_charges_stat(ex_desk_charges(desk), &stat);
	assert_int_equal(stat.n_recovered, 0);
	assert_int_equal(stat.n_voided, 1);
	expect_books(10000 - 110 - 400, 0, 110 + 400);
	close_desk();
	assert_int_equal(expect_clean(store).n_holds, 0);
}

static void run_sql(const char *sql)
{
	sqlite3 *db;
	char *text = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
		fail_msg("%s: %s", sql, text);
	sqlite3_close(db);
}

static void test_store_down(void **state)
{
	(void)state;
	struct ex_charges_stat stat;
	set_prices();
	struct ex_ticket *t = ask(secret, 10, 10, 200, ""), *u = ask(secret, 10, 10, 200, "");
	run_sql("ALTER TABLE head RENAME TO gone");
	ask(secret, 1, 1, 503, "ledger_unavailable");
	finish(t, 0, 10, 1);
	ex_charges_stat(ex_desk_charges(desk), &stat);
	assert_int_equal(stat.n_running, 1);
	assert_true(stat.n_waiting >= 1);
	run_sql("ALTER TABLE gone RENAME TO head");
	expect_books(10000 - 200 - 1100, 1100, 200); /* posted by itself */
	finish(u, 0, 10, 2);
	expect_books(10000 - 500, 0, 500);
	close_desk();
	assert_int_equal(expect_clean(store).n_holds, 0);
}

/* --- the file ---------------------------------------------------------------------------------------------------------- */

static void test_lines(void **state)
{
	(void)state;
	struct ex_str text = EX_STR_INIT;
	struct ex_charge c = {.name = "a", .amount = 5, .tokens = {1, 2, 3, 4}}, *got = NULL;
	size_t n, rest;
	ex_charges_line(&c, &text);
	strcpy(c.name, "b");
	ex_charges_line(&c, &text);
	c.amount = 7;
	ex_charges_line(&c, &text);
	strcpy(c.name, "a");
	c.done = true;
	ex_charges_line(&c, &text);
	assert_int_equal(ex_charges_parse(text.s, text.n, &got, &n, &rest), 0);
	assert_int_equal(n, 1);
	assert_int_equal(rest, 0);
	assert_string_equal(got->name, "b");
	assert_int_equal(got->amount, 7);
	assert_int_equal(got->tokens.reasoning, 4);
	free(got);
	for (size_t cut = 0; cut < text.n; cut++) { /* every torn end is noticed, and what is before it is read */
		assert_int_equal(ex_charges_parse(text.s, cut, &got, &n, &rest), 0);
		assert_true(rest < 60);
		free(got);
	}
	text.s[5] ^= 1;
	assert_int_equal(ex_charges_parse(text.s, text.n, &got, &n, &rest), 0);
	assert_int_equal(n, 0);
	assert_int_equal(rest, text.n);
	free(got);
	ex_str_done(&text);
}

static void test_taken(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_desk *second = NULL;
	const struct ex_desk_opts o = {.store = store, .owner = "r1", .journal = journal, .journal_ms = 10};
	assert_int_equal(ex_desk_open(&o, &err, &second), -EBUSY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_who, setup, teardown),
		cmocka_unit_test_setup_teardown(test_charges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_crash, setup, teardown),
		cmocka_unit_test_setup_teardown(test_store_down, setup, teardown),
		cmocka_unit_test(test_lines),
		cmocka_unit_test_setup_teardown(test_taken, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
