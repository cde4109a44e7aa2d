/* SPDX-License-Identifier: Apache-2.0 */
/* expert/ring: what is kept is what was offered, the newest, within the bytes given, and not more often than it should. */
#include "unit.h"

#include "base/clock.h"
#include "expert/ring.h"
#include <stdlib.h>
#include <string.h>

#define D 16

/* n_tokens rows of `value`, each to expert 0 with its number as the weight, every other one to expert 1 too. */
static struct ex_batch *batch(uint32_t n_tokens, float value)
{
	uint32_t n_second = (n_tokens + 1) / 2;
	struct ex_batch *c = ex_batch_new(2, n_tokens, n_tokens + n_second, D, EXPERTD_F32);
	assert_non_null(c);
	for (uint32_t i = 0; i < n_tokens * D; i++)
		((float *)ex_batch_x(c))[i] = value + (float)(i / D);
	ex_batch_offset(c)[0] = 0;
	ex_batch_offset(c)[1] = n_tokens;
	ex_batch_offset(c)[2] = n_tokens + n_second;
	for (uint32_t i = 0; i < n_tokens + n_second; i++) {
		ex_batch_token(c)[i] = i < n_tokens ? i : 2 * (i - n_tokens);
		ex_batch_weight(c)[i] = (float)i;
	}
	return c;
}

static void offer(struct ex_ring *r, uint32_t n_tokens, float value, uint64_t at_ms)
{
	struct ex_batch *c = batch(n_tokens, value);
	ex_ring_offer(r, &c->b, at_ms * EX_NS_PER_MS);
	free(c);
}

static void expect(struct ex_batch *c, uint32_t n_tokens, float value)
{
	struct ex_batch *want = batch(n_tokens, value);
	assert_int_equal(c->b.n_tokens, n_tokens);
	assert_int_equal(c->b.n_assignments, want->b.n_assignments);
	assert_int_equal((uintptr_t)c->b.x % 64, 0);
	assert_memory_equal(c->b.x, want->b.x, want->x_bytes);
	assert_memory_equal(c->b.offset, want->b.offset, 3 * sizeof(uint32_t));
	assert_memory_equal(c->b.token, want->b.token, want->b.n_assignments * sizeof(uint32_t));
	free(want);
	free(c);
}

static void test_newest(void **state)
{
	(void)state;
	struct ex_ring *r = NULL;
	struct ex_batch *out[EX_RING_BATCHES_MAX + 1];
	assert_int_equal(ex_ring_new(1 << 20, 2, D, &r), 0);
	assert_int_equal(ex_ring_copy(r, out, 8), 0);
	for (uint32_t i = 0; i < 3 * EX_RING_BATCHES_MAX; i++)
		offer(r, 1 + i % 5, (float)i, 1000 + 100 * i);
	assert_int_equal(ex_ring_copy(r, out, EX_RING_BATCHES_MAX + 1), EX_RING_BATCHES_MAX);
	for (uint32_t k = 0; k < EX_RING_BATCHES_MAX; k++) {
		uint32_t i = 3 * EX_RING_BATCHES_MAX - 1 - k;
		expect(out[k], 1 + i % 5, (float)i);
	}
	assert_int_equal(ex_ring_copy(r, out, 1), 1);
	expect(out[0], 1 + (3 * EX_RING_BATCHES_MAX - 1) % 5, 3 * EX_RING_BATCHES_MAX - 1);
	ex_ring_free(r);
}

/* A sample: what comes within the period is passed over; so is what is not of this shard. */
static void test_sampled(void **state)
{
	(void)state;
	struct ex_ring *r = NULL;
	struct ex_batch *out[4];
	assert_int_equal(ex_ring_new(1 << 20, 2, D, &r), 0);
	offer(r, 2, 1, 1000);
	offer(r, 2, 2, 1000 + EX_RING_PERIOD_NS / EX_NS_PER_MS - 1);
	assert_int_equal(ex_ring_copy(r, out, 4), 1);
	expect(out[0], 2, 1);
	offer(r, 2, 3, 1000 + EX_RING_PERIOD_NS / EX_NS_PER_MS);
	assert_int_equal(ex_ring_copy(r, out, 4), 2);
	expect(out[0], 2, 3);
	expect(out[1], 2, 1);
	struct ex_batch *other = ex_batch_new(3, 1, 0, D, EXPERTD_F32);
	memset(ex_batch_offset(other), 0, 4 * sizeof(uint32_t));
	ex_ring_offer(r, &other->b, 5000 * EX_NS_PER_MS);
	free(other);
	assert_int_equal(ex_ring_copy(r, out, 4), 2);
	free(out[0]);
	free(out[1]);
	ex_ring_free(r);
}

/* Of a batch that does not fit the first rows are kept, with what is assigned to them and nothing else. */
static void test_cut(void **state)
{
	(void)state;
	struct ex_ring *r = NULL;
	struct ex_batch *out[4];
	assert_int_equal(ex_ring_new(1200, 2, D, &r), 0);
	offer(r, 100, 7, 1000);
	assert_int_equal(ex_ring_copy(r, out, 4), 1);
	uint32_t n = out[0]->b.n_tokens;
	assert_true(n >= 4 && n < 20);
	expect(out[0], n, 7);
	ex_ring_free(r);
	assert_int_equal(ex_ring_new(64, 2, D, &r), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_newest),
		cmocka_unit_test(test_sampled),
		cmocka_unit_test(test_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
