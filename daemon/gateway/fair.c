/* SPDX-License-Identifier: Apache-2.0 */
/* The weighted fair queue. Layer L4. */
#include "gateway/fair.h"

#include "base/clock.h"
#include "base/mem.h"

#define FAIR_MAGIC 0x46414952u
#define SCALE      1024 /* of virtual time, so that weights divide costs finely */

enum kind { KIND_IDLE, KIND_BUSY, KIND_N }; /* flows with nothing running, and the others */

struct heap {
	struct ex_fair_flow **v; /* [items_max], least start first */
	uint32_t n;
};

struct tier {
	uint32_t weight;
	uint32_t n_backlogged, n_active;
	uint64_t weights_active; /* of flows that have something queued or were promised a time: those that share */
	uint64_t start, finish, now;
	struct heap heap[KIND_N];
};

struct promise {
	uint64_t due_ns, likeness;
	uint32_t cost, next;
};

struct ex_fair {
	uint32_t magic;
	struct tier *tiers;
	uint32_t n_tiers, items_max, reserve, n_queued;
	uint64_t wait_max_ns, backlog, promised_cost, now;
	double cost_per_s;
	struct promise *promises; /* [items_max] */
	uint32_t promise_free;
	struct ex_fair_flow *promised; /* flows with promises */
};

int ex_fair_new(const struct ex_fair_opts *o, struct ex_err *err, struct ex_fair **ret)
{
	if (!o->n_tiers || o->n_tiers > EX_FAIR_TIERS_MAX || !o->items_max || o->items_max > EX_FAIR_ITEMS_MAX)
		return ex_err_set(err, -EINVAL, "a fair queue has 1 to %d tiers and room for 1 to %d requests",
			EX_FAIR_TIERS_MAX, EX_FAIR_ITEMS_MAX);
	for (uint32_t i = 0; i < o->n_tiers; i++)
		if (!o->tier_weights[i] || o->tier_weights[i] > EX_FAIR_WEIGHT_MAX)
			return ex_err_set(err, -EINVAL, "a tier's weight is from 1 to %d", EX_FAIR_WEIGHT_MAX);
	EX_CLEANUP(ex_fair_freep) struct ex_fair *q = ex_calloc(1, sizeof *q);
	if (!q)
		return ex_err_errno(err, -ENOMEM, "cannot make the queue of requests");
	*q = (struct ex_fair){.magic = FAIR_MAGIC,
		.items_max = o->items_max,
		.reserve = o->reserve,
		.wait_max_ns = o->wait_max_ns,
		.tiers = ex_calloc(o->n_tiers, sizeof *q->tiers),
		.promises = ex_calloc(o->items_max, sizeof *q->promises)};
	if (!q->tiers || !q->promises)
		return ex_err_errno(err, -ENOMEM, "cannot make the queue of requests");
	for (q->n_tiers = 0; q->n_tiers < o->n_tiers; q->n_tiers++) {
		struct tier *t = &q->tiers[q->n_tiers];
		t->weight = o->tier_weights[q->n_tiers];
		for (int k = 0; k < KIND_N; k++)
			t->heap[k].v = ex_calloc(o->items_max, sizeof *t->heap[k].v);
		if (!t->heap[KIND_IDLE].v || !t->heap[KIND_BUSY].v) {
			q->n_tiers++;
			return ex_err_errno(err, -ENOMEM, "cannot make the queue of requests");
		}
	}
	for (uint32_t i = 0; i < o->items_max; i++)
		q->promises[i].next = i + 1 < o->items_max ? i + 1 : EX_FAIR_PROMISE_NONE;
	*ret = EX_TAKE(q);
	return 0;
}

struct ex_fair *ex_fair_free(struct ex_fair *q)
{
	if (!q)
		return NULL;
	EX_CHECK_OBJ(q, FAIR_MAGIC);
	assert(q->n_queued == 0);
	for (uint32_t i = 0; i < q->n_tiers; i++)
		for (int k = 0; k < KIND_N; k++)
			free(q->tiers[i].heap[k].v);
	free(q->tiers);
	free(q->promises);
	q->magic = 0;
	free(q);
	return NULL;
}

void ex_fair_set_rate(struct ex_fair *q, double cost_per_s)
{
	q->cost_per_s = cost_per_s;
}

/* --- heaps of flows ----------------------------------------------------------------------------------------------- */

static void put_at(struct heap *h, uint32_t i, struct ex_fair_flow *f)
{
	h->v[i] = f;
	f->at = i;
}

static void sift_up(struct heap *h, uint32_t i)
{
	struct ex_fair_flow *f = h->v[i];
	for (; i > 0 && f->start < h->v[(i - 1) / 2]->start; i = (i - 1) / 2)
		put_at(h, i, h->v[(i - 1) / 2]);
	put_at(h, i, f);
}

static void sift_down(struct heap *h, uint32_t i)
{
	struct ex_fair_flow *f = h->v[i];
	for (uint32_t child; (child = 2 * i + 1) < h->n; i = child) {
		if (child + 1 < h->n && h->v[child + 1]->start < h->v[child]->start)
			child++;
		if (f->start <= h->v[child]->start)
			break;
		put_at(h, i, h->v[child]);
	}
	put_at(h, i, f);
}

static void heap_add(struct heap *h, struct ex_fair_flow *f)
{
	put_at(h, h->n++, f);
	sift_up(h, h->n - 1);
}

static void heap_drop(struct heap *h, struct ex_fair_flow *f)
{
	uint32_t i = f->at;
	struct ex_fair_flow *last = h->v[--h->n];
	assert(h->v[i] == f || last == f);
	if (last == f)
		return;
	put_at(h, i, last);
	sift_up(h, i);
	sift_down(h, last->at);
}

static struct heap *heap_of(struct ex_fair *q, const struct ex_fair_flow *f)
{
	return &q->tiers[f->tier].heap[f->n_running ? KIND_BUSY : KIND_IDLE];
}

/* --- shares ------------------------------------------------------------------------------------------------------- */

static uint64_t virtual_of(uint64_t cost, uint32_t weight)
{
	return cost * SCALE / weight;
}

static bool is_active(const struct ex_fair_flow *f)
{
	return f->n_queued || f->promised;
}

/* To be told of every change of what f has queued or was promised. */
static void note_active(struct ex_fair *q, const struct ex_fair_flow *f, bool was)
{
	struct tier *t = &q->tiers[f->tier];
	if (is_active(f) && !was) {
		t->n_active++;
		t->weights_active += f->weight;
	} else if (!is_active(f) && was) {
		t->n_active--;
		t->weights_active -= f->weight;
	}
}

/* f has something queued from now on. What it used up long ago counts no more. */
static void begin_backlog(struct ex_fair *q, struct ex_fair_flow *f)
{
	struct tier *t = &q->tiers[f->tier];
	if (t->n_backlogged++ == 0)
		t->start = EX_MAX(q->now, t->finish);
	f->start = EX_MAX(t->now, f->finish);
	heap_add(heap_of(q, f), f);
}

static void end_backlog(struct ex_fair *q, struct ex_fair_flow *f)
{
	struct tier *t = &q->tiers[f->tier];
	heap_drop(heap_of(q, f), f);
	t->n_backlogged--;
}

static void unlink_item(struct ex_fair *q, struct ex_fair_item *item)
{
	struct ex_fair_flow *f = item->flow;
	bool was = is_active(f);
	*(item->prev ? &item->prev->next : &f->head) = item->next;
	*(item->next ? &item->next->prev : &f->tail) = item->prev;
	f->n_queued--;
	f->backlog -= item->cost;
	q->n_queued--;
	q->backlog -= item->cost;
	item->next = item->prev = NULL;
	note_active(q, f, was);
}

static uint64_t ns_of(double s)
{
	return s < 1e9 ? (uint64_t)(s * (double)EX_NS_PER_S) : UINT64_C(1000000000) * EX_NS_PER_S;
}

/* Until what f has queued, and `more` that comes after it, is served at f's share. Who else comes changes that little. */
static uint64_t wait_at_share_ns(const struct ex_fair *q, const struct ex_fair_flow *f, uint64_t more)
{
	const struct tier *own = &q->tiers[f->tier];
	double tier_weights = own->n_active ? 0 : own->weight;
	double flow_weights = (double)own->weights_active + (is_active(f) ? 0 : f->weight);
	if (!(q->cost_per_s > 0))
		return 0;
	for (uint32_t i = 0; i < q->n_tiers; i++)
		tier_weights += q->tiers[i].n_active ? q->tiers[i].weight : 0;
	double share = own->weight / tier_weights * (f->weight / flow_weights);
	return ns_of((double)(f->backlog + more) / share / q->cost_per_s);
}

/* The same, but not longer than all would take that is queued or was promised to others. */
static uint64_t wait_ns(const struct ex_fair *q, const struct ex_fair_flow *f, uint64_t more)
{
	if (!(q->cost_per_s > 0))
		return 0;
	uint64_t all = ns_of((double)(q->backlog + q->promised_cost - f->promised + more) / q->cost_per_s);
	return EX_MIN(all, wait_at_share_ns(q, f, more));
}

uint64_t ex_fair_wait_ns(const struct ex_fair *q, const struct ex_fair_flow *f, uint32_t cost)
{
	return q->backlog ? wait_ns(q, f, cost) : 0;
}

static uint64_t longest_ns(const struct ex_fair *q)
{
	return q->wait_max_ns + q->wait_max_ns / 2;
}

/* --- promises ----------------------------------------------------------------------------------------------------- */

/* Takes promise i of f out; before it comes prev, or none. */
static void drop_promise(struct ex_fair *q, struct ex_fair_flow *f, uint32_t prev, uint32_t i)
{
	bool was = is_active(f);
	struct promise *p = &q->promises[i];
	*(prev != EX_FAIR_PROMISE_NONE ? &q->promises[prev].next : &f->promise_head) = p->next;
	if (f->promise_tail == i)
		f->promise_tail = prev;
	if (f->promise_head == EX_FAIR_PROMISE_NONE) {
		*(f->promised_prev ? &f->promised_prev->promised_next : &q->promised) = f->promised_next;
		if (f->promised_next)
			f->promised_next->promised_prev = f->promised_prev;
		f->promised_next = f->promised_prev = NULL;
	}
	f->promised -= p->cost;
	q->promised_cost -= p->cost;
	p->next = q->promise_free;
	q->promise_free = i;
	note_active(q, f, was);
}

/* They are in the order in which they are due. */
static void forget_overdue(struct ex_fair *q, struct ex_fair_flow *f, uint64_t now_ns)
{
	while (f->promise_head != EX_FAIR_PROMISE_NONE &&
		now_ns > q->promises[f->promise_head].due_ns + EX_FAIR_GRACE_NS)
		drop_promise(q, f, EX_FAIR_PROMISE_NONE, f->promise_head);
}

/* The promise that was given to a request like this, EX_FAIR_PROMISE_NONE without one. */
static uint32_t find_promise(
	const struct ex_fair *q, const struct ex_fair_flow *f, uint64_t likeness, uint32_t *ret_prev)
{
	uint32_t i = f->promise_head;
	*ret_prev = EX_FAIR_PROMISE_NONE;
	while (i != EX_FAIR_PROMISE_NONE && q->promises[i].likeness != likeness) {
		*ret_prev = i;
		i = q->promises[i].next;
	}
	return i;
}

/* In how many seconds cost more will be taken of f, what it was promised before included. With no room left for promises the time is told all
 * the same; one that is too far away is told as EX_FAIR_RETRY_S_MAX, and is no promise. */
static uint32_t make_promise(
	struct ex_fair *q, struct ex_fair_flow *f, uint32_t cost, uint64_t likeness, uint64_t now_ns)
{
	uint32_t i = q->promise_free;
	uint64_t wait = wait_at_share_ns(q, f, f->promised + cost),
		 after = wait > q->wait_max_ns ? wait - q->wait_max_ns : 0;
	if (f->promise_tail != EX_FAIR_PROMISE_NONE && q->promises[f->promise_tail].due_ns > now_ns + after)
		after = q->promises[f->promise_tail].due_ns - now_ns;
	uint64_t after_s = EX_MAX(EX_CEIL_DIV(after, EX_NS_PER_S), UINT64_C(1));
	uint32_t retry_s = (uint32_t)EX_MIN(after_s, (uint64_t)EX_FAIR_RETRY_S_MAX);
	if (i == EX_FAIR_PROMISE_NONE || after_s > EX_FAIR_RETRY_S_MAX)
		return retry_s;
	bool was = is_active(f);
	if (f->promise_head == EX_FAIR_PROMISE_NONE) {
		f->promised_next = q->promised;
		if (q->promised)
			q->promised->promised_prev = f;
		q->promised = f;
	}
	q->promise_free = q->promises[i].next;
	q->promises[i] = (struct promise){.due_ns = now_ns + retry_s * EX_NS_PER_S,
		.likeness = likeness,
		.cost = cost,
		.next = EX_FAIR_PROMISE_NONE};
	*(f->promise_tail != EX_FAIR_PROMISE_NONE ? &q->promises[f->promise_tail].next : &f->promise_head) = i;
	f->promise_tail = i;
	f->promised += cost;
	q->promised_cost += cost;
	note_active(q, f, was);
	return retry_s;
}

/* --- the queue ---------------------------------------------------------------------------------------------------- */

static void append(struct ex_fair *q, struct ex_fair_flow *f, struct ex_fair_item *item, const struct ex_fair_ask *ask)
{
	bool was = is_active(f);
	*item = (struct ex_fair_item){
		.flow = f, .cost = ask->cost, .likeness = ask->likeness, .prev = f->tail, .queued_ns = ask->now_ns};
	*(f->tail ? &f->tail->next : &f->head) = item;
	f->tail = item;
	f->backlog += ask->cost;
	q->n_queued++;
	q->backlog += ask->cost;
	if (f->n_queued++ == 0)
		begin_backlog(q, f);
	note_active(q, f, was);
}

int ex_fair_push(struct ex_fair *q, struct ex_fair_flow *f, struct ex_fair_item *item, const struct ex_fair_ask *ask,
	struct ex_fair_told *ret)
{
	EX_CHECK_OBJ(q, FAIR_MAGIC);
	assert(ask->cost >= 1 && ask->cost <= EX_FAIR_COST_MAX && !item->flow && f->tier < q->n_tiers);
	assert(f->weight >= 1 && f->weight <= EX_FAIR_WEIGHT_MAX);
	if (!f->met) {
		f->promise_head = f->promise_tail = EX_FAIR_PROMISE_NONE;
		f->met = true;
	}
	uint32_t prev, i;
	forget_overdue(q, f, ask->now_ns);
	i = find_promise(q, f, ask->likeness, &prev);
	bool promised = i != EX_FAIR_PROMISE_NONE, due = promised && q->promises[i].due_ns <= ask->now_ns;
	bool full = q->n_queued == q->items_max;
	*ret = (struct ex_fair_told){.wait_ns = ex_fair_wait_ns(q, f, ask->cost)};
	uint64_t wait = due || !q->backlog ? ret->wait_ns : wait_ns(q, f, f->promised + (promised ? 0 : ask->cost));
	bool too_long = wait > (due ? longest_ns(q) : q->wait_max_ns);
	if ((full || too_long) && promised && !due) { /* it came too early: its turn stands */
		ret->retry_s = (uint32_t)EX_CEIL_DIV(q->promises[i].due_ns - ask->now_ns, EX_NS_PER_S);
		return full ? -ENOSPC : -EAGAIN;
	}
	if (promised)
		drop_promise(q, f, prev, i);
	if (full || too_long) {
		ret->retry_s = make_promise(q, f, ask->cost, ask->likeness, ask->now_ns);
		return full ? -ENOSPC : -EAGAIN;
	}
	append(q, f, item, ask);
	return 0;
}

static struct ex_fair_flow *first_of(const struct tier *t, bool idle_only)
{
	struct ex_fair_flow *idle = t->heap[KIND_IDLE].n ? t->heap[KIND_IDLE].v[0] : NULL;
	struct ex_fair_flow *busy = t->heap[KIND_BUSY].n && !idle_only ? t->heap[KIND_BUSY].v[0] : NULL;
	if (!idle || !busy)
		return idle ? idle : busy;
	return idle->start <= busy->start ? idle : busy;
}

struct ex_fair_item *ex_fair_pop(struct ex_fair *q, uint32_t n_slots_free)
{
	EX_CHECK_OBJ(q, FAIR_MAGIC);
	struct ex_fair_flow *f = NULL;
	struct tier *t = NULL;
	for (uint32_t i = 0; n_slots_free && i < q->n_tiers; i++) {
		struct ex_fair_flow *first = first_of(&q->tiers[i], n_slots_free <= q->reserve);
		if (first && (!t || q->tiers[i].start < t->start)) {
			t = &q->tiers[i];
			f = first;
		}
	}
	if (!f)
		return NULL;
	struct ex_fair_item *item = f->head;
	end_backlog(q, f);
	unlink_item(q, item);
	q->now = EX_MAX(q->now, t->start);
	t->now = EX_MAX(t->now, f->start);
	t->start = t->finish = t->start + virtual_of(item->cost, t->weight);
	f->finish = f->start + virtual_of(item->cost, f->weight);
	f->n_running++;
	item->flow = NULL;
	if (f->n_queued) {
		f->start = f->finish;
		t->n_backlogged++;
		heap_add(heap_of(q, f), f);
	}
	return item;
}

struct ex_fair_item *ex_fair_shed(
	struct ex_fair *q, uint64_t now_ns, struct ex_fair_flow **ret_flow, uint32_t *ret_retry_s)
{
	for (struct ex_fair_flow *f = q->promised, *next; f; f = next) {
		next = f->promised_next;
		forget_overdue(q, f, now_ns);
	}
	for (uint32_t i = 0; q->n_queued && i < q->n_tiers; i++)
		for (int k = 0; k < KIND_N; k++)
			for (uint32_t at = 0; at < q->tiers[i].heap[k].n; at++) {
				struct ex_fair_flow *f = q->tiers[i].heap[k].v[at];
				struct ex_fair_item *item = f->head;
				if (now_ns - item->queued_ns <= longest_ns(q))
					continue;
				ex_fair_remove(q, item);
				*ret_flow = f;
				*ret_retry_s = make_promise(q, f, item->cost, item->likeness, now_ns);
				return item;
			}
	return NULL;
}

void ex_fair_remove(struct ex_fair *q, struct ex_fair_item *item)
{
	struct ex_fair_flow *f = item->flow;
	assert(f && f->n_queued);
	unlink_item(q, item);
	item->flow = NULL;
	if (!f->n_queued)
		end_backlog(q, f);
}

void ex_fair_end(struct ex_fair *q, struct ex_fair_flow *f, uint32_t unused)
{
	struct tier *t = &q->tiers[f->tier];
	assert(f->n_running);
	if (f->n_queued)
		heap_drop(heap_of(q, f), f);
	f->n_running--;
	uint64_t back = virtual_of(unused, f->weight), tier_back = virtual_of(unused, t->weight);
	f->finish -= EX_MIN(f->finish, back);
	t->finish -= EX_MIN(t->finish, tier_back);
	/* Nobody gets before the point that all others have reached. */
	if (t->n_backlogged)
		t->start = EX_MIN(t->start, EX_MAX(q->now, t->start - EX_MIN(t->start, tier_back)));
	if (f->n_queued) {
		f->start = EX_MIN(f->start, EX_MAX(t->now, f->start - EX_MIN(f->start, back)));
		heap_add(heap_of(q, f), f);
	}
}

void ex_fair_move(struct ex_fair_flow *f, uint32_t tier)
{
	if (f->tier == tier || is_active(f) || f->n_running)
		return;
	f->tier = tier;
	f->start = f->finish = 0; /* they were of the other tier's clock */
}

void ex_fair_forget(struct ex_fair *q, struct ex_fair_flow *f)
{
	assert(!f->n_queued && !f->n_running);
	while (f->met && f->promise_head != EX_FAIR_PROMISE_NONE)
		drop_promise(q, f, EX_FAIR_PROMISE_NONE, f->promise_head);
}

uint64_t ex_fair_oldest_ns(const struct ex_fair *q)
{
	uint64_t oldest = UINT64_MAX;
	for (uint32_t i = 0; i < q->n_tiers; i++)
		for (int k = 0; k < KIND_N; k++)
			for (uint32_t at = 0; at < q->tiers[i].heap[k].n; at++)
				oldest = EX_MIN(oldest, q->tiers[i].heap[k].v[at]->head->queued_ns);
	return oldest == UINT64_MAX ? 0 : oldest;
}

void ex_fair_stat(const struct ex_fair *q, struct ex_fair_stat *ret)
{
	*ret = (struct ex_fair_stat){.n_queued = q->n_queued, .backlog = q->backlog};
	for (uint32_t i = 0; i < q->n_tiers; i++)
		ret->n_flows += q->tiers[i].n_backlogged;
}
