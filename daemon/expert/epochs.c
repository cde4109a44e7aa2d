/* SPDX-License-Identifier: Apache-2.0 */
/* Two models side by side, and the way from one to the other. Layer L2. */
#include "expert/epochs.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/shape.h"
#include <stdio.h>
#include <string.h>

/* A model that is held. */
struct held {
	struct ex_weights *w; /* a reference; NULL: none is held */
	char *dir;
	char digest[EX_DIGEST_HEX];
	uint64_t epoch, decided_us;
};

struct ex_epochs {
	struct ex_epochs_opts o;
	struct ex_lock lock;
	struct held live, next; /* written by the loader under lock; next only when it is whole */
	uint64_t used_ns;       /* when next was last in use [loader] */
};

static void held_done(struct held *h)
{
	ex_weights_close(h->w);
	free(h->dir);
	*h = (struct held){.w = NULL};
}

static int held_init(struct held *h, struct ex_weights *w, const char *dir)
{
	*h = (struct held){.dir = strdup(dir)};
	if (!h->dir)
		return -ENOMEM;
	h->w = ex_weights_ref(w);
	snprintf(h->digest, sizeof h->digest, "%s", ex_weights_digest(w));
	h->epoch = ex_epoch_of(h->digest);
	return 0;
}

/* --- prepare [loader] ------------------------------------------------------------------------------------ */

struct list {
	struct ex_shard_id *id; /* [n] */
	size_t n, cap;
	uint64_t n_experts;
	bool oom;
};

static void add_live(void *ctx, const struct ex_shard_view *v)
{
	struct list *l = ctx;
	if (!v->generation)
		return;
	if (ex_grow(&l->id, &l->cap, l->n + 1, sizeof *l->id) < 0) {
		l->oom = true;
		return;
	}
	l->id[l->n++] = v->id;
	l->n_experts += v->id.n_experts;
}

/* Its own identity is that of its plugin. One that was proven to give the bits of the configured plugin goes on doing so. */
static int carry_identity(struct ex_epochs *e, const struct ex_generation *live, struct ex_generation *g,
	struct ex_weights *w, struct ex_err *err)
{
	const struct ex_shard_id *id = ex_generation_id(live);
	char identity[EX_IDENTITY_HEX];
	if (strcmp(ex_plugin_sha256(ex_generation_code(live)), ex_plugin_sha256(e->o.plugin)) == 0)
		return 0;
	int rc = ex_shard_identity_with(id, e->o.plugin, e->live.w, err, identity);
	if (rc < 0 || strcmp(identity, ex_generation_identity_text(live)) != 0)
		return rc;
	rc = ex_shard_identity_with(id, e->o.plugin, w, err, identity);
	if (rc == 0)
		ex_generation_set_identity(g, identity);
	return rc;
}

static int stage_shard(struct ex_epochs *e, const struct ex_shard_id *id, struct ex_weights *w, struct ex_err *err)
{
	EX_CLEANUP(ex_registry_discardp) struct ex_generation *g = NULL;
	char name[EX_SHARD_NAME_MAX];
	struct ex_generation *live = ex_registry_pin(e->o.registry, id->layer, id->first_expert);
	if (!live) /* its device failed meanwhile */
		return 0;
	struct ex_plugin *p = (struct ex_plugin *)ex_generation_code(live);
	int rc = ex_registry_prepare(e->o.registry, id, p, e->o.host, e->o.which, w, err, &g);
	if (rc == 0)
		rc = carry_identity(e, live, g, w, err);
	ex_generation_unpin(live);
	if (rc < 0)
		return ex_err_prefix(err, "shard %s", ex_shard_name(id, name));
	ex_registry_stage(EX_TAKE(g));
	return 0;
}

static int stage_all(struct ex_epochs *e, const struct ex_epochs_ask *ask, struct ex_weights *w, struct ex_err *err)
{
	struct ex_weights_stat s;
	struct list l = {.n = 0};
	ex_weights_stat(w, &s);
	ex_registry_sweep(e->o.registry, UINT64_MAX); /* what lingers is of the model before, and takes memory */
	ex_registry_each(e->o.registry, add_live, &l);
	int rc = l.oom ? ex_err_errno(err, -ENOMEM, "cannot list the shards")
		       : ex_registry_check_room(l.n_experts * s.bytes_per_expert, err);
	if (rc == 0)
		ex_registry_stage_epoch(e->o.registry, ex_epoch_of(ask->digest));
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		ex_swapper_alive(e->o.swapper);
		rc = stage_shard(e, &l.id[i], w, err);
		if (rc == 0 && ask->progress)
			ask->progress(ask->ctx, (uint32_t)i + 1, (uint32_t)l.n);
		if (rc == 0 && ask->gone && ask->gone(ask->ctx))
			rc = ex_err_set(err, -ECANCELED, "the router does not wait for it any more");
	}
	if (rc < 0 && ex_registry_has_epoch(e->o.registry, ex_epoch_of(ask->digest)))
		ex_registry_unstage(e->o.registry);
	free(l.id);
	return rc;
}

static int open_next(struct ex_epochs *e, const struct ex_epochs_ask *ask, struct ex_err *err, struct ex_weights **ret)
{
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = NULL;
	if (ask->n_groups != e->o.n_groups)
		return ex_err_set(err, -EINVAL, "expert_groups is %u, this host has %u", ask->n_groups, e->o.n_groups);
	int rc = ex_weights_open(ask->dir, err, &w);
	if (rc < 0)
		return rc;
	if (strcmp(ex_weights_digest(w), ask->digest) != 0)
		return ex_err_set(err, -EINVAL, "'%s' has digest %s here, the router's has %s", ask->dir,
			ex_weights_digest(w), ask->digest);
	rc = ex_model_same_shape(ex_weights_config(e->live.w), ex_weights_config(w), err);
	if (rc < 0)
		return ex_err_prefix(err, "'%s'", ask->dir);
	*ret = EX_TAKE(w);
	return 0;
}

static void forget_next(struct ex_epochs *e)
{
	struct held gone = e->next;
	ex_lock_take(&e->lock);
	e->next = (struct held){.w = NULL};
	ex_lock_give(&e->lock);
	ex_registry_unstage(e->o.registry); /* before the weights: a plugin may read them where they lie */
	ex_swapper_freeze(e->o.swapper, NULL);
	e->o.told(e->o.ctx, EX_EPOCHS_DROPPED, gone.dir, gone.digest);
	held_done(&gone);
}

/* Another next model makes room, unless it is in use. */
static int make_place(struct ex_epochs *e, struct ex_err *err)
{
	if (!e->next.w)
		return 0;
	if (e->o.users(e->o.ctx, e->next.epoch))
		return ex_err_set(err, -EBUSY, "a switch to '%s' (%.12s) is under way", e->next.dir, e->next.digest);
	forget_next(e);
	return 0;
}

/* What a router moves here while the shards are listed would be missing in the next model. */
static int check_claims(struct ex_epochs *e, struct ex_err *err)
{
	char router[EX_MOVES_ROUTER_MAX];
	if (e->o.claimed && e->o.claimed(e->o.ctx, router))
		return ex_err_set(err, -EBUSY, "router %s moves shards on this host: see fleet status there", router);
	return 0;
}

int ex_epochs_prepare(struct ex_epochs *e, const struct ex_epochs_ask *ask, struct ex_err *err)
{
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = NULL;
	struct held next;
	if (strcmp(ask->digest, e->live.digest) == 0)
		return 0;
	if (ask->decided_us && ask->decided_us < e->live.decided_us)
		return ex_err_set(err, -ESTALE,
			"this host was switched to '%s' (%.12s) later than the router to its model", e->live.dir,
			e->live.digest);
	e->used_ns = ex_now_ns();
	if (e->next.w && strcmp(ask->digest, e->next.digest) == 0)
		return 0;
	int rc = check_claims(e, err);
	if (rc == 0)
		rc = make_place(e, err);
	if (rc == 0)
		rc = open_next(e, ask, err, &w);
	if (rc == 0)
		rc = stage_all(e, ask, w, err);
	if (rc < 0)
		return rc;
	if (held_init(&next, w, ask->dir) < 0) {
		ex_registry_unstage(e->o.registry);
		return ex_err_errno(err, -ENOMEM, "cannot keep '%s'", ask->dir);
	}
	ex_swapper_freeze(e->o.swapper, EX_EPOCHS_FROZEN);
	ex_lock_take(&e->lock);
	e->next = next;
	ex_lock_give(&e->lock);
	e->used_ns = ex_now_ns();
	e->o.told(e->o.ctx, EX_EPOCHS_PREPARED, next.dir, next.digest);
	return 0;
}

/* --- commit and drop [loader] ----------------------------------------------------------------------------- */

static void renew_entry(void *ctx, struct ex_published_entry *entry)
{
	struct ex_epochs *e = ctx;
	struct ex_generation *g =
		ex_registry_pin_epoch(e->o.registry, e->next.epoch, entry->id.layer, entry->id.first_expert);
	entry->identity[0] = '\0';
	/* another plugin may compute it, when this one is set aside or does not load */
	const char *sha256 = *entry->sha256 ? entry->sha256 : ex_plugin_sha256(e->o.plugin);
	if (g && *entry->plugin && strcmp(ex_plugin_sha256(ex_generation_code(g)), sha256) == 0)
		snprintf(entry->identity, sizeof entry->identity, "%s", ex_generation_identity_text(g));
	ex_generation_unpin(g);
}

int ex_epochs_decide(struct ex_epochs *e, const char *digest, struct ex_err *err)
{
	if (!e->next.w || strcmp(digest, e->next.digest) != 0)
		return ex_err_set(err, -ENOENT, "model %.64s is not prepared on this host", digest);
	return ex_published_begin_model(e->o.published, digest, renew_entry, e, err);
}

int ex_epochs_commit(struct ex_epochs *e, const char *digest, uint64_t decided_us, struct ex_err *err)
{
	if (strcmp(digest, e->live.digest) ==
		0) { /* there and back: what an earlier switch has prepared is not wanted */
		if (e->next.w && !e->o.users(e->o.ctx, e->next.epoch))
			forget_next(e);
		return 0;
	}
	if (!e->next.w || strcmp(digest, e->next.digest) != 0)
		return ex_err_set(err, -ENOENT, "model %.64s is not prepared on this host", digest);
	unsigned n = e->o.users(e->o.ctx, e->live.epoch);
	if (n)
		return ex_err_set(
			err, -EBUSY, "routers have %u streams that use '%s' (%.12s)", n, e->live.dir, e->live.digest);
	int rc = ex_published_begin_model(e->o.published, digest, renew_entry, e, err);
	if (rc == 0)
		rc = e->o.keep(e->o.ctx, e->next.dir, digest, decided_us, err);
	if (rc < 0)
		return rc;
	struct ex_err late = EX_ERR_INIT;
	struct held before = e->live;
	ex_registry_turn(e->o.registry);
	ex_lock_take(&e->lock);
	e->live = e->next;
	e->live.decided_us = decided_us;
	e->next = (struct held){.w = NULL};
	ex_lock_give(&e->lock);
	ex_swapper_set_model(e->o.swapper, e->live.w, e->live.dir);
	ex_swapper_freeze(e->o.swapper, NULL);
	e->o.turned(e->o.ctx, e->live.w, e->live.dir);
	held_done(&before);
	rc = ex_published_end_model(e->o.published, &late); /* if it cannot, the next start does */
	e->o.told(e->o.ctx, EX_EPOCHS_COMMITTED, e->live.dir, rc < 0 ? ex_err_text(&late) : digest);
	return 0;
}

int ex_epochs_drop(struct ex_epochs *e, const char *digest, struct ex_err *err)
{
	if (!e->next.w || strcmp(digest, e->next.digest) != 0)
		return 0;
	return make_place(e, err);
}

/* A router that died before it had decided leaves its next model behind. */
static void look_after(void *ctx)
{
	struct ex_epochs *e = ctx;
	uint64_t now = ex_now_ns();
	if (!e->next.w)
		return;
	if (e->o.users(e->o.ctx, e->next.epoch))
		e->used_ns = now;
	else if (now - e->used_ns > EX_EPOCHS_UNUSED_NS)
		forget_next(e);
}

/* --- life ------------------------------------------------------------------------------------------------ */

void ex_epochs_view(struct ex_epochs *e, struct ex_epochs_view *ret)
{
	ex_lock_take(&e->lock);
	*ret = (struct ex_epochs_view){.live_epoch = e->live.epoch, .next_epoch = e->next.epoch};
	memcpy(ret->live, e->live.digest, sizeof ret->live);
	memcpy(ret->next, e->next.digest, sizeof ret->next);
	ex_lock_give(&e->lock);
}

void ex_epochs_next(struct ex_epochs *e, char dir[static PATH_MAX], char digest[static EX_DIGEST_HEX])
{
	ex_lock_take(&e->lock);
	snprintf(dir, PATH_MAX, "%s", e->next.w ? e->next.dir : "");
	memcpy(digest, e->next.digest, EX_DIGEST_HEX);
	ex_lock_give(&e->lock);
}

struct ex_swapper *ex_epochs_swapper(const struct ex_epochs *e)
{
	return e->o.swapper;
}

int ex_epochs_new(const struct ex_epochs_opts *o, struct ex_err *err, struct ex_epochs **ret)
{
	struct ex_epochs *e = ex_calloc(1, sizeof *e);
	if (!e || held_init(&e->live, o->weights, o->dir) < 0) {
		free(e);
		return ex_err_errno(err, -ENOMEM, "cannot keep the model");
	}
	e->o = *o;
	e->live.decided_us = o->decided_us;
	ex_lock_init(&e->lock, "epochs");
	assert(ex_registry_epoch(o->registry) == e->live.epoch);
	ex_swapper_when_idle(o->swapper, look_after, e);
	*ret = e;
	return 0;
}

struct ex_epochs *ex_epochs_free(struct ex_epochs *e)
{
	if (e) {
		ex_registry_unstage(e->o.registry);
		held_done(&e->next);
		held_done(&e->live);
		ex_lock_done(&e->lock);
		free(e);
	}
	return NULL;
}
