/* SPDX-License-Identifier: Apache-2.0 */
/* The reference plugin: the experts' math as plainly as it can be written, scalar and slow. What it computes is the
 * definition that other plugins are held to: weights widened to f32 (F8E4M3: times its block's scale), sums in f32, one
 * accumulator, ascending k, no fused multiply-add. */
#include "expertd/plugin.h"

#include "base/dtype.h"
#include "config.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define F8_BLOCK 128

struct expertd_device {
	uint32_t n_shards;
};

struct expertd_shard {
	struct expertd_device *dev;
	uint32_t n_experts, d_model, d_ff;
	float *x, *h; /* [d_model], [d_ff]: one token's input and hidden row */
	struct expertd_ffn ffn[];
};

static int ref_probe(const char **ret_why)
{
	(void)ret_why;
	return 1; /* runs anywhere; anything else is better */
}

static int ref_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	(void)host;
	if (which && *which && strcmp(which, "0") != 0)
		return -ENODEV;
	struct expertd_device *dev = calloc(1, sizeof *dev);
	if (!dev)
		return -ENOMEM;
	*ret = dev;
	return 0;
}

/* Element (r, c), widened. Data may lie at any alignment. */
static float element(const struct expertd_matrix *m, uint32_t r, uint32_t c)
{
	const uint8_t *p = m->data;
	size_t i = (size_t)r * m->cols + c;
	uint16_t half;
	float f;
	switch (m->dtype) {
	case EXPERTD_BF16:
		memcpy(&half, p + 2 * i, 2);
		return ex_bf16_to_f32(half);
	case EXPERTD_F16:
		memcpy(&half, p + 2 * i, 2);
		return ex_f16_to_f32(half);
	case EXPERTD_F8E4M3:
		return ex_e4m3_to_f32(p[i]) *
		       m->scale[(size_t)(r / F8_BLOCK) * ((m->cols + F8_BLOCK - 1) / F8_BLOCK) + c / F8_BLOCK];
	default:
		memcpy(&f, p + 4 * i, 4);
		return f;
	}
}

static int check_matrix(const struct expertd_matrix *m, uint32_t rows, uint32_t cols)
{
	if (m->dtype < EXPERTD_F32 || m->dtype > EXPERTD_F8E4M3 || m->rows != rows || m->cols != cols || !rows || !cols)
		return -ENOTSUP;
	if (!m->data || (m->dtype == EXPERTD_F8E4M3) != (m->scale != NULL))
		return -EINVAL;
	for (uint32_t r = 0; m->dtype == EXPERTD_F8E4M3 && r < rows; r++)
		for (uint32_t c = 0; c < cols; c++)
			if ((((const uint8_t *)m->data)[(size_t)r * cols + c] & 0x7f) == 0x7f)
				return -EINVAL; /* NaN */
	return 0;
}

static int ref_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	if (!dev || !experts || !n_experts)
		return -EINVAL;
	uint32_t d_ff = experts[0].gate.rows, d_model = experts[0].gate.cols;
	for (uint32_t e = 0; e < n_experts; e++) {
		const struct expertd_ffn *f = &experts[e];
		int rc = f->act == EXPERTD_SILU ? check_matrix(&f->gate, d_ff, d_model) : -ENOTSUP;
		if (rc == 0)
			rc = check_matrix(&f->up, d_ff, d_model);
		if (rc == 0)
			rc = check_matrix(&f->down, d_model, d_ff);
		if (rc < 0)
			return rc;
	}
	struct expertd_shard *s = calloc(1, sizeof *s + n_experts * sizeof s->ffn[0]);
	if (!s)
		return -ENOMEM;
	*s = (struct expertd_shard){.dev = dev, .n_experts = n_experts, .d_model = d_model, .d_ff = d_ff};
	memcpy(s->ffn, experts, n_experts * sizeof s->ffn[0]);
	s->x = calloc(d_model, sizeof *s->x);
	s->h = calloc(d_ff, sizeof *s->h);
	if (!s->x || !s->h) {
		free(s->x);
		free(s->h);
		free(s);
		return -ENOMEM;
	}
	dev->n_shards++;
	*ret = s;
	return 0;
}

/* Row r of m times x. */
static float dot(const struct expertd_matrix *m, uint32_t r, const float *x)
{
	float sum = 0;
	for (uint32_t c = 0; c < m->cols; c++)
		sum += element(m, r, c) * x[c];
	return sum;
}

static void read_token(const struct expertd_shard *s, const struct expertd_batch *b, uint32_t token)
{
	size_t first = (size_t)token * s->d_model;
	for (uint32_t i = 0; i < s->d_model; i++)
		s->x[i] = b->x_dtype == EXPERTD_F32 ? ((const float *)b->x)[first + i]
						    : ex_bf16_to_f32(((const uint16_t *)b->x)[first + i]);
}

static int ref_run(struct expertd_shard *s, const struct expertd_batch *b)
{
	if (b->n_experts != s->n_experts || (b->x_dtype != EXPERTD_F32 && b->x_dtype != EXPERTD_BF16))
		return -EINVAL;
	memset(b->y, 0, (size_t)b->n_tokens * s->d_model * sizeof *b->y);
	for (uint32_t e = 0; e < s->n_experts; e++)
		for (uint32_t a = b->offset[e]; a < b->offset[e + 1]; a++) {
			const struct expertd_ffn *f = &s->ffn[e];
			float *y = b->y + (size_t)b->token[a] * s->d_model;
			read_token(s, b, b->token[a]);
			for (uint32_t i = 0; i < s->d_ff; i++) {
				float gate = dot(&f->gate, i, s->x);
				s->h[i] = gate / (1 + expf(-gate)) * dot(&f->up, i, s->x);
			}
			for (uint32_t i = 0; i < s->d_model; i++)
				y[i] += b->weight[a] * dot(&f->down, i, s->h);
		}
	return 0;
}

static void ref_unload(struct expertd_shard *s)
{
	s->dev->n_shards--;
	free(s->x);
	free(s->h);
	free(s);
}

static void ref_close(struct expertd_device *dev)
{
	free(dev);
}

const struct expertd_plugin expertd_plugin = {
	.abi_major = EXPERTD_ABI_MAJOR,
	.abi_minor = EXPERTD_ABI_MINOR,
	.size = sizeof(struct expertd_plugin),
	.name = "ref",
	.version = PACKAGE_VERSION,
	.flags = EXPERTD_UNLOADABLE | EXPERTD_BATCH_INVARIANT,
	.probe = ref_probe,
	.open = ref_open,
	.load = ref_load,
	.run = ref_run,
	.unload = ref_unload,
	.close = ref_close,
};
