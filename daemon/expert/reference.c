/* SPDX-License-Identifier: Apache-2.0 */
/* Experts in double precision, with a running bound of what f32 may lose. Layer L2. */
#include "expert/reference.h"

#include "base/dtype.h"
#include "base/mem.h"
#include <errno.h>
#include <float.h>
#include <math.h>
#include <string.h>

#define F8_BLOCK 128
#define UNIT     0x1p-24 /* half an ulp of 1: one f32 rounding */

/* Roundings beside those of the n-term sum itself: the product, a scaled weight, the scale of a block. */
#define SUM_EXTRA 4
/* Roundings of silu(g) * u given g and u: exp (4), 1 + e, the division, two products; twice as many are granted. */
#define ACT_ROUNDINGS 16
/* |silu'| <= 1.0998 */
#define SILU_SLOPE 1.1

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014) */
uint64_t ex_ref_next(struct ex_ref_rng *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint32_t ex_ref_below(struct ex_ref_rng *r, uint32_t n)
{
	return (uint32_t)((ex_ref_next(r) >> 32) * n >> 32);
}

float ex_ref_uniform(struct ex_ref_rng *r, float low, float high)
{
	return low + (high - low) * (float)(ex_ref_next(r) >> 40) * 0x1p-24f;
}

/* Floats before and after y, more than a row of any case. */
#define GUARD 1024
/* A NaN that no arithmetic makes. */
#define GUARD_BITS 0x7fedcba9u

/* FNV-1a, 64 bits. */
static uint64_t digest(uint64_t h, const void *data, size_t n)
{
	for (const uint8_t *p = data; n--; p++)
		h = (h ^ *p) * UINT64_C(0x100000001b3);
	return h;
}
#define DIGEST_BASIS UINT64_C(0xcbf29ce484222325)

struct ex_ref_shard {
	struct ex_ref_shape shape;
	uint8_t *data;
	float *scale;
	size_t data_bytes, scale_bytes;
	uint64_t digest;
	struct expertd_ffn ffn[];
};

static size_t n_scales(uint32_t rows, uint32_t cols)
{
	return (size_t)EX_CEIL_DIV(rows, F8_BLOCK) * EX_CEIL_DIV(cols, F8_BLOCK);
}

/* Random weights of about 1/sqrt(cols), so that sums are of the size of x. Advances *data and *scale. */
static void fill_matrix(struct expertd_matrix *m, uint32_t rows, uint32_t cols, uint32_t dtype, uint8_t **data,
	float **scale, struct ex_ref_rng *r)
{
	float top = sqrtf(3.0f / (float)cols);
	size_t n = (size_t)rows * cols, size = ex_dtype_size(dtype);
	*m = (struct expertd_matrix){.data = *data, .rows = rows, .cols = cols, .dtype = dtype};
	for (size_t i = 0; i < n; i++) {
		float f = dtype == EXPERTD_F8E4M3 ? ex_ref_uniform(r, -448, 448) : ex_ref_uniform(r, -top, top);
		if (dtype == EXPERTD_F8E4M3 && ex_ref_below(r, 16) == 0)
			f *= 0x1p-14f; /* some subnormal ones */
		ex_dtype_from_f32(dtype, &f, 1, *data + i * size);
	}
	*data += n * size;
	if (dtype != EXPERTD_F8E4M3)
		return;
	m->scale = *scale;
	for (size_t i = 0; i < n_scales(rows, cols); i++)
		(*scale)[i] = ex_ref_uniform(r, 0.5f, 1.5f) * top / 448;
	*scale += n_scales(rows, cols);
}

static uint64_t shard_digest(const struct ex_ref_shard *s)
{
	uint64_t h = digest(DIGEST_BASIS, s->data + ex_dtype_size(s->shape.dtype), s->data_bytes);
	return digest(h, s->scale, s->scale_bytes);
}

struct ex_ref_shard *ex_ref_shard_new(const struct ex_ref_shape *shape, uint64_t seed)
{
	struct ex_ref_rng r = {.state = seed};
	struct ex_ref_shard *s = ex_calloc(1, sizeof *s + shape->n_experts * sizeof s->ffn[0]);
	if (!s)
		return NULL;
	size_t n = (size_t)3 * shape->d_ff * shape->d_model * shape->n_experts, size = ex_dtype_size(shape->dtype);
	size_t n_scale = shape->n_experts * 3 * n_scales(shape->d_ff, shape->d_model);
	s->shape = *shape;
	s->data_bytes = n * size;
	s->scale_bytes = n_scale * sizeof *s->scale;
	s->data = ex_alloc_aligned(n * size + size, 1);
	s->scale = ex_calloc(n_scale, sizeof *s->scale);
	if (!s->data || !s->scale)
		return ex_ref_shard_free(s);
	uint8_t *data = s->data + size; /* off the cache line on purpose */
	float *scale = s->scale;
	for (uint32_t e = 0; e < shape->n_experts; e++) {
		struct expertd_ffn *f = &s->ffn[e];
		fill_matrix(&f->gate, shape->d_ff, shape->d_model, shape->dtype, &data, &scale, &r);
		fill_matrix(&f->up, shape->d_ff, shape->d_model, shape->dtype, &data, &scale, &r);
		fill_matrix(&f->down, shape->d_model, shape->d_ff, shape->dtype, &data, &scale, &r);
		f->act = EXPERTD_SILU;
	}
	s->digest = shard_digest(s);
	return s;
}

struct ex_ref_shard *ex_ref_shard_free(struct ex_ref_shard *s)
{
	if (s) {
		free(s->data);
		free(s->scale);
		free(s);
	}
	return NULL;
}

const struct expertd_ffn *ex_ref_shard_ffn(const struct ex_ref_shard *s)
{
	return s->ffn;
}

static uint64_t batch_digest(const struct ex_ref_batch *b)
{
	uint64_t h = digest(DIGEST_BASIS, b->x, b->x_bytes);
	h = digest(h, b->offset, (b->b.n_experts + 1) * sizeof *b->offset);
	h = digest(h, b->token, b->b.n_assignments * sizeof *b->token);
	return digest(h, b->weight, b->b.n_assignments * sizeof *b->weight);
}

/* n floats between guards; n of NaN. NULL: out of memory. */
static float *new_guarded(size_t n)
{
	const float guard = ex_f32_from_bits(GUARD_BITS);
	float *p = ex_alloc_aligned(n + 2 * (size_t)GUARD, sizeof *p);
	for (size_t i = 0; p && i < n + 2 * (size_t)GUARD; i++)
		p[i] = i < GUARD || i >= GUARD + n ? guard : NAN; /* what a plugin leaves unwritten shows */
	return p ? p + GUARD : NULL;
}

static bool is_guard(const float *p)
{
	for (size_t i = 0; i < GUARD; i++)
		if (ex_f32_bits(p[i]) != GUARD_BITS)
			return false;
	return true;
}

const char *ex_ref_damage(const struct ex_ref_shard *s, const struct ex_ref_batch *b)
{
	if (!is_guard(b->y - GUARD))
		return "memory before y";
	if (!is_guard(b->y + b->n_y))
		return "memory after y";
	if (batch_digest(b) != b->digest)
		return "x, offset, token or weight";
	return shard_digest(s) != s->digest ? "the weights" : NULL;
}

static struct ex_ref_batch *new_batch(const struct ex_ref_shape *shape, uint32_t n_tokens, uint32_t x_dtype)
{
	struct ex_ref_batch *b = ex_calloc(1, sizeof *b);
	if (!b)
		return NULL;
	size_t n = (size_t)n_tokens * shape->d_model, n_assignments = (size_t)n_tokens * shape->n_experts;
	b->n_y = n;
	b->x_bytes = n * ex_dtype_size(x_dtype);
	b->x = ex_alloc_aligned(b->x_bytes, 1);
	b->y = new_guarded(n);
	b->weight = ex_calloc(n_assignments, sizeof *b->weight);
	b->token = ex_calloc(n_assignments, sizeof *b->token);
	b->offset = ex_calloc((size_t)shape->n_experts + 1, sizeof *b->offset);
	if (!b->x || !b->y || !b->weight || !b->token || !b->offset)
		return ex_ref_batch_free(b);
	b->b = (struct expertd_batch){
		.x = b->x,
		.y = b->y,
		.offset = b->offset,
		.token = b->token,
		.weight = b->weight,
		.n_tokens = n_tokens,
		.n_experts = shape->n_experts,
		.x_dtype = x_dtype,
	};
	return b;
}

struct ex_ref_batch *ex_ref_batch_new(
	const struct ex_ref_shape *shape, uint32_t n_tokens, uint32_t x_dtype, uint32_t chance, uint64_t seed)
{
	struct ex_ref_rng r = {.state = seed};
	struct ex_ref_batch *b = new_batch(shape, n_tokens, x_dtype);
	if (!b)
		return NULL;
	for (size_t i = 0; i < (size_t)n_tokens * shape->d_model; i++) {
		float f = ex_ref_uniform(&r, -2, 2);
		ex_dtype_from_f32(x_dtype, &f, 1, (uint8_t *)b->x + i * ex_dtype_size(x_dtype));
	}
	uint32_t n = 0;
	for (uint32_t e = 0; e < shape->n_experts; e++) {
		for (uint32_t t = 0; t < n_tokens; t++)
			if (ex_ref_below(&r, 256) < chance) {
				b->token[n] = t;
				b->weight[n++] = ex_ref_uniform(&r, -0.2f, 1);
			}
		b->offset[e + 1] = n;
	}
	b->b.n_assignments = n;
	b->digest = batch_digest(b);
	return b;
}

struct ex_ref_batch *ex_ref_batch_of_token(
	const struct ex_ref_shape *shape, const struct ex_ref_batch *from, uint32_t t)
{
	struct ex_ref_batch *b = new_batch(shape, 1, from->b.x_dtype);
	if (!b)
		return NULL;
	size_t row = shape->d_model * ex_dtype_size(from->b.x_dtype);
	memcpy(b->x, (const uint8_t *)from->x + t * row, row);
	uint32_t n = 0;
	for (uint32_t e = 0; e < shape->n_experts; e++) {
		for (uint32_t a = from->offset[e]; a < from->offset[e + 1]; a++)
			if (from->token[a] == t)
				b->weight[n++] = from->weight[a];
		b->offset[e + 1] = n;
	}
	b->b.n_assignments = n;
	b->digest = batch_digest(b);
	return b;
}

struct ex_ref_batch *ex_ref_batch_free(struct ex_ref_batch *b)
{
	if (b) {
		free(b->x);
		free(b->y ? b->y - GUARD : NULL);
		free(b->weight);
		free(b->token);
		free(b->offset);
		free(b);
	}
	return NULL;
}

static double element(const struct expertd_matrix *m, uint32_t r, uint32_t c)
{
	float f;
	ex_dtype_to_f32(
		m->dtype, (const uint8_t *)m->data + ((size_t)r * m->cols + c) * ex_dtype_size(m->dtype), 1, &f);
	if (m->scale)
		return (double)f *
		       (double)m->scale[(size_t)(r / F8_BLOCK) * EX_CEIL_DIV(m->cols, F8_BLOCK) + c / F8_BLOCK];
	return (double)f;
}

/* Row r of m times x, where x is known to within dx (NULL: exactly). *ret_bound: the error of the f32 sum, given those.
 */
static double dot(const struct expertd_matrix *m, uint32_t r, const double *x, const double *dx, double *ret_bound)
{
	double sum = 0, sum_abs = 0, carried = 0;
	for (uint32_t c = 0; c < m->cols; c++) {
		double w = element(m, r, c);
		sum += w * x[c];
		sum_abs += fabs(w * x[c]);
		carried += dx ? fabs(w) * dx[c] : 0;
	}
	*ret_bound = carried + (m->cols + SUM_EXTRA) * UNIT * sum_abs;
	return sum;
}

struct rows {
	double *x, *h, *dh; /* [d_model], [d_ff], [d_ff] */
};

/* Adds assignment a of expert f to its token's y and bound. n_terms: experts that may meet in one sum. */
static void add_assignment(const struct ex_ref_shard *s, const struct ex_ref_batch *b, uint32_t e, uint32_t a,
	const struct rows *rows, double *y, double *bound)
{
	const struct expertd_ffn *f = &s->ffn[e];
	size_t d = s->shape.d_model, at = b->token[a] * d;
	double weight = (double)b->weight[a], dg, du, dy;
	for (size_t i = 0; i < d; i++) {
		float x;
		ex_dtype_to_f32(b->b.x_dtype, (const uint8_t *)b->x + (at + i) * ex_dtype_size(b->b.x_dtype), 1, &x);
		rows->x[i] = (double)x;
	}
	for (uint32_t i = 0; i < s->shape.d_ff; i++) {
		double g = dot(&f->gate, i, rows->x, NULL, &dg), u = dot(&f->up, i, rows->x, NULL, &du);
		double silu = g / (1 + exp(-g));
		rows->h[i] = silu * u;
		rows->dh[i] =
			SILU_SLOPE * dg * (fabs(u) + du) + fabs(silu) * du + ACT_ROUNDINGS * UNIT * fabs(rows->h[i]);
	}
	for (uint32_t i = 0; i < d; i++) {
		double part = dot(&f->down, i, rows->h, rows->dh, &dy);
		y[at + i] += weight * part;
		bound[at + i] +=
			fabs(weight) * (dy + (s->shape.n_experts + 2) * UNIT * (fabs(part) + dy)) + (double)FLT_MIN;
	}
}

int ex_ref_run(const struct ex_ref_shard *s, const struct ex_ref_batch *b, double *y, double *bound)
{
	struct rows rows = {
		.x = ex_calloc(s->shape.d_model, sizeof(double)),
		.h = ex_calloc(s->shape.d_ff, sizeof(double)),
		.dh = ex_calloc(s->shape.d_ff, sizeof(double)),
	};
	int rc = rows.x && rows.h && rows.dh ? 0 : -ENOMEM;
	size_t n = (size_t)b->b.n_tokens * s->shape.d_model;
	for (size_t i = 0; i < n; i++)
		y[i] = bound[i] = 0;
	for (uint32_t e = 0; e < s->shape.n_experts && rc == 0; e++)
		for (uint32_t a = b->offset[e]; a < b->offset[e + 1]; a++)
			add_assignment(s, b, e, a, &rows, y, bound);
	free(rows.x);
	free(rows.h);
	free(rows.dh);
	return rc;
}
