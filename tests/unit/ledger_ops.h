/* SPDX-License-Identifier: Apache-2.0 */
/* Short ways to ask the ledger, for its tests. */
#ifndef EX_TESTS_LEDGER_OPS_H
#define EX_TESTS_LEDGER_OPS_H

#include "model_dir.h"

#include "gateway/ledger.h"

static inline EX_UNUSED struct ex_ledger *open_ledger(const char *store)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_ledger_opts o = {.store = store, .retry_ms = 20};
	struct ex_ledger *l = NULL;
	EXPECT_OK(err, ex_ledger_open(&o, &err, &l));
	return l;
}

/* An operation on account, in USD. name: the key. */
static inline EX_UNUSED struct ex_ledger_op make_op(
	enum ex_txn_kind kind, const char *name, int64_t account, int64_t amount)
{
	struct ex_ledger_op op = {.txn = {.kind = kind, .account = account, .currency = "USD", .amount = amount}};
	snprintf(op.name, sizeof op.name, "%s", name);
	return op;
}

static inline EX_UNUSED struct ex_ledger_op make_refund(
	const char *name, enum ex_txn_kind of_kind, const char *of, int64_t amount)
{
	struct ex_ledger_op op = make_op(EX_TXN_REFUND, name, 0, amount);
	op.of_kind = of_kind;
	snprintf(op.of, sizeof op.of, "%s", of);
	return op;
}

static inline EX_UNUSED int do_op(
	struct ex_ledger *l, enum ex_txn_kind kind, const char *name, int64_t account, int64_t amount)
{
	struct ex_ledger_op op = make_op(kind, name, account, amount);
	return ex_ledger_do(l, &op);
}

static inline EX_UNUSED int keep_purse(void *ctx, const struct ex_purse *p)
{
	if (strcmp(p->currency, "USD") == 0)
		*(struct ex_purse *)ctx = *p;
	return 0;
}

/* What the books of one account hold in USD, by the store itself. */
static inline EX_UNUSED struct ex_purse read_purse(const char *name, int64_t account)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_purse p = {.account = account};
	struct ex_store_head head;
	EX_CLEANUP(ex_store_closep) struct ex_store *s = NULL;
	EXPECT_OK(err, ex_store_open(name, &err, &s));
	EXPECT_OK(err, s->ops->begin(s, false, &err, &head));
	EXPECT_OK(err, s->ops->find_purses(s, &account, 1, keep_purse, &p, &err));
	s->ops->rollback(s);
	return p;
}

/* The report of a verification that could be made. */
static inline EX_UNUSED struct ex_ledger_report verify_store(const char *name)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_ledger_report r;
	EX_CLEANUP(ex_store_closep) struct ex_store *s = NULL;
	EXPECT_OK(err, ex_store_open(name, &err, &s));
	EXPECT_OK(err, ex_ledger_verify(s, &err, &r));
	return r;
}

static inline EX_UNUSED struct ex_ledger_report expect_clean(const char *name)
{
	struct ex_ledger_report r = verify_store(name);
	if (r.n_findings)
		fail_msg("%zu findings, the first: %s", r.n_findings, r.finding[0]);
	return r;
}

#endif
