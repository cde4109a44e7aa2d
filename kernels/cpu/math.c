/* SPDX-License-Identifier: Apache-2.0 */
/* Element-wise and row-wise math. A lane's bits do not depend on its place in a vector: tails run through the same
 * vector code. */
#include "isa.h"

#include <math.h>

INLINE vf sigmoid_(vf x)
{
	return set1(1) / (set1(1) + exp_(set1(0) - x));
}

/* Applies `expr` of vectors a (from x), b (from y) to n elements of out. Tails are padded. */
#define EACH(x, y, out, n, expr)                                                                                       \
	do {                                                                                                           \
		size_t each_i_ = 0;                                                                                    \
		for (; each_i_ + VL <= (n); each_i_ += VL) {                                                           \
			vf a = load((x) + each_i_), b = load((y) + each_i_);                                           \
			(void)b;                                                                                       \
			store((out) + each_i_, (expr));                                                                \
		}                                                                                                      \
		if (each_i_ < (n)) {                                                                                   \
			vf a = load_part((x) + each_i_, (n)-each_i_), b = load_part((y) + each_i_, (n)-each_i_);       \
			(void)b;                                                                                       \
			store_part((out) + each_i_, (expr), (n)-each_i_);                                              \
		}                                                                                                      \
	} while (0)

void ISA(silu_mul)(const float *gate, const float *up, float *out, size_t n)
{
	EACH(gate, up, out, n, a * sigmoid_(a) * b);
}

void ISA(exp)(const float *x, float *out, size_t n)
{
	EACH(x, x, out, n, exp_(a));
}

void ISA(sigmoid)(float *x, size_t n)
{
	EACH(x, x, x, n, sigmoid_(a));
}

void ISA(add)(const float *x, float *y, size_t n)
{
	EACH(x, y, y, n, b + a);
}

void ISA(add_scaled)(float s, const float *x, float *y, size_t n)
{
	EACH(x, y, y, n, fma_(set1(s), a, b));
}

void ISA(softmax)(float *x, size_t n)
{
	float max = -INFINITY, sum = 0;
	for (size_t i = 0; i < n; i++)
		max = x[i] > max ? x[i] : max;
	EACH(x, x, x, n, exp_(a - set1(max)));
	for (size_t i = 0; i < n; i++)
		sum += x[i];
	EACH(x, x, x, n, a / set1(sum));
}

/* Lane l adds the squares of elements l, l + VL, ..; then the lanes are added in ascending order. */
static float sum_squares(const float *x, size_t n)
{
	vf acc = set1(0);
	size_t i = 0;
	for (; i + VL <= n; i += VL)
		acc = fma_(load(x + i), load(x + i), acc);
	if (i < n) {
		vf v = load_part(x + i, n - i);
		acc = fma_(v, v, acc);
	}
	float lane[VL], sum = 0;
	store(lane, acc);
	for (i = 0; i < VL; i++)
		sum += lane[i];
	return sum;
}

void ISA(rmsnorm)(const float *x, const float *w, float eps, float *out, size_t d)
{
	float scale = 1 / sqrtf(sum_squares(x, d) / (float)d + eps);
	EACH(x, w, out, d, a * set1(scale) * b);
}

void ISA(rope)(float *x, const float *cos, const float *sin, uint32_t half, bool interleaved)
{
	uint32_t step = interleaved ? 2 : 1, across = interleaved ? 1 : half;
	for (uint32_t j = 0; j < half; j++) {
		float *p = x + (size_t)j * step, a = p[0], b = p[across];
		p[0] = a * cos[j] - b * sin[j];
		p[across] = b * cos[j] + a * sin[j];
	}
}
