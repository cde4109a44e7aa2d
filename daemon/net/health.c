/* SPDX-License-Identifier: Apache-2.0 */
/* grpc.health.v1: Check and Watch, one answer for the server and each of its services. Layer L1. */
#include "net/service.h"

#include "base/lock.h"
#include "base/mem.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include <stdio.h>
#include <string.h>

#define WATCHERS_MAX 1024

typedef Grpc__Health__V1__HealthCheckRequest check_request;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define SERVING         GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

struct watcher {
	struct ex_rpc *rpc; /* alive until its `done`, which takes the watcher away */
	bool known;         /* the service is one of ours */
	struct watcher *next;
};

struct ex_health {
	const struct ex_service_list *services;
	struct ex_lock lock;
	bool serving, ended;      /* guarded by lock */
	struct watcher *watchers; /* guarded by lock */
	unsigned n_watchers;      /* guarded by lock */
};

static void answer(struct ex_rpc *rpc, serving_status status)
{
	Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
	r.status = status;
	struct ex_out *o = ex_out_pack(&r.base);
	if (o)
		ex_rpc_send_newest(rpc, o); /* a watcher that does not read is owed one state, not all that were */
	else
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

/* Unpacks the request and says whether it names a service of ours; a malformed one ends the call. Frees m. */
static bool parse(struct ex_health *h, struct ex_rpc *rpc, struct ex_msg *m, bool *ret_known)
{
	ProtobufCMessage *p = ex_msg_unpack(m, &grpc__health__v1__health_check_request__descriptor);
	ex_msg_free(m);
	if (!p) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "malformed HealthCheckRequest");
		return false;
	}
	const char *name = ((check_request *)p)->service;
	*ret_known = !name[0] || ex_service_list_has(h->services, name);
	protobuf_c_message_free_unpacked(p, NULL);
	return true;
}

static void check(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct ex_health *h = ctx;
	bool known;
	if (!parse(h, rpc, m, &known))
		return;
	if (!known) {
		ex_rpc_finish(rpc, EX_STATUS_NOT_FOUND, "unknown service");
		return;
	}
	ex_lock_take(&h->lock);
	bool serving = h->serving;
	ex_lock_give(&h->lock);
	answer(rpc, serving ? SERVING : NOT_SERVING);
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void watch(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct ex_health *h = ctx;
	bool known;
	if (!parse(h, rpc, m, &known))
		return;
	struct watcher *w = malloc(sizeof *w);
	ex_lock_take(&h->lock);
	if (!w || h->ended || h->n_watchers == WATCHERS_MAX) {
		ex_rpc_finish(rpc, h->ended ? EX_STATUS_UNAVAILABLE : EX_STATUS_RESOURCE_EXHAUSTED, "no more watchers");
		free(w);
	} else {
		*w = (struct watcher){.rpc = rpc, .known = known, .next = h->watchers};
		h->watchers = w;
		h->n_watchers++;
		answer(rpc, !known ? SERVICE_UNKNOWN : h->serving ? SERVING : NOT_SERVING);
	}
	ex_lock_give(&h->lock);
}

static void watch_done(struct ex_rpc *rpc, bool cancelled, void *ctx)
{
	struct ex_health *h = ctx;
	(void)cancelled;
	ex_lock_take(&h->lock);
	for (struct watcher **p = &h->watchers; *p; p = &(*p)->next)
		if ((*p)->rpc == rpc) {
			struct watcher *w = *p;
			*p = w->next;
			h->n_watchers--;
			free(w);
			break;
		}
	ex_lock_give(&h->lock);
}

void ex_health_set(struct ex_health *h, bool serving)
{
	ex_lock_take(&h->lock);
	if (h->serving != serving)
		for (struct watcher *w = h->watchers; w; w = w->next)
			if (w->known)
				answer(w->rpc, serving ? SERVING : NOT_SERVING);
	h->serving = serving;
	ex_lock_give(&h->lock);
}

void ex_health_end(struct ex_health *h)
{
	ex_lock_take(&h->lock);
	h->ended = true;
	for (struct watcher *w = h->watchers; w; w = w->next)
		ex_rpc_finish(w->rpc, EX_STATUS_UNAVAILABLE, "the server is stopping");
	ex_lock_give(&h->lock);
}

void ex_health_methods(struct ex_health *h, int loop_i, struct ex_method ret[static EX_HEALTH_METHODS])
{
	ret[0] = (struct ex_method){
		.path = "/grpc.health.v1.Health/Check", .loop_i = loop_i, .message = check, .ctx = h};
	ret[1] = (struct ex_method){.path = "/grpc.health.v1.Health/Watch",
		.loop_i = loop_i,
		.message = watch,
		.done = watch_done,
		.ctx = h};
}

int ex_health_new(const struct ex_service_list *services, struct ex_health **ret)
{
	struct ex_health *h = ex_calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->services = services;
	h->serving = true;
	ex_lock_init(&h->lock, "health");
	*ret = h;
	return 0;
}

struct ex_health *ex_health_free(struct ex_health *h)
{
	if (h) {
		assert(!h->watchers);
		ex_lock_done(&h->lock);
		free(h);
	}
	return NULL;
}

/* --- the list of services ---------------------------------------------------------------------------------------- */

int ex_service_list_add(struct ex_service_list *l, const char *path)
{
	const char *slash = path[0] == '/' ? strchr(path + 1, '/') : NULL;
	if (!slash || slash == path + 1 || !slash[1] || (size_t)(slash - path) > EX_SERVICE_NAME_MAX)
		return -EINVAL;
	char name[EX_SERVICE_NAME_MAX];
	snprintf(name, sizeof name, "%.*s", (int)(slash - path - 1), path + 1);
	if (ex_service_list_has(l, name))
		return 0;
	if (l->n == EX_SERVER_METHODS_MAX)
		return -ENOSPC;
	memcpy(l->name[l->n++], name, sizeof name);
	return 0;
}

bool ex_service_list_has(const struct ex_service_list *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->name[i], name))
			return true;
	return false;
}
