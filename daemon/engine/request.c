/* SPDX-License-Identifier: Apache-2.0 */
/* Requests: checked, copied, counted. Layer L3. */
#include "engine/request.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static int check_prompt(const struct ex_request_params *p, const struct ex_request_limits *l, struct ex_err *err)
{
	if (!p->n_ids)
		return ex_err_set(err, -EINVAL, "the prompt is empty");
	for (uint32_t i = 0; i < p->n_ids; i++)
		if (p->ids[i] >= l->vocab)
			return ex_err_set(err, -EINVAL, "token %u of the prompt is %u, the vocabulary has %u", i,
				p->ids[i], l->vocab);
	if (p->n_ids >= l->n_ctx)
		return ex_err_set(err, -E2BIG,
			"the prompt has %u tokens, the context %u, of which the answer needs one", p->n_ids, l->n_ctx);
	return 0;
}

static int check_sampling(const struct ex_sampling *s, struct ex_err *err)
{
	if (!isfinite(s->temperature) || s->temperature < 0)
		return ex_err_set(err, -EINVAL, "temperature is %.9g, wanted 0 or more", (double)s->temperature);
	if (!(s->top_p > 0 && s->top_p <= 1))
		return ex_err_set(err, -EINVAL, "top_p is %.9g, wanted more than 0 and at most 1", (double)s->top_p);
	return 0;
}

static int check_output(const struct ex_request_params *p, const struct ex_request_limits *l, struct ex_err *err)
{
	if (p->top_logprobs > EX_TOP_LOGPROBS_MAX)
		return ex_err_set(
			err, -EINVAL, "top_logprobs is %u, wanted at most %d", p->top_logprobs, EX_TOP_LOGPROBS_MAX);
	if (p->top_logprobs && !p->logprobs)
		return ex_err_set(err, -EINVAL, "top_logprobs is given without logprobs");
	if (p->n_stop > EX_STOPS_MAX)
		return ex_err_set(err, -EINVAL, "%u stop strings, wanted at most %d", p->n_stop, EX_STOPS_MAX);
	if (p->n_stop && !l->text.tokenizer)
		return ex_err_set(err, -EINVAL, "stop strings need a tokenizer, and the model has none");
	for (uint32_t i = 0; i < p->n_stop; i++) {
		size_t n = strlen(p->stop[i]);
		if (!n || n > EX_STOP_BYTES_MAX || !ex_utf8_valid(p->stop[i], n))
			return ex_err_set(err, -EINVAL,
				"stop string %u has %zu bytes, wanted 1 to %d of well-formed UTF-8", i, n,
				EX_STOP_BYTES_MAX);
	}
	return 0;
}

static int copy_stops(struct ex_request *r, const struct ex_request_params *p)
{
	size_t n = 0;
	for (uint32_t i = 0; i < p->n_stop; i++)
		n += strlen(p->stop[i]) + 1;
	char *at = r->stop_bytes = ex_calloc(n, 1);
	if (!at)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->n_stop; i++) {
		r->stop[i] = at;
		at = stpcpy(at, p->stop[i]) + 1;
	}
	return 0;
}

static int copy_request(struct ex_request *r, const struct ex_request_params *p, const struct ex_request_limits *l)
{
	uint32_t room = l->n_ctx - p->n_ids;
	r->max_tokens = p->max_tokens ? EX_MIN(p->max_tokens, room) : room;
	r->ids = ex_calloc((size_t)p->n_ids + r->max_tokens, sizeof *r->ids);
	if (!r->ids || copy_stops(r, p))
		return -ENOMEM;
	memcpy(r->ids, p->ids, p->n_ids * sizeof *r->ids);
	r->p = *p;
	r->p.ids = r->ids;
	r->p.stop = r->stop;
	r->seq.ids = r->ids;
	r->seq.n_ids = p->n_ids;
	int rc = ex_kv_table_init(l->kv, p->n_ids + r->max_tokens, &r->seq.kv);
	if (rc)
		return rc;
	struct ex_text_opts text = l->text;
	text.starts_thinking = p->starts_thinking;
	text.keep_special = p->keep_special;
	text.stop = r->stop;
	text.n_stop = p->n_stop;
	ex_text_init(&r->text, &text);
	return 0;
}

int ex_request_new(const struct ex_request_params *p, const struct ex_request_limits *limits, struct ex_err *err,
	struct ex_request **ret)
{
	int rc = check_prompt(p, limits, err);
	if (!rc)
		rc = check_sampling(&p->sampling, err);
	if (!rc)
		rc = check_output(p, limits, err);
	if (rc)
		return rc;
	struct ex_request *r = calloc(1, sizeof *r);
	if (!r)
		return ex_err_set(err, -ENOMEM, "request: out of memory");
	r->magic = EX_REQUEST_MAGIC;
	atomic_init(&r->n_refs, 1);
	if (copy_request(r, p, limits)) {
		ex_request_unref(r);
		return ex_err_set(err, -ENOMEM, "request: out of memory");
	}
	*ret = r;
	return 0;
}

struct ex_request *ex_request_ref(struct ex_request *r)
{
	EX_CHECK_OBJ(r, EX_REQUEST_MAGIC);
	atomic_fetch_add_explicit(&r->n_refs, 1, memory_order_relaxed);
	return r;
}

struct ex_request *ex_request_unref(struct ex_request *r)
{
	if (!r)
		return NULL;
	EX_CHECK_OBJ(r, EX_REQUEST_MAGIC);
	/* release what this holder did; the last one acquires it before freeing */
	if (atomic_fetch_sub_explicit(&r->n_refs, 1, memory_order_acq_rel) > 1)
		return NULL;
	ex_text_done(&r->text);
	ex_kv_table_done(&r->seq.kv);
	free(r->ids);
	free(r->stop_bytes);
	r->magic = 0;
	free(r);
	return NULL;
}

const char *ex_request_id(const struct ex_request *r)
{
	EX_CHECK_OBJ(r, EX_REQUEST_MAGIC);
	return r->id;
}
