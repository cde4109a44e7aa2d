/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch: who computes which shard of a layer, and the sum. Layer L3. */
#include "base/clock.h"
#include "base/dtype.h"
#include "base/mem.h"
#include "engine/fabric.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TICKS_PER_BEAT                                                                                                 \
	4 /* looks at the hosts in one heartbeat's period, at least: silence is noticed that much sooner */
#define LOOK_NS     (500 * EX_NS_PER_MS) /* a step that waits for a host shows that often that it lives */
#define TICK_MS_MAX 50                   /* .. and a host that comes up is greeted this soon */

static const char *const state_names[] = {
	[EX_HOST_JOINING] = "joining",
	[EX_HOST_READY] = "ready",
	[EX_HOST_DOWN] = "down",
};

const char *ex_host_state_name(enum ex_host_state s)
{
	assert(s >= EX_HOST_JOINING && s <= EX_HOST_DOWN);
	return state_names[s];
}

/* --- begin [step] ---------------------------------------------------------------------------------------- */

static bool is_moe(const struct ex_dispatch *d, uint32_t layer)
{
	return layer < d->o.n_layers && layer >= d->o.first_k_dense && layer % d->o.moe_layer_freq == 0;
}

static bool is_local(const struct ex_dispatch *d, uint32_t layer, uint32_t first_expert)
{
	if (!d->o.local)
		return false;
	struct ex_generation *g = ex_registry_pin(d->o.registry, layer, first_expert);
	if (g)
		ex_generation_unpin(g);
	return g != NULL;
}

static struct send_buffer *new_buffer(const struct ex_dispatch *d)
{
	size_t rows = (size_t)d->o.rows_max * (1 + EX_MIN((size_t)d->o.topk, d->o.n_peers));
	struct send_buffer *b = calloc(1, sizeof *b);
	if (b)
		b->data = ex_alloc_aligned(rows, ex_dispatch_x_bytes(d));
	if (!b || !b->data) {
		free(b);
		return NULL;
	}
	atomic_init(&b->n_refs, 1);
	return b;
}

/* A buffer that nobody reads any more; NULL when the transport holds all. */
static struct send_buffer *idle_buffer(struct ex_dispatch *d)
{
	for (uint32_t i = 0; i < d->n_buffers; i++) {
		unsigned only_pool = 1; /* acquire: pairs with the release of the last frame that read it */
		if (atomic_compare_exchange_strong_explicit(
			    &d->buffers[i]->n_refs, &only_pool, 2, memory_order_acquire, memory_order_relaxed))
			return d->buffers[i];
	}
	return NULL;
}

/* Gives every shard of the plan its stretch of partials and its holder: this process, else the first ready host that
 * has it. */
static void assign(struct ex_dispatch *d, uint32_t layer)
{
	float *y = d->partials;
	for (uint32_t i = 0; i < d->plan.n_shards; i++) {
		const struct ex_plan_shard *s = &d->plan.shards[i];
		d->jobs[i] = (struct shard_job){.d = d, .s = s, .y = y, .status = -EHOSTUNREACH};
		y += (size_t)s->n_rows * d->o.d_model;
		if (is_local(d, layer, s->first_expert))
			d->jobs[i].status = 0;
	}
	ex_lock_take(&d->lock);
	for (uint32_t i = 0; i < d->plan.n_shards; i++)
		for (size_t p = 0; p < d->o.n_peers && d->jobs[i].status; p++) {
			struct fleet_host *h = &d->hosts[p];
			if (h->state == EX_HOST_READY && h->has[(size_t)layer * d->o.n_groups + d->jobs[i].s->group]) {
				d->jobs[i].host = h;
				d->jobs[i].status = 0;
			}
		}
	ex_lock_give(&d->lock);
}

static void work_done(struct ex_work *w)
{
	struct shard_job *j = w->ctx;
	struct ex_dispatch *d = j->d;
	ex_lock_take(&d->lock);
	j->status = w->status;
	ex_metric_observe(d->local.seconds, (double)(ex_now_ns() - d->begin_ns) / (double)EX_NS_PER_S);
	d->n_open--;
	pthread_cond_broadcast(&d->cond);
	ex_lock_give(&d->lock);
}

static void submit_local(struct ex_dispatch *d, struct shard_job *j, uint32_t layer)
{
	const struct ex_plan_shard *s = j->s;
	j->work = (struct ex_work){
		.layer = layer,
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
	d->n_open++;
	ex_lock_give(&d->lock);
	int rc = ex_executor_submit(d->o.local, &j->work);
	if (rc) {
		ex_lock_take(&d->lock);
		j->status = rc;
		d->n_open--;
		ex_lock_give(&d->lock);
	}
}

static bool has_jobs(const struct ex_dispatch *d, const struct fleet_host *h)
{
	for (uint32_t i = 0; i < d->plan.n_shards; i++)
		if (d->jobs[i].host == h)
			return true;
	return false;
}

/* Rows whose weights are not finite fail, alone: a host would refuse the whole frame for them. */
static void void_rows(struct ex_dispatch *d, const float *weights, uint32_t k)
{
	uint32_t n_void = 0;
	for (uint32_t i = 0; i < d->n_rows; i++) {
		d->row_void[i] = 0;
		for (uint32_t j = 0; j < k; j++)
			d->row_void[i] |= !isfinite(weights[(size_t)i * k + j]);
		n_void += d->row_void[i];
	}
	for (size_t a = 0; n_void && a < (size_t)d->n_rows * k; a++)
		if (!isfinite(d->plan.weight[a]))
			d->plan.weight[a] = 0;
	if (n_void && !d->failure[0])
		snprintf(d->failure, sizeof d->failure, "the gate's weights are not finite");
}

static int begin(
	void *ctx, uint32_t layer, const float *x, uint32_t n, const uint32_t *ids, const float *weights, uint32_t k)
{
	struct ex_dispatch *d = ctx;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	assert(is_moe(d, layer) && !d->buffer);
	int rc = ex_plan_group(&d->plan, n, k, ids, weights);
	if (rc)
		return rc;
	d->layer = layer;
	d->n_rows = n;
	d->n_selected = 0;
	d->rows_sent = 0;
	d->begin_ns = ex_now_ns();
	void_rows(d, weights, k);
	d->buffer = idle_buffer(d);
	assign(d, layer);
	if (!d->buffer) {
		for (uint32_t i = 0; i < d->plan.n_shards; i++) {
			d->jobs[i].host = NULL;
			d->jobs[i].status = -ENOBUFS;
		}
		return 0;
	}
	ex_dtype_from_f32(d->o.x_dtype, x, (size_t)n * d->o.d_model, d->buffer->data);
	/* far ones first, so that they work while the near ones do */
	for (size_t p = 0; p < d->o.n_peers; p++)
		if (has_jobs(d, &d->hosts[p]))
			ex_fabric_send(d, &d->hosts[p], layer);
	for (uint32_t i = 0; i < d->plan.n_shards; i++)
		if (!d->jobs[i].host && !d->jobs[i].status)
			submit_local(d, &d->jobs[i], layer);
	return 0;
}

/* --- wait [step] ----------------------------------------------------------------------------------------- */

/* The host whose frame has waited longest, NULL when none is out. Under d->lock. */
static struct fleet_host *oldest_frame(struct ex_dispatch *d)
{
	struct fleet_host *oldest = NULL;
	for (size_t p = 0; p < d->o.n_peers; p++) {
		struct fleet_host *h = &d->hosts[p];
		if (h->frame.state == FRAME_SENT && (!oldest || h->frame.sent_ns < oldest->frame.sent_ns))
			oldest = h;
	}
	return oldest;
}

/* Waits until all works and frames have ended; a frame that waits too long ends its host. */
static void wait_jobs(struct ex_dispatch *d)
{
	uint64_t timeout = d->o.frame_timeout_ms * EX_NS_PER_MS;
	char why[128];
	ex_lock_take(&d->lock);
	while (d->n_open) {
		struct fleet_host *late = oldest_frame(d);
		if (!late) {
			ex_cond_wait(&d->cond, &d->lock);
			continue;
		}
		uint64_t until = late->frame.sent_ns + timeout;
		ex_cond_wait_until(&d->cond, &d->lock, EX_MIN(until, ex_now_ns() + LOOK_NS));
		atomic_fetch_add_explicit(&d->n_looks, 1, memory_order_relaxed);
		if (late->frame.state == FRAME_SENT && ex_now_ns() >= late->frame.sent_ns + timeout) {
			ex_lock_give(&d->lock);
			snprintf(why, sizeof why, "a frame was not answered within %u ms", d->o.frame_timeout_ms);
			ex_host_fail(late, why);
			ex_lock_take(&d->lock);
		}
	}
	ex_lock_give(&d->lock);
}

/* The first host that holds the shard but is not ready, NULL when none does. Under d->lock. */
static const struct fleet_host *lost_holder(const struct ex_dispatch *d, uint32_t group)
{
	for (size_t p = 0; p < d->o.n_peers; p++)
		if (d->hosts[p].has[(size_t)d->layer * d->o.n_groups + group])
			return &d->hosts[p];
	return NULL;
}

static const char *why_text(int status, char buf[static 64])
{
	return status == -EDOM ? "the partial sum is not finite" : strerror_r(-status, buf, 64);
}

/* Keeps the first failure in words: shard, host, reason. status: the job's, or -EDOM for a row of it. */
static void describe_failure(struct ex_dispatch *d, const struct shard_job *j, int status)
{
	const struct ex_shard_id id = {d->layer, j->s->first_expert, j->s->n_experts};
	char shard[EX_SHARD_NAME_MAX], reason[64];
	if (d->failure[0])
		return;
	ex_lock_take(&d->lock);
	const struct fleet_host *h = status == -EHOSTUNREACH ? lost_holder(d, j->s->group) : j->host;
	const char *why = h && h->error[0] && status != -EDOM ? h->error : why_text(status, reason);
	ex_shard_name(&id, shard);
	if (h)
		snprintf(d->failure, sizeof d->failure, "shard %s on host %s (%s, %s): %s", shard, h->name, h->address,
			ex_host_state_name(h->state), why);
	else if (status == -EHOSTUNREACH)
		snprintf(d->failure, sizeof d->failure, "shard %s: no host that is ready holds it", shard);
	else
		snprintf(d->failure, sizeof d->failure, "shard %s in this process: %s", shard, why);
	ex_lock_give(&d->lock);
}

/* row += partial. False when the partial is not finite. */
static bool add_partial(float *row, const float *partial, size_t dim)
{
	unsigned bad = 0;
	for (size_t c = 0; c < dim; c++) {
		bad |= !isfinite(partial[c]);
		row[c] += partial[c];
	}
	return !bad;
}

/* Adds the partials in ascending shard order, whoever computed them. What is not finite fails its row here: carried on,
 * it would reach other shards' weights, and their hosts would be blamed. */
static int sum(struct ex_dispatch *d, float *y, uint8_t *row_failed)
{
	size_t dim = d->o.d_model;
	int rc = 0;
	memset(y, 0, d->n_rows * dim * sizeof *y);
	for (uint32_t i = 0; i < d->n_rows; i++)
		if (d->row_void[i]) {
			row_failed[i] = 1;
			rc = -EDOM;
		}
	for (uint32_t i = 0; i < d->plan.n_shards; i++) {
		const struct shard_job *j = &d->jobs[i];
		int status = j->status;
		for (uint32_t r = 0; r < j->s->n_rows; r++) {
			uint32_t at = j->s->rows[r];
			if (!j->status && (add_partial(y + at * dim, j->y + r * dim, dim) || d->row_void[at]))
				continue;
			row_failed[at] = 1;
			status = j->status ? j->status : -EDOM;
		}
		if (status) {
			describe_failure(d, j, status);
			rc = -EHOSTDOWN;
		}
	}
	for (uint32_t i = 0; i < d->n_rows && rc; i++)
		if (row_failed[i])
			memset(y + i * dim, 0, dim * sizeof *y);
	return rc;
}

static int wait(void *ctx, float *y, uint8_t *row_failed)
{
	struct ex_dispatch *d = ctx;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	wait_jobs(d);
	int rc = sum(d, y, row_failed);
	if (d->buffer) /* release: the rows were read; frames that gRPC still holds keep their own references */
		atomic_fetch_sub_explicit(&d->buffer->n_refs, 1, memory_order_release);
	d->buffer = NULL;
	return rc;
}

const struct ex_moe_ops *ex_dispatch_moe_ops(struct ex_dispatch *d)
{
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	return &d->moe;
}

uint64_t ex_dispatch_rows_sent(const struct ex_dispatch *d)
{
	return d->rows_sent;
}

const uint32_t *ex_dispatch_row_sends(const struct ex_dispatch *d)
{
	return d->row_sends;
}

void ex_dispatch_step_begins(struct ex_dispatch *d)
{
	memset(d->row_sends, 0, d->o.rows_max * sizeof *d->row_sends);
	d->failure[0] = '\0';
}

uint64_t ex_dispatch_looks(const struct ex_dispatch *d)
{
	return atomic_load_explicit(&d->n_looks, memory_order_relaxed);
}

const char *ex_dispatch_failure(const struct ex_dispatch *d)
{
	return d->failure;
}

/* --- open and close -------------------------------------------------------------------------------------- */

static void tick_control(void *ctx)
{
	struct ex_dispatch *d = ctx;
	for (size_t p = 0; p < d->o.n_peers; p++)
		ex_host_tick_control(&d->hosts[p]);
}

static void tick_data(void *ctx)
{
	struct ex_dispatch *d = ctx;
	uint64_t now = ex_now_ns();
	/* a late tick says that this process, not the peers, stood still */
	bool trust_clock = now - d->ticked_ns < d->o.heartbeat_ms * EX_NS_PER_MS;
	bool beat = now - d->beat_ns >= d->o.heartbeat_ms * EX_NS_PER_MS;
	d->ticked_ns = now;
	if (beat)
		d->beat_ns = now;
	for (size_t p = 0; p < d->o.n_peers; p++)
		ex_host_tick_data(&d->hosts[p], trust_clock, beat);
}

/* The reply of one host that has every shard must fit a frame: the host would refuse to make a larger one. */
static int check_frame_size(const struct ex_dispatch_opts *o, struct ex_err *err)
{
	const uint64_t max = EX_FRAME_BYTES_MAX - EX_FRAME_HEAD_BYTES_MAX;
	uint64_t row = (uint64_t)EX_MIN(o->topk, o->n_groups) * o->d_model * sizeof(float);
	if (row && o->rows_max > max / row)
		return ex_err_set(err, -EINVAL,
			"[router] step_tokens_max = %u: a host's reply to that many rows can have %" PRIu64
			" bytes, a frame holds %" PRIu64 "; with this model at most %" PRIu64 " are allowed",
			o->rows_max, o->rows_max * row, max, max / row);
	return 0;
}

static int check_opts(const struct ex_dispatch_opts *o, struct ex_err *err)
{
	if (!o->n_experts || !o->n_groups || o->n_groups > o->n_experts)
		return ex_err_set(err, -EINVAL, "dispatch: %u experts in %u groups", o->n_experts, o->n_groups);
	if (!o->rows_max || o->rows_max > EX_FRAME_ROWS_MAX || o->n_groups > EX_FRAME_SHARDS_MAX || !o->topk)
		return ex_err_set(err, -EINVAL,
			"dispatch: %u rows to %u experts each in %u groups, a frame holds %d rows and %d groups",
			o->rows_max, o->topk, o->n_groups, EX_FRAME_ROWS_MAX, EX_FRAME_SHARDS_MAX);
	if (o->x_dtype != EXPERTD_F32 && o->x_dtype != EXPERTD_BF16)
		return ex_err_set(err, -EINVAL, "dispatch: rows travel as f32 or bf16, not as dtype %u", o->x_dtype);
	if (o->n_peers && (!o->connect_ms || !o->heartbeat_ms || !o->frame_timeout_ms))
		return ex_err_set(err, -EINVAL, "dispatch: times for peers are not set");
	return o->n_peers ? check_frame_size(o, err) : 0;
}

static int make_step_side(struct ex_dispatch *d)
{
	const struct ex_dispatch_opts *o = &d->o;
	const struct ex_plan_opts plan = {
		.n_experts = o->n_experts, .n_groups = o->n_groups, .rows_max = o->rows_max, .topk = o->topk};
	size_t n_assignments = (size_t)o->rows_max * o->topk;
	size_t n_partials = (size_t)o->rows_max * EX_MIN(o->topk, o->n_groups);
	int rc = ex_plan_init(&d->plan, &plan);
	if (rc)
		return rc;
	d->jobs = ex_calloc(o->n_groups, sizeof *d->jobs);
	d->partials = ex_alloc_aligned(n_partials * o->d_model, sizeof *d->partials);
	d->row_at = ex_calloc(o->rows_max, sizeof *d->row_at);
	d->frame_rows = ex_calloc(n_assignments, sizeof *d->frame_rows);
	d->frame_shards = ex_calloc(o->n_groups, sizeof *d->frame_shards);
	d->row_sends = ex_calloc(o->rows_max, sizeof *d->row_sends);
	d->row_void = ex_calloc(o->rows_max, 1);
	/* every host may hold one that it was too slow to take; one more is ours, one in hand */
	d->buffers = ex_calloc(o->n_peers + 2, sizeof *d->buffers);
	if (!d->jobs || !d->partials || !d->row_at || !d->frame_rows || !d->frame_shards || !d->row_sends ||
		!d->row_void || !d->buffers)
		return -ENOMEM;
	for (; d->n_buffers < o->n_peers + 2; d->n_buffers++) {
		d->buffers[d->n_buffers] = new_buffer(d);
		if (!d->buffers[d->n_buffers])
			return -ENOMEM;
	}
	return 0;
}

static int start_hosts(struct ex_dispatch *d, struct ex_err *err)
{
	int rc = 0;
	d->ticked_ns = ex_now_ns();
	for (size_t p = 0; p < d->o.n_peers && !rc; p++)
		rc = ex_host_open(&d->hosts[p], d, d->o.peers[p], err);
	if (rc || !d->o.n_peers)
		return rc;
	unsigned tick_ms = EX_MIN(EX_MAX(d->o.heartbeat_ms / TICKS_PER_BEAT, 1u), (unsigned)TICK_MS_MAX);
	rc = ex_timer_start(d->o.loop_control, tick_ms, tick_control, d, &d->timer_control);
	if (!rc)
		rc = ex_timer_start(d->o.loop_data, tick_ms, tick_data, d, &d->timer_data);
	return rc ? ex_err_errno(err, rc, "dispatch: failed to start its timers") : 0;
}

int ex_dispatch_new(const struct ex_dispatch_opts *o, struct ex_err *err, struct ex_dispatch **ret)
{
	int rc = check_opts(o, err);
	if (rc)
		return rc;
	struct ex_dispatch *d = calloc(1, sizeof *d);
	if (!d)
		return ex_err_set(err, -ENOMEM, "dispatch: out of memory");
	d->magic = EX_DISPATCH_MAGIC;
	d->start_ns = ex_now_ns();
	d->o = *o;
	d->o.moe_layer_freq = EX_MAX(o->moe_layer_freq, 1u);
	d->moe = (struct ex_moe_ops){.begin = begin, .wait = wait, .ctx = d};
	ex_lock_init(&d->lock, "dispatch");
	ex_cond_init(&d->cond);
	d->local = (struct host_metrics){
		.rows = ex_metric(EX_M_DISPATCH_ROWS, "local"),
		.frames = ex_metric(EX_M_DISPATCH_FRAMES, "local"),
		.seconds = ex_metric(EX_M_DISPATCH_SECONDS, "local"),
		.errors = ex_metric(EX_M_DISPATCH_ERRORS, "local"),
	};
	d->hosts = ex_calloc(o->n_peers, sizeof *d->hosts);
	rc = d->hosts ? make_step_side(d) : -ENOMEM;
	if (rc)
		ex_err_set(err, rc, "dispatch: out of memory for %u rows of %u", o->rows_max, o->d_model);
	else
		rc = start_hosts(d, err);
	if (rc) {
		ex_dispatch_free(d);
		return rc;
	}
	*ret = d;
	return 0;
}

struct ex_dispatch *ex_dispatch_free(struct ex_dispatch *d)
{
	if (!d)
		return NULL;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	ex_lock_take(&d->lock);
	d->stopping = true;
	ex_lock_give(&d->lock);
	if (d->timer_control)
		ex_timer_cancel(d->timer_control);
	if (d->timer_data)
		ex_timer_cancel(d->timer_data);
	for (size_t p = 0; d->hosts && p < d->o.n_peers; p++)
		ex_host_close(&d->hosts[p]);
	free(d->hosts);
	ex_plan_done(&d->plan);
	free(d->jobs);
	free(d->partials);
	free(d->row_at);
	free(d->frame_rows);
	free(d->frame_shards);
	free(d->row_sends);
	free(d->row_void);
	for (uint32_t i = 0; i < d->n_buffers; i++)
		ex_fabric_release_buffer(d->buffers[i]);
	free(d->buffers);
	pthread_cond_destroy(&d->cond);
	ex_lock_done(&d->lock);
	d->magic = 0;
	free(d);
	return NULL;
}
