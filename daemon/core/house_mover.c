/* SPDX-License-Identifier: Apache-2.0 */
/* Plans of placement made true, and what is told of them. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include <stdio.h>

enum { PLACEMENT_MANUAL, PLACEMENT_AUTO }; /* as placement's choices */

/* --- what is told [mover] -------------------------------------------------------------------------------- */

static void on_begun(void *ctx, const char *why, const struct ex_place *p, unsigned round)
{
	char bytes[EX_BYTES_TEXT_MAX];
	(void)ctx;
	ex_event(EX_EV_PLAN_BEGUN, NULL,
		"plan %u begins, %s: %zu moves, %s to load; imbalance by layer %.2f, then %.2f; shards with too few "
		"replicas %u, then %u",
		round, why, p->n_moves, ex_bytes_text(p->bytes_moved, bytes), p->before.imbalance_layer,
		p->after.imbalance_layer, p->before.n_under, p->after.n_under);
}

static void on_moved(void *ctx, const struct ex_haul_move *m)
{
	char shard[EX_SHARD_NAME_MAX];
	(void)ctx;
	ex_shard_name(&m->m.shard, shard);
	const struct ex_field fields[] = {{"EX_HOST", m->m.host}, {"EX_SHARD", shard},
		{"EX_ACTION", m->m.load ? "load" : "unload"}, {NULL, NULL}};
	ex_metric_add(ex_metric(EX_M_MOVES, m->state == EX_MOVE_FAILED    ? "failed"
					    : m->state == EX_MOVE_SKIPPED ? "skipped"
					    : m->m.load                   ? "loaded"
									  : "unloaded"),
		1);
	if (m->state == EX_MOVE_DONE && m->m.load)
		ex_metric_add(ex_metric(EX_M_MOVED_BYTES, NULL), m->m.bytes);
	if (m->state == EX_MOVE_DONE)
		ex_event(EX_EV_MOVE_DONE, fields, "shard %s %s host %s: %s", shard,
			m->m.load ? "loaded on" : "unloaded from", m->m.host, m->m.why);
	else
		ex_event(EX_EV_MOVE_FAILED, fields, "shard %s was not %s host %s: %s", shard,
			m->m.load ? "loaded on" : "unloaded from", m->m.host, m->text);
}

static void on_ended(void *ctx, const char *why, const struct ex_haul_sum *s)
{
	char bytes[EX_BYTES_TEXT_MAX], counts[160];
	(void)ctx;
	snprintf(counts, sizeof counts, "%u loaded (%s), %u unloaded, %u skipped, %u failed", s->n_loaded,
		ex_bytes_text(s->bytes, bytes), s->n_unloaded, s->n_skipped, s->n_failed);
	if (s->rc < 0 && s->rc != -ECANCELED)
		ex_event(EX_EV_PLAN_FAILED, NULL, "the fleet is not as planned, %s: %.300s; %s", why, s->text, counts);
	else if (s->rc < 0 || s->n_loaded || s->n_unloaded || s->n_failed)
		ex_event(EX_EV_PLAN_FINISHED, NULL, "%s, %s: %s",
			s->rc < 0 ? "the plan was stopped" : "the fleet is as planned", why, counts);
}

static void tell_auto(bool automatic)
{
	ex_event(EX_EV_PLACEMENT_AUTO, NULL, "placement = %s: %s", automatic ? "auto" : "manual",
		automatic ? "this router restores replicas and evens the load out"
			  : "what a plan moves is an operator's doing");
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_house_build_mover(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	struct ex_mover_opts o = {
		.dispatch = h->model->dispatch,
		.loop = h->loop_control,
		.tls = h->tls,
		.node = p->node_name,
		.model_digest = ex_weights_digest(h->model->weights),
		.n_groups = h->n_groups,
		.moves_at_once = p->router_moves_at_once,
		.timeout_s = p->router_move_timeout_s,
		.bytes_per_s = p->router_move_bytes_per_s,
		.min_replicas = p->router_min_replicas,
		.max_replicas = p->router_max_replicas,
		.interval_s = p->router_auto_interval_s,
		.repair_s = p->router_auto_repair_s,
		.threshold = p->router_auto_threshold_percent / 100.0,
		.begun = on_begun,
		.moved = on_moved,
		.ended = on_ended,
		.ctx = h,
	};
	ex_lock_take(h->o.params_lock); /* a reload comes before, or after: then it finds the mover */
	o.automatic = p->router_placement == PLACEMENT_AUTO;
	int rc = ex_mover_new(&o, err, &h->mover);
	ex_lock_give(h->o.params_lock);
	if (rc < 0)
		return rc;
	if (o.automatic)
		tell_auto(true);
	ex_house_show(h);
	return 0;
}

void ex_house_reload_placement(struct ex_house *h)
{
	bool automatic = h->p->router_placement == PLACEMENT_AUTO;
	if (h->mover && ex_mover_set_auto(h->mover, automatic) != automatic)
		tell_auto(automatic);
}
