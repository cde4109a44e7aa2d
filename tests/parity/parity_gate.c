/* SPDX-License-Identifier: Apache-2.0 */
/* Routing: against scalar C on random logits; ties, masks, normalisation and NaN by name. And exp, which scores go
 * through, against the C library. */
#include "plugin_host.h"
#include "ref_ops.h"

#include "base/mem.h"
#include "expert/reference.h"
#include "kernels/cpu/kernels.h"
#include <math.h>

#define UNIT    0x1p-24
#define ROWS    50
#define EXPERTS 256

static const char *const ISAS[] = {"generic", "avx2", "avx512"};

struct routing {
	float logits[ROWS * EXPERTS], bias[EXPERTS], weights[ROWS * 16], want_weights[ROWS * 16];
	uint32_t ids[ROWS * 16], want_ids[ROWS * 16];
};

static struct ex_dev *open_dev(const struct ex_ops *ops, const char *threads, const char *isa)
{
	struct host_options o = {.threads = threads, .isa = isa};
	const struct expertd_host host = host_of(&o);
	struct ex_dev *dev = NULL;
	return ops->open(&host, "0", &dev) == 0 ? dev : NULL;
}

static void each_isa(void (*fn)(const struct ex_ops *ops, struct ex_dev *dev, struct routing *r))
{
	struct ex_plugin *p = open_plugin("cpu");
	struct routing *r = ex_calloc(1, sizeof *r);
	const char *why;
	const struct ex_ops *ops = ex_plugin_ops(p, &why);
	assert_true(r && ops);
	for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++) {
		struct ex_dev *dev = open_dev(ops, "3", ISAS[i]);
		if (!dev)
			continue;
		fn(ops, dev, r);
		ops->close(dev);
	}
	free(r);
	ex_plugin_unref(p);
}

static struct ex_gate_batch batch_of(struct routing *r, uint32_t n_experts, uint32_t k, int method, int score)
{
	return (struct ex_gate_batch){
		.logits = r->logits,
		.ids = r->ids,
		.weights = r->weights,
		.n = ROWS,
		.n_experts = n_experts,
		.k = k,
		.n_group = 1,
		.topk_group = 1,
		.method = method,
		.score = score,
		.routed_scale = 1,
	};
}

static void compare(const struct ex_ops *ops, struct ex_dev *dev, struct routing *r, struct ex_gate_batch b)
{
	assert_int_equal(ops->gate(dev, &b), 0);
	b.ids = r->want_ids;
	b.weights = r->want_weights;
	assert_int_equal(ref_ops.gate(NULL, &b), 0);
	for (uint32_t i = 0; i < b.n * b.k; i++) {
		assert_int_equal(r->ids[i], r->want_ids[i]);
		/* a softmax's sum has n_experts terms, the normalising one k */
		double bound = (b.n_experts + b.k + 16) * UNIT * fabs((double)r->want_weights[i]);
		if (!(fabs((double)r->weights[i] - (double)r->want_weights[i]) <= bound))
			fail_msg("weight %u is %.9g instead of %.9g", i, (double)r->weights[i],
				(double)r->want_weights[i]);
	}
}

static void random_isa(const struct ex_ops *ops, struct ex_dev *dev, struct routing *r)
{
	struct ex_ref_rng rng = {.state = 5};
	for (size_t i = 0; i < ROWS * EXPERTS; i++)
		r->logits[i] = ex_ref_uniform(&rng, -6, 6);
	for (size_t i = 0; i < EXPERTS; i++)
		r->bias[i] = ex_ref_uniform(&rng, -1.5f, 0.5f); /* most choices go negative: a mask of 0 would show */
	static const struct {
		uint32_t n, k, n_group, topk_group;
		int method;
		bool norm;
		float scale;
	} row[] = {
		{64, 6, 1, 1, EX_GATE_GREEDY, false, 1},
		{64, 6, 1, 1, EX_GATE_GREEDY, true, 16},
		{60, 1, 1, 1, EX_GATE_GREEDY, true, 3},
		{160, 6, 8, 3, EX_GATE_GROUP_LIMITED_GREEDY, false, 16},
		{160, 6, 8, 3, EX_GATE_GROUP_LIMITED_GREEDY, true, 16},
		{256, 8, 8, 4, EX_GATE_NOAUX_TC, true, 2.5f},
		{16, 4, 4, 2, EX_GATE_NOAUX_TC, true, 2.5f},
		{16, 4, 1, 1, EX_GATE_NOAUX_TC, false, 2.5f},
		{18, 1, 9, 1, EX_GATE_NOAUX_TC, true, 2.5f},
		{8, 8, 2, 2, EX_GATE_NOAUX_TC, true, 1},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		for (int score = EX_SCORE_SOFTMAX; score <= EX_SCORE_SIGMOID; score++) {
			struct ex_gate_batch b = batch_of(r, row[i].n, row[i].k, row[i].method, score);
			b.bias = row[i].method == EX_GATE_NOAUX_TC ? r->bias : NULL;
			b.n_group = row[i].n_group;
			b.topk_group = row[i].topk_group;
			b.norm_topk_prob = row[i].norm;
			b.routed_scale = row[i].scale;
			compare(ops, dev, r, b);
		}
}

static void test_random(void **state)
{
	(void)state;
	each_isa(random_isa);
}

static void expect_ids(const struct routing *r, const uint32_t *want, uint32_t k)
{
	for (uint32_t i = 0; i < k; i++)
		assert_int_equal(r->ids[i], want[i]);
}

static void ties_isa(const struct ex_ops *ops, struct ex_dev *dev, struct routing *r)
{
	/* all equal: the lowest ids */
	memset(r, 0, sizeof *r);
	struct ex_gate_batch b = batch_of(r, 8, 3, EX_GATE_GREEDY, EX_SCORE_SOFTMAX);
	b.n = 1;
	assert_int_equal(ops->gate(dev, &b), 0);
	expect_ids(r, (const uint32_t[]){0, 1, 2}, 3);
	assert_true(r->weights[0] == 0.125f);
	/* a tie for the last place, among higher ones with larger values */
	memcpy(r->logits, (const float[]){1, 2, 1, 2, 1, 5, 1, 1}, 8 * sizeof(float));
	b.k = 4;
	assert_int_equal(ops->gate(dev, &b), 0);
	expect_ids(r, (const uint32_t[]){0, 1, 3, 5}, 4);
	/* equal groups: the lowest group */
	memcpy(r->logits, (const float[]){1, 3, 3, 1, 3, 1, 1, 3}, 8 * sizeof(float));
	b = batch_of(r, 8, 2, EX_GATE_GROUP_LIMITED_GREEDY, EX_SCORE_SOFTMAX);
	b.n = 1;
	b.n_group = 4;
	b.topk_group = 2;
	assert_int_equal(ops->gate(dev, &b), 0);
	expect_ids(r, (const uint32_t[]){1, 2}, 2);
}

static void test_ties(void **state)
{
	(void)state;
	each_isa(ties_isa);
}

/* All biased scores negative: experts outside the chosen groups would win if they were masked with 0 instead of -inf.
 */
static void masks_isa(const struct ex_ops *ops, struct ex_dev *dev, struct routing *r)
{
	memset(r, 0, sizeof *r);
	for (int i = 0; i < 8; i++)
		r->bias[i] = i < 4 ? -3 : -2;
	struct ex_gate_batch b = batch_of(r, 8, 3, EX_GATE_NOAUX_TC, EX_SCORE_SIGMOID);
	b.n = 1;
	b.bias = r->bias;
	b.n_group = 2;
	b.topk_group = 1;
	b.norm_topk_prob = true;
	b.routed_scale = 2.5f;
	assert_int_equal(ops->gate(dev, &b), 0);
	expect_ids(r, (const uint32_t[]){4, 5, 6}, 3);
	/* weights come from the unbiased scores, all 0.5 */
	for (int i = 0; i < 3; i++)
		assert_true(fabsf(r->weights[i] - 2.5f / 3) < 1e-6f);
	/* whatever the logits are, ids are valid and ascend */
	for (int i = 0; i < 8; i++)
		r->logits[i] = i % 2 ? NAN : INFINITY;
	assert_int_equal(ops->gate(dev, &b), 0);
	for (int i = 0; i < 3; i++)
		assert_true(r->ids[i] < 8 && (i == 0 || r->ids[i] > r->ids[i - 1]));
}

static void test_masks(void **state)
{
	(void)state;
	each_isa(masks_isa);
}

static void refused_isa(const struct ex_ops *ops, struct ex_dev *dev, struct routing *r)
{
	memset(r, 0, sizeof *r);
	static const struct {
		uint32_t n, k, n_group, topk_group;
		int method, score;
	} bad[] = {
		{8, 9, 1, 1, EX_GATE_GREEDY, EX_SCORE_SOFTMAX},
		{0, 1, 1, 1, EX_GATE_GREEDY, EX_SCORE_SOFTMAX},
		{8, 0, 1, 1, EX_GATE_GREEDY, EX_SCORE_SOFTMAX},
		{8, 2, 3, 1, EX_GATE_NOAUX_TC, EX_SCORE_SIGMOID},
		{8, 3, 4, 1, EX_GATE_NOAUX_TC, EX_SCORE_SIGMOID},
		{8, 2, 4, 5, EX_GATE_NOAUX_TC, EX_SCORE_SIGMOID},
		{8, 2, 0, 1, EX_GATE_NOAUX_TC, EX_SCORE_SIGMOID},
		{8, 2, 1, 1, 9, EX_SCORE_SIGMOID},
		{8, 2, 1, 1, EX_GATE_GREEDY, 9},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++) {
		struct ex_gate_batch b = batch_of(r, bad[i].n, bad[i].k, bad[i].method, bad[i].score);
		b.n_group = bad[i].n_group;
		b.topk_group = bad[i].topk_group;
		if (ops->gate(dev, &b) != -EINVAL)
			fail_msg("shape %zu was taken", i);
	}
}

static void test_refused(void **state)
{
	(void)state;
	each_isa(refused_isa);
}

/* Distance in units of the last place of the true value; results below FLT_MIN in units of the smallest subnormal. */
static double ulps(float got, double want)
{
	int exponent;
	frexp(want, &exponent);
	return fabs((double)got - want) / ldexp(1, exponent < -125 ? -149 : exponent - 24);
}

static void test_exp(void **state)
{
	(void)state;
	static float x[64], y[64], z[64];
	for (size_t k = 0; k < EX_ARRAY_LEN(ISAS); k++) {
		const char *why;
		const struct ex_kernels *kernels = ex_kernels_get(ISAS[k], &why);
		double worst = 0;
		if (!kernels)
			continue;
		for (float at = -103.9f; at < 88.7f;) {
			for (size_t i = 0; i < EX_ARRAY_LEN(x); i++, at += 0.00071f)
				x[i] = at < 88.7f ? at : 0;
			kernels->exp(x, y, EX_ARRAY_LEN(x));
			for (size_t i = 0; i < EX_ARRAY_LEN(x); i++)
				worst = fmax(worst, ulps(y[i], exp((double)x[i])));
			for (size_t n = 1; n < 20; n += 3) { /* a lane's bits do not depend on its place */
				kernels->exp(x + n, z, n);
				assert_memory_equal(z, y + n, n * sizeof *z);
			}
		}
		print_message("exp %s: within %.3f ulp\n", ISAS[k], worst);
		assert_true(worst <= 1);
		const float special[] = {-INFINITY, -200, 0, 89, 1000, INFINITY, NAN};
		kernels->exp(special, y, 7);
		assert_true(y[0] == 0 && y[1] == 0 && y[2] == 1 && isinf(y[3]) && isinf(y[4]) && isinf(y[5]) &&
			    isnan(y[6]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_ties),
		cmocka_unit_test(test_masks),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_exp),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
