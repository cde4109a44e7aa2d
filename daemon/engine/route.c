/* SPDX-License-Identifier: Apache-2.0 */
/* Whom to ask for a shard, whom next when that fails, and for how long. Layer L3. [step]
 *
 * A job is OPEN until somebody is asked, OUT until the first answer; whoever was asked for it in this begin is not asked
 * again before all others were. With nobody left it is held, and those that failed get another chance every RETRY_NS. */
#include "engine/fabric.h"

#include <stdio.h>
#include <string.h>

#define LOOK_NS  (500 * EX_NS_PER_MS) /* a step that waits for a host shows that often that it lives */
#define RETRY_NS (100 * EX_NS_PER_MS)
#define LATE_P99 8           /* times the 99th percentile of a host's replies */
#define CHECK_NS EX_NS_PER_S /* after the begin: a check that is not answered by then is given up */

/* Ranks of holders: a lower one is asked first. */
enum rank { RANK_READY, RANK_LESS, RANK_LAST, RANK_NONE };

/* --- choosing, under d->lock ----------------------------------------------------------------------------- */

static enum rank rank_of(const struct ex_dispatch *d, const struct fleet_host *h, size_t slot, uint64_t now)
{
	uint64_t in_use = d->identity[slot];
	if (!ex_host_usable(h) || !h->identity[slot])
		return RANK_NONE;
	if (in_use && h->identity[slot] != in_use)
		return d->o.failover == EX_FAILOVER_ANY ? RANK_LAST : RANK_NONE;
	return h->state == EX_HOST_READY && !h->drained && !h->distrusted && !ex_host_flaps(h, now) ? RANK_READY
												    : RANK_LESS;
}

/* When h would answer n_rows more: its usual time, stretched by what it was given in this begin and what waits there. */
static double expected_ns(const struct fleet_host *h, uint32_t n_given, uint32_t n_rows)
{
	double rows = (double)n_given + n_rows + h->queued;
	return (double)h->reply_ns * (1 + rows / (h->frame_rows + 1.0));
}

/* The usable holder that will probably answer first, of those that were not asked, whose rank is at most worst and whose
 * numeric identity is the one wanted (0: any); NULL: none. */
static struct fleet_host *choose(
	struct ex_dispatch *d, const struct shard_job *j, enum rank worst, uint64_t wanted, uint64_t now)
{
	size_t slot = ex_dispatch_slot(d, d->layer, j->s->group);
	struct fleet_host *best = NULL;
	enum rank best_rank = RANK_NONE;
	double best_ns = 0;
	for (size_t p = 0; (p = ex_next_holder(d, slot, j->asked, p)) < EX_FLEET_HOSTS_MAX; p++) {
		struct fleet_host *h = &d->hosts[p];
		enum rank rank = rank_of(d, h, slot, now);
		if (rank > worst || rank > best_rank || rank == RANK_NONE || (wanted && h->identity[slot] != wanted))
			continue;
		double ns = expected_ns(h, d->aimed[p].n_rows, j->s->n_rows);
		if (rank < best_rank || ns < best_ns) {
			best = h;
			best_rank = rank;
			best_ns = ns;
		}
	}
	return best;
}

static void aim(struct ex_dispatch *d, struct shard_job *j, struct fleet_host *h)
{
	struct aimed *a = &d->aimed[h - d->hosts];
	j->target = h;
	a->n_rows += j->s->n_rows;
	ex_bit_set(a->jobs, (size_t)(j - d->jobs));
}

/* The generation of this process that holds the shard and fits the identity in use. */
static uint64_t local_identity(const struct ex_dispatch *d, const struct shard_job *j)
{
	if (!d->o.local || j->local_failed)
		return 0;
	struct ex_generation *g = ex_registry_pin_epoch(d->o.registry, d->o.epoch, d->layer, j->s->first_expert);
	if (!g)
		return 0;
	uint64_t identity = ex_generation_identity(g);
	uint64_t in_use = d->identity[ex_dispatch_slot(d, d->layer, j->s->group)];
	ex_generation_unpin(g);
	return !in_use || in_use == identity || d->o.failover == EX_FAILOVER_ANY ? identity : 0;
}

/* Finds another one for a check than who was asked for its job. Not later: what cannot be checked at once is not. */
static bool aim_check(struct ex_dispatch *d, struct shard_job *j, uint64_t now)
{
	if (j->check_of->target)
		ex_bit_set(j->asked, (size_t)(j->check_of->target - d->hosts));
	const bool wanted = j->check_of->identity && j->status == -EHOSTUNREACH && now - d->begin_ns < CHECK_NS;
	struct fleet_host *h = wanted ? choose(d, j, RANK_READY, j->check_of->identity, now) : NULL;
	j->identity = j->check_of->identity;
	if (h)
		aim(d, j, h);
	else
		j->state = JOB_FAILED;
	return h != NULL;
}

/* Finds somebody for an open job: this process before others. */
static bool aim_open(struct ex_dispatch *d, struct shard_job *j, uint64_t now)
{
	if (j->check_of)
		return aim_check(d, j, now);
	size_t slot = ex_dispatch_slot(d, d->layer, j->s->group);
	uint64_t identity = local_identity(d, j);
	j->local = identity != 0;
	if (!j->local) {
		struct fleet_host *h = choose(d, j, RANK_LAST, 0, now);
		if (!h)
			return false;
		identity = h->identity[slot];
		aim(d, j, h);
	}
	j->identity = identity;
	return true;
}

/* --- a second host for what the first one is late with, under d->lock ------------------------------------- */

static bool within_budget(const struct ex_dispatch *d, uint32_t n_rows)
{
	return (d->rows_hedged + n_rows) * 100 <= d->rows_budget * d->o.hedge_budget_percent;
}

/* A host that is silent, or later than it ever is: not a matter of budget. */
static uint64_t late_at(const struct ex_dispatch *d, const struct out_frame *f)
{
	if (f->host->state == EX_HOST_SUSPECT)
		return 0;
	return f->sent_ns + EX_MAX(d->o.late_ms * EX_NS_PER_MS, LATE_P99 * f->host->p99_ns);
}

/* When the frame's rows are to be asked for elsewhere, though its host may still answer; UINT64_MAX: never. */
static uint64_t hedge_at(const struct ex_dispatch *d, const struct out_frame *f)
{
	uint64_t after = d->o.hedge_ms * EX_NS_PER_MS, late = late_at(d, f);
	if (f->taking)
		return UINT64_MAX;
	if (d->o.hedge == EX_HEDGE_OFF)
		return late;
	return EX_MIN(late, f->sent_ns + (d->o.hedge == EX_HEDGE_P99 ? EX_MAX(after, f->host->p99_ns) : after));
}

static bool aim_late(struct ex_dispatch *d, const struct out_frame *f, uint64_t now)
{
	bool late = late_at(d, f) <= now, any = false;
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		struct shard_job *j = &d->jobs[i];
		if (!ex_bit(f->jobs, i) || j->state != JOB_OUT || j->n_out > 1 || j->target || j->check_of)
			continue;
		if (!late && !within_budget(d, j->s->n_rows))
			return any;
		/* a hedge is for speed; of a late host's rows, one that is asked last is better than none */
		struct fleet_host *h = choose(d, j, late ? RANK_LESS : RANK_READY, j->identity, now);
		if (!h || h->distrusted)
			continue;
		aim(d, j, h);
		if (!late)
			d->rows_hedged += j->s->n_rows;
		ex_metric_add(f->host->m.resent, j->s->n_rows);
		any = true;
	}
	return any;
}

/* --- nobody left to ask, under d->lock -------------------------------------------------------------------- */

/* When the last holder that is not usable any more went away; 0: none is known. */
static uint64_t last_holder_left_ns(const struct ex_dispatch *d, size_t slot)
{
	static const uint64_t nobody[EX_HOST_WORDS];
	uint64_t at = 0;
	for (size_t p = 0; (p = ex_next_holder(d, slot, nobody, p)) < EX_FLEET_HOSTS_MAX; p++)
		if (d->hosts[p].used && !ex_host_usable(&d->hosts[p]))
			at = EX_MAX(at, d->hosts[p].state_ns);
	return at;
}

/* A shard is waited for until hold_ms after it was lost, a step for hold_ms in all. */
static uint64_t held_until(const struct ex_dispatch *d, const struct shard_job *j)
{
	size_t slot = ex_dispatch_slot(d, d->layer, j->s->group);
	uint64_t lost_ns = EX_MAX(d->lost_ns[slot], last_holder_left_ns(d, slot));
	uint64_t hold_ns = ex_dispatch_n_hosts(d) ? d->o.hold_ms * EX_NS_PER_MS : 0;
	return EX_MIN(lost_ns, d->held_ns) + hold_ns;
}

static void note_loss(struct ex_dispatch *d, const struct shard_job *j, uint64_t now)
{
	size_t slot = ex_dispatch_slot(d, d->layer, j->s->group);
	uint64_t left_ns = last_holder_left_ns(d, slot);
	if (!d->held_ns)
		d->held_ns = now;
	if (!d->lost_ns[slot])
		d->lost_ns[slot] = left_ns ? left_ns : now;
}

/* A job that nobody can be asked for: fails when it was held long enough, else those that failed get another chance now
 * and then. True when they have just got it. */
static bool hold(struct ex_dispatch *d, struct shard_job *j, uint64_t now)
{
	if (j->check_of) {
		j->state = JOB_FAILED;
		return false;
	}
	note_loss(d, j, now);
	if (d->give_up || now >= held_until(d, j)) {
		j->state = JOB_FAILED;
		return false;
	}
	bool again = j->retry_ns && now >= j->retry_ns;
	if (again || !j->retry_ns)
		j->retry_ns = now + RETRY_NS;
	if (again) {
		j->local_failed = false;
		memset(j->asked, 0, sizeof j->asked);
	}
	return again;
}

/* --- sending --------------------------------------------------------------------------------------------- */

/* Gives every job that needs one a target. True when there is any. Under d->lock. */
static bool aim_all(struct ex_dispatch *d, uint64_t now)
{
	bool any = false;
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (d->jobs[i].state == JOB_OPEN)
			any |= aim_open(d, &d->jobs[i], now);
	for (uint32_t i = 0; i < d->n_frames; i++)
		if (d->frames[i].host && hedge_at(d, &d->frames[i]) <= now)
			any |= aim_late(d, &d->frames[i], now);
	return any;
}

static void work_done(struct ex_work *w)
{
	struct shard_job *j = w->ctx;
	struct ex_dispatch *d = j->d;
	ex_lock_take(&d->lock);
	j->n_out--;
	j->local_out = false;
	j->host = NULL;
	j->status =
		w->status || ex_fabric_fits(j, w->identity) ? w->status : -ESTALE; /* swapped since it was submitted */
	j->local_failed = j->status != 0;
	j->state = j->status ? JOB_OPEN : JOB_DONE;
	ex_metric_observe(d->local.seconds, (double)(ex_now_ns() - d->begin_ns) / (double)EX_NS_PER_S);
	if (w->status)
		ex_metric_add(d->local.errors, 1);
	d->n_works--;
	pthread_cond_broadcast(&d->cond);
	ex_lock_give(&d->lock);
}

static void submit_local(struct ex_dispatch *d, struct shard_job *j)
{
	const struct ex_plan_shard *s = j->s;
	j->local = false;
	j->work = (struct ex_work){
		.epoch = d->o.epoch,
		.layer = d->layer,
		.first_expert = s->first_expert,
		.n_experts = s->n_experts,
		.x = d->buffer->data,
		.rows = s->rows,
		.offset = s->offset,
		.token = s->token,
		.weight = s->weight,
		.n_rows = s->n_rows,
		.x_dtype = d->o.x_dtype,
		.y = j->y,
		.done = work_done,
		.ctx = j,
	};
	ex_metric_add(d->local.rows, s->n_rows);
	ex_metric_add(d->local.frames, 1);
	ex_lock_take(&d->lock);
	j->state = JOB_OUT;
	j->local_out = true;
	j->n_out++;
	d->n_works++;
	ex_lock_give(&d->lock);
	int rc = ex_executor_submit(d->o.local, &j->work);
	if (rc) {
		j->work.status = rc;
		work_done(&j->work);
	}
}

/* A frame of what h was aimed at, and one of its checks: in a frame shards ascend. */
static void send_to(struct ex_dispatch *d, struct fleet_host *h, struct aimed *a)
{
	uint64_t jobs[EX_JOB_WORDS] = {0}, checks[EX_JOB_WORDS] = {0};
	bool any_job = false, any_check = false;
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		if (!ex_bit(a->jobs, i))
			continue;
		ex_bit_set(d->jobs[i].check_of ? checks : jobs, i);
		any_job |= !d->jobs[i].check_of;
		any_check |= d->jobs[i].check_of != NULL;
	}
	memset(a->jobs, 0, sizeof a->jobs);
	if (any_job)
		ex_fabric_send(d, h, jobs);
	if (any_check)
		ex_fabric_send(d, h, checks);
}

static void send_aimed(struct ex_dispatch *d)
{
	/* far ones first, so that they work while the near ones do */
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++) {
		bool any = false;
		for (size_t w = 0; w < EX_JOB_WORDS; w++)
			any |= d->aimed[p].jobs[w] != 0;
		if (any)
			send_to(d, &d->hosts[p], &d->aimed[p]);
	}
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		d->jobs[i].target = NULL;
		if (d->jobs[i].local)
			submit_local(d, &d->jobs[i]);
	}
}

void ex_route_send(struct ex_dispatch *d)
{
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		d->aimed[p].n_rows = 0;
	ex_lock_take(&d->lock);
	bool any = aim_all(d, ex_now_ns());
	ex_lock_give(&d->lock);
	if (any)
		send_aimed(d);
}

/* --- waiting, under d->lock ------------------------------------------------------------------------------- */

/* Holds what nobody can be asked for. True when somebody can be again. */
static bool hold_all(struct ex_dispatch *d, uint64_t now)
{
	bool again = false;
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (d->jobs[i].state == JOB_OPEN)
			again |= hold(d, &d->jobs[i], now);
	return again;
}

/* The engine stops: what others work on is not waited for; what is being read or computed here is, for it is written to. */
static void abandon(struct ex_dispatch *d)
{
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (d->jobs[i].state == JOB_OUT && !d->jobs[i].local_out) {
			d->jobs[i].state = JOB_FAILED;
			d->jobs[i].status = -ECANCELED;
		}
}

/* A check is worth a short wait, not a long one. */
static void end_checks(struct ex_dispatch *d, uint64_t now)
{
	for (uint32_t i = d->plan.n_shards; i < d->n_jobs && now - d->begin_ns >= CHECK_NS; i++)
		if (d->jobs[i].state == JOB_OPEN || d->jobs[i].state == JOB_OUT)
			d->jobs[i].state = JOB_FAILED;
}

static bool has_ended(const struct ex_dispatch *d)
{
	bool ended = d->n_works == 0 && d->n_taking == 0;
	for (uint32_t i = 0; i < d->n_jobs; i++)
		ended &= d->jobs[i].state == JOB_DONE || d->jobs[i].state == JOB_FAILED;
	return ended;
}

/* The host whose frame has waited longer than frame_timeout_ms, NULL: none. */
static struct fleet_host *late_host(const struct ex_dispatch *d, uint64_t now)
{
	for (uint32_t i = 0; i < d->n_frames; i++) {
		const struct out_frame *f = &d->frames[i];
		if (f->host && !f->taking && now >= f->sent_ns + d->o.frame_timeout_ms * EX_NS_PER_MS)
			return f->host;
	}
	return NULL;
}

/* When to look again, if nothing happens before. */
static uint64_t next_look(const struct ex_dispatch *d, uint64_t now)
{
	uint64_t at = now + LOOK_NS;
	if (d->n_jobs > d->plan.n_shards && now < d->begin_ns + CHECK_NS)
		at = EX_MIN(at, d->begin_ns + CHECK_NS);
	for (uint32_t i = 0; i < d->n_frames; i++) {
		const struct out_frame *f = &d->frames[i];
		if (!f->host || f->taking)
			continue;
		at = EX_MIN(at, f->sent_ns + d->o.frame_timeout_ms * EX_NS_PER_MS);
		if (hedge_at(d, f) > now) /* what was due and found nobody waits for a host to change */
			at = EX_MIN(at, hedge_at(d, f));
	}
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (d->jobs[i].state == JOB_OPEN && !d->jobs[i].check_of) /* and held: hold_all was here before */
			at = EX_MIN(at, EX_MIN(d->jobs[i].retry_ns, held_until(d, &d->jobs[i])));
	return at;
}

static void fail_late(struct ex_dispatch *d, struct fleet_host *h)
{
	char why[128];
	snprintf(why, sizeof why, "a frame was not answered within %u ms", d->o.frame_timeout_ms);
	ex_host_fail(h, why);
}

void ex_route_wait(struct ex_dispatch *d)
{
	ex_lock_take(&d->lock);
	for (;;) {
		uint64_t now = ex_now_ns();
		bool any = !d->give_up && aim_all(d, now);
		struct fleet_host *late = late_host(d, now);
		if (any || late) {
			ex_lock_give(&d->lock);
			if (any)
				send_aimed(d);
			if (late)
				fail_late(d, late);
			ex_lock_take(&d->lock);
			continue;
		}
		if (d->give_up)
			abandon(d);
		end_checks(d, now);
		if (hold_all(d, now))
			continue;
		if (has_ended(d))
			break;
		ex_cond_wait_until(&d->cond, &d->lock, next_look(d, now));
		atomic_fetch_add_explicit(&d->n_looks, 1, memory_order_relaxed);
	}
	memset(d->frames, 0, d->n_frames * sizeof *d->frames); /* late answers find no frame, and are dropped */
	d->n_frames = 0;
	ex_lock_give(&d->lock);
}

/* --- checks ---------------------------------------------------------------------------------------------- */

/* a's result differed from b's (NULL: this process). Who has differed from two others is the odd one out. True when it just
 * became that. Under d->lock. */
static bool note_difference(struct ex_dispatch *d, struct fleet_host *a, const struct fleet_host *b)
{
	unsigned n = 0;
	if (!a)
		return false;
	ex_bit_set(a->differed, b ? (size_t)(b - d->hosts) : EX_FLEET_HOSTS_MAX - 1);
	for (size_t w = 0; w < EX_HOST_WORDS; w++)
		n += (unsigned)__builtin_popcountll(a->differed[w]);
	bool news = n >= 2 && !a->distrusted;
	a->distrusted = n >= 2;
	return news;
}

static void tell_distrust(struct ex_dispatch *d, const struct fleet_host *h)
{
	if (d->o.host_changed)
		d->o.host_changed(d->o.ctx, h->name, h->address, EX_HOST_SUSPECT,
			"its results differ from those of two other replicas");
}

static void report(struct ex_dispatch *d, const struct shard_job *j, const struct shard_job *check)
{
	const struct ex_shard_id id = {d->layer, j->s->first_expert, j->s->n_experts};
	char name[64], other[64];
	ex_lock_take(&d->lock);
	bool first = note_difference(d, j->host, check->host), second = note_difference(d, check->host, j->host);
	snprintf(name, sizeof name, "%s", j->host ? j->host->name : d->o.node);
	snprintf(other, sizeof other, "%s", check->host ? check->host->name : d->o.node);
	ex_lock_give(&d->lock);
	if (d->o.differs)
		d->o.differs(d->o.ctx, &id, name, other);
	if (first)
		tell_distrust(d, j->host);
	if (second)
		tell_distrust(d, check->host);
}

void ex_route_compare(struct ex_dispatch *d)
{
	for (uint32_t i = d->plan.n_shards; i < d->n_jobs; i++) {
		const struct shard_job *check = &d->jobs[i], *j = check->check_of;
		if (check->state != JOB_DONE || j->state != JOB_DONE || check->host == j->host ||
			check->identity != j->identity)
			continue;
		ex_metric_add(d->m_verified, j->s->n_rows);
		if (memcmp(check->y, j->y, (size_t)j->s->n_rows * d->o.d_model * sizeof *j->y) != 0)
			report(d, j, check);
	}
}
