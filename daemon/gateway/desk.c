/* SPDX-License-Identifier: Apache-2.0 */
/* The desk's thread and what it does by itself. Layer L4. */
#include "gateway/desk.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define REFRESH_NS    EX_NS_PER_S
#define SWEEP_NS      (10 * EX_NS_PER_S)
#define SWEEP_AT_ONCE 256 /* holds that time out in one sweep; the rest in the next */

struct ex_desk {
	char owner[EX_LEDGER_OWNER_MAX + 1], prefix[EX_LEDGER_OWNER_MAX + 24];
	struct ex_ledger *ledger;
	struct ex_store *reader; /* [desk] once it runs */
	struct ex_accounts *accounts;
	struct ex_charges *charges;
	struct ex_jobs *jobs;
	struct ex_job upkeep;
	_Atomic bool upkeep_waits;
	uint64_t refresh_ns, sweep_ns; /* [main]; [desk]: the last ones */
	bool reading_failed;           /* [desk] and told */
};

static void on_store_changed(void *ctx, bool up, const char *why)
{
	(void)ctx;
	if (up)
		ex_event(EX_EV_LEDGER_BACK, NULL, "the ledger takes operations again");
	else
		ex_event(EX_EV_LEDGER_DOWN, NULL, "the ledger is down: %s; requests are refused, charges wait", why);
}

/* --- upkeep [desk] --------------------------------------------------------------------------------------------------- */

struct sweep {
	const struct ex_desk *d;
	struct ex_hold hold[SWEEP_AT_ONCE];
	size_t n;
};

static int keep_expired(void *ctx, const struct ex_hold *h)
{
	struct sweep *w = ctx;
	const bool ours =
		strncmp(h->key + 2, w->d->prefix, strlen(w->d->prefix)) == 0; /* "h:NAME"; its request still runs */
	if (!ours)
		w->hold[w->n++] = *h;
	return w->n == SWEEP_AT_ONCE;
}

/* Of processes that are gone for good. */
static int sweep(struct ex_desk *d, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) struct sweep *w = ex_calloc(1, sizeof *w);
	struct ex_store_head head;
	if (!w)
		return ex_err_errno(err, -ENOMEM, "cannot look for holds that expired");
	w->d = d;
	int rc = d->reader->ops->begin(d->reader, false, err, &head);
	if (rc < 0)
		return rc;
	rc = d->reader->ops->each_hold(d->reader, (int64_t)ex_realtime_us(), NULL, keep_expired, w, err);
	d->reader->ops->rollback(d->reader);
	for (size_t i = 0; i < w->n && rc >= 0; i++) {
		struct ex_ledger_op op = {.txn.kind = EX_TXN_TIMEOUT};
		snprintf(op.name, sizeof op.name, "%.*s", EX_LEDGER_NAME_MAX, w->hold[i].key + 2);
		rc = ex_ledger_do(d->ledger, &op);
		if (rc == -EALREADY)
			rc = 0;
		else if (rc < 0)
			ex_err_set(err, rc, "hold %s cannot time out: %s", op.name, op.why);
		else
			ex_event(EX_EV_HOLD_TIMED_OUT,
				EX_FIELDS({"EX_HOST", w->hold[i].owner}, {"EX_REQUEST", op.name}),
				"hold %s of node '%s' was given back: nobody ended it in time", op.name,
				w->hold[i].owner);
	}
	return rc < 0 ? rc : 0;
}

static void do_upkeep(struct ex_job *j)
{
	struct ex_desk *d = EX_CONTAINER_OF(j, struct ex_desk, upkeep);
	struct ex_err err = EX_ERR_INIT;
	int rc = ex_accounts_refresh(d->accounts, &err);
	if (rc == 0 && ex_now_ns() - d->sweep_ns >= SWEEP_NS) {
		d->sweep_ns = ex_now_ns();
		rc = sweep(d, &err);
	}
	if (rc < 0 && !d->reading_failed)
		ex_log(LOG_WARNING, "accounts and holds cannot be looked through: %s; what is known of them stands",
			ex_err_text(&err));
	d->reading_failed = rc < 0;
	atomic_store_explicit(&d->upkeep_waits, false, memory_order_release);
}

static void set_gauges(struct ex_desk *d)
{
	struct ex_ledger_stat ledger;
	struct ex_charges_stat charges;
	ex_ledger_stat(d->ledger, &ledger);
	ex_charges_stat(d->charges, &charges);
	ex_metric_set(ex_metric(EX_M_LEDGER_UP, NULL), ledger.up);
	ex_metric_set(ex_metric(EX_M_CHARGES_WAITING, NULL), (double)charges.n_waiting);
}

void ex_desk_tick(struct ex_desk *d)
{
	uint64_t now = ex_now_ns();
	if (!d->jobs || now - d->refresh_ns < REFRESH_NS ||
		atomic_load_explicit(&d->upkeep_waits, memory_order_acquire))
		return;
	d->refresh_ns = now;
	set_gauges(d);
	atomic_store_explicit(&d->upkeep_waits, true, memory_order_relaxed);
	d->upkeep = (struct ex_job){.run = do_upkeep};
	if (!ex_jobs_push(d->jobs, &d->upkeep))
		atomic_store_explicit(&d->upkeep_waits, false, memory_order_relaxed);
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

int ex_desk_open(const struct ex_desk_opts *o, struct ex_err *err, struct ex_desk **ret)
{
	struct ex_desk *d = ex_calloc(1, sizeof *d);
	if (!d)
		return ex_err_errno(err, -ENOMEM, "cannot open the ledger");
	snprintf(d->owner, sizeof d->owner, "%s", o->owner);
	snprintf(d->prefix, sizeof d->prefix, "%s-%" PRIx64 "-", d->owner, ex_realtime_us());
	const struct ex_ledger_opts ledger = {.store = o->store, .changed = on_store_changed, .ctx = d};
	int rc = ex_ledger_open(&ledger, err, &d->ledger);
	if (rc == 0)
		rc = ex_store_open(o->store, err, &d->reader);
	if (rc == 0)
		rc = ex_accounts_new(d->ledger, d->reader, err, &d->accounts);
	if (rc == 0) {
		const struct ex_charges_opts c = {
			.path = o->journal, .owner = d->owner, .ledger = d->ledger, .journal_ms = o->journal_ms};
		rc = ex_charges_open(&c, d->reader, err, &d->charges);
	}
	if (rc == 0) {
		rc = ex_jobs_new("desk", EX_DESK_JOBS_MAX, &d->jobs);
		if (rc < 0)
			ex_err_errno(err, rc, "cannot start the desk");
	}
	if (rc < 0) {
		ex_desk_close(d);
		return rc;
	}
	*ret = d;
	return 0;
}

void ex_desk_stop(struct ex_desk *d)
{
	if (d->jobs)
		d->jobs = ex_jobs_free(d->jobs);
}

struct ex_desk *ex_desk_close(struct ex_desk *d)
{
	if (!d)
		return NULL;
	ex_desk_stop(d);
	ex_charges_close(d->charges);
	ex_accounts_free(d->accounts);
	ex_store_close(d->reader);
	ex_ledger_close(d->ledger);
	free(d);
	return NULL;
}

struct ex_ledger *ex_desk_ledger(struct ex_desk *d)
{
	return d->ledger;
}

struct ex_accounts *ex_desk_accounts(struct ex_desk *d)
{
	return d->accounts;
}

struct ex_charges *ex_desk_charges(struct ex_desk *d)
{
	return d->charges;
}

const char *ex_desk_owner(const struct ex_desk *d)
{
	return d->owner;
}

const char *ex_desk_prefix(const struct ex_desk *d)
{
	return d->prefix;
}

struct ex_store *ex_desk_reader(struct ex_desk *d)
{
	return d->reader;
}

bool ex_desk_push(struct ex_desk *d, struct ex_job *j)
{
	return d->jobs && ex_jobs_push(d->jobs, j);
}
