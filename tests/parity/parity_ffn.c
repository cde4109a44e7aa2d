/* SPDX-License-Identifier: Apache-2.0 */
/* Experts: ref against the double-precision result, cpu (every instruction set that runs here) against both, and batch
 * invariance of cpu to the bit: a row alone, in any company, on any number of threads. */
#include "plugin_host.h"

#include "base/dtype.h"
#include "base/mem.h"
#include "expert/reference.h"
#include <math.h>

static const char *const ISAS[] = {"generic", "avx2", "avx512"};
static const uint32_t DTYPES[] = {EXPERTD_F32, EXPERTD_BF16, EXPERTD_F16, EXPERTD_F8E4M3};

/* Panels are 8, 16 or 32 wide, tiles up to 8 rows, F8 blocks 128: sizes on, below and above each. */
static const struct {
	uint32_t n_experts, d_model, d_ff, n_tokens, chance;
} SHAPES[] = {
	{1, 1, 1, 1, 256},
	{2, 7, 3, 5, 128},
	{3, 33, 65, 9, 200},
	{4, 64, 32, 1, 128},
	{4, 129, 127, 13, 96},
	{8, 256, 96, 3, 64},
	{5, 160, 264, 37, 80},
	{16, 48, 40, 64, 24},
	{2, 96, 100, 17, 256},
	{3, 40, 24, 6, 0},
};

struct loaded {
	const struct expertd_plugin *t;
	struct expertd_device *dev;
	struct expertd_shard *shard;
};

/* False when this machine cannot run the instruction set. */
static bool load(struct ex_plugin *p, const char *isa, const char *threads, const struct expertd_ffn *ffn, uint32_t n,
	struct loaded *ret)
{
	struct host_options o = {.threads = threads, .isa = isa};
	const struct expertd_host host = host_of(&o);
	ret->t = ex_plugin_table(p);
	if (ret->t->open(&host, "0", &ret->dev) != 0)
		return false;
	assert_int_equal(ret->t->load(ret->dev, ffn, n, &ret->shard), 0);
	return true;
}

static void unload(struct loaded *l)
{
	l->t->unload(l->shard);
	l->t->close(l->dev);
}

static void within(const char *what, const float *got, const double *want, const double *bound, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!(fabs((double)got[i] - want[i]) <= bound[i]))
			fail_msg("%s: element %zu is %.9g instead of %.9g, allowed +-%.3g", what, i, (double)got[i],
				want[i], bound[i]);
}

static void check_alone(const char *what, const struct loaded *l, const struct ex_ref_shape *shape,
	const struct ex_ref_batch *b, const float *y)
{
	for (uint32_t t = 0; t < b->b.n_tokens; t += 1 + b->b.n_tokens / 5) {
		EX_CLEANUP(ex_ref_batch_freep) struct ex_ref_batch *one = ex_ref_batch_of_token(shape, b, t);
		assert_non_null(one);
		assert_int_equal(l->t->run(l->shard, &one->b), 0);
		if (memcmp(one->y, y + (size_t)t * shape->d_model, shape->d_model * sizeof *y) != 0)
			fail_msg("%s: token %u alone differs from itself in a batch of %u", what, t, b->b.n_tokens);
	}
}

static void check_isa(struct ex_plugin *cpu, const char *isa, const struct ex_ref_shape *shape,
	const struct ex_ref_shard *s, struct ex_ref_batch *b, const double *want, const double *bound)
{
	char what[160];
	size_t n = (size_t)b->b.n_tokens * shape->d_model;
	struct loaded one = {0}, three = {0};
	if (!load(cpu, isa, "1", ex_ref_shard_ffn(s), shape->n_experts, &one))
		return;
	assert_true(load(cpu, isa, "3", ex_ref_shard_ffn(s), shape->n_experts, &three));
	snprintf(what, sizeof what, "%s %s x %s, %u experts %ux%u, %u tokens", isa, ex_dtype_name(shape->dtype),
		ex_dtype_name(b->b.x_dtype), shape->n_experts, shape->d_model, shape->d_ff, b->b.n_tokens);
	assert_int_equal(one.t->run(one.shard, &b->b), 0);
	within(what, b->y, want, bound, n);
	float *y = ex_alloc_aligned(n, sizeof *y);
	assert_non_null(y);
	memcpy(y, b->y, n * sizeof *y);
	for (size_t i = 0; i < n; i++)
		b->y[i] = NAN;
	assert_int_equal(three.t->run(three.shard, &b->b), 0);
	if (memcmp(y, b->y, n * sizeof *y) != 0)
		fail_msg("%s: three threads differ from one", what);
	check_alone(what, &three, shape, b, y);
	free(y);
	unload(&one);
	unload(&three);
}

static void check_batch(struct ex_plugin *ref, struct ex_plugin *cpu, const struct ex_ref_shape *shape,
	const struct ex_ref_shard *s, struct ex_ref_batch *b)
{
	size_t n = (size_t)b->b.n_tokens * shape->d_model;
	EX_CLEANUP(ex_freep) double *want = calloc(n, sizeof *want), *bound = calloc(n, sizeof *bound);
	struct loaded l = {0};
	assert_true(want && bound);
	assert_int_equal(ex_ref_run(s, b, want, bound), 0);
	assert_true(load(ref, NULL, "1", ex_ref_shard_ffn(s), shape->n_experts, &l));
	assert_int_equal(l.t->run(l.shard, &b->b), 0);
	unload(&l);
	within("ref", b->y, want, bound, n);
	for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++)
		check_isa(cpu, ISAS[i], shape, s, b, want, bound);
	/* now directly against ref: either may err by its bound */
	for (size_t i = 0; i < n; i++) {
		want[i] = (double)b->y[i];
		bound[i] *= 2;
	}
	assert_true(load(ref, NULL, "1", ex_ref_shard_ffn(s), shape->n_experts, &l));
	assert_int_equal(l.t->run(l.shard, &b->b), 0);
	unload(&l);
	within("ref against cpu", b->y, want, bound, n);
	assert_null(ex_ref_damage(s, b));
}

static void check_case(struct ex_plugin *ref, struct ex_plugin *cpu, const struct ex_ref_shape *shape,
	uint32_t n_tokens, uint32_t chance, uint32_t x_dtype, uint64_t seed)
{
	EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *s = ex_ref_shard_new(shape, seed);
	EX_CLEANUP(ex_ref_batch_freep)
	struct ex_ref_batch *b = ex_ref_batch_new(shape, n_tokens, x_dtype, chance, seed + 1);
	assert_true(s && b);
	check_batch(ref, cpu, shape, s, b);
}

static void test_parity(void **state)
{
	(void)state;
	struct ex_plugin *ref = open_plugin("ref"), *cpu = open_plugin("cpu");
	for (size_t i = 0; i < EX_ARRAY_LEN(SHAPES); i++)
		for (size_t k = 0; k < EX_ARRAY_LEN(DTYPES); k++) {
			const struct ex_ref_shape shape = {
				SHAPES[i].n_experts, SHAPES[i].d_model, SHAPES[i].d_ff, DTYPES[k]};
			uint32_t x_dtype = (i + k) % 2 ? EXPERTD_BF16 : EXPERTD_F32;
			check_case(ref, cpu, &shape, SHAPES[i].n_tokens, SHAPES[i].chance, x_dtype, 1000 * i + k);
		}
	ex_plugin_unref(ref);
	ex_plugin_unref(cpu);
}

/* Sizes by chance, most of them odd, and a dtype for each of gate, up and down. */
static void test_random_shapes(void **state)
{
	(void)state;
	struct ex_plugin *ref = open_plugin("ref"), *cpu = open_plugin("cpu");
	struct ex_ref_rng rng = {.state = 20};
	for (uint64_t i = 0; i < 24; i++) {
		struct ex_ref_shape shape = {
			1 + ex_ref_below(&rng, 6), 1 + ex_ref_below(&rng, 300), 1 + ex_ref_below(&rng, 150), 0};
		uint32_t n_tokens = 1 + ex_ref_below(&rng, 30), chance = ex_ref_below(&rng, 257);
		struct ex_ref_shard *part[3];
		for (int k = 0; k < 3; k++) {
			shape.dtype = DTYPES[ex_ref_below(&rng, 4)];
			part[k] = ex_ref_shard_new(&shape, 3 * i + (uint64_t)k);
			assert_non_null(part[k]);
		}
		struct expertd_ffn *ffn = (struct expertd_ffn *)ex_ref_shard_ffn(part[2]);
		for (uint32_t e = 0; e < shape.n_experts; e++) {
			ffn[e].gate = ex_ref_shard_ffn(part[0])[e].gate;
			ffn[e].up = ex_ref_shard_ffn(part[1])[e].up;
		}
		EX_CLEANUP(ex_ref_batch_freep)
		struct ex_ref_batch *b =
			ex_ref_batch_new(&shape, n_tokens, i % 2 ? EXPERTD_F32 : EXPERTD_BF16, chance, i);
		assert_non_null(b);
		check_batch(ref, cpu, &shape, part[2], b);
		for (int k = 0; k < 3; k++)
			ex_ref_shard_free(part[k]);
	}
	ex_plugin_unref(ref);
	ex_plugin_unref(cpu);
}

/* Rows in a tile, and a tile's remainder, by every number of rows: bits stay. And those of avx512 are those of avx2. */
#define ROWS 20
static void check_every_size(struct ex_plugin *cpu, const char *isa, const struct ex_ref_shape *shape,
	const struct ex_ref_shard *s, struct ex_ref_batch *b, float *alone)
{
	struct loaded l = {0};
	size_t row = shape->d_model * sizeof(float);
	if (!load(cpu, isa, "2", ex_ref_shard_ffn(s), 1, &l))
		return;
	for (uint32_t n = 1; n <= ROWS; n++) {
		const uint32_t offset[2] = {0, n};
		struct expertd_batch part = b->b;
		part.offset = offset;
		part.n_tokens = part.n_assignments = n;
		assert_int_equal(l.t->run(l.shard, &part), 0);
		if (n == 1 && strcmp(isa, "avx512") == 0) /* alone is avx2's still */
			assert_memory_equal(alone, b->y, row);
		for (uint32_t t = 0; t + 1 < n; t++)
			if (memcmp(alone + (size_t)t * shape->d_model, b->y + (size_t)t * shape->d_model, row) != 0)
				fail_msg("%s %s: row %u of %u differs from itself in a smaller batch", isa,
					ex_dtype_name(shape->dtype), t, n);
		memcpy(alone, b->y, n * row);
	}
	unload(&l);
}

static void test_every_batch_size(void **state)
{
	(void)state;
	struct ex_plugin *cpu = open_plugin("cpu");
	static float alone[ROWS * 133];
	for (size_t k = 0; k < EX_ARRAY_LEN(DTYPES); k++) {
		const struct ex_ref_shape shape = {1, 133, 259, DTYPES[k]};
		EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *s = ex_ref_shard_new(&shape, k);
		EX_CLEANUP(ex_ref_batch_freep)
		struct ex_ref_batch *b = ex_ref_batch_new(&shape, ROWS, EXPERTD_F32, 256, 9);
		assert_true(s && b);
		for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++)
			check_every_size(cpu, ISAS[i], &shape, s, b, alone);
	}
	ex_plugin_unref(cpu);
}

/* One token's NaN, infinity or subnormals are its own: what it gives is as ref has it, and no other token's bits move. */
static void poison(struct ex_ref_batch *b, uint32_t d)
{
	float *x = b->x;
	for (uint32_t i = 0; i < d; i++) {
		x[5 * d + i] *= 0x1p-130f;
		x[6 * d + i] *= 0x1p126f; /* products overflow */
	}
	x[2 * d] = NAN;
	x[4 * d + 1] = INFINITY;
	x[7 * d + 3] = -INFINITY;
}

static void test_poisoned_tokens(void **state)
{
	(void)state;
	struct ex_plugin *ref = open_plugin("ref"), *cpu = open_plugin("cpu");
	const struct ex_ref_shape shape = {3, 72, 40, EXPERTD_BF16};
	const size_t row = 72 * sizeof(float);
	EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *s = ex_ref_shard_new(&shape, 1);
	EX_CLEANUP(ex_ref_batch_freep) struct ex_ref_batch *b = ex_ref_batch_new(&shape, 13, EXPERTD_F32, 200, 2);
	static float clean[13 * 72], want[13 * 72];
	assert_true(s && b);
	for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++) {
		EX_CLEANUP(ex_ref_batch_freep)
		struct ex_ref_batch *sick = ex_ref_batch_new(&shape, 13, EXPERTD_F32, 200, 2);
		struct loaded l = {0}, r = {0};
		if (!load(cpu, ISAS[i], "2", ex_ref_shard_ffn(s), 3, &l))
			continue;
		assert_int_equal(l.t->run(l.shard, &b->b), 0);
		memcpy(clean, b->y, sizeof clean);
		poison(sick, 72);
		assert_true(load(ref, NULL, "1", ex_ref_shard_ffn(s), 3, &r));
		assert_int_equal(r.t->run(r.shard, &sick->b), 0);
		memcpy(want, sick->y, sizeof want);
		assert_int_equal(l.t->run(l.shard, &sick->b), 0);
		for (uint32_t t = 0; t < 13; t++) {
			const float *y = sick->y + t * 72;
			bool own = t == 2 || (t >= 4 && t <= 7);
			if (!own && memcmp(y, clean + t * 72, row) != 0)
				fail_msg("%s: token %u caught another's NaN", ISAS[i], t);
			for (uint32_t k = 0; k < 72 && own && t != 6; k++)
				if (isnan(y[k]) != isnan(want[t * 72 + k]) || isinf(y[k]) != isinf(want[t * 72 + k]))
					fail_msg("%s: token %u is %g where ref has %g", ISAS[i], t, (double)y[k],
						(double)want[t * 72 + k]);
		}
		check_alone(ISAS[i], &l, &shape, sick, sick->y);
		unload(&l);
		unload(&r);
	}
	ex_plugin_unref(ref);
	ex_plugin_unref(cpu);
}

/* The bound must be able to fail: a weight left out is seen. */
static void test_bound_is_tight(void **state)
{
	(void)state;
	const struct ex_ref_shape shape = {1, 256, 128, EXPERTD_F32};
	EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *s = ex_ref_shard_new(&shape, 7);
	EX_CLEANUP(ex_ref_batch_freep) struct ex_ref_batch *b = ex_ref_batch_new(&shape, 2, EXPERTD_F32, 256, 8);
	double y[2][512], bound[2][512];
	assert_true(s && b);
	assert_int_equal(ex_ref_run(s, b, y[0], bound[0]), 0);
	float *w = (float *)ex_ref_shard_ffn(s)[0].down.data;
	w[17 * 128 + 5] = 0; /* row 17, term 5 */
	assert_int_equal(ex_ref_run(s, b, y[1], bound[1]), 0);
	assert_true(fabs(y[0][17] - y[1][17]) > bound[0][17]);
	assert_true(y[0][16] == y[1][16]);
}

static void test_refused(void **state)
{
	(void)state;
	static const char *const names[] = {"ref", "cpu"};
	for (size_t i = 0; i < EX_ARRAY_LEN(names); i++) {
		struct ex_plugin *p = open_plugin(names[i]);
		const struct expertd_plugin *t = ex_plugin_table(p);
		struct host_options o = {.threads = "2"};
		const struct expertd_host host = host_of(&o);
		struct expertd_device *dev = NULL;
		struct expertd_shard *shard = NULL;
		const struct ex_ref_shape shape = {2, 32, 16, EXPERTD_F8E4M3};
		EX_CLEANUP(ex_ref_shard_freep) struct ex_ref_shard *s = ex_ref_shard_new(&shape, 3);
		struct expertd_ffn ffn[2];
		assert_int_equal(t->open(&host, "1", &dev), -ENODEV);
		assert_int_equal(t->open(&host, "0", &dev), 0);
		memcpy(ffn, ex_ref_shard_ffn(s), sizeof ffn);
		assert_int_equal(t->load(NULL, ffn, 2, &shard), -EINVAL);
		ffn[1].up.dtype = 9;
		assert_int_equal(t->load(dev, ffn, 2, &shard), -ENOTSUP);
		ffn[1] = ffn[0];
		ffn[1].act = 7;
		assert_int_equal(t->load(dev, ffn, 2, &shard), -ENOTSUP);
		ffn[1] = ffn[0];
		ffn[1].down.rows = 31;
		assert_int_equal(t->load(dev, ffn, 2, &shard), -ENOTSUP);
		ffn[1] = ffn[0];
		ffn[1].gate.scale = NULL;
		assert_int_equal(t->load(dev, ffn, 2, &shard), -EINVAL);
		ffn[1] = ffn[0];
		((uint8_t *)ffn[0].down.data)[3] = 0xff; /* NaN */
		assert_int_equal(t->load(dev, ffn, 2, &shard), -EINVAL);
		assert_null(shard);
		t->close(dev);
		ex_plugin_unref(p);
	}
}

static void test_bad_options(void **state)
{
	(void)state;
	struct ex_plugin *p = open_plugin("cpu");
	struct host_options bad[] = {{"0", NULL}, {"x", NULL}, {"2x", NULL}, {"257", NULL}, {"", NULL}, {"1", "avx9"}};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++) {
		const struct expertd_host host = host_of(&bad[i]);
		struct expertd_device *dev = NULL;
		if (ex_plugin_table(p)->open(&host, "0", &dev) != -EINVAL)
			fail_msg("threads '%s' isa '%s' were taken", bad[i].threads, bad[i].isa ? bad[i].isa : "");
	}
	ex_plugin_unref(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parity),
		cmocka_unit_test(test_random_shapes),
		cmocka_unit_test(test_every_batch_size),
		cmocka_unit_test(test_poisoned_tokens),
		cmocka_unit_test(test_bound_is_tight),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_bad_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
