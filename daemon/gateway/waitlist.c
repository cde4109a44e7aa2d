/* SPDX-License-Identifier: Apache-2.0 */
/* The waitlist of payments. Layer L4. */
#include "gateway/waitlist.h"

#include "base/mem.h"
#include <string.h>

struct ex_waitlist {
	uint32_t tickets_max, n; /* n waiting */
	uint64_t last_id;
	int64_t amount_nano;
	struct ex_wait_ticket *v; /* [tickets_max], ascending by id; amount_nano 0: gone */
	uint32_t first, end;      /* v[first .. end) is used */
};

int ex_waitlist_new(uint32_t tickets_max, struct ex_err *err, struct ex_waitlist **ret)
{
	if (!tickets_max || tickets_max > EX_WAITLIST_MAX)
		return ex_err_set(err, -EINVAL, "a waitlist has room for 1 to %d tickets", EX_WAITLIST_MAX);
	EX_CLEANUP(ex_waitlist_freep) struct ex_waitlist *l = ex_calloc(1, sizeof *l);
	if (!l || !(l->v = ex_calloc(tickets_max, sizeof *l->v)))
		return ex_err_errno(err, -ENOMEM, "cannot make a waitlist of %u tickets", tickets_max);
	l->tickets_max = tickets_max;
	*ret = EX_TAKE(l);
	return 0;
}

struct ex_waitlist *ex_waitlist_free(struct ex_waitlist *l)
{
	if (l) {
		free(l->v);
		free(l);
	}
	return NULL;
}

bool ex_waitlist_has_room(const struct ex_waitlist *l)
{
	return l->n < l->tickets_max;
}

static void close_gaps(struct ex_waitlist *l)
{
	uint32_t to = 0;
	for (uint32_t i = l->first; i < l->end; i++)
		if (l->v[i].amount_nano)
			l->v[to++] = l->v[i];
	l->first = 0;
	l->end = to;
}

int ex_waitlist_add(struct ex_waitlist *l, const struct ex_wait_ticket *t, struct ex_err *err)
{
	int64_t sum;
	if (!ex_waitlist_has_room(l))
		return ex_err_set(err, -ENOSPC, "%u payments wait already", l->n);
	if (t->amount_nano <= 0 || !t->account[0] || !memchr(t->account, '\0', sizeof t->account) ||
		__builtin_add_overflow(l->amount_nano, t->amount_nano, &sum))
		return ex_err_set(err, -EINVAL, "a payment of %lld nano-units cannot wait", (long long)t->amount_nano);
	if (t->id <= l->last_id)
		return ex_err_set(err, -EEXIST, "ticket %llu is not behind ticket %llu", (unsigned long long)t->id,
			(unsigned long long)l->last_id);
	if (l->end == l->tickets_max)
		close_gaps(l);
	l->v[l->end++] = *t;
	l->last_id = t->id;
	l->amount_nano = sum;
	l->n++;
	return 0;
}

const struct ex_wait_ticket *ex_waitlist_first(const struct ex_waitlist *l, int64_t now_s)
{
	for (uint32_t i = l->first; i < l->end; i++)
		if (l->v[i].amount_nano && l->v[i].expires_s > now_s)
			return &l->v[i];
	return NULL;
}

const struct ex_wait_ticket *ex_waitlist_expired(const struct ex_waitlist *l, int64_t now_s)
{
	for (uint32_t i = l->first; i < l->end; i++)
		if (l->v[i].amount_nano && l->v[i].expires_s <= now_s)
			return &l->v[i];
	return NULL;
}

static struct ex_wait_ticket *find_ticket(const struct ex_waitlist *l, uint64_t id)
{
	uint32_t low = l->first, high = l->end;
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		if (l->v[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < l->end && l->v[low].id == id && l->v[low].amount_nano ? &l->v[low] : NULL;
}

const struct ex_wait_ticket *ex_waitlist_find(const struct ex_waitlist *l, uint64_t id)
{
	return find_ticket(l, id);
}

int ex_waitlist_remove(struct ex_waitlist *l, uint64_t id)
{
	struct ex_wait_ticket *t = find_ticket(l, id);
	if (!t)
		return -ENOENT;
	l->amount_nano -= t->amount_nano;
	l->n--;
	t->amount_nano = 0;
	while (l->first < l->end && !l->v[l->first].amount_nano)
		l->first++;
	return 0;
}

void ex_waitlist_each(const struct ex_waitlist *l, void (*fn)(void *ctx, const struct ex_wait_ticket *t), void *ctx)
{
	for (uint32_t i = l->first; i < l->end; i++)
		if (l->v[i].amount_nano)
			fn(ctx, &l->v[i]);
}

uint32_t ex_waitlist_count(const struct ex_waitlist *l)
{
	return l->n;
}

int64_t ex_waitlist_amount_nano(const struct ex_waitlist *l)
{
	return l->amount_nano;
}

int64_t ex_waitlist_eta_s(const struct ex_waitlist *l, uint64_t id, const struct ex_waitlist_outlook *o)
{
	double ahead = 0;
	if (id && !find_ticket(l, id))
		return -1;
	for (uint32_t i = l->first; i < l->end && l->v[i].id < id; i++)
		ahead += (double)l->v[i].amount_nano;
	double tokens = o->excess_tokens + ahead * o->tokens_per_nano, s = o->dwell_s;
	if (tokens > 0)
		s += tokens / o->burn_tokens_s; /* infinite without a burn */
	return s >= 0 && s <= EX_WAITLIST_ETA_S_MAX ? (int64_t)s : -1;
}
