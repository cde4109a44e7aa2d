/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: a host's jobs out, its partials in. Layer L3. */
#include "engine/fabric.h"
#include "base/mem.h"

#include <string.h>

#define BUDGET_ROWS_MAX (1u << 20)

void ex_fabric_release_buffer(void *buffer)
{
	struct send_buffer *b = buffer;
	/* release: our reads of the rows are done; the last one acquires that before freeing */
	if (atomic_fetch_sub_explicit(&b->n_refs, 1, memory_order_acq_rel) == 1) {
		free(b->data);
		free(b);
	}
}

struct send_buffer *ex_fabric_new_buffer(const struct ex_dispatch *d, size_t n_rows)
{
	struct send_buffer *b = calloc(1, sizeof *b);
	if (b)
		b->data = ex_alloc_aligned(n_rows, ex_dispatch_x_bytes(d));
	if (!b || !b->data) {
		free(b);
		return NULL;
	}
	atomic_init(&b->n_refs, 1);
	return b;
}

/* Marks the rows that the jobs need in row_at and numbers them in order. Returns how many. */
static uint32_t number_rows(struct ex_dispatch *d, const uint64_t *jobs)
{
	uint32_t n = 0;
	memset(d->row_at, 0, d->n_rows * sizeof *d->row_at);
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (ex_bit(jobs, i))
			for (uint32_t r = 0; r < d->jobs[i].s->n_rows; r++)
				d->row_at[d->jobs[i].s->rows[r]] = 1;
	for (uint32_t i = 0; i < d->n_rows; i++)
		if (d->row_at[i]) {
			d->row_at[i] = n++;
			d->row_sends[i]++;
		} else {
			d->row_at[i] = UINT32_MAX;
		}
	return n;
}

/* The rows that travel: all of the step's as they lie, or a selection copied behind them, or, when what is sent again has
 * no place there, to a buffer of its own. *ret_buffer: which the caller holds a reference to. NULL: out of memory. */
static const uint8_t *select_rows(struct ex_dispatch *d, uint32_t n, struct send_buffer **ret_buffer)
{
	size_t bytes = ex_dispatch_x_bytes(d);
	struct send_buffer *b = d->buffer;
	uint8_t *selection = b->data;
	if (n != d->n_rows && d->n_selected + n > d->room_rows) {
		b = ex_fabric_new_buffer(d, n);
		if (!b)
			return NULL;
		selection = b->data;
	} else {
		atomic_fetch_add_explicit(&b->n_refs, 1, memory_order_relaxed);
		if (n != d->n_rows) {
			selection += ((size_t)d->o.rows_max + d->n_selected) * bytes;
			d->n_selected += n;
		}
	}
	for (uint32_t i = 0; n != d->n_rows && i < d->n_rows; i++)
		if (d->row_at[i] != UINT32_MAX)
			memcpy(selection + d->row_at[i] * bytes, d->buffer->data + i * bytes, bytes);
	*ret_buffer = b;
	return selection;
}

/* The jobs as the frame's shards, their rows renumbered. Returns how many. */
static uint32_t frame_shards(struct ex_dispatch *d, const uint64_t *jobs)
{
	uint32_t n = 0, *rows = d->frame_rows;
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		const struct ex_plan_shard *s = d->jobs[i].s;
		if (!ex_bit(jobs, i))
			continue;
		d->frame_shards[n++] = (struct ex_frame_shard){
			.first_expert = s->first_expert,
			.n_experts = s->n_experts,
			.n_rows = s->n_rows,
			.n_assignments = s->n_assignments,
			.rows = rows,
			.offset = s->offset,
			.token = s->token,
			.weight = s->weight,
		};
		for (uint32_t r = 0; r < s->n_rows; r++)
			*rows++ = d->row_at[s->rows[r]];
	}
	return n;
}

static struct out_frame *free_frame(struct ex_dispatch *d)
{
	for (uint32_t i = 0; i < d->n_frames; i++)
		if (!d->frames[i].host)
			return &d->frames[i];
	return d->n_frames < EX_DISPATCH_FRAMES_MAX ? &d->frames[d->n_frames++] : NULL;
}

/* The job has one frame less; when that failed and was the last one, it is open again. Under d->lock. */
static void leave_job(struct shard_job *j, struct fleet_host *h, int status)
{
	j->n_out--;
	if (j->state == JOB_DONE || j->state == JOB_FAILED)
		return;
	j->host = h;
	j->status = status;
	if (j->n_out == 0 && j->state == JOB_OUT)
		j->state = JOB_OPEN;
}

/* Ends f: its jobs, but for those in `except` (may be NULL), go on without it. Under d->lock. */
static void end_frame(struct ex_dispatch *d, struct out_frame *f, int status, const uint64_t *except)
{
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (ex_bit(f->jobs, i) && !(except && ex_bit(except, i)))
			leave_job(&d->jobs[i], f->host, status);
	f->host = NULL;
}

static struct out_frame *find_frame(struct ex_dispatch *d, const struct fleet_host *h, uint64_t id)
{
	for (uint32_t i = 0; i < d->n_frames; i++)
		if (d->frames[i].host == h && d->frames[i].id == id)
			return &d->frames[i];
	return NULL;
}

void ex_fabric_abort(struct fleet_host *h, int status)
{
	struct ex_dispatch *d = h->d;
	for (uint32_t i = 0; i < d->n_frames; i++) {
		struct out_frame *f = &d->frames[i];
		if (f->host != h || f->taking)
			continue;
		ex_metric_add(h->m.resent, f->n_rows);
		end_frame(d, f, status, NULL);
		h->n_errors++;
		ex_metric_add(h->m.errors, 1);
		pthread_cond_broadcast(&d->cond);
	}
}

/* Enters the frame for the jobs. Returns its stream's reference; NULL when h is gone meanwhile: the jobs stay open, and
 * h counts as asked. */
static struct ex_stream *claim_stream(
	struct fleet_host *h, const uint64_t *jobs, uint64_t id, uint64_t now, uint32_t n_rows)
{
	struct ex_dispatch *d = h->d;
	struct ex_stream *stream = NULL;
	ex_lock_take(&d->lock);
	struct out_frame *f = ex_host_usable(h) ? free_frame(d) : NULL;
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		struct shard_job *j = &d->jobs[i];
		if (!ex_bit(jobs, i))
			continue;
		ex_bit_set(j->asked, (size_t)(h - d->hosts));
		if (f) {
			j->state = j->state == JOB_OPEN ? JOB_OUT : j->state;
			j->n_out++;
		} else if (j->state == JOB_OPEN) {
			j->host = h;
			j->status = -EHOSTDOWN;
		}
	}
	if (f) {
		stream = ex_stream_hold(h->stream);
		*f = (struct out_frame){.host = h, .id = id, .sent_ns = now, .n_rows = n_rows};
		memcpy(f->jobs, jobs, sizeof f->jobs);
		h->used_ns = now;
		h->n_rows += n_rows;
		ex_metric_add(h->m.rows, n_rows);
		ex_metric_add(h->m.frames, 1);
	}
	ex_lock_give(&d->lock);
	return stream;
}

/* Ends the frame that could not be sent, unless its end has come meanwhile. */
static void unsend(struct fleet_host *h, uint64_t id, int status)
{
	ex_lock_take(&h->d->lock);
	struct out_frame *f = find_frame(h->d, h, id);
	if (f)
		end_frame(h->d, f, status, NULL);
	ex_lock_give(&h->d->lock);
}

static void count_budget(struct ex_dispatch *d, uint32_t n_rows)
{
	d->rows_budget += n_rows;
	if (d->rows_budget > BUDGET_ROWS_MAX) { /* what was long ago counts less and less */
		d->rows_budget /= 2;
		d->rows_hedged /= 2;
	}
}

void ex_fabric_send(struct ex_dispatch *d, struct fleet_host *h, const uint64_t *jobs)
{
	uint64_t now = ex_now_ns(), id = ++d->frame_id;
	struct send_buffer *buffer = NULL;
	uint32_t n_rows = number_rows(d, jobs);
	const struct ex_frame_request f = {
		.id = id,
		.epoch = d->o.epoch,
		.sent_ns = now,
		.layer = d->layer,
		.x_dtype = d->o.x_dtype,
		.n_rows = n_rows,
		.d_model = d->o.d_model,
		.n_shards = frame_shards(d, jobs),
		.shards = d->frame_shards,
	};
	struct ex_stream *stream = claim_stream(h, jobs, id, now, n_rows);
	if (!stream)
		return;
	int rc = -ENOMEM;
	const uint8_t *x = select_rows(d, n_rows, &buffer);
	struct ex_out *out = NULL;
	if (x)
		out = ex_frame_request_pack(&f, x, n_rows * ex_dispatch_x_bytes(d), ex_fabric_release_buffer, buffer);
	if (out)
		rc = ex_stream_send(stream, out); /* its failure means that `closed` is on its way, or was here */
	ex_stream_drop(stream);
	if (rc) {
		unsend(h, id, rc);
		return;
	}
	d->rows_sent += n_rows;
	for (uint32_t i = 0; i < d->n_jobs; i++)
		if (ex_bit(jobs, i))
			count_budget(d, d->jobs[i].s->n_rows);
}

void ex_peer_text(char *dst, size_t size, const char *text)
{
	size_t n = 0;
	for (; text[n] && n + 1 < size; n++)
		dst[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
	dst[n] = '\0';
}

/* A reading place in a reply's pieces. */
struct cursor {
	const struct ex_piece *piece;
	size_t n_pieces, at;
};

/* The next n bytes to dst; NULL: nowhere. The parser has checked that they are there. */
static void read_bytes(struct cursor *c, void *dst, size_t n)
{
	uint8_t *out = dst;
	while (n) {
		assert(c->n_pieces);
		size_t part = EX_MIN(n, c->piece->n - c->at);
		if (out) {
			memcpy(out, c->piece->data + c->at, part);
			out += part;
		}
		n -= part;
		c->at += part;
		if (c->at == c->piece->n) {
			c->piece++;
			c->n_pieces--;
			c->at = 0;
		}
	}
}

/* A reply on its way in. */
struct taking {
	struct out_frame *frame;
	struct ex_frame_reply const *reply;
	uint64_t mine[EX_JOB_WORDS]; /* jobs that this is the first answer to */
};

/* Takes the frame, and its jobs that nobody has answered yet: nobody else ends them until we are through. */
static bool claim_reply(struct fleet_host *h, struct taking *t)
{
	struct ex_dispatch *d = h->d;
	ex_lock_take(&d->lock);
	t->frame = find_frame(d, h, t->reply->id);
	if (t->frame) {
		t->frame->taking = true;
		d->n_taking++;
		for (uint32_t i = 0; i < d->n_jobs; i++)
			if (ex_bit(t->frame->jobs, i) && d->jobs[i].state == JOB_OUT) {
				d->jobs[i].state = JOB_TAKING;
				ex_bit_set(t->mine, i);
			}
	}
	ex_lock_give(&d->lock);
	return t->frame != NULL;
}

/* Copies the partials of the jobs that are ours. */
static int take_partials(struct ex_dispatch *d, const struct taking *t, struct ex_err *err)
{
	const struct ex_frame_reply *reply = t->reply;
	struct cursor c = {.piece = reply->y, .n_pieces = reply->n_y};
	uint32_t n = 0;
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		struct shard_job *j = &d->jobs[i];
		if (!ex_bit(t->frame->jobs, i))
			continue;
		const struct ex_frame_partial *p = n < reply->n_shards ? &reply->shards[n] : NULL;
		n++;
		if (!p || p->first_expert != j->s->first_expert || p->n_rows != j->s->n_rows)
			return ex_err_set(err, -EBADMSG,
				"reply %u of %u does not answer the shard from expert %u with %u rows", n,
				reply->n_shards, j->s->first_expert, j->s->n_rows);
		if (!p->status)
			read_bytes(
				&c, ex_bit(t->mine, i) ? j->y : NULL, (size_t)p->n_rows * d->o.d_model * sizeof *j->y);
	}
	if (n != reply->n_shards)
		return ex_err_set(err, -EBADMSG, "reply has %u shards, %u were asked", reply->n_shards, n);
	return 0;
}

bool ex_fabric_fits(struct shard_job *j, uint64_t identity)
{
	const struct ex_dispatch *d = j->d;
	const uint64_t in_use = d->identity[ex_dispatch_slot(d, d->layer, j->s->group)];
	if (!identity || identity == j->identity)
		return true;
	if (j->check_of || (in_use && in_use != identity && d->o.failover != EX_FAILOVER_ANY))
		return false;
	j->identity = identity;
	return true;
}

/* 0, or -ESTALE: h has swapped the shard since its Hello, and what it computes now would mix two identities in one answer. Its list is renewed,
 * and until then this shard of it is what it says. Under d->lock. */
static int check_identity(struct fleet_host *h, struct shard_job *j, uint64_t identity)
{
	const struct ex_dispatch *d = h->d;
	const size_t slot = ex_dispatch_slot(d, d->layer, j->s->group);
	if (identity && identity != j->identity) {
		h->stale = true;
		if (h->identity[slot])
			ex_host_set_identity(h, slot, identity);
	}
	if (ex_fabric_fits(j, identity))
		return 0;
	ex_metric_add(h->m.resent, j->s->n_rows);
	return -ESTALE;
}

/* The first answer to the jobs that are ours, under d->lock. rc: of take_partials. */
static void settle_jobs(struct fleet_host *h, struct taking *t, int rc)
{
	struct ex_dispatch *d = h->d;
	uint32_t n = 0;
	for (uint32_t i = 0; i < d->n_jobs; i++) {
		struct shard_job *j = &d->jobs[i];
		if (!ex_bit(t->frame->jobs, i))
			continue;
		const struct ex_frame_partial *p = rc || t->reply->status ? NULL : &t->reply->shards[n++];
		int status = p ? p->status : rc ? rc : t->reply->status;
		if (!ex_bit(t->mine, i))
			continue;
		if (!status)
			status = check_identity(h, j, p->identity);
		j->n_out--;
		j->host = h;
		j->status = status;
		j->state = !status ? JOB_DONE : j->n_out ? JOB_OUT : JOB_OPEN;
	}
	end_frame(d, t->frame, 0, t->mine);
	d->n_taking--;
	pthread_cond_broadcast(&d->cond);
}

/* Moves a running estimate by an eighth of the way to a new value. */
static uint64_t smooth(uint64_t old, uint64_t fresh)
{
	return old ? old - old / 8 + fresh / 8 : fresh;
}

/* What the reply tells about the cost of asking h. Under d->lock. */
static void learn(struct fleet_host *h, const struct out_frame *f, const struct ex_frame_reply *reply)
{
	uint64_t took = ex_now_ns() - f->sent_ns;
	h->reply_ns = smooth(h->reply_ns, took);
	h->frame_rows = (uint32_t)smooth(h->frame_rows, f->n_rows);
	h->queued = reply->queued;
	h->busy_ns += EX_MIN(reply->compute_ns, took); /* its clock is its own, and it may lie */
	/* a quantile by small steps: 99 of them down outweigh one up */
	if (!h->p99_ns)
		h->p99_ns = 4 * took;
	else if (took > h->p99_ns)
		h->p99_ns += EX_MIN(took - h->p99_ns, h->p99_ns / 8 + took / 8);
	else
		h->p99_ns -= h->p99_ns / 800;
	ex_metric_observe(h->m.seconds, (double)took / (double)EX_NS_PER_S);
}

static const char *first_error(const struct ex_frame_reply *reply)
{
	if (reply->status)
		return reply->error ? reply->error : "the frame was refused";
	for (uint32_t i = 0; i < reply->n_shards; i++)
		if (reply->shards[i].status)
			return reply->shards[i].error ? reply->shards[i].error : "a shard failed";
	return NULL;
}

/* The host was restarted with other shards between its Hello and its stream, or has lost one: its list is to be renewed. */
static bool lacks_shard(const struct ex_frame_reply *reply)
{
	for (uint32_t i = 0; i < reply->n_shards; i++)
		if (reply->shards[i].status == -ENOENT)
			return true;
	return false;
}

int ex_fabric_receive(struct fleet_host *h, const struct ex_frame_reply *reply, struct ex_err *err)
{
	struct ex_dispatch *d = h->d;
	struct taking t = {.reply = reply};
	if (!claim_reply(h, &t))
		return 0;
	int rc = reply->status ? 0 : take_partials(d, &t, err);
	const char *error = first_error(reply);
	ex_lock_take(&d->lock);
	h->stale |= lacks_shard(reply);
	if (rc || error) {
		h->n_errors++;
		ex_metric_add(h->m.errors, 1);
		ex_peer_text(h->error, sizeof h->error, rc ? ex_err_text(err) : error);
	}
	learn(h, t.frame, reply);
	settle_jobs(h, &t, rc);
	ex_lock_give(&d->lock);
	return rc;
}
