/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger recomputed from its first transaction on. Layer L4.
 * Balances of the whole past are followed, not only the last ones: an account that was below zero for an instant is a finding. */
#include "gateway/ledger_set.h"

#include "base/mem.h"
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <string.h>

/* A pending hold, or what is known of a transaction that was refunded; by seq. */
struct noted {
	int64_t seq, granted, topped, amount;
	enum ex_txn_kind kind;
};

struct verifier {
	struct ex_ledger_report *r;
	struct ex_set set; /* its purses: recomputed balances */
	int64_t seq;
	uint8_t hash[EX_LEDGER_HASH];
	void *holds,
		*charged; /* trees of struct noted: pending holds; credits, grants and posts with what is left to refund */
	int64_t n_holds;
	bool oom;
	/* Of the comparison at the end. */
	int64_t n_purses;
};

static void find(struct verifier *v, const char *fmt, ...) EX_PRINTF(2, 3);
static void find(struct verifier *v, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	if (v->r->n_findings < EX_LEDGER_FINDINGS_MAX)
		vsnprintf(v->r->finding[v->r->n_findings], EX_LEDGER_WHY_MAX, fmt, args);
	v->r->n_findings++;
	va_end(args);
}

static int compare(const void *a, const void *b)
{
	const struct noted *x = a, *y = b;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static struct noted *look(void **tree, int64_t seq)
{
	const struct noted want = {.seq = seq};
	struct noted *const *at = tfind(&want, tree, compare);
	return at ? *at : NULL;
}

static void add(struct verifier *v, void **tree, const struct noted *n)
{
	struct noted *copy = malloc(sizeof *copy);
	if (copy)
		*copy = *n;
	if (!copy || !tsearch(copy, tree, compare)) {
		free(copy);
		v->oom = true;
	}
}

static void drop(void **tree, struct noted *n)
{
	tdelete(n, tree, compare);
	free(n);
}

/* --- one transaction ----------------------------------------------------------------------------------------------------- */

static void check_link(struct verifier *v, const struct ex_txn *t)
{
	uint8_t hash[EX_LEDGER_HASH];
	int64_t sum = 0;
	if (t->seq != v->seq + 1)
		find(v, "transaction %" PRId64 " follows %" PRId64 ": there is a gap", t->seq, v->seq);
	if (ex_ledger_hash(v->hash, t, hash) < 0)
		v->oom = true;
	else if (memcmp(hash, t->hash, sizeof hash) != 0)
		find(v, "transaction %" PRId64 ": its hash does not follow from what it says and the one before",
			t->seq);
	for (int b = 0; b < EX_BOOK_N; b++)
		if (__builtin_add_overflow(sum, t->moved[b], &sum))
			find(v, "transaction %" PRId64 ": its entries overflow", t->seq);
	if (sum)
		find(v, "transaction %" PRId64 ": its entries sum up to %" PRId64 ", not 0", t->seq, sum);
	v->seq = t->seq;
	memcpy(v->hash, t->hash, sizeof v->hash);
}

static void follow_balance(struct verifier *v, const struct ex_txn *t)
{
	const int64_t account[] = {t->account, EX_ACCOUNT_HOUSE};
	for (int i = 0; i < 2; i++) {
		struct ex_purse fresh = {.account = account[i]};
		memcpy(fresh.currency, t->currency, sizeof fresh.currency);
		if (ex_set_put_purse(&v->set, &fresh) < 0) {
			v->oom = true;
			return;
		}
		struct ex_purse *p = (struct ex_purse *)ex_set_purse(&v->set, account[i], t->currency);
		for (int b = i ? EX_BOOK_CUSTOMER_N : 0; b < (i ? EX_BOOK_N : EX_BOOK_CUSTOMER_N); b++)
			if (__builtin_add_overflow(p->balance[b], t->moved[b], &p->balance[b]) ||
				(!i && p->balance[b] < 0))
				find(v,
					"transaction %" PRId64 ": book %s of account %" PRId64 " is %" PRId64
					" after it",
					t->seq, ex_book_name(b), t->account, p->balance[b]);
	}
}

static void follow_end(struct verifier *v, const struct ex_txn *t)
{
	struct noted *hold = look(&v->holds, t->ref);
	if (!hold) {
		find(v, "transaction %" PRId64 ": a %s of %" PRId64 ", which is no pending hold", t->seq,
			ex_txn_kind_name(t->kind), t->ref);
		return;
	}
	if (t->moved[EX_BOOK_HELD_GRANTED] != -hold->granted || t->moved[EX_BOOK_HELD_TOPPED] != -hold->topped ||
		t->amount > hold->amount || t->moved[EX_BOOK_REVENUE] != t->amount)
		find(v, "transaction %" PRId64 ": it does not release what hold %" PRId64 " set aside", t->seq, t->ref);
	drop(&v->holds, hold);
	v->n_holds--;
}

static void follow_refund(struct verifier *v, const struct ex_txn *t)
{
	struct noted *of = look(&v->charged, t->ref);
	if (!of) {
		find(v, "transaction %" PRId64 ": a refund of %" PRId64 ", which moved no money", t->seq, t->ref);
		return;
	}
	of->amount -= t->amount;
	if (of->amount < 0)
		find(v, "transaction %" PRId64 ": more was refunded of %" PRId64 " than it moved", t->seq, t->ref);
}

static int on_txn(void *ctx, const struct ex_txn *t)
{
	struct verifier *v = ctx;
	const struct noted n = {.seq = t->seq,
		.granted = t->moved[EX_BOOK_HELD_GRANTED],
		.topped = t->moved[EX_BOOK_HELD_TOPPED],
		.amount = t->amount,
		.kind = t->kind};
	check_link(v, t);
	follow_balance(v, t);
	if (t->kind == EX_TXN_HOLD) {
		add(v, &v->holds, &n);
		v->n_holds++;
	} else if (t->kind == EX_TXN_POST || t->kind == EX_TXN_VOID || t->kind == EX_TXN_TIMEOUT)
		follow_end(v, t);
	else if (t->kind == EX_TXN_REFUND)
		follow_refund(v, t);
	if (t->kind == EX_TXN_CREDIT || t->kind == EX_TXN_GRANT || t->kind == EX_TXN_POST)
		add(v, &v->charged, &n);
	v->r->n_txns++;
	return v->oom ? -ENOMEM : 0;
}

/* --- what is kept beside them -------------------------------------------------------------------------------------------- */

static int on_purse(void *ctx, const struct ex_purse *p)
{
	struct verifier *v = ctx;
	const struct ex_purse *is = ex_set_purse(&v->set, p->account, p->currency), none = {.account = 0};
	for (int b = 0; b < EX_BOOK_N; b++)
		if (p->balance[b] != (is ? is : &none)->balance[b])
			find(v, "account %" PRId64 ": book %s says %" PRId64 " %s, its entries sum up to %" PRId64,
				p->account, ex_book_name(b), p->balance[b], p->currency, (is ? is : &none)->balance[b]);
	v->n_purses += is != NULL;
	v->r->n_purses++;
	return 0;
}

static int on_hold(void *ctx, const struct ex_hold *h)
{
	struct verifier *v = ctx;
	if (!look(&v->holds, h->txn))
		find(v, "hold %" PRId64 " is said to be pending, and is not", h->txn);
	v->r->n_holds++;
	return 0;
}

/* Of each currency: what all books hold is nothing, and what is held is what pending holds set aside. */
static void sum_currencies(struct verifier *v)
{
	for (size_t i = 0; i < v->set.n_purses; i++) {
		const struct ex_purse *house = &v->set.purse[i].p;
		int64_t sum = 0;
		bool overflow = false;
		if (house->account != EX_ACCOUNT_HOUSE)
			continue;
		for (size_t k = 0; k < v->set.n_purses; k++)
			for (int b = 0; b < EX_BOOK_N && strcmp(v->set.purse[k].p.currency, house->currency) == 0; b++)
				overflow |= __builtin_add_overflow(sum, v->set.purse[k].p.balance[b], &sum);
		if (sum || overflow)
			find(v, "all books in %s sum up to %" PRId64 ", not 0", house->currency, sum);
	}
}

static int verify(struct verifier *v, struct ex_store *s, const struct ex_store_head *head, struct ex_err *err)
{
	int rc = s->ops->each_txn(s, 0, 0, SIZE_MAX, on_txn, v, err);
	if (rc == 0)
		rc = s->ops->each_purse(s, on_purse, v, err);
	if (rc == 0)
		rc = s->ops->each_hold(s, 0, NULL, on_hold, v, err);
	if (rc < 0)
		return v->oom ? ex_err_errno(err, -ENOMEM, "cannot verify the ledger") : rc;
	if (v->seq != head->seq || memcmp(v->hash, head->hash, sizeof v->hash) != 0)
		find(v, "the head says transaction %" PRId64 ", the last one is %" PRId64 ", or their hashes differ",
			head->seq, v->seq);
	if (v->n_purses != (int64_t)v->set.n_purses)
		find(v, "%" PRId64 " balances are missing", (int64_t)v->set.n_purses - v->n_purses);
	if (v->r->n_holds != v->n_holds)
		find(v, "%" PRId64 " holds are said to be pending, but %" PRId64 " are", v->r->n_holds, v->n_holds);
	sum_currencies(v);
	memcpy(v->r->hash, v->hash, sizeof v->r->hash);
	return 0;
}

int ex_ledger_verify(struct ex_store *s, struct ex_err *err, struct ex_ledger_report *ret)
{
	struct verifier v = {.r = ret};
	struct ex_store_head head;
	*ret = (struct ex_ledger_report){.n_txns = 0};
	int rc = s->ops->begin(s, false, err, &head);
	if (rc < 0)
		return rc;
	ex_set_reset(&v.set, &head);
	rc = verify(&v, s, &head, err);
	s->ops->rollback(s);
	tdestroy(v.holds, free);
	tdestroy(v.charged, free);
	ex_set_done(&v.set);
	return rc;
}
