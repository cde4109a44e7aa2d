/* SPDX-License-Identifier: Apache-2.0 */
/* Everything about money of one process, put together: the ledger, the accounts, the charges, and a thread for what would block others. Layer L4. */
#ifndef EX_GATEWAY_DESK_H
#define EX_GATEWAY_DESK_H

#include "engine/jobs.h"
#include "gateway/accounts.h"
#include "gateway/charges.h"

#define EX_DESK_JOBS_MAX 1024 /* jobs that wait; more are refused */

struct ex_desk_opts {
	const char *store;   /* as ex_store_open */
	const char *owner;   /* name of the node: of its holds */
	const char *journal; /* path of the journal of charges */
	unsigned journal_ms;
};

struct ex_desk;
int ex_desk_open(const struct ex_desk_opts *o, struct ex_err *err, struct ex_desk **ret); /* [main] */
/* Runs what was pushed; more is refused. [main] once nobody pushes any more */
void ex_desk_stop(struct ex_desk *d);
/* Every request was ended. [main] */
struct ex_desk *ex_desk_close(struct ex_desk *d);

/* All live as long as the desk. [any] */
struct ex_ledger *ex_desk_ledger(struct ex_desk *d);
struct ex_accounts *ex_desk_accounts(struct ex_desk *d);
struct ex_charges *ex_desk_charges(struct ex_desk *d);
const char *ex_desk_owner(const struct ex_desk *d);
/* Names of this process's holds begin with it. */
const char *ex_desk_prefix(const struct ex_desk *d);

/* For jobs only: a handle for reading. [desk] */
struct ex_store *ex_desk_reader(struct ex_desk *d);
/* Takes j and runs it on the desk's thread; false, j still the caller's: too many wait. [any] */
bool ex_desk_push(struct ex_desk *d, struct ex_job *j);
/* From time to time: other processes' changes are taken up, holds that nobody ended time out. Does not block. [main] */
void ex_desk_tick(struct ex_desk *d);

#endif
