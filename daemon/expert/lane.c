/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch streams: frames in, work to the executor, partials out. Layer L2.
 *
 * A job is one frame. It belongs to its lane until the last of its shards is done, on whatever thread that happens; the
 * lane lives until the stream has ended and its jobs are done, so a stream that dies mid-work leaves nothing behind. */
#include "expert/lane.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "net/frame.h"
#include <stdio.h>
#include <string.h>

#define JOB_OWN_BYTES (20u << 10) /* of the smallest job: three blocks of the pool, a chunk of scratch */

struct lane {
	struct ex_lane_env *env;
	struct ex_rpc *rpc;    /* held */
	_Atomic unsigned refs; /* the stream's, and one a job */
	struct ex_lock lock;
	size_t in_flight_bytes; /* guarded by lock, as all below */
	uint32_t n_jobs;
	bool paused, half_closed;
	struct lane *prev, *next; /* in env->lanes; guarded by env->lock */
	_Atomic uint64_t epoch;   /* of its last frame or heartbeat; counts when spoke */
	_Atomic bool spoke;
};

struct job {
	struct lane *lane;
	struct ex_frame_request frame; /* the shards' arrays */
	void *x;                       /* [n_rows, d_model] x_dtype; from the pool */
	float *y;                      /* [n_partial_rows, d_model], shard by shard; from the pool */
	size_t bytes;
	uint64_t arrived_ns;
	_Atomic uint32_t n_left; /* shards, and one while they are handed out */
	struct ex_frame_partial *partials;
	struct ex_work works[];
};

static void lane_drop(struct lane *l)
{
	if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
		return;
	ex_rpc_drop(l->rpc);
	ex_lock_done(&l->lock);
	free(l);
}

/* --- replies ----------------------------------------------------------------------------------------------------- */

/* Sends r, with what every reply says of this host; a router that does not read is cut off. y: from the pool, handed over. */
static void send_reply(struct lane *l, struct ex_frame_reply *r, void *y, size_t y_bytes)
{
	r->queued = ex_executor_queued_rows(l->env->executor);
	r->draining = atomic_load_explicit(&l->env->draining, memory_order_relaxed);
	r->revision = ex_registry_revision(l->env->registry);
	size_t queued = ex_rpc_queued_bytes(l->rpc);
	if (queued > l->env->reply_bytes_max) {
		char text[160];
		snprintf(text, sizeof text, "%zu bytes of replies wait, at most %zu may: the router does not read",
			queued, l->env->reply_bytes_max);
		ex_rpc_abort(l->rpc, EX_STATUS_RESOURCE_EXHAUSTED, text);
		ex_pool_put(y);
		return;
	}
	struct ex_out *o = ex_frame_reply_pack(r, y, y_bytes, ex_pool_put, y);
	if (o)
		ex_rpc_send(l->rpc, o);
	else
		ex_rpc_abort(l->rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

/* A reply without partials: to a heartbeat, or to a frame that failed as a whole. */
static void send_short(struct lane *l, const struct ex_frame_request *f, int status, const char *error)
{
	struct ex_frame_reply r = {.id = f->id, .sent_ns = f->sent_ns, .status = status, .error = error};
	send_reply(l, &r, NULL, 0);
}

static const char *error_text(int status)
{
	switch (-status) {
	case 0:
		return NULL;
	case ENOENT:
		return "the shard is not on this host";
	case EAGAIN:
		return "the queue is full";
	case ESHUTDOWN:
		return "the host is stopping";
	case EIO:
		return "the shard's device failed";
	default:
		return strerrordesc_np(-status);
	}
}

/* --- jobs -------------------------------------------------------------------------------------------------------- */

/* The lane is not read while too much is in flight. One frame never is, however large: a router sends no second one
 * before its reply, and its heartbeats must be answered meanwhile, or it takes the host for dead. */
static void count_job(struct lane *l, size_t bytes)
{
	ex_lock_take(&l->lock);
	l->n_jobs++;
	l->in_flight_bytes += bytes;
	if (l->in_flight_bytes > l->env->in_flight_bytes_max && l->n_jobs > 1 && !l->paused) {
		l->paused = true;
		ex_rpc_pause(l->rpc);
	}
	ex_lock_give(&l->lock);
	atomic_fetch_add_explicit(&l->env->n_in_flight, 1, memory_order_relaxed);
}

static void uncount_job(struct lane *l, size_t bytes)
{
	ex_lock_take(&l->lock);
	l->n_jobs--;
	l->in_flight_bytes -= bytes;
	if ((l->in_flight_bytes <= l->env->in_flight_bytes_max || l->n_jobs <= 1) && l->paused) {
		l->paused = false;
		ex_rpc_resume(l->rpc);
	}
	bool end = l->half_closed && !l->n_jobs;
	ex_lock_give(&l->lock);
	if (end)
		ex_rpc_finish(l->rpc, EX_STATUS_OK, NULL);
	atomic_fetch_sub_explicit(&l->env->n_in_flight, 1, memory_order_release);
}

static void job_free(struct job *j)
{
	if (!j)
		return;
	ex_frame_request_done(&j->frame);
	ex_pool_put(j->x);
	ex_pool_put(j->y);
	ex_pool_put(j);
}

/* Fills the partials and moves those that are good together: a shard that failed has no rows in y. Returns y's bytes.
 */
static size_t gather(struct job *j)
{
	size_t row_floats = j->frame.d_model, n_rows = 0;
	for (uint32_t i = 0; i < j->frame.n_shards; i++) {
		const struct ex_work *w = &j->works[i];
		j->partials[i] = (struct ex_frame_partial){
			.first_expert = w->first_expert,
			.n_rows = w->n_rows,
			.generation = w->generation,
			.identity = w->identity,
			.status = w->status,
			.error = error_text(w->status),
		};
		if (w->status)
			continue;
		float *to = j->y + n_rows * row_floats;
		if (to != w->y)
			memmove(to, w->y, w->n_rows * row_floats * sizeof(float));
		n_rows += w->n_rows;
	}
	return n_rows * row_floats * sizeof(float);
}

/* One share of the job is done; the last one answers. [worker] or [cq] */
static void share_done(struct job *j)
{
	if (atomic_fetch_sub_explicit(&j->n_left, 1, memory_order_acq_rel) != 1)
		return;
	struct lane *l = j->lane;
	size_t y_bytes = gather(j);
	struct ex_frame_reply r = {
		.id = j->frame.id,
		.sent_ns = j->frame.sent_ns,
		.compute_ns = ex_now_ns() - j->arrived_ns,
		.n_shards = j->frame.n_shards,
		.shards = j->partials,
	};
	send_reply(l, &r, EX_TAKE(j->y), y_bytes);
	uncount_job(l, j->bytes);
	job_free(j);
	lane_drop(l);
}

static void work_done(struct ex_work *w)
{
	share_done(w->ctx);
}

/* Takes frame, of a message of n_bytes. NULL when memory is out: frame is as it was. */
static struct job *job_new(struct lane *l, struct ex_frame_request *frame, size_t n_bytes)
{
	struct ex_pool *pool = l->env->pool;
	size_t head = sizeof(struct job) + frame->n_shards * sizeof(struct ex_work);
	struct job *j = ex_pool_get(pool, head + frame->n_shards * sizeof(struct ex_frame_partial));
	if (!j)
		return NULL;
	*j = (struct job){.lane = l, .arrived_ns = ex_now_ns(), .n_left = frame->n_shards + 1};
	j->partials = (struct ex_frame_partial *)((char *)j + head);
	size_t y_bytes = (size_t)frame->n_partial_rows * frame->d_model * sizeof(float);
	j->bytes = JOB_OWN_BYTES + n_bytes + y_bytes;
	j->x = ex_pool_get(pool, frame->x_bytes);
	j->y = ex_pool_get(pool, y_bytes);
	if (!j->x || !j->y) {
		job_free(j);
		return NULL;
	}
	ex_pieces_copy(frame->x, frame->n_x, j->x); /* the one copy: pieces of 64 KiB do not suit a kernel */
	j->frame = *frame;
	frame->scratch = NULL;
	return j;
}

/* Hands the shards out. The job may be gone when it returns. */
static void job_start(struct job *j)
{
	const struct ex_frame_request *f = &j->frame;
	struct ex_executor *executor = j->lane->env->executor;
	float *y = j->y;
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const struct ex_frame_shard *s = &f->shards[i];
		struct ex_work *w = &j->works[i];
		*w = (struct ex_work){
			.epoch = f->epoch,
			.layer = f->layer,
			.first_expert = s->first_expert,
			.n_experts = s->n_experts,
			.x = j->x,
			.rows = s->rows,
			.offset = s->offset,
			.token = s->token,
			.weight = s->weight,
			.n_rows = s->n_rows,
			.x_dtype = f->x_dtype,
			.y = y,
			.done = work_done,
			.ctx = j,
		};
		y += (size_t)s->n_rows * f->d_model;
		int rc = ex_executor_submit(executor, w);
		if (rc) {
			w->status = rc;
			share_done(j);
		}
	}
	share_done(j);
}

/* --- the stream -------------------------------------------------------------------------------------------------- */

int ex_lane_start(struct ex_rpc *rpc, void *ctx)
{
	struct lane *l = ex_calloc(1, sizeof *l);
	if (!l)
		return -ENOMEM;
	l->env = ctx;
	l->rpc = ex_rpc_hold(rpc);
	l->refs = 1;
	ex_lock_init(&l->lock, "lane");
	ex_rpc_set_data(rpc, l);
	ex_lock_take(&l->env->lock);
	l->next = l->env->lanes;
	if (l->next)
		l->next->prev = l;
	l->env->lanes = l;
	ex_lock_give(&l->env->lock);
	return 0;
}

int ex_lane_start_with_word(struct ex_rpc *rpc, void *ctx)
{
	const struct ex_lane_env *env = ctx;
	char word[EX_WORD_MAX];
	if (ex_rpc_metadata(rpc, EX_WORD_KEY, word, sizeof word) || !ex_words_take(env->words, word))
		return -EACCES;
	return ex_lane_start(rpc, ctx);
}

static void unlist(struct lane *l)
{
	ex_lock_take(&l->env->lock);
	if (l->next)
		l->next->prev = l->prev;
	if (l->prev)
		l->prev->next = l->next;
	else
		l->env->lanes = l->next;
	ex_lock_give(&l->env->lock);
}

void ex_lanes_drain(struct ex_lane_env *env)
{
	const struct ex_frame_request nothing = {0}; /* answered as a heartbeat would be */
	atomic_store_explicit(&env->draining, true, memory_order_relaxed);
	ex_lock_take(&env->lock);
	for (struct lane *l = env->lanes; l; l = l->next)
		send_short(l, &nothing, 0, NULL);
	ex_lock_give(&env->lock);
}

unsigned ex_lanes_of_epoch(struct ex_lane_env *env, uint64_t epoch)
{
	unsigned n = 0;
	ex_lock_take(&env->lock);
	for (struct lane *l = env->lanes; l; l = l->next)
		n += atomic_load_explicit(&l->spoke, memory_order_acquire) &&
		     atomic_load_explicit(&l->epoch, memory_order_relaxed) == epoch;
	ex_lock_give(&env->lock);
	return n;
}

/* Answers the frame, which came in n_bytes, or makes a job of it. */
static void take_frame(struct lane *l, struct ex_frame_request *f, size_t n_bytes)
{
	atomic_store_explicit(&l->epoch, f->epoch, memory_order_relaxed);
	atomic_store_explicit(&l->spoke, true, memory_order_release);
	if (f->id == 0) {
		send_short(l, f, 0, NULL);
		return;
	}
	if (!ex_registry_has_epoch(l->env->registry, f->epoch)) {
		char text[96];
		snprintf(text, sizeof text, "epoch %llx is not here; epoch %llx is", (unsigned long long)f->epoch,
			(unsigned long long)ex_registry_epoch(l->env->registry));
		send_short(l, f, -ESTALE, text);
		return;
	}
	struct job *j = job_new(l, f, n_bytes);
	if (!j) {
		send_short(l, f, -ENOMEM, "out of memory");
		return;
	}
	atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
	count_job(l, j->bytes);
	job_start(j);
}

void ex_lane_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct lane *l = ex_rpc_data(rpc);
	const struct ex_lane_env *env = ctx;
	struct ex_err err = EX_ERR_INIT;
	struct ex_frame_request f;
	int rc = ex_frame_request_parse(m, env->d_model, env->n_experts, &err, &f);
	if (rc) {
		ex_rpc_finish_errno(rpc, rc, ex_err_text(&err));
	} else {
		take_frame(l, &f, ex_msg_bytes(m));
		ex_frame_request_done(&f);
	}
	ex_msg_free(m);
}

void ex_lane_half_close(struct ex_rpc *rpc, void *ctx)
{
	struct lane *l = ex_rpc_data(rpc);
	(void)ctx;
	ex_lock_take(&l->lock);
	l->half_closed = true;
	bool end = !l->n_jobs;
	ex_lock_give(&l->lock);
	if (end)
		ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

void ex_lane_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	(void)cancelled;
	(void)ctx;
	unlist(ex_rpc_data(rpc));
	lane_drop(ex_rpc_data(rpc));
}
