/* SPDX-License-Identifier: Apache-2.0 */
/* Accounts in memory, and their changes. Layer L4. */
#include "gateway/accounts.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/str.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define KEY_PREFIX "sk-"
#define KEY_BYTES  32

/* All rows of one revision. */
struct rows {
	int64_t revision;
	struct ex_account *account; /* ascending by id */
	struct ex_api_key *key;     /* ascending by id */
	struct ex_tariff *tariff;   /* ascending by id */
	size_t n_accounts, n_keys, n_tariffs, cap_accounts, cap_keys, cap_tariffs;
	uint32_t *by_digest; /* [n_keys] of key, ascending by sha256 */
	uint32_t *by_name;   /* [n_accounts] of account, ascending by name */
};

struct ex_accounts {
	struct ex_ledger *ledger;
	struct ex_store *reader; /* [desk] */
	struct ex_lock lock;
	struct rows rows; /* guarded by lock */
};

/* --- reading --------------------------------------------------------------------------------------------------------- */

static void free_rows(struct rows *r)
{
	free(r->account);
	free(r->key);
	free(r->tariff);
	free(r->by_digest);
	free(r->by_name);
	*r = (struct rows){.revision = 0};
}

static int keep_account(void *ctx, const struct ex_account *a)
{
	struct rows *r = ctx;
	int rc = ex_grow(&r->account, &r->cap_accounts, r->n_accounts + 1, sizeof *a);
	if (rc == 0)
		r->account[r->n_accounts++] = *a;
	return rc;
}

static int keep_key(void *ctx, const struct ex_api_key *k)
{
	struct rows *r = ctx;
	int rc = ex_grow(&r->key, &r->cap_keys, r->n_keys + 1, sizeof *k);
	if (rc == 0)
		r->key[r->n_keys++] = *k;
	return rc;
}

static int keep_tariff(void *ctx, const struct ex_tariff *t)
{
	struct rows *r = ctx;
	int rc = ex_grow(&r->tariff, &r->cap_tariffs, r->n_tariffs + 1, sizeof *t);
	if (rc == 0)
		r->tariff[r->n_tariffs++] = *t;
	return rc;
}

static int compare_digests(const void *x, const void *y, void *rows)
{
	const struct rows *r = rows;
	return memcmp(r->key[*(const uint32_t *)x].sha256, r->key[*(const uint32_t *)y].sha256, sizeof r->key->sha256);
}

static int compare_names(const void *x, const void *y, void *rows)
{
	const struct rows *r = rows;
	return strcmp(r->account[*(const uint32_t *)x].name, r->account[*(const uint32_t *)y].name);
}

static int sort_rows(struct rows *r)
{
	r->by_digest = ex_calloc(r->n_keys + 1, sizeof *r->by_digest);
	r->by_name = ex_calloc(r->n_accounts + 1, sizeof *r->by_name);
	if (!r->by_digest || !r->by_name)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_keys; i++)
		r->by_digest[i] = (uint32_t)i;
	for (size_t i = 0; i < r->n_accounts; i++)
		r->by_name[i] = (uint32_t)i;
	qsort_r(r->by_digest, r->n_keys, sizeof *r->by_digest, compare_digests, r);
	qsort_r(r->by_name, r->n_accounts, sizeof *r->by_name, compare_names, r);
	return 0;
}

/* The rows of the store, unless they are those of revision `known`. *ret_new: r was filled. */
static int read_rows(struct ex_store *s, int64_t known, struct rows *r, bool *ret_new, struct ex_err *err)
{
	struct ex_store_head head;
	int rc = s->ops->begin(s, false, err, &head);
	if (rc < 0)
		return rc;
	*ret_new = head.revision != known;
	if (*ret_new) {
		rc = s->ops->each_account(s, keep_account, r, err);
		if (rc == 0)
			rc = s->ops->each_key(s, keep_key, r, err);
		if (rc == 0)
			rc = s->ops->each_tariff(s, keep_tariff, r, err);
		if (rc == 0)
			rc = sort_rows(r);
		r->revision = head.revision;
	}
	s->ops->rollback(s);
	return rc == -ENOMEM ? ex_err_errno(err, rc, "cannot read the accounts") : rc;
}

int ex_accounts_refresh(struct ex_accounts *a, struct ex_err *err)
{
	struct rows fresh = {.revision = 0};
	bool is_new;
	ex_lock_take(&a->lock);
	int64_t known = a->rows.revision;
	ex_lock_give(&a->lock);
	int rc = read_rows(a->reader, known, &fresh, &is_new, err);
	if (rc == 0 && is_new) {
		ex_lock_take(&a->lock);
		struct rows old = a->rows;
		a->rows = fresh;
		ex_lock_give(&a->lock);
		fresh = old;
	}
	free_rows(&fresh);
	return rc;
}

int ex_accounts_new(struct ex_ledger *ledger, struct ex_store *reader, struct ex_err *err, struct ex_accounts **ret)
{
	struct ex_accounts *a = ex_calloc(1, sizeof *a);
	if (!a)
		return ex_err_errno(err, -ENOMEM, "cannot read the accounts");
	a->ledger = ledger;
	a->reader = reader;
	a->rows.revision = -1; /* none was read */
	ex_lock_init(&a->lock, "accounts");
	int rc = ex_accounts_refresh(a, err);
	if (rc < 0) {
		ex_accounts_free(a);
		return rc;
	}
	*ret = a;
	return 0;
}

struct ex_accounts *ex_accounts_free(struct ex_accounts *a)
{
	if (!a)
		return NULL;
	free_rows(&a->rows);
	ex_lock_done(&a->lock);
	free(a);
	return NULL;
}

/* --- look-ups: under the lock ---------------------------------------------------------------------------------------- */

static const struct ex_account *account_at(const struct rows *r, int64_t id)
{
	size_t low = 0, high = r->n_accounts;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (r->account[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < r->n_accounts && r->account[low].id == id ? &r->account[low] : NULL;
}

static const struct ex_account *account_named(const struct rows *r, const char *name)
{
	size_t low = 0, high = r->n_accounts;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int c = strcmp(r->account[r->by_name[mid]].name, name);
		if (c == 0)
			return &r->account[r->by_name[mid]];
		if (c < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* The search goes by the digest, which a guesser of keys does not choose; the last word is compared in constant time. */
static const struct ex_api_key *key_of_digest(const struct rows *r, const uint8_t digest[static 32])
{
	size_t low = 0, high = r->n_keys;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (memcmp(r->key[r->by_digest[mid]].sha256, digest, 32) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == r->n_keys)
		return NULL;
	const struct ex_api_key *k = &r->key[r->by_digest[low]];
	return CRYPTO_memcmp(k->sha256, digest, sizeof k->sha256) == 0 ? k : NULL;
}

static int digest_key(const char *key, uint8_t out[static 32])
{
	return EVP_Digest(key, strlen(key), out, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

int ex_accounts_of_key(struct ex_accounts *a, const char *key, struct ex_account *ret, int64_t *ret_key_id)
{
	uint8_t digest[32];
	if (strlen(key) >= EX_API_KEY_TEXT_MAX || digest_key(key, digest) < 0)
		return -ENOENT;
	ex_lock_take(&a->lock);
	const struct ex_api_key *k = key_of_digest(&a->rows, digest);
	const struct ex_account *who = k && !k->revoked_us ? account_at(&a->rows, k->account) : NULL;
	if (who) {
		*ret = *who;
		*ret_key_id = k->id;
	}
	ex_lock_give(&a->lock);
	return who ? 0 : -ENOENT;
}

bool ex_accounts_find(struct ex_accounts *a, const char *name, struct ex_account *ret)
{
	ex_lock_take(&a->lock);
	const struct ex_account *who = account_named(&a->rows, name);
	if (who)
		*ret = *who;
	ex_lock_give(&a->lock);
	return who;
}

bool ex_accounts_at(struct ex_accounts *a, int64_t id, struct ex_account *ret)
{
	ex_lock_take(&a->lock);
	const struct ex_account *who = account_at(&a->rows, id);
	if (who)
		*ret = *who;
	ex_lock_give(&a->lock);
	return who;
}

bool ex_accounts_tariff(struct ex_accounts *a, const char *model, int64_t at_us, struct ex_tariff *ret)
{
	const struct ex_tariff *best = NULL;
	ex_lock_take(&a->lock);
	for (size_t i = 0; i < a->rows.n_tariffs; i++) {
		const struct ex_tariff *t = &a->rows.tariff[i];
		if (t->from_us <= at_us && strcmp(t->model, model) == 0 && (!best || t->from_us > best->from_us))
			best = t;
	}
	if (best)
		*ret = *best;
	ex_lock_give(&a->lock);
	return best;
}

bool ex_accounts_tariff_at(struct ex_accounts *a, int64_t id, struct ex_tariff *ret)
{
	bool found = false;
	ex_lock_take(&a->lock);
	for (size_t i = 0; i < a->rows.n_tariffs && !found; i++) {
		found = a->rows.tariff[i].id == id;
		if (found)
			*ret = a->rows.tariff[i];
	}
	ex_lock_give(&a->lock);
	return found;
}

int ex_accounts_each(struct ex_accounts *a, ex_account_fn *fn, void *ctx)
{
	int rc = 0;
	ex_lock_take(&a->lock);
	for (size_t i = 0; i < a->rows.n_accounts && !rc; i++)
		rc = fn(ctx, &a->rows.account[i]);
	ex_lock_give(&a->lock);
	return rc;
}

int ex_accounts_each_key(struct ex_accounts *a, ex_api_key_fn *fn, void *ctx)
{
	int rc = 0;
	ex_lock_take(&a->lock);
	for (size_t i = 0; i < a->rows.n_keys && !rc; i++)
		rc = fn(ctx, &a->rows.key[i]);
	ex_lock_give(&a->lock);
	return rc;
}

int ex_accounts_each_tariff(struct ex_accounts *a, ex_tariff_fn *fn, void *ctx)
{
	int rc = 0;
	ex_lock_take(&a->lock);
	for (size_t i = 0; i < a->rows.n_tariffs && !rc; i++)
		rc = fn(ctx, &a->rows.tariff[i]);
	ex_lock_give(&a->lock);
	return rc;
}

/* --- changes --------------------------------------------------------------------------------------------------------- */

/* Runs fn with the writer, then looks at what is there now. */
static int change(struct ex_accounts *a, int (*fn)(void *ctx, struct ex_store *s, struct ex_err *err), void *row,
	struct ex_err *err)
{
	int rc = ex_ledger_run(a->ledger, fn, row, err);
	return rc < 0 ? rc : ex_accounts_refresh(a, err);
}

static bool is_name(const char *s, size_t max)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@");
	return n > 0 && n <= max && !s[n];
}

static int check_tier(const char *tier, struct ex_err *err)
{
	if (!is_name(tier, EX_TIER_NAME_MAX))
		return ex_err_set(err, -EINVAL,
			"'%.80s' is no name of a tier: letters, digits and . _ - @, at most %d of them", tier,
			EX_TIER_NAME_MAX);
	return 0;
}

static int add_account(void *ctx, struct ex_store *s, struct ex_err *err)
{
	return s->ops->add_account(s, ctx, err);
}

int ex_accounts_create(
	struct ex_accounts *a, const char *name, const char *tier, struct ex_err *err, struct ex_account *ret)
{
	struct ex_account row = {.created_us = (int64_t)ex_realtime_us()};
	if (!is_name(name, EX_ACCOUNT_NAME_MAX))
		return ex_err_set(err, -EINVAL,
			"'%.80s' is no name of an account: letters, digits and . _ - @, at most %d of them", name,
			EX_ACCOUNT_NAME_MAX);
	int rc = check_tier(tier, err);
	if (rc < 0)
		return rc;
	snprintf(row.name, sizeof row.name, "%s", name);
	snprintf(row.tier, sizeof row.tier, "%s", tier);
	rc = change(a, add_account, &row, err);
	if (rc == -EEXIST)
		return ex_err_set(err, rc, "there is an account '%s' already", name);
	if (rc == 0)
		*ret = row;
	return rc;
}

static int set_account(void *ctx, struct ex_store *s, struct ex_err *err)
{
	return s->ops->set_account(s, ctx, err);
}

static int no_account(const char *name, struct ex_err *err)
{
	return ex_err_set(err, -ENOENT, "there is no account '%.80s'", name);
}

int ex_accounts_change(struct ex_accounts *a, const char *name, const char *tier, int suspended, struct ex_err *err,
	struct ex_account *ret)
{
	struct ex_account row;
	int rc = tier ? check_tier(tier, err) : 0;
	if (rc < 0)
		return rc;
	if (!ex_accounts_find(a, name, &row))
		return no_account(name, err);
	if (tier)
		snprintf(row.tier, sizeof row.tier, "%s", tier);
	if (suspended >= 0)
		row.suspended = suspended;
	rc = change(a, set_account, &row, err);
	if (rc == 0)
		*ret = row;
	return rc;
}

static int add_key(void *ctx, struct ex_store *s, struct ex_err *err)
{
	return s->ops->add_key(s, ctx, err);
}

int ex_accounts_add_key(struct ex_accounts *a, const char *name, const char *label, struct ex_err *err,
	struct ex_api_key *ret, char text[static EX_API_KEY_TEXT_MAX])
{
	struct ex_api_key row = {.created_us = (int64_t)ex_realtime_us()};
	struct ex_account who;
	uint8_t secret[KEY_BYTES];
	if (!ex_accounts_find(a, name, &who))
		return no_account(name, err);
	if (strlen(label) > EX_KEY_LABEL_MAX || !ex_utf8_valid(label, strlen(label)))
		return ex_err_set(err, -EINVAL, "a label has at most %d bytes of UTF-8", EX_KEY_LABEL_MAX);
	if (getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret)
		return ex_err_errno(err, -EIO, "cannot make a key: no random numbers");
	strcpy(text, KEY_PREFIX);
	ex_hex(secret, sizeof secret, text + strlen(KEY_PREFIX));
	explicit_bzero(secret, sizeof secret);
	row.account = who.id;
	snprintf(row.label, sizeof row.label, "%s", label);
	snprintf(row.tail, sizeof row.tail, "%s", text + strlen(text) - EX_KEY_TAIL);
	int rc = digest_key(text, row.sha256);
	rc = rc < 0 ? ex_err_errno(err, rc, "cannot make a key") : change(a, add_key, &row, err);
	if (rc < 0)
		explicit_bzero(text, EX_API_KEY_TEXT_MAX);
	else
		*ret = row;
	return rc;
}

static int set_key(void *ctx, struct ex_store *s, struct ex_err *err)
{
	return s->ops->set_key(s, ctx, err);
}

int ex_accounts_revoke_key(struct ex_accounts *a, int64_t id, struct ex_err *err, struct ex_api_key *ret)
{
	struct ex_api_key row = {.id = 0};
	ex_lock_take(&a->lock);
	for (size_t i = 0; i < a->rows.n_keys; i++)
		if (a->rows.key[i].id == id)
			row = a->rows.key[i];
	ex_lock_give(&a->lock);
	if (!row.id)
		return ex_err_set(err, -ENOENT, "there is no key %lld", (long long)id);
	int rc = 0;
	if (!row.revoked_us) {
		row.revoked_us = (int64_t)ex_realtime_us();
		rc = change(a, set_key, &row, err);
	}
	if (rc == 0)
		*ret = row;
	return rc;
}

static int add_tariff(void *ctx, struct ex_store *s, struct ex_err *err)
{
	return s->ops->add_tariff(s, ctx, err);
}

int ex_accounts_add_tariff(struct ex_accounts *a, struct ex_tariff *t, struct ex_err *err)
{
	const int64_t now_us = (int64_t)ex_realtime_us();
	struct ex_tariff last;
	if (!*t->model || !ex_utf8_valid(t->model, strlen(t->model)) || !ex_currency_valid(t->currency))
		return ex_err_set(err, -EINVAL, "a tariff is for a model, in a currency of three capital letters");
	if (t->hit < 0 || t->miss < 0 || t->completion < 0 || t->hit > t->miss || t->miss > EX_PRICE_MAX ||
		t->completion > EX_PRICE_MAX)
		return ex_err_set(
			err, -EINVAL, "prices are not below zero, and a cached token costs no more than another");
	if (!t->from_us)
		t->from_us = now_us;
	if (t->from_us < now_us - (int64_t)(EX_NS_PER_S * 60 / 1000))
		return ex_err_set(err, -EINVAL, "a tariff cannot begin in the past: requests were charged then");
	if (ex_accounts_tariff(a, t->model, INT64_MAX, &last) && last.from_us >= t->from_us)
		return ex_err_set(err, -EINVAL,
			"the tariff %lld of model '%s' begins then or later: a new one can only follow it",
			(long long)last.id, t->model);
	int rc = change(a, add_tariff, t, err);
	return rc == -EEXIST ? ex_err_set(err, rc, "there is a tariff from that instant on already") : rc;
}
