/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl model show, model synth: checkpoints on disk; no daemon is needed. */
#include "ctl/ctl.h"

#include "base/clock.h"
#include "model/show.h"
#include "model/synth.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Prints one member a line, "key  value", nested objects indented; numbers named *_bytes or bytes_* with their unit. */
static void print_members(json_t *o, int depth)
{
	const char *key;
	json_t *v;
	char bytes[EX_BYTES_TEXT_MAX], count[32];
	json_object_foreach(o, key, v)
	{
		bool is_bytes = strncmp(key, "bytes", 5) == 0 || strstr(key, "_bytes") != NULL;
		if (json_is_object(v)) {
			printf("%*s%s\n", 2 * depth, "", key);
			print_members(v, depth + 1);
			continue;
		}
		printf("%*s%-*s ", 2 * depth, "", 28 - 2 * depth, key);
		if (json_is_integer(v) && is_bytes)
			puts(ex_bytes_text((uint64_t)json_integer_value(v), bytes));
		else if (json_is_integer(v))
			puts(ctl_count_text((uint64_t)json_integer_value(v), count));
		else if (json_is_real(v))
			printf("%g\n", json_real_value(v));
		else if (json_is_string(v))
			puts(json_string_value(v));
		else if (json_is_boolean(v))
			puts(json_is_true(v) ? "yes" : "no");
		else
			puts("-");
	}
}

int ctl_cmd_model_show(struct ctl *c, int argc, char **argv)
{
	struct ex_err err = EX_ERR_INIT;
	json_t *j;
	(void)argc;
	if (ex_model_show(argv[0], &err, &j) < 0)
		return ctl_fail(CTL_FAILED, "%s", ex_err_text(&err));
	if (c->json) {
		ctl_print_json(j, false);
		return CTL_OK;
	}
	print_members(j, 0);
	json_decref(j);
	return CTL_OK;
}

const struct ctl_opt ctl_opts_synth[] = {
	{"config", "FILE", "config.json of the shape wanted (required)"},
	{"out", "DIR", "new directory for the checkpoint (required)"},
	{"seed", "N", "same seed, same bytes (default: 1)"},
	{"dtype", "TYPE", "of the matrices: f32, bf16 (default), f16, f8e4m3 with 128 x 128 block scales"},
	{"file-bytes", "N", "start a new file beyond N bytes (default: 5 GB)"},
	{NULL, NULL, NULL},
};

struct progress {
	bool tty;
	uint64_t last_ns;
};

static void show_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct progress *p = ctx;
	char a[EX_BYTES_TEXT_MAX], b[EX_BYTES_TEXT_MAX];
	uint64_t now = ex_now_ns();
	if (done < total && now - p->last_ns < 200 * EX_NS_PER_MS)
		return;
	p->last_ns = now;
	if (p->tty)
		fprintf(stderr, "\rwriting %s of %s ", ex_bytes_text(done, a), ex_bytes_text(total, b));
	if (p->tty && done == total)
		fputc('\n', stderr);
}

static int parse_dtype(const char *s, enum expertd_dtype *ret)
{
	static const struct {
		const char *name;
		enum expertd_dtype dtype;
	} row[] = {{"f32", EXPERTD_F32}, {"bf16", EXPERTD_BF16}, {"f16", EXPERTD_F16}, {"f8e4m3", EXPERTD_F8E4M3}};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		if (strcmp(row[i].name, s) == 0) {
			*ret = row[i].dtype;
			return CTL_OK;
		}
	return ctl_fail(CTL_USAGE, "--dtype=%s: expected f32, bf16, f16 or f8e4m3", s);
}

int ctl_cmd_model_synth(struct ctl *c, int argc, char **argv)
{
	struct ex_err err = EX_ERR_INIT;
	struct progress p = {.tty = isatty(STDERR_FILENO) && !c->json};
	struct ex_synth_opts o = {.progress = show_progress, .ctx = &p};
	const char *config = ctl_str(c, "config", NULL), *out = ctl_str(c, "out", NULL);
	(void)argc, (void)argv;
	if (!config || !out)
		return ctl_fail(CTL_USAGE, "model synth needs --config=FILE and --out=DIR");
	if (ctl_u64(c, "seed", 0, UINT64_MAX, 1, &o.seed) || parse_dtype(ctl_str(c, "dtype", "bf16"), &o.dtype) ||
		ctl_u64(c, "file-bytes", 1 << 20, UINT64_MAX, 0, &o.file_bytes_max))
		return CTL_USAGE;
	uint64_t start = ex_now_ns();
	if (ex_model_synth(config, out, &o, &err) < 0)
		return ctl_fail(CTL_FAILED, "%s", ex_err_text(&err));
	char took[32];
	if (c->json)
		ctl_print_json(json_pack("{s:s, s:o, s:f}", "dir", out, "seed", ctl_json_u64(o.seed), "seconds",
				       (double)(ex_now_ns() - start) / 1e9),
			false);
	else
		printf("wrote '%s' in %s\n", out, ctl_seconds_text((double)(ex_now_ns() - start) / 1e9, took));
	return CTL_OK;
}
