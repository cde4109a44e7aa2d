/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl status, shard list, plugin list, events, metrics, config, reload. */
#include "ctl/ctl.h"

#include "expertd/admin.pb-c.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

/* --- status ---------------------------------------------------------------------------------------------- */

static void print_router(const Expertd__V1__RouterStatus *r)
{
	char a[32], b[32];
	printf("hosts     %u of %u ready · %u of %u shards covered\n", r->hosts_ready, r->hosts, r->shards_covered,
		r->shards);
	printf("batch     %u running · %u waiting · at most %u · context %u tokens\n", r->running, r->waiting,
		r->max_batch, r->context);
	printf("kv        %llu of %llu pages of %u tokens in use\n", (unsigned long long)r->kv_pages_used,
		(unsigned long long)r->kv_pages, r->kv_page_tokens);
	printf("tokens    %s prompt · %s generated · %.0f tokens/s now\n", ctl_count_text(r->prompt_tokens, a),
		ctl_count_text(r->generation_tokens, b), r->tokens_per_second);
	if (r->generation_tokens)
		printf("latency   first token p50 %s · between tokens p50 %s\n",
			ctl_seconds_text(r->ttft_p50_seconds, a), ctl_seconds_text(r->itl_p50_seconds, b));
}

static void print_expert(const Expertd__V1__ExpertStatus *e)
{
	char bytes[EX_BYTES_TEXT_MAX], rows[32];
	printf("experts   %u of %u shards ready", e->shards_ready, e->shards);
	if (e->shards_failed)
		printf(" · %u FAILED (expertctl shard list)", e->shards_failed);
	printf(" · %s · plugin %s, %u thread%s · %s rows\n", ex_bytes_text(e->bytes, bytes), e->plugin, e->threads,
		e->threads == 1 ? "" : "s", ctl_count_text(e->rows, rows));
}

int ctl_cmd_status(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__StatusRequest q = EXPERTD__V1__STATUS_REQUEST__INIT;
	Expertd__V1__StatusReply *s;
	(void)argc, (void)argv;
	int rc = ctl_admin(c, "Status", &q.base, &expertd__v1__status_reply__descriptor, &s);
	if (rc || !s)
		return rc;
	char up[32], resident[EX_BYTES_TEXT_MAX], available[EX_BYTES_TEXT_MAX], params[32];
	printf("node      %s · ", s->node);
	for (size_t i = 0; i < s->n_roles; i++)
		printf("%s%s", i ? "+" : "", s->roles[i]);
	printf(" · %s · up %s · expertd %s · pid %u\n", s->state, ctl_seconds_text(s->uptime_seconds, up), s->version,
		s->pid);
	if (*s->model_arch)
		printf("model     %s · %s · %s parameters · digest %.12s\n", s->model_name, s->model_arch,
			ctl_count_text(s->n_params, params), s->model_digest);
	if (*s->model_next_digest)
		printf("          %s (digest %.12s) is loaded beside it\n", s->model_next_path, s->model_next_digest);
	if (*s->model_before_digest)
		printf("          requests still use digest %.12s\n", s->model_before_digest);
	printf("memory    %s resident · %s available\n", ex_bytes_text(s->resident_bytes, resident),
		ex_bytes_text(s->available_bytes, available));
	if (s->router)
		print_router(s->router);
	if (s->expert)
		print_expert(s->expert);
	expertd__v1__status_reply__free_unpacked(s, NULL);
	return CTL_OK;
}

/* --- lists ----------------------------------------------------------------------------------------------- */

int ctl_cmd_shard_list(struct ctl *c, int argc, char **argv)
{
	static const char *const heads[] = {
		"SHARD", "STATE", "GEN", "ROLLBACK", "SIZE", "PLUGIN", "IDENTITY", "HOSTS", "WHY"};
	Expertd__V1__ListShardsRequest q = EXPERTD__V1__LIST_SHARDS_REQUEST__INIT;
	Expertd__V1__ListShardsReply *r;
	struct ctl_table t;
	if (argc)
		q.glob = argv[0];
	int rc = ctl_admin(c, "ListShards", &q.base, &expertd__v1__list_shards_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_shards; i++) {
		const Expertd__V1__Shard *s = r->shards[i];
		const Expertd__V1__ShardInfo *v = s->info;
		char bytes[EX_BYTES_TEXT_MAX], left[32];
		struct ex_str hosts = EX_STR_INIT;
		for (size_t k = 0; k < s->n_hosts; k++)
			ex_str_addf(&hosts, "%s%s", k ? "," : "", s->hosts[k]);
		ctl_table_cell(&t, "L%u/E%u-%u", v->layer, v->first_expert, v->first_expert + v->n_experts - 1);
		ctl_table_cell(&t, "%s", *v->state ? v->state : s->n_hosts ? "ready" : "missing");
		if (v->generation)
			ctl_table_cell(&t, "%u", v->generation);
		else
			ctl_table_cell(&t, "-");
		if (s->lingering)
			ctl_table_cell(&t, "%u for %s", s->lingering, ctl_seconds_text(s->lingering_seconds, left));
		else
			ctl_table_cell(&t, "-");
		ctl_table_cell(&t, "%s", v->bytes ? ex_bytes_text(v->bytes, bytes) : "-");
		ctl_table_cell(&t, "%s", *v->plugin ? v->plugin : "-");
		ctl_table_cell(&t, "%.8s", *v->identity ? v->identity : "-");
		ctl_table_cell(&t, "%s", hosts.n ? hosts.s : "-");
		ctl_table_cell(&t, "%s", v->error);
		ex_str_done(&hosts);
	}
	ctl_table_print(&t);
	expertd__v1__list_shards_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_plugin_list(struct ctl *c, int argc, char **argv)
{
	static const char *const heads[] = {"PLUGIN", "VERSION", "ABI", "FITNESS", "LOADED", "FLAGS", "PATH", "WHY"};
	Expertd__V1__ListPluginsRequest q = EXPERTD__V1__LIST_PLUGINS_REQUEST__INIT;
	Expertd__V1__ListPluginsReply *r;
	struct ctl_table t;
	(void)argc, (void)argv;
	int rc = ctl_admin(c, "ListPlugins", &q.base, &expertd__v1__list_plugins_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_plugins; i++) {
		const Expertd__V1__Plugin *p = r->plugins[i];
		struct ex_str flags = EX_STR_INIT;
		for (size_t k = 0; k < p->n_flags; k++)
			ex_str_addf(&flags, "%s%s", k ? "," : "", p->flags[k]);
		ctl_table_cell(&t, "%s", *p->name ? p->name : "-");
		ctl_table_cell(&t, "%s", *p->version ? p->version : "-");
		ctl_table_cell(&t, "%u.%u", p->abi_major, p->abi_minor);
		ctl_table_cell(&t, "%d", p->score);
		ctl_table_cell(&t, "%s", p->loaded ? "yes" : "no");
		ctl_table_cell(&t, "%s", flags.n ? flags.s : "-");
		ctl_table_cell(&t, "%s", p->path);
		ctl_table_cell(&t, "%s", *p->error ? p->error : p->why);
		ex_str_done(&flags);
	}
	ctl_table_print(&t);
	expertd__v1__list_plugins_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

/* --- events, metrics, configuration ---------------------------------------------------------------------- */

const struct ctl_opt ctl_opts_events[] = {
	{"follow", NULL, "wait for new ones until interrupted"},
	{"after", "N", "only events numbered above N"},
	{NULL, NULL, NULL},
};

static int on_event(void *ctx, const ProtobufCMessage *m)
{
	const struct ctl *c = ctx;
	const Expertd__V1__Event *e = (const Expertd__V1__Event *)m;
	if (c->json)
		ctl_print_json(ctl_json(m), true);
	else {
		time_t s = (time_t)(e->realtime_us / 1000000);
		struct tm tm;
		char when[32];
		strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&s, &tm));
		printf("%s.%03u  #%llu %s  %s\n", when, (unsigned)(e->realtime_us / 1000 % 1000),
			(unsigned long long)e->seq, e->name, e->text);
	}
	return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_FAILED, "cannot write the output: %s", strerror(errno));
}

int ctl_cmd_events(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__EventsRequest q = EXPERTD__V1__EVENTS_REQUEST__INIT;
	uint64_t after;
	(void)argc, (void)argv;
	int rc = ctl_u64(c, "after", 0, UINT64_MAX, 0, &after);
	if (rc)
		return rc;
	q.after = after;
	q.follow = ctl_has(c, "follow");
	return ctl_stream(c, CTL_ADMIN "Events", &q.base, &expertd__v1__event__descriptor, on_event, c);
}

int ctl_cmd_metrics(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__MetricsRequest q = EXPERTD__V1__METRICS_REQUEST__INIT;
	Expertd__V1__MetricsReply *r;
	(void)argc, (void)argv;
	int rc = ctl_admin(c, "Metrics", &q.base, &expertd__v1__metrics_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	fputs(r->text, stdout);
	expertd__v1__metrics_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_config(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__ConfigRequest q = EXPERTD__V1__CONFIG_REQUEST__INIT;
	Expertd__V1__ConfigReply *r;
	(void)argc, (void)argv;
	int rc = ctl_admin(c, "Config", &q.base, &expertd__v1__config_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	fputs(r->text, stdout);
	expertd__v1__config_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_reload(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__ReloadRequest q = EXPERTD__V1__RELOAD_REQUEST__INIT;
	Expertd__V1__ReloadReply *r;
	(void)argc, (void)argv;
	int rc = ctl_admin(c, "Reload", &q.base, &expertd__v1__reload_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	for (size_t i = 0; i < r->n_changed; i++)
		printf("changed        %s\n", r->changed[i]);
	for (size_t i = 0; i < r->n_needs_restart; i++)
		printf("needs restart  %s\n", r->needs_restart[i]);
	if (!r->n_changed && !r->n_needs_restart)
		printf("nothing changed\n");
	expertd__v1__reload_reply__free_unpacked(r, NULL);
	return CTL_OK;
}
