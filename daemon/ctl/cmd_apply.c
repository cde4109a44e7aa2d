/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl fleet apply, fleet status: a plan carried out, and how far it is. */
#include "ctl/ctl.h"

#include "expertd/admin.pb-c.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOK_US 200000

const struct ctl_opt ctl_opts_apply[] = {
	{"min-replicas", "K", "of every shard (default: as configured)"},
	{"max-replicas", "N", "of hot shards (default: as configured)"},
	{"budget-mib", "N", "move at most so much, what lacks replicas first (default: no limit)"},
	{"repair", NULL, "only what lacks replicas or room, or shares a zone; nothing for balance"},
	{"wait", NULL, "a line for each move; return when all are through"},
	{"stop", NULL, "begin nothing: end what is being carried out, after the moves at hand"},
	{NULL, NULL, NULL},
};

static int look(struct ctl *c, Expertd__V1__FleetStatusReply **ret)
{
	Expertd__V1__FleetStatusRequest q = EXPERTD__V1__FLEET_STATUS_REQUEST__INIT;
	ProtobufCMessage *m;
	int rc = ctl_call(c, CTL_ADMIN "FleetStatus", &q.base, &expertd__v1__fleet_status_reply__descriptor, &m);
	if (rc == CTL_OK)
		*ret = (Expertd__V1__FleetStatusReply *)m;
	return rc;
}

static bool has_ended(const Expertd__V1__FleetMove *m)
{
	return strcmp(m->state, "waiting") != 0 && strcmp(m->state, "moving") != 0 && strcmp(m->state, "settling") != 0;
}

static void print_move(const struct ctl *c, const Expertd__V1__FleetMove *m)
{
	if (c->json)
		ctl_print_json(ctl_json(&m->base), true);
	else
		printf("%-6s %-10s %-12s %s%s%s\n", m->load ? "load" : "unload", m->shard, m->host, m->state,
			*m->text ? ": " : " · ", *m->text ? m->text : m->why);
}

static void print_sum(const Expertd__V1__FleetStatusReply *r)
{
	char bytes[EX_BYTES_TEXT_MAX];
	printf("%u loaded (%s) · %u unloaded · %u skipped · %u failed", r->loaded, ex_bytes_text(r->bytes, bytes),
		r->unloaded, r->skipped, r->failures);
	if (r->open)
		printf(" · %u to go", r->open);
	putchar('\n');
}

/* A line for each move that has ended since the last look; those before `*first` are all told. */
static void print_ended(const struct ctl *c, const Expertd__V1__FleetStatusReply *r, bool *told, size_t *first)
{
	for (size_t i = *first; i < r->n_moves; i++)
		if (!told[i] && has_ended(r->moves[i])) {
			print_move(c, r->moves[i]);
			told[i] = true;
		}
	while (*first < r->n_moves && told[*first])
		++*first;
}

static int finish(const struct ctl *c, const Expertd__V1__FleetStatusReply *r)
{
	if (c->json) {
		Expertd__V1__FleetStatusReply sum = *r;
		sum.n_moves = 0; /* they were told one by one */
		ctl_print_json(ctl_json(&sum.base), true);
	} else
		print_sum(r);
	return r->failed ? ctl_fail(CTL_FAILED, "the fleet is not as planned: %s", r->text) : CTL_OK;
}

static int wait_over(struct ctl *c, uint64_t go)
{
	EX_CLEANUP(ex_freep) bool *told = NULL;
	size_t first = 0, n_told = 0;
	for (;; usleep(LOOK_US)) {
		Expertd__V1__FleetStatusReply *r;
		int rc = look(c, &r);
		if (rc)
			return rc;
		bool *more = realloc(told, r->n_moves + 1);
		told = more ? more : told;
		bool ours = more && r->go == go, over = strcmp(r->state, "idle") == 0;
		for (; ours && n_told < r->n_moves; n_told++)
			told[n_told] = false;
		if (ours)
			print_ended(c, r, told, &first);
		fflush(stdout);
		if (!ours)
			rc = ctl_fail(CTL_FAILED, more ? "another plan is being carried out by now" : "out of memory");
		else if (over)
			rc = finish(c, r);
		expertd__v1__fleet_status_reply__free_unpacked(r, NULL);
		if (!ours || over)
			return rc;
	}
}

int ctl_apply(struct ctl *c, Expertd__V1__ApplyFleetRequest *q)
{
	ProtobufCMessage *m;
	int rc = ctl_call(c, CTL_ADMIN "ApplyFleet", &q->base, &expertd__v1__apply_fleet_reply__descriptor, &m);
	if (rc)
		return rc;
	uint64_t go = ((const Expertd__V1__ApplyFleetReply *)m)->go;
	bool wait = !q->stop && ctl_has(c, "wait");
	if (c->json && !wait)
		ctl_print_json(ctl_json(m), false);
	else if (q->stop && !c->json)
		puts("it ends after the moves at hand");
	else if (!wait && !c->json)
		printf("plan %llu is being carried out: expertctl fleet status\n", (unsigned long long)go);
	protobuf_c_message_free_unpacked(m, NULL);
	return wait ? wait_over(c, go) : CTL_OK;
}

int ctl_cmd_fleet_apply(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__PlanFleetRequest plan = EXPERTD__V1__PLAN_FLEET_REQUEST__INIT;
	Expertd__V1__ApplyFleetRequest q = EXPERTD__V1__APPLY_FLEET_REQUEST__INIT;
	(void)argc, (void)argv;
	int rc = ctl_plan_request(c, &plan);
	q.plan = &plan;
	q.stop = ctl_has(c, "stop");
	for (const struct ctl_opt *o = ctl_opts_apply; !rc && q.stop && o->name; o++)
		if (ctl_has(c, o->name) && strcmp(o->name, "stop") != 0)
			return ctl_fail(CTL_USAGE, "--stop and --%s exclude each other", o->name);
	return rc ? rc : ctl_apply(c, &q);
}

int ctl_cmd_fleet_status(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__FleetStatusReply *r;
	(void)argc, (void)argv;
	int rc = look(c, &r);
	if (rc)
		return rc;
	if (c->json)
		ctl_print_json(ctl_json(&r->base), false);
	else {
		printf("placement %s\n", r->placement);
		if (r->go)
			printf("plan      %llu · %s · %s%s%s\n", (unsigned long long)r->go,
				strcmp(r->state, "idle") == 0 ? r->failed ? "FAILED" : "done" : r->state, r->why,
				*r->text ? ": " : "", r->text);
		else
			puts("nothing was moved yet");
	}
	if (r->go && !c->json) {
		printf("moves     ");
		print_sum(r);
		for (size_t i = 0; i < r->n_moves; i++)
			if (!has_ended(r->moves[i]) || *r->moves[i]->text)
				print_move(c, r->moves[i]);
	}
	expertd__v1__fleet_status_reply__free_unpacked(r, NULL);
	return CTL_OK;
}
