/* SPDX-License-Identifier: Apache-2.0 */
/* Which of DeepSeek's chat templates a Jinja text is. Layer L1, private to the chat module. */
#ifndef EX_MODEL_CHAT_TEMPLATE_H
#define EX_MODEL_CHAT_TEMPLATE_H

#include "base/err.h"
#include <stdbool.h>

#define EX_CHAT_TEMPLATE_BYTES_MAX (64u << 10)
#define EX_CHAT_EOS_TEXT           "<｜end▁of▁sentence｜>"

enum chat_system {
	CHAT_SYSTEM_IN_PLACE, /* where it stands, with an empty line after it */
	CHAT_SYSTEM_LAST,     /* only the last one, at the front */
	CHAT_SYSTEM_JOINED,   /* all, at the front, an empty line between */
	CHAT_SYSTEM_PACKED,   /* all, at the front, nothing between */
};

struct chat_form {
	bool tagged;          /* <｜User｜> and <｜Assistant｜> rather than "User: " and "Assistant: " */
	bool drops_reasoning; /* earlier answers lose all up to </think> */
	bool opens_think;     /* the generation prompt ends with <think> and a new line */
	enum chat_system system;
	const char *name;
};

/* -ENOTSUP says what of the template is not understood. */
int ex_chat_recognise(const char *text, size_t n, struct ex_err *err, struct chat_form *ret);

#endif
