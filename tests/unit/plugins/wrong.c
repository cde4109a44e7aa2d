/* SPDX-License-Identifier: Apache-2.0 */
/* The example plugin with the mistake that the host's option "mistake" names, or WRONG_MISTAKE: what the conformance suite, and the trial
 * before a swap, must find. */
#define expertd_plugin example_table /* the struct of that name, too */
#include "example.c"
#undef expertd_plugin

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

#ifndef WRONG_MISTAKE
#define WRONG_MISTAKE ""
#endif
#ifndef WRONG_FILE
#define WRONG_FILE "" /* whose existence lets "aborts_on_file" make its mistake */
#endif

static const char *mistake = WRONG_MISTAKE;

static bool makes(const char *name)
{
	return strcmp(mistake, name) == 0;
}

static int wrong_open(const struct expertd_host *host, const char *which, struct expertd_device **ret)
{
	const char *option = host->option(host->ctx, "mistake");
	mistake = option ? option : WRONG_MISTAKE;
	if (makes("files"))
		(void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
	int rc = example_open(host, makes("any_device") ? "0" : which, ret);
	return rc == 0 && makes("positive_open") ? 1 : rc;
}

static void lose(size_t n)
{
	static char *volatile lost;
	lost = malloc(n);
	if (lost)
		memset(lost, 1, n);
}

static int wrong_load(
	struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts, struct expertd_shard **ret)
{
	if (makes("leaks"))
		lose(1 << 18);
	if (makes("crashes_at_load"))
		raise(SIGSEGV);
	if (makes("aborts_on_file") && access(WRONG_FILE, F_OK) == 0)
		abort();
	if (makes("hangs_at_load"))
		pause();
	if (makes("crashes_at_40") && experts[0].gate.rows == 40 && experts[0].gate.cols == 136)
		raise(SIGBUS);
	if (makes("any_dtype") && experts[0].up.dtype == 99) {
		struct expertd_ffn one = experts[0];
		one.up.dtype = EXPERTD_F32;
		return example_load(dev, &one, 1, ret);
	}
	int rc = example_load(dev, experts, n_experts, ret);
	if (rc == 0 && makes("keeps_structs")) {
		free((*ret)->ffn);
		(*ret)->ffn = (struct expertd_ffn *)experts;
	}
	return rc == 0 && makes("positive_load") ? 2 : rc;
}

static void wrong_unload(struct expertd_shard *s)
{
	if (makes("keeps_structs"))
		s->ffn = NULL;
	example_unload(s);
}

/* Experts of 136 x 40 are those of the tests' checkpoint; the suite tries none of this shape. */
static bool is_at_40(const struct expertd_shard *s)
{
	return s->d_ff == 40 && s->d_model == 136;
}

/* The mistakes that one write makes. */
static void write_astray(const struct expertd_shard *s, const struct expertd_batch *b)
{
	if (makes("before"))
		b->y[-1] = 0;
	if (makes("after"))
		b->y[(size_t)b->n_tokens * s->d_model + 1] = 0;
	if (makes("input") && b->n_tokens)
		((float *)b->x)[0] = 0;
	if (makes("weights"))
		((float *)s->ffn[0].gate.data)[0] = 0;
	if (makes("after_at_40") && is_at_40(s))
		b->y[(size_t)b->n_tokens * s->d_model + 1] = 0;
	if (((makes("inexact_at_40") && is_at_40(s)) || makes("inexact")) && b->n_tokens)
		b->y[b->n_tokens - 1] += 0.01f;
}

static int wrong_run(struct expertd_shard *s, const struct expertd_batch *b)
{
	int rc = example_run(s, b);
	if (makes("crashes"))
		raise(SIGSEGV);
	if (makes("exits"))
		_exit(0);
	if (makes("hangs"))
		pause();
	if (makes("forks")) {
		if (fork() == 0)
			pause();
		raise(SIGSEGV);
	}
	if (makes("leaks_in_run"))
		lose(2048);
	write_astray(s, b);
	/* within the bound, but not on its own */
	for (uint32_t i = 0; (makes("company") || (makes("crowd") && b->n_tokens > 100)) && i < b->n_tokens; i++)
		b->y[(size_t)i * s->d_model] *= 1 + (float)b->n_tokens * 0x1p-22f;
	return makes("positive_run") ? 3 : rc;
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
	.unload = wrong_unload,
	.close = example_close,
};
