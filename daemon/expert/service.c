/* SPDX-License-Identifier: Apache-2.0 */
/* The Experts service: the handshake, and its methods. Dispatch streams are in lane.c. Layer L2. */
#include "expert/service.h"

#include "base/mem.h"
#include "expert/lane.h"
#include "net/frame.h"
#include "proto/expertd/experts.pb-c.h"
#include <stdio.h>
#include <string.h>

#define HELLO_BYTES_MAX (64 << 10)

typedef Expertd__V1__HelloRequest hello_request;
typedef Expertd__V1__ShardInfo shard_info;

struct ex_experts_service {
	struct ex_experts_service_opts o;
	struct ex_lane_env env;
	struct ex_method methods[3 + EX_EXPERTS_MORE_MAX], data_methods[2];
	int data_port;
};

/* --- Hello ------------------------------------------------------------------------------------------------------- */

/* The models that this host holds are told apart by their digests. */
static bool find_model(
	const struct ex_experts_service *s, const char *digest, uint64_t *ret_epoch, char live[static 65])
{
	if (s->o.find_model)
		return s->o.find_model(s->o.ctx, digest, ret_epoch, live);
	*ret_epoch = ex_registry_epoch(s->o.registry);
	snprintf(live, 65, "%s", s->o.model_digest);
	return strcmp(digest, live) == 0;
}

static bool hello_fits(const struct ex_experts_service *s, const hello_request *q, bool has_model, const char *live,
	char *text, size_t size)
{
	if (q->wire != EX_WIRE_VERSION)
		snprintf(text, size,
			"wire version %u of router '%.64s' (expertd %.32s); this host speaks %d (expertd %s)", q->wire,
			q->node, q->version, EX_WIRE_VERSION, s->o.version);
	else if (!has_model)
		snprintf(text, size, "model %.64s of router '%.64s'; this host holds model %s", q->model_digest,
			q->node, live);
	else if (q->expert_groups != s->o.n_groups)
		snprintf(text, size, "expert_groups %u of router '%.64s'; this host has %u", q->expert_groups, q->node,
			s->o.n_groups);
	else
		return true;
	return false;
}

struct shard_list {
	struct ex_shard_view *views;
	size_t n, cap;
	bool oom;
};

static void add_view(void *ctx, const struct ex_shard_view *v)
{
	struct shard_list *l = ctx;
	if (l->oom || ex_grow(&l->views, &l->cap, l->n + 1, sizeof *v))
		l->oom = true;
	else
		l->views[l->n++] = *v;
}

/* Where rows may be sent in plain text, and the word for it. Without a word there is no such place. */
static void offer_plain_data(
	const struct ex_experts_service *s, Expertd__V1__HelloReply *r, char word[static EX_WORD_MAX])
{
	if (!s->data_port || ex_words_give(s->env.words, word))
		return;
	r->data_port = (uint32_t)s->data_port;
	r->word = word;
}

/* What Hello tells of the model that the router asked for. */
struct hello_facts {
	const char *digest, *live;
	uint64_t epoch, revision;
};

static struct ex_out *pack_hello(
	const struct ex_experts_service *s, struct shard_list *l, const struct hello_facts *facts)
{
	EX_CLEANUP(ex_freep) shard_info *infos = ex_calloc(l->n, sizeof *infos);
	EX_CLEANUP(ex_freep) shard_info **list = ex_calloc(l->n, sizeof(shard_info *));
	if (l->oom || !infos || !list)
		return NULL;
	for (size_t i = 0; i < l->n; i++) {
		struct ex_shard_view *v = &l->views[i];
		expertd__v1__shard_info__init(&infos[i]);
		infos[i].layer = v->id.layer;
		infos[i].first_expert = v->id.first_expert;
		infos[i].n_experts = v->id.n_experts;
		infos[i].generation = v->generation;
		infos[i].identity = v->identity;
		infos[i].plugin = v->plugin;
		infos[i].bytes = v->bytes;
		infos[i].state = (char *)ex_shard_state_name(v->state);
		infos[i].error = v->error;
		list[i] = &infos[i];
	}
	Expertd__V1__HelloReply r = EXPERTD__V1__HELLO_REPLY__INIT;
	r.node = (char *)s->o.node;
	r.version = (char *)s->o.version;
	r.wire = EX_WIRE_VERSION;
	r.model_digest = (char *)facts->digest;
	r.live_digest = (char *)facts->live;
	r.epoch = facts->epoch;
	r.expert_groups = s->o.n_groups;
	r.n_shards = l->n;
	r.shards = list;
	r.revision = facts->revision;
	r.zone = (char *)(s->o.zone ? s->o.zone : "");
	r.memory_bytes = s->o.memory_bytes;
	r.accepts_moves = s->o.accepts_moves;
	char word[EX_WORD_MAX];
	offer_plain_data(s, &r, word);
	return ex_out_pack(&r.base);
}

static void answer_hello(struct ex_experts_service *s, struct ex_rpc *rpc, const hello_request *q)
{
	char text[384], live[65];
	struct hello_facts facts = {.digest = q->model_digest, .live = live};
	bool has_model = find_model(s, q->model_digest, &facts.epoch, live);
	if (!hello_fits(s, q, has_model, live, text, sizeof text)) {
		ex_rpc_finish(rpc, EX_STATUS_FAILED_PRECONDITION, text);
		return;
	}
	struct shard_list l = {0};
	/* before the look: what changes meanwhile is asked for again */
	facts.revision = ex_registry_revision(s->o.registry);
	ex_registry_each_of(s->o.registry, facts.epoch, add_view, &l);
	struct ex_out *o = pack_hello(s, &l, &facts);
	free(l.views);
	if (!o) {
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	ex_rpc_send(rpc, o);
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void hello(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	ProtobufCMessage *p = ex_msg_unpack(m, &expertd__v1__hello_request__descriptor);
	ex_msg_free(m);
	if (!p) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "malformed HelloRequest");
		return;
	}
	answer_hello(ctx, rpc, (const hello_request *)p);
	protobuf_c_message_free_unpacked(p, NULL);
}

/* --- the service ------------------------------------------------------------------------------------------------- */

int ex_experts_service_new(const struct ex_experts_service_opts *o, struct ex_experts_service **ret)
{
	struct ex_experts_service *s = ex_calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->o = *o;
	s->env.executor = o->executor;
	s->env.registry = o->registry;
	ex_lock_init(&s->env.lock, "lanes");
	s->env.d_model = o->d_model;
	s->env.n_experts = o->n_experts;
	s->env.reply_bytes_max = o->reply_bytes_max ? o->reply_bytes_max : EX_EXPERTS_REPLY_BYTES_MAX;
	s->env.in_flight_bytes_max = o->in_flight_bytes_max ? o->in_flight_bytes_max : EX_EXPERTS_IN_FLIGHT_BYTES_MAX;
	s->env.pool = ex_pool_new();
	s->env.words = o->plain_data ? ex_words_new() : NULL;
	if (!s->env.pool || (o->plain_data && !s->env.words)) {
		ex_experts_service_free(s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

struct ex_experts_service *ex_experts_service_free(struct ex_experts_service *s)
{
	if (s) {
		assert(ex_experts_service_in_flight(s) == 0);
		ex_pool_free(s->env.pool);
		ex_words_free(s->env.words);
		ex_lock_done(&s->env.lock);
		free(s);
	}
	return NULL;
}

/* The largest frame that this model's rows can make: a stranger's would be buffered up to here. */
static size_t frame_bytes_max(uint32_t d_model)
{
	return EX_MIN((size_t)EX_FRAME_ROWS_MAX * d_model * sizeof(float) + EX_FRAME_HEAD_BYTES_MAX,
		(size_t)EX_FRAME_BYTES_MAX);
}

const struct ex_method *ex_experts_service_methods(struct ex_experts_service *s, int loop_control, int loop_data)
{
	s->methods[0] = (struct ex_method){
		.path = "/expertd.v1.Experts/Hello",
		.loop_i = loop_control,
		.message_bytes_max = HELLO_BYTES_MAX,
		.message = hello,
		.ctx = s,
	};
	s->methods[1] = (struct ex_method){
		.path = "/expertd.v1.Experts/Dispatch",
		.loop_i = loop_data,
		.message_bytes_max = frame_bytes_max(s->o.d_model),
		.start = ex_lane_start,
		.message = ex_lane_message,
		.half_close = ex_lane_half_close,
		.done = ex_lane_done,
		.ctx = &s->env,
	};
	for (size_t i = 0; s->o.more && s->o.more[i].path; i++) {
		assert(i < EX_EXPERTS_MORE_MAX);
		s->methods[2 + i] = s->o.more[i];
		s->methods[2 + i].loop_i = loop_control;
	}
	return s->methods;
}

unsigned ex_experts_service_users(struct ex_experts_service *s, uint64_t epoch)
{
	return ex_lanes_of_epoch(&s->env, epoch);
}

const struct ex_method *ex_experts_service_data_methods(struct ex_experts_service *s, int loop_data)
{
	assert(s->env.words);
	s->data_methods[0] = (struct ex_method){
		.path = "/expertd.v1.Experts/Dispatch",
		.loop_i = loop_data,
		.message_bytes_max = frame_bytes_max(s->o.d_model),
		.start = ex_lane_start_with_word,
		.message = ex_lane_message,
		.half_close = ex_lane_half_close,
		.done = ex_lane_done,
		.ctx = &s->env,
	};
	return s->data_methods;
}

void ex_experts_service_set_data_port(struct ex_experts_service *s, int port)
{
	s->data_port = port;
}

void ex_experts_service_drain(struct ex_experts_service *s)
{
	ex_lanes_drain(&s->env);
}

uint32_t ex_experts_service_in_flight(const struct ex_experts_service *s)
{
	return atomic_load_explicit(&s->env.n_in_flight, memory_order_acquire);
}
