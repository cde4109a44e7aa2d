/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a chat completion or a completion, checked. Pure: any bytes in, a struct or an error out. Layer L4. */
#ifndef EX_GATEWAY_CHAT_REQUEST_H
#define EX_GATEWAY_CHAT_REQUEST_H

#include "engine/engine.h"
#include "gateway/error.h"
#include <jansson.h>

#define EX_CHOICES_MAX       16
#define EX_CHAT_MESSAGES_MAX 4096

/* Which the client insists on. */
enum ex_ask_thinking { EX_THINKING_ANY, EX_THINKING_ON, EX_THINKING_OFF };
enum ex_ask_kind { EX_ASK_CHAT, EX_ASK_COMPLETION };

struct ex_chat_ask {
	enum ex_ask_kind kind;
	json_t *root; /* most of what is below borrows from it */
	const char *model;
	struct ex_chat_message *messages; /* [n_messages] */
	size_t n_messages, content_bytes;
	char **joined; /* [n_joined] contents that came in parts */
	size_t n_joined;
	/* of a completion: prompt or prompt_ids */
	const char *prompt, *suffix; /* suffix: what stands behind the gap that is to be filled; NULL: there is none */
	uint32_t *prompt_ids;        /* [n_prompt_ids], owned */
	size_t n_prompt_ids;
	bool echo;
	uint32_t max_tokens; /* 0: not said */
	struct ex_sampling sampling;
	bool has_seed;
	const char *stop[EX_STOPS_MAX];
	uint32_t n_stop, n_choices, top_logprobs;
	bool stream, include_usage, logprobs;
	bool json; /* the answer is to be a JSON object */
	float frequency_penalty, presence_penalty;
	enum ex_ask_thinking thinking;
};

/* text[0..n), nested at most depth_max deep. Returns 0, or -1 with *e set: 400 when it is no JSON object, 422 when a value is not
 * understood. ex_chat_ask_done is for the caller in both cases. [any] */
int ex_chat_ask_parse(enum ex_ask_kind kind, const char *text, size_t n, size_t depth_max, struct ex_api_error *e,
	struct ex_chat_ask *ret);
/* Forgets the messages, and a prompt that is not echoed: they were encoded. */
void ex_chat_ask_trim(struct ex_chat_ask *a);
void ex_chat_ask_done(struct ex_chat_ask *a);

#endif
