/* SPDX-License-Identifier: Apache-2.0 */
/* What sources of members share, and the one whose list is in the configuration. Layer L2. */
#include "fleet/members.h"

#include "base/clock.h"
#include "base/mem.h"
#include "fleet/members_int.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MEMBERS_MAGIC UINT32_C(0x6d656d62)

static bool same(const struct ex_addr *a, const struct ex_addr *b)
{
	return a->port == b->port && strcasecmp(a->host, b->host) == 0;
}

int ex_members_check(const char *const *addresses, size_t n, const char *self, struct ex_err *err)
{
	struct ex_addr me, a, b;
	if (n > EX_FLEET_HOSTS_MAX)
		return ex_err_set(err, -EINVAL, "%zu expert hosts, at most %d are allowed", n, EX_FLEET_HOSTS_MAX);
	if (self && ex_addr_parse(self, err, &me) < 0)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (ex_addr_parse(addresses[i], err, &a) < 0)
			return -EINVAL;
		if (a.port == 0)
			return ex_err_set(err, -EINVAL, "'%s': a peer's port must be from 1 to 65535", addresses[i]);
		if (self && ex_addr_clash(&me, &a) && (same(&me, &a) || ex_addr_is_loopback(&a)))
			return ex_err_set(err, -EINVAL, "'%s' is this process itself: its own shards need no entry",
				addresses[i]);
		for (size_t j = 0; j < i; j++)
			if (ex_addr_parse(addresses[j], NULL, &b) == 0 && same(&a, &b))
				return ex_err_set(err, -EINVAL, "'%s' is listed twice", addresses[i]);
	}
	return 0;
}

/* --- every source ---------------------------------------------------------------------------------------- */

const char *ex_members_state_name(enum ex_members_state s)
{
	static const char *const name[] = {
		[EX_MEMBERS_STARTING] = "starting", [EX_MEMBERS_LIVE] = "live", [EX_MEMBERS_STALE] = "stale"};
	return name[s];
}

void ex_members_init(
	struct ex_members *m, void (*free_fn)(struct ex_members *m), const struct ex_members_ops *ops, void *ctx)
{
	m->magic = MEMBERS_MAGIC;
	m->free = free_fn;
	m->ops = ops;
	m->ctx = ctx;
	m->view.since_ns = ex_now_ns();
	ex_lock_init(&m->lock, "members");
}

void ex_members_done(struct ex_members *m)
{
	ex_lock_done(&m->lock);
	m->magic = 0;
}

void ex_members_set_state(struct ex_members *m, enum ex_members_state s, const char *why)
{
	ex_lock_take(&m->lock);
	bool changed = m->view.state != s, other_why = strcmp(m->view.why, why) != 0;
	if (changed)
		m->view.since_ns = ex_now_ns();
	m->view.state = s;
	snprintf(m->view.why, sizeof m->view.why, "%s", why);
	ex_lock_give(&m->lock);
	if (changed || other_why)
		m->ops->state(m->ctx, s, why);
}

void ex_members_deliver(struct ex_members *m, const struct ex_member *list, size_t n)
{
	ex_lock_take(&m->lock);
	m->view.n_members = n;
	ex_lock_give(&m->lock);
	m->ops->changed(m->ctx, list, n);
}

void ex_members_view(struct ex_members *m, struct ex_members_view *ret)
{
	EX_CHECK_OBJ(m, MEMBERS_MAGIC);
	ex_lock_take(&m->lock);
	*ret = m->view;
	ex_lock_give(&m->lock);
}

struct ex_members *ex_members_free(struct ex_members *m)
{
	if (!m)
		return NULL;
	EX_CHECK_OBJ(m, MEMBERS_MAGIC);
	m->free(m);
	return NULL;
}

/* --- from the configuration ------------------------------------------------------------------------------ */

struct list {
	struct ex_member *v;
	size_t n;
};

struct static_source {
	struct ex_members m;
	struct ex_loop *loop;
	pthread_cond_t idle;
	/* guarded by m.lock */
	struct list fresh; /* to be delivered; v NULL: nothing is */
	struct list last;  /* what was asked for last */
	unsigned n_posted; /* deliveries on their way or running */
	bool freeing;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct ex_member *)a)->name, ((const struct ex_member *)b)->name);
}

/* One element more than n, so that an empty list is not NULL. */
static int make_list(const char *const *addresses, size_t n, struct ex_err *err, struct list *ret)
{
	struct ex_member *v = ex_calloc(n + 1, sizeof *v);
	if (!v)
		return ex_err_errno(err, -ENOMEM, "cannot list %zu expert hosts", n);
	for (size_t i = 0; i < n; i++) {
		snprintf(v[i].address, sizeof v[i].address, "%s", addresses[i]);
		snprintf(v[i].name, sizeof v[i].name, "%s", addresses[i]);
		v[i].shards = "";
	}
	qsort(v, n, sizeof *v, by_name);
	*ret = (struct list){v, n};
	return 0;
}

static bool equal(const struct list *a, const struct list *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->v[i].address, b->v[i].address) != 0)
			return false;
	return true;
}

static void deliver(void *ctx)
{
	struct static_source *s = ctx;
	ex_lock_take(&s->m.lock);
	struct list l = s->fresh;
	s->fresh = (struct list){0};
	bool wanted = l.v && !s->freeing;
	ex_lock_give(&s->m.lock);
	if (wanted) {
		ex_members_deliver(&s->m, l.v, l.n);
		ex_members_set_state(&s->m, EX_MEMBERS_LIVE, "");
	}
	free(l.v);
	ex_lock_take(&s->m.lock);
	s->n_posted--;
	pthread_cond_broadcast(&s->idle);
	ex_lock_give(&s->m.lock);
}

int ex_members_static_set(struct ex_members *m, const char *const *addresses, size_t n, struct ex_err *err)
{
	EX_CHECK_OBJ(m, MEMBERS_MAGIC);
	struct static_source *s = EX_CONTAINER_OF(m, struct static_source, m);
	struct list fresh = {0}, last = {0};
	int rc = make_list(addresses, n, err, &fresh);
	if (rc == 0)
		rc = make_list(addresses, n, err, &last);
	ex_lock_take(&m->lock);
	if (rc == 0 && !(s->last.v && equal(&s->last, &last))) {
		rc = ex_loop_post(s->loop, deliver, s);
		if (rc == 0) {
			struct list old_fresh = s->fresh, old_last = s->last;
			s->fresh = fresh;
			s->last = last;
			s->n_posted++;
			fresh = old_fresh;
			last = old_last;
		} else {
			ex_err_errno(err, rc, "cannot take over a list of expert hosts");
		}
	}
	ex_lock_give(&m->lock);
	free(fresh.v);
	free(last.v);
	return rc;
}

static void static_free(struct ex_members *m)
{
	struct static_source *s = EX_CONTAINER_OF(m, struct static_source, m);
	ex_lock_take(&m->lock);
	s->freeing = true;
	while (s->n_posted)
		ex_cond_wait(&s->idle, &m->lock);
	ex_lock_give(&m->lock);
	free(s->fresh.v);
	free(s->last.v);
	pthread_cond_destroy(&s->idle);
	ex_members_done(m);
	free(s);
}

int ex_members_static_new(struct ex_loop *loop, const char *const *addresses, size_t n,
	const struct ex_members_ops *ops, void *ctx, struct ex_err *err, struct ex_members **ret)
{
	struct static_source *s = ex_calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "cannot list %zu expert hosts", n);
	ex_members_init(&s->m, static_free, ops, ctx);
	ex_cond_init(&s->idle);
	s->loop = loop;
	*ret = &s->m; /* before a callback can run */
	int rc = ex_members_static_set(&s->m, addresses, n, err);
	if (rc < 0) {
		*ret = NULL;
		static_free(&s->m);
	}
	return rc;
}
