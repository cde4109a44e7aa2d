/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest complete plugin, printed in docs/PLUGINS.md: f32 weights, one token at a time. */
#include <errno.h>
#include <expertd/plugin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct expertd_device {
	int nothing; /* a real plugin keeps its queue, stream or thread pool here */
};

struct expertd_shard {
	struct expertd_ffn *ffn; /* the structs are copied; the weights they point to stay */
	uint32_t n_experts, d_model, d_ff;
	float *x, *h; /* [d_model], [d_ff] */
};

static int example_probe(const char **ret_why)
{
	(void)ret_why; /* set it when returning 0 */
	return 1;
}

static int example_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	(void)host;
	if (strcmp(which, "0") != 0)
		return -ENODEV;
	*ret = calloc(1, sizeof **ret);
	return *ret ? 0 : -ENOMEM;
}

static void example_unload(struct expertd_shard *s)
{
	free(s->ffn);
	free(s->x);
	free(s->h);
	free(s);
}

static int example_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	if (!dev || !n_experts)
		return -EINVAL;
	for (uint32_t e = 0; e < n_experts; e++) {
		const struct expertd_ffn *f = &experts[e];
		if (f->act != EXPERTD_SILU || f->gate.dtype != EXPERTD_F32 || f->up.dtype != EXPERTD_F32 ||
			f->down.dtype != EXPERTD_F32)
			return -ENOTSUP;
	}
	struct expertd_shard *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->n_experts = n_experts;
	s->d_ff = experts[0].gate.rows;
	s->d_model = experts[0].gate.cols;
	s->ffn = malloc(n_experts * sizeof *s->ffn);
	s->x = malloc(s->d_model * sizeof *s->x);
	s->h = malloc(s->d_ff * sizeof *s->h);
	if (!s->ffn || !s->x || !s->h) {
		example_unload(s);
		return -ENOMEM;
	}
	memcpy(s->ffn, experts, n_experts * sizeof *s->ffn);
	*ret = s;
	return 0;
}

/* Row r of m times x. */
static float dot(const struct expertd_matrix *m, uint32_t r, const float *x)
{
	const float *w = (const float *)m->data + (size_t)r * m->cols;
	float sum = 0;
	for (uint32_t c = 0; c < m->cols; c++)
		sum += w[c] * x[c];
	return sum;
}

/* Token t's row, widened to f32. */
static void read_token(const struct expertd_shard *s, const struct expertd_batch *b, uint32_t t)
{
	for (size_t i = 0, at = (size_t)t * s->d_model; i < s->d_model; i++, at++)
		if (b->x_dtype == EXPERTD_F32) {
			s->x[i] = ((const float *)b->x)[at];
		} else {
			uint32_t bits = (uint32_t)((const uint16_t *)b->x)[at] << 16;
			memcpy(&s->x[i], &bits, sizeof bits);
		}
}

static int example_run(struct expertd_shard *s, const struct expertd_batch *b)
{
	memset(b->y, 0, (size_t)b->n_tokens * s->d_model * sizeof *b->y);
	for (uint32_t e = 0; e < s->n_experts; e++)
		for (uint32_t a = b->offset[e]; a < b->offset[e + 1]; a++) {
			float *y = b->y + (size_t)b->token[a] * s->d_model;
			read_token(s, b, b->token[a]);
			for (uint32_t i = 0; i < s->d_ff; i++) {
				float gate = dot(&s->ffn[e].gate, i, s->x);
				s->h[i] = gate / (1 + expf(-gate)) * dot(&s->ffn[e].up, i, s->x);
			}
			for (uint32_t i = 0; i < s->d_model; i++)
				y[i] += b->weight[a] * dot(&s->ffn[e].down, i, s->h);
		}
	return 0;
}

static void example_close(struct expertd_device *dev)
{
	free(dev);
}

const struct expertd_plugin expertd_plugin = {
	.abi_major = EXPERTD_ABI_MAJOR,
	.abi_minor = EXPERTD_ABI_MINOR,
	.size = sizeof(struct expertd_plugin),
	.name = "example",
	.version = "1.0",
	.flags = EXPERTD_UNLOADABLE | EXPERTD_BATCH_INVARIANT,
	.probe = example_probe,
	.open = example_open,
	.load = example_load,
	.run = example_run,
	.unload = example_unload,
	.close = example_close,
};
