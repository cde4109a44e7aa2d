/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl plugin check: the conformance suite on one file; no daemon is needed. */
#include "ctl/ctl.h"

#include "expert/conformance.h"
#include <stdio.h>
#include <string.h>

const struct ctl_opt ctl_opts_check[] = {
	{"device", "WHICH", "device of the plugin to check (default: 0)"},
	{"hang-seconds", "N", "a check that takes longer has failed (default: 120)"},
	{NULL, NULL, NULL},
};

struct report {
	const struct ctl *c;
	json_t *checks;
	unsigned n_passed, n_skipped;
};

static void on_check(void *ctx, const struct ex_check *k)
{
	static const char *const word[] = {[EX_CHECK_PASS] = "ok", [EX_CHECK_FAIL] = "FAIL", [EX_CHECK_SKIP] = "skip"};
	struct report *r = ctx;
	if (k->result == EX_CHECK_BEGINS) {
		if (r->c->tty && !r->c->json) {
			printf("....  %s\r", k->name);
			fflush(stdout);
		}
		return;
	}
	r->n_passed += k->result == EX_CHECK_PASS;
	r->n_skipped += k->result == EX_CHECK_SKIP;
	if (r->c->json)
		json_array_append_new(r->checks,
			json_pack("{s:s, s:s, s:s}", "name", k->name, "result", word[k->result], "detail", k->detail));
	else
		printf("%-4s  %s%s%s\n", word[k->result], k->name, *k->detail ? ": " : "", k->detail);
}

int ctl_cmd_plugin_check(struct ctl *c, int argc, char **argv)
{
	struct ex_err err = EX_ERR_INIT;
	struct report r = {.c = c, .checks = json_array()};
	uint64_t hang_s;
	(void)argc;
	if (ctl_u64(c, "hang-seconds", 1, 86400, 120, &hang_s)) {
		json_decref(r.checks);
		return CTL_USAGE;
	}
	/* a name without a slash is a file here, as for any other program, not one of the installed plugins */
	struct ex_str path = EX_STR_INIT;
	ex_str_addf(&path, "%s%s", strchr(argv[0], '/') ? "" : "./", argv[0]);
	int n_failed = path.oom ? ex_err_set(&err, -ENOMEM, "out of memory")
				: ex_conformance_run_forked(
					  &(struct ex_conformance_opts){
						  .path = path.s,
						  .which = ctl_str(c, "device", "0"),
						  .hang_s = (unsigned)hang_s,
						  .report = on_check,
						  .ctx = &r,
					  },
					  &err);
	ex_str_done(&path);
	if (c->json && n_failed >= 0) {
		ctl_print_json(json_pack("{s:s, s:O, s:i, s:i, s:i}", "file", argv[0], "checks", r.checks, "passed",
				       (int)r.n_passed, "failed", n_failed, "skipped", (int)r.n_skipped),
			false);
	} else if (n_failed >= 0) {
		printf("%s: %u passed, %d failed, %u skipped\n", argv[0], r.n_passed, n_failed, r.n_skipped);
	}
	json_decref(r.checks);
	if (n_failed < 0)
		return ctl_fail(CTL_FAILED, "%s", ex_err_text(&err));
	return n_failed ? CTL_FAILED : CTL_OK;
}
