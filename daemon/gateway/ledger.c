/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger's queue and its one writer. Layer L4. */
#include "gateway/ledger.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "gateway/ledger_set.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define LEDGER_MAGIC 0x4c454447
#define RETRY_MS     500
#define IDLE_NS      (EX_NS_PER_S / 2) /* an idle writer turns that often */
#define KEYS_AT_MOST (2 * EX_LEDGER_BATCH_MAX)

/* What ex_ledger_run asks for. */
struct job {
	int (*fn)(void *ctx, struct ex_store *s, struct ex_err *err);
	void *ctx;
	struct ex_err err;
	int rc;
	bool done; /* guarded by the ledger's lock */
	struct job *next;
};

struct ex_ledger {
	uint32_t magic;
	struct ex_store *store; /* [writer] once it runs */
	void (*changed)(void *ctx, bool up, const char *why);
	void *changed_ctx;
	uint64_t retry_ns;
	pthread_t writer;
	struct ex_set set;                             /* [writer] */
	struct ex_purse *dirty;                        /* [writer] */
	size_t cap_dirty;                              /* [writer] */
	struct ex_err down;                            /* [writer] why; code 0: it is up */
	uint64_t failed_ns;                            /* [writer] when it was last tried in vain */
	char key[KEYS_AT_MOST][EX_LEDGER_KEY_MAX + 1]; /* [writer] of one batch */
	_Atomic uint64_t n_turns;

	struct ex_lock lock;
	pthread_cond_t work, finished;
	bool stop;                         /* guarded by lock, as all below */
	struct ex_ledger_op *first, *last; /* the queue */
	size_t n_queued;
	struct job *jobs, *jobs_last;
	struct ex_ledger_stat stat;
};

/* --- one batch [writer] --------------------------------------------------------------------------------------------- */

static int on_txn(void *ctx, const struct ex_txn *t)
{
	return ex_set_put_txn(ctx, t);
}

static int on_purse(void *ctx, const struct ex_purse *p)
{
	return ex_set_put_purse(ctx, p);
}

/* Loads the transactions that the batch's keys name. */
static int load_txns(struct ex_ledger *l, const struct ex_ledger_op *batch, struct ex_err *err)
{
	const char *keys[KEYS_AT_MOST];
	size_t n = 0;
	for (const struct ex_ledger_op *op = batch; op; op = op->next) {
		ex_ledger_keys(op, l->key[n], l->key[n + 1]);
		keys[n] = l->key[n];
		keys[n + 1] = l->key[n + 1];
		n += l->key[n + 1][0] ? 2 : 1;
	}
	return l->store->ops->find_txns(l->store, keys, n, on_txn, &l->set, err);
}

static void add_distinct(int64_t *v, size_t *n, int64_t one)
{
	for (size_t i = 0; i < *n; i++)
		if (v[i] == one)
			return;
	v[(*n)++] = one;
}

/* Loads what was refunded of what shall be refunded, and the purses of everybody concerned. */
static int load_rest(struct ex_ledger *l, const struct ex_ledger_op *batch, struct ex_err *err)
{
	int64_t account[2 * EX_LEDGER_BATCH_MAX + 1] = {EX_ACCOUNT_HOUSE}, ref[EX_LEDGER_BATCH_MAX];
	size_t n_accounts = 1, n_refs = 0;
	char own[EX_LEDGER_KEY_MAX + 1], other[EX_LEDGER_KEY_MAX + 1];
	for (const struct ex_ledger_op *op = batch; op; op = op->next) {
		ex_ledger_keys(op, own, other);
		const struct ex_txn *t = *other ? ex_set_txn(&l->set, other) : NULL;
		if (op->txn.account > EX_ACCOUNT_HOUSE)
			add_distinct(account, &n_accounts, op->txn.account);
		if (t)
			add_distinct(account, &n_accounts, t->account);
		if (t && op->txn.kind == EX_TXN_REFUND)
			add_distinct(ref, &n_refs, t->seq);
	}
	int rc = n_refs ? l->store->ops->find_refunds(l->store, ref, n_refs, on_txn, &l->set, err) : 0;
	if (rc == 0)
		rc = l->store->ops->find_purses(l->store, account, n_accounts, on_purse, &l->set, err);
	l->set.n_loaded = l->set.n_txns;
	return rc;
}

static int save(struct ex_ledger *l, struct ex_err *err)
{
	size_t n = 0;
	if (ex_grow(&l->dirty, &l->cap_dirty, l->set.n_purses + 1, sizeof *l->dirty) < 0)
		return ex_err_errno(err, -ENOMEM, "cannot write a batch");
	for (size_t i = 0; i < l->set.n_purses; i++)
		if (l->set.purse[i].dirty)
			l->dirty[n++] = l->set.purse[i].p;
	return l->store->ops->save(l->store, &l->set.head, l->set.txn + l->set.n_loaded,
		l->set.n_txns - l->set.n_loaded, l->dirty, n, err);
}

/* All of it in one transaction. An error is the store's: nothing is there, unless commit failed. */
static int run_batch(struct ex_ledger *l, struct ex_ledger_op *batch, struct ex_err *err)
{
	struct ex_store_head head;
	int rc = l->store->ops->begin(l->store, true, err, &head);
	if (rc < 0)
		return rc;
	ex_set_reset(&l->set, &head);
	rc = load_txns(l, batch, err);
	if (rc == 0)
		rc = load_rest(l, batch, err);
	const int64_t now_us = (int64_t)ex_realtime_us();
	for (struct ex_ledger_op *op = batch; op && rc == 0; op = op->next) {
		rc = ex_ledger_apply(&l->set, op, now_us);
		if (rc < 0)
			ex_err_errno(err, rc, "cannot work out a batch");
	}
	/* After a commit that failed what it wrote may be seen without being on the disk: something is committed before a replay is told. Without a
	 * batch it is a look whether the store can be written to. */
	const bool anything = l->set.n_txns > l->set.n_loaded || l->down.code;
	if (rc == 0 && anything)
		rc = save(l, err);
	if (rc == 0 && anything)
		rc = l->store->ops->commit(l->store, err);
	if (rc < 0 || !anything)
		l->store->ops->rollback(l->store);
	return rc;
}

/* Notes how the store did; tells when that is news. */
static void note(struct ex_ledger *l, int rc, const struct ex_err *err)
{
	const bool was_up = !l->down.code;
	if (rc < 0) {
		l->down = *err;
		l->down.code = rc;
		l->failed_ns = ex_now_ns();
	} else
		l->down.code = 0;
	ex_lock_take(&l->lock);
	l->stat.up = rc == 0;
	ex_lock_give(&l->lock);
	if (was_up != (rc == 0) && l->changed)
		l->changed(l->changed_ctx, rc == 0, rc < 0 ? ex_err_text(&l->down) : NULL);
}

/* A store that is down is not asked for every operation anew. */
static bool is_paused(const struct ex_ledger *l)
{
	return l->down.code && ex_now_ns() - l->failed_ns < l->retry_ns;
}

static void finish_batch(struct ex_ledger *l, struct ex_ledger_op *batch, int rc, bool asked)
{
	size_t n = 0;
	for (struct ex_ledger_op *op = batch, *next; op; op = next, n++) {
		next = op->next;
		if (rc < 0) {
			op->rc = rc;
			op->stored = asked;
			snprintf(op->why, sizeof op->why, "%.*s", EX_LEDGER_WHY_MAX - 1, l->down.text);
		}
	}
	ex_lock_take(&l->lock);
	l->stat.n_ops += n;
	l->stat.n_commits += rc == 0;
	l->stat.n_failed += rc < 0 ? n : 0;
	ex_lock_give(&l->lock);
	for (struct ex_ledger_op *op = batch, *next; op; op = next) {
		next = op->next;
		op->done(op); /* op may be gone after it */
	}
}

/* batch NULL: only looks whether the store is back. */
static void do_batch(struct ex_ledger *l, struct ex_ledger_op *batch)
{
	struct ex_err err = EX_ERR_INIT;
	const bool asked = !is_paused(l);
	int rc = l->down.code;
	if (asked) {
		rc = run_batch(l, batch, &err);
		note(l, rc, &err);
	}
	finish_batch(l, batch, rc, asked);
}

static int run_job(struct ex_ledger *l, struct job *j)
{
	struct ex_store_head head;
	int rc = l->store->ops->begin(l->store, true, &j->err, &head);
	note(l, rc, &j->err);
	if (rc < 0)
		return rc;
	rc = j->fn(j->ctx, l->store, &j->err);
	if (rc == 0) {
		rc = l->store->ops->commit(l->store, &j->err);
		note(l, rc, &j->err);
	}
	if (rc < 0)
		l->store->ops->rollback(l->store);
	return rc;
}

static void do_job(struct ex_ledger *l, struct job *j)
{
	int rc = is_paused(l) ? ex_err_set(&j->err, l->down.code, "%s", l->down.text) : run_job(l, j);
	ex_lock_take(&l->lock);
	j->rc = rc;
	j->done = true;
	pthread_cond_broadcast(&l->finished);
	ex_lock_give(&l->lock);
}

/* --- the writer ----------------------------------------------------------------------------------------------------- */

/* Takes up to a batch from the queue; the caller holds the lock. */
static struct ex_ledger_op *take_batch(struct ex_ledger *l)
{
	struct ex_ledger_op *first = l->first, *last = first;
	size_t n = first ? 1 : 0;
	for (; last && last->next && n < EX_LEDGER_BATCH_MAX; n++)
		last = last->next;
	if (!last)
		return NULL;
	l->first = last->next;
	if (!l->first)
		l->last = NULL;
	last->next = NULL;
	l->n_queued -= n;
	return first;
}

static struct job *take_job(struct ex_ledger *l)
{
	struct job *j = l->jobs;
	if (j && !(l->jobs = j->next))
		l->jobs_last = NULL;
	return j;
}

static void *run_writer(void *arg)
{
	struct ex_ledger *l = arg;
	pthread_setname_np(pthread_self(), "ledger");
	ex_lock_take(&l->lock);
	for (;;) {
		atomic_fetch_add_explicit(&l->n_turns, 1, memory_order_relaxed);
		struct job *j = take_job(l);
		struct ex_ledger_op *batch = j ? NULL : take_batch(l);
		if (!j && !batch && l->stop)
			break;
		ex_lock_give(&l->lock);
		if (j)
			do_job(l, j);
		else if (batch || (l->down.code && !is_paused(l)))
			do_batch(l, batch);
		ex_lock_take(&l->lock);
		if (!l->first && !l->jobs && !l->stop)
			ex_cond_wait_until(&l->work, &l->lock, ex_now_ns() + EX_MIN(IDLE_NS, l->retry_ns));
	}
	ex_lock_give(&l->lock);
	return NULL;
}

int ex_ledger_submit(struct ex_ledger *l, struct ex_ledger_op *op)
{
	EX_CHECK_OBJ(l, LEDGER_MAGIC);
	op->next = NULL;
	op->rc = 0;
	op->replayed = op->stored = false;
	op->why[0] = '\0';
	ex_lock_take(&l->lock);
	const bool full = l->n_queued >= EX_LEDGER_QUEUE_MAX;
	if (!full) {
		if (l->last)
			l->last->next = op;
		else
			l->first = op;
		l->last = op;
		l->n_queued++;
		pthread_cond_signal(&l->work);
	}
	ex_lock_give(&l->lock);
	return full ? -EAGAIN : 0;
}

struct waiter {
	struct ex_ledger *l;
	bool done; /* guarded by l->lock */
};

static void wake(struct ex_ledger_op *op)
{
	struct waiter *w = op->ctx;
	struct ex_ledger *l = w->l;
	ex_lock_take(&l->lock);
	w->done = true;
	pthread_cond_broadcast(&l->finished);
	ex_lock_give(&l->lock);
}

int ex_ledger_do(struct ex_ledger *l, struct ex_ledger_op *op)
{
	struct waiter w = {.l = l};
	op->done = wake;
	op->ctx = &w;
	int rc = ex_ledger_submit(l, op);
	if (rc < 0) {
		snprintf(op->why, sizeof op->why, "too many operations wait for the ledger");
		return op->rc = rc;
	}
	ex_lock_take(&l->lock);
	while (!w.done)
		ex_cond_wait(&l->finished, &l->lock);
	ex_lock_give(&l->lock);
	return op->rc;
}

int ex_ledger_run(struct ex_ledger *l, int (*fn)(void *ctx, struct ex_store *s, struct ex_err *err), void *ctx,
	struct ex_err *err)
{
	struct job j = {.fn = fn, .ctx = ctx};
	EX_CHECK_OBJ(l, LEDGER_MAGIC);
	ex_lock_take(&l->lock);
	if (l->jobs_last)
		l->jobs_last->next = &j;
	else
		l->jobs = &j;
	l->jobs_last = &j;
	pthread_cond_signal(&l->work);
	while (!j.done)
		ex_cond_wait(&l->finished, &l->lock);
	ex_lock_give(&l->lock);
	return j.rc < 0 ? ex_err_set(err, j.rc, "%s", ex_err_text(&j.err)) : j.rc;
}

/* --- life ------------------------------------------------------------------------------------------------------------- */

static int start_writer(struct ex_ledger *l)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = -pthread_create(&l->writer, NULL, run_writer, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

static void free_ledger(struct ex_ledger *l)
{
	ex_store_close(l->store);
	ex_set_done(&l->set);
	free(l->dirty);
	pthread_cond_destroy(&l->work);
	pthread_cond_destroy(&l->finished);
	ex_lock_done(&l->lock);
	l->magic = 0;
	free(l);
}

int ex_ledger_open(const struct ex_ledger_opts *o, struct ex_err *err, struct ex_ledger **ret)
{
	struct ex_ledger *l = ex_calloc(1, sizeof *l);
	if (!l)
		return ex_err_errno(err, -ENOMEM, "cannot open the ledger");
	l->magic = LEDGER_MAGIC;
	l->changed = o->changed;
	l->changed_ctx = o->ctx;
	l->retry_ns = (o->retry_ms ? o->retry_ms : RETRY_MS) * EX_NS_PER_MS;
	l->stat.up = true;
	ex_lock_init(&l->lock, "ledger");
	ex_cond_init(&l->work);
	ex_cond_init(&l->finished);
	int rc = ex_store_open(o->store, err, &l->store);
	if (rc == 0) {
		rc = start_writer(l);
		if (rc < 0)
			ex_err_errno(err, rc, "cannot start the ledger's writer");
	}
	if (rc < 0) {
		free_ledger(l);
		return rc;
	}
	*ret = l;
	return 0;
}

struct ex_ledger *ex_ledger_close(struct ex_ledger *l)
{
	if (!l)
		return NULL;
	EX_CHECK_OBJ(l, LEDGER_MAGIC);
	ex_lock_take(&l->lock);
	l->stop = true;
	pthread_cond_signal(&l->work);
	ex_lock_give(&l->lock);
	pthread_join(l->writer, NULL);
	free_ledger(l);
	return NULL;
}

void ex_ledger_stat(struct ex_ledger *l, struct ex_ledger_stat *ret)
{
	ex_lock_take(&l->lock);
	*ret = l->stat;
	ex_lock_give(&l->lock);
}

uint64_t ex_ledger_turns(const struct ex_ledger *l)
{
	return atomic_load_explicit(&l->n_turns, memory_order_relaxed);
}
