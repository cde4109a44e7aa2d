/* SPDX-License-Identifier: Apache-2.0 */
/* Plugins that a loader must refuse, or choose among: one source, built with one deviation each (see local.mk). */
#include "expertd/plugin.h"

#include <errno.h>

#ifndef V_MAJOR
#define V_MAJOR EXPERTD_ABI_MAJOR
#endif
#ifndef V_MINOR
#define V_MINOR EXPERTD_ABI_MINOR
#endif
#ifndef V_SIZE
#define V_SIZE sizeof(struct expertd_plugin)
#endif
#ifndef V_RUN
#define V_RUN variant_run
#endif
#ifndef V_SCORE
#define V_SCORE 5
#endif
#ifndef V_SYMBOL
#define V_SYMBOL expertd_plugin
#endif

static int variant_probe(const char **ret_why)
{
	*ret_why = "the variant says so";
	return V_SCORE;
}

static int variant_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	(void)host;
	(void)which;
	(void)ret;
	return -ENODEV;
}

static int variant_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	(void)dev;
	(void)experts;
	(void)n_experts;
	(void)ret;
	return -ENOTSUP;
}

static __attribute__((unused)) int variant_run(struct expertd_shard *shard, const struct expertd_batch *batch)
{
	(void)shard;
	(void)batch;
	return -EIO;
}

static void variant_unload(struct expertd_shard *shard)
{
	(void)shard;
}

static void variant_close(struct expertd_device *dev)
{
	(void)dev;
}

extern __attribute__((visibility("default"))) const struct expertd_plugin V_SYMBOL;
const struct expertd_plugin V_SYMBOL = {
	.abi_major = V_MAJOR,
	.abi_minor = V_MINOR,
	.size = V_SIZE,
	.name = "variant",
	.version = "1",
	.flags = EXPERTD_UNLOADABLE,
	.probe = variant_probe,
	.open = variant_open,
	.load = variant_load,
	.run = V_RUN,
	.unload = variant_unload,
	.close = variant_close,
};

/* The head of a trunk table of another build. */
struct ops_head {
	uint32_t version, size;
	char build[24];
};
extern __attribute__((visibility("default"))) const struct ops_head expertd_trunk;
const struct ops_head expertd_trunk = {1, sizeof(struct ops_head), "another build"};
