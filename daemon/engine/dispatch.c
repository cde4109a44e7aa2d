/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch: who computes which shard of a layer, and the sum. Layer L3. */
#include "base/dtype.h"
#include "base/mem.h"
#include "engine/fabric.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LOAD_HALF_LIFE_S 300.0 /* of the counts that placement is planned with */
#define LATE_MS          2000  /* when the options do not say */
#define ROOM_HOSTS_MIN   2     /* whose selections of rows a send buffer has room for, at least */

static const char *const state_names[] = {
	[EX_HOST_JOINING] = "joining",
	[EX_HOST_READY] = "ready",
	[EX_HOST_SUSPECT] = "suspect",
	[EX_HOST_DRAINING] = "draining",
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

static size_t buffer_rows(const struct ex_dispatch *d)
{
	return d->o.rows_max + d->room_rows;
}

/* A buffer that nobody reads any more, a new one when the transport holds all; NULL: out of memory. Two references: the
 * pool's, or what stands for it, and the step's. */
static struct send_buffer *idle_buffer(struct ex_dispatch *d)
{
	for (uint32_t i = 0; i < d->n_buffers; i++) {
		unsigned only_pool = 1; /* acquire: pairs with the release of the last frame that read it */
		if (atomic_compare_exchange_strong_explicit(
			    &d->buffers[i]->n_refs, &only_pool, 2, memory_order_acquire, memory_order_relaxed))
			return d->buffers[i];
	}
	return ex_fabric_new_buffer(d, buffer_rows(d));
}

/* A job for every shard of the plan, with its stretch of partials. */
static void make_jobs(struct ex_dispatch *d)
{
	float *y = d->partials;
	for (uint32_t i = 0; i < d->plan.n_shards; i++) {
		const struct ex_plan_shard *s = &d->plan.shards[i];
		d->jobs[i] = (struct shard_job){.d = d, .s = s, .y = y, .state = JOB_OPEN, .status = -EHOSTUNREACH};
		y += (size_t)s->n_rows * d->o.d_model;
	}
	for (uint32_t i = 0; i < d->plan.n_shards; i++)
		ex_load_add(
			d->load, (uint32_t)ex_dispatch_slot(d, d->layer, d->jobs[i].s->group), d->jobs[i].s->n_rows);
	d->n_jobs = d->plan.n_shards;
	for (uint32_t i = 0; d->check_partials && i < d->plan.n_shards; i++) {
		d->verify_due += d->o.verify_percent;
		if (d->verify_due < 100)
			continue;
		d->verify_due -= 100;
		struct shard_job *j = &d->jobs[d->n_jobs++];
		*j = d->jobs[i];
		j->check_of = &d->jobs[i];
		j->y = d->check_partials + (d->jobs[i].y - d->partials);
	}
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
	make_jobs(d);
	d->buffer = idle_buffer(d);
	if (!d->buffer) {
		for (uint32_t i = 0; i < d->plan.n_shards; i++) {
			d->jobs[i].state = JOB_FAILED;
			d->jobs[i].status = -ENOBUFS;
		}
		return 0;
	}
	ex_dtype_from_f32(d->o.x_dtype, x, (size_t)n * d->o.d_model, d->buffer->data);
	ex_route_send(d);
	return 0;
}

/* --- wait [step] ----------------------------------------------------------------------------------------- */

/* The first host that holds the shard but is not ready, NULL when none does. Under d->lock. */
static const struct fleet_host *lost_holder(const struct ex_dispatch *d, uint32_t group)
{
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used && d->hosts[p].identity[ex_dispatch_slot(d, d->layer, group)])
			return &d->hosts[p];
	return NULL;
}

static const char *why_text(int status, char buf[static 64])
{
	if (status == -EDOM)
		return "the partial sum is not finite";
	return status == -ESTALE ? "it has another numeric identity" : strerror_r(-status, buf, 64);
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
	if (status == -EHOSTUNREACH && h && ex_host_usable(h))
		status = -ESTALE; /* it was not asked, and could have been */
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

/* The shard is not lost, and who has answered decides the numeric identity that is used from now on. */
static void note_answer(struct ex_dispatch *d, const struct shard_job *j)
{
	const struct ex_shard_id id = {d->layer, j->s->first_expert, j->s->n_experts};
	size_t slot = ex_dispatch_slot(d, d->layer, j->s->group);
	bool changed = d->identity[slot] && d->identity[slot] != j->identity;
	d->lost_ns[slot] = 0;
	d->identity[slot] = j->identity;
	if (changed && d->o.identity_changed)
		d->o.identity_changed(d->o.ctx, &id, j->host ? j->host->address : d->o.node);
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
		int failed = j->state == JOB_DONE ? 0 : j->status, status = failed;
		for (uint32_t r = 0; r < j->s->n_rows; r++) {
			uint32_t at = j->s->rows[r];
			if (!failed && (add_partial(y + at * dim, j->y + r * dim, dim) || d->row_void[at]))
				continue;
			row_failed[at] = 1;
			status = failed ? failed : -EDOM;
		}
		if (j->state == JOB_DONE)
			note_answer(d, j);
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

/* The step's reference; that of the pool too, when b is not one of its buffers. */
static void release_step(struct ex_dispatch *d, struct send_buffer *b)
{
	bool pooled = false;
	for (uint32_t i = 0; i < d->n_buffers; i++)
		pooled |= d->buffers[i] == b;
	ex_fabric_release_buffer(b);
	if (!pooled)
		ex_fabric_release_buffer(b);
}

static int wait(void *ctx, float *y, uint8_t *row_failed)
{
	struct ex_dispatch *d = ctx;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	ex_route_wait(d);
	ex_route_compare(d);
	int rc = sum(d, y, row_failed);
	if (d->buffer) /* the rows were read; frames that gRPC still holds keep their own references */
		release_step(d, d->buffer);
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
	d->held_ns = 0;
}

void ex_dispatch_idle(struct ex_dispatch *d)
{
	memset(d->identity, 0, (size_t)d->o.n_layers * d->o.n_groups * sizeof *d->identity);
}

void ex_dispatch_give_up(struct ex_dispatch *d)
{
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	ex_lock_take(&d->lock);
	d->give_up = true;
	pthread_cond_broadcast(&d->cond);
	ex_lock_give(&d->lock);
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
	if (o->n_peers > EX_FLEET_HOSTS_MAX)
		return ex_err_set(err, -EINVAL, "dispatch: %zu expert hosts, at most %d are allowed", o->n_peers,
			EX_FLEET_HOSTS_MAX);
	if (o->loop_data && (!o->connect_ms || !o->heartbeat_ms || !o->frame_timeout_ms))
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
	d->jobs = ex_calloc((size_t)o->n_groups * 2, sizeof *d->jobs);
	if (o->verify_percent)
		d->check_partials = ex_alloc_aligned(n_partials * o->d_model, sizeof *d->check_partials);
	d->partials = ex_alloc_aligned(n_partials * o->d_model, sizeof *d->partials);
	d->row_at = ex_calloc(o->rows_max, sizeof *d->row_at);
	d->frame_rows = ex_calloc(n_assignments, sizeof *d->frame_rows);
	d->frame_shards = ex_calloc(o->n_groups, sizeof *d->frame_shards);
	d->row_sends = ex_calloc(o->rows_max, sizeof *d->row_sends);
	d->row_void = ex_calloc(o->rows_max, 1);
	d->lost_ns = ex_calloc((size_t)o->n_layers * o->n_groups, sizeof *d->lost_ns);
	d->shard_bytes = ex_calloc((size_t)o->n_layers * o->n_groups, sizeof *d->shard_bytes);
	d->holders = ex_calloc((size_t)o->n_layers * o->n_groups, sizeof *d->holders);
	d->aimed = ex_calloc(EX_FLEET_HOSTS_MAX, sizeof *d->aimed);
	d->identity = ex_calloc((size_t)o->n_layers * o->n_groups, sizeof *d->identity);
	d->frames = ex_calloc(EX_DISPATCH_FRAMES_MAX, sizeof *d->frames);
	d->room_rows = (size_t)o->rows_max * EX_MIN((size_t)o->topk, EX_MAX(o->n_peers, (size_t)ROOM_HOSTS_MIN));
	/* every host may hold one that it was too slow to take; one more is ours, one in hand */
	d->buffers = ex_calloc(o->n_peers + 2, sizeof *d->buffers);
	if (!d->jobs || !d->partials || (o->verify_percent && !d->check_partials) || !d->row_at || !d->frame_rows ||
		!d->frame_shards || !d->row_sends || !d->row_void || !d->buffers || !d->lost_ns || !d->aimed ||
		!d->shard_bytes || !d->identity || !d->frames || !d->holders)
		return -ENOMEM;
	for (; d->n_buffers < o->n_peers + 2; d->n_buffers++) {
		d->buffers[d->n_buffers] = ex_fabric_new_buffer(d, buffer_rows(d));
		if (!d->buffers[d->n_buffers])
			return -ENOMEM;
	}
	return 0;
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
	d->o.late_ms = o->late_ms ? o->late_ms : LATE_MS;
	d->o.moe_layer_freq = EX_MAX(o->moe_layer_freq, 1u);
	d->moe = (struct ex_moe_ops){.begin = begin, .wait = wait, .ctx = d};
	ex_lock_init(&d->lock, "dispatch");
	ex_cond_init(&d->cond);
	d->local = (struct host_metrics){
		.rows = ex_metric(EX_M_DISPATCH_ROWS, "local"),
		.frames = ex_metric(EX_M_DISPATCH_FRAMES, "local"),
		.seconds = ex_metric(EX_M_DISPATCH_SECONDS, "local"),
		.errors = ex_metric(EX_M_DISPATCH_ERRORS, "local"),
		.resent = ex_metric(EX_M_DISPATCH_RESENT, "local"),
	};
	d->m_verified = ex_metric(EX_M_VERIFIED_ROWS, NULL);
	d->hosts = ex_calloc(EX_FLEET_HOSTS_MAX, sizeof *d->hosts);
	rc = d->hosts ? make_step_side(d) : -ENOMEM;
	if (!rc)
		rc = ex_load_new(o->n_layers * o->n_groups, LOAD_HALF_LIFE_S, d->start_ns, NULL, &d->load);
	if (rc)
		ex_err_set(err, rc, "dispatch: out of memory for %u rows of %u", o->rows_max, o->d_model);
	else
		rc = ex_roster_start(d, err);
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
	ex_roster_stop(d);
	free(d->hosts);
	ex_plan_done(&d->plan);
	free(d->jobs);
	free(d->partials);
	free(d->check_partials);
	free(d->row_at);
	free(d->frame_rows);
	free(d->frame_shards);
	free(d->row_sends);
	free(d->row_void);
	free(d->lost_ns);
	free(d->aimed);
	free(d->holders);
	free(d->shard_bytes);
	ex_load_free(d->load);
	free(d->identity);
	free(d->frames);
	for (uint32_t i = 0; i < d->n_buffers; i++)
		ex_fabric_release_buffer(d->buffers[i]);
	free(d->buffers);
	pthread_cond_destroy(&d->cond);
	ex_lock_done(&d->lock);
	d->magic = 0;
	free(d);
	return NULL;
}
