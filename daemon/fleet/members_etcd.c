/* SPDX-License-Identifier: Apache-2.0 */
/* Members from etcd: a range of the prefix at one revision, then a watch from the next. Layer L2.
 *
 * The map is what the range and the watch's events made it. It is read anew when the watch cannot go on (its revision was
 * compacted) and when etcd is not what it was (another cluster, a revision below the map's). All of it is [cq]. */
#include "base/clock.h"
#include "base/mem.h"
#include "fleet/etcd.h"
#include "fleet/members_int.h"
#include "fleet/record.h"
#include <stdio.h>
#include <string.h>

#define RETRY_NS  (200 * EX_NS_PER_MS)
#define KEY_MAX   (EX_FLEET_PREFIX_MAX + 16)
#define RANGE_MAX (2 * EX_FLEET_HOSTS_MAX) /* keys asked for: what is beyond the hosts can be named */

/* A key under the prefix. */
struct entry {
	struct ex_member m; /* shards: owned; NULL: no value of this key was ever good */
	int64_t mod_revision;
	bool former;   /* told that another has its address */
	bool beyond;   /* told that there are too many */
	bool in_range; /* take_range's */
};

struct table {
	struct entry **v; /* ascending by name */
	size_t n, cap;
};

struct source {
	struct ex_members m;
	struct ex_etcd *etcd;
	char key[KEY_MAX], end[KEY_MAX]; /* [PREFIX/hosts/, PREFIX/hosts0) */
	uint64_t grace_ns;
	struct table table;
	struct ex_member *list; /* [EX_FLEET_HOSTS_MAX] what is delivered */
	bool up;
	bool have_map;   /* a range was read */
	bool want_range; /* and is to be read (again) */
	bool ranging;
	uint64_t next_try_ns;
	uint64_t cluster_id;
	int64_t revision; /* up to which the map is right */
	int64_t floor;    /* what it was when the last probe was answered: the next one cannot be below */
	struct ex_etcd_stream *watch;
};

static const struct ex_etcd_stream_ops watch_ops;

/* --- the table ------------------------------------------------------------------------------------------- */

static struct entry *entry_free(struct entry *e)
{
	if (e)
		free((char *)e->m.shards);
	free(e);
	return NULL;
}
EX_DEFINE_CLEANUP(struct entry, entry_free)

static void table_done(struct table *t)
{
	for (size_t i = 0; i < t->n; i++)
		entry_free(t->v[i]);
	free(t->v);
	*t = (struct table){0};
}

/* Where name is, or would be put. */
static size_t table_place(const struct table *t, const char *name, bool *ret_found)
{
	size_t low = 0, high = t->n;
	*ret_found = false;
	while (low < high && !*ret_found) {
		size_t mid = (low + high) / 2;
		int c = strcmp(t->v[mid]->m.name, name);
		if (c < 0)
			low = mid + 1;
		else
			high = mid;
		*ret_found = c == 0;
	}
	return *ret_found ? high : low;
}

static void table_remove(struct table *t, size_t i)
{
	entry_free(t->v[i]);
	memmove(t->v + i, t->v + i + 1, (--t->n - i) * sizeof *t->v);
}

/* The entry of name, made when it is not there; NULL: no memory, or no room. */
static struct entry *table_get(struct table *t, const char *name)
{
	bool found;
	size_t i = table_place(t, name, &found);
	if (found)
		return t->v[i];
	if (t->n == RANGE_MAX || ex_grow(&t->v, &t->cap, t->n + 1, sizeof *t->v) < 0)
		return NULL;
	struct entry *e = ex_calloc(1, sizeof *e);
	if (!e)
		return NULL;
	snprintf(e->m.name, sizeof e->m.name, "%s", name);
	memmove(t->v + i + 1, t->v + i, (t->n++ - i) * sizeof *t->v);
	return t->v[i] = e;
}

static void refuse(struct source *s, const char *name, const char *why)
{
	char key[2 * KEY_MAX], text[EX_ERR_TEXT_MAX];
	ex_etcd_text(text, sizeof text, why, strlen(why));
	snprintf(key, sizeof key, "%s%s", s->key, name);
	if (s->m.ops->refused)
		s->m.ops->refused(s->m.ctx, key, text);
}

/* The part of a key behind the prefix, printable and cut: what is not a name is refused as one later. */
static void name_of(const struct source *s, const ProtobufCBinaryData *key, char name[static EX_MEMBER_ADDRESS_MAX])
{
	size_t skip = EX_MIN(strlen(s->key), key->len);
	ex_etcd_text(name, EX_MEMBER_ADDRESS_MAX, key->data + skip, key->len - skip);
}

/* A key's value into the table. A value that is no member leaves what the entry had. */
static void put(struct source *s, const Mvccpb__KeyValue *kv)
{
	char name[EX_MEMBER_ADDRESS_MAX];
	struct ex_err err = EX_ERR_INIT;
	struct ex_member m;
	name_of(s, &kv->key, name);
	struct entry *e = table_get(&s->table, name);
	if (!e) {
		refuse(s, name, "there are too many keys, or memory is out");
		return;
	}
	if (e->mod_revision == kv->mod_revision)
		return;
	e->mod_revision = kv->mod_revision;
	if (ex_record_parse(name, kv->value.data, kv->value.len, &err, &m) < 0) {
		refuse(s, name, ex_err_text(&err));
		return;
	}
	free((char *)e->m.shards);
	e->m = m;
}

/* --- what is delivered ----------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
	const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
	int c = strcmp(x->m.address, y->m.address);
	return c ? c : (x->mod_revision < y->mod_revision) - (x->mod_revision > y->mod_revision);
}

/* Of entries with one address the newest counts: the older ones are a host's former names. */
static void drop_former_names(struct source *s, struct entry **good, size_t n)
{
	char why[EX_MEMBER_ADDRESS_MAX + 64];
	qsort(good, n, sizeof *good, by_address);
	for (size_t i = 0, first = 0; i < n; i++) {
		if (strcmp(good[i]->m.address, good[first]->m.address) != 0)
			first = i;
		bool former = i != first;
		if (former && !good[i]->former) {
			snprintf(why, sizeof why, "its address was registered later by '%.63s'", good[first]->m.name);
			refuse(s, good[i]->m.name, why);
		}
		good[i]->former = former;
	}
}

static void deliver(struct source *s)
{
	struct entry *good[RANGE_MAX];
	size_t n = 0, n_list = 0;
	for (size_t i = 0; i < s->table.n; i++)
		if (s->table.v[i]->m.shards)
			good[n++] = s->table.v[i];
	drop_former_names(s, good, n);
	for (size_t i = 0; i < s->table.n; i++) {
		struct entry *e = s->table.v[i];
		if (!e->m.shards || e->former)
			continue;
		bool beyond = n_list == EX_FLEET_HOSTS_MAX;
		if (!beyond)
			s->list[n_list++] = e->m;
		else if (!e->beyond)
			refuse(s, e->m.name, "there are more expert hosts than a fleet may have");
		e->beyond = beyond;
	}
	ex_members_deliver(&s->m, s->list, n_list);
}

/* --- range ----------------------------------------------------------------------------------------------- */

static void close_watch(struct source *s)
{
	s->watch = ex_etcd_stream_close(s->watch);
}

/* Entries whose keys are not in the answer go. */
static void sweep(struct source *s, const Etcdserverpb__RangeResponse *r)
{
	char name[EX_MEMBER_ADDRESS_MAX];
	bool found;
	for (size_t i = 0; i < r->n_kvs; i++) {
		name_of(s, &r->kvs[i]->key, name);
		size_t at = table_place(&s->table, name, &found);
		if (found)
			s->table.v[at]->in_range = true;
	}
	for (size_t i = s->table.n; i-- > 0;)
		if (!s->table.v[i]->in_range)
			table_remove(&s->table, i);
		else
			s->table.v[i]->in_range = false;
}

/* The map as it was at the answer's revision. Of a key whose value is not good now, the last good one stays. */
static void take_range(struct source *s, const Etcdserverpb__RangeResponse *r)
{
	sweep(s, r);
	for (size_t i = 0; i < s->table.n && s->cluster_id != r->header->cluster_id; i++)
		s->table.v[i]->mod_revision = 0; /* numbers of two clusters say nothing of each other */
	for (size_t i = 0; i < r->n_kvs; i++)
		put(s, r->kvs[i]);
	s->cluster_id = r->header->cluster_id;
	s->revision = r->header->revision;
	s->floor = 0;
	s->have_map = true;
	s->want_range = false;
	if (r->more)
		refuse(s, "", "there are more keys than a fleet may have hosts");
	deliver(s);
}

static void range_done(void *ctx, int status, const char *text, const ProtobufCMessage *reply)
{
	struct source *s = ctx;
	const Etcdserverpb__RangeResponse *r = (const Etcdserverpb__RangeResponse *)reply;
	char why[EX_MEMBERS_WHY_MAX], said[EX_MEMBERS_WHY_MAX - 64];
	s->ranging = false;
	if (status == EX_STATUS_OK && r->header) {
		take_range(s, r);
		return;
	}
	s->next_try_ns = ex_now_ns() + RETRY_NS;
	if (status == EX_STATUS_CANCELLED || !s->up) /* that etcd is down has been told */
		return;
	ex_etcd_text(said, sizeof said, text, strlen(text));
	snprintf(why, sizeof why, "the list cannot be read: %s: %s", ex_status_name(status), said);
	ex_members_set_state(&s->m, s->have_map ? EX_MEMBERS_STALE : EX_MEMBERS_STARTING, why);
}

static void start_range(struct source *s)
{
	Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;
	r.key = ex_etcd_bytes(s->key);
	r.range_end = ex_etcd_bytes(s->end);
	r.limit = RANGE_MAX;
	s->ranging = ex_etcd_call(s->etcd, EX_ETCD_RANGE, &r.base, range_done, s) == 0;
}

/* --- watch ----------------------------------------------------------------------------------------------- */

/* The header's revision may be ahead of the events when there are many; those to come follow the last of these. */
static void take_events(struct source *s, const Etcdserverpb__WatchResponse *w)
{
	bool found;
	for (size_t i = 0; i < w->n_events; i++) {
		const Mvccpb__Event *ev = w->events[i];
		char name[EX_MEMBER_ADDRESS_MAX];
		if (!ev->kv)
			continue;
		s->revision = EX_MAX(s->revision, ev->kv->mod_revision);
		if (ev->type != MVCCPB__EVENT__EVENT_TYPE__DELETE) {
			put(s, ev->kv);
			continue;
		}
		name_of(s, &ev->kv->key, name);
		size_t at = table_place(&s->table, name, &found);
		if (found)
			table_remove(&s->table, at);
	}
	if (w->n_events)
		deliver(s);
	else if (!w->created)
		s->revision = EX_MAX(s->revision, w->header->revision);
}

static void watch_message(void *ctx, const ProtobufCMessage *m)
{
	struct source *s = ctx;
	const Etcdserverpb__WatchResponse *w = (const Etcdserverpb__WatchResponse *)m;
	if (w->canceled || !w->header) {
		close_watch(s);
		s->want_range = true; /* compacted, or for another reason: a range is always right */
		s->next_try_ns = w->compact_revision ? 0 : ex_now_ns() + RETRY_NS;
		return;
	}
	take_events(s, w);
	ex_members_set_state(&s->m, EX_MEMBERS_LIVE, "");
}

static void watch_closed(void *ctx)
{
	struct source *s = ctx;
	s->watch = NULL;
	s->next_try_ns = ex_now_ns() + RETRY_NS;
}

static const struct ex_etcd_stream_ops watch_ops = {
	.path = "/etcdserverpb.Watch/Watch",
	.reply = &etcdserverpb__watch_response__descriptor,
	.message = watch_message,
	.closed = watch_closed,
};

static void start_watch(struct source *s)
{
	Etcdserverpb__WatchCreateRequest c = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest w = ETCDSERVERPB__WATCH_REQUEST__INIT;
	c.key = ex_etcd_bytes(s->key);
	c.range_end = ex_etcd_bytes(s->end);
	c.start_revision = s->revision + 1;
	c.progress_notify = true;
	w.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	w.create_request = &c;
	if (ex_etcd_stream_open(s->etcd, &watch_ops, s, &s->watch) < 0)
		return;
	if (ex_etcd_stream_send(s->watch, &w.base) == -ENOMEM)
		close_watch(s);
}

/* --- what the client tells ------------------------------------------------------------------------------- */

static void on_tick(void *ctx)
{
	struct source *s = ctx;
	if (s->ranging || ex_now_ns() < s->next_try_ns)
		return;
	if (s->want_range)
		start_range(s);
	else if (!s->watch)
		start_watch(s);
}

static void on_moved(void *ctx)
{
	struct source *s = ctx;
	close_watch(s);
}

static void on_state(void *ctx, bool up, const char *why)
{
	struct source *s = ctx;
	s->up = up;
	if (!up)
		ex_members_set_state(&s->m, s->have_map ? EX_MEMBERS_STALE : EX_MEMBERS_STARTING, why);
}

/* etcd never goes back by itself: it was set up anew or from a backup, and knows less of the hosts than the map does. */
static void on_probed(void *ctx, const Etcdserverpb__RangeResponse *r)
{
	struct source *s = ctx;
	int64_t floor = s->floor;
	s->floor = s->revision;
	if (!s->have_map || s->want_range || (r->header->cluster_id == s->cluster_id && r->header->revision >= floor))
		return;
	close_watch(s);
	s->want_range = true;
	s->next_try_ns = ex_now_ns() + s->grace_ns;
	ex_members_set_state(&s->m, EX_MEMBERS_STALE, "etcd has lost data: waiting for the hosts to register again");
}

/* --- life ------------------------------------------------------------------------------------------------ */

static void source_free(struct ex_members *m)
{
	struct source *s = EX_CONTAINER_OF(m, struct source, m);
	ex_etcd_free(s->etcd);
	table_done(&s->table);
	free(s->list);
	ex_members_done(m);
	free(s);
}

int ex_members_etcd_new(const struct ex_members_etcd_opts *o, struct ex_err *err, struct ex_members **ret)
{
	static const struct ex_etcd_ops ops = {
		.tick = on_tick, .moved = on_moved, .state = on_state, .probed = on_probed};
	struct source *s = ex_calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "cannot follow the members in etcd");
	ex_members_init(&s->m, source_free, o->ops, o->ctx);
	s->want_range = true;
	s->grace_ns = o->lease_ttl_s * EX_NS_PER_S;
	snprintf(s->key, sizeof s->key, "%.*s/hosts/", EX_FLEET_PREFIX_MAX, o->prefix);
	snprintf(s->end, sizeof s->end, "%.*s/hosts0", EX_FLEET_PREFIX_MAX, o->prefix); /* '0' follows '/' */
	s->list = ex_calloc(EX_FLEET_HOSTS_MAX, sizeof *s->list);
	const struct ex_etcd_opts eo = {
		.endpoints = o->endpoints,
		.n_endpoints = o->n_endpoints,
		.channel = o->channel,
		.timeout_ms = o->timeout_ms,
		.probe_ms = o->lease_ttl_s * 1000 / 3,
		.probe_key = s->key,
		.ops = &ops,
		.ctx = s,
	};
	*ret = &s->m; /* before a callback can run */
	int rc = s->list ? ex_etcd_new(&eo, err, &s->etcd)
			 : ex_err_errno(err, -ENOMEM, "cannot follow the members in etcd");
	if (rc < 0) {
		*ret = NULL;
		source_free(&s->m);
	}
	return rc;
}
