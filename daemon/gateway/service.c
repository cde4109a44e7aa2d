/* SPDX-License-Identifier: Apache-2.0 */
/* The Accounts service: calls, and the methods about accounts, keys and tariffs. Layer L4. */
#include "gateway/service_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define REQUEST_BYTES_MAX 65536
#define VERIFIERS_MAX     4 /* verifications that wait */
#define TIER_DEFAULT      "standard"
#define CURRENCY_DEFAULT  "USD"

typedef Expertd__V1__Account account_message;
typedef Expertd__V1__Key key_message;
typedef Expertd__V1__Tariff tariff_message;

struct ex_accounts_handler {
	struct ex_desk_method method;
	struct ex_accounts_service *s;
	ex_accounts_fn *fn;
};

char *ex_keep_money(struct ex_keep *k, int64_t nano)
{
	char buf[EX_MONEY_TEXT_MAX];
	return ex_keep_text(k, ex_money_text(nano, buf));
}

char *ex_keep_price(struct ex_keep *k, int64_t nano)
{
	char buf[EX_MONEY_TEXT_MAX];
	return ex_keep_text(k, ex_money_price_text(nano, buf));
}

/* --- accounts -------------------------------------------------------------------------------------------------------- */

struct account_list {
	struct ex_keep *k;
	const char *only;          /* NULL: all */
	struct ex_account *row;    /* [n] */
	account_message **message; /* [n] */
	size_t n, cap;
	bool oom;
};

static int keep_row(void *ctx, const struct ex_account *a)
{
	struct account_list *l = ctx;
	if (l->only && strcmp(l->only, a->name) != 0)
		return 0;
	if (ex_grow(&l->row, &l->cap, l->n + 1, sizeof *a) < 0) {
		l->oom = true;
		return 1;
	}
	l->row[l->n++] = *a;
	return 0;
}

static account_message *account_reply(struct ex_keep *k, const struct ex_account *a)
{
	account_message *m = ex_keep_alloc(k, 1, sizeof *m);
	if (!m)
		return NULL;
	expertd__v1__account__init(m);
	m->name = ex_keep_text(k, a->name);
	m->tier = ex_keep_text(k, a->tier);
	m->suspended = a->suspended;
	m->created_us = a->created_us;
	return m;
}

static size_t index_of(const struct account_list *l, int64_t id)
{
	size_t low = 0, high = l->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (l->row[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < l->n && l->row[low].id == id ? low : SIZE_MAX;
}

static int add_balance(void *ctx, const struct ex_purse *p)
{
	struct account_list *l = ctx;
	size_t i = index_of(l, p->account);
	if (i == SIZE_MAX)
		return 0;
	account_message *m = l->message[i];
	Expertd__V1__Balance *b = ex_keep_alloc(l->k, 1, sizeof *b);
	Expertd__V1__Balance **list = ex_keep_alloc(l->k, m->n_balances + 1, sizeof *list);
	if (!b || !list)
		return 0; /* remembered by k */
	expertd__v1__balance__init(b);
	b->currency = ex_keep_text(l->k, p->currency);
	b->granted = ex_keep_money(l->k, p->balance[EX_BOOK_GRANTED]);
	b->topped_up = ex_keep_money(l->k, p->balance[EX_BOOK_TOPPED]);
	b->held = ex_keep_money(l->k, p->balance[EX_BOOK_HELD_GRANTED] + p->balance[EX_BOOK_HELD_TOPPED]);
	if (m->n_balances)
		memcpy(list, m->balances, m->n_balances * sizeof *list);
	list[m->n_balances++] = b;
	m->balances = list;
	return 0;
}

static int count_key(void *ctx, const struct ex_api_key *key)
{
	struct account_list *l = ctx;
	size_t i = index_of(l, key->account);
	if (i != SIZE_MAX && !key->revoked_us)
		l->message[i]->keys++;
	return 0;
}

static int read_balances(struct ex_accounts_service *s, struct account_list *l, struct ex_err *err)
{
	struct ex_store *reader = ex_desk_reader(s->desk);
	struct ex_store_head head;
	int rc = reader->ops->begin(reader, false, err, &head);
	if (rc < 0)
		return rc;
	rc = l->n == 1 ? reader->ops->find_purses(reader, &l->row[0].id, 1, add_balance, l, err)
		       : reader->ops->each_purse(reader, add_balance, l, err);
	reader->ops->rollback(reader);
	return rc;
}

static struct ex_out *do_list(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__ListAccountsRequest *q = (const Expertd__V1__ListAccountsRequest *)request;
	struct account_list l = {.k = k, .only = *q->name ? q->name : NULL};
	Expertd__V1__ListAccountsReply r = EXPERTD__V1__LIST_ACCOUNTS_REPLY__INIT;
	struct ex_out *out = NULL;
	ex_accounts_each(ex_desk_accounts(s->desk), keep_row, &l);
	l.message = ex_keep_alloc(k, l.n + 1, sizeof *l.message);
	for (size_t i = 0; i < l.n && !k->oom; i++)
		l.message[i] = account_reply(k, &l.row[i]);
	k->oom |= l.oom;
	if (l.only && !l.n)
		ex_err_set(err, -ENOENT, "there is no account '%.80s'", l.only);
	else if (!k->oom && read_balances(s, &l, err) == 0) {
		ex_accounts_each_key(ex_desk_accounts(s->desk), count_key, &l);
		r.n_accounts = l.n;
		r.accounts = l.message;
		out = ex_out_pack(&r.base);
	}
	free(l.row);
	return out;
}

static struct ex_out *do_create(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__CreateAccountRequest *q = (const Expertd__V1__CreateAccountRequest *)request;
	struct ex_account a;
	if (ex_accounts_create(ex_desk_accounts(s->desk), q->name, *q->tier ? q->tier : TIER_DEFAULT, err, &a) < 0)
		return NULL;
	ex_event(EX_EV_ACCOUNT_CREATED, EX_FIELDS({"EX_ACCOUNT", a.name}), "account %s was created, tier %s", a.name,
		a.tier);
	account_message *m = account_reply(k, &a);
	return m ? ex_out_pack(&m->base) : NULL;
}

static struct ex_out *do_change(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__ChangeAccountRequest *q = (const Expertd__V1__ChangeAccountRequest *)request;
	struct ex_account a;
	if (q->suspend && q->resume) {
		ex_err_set(err, -EINVAL, "an account is suspended or resumed, not both");
		return NULL;
	}
	if (ex_accounts_change(ex_desk_accounts(s->desk), q->name, *q->tier ? q->tier : NULL,
		    q->suspend  ? 1
		    : q->resume ? 0
				: -1,
		    err, &a) < 0)
		return NULL;
	ex_event(EX_EV_ACCOUNT_CHANGED, EX_FIELDS({"EX_ACCOUNT", a.name}), "account %s is of tier %s now, and %s",
		a.name, a.tier, a.suspended ? "suspended" : "not suspended");
	account_message *m = account_reply(k, &a);
	return m ? ex_out_pack(&m->base) : NULL;
}

/* --- keys ------------------------------------------------------------------------------------------------------------ */

static key_message *key_reply(struct ex_keep *k, const struct ex_api_key *key)
{
	key_message *m = ex_keep_alloc(k, 1, sizeof *m);
	if (!m)
		return NULL;
	expertd__v1__key__init(m);
	m->id = key->id;
	m->label = ex_keep_text(k, key->label);
	m->tail = ex_keep_text(k, key->tail);
	m->created_us = key->created_us;
	m->revoked_us = key->revoked_us;
	return m;
}

static void name_account(struct ex_accounts_service *s, struct ex_keep *k, int64_t id, char **name)
{
	struct ex_account a;
	if (ex_accounts_at(ex_desk_accounts(s->desk), id, &a))
		*name = ex_keep_text(k, a.name);
}

static struct ex_out *do_create_key(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__CreateKeyRequest *q = (const Expertd__V1__CreateKeyRequest *)request;
	Expertd__V1__CreateKeyReply r = EXPERTD__V1__CREATE_KEY_REPLY__INIT;
	struct ex_api_key key;
	char secret[EX_API_KEY_TEXT_MAX], id[24];
	if (ex_accounts_add_key(ex_desk_accounts(s->desk), q->account, q->label, err, &key, secret) < 0)
		return NULL;
	snprintf(id, sizeof id, "%lld", (long long)key.id);
	ex_event(EX_EV_KEY_CREATED, EX_FIELDS({"EX_ACCOUNT", q->account}, {"EX_KEY", id}),
		"key %s (..%s) of account %s was created", id, key.tail, q->account);
	r.secret = secret;
	r.key = key_reply(k, &key);
	struct ex_out *out = NULL;
	if (r.key) {
		r.key->account = ex_keep_text(k, q->account);
		out = ex_out_pack(&r.base);
	}
	explicit_bzero(secret, sizeof secret);
	return out;
}

struct key_list {
	struct ex_keep *k;
	int64_t account; /* 0: all */
	int64_t *owner;  /* [n] */
	key_message **message;
	size_t n, cap_owner, cap;
	bool oom;
};

static int keep_key(void *ctx, const struct ex_api_key *key)
{
	struct key_list *l = ctx;
	if (l->account && key->account != l->account)
		return 0;
	if (ex_grow(&l->message, &l->cap, l->n + 1, sizeof(key_message *)) < 0 ||
		ex_grow(&l->owner, &l->cap_owner, l->n + 1, sizeof *l->owner) < 0) {
		l->oom = true;
		return 1;
	}
	l->message[l->n] = key_reply(l->k, key);
	l->owner[l->n] = key->account;
	l->n += l->message[l->n] != NULL;
	return 0;
}

static struct ex_out *do_list_keys(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__ListKeysRequest *q = (const Expertd__V1__ListKeysRequest *)request;
	Expertd__V1__ListKeysReply r = EXPERTD__V1__LIST_KEYS_REPLY__INIT;
	struct key_list l = {.k = k};
	struct ex_account a;
	if (*q->account && !ex_accounts_find(ex_desk_accounts(s->desk), q->account, &a)) {
		ex_err_set(err, -ENOENT, "there is no account '%.80s'", q->account);
		return NULL;
	}
	l.account = *q->account ? a.id : 0;
	ex_accounts_each_key(ex_desk_accounts(s->desk), keep_key, &l);
	for (size_t i = 0; i < l.n; i++)
		name_account(s, k, l.owner[i], &l.message[i]->account);
	k->oom |= l.oom;
	r.n_keys = l.n;
	r.keys = l.message;
	struct ex_out *out = k->oom ? NULL : ex_out_pack(&r.base);
	free(l.owner);
	free(l.message);
	return out;
}

static struct ex_out *do_revoke(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__RevokeKeyRequest *q = (const Expertd__V1__RevokeKeyRequest *)request;
	struct ex_api_key key;
	char id[24];
	if (ex_accounts_revoke_key(ex_desk_accounts(s->desk), q->id, err, &key) < 0)
		return NULL;
	key_message *m = key_reply(k, &key);
	if (!m)
		return NULL;
	name_account(s, k, key.account, &m->account);
	snprintf(id, sizeof id, "%lld", (long long)key.id);
	ex_event(EX_EV_KEY_REVOKED, EX_FIELDS({"EX_ACCOUNT", m->account}, {"EX_KEY", id}),
		"key %s (..%s) of account %s was revoked", id, key.tail, m->account);
	return ex_out_pack(&m->base);
}

/* --- tariffs --------------------------------------------------------------------------------------------------------- */

static tariff_message *tariff_reply(struct ex_keep *k, const struct ex_tariff *t)
{
	tariff_message *m = ex_keep_alloc(k, 1, sizeof *m);
	if (!m)
		return NULL;
	expertd__v1__tariff__init(m);
	m->id = t->id;
	m->model = ex_keep_text(k, t->model);
	m->currency = ex_keep_text(k, t->currency);
	m->hit = ex_keep_price(k, t->hit);
	m->miss = ex_keep_price(k, t->miss);
	m->completion = ex_keep_price(k, t->completion);
	m->from_us = t->from_us;
	return m;
}

static int take_price(const char *what, const char *text, int64_t *ret, struct ex_err *err)
{
	int rc = ex_money_parse_price(text, ret);
	if (rc < 0)
		return ex_err_set(err, -EINVAL, "%s: '%.40s' is no price for a million tokens, with at most 3 decimals",
			what, text);
	return 0;
}

static bool in_force(struct ex_accounts_service *s, const char *model, int64_t id)
{
	struct ex_tariff now;
	return ex_accounts_tariff(ex_desk_accounts(s->desk), model, (int64_t)ex_realtime_us(), &now) && now.id == id;
}

static struct ex_out *do_set_tariff(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__SetTariffRequest *q = (const Expertd__V1__SetTariffRequest *)request;
	const char *model = *q->model ? q->model : s->model, *currency = *q->currency ? q->currency : CURRENCY_DEFAULT;
	struct ex_tariff t = {.from_us = q->from_us};
	if (strlen(model) >= sizeof t.model || strlen(currency) >= sizeof t.currency) {
		ex_err_set(err, -EINVAL, "a tariff is for a model, in a currency of three capital letters");
		return NULL;
	}
	strcpy(t.model, model);
	strcpy(t.currency, currency);
	if (take_price("hit", q->hit, &t.hit, err) < 0 || take_price("miss", q->miss, &t.miss, err) < 0 ||
		take_price("completion", q->completion, &t.completion, err) < 0 ||
		ex_accounts_add_tariff(ex_desk_accounts(s->desk), &t, err) < 0)
		return NULL;
	ex_event(EX_EV_TARIFF_SET, EX_FIELDS({"EX_MODEL", t.model}),
		"tariff %lld of model %s: %s %s for a million tokens of prompt, %s of those in the cache, %s of "
		"completion",
		(long long)t.id, t.model, q->miss, t.currency, q->hit, q->completion);
	tariff_message *m = tariff_reply(k, &t);
	if (m)
		m->in_force = in_force(s, t.model, t.id);
	return m ? ex_out_pack(&m->base) : NULL;
}

struct tariff_list {
	struct ex_keep *k;
	tariff_message **message;
	size_t n, cap;
	bool oom;
};

static int keep_tariff(void *ctx, const struct ex_tariff *t)
{
	struct tariff_list *l = ctx;
	if (ex_grow(&l->message, &l->cap, l->n + 1, sizeof(tariff_message *)) < 0) {
		l->oom = true;
		return 1;
	}
	l->message[l->n] = tariff_reply(l->k, t);
	l->n += l->message[l->n] != NULL;
	return 0;
}

static struct ex_out *do_list_tariffs(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	Expertd__V1__ListTariffsReply r = EXPERTD__V1__LIST_TARIFFS_REPLY__INIT;
	struct tariff_list l = {.k = k};
	(void)request, (void)err;
	ex_accounts_each_tariff(ex_desk_accounts(s->desk), keep_tariff, &l);
	for (size_t i = 0; i < l.n; i++)
		l.message[i]->in_force = in_force(s, l.message[i]->model, l.message[i]->id);
	k->oom |= l.oom;
	r.n_tariffs = l.n;
	r.tariffs = l.message;
	struct ex_out *out = k->oom ? NULL : ex_out_pack(&r.base);
	free(l.message);
	return out;
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

#define PATH(method) "/expertd.v1.Accounts/" method
enum { METHOD_N = 12 };
static const struct {
	const char *path;
	const ProtobufCMessageDescriptor *request;
	ex_accounts_fn *fn;
	bool slow;
} rows[METHOD_N] = {
	{PATH("CreateAccount"), &expertd__v1__create_account_request__descriptor, do_create, false},
	{PATH("ChangeAccount"), &expertd__v1__change_account_request__descriptor, do_change, false},
	{PATH("ListAccounts"), &expertd__v1__list_accounts_request__descriptor, do_list, false},
	{PATH("CreateKey"), &expertd__v1__create_key_request__descriptor, do_create_key, false},
	{PATH("ListKeys"), &expertd__v1__list_keys_request__descriptor, do_list_keys, false},
	{PATH("RevokeKey"), &expertd__v1__revoke_key_request__descriptor, do_revoke, false},
	{PATH("Credit"), &expertd__v1__credit_request__descriptor, ex_accounts_do_credit, false},
	{PATH("VerifyLedger"), &expertd__v1__verify_ledger_request__descriptor, ex_accounts_do_verify, true},
	{PATH("ListTransactions"), &expertd__v1__list_transactions_request__descriptor, ex_accounts_do_transactions,
		false},
	{PATH("SetTariff"), &expertd__v1__set_tariff_request__descriptor, do_set_tariff, false},
	{PATH("ListTariffs"), &expertd__v1__list_tariffs_request__descriptor, do_list_tariffs, false},
	{PATH("Usage"), &expertd__v1__usage_request__descriptor, ex_accounts_do_usage, false},
};
const char *const ex_accounts_service_paths[METHOD_N + 1] = {PATH("CreateAccount"), PATH("ChangeAccount"),
	PATH("ListAccounts"), PATH("CreateKey"), PATH("ListKeys"), PATH("RevokeKey"), PATH("Credit"),
	PATH("VerifyLedger"), PATH("ListTransactions"), PATH("SetTariff"), PATH("ListTariffs"), PATH("Usage"), NULL};

static struct ex_out *answer(const struct ex_desk_method *m, const ProtobufCMessage *request, const char *peer,
	struct ex_keep *keep, struct ex_err *err)
{
	const struct ex_accounts_handler *h = EX_CONTAINER_OF(m, const struct ex_accounts_handler, method);
	(void)peer;
	return h->fn(h->s, request, keep, err);
}

int ex_accounts_service_new(const struct ex_accounts_service_opts *o, struct ex_accounts_service **ret)
{
	struct ex_accounts_service *s = ex_calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->desk = o->desk;
	s->store = strdup(o->store);
	snprintf(s->model, sizeof s->model, "%s", o->model_name);
	s->handler = ex_calloc(METHOD_N, sizeof *s->handler);
	s->method = ex_calloc(METHOD_N + 1, sizeof *s->method);
	int rc = s->store && s->handler && s->method ? ex_jobs_new("verify", VERIFIERS_MAX, &s->slow) : -ENOMEM;
	if (rc < 0) {
		ex_accounts_service_free(s);
		return rc;
	}
	for (size_t i = 0; i < METHOD_N; i++)
		s->handler[i] = (struct ex_accounts_handler){.method = {.desk = s->desk,
								     .slow = rows[i].slow ? s->slow : NULL,
								     .request = rows[i].request,
								     .answer = answer},
			.s = s,
			.fn = rows[i].fn};
	*ret = s;
	return 0;
}

struct ex_accounts_service *ex_accounts_service_free(struct ex_accounts_service *s)
{
	if (!s)
		return NULL;
	if (s->slow)
		ex_jobs_free(s->slow);
	free(s->handler);
	free(s->method);
	free(s->store);
	free(s);
	return NULL;
}

const struct ex_method *ex_accounts_service_methods(struct ex_accounts_service *s, int loop_i)
{
	for (size_t i = 0; i < METHOD_N; i++)
		s->method[i] = (struct ex_method){.path = rows[i].path,
			.loop_i = loop_i,
			.message_bytes_max = REQUEST_BYTES_MAX,
			.message = ex_desk_on_message,
			.ctx = &s->handler[i].method};
	return s->method;
}
