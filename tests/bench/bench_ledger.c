/* SPDX-License-Identifier: Apache-2.0 */
/* What the ledger does in a second: admissions (holds) and posts, with 1 and with 64 requests at once, against the fsyncs that the same disk does in
 * the same run. Each request is a hold and, when that is durable, its post; as soon as that is, another one begins.
 *
 * bench_ledger [--json] [--seconds N] [--store NAME] DIR: the store is sqlite:DIR/bench.db unless named; DIR is empty. */
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/ledger.h"
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define AT_ONCE_MAX 64
#define ACCOUNTS    16
#define FSYNC_BYTES 4096
#define RICH        INT64_C(1000000000000000)

static struct ex_ledger *ledger;
static _Atomic bool stop;
static _Atomic uint64_t n_holds, n_posts, n_running;

/* A failure ends the benchmark. */
static void must(int rc, const char *what, const char *why)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench_ledger: %s: %s\n", what, why && *why ? why : strerrordesc_np(-rc));
	exit(1);
}

/* fdatasyncs of one written page a second. */
static double measure_fsync(const char *dir, unsigned ms)
{
	char path[PATH_MAX], page[FSYNC_BYTES] = {1};
	uint64_t start = ex_now_ns(), n = 0, now;
	snprintf(path, sizeof path, "%s/fsync", dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	must(fd < 0 ? -errno : 0, path, NULL);
	do {
		must(pwrite(fd, page, sizeof page, (off_t)(n % 1024) * FSYNC_BYTES) < 0 ? -errno : 0, path, NULL);
		must(fdatasync(fd) < 0 ? -errno : 0, path, NULL);
		n++;
		now = ex_now_ns();
	} while (now - start < ms * EX_NS_PER_MS);
	close(fd);
	unlink(path);
	return (double)n * EX_NS_PER_S / (double)(now - start);
}

struct request {
	struct ex_ledger_op op;
	uint64_t i, n; /* which of those at once; its turn */
};
static struct request request[AT_ONCE_MAX];

static void next_step(struct request *r);

/* [writer] */
static void on_done(struct ex_ledger_op *op)
{
	struct request *r = EX_CONTAINER_OF(op, struct request, op);
	must(op->rc, "an operation", op->why);
	atomic_fetch_add(op->txn.kind == EX_TXN_HOLD ? &n_holds : &n_posts, 1);
	next_step(r);
}

/* Its post after a hold, another hold after a post. */
static void next_step(struct request *r)
{
	const bool post = r->op.txn.kind == EX_TXN_HOLD;
	if (!post && atomic_load(&stop)) {
		atomic_fetch_sub(&n_running, 1);
		return;
	}
	if (post) {
		r->op.txn.kind = EX_TXN_POST;
		r->op.txn.amount = 700;
	} else {
		static _Atomic uint64_t unique;
		r->op = (struct ex_ledger_op){.txn = {.kind = EX_TXN_HOLD,
						      .account = 1 + (int64_t)r->i % ACCOUNTS,
						      .currency = "USD",
						      .amount = 1000}};
		snprintf(r->op.name, sizeof r->op.name, "bench-%" PRIx64 "-%" PRIx64, ex_realtime_us(),
			atomic_fetch_add(&unique, 1));
		strcpy(r->op.txn.owner, "bench");
	}
	r->op.done = on_done;
	must(ex_ledger_submit(ledger, &r->op), "an operation", NULL);
}

/* Holds and posts a second with `at_once` requests. */
static double measure(unsigned at_once, unsigned seconds, double *ret_commits)
{
	struct ex_ledger_stat before, after;
	atomic_store(&stop, false);
	atomic_store(&n_running, at_once);
	ex_ledger_stat(ledger, &before);
	uint64_t start = ex_now_ns(), first = atomic_load(&n_holds) + atomic_load(&n_posts);
	for (unsigned i = 0; i < at_once; i++) {
		request[i] = (struct request){.i = i, .op.txn.kind = EX_TXN_POST};
		next_step(&request[i]);
	}
	sleep(seconds);
	atomic_store(&stop, true);
	while (atomic_load(&n_running))
		usleep(1000);
	double s = (double)(ex_now_ns() - start) / EX_NS_PER_S;
	ex_ledger_stat(ledger, &after);
	*ret_commits = (double)(after.n_commits - before.n_commits) / s;
	return (double)(atomic_load(&n_holds) + atomic_load(&n_posts) - first) / s;
}

static void fill_accounts(void)
{
	for (int i = 1; i <= ACCOUNTS; i++) {
		struct ex_ledger_op op = {
			.txn = {.kind = EX_TXN_CREDIT, .account = i, .currency = "USD", .amount = RICH}};
		snprintf(op.name, sizeof op.name, "bench-%d", i);
		must(ex_ledger_do(ledger, &op), "a credit", op.why);
	}
}

int main(int argc, char **argv)
{
	static const struct option opts[] = {{"json", no_argument, NULL, 'j'},
		{"seconds", required_argument, NULL, 's'}, {"store", required_argument, NULL, 'S'}, {NULL, 0, NULL, 0}};
	struct ex_err err = EX_ERR_INIT;
	unsigned seconds = 5;
	bool json = false;
	char store[PATH_MAX + 16] = "";
	for (int c; (c = getopt_long(argc, argv, "", opts, NULL)) != -1;)
		if (c == 'j')
			json = true;
		else if (c == 's')
			seconds = (unsigned)atoi(optarg);
		else if (c == 'S')
			snprintf(store, sizeof store, "%s", optarg);
		else
			return 2;
	if (optind + 1 != argc || seconds < 1 || seconds > 600)
		return 2;
	if (!*store)
		snprintf(store, sizeof store, "sqlite:%s/bench.db", argv[optind]);
	const struct ex_ledger_opts o = {.store = store};
	must(ex_ledger_open(&o, &err, &ledger), "the ledger", err.text);
	fill_accounts();
	double commits[2], fsyncs = measure_fsync(argv[optind], 500 * seconds);
	double one = measure(1, seconds, &commits[0]), many = measure(AT_ONCE_MAX, seconds, &commits[1]);
	fsyncs = (fsyncs + measure_fsync(argv[optind], 500 * seconds)) / 2; /* before and after: the disk has moods */
	ex_ledger_close(ledger);
	printf(json ? "{\"fsyncs_per_s\": %.0f, \"operations_per_s_at_1\": %.0f, \"operations_per_s_at_64\": %.0f, "
		      "\"commits_per_s_at_1\": %.0f, \"commits_per_s_at_64\": %.0f, \"gain_over_fsync\": %.1f, "
		      "\"gain_over_1\": %.1f}\n"
		    : "fsyncs/s %.0f; operations/s: 1 at once %.0f, 64 at once %.0f (commits/s %.0f and %.0f); 64 at "
		      "once are %.1f "
		      "operations per fsync, and %.1f times 1 at once\n",
		fsyncs, one, many, commits[0], commits[1], many / fsyncs, many / one);
	return 0;
}
