/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/accounts: keys are known by their digest only, what one process changes another finds, tariffs only follow. */
#include "ledger_ops.h"

#include "base/clock.h"
#include "base/str.h"
#include "gateway/accounts.h"

static char dir[32], path[PATH_MAX], store[PATH_MAX + 8];

struct side {
	struct ex_ledger *ledger;
	struct ex_store *reader;
	struct ex_accounts *accounts;
};

static struct side open_side(void)
{
	struct ex_err err = EX_ERR_INIT;
	struct side s = {.ledger = open_ledger(store)};
	EXPECT_OK(err, ex_store_open(store, &err, &s.reader));
	EXPECT_OK(err, ex_accounts_new(s.ledger, s.reader, &err, &s.accounts));
	return s;
}

static void close_side(struct side *s)
{
	ex_accounts_free(s->accounts);
	ex_store_close(s->reader);
	ex_ledger_close(s->ledger);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, SCRATCH_DIR);
	make_dir(dir);
	snprintf(store, sizeof store, "sqlite:%s", path_in(dir, "ledger.db", path));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_dir(dir);
	return 0;
}

static void test_names(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_account a, b;
	struct side s = open_side();
	EXPECT_OK(err, ex_accounts_create(s.accounts, "acme", "standard", &err, &a));
	assert_int_equal(ex_accounts_create(s.accounts, "acme", "standard", &err, &b), -EEXIST);
	assert_int_equal(ex_accounts_create(s.accounts, "", "standard", &err, &b), -EINVAL);
	assert_int_equal(ex_accounts_create(s.accounts, "a b", "standard", &err, &b), -EINVAL);
	assert_int_equal(ex_accounts_create(s.accounts, "b", "no tier", &err, &b), -EINVAL);
	EXPECT_OK(err, ex_accounts_create(s.accounts, "zeta", "gold", &err, &b));
	assert_true(b.id > a.id);
	assert_true(ex_accounts_find(s.accounts, "zeta", &a));
	assert_string_equal(a.tier, "gold");
	EXPECT_OK(err, ex_accounts_change(s.accounts, "zeta", NULL, 1, &err, &a));
	assert_true(ex_accounts_at(s.accounts, b.id, &a));
	assert_true(a.suspended);
	assert_int_equal(ex_accounts_change(s.accounts, "nobody", NULL, 1, &err, &a), -ENOENT);
	close_side(&s);
	s = open_side();
	assert_true(ex_accounts_find(s.accounts, "zeta", &a));
	assert_true(a.suspended);
	close_side(&s);
}

/* No byte of the secret is in any file of the store. */
static void expect_unwritten(const char *secret)
{
	static const char *const files[] = {"ledger.db", "ledger.db-wal"};
	for (size_t i = 0; i < EX_ARRAY_LEN(files); i++) {
		EX_CLEANUP(ex_freep) char *text = NULL;
		struct ex_err err = EX_ERR_INIT;
		size_t n;
		if (ex_read_file(path_in(dir, files[i], path), 64 << 20, &err, &text, &n) == 0)
			assert_null(memmem(text, n, secret + 3, 16));
	}
}

static void test_keys(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_account a;
	struct ex_api_key k, other;
	char secret[EX_API_KEY_TEXT_MAX], second[EX_API_KEY_TEXT_MAX];
	int64_t id;
	struct side s = open_side(), t = open_side();
	EXPECT_OK(err, ex_accounts_create(s.accounts, "acme", "standard", &err, &a));
	EXPECT_OK(err, ex_accounts_add_key(s.accounts, "acme", "first", &err, &k, secret));
	EXPECT_OK(err, ex_accounts_add_key(s.accounts, "acme", "", &err, &other, second));
	assert_int_equal(strlen(secret), 67);
	assert_memory_equal(secret, "sk-", 3);
	assert_string_not_equal(secret, second);
	assert_string_equal(k.tail, secret + 63);
	expect_unwritten(secret);
	assert_int_equal(ex_accounts_of_key(s.accounts, secret, &a, &id), 0);
	assert_string_equal(a.name, "acme");
	assert_int_equal(id, k.id);
	assert_int_equal(ex_accounts_of_key(t.accounts, secret, &a, &id), -ENOENT);
	EXPECT_OK(err, ex_accounts_refresh(t.accounts, &err));
	assert_int_equal(ex_accounts_of_key(t.accounts, secret, &a, &id), 0);
	second[10] ^= 1;
	assert_int_equal(ex_accounts_of_key(s.accounts, second, &a, &id), -ENOENT);
	assert_int_equal(ex_accounts_of_key(s.accounts, "", &a, &id), -ENOENT);
	EXPECT_OK(err, ex_accounts_revoke_key(t.accounts, k.id, &err, &k));
	assert_true(k.revoked_us > 0);
	assert_int_equal(ex_accounts_of_key(t.accounts, secret, &a, &id), -ENOENT);
	EXPECT_OK(err, ex_accounts_refresh(s.accounts, &err));
	assert_int_equal(ex_accounts_of_key(s.accounts, secret, &a, &id), -ENOENT);
	assert_int_equal(ex_accounts_revoke_key(s.accounts, 999, &err, &k), -ENOENT);
	assert_int_equal(ex_accounts_add_key(s.accounts, "nobody", "", &err, &k, secret), -ENOENT);
	close_side(&s);
	close_side(&t);
}

static struct ex_tariff make_tariff(int64_t from_us, int64_t miss)
{
	return (struct ex_tariff){
		.from_us = from_us, .model = "m", .currency = "USD", .hit = 1, .miss = miss, .completion = 9};
}

static void test_tariffs(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	const int64_t now = (int64_t)ex_realtime_us(), hour = INT64_C(3600000000);
	struct side s = open_side();
	struct ex_tariff t = make_tariff(0, 5), got;
	assert_false(ex_accounts_tariff(s.accounts, "m", now, &got));
	EXPECT_OK(err, ex_accounts_add_tariff(s.accounts, &t, &err));
	t = make_tariff(now + hour, 7);
	EXPECT_OK(err, ex_accounts_add_tariff(s.accounts, &t, &err));
	assert_true(ex_accounts_tariff(s.accounts, "m", (int64_t)ex_realtime_us(), &got));
	assert_int_equal(got.miss, 5);
	assert_true(ex_accounts_tariff(s.accounts, "m", now + hour, &got));
	assert_int_equal(got.miss, 7);
	assert_true(ex_accounts_tariff_at(s.accounts, t.id, &got));
	assert_int_equal(got.miss, 7);
	assert_false(ex_accounts_tariff(s.accounts, "n", now, &got));
	t = make_tariff(now + hour, 8);
	assert_int_equal(ex_accounts_add_tariff(s.accounts, &t, &err), -EINVAL); /* does not follow */
	t = make_tariff(now - hour, 8);
	assert_int_equal(ex_accounts_add_tariff(s.accounts, &t, &err), -EINVAL); /* in the past */
	t = make_tariff(now + 2 * hour, 0);
	assert_int_equal(ex_accounts_add_tariff(s.accounts, &t, &err), -EINVAL); /* a hit costs more than a miss */
	t = make_tariff(now + 2 * hour, 8);
	strcpy(t.currency, "usd");
	assert_int_equal(ex_accounts_add_tariff(s.accounts, &t, &err), -EINVAL);
	close_side(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tariffs, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
