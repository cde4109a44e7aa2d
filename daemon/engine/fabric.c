/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: a host's jobs out, its partials in. Layer L3. */
#include "engine/fabric.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

void ex_fabric_release_buffer(void *buffer)
{
	struct send_buffer *b = buffer;
	/* release: our reads of the rows are done; the last one acquires that before freeing */
	if (atomic_fetch_sub_explicit(&b->n_refs, 1, memory_order_acq_rel) == 1) {
		free(b->data);
		free(b);
	}
}

/* Marks the rows that h's jobs need in row_at and numbers them in order. Returns how many. */
static uint32_t number_rows(struct ex_dispatch *d, const struct fleet_host *h)
{
	uint32_t n = 0;
	memset(d->row_at, 0, d->n_rows * sizeof *d->row_at);
	for (uint32_t i = 0; i < d->plan.n_shards; i++)
		if (d->jobs[i].host == h)
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

/* The rows that travel: all of the step's as they lie, or a selection copied behind them. */
static const uint8_t *select_rows(struct ex_dispatch *d, uint32_t n)
{
	size_t bytes = ex_dispatch_x_bytes(d);
	if (n == d->n_rows)
		return d->buffer->data;
	uint8_t *selection = d->buffer->data + ((size_t)d->o.rows_max + d->n_selected) * bytes, *at = selection;
	for (uint32_t i = 0; i < d->n_rows; i++)
		if (d->row_at[i] != UINT32_MAX) {
			memcpy(at, d->buffer->data + i * bytes, bytes);
			at += bytes;
		}
	d->n_selected += n;
	return selection;
}

/* h's jobs as the frame's shards, their rows renumbered. Returns how many. */
static uint32_t frame_shards(struct ex_dispatch *d, const struct fleet_host *h)
{
	uint32_t n = 0, *rows = d->frame_rows;
	for (uint32_t i = 0; i < d->plan.n_shards; i++) {
		const struct ex_plan_shard *s = d->jobs[i].s;
		if (d->jobs[i].host != h)
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

/* Takes the place of h's frame and its stream's reference; NULL when h is gone meanwhile. */
static struct ex_stream *claim_stream(struct fleet_host *h, uint64_t id, uint64_t now, uint32_t n_rows)
{
	struct ex_dispatch *d = h->d;
	struct ex_stream *stream = NULL;
	ex_lock_take(&d->lock);
	assert(h->frame.state == FRAME_NONE);
	if (h->state == EX_HOST_READY && h->stream) {
		stream = ex_stream_hold(h->stream);
		h->frame = (struct host_frame){.state = FRAME_SENT, .id = id, .sent_ns = now};
		h->n_rows += n_rows;
		ex_metric_add(h->m.rows, n_rows);
		ex_metric_add(h->m.frames, 1);
		d->n_open++;
	}
	ex_lock_give(&d->lock);
	return stream;
}

static void fail_jobs(struct ex_dispatch *d, const struct fleet_host *h, int status)
{
	for (uint32_t i = 0; i < d->plan.n_shards; i++)
		if (d->jobs[i].host == h)
			d->jobs[i].status = status;
}

void ex_fabric_abort(struct fleet_host *h, int status)
{
	struct ex_dispatch *d = h->d;
	if (h->frame.state != FRAME_SENT)
		return;
	fail_jobs(d, h, status);
	h->frame.state = FRAME_NONE;
	h->n_errors++;
	ex_metric_add(h->m.errors, 1);
	d->n_open--;
	pthread_cond_broadcast(&d->cond);
}

void ex_fabric_send(struct ex_dispatch *d, struct fleet_host *h, uint32_t layer)
{
	uint64_t now = ex_now_ns(), id = ++d->frame_id;
	uint32_t n_rows = number_rows(d, h);
	const uint8_t *x = select_rows(d, n_rows);
	const struct ex_frame_request f = {
		.id = id,
		.sent_ns = now,
		.layer = layer,
		.x_dtype = d->o.x_dtype,
		.n_rows = n_rows,
		.d_model = d->o.d_model,
		.n_shards = frame_shards(d, h),
		.shards = d->frame_shards,
	};
	struct ex_stream *stream = claim_stream(h, id, now, n_rows);
	if (!stream) {
		fail_jobs(d, h, -EHOSTDOWN);
		return;
	}
	d->rows_sent += n_rows;
	atomic_fetch_add_explicit(&d->buffer->n_refs, 1, memory_order_relaxed);
	struct ex_out *out =
		ex_frame_request_pack(&f, x, n_rows * ex_dispatch_x_bytes(d), ex_fabric_release_buffer, d->buffer);
	int rc = -ENOMEM;
	if (out)
		rc = ex_stream_send(stream, out); /* its failure means that `closed` is on its way, or was here */
	ex_stream_drop(stream);
	if (rc) {
		ex_lock_take(&d->lock);
		ex_fabric_abort(h, rc);
		ex_lock_give(&d->lock);
	}
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

/* The next n bytes to dst. The parser has checked that they are there. */
static void read_bytes(struct cursor *c, void *dst, size_t n)
{
	uint8_t *out = dst;
	while (n) {
		assert(c->n_pieces);
		size_t part = EX_MIN(n, c->piece->n - c->at);
		memcpy(out, c->piece->data + c->at, part);
		out += part;
		n -= part;
		c->at += part;
		if (c->at == c->piece->n) {
			c->piece++;
			c->n_pieces--;
			c->at = 0;
		}
	}
}

static bool claim_reply(struct fleet_host *h, uint64_t id)
{
	ex_lock_take(&h->d->lock);
	bool ours = h->frame.state == FRAME_SENT && h->frame.id == id;
	if (ours)
		h->frame.state =
			FRAME_RECEIVING; /* from here no timeout ends it: the step thread waits until we are through */
	ex_lock_give(&h->d->lock);
	return ours;
}

/* Copies every job's partial. The jobs are ours while the frame is RECEIVING. */
static int take_partials(struct fleet_host *h, const struct ex_frame_reply *reply, struct ex_err *err)
{
	struct ex_dispatch *d = h->d;
	struct cursor c = {.piece = reply->y, .n_pieces = reply->n_y};
	uint32_t n = 0;
	for (uint32_t i = 0; i < d->plan.n_shards; i++) {
		struct shard_job *j = &d->jobs[i];
		if (j->host != h)
			continue;
		const struct ex_frame_partial *p = n < reply->n_shards ? &reply->shards[n] : NULL;
		n++;
		if (!p || p->first_expert != j->s->first_expert || p->n_rows != j->s->n_rows)
			return ex_err_set(err, -EBADMSG,
				"reply %u of %u does not answer the shard from expert %u with %u rows", n,
				reply->n_shards, j->s->first_expert, j->s->n_rows);
		j->status = p->status;
		if (!p->status)
			read_bytes(&c, j->y, (size_t)p->n_rows * d->o.d_model * sizeof *j->y);
	}
	if (n != reply->n_shards)
		return ex_err_set(err, -EBADMSG, "reply has %u shards, %u were asked", reply->n_shards, n);
	return 0;
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
	if (!claim_reply(h, reply->id))
		return 0;
	int rc = 0;
	if (reply->status)
		fail_jobs(d, h, reply->status);
	else
		rc = take_partials(h, reply, err);
	if (rc)
		fail_jobs(d, h, rc);
	const char *error = first_error(reply);
	ex_lock_take(&d->lock);
	h->loading |= lacks_shard(reply);
	if (rc || error) {
		h->n_errors++;
		ex_metric_add(h->m.errors, 1);
		ex_peer_text(h->error, sizeof h->error, rc ? ex_err_text(err) : error);
	}
	ex_metric_observe(h->m.seconds, (double)(ex_now_ns() - h->frame.sent_ns) / (double)EX_NS_PER_S);
	h->frame.state = FRAME_NONE;
	d->n_open--;
	pthread_cond_broadcast(&d->cond);
	ex_lock_give(&d->lock);
	return rc;
}
