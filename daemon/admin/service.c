/* SPDX-License-Identifier: Apache-2.0 */
/* The Admin service. One handler per method fills a reply from the rooms; Events may follow. Layer L4. */
#include "admin/service.h"

#include "admin/shards.h"
#include "admin/views.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/metrics.h"
#include <string.h>
#include <unistd.h>

#define ADMIN_MAGIC        0x41444d49
#define REQUEST_BYTES_MAX  65536
#define FOLLOWERS_MAX      64
#define FOLLOW_MS          200       /* how soon a followed event is sent */
#define FOLLOWER_BYTES_MAX (1 << 20) /* queued towards a client that does not read: it gets no more until it does */
#define EVENTS_AT_ONCE     32

enum { METHOD_N = 17 };

/* One method: unpacks its request, fills a reply in `keep` and returns it packed; NULL: err. [cq] */
typedef struct ex_out *unary_fn(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *keep, struct ex_err *err);

/* Fills what is asked of the swapper from a request. */
typedef void change_fn(const ProtobufCMessage *request, struct ex_swap_request *q, const char **ret_glob);

struct handler {
	struct ex_admin *admin;
	const ProtobufCMessageDescriptor *request;
	unary_fn *fn;      /* NULL: a stream */
	change_fn *change; /* of shards; NULL: Events or SwitchModel */
};

/* One Events call. [cq] */
struct follower {
	struct ex_rpc *rpc;
	uint64_t after;
	bool follow;
	struct follower *next;
};

struct ex_admin {
	uint32_t magic;
	struct ex_admin_opts o;
	uint64_t started_ns;
	struct ex_lock lock;
	struct ex_admin_parts parts; /* guarded by lock: held while a view looks into the rooms */
	enum ex_admin_state state;   /* guarded by lock */
	struct handler handler[METHOD_N];
	struct ex_method method[METHOD_N + 1];
	struct follower *followers;                    /* [cq] */
	unsigned n_followers;                          /* [cq] */
	struct ex_event_record events[EVENTS_AT_ONCE]; /* [cq] on their way */
	struct ex_timer *timer;
};

/* --- unary methods --------------------------------------------------------------------------------------- */

static struct ex_out *do_status(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	static const char *const state_name[] = {"starting", "ready", "draining"};
	(void)request, (void)err;
	Expertd__V1__StatusReply r = EXPERTD__V1__STATUS_REPLY__INIT;
	struct ex_switch_view v;
	a->o.view_model(a->o.ctx, &v);
	r.model_path = ex_keep_text(k, v.path);
	r.model_next_path = ex_keep_text(k, v.next_path);
	r.model_next_digest = ex_keep_text(k, v.next_digest);
	r.model_before_digest = ex_keep_text(k, v.before_digest);
	ex_lock_take(&a->lock);
	r.state = ex_keep_text(k, state_name[a->state]);
	ex_view_status(&a->o, &a->parts, k, &r);
	ex_lock_give(&a->lock);
	r.uptime_seconds = (double)(ex_now_ns() - a->started_ns) / (double)EX_NS_PER_S;
	r.pid = (uint32_t)getpid();
	return ex_out_pack(&r.base);
}

static struct ex_out *do_hosts(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	(void)request, (void)err;
	Expertd__V1__ListHostsReply r = EXPERTD__V1__LIST_HOSTS_REPLY__INIT;
	ex_lock_take(&a->lock);
	ex_view_hosts(&a->o, &a->parts, k, &r);
	ex_lock_give(&a->lock);
	return ex_out_pack(&r.base);
}

static struct ex_out *do_drain(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__DrainHostRequest *q = (const Expertd__V1__DrainHostRequest *)request;
	Expertd__V1__DrainHostReply r = EXPERTD__V1__DRAIN_HOST_REPLY__INIT;
	int rc;
	(void)k;
	ex_lock_take(&a->lock);
	if (!a->parts.dispatch)
		rc = ex_err_set(err, -ENOTSUP, "this node is no router: hosts are drained on a router");
	else
		rc = ex_dispatch_drain(a->parts.dispatch, q->name, !q->resume, q->force, err, &r.shards_alone);
	ex_lock_give(&a->lock);
	if (rc < 0)
		return NULL;
	ex_event(q->resume ? EX_EV_HOST_RESUMED : EX_EV_HOST_DRAINED, EX_FIELDS({"EX_HOST", q->name}),
		q->resume
			? "expert host %s was taken into use again by an operator"
			: "expert host %s was taken out of use by an operator; %u of its shards have no other replica",
		q->name, r.shards_alone);
	return ex_out_pack(&r.base);
}

static struct ex_out *do_plan(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	Expertd__V1__PlanFleetReply r = EXPERTD__V1__PLAN_FLEET_REPLY__INIT;
	int rc;
	ex_lock_take(&a->lock);
	if (!a->parts.dispatch)
		rc = ex_err_set(err, -ENOTSUP, "this node is no router: a fleet is planned on a router");
	else
		rc = ex_view_plan(&a->o, &a->parts, (const Expertd__V1__PlanFleetRequest *)request, k, err, &r);
	ex_lock_give(&a->lock);
	return rc < 0 ? NULL : ex_out_pack(&r.base);
}

/* Under a->lock. */
static int check_mover(const struct ex_admin *a, struct ex_err *err)
{
	if (a->parts.mover)
		return 0;
	return a->o.is_router ? ex_err_set(err, -ENOTCONN, "nothing is moved while the node is starting or stopping")
			      : ex_err_set(err, -ENOTSUP, "this node is no router: a fleet is planned on a router");
}

static struct ex_out *do_apply(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	static const Expertd__V1__PlanFleetRequest nothing_said = EXPERTD__V1__PLAN_FLEET_REQUEST__INIT;
	const Expertd__V1__ApplyFleetRequest *q = (const Expertd__V1__ApplyFleetRequest *)request;
	Expertd__V1__ApplyFleetReply r = EXPERTD__V1__APPLY_FLEET_REPLY__INIT;
	struct ex_planner_opts o;
	(void)k;
	ex_view_planner_opts(&a->o, q->plan ? q->plan : &nothing_said, &o);
	ex_lock_take(&a->lock);
	int rc = check_mover(a, err);
	if (rc == 0)
		rc = q->stop ? ex_mover_stop(a->parts.mover, err) : ex_mover_apply(a->parts.mover, &o, err, &r.go);
	ex_lock_give(&a->lock);
	return rc < 0 ? NULL : ex_out_pack(&r.base);
}

static struct ex_out *do_fleet_status(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	Expertd__V1__FleetStatusReply r = EXPERTD__V1__FLEET_STATUS_REPLY__INIT;
	(void)request;
	ex_lock_take(&a->lock);
	int rc = check_mover(a, err);
	if (rc == 0)
		ex_view_moves(&a->parts, k, &r);
	ex_lock_give(&a->lock);
	return rc < 0 ? NULL : ex_out_pack(&r.base);
}

static struct ex_out *do_shards(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	const Expertd__V1__ListShardsRequest *q = (const Expertd__V1__ListShardsRequest *)request;
	Expertd__V1__ListShardsReply r = EXPERTD__V1__LIST_SHARDS_REPLY__INIT;
	const char *glob = *q->glob ? q->glob : "*";
	if (ex_shard_glob_check(glob) < 0) {
		ex_err_set(err, -EINVAL, "'%.100s' is not a glob over LAYER/RANGE, as in */E0-7", glob);
		return NULL;
	}
	ex_lock_take(&a->lock);
	ex_view_shards(&a->o, &a->parts, glob, k, &r);
	ex_lock_give(&a->lock);
	return ex_out_pack(&r.base);
}

static struct ex_out *do_plugins(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	(void)request;
	Expertd__V1__ListPluginsReply r = EXPERTD__V1__LIST_PLUGINS_REPLY__INIT;
	int rc;
	ex_lock_take(&a->lock);
	if (a->state == EX_ADMIN_STARTING)
		rc = ex_err_set(err, -ENOTCONN, "plugins cannot be listed while the node is starting");
	else
		rc = ex_view_plugins(&a->o, &a->parts, k, err, &r);
	ex_lock_give(&a->lock);
	return rc < 0 ? NULL : ex_out_pack(&r.base);
}

static struct ex_out *do_metrics(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	(void)a, (void)request, (void)err;
	Expertd__V1__MetricsReply r = EXPERTD__V1__METRICS_REPLY__INIT;
	struct ex_str text = EX_STR_INIT;
	ex_metrics_write(&text);
	k->oom |= text.oom;
	r.text = ex_keep_text(k, text.s);
	ex_str_done(&text);
	return ex_out_pack(&r.base);
}

static struct ex_out *do_config(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	(void)request, (void)err;
	Expertd__V1__ConfigReply r = EXPERTD__V1__CONFIG_REPLY__INIT;
	struct ex_str text = EX_STR_INIT;
	a->o.dump_config(a->o.ctx, &text);
	k->oom |= text.oom;
	r.text = ex_keep_text(k, text.s);
	ex_str_done(&text);
	return ex_out_pack(&r.base);
}

struct reload {
	struct ex_keep *k;
	char **taken, **left; /* [max] each */
	size_t n_taken, n_left, max;
};

static void note_change(void *ctx, const char *name, bool taken)
{
	struct reload *l = ctx;
	if (taken && l->n_taken < l->max)
		l->taken[l->n_taken++] = ex_keep_text(l->k, name);
	else if (!taken && l->n_left < l->max)
		l->left[l->n_left++] = ex_keep_text(l->k, name);
}

static struct ex_out *do_reload(
	struct ex_admin *a, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err)
{
	(void)request;
	Expertd__V1__ReloadReply r = EXPERTD__V1__RELOAD_REPLY__INIT;
	struct reload l = {.k = k, .max = 256}; /* more than there are parameters */
	l.taken = ex_keep_alloc(k, l.max, sizeof *l.taken);
	l.left = ex_keep_alloc(k, l.max, sizeof *l.left);
	if (k->oom || a->o.reload(a->o.ctx, err, note_change, &l) < 0)
		return NULL;
	r.changed = l.taken;
	r.n_changed = l.n_taken;
	r.needs_restart = l.left;
	r.n_needs_restart = l.n_left;
	return ex_out_pack(&r.base);
}

/* --- events ---------------------------------------------------------------------------------------------- */

static struct ex_out *pack_event(const struct ex_event_record *e)
{
	struct ex_keep k = {0};
	char *field[EX_EVENT_FIELDS_MAX];
	Expertd__V1__Event m = EXPERTD__V1__EVENT__INIT;
	m.seq = e->seq;
	m.realtime_us = e->realtime_us;
	m.name = ex_keep_text(&k, ex_event_name(e->id));
	m.message_id = ex_keep_text(&k, ex_event_message_id(e->id));
	m.text = ex_keep_text(&k, e->text);
	m.fields = field;
	for (int i = 0; i < EX_EVENT_FIELDS_MAX && e->fields[i][0]; i++)
		field[m.n_fields++] = ex_keep_text(&k, e->fields[i]);
	struct ex_out *o = k.oom ? NULL : ex_out_pack(&m.base);
	ex_keep_done(&k);
	return o;
}

/* Sends what is new; false when the call failed. A client that does not read is left behind, and finds a gap in the
 * numbers if the ring went round meanwhile. */
static bool send_events(struct ex_admin *a, struct follower *f)
{
	struct ex_event_record *e = a->events;
	size_t n = EVENTS_AT_ONCE;
	while (n == EVENTS_AT_ONCE && ex_rpc_queued_bytes(f->rpc) < FOLLOWER_BYTES_MAX) {
		n = ex_event_read(f->after, e, EVENTS_AT_ONCE);
		for (size_t i = 0; i < n; i++) {
			struct ex_out *o = pack_event(&e[i]);
			if (!o || ex_rpc_send(f->rpc, o) < 0)
				return false;
			f->after = e[i].seq;
		}
	}
	return true;
}

static void on_timer(void *ctx)
{
	struct ex_admin *a = ctx;
	for (struct follower *f = a->followers; f; f = f->next)
		if (f->follow && !send_events(a, f))
			ex_rpc_finish(f->rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static void start_events(struct ex_admin *a, struct ex_rpc *rpc, const Expertd__V1__EventsRequest *q)
{
	struct follower *f = a->n_followers < FOLLOWERS_MAX ? calloc(1, sizeof *f) : NULL;
	if (!f) {
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "too many calls read events already");
		return;
	}
	*f = (struct follower){.rpc = rpc, .after = q->after, .follow = q->follow, .next = a->followers};
	a->followers = f;
	a->n_followers++;
	if (!send_events(a, f))
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	else if (!f->follow)
		ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

/* --- changes of shards ----------------------------------------------------------------------------------- */

static void fill_swap(const ProtobufCMessage *request, struct ex_swap_request *q, const char **ret_glob)
{
	const Expertd__V1__SwapShardsRequest *m = (const Expertd__V1__SwapShardsRequest *)request;
	q->action = EX_SWAP_SWAP;
	q->plugin = m->plugin;
	q->n_verify = m->verify;
	q->tolerance = m->tolerance;
	*ret_glob = m->glob;
}

static void fill_load(const ProtobufCMessage *request, struct ex_swap_request *q, const char **ret_glob)
{
	q->action = EX_SWAP_LOAD;
	*ret_glob = ((const Expertd__V1__LoadShardsRequest *)request)->glob;
}

static void fill_unload(const ProtobufCMessage *request, struct ex_swap_request *q, const char **ret_glob)
{
	const Expertd__V1__UnloadShardsRequest *m = (const Expertd__V1__UnloadShardsRequest *)request;
	q->action = EX_SWAP_UNLOAD;
	q->force = m->force;
	*ret_glob = m->glob;
}

static void fill_rollback(const ProtobufCMessage *request, struct ex_swap_request *q, const char **ret_glob)
{
	q->action = EX_SWAP_ROLLBACK;
	*ret_glob = ((const Expertd__V1__RollbackShardsRequest *)request)->glob;
}

static void start_change(struct handler *h, struct ex_rpc *rpc, const ProtobufCMessage *request)
{
	struct ex_admin *a = h->admin;
	struct ex_swap_request q = {.action = EX_SWAP_SWAP};
	struct ex_err err = EX_ERR_INIT;
	const char *glob;
	h->change(request, &q, &glob);
	int rc = ex_shards_check(&q, glob, &err);
	ex_lock_take(&a->lock);
	if (rc == 0 && !a->o.is_expert)
		rc = ex_err_set(&err, -EINVAL, "this process holds no shards: ask an expert host");
	else if (rc == 0 && !a->parts.swapper)
		rc = ex_err_set(&err, -ENOTCONN, "shards cannot be changed while the node is starting or stopping");
	if (rc == 0)
		rc = ex_shards_change(a->parts.swapper, &q, rpc, &err);
	ex_lock_give(&a->lock);
	if (rc < 0)
		ex_rpc_finish_errno(rpc, rc, ex_err_text(&err));
}

static void start_switch(struct ex_admin *a, struct ex_rpc *rpc, const Expertd__V1__SwitchModelRequest *q)
{
	if (a->o.switch_model)
		ex_switch_call(rpc, a->o.switch_model, a->o.ctx, q->dir, q->move);
	else
		ex_rpc_finish_errno(rpc, -ENOTSUP, "this node is no router: a fleet is switched on a router");
}

/* --- calls ----------------------------------------------------------------------------------------------- */

static void answer(struct handler *h, struct ex_rpc *rpc, const ProtobufCMessage *request)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_keep keep = {0};
	struct ex_out *o = h->fn(h->admin, request, &keep, &err);
	if (keep.oom || (!o && !err.code)) {
		ex_out_free(o);
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	} else if (!o)
		ex_rpc_finish_errno(rpc, err.code, ex_err_text(&err));
	else {
		ex_rpc_send(rpc, o);
		ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
	}
	ex_keep_done(&keep);
}

static void on_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct handler *h = ctx;
	ProtobufCMessage *request = ex_msg_unpack(m, h->request);
	ex_msg_free(m);
	if (!request) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "the request is malformed");
		return;
	}
	if (h->fn)
		answer(h, rpc, request);
	else if (h->change)
		start_change(h, rpc, request);
	else if (h->request == &expertd__v1__switch_model_request__descriptor)
		start_switch(h->admin, rpc, (const Expertd__V1__SwitchModelRequest *)request);
	else
		start_events(h->admin, rpc, (const Expertd__V1__EventsRequest *)request);
	protobuf_c_message_free_unpacked(request, NULL);
}

static void on_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	struct ex_admin *a = ((struct handler *)ctx)->admin;
	(void)cancelled;
	for (struct follower **f = &a->followers; *f; f = &(*f)->next)
		if ((*f)->rpc == rpc) {
			struct follower *gone = *f;
			*f = gone->next;
			free(gone);
			a->n_followers--;
			return;
		}
}

/* --- life ------------------------------------------------------------------------------------------------ */

static void fill_methods(struct ex_admin *a)
{
	static const struct {
		const char *path;
		const ProtobufCMessageDescriptor *request;
		unary_fn *fn;
		change_fn *change;
	} row[METHOD_N] = {
		{"/expertd.v1.Admin/Status", &expertd__v1__status_request__descriptor, do_status, NULL},
		{"/expertd.v1.Admin/ListHosts", &expertd__v1__list_hosts_request__descriptor, do_hosts, NULL},
		{"/expertd.v1.Admin/DrainHost", &expertd__v1__drain_host_request__descriptor, do_drain, NULL},
		{"/expertd.v1.Admin/PlanFleet", &expertd__v1__plan_fleet_request__descriptor, do_plan, NULL},
		{"/expertd.v1.Admin/ApplyFleet", &expertd__v1__apply_fleet_request__descriptor, do_apply, NULL},
		{"/expertd.v1.Admin/FleetStatus", &expertd__v1__fleet_status_request__descriptor, do_fleet_status,
			NULL},
		{"/expertd.v1.Admin/ListShards", &expertd__v1__list_shards_request__descriptor, do_shards, NULL},
		{"/expertd.v1.Admin/SwapShards", &expertd__v1__swap_shards_request__descriptor, NULL, fill_swap},
		{"/expertd.v1.Admin/LoadShards", &expertd__v1__load_shards_request__descriptor, NULL, fill_load},
		{"/expertd.v1.Admin/UnloadShards", &expertd__v1__unload_shards_request__descriptor, NULL, fill_unload},
		{"/expertd.v1.Admin/RollbackShards", &expertd__v1__rollback_shards_request__descriptor, NULL,
			fill_rollback},
		{"/expertd.v1.Admin/SwitchModel", &expertd__v1__switch_model_request__descriptor, NULL, NULL},
		{"/expertd.v1.Admin/ListPlugins", &expertd__v1__list_plugins_request__descriptor, do_plugins, NULL},
		{"/expertd.v1.Admin/Events", &expertd__v1__events_request__descriptor, NULL, NULL},
		{"/expertd.v1.Admin/Metrics", &expertd__v1__metrics_request__descriptor, do_metrics, NULL},
		{"/expertd.v1.Admin/Config", &expertd__v1__config_request__descriptor, do_config, NULL},
		{"/expertd.v1.Admin/Reload", &expertd__v1__reload_request__descriptor, do_reload, NULL},
	};
	for (size_t i = 0; i < METHOD_N; i++) {
		a->handler[i] = (struct handler){
			.admin = a, .request = row[i].request, .fn = row[i].fn, .change = row[i].change};
		a->method[i] = (struct ex_method){
			.path = row[i].path,
			.message_bytes_max = REQUEST_BYTES_MAX,
			.message = on_message,
			.done = on_done,
			.ctx = &a->handler[i],
		};
	}
}

int ex_admin_new(const struct ex_admin_opts *o, struct ex_err *err, struct ex_admin **ret)
{
	struct ex_admin *a = calloc(1, sizeof *a);
	if (!a)
		return ex_err_errno(err, -ENOMEM, "cannot make the admin service");
	a->magic = ADMIN_MAGIC;
	a->o = *o;
	a->started_ns = ex_now_ns();
	ex_lock_init(&a->lock, "admin");
	fill_methods(a);
	int rc = ex_timer_start(o->loop, FOLLOW_MS, on_timer, a, &a->timer);
	if (rc < 0) {
		ex_admin_free(a);
		return ex_err_errno(err, rc, "cannot make the admin service");
	}
	*ret = a;
	return 0;
}

struct ex_admin *ex_admin_free(struct ex_admin *a)
{
	if (!a)
		return NULL;
	EX_CHECK_OBJ(a, ADMIN_MAGIC);
	if (a->timer)
		ex_timer_cancel(a->timer);
	assert(!a->followers); /* the server, which ends every call, is gone */
	ex_lock_done(&a->lock);
	a->magic = 0;
	free(a);
	return NULL;
}

void ex_admin_show(struct ex_admin *a, const struct ex_admin_parts *parts)
{
	EX_CHECK_OBJ(a, ADMIN_MAGIC);
	ex_lock_take(&a->lock);
	a->parts = *parts;
	ex_lock_give(&a->lock);
}

void ex_admin_set_state(struct ex_admin *a, enum ex_admin_state s)
{
	EX_CHECK_OBJ(a, ADMIN_MAGIC);
	ex_lock_take(&a->lock);
	a->state = s;
	ex_lock_give(&a->lock);
}

const struct ex_method *ex_admin_methods(struct ex_admin *a, int loop_i)
{
	for (size_t i = 0; i < METHOD_N; i++)
		a->method[i].loop_i = loop_i;
	return a->method;
}
