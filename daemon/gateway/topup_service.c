/* SPDX-License-Identifier: Apache-2.0 */
/* The Topups service. Layer L4. */
#include "gateway/topup_service.h"

#include "base/clock.h"
#include "base/mem.h"
#include "expertd/topups.pb-c.h"
#include "gateway/desk_call.h"
#include <string.h>

#define REQUEST_BYTES_MAX 4096
#define PATH(method)      "/expertd.v1.Topups/" method

typedef Expertd__V1__GateFigure figure_message;
typedef Expertd__V1__GateChange change_message;
typedef Expertd__V1__GateStatusReply status_message;

/* One method: what it changes. by: who asks. [desk] */
typedef int topup_fn(struct ex_topups *t, const ProtobufCMessage *request, const char *by, struct ex_err *err);

struct handler {
	struct ex_desk_method method;
	struct ex_topups *topups;
	topup_fn *fn;
};

enum { METHOD_N = 3 };
struct ex_topup_service {
	struct handler handler[METHOD_N];
	struct ex_method method[METHOD_N + 1];
};

static int64_t now_s(void)
{
	return (int64_t)(ex_realtime_us() / 1000000);
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

static figure_message **figures_reply(struct ex_keep *k, const double v[static EX_TOPUP_FIGURE_N])
{
	figure_message **list = ex_keep_alloc(k, EX_TOPUP_FIGURE_N, sizeof *list);
	figure_message *m = ex_keep_alloc(k, EX_TOPUP_FIGURE_N, sizeof *m);
	for (unsigned i = 0; list && m && i < EX_TOPUP_FIGURE_N; i++) {
		expertd__v1__gate_figure__init(&m[i]);
		m[i].name = (char *)ex_topup_figure_name(i);
		m[i].value = v[i];
		list[i] = &m[i];
	}
	return list;
}

static change_message **history_reply(struct ex_keep *k, const struct ex_topups_view *v)
{
	change_message **list = ex_keep_alloc(k, v->n_history, sizeof *list);
	change_message *m = ex_keep_alloc(k, v->n_history, sizeof *m);
	for (uint32_t i = 0; list && m && i < v->n_history; i++) {
		const struct ex_topup_change *c = &v->history[i];
		expertd__v1__gate_change__init(&m[i]);
		m[i].at = c->real_s;
		m[i].from = (char *)ex_topup_state_name(c->from);
		m[i].to = (char *)ex_topup_state_name(c->to);
		m[i].by = ex_keep_text(k, c->by);
		m[i].reason = ex_keep_text(k, c->reason);
		m[i].until = c->until_s;
		m[i].figures = figures_reply(k, c->figure);
		m[i].n_figures = EX_TOPUP_FIGURE_N;
		list[i] = &m[i];
	}
	return list;
}

static struct ex_out *status_reply(struct ex_topups *t, struct ex_keep *k)
{
	struct ex_topups_view *v = ex_keep_alloc(k, 1, sizeof *v);
	status_message r = EXPERTD__V1__GATE_STATUS_REPLY__INIT;
	if (!v)
		return NULL;
	ex_topups_view(t, now_s(), v);
	r.state = (char *)ex_topup_state_name(v->state);
	r.since = v->last.real_s;
	r.pinned = v->pinned;
	r.until = v->until_s;
	r.reason = ex_keep_text(k, v->last.reason);
	r.by = ex_keep_text(k, v->last.by);
	r.reopens = v->reopens_s;
	r.figures = figures_reply(k, v->figure);
	r.n_figures = EX_TOPUP_FIGURE_N;
	r.capacity_tokens_s = v->capacity_tokens_s;
	r.sold_tokens = v->sold_tokens;
	r.burn_tokens_s = v->burn_tokens_s;
	r.draw = v->draw;
	r.horizon_s = v->horizon_s;
	r.history = v->n_history ? history_reply(k, v) : NULL;
	r.n_history = v->n_history;
	return k->oom ? NULL : ex_out_pack(&r.base);
}

/* --- methods [desk] ----------------------------------------------------------------------------------------------- */

static int do_status(struct ex_topups *t, const ProtobufCMessage *request, const char *by, struct ex_err *err)
{
	(void)t, (void)request, (void)by, (void)err;
	return 0;
}

static int do_pin(struct ex_topups *t, const ProtobufCMessage *request, const char *by, struct ex_err *err)
{
	const Expertd__V1__PinGateRequest *q = (const Expertd__V1__PinGateRequest *)request;
	enum ex_topup_state s;
	if (ex_topup_state_parse(q->state, &s) < 0)
		return ex_err_set(err, -EINVAL, "'%.64s' is none of open, limited, waitlist, suspended", q->state);
	if (!*q->reason || strlen(q->reason) >= EX_TOPUP_REASON_MAX / 4) /* control bytes take four in the trail */
		return ex_err_set(err, -EINVAL, "a reason of 1 to %d bytes is needed: customers read it",
			EX_TOPUP_REASON_MAX / 4 - 1);
	if (q->until < 0)
		return ex_err_set(err, -EINVAL, "the time until which it is to hold is over");
	return ex_topups_pin(t, s, by, q->reason, q->until, now_s(), err);
}

static int do_unpin(struct ex_topups *t, const ProtobufCMessage *request, const char *by, struct ex_err *err)
{
	(void)request;
	return ex_topups_unpin(t, by, now_s(), err);
}

static struct ex_out *answer(const struct ex_desk_method *m, const ProtobufCMessage *request, const char *peer,
	struct ex_keep *keep, struct ex_err *err)
{
	const struct handler *h = EX_CONTAINER_OF(m, const struct handler, method);
	return h->fn(h->topups, request, peer, err) == 0 ? status_reply(h->topups, keep) : NULL;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static const struct {
	const char *path;
	const ProtobufCMessageDescriptor *request;
	topup_fn *fn;
} rows[METHOD_N] = {
	{PATH("GateStatus"), &expertd__v1__gate_status_request__descriptor, do_status},
	{PATH("PinGate"), &expertd__v1__pin_gate_request__descriptor, do_pin},
	{PATH("UnpinGate"), &expertd__v1__unpin_gate_request__descriptor, do_unpin},
};
const char *const ex_topup_service_paths[METHOD_N + 1] = {PATH("GateStatus"), PATH("PinGate"), PATH("UnpinGate"), NULL};

int ex_topup_service_new(struct ex_desk *desk, struct ex_topups *topups, struct ex_topup_service **ret)
{
	struct ex_topup_service *s = ex_calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	for (size_t i = 0; i < METHOD_N; i++)
		s->handler[i] = (struct handler){.method = {.desk = desk, .request = rows[i].request, .answer = answer},
			.topups = topups,
			.fn = rows[i].fn};
	*ret = s;
	return 0;
}

struct ex_topup_service *ex_topup_service_free(struct ex_topup_service *s)
{
	free(s);
	return NULL;
}

const struct ex_method *ex_topup_service_methods(struct ex_topup_service *s, int loop_i)
{
	for (size_t i = 0; i < METHOD_N; i++)
		s->method[i] = (struct ex_method){.path = rows[i].path,
			.loop_i = loop_i,
			.message_bytes_max = REQUEST_BYTES_MAX,
			.message = ex_desk_on_message,
			.ctx = &s->handler[i].method};
	return s->method;
}
