/* SPDX-License-Identifier: Apache-2.0 */
/* What a ledger does on any store. The file that includes it has `store`, the name of an empty one. */
#ifndef EX_TESTS_LEDGER_CASES_H
#define EX_TESTS_LEDGER_CASES_H

#include "ledger_ops.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#ifndef STEPS
#define STEPS 3000 /* of the random operations */
#endif

static char store[PATH_MAX + 64];

static void expect_books(int64_t account, int64_t granted, int64_t topped, int64_t held_granted, int64_t held_topped)
{
	struct ex_purse p = read_purse(store, account);
	assert_int_equal(p.balance[EX_BOOK_GRANTED], granted);
	assert_int_equal(p.balance[EX_BOOK_TOPPED], topped);
	assert_int_equal(p.balance[EX_BOOK_HELD_GRANTED], held_granted);
	assert_int_equal(p.balance[EX_BOOK_HELD_TOPPED], held_topped);
}

/* --- one operation at a time --------------------------------------------------------------------------------------------- */

static void test_hold_and_post(void **state)
{
	(void)state;
	struct ex_ledger *l = open_ledger(store);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "pay-1", 1, 100), 0);
	assert_int_equal(do_op(l, EX_TXN_GRANT, "gift", 1, 10), 0);
	struct ex_ledger_op hold = make_op(EX_TXN_HOLD, "r1", 1, 25);
	assert_int_equal(ex_ledger_do(l, &hold), 0);
	assert_int_equal(hold.available, 85);
	expect_books(1, 0, 85, 10, 15); /* granted first */
	assert_int_equal(do_op(l, EX_TXN_HOLD, "r2", 1, 86), -EDQUOT);
	assert_int_equal(do_op(l, EX_TXN_HOLD, "r2", 1, 85), 0);
	assert_int_equal(do_op(l, EX_TXN_POST, "r1", 0, 26), -ERANGE);
	assert_int_equal(do_op(l, EX_TXN_POST, "r1", 0, 12), 0);
	expect_books(1, 0, 13, 0, 85); /* 10 granted and 2 topped up were spent */
	assert_int_equal(do_op(l, EX_TXN_VOID, "r2", 0, 0), 0);
	expect_books(1, 0, 98, 0, 0);
	assert_int_equal(read_purse(store, EX_ACCOUNT_HOUSE).balance[EX_BOOK_REVENUE], 12);
	assert_int_equal(read_purse(store, EX_ACCOUNT_HOUSE).balance[EX_BOOK_PAYMENTS], -100);
	ex_ledger_close(l);
	assert_int_equal(expect_clean(store).n_txns, 6);
}

static void test_once(void **state)
{
	(void)state;
	struct ex_ledger *l = open_ledger(store);
	struct ex_ledger_op a = make_op(EX_TXN_CREDIT, "k", 1, 100), b = make_op(EX_TXN_CREDIT, "k", 1, 100);
	assert_int_equal(ex_ledger_do(l, &a), 0);
	assert_int_equal(ex_ledger_do(l, &b), 0);
	assert_false(a.replayed);
	assert_true(b.replayed);
	assert_int_equal(a.txn.seq, b.txn.seq);
	assert_int_equal(b.available, 100);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "k", 1, 101), -EEXIST);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "k", 2, 100), -EEXIST);
	assert_int_equal(do_op(l, EX_TXN_GRANT, "k", 1, 7), 0); /* another kind, another key */
	assert_int_equal(do_op(l, EX_TXN_HOLD, "k", 1, 50), 0);
	assert_int_equal(do_op(l, EX_TXN_HOLD, "k", 1, 50), 0);
	assert_int_equal(do_op(l, EX_TXN_POST, "k", 0, 20), 0);
	assert_int_equal(do_op(l, EX_TXN_POST, "k", 0, 20), 0);
	assert_int_equal(do_op(l, EX_TXN_POST, "k", 0, 21), -EALREADY);
	assert_int_equal(do_op(l, EX_TXN_VOID, "k", 0, 0), -EALREADY);
	assert_int_equal(do_op(l, EX_TXN_HOLD, "k", 1, 50), 0); /* it was held once, and is not held again */
	expect_books(1, 0, 87, 0, 0);
	ex_ledger_close(l);
	assert_int_equal(expect_clean(store).n_txns, 4);
}

static void test_refunds(void **state)
{
	(void)state;
	struct ex_ledger *l = open_ledger(store);
	struct ex_ledger_op op;
	do_op(l, EX_TXN_CREDIT, "pay", 1, 100);
	do_op(l, EX_TXN_GRANT, "gift", 1, 10);
	do_op(l, EX_TXN_HOLD, "r", 1, 40);
	do_op(l, EX_TXN_POST, "r", 0, 30); /* 10 granted, 20 topped up */
	op = make_refund("b1", EX_TXN_POST, "r", 15);
	assert_int_equal(ex_ledger_do(l, &op), 0);
	expect_books(1, 0, 95, 0, 0);
	op = make_refund("b1", EX_TXN_POST, "r", 15);
	assert_int_equal(ex_ledger_do(l, &op), 0);
	assert_true(op.replayed);
	op = make_refund("b1", EX_TXN_CREDIT, "pay", 15);
	assert_int_equal(ex_ledger_do(l, &op), -EEXIST);
	op = make_refund("b2", EX_TXN_POST, "r", 16);
	assert_int_equal(ex_ledger_do(l, &op), -ERANGE);
	op = make_refund("b2", EX_TXN_POST, "r", 15);
	assert_int_equal(ex_ledger_do(l, &op), 0);
	expect_books(1, 10, 100, 0, 0);
	do_op(l, EX_TXN_HOLD, "s", 1, 15);
	op = make_refund("b3", EX_TXN_CREDIT, "pay", 96);
	assert_int_equal(ex_ledger_do(l, &op), -EDQUOT); /* 5 of it are held */
	op = make_refund("b3", EX_TXN_CREDIT, "pay", 95);
	assert_int_equal(ex_ledger_do(l, &op), 0);
	do_op(l, EX_TXN_VOID, "s", 0, 0);
	op = make_refund("b4", EX_TXN_CREDIT, "pay", 6);
	assert_int_equal(ex_ledger_do(l, &op), -ERANGE);
	op = make_refund("b4", EX_TXN_GRANT, "gift", 10);
	assert_int_equal(ex_ledger_do(l, &op), 0);
	op = make_refund("b5", EX_TXN_POST, "s", 1);
	assert_int_equal(ex_ledger_do(l, &op), -ENOENT); /* it was void */
	expect_books(1, 0, 5, 0, 0);
	ex_ledger_close(l);
	expect_clean(store);
}

static void test_refused(void **state)
{
	(void)state;
	struct ex_ledger *l = open_ledger(store);
	struct ex_ledger_op op = make_op(EX_TXN_CREDIT, "k", 1, 5);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "", 1, 5), -EINVAL);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "a\nb", 1, 5), -EINVAL);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "k", 0, 5), -EINVAL);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "k", 1, 0), -EINVAL);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "k", 1, -5), -EINVAL);
	strcpy(op.txn.currency, "us");
	assert_int_equal(ex_ledger_do(l, &op), -EINVAL);
	assert_int_equal(do_op(l, EX_TXN_POST, "nothing", 0, 5), -ENOENT);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "most", 1, INT64_MAX), 0);
	assert_int_equal(do_op(l, EX_TXN_GRANT, "more", 1, 1), -EOVERFLOW);
	assert_int_equal(do_op(l, EX_TXN_CREDIT, "more", 2, 2), -EOVERFLOW); /* of the house's book */
	expect_books(1, 0, INT64_MAX, 0, 0);
	ex_ledger_close(l);
	assert_int_equal(expect_clean(store).n_txns, 1);
}

/* --- many at once -------------------------------------------------------------------------------------------------------- */

static _Atomic int n_done;

static void count(struct ex_ledger_op *op)
{
	(void)op;
	atomic_fetch_add(&n_done, 1);
}

/* Equal keys within one batch; holds that compete for one balance; posts of holds of the same batch. */
static void test_batches(void **state)
{
	(void)state;
	enum { N = 600 };
	struct ex_ledger_op *op = calloc(3 * N, sizeof *op);
	struct ex_ledger_stat stat;
	char name[32];
	int n_held = 0;
	assert_non_null(op);
	struct ex_ledger *l = open_ledger(store);
	do_op(l, EX_TXN_CREDIT, "pay", 1, 100);
	atomic_store(&n_done, 0);
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "r%d", i / 2);
		op[3 * i] = make_op(EX_TXN_HOLD, name, 1, 2);
		op[3 * i + 1] = make_op(EX_TXN_CREDIT, "once", 2, 5);
		op[3 * i + 2] = make_op(EX_TXN_POST, name, 0, 1);
		for (int k = 0; k < 3; k++) {
			op[3 * i + k].done = count;
			assert_int_equal(ex_ledger_submit(l, &op[3 * i + k]), 0);
		}
	}
	ex_ledger_close(l); /* what is queued is done */
	assert_int_equal(atomic_load(&n_done), 3 * N);
	for (int i = 0; i < N; i++) {
		assert_int_equal(op[3 * i + 1].rc, 0);
		n_held += op[3 * i].rc == 0 && !op[3 * i].replayed;
	}
	assert_int_equal(n_held, 99); /* each costs 1 in the end, the last unit is less than a hold */
	expect_books(1, 0, 1, 0, 0);
	expect_books(2, 0, 5, 0, 0);
	expect_clean(store);
	l = open_ledger(store);
	ex_ledger_stat(l, &stat);
	assert_true(stat.up);
	ex_ledger_close(l);
	free(op);
}

/* --- against a model ----------------------------------------------------------------------------------------------------- */

enum { ACCOUNTS = 5, HOLDS = 40 };

struct model {
	int64_t granted, topped, held_granted, held_topped;
};
struct model_hold {
	int64_t account, granted, topped;
};
static struct model model[ACCOUNTS + 1];
static struct model_hold model_hold[HOLDS]; /* account 0: free */
static unsigned hold_round[HOLDS];

static int model_take(int64_t account, int64_t amount, struct model_hold *h)
{
	struct model *m = &model[account];
	if (amount > m->granted + m->topped)
		return -EDQUOT;
	h->account = account;
	h->granted = amount < m->granted ? amount : m->granted;
	h->topped = amount - h->granted;
	m->granted -= h->granted;
	m->topped -= h->topped;
	m->held_granted += h->granted;
	m->held_topped += h->topped;
	return 0;
}

static int model_end(struct model_hold *h, int64_t amount)
{
	struct model *m = &model[h->account];
	if (amount > h->granted + h->topped)
		return -ERANGE;
	int64_t granted = amount < h->granted ? amount : h->granted;
	m->held_granted -= h->granted;
	m->held_topped -= h->topped;
	m->granted += h->granted - granted;
	m->topped += h->topped - (amount - granted);
	h->account = 0;
	return 0;
}

static void step_hold(struct ex_ledger *l, int i, int64_t account, int64_t amount)
{
	char name[32];
	int want;
	if (!model_hold[i].account) {
		snprintf(name, sizeof name, "h%d.%u", i, hold_round[i]);
		want = model_take(account, amount, &model_hold[i]);
		assert_int_equal(do_op(l, EX_TXN_HOLD, name, account, amount), want);
		return;
	}
	snprintf(name, sizeof name, "h%d.%u", i, hold_round[i]);
	const enum ex_txn_kind kind = amount % 3 ? EX_TXN_POST : amount % 2 ? EX_TXN_VOID : EX_TXN_TIMEOUT;
	int64_t charge = kind == EX_TXN_POST ? amount / 2 : 0;
	want = model_end(&model_hold[i], charge);
	assert_int_equal(do_op(l, kind, name, 0, charge), want);
	hold_round[i] += want == 0;
}

static void test_model(void **state)
{
	(void)state;
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	struct ex_ledger *l = open_ledger(store);
	memset(model, 0, sizeof model);
	memset(model_hold, 0, sizeof model_hold);
	for (int i = 0; i < STEPS; i++) {
		char name[32];
		int64_t account = 1 + rand_r(&seed) % ACCOUNTS, amount = 1 + rand_r(&seed) % 1000;
		snprintf(name, sizeof name, "k%d", i);
		switch (rand_r(&seed) % 8) {
		case 0:
			model[account].topped += amount;
			assert_int_equal(do_op(l, EX_TXN_CREDIT, name, account, amount), 0);
			break;
		case 1:
			model[account].granted += amount;
			assert_int_equal(do_op(l, EX_TXN_GRANT, name, account, amount), 0);
			break;
		default:
			step_hold(l, rand_r(&seed) % HOLDS, account, amount);
		}
	}
	ex_ledger_close(l);
	for (int64_t a = 1; a <= ACCOUNTS; a++)
		expect_books(a, model[a].granted, model[a].topped, model[a].held_granted, model[a].held_topped);
	int64_t n_pending = 0;
	for (int i = 0; i < HOLDS; i++)
		n_pending += model_hold[i].account != 0;
	assert_int_equal(expect_clean(store).n_holds, n_pending);
}

#endif
