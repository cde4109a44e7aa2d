/* SPDX-License-Identifier: Apache-2.0 */
/* The swapper: its thread and queue, and the commands that need no other plugin. Layer L2. */
#include "base/clock.h"
#include "base/mem.h"
#include "expert/swap_int.h"
#include <stdio.h>
#include <string.h>

#define STRAYS_MAX 64
#define IDLE_NS    (250 * EX_NS_PER_MS) /* a sign of life, and a look at what lingers, this often */
#define USED_NS    (10 * EX_NS_PER_S)   /* a shard that ran within it is in use */

const char *ex_swap_step_name(enum ex_swap_step s)
{
	static const char *const name[] = {
		"select", "copy", "allow", "abi", "trial", "memory", "load", "verify", "publish", "drain", "done"};
	assert(s < EX_ARRAY_LEN(name));
	return name[s];
}

const char *ex_swap_action_name(enum ex_swap_action a)
{
	static const char *const name[] = {"swap", "load", "unload", "rollback"};
	assert(a < EX_ARRAY_LEN(name));
	return name[a];
}

/* --- telling --------------------------------------------------------------------------------------------- */

void swap_turn(struct ex_swapper *s, bool busy)
{
	atomic_store_explicit(&s->turn_ns, ex_now_ns(), memory_order_relaxed);
	atomic_store_explicit(&s->busy, busy, memory_order_relaxed);
}

void swap_tell(struct ex_swapper *s, struct swap_job *j, const struct ex_swap_report *r)
{
	swap_turn(s, true);
	j->n_done += !r->failed && r->step == EX_STEP_DONE;
	j->n_failed += r->failed;
	if (s->o.told)
		s->o.told(s->o.ctx, r);
	j->c.report(j->c.ctx, r);
}

void swap_fail(struct ex_swapper *s, struct swap_job *j, struct ex_swap_report *r, const struct ex_err *err)
{
	r->failed = true;
	if (r->before)
		snprintf(r->text, sizeof r->text, "%.400s; generation %u keeps serving", ex_err_text(err), r->before);
	else
		snprintf(r->text, sizeof r->text, "%.500s", ex_err_text(err));
	swap_tell(s, j, r);
}

bool swap_is_over(const struct ex_swapper *s, const struct swap_job *j)
{
	return atomic_load_explicit(&s->stop, memory_order_relaxed) || (j->c.gone && j->c.gone(j->c.ctx));
}

uint64_t swap_linger_until(const struct ex_swapper *s)
{
	return s->o.linger_s ? ex_now_ns() + s->o.linger_s * EX_NS_PER_S : 0;
}

static bool is_configured(const struct ex_swapper *s, const struct ex_shard_id *id)
{
	for (size_t i = 0; i < s->o.n_configured; i++)
		if (memcmp(&s->o.configured[i], id, sizeof *id) == 0)
			return true;
	return false;
}

int swap_publish_entry(struct ex_swapper *s, const struct ex_generation *g, struct ex_err *err)
{
	const char *sha256 = ex_plugin_sha256(ex_generation_code(g));
	struct ex_published_entry e = {.id = *ex_generation_id(g), .added = !is_configured(s, ex_generation_id(g))};
	if (strcmp(sha256, ex_plugin_sha256(s->o.plugin)) != 0)
		snprintf(e.sha256, sizeof e.sha256, "%s", sha256);
	snprintf(e.plugin, sizeof e.plugin, "%s", ex_generation_plugin(g));
	snprintf(e.identity, sizeof e.identity, "%s", ex_generation_identity_text(g));
	return ex_published_set(s->o.published, &e, err);
}

/* --- load, unload, rollback [loader] --------------------------------------------------------------------- */

static void run_rollback(struct ex_swapper *s, struct swap_job *j, const struct ex_shard_id *id)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_swap_report r = {.action = EX_SWAP_ROLLBACK, .step = EX_STEP_SELECT};
	struct ex_generation *back = ex_registry_lingering(s->o.registry, id);
	struct ex_generation *live = ex_registry_pin(s->o.registry, id->layer, id->first_expert);
	ex_shard_name(id, r.shard);
	r.before = live ? ex_generation_number(live) : 0;
	ex_generation_unpin(live);
	int rc = back ? 0 : ex_err_set(&err, -ENOENT, "no generation before it is loaded any more");
	if (rc == 0) {
		r.generation = ex_generation_number(back);
		snprintf(r.plugin, sizeof r.plugin, "%s", ex_generation_plugin(back));
		r.step = EX_STEP_PUBLISH;
		rc = swap_publish_entry(s, back, &err);
	}
	ex_generation_unpin(back);
	if (rc == 0)
		rc = ex_registry_rollback(s->o.registry, id, swap_linger_until(s));
	if (rc < 0) {
		swap_fail(s, j, &r, &err);
		return;
	}
	uint64_t start_ns = ex_now_ns();
	r.step = EX_STEP_DRAIN;
	ex_registry_settle(s->o.registry, id);
	r.drain_ns = ex_now_ns() - start_ns;
	r.step = EX_STEP_DONE;
	swap_tell(s, j, &r);
}

/* What lingers goes when it stands in the way. */
static int prepare(struct ex_swapper *s, const struct ex_shard_id *id, struct ex_err *err, struct ex_generation **ret)
{
	const struct ex_swapper_opts *o = &s->o;
	if (ex_registry_check_memory(o->registry, id, o->weights, NULL) < 0)
		ex_registry_sweep(o->registry, UINT64_MAX);
	return ex_registry_prepare(o->registry, id, o->plugin, o->host, o->which, o->weights, err, ret);
}

static void run_load(struct ex_swapper *s, struct swap_job *j, const struct ex_shard_id *id)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_swap_report r = {.action = EX_SWAP_LOAD, .step = EX_STEP_LOAD};
	EX_CLEANUP(ex_registry_discardp) struct ex_generation *g = NULL;
	ex_shard_name(id, r.shard);
	int rc = prepare(s, id, &err, &g);
	if (rc == 0) {
		snprintf(r.plugin, sizeof r.plugin, "%s", ex_generation_plugin(g));
		r.step = EX_STEP_PUBLISH;
		rc = swap_publish_entry(s, g, &err);
	} else if (rc == -ENOMEM)
		r.step = EX_STEP_MEMORY;
	if (rc < 0) {
		swap_fail(s, j, &r, &err);
		return;
	}
	r.generation = ex_registry_publish(EX_TAKE(g), 0);
	r.step = EX_STEP_DONE;
	swap_tell(s, j, &r);
}

struct usage {
	const struct ex_shard_id *id;
	struct ex_shard_view v;
};

static void find_view(void *ctx, const struct ex_shard_view *v)
{
	struct usage *u = ctx;
	if (memcmp(&v->id, u->id, sizeof v->id) == 0)
		u->v = *v;
}

static void run_unload(struct ex_swapper *s, struct swap_job *j, const struct ex_shard_id *id)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_swap_report r = {.action = EX_SWAP_UNLOAD, .step = EX_STEP_SELECT};
	struct usage u = {.id = id};
	struct ex_published_entry e = {.id = *id, .gone = true};
	ex_shard_name(id, r.shard);
	ex_registry_each(s->o.registry, find_view, &u);
	r.before = u.v.generation;
	int rc = 0;
	if (!j->q.force && u.v.last_run_ns && ex_now_ns() - u.v.last_run_ns < USED_NS)
		rc = ex_err_set(&err, -EBUSY,
			"it computed rows within the last %llu s: if other hosts hold it, use --force",
			(unsigned long long)(USED_NS / EX_NS_PER_S));
	if (rc == 0) {
		r.step = EX_STEP_PUBLISH;
		rc = ex_published_set(s->o.published, &e, &err);
	}
	if (rc < 0) {
		swap_fail(s, j, &r, &err);
		return;
	}
	uint64_t start_ns = ex_now_ns();
	r.step = EX_STEP_DRAIN;
	swap_turn(s, true);
	ex_registry_withdraw(s->o.registry, id);
	r.drain_ns = ex_now_ns() - start_ns;
	r.step = EX_STEP_DONE;
	swap_tell(s, j, &r);
}

/* --- a command [loader] ---------------------------------------------------------------------------------- */

struct selection {
	const struct swap_job *j;
	struct ex_shard_id *id; /* [n] */
	size_t n, cap;
	bool oom;
};

static void add_id(struct selection *l, const struct ex_shard_id *id)
{
	if (!ex_shard_glob_match(l->j->q.glob, id))
		return;
	if (ex_grow(&l->id, &l->cap, l->n + 1, sizeof *l->id) < 0)
		l->oom = true;
	else
		l->id[l->n++] = *id;
}

static void add_here(void *ctx, const struct ex_shard_view *v)
{
	struct selection *l = ctx;
	if (v->generation || (l->j->q.action == EX_SWAP_ROLLBACK && v->lingering) ||
		(l->j->q.action == EX_SWAP_UNLOAD && v->state == EX_SHARD_FAILED))
		add_id(l, &v->id);
}

/* Shards of the glob that the command is for: those that are here, or, to be loaded, those that are not. */
static void select_shards(struct ex_swapper *s, struct selection *l)
{
	if (l->j->q.action != EX_SWAP_LOAD) {
		ex_registry_each(s->o.registry, add_here, l);
		return;
	}
	for (size_t i = 0; i < s->o.n_shards; i++) {
		const struct ex_shard_id *id = &s->o.shards[i];
		struct ex_generation *g = ex_registry_pin(s->o.registry, id->layer, id->first_expert);
		if (!g)
			add_id(l, id);
		ex_generation_unpin(g);
	}
}

static void run_job(struct ex_swapper *s, struct swap_job *j)
{
	static void (*const run[])(struct ex_swapper *, struct swap_job *, const struct ex_shard_id *) = {
		[EX_SWAP_LOAD] = run_load, [EX_SWAP_UNLOAD] = run_unload, [EX_SWAP_ROLLBACK] = run_rollback};
	struct selection l = {.j = j};
	struct ex_swap_report r = {.action = j->q.action, .step = EX_STEP_SELECT};
	struct ex_err err = EX_ERR_INIT;
	swap_turn(s, true);
	select_shards(s, &l);
	snprintf(r.shard, sizeof r.shard, "%s", j->q.glob);
	if (s->frozen)
		ex_err_set(&err, -EBUSY, "%s", s->frozen);
	else if (l.oom)
		ex_err_errno(&err, -ENOMEM, "cannot select shards");
	else if (!l.n)
		ex_err_set(&err, -ENOENT,
			j->q.action == EX_SWAP_LOAD ? "every shard of '%s' is loaded, or there is none"
						    : "no shard of '%s' is here",
			j->q.glob);
	if (err.code)
		swap_fail(s, j, &r, &err);
	else if (j->q.action == EX_SWAP_SWAP)
		swap_run(s, j, l.id, l.n);
	else
		for (size_t i = 0; i < l.n && !swap_is_over(s, j); i++)
			run[j->q.action](s, j, &l.id[i]);
	free(l.id);
}

struct claims {
	const char *sha256;
	bool found;
};

static void look_for_claim(void *ctx, const struct ex_shard_view *v)
{
	struct claims *c = ctx;
	c->found |= strcmp(v->sha256, c->sha256) == 0 || strcmp(v->lingering_sha256, c->sha256) == 0;
}

static bool is_used(void *ctx, const char *sha256)
{
	struct ex_swapper *s = ctx;
	struct claims c = {.sha256 = sha256};
	ex_registry_each(s->o.registry, look_for_claim, &c);
	return c.found;
}

/* Shards that went back to the generation before by themselves: its device failed. */
struct strays {
	struct ex_swapper *s;
	struct ex_shard_id id[STRAYS_MAX];
	size_t n;
};

static void look_for_stray(void *ctx, const struct ex_shard_view *v)
{
	struct strays *l = ctx;
	const struct ex_published_entry *e = ex_published_find(l->s->o.published, &v->id);
	const char *want = e && *e->sha256 ? e->sha256 : ex_plugin_sha256(l->s->o.plugin);
	bool went_back = v->generation && v->generation < v->newest; /* not: never came to what was published */
	if (e && went_back && strcmp(v->sha256, want) != 0 && l->n < STRAYS_MAX)
		l->id[l->n++] = v->id;
}

/* Writes down what serves now, and tells. */
static void follow(struct ex_swapper *s)
{
	uint64_t revision = ex_registry_revision(s->o.registry);
	struct strays l = {.s = s};
	if (revision == s->revision)
		return;
	ex_registry_each(s->o.registry, look_for_stray, &l);
	for (size_t i = 0; i < l.n; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_swap_report r = {.action = EX_SWAP_ROLLBACK, .step = EX_STEP_DONE};
		struct ex_generation *g = ex_registry_pin(s->o.registry, l.id[i].layer, l.id[i].first_expert);
		if (!g)
			continue;
		ex_shard_name(&l.id[i], r.shard);
		r.generation = ex_generation_number(g);
		snprintf(r.plugin, sizeof r.plugin, "%s", ex_generation_plugin(g));
		snprintf(r.text, sizeof r.text, "the device of the generation after it failed");
		if (swap_publish_entry(s, g, &err) < 0) {
			r.failed = true;
			r.step = EX_STEP_PUBLISH;
			snprintf(r.text, sizeof r.text,
				"it serves again since a device failed, but a restart will not know: %.300s",
				ex_err_text(&err));
		}
		ex_generation_unpin(g);
		if (s->o.told)
			s->o.told(s->o.ctx, &r);
	}
	s->revision = l.n < STRAYS_MAX ? revision : 0;
}

static void free_job(struct swap_job *j)
{
	free(j->plugin);
	free(j);
}

static void finish_job(struct ex_swapper *s, struct swap_job *j)
{
	ex_registry_sweep(s->o.registry, ex_now_ns());
	ex_published_collect(s->o.published, is_used, s);
	j->c.done(j->c.ctx, j->n_done, j->n_failed);
	free_job(j);
}

/* --- the thread ------------------------------------------------------------------------------------------ */

/* The next command, after at most IDLE_NS; NULL: none. s->lock is held. */
static struct swap_job *take_job(struct ex_swapper *s)
{
	if (!s->first)
		ex_cond_wait_until(&s->queued, &s->lock, ex_now_ns() + IDLE_NS);
	struct swap_job *j = s->first;
	if (!j)
		return NULL;
	s->first = j->next;
	if (!s->first)
		s->last = &s->first;
	s->n_waiting--;
	return j;
}

static void look_after(struct ex_swapper *s)
{
	follow(s);
	if (ex_registry_sweep(s->o.registry, ex_now_ns()))
		ex_published_collect(s->o.published, is_used, s);
	ex_lock_take(&s->lock);
	void (*idle)(void *ctx) = s->idle;
	void *ctx = s->idle_ctx;
	ex_lock_give(&s->lock);
	if (idle)
		idle(ctx);
}

static void *swapper_main(void *arg)
{
	struct ex_swapper *s = arg;
	pthread_setname_np(pthread_self(), "loader");
	ex_lock_take(&s->lock);
	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		swap_turn(s, false);
		struct swap_job *j = take_job(s);
		ex_lock_give(&s->lock);
		swap_turn(s, true);
		if (j && j->call) {
			j->call(j->c.ctx, false);
			free_job(j);
		} else if (j) {
			run_job(s, j);
			finish_job(s, j);
		} else
			look_after(s);
		ex_lock_take(&s->lock);
	}
	ex_lock_give(&s->lock);
	return NULL;
}

int ex_swapper_new(const struct ex_swapper_opts *o, struct ex_err *err, struct ex_swapper **ret)
{
	struct ex_swapper *s = ex_calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "cannot start the loader");
	s->o = *o;
	s->last = &s->first;
	ex_lock_init(&s->lock, "swapper");
	ex_cond_init(&s->queued);
	swap_turn(s, false);
	ex_published_collect(o->published, is_used, s);
	int rc = -pthread_create(&s->thread, NULL, swapper_main, s);
	if (rc < 0) {
		pthread_cond_destroy(&s->queued);
		ex_lock_done(&s->lock);
		free(s);
		return ex_err_errno(err, rc, "cannot start the loader");
	}
	*ret = s;
	return 0;
}

struct ex_swapper *ex_swapper_free(struct ex_swapper *s)
{
	if (!s)
		return NULL;
	ex_lock_take(&s->lock);
	atomic_store_explicit(&s->stop, true, memory_order_relaxed);
	pthread_cond_signal(&s->queued);
	ex_lock_give(&s->lock);
	pthread_join(s->thread, NULL);
	while (s->first) {
		struct swap_job *j = s->first;
		s->first = j->next;
		if (j->call)
			j->call(j->c.ctx, true);
		else
			j->c.done(j->c.ctx, 0, 0);
		free_job(j);
	}
	pthread_cond_destroy(&s->queued);
	ex_lock_done(&s->lock);
	free(s);
	return NULL;
}

/* Takes j, also when it fails. */
static int enqueue(struct ex_swapper *s, struct swap_job *j, struct ex_err *err)
{
	int rc = 0;
	ex_lock_take(&s->lock);
	if (atomic_load_explicit(&s->stop, memory_order_relaxed))
		rc = ex_err_set(err, -ESHUTDOWN, "the host is stopping");
	else if (s->n_waiting == EX_SWAP_QUEUE_MAX)
		rc = ex_err_set(err, -EAGAIN, "%d commands wait for the loader already", EX_SWAP_QUEUE_MAX);
	else {
		*s->last = j;
		s->last = &j->next;
		s->n_waiting++;
		pthread_cond_signal(&s->queued);
	}
	ex_lock_give(&s->lock);
	if (rc < 0)
		free_job(j);
	return rc;
}

int ex_swapper_submit(
	struct ex_swapper *s, const struct ex_swap_request *q, const struct ex_swap_client *c, struct ex_err *err)
{
	if (ex_shard_glob_check(q->glob) < 0)
		return ex_err_set(err, -EINVAL, "'%.100s' is not a glob over LAYER/RANGE, as in */E0-7", q->glob);
	struct swap_job *j = ex_calloc(1, sizeof *j);
	if (!j || (q->plugin && !(j->plugin = strdup(q->plugin)))) {
		free(j);
		return ex_err_errno(err, -ENOMEM, "cannot take the command");
	}
	j->q = *q;
	j->q.plugin = j->plugin;
	j->c = *c;
	return enqueue(s, j, err);
}

int ex_swapper_call(struct ex_swapper *s, void (*fn)(void *ctx, bool is_over), void *ctx, struct ex_err *err)
{
	struct swap_job *j = ex_calloc(1, sizeof *j);
	if (!j)
		return ex_err_errno(err, -ENOMEM, "cannot take the command");
	j->call = fn;
	j->c.ctx = ctx;
	return enqueue(s, j, err);
}

void ex_swapper_alive(struct ex_swapper *s)
{
	swap_turn(s, true);
}

void ex_swapper_when_idle(struct ex_swapper *s, void (*fn)(void *ctx), void *ctx)
{
	ex_lock_take(&s->lock);
	s->idle = fn;
	s->idle_ctx = ctx;
	ex_lock_give(&s->lock);
}

void ex_swapper_freeze(struct ex_swapper *s, const char *why)
{
	s->frozen = why;
}

void ex_swapper_set_model(struct ex_swapper *s, struct ex_weights *w, const char *model)
{
	s->o.weights = w;
	s->o.model = model;
}

uint64_t ex_swapper_turns(const struct ex_swapper *s)
{
	uint64_t now = ex_now_ns(), turn = atomic_load_explicit(&s->turn_ns, memory_order_relaxed);
	bool busy = atomic_load_explicit(&s->busy, memory_order_relaxed);
	return busy && now - turn < s->o.deadline_s * EX_NS_PER_S ? now : turn;
}
