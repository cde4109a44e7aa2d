/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates of the DeepSeek family, recognised from tokenizer_config.json's chat_template and rendered in C. Layer L1. */
#ifndef EX_MODEL_CHAT_H
#define EX_MODEL_CHAT_H

#include "model/tokenizer.h"

struct ex_chat_message {
	const char *role;    /* "system", "user", "assistant" */
	const char *content; /* UTF-8, borrowed */
};

struct ex_chat; /* which template, and its control tokens */

/* Recognises the template of DIR (V2, V2.5/V3, R1 with its <think> opening). -ENOTSUP names what is not understood, -ENOENT: no template. */
int ex_chat_open(const char *dir, const struct ex_tokenizer *t, struct ex_err *err, struct ex_chat **ret);
struct ex_chat *ex_chat_close(struct ex_chat *c);
EX_DEFINE_CLEANUP(struct ex_chat, ex_chat_close)

/* Messages → ids, BOS and generation prompt included, appended as by ex_tokenizer_encode. Control tokens come from the template
 * only, never from contents. -EINVAL names the message: unknown role, wrong order, ill-formed UTF-8. [any] */
int ex_chat_encode(const struct ex_chat *c, const struct ex_chat_message *m, size_t n, struct ex_err *err,
	uint32_t **ret_ids, size_t *ret_n, size_t *ret_cap);

/* True when the generation prompt opens <think>: the answer begins inside the reasoning. */
bool ex_chat_starts_thinking(const struct ex_chat *c);
/* Ids of <think> and </think>, -1 if the vocabulary has none. */
int64_t ex_chat_think_open_id(const struct ex_chat *c);
int64_t ex_chat_think_close_id(const struct ex_chat *c);
const char *ex_chat_name(const struct ex_chat *c); /* "deepseek-r1" */

#endif
