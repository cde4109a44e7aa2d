/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in MLA's latent form, for one row of q and a few heads: all heads share the KV rows [rank + rope].
 *
 * Heads lie across a vector's lanes for the scores and the softmax, so that nothing is added across lanes. Positions go
 * in blocks of EX_MLA_BLOCK from position 0, whatever the page size; within a block every sum ascends. Running softmax:
 * arXiv:1805.02867, as in FlashAttention (arXiv:2205.14135). */
#include "isa.h"

#include <math.h>

#define POS_TILE   8 /* positions whose scores are computed together */
#define HEAD_TILE  4 /* heads whose outputs are computed together */
#define VALUE_TILE (2 * VL)
_Static_assert(EX_MLA_BLOCK % POS_TILE == 0 && VL % HEAD_TILE == 0, "tiles fill a block");

struct state {
	const struct ex_mla_part *a;
	float *q;                       /* [rank + rope][VL]: element-major, heads across */
	float *p;                       /* [EX_MLA_BLOCK][VL]: scores, then exp(score - max) */
	float *out;                     /* [VL][padded(rank)]: the running weighted sum of values */
	const float *row[EX_MLA_BLOCK]; /* the block's KV rows; beyond n the last one again */
	uint32_t n;                     /* positions of this block */
	bool is_first;
	vf max, sum, rescale;
};

static size_t padded(uint32_t rank)
{
	return ((size_t)rank + VALUE_TILE - 1) / VALUE_TILE * VALUE_TILE;
}

size_t ISA(mla_scratch)(uint32_t rank, uint32_t rope)
{
	return ((size_t)rank + rope + EX_MLA_BLOCK + padded(rank)) * VL;
}

static void gather_q(const struct ex_mla_part *a, float *q)
{
	memset(q, 0, ((size_t)a->rank + a->rope) * VL * sizeof *q);
	for (uint32_t h = 0; h < a->n_heads; h++) {
		for (size_t i = 0; i < a->rank; i++)
			q[i * VL + h] = a->q_lat[(size_t)h * a->rank + i];
		for (size_t i = 0; i < a->rope; i++)
			q[(a->rank + i) * VL + h] = a->q_rope[h * a->q_rope_step + i];
	}
}

static void find_rows(struct state *s, uint32_t first)
{
	const struct ex_mla_part *a = s->a;
	size_t width = (size_t)a->rank + a->rope;
	for (uint32_t t = 0; t < EX_MLA_BLOCK; t++) {
		uint32_t pos = first + (t < s->n ? t : s->n - 1);
		s->row[t] = a->pages[pos / a->page_tokens] + pos % a->page_tokens * width;
	}
}

/* p[t] = scale * (q . row[t]), one accumulator for each (position, head). */
static void score(struct state *s)
{
	size_t width = (size_t)s->a->rank + s->a->rope;
	vf scale = set1(s->a->scale);
	for (uint32_t t = 0; t < s->n; t += POS_TILE) {
		const float *const *row = s->row + t;
		vf acc[POS_TILE];
		UNROLL
		for (int j = 0; j < POS_TILE; j++)
			acc[j] = set1(0);
		for (size_t i = 0; i < width; i++) {
			vf q = load(s->q + i * VL);
			UNROLL
			for (int j = 0; j < POS_TILE; j++)
				acc[j] = fma_(set1(row[j][i]), q, acc[j]);
		}
		UNROLL
		for (int j = 0; j < POS_TILE; j++)
			store(s->p + (t + (size_t)j) * VL, acc[j] * scale);
	}
}

/* Turns the block's scores into weights relative to the new running maximum. */
static void soften(struct state *s)
{
	vf max = s->max, sum = set1(0);
	for (uint32_t t = 0; t < s->n; t++)
		max = max_(load(s->p + (size_t)t * VL), max);
	for (uint32_t t = 0; t < s->n; t++) {
		vf e = exp_(load(s->p + (size_t)t * VL) - max);
		store(s->p + (size_t)t * VL, e);
		sum = sum + e;
	}
	s->rescale = s->is_first ? set1(0) : exp_(s->max - max);
	s->sum = s->is_first ? sum : fma_(s->sum, s->rescale, sum);
	s->max = max;
}

INLINE vf load_some(const float *p, size_t n)
{
	if (n >= VL)
		return load(p);
	return load_part(p, n);
}

/* out[h][j..] = out[h][j..] * rescale[h] + sum over t of p[t][h] * row[t][j..], for HEAD_TILE heads and VALUE_TILE
 * values, of which n are there. */
INLINE void add_values(const struct state *s, const float *rescale, uint32_t h0, size_t j, size_t n)
{
	vf acc[HEAD_TILE][2];
	const size_t rank = padded(s->a->rank);
	float *out = s->out + h0 * rank + j;
	UNROLL
	for (uint32_t i = 0; i < HEAD_TILE * 2; i++) {
		acc[i / 2][i % 2] = set1(0);
		if (!s->is_first)
			acc[i / 2][i % 2] = load(out + i / 2 * rank + i % 2 * VL) * set1(rescale[h0 + i / 2]);
	}
	for (uint32_t t = 0; t < s->n; t++) {
		const float *row = s->row[t] + j;
		vf lo = load_some(row, n), hi = load_some(row + VL, n < VL ? 0 : n - VL);
		UNROLL
		for (uint32_t h = 0; h < HEAD_TILE; h++) {
			vf p = set1(s->p[(size_t)t * VL + h0 + h]);
			acc[h][0] = fma_(p, lo, acc[h][0]);
			acc[h][1] = fma_(p, hi, acc[h][1]);
		}
	}
	UNROLL
	for (uint32_t i = 0; i < HEAD_TILE * 2; i++)
		store(out + i / 2 * rank + i % 2 * VL, acc[i / 2][i % 2]);
}

static void gather_values(const struct state *s)
{
	float rescale[VL];
	store(rescale, s->rescale);
	size_t rank = s->a->rank;
	for (size_t j = 0; j < rank; j += VALUE_TILE)
		for (uint32_t h0 = 0; h0 < s->a->n_heads; h0 += HEAD_TILE) {
			if (rank - j >= VALUE_TILE)
				add_values(s, rescale, h0, j, VALUE_TILE);
			else
				add_values(s, rescale, h0, j, rank - j);
		}
}

static void put_out(const struct state *s)
{
	float sum[VL];
	store(sum, s->sum);
	for (uint32_t h = 0; h < s->a->n_heads; h++)
		for (size_t j = 0; j < s->a->rank; j++)
			s->a->out[(size_t)h * s->a->rank + j] = s->out[h * padded(s->a->rank) + j] / sum[h];
}

void ISA(mla)(const struct ex_mla_part *a)
{
	size_t width = (size_t)a->rank + a->rope;
	struct state s = {
		.a = a,
		.q = a->scratch,
		.p = a->scratch + width * VL,
		.out = a->scratch + (width + EX_MLA_BLOCK) * VL,
		.is_first = true,
		.max = set1(-INFINITY),
		.sum = set1(0),
	};
	gather_q(a, s.q);
	for (uint32_t pos = 0; pos < a->n_pos; pos += EX_MLA_BLOCK) {
		s.n = a->n_pos - pos < EX_MLA_BLOCK ? a->n_pos - pos : EX_MLA_BLOCK;
		find_rows(&s, pos);
		score(&s);
		soften(&s);
		gather_values(&s);
		s.is_first = false;
	}
	put_out(&s);
}
