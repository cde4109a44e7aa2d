/* SPDX-License-Identifier: Apache-2.0 */
/* Accounts, their keys and the tariffs: kept in the store, looked up in memory. Layer L4.
 *
 * Look-ups touch no disk. Changes go through the ledger's writer, and are seen by look-ups when they return; those of other processes on the same
 * store with the next ex_accounts_refresh. A key is 256 random bits, shown once; the store and this process know its SHA-256. */
#ifndef EX_GATEWAY_ACCOUNTS_H
#define EX_GATEWAY_ACCOUNTS_H

#include "gateway/ledger.h"

#define EX_API_KEY_TEXT_MAX 72 /* "sk-", 64 hex digits, NUL */

struct ex_accounts;

/* reader: a handle of its own, borrowed; all that blocks below uses it, and is called by one thread at a time: [desk]. */
int ex_accounts_new(
	struct ex_ledger *ledger, struct ex_store *reader, struct ex_err *err, struct ex_accounts **ret); /* [main] */
struct ex_accounts *ex_accounts_free(struct ex_accounts *a);
/* Takes up what other processes changed. [desk] */
int ex_accounts_refresh(struct ex_accounts *a, struct ex_err *err);

/* --- look-ups [any] -------------------------------------------------------------------------------------------- */

/* Whose key this is. -ENOENT: nobody's, or it was revoked. */
int ex_accounts_of_key(struct ex_accounts *a, const char *key, struct ex_account *ret, int64_t *ret_key_id);
bool ex_accounts_find(struct ex_accounts *a, const char *name, struct ex_account *ret);
bool ex_accounts_at(struct ex_accounts *a, int64_t id, struct ex_account *ret);
/* The tariff of a model that is in force at an instant; false: there is none. */
bool ex_accounts_tariff(struct ex_accounts *a, const char *model, int64_t at_us, struct ex_tariff *ret);
bool ex_accounts_tariff_at(struct ex_accounts *a, int64_t id, struct ex_tariff *ret);
/* All of them, ascending by id; non-zero from fn ends it. fn must not come back here. */
int ex_accounts_each(struct ex_accounts *a, ex_account_fn *fn, void *ctx);
int ex_accounts_each_key(struct ex_accounts *a, ex_api_key_fn *fn, void *ctx);
int ex_accounts_each_tariff(struct ex_accounts *a, ex_tariff_fn *fn, void *ctx);

/* --- changes [desk]: -EINVAL, -EEXIST, -ENOENT say what is wrong; or the store's error ------------------------------ */

int ex_accounts_create(
	struct ex_accounts *a, const char *name, const char *tier, struct ex_err *err, struct ex_account *ret);
/* tier NULL: as it is. suspended -1: as it is. */
int ex_accounts_change(struct ex_accounts *a, const char *name, const char *tier, int suspended, struct ex_err *err,
	struct ex_account *ret);
int ex_accounts_add_key(struct ex_accounts *a, const char *name, const char *label, struct ex_err *err,
	struct ex_api_key *ret, char text[static EX_API_KEY_TEXT_MAX]);
/* One that was revoked before stays so. */
int ex_accounts_revoke_key(struct ex_accounts *a, int64_t id, struct ex_err *err, struct ex_api_key *ret);
/* t->id is set. from_us 0: now. It must follow the model's last one. */
int ex_accounts_add_tariff(struct ex_accounts *a, struct ex_tariff *t, struct ex_err *err);

#endif
