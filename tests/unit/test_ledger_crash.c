/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/ledger under fire: killed at random instants, with a full disk, with a damaged file. An operation that was acknowledged and is not there,
 * one that is there twice, or a finding of the verification fails it. */
#include "ledger_ops.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 10, OPS_MAX = 20000 };

static char dir[32], path[PATH_MAX], store[PATH_MAX + 8];

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

/* --- kill -9 --------------------------------------------------------------------------------------------------------------- */

/* Which operations were acknowledged, in memory that outlives the child. */
struct shared {
	_Atomic uint8_t acked[OPS_MAX];
	_Atomic int n_asked; /* operations below it were asked, perhaps */
};
static struct shared *shared;

static void acknowledge(struct ex_ledger_op *op)
{
	if (op->rc == 0)
		atomic_store(&shared->acked[(size_t)op->ctx], 1);
}

/* Three by three: a credit, a hold of all of it, a post of some. */
static struct ex_ledger_op numbered_op(int i)
{
	const int first = i - i % 3;
	char name[32];
	snprintf(name, sizeof name, "op%d", first);
	return i % 3 == 2 ? make_op(EX_TXN_POST, name, 0, 3)
			  : make_op(i % 3 ? EX_TXN_HOLD : EX_TXN_CREDIT, name, 1 + first % 7, 10);
}

/* Asks operations without end, many at once. Killed from outside. */
static void run_child(int first)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_ledger_opts o = {.store = store};
	struct ex_ledger *l;
	struct ex_ledger_op *op = calloc(OPS_MAX, sizeof *op);
	if (!op || ex_ledger_open(&o, &err, &l) < 0)
		_exit(3);
	for (int i = first; i < OPS_MAX; i++) {
		op[i] = numbered_op(i);
		op[i].done = acknowledge;
		op[i].ctx = (void *)(size_t)i;
		atomic_store(&shared->n_asked, i + 1);
		if (ex_ledger_submit(l, &op[i]) < 0)
			_exit(4);
		if (i % 50 == 49)
			usleep(500);
	}
	for (;;)
		pause();
}

/* Every acknowledged operation is there: asked again it is a replay. Others are done now, so that the next round starts from all of them. */
static void ask_again(int n)
{
	struct ex_ledger *l = open_ledger(store);
	struct ex_ledger_op *op = calloc((size_t)n, sizeof *op);
	assert_non_null(op);
	for (int i = 0; i < n; i++) {
		op[i] = numbered_op(i);
		op[i].done = (void (*)(struct ex_ledger_op *))acknowledge;
		op[i].ctx = (void *)(size_t)i;
	}
	uint8_t *before = malloc((size_t)n + 1);
	assert_non_null(before);
	for (int i = 0; i < n; i++)
		before[i] = atomic_load(&shared->acked[i]);
	for (int i = 0; i < n; i++)
		assert_int_equal(ex_ledger_submit(l, &op[i]), 0);
	ex_ledger_close(l);
	for (int i = 0; i < n; i++) {
		if (op[i].rc)
			fail_msg("operation %d: %d %s", i, op[i].rc, op[i].why);
		if (before[i])
			assert_true(op[i].replayed);
	}
	free(before);
	free(op);
}

static void test_killed(void **state)
{
	(void)state;
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	int n_acked = 0;
	for (int round = 0; round < ROUNDS; round++) {
		int first = atomic_load(&shared->n_asked), status;
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0)
			run_child(first);
		usleep(5000 + (useconds_t)rand_r(&seed) % 80000);
		assert_int_equal(kill(child, SIGKILL), 0);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		struct ex_ledger_report r = expect_clean(store);
		int n = atomic_load(&shared->n_asked);
		assert_true(r.n_txns <= n);
		ask_again(n);
		assert_int_equal(expect_clean(store).n_txns, n); /* each exactly once */
	}
	for (int i = 0; i < OPS_MAX; i++)
		n_acked += atomic_load(&shared->acked[i]);
	assert_int_equal(n_acked, atomic_load(&shared->n_asked));
	assert_true(n_acked > 0);
	munmap(shared, sizeof *shared);
}

/* --- the disk is full ------------------------------------------------------------------------------------------------------ */

/* In a child: with files of at most 300 KiB operations fail after a while; with room again they go on. */
static void fill_disk(void)
{
	struct rlimit limit = {300 << 10, RLIM_INFINITY};
	struct ex_ledger_stat stat;
	char name[32];
	int n_good = 0, rc = 0;
	signal(SIGXFSZ, SIG_IGN);
	struct ex_ledger *l = open_ledger(store);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (; n_good < 5000 && rc == 0; n_good += rc == 0) {
		snprintf(name, sizeof name, "k%d", n_good);
		rc = do_op(l, EX_TXN_CREDIT, name, 1, 7);
	}
	assert_true(rc == -EIO || rc == -ENOSPC);
	ex_ledger_stat(l, &stat);
	assert_false(stat.up);
	assert_true(do_op(l, EX_TXN_CREDIT, name, 1, 7) < 0);
	limit.rlim_cur = RLIM_INFINITY;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (int i = 0; i < 500 && (rc = do_op(l, EX_TXN_CREDIT, name, 1, 7)) < 0; i++)
		usleep(10000);
	assert_int_equal(rc, 0);
	ex_ledger_close(l);
	assert_int_equal(read_purse(store, 1).balance[EX_BOOK_TOPPED], 7 * (n_good + 1));
	assert_int_equal(expect_clean(store).n_txns, n_good + 1);
}

static void test_full(void **state)
{
	(void)state;
	int status;
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		fill_disk();
		_exit(0); /* an assertion that fails ends the process with another status */
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- a damaged file -------------------------------------------------------------------------------------------------------- */

static void overwrite(long at, size_t n)
{
	FILE *f = fopen(path, "r+e");
	assert_non_null(f);
	assert_int_equal(fseek(f, at, SEEK_SET), 0);
	for (size_t i = 0; i < n; i++)
		fputc(0xa5, f);
	assert_int_equal(fclose(f), 0);
}

static void test_damaged(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_ledger_report r;
	struct ex_store *s = NULL;
	char name[32];
	struct ex_ledger *l = open_ledger(store);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "k%d", i);
		do_op(l, EX_TXN_CREDIT, name, 1, 7);
	}
	ex_ledger_close(l);
	overwrite(4096 * 3, 4096 * 10); /* pages of tables */
	int rc = ex_store_open(store, &err, &s);
	if (rc == 0) {
		rc = ex_ledger_verify(s, &err, &r);
		ex_store_close(s);
	}
	assert_int_equal(rc, -EUCLEAN);
	assert_non_null(strstr(err.text, path));
	overwrite(0, 100);
	assert_int_equal(ex_store_open(store, &err, &s), -EUCLEAN);
	assert_non_null(strstr(err.text, path));
}

static void test_strange(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_store *s = NULL;
	assert_int_equal(ex_store_open("sqlite:/nonexistent-dir/x.db", &err, &s), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent-dir/x.db"));
	assert_int_equal(ex_store_open("mysql:x", &err, &s), -EINVAL);
	write_text(dir, "ledger.db",
		"something else, longer than the sixteen bytes of a head, and than a hundred of them, so that it is "
		"looked at, and not taken for an empty file; a few more words to make it so. And more.");
	assert_int_equal(ex_store_open(store, &err, &s), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_strange, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
