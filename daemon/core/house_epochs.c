/* SPDX-License-Identifier: Apache-2.0 */
/* The models of an expert host: what is kept of a switch, and a router's own shards. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include <stdio.h>

static bool has_epoch(const struct ex_house_model *m, uint64_t epoch)
{
	return m && m->dispatch && ex_epoch_of(ex_weights_digest(m->weights)) == epoch;
}

static unsigned on_users(void *ctx, uint64_t epoch)
{
	struct ex_house *h = ctx;
	unsigned n = h->experts_service ? ex_experts_service_users(h->experts_service, epoch) : 0;
	ex_lock_take(&h->models_lock);
	n += has_epoch(h->model, epoch) || has_epoch(h->next, epoch) || has_epoch(h->before, epoch);
	ex_lock_give(&h->models_lock);
	return n;
}

static bool on_claimed(void *ctx, char router[static EX_MOVES_ROUTER_MAX])
{
	struct ex_house *h = ctx;
	return h->moves && ex_moves_claimed(h->moves, router);
}

/* A router in this process has written it when it decided. */
static int on_keep(void *ctx, const char *dir, const char *digest, uint64_t decided_us, struct ex_err *err)
{
	struct ex_house *h = ctx;
	struct ex_choice c = {.decided_us = decided_us};
	if (ex_config_is_router(h->p))
		return 0;
	snprintf(c.dir, sizeof c.dir, "%s", dir);
	snprintf(c.digest, sizeof c.digest, "%s", digest);
	return ex_choice_write(h->p->node_state, h->p->model_path, &c, err);
}

static void on_turned(void *ctx, struct ex_weights *w, const char *dir)
{
	struct ex_house *h = ctx;
	ex_lock_take(&h->models_lock);
	struct ex_weights *before = h->weights;
	h->weights = ex_weights_ref(w);
	snprintf(h->expert_dir, sizeof h->expert_dir, "%s", dir);
	ex_lock_give(&h->models_lock);
	ex_house_show(h);
	ex_weights_close(before);
}

static void on_told(void *ctx, enum ex_epochs_event e, const char *dir, const char *digest)
{
	static const enum ex_event_id id[] = {[EX_EPOCHS_PREPARED] = EX_EV_MODEL_PREPARED,
		[EX_EPOCHS_COMMITTED] = EX_EV_MODEL_COMMITTED,
		[EX_EPOCHS_DROPPED] = EX_EV_MODEL_DROPPED};
	static const char *const text[] = {[EX_EPOCHS_PREPARED] = "is loaded beside the live model",
		[EX_EPOCHS_COMMITTED] = "is the live model",
		[EX_EPOCHS_DROPPED] = "was dropped"};
	(void)ctx;
	ex_event(id[e], EX_FIELDS({"EX_MODEL", dir}, {"EX_DIGEST", digest}), "'%s' (%.12s) %s", dir, digest, text[e]);
}

int ex_house_build_epochs(struct ex_house *h, struct ex_err *err)
{
	const struct ex_epochs_opts o = {
		.registry = h->registry,
		.published = h->published,
		.swapper = h->swapper,
		.weights = h->weights,
		.dir = h->model_dir,
		.decided_us = h->choice.decided_us,
		.plugin = h->expert_plugin,
		.host = &h->expert_host.host,
		.which = h->p->expert_device,
		.n_groups = h->n_groups,
		.users = on_users,
		.claimed = on_claimed,
		.keep = on_keep,
		.turned = on_turned,
		.told = on_told,
		.ctx = h,
	};
	int rc = ex_epochs_new(&o, err, &h->epochs);
	if (rc < 0)
		return rc;
	ex_epochs_methods(h->epochs, h->epochs_methods);
	atomic_store_explicit(&h->epochs_shown, h->epochs, memory_order_release);
	return 0;
}

/* --- the shards of this process, on the loader's thread ---------------------------------------------------- */

struct local {
	struct ex_house *h;
	const struct ex_model_calls *c;
	enum ex_local_step step;
	struct ex_err err;
	int rc;
	struct ex_lock lock;
	pthread_cond_t ended;
	bool is_over; /* guarded by lock */
};

static int prepare_local(struct local *l, struct ex_err *err)
{
	const struct ex_epochs_ask ask = {
		.dir = l->c->dir, .digest = l->c->digest, .n_groups = l->c->n_groups, .decided_us = l->c->decided_us};
	return ex_epochs_prepare(l->h->epochs, &ask, err);
}

static int decide_local(struct local *l, struct ex_err *err)
{
	return ex_epochs_decide(l->h->epochs, l->c->digest, err);
}

static int commit_local(struct local *l, struct ex_err *err)
{
	return ex_epochs_commit(l->h->epochs, l->c->digest, l->c->decided_us, err);
}

static int drop_local(struct local *l, struct ex_err *err)
{
	return ex_epochs_drop(l->h->epochs, l->c->digest, err);
}

static int run_step(struct local *l, struct ex_err *err)
{
	static int (*const run[])(struct local * l, struct ex_err * err) = {[EX_LOCAL_PREPARE] = prepare_local,
		[EX_LOCAL_DECIDE] = decide_local,
		[EX_LOCAL_COMMIT] = commit_local,
		[EX_LOCAL_DROP] = drop_local};
	return run[l->step](l, err);
}

static void run_local(void *ctx, bool is_over)
{
	struct local *l = ctx;
	l->rc = is_over ? ex_err_set(&l->err, -ESHUTDOWN, "this process is stopping") : run_step(l, &l->err);
	ex_lock_take(&l->lock);
	l->is_over = true;
	pthread_cond_signal(&l->ended);
	ex_lock_give(&l->lock);
}

int ex_house_local_model(
	struct ex_house *h, const struct ex_model_calls *c, enum ex_local_step step, struct ex_err *err)
{
	struct local l = {.h = h, .c = c, .step = step};
	if (!h->epochs)
		return 0;
	ex_lock_init(&l.lock, "local");
	ex_cond_init(&l.ended);
	int rc = ex_swapper_call(h->swapper, run_local, &l, err);
	if (rc == 0) {
		ex_lock_take(&l.lock);
		while (!l.is_over)
			ex_cond_wait(&l.ended, &l.lock);
		ex_lock_give(&l.lock);
		rc = l.rc;
		if (rc < 0)
			*err = l.err;
	}
	pthread_cond_destroy(&l.ended);
	ex_lock_done(&l.lock);
	return rc;
}
