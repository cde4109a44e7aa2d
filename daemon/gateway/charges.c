/* SPDX-License-Identifier: Apache-2.0 */
/* The journal's thread, and posts that are tried until the store takes them. Layer L4. */
#include "gateway/charges.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/charges_file.h"
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define AGAIN_MAX       2048              /* posts that are tried again at once; the rest follows */
#define FILE_BYTES_MANY ((size_t)4 << 20) /* from then on the journal is written anew when most of it is settled */

enum state {
	RUNNING,
	WAITING, /* to be posted or voided */
	SENT,    /* to the ledger */
	SETTLED, /* the journal may still have to be told */
};

struct ex_charge_ref {
	struct ex_charges *c;
	struct ex_charge said; /* guarded by c->lock, as all below */
	enum state state;
	bool dirty, written;    /* said is newer than the journal; the journal knows it */
	struct ex_ledger_op op; /* [ledger] while it is SENT */
	struct ex_charge_ref *prev, *next;
};

struct ex_charges {
	char path[PATH_MAX], owner[EX_LEDGER_OWNER_MAX + 1];
	struct ex_ledger *ledger;
	uint64_t period_ns;
	int fd, lock_fd;   /* fd [journal] */
	size_t file_bytes; /* [journal] */
	pthread_t thread;
	struct ex_lock lock;
	pthread_cond_t wake, sent;
	struct ex_charge_ref *first; /* guarded by lock, as all below */
	size_t n, n_sent;
	bool stop, rewrite, journal_good;
	uint64_t n_recovered, n_voided;
};

static void link_ref(struct ex_charges *c, struct ex_charge_ref *r)
{
	r->next = c->first;
	if (r->next)
		r->next->prev = r;
	c->first = r;
	c->n++;
}

static void free_ref(struct ex_charges *c, struct ex_charge_ref *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		c->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	c->n--;
	free(r);
}

/* --- towards the ledger ---------------------------------------------------------------------------------------------- */

/* No error of the store, but the ledger's word: it will not change. */
static bool is_final(int rc)
{
	return rc == 0 || rc == -ENOENT || rc == -EALREADY || rc == -ERANGE || rc == -EINVAL || rc == -EEXIST ||
	       rc == -EOVERFLOW;
}

static void on_settled(struct ex_ledger_op *op)
{
	struct ex_charge_ref *r = EX_CONTAINER_OF(op, struct ex_charge_ref, op);
	struct ex_charges *c = r->c;
	const bool is_post = op->txn.kind == EX_TXN_POST;
	if (op->rc < 0 && is_final(op->rc) && (is_post || op->rc != -ENOENT))
		ex_event(EX_EV_CHARGE_REFUSED, EX_FIELDS({"EX_REQUEST", op->name}), "hold %s could not be %s: %s",
			op->name, is_post ? "posted" : "voided", op->why);
	ex_lock_take(&c->lock);
	c->n_sent--;
	r->state = is_final(op->rc) ? SETTLED : WAITING;
	r->said.done = r->state == SETTLED;
	if (r->state == SETTLED && !r->written)
		free_ref(c, r);
	else if (r->state == SETTLED)
		r->dirty = true;
	pthread_cond_signal(&c->sent);
	ex_lock_give(&c->lock);
}

/* To the ledger, without the lock. r may be gone afterwards. */
static void submit(struct ex_charges *c, struct ex_charge_ref *r)
{
	if (ex_ledger_submit(c->ledger, &r->op) == 0)
		return;
	ex_lock_take(&c->lock);
	c->n_sent--;
	r->state = WAITING;
	pthread_cond_signal(&c->sent);
	ex_lock_give(&c->lock);
}

/* The operation of one that is going to be submitted; under the lock. */
static void make_ready(struct ex_charges *c, struct ex_charge_ref *r)
{
	r->state = SENT;
	r->op.done = on_settled;
	r->op.txn.tokens = r->said.tokens;
	r->op.txn.amount = r->op.txn.kind == EX_TXN_POST ? r->said.amount : 0;
	c->n_sent++;
}

/* Once more, what the store did not take. */
static void send_waiting(struct ex_charges *c)
{
	struct ex_charge_ref *batch[AGAIN_MAX];
	struct ex_ledger_stat stat;
	size_t n = 0;
	ex_ledger_stat(c->ledger, &stat);
	if (!stat.up)
		return;
	ex_lock_take(&c->lock);
	for (struct ex_charge_ref *r = c->first; r && n < AGAIN_MAX; r = r->next)
		if (r->state == WAITING) {
			make_ready(c, r);
			batch[n++] = r;
		}
	ex_lock_give(&c->lock);
	for (size_t i = 0; i < n; i++)
		submit(c, batch[i]);
}

/* --- the journal ----------------------------------------------------------------------------------------------------- */

/* What the journal does not know yet; with all, everything that is not settled. What is settled and told is freed by forget_settled. */
static void collect(struct ex_charges *c, bool all, struct ex_str *out)
{
	for (struct ex_charge_ref *r = c->first; r; r = r->next) {
		if (all ? r->state != SETTLED && (r->written || r->dirty) : r->dirty) {
			ex_charges_line(&r->said, out);
			r->written = true;
		}
		r->dirty = false;
	}
}

static void forget_settled(struct ex_charges *c)
{
	for (struct ex_charge_ref *r = c->first, *next; r; r = next) {
		next = r->next;
		if (r->state == SETTLED && !r->dirty)
			free_ref(c, r);
	}
}

static int write_journal(struct ex_charges *c, bool all, const struct ex_str *lines, struct ex_err *err)
{
	int rc = 0;
	if (all) {
		int fd;
		rc = ex_charges_replace(c->path, lines, err, &fd);
		if (rc == 0) {
			ex_closep(&c->fd);
			c->fd = fd;
			c->file_bytes = lines->n;
		}
		return rc;
	}
	if (!lines->n && !lines->oom)
		return 0;
	rc = lines->oom ? -ENOMEM : ex_write_all(c->fd, lines->s, lines->n);
	if (rc == 0 && fdatasync(c->fd) < 0)
		rc = -errno;
	c->file_bytes += lines->n;
	return rc < 0 ? ex_err_errno(err, rc, "cannot write the journal of charges '%s'", c->path) : 0;
}

/* Writes what is new. After an error the whole journal is written anew: the end of the file may be torn. */
static void flush(struct ex_charges *c)
{
	struct ex_str lines = EX_STR_INIT;
	struct ex_err err = EX_ERR_INIT;
	ex_lock_take(&c->lock);
	const bool all = c->rewrite || c->file_bytes > FILE_BYTES_MANY + 2 * 320 * c->n, was_good = c->journal_good;
	collect(c, all, &lines);
	ex_lock_give(&c->lock);
	int rc = write_journal(c, all, &lines, &err);
	ex_str_done(&lines);
	ex_lock_take(&c->lock);
	c->rewrite = rc < 0;
	c->journal_good = rc == 0;
	if (rc == 0)
		forget_settled(c);
	ex_lock_give(&c->lock);
	if (rc < 0 && was_good)
		ex_event(EX_EV_CHARGES_UNWRITTEN, NULL, "%s; no request is taken meanwhile", ex_err_text(&err));
	else if (rc == 0 && !was_good)
		ex_event(EX_EV_CHARGES_WRITTEN, NULL, "the journal of charges '%s' is written again", c->path);
}

static void *run_journal(void *arg)
{
	struct ex_charges *c = arg;
	pthread_setname_np(pthread_self(), "charges");
	for (bool stop = false; !stop;) {
		ex_lock_take(&c->lock);
		if (!c->stop)
			ex_cond_wait_until(&c->wake, &c->lock, ex_now_ns() + c->period_ns);
		stop = c->stop;
		ex_lock_give(&c->lock);
		if (!stop)
			send_waiting(c);
		flush(c);
	}
	return NULL;
}

/* --- requests -------------------------------------------------------------------------------------------------------- */

static struct ex_charge_ref *new_ref(struct ex_charges *c, const char *name, enum ex_txn_kind kind)
{
	struct ex_charge_ref *r = ex_calloc(1, sizeof *r);
	if (!r)
		return NULL;
	r->c = c;
	r->op.txn.kind = kind;
	snprintf(r->op.name, sizeof r->op.name, "%s", name);
	snprintf(r->said.name, sizeof r->said.name, "%s", name);
	return r;
}

struct ex_charge_ref *ex_charges_begin(struct ex_charges *c, const char *name)
{
	struct ex_charge_ref *r = new_ref(c, name, EX_TXN_POST);
	if (!r)
		return NULL;
	ex_lock_take(&c->lock);
	const bool room = c->n < EX_CHARGES_MAX && c->journal_good;
	if (room)
		link_ref(c, r);
	ex_lock_give(&c->lock);
	if (!room) {
		free(r);
		return NULL;
	}
	return r;
}

void ex_charges_progress(
	struct ex_charges *c, struct ex_charge_ref *r, const struct ex_txn_tokens *tokens, int64_t amount)
{
	ex_lock_take(&c->lock);
	assert(r->state == RUNNING);
	r->said.tokens = *tokens;
	r->said.amount = amount;
	r->dirty = true;
	ex_lock_give(&c->lock);
}

void ex_charges_finish(
	struct ex_charges *c, struct ex_charge_ref *r, const struct ex_txn_tokens *tokens, int64_t amount)
{
	ex_lock_take(&c->lock);
	assert(r->state == RUNNING);
	r->said.tokens = *tokens;
	r->said.amount = amount;
	r->dirty = true;
	make_ready(c, r);
	ex_lock_give(&c->lock);
	submit(c, r);
}

void ex_charges_void(struct ex_charges *c, struct ex_charge_ref *r)
{
	ex_lock_take(&c->lock);
	assert(r->state == RUNNING && !r->written);
	r->op.txn.kind = EX_TXN_VOID;
	make_ready(c, r);
	ex_lock_give(&c->lock);
	submit(c, r);
}

void ex_charges_forget(struct ex_charges *c, struct ex_charge_ref *r)
{
	ex_lock_take(&c->lock);
	assert(r->state == RUNNING && !r->written);
	free_ref(c, r);
	ex_lock_give(&c->lock);
}

void ex_charges_stat(struct ex_charges *c, struct ex_charges_stat *ret)
{
	ex_lock_take(&c->lock);
	*ret = (struct ex_charges_stat){
		.journal_good = c->journal_good, .n_recovered = c->n_recovered, .n_voided = c->n_voided};
	for (const struct ex_charge_ref *r = c->first; r; r = r->next) {
		ret->n_running += r->state == RUNNING;
		ret->n_waiting += r->state == WAITING || r->state == SENT;
	}
	ex_lock_give(&c->lock);
}

/* --- after a crash --------------------------------------------------------------------------------------------------- */

struct recovery {
	struct ex_charges *c;
	const struct ex_charge *said; /* [n] ascending by name */
	size_t n;
};

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct ex_charge *)a)->name, ((const struct ex_charge *)b)->name);
}

/* A pending hold: posted with the journal's last word, if it has one; voided if it is this node's. The node may have had another name. */
static int recover(void *ctx, const struct ex_hold *h)
{
	struct recovery *v = ctx;
	struct ex_charge want = {.amount = 0};
	snprintf(want.name, sizeof want.name, "%.*s", EX_LEDGER_NAME_MAX, h->key + 2); /* "h:NAME" */
	const struct ex_charge *said = bsearch(&want, v->said, v->n, sizeof *v->said, compare_names);
	if (!said && strcmp(h->owner, v->c->owner) != 0)
		return 0;
	struct ex_charge_ref *r = new_ref(v->c, want.name, said ? EX_TXN_POST : EX_TXN_VOID);
	if (!r)
		return -ENOMEM;
	if (said)
		r->said = *said;
	r->dirty = said != NULL;
	r->state = WAITING;
	v->c->n_recovered += said != NULL;
	v->c->n_voided += said == NULL;
	link_ref(v->c, r);
	return 0;
}

static int recover_all(struct ex_charges *c, struct ex_store *reader, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) struct ex_charge *said = NULL;
	struct ex_store_head head;
	size_t n = 0, rest = 0;
	int rc = ex_charges_read(c->path, err, &said, &n, &rest);
	if (rc < 0)
		return rc;
	if (rest)
		ex_log(LOG_NOTICE, "the journal of charges '%s' ends in %zu bytes that a crash cut short", c->path,
			rest);
	struct recovery v = {.c = c, .said = said, .n = n};
	rc = reader->ops->begin(reader, false, err, &head);
	if (rc < 0)
		return rc;
	rc = reader->ops->each_hold(reader, 0, NULL, recover, &v, err);
	reader->ops->rollback(reader);
	if (rc == -ENOMEM)
		return ex_err_errno(err, rc, "cannot recover the charges");
	if (rc == 0 && c->n)
		ex_event(EX_EV_CHARGES_RECOVERED, NULL,
			"%llu requests that an earlier process left are charged by its journal, %llu not at all",
			(unsigned long long)c->n_recovered, (unsigned long long)c->n_voided);
	return rc;
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

static int take_lock(struct ex_charges *c, struct ex_err *err)
{
	char path[PATH_MAX + 8];
	snprintf(path, sizeof path, "%s.lock", c->path);
	c->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (c->lock_fd < 0)
		return ex_err_errno(err, -errno, "cannot open '%s'", path);
	if (flock(c->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return ex_err_set(err, -EBUSY, "another process uses the journal of charges '%s'", c->path);
	return 0;
}

static int start(struct ex_charges *c, struct ex_err *err)
{
	struct ex_str lines = EX_STR_INIT;
	sigset_t all, before;
	collect(c, true, &lines);
	int rc = write_journal(c, true, &lines, err);
	ex_str_done(&lines);
	if (rc < 0)
		return rc;
	c->journal_good = true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&c->thread, NULL, run_journal, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc < 0 ? ex_err_errno(err, rc, "cannot start the journal of charges") : 0;
}

static void free_charges(struct ex_charges *c)
{
	while (c->first)
		free_ref(c, c->first);
	ex_closep(&c->fd);
	ex_closep(&c->lock_fd);
	pthread_cond_destroy(&c->wake);
	pthread_cond_destroy(&c->sent);
	ex_lock_done(&c->lock);
	free(c);
}

int ex_charges_open(
	const struct ex_charges_opts *o, struct ex_store *reader, struct ex_err *err, struct ex_charges **ret)
{
	struct ex_charges *c = ex_calloc(1, sizeof *c);
	if (!c)
		return ex_err_errno(err, -ENOMEM, "cannot keep charges");
	c->fd = c->lock_fd = -1;
	c->ledger = o->ledger;
	c->period_ns = o->journal_ms * EX_NS_PER_MS;
	ex_lock_init(&c->lock, "charges");
	ex_cond_init(&c->wake);
	ex_cond_init(&c->sent);
	snprintf(c->owner, sizeof c->owner, "%s", o->owner);
	int rc = 0;
	if (snprintf(c->path, sizeof c->path, "%s", o->path) >= (int)sizeof c->path)
		rc = ex_err_errno(err, -ENAMETOOLONG, "cannot keep charges in '%s'", o->path);
	if (rc == 0)
		rc = take_lock(c, err);
	if (rc == 0)
		rc = recover_all(c, reader, err);
	if (rc == 0)
		rc = start(c, err);
	if (rc < 0) {
		free_charges(c);
		return rc;
	}
	*ret = c;
	return 0;
}

struct ex_charges *ex_charges_close(struct ex_charges *c)
{
	if (!c)
		return NULL;
	ex_lock_take(&c->lock);
	while (c->n_sent)
		ex_cond_wait(&c->sent, &c->lock);
	c->stop = true;
	pthread_cond_signal(&c->wake);
	ex_lock_give(&c->lock);
	pthread_join(c->thread, NULL);
	free_charges(c);
	return NULL;
}
