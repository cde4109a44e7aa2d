/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a chat completion or a completion. Layer L4.
 *
 * A field that is not known is left alone, as clients send such that are of no consequence; one that would change the answer and cannot be heeded is
 * refused. Texts with a NUL and ill-formed UTF-8 do not get past the parser. */
#include "gateway/chat_request.h"

#include "base/mem.h"
#include "gateway/text.h"
#include <math.h>
#include <string.h>

#define TEMPERATURE_MAX 2.0
#define PENALTY_MAX     2.0

/* What is being read. */
struct reading {
	struct ex_chat_ask *a;
	struct ex_api_error *e;
};

static int refuse(const struct reading *r, const char *param, const char *why)
{
	return ex_api_error_set(r->e, 422, "invalid_value", param, "%s: %s", param, why);
}

static int no_memory(const struct reading *r)
{
	return ex_api_error_set(r->e, 500, "internal_error", NULL, "out of memory");
}

/* A key's value; NULL when it is not there or null. */
static const json_t *value_of(const struct reading *r, const char *key)
{
	const json_t *v = json_object_get(r->a->root, key);
	return json_is_null(v) ? NULL : v;
}

/* --- single values --------------------------------------------------------------------------------------- */

static int read_number(const struct reading *r, const char *key, double min, double max, double *ret)
{
	const json_t *v = value_of(r, key);
	if (!v)
		return 0;
	double d = json_number_value(v);
	if (!json_is_number(v) || !isfinite(d) || d < min || d > max)
		return ex_api_error_set(
			r->e, 422, "invalid_value", key, "%s: a number from %g to %g is wanted", key, min, max);
	*ret = d;
	return 0;
}

static int read_u32(const struct reading *r, const char *key, uint32_t min, uint32_t max, uint32_t *ret)
{
	const json_t *v = value_of(r, key);
	if (!v)
		return 0;
	json_int_t i = json_integer_value(v);
	if (!json_is_integer(v) || i < min || i > max)
		return ex_api_error_set(
			r->e, 422, "invalid_value", key, "%s: a whole number from %u to %u is wanted", key, min, max);
	*ret = (uint32_t)i;
	return 0;
}

static int read_bool(const struct reading *r, const char *key, bool *ret)
{
	const json_t *v = value_of(r, key);
	if (v && !json_is_boolean(v))
		return refuse(r, key, "true or false is wanted");
	if (v)
		*ret = json_is_true(v);
	return 0;
}

static int read_seed(const struct reading *r)
{
	const json_t *v = value_of(r, "seed");
	if (v && !json_is_integer(v))
		return refuse(r, "seed", "a whole number is wanted");
	r->a->has_seed = v != NULL;
	r->a->sampling.seed = (uint64_t)json_integer_value(v);
	return 0;
}

static int read_stop(const struct reading *r)
{
	const json_t *v = value_of(r, "stop");
	const size_t n = json_is_array(v) ? json_array_size(v) : v != NULL;
	if (n > EX_STOPS_MAX)
		return ex_api_error_set(
			r->e, 422, "invalid_value", "stop", "stop: at most %d texts are taken", EX_STOPS_MAX);
	for (size_t i = 0; i < n; i++) {
		const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
		size_t bytes = json_string_length(s);
		if (!json_is_string(s) || !bytes || bytes > EX_STOP_BYTES_MAX)
			return ex_api_error_set(r->e, 422, "invalid_value", "stop",
				"stop: texts of 1 to %d bytes are wanted", EX_STOP_BYTES_MAX);
		r->a->stop[r->a->n_stop++] = json_string_value(s);
	}
	return 0;
}

static int read_stream(const struct reading *r)
{
	const json_t *o = value_of(r, "stream_options");
	if (read_bool(r, "stream", &r->a->stream))
		return -1;
	if (o && !json_is_object(o))
		return refuse(r, "stream_options", "an object is wanted");
	if (o && !r->a->stream)
		return refuse(r, "stream_options", "only with stream");
	const json_t *u = json_object_get(o, "include_usage");
	if (u && !json_is_boolean(u) && !json_is_null(u))
		return refuse(r, "stream_options", "include_usage: true or false is wanted");
	r->a->include_usage = json_is_true(u);
	return 0;
}

/* A completion's logprobs is the number of alternatives. */
static int read_logprobs(const struct reading *r)
{
	if (r->a->kind == EX_ASK_COMPLETION) {
		r->a->logprobs = value_of(r, "logprobs") != NULL;
		return read_u32(r, "logprobs", 0, EX_TOP_LOGPROBS_MAX, &r->a->top_logprobs);
	}
	if (read_bool(r, "logprobs", &r->a->logprobs) ||
		read_u32(r, "top_logprobs", 0, EX_TOP_LOGPROBS_MAX, &r->a->top_logprobs))
		return -1;
	return r->a->top_logprobs && !r->a->logprobs ? refuse(r, "top_logprobs", "only with logprobs") : 0;
}

/* max_completion_tokens is the newer name of the same. */
static int read_sizes(const struct reading *r)
{
	struct ex_chat_ask *a = r->a;
	if (read_u32(r, "max_tokens", 1, INT32_MAX, &a->max_tokens) ||
		read_u32(r, "max_completion_tokens", 1, INT32_MAX, &a->max_tokens))
		return -1;
	return read_u32(r, "n", 1, EX_CHOICES_MAX, &a->n_choices);
}

static int read_sampling(const struct reading *r)
{
	double temperature = 1, top_p = 1, frequency = 0, presence = 0;
	if (read_number(r, "temperature", 0, TEMPERATURE_MAX, &temperature) || read_number(r, "top_p", 0, 1, &top_p) ||
		read_number(r, "frequency_penalty", -PENALTY_MAX, PENALTY_MAX, &frequency) ||
		read_number(r, "presence_penalty", -PENALTY_MAX, PENALTY_MAX, &presence))
		return -1;
	r->a->frequency_penalty = (float)frequency;
	r->a->presence_penalty = (float)presence;
	if (!((float)top_p > 0))
		return refuse(r, "top_p", "more than 0 is wanted");
	r->a->sampling.temperature = (float)temperature;
	r->a->sampling.top_p = (float)top_p;
	return read_seed(r);
}

/* --- what cannot be heeded ------------------------------------------------------------------------------- */

static bool is_empty(const json_t *v)
{
	return !v || (json_is_number(v) && json_number_value(v) == 0) || (json_is_array(v) && !json_array_size(v)) ||
	       (json_is_object(v) && !json_object_size(v));
}

static int refuse_unsupported(const struct reading *r)
{
	static const char *const keys[] = {"logit_bias", "tools", "functions", "audio"};
	for (size_t i = 0; i < EX_ARRAY_LEN(keys); i++)
		if (!is_empty(value_of(r, keys[i])))
			return refuse(r, keys[i], "is not supported");
	uint32_t best_of = 1;
	if (read_u32(r, "best_of", 1, 1, &best_of))
		return -1;
	return 0;
}

static int read_format(const struct reading *r)
{
	const json_t *format = value_of(r, "response_format");
	const char *type = json_string_value(json_object_get(format, "type"));
	if (!format || (type && !strcmp(type, "text")))
		return 0;
	if (!type || strcmp(type, "json_object") || r->a->kind != EX_ASK_CHAT)
		return refuse(r, "response_format", "only types \"text\" and, in chats, \"json_object\" are supported");
	r->a->json = true;
	return r->a->n_stop ? refuse(r, "stop", "a text that cuts the answer off does not go with json_object") : 0;
}

/* The effort has no say in the templates that are known, but for none at all. */
static int read_thinking(const struct reading *r)
{
	static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
	const json_t *t = value_of(r, "thinking"), *effort = value_of(r, "reasoning_effort");
	const char *type = json_string_value(json_object_get(t, "type")), *level = json_string_value(effort);
	size_t i = 0;
	if (t && (!type || (strcmp(type, "enabled") && strcmp(type, "disabled"))))
		return refuse(r, "thinking", "{\"type\": \"enabled\"} or {\"type\": \"disabled\"} is wanted");
	while (effort && i < EX_ARRAY_LEN(efforts) && (!level || strcmp(level, efforts[i])))
		i++;
	if (i == EX_ARRAY_LEN(efforts))
		return refuse(r, "reasoning_effort", "none, minimal, low, medium, high, xhigh or max is wanted");
	if ((effort && i == 0) || (t && !strcmp(type, "disabled")))
		r->a->thinking = EX_THINKING_OFF;
	else if (t)
		r->a->thinking = EX_THINKING_ON;
	return 0;
}

/* --- messages -------------------------------------------------------------------------------------------- */

static int refuse_message(const struct reading *r, size_t i, const char *why)
{
	return ex_api_error_set(r->e, 422, "invalid_value", "messages", "messages[%zu]: %s", i, why);
}

/* [{"type": "text", "text": ..}, ..] as one text. */
static int join_parts(const struct reading *r, size_t at, const json_t *parts, const char **ret)
{
	struct ex_str text = EX_STR_INIT;
	ex_str_add(&text, "");
	for (size_t i = 0; i < json_array_size(parts); i++) {
		const json_t *part = json_array_get(parts, i);
		const char *type = json_string_value(json_object_get(part, "type"));
		const char *s = json_string_value(json_object_get(part, "text"));
		if (!type || strcmp(type, "text") || !s) {
			ex_str_done(&text);
			return refuse_message(r, at, "only parts of type \"text\" are understood");
		}
		ex_str_add(&text, s);
	}
	char *s = ex_str_take(&text);
	if (!s && !(s = strdup("")))
		return no_memory(r);
	r->a->joined[r->a->n_joined++] = s;
	*ret = s;
	return 0;
}

static const char *role_of(const char *role)
{
	static const char *const known[] = {"system", "user", "assistant"};
	if (role && !strcmp(role, "developer"))
		return "system";
	for (size_t i = 0; i < EX_ARRAY_LEN(known); i++)
		if (role && !strcmp(role, known[i]))
			return known[i];
	return NULL;
}

static int read_message(const struct reading *r, size_t i, const json_t *m, struct ex_chat_message *ret)
{
	const json_t *content = json_object_get(m, "content");
	if (!json_is_object(m))
		return refuse_message(r, i, "an object is wanted");
	ret->role = role_of(json_string_value(json_object_get(m, "role")));
	if (!ret->role)
		return refuse_message(r, i, "the role is none of system, user and assistant");
	if (json_is_string(content))
		ret->content = json_string_value(content);
	else if (!json_is_array(content))
		return refuse_message(r, i, "content: a text, or a list of parts, is wanted");
	else if (join_parts(r, i, content, &ret->content))
		return -1;
	r->a->content_bytes += strlen(ret->content);
	return 0;
}

static int read_messages(const struct reading *r)
{
	const json_t *list = value_of(r, "messages");
	struct ex_chat_ask *a = r->a;
	size_t n = json_array_size(list);
	if (!json_is_array(list) || !n || n > EX_CHAT_MESSAGES_MAX)
		return ex_api_error_set(r->e, 422, "invalid_value", "messages",
			"messages: a list of 1 to %d messages is wanted", EX_CHAT_MESSAGES_MAX);
	a->messages = ex_calloc(n, sizeof *a->messages);
	a->joined = ex_calloc(n, sizeof *a->joined);
	if (!a->messages || !a->joined)
		return no_memory(r);
	for (; a->n_messages < n; a->n_messages++)
		if (read_message(r, a->n_messages, json_array_get(list, a->n_messages), &a->messages[a->n_messages]))
			return -1;
	return 0;
}

/* --- prompts --------------------------------------------------------------------------------------------- */

static int read_prompt_ids(const struct reading *r, const json_t *list)
{
	struct ex_chat_ask *a = r->a;
	a->prompt_ids = ex_calloc(json_array_size(list), sizeof *a->prompt_ids);
	if (!a->prompt_ids)
		return no_memory(r);
	for (; a->n_prompt_ids < json_array_size(list); a->n_prompt_ids++) {
		const json_t *v = json_array_get(list, a->n_prompt_ids);
		json_int_t id = json_integer_value(v);
		if (!json_is_integer(v) || id < 0 || id > UINT32_MAX)
			return refuse(r, "prompt", "a text, or a list of token ids, is wanted");
		a->prompt_ids[a->n_prompt_ids] = (uint32_t)id;
	}
	return 0;
}

static int read_prompt(const struct reading *r)
{
	struct ex_chat_ask *a = r->a;
	const json_t *v = value_of(r, "prompt"), *suffix = value_of(r, "suffix");
	if (json_is_array(v) && json_array_size(v) == 1 && json_is_string(json_array_get(v, 0)))
		v = json_array_get(v, 0);
	if (json_is_array(v) && json_array_size(v) > 1 && json_is_string(json_array_get(v, 0)))
		return refuse(r, "prompt", "one prompt at a time is answered");
	if (!json_is_string(v) && !json_array_size(v))
		return refuse(r, "prompt", "a text, or a list of token ids, is wanted");
	if (json_is_array(v) && read_prompt_ids(r, v))
		return -1;
	a->prompt = json_string_value(v);
	a->suffix = json_string_value(suffix);
	if (suffix && (!a->suffix || !a->prompt))
		return refuse(r, "suffix", "a text, together with a prompt that is one, is wanted");
	a->content_bytes = json_string_length(v) + json_string_length(suffix);
	if (read_bool(r, "echo", &a->echo))
		return -1;
	if (a->echo && (!a->prompt || a->suffix || value_of(r, "logprobs")))
		return refuse(r, "echo", "only with a text as the prompt, without suffix and logprobs");
	return 0;
}

/* --- the whole ------------------------------------------------------------------------------------------- */

static int parse(const struct reading *r, const char *text, size_t n, size_t depth_max)
{
	json_error_t why;
	if (ex_json_depth(text, n) > depth_max)
		return ex_api_error_set(
			r->e, 400, "invalid_json", NULL, "the body is nested more than %zu deep", depth_max);
	r->a->root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
	if (!r->a->root)
		return ex_api_error_set(
			r->e, 400, "invalid_json", NULL, "the body is no JSON: %s, at byte %d", why.text, why.position);
	if (!json_is_object(r->a->root))
		return ex_api_error_set(r->e, 400, "invalid_json", NULL, "the body is no JSON object");
	return 0;
}

int ex_chat_ask_parse(enum ex_ask_kind kind, const char *text, size_t n, size_t depth_max, struct ex_api_error *e,
	struct ex_chat_ask *ret)
{
	*ret = (struct ex_chat_ask){.kind = kind, .n_choices = 1};
	*e = (struct ex_api_error){0};
	const struct reading r = {.a = ret, .e = e};
	if (parse(&r, text, n, depth_max))
		return -1;
	ret->model = json_string_value(value_of(&r, "model"));
	if (!ret->model)
		return refuse(&r, "model", "a name is wanted");
	if (refuse_unsupported(&r) || (kind == EX_ASK_CHAT ? read_messages(&r) : read_prompt(&r)) ||
		read_sampling(&r) || read_sizes(&r) || read_stop(&r) || read_format(&r) || read_thinking(&r) ||
		read_stream(&r) || read_logprobs(&r))
		return -1;
	return 0;
}

static void free_messages(struct ex_chat_ask *a)
{
	for (size_t i = 0; i < a->n_joined; i++)
		free(a->joined[i]);
	free(a->joined);
	free(a->messages);
	free(a->prompt_ids);
	a->joined = NULL;
	a->messages = NULL;
	a->prompt_ids = NULL;
	a->n_joined = a->n_messages = a->n_prompt_ids = 0;
}

void ex_chat_ask_trim(struct ex_chat_ask *a)
{
	free_messages(a);
	json_object_del(a->root, "messages");
	if (!a->echo) {
		a->prompt = NULL;
		json_object_del(a->root, "prompt");
	}
	a->suffix = NULL;
	json_object_del(a->root, "suffix");
}

void ex_chat_ask_done(struct ex_chat_ask *a)
{
	free_messages(a);
	json_decref(a->root);
	*a = (struct ex_chat_ask){0};
}
