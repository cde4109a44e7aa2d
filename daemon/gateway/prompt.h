/* SPDX-License-Identifier: Apache-2.0 */
/* What a client asks, as the model's token ids. Layer L4. */
#ifndef EX_GATEWAY_PROMPT_H
#define EX_GATEWAY_PROMPT_H

#include "gateway/chat_request.h"

struct ex_prompt_opts {
	const struct ex_tokenizer *tokenizer; /* borrowed */
	const struct ex_chat *chat;           /* NULL: no template */
	uint64_t bytes_max;                   /* of all texts together */
	uint32_t n_ctx;                       /* the prompt must leave one token */
};
struct ex_prompt {
	uint32_t *ids; /* [n], free() it */
	size_t n, cap;
	bool starts_thinking;
};
/* -1: *e says why not; p->ids is for the caller to free in any case. [any] */
int ex_prompt_encode(
	const struct ex_prompt_opts *o, const struct ex_chat_ask *a, struct ex_api_error *e, struct ex_prompt *p);

#endif
