/* SPDX-License-Identifier: Apache-2.0 */
/* Golden vectors: for every *.golden beside this file, the model's logits at every position and a greedy continuation
 * against what transformers computed in float32 (generate.py), and bit for bit against themselves when the rows come in
 * other chunks, one at a time, or in other company.
 *
 * Fails when a rule of the architecture is wrong (which moves logits by far more than the tolerance: docs/NUMERICS.md
 * has the figures), when the KV pages are written or read at a wrong place, or when a row's bits depend on the rows
 * beside it. */
#include "unit.h"

#include "base/str.h"
#include "model/synth.h"
#include "rig.h"
#include <dirent.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOLERANCE   2e-4f /* of max |logit|: docs/NUMERICS.md, "Oracle" */
#define ISAS_MAX    3
#define GOLDENS_MAX 32
#define GOLDENS_MIN 9 /* random models; without them the test would pass on nothing */
#define BYTES_MAX   (16 << 20)
#define GROUPS      4 /* shards a layer */

struct golden {
	char name[64];
	uint32_t dtype, seed, n_ids, n_greedy, vocab;
	uint32_t *ids; /* [n_ids + n_greedy]: the sequence, then its greedy continuation */
	float *logits; /* [n_ids, vocab] */
	char *data;    /* the file, which ids and logits point into */
};

static const char *source_dir(void)
{
	const char *dir = getenv("srcdir");
	return dir ? dir : ".";
}

static void read_golden(const char *name, struct golden *ret)
{
	struct ex_err err = EX_ERR_INIT;
	char path[PATH_MAX];
	size_t n;
	uint32_t head[7];
	snprintf(path, sizeof path, "%s/tests/golden/%s.golden", source_dir(), name);
	EXPECT_OK(err, ex_read_file(path, BYTES_MAX, &err, &ret->data, &n));
	assert_true(n >= sizeof head);
	memcpy(head, ret->data, sizeof head);
	assert_memory_equal(ret->data, "EXGOLD1\n", 8);
	snprintf(ret->name, sizeof ret->name, "%s", name);
	ret->dtype = head[2];
	ret->seed = head[3];
	ret->n_ids = head[4];
	ret->n_greedy = head[5];
	ret->vocab = head[6];
	assert_int_equal(n, sizeof head + 4 * ((size_t)ret->n_ids + ret->n_greedy + (size_t)ret->n_ids * ret->vocab));
	assert_in_range(ret->n_ids + ret->n_greedy, 64, RIG_N_CTX);
	ret->ids = (uint32_t *)(ret->data + sizeof head);
	ret->logits = (float *)(ret->ids + ret->n_ids + ret->n_greedy);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

/* Opens the golden's model; a random one is made anew in `scratch` (a mkdtemp template, removed by the caller). */
static struct rig *open_model(const struct golden *g, const char *isa, const char *scratch)
{
	struct ex_err err = EX_ERR_INIT;
	char config[PATH_MAX], dir[PATH_MAX];
	struct rig *rig;
	snprintf(dir, sizeof dir, "%s/tests/models/%s", source_dir(), g->name);
	if (g->dtype) {
		struct ex_synth_opts opts = {.seed = g->seed, .dtype = g->dtype};
		snprintf(config, sizeof config, "%s/tests/golden/configs/%s.json", source_dir(), g->name);
		snprintf(dir, sizeof dir, "%s/%s", scratch, g->name);
		EXPECT_OK(err, ex_model_synth(config, dir, &opts, &err));
	}
	EXPECT_OK(err, rig_open(dir, isa, GROUPS, &err, &rig));
	assert_int_equal(rig_config(rig)->vocab_size, g->vocab);
	return rig;
}

/* Rows first .. first + n - 1 of the golden's sequence, as sequence seq. */
static void fill_rows(const struct golden *g, uint32_t seq, uint32_t first, uint32_t n, struct rig_row *rows)
{
	for (uint32_t i = 0; i < n; i++)
		rows[i] = (struct rig_row){.id = g->ids[first + i], .pos = first + i, .seq = seq};
}

/* The sequence in steps of the given sizes, the last repeated; logits [n_ids, vocab]. company > 0: each step also
 * carries, ahead of and behind our rows, rows of a second sequence (the tokens of ours, backwards, `company` at a
 * time). */
static void run_chunks(struct rig *rig, const struct golden *g, uint32_t seq, const uint32_t *sizes, size_t n_sizes,
	uint32_t company, float *logits)
{
	struct ex_err err = EX_ERR_INIT;
	struct rig_row rows[256];
	float *out = calloc((size_t)256 * g->vocab, sizeof *out);
	uint32_t other = 0;
	assert_non_null(out);
	for (uint32_t first = 0, step = 0; first < g->n_ids; step++) {
		uint32_t n = EX_MIN(sizes[EX_MIN(step, n_sizes - 1)], g->n_ids - first), before = 0, all;
		for (; before < company && other < g->n_ids; before++, other++)
			rows[before] =
				(struct rig_row){.id = g->ids[g->n_ids - 1 - other], .pos = other, .seq = seq + 1};
		fill_rows(g, seq, first, n, rows + before);
		all = before + n;
		for (uint32_t i = 0; i < company && other < g->n_ids; i++, other++)
			rows[all++] =
				(struct rig_row){.id = g->ids[g->n_ids - 1 - other], .pos = other, .seq = seq + 1};
		EXPECT_OK(err, rig_step(rig, rows, all, out, &err));
		memcpy(logits + (size_t)first * g->vocab, out + (size_t)before * g->vocab,
			(size_t)n * g->vocab * sizeof *out);
		first += n;
	}
	free(out);
}

static uint32_t best(const float *logits, uint32_t n)
{
	uint32_t at = 0;
	for (uint32_t i = 1; i < n; i++)
		if (logits[i] > logits[at])
			at = i;
	return at;
}

/* Continues greedily after the sequence that run_chunks left in seq; last: logits [vocab] of its last row. */
static void expect_greedy(struct rig *rig, const struct golden *g, uint32_t seq, const float *last)
{
	struct ex_err err = EX_ERR_INIT;
	float *logits = calloc(g->vocab, sizeof *logits);
	assert_non_null(logits);
	memcpy(logits, last, g->vocab * sizeof *logits);
	for (uint32_t i = 0; i < g->n_greedy; i++) {
		uint32_t id = best(logits, g->vocab), pos = g->n_ids + i;
		if (id != g->ids[pos])
			fail_msg("%s: greedy token %u is %u, transformers has %u", g->name, i, id, g->ids[pos]);
		EXPECT_OK(err, rig_step(rig, &(struct rig_row){.id = id, .pos = pos, .seq = seq}, 1, logits, &err));
	}
	free(logits);
}

/* Worst difference over max |logit| of the golden; fails beyond TOLERANCE, naming the place. */
static float expect_close(const struct golden *g, const float *logits, const char *how)
{
	float max = 0, worst = 0;
	size_t at = 0, n = (size_t)g->n_ids * g->vocab;
	for (size_t i = 0; i < n; i++) {
		float d = fabsf(logits[i] - g->logits[i]);
		max = fmaxf(max, fabsf(g->logits[i]));
		if (!(d <= worst)) { /* also when d is NaN */
			worst = d;
			at = i;
		}
	}
	if (!(worst <= TOLERANCE * max))
		fail_msg("%s, %s: position %zu, token %zu: %g, transformers has %g; %g of max |logit|, allowed %g",
			g->name, how, at / g->vocab, at % g->vocab, logits[at], g->logits[at], worst / max, TOLERANCE);
	return worst / max;
}

static void expect_same_bits(const struct golden *g, const float *a, const float *b, const char *how)
{
	size_t n = (size_t)g->n_ids * g->vocab;
	for (size_t i = 0; i < n; i++)
		if (memcmp(a + i, b + i, sizeof *a) != 0)
			fail_msg("%s: one-shot prefill and %s differ at position %zu, token %zu: %a, %a", g->name, how,
				i / g->vocab, i % g->vocab, a[i], b[i]);
}

struct run {
	char name[64], title[96];
	const char *isa; /* NULL: the machine's best */
};

static void test_golden(void **state)
{
	static const uint32_t whole[] = {128}, odd[] = {7, 1, 13, 31, 3}, single[] = {1};
	const struct run *run = *state;
	struct golden g;
	char scratch[] = "/tmp/expertd-golden-XXXXXX";
	read_golden(run->name, &g);
	assert_non_null(mkdtemp(scratch));
	struct rig *rig = open_model(&g, run->isa, scratch);
	size_t n = (size_t)g.n_ids * g.vocab;
	float *prefill = calloc(n, sizeof *prefill), *other = calloc(n, sizeof *other);
	assert_true(prefill && other);

	run_chunks(rig, &g, 0, whole, EX_ARRAY_LEN(whole), 0, prefill);
	float worst = expect_close(&g, prefill, "one-shot prefill");
	run_chunks(rig, &g, 1, odd, EX_ARRAY_LEN(odd), 0, other);
	expect_same_bits(&g, prefill, other, "chunked prefill");
	run_chunks(rig, &g, 2, odd, EX_ARRAY_LEN(odd), 5, other);
	expect_same_bits(&g, prefill, other, "chunked prefill among another sequence's rows");
	run_chunks(rig, &g, 4, single, EX_ARRAY_LEN(single), 0, other);
	expect_same_bits(&g, prefill, other, "step-by-step decode");
	expect_greedy(rig, &g, 4, other + n - g.vocab);
	expect_greedy(rig, &g, 0, prefill + n - g.vocab);
	print_message("%s: worst difference %.1e of max |logit| at %u positions, %u greedy tokens identical\n",
		run->title, (double)worst, g.n_ids, g.n_greedy);

	free(prefill);
	free(other);
	free(g.data);
	rig_close(rig);
	nftw(scratch, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static bool has_avx2(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); /* f16c came before avx2 */
#else
	return false;
#endif
}

/* Names (without .golden) of the vectors beside this file, in any order; each with the machine's best kernels, with the generic ones,
 * and with AVX2 where it is there. */
static size_t find_runs(struct run *runs, size_t max)
{
	static const char *const isas[] = {NULL, "generic", "avx2"};
	size_t n = 0, n_isas = has_avx2() ? 3 : 2;
	char path[PATH_MAX];
	struct dirent *e;
	snprintf(path, sizeof path, "%s/tests/golden", source_dir());
	DIR *d = opendir(path);
	while (d && n + n_isas <= max && (e = readdir(d))) {
		char *dot = strrchr(e->d_name, '.');
		if (!dot || strcmp(dot, ".golden") != 0)
			continue;
		for (size_t i = 0; i < n_isas; i++, n++) {
			runs[n].isa = isas[i];
			snprintf(runs[n].name, sizeof runs[n].name, "%.*s", (int)(dot - e->d_name), e->d_name);
			snprintf(runs[n].title, sizeof runs[n].title, "%s, %s kernels", runs[n].name,
				isas[i] ? isas[i] : "best");
		}
	}
	if (d)
		closedir(d);
	return n;
}

int main(void)
{
	static struct run runs[ISAS_MAX * GOLDENS_MAX];
	struct CMUnitTest tests[ISAS_MAX * GOLDENS_MAX];
	size_t n = find_runs(runs, EX_ARRAY_LEN(runs));
	if (n < 2 * GOLDENS_MIN) { /* two kinds of kernels at least */
		fprintf(stderr, "test_golden: %zu golden vectors under %s/tests/golden, at least %d are wanted\n", n,
			source_dir(), 2 * GOLDENS_MIN);
		return 1;
	}
	for (size_t i = 0; i < n; i++)
		tests[i] =
			(struct CMUnitTest){.name = runs[i].title, .test_func = test_golden, .initial_state = &runs[i]};
	return _cmocka_run_group_tests("golden", tests, n, NULL, NULL);
}
