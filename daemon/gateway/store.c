/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing a store by its name. Layer L4. */
#include "gateway/store.h"

#include <config.h> /* of the build */
#include <string.h>

#define SQLITE   "sqlite:"
#define POSTGRES "postgres:"

static bool is_sqlite(const char *name)
{
	return strncmp(name, SQLITE "/", strlen(SQLITE "/")) == 0;
}

static bool is_postgres(const char *name)
{
	return strncmp(name, POSTGRES, strlen(POSTGRES)) == 0;
}

bool ex_store_known(const char *name)
{
	return is_sqlite(name) || is_postgres(name);
}

int ex_store_open(const char *name, struct ex_err *err, struct ex_store **ret)
{
	if (is_sqlite(name))
		return ex_store_open_sqlite(name + strlen(SQLITE), err, ret);
	if (!is_postgres(name))
		return ex_err_set(err, -EINVAL, "'%.100s' names no store: allowed is " EX_STORE_ALLOWED, name);
#ifdef HAVE_LIBPQ
	return ex_store_open_pg(name + strlen(POSTGRES), err, ret);
#else
	return ex_err_set(err, -ENOTSUP, "this expertd was built without PostgreSQL (libpq)");
#endif
}

struct ex_store *ex_store_close(struct ex_store *s)
{
	return s ? s->ops->close(s) : NULL;
}

const char *ex_txn_kind_name(enum ex_txn_kind kind)
{
	static const char *const names[EX_TXN_KIND_N] = {
		NULL, "credit", "grant", "hold", "post", "void", "timeout", "refund"};
	return (unsigned)kind < EX_TXN_KIND_N && names[kind] ? names[kind] : "?";
}

const char *ex_book_name(enum ex_book book)
{
	static const char *const names[EX_BOOK_N] = {
		"granted", "topped", "held_granted", "held_topped", "payments", "grants", "revenue"};
	return (unsigned)book < EX_BOOK_N ? names[book] : "?";
}
