/* SPDX-License-Identifier: Apache-2.0 */
/* `shard swap`, step by step. Layer L2. Until the publish nothing that serves is touched. */
#include "base/clock.h"
#include "base/mem.h"
#include "expert/plugin_file.h"
#include "expert/swap_int.h"
#include "expert/trial.h"
#include "expert/verify.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* A plugin on its way in; for all shards of one command. */
struct candidate {
	struct ex_swapper *s;
	struct swap_job *j;
	char sha256[EX_PLUGIN_SHA256_HEX], path[PATH_MAX]; /* of the private copy */
	bool trusted;
	struct ex_trial *trial;   /* NULL: not started, or it ended badly */
	struct ex_plugin *plugin; /* NULL: not opened here yet */
};

/* --- the plugin: copy, allow, abi, trial ----------------------------------------------------------------- */

static bool is_trusted(const struct ex_swapper *s, const char *sha256)
{
	if (strcmp(sha256, ex_plugin_sha256(s->o.plugin)) == 0)
		return true;
	for (unsigned i = 0; i < EX_MIN(s->n_trusted, (unsigned)SWAP_TRUSTED_MAX); i++)
		if (strcmp(s->trusted[i], sha256) == 0)
			return true;
	return false;
}

static void trust(struct candidate *c)
{
	if (!is_trusted(c->s, c->sha256))
		memcpy(c->s->trusted[c->s->n_trusted++ % SWAP_TRUSTED_MAX], c->sha256, sizeof c->sha256);
}

/* Reads the file once: what is checked is what is kept. */
static int take_file(struct candidate *c, enum ex_swap_step *step, struct ex_err *err)
{
	const struct ex_swapper_opts *o = &c->s->o;
	EX_CLEANUP(ex_plugin_file_done) struct ex_plugin_file f = {.n = 0};
	struct ex_err why = EX_ERR_INIT;
	const char *path = c->j->plugin, *dir = ex_published_plugins(o->published);
	*step = EX_STEP_COPY;
	int rc = ex_plugin_file_read(&f, path, err);
	if (rc < 0)
		return rc;
	memcpy(c->sha256, f.sha256, sizeof c->sha256);
	*step = EX_STEP_ALLOW;
	if (!ex_plugin_allowed(f.sha256, o->plugin_dir, o->allow, o->n_allow, &why))
		return ex_err_set(err, -EPERM,
			"sha256 %s is neither in [expert] allow_plugins nor of a plugin in '%s'%s%s", f.sha256,
			o->plugin_dir, why.code ? "; " : "", why.code ? ex_err_text(&why) : "");
	*step = EX_STEP_ABI;
	rc = ex_plugin_file_check(&f, path, err);
	if (rc < 0)
		return rc;
	*step = EX_STEP_COPY;
	rc = ex_plugin_file_keep(&f, dir, NULL);
	if (rc == 0 && (size_t)snprintf(c->path, sizeof c->path, "%s/%s.so", dir, f.sha256) >= sizeof c->path)
		rc = -ENAMETOOLONG;
	return rc < 0 ? ex_err_errno(err, rc, "cannot copy '%s' to '%s'", path, dir) : 0;
}

static bool on_alive(void *ctx)
{
	struct ex_swapper *s = ctx;
	swap_turn(s, true);
	return !atomic_load_explicit(&s->stop, memory_order_relaxed);
}

static int start_trial(struct candidate *c, struct ex_err *err)
{
	const struct ex_swapper_opts *o = &c->s->o;
	const struct ex_trial_opts t = {
		.exe = o->trial_exe,
		.plugin = c->path,
		.model = o->model,
		.which = o->which,
		.options = o->options,
		.n_options = o->n_options,
		.deadline_s = o->deadline_s,
		.alive = on_alive,
		.ctx = c->s,
	};
	if (c->trial && ex_trial_alive(c->trial))
		return 0;
	ex_trial_endp(&c->trial);
	return ex_trial_start(&t, err, &c->trial);
}

/* The suite, once for a plugin; then it is opened here as well. */
static int try_plugin(struct candidate *c, struct ex_err *err)
{
	int rc = c->trusted ? 0 : start_trial(c, err);
	return rc < 0 || c->trusted ? rc : ex_trial_check(c->trial, err);
}

/* --- one shard: trial, memory, load, verify, publish, drain ------------------------------------------------ */

struct passage {
	struct candidate *c;
	const struct ex_shard_id *id;
	struct ex_swap_report r;
	struct ex_generation *live; /* pinned; NULL: there is none */
	struct ex_samples samples;
	struct ex_generation *next; /* not published */
};

/* Memory for one more copy of the shard. What lingers goes when it stands in the way. */
static int check_memory(struct passage *p, struct ex_err *err)
{
	const struct ex_swapper_opts *o = &p->c->s->o;
	p->r.step = EX_STEP_MEMORY;
	if (ex_registry_check_memory(o->registry, p->id, o->weights, NULL) == 0)
		return 0;
	ex_registry_sweep(o->registry, UINT64_MAX);
	return ex_registry_check_memory(o->registry, p->id, o->weights, err);
}

/* The same batches in the child first, if the plugin never ran here. */
static int try_shard(struct passage *p, struct ex_err *err)
{
	struct candidate *c = p->c;
	struct ex_verdict v;
	p->r.step = EX_STEP_TRIAL;
	if (c->trusted)
		return 0;
	int rc = start_trial(c, err);
	if (rc == 0)
		rc = ex_trial_shard(
			c->trial, p->id, p->samples.batch, p->samples.n, p->samples.d_model, p->samples.got, err);
	return rc < 0 ? rc : ex_samples_compare(&p->samples, c->j->q.tolerance, err, &v);
}

static int open_plugin(struct candidate *c, struct ex_err *err)
{
	const struct ex_loader_opts lo = {
		.dir = c->s->o.plugin_dir, .private_dir = ex_published_plugins(c->s->o.published)};
	if (c->plugin)
		return 0;
	struct ex_plugin *loaded = ex_registry_plugin(c->s->o.registry, c->sha256);
	if (!loaded && strcmp(c->sha256, ex_plugin_sha256(c->s->o.plugin)) == 0)
		loaded = c->s->o.plugin;
	if (loaded) {
		c->plugin = ex_plugin_ref(loaded);
		return 0;
	}
	int rc = ex_plugin_open(&lo, c->path, err, &c->plugin);
	if (rc == 0 && strcmp(ex_plugin_sha256(c->plugin), c->sha256) != 0) {
		ex_plugin_unrefp(&c->plugin);
		rc = ex_err_set(err, -ESTALE, "'%s' changed since it was checked", c->path);
	}
	return rc;
}

static int load_beside(struct passage *p, struct ex_err *err)
{
	const struct ex_swapper_opts *o = &p->c->s->o;
	p->r.step = EX_STEP_LOAD;
	int rc = open_plugin(p->c, err);
	if (rc == 0)
		rc = ex_registry_prepare(
			o->registry, p->id, p->c->plugin, o->host, o->which, o->weights, err, &p->next);
	if (rc == -ENOMEM)
		p->r.step = EX_STEP_MEMORY;
	if (rc == 0)
		snprintf(p->r.plugin, sizeof p->r.plugin, "%s", ex_generation_plugin(p->next));
	return rc;
}

/* A token's bits hang on the batch that it is in, unless a plugin says that they do not: then nothing seen on some batches holds for others. */
static bool stays_invariant(const struct passage *p)
{
	const uint64_t flag = EXPERTD_BATCH_INVARIANT;
	return ex_plugin_table(ex_generation_code(p->live))->flags &
	       ex_plugin_table(ex_generation_code(p->next))->flags & flag;
}

static int verify(struct passage *p, struct ex_err *err)
{
	struct ex_verdict v = {.exact = false};
	p->r.step = EX_STEP_VERIFY;
	int rc = ex_samples_got(&p->samples, p->next, err);
	if (rc == 0)
		rc = ex_samples_compare(&p->samples, p->c->j->q.tolerance, err, &v);
	if (rc < 0)
		return rc;
	p->r.n_batches = p->samples.want ? (uint32_t)p->samples.n : 0;
	p->r.synthetic = p->samples.synthetic;
	p->r.exact = v.exact;
	p->r.worst = v.worst;
	if (v.exact && stays_invariant(p))
		ex_generation_set_identity(p->next, ex_generation_identity_text(p->live));
	return 0;
}

static int publish(struct passage *p, struct ex_err *err)
{
	struct ex_swapper *s = p->c->s;
	p->r.step = EX_STEP_PUBLISH;
	int rc = swap_publish_entry(s, p->next, err);
	if (rc < 0)
		return rc;
	p->r.generation = ex_registry_publish(EX_TAKE(p->next), swap_linger_until(s));
	ex_generation_unpin(EX_TAKE(p->live)); /* our own pin is not to be waited for */
	trust(p->c);
	uint64_t start_ns = ex_now_ns();
	p->r.step = EX_STEP_DRAIN;
	ex_registry_settle(s->o.registry, p->id);
	p->r.drain_ns = ex_now_ns() - start_ns;
	p->r.step = EX_STEP_DONE;
	return 0;
}

/* What the live generation computes on the batches that the next one will be tried on. */
static int take_samples(struct passage *p, struct ex_err *err)
{
	const struct ex_swapper_opts *o = &p->c->s->o;
	p->r.step = EX_STEP_VERIFY;
	int rc = ex_samples_take(&p->samples, o->registry, p->id, p->c->j->q.n_verify, err);
	return rc == 0 && p->live ? ex_samples_want(&p->samples, o->executor, p->live, err) : rc;
}

static void pass(struct candidate *c, const struct ex_shard_id *id)
{
	static int (*const steps[])(struct passage *, struct ex_err *) = {
		check_memory, take_samples, try_shard, load_beside, verify, publish};
	struct ex_err err = EX_ERR_INIT;
	struct passage p = {
		.c = c, .id = id, .r = {.action = EX_SWAP_SWAP}, .samples = {.alive = on_alive, .ctx = c->s}};
	p.live = ex_registry_pin(c->s->o.registry, id->layer, id->first_expert);
	ex_shard_name(id, p.r.shard);
	memcpy(p.r.sha256, c->sha256, sizeof p.r.sha256);
	p.r.before = p.live ? ex_generation_number(p.live) : 0;
	int rc = 0;
	for (size_t i = 0; i < EX_ARRAY_LEN(steps) && rc == 0; i++) {
		swap_turn(c->s, true);
		rc = steps[i](&p, &err);
	}
	if (rc < 0)
		swap_fail(c->s, c->j, &p.r, &err);
	else
		swap_tell(c->s, c->j, &p.r);
	p.next = ex_registry_discard(p.next);
	ex_generation_unpin(p.live);
	ex_samples_done(&p.samples);
}

/* --- the command ----------------------------------------------------------------------------------------- */

void swap_run(struct ex_swapper *s, struct swap_job *j, const struct ex_shard_id *ids, size_t n)
{
	struct candidate c = {.s = s, .j = j};
	struct ex_swap_report r = {.action = EX_SWAP_SWAP};
	struct ex_err err = EX_ERR_INIT;
	int rc = take_file(&c, &r.step, &err);
	if (s->o.started)
		s->o.started(s->o.ctx, &j->q, n, c.sha256);
	if (rc == 0) {
		swap_turn(s, true);
		c.trusted = is_trusted(s, c.sha256);
		r.step = EX_STEP_TRIAL;
		rc = try_plugin(&c, &err);
	}
	if (rc < 0) {
		snprintf(r.shard, sizeof r.shard, "%s", j->q.glob);
		memcpy(r.sha256, c.sha256, sizeof r.sha256);
		swap_fail(s, j, &r, &err);
	}
	for (size_t i = 0; i < n && rc == 0 && !swap_is_over(s, j); i++)
		pass(&c, &ids[i]);
	ex_trial_endp(&c.trial);
	ex_plugin_unrefp(&c.plugin);
}
