/* SPDX-License-Identifier: Apache-2.0 */
/* The fleet over to another model: the router's thread that drives a switch. Layer L5.
 *
 * Nothing that serves is touched before the decision: the next model is opened here, prepared on every host, and all of its shards must have a
 * ready holder. The decision is STATE/model on the router's disk. After it there is no way back: the engine serves the next model, and when no
 * request uses the one before, hosts are told to commit. The same thread brings over, for ever, hosts that missed some of that. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/model_calls.h"
#include "model/shape.h"
#include <stdio.h>
#include <string.h>

#define LOOK_NS             EX_NS_PER_S /* at hosts that are to be brought over, this often */
#define SLICE_MS            200
#define COVER_MORE_MS       10000 /* beyond two tries to connect */
#define CALL_MS             10000
#define COMMIT_NS           (5 * EX_NS_PER_S) /* for the streams of the model before to end on hosts */
#define TOKENIZER_BYTES_MAX ((size_t)256 << 20)
#define MOVER_WAITS         "a switch to another model is under way: shards are not moved until it is over"

struct ex_switcher {
	struct ex_house *h;
	pthread_t thread;
	struct ex_lock lock;
	pthread_cond_t wake;
	/* guarded by lock */
	bool stopping, asked, busy, retired;
	char dir[PATH_MAX];
	bool move;
	struct ex_switch_client c;
	char trouble[512]; /* last told of a host that cannot be brought over [switcher] */
};

static bool is_stopping(struct ex_switcher *s)
{
	ex_lock_take(&s->lock);
	bool stopping = s->stopping;
	ex_lock_give(&s->lock);
	return stopping;
}

EX_PRINTF(5, 6)
static void report(struct ex_switcher *s, const char *step, const char *host, bool failed, const char *fmt, ...)
{
	struct ex_switch_report r = {.step = step, .failed = failed};
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(r.text, sizeof r.text, fmt, ap);
	va_end(ap);
	snprintf(r.host, sizeof r.host, "%s", host);
	s->c.report(s->c.ctx, &r);
}

/* --- the hosts ------------------------------------------------------------------------------------------- */

struct hosts {
	struct ex_model_host *v;   /* [n] */
	struct ex_host_view *view; /* [n] */
	size_t n, cap, view_cap;
	bool oom;
};

static void add_host(void *ctx, const struct ex_host_view *v)
{
	struct hosts *l = ctx;
	if (v->local || l->oom)
		return;
	if (ex_grow(&l->v, &l->cap, l->n + 1, sizeof *l->v) < 0 ||
		ex_grow(&l->view, &l->view_cap, l->n + 1, sizeof *l->view) < 0) {
		l->oom = true;
		return;
	}
	struct ex_model_host *m = &l->v[l->n];
	*m = (struct ex_model_host){.rc = 0};
	memcpy(m->name, v->name, sizeof m->name);
	memcpy(m->address, v->address, sizeof m->address);
	l->view[l->n++] = *v;
}

static void hosts_done(struct hosts *l)
{
	free(l->v);
	free(l->view);
}

static int list_hosts(struct ex_dispatch *d, struct ex_err *err, struct hosts *ret)
{
	ex_dispatch_each_host(d, add_host, ret);
	return ret->oom ? ex_err_errno(err, -ENOMEM, "cannot list the hosts") : 0;
}

static struct ex_model_calls calls_for(struct ex_switcher *s, const struct ex_house_model *m, uint64_t decided_us)
{
	return (struct ex_model_calls){
		.loop = s->h->loop_control,
		.tls = s->h->tls,
		.node = s->h->p->node_name,
		.dir = m->dir,
		.digest = ex_weights_digest(m->weights),
		.n_groups = s->h->n_groups,
		.decided_us = decided_us,
		.timeout_ms = CALL_MS,
	};
}

/* --- before the decision --------------------------------------------------------------------------------- */

/* A switch on its way. */
struct passage {
	struct ex_switcher *s;
	struct ex_house_model *next;
	struct hosts hosts;
	const char *step;
	char host[64];  /* that failed */
	bool has_fleet; /* the mover is suspended */
};

static bool go_on(void *ctx)
{
	const struct passage *p = ctx;
	return !is_stopping(p->s) && !p->s->c.gone(p->s->c.ctx);
}

static int check_go_on(struct passage *p, struct ex_err *err)
{
	return go_on(p) ? 0 : ex_err_set(err, -ECANCELED, "it was given up by whoever asked for it");
}

/* Tokens of requests that go over mean the same for both. */
static int check_tokenizer(const char *a, const char *b, struct ex_err *err)
{
	char path[2][PATH_MAX];
	EX_CLEANUP(ex_freep) char *first = NULL;
	EX_CLEANUP(ex_freep) char *second = NULL;
	size_t n[2];
	if ((size_t)snprintf(path[0], sizeof path[0], "%s/tokenizer.json", a) >= sizeof path[0] ||
		(size_t)snprintf(path[1], sizeof path[1], "%s/tokenizer.json", b) >= sizeof path[1])
		return ex_err_errno(err, -ENAMETOOLONG, "cannot compare the tokenizers");
	int rc = ex_read_file(path[0], TOKENIZER_BYTES_MAX, err, &first, &n[0]);
	if (rc == 0)
		rc = ex_read_file(path[1], TOKENIZER_BYTES_MAX, err, &second, &n[1]);
	if (rc == 0 && (n[0] != n[1] || memcmp(first, second, n[0]) != 0))
		rc = ex_err_set(err, -EINVAL,
			"'%s' and '%s' differ: running requests cannot go over, but can end where they are (--pin)",
			path[0], path[1]);
	return rc;
}

/* Answers that are held to JSON end where their vocabulary says. */
static int check_ends(const struct ex_model_config *a, const struct ex_model_config *b, struct ex_err *err)
{
	if (a->n_eos == b->n_eos && memcmp(a->eos_id, b->eos_id, a->n_eos * sizeof *a->eos_id) == 0)
		return 0;
	return ex_err_set(err, -EINVAL,
		"eos_token_id differs: running requests cannot go over, but can end where they are (--pin)");
}

/* No plan moves shards meanwhile: what is prepared is what hosts hold now. */
static int take_fleet(struct passage *p, struct ex_err *err)
{
	int rc = ex_mover_suspend(p->s->h->mover, MOVER_WAITS, err);
	p->has_fleet = rc == 0;
	return rc;
}

static void give_fleet(struct passage *p)
{
	const struct ex_house_model *m = p->s->h->model;
	if (p->has_fleet)
		ex_mover_resume(p->s->h->mover, m->dispatch, ex_weights_digest(m->weights));
}

static int open_next(struct passage *p, struct ex_err *err)
{
	struct ex_house *h = p->s->h;
	const char *dir = p->s->dir;
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = NULL;
	int rc = take_fleet(p, err);
	if (rc == 0)
		rc = ex_weights_open(dir, err, &w);
	if (rc < 0)
		return rc;
	if (strcmp(ex_weights_digest(w), ex_weights_digest(h->model->weights)) == 0)
		return ex_err_set(
			err, -EALREADY, "'%s' (%.12s) is the model that is served", dir, ex_weights_digest(w));
	rc = ex_model_same_shape(ex_weights_config(h->model->weights), ex_weights_config(w), err);
	if (rc < 0)
		return ex_err_prefix(err, "'%s'", dir);
	if (p->s->move)
		rc = check_ends(ex_weights_config(h->model->weights), ex_weights_config(w), err);
	if (p->s->move && rc == 0)
		rc = check_tokenizer(h->model->dir, dir, err);
	if (rc == 0)
		rc = ex_house_open_model(h, dir, EX_TAKE(w), err, &p->next);
	if (rc < 0)
		return rc;
	atomic_store_explicit(&p->next->quiet, true, memory_order_relaxed);
	report(p->s, p->step, "", false, "digest %.12s", ex_weights_digest(p->next->weights));
	return 0;
}

static void on_progress(void *ctx, const struct ex_model_host *m, bool ended)
{
	struct passage *p = ctx;
	struct ex_switch_report r = {.step = p->step, .done = m->done, .total = m->total, .failed = ended && m->rc < 0};
	snprintf(r.host, sizeof r.host, "%s", m->name);
	if (ended)
		snprintf(r.text, sizeof r.text, "%s", m->rc < 0 ? ex_err_text(&m->err) : "prepared");
	if (!r.failed) /* those are told once, at the end */
		p->s->c.report(p->s->c.ctx, &r);
}

/* Hosts that were down before may stay out, when others hold their shards: the next step looks. */
static bool may_miss(const struct hosts *l, size_t i)
{
	enum ex_host_state s = l->view[i].state;
	return s == EX_HOST_DOWN || s == EX_HOST_JOINING;
}

static int prepare(struct passage *p, struct ex_err *err)
{
	const struct ex_model_calls c = calls_for(p->s, p->next, 0);
	int rc = list_hosts(p->s->h->model->dispatch, err, &p->hosts);
	if (rc == 0)
		rc = ex_house_local_model(p->s->h, &c, EX_LOCAL_PREPARE, err);
	if (rc < 0)
		return rc;
	ex_models_prepare(&c, p->hosts.v, p->hosts.n, on_progress, go_on, p);
	rc = check_go_on(p, err);
	for (size_t i = 0; rc == 0 && i < p->hosts.n; i++) {
		const struct ex_model_host *m = &p->hosts.v[i];
		if (m->rc == 0 || may_miss(&p->hosts, i))
			continue;
		rc = m->rc;
		*err = m->err;
		snprintf(p->host, sizeof p->host, "%s", m->name);
	}
	return rc;
}

/* The next model's dispatch, over the hosts that there are; set while nobody adds any. */
static int make_dispatch(struct passage *p, struct ex_err *err)
{
	struct ex_house *h = p->s->h;
	EX_CLEANUP(hosts_done) struct hosts now = {.n = 0};
	ex_lock_take(&h->models_lock);
	int rc = list_hosts(h->model->dispatch, err, &now);
	EX_CLEANUP(ex_freep) const char **peers = ex_calloc(now.n, sizeof *peers);
	for (size_t i = 0; peers && i < now.n; i++)
		peers[i] = now.v[i].address;
	if (rc == 0 && !peers)
		rc = ex_err_errno(err, -ENOMEM, "cannot list the hosts");
	if (rc == 0)
		rc = ex_house_open_dispatch(p->next, peers, now.n, err);
	if (rc == 0)
		h->next = p->next;
	ex_lock_give(&h->models_lock);
	return rc;
}

static int cover(struct passage *p, struct ex_err *err)
{
	struct ex_err missing = EX_ERR_INIT;
	int rc = make_dispatch(p, err);
	if (rc < 0)
		return rc;
	uint64_t until = ex_now_ns() + (2 * p->s->h->p->router_connect_ms + COVER_MORE_MS) * EX_NS_PER_MS;
	while (!ex_dispatch_wait_covered(p->next->dispatch, SLICE_MS, &missing)) {
		rc = check_go_on(p, err);
		if (rc < 0)
			return rc;
		if (ex_now_ns() >= until)
			return ex_err_set(err, -EHOSTUNREACH, "not every shard of the next model has a host: %s",
				ex_err_text(&missing));
	}
	/* what operators took out of use stays so */
	for (size_t i = 0; i < p->hosts.n; i++) {
		struct ex_err none = EX_ERR_INIT;
		uint32_t n_alone;
		if (p->hosts.view[i].drained)
			(void)ex_dispatch_drain(p->next->dispatch, p->hosts.v[i].name, true, true, &none, &n_alone);
	}
	return check_go_on(p, err);
}

/* --- the decision ---------------------------------------------------------------------------------------- */

static void on_retired(void *ctx)
{
	struct ex_switcher *s = ctx;
	ex_lock_take(&s->lock);
	s->retired = true;
	pthread_cond_signal(&s->wake);
	ex_lock_give(&s->lock);
}

static int decide(struct passage *p, struct ex_err *err)
{
	struct ex_house *h = p->s->h;
	struct ex_choice c = {.decided_us = EX_MAX(ex_realtime_us(), h->choice.decided_us + 1)};
	const struct ex_model_calls calls = calls_for(p->s, p->next, c.decided_us);
	snprintf(c.dir, sizeof c.dir, "%s", p->next->dir);
	snprintf(c.digest, sizeof c.digest, "%s", ex_weights_digest(p->next->weights));
	int rc = ex_house_local_model(p->s->h, &calls, EX_LOCAL_DECIDE, err);
	if (rc == 0)
		rc = ex_choice_write(h->p->node_state, h->p->model_path, &c, err);
	if (rc == 0)
		h->choice = c;
	return rc;
}

static void undecide(struct ex_house *h, const struct ex_choice *before)
{
	struct ex_err err = EX_ERR_INIT;
	h->choice = *before;
	if (ex_choice_write(h->p->node_state, h->p->model_path, before, &err) < 0)
		ex_log(LOG_ERR, "the next start will come up with the model that was given up: %s", ex_err_text(&err));
}

static int turn(struct passage *p, struct ex_err *err)
{
	struct ex_house *h = p->s->h;
	const struct ex_engine_model m = {
		.trunk = p->next->trunk,
		.dispatch = p->next->dispatch,
		.config = ex_weights_config(p->next->weights),
		.tokenizer = p->next->tokenizer,
		.chat = p->next->chat,
		.user = p->next->edge,
		.move = p->s->move,
		.retired = on_retired,
		.ctx = p->s,
	};
	const struct ex_choice before = h->choice;
	int rc = decide(p, err);
	if (rc < 0)
		return rc;
	p->s->retired = false; /* the engine knows nothing of it yet */
	rc = ex_engine_switch(h->engine, &m, err);
	if (rc < 0) { /* memory is out, or the process stops */
		undecide(h, &before);
		return rc;
	}
	ex_lock_take(&h->models_lock);
	h->before = h->model;
	h->model = p->next;
	h->next = NULL;
	ex_lock_give(&h->models_lock);
	atomic_store_explicit(&h->before->quiet, true, memory_order_relaxed);
	atomic_store_explicit(&h->model->quiet, false, memory_order_relaxed);
	ex_house_show(h);
	ex_event(EX_EV_MODEL_SWITCHED,
		EX_FIELDS({"EX_MODEL", h->model->dir}, {"EX_DIGEST", ex_weights_digest(h->model->weights)}),
		"switched from '%s' (%.12s) to '%s' (%.12s); requests that were taken before %s", h->before->dir,
		ex_weights_digest(h->before->weights), h->model->dir, ex_weights_digest(h->model->weights),
		p->s->move ? "go over" : "end with the model before");
	report(p->s, p->step, "", false, "new requests are answered by %.12s", ex_weights_digest(h->model->weights));
	return 0;
}

/* Everything as it was. Streams of the next model end first, so that hosts may drop it. */
static void give_up(struct passage *p, const struct ex_err *why)
{
	struct ex_house *h = p->s->h;
	struct ex_err err = EX_ERR_INIT;
	const char *host = *p->host ? p->host : h->p->node_name;
	ex_event(EX_EV_MODEL_ABORTED, EX_FIELDS({"EX_MODEL", p->s->dir}, {"EX_STEP", p->step}, {"EX_HOST", host}),
		"the switch to '%s' was given up at step %s on %s: %s; '%s' serves on", p->s->dir, p->step, host,
		ex_err_text(why), h->model->dir);
	ex_lock_take(&h->models_lock);
	h->next = NULL;
	ex_lock_give(&h->models_lock);
	if (p->next && p->next->dispatch)
		p->next->dispatch = ex_dispatch_free(p->next->dispatch);
	for (size_t i = 0; p->next && i < p->hosts.n; i++) {
		const struct ex_model_calls c = calls_for(p->s, p->next, 0);
		if (p->hosts.v[i].rc == 0 && ex_models_drop(&c, p->hosts.v[i].address, &err) < 0)
			ex_log(LOG_NOTICE, "host %s has not dropped '%s' (it will, in ten minutes): %s",
				p->hosts.v[i].name, p->s->dir, ex_err_text(&err));
	}
	if (p->next) {
		const struct ex_model_calls c = calls_for(p->s, p->next, 0);
		if (ex_house_local_model(p->s->h, &c, EX_LOCAL_DROP, &err) < 0)
			ex_log(LOG_NOTICE, "'%s' is not dropped here: %s", p->s->dir, ex_err_text(&err));
	}
	ex_house_close_model(p->next);
	report(p->s, p->step, p->host, true, "%s; '%s' serves on", ex_err_text(why), h->model->dir);
}

/* --- after it -------------------------------------------------------------------------------------------- */

/* Waits until no request uses the model before, and unloads it. False: the process stops first. */
static bool retire(struct ex_switcher *s)
{
	struct ex_house *h = s->h;
	ex_lock_take(&s->lock);
	while (!s->retired && !s->stopping)
		ex_cond_wait_until(&s->wake, &s->lock, ex_now_ns() + LOOK_NS);
	bool retired = s->retired;
	ex_lock_give(&s->lock);
	if (!retired)
		return false;
	ex_lock_take(&h->models_lock);
	struct ex_house_model *gone = EX_TAKE(h->before);
	ex_lock_give(&h->models_lock);
	ex_event(EX_EV_MODEL_RETIRED,
		EX_FIELDS({"EX_MODEL", gone->dir}, {"EX_DIGEST", ex_weights_digest(gone->weights)}),
		"no request uses '%s' (%.12s) any more", gone->dir, ex_weights_digest(gone->weights));
	report(s, "retire", "", false, "no request uses %.12s any more", ex_weights_digest(gone->weights));
	ex_house_close_model(gone);
	return true;
}

/* Tells hosts to commit, all that are up or those that have not. Returns how many are left that cannot yet. told: a switch is under way, and
 * reported. */
static size_t commit_all(struct ex_switcher *s, bool all, bool told)
{
	EX_CLEANUP(hosts_done) struct hosts l = {.n = 0};
	struct ex_err err = EX_ERR_INIT;
	const struct ex_model_calls c = calls_for(s, s->h->model, s->h->choice.decided_us);
	size_t n_left = ex_house_local_model(s->h, &c, EX_LOCAL_COMMIT, &err) < 0;
	if (list_hosts(s->h->model->dispatch, &err, &l) < 0)
		return 1;
	for (size_t i = 0; i < l.n && !is_stopping(s); i++) {
		struct ex_err why = EX_ERR_INIT;
		if (!l.view[i].behind && !(all && !may_miss(&l, i)))
			continue;
		int rc = ex_models_commit(&c, l.v[i].address, &why);
		n_left += rc < 0;
		if (rc == 0 && told)
			report(s, "commit", l.v[i].name, false, "committed");
	}
	return n_left;
}

static void report_left(struct ex_switcher *s)
{
	EX_CLEANUP(hosts_done) struct hosts l = {.n = 0};
	struct ex_err err = EX_ERR_INIT;
	const struct ex_model_calls c = calls_for(s, s->h->model, s->h->choice.decided_us);
	if (list_hosts(s->h->model->dispatch, &err, &l) < 0)
		return;
	for (size_t i = 0; i < l.n; i++) {
		struct ex_err why = EX_ERR_INIT;
		if (l.view[i].behind && ex_models_commit(&c, l.v[i].address, &why) < 0)
			report(s, "commit", l.v[i].name, true, "%s; it is asked again", ex_err_text(&why));
		else if (l.view[i].state == EX_HOST_DOWN || l.view[i].state == EX_HOST_JOINING)
			report(s, "commit", l.v[i].name, true, "it is down, and is brought over when it comes back");
	}
}

static void commit(struct ex_switcher *s)
{
	uint64_t until = ex_now_ns() + COMMIT_NS;
	for (bool all = true; commit_all(s, all, true) && ex_now_ns() < until && !is_stopping(s); all = false) {
		ex_lock_take(&s->lock);
		if (!s->stopping)
			ex_cond_wait_until(&s->wake, &s->lock, ex_now_ns() + SLICE_MS * EX_NS_PER_MS);
		ex_lock_give(&s->lock);
	}
	if (!is_stopping(s))
		report_left(s);
}

static bool is_running(void *ctx)
{
	return !is_stopping(ctx);
}

static void tell_trouble(struct ex_switcher *s, const struct ex_model_host *m)
{
	char text[sizeof s->trouble];
	snprintf(text, sizeof text, "expert host %.63s cannot be brought over to '%.200s': %.180s", m->name,
		s->h->model->dir, ex_err_text(&m->err));
	if (strcmp(text, s->trouble) != 0)
		ex_log(LOG_WARNING, "%s", text);
	memcpy(s->trouble, text, sizeof text);
}

/* Hosts that came back with another model, or missed the end. Only after a switch: without one, what hosts and router are configured
 * to serve is the operator's to bring together. */
static void bring_over(struct ex_switcher *s)
{
	EX_CLEANUP(hosts_done) struct hosts l = {.n = 0};
	struct ex_err err = EX_ERR_INIT;
	size_t n = 0;
	if (!s->h->choice.decided_us || list_hosts(s->h->model->dispatch, &err, &l) < 0)
		return;
	const struct ex_model_calls c = calls_for(s, s->h->model, s->h->choice.decided_us);
	commit_all(s, false, false);
	for (size_t i = 0; i < l.n; i++)
		if (l.view[i].refused)
			l.v[n++] = l.v[i];
	ex_models_prepare(&c, l.v, n, NULL, is_running, s);
	for (size_t i = 0; i < n; i++)
		if (l.v[i].rc < 0)
			tell_trouble(s, &l.v[i]);
}

/* --- the thread ------------------------------------------------------------------------------------------ */

static void run_switch(struct ex_switcher *s)
{
	static const struct {
		const char *step;
		int (*run)(struct passage *p, struct ex_err *err);
	} way[] = {{"open", open_next}, {"prepare", prepare}, {"cover", cover}, {"switch", turn}};
	struct passage p = {.s = s};
	struct ex_err err = EX_ERR_INIT;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < EX_ARRAY_LEN(way); i++) {
		p.step = way[i].step;
		rc = check_go_on(&p, &err);
		if (rc == 0)
			rc = way[i].run(&p, &err);
	}
	if (rc < 0)
		give_up(&p, &err);
	else if (retire(s))
		commit(s);
	give_fleet(&p);
	hosts_done(&p.hosts);
	s->c.done(s->c.ctx, rc == 0);
}

static void *switcher_main(void *arg)
{
	struct ex_switcher *s = arg;
	pthread_setname_np(pthread_self(), "switcher");
	ex_lock_take(&s->lock);
	while (!s->stopping) {
		if (!s->asked)
			ex_cond_wait_until(&s->wake, &s->lock, ex_now_ns() + LOOK_NS);
		bool asked = s->asked, stopping = s->stopping;
		s->asked = false;
		ex_lock_give(&s->lock);
		if (asked)
			run_switch(s);
		else if (!stopping)
			bring_over(s);
		ex_lock_take(&s->lock);
		s->busy &= !asked;
	}
	ex_lock_give(&s->lock);
	return NULL;
}

int ex_house_switch_model(void *house, const char *dir, bool move, const struct ex_switch_client *c, struct ex_err *err)
{
	struct ex_house *h = house;
	int rc = 0;
	if (!h->covered_once)
		return ex_err_set(err, -ENOTCONN, "the model cannot be switched while the node is starting");
	struct ex_switcher *s = h->switcher;
	if (strlen(dir) >= sizeof s->dir)
		return ex_err_errno(err, -ENAMETOOLONG, "cannot switch");
	ex_lock_take(&s->lock);
	if (s->stopping)
		rc = ex_err_set(err, -ESHUTDOWN, "the node is stopping");
	else if (s->busy)
		rc = ex_err_set(err, -EBUSY, "a switch to '%s' is not over", s->dir);
	else {
		strcpy(s->dir, dir);
		s->move = move;
		s->c = *c;
		s->asked = s->busy = true;
		pthread_cond_signal(&s->wake);
	}
	ex_lock_give(&s->lock);
	return rc;
}

void ex_house_view_model(void *house, struct ex_switch_view *ret)
{
	struct ex_house *h = house;
	*ret = (struct ex_switch_view){.path = ""};
	ex_lock_take(&h->models_lock);
	const char *dir = h->model ? h->model->dir : *h->expert_dir ? h->expert_dir : h->model_dir;
	snprintf(ret->path, sizeof ret->path, "%s", *dir ? dir : h->p->model_path);
	if (h->next) {
		snprintf(ret->next_path, sizeof ret->next_path, "%s", h->next->dir);
		snprintf(ret->next_digest, sizeof ret->next_digest, "%s", ex_weights_digest(h->next->weights));
	}
	if (h->before)
		snprintf(ret->before_digest, sizeof ret->before_digest, "%s", ex_weights_digest(h->before->weights));
	ex_lock_give(&h->models_lock);
	struct ex_epochs *e = atomic_load_explicit(&h->epochs_shown, memory_order_acquire);
	if (e && !ex_config_is_router(h->p))
		ex_epochs_next(e, ret->next_path, ret->next_digest);
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_house_build_switcher(struct ex_house *h, struct ex_err *err)
{
	struct ex_switcher *s = ex_calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "cannot start the switcher");
	s->h = h;
	ex_lock_init(&s->lock, "switcher");
	ex_cond_init(&s->wake);
	int rc = -pthread_create(&s->thread, NULL, switcher_main, s);
	if (rc < 0) {
		pthread_cond_destroy(&s->wake);
		ex_lock_done(&s->lock);
		free(s);
		return ex_err_errno(err, rc, "cannot start the switcher");
	}
	h->switcher = s;
	return 0;
}

void ex_house_stop_switcher(struct ex_house *h)
{
	struct ex_switcher *s = h->switcher;
	if (!s)
		return;
	ex_lock_take(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->wake);
	ex_lock_give(&s->lock);
	pthread_join(s->thread, NULL);
	if (s->asked)
		s->c.done(s->c.ctx, false);
	pthread_cond_destroy(&s->wake);
	ex_lock_done(&s->lock);
	free(s);
	h->switcher = NULL;
}
