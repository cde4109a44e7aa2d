/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl shard swap, load, unload, rollback: a line for each shard as it gets there. */
#include "ctl/ctl.h"

#include "expertd/admin.pb-c.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define ADMIN      "/expertd.v1.Admin/"
#define VERIFY_MAX 64

const struct ctl_opt ctl_opts_swap[] = {
	{"plugin", "FILE.so", "the plugin to swap to; the daemon must be able to read it"},
	{"verify", "N", "batches that both generations must agree on (default, and at most: 64); 0: none"},
	{"exact", NULL, "every bit must be equal (default)"},
	{"tolerance", "X", "a row's error may be X of its largest number, as in 1e-5"},
	{NULL, NULL, NULL},
};
const struct ctl_opt ctl_opts_unload[] = {
	{"force", NULL, "though it computed rows within the last seconds"},
	{NULL, NULL, NULL},
};

struct shards {
	const struct ctl *c;
	unsigned n_failed;
};

static void print_verdict(const Expertd__V1__ShardStep *s)
{
	if (!s->batches)
		printf(" · not verified");
	else if (s->exact)
		printf(" · verified %u %sbatches bit-exact", s->batches, s->synthetic ? "synthetic " : "");
	else
		printf(" · verified %u %sbatches within %.2g", s->batches, s->synthetic ? "synthetic " : "",
			(double)s->worst);
}

static void print_step(const Expertd__V1__ShardStep *s)
{
	char drained[32];
	printf("%-10s ", s->shard);
	if (s->failed) {
		printf("refused at %s: %s\n", s->step, s->text);
		return;
	}
	if (strcmp(s->action, "unload") == 0)
		printf("unloaded");
	else if (strcmp(s->action, "rollback") == 0)
		printf("gen %u live again", s->generation);
	else
		printf("loaded gen %u", s->generation);
	if (strcmp(s->action, "swap") == 0)
		print_verdict(s);
	if (strcmp(s->action, "swap") == 0 || strcmp(s->action, "load") == 0)
		printf(" · live");
	if (s->before)
		printf(" · gen %u drained in %s", s->before, ctl_seconds_text(s->drain_seconds, drained));
	putchar('\n');
}

static int on_step(void *ctx, const ProtobufCMessage *m)
{
	struct shards *l = ctx;
	const Expertd__V1__ShardStep *s = (const Expertd__V1__ShardStep *)m;
	l->n_failed += s->failed;
	if (l->c->json)
		ctl_print_json(ctl_json(m), true);
	else
		print_step(s);
	return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_FAILED, "cannot write the output: %s", strerror(errno));
}

static int change(struct ctl *c, const char *path, const ProtobufCMessage *q)
{
	struct shards l = {.c = c};
	int rc = ctl_stream(c, path, q, &expertd__v1__shard_step__descriptor, on_step, &l);
	return rc == CTL_OK && l.n_failed ? CTL_FAILED : rc;
}

int ctl_cmd_shard_swap(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__SwapShardsRequest q = EXPERTD__V1__SWAP_SHARDS_REQUEST__INIT;
	const char *plugin = ctl_str(c, "plugin", NULL);
	char path[PATH_MAX];
	uint64_t n_verify;
	(void)argc;
	if (!plugin || !*plugin)
		return ctl_fail(CTL_USAGE, "--plugin=FILE.so is needed: what to swap to");
	if (ctl_has(c, "exact") && ctl_has(c, "tolerance"))
		return ctl_fail(CTL_USAGE, "--exact and --tolerance exclude each other");
	if (ctl_u64(c, "verify", 0, VERIFY_MAX, VERIFY_MAX, &n_verify) ||
		ctl_float(c, "tolerance", 0, 1, 0, &q.tolerance))
		return CTL_USAGE;
	if (!realpath(plugin, path))
		return ctl_fail(CTL_FAILED, "%s: %s", plugin, strerror(errno));
	q.glob = argv[0];
	q.plugin = path;
	q.verify = (uint32_t)n_verify;
	return change(c, ADMIN "SwapShards", &q.base);
}

int ctl_cmd_shard_load(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__LoadShardsRequest q = EXPERTD__V1__LOAD_SHARDS_REQUEST__INIT;
	(void)argc;
	q.glob = argv[0];
	return change(c, ADMIN "LoadShards", &q.base);
}

int ctl_cmd_shard_unload(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__UnloadShardsRequest q = EXPERTD__V1__UNLOAD_SHARDS_REQUEST__INIT;
	(void)argc;
	q.glob = argv[0];
	q.force = ctl_has(c, "force");
	return change(c, ADMIN "UnloadShards", &q.base);
}

int ctl_cmd_shard_rollback(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__RollbackShardsRequest q = EXPERTD__V1__ROLLBACK_SHARDS_REQUEST__INIT;
	(void)argc;
	q.glob = argv[0];
	return change(c, ADMIN "RollbackShards", &q.base);
}
