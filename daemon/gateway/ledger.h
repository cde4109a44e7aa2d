/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger: double entry over accounts' books, holds, idempotent operations, a hash chain over all of it. Layer L4.
 *
 * One writer thread takes what is queued, works it out on rows that it loads, and commits it as one transaction of the store: many operations
 * share one fsync. done is called when the operation is durable, or refused, or the store failed; then it is not known whether it is there, and
 * the same operation may be asked again: a key is used once for ever. While the store is down operations fail at once with its error.
 *
 * A hold sets the worst case aside, granted money before topped-up money; it ends once: post (at most what is held; the rest goes back), void, or
 * timeout. Nothing is ever changed: a refund is an operation of its own. */
#ifndef EX_GATEWAY_LEDGER_H
#define EX_GATEWAY_LEDGER_H

#include "gateway/store.h"

#define EX_LEDGER_QUEUE_MAX 65536 /* operations that wait; more are refused with -EAGAIN */
#define EX_LEDGER_BATCH_MAX 256   /* operations of one commit */
#define EX_LEDGER_NAME_MAX  120 /* bytes of a caller's key; keys of different kinds of operations are different keys */
#define EX_LEDGER_WHY_MAX   200

struct ex_ledger;

/* One operation. The caller's until done is called, and not touched by it meanwhile. */
struct ex_ledger_op {
	/* Asked. Of txn: kind, account, currency, amount; what is only noted: tariff, api_key, tokens, note; of a hold expires_us and owner.
	 * Post, void and timeout take account and currency from the hold. */
	struct ex_txn txn;
	char name[EX_LEDGER_NAME_MAX + 1]; /* the key; of post, void, timeout: the hold's */
	char of[EX_LEDGER_NAME_MAX +
		1]; /* refund: the key of what it gives back, and its kind: credit, grant or post */
	enum ex_txn_kind of_kind;
	void (*done)(struct ex_ledger_op *op); /* [writer] must not block */
	void *ctx;

	/* Answered. rc: 0; -EDQUOT (not enough available), -EEXIST (the key was used for something else), -ENOENT (no such hold, or nothing to
	 * refund under that key), -EALREADY (the hold has ended otherwise), -ERANGE (more than is held, or left to refund), -EINVAL, -EOVERFLOW;
	 * or the store's error. txn: as it is in the store. */
	int rc;
	bool replayed;     /* it was there already */
	bool stored;       /* the store was asked; its error leaves open whether the operation is there */
	int64_t available; /* of the account in this currency, afterwards */
	char why[EX_LEDGER_WHY_MAX];

	struct ex_ledger_op *next; /* the ledger's */
};

struct ex_ledger_opts {
	const char *store; /* as ex_store_open */
	unsigned retry_ms; /* how often a store that is down is tried; 0: 500 */
	/* The store went down, or is back. [writer] NULL: none */
	void (*changed)(void *ctx, bool up, const char *why);
	void *ctx;
};

/* Opens the store; its error is the start's. [main] */
int ex_ledger_open(const struct ex_ledger_opts *o, struct ex_err *err, struct ex_ledger **ret);
/* Does what is queued, then ends. [main] */
struct ex_ledger *ex_ledger_close(struct ex_ledger *l);
EX_DEFINE_CLEANUP(struct ex_ledger, ex_ledger_close)

/* Queues op. -EAGAIN: too many wait; done is not called. [any] */
int ex_ledger_submit(struct ex_ledger *l, struct ex_ledger_op *op);
/* The same, and waits; done and ctx are not used. Returns op->rc. [any but the writer] */
int ex_ledger_do(struct ex_ledger *l, struct ex_ledger_op *op);
/* Runs fn in a write transaction of its own, on the writer's thread, and waits; 0 from fn commits. [any but the writer] */
int ex_ledger_run(struct ex_ledger *l, int (*fn)(void *ctx, struct ex_store *s, struct ex_err *err), void *ctx,
	struct ex_err *err);

struct ex_ledger_stat {
	uint64_t n_ops, n_commits, n_failed; /* failed: by the store */
	bool up;
};
void ex_ledger_stat(struct ex_ledger *l, struct ex_ledger_stat *ret); /* [any] */
uint64_t ex_ledger_turns(const struct ex_ledger *l); /* grows while the writer lives: for the watchdog [any] */

/* --- the chain ------------------------------------------------------------------------------------------------ */

/* SHA-256 over the hash of the transaction before (zeros before the first) and every field of t but hash. [any] */
int ex_ledger_hash(
	const uint8_t before[static EX_LEDGER_HASH], const struct ex_txn *t, uint8_t out[static EX_LEDGER_HASH]);

#define EX_LEDGER_FINDINGS_MAX 32
struct ex_ledger_report {
	int64_t n_txns, n_purses, n_holds;
	size_t n_findings; /* beyond the max: counted only */
	char finding[EX_LEDGER_FINDINGS_MAX][EX_LEDGER_WHY_MAX];
	uint8_t hash[EX_LEDGER_HASH]; /* of the last transaction: the seal of all */
};
/* Reads a store whole, on a handle of its own, and recomputes it: the chain, sums of every transaction, balances at every instant, holds, refunds.
 * An error: it could not be read to the end; findings are in the report, which is the caller's. [any] */
int ex_ledger_verify(struct ex_store *s, struct ex_err *err, struct ex_ledger_report *ret);

#endif
