/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary tables. Layer L2. */
#include "trunk/rope.h"

#include <math.h>

/* 0.1 * mscale * ln(factor) + 1, and 1 where nothing is stretched. */
static double yarn_mscale(double factor, double mscale)
{
	return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* cos and sin are multiplied with it. A mscale of 0 stands for a key that config.json does not have. */
static float attention_factor(const struct ex_model_config *c)
{
	if (!c->yarn)
		return 1;
	if (c->yarn_mscale != 0 && c->yarn_mscale_all_dim != 0)
		return (float)(yarn_mscale(c->yarn_factor, c->yarn_mscale) /
			       yarn_mscale(c->yarn_factor, c->yarn_mscale_all_dim));
	return (float)yarn_mscale(c->yarn_factor, 1);
}

/* The dimension whose wave turns n_turns times within the original context. */
static double correction_dim(const struct ex_model_config *c, double n_turns)
{
	return c->qk_rope_dim * log(c->yarn_n_ctx_original / (n_turns * 2 * M_PI)) / (2 * log(c->rope_theta));
}

/* Share of the stretched frequency at pair j: 0 below low (fast waves stay), 1 above high. */
static float stretch_share(const struct ex_model_config *c, uint32_t j)
{
	double low = fmax(floor(correction_dim(c, c->yarn_beta_fast)), 0);
	double high = fmin(ceil(correction_dim(c, c->yarn_beta_slow)), (double)c->qk_rope_dim - 1);
	if (low == high)
		high += 0.001;
	float share = ((float)j - (float)low) / (float)(high - low);
	return fminf(fmaxf(share, 0), 1);
}

static float inv_freq(const struct ex_model_config *c, uint32_t j)
{
	float freq = powf(c->rope_theta, (float)(2 * j) / (float)c->qk_rope_dim);
	if (!c->yarn)
		return 1 / freq;
	float share = stretch_share(c, j);
	float keep = 1 - share;
	return 1 / (c->yarn_factor * freq) * (1 - keep) + 1 / freq * keep;
}

void ex_rope_table(const struct ex_model_config *c, uint32_t n_ctx, float *cos_table, float *sin_table)
{
	uint32_t half = c->qk_rope_dim / 2;
	float factor = attention_factor(c);
	for (uint32_t j = 0; j < half; j++) {
		float f = inv_freq(c, j);
		for (uint32_t p = 0; p < n_ctx; p++) {
			float angle = (float)p * f;
			cos_table[(size_t)p * half + j] = (float)cos(angle) * factor;
			sin_table[(size_t)p * half + j] = (float)sin(angle) * factor;
		}
	}
}

float ex_rope_softmax_scale(const struct ex_model_config *c)
{
	double scale = 1 / sqrt((double)c->qk_nope_dim + c->qk_rope_dim);
	if (c->yarn && c->yarn_mscale_all_dim != 0) {
		double m = yarn_mscale(c->yarn_factor, c->yarn_mscale_all_dim);
		scale *= m * m;
	}
	return (float)scale;
}
