/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the body of a chat completion and of a completion: refused with a status and a message that is JSON again, or within every limit. */
#include "fuzz.h"

#include "gateway/chat_request.h"
#include "gateway/text.h"
#include <string.h>

static void check_error(const struct ex_api_error *e)
{
	struct ex_str out = EX_STR_INIT;
	assert((e->status == 400 || e->status == 422) && e->message[0]);
	ex_api_error_body(e, &out);
	json_t *v = json_loadb(out.s, out.n, 0, NULL);
	assert(v);
	json_decref(v);
	ex_str_done(&out);
}

static void check_ask(const struct ex_chat_ask *a)
{
	size_t bytes = 0;
	assert(a->model && a->n_messages <= EX_CHAT_MESSAGES_MAX);
	if (a->kind == EX_ASK_CHAT)
		assert(a->n_messages >= 1);
	else
		assert(!a->n_messages && (a->prompt || a->n_prompt_ids));
	bytes += a->prompt ? strlen(a->prompt) : 0;
	bytes += a->suffix ? strlen(a->suffix) : 0;
	for (size_t i = 0; i < a->n_messages; i++) {
		const struct ex_chat_message *m = &a->messages[i];
		assert(ex_utf8_valid(m->content, strlen(m->content)));
		assert(!strcmp(m->role, "system") || !strcmp(m->role, "user") || !strcmp(m->role, "assistant"));
		bytes += strlen(m->content);
	}
	assert(bytes == a->content_bytes);
	assert(a->sampling.temperature >= 0 && a->sampling.temperature <= 2);
	assert(a->sampling.top_p > 0 && a->sampling.top_p <= 1);
	assert(a->n_choices >= 1 && a->n_choices <= EX_CHOICES_MAX && a->n_stop <= EX_STOPS_MAX);
	assert(a->top_logprobs <= EX_TOP_LOGPROBS_MAX);
}

/* What a model writes may be any bytes: it is a JSON string all the same. */
static void check_string(const char *data, size_t size)
{
	struct ex_str out = EX_STR_INIT;
	ex_json_putn(&out, data, size);
	json_t *v = json_loadb(out.s, out.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	assert(json_is_string(v));
	if (ex_utf8_valid(data, size))
		assert(json_string_length(v) == size && !memcmp(json_string_value(v), data, size));
	json_decref(v);
	ex_str_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_string((const char *)data, size);
	static const enum ex_ask_kind kinds[] = {EX_ASK_CHAT, EX_ASK_COMPLETION};
	for (size_t i = 0; i < EX_ARRAY_LEN(kinds); i++) {
		struct ex_api_error e;
		struct ex_chat_ask a;
		if (ex_chat_ask_parse(kinds[i], (const char *)data, size, 16, &e, &a))
			check_error(&e);
		else
			check_ask(&a);
		ex_chat_ask_done(&a);
	}
	return 0;
}
