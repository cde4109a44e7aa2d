/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/chat_request: bodies of chat completions: what is read, and each refusal with its status and parameter. */
#include "unit.h"

#include "gateway/chat_request.h"
#include <string.h>

#define HI "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static struct ex_chat_ask ask;
static struct ex_api_error e;

static int parse(const char *text)
{
	return ex_chat_ask_parse(EX_ASK_CHAT, text, strlen(text), 8, &e, &ask);
}

static void test_least(void **state)
{
	(void)state;
	assert_int_equal(parse("{" HI "}"), 0);
	assert_string_equal(ask.model, "m");
	assert_int_equal(ask.n_messages, 1);
	assert_string_equal(ask.messages[0].role, "user");
	assert_string_equal(ask.messages[0].content, "hi");
	assert_int_equal(ask.content_bytes, 2);
	assert_true(ask.sampling.temperature == 1 && ask.sampling.top_p == 1);
	assert_int_equal(ask.n_choices, 1);
	assert_false(ask.stream || ask.include_usage || ask.logprobs || ask.has_seed);
	assert_int_equal(ask.max_tokens, 0);
	ex_chat_ask_done(&ask);
}

static void test_full(void **state)
{
	(void)state;
	assert_int_equal(parse("{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\","
			       "\"text\":\"a\"},"
			       "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":\"\"},"
			       "{\"role\":\"user\",\"content\":[]}],\"max_tokens\":7,\"temperature\":0,\"top_p\":0.5,"
			       "\"seed\":-1,"
			       "\"stop\":[\"x\",\"yy\"],\"stream\":true,\"stream_options\":{\"include_usage\":true},"
			       "\"logprobs\":true,\"top_logprobs\":20,\"n\":16,\"frequency_penalty\":-2,\"presence_"
			       "penalty\":0.5,\"tools\":[],"
			       "\"logit_bias\":{},\"response_format\":{\"type\":\"text\"},\"user\":\"u\",\"metadata\":{"
			       "\"a\":[1]}}"),
		0);
	assert_int_equal(ask.n_messages, 3);
	assert_string_equal(ask.messages[0].role, "system");
	assert_string_equal(ask.messages[0].content, "ab");
	assert_string_equal(ask.messages[2].content, "");
	assert_int_equal(ask.max_tokens, 7);
	assert_true(ask.sampling.temperature == 0 && ask.sampling.top_p == 0.5f);
	assert_true(ask.has_seed && ask.sampling.seed == UINT64_MAX);
	assert_int_equal(ask.n_stop, 2);
	assert_string_equal(ask.stop[1], "yy");
	assert_true(ask.stream && ask.include_usage && ask.logprobs);
	assert_int_equal(ask.top_logprobs, 20);
	assert_int_equal(ask.n_choices, 16);
	assert_true(ask.frequency_penalty == -2 && ask.presence_penalty == 0.5f);
	ex_chat_ask_done(&ask);
	assert_int_equal(parse("{" HI ",\"max_completion_tokens\":9,\"stop\":\"z\",\"seed\":null,\"n\":null}"), 0);
	assert_int_equal(ask.max_tokens, 9);
	assert_string_equal(ask.stop[0], "z");
	assert_false(ask.has_seed);
	ex_chat_ask_done(&ask);
}

static void test_thinking(void **state)
{
	static const struct {
		const char *text;
		enum ex_ask_thinking want;
	} t[] = {
		{"{" HI ",\"thinking\":null,\"reasoning_effort\":null}", EX_THINKING_ANY},
		{"{" HI ",\"reasoning_effort\":\"max\"}", EX_THINKING_ANY},
		{"{" HI ",\"reasoning_effort\":\"none\"}", EX_THINKING_OFF},
		{"{" HI ",\"thinking\":{\"type\":\"disabled\"}}", EX_THINKING_OFF},
		{"{" HI ",\"thinking\":{\"type\":\"enabled\"},\"reasoning_effort\":\"low\"}", EX_THINKING_ON},
	};
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(t); i++) {
		assert_int_equal(parse(t[i].text), 0);
		assert_int_equal(ask.thinking, t[i].want);
		ex_chat_ask_done(&ask);
	}
}

static void test_refusals(void **state)
{
	static const struct {
		const char *text;
		int status;
		const char *param;
	} no[] = {
		{"", 400, NULL},
		{"[]", 400, NULL},
		{"{" HI "} x", 400, NULL},
		{"{" HI ",\"n\":1,\"n\":1}", 400, NULL},
		{"{\"model\":\"\xff\",\"messages\":[]}", 400, NULL},
		{"{\"model\":\"a\\u0000b\",\"messages\":[]}", 400, NULL},
		{"{" HI ",\"x\":[[[[[[[[1]]]]]]]]}", 400, NULL},
		{"{\"messages\":[]}", 422, "model"},
		{"{\"model\":7}", 422, "model"},
		{"{\"model\":\"m\"}", 422, "messages"},
		{"{\"model\":\"m\",\"messages\":[]}", 422, "messages"},
		{"{\"model\":\"m\",\"messages\":{}}", 422, "messages"},
		{"{\"model\":\"m\",\"messages\":[7]}", 422, "messages"},
		{"{\"model\":\"m\",\"messages\":[{\"role\":\"god\",\"content\":\"\"}]}", 422, "messages"},
		{"{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", 422, "messages"},
		{"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 422,
			"messages"},
		{"{" HI ",\"temperature\":2.1}", 422, "temperature"},
		{"{" HI ",\"temperature\":\"1\"}", 422, "temperature"},
		{"{" HI ",\"top_p\":0}", 422, "top_p"},
		{"{" HI ",\"top_p\":1e-60}", 422, "top_p"},
		{"{" HI ",\"max_tokens\":0}", 422, "max_tokens"},
		{"{" HI ",\"max_tokens\":1.5}", 422, "max_tokens"},
		{"{" HI ",\"n\":17}", 422, "n"},
		{"{" HI ",\"seed\":1.5}", 422, "seed"},
		{"{" HI ",\"stop\":\"\"}", 422, "stop"},
		{"{" HI ",\"stop\":[7]}", 422, "stop"},
		{"{" HI ",\"stop\":{\"a\":\"b\"}}", 422, "stop"},
		{"{" HI ",\"stop\":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7]}", 422, "stop"},
		{"{" HI ",\"stream\":1}", 422, "stream"},
		{"{" HI ",\"stream_options\":{}}", 422, "stream_options"},
		{"{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", 422, "stream_options"},
		{"{" HI ",\"top_logprobs\":3}", 422, "top_logprobs"},
		{"{" HI ",\"logprobs\":true,\"top_logprobs\":21}", 422, "top_logprobs"},
		{"{" HI ",\"frequency_penalty\":2.1}", 422, "frequency_penalty"},
		{"{" HI ",\"presence_penalty\":-2.1}", 422, "presence_penalty"},
		{"{" HI ",\"thinking\":true}", 422, "thinking"},
		{"{" HI ",\"thinking\":{\"type\":\"a\"}}", 422, "thinking"},
		{"{" HI ",\"reasoning_effort\":\"vast\"}", 422, "reasoning_effort"},
		{"{" HI ",\"reasoning_effort\":1}", 422, "reasoning_effort"},
		{"{" HI ",\"tools\":[{}]}", 422, "tools"},
		{"{" HI ",\"logit_bias\":{\"1\":2}}", 422, "logit_bias"},
		{"{" HI ",\"response_format\":{\"type\":\"xml\"}}", 422, "response_format"},
		{"{" HI ",\"response_format\":7}", 422, "response_format"},
		{"{" HI ",\"response_format\":{\"type\":\"json_object\"},\"stop\":\"}\"}", 422, "stop"},
	};
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(no); i++) {
		if (!parse(no[i].text))
			fail_msg("taken: %s", no[i].text);
		if (e.status != no[i].status || (!e.param != !no[i].param) ||
			(e.param && strcmp(e.param, no[i].param)) || !e.message[0])
			fail_msg("%s: %d, %s: %s", no[i].text, e.status, e.param ? e.param : "-", e.message);
		ex_chat_ask_done(&ask);
	}
}

static void test_completion(void **state)
{
	static const struct {
		const char *text, *param;
	} no[] = {
		{"{\"model\":\"m\"}", "prompt"},
		{"{\"model\":\"m\",\"prompt\":[]}", "prompt"},
		{"{\"model\":\"m\",\"prompt\":{}}", "prompt"},
		{"{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", "prompt"},
		{"{\"model\":\"m\",\"prompt\":[1,-1]}", "prompt"},
		{"{\"model\":\"m\",\"prompt\":[1,4294967296]}", "prompt"},
		{"{\"model\":\"m\",\"prompt\":\"a\",\"suffix\":1}", "suffix"},
		{"{\"model\":\"m\",\"prompt\":[1],\"suffix\":\"a\"}", "suffix"},
		{"{\"model\":\"m\",\"prompt\":[1],\"echo\":true}", "echo"},
		{"{\"model\":\"m\",\"prompt\":\"a\",\"echo\":true,\"logprobs\":1}", "echo"},
		{"{\"model\":\"m\",\"prompt\":\"a\",\"logprobs\":true}", "logprobs"},
		{"{\"model\":\"m\",\"prompt\":\"a\",\"best_of\":2}", "best_of"},
		{"{\"model\":\"m\",\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}",
			"response_format"},
	};
	static const char text[] = "{\"model\":\"m\",\"prompt\":[\"ab\"],\"suffix\":\"c\",\"logprobs\":0}",
			  ids[] = "{\"model\":\"m\",\"prompt\":[5,4294967295]}";
	(void)state;
	assert_int_equal(ex_chat_ask_parse(EX_ASK_COMPLETION, text, sizeof text - 1, 8, &e, &ask), 0);
	assert_string_equal(ask.prompt, "ab");
	assert_string_equal(ask.suffix, "c");
	assert_int_equal(ask.content_bytes, 3);
	assert_true(ask.logprobs && !ask.top_logprobs);
	ex_chat_ask_done(&ask);
	assert_int_equal(ex_chat_ask_parse(EX_ASK_COMPLETION, ids, sizeof ids - 1, 8, &e, &ask), 0);
	assert_null(ask.prompt);
	assert_true(ask.n_prompt_ids == 2 && ask.prompt_ids[0] == 5 && ask.prompt_ids[1] == UINT32_MAX);
	ex_chat_ask_done(&ask);
	for (size_t i = 0; i < EX_ARRAY_LEN(no); i++) {
		assert_int_equal(ex_chat_ask_parse(EX_ASK_COMPLETION, no[i].text, strlen(no[i].text), 8, &e, &ask), -1);
		assert_int_equal(e.status, 422);
		assert_string_equal(e.param, no[i].param);
		ex_chat_ask_done(&ask);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_least),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_thinking),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_completion),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
