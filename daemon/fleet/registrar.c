/* SPDX-License-Identifier: Apache-2.0 */
/* Registration under a lease. Layer L2.
 *
 * Steps: grant a lease, make the key under it if it is not there, keep the lease alive. Each tick does what is next, at
 * most one call is under way. What fails is tried again a little later. */
#include "fleet/registrar.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "fleet/etcd.h"
#include "fleet/record.h"
#include <stdio.h>
#include <string.h>

#define REGISTRAR_MAGIC UINT32_C(0x72656769)
#define RETRY_NS        (200 * EX_NS_PER_MS)
#define KEY_MAX         (EX_FLEET_PREFIX_MAX + 16 + EX_MEMBER_ADDRESS_MAX)
#define TEXT_MAX        1024
#define FAILURES_TOLD                                                                                                  \
	3 /* of calls in a row, while etcd answers probes; single ones come with every change of endpoint */

struct ex_registrar {
	uint32_t magic;
	struct ex_registrar_opts o;
	struct ex_etcd *etcd;
	struct ex_member self; /* without its shards */
	char key[KEY_MAX];
	char *value;

	/* [cq] */
	bool was_down; /* told that etcd is */
	bool calling;  /* a call is under way */
	uint64_t next_try_ns;
	unsigned n_failures; /* of calls, in a row */
	int64_t lease;       /* 0: none */
	uint64_t ttl_ns;
	bool registered, was_registered;
	int64_t revision;      /* at which the key was made, or last written by us */
	bool outdated;         /* the key says something older than value */
	int64_t take_revision; /* of our former self's key, which may be taken over; 0: none */
	bool tried;            /* a former self was looked for */
	char told[TEXT_MAX];   /* the last clash or refusal */
	struct ex_etcd_stream *stream;
	bool beat_unanswered;
	uint64_t next_beat_ns;

	struct ex_lock lock;
	pthread_cond_t changed;
	char *fresh;   /* guarded by lock: what value is to become; NULL: nothing */
	bool up;       /* guarded by lock */
	bool stopping; /* guarded by lock */
	bool released; /* guarded by lock: stopped, and nothing is left to revoke */
};

static void tell(struct ex_registrar *r, enum ex_registrar_event ev, const char *text)
{
	r->o.event(r->o.ctx, ev, text);
}

/* Once, until something else is told or it went well. */
static void tell_trouble(struct ex_registrar *r, enum ex_registrar_event ev, const char *text)
{
	r->next_try_ns = ex_now_ns() + RETRY_NS;
	if (strcmp(r->told, text) == 0)
		return;
	snprintf(r->told, sizeof r->told, "%s", text);
	tell(r, ev, text);
}

static bool is_stopping(struct ex_registrar *r)
{
	ex_lock_take(&r->lock);
	bool stopping = r->stopping;
	ex_lock_give(&r->lock);
	return stopping;
}

static void set_released(struct ex_registrar *r)
{
	ex_lock_take(&r->lock);
	r->released = true;
	pthread_cond_broadcast(&r->changed);
	ex_lock_give(&r->lock);
}

/* --- losing it ------------------------------------------------------------------------------------------- */

static void lose_key(struct ex_registrar *r, const char *why)
{
	char text[TEXT_MAX];
	if (!r->registered)
		return;
	r->registered = false;
	snprintf(text, sizeof text, "'%s' is not registered in etcd any more: %s", r->self.name, why);
	tell(r, EX_REGISTRAR_LOST, text);
}

static void lose_lease(struct ex_registrar *r, const char *why)
{
	r->stream = ex_etcd_stream_close(r->stream);
	r->lease = 0;
	lose_key(r, why);
}

/* A call that changes something was answered with an error, or failed. */
static void call_failed(struct ex_registrar *r, const char *what, int status, const char *text)
{
	char all[TEXT_MAX], said[TEXT_MAX / 4];
	r->next_try_ns = ex_now_ns() + RETRY_NS;
	const bool lost = status == EX_STATUS_UNAVAILABLE || status == EX_STATUS_DEADLINE_EXCEEDED ||
			  status == EX_STATUS_INTERNAL || status == EX_STATUS_UNKNOWN; /* as connections end */
	if (status == EX_STATUS_CANCELLED || (lost && ++r->n_failures < FAILURES_TOLD))
		return;
	ex_etcd_text(said, sizeof said, text, strlen(text));
	snprintf(
		all, sizeof all, "etcd does not %s for '%s': %s: %s", what, r->self.name, ex_status_name(status), said);
	tell_trouble(r, EX_REGISTRAR_REFUSED, all);
}

/* --- the lease ------------------------------------------------------------------------------------------- */

static void granted(void *ctx, int status, const char *text, const ProtobufCMessage *reply)
{
	struct ex_registrar *r = ctx;
	const Etcdserverpb__LeaseGrantResponse *g = (const Etcdserverpb__LeaseGrantResponse *)reply;
	r->calling = false;
	if (status != EX_STATUS_OK) {
		call_failed(r, "grant a lease", status, text);
		return;
	}
	if (g->id == 0 || g->ttl <= 0) {
		call_failed(r, "grant a lease", EX_STATUS_UNKNOWN, g->error);
		return;
	}
	r->n_failures = 0;
	r->lease = g->id;
	r->ttl_ns = EX_MIN((uint64_t)g->ttl, UINT64_C(86400)) * EX_NS_PER_S;
	r->next_beat_ns = ex_now_ns() + r->ttl_ns / 3;
	r->beat_unanswered = false;
}

static void grant(struct ex_registrar *r)
{
	Etcdserverpb__LeaseGrantRequest g = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	g.ttl = r->o.lease_ttl_s;
	r->calling = ex_etcd_call(r->etcd, EX_ETCD_LEASE_GRANT, &g.base, granted, r) == 0;
}

static void beat_answered(void *ctx, const ProtobufCMessage *m)
{
	struct ex_registrar *r = ctx;
	const Etcdserverpb__LeaseKeepAliveResponse *k = (const Etcdserverpb__LeaseKeepAliveResponse *)m;
	if (k->id != r->lease)
		return;
	r->beat_unanswered = false;
	if (k->ttl <= 0)
		lose_lease(r, "its lease has ended");
}

static void beats_closed(void *ctx)
{
	struct ex_registrar *r = ctx;
	r->stream = NULL;
	r->next_beat_ns = ex_now_ns() + RETRY_NS;
}

/* Asks for another term of the lease. A stream on which the last request is unanswered a third of the term later is of
 * no use. */
static void beat(struct ex_registrar *r, uint64_t now)
{
	static const struct ex_etcd_stream_ops ops = {
		.path = "/etcdserverpb.Lease/LeaseKeepAlive",
		.reply = &etcdserverpb__lease_keep_alive_response__descriptor,
		.message = beat_answered,
		.closed = beats_closed,
	};
	Etcdserverpb__LeaseKeepAliveRequest k = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	if (now < r->next_beat_ns)
		return;
	if (r->stream && r->beat_unanswered)
		r->stream = ex_etcd_stream_close(r->stream);
	if (!r->stream && ex_etcd_stream_open(r->etcd, &ops, r, &r->stream) < 0)
		return;
	k.id = r->lease;
	if (ex_etcd_stream_send(r->stream, &k.base) < 0)
		return;
	r->beat_unanswered = true;
	r->next_beat_ns = now + r->ttl_ns / 3;
}

/* --- the key --------------------------------------------------------------------------------------------- */

static void set_registered(struct ex_registrar *r, int64_t revision)
{
	char text[TEXT_MAX];
	r->registered = true;
	r->n_failures = 0;
	r->revision = revision;
	r->take_revision = 0;
	r->tried = true; /* from now on a key that is not ours is somebody else's */
	*r->told = '\0';
	snprintf(text, sizeof text, "'%s' (%s) is registered in etcd%s, lease %016llx", r->self.name, r->self.address,
		r->was_registered ? " again" : "", (unsigned long long)r->lease);
	tell(r, r->was_registered ? EX_REGISTRAR_REGAINED : EX_REGISTRAR_REGISTERED, text);
	r->was_registered = true;
}

/* The name's key is there, and not ours. */
static void found_key(struct ex_registrar *r, const Mvccpb__KeyValue *kv)
{
	char text[TEXT_MAX];
	struct ex_err err = EX_ERR_INIT;
	struct ex_member m;
	bool first = !r->tried, readable = ex_record_parse(r->self.name, kv->value.data, kv->value.len, &err, &m) == 0;
	r->tried = true;
	if (readable)
		free((char *)m.shards);
	if (first && readable && *r->self.machine && strcmp(m.machine, r->self.machine) == 0 &&
		strcmp(m.address, r->self.address) == 0) {
		r->take_revision = kv->mod_revision;
		return;
	}
	r->take_revision = 0;
	snprintf(text, sizeof text, "the name '%s' of this host (%s) is registered by another: %s", r->self.name,
		r->self.address, readable ? m.address : "a value that cannot be read");
	tell_trouble(r, EX_REGISTRAR_CLASH, text);
}

/* The key as a transaction that did not write it found it; NULL: it is not there. */
static const Mvccpb__KeyValue *found_by(const Etcdserverpb__TxnResponse *t)
{
	const Etcdserverpb__ResponseOp *op = t->n_responses ? t->responses[0] : NULL;
	const Etcdserverpb__RangeResponse *found =
		op && op->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE ? op->response_range
											      : NULL;
	return found && found->n_kvs ? found->kvs[0] : NULL;
}

static void key_tried(void *ctx, int status, const char *text, const ProtobufCMessage *reply)
{
	struct ex_registrar *r = ctx;
	const Etcdserverpb__TxnResponse *t = (const Etcdserverpb__TxnResponse *)reply;
	r->calling = false;
	if (status == EX_STATUS_NOT_FOUND) { /* the lease has ended meanwhile */
		lose_lease(r, "its lease has ended");
		return;
	}
	if (status != EX_STATUS_OK) {
		call_failed(r, "register", status, text);
		return;
	}
	if (!r->lease) /* a beat has told first that it has ended: the key went with it */
		return;
	if (t->succeeded && t->header) {
		set_registered(r, t->header->revision);
		return;
	}
	const Mvccpb__KeyValue *kv = found_by(t);
	r->take_revision = 0;
	if (!kv) /* gone again: at the next tick it can be made */
		return;
	if (kv->lease == r->lease) /* ours: only the answer to the call that made it was lost */
		set_registered(r, kv->mod_revision);
	else
		found_key(r, kv);
}

/* Writes the key if it is as it was at mod_revision; 0: if it is not there. Else done gets what is there. */
static void write_key(struct ex_registrar *r, int64_t mod_revision, ex_etcd_done_fn *done)
{
	Etcdserverpb__Compare c = ETCDSERVERPB__COMPARE__INIT;
	Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RequestOp yes = ETCDSERVERPB__REQUEST_OP__INIT, no = ETCDSERVERPB__REQUEST_OP__INIT;
	Etcdserverpb__TxnRequest t = ETCDSERVERPB__TXN_REQUEST__INIT;
	c.key = put.key = range.key = ex_etcd_bytes(r->key);
	c.result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
	if (mod_revision) {
		c.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
		c.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
		c.mod_revision = mod_revision;
	} else {
		c.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
		c.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
		c.create_revision = 0;
	}
	put.value = ex_etcd_bytes(r->value);
	put.lease = r->lease;
	yes.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
	yes.request_put = &put;
	no.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	no.request_range = &range;
	t.compare = (Etcdserverpb__Compare *[]){&c};
	t.success = (Etcdserverpb__RequestOp *[]){&yes};
	t.failure = (Etcdserverpb__RequestOp *[]){&no};
	t.n_compare = t.n_success = t.n_failure = 1;
	r->calling = ex_etcd_call(r->etcd, EX_ETCD_TXN, &t.base, done, r) == 0;
}

/* Makes the key if it is not there, or takes over that of our former self if it is still the same. */
static void try_key(struct ex_registrar *r)
{
	r->outdated = false;
	write_key(r, r->take_revision, key_tried);
}

static void key_updated(void *ctx, int status, const char *text, const ProtobufCMessage *reply)
{
	struct ex_registrar *r = ctx;
	const Etcdserverpb__TxnResponse *t = (const Etcdserverpb__TxnResponse *)reply;
	r->calling = false;
	if (status != EX_STATUS_OK) {
		r->outdated = true;
		if (status == EX_STATUS_NOT_FOUND)
			lose_lease(r, "its lease has ended");
		else
			call_failed(r, "register", status, text);
		return;
	}
	if (t->succeeded && t->header) {
		r->revision = t->header->revision;
		return;
	}
	/* ours, and only the answer to an earlier try was lost: once more. Else the next probe finds out. */
	const Mvccpb__KeyValue *kv = found_by(t);
	if (kv && kv->lease == r->lease) {
		r->revision = kv->mod_revision;
		r->outdated = true;
	}
}

/* The key is ours and says something older. */
static void update_key(struct ex_registrar *r)
{
	r->outdated = false;
	write_key(r, r->revision, key_updated);
}

static void take_fresh(struct ex_registrar *r)
{
	ex_lock_take(&r->lock);
	char *fresh = EX_TAKE(r->fresh);
	ex_lock_give(&r->lock);
	if (!fresh)
		return;
	free(r->value);
	r->value = fresh;
	r->outdated = true;
}

int ex_registrar_update(struct ex_registrar *r, const struct ex_member *self)
{
	struct ex_str value = EX_STR_INIT;
	EX_CHECK_OBJ(r, REGISTRAR_MAGIC);
	ex_record_print(self, &value);
	if (value.oom) {
		ex_str_done(&value);
		return -ENOMEM;
	}
	ex_lock_take(&r->lock);
	free(r->fresh);
	r->fresh = ex_str_take(&value);
	ex_lock_give(&r->lock);
	return 0;
}

/* --- the end --------------------------------------------------------------------------------------------- */

static void revoked(void *ctx, int status, const char *text, const ProtobufCMessage *reply)
{
	struct ex_registrar *r = ctx;
	(void)text, (void)reply;
	r->calling = false;
	if (status != EX_STATUS_OK && status != EX_STATUS_NOT_FOUND) /* another endpoint is tried while there is time */
		return;
	r->lease = 0;
	set_released(r);
}

static void release(struct ex_registrar *r)
{
	Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	r->stream = ex_etcd_stream_close(r->stream);
	q.id = r->lease;
	if (!r->lease)
		set_released(r);
	else
		r->calling = ex_etcd_call(r->etcd, EX_ETCD_LEASE_REVOKE, &q.base, revoked, r) == 0;
}

/* --- what the client tells ------------------------------------------------------------------------------- */

static void on_tick(void *ctx)
{
	struct ex_registrar *r = ctx;
	uint64_t now = ex_now_ns();
	bool stopping = is_stopping(r);
	if (r->lease && !stopping)
		beat(r, now);
	if (r->calling)
		return;
	take_fresh(r);
	if (stopping)
		release(r);
	else if (now < r->next_try_ns)
		return;
	else if (!r->lease)
		grant(r);
	else if (!r->registered)
		try_key(r);
	else if (r->outdated)
		update_key(r);
}

static void on_moved(void *ctx)
{
	struct ex_registrar *r = ctx;
	r->stream = ex_etcd_stream_close(r->stream);
	r->next_beat_ns = ex_now_ns() + RETRY_NS;
}

static void on_state(void *ctx, bool up, const char *why)
{
	struct ex_registrar *r = ctx;
	ex_lock_take(&r->lock);
	r->up = up;
	pthread_cond_broadcast(&r->changed);
	ex_lock_give(&r->lock);
	if (!up) /* perhaps once more, for another reason */
		tell(r, EX_REGISTRAR_UNREACHABLE, why);
	else if (r->was_down)
		tell(r, EX_REGISTRAR_BACK, "etcd answers again");
	r->was_down = !up;
}

/* Is the key still ours? Answers older than its making say nothing, nor do those that a stop, which takes it away, may have overtaken. */
static void on_probed(void *ctx, const Etcdserverpb__RangeResponse *p)
{
	struct ex_registrar *r = ctx;
	if (!r->registered || is_stopping(r) || p->header->revision < r->revision)
		return;
	if (!p->n_kvs)
		lose_key(r, "its key is gone");
	else if (p->kvs[0]->lease != r->lease)
		lose_key(r, "its key was written by another");
}

/* --- life ------------------------------------------------------------------------------------------------ */

static void destroy(struct ex_registrar *r)
{
	ex_etcd_free(r->etcd);
	free(r->fresh);
	free(r->value);
	pthread_cond_destroy(&r->changed);
	ex_lock_done(&r->lock);
	r->magic = 0;
	free(r);
}

int ex_registrar_new(const struct ex_registrar_opts *o, struct ex_err *err, struct ex_registrar **ret)
{
	static const struct ex_etcd_ops ops = {
		.tick = on_tick, .moved = on_moved, .state = on_state, .probed = on_probed};
	struct ex_str value = EX_STR_INIT;
	assert(strlen(o->self->name) < EX_MEMBER_NAME_MAX);
	if (o->lease_ttl_s < EX_FLEET_LEASE_TTL_S_MIN)
		return ex_err_set(err, -EINVAL, "a lease of %u s; at least %d are needed", o->lease_ttl_s,
			EX_FLEET_LEASE_TTL_S_MIN);
	struct ex_registrar *r = ex_calloc(1, sizeof *r);
	if (!r)
		return ex_err_errno(err, -ENOMEM, "cannot register in etcd");
	r->magic = REGISTRAR_MAGIC;
	r->o = *o;
	ex_lock_init(&r->lock, "registrar");
	ex_cond_init(&r->changed);
	r->self = *o->self;
	r->self.shards = NULL;
	snprintf(r->key, sizeof r->key, "%.*s/hosts/%s", EX_FLEET_PREFIX_MAX, o->prefix, r->self.name);
	ex_record_print(o->self, &value);
	r->value = ex_str_take(&value);
	r->o.endpoints = NULL; /* theirs, as the next two */
	r->o.prefix = NULL;
	r->o.self = NULL;
	const struct ex_etcd_opts eo = {
		.endpoints = o->endpoints,
		.n_endpoints = o->n_endpoints,
		.channel = o->channel,
		.timeout_ms = o->timeout_ms,
		.probe_ms = o->lease_ttl_s * 1000 / 3,
		.probe_key = r->key,
		.ops = &ops,
		.ctx = r,
	};
	*ret = r; /* before a callback can run */
	int rc = r->value ? ex_etcd_new(&eo, err, &r->etcd) : ex_err_errno(err, -ENOMEM, "cannot register in etcd");
	if (rc < 0) {
		*ret = NULL;
		destroy(r);
	}
	return rc;
}

struct ex_registrar *ex_registrar_free(struct ex_registrar *r)
{
	if (!r)
		return NULL;
	EX_CHECK_OBJ(r, REGISTRAR_MAGIC);
	uint64_t deadline = ex_now_ns() + r->o.timeout_ms * EX_NS_PER_MS;
	ex_lock_take(&r->lock);
	r->stopping = true;
	while (r->up && !r->released && ex_cond_wait_until(&r->changed, &r->lock, deadline))
		;
	ex_lock_give(&r->lock);
	destroy(r);
	return NULL;
}
