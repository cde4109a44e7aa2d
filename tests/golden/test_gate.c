/* SPDX-License-Identifier: Apache-2.0 */
/* The gate alone against transformers' routers: gate.vectors (generate.py) has the published shapes, and biased scores
 * far below zero, on which a group mask of 0.0 instead of -inf would choose an expert of a dropped group.
 *
 * Fails when an expert is chosen that transformers does not choose, ids are not ascending, or a weight is off. */
#include "unit.h"

#include "base/str.h"
#include "expert/loader.h"
#include "trunk/ops.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define WEIGHT_TOLERANCE 1e-5f /* of the row's greatest: a softmax or sigmoid in f32 is within 1e-6 */
#define BYTES_MAX        (4 << 20)

struct gate_case {
	uint32_t n, n_experts, k, n_group, topk_group, method, score, norm;
	float scale;
};

static const char *host_option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "1" : NULL;
}

static void host_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx, (void)priority, (void)fmt;
}

/* n elements of 4 bytes at *p, which moves past them, in a new device buffer; *p NULL: just the buffer. */
static void *device_copy(const struct ex_ops *ops, struct ex_dev *dev, const char **p, size_t n)
{
	void *buffer;
	assert_int_equal(ops->buffer_new(dev, 4 * n, &buffer), 0);
	if (p) {
		assert_int_equal(ops->upload(dev, buffer, *p, 4 * n), 0);
		*p += 4 * n;
	}
	return buffer;
}

static void compare(
	const struct gate_case *c, size_t case_i, const uint32_t *ids, const float *weights, const char *want)
{
	size_t n = (size_t)c->n * c->k;
	const uint32_t *want_ids = (const uint32_t *)want;
	const float *want_weights = (const float *)(want + 4 * n);
	for (size_t i = 0; i < n; i++)
		if (ids[i] != want_ids[i])
			fail_msg("case %zu, row %zu, choice %zu: expert %u, transformers has %u", case_i, i / c->k,
				i % c->k, ids[i], want_ids[i]);
	for (size_t i = 0; i < n; i++) {
		float max = 0;
		for (size_t j = i / c->k * c->k; j < i / c->k * c->k + c->k; j++)
			max = fmaxf(max, want_weights[j]);
		if (!(fabsf(weights[i] - want_weights[i]) <= WEIGHT_TOLERANCE * max))
			fail_msg("case %zu, row %zu, expert %u: weight %g, transformers has %g", case_i, i / c->k,
				ids[i], weights[i], want_weights[i]);
	}
}

/* Runs the case at p; returns where the next one begins. */
static const char *run_case(const struct ex_ops *ops, struct ex_dev *dev, size_t case_i, const char *p)
{
	struct gate_case c;
	memcpy(&c, p, sizeof c);
	p += sizeof c;
	size_t n = (size_t)c.n * c.k;
	float *logits = device_copy(ops, dev, &p, (size_t)c.n * c.n_experts),
	      *bias = device_copy(ops, dev, &p, c.n_experts);
	uint32_t *ids = device_copy(ops, dev, NULL, n), *host_ids = calloc(n, sizeof *host_ids);
	float *weights = device_copy(ops, dev, NULL, n), *host_weights = calloc(n, sizeof *host_weights);
	struct ex_gate_batch batch = {.logits = logits,
		.bias = c.method == 3 ? bias : NULL,
		.ids = ids,
		.weights = weights,
		.n = c.n,
		.n_experts = c.n_experts,
		.k = c.k,
		.n_group = c.n_group,
		.topk_group = c.topk_group,
		.method = (int)c.method,
		.score = (int)c.score,
		.norm_topk_prob = c.norm,
		.routed_scale = c.scale};
	assert_true(host_ids && host_weights);
	assert_int_equal(ops->gate(dev, &batch), 0);
	assert_int_equal(ops->download(dev, host_ids, ids, 4 * n), 0);
	assert_int_equal(ops->download(dev, host_weights, weights, 4 * n), 0);
	compare(&c, case_i, host_ids, host_weights, p);
	free(host_ids);
	free(host_weights);
	ops->buffer_free(dev, logits);
	ops->buffer_free(dev, bias);
	ops->buffer_free(dev, ids);
	ops->buffer_free(dev, weights);
	return p + 8 * n;
}

static void test_gate(void **state)
{
	static const struct expertd_host host = {.log = host_log, .option = host_option};
	const char *plugin_dir = getenv("EX_TEST_PLUGIN_DIR"), *source_dir = getenv("srcdir"), *why = "";
	struct ex_loader_opts loader = {.dir = plugin_dir ? plugin_dir : ".libs"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *plugin;
	struct ex_dev *dev;
	char path[PATH_MAX], *data;
	size_t n;
	uint32_t n_cases;
	(void)state;
	snprintf(path, sizeof path, "%s/tests/golden/gate.vectors", source_dir ? source_dir : ".");
	EXPECT_OK(err, ex_read_file(path, BYTES_MAX, &err, &data, &n));
	assert_true(n > 12);
	assert_memory_equal(data, "EXGATE1\n", 8);
	memcpy(&n_cases, data + 8, sizeof n_cases);
	assert_in_range(n_cases, 6, 100);
	EXPECT_OK(err, ex_plugin_open(&loader, "cpu", &err, &plugin));
	const struct ex_ops *ops = ex_plugin_ops(plugin, &why);
	if (!ops)
		fail_msg("plugin cpu has no trunk ops: %s", why);
	assert_int_equal(ops->open(&host, "0", &dev), 0);
	const char *p = data + 12;
	for (size_t i = 0; i < n_cases; i++)
		p = run_case(ops, dev, i, p);
	assert_ptr_equal(p, data + n);
	ops->close(dev);
	ex_plugin_unref(plugin);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_gate)};
	return cmocka_run_group_tests_name("gate", tests, NULL, NULL);
}
