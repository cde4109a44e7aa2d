/* SPDX-License-Identifier: Apache-2.0 */
/* Samples: taken, run through two generations, compared. Layer L2. */
#include "expert/verify.h"

#include "base/err.h"
#include "base/mem.h"
#include "expert/reference.h"
#include <math.h>
#include <string.h>

#define GUARD_FLOATS     64
#define SYNTHETIC_TOKENS 8  /* most batches are small .. */
#define SYNTHETIC_LARGE  48 /* .. and every eighth is not: kernels are chosen by rows */

/* --- taking ---------------------------------------------------------------------------------------------- */

/* A few rows of numbers as activations have them, each to about half of the shard's experts; the nth batch of a shard is always the same. */
static struct ex_batch *make_up(const struct ex_shard_id *id, size_t nth, uint32_t d_model, struct ex_ref_rng *rng)
{
	uint32_t n_tokens = nth % 8 == 7 ? SYNTHETIC_LARGE : 1 + ex_ref_below(rng, SYNTHETIC_TOKENS), n = 0;
	struct ex_batch *c = ex_batch_new(id->n_experts, n_tokens, n_tokens * id->n_experts, d_model, EXPERTD_F32);
	if (!c)
		return NULL;
	float *x = ex_batch_x(c), *weight = ex_batch_weight(c);
	uint32_t *offset = ex_batch_offset(c), *token = ex_batch_token(c);
	for (size_t i = 0; i < (size_t)n_tokens * d_model; i++)
		x[i] = ex_ref_uniform(rng, -2, 2);
	offset[0] = 0;
	for (uint32_t e = 0; e < id->n_experts; e++) {
		for (uint32_t t = 0; t < n_tokens; t++)
			if (ex_ref_below(rng, 2)) {
				token[n] = t;
				weight[n++] = ex_ref_uniform(rng, 0, 1);
			}
		offset[e + 1] = n;
	}
	c->b.n_assignments = n;
	return c;
}

static float **new_rows(const struct ex_samples *s)
{
	float **rows = ex_calloc(s->n, sizeof *rows);
	for (size_t i = 0; rows && i < s->n; i++) {
		size_t n = (size_t)s->batch[i]->b.n_tokens * s->d_model + 2 * GUARD_FLOATS;
		rows[i] = ex_alloc_aligned(n, sizeof **rows);
		if (!rows[i]) {
			while (i)
				free(rows[--i]);
			free(rows);
			return NULL;
		}
		memset(rows[i], 0xff, n * sizeof **rows); /* NaN */
		rows[i] += GUARD_FLOATS;
	}
	return rows;
}

static void free_rows(float **rows, size_t n)
{
	for (size_t i = 0; rows && i < n; i++)
		free(rows[i] - GUARD_FLOATS);
	free(rows);
}

int ex_samples_take(
	struct ex_samples *s, struct ex_registry *r, const struct ex_shard_id *id, size_t max, struct ex_err *err)
{
	struct ex_ref_rng rng = {.state = id->layer * UINT64_C(1009) + id->first_expert};
	*s = (struct ex_samples){.d_model = ex_registry_width(r), .alive = s->alive, .ctx = s->ctx};
	s->batch = ex_calloc(max, sizeof *s->batch);
	if (!s->batch)
		return ex_err_errno(err, -ENOMEM, "cannot take samples");
	s->n = ex_registry_recorded(r, id, s->batch, max);
	s->synthetic = s->n == 0 && max;
	for (; s->synthetic && s->n < max; s->n++)
		if (!(s->batch[s->n] = make_up(id, s->n, s->d_model, &rng)))
			break;
	s->got = new_rows(s);
	if (!s->got || (max && !s->n)) {
		ex_samples_done(s);
		return ex_err_errno(err, -ENOMEM, "cannot take samples");
	}
	return 0;
}

void ex_samples_done(struct ex_samples *s)
{
	free_rows(s->want, s->n);
	free_rows(s->got, s->n);
	for (size_t i = 0; i < s->n; i++)
		free(s->batch[i]);
	free(s->batch);
	*s = (struct ex_samples){.n = 0};
}

/* --- running --------------------------------------------------------------------------------------------- */

static bool is_filled(const float *p)
{
	const unsigned char *at = (const unsigned char *)p;
	for (size_t i = 0; i < GUARD_FLOATS * sizeof *p; i++)
		if (at[i] != 0xff)
			return false;
	return true;
}

static int run(struct ex_samples *s, struct ex_generation *g, size_t i, float *y, struct ex_err *err)
{
	struct expertd_batch b = s->batch[i]->b;
	b.y = y;
	if (s->alive && !s->alive(s->ctx))
		return ex_err_set(err, -ECANCELED, "a stop was asked for");
	int rc = ex_generation_try(g, &b);
	if (rc < 0)
		return ex_err_errno(
			err, rc, "run() of %s failed on batch %zu of %zu", ex_generation_plugin(g), i, s->n);
	if (!is_filled(y - GUARD_FLOATS) || !is_filled(y + (size_t)b.n_tokens * s->d_model))
		return ex_err_set(err, -EFAULT, "%s wrote beside y in batch %zu", ex_generation_plugin(g), i);
	return 0;
}

int ex_samples_want(struct ex_samples *s, struct ex_executor *e, struct ex_generation *g, struct ex_err *err)
{
	const struct ex_shard_id *id = ex_generation_id(g);
	s->want = new_rows(s);
	int rc = s->want ? 0 : ex_err_errno(err, -ENOMEM, "cannot replay");
	for (size_t i = 0; i < s->n && rc == 0; i++) {
		ex_executor_hold(e, id->layer, id->first_expert);
		rc = run(s, g, i, s->want[i], err);
		ex_executor_release(e);
	}
	return rc;
}

int ex_samples_got(struct ex_samples *s, struct ex_generation *g, struct ex_err *err)
{
	int rc = 0;
	for (size_t i = 0; i < s->n && rc == 0; i++) {
		memset(s->got[i], 0xff, (size_t)s->batch[i]->b.n_tokens * s->d_model * sizeof *s->got[i]);
		rc = run(s, g, i, s->got[i], err);
	}
	return rc;
}

/* --- comparing ------------------------------------------------------------------------------------------- */

/* The largest difference of a row, relative to its largest number; INFINITY: not finite where want is. */
static float row_error(const float *want, const float *got, uint32_t n)
{
	float largest = 0, worst = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (!isfinite(got[i]) && (isfinite(want[i]) || isnan(got[i]) != isnan(want[i])))
			return INFINITY;
		if (!isfinite(want[i]))
			continue;
		largest = fmaxf(largest, fabsf(want[i]));
		worst = fmaxf(worst, fabsf(want[i] - got[i]));
	}
	return worst == 0 ? 0 : largest == 0 ? INFINITY : worst / largest;
}

static bool is_finite_row(const float *y, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!isfinite(y[i]))
			return false;
	return true;
}

int ex_samples_compare(const struct ex_samples *s, float tolerance, struct ex_err *err, struct ex_verdict *ret)
{
	struct ex_verdict v = {.exact = s->want && s->n};
	const uint32_t d = s->d_model;
	for (size_t i = 0; i < s->n; i++)
		for (uint32_t t = 0; t < s->batch[i]->b.n_tokens; t++) {
			const float *got = s->got[i] + (size_t)t * d;
			const float *want = s->want ? s->want[i] + (size_t)t * d : NULL;
			if (!want && !is_finite_row(got, d))
				return ex_err_set(err, -EDOM, "row %u of batch %zu is not finite", t, i);
			if (!want || memcmp(want, got, d * sizeof *got) == 0)
				continue;
			v.exact = false;
			float e = row_error(want, got, d);
			v.worst = fmaxf(v.worst, e);
			if (tolerance == 0)
				return ex_err_set(err, -EDOM,
					"row %u of batch %zu differs in bits from the live generation's (relative "
					"error %.3g)",
					t, i, (double)e);
			if (!(e <= tolerance))
				return ex_err_set(err, -EDOM,
					"row %u of batch %zu has a relative error of %.3g, at most %.3g is allowed", t,
					i, (double)e, (double)tolerance);
		}
	*ret = v;
	return 0;
}
