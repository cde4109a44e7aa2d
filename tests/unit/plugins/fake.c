/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin for the registry's and executor's tests: y = sum over experts of weight * x * (expert + 1), in no time or as
 * slowly as option "run_us" says; fails on demand (options "load_error", "run_error": errno values); tells every run to
 * the host's log; refuses (-EBUSY) to run twice at once on a shard. */
#include "expertd/plugin.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct expertd_device {
	const struct expertd_host *host;
	atomic_int n_shards;
};

struct expertd_shard {
	struct expertd_device *dev;
	uint32_t d_model;
	atomic_int n_running;
};

static int number(const struct expertd_host *host, const char *key)
{
	const char *text = host->option(host->ctx, key);
	return text ? atoi(text) : 0;
}

static int fake_probe(const char **ret_why)
{
	(void)ret_why;
	return 1;
}

static int fake_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	if (strcmp(which, "0") != 0)
		return -ENODEV;
	struct expertd_device *dev = calloc(1, sizeof *dev);
	if (!dev)
		return -ENOMEM;
	dev->host = host;
	*ret = dev;
	return 0;
}

static int fake_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	(void)n_experts;
	if (number(dev->host, "load_error"))
		return -number(dev->host, "load_error");
	struct expertd_shard *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->dev = dev;
	s->d_model = experts[0].gate.cols;
	dev->n_shards++;
	*ret = s;
	return 0;
}

static int fake_run(struct expertd_shard *s, const struct expertd_batch *b)
{
	const struct expertd_host *host = s->dev->host;
	int rc = -number(host, "run_error");
	if (atomic_fetch_add(&s->n_running, 1) > 0)
		rc = -EBUSY;
	if (number(host, "run_us"))
		usleep((useconds_t)number(host, "run_us"));
	host->log(host->ctx, 7, "%u", b->n_tokens);
	memset(b->y, 0, (size_t)b->n_tokens * s->d_model * sizeof *b->y);
	for (uint32_t e = 0; e < b->n_experts; e++)
		for (uint32_t a = b->offset[e]; a < b->offset[e + 1]; a++)
			for (uint32_t i = 0; i < s->d_model; i++) {
				size_t at = (size_t)b->token[a] * s->d_model + i;
				b->y[at] += b->weight[a] * ((const float *)b->x)[at] * (float)(e + 1);
			}
	atomic_fetch_sub(&s->n_running, 1);
	return rc;
}

static void fake_unload(struct expertd_shard *s)
{
	s->dev->n_shards--;
	free(s);
}

static void fake_close(struct expertd_device *dev)
{
	if (dev->n_shards)
		abort(); /* closed under a shard */
	free(dev);
}

const struct expertd_plugin expertd_plugin = {
	.abi_major = EXPERTD_ABI_MAJOR,
	.abi_minor = EXPERTD_ABI_MINOR,
	.size = sizeof(struct expertd_plugin),
	.name = "fake",
	.version = "1",
	.flags = EXPERTD_UNLOADABLE | EXPERTD_BATCH_INVARIANT,
	.probe = fake_probe,
	.open = fake_open,
	.load = fake_load,
	.run = fake_run,
	.unload = fake_unload,
	.close = fake_close,
};
