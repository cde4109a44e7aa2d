/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/chat_reply, error and text: what is written is JSON with the right values in it, whatever bytes go in. */
#include "unit.h"

#include "gateway/chat_reply.h"
#include "gateway/error.h"
#include "gateway/text.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

static const struct ex_reply_head head = {.id = "7", .model = "m\"", .fingerprint = "fp_1", .created_s = 12};
static const struct ex_usage_tokens used = {
	.prompt_hit = 3, .prompt_miss = UINT32_MAX, .completion = 5, .reasoning = 2};

/* What out holds, parsed; out is emptied. */
static json_t *parsed(struct ex_str *out, const char *before, const char *after)
{
	json_error_t why;
	size_t skip = strlen(before), rest = strlen(after);
	assert_true(out->n >= skip + rest);
	assert_memory_equal(out->s, before, skip);
	assert_string_equal(out->s + out->n - rest, after);
	json_t *v = json_loadb(out->s + skip, out->n - skip - rest, 0, &why);
	if (!v)
		fail_msg("%s in %s", why.text, out->s);
	ex_str_reset(out);
	return v;
}

static json_t *event(struct ex_str *out)
{
	return parsed(out, "data: ", "\n\n");
}

static const char *text_at(json_t *v, const char *a, const char *b)
{
	const json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
	return json_string_value(json_object_get(json_object_get(choice, a), b));
}

static void test_strings(void **state)
{
	struct ex_str out = EX_STR_INIT;
	(void)state;
	ex_json_put(&out, "a\"\\\n\r\t\x01\x7f€\U0001f600");
	assert_string_equal(out.s, "\"a\\\"\\\\\\n\\r\\t\\u0001\\u007f€\U0001f600\"");
	ex_str_reset(&out);
	ex_json_putn(&out,
		"\xe2\x82"
		"b\xff\0c",
		6);
	assert_string_equal(out.s, "\"\\\\xe2\\\\x82b\\\\xff\\u0000c\"");
	for (int c = 0; c < 256; c++) {
		const char byte = (char)c;
		ex_str_reset(&out);
		ex_json_putn(&out, &byte, 1);
		json_t *v = json_loadb(out.s, out.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		assert_true(json_is_string(v));
		json_decref(v);
	}
	ex_str_done(&out);
}

static void test_depth(void **state)
{
	static const struct {
		const char *text;
		size_t depth;
	} t[] = {{"", 0}, {"7", 0}, {"[]", 1}, {"{\"a\":[{}]}", 3}, {"\"[[[\"", 0}, {"[\"\\\"[[\",[]]", 2},
		{"]]]][", 1}, {"[[[", 3}, {"\"\\", 0}};
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(t); i++)
		assert_int_equal(ex_json_depth(t[i].text, strlen(t[i].text)), t[i].depth);
}

static void test_error(void **state)
{
	struct ex_str out = EX_STR_INIT;
	struct ex_api_error e;
	(void)state;
	assert_int_equal(ex_api_error_set(&e, 422, "invalid_value", "n", "n: \"%s\"\n", "x"), -1);
	ex_api_error_body(&e, &out);
	json_t *v = parsed(&out, "", "");
	const json_t *o = json_object_get(v, "error");
	assert_string_equal(json_string_value(json_object_get(o, "type")), "invalid_request_error");
	assert_string_equal(json_string_value(json_object_get(o, "param")), "n");
	assert_string_equal(json_string_value(json_object_get(o, "code")), "invalid_value");
	assert_string_equal(json_string_value(json_object_get(o, "message")), "n: \"x\"\\x0a");
	json_decref(v);
	ex_api_error_errno(&e, -EAGAIN, "full");
	assert_true(e.status == 503 && e.retry_after_s);
	ex_api_error_errno(&e, -E2BIG, "long");
	assert_int_equal(e.status, 400);
	ex_api_error_errno(&e, -EIO, "x");
	assert_int_equal(e.status, 500);
	ex_api_error_body(&e, &out);
	v = parsed(&out, "", "");
	assert_true(json_is_null(json_object_get(json_object_get(v, "error"), "param")));
	json_decref(v);
	ex_str_done(&out);
}

static void test_whole(void **state)
{
	struct ex_reply_choice c = {0};
	struct ex_str out = EX_STR_INIT;
	const uint32_t id = 4;
	struct ex_token_logprob l = {.id = 4, .logprob = -1.5f, .n_top = 1, .top = {{.id = 4, .logprob = -INFINITY}}};
	struct ex_delta d = {
		.reasoning = "why", .n_reasoning = 3, .ids = &id, .n_ids = 1, .thinking = true, .logprobs = &l};
	(void)state;
	assert_true(ex_reply_choice_add(&c, &head, &d));
	d = (struct ex_delta){.text = "so\n", .n_text = 3, .ids = &id, .n_ids = 1, .logprobs = &l};
	assert_true(ex_reply_choice_add(&c, &head, &d));
	d.control = true;
	assert_true(ex_reply_choice_add(&c, &head, &d));
	ex_reply_whole_begin(&head, &out);
	ex_reply_whole_choice(&head, &c, 0, EX_FINISH_LENGTH, true, &out);
	ex_reply_whole_choice(&head, &c, 1, EX_FINISH_CANCELLED, false, &out);
	ex_reply_whole_end(&used, &out);
	json_t *v = parsed(&out, "", "");
	assert_string_equal(json_string_value(json_object_get(v, "id")), "chatcmpl-7");
	assert_string_equal(json_string_value(json_object_get(v, "object")), "chat.completion");
	assert_string_equal(json_string_value(json_object_get(v, "model")), "m\"");
	assert_string_equal(text_at(v, "message", "content"), "so\nso\n");
	assert_string_equal(text_at(v, "message", "reasoning_content"), "why");
	const json_t *choices = json_object_get(v, "choices"), *first = json_array_get(choices, 0);
	const json_t *logs = json_object_get(first, "logprobs");
	assert_int_equal(json_array_size(json_object_get(logs, "content")), 1);
	assert_int_equal(json_array_size(json_object_get(logs, "reasoning_content")), 1);
	assert_string_equal(json_string_value(json_object_get(first, "finish_reason")), "length");
	assert_true(json_is_null(json_object_get(json_array_get(choices, 1), "logprobs")));
	assert_string_equal(json_string_value(json_object_get(json_array_get(choices, 1), "finish_reason")),
		"insufficient_system_resource");
	const json_t *u = json_object_get(v, "usage");
	assert_true(json_integer_value(json_object_get(u, "prompt_tokens")) == (json_int_t)UINT32_MAX + 3);
	assert_true(json_integer_value(json_object_get(u, "total_tokens")) == (json_int_t)UINT32_MAX + 8);
	json_decref(v);
	ex_reply_choice_done(&c);
	ex_str_done(&out);
}

static void test_stream(void **state)
{
	struct ex_str out = EX_STR_INIT;
	struct ex_reply_choice c = {0};
	const uint32_t id = 4;
	struct ex_delta d = {.ids = &id, .n_ids = 1};
	(void)state;
	ex_reply_event_role(&head, 0, true, &out);
	json_t *v = event(&out);
	assert_string_equal(text_at(v, "delta", "role"), "assistant");
	assert_true(json_is_null(json_object_get(v, "usage")));
	json_decref(v);
	ex_reply_event_delta(&head, &c, 0, &d, false, &out); /* nothing to tell */
	assert_int_equal(out.n, 0);
	d = (struct ex_delta){.text = "a", .n_text = 1, .reasoning = "b", .n_reasoning = 1, .ids = &id, .n_ids = 1};
	ex_reply_event_delta(&head, &c, 3, &d, false, &out);
	v = event(&out);
	assert_string_equal(text_at(v, "delta", "content"), "a");
	assert_string_equal(text_at(v, "delta", "reasoning_content"), "b");
	assert_null(json_object_get(v, "usage"));
	json_decref(v);
	ex_reply_event_finish(&head, 0, EX_FINISH_STOP, &used, false, &out);
	v = event(&out);
	assert_true(json_is_object(json_object_get(v, "usage")));
	json_decref(v);
	ex_reply_event_usage(&head, &used, &out);
	v = event(&out);
	assert_int_equal(json_array_size(json_object_get(v, "choices")), 0);
	assert_true(json_is_object(json_object_get(v, "usage")));
	json_decref(v);
	ex_reply_choice_done(&c);
	ex_str_done(&out);
}

static void test_completion(void **state)
{
	static const struct ex_reply_head h = {
		.id = "7", .model = "m", .fingerprint = "f", .completion = true, .echo = "é:"};
	struct ex_reply_choice c = {0}, s = {0};
	struct ex_str out = EX_STR_INIT;
	const uint32_t id = 4;
	struct ex_token_logprob l = {.id = 4, .logprob = -1, .n_top = 1, .top = {{.id = 4, .logprob = -1}}};
	/* a think tag opens, then one closes: the order in the text is that of the tokens */
	const struct ex_delta open = {.text = "a",
				      .n_text = 1,
				      .reasoning = "<",
				      .n_reasoning = 1,
				      .ids = &id,
				      .n_ids = 1,
				      .logprobs = &l},
			      close = {.text = "c",
				      .n_text = 1,
				      .reasoning = "b>",
				      .n_reasoning = 2,
				      .ids = &id,
				      .n_ids = 1,
				      .thinking = true,
				      .logprobs = &l};
	(void)state;
	assert_true(ex_reply_choice_add(&c, &h, &open) && ex_reply_choice_add(&c, &h, &close));
	ex_reply_whole_begin(&h, &out);
	ex_reply_whole_choice(&h, &c, 0, EX_FINISH_STOP, true, &out);
	ex_reply_whole_end(&used, &out);
	json_t *v = parsed(&out, "", "");
	const json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
	const json_t *logs = json_object_get(choice, "logprobs"), *at = json_object_get(logs, "text_offset");
	assert_string_equal(json_string_value(json_object_get(v, "object")), "text_completion");
	assert_string_equal(json_string_value(json_object_get(choice, "text")), "é:a<b>c");
	assert_int_equal(json_array_size(json_object_get(logs, "tokens")), 2);
	assert_int_equal(json_array_size(json_object_get(logs, "top_logprobs")), 2);
	assert_int_equal(json_integer_value(json_array_get(at, 0)), 2);
	assert_int_equal(json_integer_value(json_array_get(at, 1)), 4);
	json_decref(v);
	ex_reply_event_role(&h, 0, false, &out);
	v = event(&out);
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(json_object_get(v, "choices"), 0), "text")), "é:");
	json_decref(v);
	ex_reply_event_delta(&h, &s, 0, &close, false, &out);
	v = event(&out);
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(json_object_get(v, "choices"), 0), "text")), "b>c");
	json_decref(v);
	ex_reply_event_finish(&h, 0, EX_FINISH_STOP, NULL, false, &out);
	json_decref(event(&out));
	ex_reply_choice_done(&s);
	ex_reply_choice_done(&c);
	ex_str_done(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_error),
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_stream),
		cmocka_unit_test(test_completion),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
