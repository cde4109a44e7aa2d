/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite behind `expertctl plugin check FILE.so`: what docs/PLUGINS.md asks of a plugin, tried. Layer L2. */
#ifndef EX_EXPERT_CONFORMANCE_H
#define EX_EXPERT_CONFORMANCE_H

#include "expert/loader.h"

enum ex_check_result { EX_CHECK_BEGINS, EX_CHECK_PASS, EX_CHECK_FAIL, EX_CHECK_SKIP };

struct ex_check {
	char name[48];
	enum ex_check_result result;
	char detail[400]; /* what failed, or why it was skipped; on a pass what was tried, or empty */
};

struct ex_conformance_opts {
	const char *path; /* the plugin's file, or a name in loader.dir */
	struct ex_loader_opts loader;
	const char *which;               /* device; NULL: "0" */
	const struct expertd_host *host; /* NULL: one with the option threads = 2 */
	unsigned hang_s;                 /* forked: a check that takes longer has failed; 0: 120 */
	/* Called with EX_CHECK_BEGINS when a check begins, and with its result. [the caller's thread] */
	void (*report)(void *ctx, const struct ex_check *c);
	void *ctx;
};

/* Runs every check in this process; returns how many failed. A plugin that crashes takes the process with it. [loader] */
unsigned ex_conformance_run(const struct ex_conformance_opts *o);
/* The same in a child process: a crash or a hang is a failure of the check that was under way, and names the signal. Returns how many failed,
 * -errno when no child could be made. To be called while the process has one thread. [main] */
int ex_conformance_run_forked(const struct ex_conformance_opts *o, struct ex_err *err);

#endif
