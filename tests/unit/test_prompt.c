/* SPDX-License-Identifier: Apache-2.0 */
/* gateway/prompt: texts and gaps as token ids, and what is refused. */
#include "unit.h"

#include "gateway/prompt.h"
#include "small_tokenizer.h"

enum { FIM_BEGIN = 274, FIM_HOLE, FIM_END };

static struct ex_prompt_opts o = {.bytes_max = 20, .n_ctx = 8};

/* With tokens around a gap, or without. */
static void open_tokenizer(bool gaps)
{
	static const char *const fim[] = {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_tokenizer *t;
	char dir[64] = "";
	json_t *root = small_tokenizer();
	for (int i = 0; gaps && i < 3; i++)
		small_add(json_object_get(root, "added_tokens"), FIM_BEGIN + i, fim[i], 1);
	char *text = json_dumps(root, JSON_COMPACT);
	small_write(dir, "tokenizer.json", text);
	small_write(dir, "tokenizer_config.json", "{\"bos_token\": \"" SMALL_BOS "\"}");
	EXPECT_OK(err, ex_tokenizer_open(dir, &err, &t));
	o.tokenizer = t;
	free(text);
	json_decref(root);
	small_remove(dir);
}

static void close_tokenizer(void)
{
	ex_tokenizer_close((struct ex_tokenizer *)o.tokenizer);
}

static void expect_ids(const struct ex_chat_ask *a, const uint32_t *ids, size_t n)
{
	struct ex_api_error e;
	struct ex_prompt p;
	if (ex_prompt_encode(&o, a, &e, &p))
		fail_msg("%s", e.message);
	assert_int_equal(p.n, n);
	assert_memory_equal(p.ids, ids, n * sizeof *ids);
	assert_false(p.starts_thinking);
	free(p.ids);
}

static void expect_refusal(const struct ex_chat_ask *a, int status, const char *param)
{
	struct ex_api_error e;
	struct ex_prompt p;
	assert_int_equal(ex_prompt_encode(&o, a, &e, &p), -1);
	assert_int_equal(e.status, status);
	assert_string_equal(e.param, param);
	free(p.ids);
}

static void test_prompts(void **state)
{
	uint32_t own[] = {9, 8, 7, 6, 5, 4, 3, 2};
	struct ex_chat_ask a = {.kind = EX_ASK_COMPLETION, .prompt = "hello", .content_bytes = 5};
	(void)state;
	open_tokenizer(true);
	expect_ids(&a, (const uint32_t[]){SMALL_BOS_ID, SMALL_MERGES_ID + 3}, 2);
	a.suffix = " hello";
	expect_ids(&a,
		(const uint32_t[]){
			SMALL_BOS_ID, FIM_BEGIN, SMALL_MERGES_ID + 3, FIM_HOLE, SMALL_MERGES_ID + 4, FIM_END},
		6);
	a.prompt = a.suffix = "";
	expect_ids(&a, (const uint32_t[]){SMALL_BOS_ID, FIM_BEGIN, FIM_HOLE, FIM_END}, 4);
	a = (struct ex_chat_ask){.kind = EX_ASK_COMPLETION, .prompt_ids = own, .n_prompt_ids = 7};
	expect_ids(&a, own, 7);
	a.n_prompt_ids = 8; /* the whole context */
	expect_refusal(&a, 400, "prompt");
	/* what a client writes is no control token */
	a = (struct ex_chat_ask){.kind = EX_ASK_COMPLETION, .prompt = "<think>"};
	expect_refusal(&a, 400, "prompt");
	o.n_ctx = 9;
	expect_ids(&a,
		(const uint32_t[]){SMALL_BOS_ID, SMALL_BYTES_ID + '<', SMALL_BYTES_ID + 't', SMALL_BYTES_ID + 'h',
			SMALL_BYTES_ID + 'i', SMALL_BYTES_ID + 'n', SMALL_BYTES_ID + 'k', SMALL_BYTES_ID + '>'},
		8);
	o.n_ctx = 8;
	a.content_bytes = 21;
	expect_refusal(&a, 413, "prompt");
	a = (struct ex_chat_ask){.kind = EX_ASK_CHAT};
	expect_refusal(&a, 400, "messages"); /* no template */
	close_tokenizer();
}

static void test_no_gaps(void **state)
{
	const struct ex_chat_ask a = {.kind = EX_ASK_COMPLETION, .prompt = "a", .suffix = "b", .content_bytes = 2};
	(void)state;
	open_tokenizer(false);
	expect_refusal(&a, 400, "suffix");
	close_tokenizer();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prompts),
		cmocka_unit_test(test_no_gaps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
