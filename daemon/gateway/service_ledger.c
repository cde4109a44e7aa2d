/* SPDX-License-Identifier: Apache-2.0 */
/* The Accounts service: the methods about money. Layer L4. */
#include "gateway/service_int.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include <string.h>
#include <time.h>

#define TRANSACTIONS_DEFAULT 100
#define TRANSACTIONS_MAX     1000
#define CURRENCY_DEFAULT     "USD"
#define DAY_S                86400

typedef Expertd__V1__Transaction transaction;

static int find_account(struct ex_accounts_service *s, const char *name, struct ex_account *ret, struct ex_err *err)
{
	if (ex_accounts_find(ex_desk_accounts(s->desk), name, ret))
		return 0;
	return ex_err_set(err, -ENOENT, "there is no account '%.80s'", name);
}

static transaction *transaction_reply(struct ex_accounts_service *s, struct ex_keep *k, const struct ex_txn *t)
{
	transaction *m = ex_keep_alloc(k, 1, sizeof *m);
	struct ex_account a;
	char hex[2 * EX_LEDGER_HASH + 1];
	if (!m)
		return NULL;
	expertd__v1__transaction__init(m);
	m->seq = t->seq;
	m->time_us = t->time_us;
	m->kind = ex_keep_text(k, ex_txn_kind_name(t->kind));
	m->key = ex_keep_text(k, t->key + 2); /* without its kind */
	if (ex_accounts_at(ex_desk_accounts(s->desk), t->account, &a))
		m->account = ex_keep_text(k, a.name);
	m->amount = ex_keep_money(k, t->amount);
	m->currency = ex_keep_text(k, t->currency);
	m->ref = t->ref;
	m->note = ex_keep_text(k, t->note);
	m->prompt_hit = t->tokens.prompt_hit;
	m->prompt_miss = t->tokens.prompt_miss;
	m->completion = t->tokens.completion;
	m->reasoning = t->tokens.reasoning;
	ex_hex(t->hash, sizeof t->hash, hex);
	m->hash = ex_keep_text(k, hex);
	return m;
}

/* --- credit ---------------------------------------------------------------------------------------------------------- */

static int make_credit(
	const Expertd__V1__CreditRequest *q, const struct ex_account *a, struct ex_ledger_op *op, struct ex_err *err)
{
	const char *currency = *q->currency ? q->currency : CURRENCY_DEFAULT;
	*op = (struct ex_ledger_op){.txn = {.kind = q->grant ? EX_TXN_GRANT : EX_TXN_CREDIT, .account = a->id}};
	if (ex_money_parse(q->amount, &op->txn.amount) < 0)
		return ex_err_set(err, -EINVAL, "'%.40s' is no amount: a number with at most 9 decimals", q->amount);
	if (strlen(currency) >= sizeof op->txn.currency)
		return ex_err_set(err, -EINVAL, "'%.40s' is no currency: three capital letters", currency);
	if (strlen(q->idempotency_key) > EX_LEDGER_NAME_MAX)
		return ex_err_set(err, -EINVAL, "an idempotency key has at most %d bytes", EX_LEDGER_NAME_MAX);
	if (strlen(q->note) > EX_LEDGER_NOTE_MAX)
		return ex_err_set(err, -EINVAL, "a note has at most %d bytes", EX_LEDGER_NOTE_MAX);
	strcpy(op->txn.currency, currency);
	strcpy(op->name, q->idempotency_key);
	strcpy(op->txn.note, q->note);
	return 0;
}

struct ex_out *ex_accounts_do_credit(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__CreditRequest *q = (const Expertd__V1__CreditRequest *)request;
	struct ex_account a;
	struct ex_ledger_op op;
	char amount[EX_MONEY_TEXT_MAX];
	if (find_account(s, q->account, &a, err) < 0 || make_credit(q, &a, &op, err) < 0)
		return NULL;
	if (ex_ledger_do(ex_desk_ledger(s->desk), &op) < 0) {
		ex_err_set(err, op.rc, "%s", op.why);
		return NULL;
	}
	if (!op.replayed)
		ex_event(EX_EV_ACCOUNT_CREDITED, EX_FIELDS({"EX_ACCOUNT", a.name}),
			"account %s was %s %s %s by an operator (%s)", a.name, q->grant ? "granted" : "credited with",
			ex_money_text(op.txn.amount, amount), op.txn.currency, op.name);
	transaction *m = transaction_reply(s, k, &op.txn);
	if (!m)
		return NULL;
	m->replayed = op.replayed;
	m->available = ex_keep_money(k, op.available);
	return ex_out_pack(&m->base);
}

/* --- verify ---------------------------------------------------------------------------------------------------------- */

struct ex_out *ex_accounts_do_verify(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	Expertd__V1__VerifyLedgerReply r = EXPERTD__V1__VERIFY_LEDGER_REPLY__INIT;
	struct ex_ledger_report *report = ex_keep_alloc(k, 1, sizeof *report);
	EX_CLEANUP(ex_store_closep) struct ex_store *store = NULL;
	char hex[2 * EX_LEDGER_HASH + 1];
	(void)request;
	if (!report || ex_store_open(s->store, err, &store) < 0 || ex_ledger_verify(store, err, report) < 0)
		return NULL;
	size_t n = EX_MIN(report->n_findings, (size_t)EX_LEDGER_FINDINGS_MAX);
	r.finding = ex_keep_alloc(k, n + 1, sizeof *r.finding);
	if (!r.finding)
		return NULL;
	for (size_t i = 0; i < n; i++)
		r.finding[i] = report->finding[i];
	r.n_finding = n;
	r.findings = report->n_findings;
	r.transactions = report->n_txns;
	r.holds = report->n_holds;
	ex_hex(report->hash, sizeof report->hash, hex);
	r.hash = hex;
	return ex_out_pack(&r.base);
}

/* --- transactions ---------------------------------------------------------------------------------------------------- */

/* The last `max` of what comes. */
struct ring {
	struct ex_txn *t; /* [max] */
	size_t n, max;    /* n: that came */
};

static int keep_txn(void *ctx, const struct ex_txn *t)
{
	struct ring *r = ctx;
	r->t[r->n++ % r->max] = *t;
	return 0;
}

static int read_txns(struct ex_store *reader, const Expertd__V1__ListTransactionsRequest *q, int64_t account,
	struct ring *r, struct ex_err *err)
{
	struct ex_store_head head;
	int64_t after = q->after;
	int rc = reader->ops->begin(reader, false, err, &head);
	if (rc < 0)
		return rc;
	if (q->last && !account)
		after = EX_MAX(after, head.seq - (int64_t)r->max); /* there are no gaps */
	rc = reader->ops->each_txn(reader, after, account, q->last ? SIZE_MAX : r->max, keep_txn, r, err);
	reader->ops->rollback(reader);
	return rc;
}

struct ex_out *ex_accounts_do_transactions(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__ListTransactionsRequest *q = (const Expertd__V1__ListTransactionsRequest *)request;
	Expertd__V1__ListTransactionsReply r = EXPERTD__V1__LIST_TRANSACTIONS_REPLY__INIT;
	struct ex_account a = {.id = 0};
	struct ring ring = {.max = q->max ? EX_MIN(q->max, TRANSACTIONS_MAX) : TRANSACTIONS_DEFAULT};
	if (*q->account && find_account(s, q->account, &a, err) < 0)
		return NULL;
	ring.t = ex_keep_alloc(k, ring.max, sizeof *ring.t);
	r.transactions = ex_keep_alloc(k, ring.max, sizeof *r.transactions);
	if (k->oom || read_txns(ex_desk_reader(s->desk), q, a.id, &ring, err) < 0)
		return NULL;
	for (size_t i = ring.n > ring.max ? ring.n - ring.max : 0; i < ring.n; i++)
		r.transactions[r.n_transactions++] = transaction_reply(s, k, &ring.t[i % ring.max]);
	return k->oom ? NULL : ex_out_pack(&r.base);
}

/* --- usage ----------------------------------------------------------------------------------------------------------- */

struct usage_list {
	struct ex_accounts_service *s;
	struct ex_keep *k;
	Expertd__V1__UsageRow **row;
	size_t n, cap;
};

static int find_tail(void *ctx, const struct ex_api_key *key)
{
	struct ex_api_key *want = ctx;
	if (key->id == want->id)
		*want = *key;
	return key->id == want->id;
}

static char *day_text(struct ex_keep *k, int64_t day)
{
	char text[32];
	time_t at = (time_t)(day * DAY_S);
	struct tm tm;
	gmtime_r(&at, &tm);
	strftime(text, sizeof text, "%Y-%m-%d", &tm);
	return ex_keep_text(k, text);
}

static int keep_usage(void *ctx, const struct ex_usage_row *u)
{
	struct usage_list *l = ctx;
	struct ex_tariff t = {.currency = ""};
	struct ex_api_key key = {.id = u->api_key};
	int64_t saved = 0;
	Expertd__V1__UsageRow *m = ex_keep_alloc(l->k, 1, sizeof *m);
	if (!m || ex_grow(&l->row, &l->cap, l->n + 1, sizeof(Expertd__V1__UsageRow *)) < 0)
		return -ENOMEM;
	expertd__v1__usage_row__init(m);
	ex_accounts_tariff_at(ex_desk_accounts(l->s->desk), u->tariff, &t);
	ex_accounts_each_key(ex_desk_accounts(l->s->desk), find_tail, &key);
	if (ex_money_add(&saved, u->hit, t.miss - t.hit) < 0)
		return -EOVERFLOW;
	m->day = day_text(l->k, u->day);
	m->key = u->api_key;
	m->key_tail = ex_keep_text(l->k, key.tail);
	m->tariff = u->tariff;
	m->requests = u->n_requests;
	m->prompt_hit = u->hit;
	m->prompt_miss = u->miss;
	m->completion = u->completion;
	m->reasoning = u->reasoning;
	m->cost = ex_keep_money(l->k, u->charged);
	m->saved = ex_keep_money(l->k, saved);
	m->currency = ex_keep_text(l->k, t.currency);
	l->row[l->n++] = m;
	return 0;
}

struct ex_out *ex_accounts_do_usage(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__UsageRequest *q = (const Expertd__V1__UsageRequest *)request;
	Expertd__V1__UsageReply r = EXPERTD__V1__USAGE_REPLY__INIT;
	struct usage_list l = {.s = s, .k = k};
	struct ex_store *reader = ex_desk_reader(s->desk);
	struct ex_store_head head;
	struct ex_account a;
	struct ex_out *out = NULL;
	if (find_account(s, q->account, &a, err) < 0 || reader->ops->begin(reader, false, err, &head) < 0)
		return NULL;
	int rc = reader->ops->each_usage(reader, a.id, q->since_us, keep_usage, &l, err);
	reader->ops->rollback(reader);
	if (rc == 0 && !k->oom) {
		r.n_rows = l.n;
		r.rows = l.row;
		out = ex_out_pack(&r.base);
	} else if (rc < 0 && !err->code)
		ex_err_errno(err, rc, "the usage of '%s' cannot be summed up", q->account);
	free(l.row);
	return out;
}
