/* SPDX-License-Identifier: Apache-2.0 */
/* How near the cpu plugin's experts come to the machine: weights read per second at one row against its read bandwidth, arithmetic at 64 and 512 rows
 * against its fused multiply-add peak, all measured in the same run, in turn, round after round. Figures are medians over the rounds; a ratio
 * is the median of the rounds' ratios.
 *
 * bench_ffn [--json] [--plugin FILE] [--isa NAME] [--d-model N] [--d-ff N] [--mib N] [--rounds N] */
#include "base/clock.h"
#include "base/dtype.h"
#include "base/mem.h"
#include "expert/loader.h"
#include "expert/reference.h"
#include "peak.h"
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define ROUNDS_MAX 99

struct options {
	const char *plugin, *isa;
	uint32_t d_model, d_ff, mib, rounds;
	bool json;
};

static const uint32_t DTYPES[] = {EXPERTD_BF16, EXPERTD_F8E4M3, EXPERTD_F32};
static const unsigned THREADS[] = {1, 2};
static const uint32_t ROWS[] = {1, 64, 512};
#define CELLS (EX_ARRAY_LEN(DTYPES) * EX_ARRAY_LEN(THREADS) * EX_ARRAY_LEN(ROWS))

/* One line of the table. */
struct cell {
	uint32_t dtype, rows, n_experts; /* rows go to each of n_experts */
	unsigned threads;
	struct ex_ref_batch *batch;
	struct expertd_shard *shard;
	double rate[ROUNDS_MAX], ratio[ROUNDS_MAX]; /* GB/s at one row, else GFLOP/s; against the round's limit */
};

struct bench {
	struct options o;
	const struct expertd_plugin *t;
	struct cell cell[CELLS];
	struct peak_buffer *memory;
	double cpu_ns, wall_ns; /* of the runs on one thread: what of the time they had a processor */
	double read[EX_ARRAY_LEN(THREADS)][ROUNDS_MAX], fma[EX_ARRAY_LEN(THREADS)][ROUNDS_MAX]; /* GB/s, GFLOP/s */
};

struct host_ctx {
	const char *isa;
	unsigned threads;
	char text[16];
};

static const char *option(void *ctx, const char *key)
{
	struct host_ctx *h = ctx;
	if (strcmp(key, "isa") == 0)
		return h->isa;
	snprintf(h->text, sizeof h->text, "%u", h->threads);
	return strcmp(key, "threads") == 0 ? h->text : NULL;
}

static void print_log(void *ctx, int priority, const char *fmt, ...) EX_PRINTF(3, 4);
static void print_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static uint64_t expert_bytes(const struct options *o, uint32_t dtype)
{
	return (uint64_t)3 * o->d_model * o->d_ff * ex_dtype_size(dtype);
}

/* At one row every expert is used, so that all weights are read; at many rows as many as fill a fraction of a second. */
static uint32_t experts_for(const struct options *o, uint32_t dtype, uint32_t rows)
{
	uint64_t all = ((uint64_t)o->mib << 20) / expert_bytes(o, dtype);
	uint64_t busy = UINT64_C(4000000000) / ((uint64_t)6 * o->d_model * o->d_ff * rows);
	uint64_t n = rows == 1 ? all : EX_MIN(all, busy);
	return (uint32_t)EX_MAX(n, UINT64_C(1));
}

/* A shard of n experts that are packed from one expert's numbers, each to a place of its own. */
static int load_shard(
	struct bench *b, uint32_t dtype, struct expertd_device *dev, uint32_t n, struct expertd_shard **ret)
{
	const struct ex_ref_shape shape = {1, b->o.d_model, b->o.d_ff, dtype};
	EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *one = ex_ref_shard_new(&shape, 1);
	EX_CLEANUP(ex_freep) struct expertd_ffn *ffn = ex_calloc(n, sizeof *ffn);
	if (!one || !ffn)
		return -ENOMEM;
	for (uint32_t e = 0; e < n; e++)
		ffn[e] = *ex_ref_shard_ffn(one);
	return b->t->load(dev, ffn, n, ret);
}

/* The batch that sends `rows` tokens to the first n_used of n experts. */
static struct ex_ref_batch *make_batch(const struct options *o, uint32_t n, uint32_t n_used, uint32_t rows)
{
	const struct ex_ref_shape shape = {n, o->d_model, o->d_ff, EXPERTD_F32};
	struct ex_ref_batch *b = ex_ref_batch_new(&shape, rows, EXPERTD_F32, 256, 2);
	if (!b)
		return NULL;
	for (uint32_t e = n_used; e < n; e++)
		b->offset[e + 1] = n_used * rows;
	b->b.n_assignments = n_used * rows;
	return b;
}

static int prepare(struct bench *b)
{
	size_t i = 0;
	for (size_t k = 0; k < EX_ARRAY_LEN(DTYPES); k++)
		for (size_t t = 0; t < EX_ARRAY_LEN(THREADS); t++) {
			struct host_ctx h = {.isa = b->o.isa, .threads = THREADS[t]};
			const struct expertd_host host = {.ctx = &h, .log = print_log, .option = option};
			struct expertd_device *dev;
			struct expertd_shard *shard;
			uint32_t n = experts_for(&b->o, DTYPES[k], 1);
			int rc = b->t->open(&host, "0", &dev);
			if (rc == 0)
				rc = load_shard(b, DTYPES[k], dev, n, &shard);
			if (rc < 0)
				return rc;
			for (size_t r = 0; r < EX_ARRAY_LEN(ROWS); r++) {
				struct cell *c = &b->cell[i++];
				c->dtype = DTYPES[k];
				c->threads = THREADS[t];
				c->rows = ROWS[r];
				c->n_experts = experts_for(&b->o, DTYPES[k], ROWS[r]);
				c->shard = shard;
				c->batch = make_batch(&b->o, n, c->n_experts, ROWS[r]);
				if (!c->batch)
					return -ENOMEM;
			}
		}
	return peak_buffer_new((size_t)b->o.mib << 20, &b->memory);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * EX_NS_PER_S + (uint64_t)t.tv_nsec;
}

static int measure_cell(struct bench *b, struct cell *c, uint32_t round)
{
	size_t t = c->threads - 1;
	uint64_t start = ex_now_ns(), cpu_start = cpu_ns();
	int rc = b->t->run(c->shard, &c->batch->b);
	double ns = (double)(ex_now_ns() - start);
	if (c->threads == 1) {
		b->cpu_ns += (double)(cpu_ns() - cpu_start);
		b->wall_ns += ns;
	}
	double bytes = (double)c->n_experts * (double)expert_bytes(&b->o, c->dtype);
	double flop = 6.0 * b->o.d_model * b->o.d_ff * c->n_experts * c->rows;
	c->rate[round] = (c->rows == 1 ? bytes : flop) / ns;
	c->ratio[round] = c->rate[round] / (c->rows == 1 ? b->read[t][round] : b->fma[t][round]);
	return rc;
}

static int measure(struct bench *b)
{
	for (uint32_t round = 0; round < b->o.rounds; round++) {
		for (size_t t = 0; t < EX_ARRAY_LEN(THREADS); t++) {
			b->read[t][round] = peak_read(b->memory, THREADS[t]);
			b->fma[t][round] = peak_fma(THREADS[t]);
		}
		for (size_t i = 0; i < CELLS; i++) {
			int rc = measure_cell(b, &b->cell[i], round);
			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

static int compare(const void *x, const void *y)
{
	const double *a = x, *b = y;
	return *a < *b ? -1 : *a > *b;
}

static double median(const double *v, uint32_t n)
{
	double sorted[ROUNDS_MAX];
	memcpy(sorted, v, n * sizeof *v);
	qsort(sorted, n, sizeof *sorted, compare);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static void print_table(const struct bench *b)
{
	uint32_t n = b->o.rounds;
	printf("%s %s: experts of %u x %u, %u MiB of weights, %u rounds\n", b->t->name, b->t->version, b->o.d_model,
		b->o.d_ff, b->o.mib, n);
	for (size_t t = 0; t < EX_ARRAY_LEN(THREADS); t++)
		printf("machine, %u thread%s: reads %.1f GB/s, multiply-adds %.0f GFLOP/s\n", THREADS[t],
			THREADS[t] > 1 ? "s" : "", median(b->read[t], n), median(b->fma[t], n));
	printf("processor to be had %.0f %% of the time%s\n", 100 * b->cpu_ns / b->wall_ns,
		b->cpu_ns < 0.97 * b->wall_ns ? ": THE MACHINE IS BUSY, the figures say little" : "");
	printf("%-8s %7s %5s %12s %9s\n", "dtype", "threads", "rows", "rate", "of limit");
	for (size_t i = 0; i < CELLS; i++) {
		const struct cell *c = &b->cell[i];
		printf("%-8s %7u %5u %8.1f %s %7.0f %%\n", ex_dtype_name(c->dtype), c->threads, c->rows,
			median(c->rate, n), c->rows == 1 ? "GB/s" : "GF/s", 100 * median(c->ratio, n));
	}
}

static void print_json(const struct bench *b)
{
	uint32_t n = b->o.rounds;
	printf("{\"plugin\": \"%s\", \"version\": \"%s\", \"d_model\": %u, \"d_ff\": %u, \"mib\": %u, \"rounds\": %u, "
	       "\"machine\": [",
		b->t->name, b->t->version, b->o.d_model, b->o.d_ff, b->o.mib, n);
	for (size_t t = 0; t < EX_ARRAY_LEN(THREADS); t++)
		printf("%s{\"threads\": %u, \"read_gb_s\": %.2f, \"fma_gflop_s\": %.1f}", t ? ", " : "", THREADS[t],
			median(b->read[t], n), median(b->fma[t], n));
	printf("], \"ffn\": [");
	for (size_t i = 0; i < CELLS; i++) {
		const struct cell *c = &b->cell[i];
		printf("%s{\"dtype\": \"%s\", \"threads\": %u, \"rows\": %u, \"%s\": %.2f, \"ratio\": %.3f}",
			i ? ", " : "", ex_dtype_name(c->dtype), c->threads, c->rows, c->rows == 1 ? "gb_s" : "gflop_s",
			median(c->rate, n), median(c->ratio, n));
	}
	printf("]}\n");
}

static int read_options(int argc, char **argv, struct options *o)
{
	static const struct option long_options[] = {
		{"json", no_argument, NULL, 'j'},
		{"plugin", required_argument, NULL, 'p'},
		{"isa", required_argument, NULL, 'i'},
		{"d-model", required_argument, NULL, 'd'},
		{"d-ff", required_argument, NULL, 'f'},
		{"mib", required_argument, NULL, 'm'},
		{"rounds", required_argument, NULL, 'r'},
		{NULL, 0, NULL, 0},
	};
	*o = (struct options){.plugin = ".libs/cpu.so", .d_model = 1024, .d_ff = 704, .mib = 256, .rounds = 5};
	for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
		uint32_t n = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
		if (c == 'j')
			o->json = true;
		else if (c == 'p')
			o->plugin = optarg;
		else if (c == 'i')
			o->isa = optarg;
		else if (c == 'd')
			o->d_model = n;
		else if (c == 'f')
			o->d_ff = n;
		else if (c == 'm')
			o->mib = n;
		else if (c == 'r')
			o->rounds = n;
		else
			return -EINVAL;
	}
	bool ok = optind == argc && o->d_model && o->d_model <= 1 << 16 && o->d_ff && o->d_ff <= 1 << 16 && o->mib &&
		  o->mib <= 1 << 16 && o->rounds && o->rounds <= ROUNDS_MAX;
	return ok ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	static struct bench b;
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	if (read_options(argc, argv, &b.o) < 0) {
		fprintf(stderr,
			"usage: bench_ffn [--json] [--plugin FILE] [--isa NAME] [--d-model N] [--d-ff N] [--mib N] "
			"[--rounds 1..%d]\n",
			ROUNDS_MAX);
		return 2;
	}
	const struct ex_loader_opts lo = {.dir = "."};
	if (ex_plugin_open(&lo, b.o.plugin, &err, &p) < 0) {
		fprintf(stderr, "bench_ffn: %s\n", ex_err_text(&err));
		return 1;
	}
	b.t = ex_plugin_table(p);
	int rc = prepare(&b);
	if (rc == 0)
		rc = measure(&b);
	if (rc < 0) {
		fprintf(stderr, "bench_ffn: %s\n", strerror(-rc));
		return 1;
	}
	if (b.o.json)
		print_json(&b);
	else
		print_table(&b);
	return 0;
}
