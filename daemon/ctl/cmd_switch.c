/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl model switch: a line for each step. */
#include "ctl/ctl.h"

#include "expertd/admin.pb-c.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>

const struct ctl_opt ctl_opts_switch[] = {
	{"pin", NULL, "running requests end with the model that they began with (default)"},
	{"move", NULL, "running requests go over, too: what they have so far is computed again"},
	{"wait", NULL,
		"return when the model before is unloaded everywhere, not when new requests are answered by the next "
		"one"},
	{NULL, NULL, NULL},
};

struct watch {
	const struct ctl *c;
	bool wait, switched, failed;
};

static void print_step(const Expertd__V1__SwitchModelStep *s)
{
	printf("%-8s %-12s ", s->step, *s->host ? s->host : "router");
	if (s->failed)
		printf("failed: %s\n", s->text);
	else if (s->total && !*s->text)
		printf("%u of %u shards\n", s->done, s->total);
	else
		printf("%s\n", s->text);
}

static int on_step(void *ctx, const ProtobufCMessage *m)
{
	struct watch *w = ctx;
	const Expertd__V1__SwitchModelStep *s = (const Expertd__V1__SwitchModelStep *)m;
	w->switched |= strcmp(s->step, "switch") == 0 && !s->failed;
	w->failed |= s->failed;
	if (w->c->json)
		ctl_print_json(ctl_json(m), true);
	else
		print_step(s);
	if (fflush(stdout) != 0)
		return ctl_fail(CTL_FAILED, "cannot write the output: %s", strerror(errno));
	return w->switched && !w->wait ? CTL_ENOUGH : CTL_OK;
}

int ctl_cmd_model_switch(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__SwitchModelRequest q = EXPERTD__V1__SWITCH_MODEL_REQUEST__INIT;
	struct watch w = {.c = c, .wait = ctl_has(c, "wait")};
	char path[PATH_MAX];
	(void)argc;
	if (ctl_has(c, "pin") && ctl_has(c, "move"))
		return ctl_fail(CTL_USAGE, "--pin and --move exclude each other");
	if (!realpath(argv[0], path))
		return ctl_fail(CTL_FAILED, "%s: %s", argv[0], strerror(errno));
	q.dir = path;
	q.move = ctl_has(c, "move");
	int rc = ctl_stream(
		c, CTL_ADMIN "SwitchModel", &q.base, &expertd__v1__switch_model_step__descriptor, on_step, &w);
	if (rc == CTL_ENOUGH)
		return CTL_OK;
	return rc == CTL_OK && (w.failed || !w.switched) ? CTL_FAILED : rc;
}
