/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl fleet plan: what the planner would move in a running fleet. */
#include "ctl/ctl.h"

#include "expertd/admin.pb-c.h"
#include "fleet/planner.h"
#include <stdio.h>

const struct ctl_opt ctl_opts_plan[] = {
	{"min-replicas", "K", "of every shard (default: as configured)"},
	{"max-replicas", "N", "of hot shards (default: as configured, or K if that is more)"},
	{"budget-mib", "N", "move at most so much, what lacks replicas first (default: no limit)"},
	{"repair", NULL, "only what lacks replicas or room, or shares a zone; nothing for balance"},
	{"apply", NULL, "and carry it out, as fleet apply"},
	{"wait", NULL, "with --apply: a line for each move; return when all are through"},
	{NULL, NULL, NULL},
};

static void print_figures(const char *what, const Expertd__V1__PlanFigures *f)
{
	char bytes[EX_BYTES_TEXT_MAX];
	if (!f)
		return;
	printf("%-7s imbalance %.2f · by layer %.2f · replicas %u to %u, %.1f on average · %s", what, f->imbalance,
		f->imbalance_layer, f->replicas_min, f->replicas_max, f->replicas_mean, ex_bytes_text(f->bytes, bytes));
	if (f->shards_uncovered)
		printf(" · %u shards WITHOUT A HOST", f->shards_uncovered);
	if (f->shards_under)
		printf(" · %u with too few replicas", f->shards_under);
	if (f->shards_few_zones)
		printf(" · %u in too few zones", f->shards_few_zones);
	putchar('\n');
}

static void print_plan(const Expertd__V1__PlanFleetReply *r)
{
	static const char *const heads[] = {"MOVE", "SHARD", "HOST", "SIZE", "WHY"};
	struct ctl_table t;
	char bytes[EX_BYTES_TEXT_MAX];
	printf("fleet   %u shards on %u hosts\n", r->shards, r->hosts);
	print_figures("now", r->before);
	print_figures("planned", r->after);
	if (!r->n_moves) {
		puts(r->over_budget ? "nothing can be moved within the budget" : "nothing is to be moved");
		return;
	}
	printf("moves   %zu, %s to load%s\n\n", r->n_moves, ex_bytes_text(r->bytes_moved, bytes),
		r->over_budget ? "; more is wanted than the budget allows" : "");
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_moves; i++) {
		const Expertd__V1__PlanMove *m = r->moves[i];
		ctl_table_cell(&t, "%s", m->load ? "load" : "unload");
		ctl_table_cell(&t, "%s", m->shard);
		ctl_table_cell(&t, "%s", m->host);
		ctl_table_cell(&t, "%s", ex_bytes_text(m->bytes, bytes));
		ctl_table_cell(&t, "%s", m->why);
	}
	ctl_table_print(&t);
}

int ctl_plan_request(struct ctl *c, Expertd__V1__PlanFleetRequest *q)
{
	uint64_t min, max, mib;
	int rc = ctl_u64(c, "min-replicas", 1, EX_PLANNER_REPLICAS_MAX, 0, &min);
	if (!rc)
		rc = ctl_u64(c, "max-replicas", EX_MAX(min, UINT64_C(1)), EX_PLANNER_REPLICAS_MAX, 0, &max);
	if (!rc)
		rc = ctl_u64(c, "budget-mib", 1, UINT64_C(1) << 33, 0, &mib);
	if (rc)
		return rc;
	q->min_replicas = (uint32_t)min;
	q->max_replicas = (uint32_t)max;
	q->budget_bytes = mib << 20;
	q->repair_only = ctl_has(c, "repair");
	return CTL_OK;
}

int ctl_cmd_fleet_plan(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__PlanFleetRequest q = EXPERTD__V1__PLAN_FLEET_REQUEST__INIT;
	Expertd__V1__ApplyFleetRequest apply = EXPERTD__V1__APPLY_FLEET_REQUEST__INIT;
	Expertd__V1__PlanFleetReply *r;
	(void)argc, (void)argv;
	q.to_apply = ctl_has(c, "apply");
	if (ctl_has(c, "wait") && !q.to_apply)
		return ctl_fail(CTL_USAGE, "--wait is for --apply");
	int rc = ctl_plan_request(c, &q);
	if (rc)
		return rc;
	rc = ctl_admin(c, "PlanFleet", &q.base, &expertd__v1__plan_fleet_reply__descriptor, &r);
	if (rc)
		return rc;
	if (r) {
		print_plan(r);
		expertd__v1__plan_fleet_reply__free_unpacked(r, NULL);
	}
	apply.plan = &q;
	return q.to_apply ? ctl_apply(c, &apply) : CTL_OK;
}
