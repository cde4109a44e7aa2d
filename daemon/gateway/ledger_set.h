/* SPDX-License-Identifier: Apache-2.0 */
/* The rows that one batch works on, and the operations over them: no I/O, no clock. Private to the ledger. Layer L4. Not thread-safe. */
#ifndef EX_GATEWAY_LEDGER_SET_H
#define EX_GATEWAY_LEDGER_SET_H

#include "gateway/ledger.h"

/* Positions in an array, found by hash. */
struct ex_slots {
	uint32_t *slot; /* 1 + position; 0: free. [cap] a power of two */
	size_t cap, n;
};

struct ex_set_purse {
	struct ex_purse p;
	bool dirty;
};

/* Zeros: empty. Reused from batch to batch. */
struct ex_set {
	struct ex_store_head head;
	struct ex_txn *txn; /* loaded ones, then from n_loaded on new ones */
	size_t n_txns, n_loaded, cap_txns;
	struct ex_set_purse *purse;
	size_t n_purses, cap_purses;
	struct ex_slots by_key, by_account;
};

void ex_set_done(struct ex_set *set);
void ex_set_reset(struct ex_set *set, const struct ex_store_head *head);
/* A row of the store; one that is there already is left as it is. -ENOMEM. */
int ex_set_put_txn(struct ex_set *set, const struct ex_txn *t);
int ex_set_put_purse(struct ex_set *set, const struct ex_purse *p);
/* Pointers are good until the next put or apply. NULL: not there. */
const struct ex_txn *ex_set_txn(const struct ex_set *set, const char *key);
const struct ex_purse *ex_set_purse(const struct ex_set *set, int64_t account, const char *currency);

/* The key of the operation's own transaction, and of the one that it is about ("": none). */
void ex_ledger_keys(const struct ex_ledger_op *op, char own[static EX_LEDGER_KEY_MAX + 1],
	char other[static EX_LEDGER_KEY_MAX + 1]);
/* Does op on the set, in which everything of its keys and accounts is loaded: op->rc says how it went, and what is refused changes nothing.
 * -ENOMEM: the batch cannot go on. */
int ex_ledger_apply(struct ex_set *set, struct ex_ledger_op *op, int64_t now_us);
/* What is wrong with the request itself, before any row is looked at: op->rc and op->why. */
int ex_ledger_check(struct ex_ledger_op *op);

#endif
