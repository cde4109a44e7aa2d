/* SPDX-License-Identifier: Apache-2.0 */
/* The example plugin with one mistake each (W_MISTAKE, see local.mk): what the conformance suite must find. */
#define expertd_plugin example_table /* the struct of that name, too */
#include "example.c"
#undef expertd_plugin

#include <signal.h>
#include <unistd.h>

enum mistake { INEXACT = 1, CRASHES, LEAKS, COMPANY, HANGS, ANY_DEVICE, ANY_DTYPE };

static int wrong_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	return example_open(host, W_MISTAKE == ANY_DEVICE ? "0" : which, ret);
}

static int wrong_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	static char *volatile lost;
	if (W_MISTAKE == LEAKS) {
		lost = malloc(1 << 18);
		if (lost)
			memset(lost, 1, 1 << 18);
	}
	if (W_MISTAKE == ANY_DTYPE && experts[0].up.dtype == 99) {
		struct expertd_ffn one = experts[0];
		one.up.dtype = EXPERTD_F32;
		return example_load(dev, &one, 1, ret);
	}
	return example_load(dev, experts, n_experts, ret);
}

static int wrong_run(struct expertd_shard *s, const struct expertd_batch *b)
{
	int rc = example_run(s, b);
	if (W_MISTAKE == CRASHES)
		raise(SIGSEGV);
	if (W_MISTAKE == HANGS)
		pause();
	if (W_MISTAKE == INEXACT && b->n_tokens)
		b->y[b->n_tokens - 1] += 0.01f;
	for (uint32_t i = 0; W_MISTAKE == COMPANY && i < b->n_tokens; i++) /* within the bound, but not on its own */
		b->y[(size_t)i * s->d_model] *= 1 + (float)b->n_tokens * 0x1p-22f;
	return rc;
}

extern __attribute__((visibility("default"))) const struct example_table expertd_plugin;
const struct example_table expertd_plugin = {
	.abi_major = EXPERTD_ABI_MAJOR,
	.abi_minor = EXPERTD_ABI_MINOR,
	.size = sizeof(struct example_table),
	.name = "wrong",
	.version = "1",
	.flags = EXPERTD_UNLOADABLE | EXPERTD_BATCH_INVARIANT,
	.probe = example_probe,
	.open = wrong_open,
	.load = wrong_load,
	.run = wrong_run,
	.unload = example_unload,
	.close = example_close,
};
