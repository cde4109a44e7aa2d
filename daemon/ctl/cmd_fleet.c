/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl fleet simulate: the planner on hosts that need not exist; no daemon is needed. */
#include "ctl/ctl.h"

#include "base/clock.h"
#include "base/mem.h"
#include "fleet/hostfile.h"
#include "fleet/placement.h"
#include "fleet/simulate.h"
#include "fleet/trace.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINK_GBPS_DEFAULT 25
#define CONFIG_BYTES_MAX  (1 << 20)

const struct ctl_opt ctl_opts_simulate[] = {
	{"config", "CONFIG.json", "config.json of the model (required)"},
	{"hosts", "HOSTS.ini", "the hosts, see expertctl(1) (required)"},
	{"trace", "FILE", "lines LAYER EXPERT ROWS, or zipf:S:SEED (required)"},
	{"expert-groups", "N", "ranges of experts a layer: what is placed as one (default: auto)"},
	{"min-replicas", "K", "of every shard (default: 2)"},
	{"max-replicas", "N", "of hot shards (default: 8, or K if that is more)"},
	{"link-gbps", "N", "that each host loads at after a loss, in Gbit/s (default: 25)"},
	{"placement", NULL, "also print which hosts each shard is on"},
	{NULL, NULL, NULL},
};

struct run {
	struct ex_model_config model;
	struct ex_hosts hosts;
	double *loads;
	struct ex_simulate_opts o;
	struct ex_simulate s;
	const char *trace;
	uint64_t link_gbps;
	double took_s;
};

struct progress {
	bool tty;
	uint64_t last_ns;
};

static void show_progress(void *ctx, size_t done, size_t total)
{
	struct progress *p = ctx;
	uint64_t now = ex_now_ns();
	if (!p->tty || (done < total && now - p->last_ns < 200 * EX_NS_PER_MS))
		return;
	p->last_ns = now;
	fprintf(stderr, "\rlosing hosts and zones: %zu of %zu ", done, total);
	if (done == total)
		fputc('\n', stderr);
}

/* --- text --------------------------------------------------------------------------------------------------------- */

static void print_input(const struct run *r)
{
	const struct ex_simulate *s = &r->s;
	char a[EX_BYTES_TEXT_MAX], b[EX_BYTES_TEXT_MAX], n[32];
	uint64_t memory = 0;
	size_t n_zones = s->n_losses - r->hosts.n;
	for (size_t h = 0; h < r->hosts.n; h++)
		memory += r->hosts.v[h].memory_bytes;
	printf("model      %s, %s shards of %u experts in %u ranges a layer, %s an expert, %s in all\n",
		ex_arch_name(r->model.arch), ctl_count_text(s->input.n_shards, n), r->model.n_experts,
		r->o.expert_groups, ex_bytes_text(s->bytes_expert, a), ex_bytes_text(s->bytes_all, b));
	printf("hosts      %zu in %zu %s, %s\n", r->hosts.n, EX_MAX(n_zones, 1u), n_zones > 1 ? "zones" : "zone",
		ex_bytes_text(memory, a));
	printf("load       %s, the hottest shard %.1f x mean\n", r->trace, s->load_max);
	printf("replicas   %u to %u\n\n", r->o.min_replicas, r->o.max_replicas);
}

static void print_figures(const struct ex_simulate *s)
{
	static const char *const heads[] = {
		"PLACEMENT", "IMBALANCE", "BY LAYER", "REPLICAS", "MEAN", "IN TOO FEW ZONES", "BYTES"};
	const struct ex_planner_figures *f[] = {&s->naive, &s->plan.after};
	struct ctl_table t;
	char bytes[EX_BYTES_TEXT_MAX];
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < 2; i++) {
		ctl_table_cell(&t, "%s", i ? "planned" : "contiguous");
		ctl_table_cell(&t, "%.3f", f[i]->imbalance);
		ctl_table_cell(&t, "%.3f", f[i]->imbalance_layer);
		ctl_table_cell(&t, "%u to %u", f[i]->replicas_min, f[i]->replicas_max);
		ctl_table_cell(&t, "%.2f", f[i]->replicas_mean);
		ctl_table_cell(&t, "%u", f[i]->n_few_zones);
		ctl_table_cell(&t, "%s", ex_bytes_text(f[i]->bytes, bytes));
	}
	ctl_table_print(&t);
	putchar('\n');
}

static void print_hosts(const struct run *r)
{
	static const char *const heads[] = {"HOST", "ZONE", "SPEED", "SHARDS", "USED", "MEMORY", "LOAD"};
	struct ctl_table t;
	char used[EX_BYTES_TEXT_MAX], memory[EX_BYTES_TEXT_MAX];
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->hosts.n; i++) {
		const struct ex_planner_host *h = &r->hosts.v[i];
		ctl_table_cell(&t, "%s", h->name);
		ctl_table_cell(&t, "%s", *h->zone ? h->zone : "-");
		ctl_table_cell(&t, "%g", h->speed);
		ctl_table_cell(&t, "%u", r->s.hosts[i].n_shards);
		ctl_table_cell(&t, "%s", ex_bytes_text(r->s.hosts[i].bytes, used));
		ctl_table_cell(&t, "%s", ex_bytes_text(h->memory_bytes, memory));
		ctl_table_cell(&t, "%.3f", r->s.hosts[i].time);
	}
	ctl_table_print(&t);
	putchar('\n');
}

static void print_placement(const struct run *r)
{
	char name[EX_SHARD_NAME_MAX];
	const struct ex_planner_result *p = &r->s.plan;
	for (size_t i = 0; i < p->n_pairs; i++) {
		bool first = i == 0 || p->pairs[i - 1].shard != p->pairs[i].shard;
		if (first)
			printf("%s%s ", i ? "\n" : "", ex_shard_name(&r->s.shards[p->pairs[i].shard].id, name));
		printf(" %s", r->hosts.v[p->pairs[i].host].name);
	}
	puts("\n");
}

static void print_losses(const struct run *r)
{
	static const char *const heads[] = {"LOST", "HOSTS", "UNCOVERED", "AT ONCE", "REPLICAS", "TO LOAD",
		"RECOVERED IN", "AFTER", "WITH BALANCE", ""};
	const struct ex_simulate *s = &r->s;
	struct ctl_table t;
	char a[EX_BYTES_TEXT_MAX], b[EX_BYTES_TEXT_MAX], time[32];
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < s->n_losses; i++) {
		const struct ex_simulate_loss *l = &s->losses[i];
		ctl_table_cell(&t, "%s%s", l->is_zone ? "zone " : "", l->name);
		ctl_table_cell(&t, "%u", l->n_hosts);
		ctl_table_cell(&t, "%u", l->n_uncovered);
		ctl_table_cell(&t, l->replicas ? "%.3f" : "-", l->at_once);
		ctl_table_cell(&t, "%u", l->replicas);
		ctl_table_cell(&t, "%s", ex_bytes_text(l->bytes_recover, a));
		ctl_table_cell(&t, "%s", l->replicas ? ctl_seconds_text(l->recover_s, time) : "-");
		ctl_table_cell(&t, l->replicas ? "%.3f" : "-", l->after);
		ctl_table_cell(&t, "%s", ex_bytes_text(l->bytes, b));
		ctl_table_cell(&t, "%s%s", i == s->worst_time ? "<- slowest to recover " : "",
			i == s->worst_imbalance ? "<- most uneven" : "");
	}
	ctl_table_print(&t);
	for (size_t i = 0; i < s->n_losses; i++)
		if (s->losses[i].why[0])
			printf("without %s%s: %s\n", s->losses[i].is_zone ? "zone " : "", s->losses[i].name,
				s->losses[i].why);
}

static void print_summary(const struct run *r)
{
	const struct ex_simulate_loss *w = &r->s.losses[r->s.worst_time], *u = &r->s.losses[r->s.worst_imbalance];
	char recover[32], took[32];
	uint32_t n_open = 0;
	for (size_t i = 0; i < r->s.n_losses; i++)
		n_open += r->s.losses[i].n_uncovered > 0;
	printf("\nworst      %s%s: %u shards uncovered, recovered in %s at %llu Gbit/s a host; %s%s: imbalance %.3f\n",
		w->is_zone ? "zone " : "", w->name, w->n_uncovered,
		w->replicas ? ctl_seconds_text(w->recover_s, recover) : "no time", (unsigned long long)r->link_gbps,
		u->is_zone ? "zone " : "", u->name, u->at_once);
	printf("losses     %zu looked at, %u of them leave shards without a replica\n", r->s.n_losses, n_open);
	printf("took       %s\n", ctl_seconds_text(r->took_s, took));
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static json_t *figures_json(const struct ex_planner_figures *f)
{
	return json_pack("{s:f, s:f, s:I, s:I, s:f, s:I, s:I}", "imbalance", f->imbalance, "imbalance_by_layer",
		f->imbalance_layer, "replicas_min", (json_int_t)f->replicas_min, "replicas_max",
		(json_int_t)f->replicas_max, "replicas_mean", f->replicas_mean, "shards_in_too_few_zones",
		(json_int_t)f->n_few_zones, "bytes", (json_int_t)f->bytes);
}

static json_t *loss_json(const struct ex_simulate_loss *l)
{
	json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "kind", l->is_zone ? "zone" : "host", "name",
		l->name, "hosts", (json_int_t)l->n_hosts, "shards_uncovered", (json_int_t)l->n_uncovered, "replicas",
		(json_int_t)l->replicas, "bytes_to_recover", (json_int_t)l->bytes_recover, "bytes_loaded",
		(json_int_t)l->bytes);
	if (l->replicas)
		json_object_update_new(
			o, json_pack("{s:f, s:f, s:f, s:f}", "imbalance_at_once", l->at_once, "imbalance_after",
				   l->after, "recover_seconds", l->recover_s, "loaded_seconds", l->all_s));
	if (l->why[0])
		json_object_set_new(o, "why", json_string(l->why));
	return o;
}

static json_t *hosts_json(const struct run *r)
{
	json_t *list = json_array();
	for (size_t i = 0; i < r->hosts.n; i++) {
		const struct ex_planner_host *h = &r->hosts.v[i];
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:f, s:I, s:I, s:I, s:f}", "name", h->name, "zone", h->zone,
				      "speed", h->speed, "shards", (json_int_t)r->s.hosts[i].n_shards, "bytes",
				      (json_int_t)r->s.hosts[i].bytes, "memory_bytes", (json_int_t)h->memory_bytes,
				      "load", r->s.hosts[i].time));
	}
	return list;
}

static json_t *placement_json(const struct run *r)
{
	char name[EX_SHARD_NAME_MAX];
	const struct ex_planner_result *p = &r->s.plan;
	json_t *o = json_object(), *hosts = NULL;
	for (size_t i = 0; i < p->n_pairs; i++) {
		if (i == 0 || p->pairs[i - 1].shard != p->pairs[i].shard) {
			hosts = json_array();
			json_object_set_new(o, ex_shard_name(&r->s.shards[p->pairs[i].shard].id, name), hosts);
		}
		json_array_append_new(hosts, json_string(r->hosts.v[p->pairs[i].host].name));
	}
	return o;
}

static void print_json(const struct run *r, bool placement)
{
	json_t *losses = json_array();
	for (size_t i = 0; i < r->s.n_losses; i++)
		json_array_append_new(losses, loss_json(&r->s.losses[i]));
	json_t *trace = json_string(r->trace); /* NULL: a path that is not UTF-8 */
	json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:f, s:I}", "model", ex_arch_name(r->model.arch),
		"shards", (json_int_t)r->s.input.n_shards, "expert_groups", (json_int_t)r->o.expert_groups,
		"expert_bytes", (json_int_t)r->s.bytes_expert, "bytes", (json_int_t)r->s.bytes_all, "trace",
		trace ? trace : json_null(), "hottest_over_mean", r->s.load_max, "link_gbps", (json_int_t)r->link_gbps);
	json_object_set_new(o, "contiguous", figures_json(&r->s.naive));
	json_object_set_new(o, "planned", figures_json(&r->s.plan.after));
	json_object_set_new(o, "hosts", hosts_json(r));
	json_object_set_new(o, "losses", losses);
	json_object_set_new(o, "slowest", loss_json(&r->s.losses[r->s.worst_time]));
	json_object_set_new(o, "most_uneven", loss_json(&r->s.losses[r->s.worst_imbalance]));
	json_object_set_new(o, "seconds", json_real(r->took_s));
	if (placement)
		json_object_set_new(o, "placement", placement_json(r));
	ctl_print_json(o, false);
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static int read_model(const char *path, struct ex_err *err, struct ex_model_config *ret)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	int rc = ex_read_file(path, CONFIG_BYTES_MAX, err, &text, &n);
	if (rc == 0)
		rc = ex_model_config_parse(path, text, n, err, ret);
	if (rc == 0 && !ret->n_experts)
		rc = ex_err_set(err, -EINVAL, "the model of '%s' has no experts: there is nothing to place", path);
	return rc;
}

static int read_input(struct ctl *c, struct run *r)
{
	struct ex_err err = EX_ERR_INIT;
	uint64_t groups, min, max;
	const char *config = ctl_str(c, "config", NULL), *hosts = ctl_str(c, "hosts", NULL);
	r->trace = ctl_str(c, "trace", NULL);
	if (!config || !hosts || !r->trace)
		return ctl_fail(
			CTL_USAGE, "fleet simulate needs --config=CONFIG.json, --hosts=HOSTS.ini and --trace=FILE");
	if (ctl_u64(c, "expert-groups", 1, EX_MODEL_EXPERTS_MAX, 0, &groups) ||
		ctl_u64(c, "min-replicas", 1, EX_PLANNER_REPLICAS_MAX, 2, &min) ||
		ctl_u64(c, "max-replicas", min, EX_PLANNER_REPLICAS_MAX, EX_MAX(min, 8u), &max) ||
		ctl_u64(c, "link-gbps", 1, 1000000, LINK_GBPS_DEFAULT, &r->link_gbps))
		return CTL_USAGE;
	r->o = (struct ex_simulate_opts){.model = &r->model,
		.min_replicas = (uint32_t)min,
		.max_replicas = (uint32_t)max,
		.link_bytes_per_s = (double)r->link_gbps * 1e9 / 8,
		.progress = show_progress};
	if (read_model(config, &err, &r->model) < 0 ||
		ex_placement_groups(&r->model, (uint32_t)groups, &err, &r->o.expert_groups) < 0 ||
		ex_hostfile_read(hosts, &err, &r->hosts) < 0)
		return ctl_fail(CTL_FAILED, "%s", ex_err_text(&err));
	r->loads = ex_calloc((size_t)r->model.n_layers * r->o.expert_groups, sizeof *r->loads);
	if (!r->loads)
		return ctl_fail(CTL_FAILED, "out of memory");
	if (ex_trace_read(r->trace, &r->model, r->o.expert_groups, &err, r->loads) < 0)
		return ctl_fail(CTL_FAILED, "%s", ex_err_text(&err));
	r->o.hosts = r->hosts.v;
	r->o.n_hosts = r->hosts.n;
	r->o.loads = r->loads;
	return CTL_OK;
}

int ctl_cmd_fleet_simulate(struct ctl *c, int argc, char **argv)
{
	struct ex_err err = EX_ERR_INIT;
	struct progress p = {.tty = isatty(STDERR_FILENO)};
	struct run r = {0};
	(void)argc, (void)argv;
	int rc = read_input(c, &r);
	uint64_t start = p.last_ns = ex_now_ns();
	r.o.ctx = &p;
	if (rc == CTL_OK && ex_simulate_run(&r.o, &err, &r.s) < 0)
		rc = ctl_fail(CTL_FAILED, "%s", ex_err_text(&err));
	r.took_s = (double)(ex_now_ns() - start) / (double)EX_NS_PER_S;
	if (rc == CTL_OK && c->json)
		print_json(&r, ctl_has(c, "placement"));
	else if (rc == CTL_OK) {
		print_input(&r);
		print_figures(&r.s);
		print_hosts(&r);
		if (ctl_has(c, "placement"))
			print_placement(&r);
		print_losses(&r);
		print_summary(&r);
	}
	ex_simulate_done(&r.s);
	ex_hosts_done(&r.hosts);
	free(r.loads);
	return rc;
}
