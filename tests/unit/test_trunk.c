/* SPDX-License-Identifier: Apache-2.0 */
/* trunk: prefill in one piece, in chunks and step by step give the same bits, alone or in company; the fast backend
 * agrees with the scalar one; failed rows stay apart; what cannot be is refused. */
#include "small_model.h"
#include "unit.h"

#include "base/dtype.h"
#include "ref_ops.h"
#include "trunk/latent.h"
#include <math.h>
#include <string.h>

#define N_TOKENS 19
#define N_PAGES  16
#define VOCAB    SMALL_MODEL_VOCAB

static const struct ex_ops *ops_of(void **state)
{
	return *state ? small_model_cpu_ops() : &ref_ops;
}

/* One sequence of N_TOKENS with its own pages. */
struct sequence {
	uint32_t ids[N_TOKENS], pages[N_PAGES / 2];
	float logits[N_TOKENS][VOCAB];
	uint8_t failed[N_TOKENS];
};

static void make_sequence(struct sequence *q, uint32_t salt, uint32_t first_page, uint32_t page_step)
{
	memset(q, 0, sizeof *q);
	for (uint32_t i = 0; i < N_TOKENS; i++)
		q->ids[i] = (i * 37 + salt * 101 + 5) % VOCAB;
	for (uint32_t i = 0; i < N_PAGES / 2; i++)
		q->pages[i] = first_page + i * page_step;
}

/* Rows [first, first + n) of each of the sequences in one step, interleaved. */
static void step(struct small_model *m, struct sequence *const *q, uint32_t n_seqs, uint32_t first, uint32_t n)
{
	uint32_t ids[64], pos[64], rows[64], n_rows = 0;
	const uint32_t *pages[64];
	uint8_t failed[64];
	static float logits[64][VOCAB];
	struct ex_err err = EX_ERR_INIT;
	for (uint32_t i = first; i < first + n; i++)
		for (uint32_t s = 0; s < n_seqs; s++) {
			ids[n_rows] = q[s]->ids[i];
			pos[n_rows] = i;
			pages[n_rows] = q[s]->pages;
			rows[n_rows] = n_rows;
			n_rows++;
		}
	struct ex_step s = {
		.n = n_rows,
		.ids = ids,
		.pos = pos,
		.pages = pages,
		.row_failed = failed,
		.n_logits = n_rows,
		.logit_rows = rows,
		.logits = logits[0],
	};
	EXPECT_OK(err, ex_trunk_step(m->t, &m->moe, &s, &err));
	for (uint32_t i = 0; i < n_rows; i++) {
		memcpy(q[i % n_seqs]->logits[first + i / n_seqs], logits[i], sizeof logits[i]);
		q[i % n_seqs]->failed[first + i / n_seqs] = failed[i];
	}
}

static void run_chunks(struct small_model *m, struct sequence *q, uint32_t chunk)
{
	for (uint32_t at = 0; at < N_TOKENS; at += chunk)
		step(m, &q, 1, at, EX_MIN(chunk, N_TOKENS - at));
}

static void test_chunks_do_not_matter(void **state)
{
	struct small_model m;
	static struct sequence whole, parts;
	small_model_open(&m, EXPERTD_BF16, ops_of(state), 64, N_PAGES);
	make_sequence(&whole, 0, 0, 1);
	run_chunks(&m, &whole, N_TOKENS);
	for (uint32_t chunk = 1; chunk < N_TOKENS; chunk++) {
		make_sequence(&parts, 0, 15, (uint32_t)-2); /* other pages, in another order */
		run_chunks(&m, &parts, chunk);
		assert_memory_equal(whole.logits, parts.logits, sizeof whole.logits);
	}
	assert_true(isfinite(whole.logits[N_TOKENS - 1][0]) && whole.logits[N_TOKENS - 1][0] != whole.logits[0][0]);
	small_model_close(&m);
}

static void test_company_does_not_matter(void **state)
{
	struct small_model m;
	static struct sequence alone, a, b;
	struct sequence *both[] = {&a, &b};
	small_model_open(&m, EXPERTD_BF16, ops_of(state), 64, N_PAGES);
	make_sequence(&alone, 0, 0, 2);
	run_chunks(&m, &alone, N_TOKENS);
	make_sequence(&a, 0, 0, 2);
	make_sequence(&b, 1, 1, 2);
	for (uint32_t at = 0; at < N_TOKENS; at += 5)
		step(&m, both, 2, at, EX_MIN(5u, N_TOKENS - at));
	assert_memory_equal(alone.logits, a.logits, sizeof a.logits);
	assert_memory_not_equal(alone.logits, b.logits, sizeof b.logits);
	small_model_close(&m);
}

/* The golden bound of the whole model, for every dtype of weights. */
static void test_cpu_agrees_with_reference(void **state)
{
	static const uint32_t dtypes[] = {EXPERTD_F32, EXPERTD_BF16, EXPERTD_F16, EXPERTD_F8E4M3};
	static struct sequence want, got;
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(dtypes); i++) {
		struct small_model m;
		small_model_open(&m, dtypes[i], &ref_ops, 64, N_PAGES);
		make_sequence(&want, 0, 0, 1);
		run_chunks(&m, &want, N_TOKENS);
		small_model_close(&m);
		small_model_open(&m, dtypes[i], small_model_cpu_ops(), 64, N_PAGES);
		make_sequence(&got, 0, 0, 1);
		run_chunks(&m, &got, 4);
		small_model_close(&m);
		for (uint32_t r = 0; r < N_TOKENS; r++) {
			float greatest = 0;
			for (uint32_t j = 0; j < VOCAB; j++)
				greatest = fmaxf(greatest, fabsf(want.logits[r][j]));
			for (uint32_t j = 0; j < VOCAB; j++)
				assert_float_equal(want.logits[r][j], got.logits[r][j], 2e-4f * greatest);
		}
	}
}

/* A failed row is named; a sequence beside it keeps its bits; with all rows failed the step ends early and well. */
static void test_failed_rows(void **state)
{
	struct small_model m;
	static struct sequence alone, a, b;
	struct sequence *both[] = {&a, &b};
	small_model_open(&m, EXPERTD_BF16, ops_of(state), 64, N_PAGES);
	make_sequence(&alone, 0, 0, 2);
	run_chunks(&m, &alone, N_TOKENS);
	make_sequence(&a, 0, 0, 2);
	make_sequence(&b, 1, 1, 2);
	m.fail_row = 7; /* of b: odd rows */
	step(&m, both, 2, 0, N_TOKENS);
	for (uint32_t i = 0; i < N_TOKENS; i++) {
		assert_int_equal(a.failed[i], 0);
		assert_int_equal(b.failed[i], i == 3);
	}
	assert_memory_equal(alone.logits, a.logits, sizeof a.logits);
	m.fail_row = 0;
	struct sequence *one = &b;
	step(&m, &one, 1, 0, 1);
	assert_int_equal(b.failed[0], 1);
	small_model_close(&m);
}

static void test_bad_steps(void **state)
{
	struct small_model m;
	struct ex_err err = EX_ERR_INIT;
	const uint32_t id = 3, bad_id = VOCAB, pos = 0, bad_pos = SMALL_MODEL_CTX, page = 0, bad_page = N_PAGES,
		       row = 0, bad_row = 1;
	const uint32_t *pages[] = {&page}, *bad_pages[] = {&bad_page};
	uint8_t failed;
	static float logits[VOCAB];
	const struct ex_step good = {.n = 1,
		.ids = &id,
		.pos = &pos,
		.pages = pages,
		.row_failed = &failed,
		.n_logits = 1,
		.logit_rows = &row,
		.logits = logits};
	struct ex_step bad[6] = {good, good, good, good, good, good};
	bad[0].n = 0;
	bad[1].n = 65;
	bad[2].ids = &bad_id;
	bad[3].pos = &bad_pos;
	bad[4].pages = bad_pages;
	bad[5].logit_rows = &bad_row;
	small_model_open(&m, EXPERTD_F32, ops_of(state), 64, N_PAGES);
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++)
		assert_int_equal(ex_trunk_step(m.t, &m.moe, &bad[i], &err), -EINVAL);
	struct ex_step fine = good;
	EXPECT_OK(err, ex_trunk_step(m.t, &m.moe, &fine, &err));
	small_model_close(&m);
}

/* A KV pool of 4 TiB is refused before anything is allocated, with both figures. */
static void test_memory_is_checked_first(void **state)
{
	struct small_model m;
	struct ex_err err = EX_ERR_INIT;
	struct ex_trunk *t;
	uint64_t weights, kv, buffers;
	(void)state;
	small_model_weights(&m, EXPERTD_BF16);
	struct ex_trunk_opts o = small_model_trunk_opts(&ref_ops, 64, 0xe0000000u);
	assert_int_equal(ex_trunk_bytes(m.w, &o, &weights, &kv, &buffers), 0);
	assert_int_equal(kv, UINT64_C(3) * 0xe0000000u * SMALL_MODEL_PAGE * 24 * 4);
	assert_true(weights > 280 * 32 * 2 && buffers > 64 * VOCAB * 4);
	assert_int_equal(ex_trunk_open(m.w, &o, &err, &t), -ENOMEM);
	assert_non_null(strstr(err.text, "the trunk needs 3.9 TiB"));
	assert_non_null(strstr(err.text, "available"));
	small_model_close(&m);
}

static void test_bad_options(void **state)
{
	struct small_model m;
	struct ex_err err = EX_ERR_INIT;
	struct ex_trunk *t;
	(void)state;
	small_model_weights(&m, EXPERTD_BF16);
	struct ex_trunk_opts o = small_model_trunk_opts(&ref_ops, 64, N_PAGES);
	o.n_ctx = SMALL_MODEL_CTX + 1;
	assert_int_equal(ex_trunk_open(m.w, &o, &err, &t), -EINVAL);
	assert_string_equal(err.text, "context of 97 tokens is beyond the model's 96");
	struct ex_ops other = ref_ops;
	other.version = EX_OPS_VERSION + 1;
	o = small_model_trunk_opts(&other, 64, N_PAGES);
	assert_int_equal(ex_trunk_open(m.w, &o, &err, &t), -EPROTO);
	small_model_close(&m);
}

/* kv_b_proj cut by heads: every element lands where absorption wants it, in every dtype. */
static void test_latent_split(void **state)
{
	enum { HEADS = 3, NOPE = 70, V = 20, LORA = 130 };
	static uint8_t data[HEADS * (NOPE + V) * LORA * 4];
	static float scale[3 * 2], scratch[LORA * (NOPE + V)];
	static const uint32_t dtypes[] = {EXPERTD_F32, EXPERTD_BF16, EXPERTD_F16, EXPERTD_F8E4M3};
	(void)state;
	for (uint32_t i = 0; i < 6; i++)
		scale[i] = 0.5f + (float)i;
	for (size_t d = 0; d < EX_ARRAY_LEN(dtypes); d++) {
		struct expertd_matrix uk, uv,
			m = {.data = data, .rows = HEADS * (NOPE + V), .cols = LORA, .dtype = dtypes[d]};
		m.scale = dtypes[d] == EXPERTD_F8E4M3 ? scale : NULL;
		for (uint32_t i = 0; i < m.rows * LORA; i++) {
			float f = (float)(int)(i * 7919 % 61) - 30;
			ex_dtype_from_f32(dtypes[d], &f, 1, data + i * ex_dtype_size(dtypes[d]));
		}
		for (uint32_t h = 0; h < HEADS; h++) {
			ex_latent_split(&m, h, NOPE, V, scratch, &uk, &uv);
			assert_true(uk.rows == LORA && uk.cols == NOPE && uv.rows == V && uv.cols == LORA);
			for (uint32_t c = 0; c < LORA; c++) {
				for (uint32_t r = 0; r < NOPE; r++)
					assert_true(ex_matrix_at(&uk, c, r) == ex_matrix_at(&m, h * (NOPE + V) + r, c));
				for (uint32_t r = 0; r < V; r++)
					assert_true(ex_matrix_at(&uv, r, c) ==
						    ex_matrix_at(&m, h * (NOPE + V) + NOPE + r, c));
			}
		}
	}
}

int main(void)
{
	static int cpu;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chunks_do_not_matter),
		cmocka_unit_test_prestate(test_chunks_do_not_matter, &cpu),
		cmocka_unit_test(test_company_does_not_matter),
		cmocka_unit_test_prestate(test_company_does_not_matter, &cpu),
		cmocka_unit_test(test_cpu_agrees_with_reference),
		cmocka_unit_test(test_failed_rows),
		cmocka_unit_test_prestate(test_failed_rows, &cpu),
		cmocka_unit_test(test_bad_steps),
		cmocka_unit_test(test_memory_is_checked_first),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_latent_split),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
