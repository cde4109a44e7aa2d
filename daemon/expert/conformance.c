/* SPDX-License-Identifier: Apache-2.0 */
/* Tries a plugin on random experts and holds it to the reference. Layer L2. */
#include "expert/conformance.h"

#include "base/dtype.h"
#include "base/mem.h"
#include "config.h"
#include "expert/reference.h"
#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define LEAK_ROUNDS_WARM 8
#define LEAK_ROUNDS      32
#define LEAK_RUNS        64 /* in each round */
/* Allowed in all: an allocator keeps some. A leaked shard a round would be 16 MiB, 1 KiB a run 2 MiB. */
#define LEAK_BYTES_MAX ((size_t)2 << 20)

struct suite {
	const struct ex_conformance_opts *o;
	const struct expertd_host *host;
	const char *which;
	struct ex_plugin *plugin;
	const struct expertd_plugin *t;
	struct expertd_device *dev;
	uint32_t n_dtypes, dtype;       /* that load() took; the first of them, 0 without one */
	bool takes[EXPERTD_F8E4M3 + 1]; /* by dtype */
	struct ex_check *check;
};

/* Sets the check's detail; returns `result`. */
static enum ex_check_result say(struct suite *s, enum ex_check_result result, const char *fmt, ...) EX_PRINTF(3, 4);
static enum ex_check_result say(struct suite *s, enum ex_check_result result, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(s->check->detail, sizeof s->check->detail, fmt, ap);
	va_end(ap);
	return result;
}

static const char *default_option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "2" : NULL;
}

static void default_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	(void)fmt;
}

static const struct expertd_host DEFAULT_HOST = {.log = default_log, .option = default_option};

/* --- identity and devices -------------------------------------------------------------------------------------------------- */

static enum ex_check_result check_load(struct suite *s)
{
	struct ex_err err = EX_ERR_INIT;
	if (ex_plugin_open(&s->o->loader, s->o->path, &err, &s->plugin) < 0)
		return say(s, EX_CHECK_FAIL, "%s", ex_err_text(&err));
	s->t = ex_plugin_table(s->plugin);
	return say(s, EX_CHECK_PASS, "ABI %u.%u", s->t->abi_major, s->t->abi_minor);
}

static bool is_plain(const char *text)
{
	size_t n = strnlen(text, 65);
	for (size_t i = 0; i < n; i++)
		if (!isprint((unsigned char)text[i]))
			return false;
	return n > 0 && n < 65;
}

static enum ex_check_result check_names(struct suite *s)
{
	if (!is_plain(s->t->name) || strchr(s->t->name, ' '))
		return say(s, EX_CHECK_FAIL, "name must be 1 to 64 printable characters without a space");
	if (!is_plain(s->t->version))
		return say(s, EX_CHECK_FAIL, "version must be 1 to 64 printable characters");
	if (s->t->flags & ~(uint64_t)(EXPERTD_UNLOADABLE | EXPERTD_BATCH_INVARIANT))
		return say(s, EX_CHECK_FAIL, "flags %#llx holds bits that this ABI does not define",
			(unsigned long long)s->t->flags);
	return say(s, EX_CHECK_PASS, "%s %s", s->t->name, s->t->version);
}

static enum ex_check_result check_probe(struct suite *s)
{
	const char *why = NULL;
	int score = s->t->probe(&why);
	if (score < 0)
		return say(s, EX_CHECK_FAIL, "probe() gave %d: a score is 0 or more", score);
	if (score == 0)
		return say(s, why ? EX_CHECK_SKIP : EX_CHECK_FAIL, "%s", why ? why : "probe() gave 0 and no reason");
	return say(s, EX_CHECK_PASS, "score %d", score);
}

static enum ex_check_result check_open(struct suite *s)
{
	struct expertd_device *none = NULL;
	int rc = s->t->open(s->host, "no-such-device", &none);
	if (rc != -ENODEV || none)
		return say(s, EX_CHECK_FAIL, "open(\"no-such-device\") gave %d instead of -ENODEV", rc);
	rc = s->t->open(s->host, s->which, &s->dev);
	if (rc == -ENODEV)
		return say(s, EX_CHECK_SKIP, "no device %s on this machine", s->which);
	if (rc != 0 || !s->dev)
		return say(s, EX_CHECK_FAIL, "open(\"%s\") gave %d and %s device", s->which, rc, s->dev ? "a" : "no");
	return EX_CHECK_PASS;
}

/* --- numbers ------------------------------------------------------------------------------------------------------------------ */

/* One case: experts, a batch, the reference's answer. */
struct trial {
	struct ex_ref_shape shape;
	struct ex_ref_shard *experts;
	struct ex_ref_batch *batch;
	double *want, *bound;
	size_t n;
};

static void trial_done(struct trial *c)
{
	ex_ref_shard_free(c->experts);
	ex_ref_batch_free(c->batch);
	free(c->want);
	free(c->bound);
}

static int trial_init(
	struct trial *c, const struct ex_ref_shape *shape, uint32_t n_tokens, uint32_t x_dtype, uint32_t chance)
{
	uint64_t seed = shape->d_model * 1009 + n_tokens;
	*c = (struct trial){
		.shape = *shape,
		.experts = ex_ref_shard_new(shape, seed),
		.batch = ex_ref_batch_new(shape, n_tokens, x_dtype, chance, seed + 1),
		.n = (size_t)n_tokens * shape->d_model,
	};
	c->want = ex_calloc(c->n, sizeof *c->want);
	c->bound = ex_calloc(c->n, sizeof *c->bound);
	return c->experts && c->batch && c->want && c->bound ? ex_ref_run(c->experts, c->batch, c->want, c->bound)
							     : -ENOMEM;
}

/* What one run() said, and whether it kept to its own memory. */
static enum ex_check_result check_run(struct suite *s, const struct trial *c, const struct ex_ref_batch *b, int rc)
{
	if (rc != 0)
		return say(s, EX_CHECK_FAIL, "run() of %u tokens gave %d", b->b.n_tokens, rc);
	const char *damage = ex_ref_damage(c->experts, b);
	return damage ? say(s, EX_CHECK_FAIL, "run() of %u tokens overwrote %s", b->b.n_tokens, damage) : EX_CHECK_PASS;
}

static enum ex_check_result compare(struct suite *s, const struct trial *c)
{
	const struct expertd_batch *b = &c->batch->b;
	for (size_t i = 0; i < c->n; i++)
		if (!(fabs((double)b->y[i] - c->want[i]) <= c->bound[i]))
			return say(s, EX_CHECK_FAIL,
				"%u experts of %u x %u, %u tokens (%s): y[%zu][%zu] is %.9g instead of %.9g, allowed "
				"+-%.2g",
				c->shape.n_experts, c->shape.d_model, c->shape.d_ff, b->n_tokens,
				ex_dtype_name(b->x_dtype), i / c->shape.d_model, i % c->shape.d_model, (double)b->y[i],
				c->want[i], c->bound[i]);
	return EX_CHECK_PASS;
}

/* load() with structs that are gone when it returns: only what they point to stays. */
static int load(struct suite *s, const struct trial *c, struct expertd_shard **ret)
{
	size_t bytes = c->shape.n_experts * sizeof(struct expertd_ffn);
	struct expertd_ffn *ffn = ex_alloc_aligned(bytes, 1);
	if (!ffn)
		return -ENOMEM;
	memcpy(ffn, ex_ref_shard_ffn(c->experts), bytes);
	int rc = s->t->load(s->dev, ffn, c->shape.n_experts, ret);
	explicit_bzero(ffn, bytes); /* a memset before free() would be left out */
	free(ffn);
	return rc;
}

/* load, run, compare, unload. SKIP: the dtype is not supported. */
static enum ex_check_result try_one(struct suite *s, const struct trial *c)
{
	struct expertd_shard *shard = NULL;
	int rc = load(s, c, &shard);
	if (rc == -ENOTSUP)
		return say(s, EX_CHECK_SKIP, "load() does not support it (-ENOTSUP)");
	if (rc != 0 || !shard)
		return say(s, EX_CHECK_FAIL, "load() of %u experts of %u x %u gave %d and %s shard", c->shape.n_experts,
			c->shape.d_model, c->shape.d_ff, rc, shard ? "a" : "no");
	enum ex_check_result result = check_run(s, c, c->batch, s->t->run(shard, &c->batch->b));
	if (result == EX_CHECK_PASS)
		result = compare(s, c);
	s->t->unload(shard);
	return result;
}

/* Sizes that are multiples of 8 and not of a panel, and some that are; one row to many; nobody to everybody. A token's chance is of 256.
 * Odd sizes, which no checkpoint has, may be refused. */
static const struct {
	uint32_t n_experts, d_model, d_ff, n_tokens, chance;
	bool is_odd;
} CASES[] = {
	{1, 64, 32, 1, 256, false},
	{4, 128, 64, 7, 100, false},
	{8, 256, 128, 33, 48, false},
	{3, 72, 40, 16, 0, false},
	{2, 200, 136, 5, 200, false},
	{5, 136, 264, 70, 64, false},
	{3, 67, 35, 9, 150, true},
	{2, 1, 1, 3, 200, true},
};

static enum ex_check_result check_parity(struct suite *s, uint32_t dtype)
{
	uint32_t n_run = 0;
	for (size_t i = 0; i < EX_ARRAY_LEN(CASES); i++)
		for (uint32_t x_dtype = EXPERTD_F32; x_dtype <= EXPERTD_BF16; x_dtype++) {
			const struct ex_ref_shape shape = {CASES[i].n_experts, CASES[i].d_model, CASES[i].d_ff, dtype};
			struct trial c;
			int rc = trial_init(&c, &shape, CASES[i].n_tokens, x_dtype, CASES[i].chance);
			enum ex_check_result result = rc < 0 ? say(s, EX_CHECK_SKIP, "out of memory") : try_one(s, &c);
			trial_done(&c);
			if (result == EX_CHECK_FAIL || (result == EX_CHECK_SKIP && n_run == 0))
				return result;
			if (result == EX_CHECK_SKIP && CASES[i].is_odd)
				continue;
			if (result == EX_CHECK_SKIP)
				return say(s, EX_CHECK_FAIL,
					"load() took other shapes of this dtype, but gave -ENOTSUP for %u x %u",
					shape.d_model, shape.d_ff);
			n_run++;
		}
	s->dtype = s->n_dtypes++ ? s->dtype : dtype;
	s->takes[dtype] = true;
	return say(s, EX_CHECK_PASS, "%u batches within the bound of f32", n_run);
}

static enum ex_check_result check_f32(struct suite *s)
{
	return check_parity(s, EXPERTD_F32);
}

static enum ex_check_result check_bf16(struct suite *s)
{
	return check_parity(s, EXPERTD_BF16);
}

static enum ex_check_result check_f16(struct suite *s)
{
	return check_parity(s, EXPERTD_F16);
}

static enum ex_check_result check_f8(struct suite *s)
{
	return check_parity(s, EXPERTD_F8E4M3);
}

/* A trial, of the first dtype that loads when the shape names none, and its shard. */
static enum ex_check_result trial_load(struct suite *s, struct ex_ref_shape shape, uint32_t n_tokens, uint32_t chance,
	struct trial *c, struct expertd_shard **ret)
{
	*c = (struct trial){.n = 0};
	*ret = NULL;
	if (!s->dtype)
		return say(s, EX_CHECK_SKIP, "no dtype loads");
	shape.dtype = shape.dtype ? shape.dtype : s->dtype;
	if (trial_init(c, &shape, n_tokens, EXPERTD_F32, chance) < 0)
		return say(s, EX_CHECK_SKIP, "out of memory");
	int rc = load(s, c, ret);
	if (rc == 0 && *ret)
		return EX_CHECK_PASS;
	return say(s, EX_CHECK_FAIL, "load() gave %d and %s shard", rc, *ret ? "a" : "no");
}

static const struct ex_ref_shape MIDDLING = {.n_experts = 4, .d_model = 136, .d_ff = 72};
static const struct ex_ref_shape LARGE = {
	.n_experts = 8, .d_model = 128, .d_ff = 168}; /* 512 KiB of one-byte weights */

static enum ex_check_result check_dtypes(struct suite *s)
{
	if (s->n_dtypes == 0)
		return say(s, EX_CHECK_FAIL, "load() takes no dtype at all");
	return say(s, EX_CHECK_PASS, "%u of 4", s->n_dtypes);
}

static enum ex_check_result check_empty_batch(struct suite *s)
{
	static const uint32_t offset[5] = {0};
	struct trial c;
	struct expertd_shard *shard;
	enum ex_check_result result = trial_load(s, MIDDLING, 1, 256, &c, &shard);
	if (result == EX_CHECK_PASS) {
		struct expertd_batch b = c.batch->b;
		b.offset = offset;
		b.n_tokens = b.n_assignments = 0;
		int rc = s->t->run(shard, &b);
		const char *damage = ex_ref_damage(c.experts, c.batch);
		if (rc != 0)
			result = say(s, EX_CHECK_FAIL, "run() of no tokens gave %d", rc);
		else if (damage)
			result = say(s, EX_CHECK_FAIL, "run() of no tokens overwrote %s", damage);
		s->t->unload(shard);
	}
	trial_done(&c);
	return result;
}

static enum ex_check_result compare_alone(struct suite *s, const struct trial *c, struct expertd_shard *shard)
{
	size_t row = c->shape.d_model * sizeof(float);
	for (uint32_t t = 0; t < c->batch->b.n_tokens; t++) {
		EX_CLEANUP(ex_ref_batch_freep) struct ex_ref_batch *one = ex_ref_batch_of_token(&c->shape, c->batch, t);
		if (!one)
			return say(s, EX_CHECK_SKIP, "out of memory");
		enum ex_check_result result = check_run(s, c, one, s->t->run(shard, &one->b));
		if (result != EX_CHECK_PASS)
			return result;
		if (memcmp(one->y, c->batch->y + (size_t)t * c->shape.d_model, row) != 0)
			return say(s, EX_CHECK_FAIL, "%s: token %u alone differs in bits from itself in a batch of %u",
				ex_dtype_name(c->shape.dtype), t, c->batch->b.n_tokens);
	}
	return EX_CHECK_PASS;
}

static enum ex_check_result try_invariance(struct suite *s, uint32_t dtype, uint32_t n_tokens)
{
	struct trial c;
	struct expertd_shard *shard;
	struct ex_ref_shape shape = MIDDLING;
	shape.dtype = dtype;
	enum ex_check_result result = trial_load(s, shape, n_tokens, 120, &c, &shard);
	if (result == EX_CHECK_PASS) {
		result = check_run(s, &c, c.batch, s->t->run(shard, &c.batch->b));
		if (result == EX_CHECK_PASS)
			result = compare_alone(s, &c, shard);
		s->t->unload(shard);
	}
	trial_done(&c);
	return result;
}

/* Kernels are chosen by dtype and by rows: a few rows an expert, and more than a large tile has. */
static enum ex_check_result check_invariance(struct suite *s)
{
	static const uint32_t n_tokens[] = {23, 150};
	if (!(s->t->flags & EXPERTD_BATCH_INVARIANT))
		return say(s, EX_CHECK_SKIP, "EXPERTD_BATCH_INVARIANT is not claimed");
	if (!s->dtype)
		return say(s, EX_CHECK_SKIP, "no dtype loads");
	enum ex_check_result result = EX_CHECK_PASS;
	for (uint32_t dtype = EXPERTD_F32; dtype <= EXPERTD_F8E4M3; dtype++)
		for (size_t i = 0; s->takes[dtype] && i < EX_ARRAY_LEN(n_tokens) && result == EX_CHECK_PASS; i++)
			result = try_invariance(s, dtype, n_tokens[i]);
	return result;
}

/* --- errors, threads, leaks ----------------------------------------------------------------------------------------------------- */

static enum ex_check_result check_refusals(struct suite *s)
{
	const struct ex_ref_shape shape = {1, 64, 32, EXPERTD_F32};
	EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *experts = ex_ref_shard_new(&shape, 1);
	if (!experts)
		return say(s, EX_CHECK_SKIP, "out of memory");
	const struct expertd_ffn good = *ex_ref_shard_ffn(experts);
	struct expertd_ffn dtype = good, act = good;
	dtype.up.dtype = 99;
	act.act = 99;
	const struct {
		const char *what;
		struct expertd_device *dev;
		const struct expertd_ffn *ffn;
		int want; /* 0: any error */
	} row[] = {
		{"an unknown dtype", s->dev, &dtype, -ENOTSUP},
		{"an unknown activation", s->dev, &act, -ENOTSUP},
		{"a NULL device", NULL, &good, 0},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct expertd_shard *shard = NULL;
		int rc = s->t->load(row[i].dev, row[i].ffn, 1, &shard);
		if (rc >= 0 || (row[i].want && rc != row[i].want))
			return say(s, EX_CHECK_FAIL, "load() with %s gave %d instead of %s", row[i].what, rc,
				row[i].want ? "-ENOTSUP" : "an error");
		if (shard)
			return say(s, EX_CHECK_FAIL, "load() with %s failed, and set *ret", row[i].what);
	}
	return EX_CHECK_PASS;
}

struct side {
	struct suite *s;
	struct trial c;
	struct expertd_shard *shard;
	int rc;
};

static void *run_side(void *arg)
{
	struct side *k = arg;
	for (int i = 0; i < 20 && k->rc == 0; i++)
		k->rc = k->s->t->run(k->shard, &k->c.batch->b);
	return NULL;
}

/* Runs both sides at once. */
static enum ex_check_result run_both(struct suite *s, struct side side[2])
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, run_side, &side[1]) != 0)
		return say(s, EX_CHECK_SKIP, "no thread to be had");
	run_side(&side[0]);
	pthread_join(thread, NULL);
	enum ex_check_result result = EX_CHECK_PASS;
	for (int i = 0; i < 2 && result == EX_CHECK_PASS; i++)
		if ((result = check_run(s, &side[i].c, side[i].c.batch, side[i].rc)) == EX_CHECK_PASS)
			result = compare(s, &side[i].c);
	return result;
}

/* Two shards of one device at once, from two threads. */
static enum ex_check_result check_parallel(struct suite *s)
{
	struct side side[2] = {{.s = s}, {.s = s}};
	enum ex_check_result result = trial_load(s, MIDDLING, 9, 128, &side[0].c, &side[0].shard);
	if (result == EX_CHECK_PASS)
		result = trial_load(s, MIDDLING, 14, 90, &side[1].c, &side[1].shard);
	if (result == EX_CHECK_PASS)
		result = run_both(s, side);
	for (int i = 0; i < 2; i++) {
		if (side[i].shard)
			s->t->unload(side[i].shard);
		trial_done(&side[i].c);
	}
	return result;
}

static enum ex_check_result load_and_unload(struct suite *s, const struct trial *c)
{
	struct expertd_shard *shard = NULL;
	int rc = load(s, c, &shard);
	if (rc != 0 || !shard)
		return say(s, EX_CHECK_FAIL, "load() gave %d and %s shard when repeated", rc, shard ? "a" : "no");
	for (int i = 0; i < LEAK_RUNS && rc == 0; i++)
		rc = s->t->run(shard, &c->batch->b);
	s->t->unload(shard);
	return rc != 0 ? say(s, EX_CHECK_FAIL, "run() gave %d when repeated", rc) : EX_CHECK_PASS;
}

static enum ex_check_result check_leaks(struct suite *s)
{
#ifdef EX_SANITIZED
	return say(s, EX_CHECK_SKIP,
		"this build has a sanitizer, which keeps freed memory: the resident size says nothing");
#endif
	size_t before = 0, after;
	struct trial c;
	struct expertd_shard *shard;
	enum ex_check_result result = trial_load(s, LARGE, 1, 256, &c, &shard);
	if (shard)
		s->t->unload(shard);
	for (int i = 0; i < LEAK_ROUNDS_WARM + LEAK_ROUNDS && result == EX_CHECK_PASS; i++) {
		result = load_and_unload(s, &c);
		if (i + 1 == LEAK_ROUNDS_WARM)
			before = ex_mem_resident();
	}
	after = ex_mem_resident();
	trial_done(&c);
	if (result == EX_CHECK_PASS && after > before + LEAK_BYTES_MAX)
		return say(s, EX_CHECK_FAIL, "memory grew by %zu KiB over %d rounds of load, %d runs, unload",
			(after - before) >> 10, LEAK_ROUNDS, LEAK_RUNS);
	return result;
}

/* Entries of a folder of /proc: threads, descriptors. */
static unsigned count_entries(const char *path)
{
	unsigned n = 0;
	DIR *d = opendir(path);
	if (!d)
		return 0;
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* close() joins the plugin's threads and closes its files; then the device opens anew. Leaves it closed. */
static enum ex_check_result check_close(struct suite *s)
{
	unsigned before = 0, fds_before = 0;
	for (int i = 0; i < 4; i++) {
		if (!s->dev && (s->t->open(s->host, s->which, &s->dev) != 0 || !s->dev))
			return say(s, EX_CHECK_FAIL, "open() fails after close()");
		s->t->close(s->dev);
		s->dev = NULL;
		unsigned n = count_entries("/proc/self/task"), fds = count_entries("/proc/self/fd");
		if (i && n > before)
			return say(s, EX_CHECK_FAIL, "%u threads after close(), %u after the close() before it", n,
				before);
		if (i && fds > fds_before)
			return say(s, EX_CHECK_FAIL, "%u open files after close(), %u after the close() before it", fds,
				fds_before);
		before = n;
		fds_before = fds;
	}
	return EX_CHECK_PASS;
}

/* dlclose, and all over again. */
static enum ex_check_result check_reload(struct suite *s)
{
	struct ex_err err = EX_ERR_INIT;
	bool unloadable = s->t->flags & EXPERTD_UNLOADABLE;
	s->t = NULL;
	s->plugin = ex_plugin_unref(s->plugin);
	if (ex_plugin_open(&s->o->loader, s->o->path, &err, &s->plugin) < 0)
		return say(s, EX_CHECK_FAIL, "%s", ex_err_text(&err));
	s->t = ex_plugin_table(s->plugin);
	return say(s, EX_CHECK_PASS, "%s", unloadable ? "unloaded in between" : "stays mapped");
}

/* --- the suite -------------------------------------------------------------------------------------------------------------------- */

enum gate { ALWAYS, NEEDS_TABLE, NEEDS_DEVICE };

static const struct {
	const char *name;
	enum gate gate;
	enum ex_check_result (*fn)(struct suite *s);
} CHECKS[] = {
	{"load", ALWAYS, check_load},
	{"names", NEEDS_TABLE, check_names},
	{"probe", NEEDS_TABLE, check_probe},
	{"open", NEEDS_TABLE, check_open},
	{"parity f32", NEEDS_DEVICE, check_f32},
	{"parity bf16", NEEDS_DEVICE, check_bf16},
	{"parity f16", NEEDS_DEVICE, check_f16},
	{"parity f8e4m3", NEEDS_DEVICE, check_f8},
	{"dtypes", NEEDS_DEVICE, check_dtypes},
	{"empty batch", NEEDS_DEVICE, check_empty_batch},
	{"batch invariance", NEEDS_DEVICE, check_invariance},
	{"refusals", NEEDS_DEVICE, check_refusals},
	{"parallel shards", NEEDS_DEVICE, check_parallel},
	{"leaks", NEEDS_DEVICE, check_leaks},
	{"close", NEEDS_DEVICE, check_close},
	{"reload", NEEDS_TABLE, check_reload},
};

unsigned ex_conformance_run(const struct ex_conformance_opts *o)
{
	unsigned n_failed = 0;
	bool unfit = false;
	struct suite s = {.o = o, .host = o->host ? o->host : &DEFAULT_HOST, .which = o->which ? o->which : "0"};
	for (size_t i = 0; i < EX_ARRAY_LEN(CHECKS); i++) {
		struct ex_check c = {.result = EX_CHECK_BEGINS};
		snprintf(c.name, sizeof c.name, "%s", CHECKS[i].name);
		s.check = &c;
		o->report(o->ctx, &c);
		if (unfit || (CHECKS[i].gate >= NEEDS_TABLE && !s.t) || (CHECKS[i].gate == NEEDS_DEVICE && !s.dev))
			c.result = say(&s, EX_CHECK_SKIP, "the plugin did not come so far");
		else
			c.result = CHECKS[i].fn(&s);
		unfit |= CHECKS[i].fn == check_probe && c.result != EX_CHECK_PASS;
		n_failed += c.result == EX_CHECK_FAIL;
		o->report(o->ctx, &c);
	}
	if (s.dev)
		s.t->close(s.dev);
	ex_plugin_unref(s.plugin);
	return n_failed;
}
