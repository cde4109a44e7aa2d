/* SPDX-License-Identifier: Apache-2.0 */
/* Charges on their way: from a request's hold to its post, through crashes and while the store is down. Layer L4.
 *
 * What running requests have used is written to a journal file and synced, at most journal_ms after it was said; what ended is posted at once, and
 * kept and tried again while the store is down. After a crash the holds of this node that are still pending are posted with the journal's last word,
 * or voided when it has none: a request is charged once, and at most the last journal_ms before a crash are not. */
#ifndef EX_GATEWAY_CHARGES_H
#define EX_GATEWAY_CHARGES_H

#include "gateway/ledger.h"

#define EX_CHARGES_MAX 65536 /* requests whose charges are not settled: no more are begun */

struct ex_charges;
struct ex_charge_ref; /* one request; ended exactly once */

struct ex_charges_opts {
	const char *path;         /* of the journal */
	const char *owner;        /* of the holds */
	struct ex_ledger *ledger; /* borrowed; outlives it */
	unsigned journal_ms;
};

/* Reads the journal, and settles the holds that an earlier process left: reader is used meanwhile. -EBUSY: another process has the journal. [main] */
int ex_charges_open(
	const struct ex_charges_opts *o, struct ex_store *reader, struct ex_err *err, struct ex_charges **ret);
/* Every request was ended. What the store did not take is in the journal. [main] */
struct ex_charges *ex_charges_close(struct ex_charges *c);

/* Before the hold of that name is taken. NULL: too many are on their way, or the journal cannot be written. [any] */
struct ex_charge_ref *ex_charges_begin(struct ex_charges *c, const char *name);
/* What it used so far. Does not block. [any] */
void ex_charges_progress(
	struct ex_charges *c, struct ex_charge_ref *r, const struct ex_txn_tokens *tokens, int64_t amount);
/* Ends r: posts. Does not block. [any] */
void ex_charges_finish(
	struct ex_charges *c, struct ex_charge_ref *r, const struct ex_txn_tokens *tokens, int64_t amount);
/* Ends r: its hold, if it came to one, is voided. [any] */
void ex_charges_void(struct ex_charges *c, struct ex_charge_ref *r);
/* Ends r: there is no hold. [any] */
void ex_charges_forget(struct ex_charges *c, struct ex_charge_ref *r);

struct ex_charges_stat {
	size_t n_running, n_waiting; /* waiting: to be posted */
	bool journal_good;
	uint64_t n_recovered, n_voided; /* when it was opened */
};
void ex_charges_stat(struct ex_charges *c, struct ex_charges_stat *ret); /* [any] */

#endif
