/* SPDX-License-Identifier: Apache-2.0 */
/* One remote expert host: Hello, its stream, heartbeats, and what follows when it falls silent. Layer L3.
 *
 *   JOINING --Hello accepted, stream open, first heartbeat answered--> READY --stream closed or 3 heartbeats missed--> DOWN
 *   READY --silent for 1.5 heartbeats--> SUSPECT --heard again--> READY       READY --it says so--> DRAINING
 *   DOWN --as from JOINING--> READY. A host that was never ready stays JOINING, with the reason in its error.
 */
#include "engine/fabric.h"
#include "base/mem.h"
#include "base/shard.h"
#include "expert/words.h"
#include "expertd/experts.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HELLO_PATH    "/expertd.v1.Experts/Hello"
#define DISPATCH_PATH "/expertd.v1.Experts/Dispatch"
#define STEADY_NS     (10 * EX_NS_PER_S) /* up for that long: earlier falls are forgotten */
#define LOAD_BEATS    8
#define FLAPS_MAX     3 /* falls in a row after which a host is asked last, until it is steady */

/* Puts h into state s for the reason `why`; true when there is news for host_changed. Under d->lock. */
static bool set_state(struct fleet_host *h, enum ex_host_state s, const char *why)
{
	bool news = h->state != s || strcmp(h->error, why) != 0;
	if (h->state != s)
		h->state_ns = ex_now_ns();
	h->state = s;
	snprintf(h->error, sizeof h->error, "%s", why);
	pthread_cond_broadcast(&h->d->cond);
	return news;
}

static void tell(struct fleet_host *h, enum ex_host_state s, const char *why)
{
	const struct ex_dispatch_opts *o = &h->d->o;
	char name[sizeof h->name];
	if (!o->host_changed)
		return;
	ex_lock_take(&h->d->lock);
	memcpy(name, h->name, sizeof name);
	ex_lock_give(&h->d->lock);
	o->host_changed(o->ctx, name, h->address, s, why);
}

bool ex_host_flaps(const struct fleet_host *h, uint64_t now)
{
	return h->n_downs >= FLAPS_MAX && now - h->state_ns < STEADY_NS;
}

/* Counts falls that follow each other. Before set_state, under d->lock. */
static void count_down(struct fleet_host *h)
{
	if (h->state == EX_HOST_JOINING || h->state == EX_HOST_DOWN)
		return;
	h->n_downs = ex_now_ns() - h->state_ns < STEADY_NS ? h->n_downs + 1 : 1;
}

void ex_host_fail(struct fleet_host *h, const char *text)
{
	struct ex_dispatch *d = h->d;
	char why[sizeof h->error];
	ex_peer_text(why, sizeof why, text);
	ex_lock_take(&d->lock);
	struct ex_stream *stream = EX_TAKE(h->stream);
	enum ex_host_state s = h->state == EX_HOST_JOINING ? EX_HOST_JOINING : EX_HOST_DOWN;
	count_down(h);
	h->hello_good = false;
	h->queued = 0;
	h->next_try_ns = ex_now_ns() + d->o.connect_ms * EX_NS_PER_MS;
	bool news = set_state(h, s, why) && !d->stopping && !h->leaving;
	ex_fabric_abort(h, -EHOSTDOWN);
	ex_lock_give(&d->lock);
	if (stream) {
		ex_stream_cancel(stream);
		ex_stream_drop(stream);
	}
	if (news)
		tell(h, s, why);
}

/* --- Hello [control loop] -------------------------------------------------------------------------------- */

/* What a peer says about itself must fit; its shard list is taken over. */
static int check_hello(const struct ex_dispatch *d, const Expertd__V1__HelloReply *r, struct ex_err *err)
{
	if (r->wire != EX_WIRE_VERSION)
		return ex_err_set(err, -EPROTO, "peer %s (version %s) speaks wire version %u, this router %d", r->node,
			r->version, r->wire, EX_WIRE_VERSION);
	if (strcmp(r->model_digest, d->o.model_digest) != 0)
		return ex_err_set(err, -EPROTO, "peer %s serves another model: digest %.16s, this router's is %.16s",
			r->node, r->model_digest, d->o.model_digest);
	if (r->expert_groups != d->o.n_groups)
		return ex_err_set(err, -EPROTO, "peer %s splits layers into %u expert groups, this router into %u",
			r->node, r->expert_groups, d->o.n_groups);
	return 0;
}

/* Place of a shard in h->identity, SIZE_MAX when this model has no such shard. */
static size_t shard_slot(const struct ex_dispatch *d, const Expertd__V1__ShardInfo *i)
{
	if (i->layer >= d->o.n_layers || i->first_expert >= d->o.n_experts)
		return SIZE_MAX;
	uint32_t g = ex_shard_group_of_expert(d->o.n_experts, d->o.n_groups, i->first_expert);
	struct ex_shard_id id = ex_shard_of_group(i->layer, d->o.n_experts, d->o.n_groups, g);
	if (id.first_expert != i->first_expert || id.n_experts != i->n_experts)
		return SIZE_MAX;
	return (size_t)i->layer * d->o.n_groups + g;
}

/* Another member of the same name that is in use: their figures would be mixed up, and operators could not tell them apart. Under
 * d->lock. */
static const struct fleet_host *namesake(const struct fleet_host *h, const char *name)
{
	const struct ex_dispatch *d = h->d;
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (&d->hosts[p] != h && d->hosts[p].used && ex_host_usable(&d->hosts[p]) &&
			strcmp(d->hosts[p].name, name) == 0)
			return &d->hosts[p];
	return NULL;
}

static int check_name(const struct fleet_host *h, const char *told, struct ex_err *err)
{
	char name[sizeof h->name], other[EX_ADDR_MAX] = "";
	ex_peer_text(name, sizeof name, told);
	ex_lock_take(&h->d->lock);
	const struct fleet_host *same = namesake(h, name);
	if (same)
		snprintf(other, sizeof other, "%s", same->address);
	ex_lock_give(&h->d->lock);
	return same ? ex_err_set(err, -EEXIST, "it says that it is %s, and so does %s: a host's [node] name is its own",
			      name, other)
		    : 0;
}

static void forget_shards(struct fleet_host *h)
{
	for (size_t slot = 0; slot < (size_t)h->d->o.n_layers * h->d->o.n_groups; slot++)
		ex_host_set_identity(h, slot, 0);
	h->n_shards = 0;
}

/* One more shard of h. Under d->lock. */
static void take_shard(struct fleet_host *h, size_t slot, const Expertd__V1__ShardInfo *i)
{
	char identity[EX_IDENTITY_KIND_MAX], plugin[sizeof h->plugin];
	ex_peer_text(identity, sizeof identity, i->identity);
	ex_peer_text(plugin, sizeof plugin, i->plugin);
	ex_shard_count_kind(h->kind, identity);
	if (!h->n_shards)
		memcpy(h->plugin, plugin, sizeof plugin);
	else if (strcmp(h->plugin, plugin) != 0)
		snprintf(h->plugin, sizeof h->plugin, "%s", EX_IDENTITY_MIXED);
	ex_host_set_identity(h, slot, ex_shard_identity(i->identity));
	h->d->shard_bytes[slot] = i->bytes;
	h->n_shards++;
}

static void take_hello(struct fleet_host *h, const Expertd__V1__HelloReply *r)
{
	struct ex_dispatch *d = h->d;
	ex_lock_take(&d->lock);
	ex_peer_text(h->zone, sizeof h->zone, r->zone);
	h->memory_bytes = r->memory_bytes;
	h->accepts_moves = r->accepts_moves;
	ex_peer_text(h->name, sizeof h->name, r->node[0] ? r->node : h->address);
	ex_peer_text(h->version, sizeof h->version, r->version);
	h->m = (struct host_metrics){
		.rows = ex_metric(EX_M_DISPATCH_ROWS, h->name),
		.frames = ex_metric(EX_M_DISPATCH_FRAMES, h->name),
		.seconds = ex_metric(EX_M_DISPATCH_SECONDS, h->name),
		.errors = ex_metric(EX_M_DISPATCH_ERRORS, h->name),
		.resent = ex_metric(EX_M_DISPATCH_RESENT, h->name),
	};
	forget_shards(h);
	h->plugin[0] = h->kind[0] = '\0';
	h->revision = r->revision;
	h->behind = r->live_digest[0] && strcmp(r->live_digest, d->o.model_digest) != 0;
	h->refused = false;
	h->stale = false;
	for (size_t i = 0; i < r->n_shards; i++) {
		size_t slot = shard_slot(d, r->shards[i]);
		bool ready = strcmp(r->shards[i]->state, "ready") == 0;
		h->stale |= strcmp(r->shards[i]->state, "loading") == 0;
		if (slot != SIZE_MAX && ready && !h->identity[slot])
			take_shard(h, slot, r->shards[i]);
	}
	if (!h->stream) { /* a new start: what it computed before counts no more */
		h->distrusted = false;
		memset(h->differed, 0, sizeof h->differed);
	}
	h->hello_good = true;
	pthread_cond_broadcast(&d->cond);
	ex_lock_give(&d->lock);
}

/* Where the next stream goes: as Hello did, or in plain text to the port that it offers over TLS. */
static int choose_route(struct fleet_host *h, const Expertd__V1__HelloReply *r)
{
	const struct ex_dispatch_opts *o = &h->d->o;
	struct ex_channel_route route = {.target = h->address, .tls = o->tls};
	char target[EX_ADDR_MAX + 8];
	if (r->data_port > UINT16_MAX)
		return -EINVAL;
	if (o->tls && o->plain_data && r->data_port) {
		snprintf(target, sizeof target, "%.*s:%u", (int)(strrchr(h->address, ':') - h->address), h->address,
			r->data_port);
		route = (struct ex_channel_route){.target = target, .key = EX_WORD_KEY, .value = r->word};
	}
	return ex_channel_set_route(h->data, &route);
}

static void hello_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct fleet_host *h = ctx;
	struct ex_err err = EX_ERR_INIT;
	ProtobufCMessage *reply = ex_msg_unpack(m, &expertd__v1__hello_reply__descriptor);
	(void)s;
	h->hello_answered = true;
	ex_msg_free(m);
	if (!reply) {
		ex_host_fail(h, "handshake: malformed reply");
		return;
	}
	if (check_hello(h->d, (const Expertd__V1__HelloReply *)reply, &err) ||
		check_name(h, ((const Expertd__V1__HelloReply *)reply)->node, &err))
		ex_host_fail(h, ex_err_text(&err));
	else if (choose_route(h, (const Expertd__V1__HelloReply *)reply))
		ex_host_fail(h, "handshake: malformed offer of streams in plain text");
	else
		take_hello(h, (const Expertd__V1__HelloReply *)reply);
	protobuf_c_message_free_unpacked(reply, NULL);
}

static void hello_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct fleet_host *h = ctx;
	char why[256];
	ex_lock_take(&h->d->lock);
	h->hello_pending = false;
	h->refused = status == EX_STATUS_FAILED_PRECONDITION;
	/* a refresh that failed leaves the stream to judge, unless the host does not hold our model any more */
	bool alive = h->stream && !h->refused;
	ex_lock_give(&h->d->lock);
	ex_stream_drop(s);
	if ((status || !h->hello_answered) && !alive) {
		snprintf(why, sizeof why, "handshake: %s", text && text[0] ? text : "no answer");
		ex_host_fail(h, why);
	}
}

static int send_hello(struct fleet_host *h, struct ex_err *err)
{
	static const struct ex_stream_ops ops = {.message = hello_message, .closed = hello_closed};
	const struct ex_dispatch_opts *o = &h->d->o;
	Expertd__V1__HelloRequest q = EXPERTD__V1__HELLO_REQUEST__INIT;
	struct ex_stream *s;
	q.node = (char *)o->node;
	q.version = (char *)o->version;
	q.wire = EX_WIRE_VERSION;
	q.model_digest = (char *)o->model_digest;
	q.expert_groups = o->n_groups;
	struct ex_out *out = ex_out_pack(&q.base);
	if (!out)
		return ex_err_set(err, -ENOMEM, "handshake: out of memory");
	h->hello_answered = false;
	/* a call that waits for a connection ends without a word of why there was none, and with TLS that is what matters */
	int rc = ex_stream_open(h->control, HELLO_PATH, o->connect_ms, !o->tls, &ops, h, err, &s);
	if (rc) {
		ex_out_free(out);
		return rc;
	}
	ex_stream_send(s, out); /* when it fails, hello_closed tells why */
	ex_stream_close_send(s);
	return 0;
}

void ex_host_tick_control(struct fleet_host *h)
{
	struct ex_dispatch *d = h->d;
	struct ex_err err = EX_ERR_INIT;
	uint64_t now = ex_now_ns();
	ex_lock_take(&d->lock);
	const bool there = h->used && !h->leaving; /* its channels are, until this tick is over */
	bool wanted = !h->hello_good && !h->stream && now >= h->next_try_ns;
	bool refresh = h->stale && h->hello_good && now - h->hello_ns >= EX_HELLO_REFRESH_MS * EX_NS_PER_MS;
	bool go = (wanted || refresh) && !h->hello_pending && !d->stopping && there;
	if (go) {
		h->hello_pending = true;
		h->hello_ns = now;
	}
	ex_lock_give(&d->lock);
	if (there)
		ex_channel_check(h->control);
	if (!go || !send_hello(h, &err))
		return;
	ex_lock_take(&d->lock);
	h->hello_pending = false;
	ex_lock_give(&d->lock);
	ex_host_fail(h, ex_err_text(&err));
}

/* --- the stream [data loop] ------------------------------------------------------------------------------ */

/* False for a stream of the past, whose last words come late. */
static bool is_current(const struct fleet_host *h, const struct ex_stream *s)
{
	ex_lock_take(&h->d->lock);
	bool current = h->stream == s;
	ex_lock_give(&h->d->lock);
	return current;
}

/* Anything that comes in shows life; the first sign makes the host ready, unless it says that it drains. False when s is a
 * stream of the past. */
static bool note_life(struct fleet_host *h, const struct ex_stream *s, const struct ex_frame_reply *r)
{
	enum ex_host_state next = r->draining ? EX_HOST_DRAINING : EX_HOST_READY;
	const char *why = r->draining ? "it is going to stop" : "";
	bool news = false;
	ex_lock_take(&h->d->lock);
	bool current = h->stream == s;
	const struct fleet_host *same = current && !ex_host_usable(h) ? namesake(h, h->name) : NULL;
	if (current && !same) {
		h->heard_ns = ex_now_ns();
		h->stale |= r->revision != h->revision;
		if (h->state != next)
			news = set_state(h, next, why);
	}
	ex_lock_give(&h->d->lock);
	if (news)
		tell(h, next, why);
	if (same) /* of two that came up together the first one stays */
		ex_host_fail(h, "another host of its name was faster: a host's [node] name is its own");
	return current && !same;
}

static int take_reply(struct fleet_host *h, const struct ex_stream *s, const struct ex_msg *m, struct ex_err *err)
{
	struct ex_frame_reply reply;
	int rc = ex_frame_reply_parse(m, h->d->o.d_model, err, &reply);
	if (rc)
		return rc;
	if (note_life(h, s, &reply) && reply.id)
		rc = ex_fabric_receive(h, &reply, err);
	ex_frame_reply_done(&reply);
	return rc;
}

static void stream_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct fleet_host *h = ctx;
	struct ex_err err = EX_ERR_INIT;
	int rc = take_reply(h, s, m, &err);
	ex_msg_free(m);
	if (rc && is_current(h, s))
		ex_host_fail(h, ex_err_text(&err));
}

static void stream_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct fleet_host *h = ctx;
	char why[256];
	if (!is_current(h, s))
		return;
	snprintf(why, sizeof why, "stream closed, status %d: %s", status, text && text[0] ? text : "no reason given");
	ex_host_fail(h, why);
}

static void open_stream(struct fleet_host *h)
{
	static const struct ex_stream_ops ops = {.message = stream_message, .closed = stream_closed};
	struct ex_dispatch *d = h->d;
	struct ex_err err = EX_ERR_INIT;
	struct ex_stream *s;
	if (ex_stream_open(h->data, DISPATCH_PATH, 0, true, &ops, h, &err, &s)) {
		ex_host_fail(h, ex_err_text(&err));
		return;
	}
	ex_lock_take(&d->lock);
	bool wanted = h->hello_good && !d->stopping && !h->leaving; /* a Hello may have failed meanwhile */
	if (wanted) {
		h->stream = s; /* its callbacks come on this thread: not before we are through */
		h->heard_ns = ex_now_ns();
	}
	ex_lock_give(&d->lock);
	if (!wanted) {
		ex_stream_cancel(s);
		ex_stream_drop(s);
	}
}

static void send_heartbeat(struct ex_stream *s, uint64_t epoch)
{
	Expertd__V1__DispatchRequest q = EXPERTD__V1__DISPATCH_REQUEST__INIT;
	q.sent_ns = ex_now_ns();
	q.epoch = epoch; /* so that the host knows whose weights this stream is for */
	struct ex_out *out = ex_out_pack(&q.base);
	if (out)
		ex_stream_send(s, out); /* when it fails, `closed` tells */
}

/* A host that is silent for longer than a heartbeat takes: what it works on is asked for elsewhere meanwhile. */
static void suspect(struct fleet_host *h, uint64_t silent_ns)
{
	char why[128];
	snprintf(why, sizeof why, "no heartbeat for %" PRIu64 " ms", silent_ns / EX_NS_PER_MS);
	ex_lock_take(&h->d->lock);
	bool news = h->state == EX_HOST_READY && set_state(h, EX_HOST_SUSPECT, why);
	ex_lock_give(&h->d->lock);
	if (news)
		tell(h, EX_HOST_SUSPECT, why);
}

/* A host that is not asked does not show that it has become faster: its estimate shrinks until it is asked again. */
static void forget_slowness(struct fleet_host *h, uint64_t now)
{
	if (now - h->used_ns > EX_NS_PER_S)
		h->reply_ns -= h->reply_ns / 8;
}

/* The share of the time since the last beat that it computed for us, into a mean over some seconds. */
static void measure_load(struct fleet_host *h, uint64_t now)
{
	double share = now > h->beat_ns ? EX_MIN((double)h->busy_ns / (double)(now - h->beat_ns), 1.0) : 0;
	h->load += (share - h->load) / LOAD_BEATS;
	h->busy_ns = 0;
	h->beat_ns = now;
}

void ex_host_tick_data(struct fleet_host *h, bool trust_clock, bool beat)
{
	struct ex_dispatch *d = h->d;
	uint64_t now = ex_now_ns(), period = d->o.heartbeat_ms * EX_NS_PER_MS;
	char why[128];
	ex_lock_take(&d->lock);
	const bool there = h->used && !h->leaving;
	bool open = h->hello_good && !h->stream && !d->stopping && there;
	if (!trust_clock)
		h->heard_ns = now; /* this process stood still: the peer is not to blame */
	uint64_t silent_ns = h->stream && now > h->heard_ns ? now - h->heard_ns : 0;
	if (beat) {
		forget_slowness(h, now);
		measure_load(h, now);
	}
	ex_lock_give(&d->lock);
	if (there)
		ex_channel_check(h->data);
	if (silent_ns > EX_HOST_MISSES_MAX * period) {
		snprintf(
			why, sizeof why, "no heartbeat for %" PRIu64 " ms", EX_HOST_MISSES_MAX * period / EX_NS_PER_MS);
		ex_host_fail(h, why);
		return;
	}
	if (silent_ns > period + period / 2)
		suspect(h, silent_ns);
	if (open)
		open_stream(h);
	ex_lock_take(&d->lock);
	struct ex_stream *s = h->stream && (beat || open) ? ex_stream_hold(h->stream) : NULL;
	ex_lock_give(&d->lock);
	if (s) {
		send_heartbeat(s, d->o.epoch);
		ex_stream_drop(s);
	}
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_host_open(struct fleet_host *h, struct ex_dispatch *d, const char *address, struct ex_err *err)
{
	size_t y_bytes = (size_t)d->o.rows_max * EX_MIN(d->o.topk, d->o.n_groups) * d->o.d_model * sizeof(float);
	size_t n_slots = (size_t)d->o.n_layers * d->o.n_groups;
	uint64_t *identity = h->identity ? h->identity : ex_calloc(n_slots, sizeof *identity);
	if (!identity)
		return ex_err_set(err, -ENOMEM, "dispatch: out of memory for host %s", address);
	const struct ex_channel_opts control = {.target = address, .loop = d->o.loop_control, .tls = d->o.tls};
	const struct ex_channel_opts data = {
		.target = address,
		.loop = d->o.loop_data,
		.tls = d->o.tls,
		.message_bytes_max = EX_MIN(y_bytes + EX_FRAME_HEAD_BYTES_MAX, (size_t)EX_FRAME_BYTES_MAX),
	};
	struct fleet_host fresh = {.d = d, .identity = identity, .state = EX_HOST_JOINING, .state_ns = ex_now_ns()};
	snprintf(fresh.name, sizeof fresh.name, "%s", address);
	snprintf(fresh.address, sizeof fresh.address, "%s", address);
	int rc = ex_channel_new(&control, err, &fresh.control);
	if (!rc)
		rc = ex_channel_new(&data, err, &fresh.data);
	fresh.used = !rc;
	if (rc && fresh.control)
		fresh.control = ex_channel_free(fresh.control);
	ex_lock_take(&d->lock);
	*h = fresh;
	forget_shards(h); /* those of who had the place before */
	ex_lock_give(&d->lock);
	return rc;
}

void ex_host_close(struct fleet_host *h)
{
	struct ex_dispatch *d = h->d;
	ex_lock_take(&d->lock);
	h->leaving = true;
	h->hello_good = false;
	struct ex_stream *stream = EX_TAKE(h->stream);
	ex_fabric_abort(h, -EHOSTDOWN);
	ex_lock_give(&d->lock);
	if (stream) {
		ex_stream_cancel(stream);
		ex_stream_drop(stream);
	}
	h->control = ex_channel_free(h->control); /* their last callbacks have run then: nobody else knows h */
	h->data = ex_channel_free(h->data);
	ex_lock_take(&d->lock);
	h->used = false;
	ex_lock_give(&d->lock);
}
