/* SPDX-License-Identifier: Apache-2.0 */
/* A request inside the engine: what was asked, how far it is. Layer L3. */
#ifndef EX_ENGINE_REQUEST_H
#define EX_ENGINE_REQUEST_H

#include "engine/scheduler.h"
#include "engine/text.h"
#include <stdatomic.h>

#define EX_REQUEST_MAGIC  0x74716572u
#define EX_REQUEST_ID_MAX 40

struct ex_request {
	uint32_t magic;
	_Atomic unsigned n_refs;
	_Atomic bool cancelled;
	struct ex_engine *engine;
	char id[EX_REQUEST_ID_MAX];

	/* fixed at submission */
	struct ex_request_params p; /* ids and stop point at the copies below */
	uint32_t max_tokens;        /* resolved: >= 1 and within the context */
	uint32_t *ids;              /* [n_prompt + max_tokens] */
	const char *stop[EX_STOPS_MAX];
	char *stop_bytes;
	uint64_t submitted_ns;

	struct ex_side *side; /* that answers it; a user of it until the end. [step] once it was taken */

	/* [step] */
	struct ex_seq seq;
	struct ex_text text;
	struct ex_token_logprob logprob;
	bool started;
	bool thinking, control; /* of the newest token, as in ex_delta */
	uint64_t admitted_ns, first_token_ns, last_token_ns, rows_dispatched;
	uint32_t n_reasoning;
	struct ex_request *next; /* inbox; guarded by the engine's lock */
};

struct ex_request_limits {
	uint32_t n_ctx; /* tokens of one sequence at most */
	uint32_t vocab;
	const struct ex_kv *kv;
	struct ex_text_opts text; /* of the model: tokenizer, think tokens */
};
/* Checks and copies p. One reference. -EINVAL, -E2BIG, -ENOMEM. [any] */
int ex_request_new(const struct ex_request_params *p, const struct ex_request_limits *limits, struct ex_err *err,
	struct ex_request **ret);
struct ex_request *ex_request_ref(struct ex_request *r);

static inline uint32_t ex_request_n_generated(const struct ex_request *r)
{
	return r->seq.n_ids - r->p.n_ids;
}

#endif
