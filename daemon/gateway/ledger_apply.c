/* SPDX-License-Identifier: Apache-2.0 */
/* What each operation moves between the books. Layer L4. */
#include "gateway/ledger_set.h"

#include "base/str.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int refuse(struct ex_ledger_op *op, int rc, const char *why)
{
	snprintf(op->why, sizeof op->why, "%s", why);
	return op->rc = rc;
}

static bool is_end(enum ex_txn_kind kind)
{
	return kind == EX_TXN_POST || kind == EX_TXN_VOID || kind == EX_TXN_TIMEOUT;
}

/* --- keys ---------------------------------------------------------------------------------------------------- */

/* Keys of outsiders and of the house never meet: each kind has its own; a hold's ends share one, so that it ends once. */
static char prefix_of(enum ex_txn_kind kind)
{
	switch (kind) {
	case EX_TXN_CREDIT:
		return 'c';
	case EX_TXN_GRANT:
		return 'g';
	case EX_TXN_HOLD:
		return 'h';
	case EX_TXN_REFUND:
		return 'r';
	default:
		return 'e';
	}
}

static void make_key(enum ex_txn_kind kind, const char *name, char out[static EX_LEDGER_KEY_MAX + 1])
{
	snprintf(out, EX_LEDGER_KEY_MAX + 1, "%c:%s", prefix_of(kind), name);
}

void ex_ledger_keys(
	const struct ex_ledger_op *op, char own[static EX_LEDGER_KEY_MAX + 1], char other[static EX_LEDGER_KEY_MAX + 1])
{
	make_key(op->txn.kind, op->name, own);
	other[0] = '\0';
	if (is_end(op->txn.kind))
		make_key(EX_TXN_HOLD, op->name, other);
	else if (op->txn.kind == EX_TXN_REFUND)
		make_key(op->of_kind, op->of, other);
}

static bool is_printable(const char *s)
{
	for (; *s; s++)
		if (*s < 0x20 || *s > 0x7e)
			return false;
	return true;
}

int ex_ledger_check(struct ex_ledger_op *op)
{
	const struct ex_txn *t = &op->txn;
	const bool is_refund = t->kind == EX_TXN_REFUND,
		   may_be_nothing = t->kind == EX_TXN_HOLD || t->kind == EX_TXN_POST;
	op->rc = 0;
	if (t->kind < EX_TXN_CREDIT || t->kind >= EX_TXN_KIND_N)
		return refuse(op, -EINVAL, "no such operation");
	if (!*op->name || !is_printable(op->name))
		return refuse(op, -EINVAL, "the idempotency key must be printable ASCII, and not empty");
	if (!ex_utf8_valid(t->note, strlen(t->note)) || !ex_utf8_valid(t->owner, strlen(t->owner)))
		return refuse(op, -EINVAL, "a note must be UTF-8");
	if (is_refund && (op->of_kind != EX_TXN_CREDIT && op->of_kind != EX_TXN_GRANT && op->of_kind != EX_TXN_POST))
		return refuse(op, -EINVAL, "only credits, grants and posts can be refunded");
	if (!is_end(t->kind) && !is_refund && (t->account <= EX_ACCOUNT_HOUSE || !ex_currency_valid(t->currency)))
		return refuse(op, -EINVAL,
			"an operation is about a customer's account and a currency of three capital letters");
	if (t->amount < 0 || (t->amount == 0 && !may_be_nothing && !(is_end(t->kind))))
		return refuse(op, -EINVAL, "the amount must be above zero");
	if (t->amount && (t->kind == EX_TXN_VOID || t->kind == EX_TXN_TIMEOUT))
		return refuse(op, -EINVAL, "what ends a hold without a charge has no amount");
	return 0;
}

/* --- the operations: fill t->moved, or refuse -------------------------------------------------------------------- */

static int move_hold(struct ex_ledger_op *op, const struct ex_purse *p)
{
	int64_t *m = op->txn.moved, granted = EX_MIN(op->txn.amount, p->balance[EX_BOOK_GRANTED]);
	int64_t topped = op->txn.amount - granted;
	if (topped > p->balance[EX_BOOK_TOPPED])
		return refuse(op, -EDQUOT, "the available balance is too small");
	m[EX_BOOK_GRANTED] = -granted;
	m[EX_BOOK_TOPPED] = -topped;
	m[EX_BOOK_HELD_GRANTED] = granted;
	m[EX_BOOK_HELD_TOPPED] = topped;
	return 0;
}

/* amount of the hold becomes revenue, the rest goes back to where it came from. */
static int move_end(struct ex_ledger_op *op, const struct ex_txn *hold)
{
	int64_t *m = op->txn.moved, granted = hold->moved[EX_BOOK_HELD_GRANTED],
		topped = hold->moved[EX_BOOK_HELD_TOPPED];
	int64_t from_granted = EX_MIN(op->txn.amount, granted), from_topped = op->txn.amount - from_granted;
	if (from_topped > topped)
		return refuse(op, -ERANGE, "a charge is above what was held for it");
	m[EX_BOOK_HELD_GRANTED] = -granted;
	m[EX_BOOK_HELD_TOPPED] = -topped;
	m[EX_BOOK_GRANTED] = granted - from_granted;
	m[EX_BOOK_TOPPED] = topped - from_topped;
	m[EX_BOOK_REVENUE] = op->txn.amount;
	return 0;
}

/* What refunds of transaction seq have put back so far, by book. */
static void sum_refunds(const struct ex_set *set, int64_t seq, int64_t sum[static EX_BOOK_N])
{
	memset(sum, 0, EX_BOOK_N * sizeof *sum);
	for (size_t i = 0; i < set->n_txns; i++)
		if (set->txn[i].kind == EX_TXN_REFUND && set->txn[i].ref == seq)
			for (int b = 0; b < EX_BOOK_N; b++)
				sum[b] += set->txn[i].moved[b];
}

/* A charge is given back in the reverse order of spending: topped-up money first. */
static int refund_post(struct ex_ledger_op *op, const struct ex_txn *post, const int64_t back[static EX_BOOK_N])
{
	int64_t *m = op->txn.moved;
	int64_t topped = -post->moved[EX_BOOK_HELD_TOPPED] - post->moved[EX_BOOK_TOPPED] - back[EX_BOOK_TOPPED];
	int64_t granted = -post->moved[EX_BOOK_HELD_GRANTED] - post->moved[EX_BOOK_GRANTED] - back[EX_BOOK_GRANTED];
	int64_t to_topped = EX_MIN(op->txn.amount, topped), to_granted = op->txn.amount - to_topped;
	if (to_granted > granted)
		return refuse(op, -ERANGE, "more than is left to refund");
	m[EX_BOOK_REVENUE] = -op->txn.amount;
	m[EX_BOOK_TOPPED] = to_topped;
	m[EX_BOOK_GRANTED] = to_granted;
	return 0;
}

/* A credit or grant is taken back from what is still available. */
static int refund_credit(struct ex_ledger_op *op, const struct ex_txn *credit, const int64_t back[static EX_BOOK_N],
	const struct ex_purse *p)
{
	const bool is_credit = credit->kind == EX_TXN_CREDIT;
	const enum ex_book to = is_credit ? EX_BOOK_TOPPED : EX_BOOK_GRANTED;
	if (op->txn.amount > credit->amount + back[to])
		return refuse(op, -ERANGE, "more than is left to refund");
	if (op->txn.amount > p->balance[to])
		return refuse(op, -EDQUOT, "what would be refunded is spent or held");
	op->txn.moved[to] = -op->txn.amount;
	op->txn.moved[is_credit ? EX_BOOK_PAYMENTS : EX_BOOK_GRANTS] = op->txn.amount;
	return 0;
}

static int move_refund(
	const struct ex_set *set, struct ex_ledger_op *op, const struct ex_txn *other, const struct ex_purse *p)
{
	int64_t back[EX_BOOK_N];
	sum_refunds(set, other->seq, back);
	if (other->kind == EX_TXN_POST)
		return refund_post(op, other, back);
	return refund_credit(op, other, back, p);
}

static int move(const struct ex_set *set, struct ex_ledger_op *op, const struct ex_txn *other, const struct ex_purse *p)
{
	struct ex_txn *t = &op->txn;
	switch (t->kind) {
	case EX_TXN_CREDIT:
		t->moved[EX_BOOK_PAYMENTS] = -t->amount;
		t->moved[EX_BOOK_TOPPED] = t->amount;
		return 0;
	case EX_TXN_GRANT:
		t->moved[EX_BOOK_GRANTS] = -t->amount;
		t->moved[EX_BOOK_GRANTED] = t->amount;
		return 0;
	case EX_TXN_HOLD:
		return move_hold(op, p);
	case EX_TXN_REFUND:
		return move_refund(set, op, other, p);
	default:
		return move_end(op, other);
	}
}

/* --- one operation ------------------------------------------------------------------------------------------------ */

/* The key is there: the same operation again, or another one. */
static int replay(struct ex_ledger_op *op, const struct ex_txn *there, const struct ex_txn *other)
{
	const struct ex_txn *t = &op->txn;
	const bool from_other = is_end(t->kind) || t->kind == EX_TXN_REFUND; /* account and currency are not said */
	if (there->kind != t->kind || (is_end(t->kind) && there->amount != t->amount)) {
		snprintf(op->why, sizeof op->why, "the hold has ended already: %s of transaction %" PRId64,
			ex_txn_kind_name(there->kind), there->seq);
		return op->rc = -EALREADY;
	}
	if (there->amount != t->amount || (t->kind == EX_TXN_REFUND && (!other || other->seq != there->ref)) ||
		(!from_other && (there->account != t->account || strcmp(there->currency, t->currency) != 0)))
		return refuse(op, -EEXIST, "the idempotency key was used for something else");
	op->txn = *there;
	op->replayed = true;
	return 0;
}

/* Balances after t, if none overflows and none of a customer's goes below zero. */
static bool add_moved(const struct ex_txn *t, struct ex_purse *customer, struct ex_purse *house)
{
	for (int b = 0; b < EX_BOOK_N; b++) {
		int64_t *to = b < EX_BOOK_CUSTOMER_N ? &customer->balance[b] : &house->balance[b];
		if (__builtin_add_overflow(*to, t->moved[b], to) || (b < EX_BOOK_CUSTOMER_N && *to < 0))
			return false;
	}
	int64_t available;
	return !__builtin_add_overflow(
		customer->balance[EX_BOOK_GRANTED], customer->balance[EX_BOOK_TOPPED], &available);
}

static struct ex_set_purse *purse_of(struct ex_set *set, int64_t account, const char *currency)
{
	struct ex_purse fresh = {.account = account};
	memcpy(fresh.currency, currency, sizeof fresh.currency);
	if (ex_set_put_purse(set, &fresh) < 0)
		return NULL;
	return EX_CONTAINER_OF(ex_set_purse(set, account, currency), struct ex_set_purse, p);
}

static int64_t available_in(const struct ex_purse *p)
{
	return p ? p->balance[EX_BOOK_GRANTED] + p->balance[EX_BOOK_TOPPED] : 0;
}

/* Takes what the operation is about from the transaction that it names. */
static int take_other(struct ex_ledger_op *op, const struct ex_txn *other)
{
	if (!other)
		return refuse(op, -ENOENT, is_end(op->txn.kind) ? "no such hold" : "nothing to refund under that key");
	if (op->txn.kind == EX_TXN_REFUND && other->kind != op->of_kind)
		return refuse(op, -ENOENT, "the hold of that key ended without a charge");
	op->txn.account = other->account;
	memcpy(op->txn.currency, other->currency, sizeof op->txn.currency);
	op->txn.ref = other->seq;
	if (is_end(op->txn.kind)) {
		op->txn.tariff = other->tariff;
		op->txn.api_key = other->api_key;
	}
	return 0;
}

int ex_ledger_apply(struct ex_set *set, struct ex_ledger_op *op, int64_t now_us)
{
	char other_key[EX_LEDGER_KEY_MAX + 1];
	struct ex_txn *t = &op->txn;
	op->replayed = false;
	if (ex_ledger_check(op) < 0)
		return 0;
	ex_ledger_keys(op, t->key, other_key);
	const struct ex_txn *there = ex_set_txn(set, t->key);
	const struct ex_txn *other = *other_key ? ex_set_txn(set, other_key) : NULL;
	if (there) {
		if (replay(op, there, other) == 0)
			op->available = available_in(ex_set_purse(set, op->txn.account, op->txn.currency));
		return 0;
	}
	if (*other_key && take_other(op, other) < 0)
		return 0;
	if (!purse_of(set, EX_ACCOUNT_HOUSE, t->currency) || !purse_of(set, t->account, t->currency))
		return -ENOMEM;
	struct ex_set_purse *house = purse_of(set, EX_ACCOUNT_HOUSE, t->currency),
			    *own = purse_of(set, t->account, t->currency);
	struct ex_purse house_after = house->p, own_after = own->p;
	memset(t->moved, 0, sizeof t->moved);
	if (move(set, op, other, &own->p) < 0)
		return 0;
	if (!add_moved(t, &own_after, &house_after)) {
		refuse(op, -EOVERFLOW, "the balance would be beyond what the ledger can count");
		return 0;
	}
	t->seq = set->head.seq + 1;
	t->time_us = now_us;
	if (t->kind != EX_TXN_HOLD)
		t->expires_us = 0, t->owner[0] = '\0';
	int rc = ex_ledger_hash(set->head.hash, t, t->hash);
	if (rc == 0)
		rc = ex_set_put_txn(set, t);
	if (rc < 0)
		return rc;
	set->head.seq = t->seq;
	memcpy(set->head.hash, t->hash, sizeof set->head.hash);
	*house = (struct ex_set_purse){.p = house_after, .dirty = true};
	*own = (struct ex_set_purse){.p = own_after, .dirty = true};
	op->available = available_in(&own_after);
	return 0;
}
