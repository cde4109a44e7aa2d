/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl host list, drain, resume. */
#include "ctl/ctl.h"

#include "expertd/admin.pb-c.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAIT_LOOKS_MIN 3 /* looks in a row at which the host had nothing to do: a step may have begun between two */
#define WAIT_LOOK_US   100000

static void print_host(struct ctl_table *t, const Expertd__V1__Host *h)
{
	char since[32], p99[32], rows[32];
	bool remote = strcmp(h->state, "local") != 0;
	ctl_table_cell(t, "%s", *h->name ? h->name : "-");
	if (strcmp(h->state, "down") == 0)
		ctl_table_cell(t, "down %s", ctl_seconds_text(h->state_seconds, since));
	else
		ctl_table_cell(t, "%s", h->state);
	ctl_table_cell(t, "%s", *h->zone ? h->zone : "-");
	ctl_table_cell(t, "%s", *h->address ? h->address : "-");
	ctl_table_cell(t, "%u", h->shards);
	if (remote)
		ctl_table_cell(t, "%u", h->shards_alone);
	else
		ctl_table_cell(t, "-");
	if (remote && strcmp(h->state, "down") != 0)
		ctl_table_cell(t, "%.0f %%", h->load * 100);
	else
		ctl_table_cell(t, "-");
	ctl_table_cell(t, "%s", ctl_count_text(h->rows, rows));
	ctl_table_cell(t, "%llu", (unsigned long long)h->errors);
	ctl_table_cell(t, "%s", h->rtt_p99_seconds > 0 ? ctl_seconds_text(h->rtt_p99_seconds, p99) : "-");
	ctl_table_cell(t, "%s", *h->plugin ? h->plugin : "-");
	ctl_table_cell(t, "%.8s", *h->identity ? h->identity : "-");
	ctl_table_cell(t, "%s", *h->version ? h->version : "-");
	ctl_table_cell(t, "%s", h->error);
}

int ctl_cmd_host_list(struct ctl *c, int argc, char **argv)
{
	static const char *const heads[] = {"HOST", "STATE", "ZONE", "ADDRESS", "SHARDS", "REPLICAS<2", "LOAD", "ROWS",
		"ERRORS", "RTT p99", "PLUGIN", "IDENTITY", "VERSION", "WHY"};
	Expertd__V1__ListHostsRequest q = EXPERTD__V1__LIST_HOSTS_REQUEST__INIT;
	Expertd__V1__ListHostsReply *r;
	struct ctl_table t;
	(void)argc, (void)argv;
	int rc = ctl_admin(c, "ListHosts", &q.base, &expertd__v1__list_hosts_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_hosts; i++)
		print_host(&t, r->hosts[i]);
	ctl_table_print(&t);
	expertd__v1__list_hosts_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

/* --- drain, resume --------------------------------------------------------------------------------------- */

const struct ctl_opt ctl_opts_drain[] = {
	{"wait", NULL, "return when nothing is in flight to the host any more: it can be stopped then"},
	{"force", NULL, "also when shards have no other replica; these stay with the host"},
	{NULL, NULL, NULL},
};

/* Frames in flight to the host, -1 when it is not there any more. */
static int look(struct ctl *c, const char *name, int64_t *ret_frames)
{
	Expertd__V1__ListHostsRequest q = EXPERTD__V1__LIST_HOSTS_REQUEST__INIT;
	ProtobufCMessage *m;
	int rc = ctl_call(c, CTL_ADMIN "ListHosts", &q.base, &expertd__v1__list_hosts_reply__descriptor, &m);
	if (rc)
		return rc;
	const Expertd__V1__ListHostsReply *r = (const Expertd__V1__ListHostsReply *)m;
	*ret_frames = -1;
	for (size_t i = 0; i < r->n_hosts; i++)
		if (strcmp(r->hosts[i]->name, name) == 0)
			*ret_frames = r->hosts[i]->frames_in_flight;
	protobuf_c_message_free_unpacked(m, NULL);
	return CTL_OK;
}

static int wait_idle(struct ctl *c, const char *name)
{
	int64_t n_frames;
	for (int n_idle = 0; n_idle < WAIT_LOOKS_MIN; usleep(WAIT_LOOK_US)) {
		int rc = look(c, name, &n_frames);
		if (rc)
			return rc;
		n_idle = n_frames > 0 ? 0 : n_idle + 1;
	}
	return CTL_OK;
}

static int set_drained(struct ctl *c, const char *name, bool resume)
{
	Expertd__V1__DrainHostRequest q = EXPERTD__V1__DRAIN_HOST_REQUEST__INIT;
	ProtobufCMessage *m;
	q.name = (char *)name;
	q.resume = resume;
	q.force = !resume && ctl_has(c, "force");
	int rc = ctl_call(c, CTL_ADMIN "DrainHost", &q.base, &expertd__v1__drain_host_reply__descriptor, &m);
	if (rc)
		return rc;
	uint32_t n_alone = ((const Expertd__V1__DrainHostReply *)m)->shards_alone;
	if (!resume && !n_alone && ctl_has(c, "wait"))
		rc = wait_idle(c, name);
	if (!rc && c->json)
		ctl_print_json(ctl_json(m), false);
	else if (!rc && resume)
		printf("%s is in use\n", name);
	else if (!rc && n_alone)
		printf("%s is drained, but for %u shards that nobody else holds: it is not safe to stop\n", name,
			n_alone);
	else if (!rc)
		printf("%s is drained%s\n", name, ctl_has(c, "wait") ? ": it is safe to stop" : "");
	protobuf_c_message_free_unpacked(m, NULL);
	return rc;
}

int ctl_cmd_host_drain(struct ctl *c, int argc, char **argv)
{
	(void)argc;
	return set_drained(c, argv[0], false);
}

int ctl_cmd_host_resume(struct ctl *c, int argc, char **argv)
{
	(void)argc;
	return set_drained(c, argv[0], true);
}
