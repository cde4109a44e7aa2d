/* SPDX-License-Identifier: Apache-2.0 */
/* The answer of a chat completion or a completion as JSON: whole, or as server-sent events. Pure. Layer L4. */
#ifndef EX_GATEWAY_CHAT_REPLY_H
#define EX_GATEWAY_CHAT_REPLY_H

#include "engine/engine.h"
#include "gateway/admit.h"

/* What all pieces of one answer share; borrowed. */
struct ex_reply_head {
	const char *id, *model, *fingerprint;
	uint64_t created_s;
	bool completion;  /* not a chat's */
	const char *echo; /* of a completion: comes before its text; NULL: nothing does */
};

/* One choice. The texts are those of a whole answer. */
#define EX_REPLY_LOGS 4
struct ex_reply_choice {
	struct ex_str text, reasoning; /* a completion has them both in text */
	struct ex_str logs
		[EX_REPLY_LOGS]; /* entries with commas between. Chat: of the answer, of the reasoning. Completion: one for each list */
	uint64_t n_chars; /* of a completion's text so far */
	bool reasoned;
};
void ex_reply_choice_done(struct ex_reply_choice *c);
/* Adds what a delta brought. False: out of memory. */
bool ex_reply_choice_add(struct ex_reply_choice *c, const struct ex_reply_head *h, const struct ex_delta *d);
size_t ex_reply_choice_bytes(const struct ex_reply_choice *c);

/* {"prompt_tokens": .., ..} */
void ex_reply_usage(const struct ex_usage_tokens *u, struct ex_str *out);
/* "stop", "length", "insufficient_system_resource"; what was cut off otherwise counts among the latter. */
const char *ex_reply_finish(enum ex_finish f);

/* The whole answer: begin, each choice in turn, end. */
void ex_reply_whole_begin(const struct ex_reply_head *h, struct ex_str *out);
void ex_reply_whole_choice(const struct ex_reply_head *h, const struct ex_reply_choice *c, uint32_t index,
	enum ex_finish f, bool logprobs, struct ex_str *out);
void ex_reply_whole_end(const struct ex_usage_tokens *u, struct ex_str *out);

/* Events of a stream, each "data: {..}\n\n". usage_null: the client asked for usage, which other events then have as null. */
/* The first event: the role, or what a completion echoes. */
void ex_reply_event_role(const struct ex_reply_head *h, uint32_t index, bool usage_null, struct ex_str *out);
void ex_reply_event_delta(const struct ex_reply_head *h, struct ex_reply_choice *c, uint32_t index,
	const struct ex_delta *d, bool usage_null, struct ex_str *out);
/* u: NULL but for the last choice of a client that did not ask for usage. */
void ex_reply_event_finish(const struct ex_reply_head *h, uint32_t index, enum ex_finish f,
	const struct ex_usage_tokens *u, bool usage_null, struct ex_str *out);
void ex_reply_event_usage(const struct ex_reply_head *h, const struct ex_usage_tokens *u, struct ex_str *out);

/* A completion's parts, as above (gateway/completion_reply.c). */
void ex_completion_add(struct ex_reply_choice *c, const struct ex_reply_head *h, const struct ex_delta *d);
void ex_completion_choice(const struct ex_reply_head *h, const struct ex_reply_choice *c, uint32_t index,
	enum ex_finish f, bool logprobs, struct ex_str *out);
void ex_completion_echo(const struct ex_reply_head *h, uint32_t index, struct ex_str *out);
void ex_completion_delta(const struct ex_reply_head *h, struct ex_reply_choice *c, uint32_t index,
	const struct ex_delta *d, struct ex_str *out);

#define EX_REPLY_DONE       "data: [DONE]\n\n"
#define EX_REPLY_KEEP_ALIVE ": keep-alive\n\n"

#endif
