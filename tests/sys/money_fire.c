/* SPDX-License-Identifier: Apache-2.0 */
/* Money under fire, for g10_money.py: top-ups, requests, cancels and refunds at full speed through the desk, until it is killed; and afterwards the
 * look whether what it was told is there.
 *
 * money_fire run STORE DIR SEED    writes what was acknowledged to DIR/acks, line by line; never ends by itself
 * money_fire check STORE DIR      recovers as a start does, verifies, and compares with DIR/acks. Exit 1: something is not as it was told
 *
 * DIR/acks: "c KEY AMOUNT" a credit, "r KEY AMOUNT" a refund, "f ID COST" a request that ended, "b" all requests
 * since the last "s" are settled, "s" a run begins. */
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/admit_accounts.h"
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define THREADS    4
#define ACCOUNTS   200
#define ROUND      50 /* operations of a thread between two settlements */
#define OWNER      "fire"
#define MODEL      "m"
#define JOURNAL_MS 50
#define SETTLE_US  2000

static struct ex_desk *desk;
static struct ex_admit_accounts *admit;
static pthread_barrier_t barrier;
static char *secret[ACCOUNTS];
static int acks;
static unsigned seed;

static void must(int rc, const char *what, const char *why)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "money_fire: %s: %s\n", what, why && *why ? why : strerrordesc_np(-rc));
	exit(2);
}

static void open_desk(const char *store, const char *dir)
{
	char journal[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	snprintf(journal, sizeof journal, "%s/charges.journal", dir);
	const struct ex_desk_opts o = {.store = store, .owner = OWNER, .journal = journal, .journal_ms = JOURNAL_MS};
	must(ex_desk_open(&o, &err, &desk), "the desk", err.text);
	const struct ex_admit_accounts_opts a = {.desk = desk, .model_name = MODEL, .hold_s = 86400};
	must(ex_admit_accounts_new(&a, &admit), "admission", NULL);
}

/* Until no charge is on its way. */
static void settle(void)
{
	struct ex_charges_stat s;
	do {
		usleep(SETTLE_US);
		ex_charges_stat(ex_desk_charges(desk), &s);
	} while (s.n_waiting);
}

static void ack(const char *fmt, ...) EX_PRINTF(1, 2);
static void ack(const char *fmt, ...)
{
	char line[256];
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(line, sizeof line, fmt, args);
	va_end(args);
	must(write(acks, line, (size_t)n) == n ? 0 : -EIO, "acks", NULL);
}

/* --- run ----------------------------------------------------------------------------------------------------------------- */

/* Accounts, a key for each, and prices: those of an earlier run stay, with keys of this one. */
static void make_accounts(void)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_account a;
	struct ex_api_key k;
	struct ex_accounts *x = ex_desk_accounts(desk);
	struct ex_tariff t = {.model = MODEL, .currency = "USD", .hit = 1, .miss = 10, .completion = 100};
	char name[16], text[EX_API_KEY_TEXT_MAX];
	for (int i = 0; i < ACCOUNTS; i++) {
		snprintf(name, sizeof name, "a%d", i + 1);
		if (!ex_accounts_find(x, name, &a))
			must(ex_accounts_create(x, name, "standard", &err, &a), "an account", err.text);
	}
	for (int i = 0; i < THREADS; i++) {
		snprintf(name, sizeof name, "a%d", i + 1);
		must(ex_accounts_add_key(x, name, "", &err, &k, text), "a key", err.text);
		secret[i] = strdup(text);
	}
	if (!ex_accounts_tariff(x, MODEL, INT64_MAX, &t))
		must(ex_accounts_add_tariff(x, &t, &err), "a tariff", err.text);
}

struct waiter {
	pthread_mutex_t mutex;
	pthread_cond_t there;
	bool done;
	struct ex_ticket *ticket;
};

static void on_answer(void *ctx, const struct ex_admit_answer *r)
{
	struct waiter *w = ctx;
	pthread_mutex_lock(&w->mutex);
	w->ticket = r->ticket;
	w->done = true;
	pthread_cond_signal(&w->there);
	pthread_mutex_unlock(&w->mutex);
}

/* One request, told in pieces; it may be cancelled before it has all its tokens. */
static void make_request(int thread, unsigned *rng, const char *id)
{
	struct waiter w = {.mutex = PTHREAD_MUTEX_INITIALIZER, .there = PTHREAD_COND_INITIALIZER};
	const struct ex_admit *x = ex_admit_accounts_admit(admit);
	const struct ex_admit_ask q = {.key = secret[thread],
		.request_id = id,
		.prompt_tokens = 20,
		.max_tokens = 1 + (uint32_t)rand_r(rng) % 30};
	x->ops->ask(x->ctx, &q, on_answer, &w);
	pthread_mutex_lock(&w.mutex);
	while (!w.done)
		pthread_cond_wait(&w.there, &w.mutex);
	pthread_mutex_unlock(&w.mutex);
	if (!w.ticket)
		return;
	struct ex_usage_tokens u = {.prompt_hit = (uint32_t)rand_r(rng) % 20};
	u.prompt_miss = 20 - u.prompt_hit;
	const uint32_t n = (uint32_t)rand_r(rng) % (q.max_tokens + 1);
	for (; u.completion < n; u.completion++)
		x->ops->progress(x->ctx, w.ticket, &u);
	ack("f %s %u\n", id, u.prompt_hit + 10 * u.prompt_miss + 100 * u.completion);
	x->ops->finish(x->ctx, w.ticket, &u);
}

static void make_credit(unsigned *rng, int thread, const char *id)
{
	const bool own = rand_r(rng) % 2;
	struct ex_ledger_op op = {.txn = {.kind = EX_TXN_CREDIT,
					  .account = own ? thread + 1 : 1 + rand_r(rng) % ACCOUNTS,
					  .currency = "USD",
					  .amount = 1000 + rand_r(rng) % 5000}};
	snprintf(op.name, sizeof op.name, "%s", id);
	if (ex_ledger_do(ex_desk_ledger(desk), &op) < 0)
		return;
	ack("c %s %" PRId64 "\n", id, op.txn.amount);
	if (rand_r(rng) % 4)
		return;
	struct ex_ledger_op back = {
		.txn = {.kind = EX_TXN_REFUND, .amount = 1 + rand_r(rng) % 500}, .of_kind = EX_TXN_CREDIT};
	snprintf(back.name, sizeof back.name, "%s", id);
	snprintf(back.of, sizeof back.of, "%s", id);
	if (ex_ledger_do(ex_desk_ledger(desk), &back) == 0)
		ack("r %s %" PRId64 "\n", id, back.txn.amount);
}

static void *run_thread(void *arg)
{
	const int thread = (int)(intptr_t)arg;
	unsigned rng = seed * THREADS + (unsigned)thread;
	char id[64];
	for (uint64_t i = 0;; i++) {
		snprintf(id, sizeof id, "%u-%d-%" PRIu64, seed, thread, i);
		if (rand_r(&rng) % 3 == 0)
			make_credit(&rng, thread, id);
		else
			make_request(thread, &rng, id);
		if (i % ROUND != ROUND - 1)
			continue;
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
			settle();
			ack("b\n");
		}
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static int run(void)
{
	pthread_t thread[THREADS];
	make_accounts();
	ack("s\n");
	pthread_barrier_init(&barrier, NULL, THREADS);
	puts("running");
	fflush(stdout);
	for (int i = 0; i < THREADS; i++)
		must(-pthread_create(&thread[i], NULL, run_thread, (void *)(intptr_t)i), "a thread", NULL);
	pause();
	return 2;
}

/* --- check --------------------------------------------------------------------------------------------------------------- */

struct fact {
	char id[EX_LEDGER_KEY_MAX + 2]; /* "c:KEY", "r:KEY"; "n:NOTE" of a hold */
	int64_t amount, seq;
	enum ex_txn_kind end; /* of a hold; 0: pending */
};
static void *by_id, *by_seq; /* trees of struct fact */

static int compare_ids(const void *a, const void *b)
{
	return strcmp(((const struct fact *)a)->id, ((const struct fact *)b)->id);
}

static int compare_seqs(const void *a, const void *b)
{
	const struct fact *x = a, *y = b;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static int on_txn(void *ctx, const struct ex_txn *t)
{
	const struct fact want = {.seq = t->ref};
	(void)ctx;
	if (t->kind == EX_TXN_POST || t->kind == EX_TXN_VOID) {
		struct fact *hold = *(struct fact **)tfind(&want, &by_seq, compare_seqs);
		hold->end = t->kind;
		hold->amount = t->amount;
		return 0;
	}
	struct fact *f = calloc(1, sizeof *f);
	must(f ? 0 : -ENOMEM, "check", NULL);
	f->seq = t->seq;
	f->amount = t->amount;
	if (t->kind == EX_TXN_HOLD)
		snprintf(f->id, sizeof f->id, "n:%.100s", t->note);
	else
		snprintf(f->id, sizeof f->id, "%s", t->key);
	tsearch(f, &by_id, compare_ids);
	tsearch(f, &by_seq, compare_seqs);
	return 0;
}

static const struct fact *fact_of(char kind, const char *key)
{
	struct fact want;
	snprintf(want.id, sizeof want.id, "%c:%s", kind, key);
	struct fact *const *at = tfind(&want, &by_id, compare_ids);
	return at ? *at : NULL;
}

/* Which lines have a "b" below them, before the next "s". Free it. */
static bool *find_settled(FILE *f, unsigned *ret_n)
{
	char line[256], *kind = NULL;
	size_t cap = 0, n = 0;
	for (; fgets(line, sizeof line, f); n++) {
		must(ex_grow(&kind, &cap, n + 1, 1), "check", NULL);
		kind[n] = *line;
	}
	bool *settled = ex_calloc(n + 1, sizeof *settled), now = false;
	must(settled ? 0 : -ENOMEM, "check", NULL);
	for (size_t i = n; i-- > 0;) {
		now = kind[i] == 'b' || (kind[i] != 's' && now);
		settled[i] = now;
	}
	free(kind);
	rewind(f);
	*ret_n = (unsigned)n;
	return settled;
}

/* A request that was settled is charged to the nano-unit. Of one that a kill cut short the journal may not have known the last, or anything. */
static bool is_so(char kind, const struct fact *is, int64_t amount, bool settled)
{
	if (!is || kind != 'f')
		return is && is->amount == amount;
	return settled ? is->end == EX_TXN_POST && is->amount == amount : is->end && is->amount <= amount;
}

/* Of the lines of acks, those that are not so. */
static unsigned compare_acks(FILE *f, const bool *settled, unsigned *ret_settled)
{
	char line[256], kind, key[128];
	unsigned n_wrong = 0;
	*ret_settled = 0;
	for (unsigned i = 0; fgets(line, sizeof line, f); i++) {
		long long amount;
		if (sscanf(line, "%c %127s %lld", &kind, key, &amount) != 3)
			continue;
		const struct fact *is = fact_of(kind == 'f' ? 'n' : kind, key);
		const bool good = is_so(kind, is, amount, settled[i]);
		if (!good)
			printf("line %u: %s  is not so: %lld\n", i + 1, line, is ? (long long)is->amount : -1);
		n_wrong += !good;
		*ret_settled += kind == 'f' && settled[i];
	}
	return n_wrong;
}

static int check(const char *store, const char *path)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_ledger_report *r = ex_calloc(1, sizeof *r);
	struct ex_store *s;
	struct ex_store_head head;
	unsigned n, n_settled;
	settle();
	ex_admit_accounts_free(admit);
	ex_desk_close(desk);
	must(ex_store_open(store, &err, &s), "the store", err.text);
	must(ex_ledger_verify(s, &err, r), "verify", err.text);
	for (size_t i = 0; i < EX_MIN(r->n_findings, (size_t)EX_LEDGER_FINDINGS_MAX); i++)
		printf("%s\n", r->finding[i]);
	must(s->ops->begin(s, false, &err, &head), "the store", err.text);
	must(s->ops->each_txn(s, 0, 0, SIZE_MAX, on_txn, NULL, &err), "the store", err.text);
	ex_store_close(s);
	FILE *f = fopen(path, "re");
	must(f ? 0 : -errno, path, NULL);
	bool *settled = find_settled(f, &n);
	unsigned n_wrong = compare_acks(f, settled, &n_settled);
	free(settled);
	fclose(f);
	printf("%" PRId64 " transactions, %zu findings, %" PRId64
	       " holds, %u acknowledgements, %u settled requests, %u wrong\n",
		r->n_txns, r->n_findings, r->n_holds, n, n_settled, n_wrong);
	const bool good = !r->n_findings && !r->n_holds && !n_wrong;
	free(r);
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	char path[PATH_MAX];
	if (argc < 4)
		return 2;
	snprintf(path, sizeof path, "%s/acks", argv[3]);
	acks = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	must(acks < 0 ? -errno : 0, path, NULL);
	open_desk(argv[2], argv[3]);
	if (strcmp(argv[1], "check") == 0)
		return check(argv[2], path);
	seed = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 10) : 1;
	return run();
}
