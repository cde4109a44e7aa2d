/* SPDX-License-Identifier: Apache-2.0 */
/* The models that an engine serves: one, and while a switch is under way the one before. Layer L3.
 *
 * Each has sequences, KV pages and a dispatch of its own, so a step cannot mix them; the step thread gives each a step in turn. A side goes
 * when it has no users: no request that was taken for it and has not ended, and nobody who encodes a prompt for it. */
#include "engine/impl.h"

#include "base/mem.h"

int ex_side_new(const struct ex_engine_opts *o, const struct ex_engine_model *m, struct ex_side **ret)
{
	struct ex_side *s = ex_calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->m = *m;
	s->moe = m->dispatch ? ex_dispatch_moe_ops(m->dispatch) : m->moe;
	int rc = ex_kv_new(o->n_pages, o->page_tokens, &s->kv);
	if (!rc)
		rc = ex_sched_init(&s->sched, s->kv, o->max_batch, o->step_tokens_max);
	if (rc) {
		ex_side_free(s);
		return rc;
	}
	/* a sequence may be as long as the context and the whole pool allow */
	uint64_t pool = (uint64_t)o->n_pages * o->page_tokens;
	s->limits = (struct ex_request_limits){
		.n_ctx = (uint32_t)EX_MIN(pool, (uint64_t)o->n_ctx),
		.vocab = m->config->vocab_size,
		.kv = s->kv,
		.text = {.tokenizer = m->tokenizer},
	};
	ex_text_think_ids(m->tokenizer, m->chat, &s->limits.text.think_open, &s->limits.text.think_close);
	*ret = s;
	return 0;
}

struct ex_side *ex_side_free(struct ex_side *s)
{
	if (s) {
		if (s->sched.running)
			ex_sched_done(&s->sched);
		ex_kv_free(s->kv);
		free(s);
	}
	return NULL;
}

const struct ex_tokenizer *ex_side_tokenizer(const struct ex_side *s)
{
	return s->m.tokenizer;
}

const struct ex_chat *ex_side_chat(const struct ex_side *s)
{
	return s->m.chat;
}

void *ex_side_user(const struct ex_side *s)
{
	return s->m.user;
}

void *ex_request_user(const struct ex_request *r)
{
	EX_CHECK_OBJ(r, EX_REQUEST_MAGIC);
	return r->side->m.user;
}

/* --- users [any] ----------------------------------------------------------------------------------------- */

struct ex_side *ex_engine_hold(struct ex_engine *e)
{
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_lock_take(&e->lock);
	struct ex_side *s = e->next ? e->next : e->side;
	s->n_users++;
	ex_lock_give(&e->lock);
	return s;
}

void ex_sides_leave(struct ex_engine *e, struct ex_side *s)
{
	ex_lock_take(&e->lock);
	assert(s->n_users);
	if (--s->n_users == 0)
		pthread_cond_signal(&e->wake);
	ex_lock_give(&e->lock);
}

void ex_engine_release(struct ex_engine *e, struct ex_side *s)
{
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	ex_sides_leave(e, s);
}

int ex_engine_switch(struct ex_engine *e, const struct ex_engine_model *m, struct ex_err *err)
{
	struct ex_side *s;
	EX_CHECK_OBJ(e, EX_ENGINE_MAGIC);
	assert(m->config->vocab_size == e->vocab);
	if (ex_side_new(&e->o, m, &s))
		return ex_err_set(err, -ENOMEM, "engine: out of memory for a second model");
	ex_lock_take(&e->lock);
	int rc = e->stopping || e->draining ? ex_err_set(err, -ESHUTDOWN, "the server stops")
		 : e->next || e->before ? ex_err_set(err, -EBUSY, "the model before the last switch still has requests")
					: 0;
	if (!rc) {
		e->next = s;
		pthread_cond_signal(&e->wake);
	}
	ex_lock_give(&e->lock);
	if (rc)
		ex_side_free(s);
	return rc;
}

/* --- turning [step] -------------------------------------------------------------------------------------- */

bool ex_sides_wait(const struct ex_engine *e)
{
	return e->next || (e->before && !e->before->n_users);
}

/* r, in no schedule, is answered by `to` from now on. Its tokenizer is the same one by content. */
static void move(struct ex_engine *e, struct ex_request *r, struct ex_side *to)
{
	struct ex_side *from = r->side;
	ex_lock_take(&e->lock);
	from->n_users--;
	to->n_users++;
	ex_lock_give(&e->lock);
	from->n_started -= r->started;
	to->n_started += r->started;
	r->side = to;
	r->text.o.tokenizer = to->limits.text.tokenizer;
	ex_sched_push(&to->sched, &r->seq);
	e->n_moved++;
}

static void move_all(struct ex_engine *e, struct ex_side *from, struct ex_side *to)
{
	/* those that run first, oldest first: they were admitted before the ones that wait */
	while (from->sched.n_running) {
		struct ex_seq *q = from->sched.running[0];
		ex_sched_remove(&from->sched, q);
		move(e, ex_request_of(q), to);
	}
	while (from->sched.first) {
		struct ex_seq *q = from->sched.first;
		ex_sched_remove(&from->sched, q);
		move(e, ex_request_of(q), to);
	}
}

void ex_sides_turn(struct ex_engine *e)
{
	ex_lock_take(&e->lock);
	bool turn = e->next != NULL;
	if (turn) {
		e->before = e->side;
		e->side = EX_TAKE(e->next);
	}
	ex_lock_give(&e->lock);
	if (turn && e->side->m.move)
		move_all(e, e->before, e->side);
}

void ex_sides_push(struct ex_engine *e, struct ex_request *r)
{
	if (r->side == e->before && e->side->m.move) /* its prompt was being encoded during the switch */
		move(e, r, e->side);
	else
		ex_sched_push(&r->side->sched, &r->seq);
}

void ex_sides_retire(struct ex_engine *e)
{
	struct ex_side *gone = NULL;
	ex_lock_take(&e->lock);
	if (e->before && !e->before->n_users) {
		gone = EX_TAKE(e->before);
		e->n_looks_gone += gone->m.dispatch ? ex_dispatch_looks(gone->m.dispatch) : 0;
	}
	ex_lock_give(&e->lock);
	if (!gone)
		return;
	assert(ex_side_is_empty(gone));
	e->n_preempted_gone += gone->sched.n_preempted;
	ex_side_free(gone);
	if (e->side->m.retired)
		e->side->m.retired(e->side->m.ctx);
}
