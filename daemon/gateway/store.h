/* SPDX-License-Identifier: Apache-2.0 */
/* Where the ledger lies: rows, and the interface that SQLite and PostgreSQL stand behind. Layer L4.
 *
 * A store knows nothing of money: it loads and saves rows, whole batches at once, and its transactions are durable when commit returns 0. Who
 * writes holds the one head row from begin to the end, so writers of several processes take turns. A handle is used by one thread at a time;
 * reading beside a writer takes a handle of its own.
 *
 * Errors: -ENOSPC (the disk is full), -EUCLEAN (damaged, or not such a store; err names it), -ENOTCONN (it cannot be reached), -EIO, -ENOMEM.
 * After an error of commit it is unknown whether the batch is there: ask again with the same keys. */
#ifndef EX_GATEWAY_STORE_H
#define EX_GATEWAY_STORE_H

#include "base/err.h"
#include "gateway/money.h"

#define EX_LEDGER_KEY_MAX   128 /* bytes of an idempotency key */
#define EX_LEDGER_OWNER_MAX 64  /* the node that took a hold */
#define EX_LEDGER_NOTE_MAX  256
#define EX_LEDGER_HASH      32 /* SHA-256 */

/* What an amount is taken from or put into. The first four are a customer's and never below zero; the others are the house's, and belong to
 * account EX_ACCOUNT_HOUSE. */
enum ex_book {
	EX_BOOK_GRANTED,
	EX_BOOK_TOPPED,
	EX_BOOK_HELD_GRANTED, /* of pending holds, by where it came from */
	EX_BOOK_HELD_TOPPED,
	EX_BOOK_CUSTOMER_N,
	EX_BOOK_PAYMENTS = EX_BOOK_CUSTOMER_N, /* what was paid in, negative */
	EX_BOOK_GRANTS,                        /* what was given, negative */
	EX_BOOK_REVENUE,
	EX_BOOK_N,
};
#define EX_ACCOUNT_HOUSE 0

/* Numbers are in the store: never reused. */
enum ex_txn_kind {
	EX_TXN_CREDIT = 1, /* payments -> topped */
	EX_TXN_GRANT,      /* grants -> granted */
	EX_TXN_HOLD,       /* granted, then topped -> held */
	EX_TXN_POST,       /* held -> revenue, and what is left back */
	EX_TXN_VOID,       /* held -> back */
	EX_TXN_TIMEOUT,    /* the same, for want of a word in time */
	EX_TXN_REFUND,     /* what another one moved, back */
	EX_TXN_KIND_N,
};

struct ex_txn_tokens {
	uint32_t prompt_hit, prompt_miss, completion, reasoning; /* reasoning: of completion */
};

/* One transaction: immutable. */
struct ex_txn {
	int64_t seq, time_us; /* from 1, without gaps; real time */
	enum ex_txn_kind kind;
	char key[EX_LEDGER_KEY_MAX + 1]; /* unique for ever */
	int64_t account;
	char currency[EX_CURRENCY_MAX];
	int64_t amount; /* above zero; of a post perhaps 0 */
	int64_t ref;    /* seq of the hold that it ends, or of what it refunds; 0 */
	int64_t tariff, api_key;
	int64_t expires_us; /* of a hold */
	struct ex_txn_tokens tokens;
	char owner[EX_LEDGER_OWNER_MAX + 1]; /* of a hold */
	char note[EX_LEDGER_NOTE_MAX + 1];
	int64_t moved[EX_BOOK_N]; /* the entries: what each book got; they sum up to 0 */
	uint8_t hash[EX_LEDGER_HASH];
};

/* What the books of one account hold in one currency: sums of entries. */
struct ex_purse {
	int64_t account;
	char currency[EX_CURRENCY_MAX];
	int64_t balance[EX_BOOK_N];
};

struct ex_store_head {
	int64_t seq;      /* of the last transaction */
	int64_t revision; /* of accounts, keys and tariffs: it grows with each change */
	uint8_t hash[EX_LEDGER_HASH];
};

/* A pending hold: an index of transactions, and who may still end it. */
struct ex_hold {
	int64_t txn, account, expires_us;
	char key[EX_LEDGER_KEY_MAX + 1], owner[EX_LEDGER_OWNER_MAX + 1];
};

/* --- who has accounts, and what is charged --------------------------------------------------------------------- */

#define EX_ACCOUNT_NAME_MAX 64
#define EX_TIER_NAME_MAX    32
#define EX_KEY_LABEL_MAX    64
#define EX_KEY_TAIL         4
#define EX_MODEL_NAME_MAX   128

struct ex_account {
	int64_t id, created_us;
	char name[EX_ACCOUNT_NAME_MAX + 1], tier[EX_TIER_NAME_MAX + 1];
	bool suspended;
};

/* A key that requests are made with. Only its digest is known. */
struct ex_api_key {
	int64_t id, account, created_us, revoked_us; /* revoked_us 0: it is good */
	uint8_t sha256[32];
	char tail[EX_KEY_TAIL + 1]; /* its last characters, to tell keys apart by */
	char label[EX_KEY_LABEL_MAX + 1];
};

/* Prices of a model from an instant on, in nano-units a token. Never changed, only followed. */
struct ex_tariff {
	int64_t id, from_us;
	char model[EX_MODEL_NAME_MAX + 1], currency[EX_CURRENCY_MAX];
	int64_t hit, miss, completion;
};

/* What one key used on one day (UTC) at one tariff. */
struct ex_usage_row {
	int64_t day; /* since the epoch */
	int64_t api_key, tariff, n_requests, hit, miss, completion, reasoning;
	int64_t charged; /* less what was refunded */
};

struct ex_store;
/* Called for each row; non-zero ends the loading, which returns it. */
typedef int ex_txn_fn(void *ctx, const struct ex_txn *t);
typedef int ex_purse_fn(void *ctx, const struct ex_purse *p);
typedef int ex_hold_fn(void *ctx, const struct ex_hold *h);
typedef int ex_account_fn(void *ctx, const struct ex_account *a);
typedef int ex_api_key_fn(void *ctx, const struct ex_api_key *k);
typedef int ex_tariff_fn(void *ctx, const struct ex_tariff *t);
typedef int ex_usage_fn(void *ctx, const struct ex_usage_row *u);

struct ex_store_ops {
	/* A transaction for writing; takes the head. For reading: everything read until the end is of one instant. */
	int (*begin)(struct ex_store *s, bool write, struct ex_err *err, struct ex_store_head *ret);
	int (*commit)(struct ex_store *s, struct ex_err *err);
	void (*rollback)(struct ex_store *s); /* also after an error, also when there is none */

	/* Transactions by key; refunds by what they refund; purses of accounts, in every currency. In no order. */
	int (*find_txns)(
		struct ex_store *s, const char *const *keys, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err);
	int (*find_refunds)(
		struct ex_store *s, const int64_t *refs, size_t n, ex_txn_fn *fn, void *ctx, struct ex_err *err);
	int (*find_purses)(
		struct ex_store *s, const int64_t *accounts, size_t n, ex_purse_fn *fn, void *ctx, struct ex_err *err);

	/* Adds transactions with their entries, notes holds that begin and end with them, replaces purses, sets the head. */
	int (*save)(struct ex_store *s, const struct ex_store_head *head, const struct ex_txn *txns, size_t n_txns,
		const struct ex_purse *purses, size_t n_purses, struct ex_err *err);

	/* All in ascending order. account 0: of all; at most max. */
	int (*each_txn)(struct ex_store *s, int64_t after_seq, int64_t account, size_t max, ex_txn_fn *fn, void *ctx,
		struct ex_err *err);
	int (*each_purse)(struct ex_store *s, ex_purse_fn *fn, void *ctx, struct ex_err *err);
	/* Pending holds. expired_us: only those that expired before; 0: all. owner: only its own; NULL: all. */
	int (*each_hold)(struct ex_store *s, int64_t expired_us, const char *owner, ex_hold_fn *fn, void *ctx,
		struct ex_err *err);

	/* Accounts, keys and tariffs, ascending by id. */
	int (*each_account)(struct ex_store *s, ex_account_fn *fn, void *ctx, struct ex_err *err);
	int (*each_key)(struct ex_store *s, ex_api_key_fn *fn, void *ctx, struct ex_err *err);
	int (*each_tariff)(struct ex_store *s, ex_tariff_fn *fn, void *ctx, struct ex_err *err);
	/* New rows get their ids. -EEXIST: there is one of that name, digest, or model and instant. */
	int (*add_account)(struct ex_store *s, struct ex_account *a, struct ex_err *err);
	int (*add_key)(struct ex_store *s, struct ex_api_key *k, struct ex_err *err);
	int (*add_tariff)(struct ex_store *s, struct ex_tariff *t, struct ex_err *err);
	/* Tier and suspended; revoked_us. */
	int (*set_account)(struct ex_store *s, const struct ex_account *a, struct ex_err *err);
	int (*set_key)(struct ex_store *s, const struct ex_api_key *k, struct ex_err *err);
	/* Ascending by day, key, tariff. */
	int (*each_usage)(
		struct ex_store *s, int64_t account, int64_t since_us, ex_usage_fn *fn, void *ctx, struct ex_err *err);
	struct ex_store *(*close)(struct ex_store *s);
};

/* Backends begin with this. */
struct ex_store {
	const struct ex_store_ops *ops;
};

/* Makes what is not there yet. name: EX_STORE_ALLOWED. -EINVAL: no such kind of store. */
#define EX_STORE_ALLOWED "sqlite:PATH, with an absolute path, or postgres:CONNINFO"
bool ex_store_known(const char *name);
int ex_store_open(const char *name, struct ex_err *err, struct ex_store **ret);
struct ex_store *ex_store_close(struct ex_store *s);
EX_DEFINE_CLEANUP(struct ex_store, ex_store_close)

int ex_store_open_sqlite(const char *path, struct ex_err *err, struct ex_store **ret);
int ex_store_open_pg(const char *conninfo, struct ex_err *err, struct ex_store **ret); /* with libpq only */

const char *ex_txn_kind_name(enum ex_txn_kind kind); /* "credit" */
const char *ex_book_name(enum ex_book book);         /* "held_granted" */

#endif
