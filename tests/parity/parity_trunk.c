/* SPDX-License-Identifier: Apache-2.0 */
/* The cpu trunk backend, in every instruction set that runs here, against scalar C with double sums
 * (tests/unit/ref_ops.c), within bounds derived in docs/NUMERICS.md; and its batch invariance to the bit. */
#include "plugin_host.h"
#include "ref_ops.h"

#include "base/dtype.h"
#include "base/mem.h"
#include "expert/reference.h"
#include <float.h>
#include <math.h>

#define UNIT 0x1p-24

static const char *const ISAS[] = {"generic", "avx2", "avx512"};

struct backend {
	struct ex_plugin *plugin;
	const struct ex_ops *ops;
	struct ex_dev *dev, *dev3, *ref; /* one thread, three threads, scalar */
	const char *isa;
};

static struct ex_dev *open_dev(const struct ex_ops *ops, const char *threads, const char *isa)
{
	struct host_options o = {.threads = threads, .isa = isa};
	const struct expertd_host host = host_of(&o);
	struct ex_dev *dev = NULL;
	return ops->open(&host, "0", &dev) == 0 ? dev : NULL;
}

/* Runs fn on every instruction set of this machine. */
static void each_isa(void (*fn)(struct backend *b))
{
	struct backend b = {.plugin = open_plugin("cpu"), .ref = open_dev(&ref_ops, "1", NULL)};
	const char *why;
	b.ops = ex_plugin_ops(b.plugin, &why);
	assert_non_null(b.ops);
	for (size_t i = 0; i < EX_ARRAY_LEN(ISAS); i++) {
		b.dev = open_dev(b.ops, "1", ISAS[i]);
		if (!b.dev)
			continue;
		b.dev3 = open_dev(b.ops, "3", ISAS[i]);
		assert_non_null(b.dev3);
		b.isa = ISAS[i];
		fn(&b);
		b.ops->close(b.dev);
		b.ops->close(b.dev3);
	}
	ref_ops.close(b.ref);
	ex_plugin_unref(b.plugin);
}

static float *floats(size_t n)
{
	float *p = ex_calloc(n, sizeof *p);
	assert_non_null(p);
	return p;
}

static float *random_floats(size_t n, float top, uint64_t seed)
{
	struct ex_ref_rng r = {.state = seed};
	float *p = floats(n);
	for (size_t i = 0; i < n; i++)
		p[i] = ex_ref_uniform(&r, -top, top);
	return p;
}

static float *absolute(const float *x, size_t n)
{
	float *p = floats(n);
	for (size_t i = 0; i < n; i++)
		p[i] = fabsf(x[i]);
	return p;
}

static void within(const struct backend *b, const char *what, size_t i, float got, float want, double bound)
{
	if (!(fabs((double)got - (double)want) <= bound + (double)FLT_MIN))
		fail_msg("%s %s: element %zu is %.9g instead of %.9g, allowed +-%.3g", b->isa, what, i, (double)got,
			(double)want, bound);
}

static void same(const struct backend *b, const char *what, const void *x, const void *y, size_t bytes)
{
	if (memcmp(x, y, bytes) != 0)
		fail_msg("%s: %s differ in bits", b->isa, what);
}

/* --- linear ---------------------------------------------------------------------------------------------- */

/* Random weights of a dtype, and their absolute values in f32. */
struct matrix {
	struct expertd_matrix m, abs;
	void *data;
	float *scale, *abs_data;
};

static void matrix_init(struct matrix *m, uint32_t rows, uint32_t cols, uint32_t dtype, uint64_t seed)
{
	struct ex_ref_rng r = {.state = seed};
	size_t n = (size_t)rows * cols, n_scales = (size_t)EX_CEIL_DIV(rows, 128) * EX_CEIL_DIV(cols, 128),
	       size = ex_dtype_size(dtype);
	m->data = ex_alloc_aligned(n, size);
	m->scale = floats(n_scales);
	m->abs_data = floats(n);
	for (size_t i = 0; i < n_scales; i++)
		m->scale[i] = ex_ref_uniform(&r, 0.001f, 0.01f);
	for (uint32_t i = 0; i < n; i++) {
		float f = ex_ref_uniform(&r, -1, 1) * (dtype == EXPERTD_F8E4M3 ? 400 : 1);
		ex_dtype_from_f32(dtype, &f, 1, (uint8_t *)m->data + i * size);
		ex_dtype_to_f32(dtype, (uint8_t *)m->data + i * size, 1, &f);
		if (dtype == EXPERTD_F8E4M3)
			f *= m->scale[i / cols / 128 * EX_CEIL_DIV(cols, 128) + i % cols / 128];
		m->abs_data[i] = fabsf(f);
	}
	m->m = (struct expertd_matrix){.data = m->data, .rows = rows, .cols = cols, .dtype = dtype};
	m->m.scale = dtype == EXPERTD_F8E4M3 ? m->scale : NULL;
	m->abs = (struct expertd_matrix){.data = m->abs_data, .rows = rows, .cols = cols, .dtype = EXPERTD_F32};
}

static void matrix_done(struct matrix *m)
{
	free(m->data);
	free(m->scale);
	free(m->abs_data);
}

static struct ex_weight *weight_of(const struct ex_ops *ops, struct ex_dev *dev, const struct expertd_matrix *m)
{
	struct ex_weight *w = NULL;
	assert_int_equal(ops->weight_new(dev, m, &w), 0);
	return w;
}

static void linear_case(struct backend *b, uint32_t rows, uint32_t cols, uint32_t n, uint32_t dtype)
{
	struct matrix m;
	size_t ldx = cols + 3, ldy = rows + 5;
	matrix_init(&m, rows, cols, dtype, rows * 131 + cols);
	EX_CLEANUP(ex_freep)
	float *x = random_floats(n * ldx, 2, n), *xa = absolute(x, n * ldx), *y = floats(n * ldy),
	      *want = floats(n * ldy);
	EX_CLEANUP(ex_freep) float *size = floats(n * ldy), *again = floats(n * ldy);
	struct ex_weight *w = weight_of(b->ops, b->dev, &m.m), *wr = weight_of(&ref_ops, b->ref, &m.m),
			 *wa = weight_of(&ref_ops, b->ref, &m.abs);
	assert_int_equal(b->ops->linear(b->dev, w, x, ldx, y, ldy, n), 0);
	ref_ops.linear(b->ref, wr, x, ldx, want, ldy, n);
	ref_ops.linear(b->ref, wa, xa, ldx, size, ldy, n);
	for (size_t i = 0; i < n * ldy; i++) /* columns beyond rows stay zero */
		within(b, "linear", i, y[i], want[i], i % ldy < rows ? (cols + 5) * UNIT * (double)size[i] : 0);
	assert_int_equal(b->ops->linear(b->dev3, w, x, ldx, again, ldy, n), 0);
	same(b, "linear on one and three threads", y, again, n * ldy * sizeof *y);
	for (uint32_t i = 0; i < n; i += 1 + n / 7) {
		assert_int_equal(b->ops->linear(b->dev3, w, x + i * ldx, ldx, again, ldy, 1), 0);
		same(b, "a row of linear alone and in company", y + i * ldy, again, rows * sizeof *y);
	}
	EX_CLEANUP(ex_freep) float *row = floats(cols), *row_want = floats(cols);
	const uint32_t ids[] = {rows - 1, 0, rows / 2};
	for (size_t i = 0; i < EX_ARRAY_LEN(ids); i++) {
		assert_int_equal(b->ops->embed(b->dev, w, &ids[i], row, 1, cols), 0);
		ref_ops.embed(b->ref, wr, &ids[i], row_want, 1, cols);
		same(b, "embedding rows", row, row_want, cols * sizeof *row);
	}
	assert_int_equal(b->ops->embed(b->dev, w, &rows, row, 1, cols), -EINVAL);
	b->ops->weight_free(b->dev, w);
	ref_ops.weight_free(b->ref, wr);
	ref_ops.weight_free(b->ref, wa);
	matrix_done(&m);
}

static void linear_isa(struct backend *b)
{
	static const uint32_t shape[][3] = {{1, 1, 1}, {5, 3, 2}, {16, 64, 1}, {33, 40, 4}, {130, 129, 7},
		{64, 300, 19}, {257, 128, 3}, {96, 96, 33}};
	for (size_t i = 0; i < EX_ARRAY_LEN(shape); i++)
		for (uint32_t dtype = EXPERTD_F32; dtype <= EXPERTD_F8E4M3; dtype++)
			linear_case(b, shape[i][0], shape[i][1], shape[i][2], dtype);
}

static void test_linear(void **state)
{
	(void)state;
	each_isa(linear_isa);
}

static void linear_heads_isa(struct backend *b)
{
	enum {
		HEADS = 5,
		ROWS = 37,
		COLS = 24,
		N = 9,
		X_STEP = 31,
		Y_STEP = 40,
		LDX = HEADS * X_STEP + 2,
		LDY = HEADS * Y_STEP + 1
	};
	struct matrix m[HEADS];
	struct ex_weight *w[HEADS], *wr[HEADS];
	EX_CLEANUP(ex_freep)
	float *x = random_floats((size_t)N * LDX, 1, 5), *y = floats((size_t)N * LDY), *want = floats((size_t)N * LDY);
	EX_CLEANUP(ex_freep) float *again = floats((size_t)N * LDY);
	for (uint32_t h = 0; h < HEADS; h++) {
		matrix_init(&m[h], ROWS, COLS, EXPERTD_F32, h);
		w[h] = weight_of(b->ops, b->dev, &m[h].m);
		wr[h] = weight_of(&ref_ops, b->ref, &m[h].m);
	}
	const struct ex_weight *const *wc = (const struct ex_weight *const *)w;
	assert_int_equal(b->ops->linear_heads(b->dev, wc, HEADS, x, LDX, X_STEP, y, LDY, Y_STEP, N), 0);
	ref_ops.linear_heads(b->ref, (const struct ex_weight *const *)wr, HEADS, x, LDX, X_STEP, want, LDY, Y_STEP, N);
	for (size_t i = 0; i < (size_t)N * LDY; i++) /* |w|, |x| <= 1 */
		within(b, "linear_heads", i, y[i], want[i], (COLS + 5) * UNIT * COLS);
	assert_int_equal(b->ops->linear_heads(b->dev3, wc, HEADS, x, LDX, X_STEP, again, LDY, Y_STEP, N), 0);
	same(b, "heads on one and three threads", y, again, (size_t)N * LDY * sizeof *y);
	assert_int_equal(b->ops->linear_heads(b->dev, wc, HEADS, x + 4 * LDX, LDX, X_STEP, again, LDY, Y_STEP, 1), 0);
	for (uint32_t h = 0; h < HEADS; h++) {
		same(b, "a row of heads alone", y + 4 * LDY + h * Y_STEP, again + h * Y_STEP, ROWS * sizeof *y);
		b->ops->weight_free(b->dev, w[h]);
		ref_ops.weight_free(b->ref, wr[h]);
		matrix_done(&m[h]);
	}
}

static void test_linear_heads(void **state)
{
	(void)state;
	each_isa(linear_heads_isa);
}

/* --- norms, rope, elements ------------------------------------------------------------------------------- */

static void rows_isa(struct backend *b)
{
	static const uint32_t widths[] = {1, 7, 16, 100, 1027};
	for (size_t k = 0; k < EX_ARRAY_LEN(widths); k++) {
		uint32_t d = widths[k], n = 45;
		size_t ld = d + 2;
		EX_CLEANUP(ex_freep)
		float *x = random_floats(n * ld, 3, k), *w = random_floats(d, 2, k + 9), *y = floats(n * ld),
		      *want = floats(n * ld);
		EX_CLEANUP(ex_freep) float *again = floats(n * ld);
		assert_int_equal(b->ops->rmsnorm(b->dev, x, ld, w, 1e-6f, y, ld, n, d), 0);
		ref_ops.rmsnorm(b->ref, x, ld, w, 1e-6f, want, ld, n, d);
		for (size_t i = 0; i < n * ld; i++)
			within(b, "rmsnorm", i, y[i], want[i], (d / 2 + 8) * UNIT * fabs((double)want[i]));
		assert_int_equal(b->ops->rmsnorm(b->dev3, x, ld, w, 1e-6f, again, ld, n, d), 0);
		same(b, "rmsnorm on one and three threads", y, again, n * ld * sizeof *y);
		memcpy(again, x, n * ld * sizeof *x);
		b->ops->rmsnorm(b->dev, again, ld, w, 1e-6f, again, ld, n, d);
		for (size_t i = 0; i < n; i++)
			same(b, "rmsnorm in place and not", y + i * ld, again + i * ld, d * sizeof *y);
		memcpy(again, x, n * ld * sizeof *x);
		assert_int_equal(b->ops->swiglu(b->dev3, again, y, again, n, (uint32_t)ld), 0);
		ref_ops.swiglu(b->ref, x, y, want, n, (uint32_t)ld);
		for (size_t i = 0; i < n * ld; i++)
			within(b, "swiglu", i, again[i], want[i], 8 * UNIT * fabs((double)want[i]));
		memcpy(again, x, n * ld * sizeof *x);
		b->ops->add(b->dev, y, again, n * ld);
		for (size_t i = 0; i < n * ld; i++)
			assert_true(again[i] == x[i] + y[i]);
	}
}

static void test_rows(void **state)
{
	(void)state;
	each_isa(rows_isa);
}

static void rope_isa(struct backend *b)
{
	enum { HALF = 5, HEADS = 3, N = 4, STEP = 13, LD = 41, CTX = 9 };
	const uint32_t pos[N] = {0, 8, 3, 3};
	EX_CLEANUP(ex_freep) float *cs = random_floats(CTX * HALF, 1, 1), *sn = random_floats(CTX * HALF, 1, 2);
	const struct ex_rope r = {.cos = cs, .sin = sn, .half = HALF};
	for (int interleaved = 0; interleaved < 2; interleaved++) {
		EX_CLEANUP(ex_freep) float *x = random_floats(N * LD, 1, 3), *want = random_floats(N * LD, 1, 3);
		assert_int_equal(b->ops->rope(b->dev, &r, pos, x, LD, HEADS, STEP, N, interleaved), 0);
		ref_ops.rope(b->ref, &r, pos, want, LD, HEADS, STEP, N, interleaved);
		for (size_t i = 0; i < N * LD; i++) /* two products and a sum of values up to 1 */
			within(b, "rope", i, x[i], want[i], 4 * UNIT);
	}
}

static void test_rope(void **state)
{
	(void)state;
	each_isa(rope_isa);
}

/* --- attention ------------------------------------------------------------------------------------------- */

struct attention {
	uint32_t n, heads, rank, rope, n_pos;
	float *kv, *q_lat, *q_rope; /* [n_pos, rank + rope] of one sequence; [n, heads, ..] */
	uint32_t *pos;
};

/* The same KV rows in pages of any size, in scattered order. */
struct pages {
	float *mem, **table;
	float *const **rows;
};

static void pages_init(struct pages *p, const struct backend *b, const struct attention *a, uint32_t page_tokens)
{
	uint32_t n_pages = EX_CEIL_DIV(a->n_pos, page_tokens), width = a->rank + a->rope;
	p->mem = floats((size_t)n_pages * page_tokens * width);
	p->table = ex_calloc(n_pages, sizeof *p->table);
	p->rows = ex_calloc(EX_MAX(a->n, a->n_pos), sizeof *p->rows);
	uint32_t *pos = ex_calloc(a->n_pos, sizeof *pos);
	assert_true(p->table && p->rows && pos);
	for (uint32_t i = 0; i < n_pages; i++)
		p->table[i] = p->mem + (size_t)(n_pages - 1 - i) * page_tokens * width;
	for (uint32_t i = 0; i < EX_MAX(a->n, a->n_pos); i++)
		p->rows[i] = p->table;
	for (uint32_t i = 0; i < a->n_pos; i++)
		pos[i] = i;
	assert_int_equal(b->ops->kv_write(b->dev, (float *const *const *)p->rows, pos, page_tokens, a->kv, width,
				 a->n_pos, width),
		0);
	free(pos);
}

static void pages_done(struct pages *p)
{
	free(p->mem);
	free(p->table);
	free(p->rows);
}

static struct ex_mla_batch batch_of(const struct attention *a, const struct pages *p, uint32_t page_tokens, float *out)
{
	return (struct ex_mla_batch){
		.q_lat = a->q_lat,
		.q_rope = a->q_rope,
		.ldq_rope = (size_t)a->heads * (a->rope + 3),
		.q_rope_step = a->rope + 3,
		.out_lat = out,
		.pages = (float *const *const *)p->rows,
		.pos = a->pos,
		.n = a->n,
		.n_heads = a->heads,
		.kv_lora_rank = a->rank,
		.rope_dim = a->rope,
		.page_tokens = page_tokens,
		.scale = 0.17f,
	};
}

/* With |q|, |kv| <= 1: a score errs by ds = scale (W + 3) W u, a softmax weight by a factor of 1 +- (2 ds + (T + 12 +
 * blocks) u), and so the output, a mean of values up to 1, by that and the T roundings of its own sum. */
static double attention_bound(const struct attention *a, uint32_t n_pos, double scale)
{
	double width = a->rank + a->rope, ds = scale * (width + 3) * width * UNIT;
	return 2 * ds + (2.0 * n_pos + 16 + n_pos / 16.0) * UNIT;
}

static void attention_case(struct backend *b, struct attention *a)
{
	size_t n_out = (size_t)a->n * a->heads * a->rank, width = a->rank + a->rope;
	a->kv = random_floats(a->n_pos * width, 1, 11);
	a->q_lat = random_floats(n_out, 1, 12);
	a->q_rope = random_floats((size_t)a->n * a->heads * (a->rope + 3), 1, 13);
	a->pos = ex_calloc(a->n, sizeof *a->pos);
	for (uint32_t i = 0; i < a->n; i++)
		a->pos[i] = i + 1 == a->n ? a->n_pos - 1 : i * 37 % a->n_pos;
	EX_CLEANUP(ex_freep) float *out = floats(n_out), *want = floats(n_out), *again = floats(n_out);
	struct pages p16, p7;
	pages_init(&p16, b, a, 16);
	pages_init(&p7, b, a, 7);
	struct ex_mla_batch batch = batch_of(a, &p16, 16, out);
	assert_int_equal(b->ops->mla(b->dev, &batch), 0);
	batch.out_lat = want;
	assert_int_equal(ref_ops.mla(b->ref, &batch), 0);
	for (size_t i = 0; i < n_out; i++)
		within(b, "mla", i, out[i], want[i],
			attention_bound(a, a->pos[i / a->rank / a->heads] + 1, (double)batch.scale));
	batch = batch_of(a, &p7, 7, again);
	assert_int_equal(b->ops->mla(b->dev3, &batch), 0);
	same(b, "attention over pages of 16 and of 7 on three threads", out, again, n_out * sizeof *out);
	for (uint32_t i = 0; i < a->n; i++) {
		batch = batch_of(a, &p7, 7, again);
		batch.n = 1;
		batch.pos = &a->pos[i];
		batch.q_lat = a->q_lat + (size_t)i * a->heads * a->rank;
		batch.q_rope = a->q_rope + i * batch.ldq_rope;
		assert_int_equal(b->ops->mla(b->dev, &batch), 0);
		same(b, "attention of a row alone", out + (size_t)i * a->heads * a->rank, again,
			(size_t)a->heads * a->rank * sizeof *out);
	}
	pages_done(&p16);
	pages_done(&p7);
	free(a->kv);
	free(a->q_lat);
	free(a->q_rope);
	free(a->pos);
}

static void attention_isa(struct backend *b)
{
	struct attention cases[] = {
		{.n = 1, .heads = 1, .rank = 1, .rope = 2, .n_pos = 1},
		{.n = 6, .heads = 4, .rank = 32, .rope = 8, .n_pos = 65},
		{.n = 3, .heads = 16, .rank = 64, .rope = 16, .n_pos = 200},
		{.n = 5, .heads = 17, .rank = 37, .rope = 6, .n_pos = 33},
		{.n = 4, .heads = 3, .rank = 9, .rope = 4, .n_pos = 32},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(cases); i++)
		attention_case(b, &cases[i]);
}

static void test_attention(void **state)
{
	(void)state;
	each_isa(attention_isa);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linear),
		cmocka_unit_test(test_linear_heads),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_rope),
		cmocka_unit_test(test_attention),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
