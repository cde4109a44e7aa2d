/* SPDX-License-Identifier: Apache-2.0 */
/* From a key to a hold to a charge. Layer L4. */
#include "gateway/admit_accounts.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define RETRY_S          1 /* the store is tried twice a second */
#define CURRENCY_DEFAULT "USD"
#define CURRENCIES_MAX   16 /* of one account, in its balance */

struct ex_ticket {
	struct ex_admit_accounts *a;
	struct ex_tariff tariff;
	int64_t held;
	struct ex_charge_ref *charge;
	struct ex_ledger_op op; /* the hold */
	void (*done)(void *done_ctx, const struct ex_admit_answer *r);
	void *done_ctx;
};

struct ex_admit_accounts {
	struct ex_admit admit;
	struct ex_desk *desk;
	char model[EX_MODEL_NAME_MAX + 1];
	uint32_t hold_s;
	_Atomic uint64_t n_holds;
};

static struct ex_admit_answer answer(int status, const char *code, const char *message)
{
	return (struct ex_admit_answer){
		.status = status,
		.code = code,
		.message = message,
		.retry_after_s = status == 503 ? RETRY_S : 0,
		.limit_requests = -1,
		.remaining_requests = -1,
		.reset_requests_ms = -1,
		.limit_tokens = -1,
		.remaining_tokens = -1,
		.reset_tokens_ms = -1,
	};
}

static void refuse(void (*done)(void *done_ctx, const struct ex_admit_answer *r), void *done_ctx, int status,
	const char *code, const char *message)
{
	const struct ex_admit_answer r = answer(status, code, message);
	done(done_ctx, &r);
}

/* --- asking ---------------------------------------------------------------------------------------------------------- */

/* What the tokens cost; never above what is held. */
static int64_t cost_of(const struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	int64_t sum = 0;
	if (ex_money_add(&sum, u->prompt_hit, t->tariff.hit) < 0 ||
		ex_money_add(&sum, u->prompt_miss, t->tariff.miss) < 0 ||
		ex_money_add(&sum, u->completion, t->tariff.completion) < 0)
		return t->held;
	return EX_MIN(sum, t->held);
}

/* [writer] */
static void on_held(struct ex_ledger_op *op)
{
	struct ex_ticket *t = op->ctx;
	struct ex_charges *c = ex_desk_charges(t->a->desk);
	struct ex_admit_answer r = answer(200, NULL, NULL);
	if (op->rc == 0) {
		r.ticket = t;
		t->done(t->done_ctx, &r);
		return;
	}
	if (op->rc == -EDQUOT)
		r = answer(402, "insufficient_balance",
			"the balance does not cover the prompt and max_tokens at this model's prices");
	else
		r = answer(503, "ledger_unavailable", "accounts cannot be charged at the moment");
	if (op->stored)
		ex_charges_void(c, t->charge); /* it may be there */
	else
		ex_charges_forget(c, t->charge);
	t->done(t->done_ctx, &r);
	free(t);
}

/* Fills the hold's operation; false: it costs more than can be counted. */
static bool make_hold(struct ex_ticket *t, const struct ex_admit_ask *a, const struct ex_account *who, int64_t key_id)
{
	struct ex_txn *x = &t->op.txn;
	const uint64_t i = atomic_fetch_add_explicit(&t->a->n_holds, 1, memory_order_relaxed);
	if (ex_money_add(&t->held, a->prompt_tokens, t->tariff.miss) < 0 ||
		ex_money_add(&t->held, a->max_tokens, t->tariff.completion) < 0)
		return false;
	x->kind = EX_TXN_HOLD;
	x->account = who->id;
	memcpy(x->currency, t->tariff.currency, sizeof x->currency);
	x->amount = t->held;
	x->tariff = t->tariff.id;
	x->api_key = key_id;
	x->expires_us = (int64_t)ex_realtime_us() + (int64_t)t->a->hold_s * 1000000;
	snprintf(x->owner, sizeof x->owner, "%s", ex_desk_owner(t->a->desk));
	ex_printable(a->request_id ? a->request_id : "", x->note, sizeof x->note);
	snprintf(t->op.name, sizeof t->op.name, "%s%" PRIx64, ex_desk_prefix(t->a->desk), i);
	t->op.done = on_held;
	t->op.ctx = t;
	return true;
}

/* Who asks, if he may; otherwise what to answer. who is filled unless it is 401. */
static bool identify(struct ex_admit_accounts *a, const char *key, struct ex_account *who, int64_t *ret_key_id,
	int *ret_status, const char **ret_code, const char **ret_message)
{
	*ret_status = 401;
	*ret_code = "invalid_api_key";
	*ret_message =
		key ? "the API key is not known, or was revoked" : "no API key was sent: Authorization: Bearer sk-...";
	if (!key || ex_accounts_of_key(ex_desk_accounts(a->desk), key, who, ret_key_id) < 0)
		return false;
	*ret_status = 403;
	*ret_code = "account_suspended";
	*ret_message = "the account is suspended";
	return !who->suspended;
}

static void ask(void *ctx, const struct ex_admit_ask *q, void (*done)(void *done_ctx, const struct ex_admit_answer *r),
	void *done_ctx)
{
	struct ex_admit_accounts *a = ctx;
	struct ex_account who;
	int64_t key_id;
	int status;
	const char *code, *message;
	if (!identify(a, q->key, &who, &key_id, &status, &code, &message)) {
		refuse(done, done_ctx, status, code, message);
		return;
	}
	struct ex_ticket *t = ex_calloc(1, sizeof *t);
	if (!t) {
		refuse(done, done_ctx, 503, "overloaded", "out of memory");
		return;
	}
	t->a = a;
	t->done = done;
	t->done_ctx = done_ctx;
	code = NULL;
	if (!ex_accounts_tariff(ex_desk_accounts(a->desk), a->model, (int64_t)ex_realtime_us(), &t->tariff))
		status = 503, code = "no_tariff", message = "no price is set for this model";
	else if (!make_hold(t, q, &who, key_id))
		status = 402, code = "insufficient_balance",
		message = "the request would cost more than any balance holds";
	else if (!(t->charge = ex_charges_begin(ex_desk_charges(a->desk), t->op.name)))
		status = 503, code = "ledger_unavailable", message = "charges cannot be written down at the moment";
	else if (ex_ledger_submit(ex_desk_ledger(a->desk), &t->op) < 0) {
		ex_charges_forget(ex_desk_charges(a->desk), t->charge);
		status = 503, code = "overloaded", message = "too many requests wait for the ledger";
	}
	if (!code)
		return; /* t is on_held's */
	free(t);
	refuse(done, done_ctx, status, code, message);
}

/* --- while it runs, and at its end ----------------------------------------------------------------------------------- */

static struct ex_txn_tokens tokens_of(const struct ex_usage_tokens *u)
{
	return (struct ex_txn_tokens){u->prompt_hit, u->prompt_miss, u->completion, u->reasoning};
}

static void progress(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	struct ex_admit_accounts *a = ctx;
	const struct ex_txn_tokens tokens = tokens_of(u);
	ex_charges_progress(ex_desk_charges(a->desk), t->charge, &tokens, cost_of(t, u));
}

static void finish(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	struct ex_admit_accounts *a = ctx;
	const struct ex_txn_tokens tokens = tokens_of(u);
	ex_charges_finish(ex_desk_charges(a->desk), t->charge, &tokens, cost_of(t, u));
	free(t);
}

/* --- balance --------------------------------------------------------------------------------------------------------- */

struct balance_job {
	struct ex_job job;
	struct ex_desk *desk;
	int64_t account;
	void (*done)(void *done_ctx, int status, const char *json);
	void *done_ctx;
	struct ex_purse purse[CURRENCIES_MAX];
	size_t n;
};

static int keep_purse(void *ctx, const struct ex_purse *p)
{
	struct balance_job *b = ctx;
	if (b->n < CURRENCIES_MAX)
		b->purse[b->n++] = *p;
	return 0;
}

static void add_purse(struct ex_str *out, const struct ex_purse *p, bool first)
{
	char total[EX_MONEY_TEXT_MAX], granted[EX_MONEY_TEXT_MAX], topped[EX_MONEY_TEXT_MAX];
	ex_str_addf(out,
		"%s{\"currency\": \"%s\", \"total_balance\": \"%s\", \"granted_balance\": \"%s\", "
		"\"topped_up_balance\": \"%s\"}",
		first ? "" : ", ", p->currency,
		ex_money_text(p->balance[EX_BOOK_GRANTED] + p->balance[EX_BOOK_TOPPED], total),
		ex_money_text(p->balance[EX_BOOK_GRANTED], granted), ex_money_text(p->balance[EX_BOOK_TOPPED], topped));
}

static const char error_down[] =
	"{\"error\": {\"message\": \"accounts cannot be read at the moment\", \"type\": \"server_error\", "
	"\"param\": null, \"code\": \"ledger_unavailable\"}}";

/* [desk] */
static void read_balance(struct ex_job *j)
{
	struct balance_job *b = EX_CONTAINER_OF(j, struct balance_job, job);
	struct ex_store *s = ex_desk_reader(b->desk);
	struct ex_str out = EX_STR_INIT;
	struct ex_store_head head;
	bool available = false;
	int rc = s->ops->begin(s, false, NULL, &head);
	if (rc == 0) {
		rc = s->ops->find_purses(s, &b->account, 1, keep_purse, b, NULL);
		s->ops->rollback(s);
	}
	if (rc == 0 && !b->n)
		b->purse[b->n++] = (struct ex_purse){.account = b->account, .currency = CURRENCY_DEFAULT};
	for (size_t i = 0; i < b->n; i++)
		available |= b->purse[i].balance[EX_BOOK_GRANTED] + b->purse[i].balance[EX_BOOK_TOPPED] > 0;
	ex_str_addf(&out, "{\"is_available\": %s, \"balance_infos\": [", available ? "true" : "false");
	for (size_t i = 0; i < b->n; i++)
		add_purse(&out, &b->purse[i], i == 0);
	ex_str_add(&out, "]}");
	if (rc < 0 || out.oom)
		b->done(b->done_ctx, 503, error_down);
	else
		b->done(b->done_ctx, 200, out.s);
	ex_str_done(&out);
	free(b);
}

static void balance(
	void *ctx, const char *key, void (*done)(void *done_ctx, int status, const char *json), void *done_ctx)
{
	struct ex_admit_accounts *a = ctx;
	struct ex_account who;
	int64_t key_id;
	int status;
	const char *code, *message;
	if (!identify(a, key, &who, &key_id, &status, &code, &message) && status == 401) {
		char json[256];
		snprintf(json, sizeof json,
			"{\"error\": {\"message\": \"%s\", \"type\": \"authentication_error\", \"param\": null, "
			"\"code\": \"%s\"}}",
			message, code);
		done(done_ctx, status, json);
		return;
	}
	struct balance_job *b = ex_calloc(1, sizeof *b);
	if (b)
		*b = (struct balance_job){.job.run = read_balance,
			.desk = a->desk,
			.account = who.id,
			.done = done,
			.done_ctx = done_ctx};
	if (!b || !ex_desk_push(a->desk, &b->job)) {
		free(b);
		done(done_ctx, 503, error_down);
	}
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

int ex_admit_accounts_new(const struct ex_admit_accounts_opts *o, struct ex_admit_accounts **ret)
{
	static const struct ex_admit_ops ops = {.ask = ask, .progress = progress, .finish = finish, .balance = balance};
	struct ex_admit_accounts *a = ex_calloc(1, sizeof *a);
	if (!a)
		return -ENOMEM;
	a->admit = (struct ex_admit){.ops = &ops, .ctx = a};
	a->desk = o->desk;
	a->hold_s = o->hold_s;
	snprintf(a->model, sizeof a->model, "%s", o->model_name);
	*ret = a;
	return 0;
}

struct ex_admit_accounts *ex_admit_accounts_free(struct ex_admit_accounts *a)
{
	free(a);
	return NULL;
}

const struct ex_admit *ex_admit_accounts_admit(const struct ex_admit_accounts *a)
{
	return &a->admit;
}
