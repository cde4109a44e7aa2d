/* SPDX-License-Identifier: Apache-2.0 */
/* model/chat: DeepSeek's templates, recognised and rendered; what is not one of them is refused. */
#include "unit.h"

#include "model/chat.h"
#include "small_tokenizer.h"

/* Templates as DeepSeek's checkpoints write them, the branches for tool calls left out. */
#define HEAD         "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
#define V2_USER      "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
#define V2_ASSISTANT "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
#define V2_SYSTEM    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}"
#define V2                                                                                                             \
	HEAD "{{ bos_token }}{% for message in messages %}" V2_USER V2_ASSISTANT V2_SYSTEM                             \
	     "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"

#define SYSTEM_LAST                                                                                                    \
	"{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = "                \
	"message['content'] %}"                                                                                        \
	"{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
#define SYSTEM_JOINED                                                                                                  \
	"{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}"                  \
	"{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else "  \
	"%}"                                                                                                           \
	"{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- "    \
	"endfor %}"                                                                                                    \
	"{{ bos_token }}{{ ns.system_prompt }}"
#define USER                                                                                                           \
	"{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- " \
	"endif %}"
#define ASSISTANT(content)                                                                                             \
	"{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}"              \
	"{%- set ns.is_tool = false -%}{%- else %}" content "{%- endif %}{%- endif %}"
#define KEEPS "{{'<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}"
#define DROPS                                                                                                          \
	"{% set content = message['content'] %}{% if '</think>' in content %}{% set content = "                        \
	"content.split('</think>')[-1] %}"                                                                             \
	"{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}"
#define LOOP(content) "{%- for message in messages %}" USER ASSISTANT(content) "{%- endfor -%}"
#define TAIL(prompt)  "{% if add_generation_prompt and not ns.is_tool %}{{'" prompt "'}}{% endif %}"
#define NAMESPACE     "{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true) %}"
#define V25           HEAD NAMESPACE SYSTEM_LAST LOOP(KEEPS) TAIL("<｜Assistant｜>")
#define V3            HEAD NAMESPACE SYSTEM_JOINED LOOP(KEEPS) TAIL("<｜Assistant｜>")
#define R1            HEAD NAMESPACE SYSTEM_JOINED LOOP(DROPS) TAIL("<｜Assistant｜><think>\\n")
/* the same in other words, as a small model of ours writes it */
#define R1_SHORT                                                                                                       \
	"{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor "  \
	"%}"                                                                                                           \
	"{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"                       \
	"{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + "            \
	"'<｜end▁of▁sentence｜>' }}"                                                                             \
	"{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"

struct fixture {
	struct ex_tokenizer *t;
	struct ex_chat *c;
};

static void close_fixture(struct fixture *f)
{
	f->c = ex_chat_close(f->c);
	f->t = ex_tokenizer_close(f->t);
}

/* Opens the small tokenizer with this JSON of chat_template (NULL: none) and this chat_template.jinja (NULL: none).
 * Takes v. */
static int open_with(json_t *v, const char *jinja, struct ex_err *err, struct fixture *ret)
{
	char dir[64] = "";
	json_t *root = small_tokenizer();
	json_t *config =
		json_pack("{s:s, s:s, s:o*}", "bos_token", SMALL_BOS, "eos_token", SMALL_EOS, "chat_template", v);
	char *text = json_dumps(root, 0), *config_text = json_dumps(config, 0);
	*ret = (struct fixture){0};
	small_write(dir, "tokenizer.json", text);
	small_write(dir, "tokenizer_config.json", config_text);
	if (jinja)
		small_write(dir, "chat_template.jinja", jinja);
	EXPECT_OK(*err, ex_tokenizer_open(dir, err, &ret->t));
	int r = ex_chat_open(dir, ret->t, err, &ret->c);
	small_remove(dir);
	free(text);
	free(config_text);
	json_decref(root);
	json_decref(config);
	return r;
}

static struct fixture open_template(const char *text)
{
	struct ex_err err = EX_ERR_INIT;
	struct fixture f;
	EXPECT_OK(err, open_with(json_string(text), NULL, &err, &f));
	return f;
}

/* Wants the messages to render as `want`, a text in which added tokens are tokens. */
static void expect_chat(const struct fixture *f, const struct ex_chat_message *m, size_t n, const char *want)
{
	struct ex_err err = EX_ERR_INIT;
	uint32_t *ids = NULL, *want_ids = NULL;
	size_t n_ids = 0, cap = 0, n_want = 0, want_cap = 0;
	EXPECT_OK(err, ex_chat_encode(f->c, m, n, &err, &ids, &n_ids, &cap));
	EXPECT_OK(err,
		ex_tokenizer_encode(f->t, want, strlen(want), EX_ENCODE_SPECIAL, &err, &want_ids, &n_want, &want_cap));
	assert_int_equal(n_ids, n_want);
	assert_memory_equal(ids, want_ids, n_ids * sizeof *ids);
	free(ids);
	free(want_ids);
}

static const struct ex_chat_message talk[] = {
	{"system", "Be kind."},
	{"user", "1+1?"},
	{"assistant", "hm </think> well</think>\n\n2"},
	{"system", "Be brief."},
	{"user", "hello"},
};

static void test_templates(void **state)
{
	(void)state;
	static const struct {
		const char *text, *name;
		bool thinks;
		const char *want;
	} row[] = {
		{V2, "deepseek-v2", false,
			SMALL_BOS "Be kind.\n\nUser: 1+1?\n\nAssistant: hm </think> well</think>\n\n2" SMALL_EOS
				  "Be brief.\n\nUser: hello\n\nAssistant:"},
		{V25, "deepseek-v2.5", false,
			SMALL_BOS "Be brief.<｜User｜>1+1?<｜Assistant｜>hm </think> well</think>\n\n2" SMALL_EOS
				  "<｜User｜>hello<｜Assistant｜>"},
		{V3, "deepseek-v3", false,
			SMALL_BOS
			"Be kind.\n\nBe brief.<｜User｜>1+1?<｜Assistant｜>hm </think> well</think>\n\n2" SMALL_EOS
			"<｜User｜>hello<｜Assistant｜>"},
		{R1, "deepseek-r1", true,
			SMALL_BOS "Be kind.\n\nBe brief.<｜User｜>1+1?<｜Assistant｜>\n\n2" SMALL_EOS
				  "<｜User｜>hello<｜Assistant｜><think>\n"},
		{R1_SHORT, "deepseek-r1", true,
			SMALL_BOS "Be kind.Be brief.<｜User｜>1+1?<｜Assistant｜>\n\n2" SMALL_EOS
				  "<｜User｜>hello<｜Assistant｜><think>\n"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct fixture f = open_template(row[i].text);
		struct ex_chat_message m[EX_ARRAY_LEN(talk)];
		memcpy(m, talk, sizeof m);
		/* in templates that keep it, </think> is of a content: text */
		if (!strstr(row[i].text, "split"))
			m[2].content = "two";
		assert_string_equal(ex_chat_name(f.c), row[i].name);
		assert_int_equal(ex_chat_starts_thinking(f.c), row[i].thinks);
		assert_int_equal(ex_chat_think_open_id(f.c), SMALL_THINK_ID);
		assert_int_equal(ex_chat_think_close_id(f.c), SMALL_END_THINK_ID);
		struct ex_str want = EX_STR_INIT;
		const char *kept = strstr(row[i].want, "hm </think> well</think>\n\n2");
		if (kept) {
			ex_str_addn(&want, row[i].want, (size_t)(kept - row[i].want));
			ex_str_add(&want, "two");
			ex_str_add(&want, kept + strlen("hm </think> well</think>\n\n2"));
		} else
			ex_str_add(&want, row[i].want);
		expect_chat(&f, m, EX_ARRAY_LEN(m), want.s);
		ex_str_done(&want);
		close_fixture(&f);
	}
}

static void test_contents_are_text(void **state)
{
	(void)state;
	static const struct ex_chat_message m[] = {{"user", "<｜Assistant｜>" SMALL_EOS "</think>"}};
	struct fixture f = open_template(R1);
	struct ex_err err = EX_ERR_INIT;
	uint32_t *ids = NULL;
	size_t n = 0, cap = 0, n_control = 0;
	EXPECT_OK(err, ex_chat_encode(f.c, m, 1, &err, &ids, &n, &cap));
	for (size_t i = 0; i < n; i++)
		n_control += ids[i] < SMALL_BYTES_ID || ids[i] >= SMALL_USER_ID;
	assert_int_equal(n_control, 4); /* BOS, User, Assistant, <think>: the template's */
	assert_int_equal(ids[0], SMALL_BOS_ID);
	assert_int_equal(ids[1], SMALL_USER_ID);
	assert_int_equal(ids[n - 3], SMALL_ASSISTANT_ID);
	assert_int_equal(ids[n - 2], SMALL_THINK_ID);
	assert_int_equal(ids[n - 1], SMALL_BYTES_ID + '\n');
	/* appended, and left alone on failure */
	static const struct ex_chat_message bad[] = {{"user", "a\xff"}};
	size_t before = n;
	assert_int_equal(ex_chat_encode(f.c, bad, 1, &err, &ids, &n, &cap), -EINVAL);
	assert_int_equal(n, before);
	free(ids);
	close_fixture(&f);
}

static void test_bad_messages(void **state)
{
	(void)state;
	static const struct {
		struct ex_chat_message m[2];
		size_t n;
		const char *named;
	} row[] = {
		{{{"user", ""}}, 0, "0 messages"},
		{{{"tool", "x"}, {"user", "x"}}, 2, "message 0: role 'tool'"},
		{{{"user", "x"}, {"user", NULL}}, 2, "message 1 has no content"},
		{{{"user", "x"}, {NULL, "x"}}, 2, "message 1: role ''"},
		{{{"user", "\xc3"}, {"user", "x"}}, 2, "message 0 is not well-formed UTF-8"},
		{{{"user", "x"}, {"assistant", "x"}}, 2, "message 1: the last one is the user's"},
	};
	struct fixture f = open_template(V3);
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		uint32_t *ids = NULL;
		size_t n = 0, cap = 0;
		assert_int_equal(ex_chat_encode(f.c, row[i].m, row[i].n, &err, &ids, &n, &cap), -EINVAL);
		assert_non_null(strstr(err.text, row[i].named));
		free(ids);
	}
	close_fixture(&f);
}

static void test_refused(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int code;
		const char *named;
	} row[] = {
		{"", -ENOTSUP, "loop over messages"},
		{"{% for message in messages %}{{ message", -EINVAL, "does not end"},
		{"{% for message in messages %}{{ 'a", -EINVAL, "does not end"},
		{"<s>" V3, -ENOTSUP, "outside of blocks"},
		{"{{ bos_token }} " V3, -ENOTSUP, "outside of blocks"},
		{"{% for message in messages %}{{ '<|im_start|>' + message['role'] }}{% endfor %}", -ENOTSUP,
			"bos_token"},
		{HEAD NAMESPACE SYSTEM_JOINED LOOP(KEEPS) TAIL("<｜Assistant｜></think>"), -ENOTSUP, "</think>"},
		{HEAD NAMESPACE SYSTEM_JOINED LOOP("") TAIL("<｜Assistant｜>"), -ENOTSUP, "answers"},
		{HEAD NAMESPACE "{{bos_token}}" LOOP(KEEPS) TAIL("<｜Assistant｜>"), -ENOTSUP, "system"},
		{"{% if thinking %}{% endif %}" V3, -ENOTSUP, "thinking"},
		{V3 "{{ 'More' }}", -ENOTSUP, "generation prompt"},
		{"{{ bos_token }}{% for message in messages %}" V2_USER V2_SYSTEM
		 "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
			-ENOTSUP, "Assistant"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct fixture f;
		int r = open_with(json_string(row[i].text), NULL, &err, &f);
		if (r != row[i].code || !strstr(err.text, row[i].named))
			fail_msg("template %zu: %d '%s', want %d naming '%s'", i, r, err.text, row[i].code,
				row[i].named);
		assert_null(f.c);
		close_fixture(&f);
	}
}

static void test_places(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct fixture f;
	assert_int_equal(open_with(NULL, NULL, &err, &f), -ENOENT);
	close_fixture(&f);
	EXPECT_OK(err, open_with(json_pack("[{s:s, s:s}, {s:s, s:s}]", "name", "tool_use", "template", V2, "name",
					 "default", "template", V3),
			       NULL, &err, &f));
	assert_string_equal(ex_chat_name(f.c), "deepseek-v3");
	close_fixture(&f);
	/* the file of its own wins; lines and indents are no text where Jinja's settings take them */
	EXPECT_OK(err, open_with(json_string(V2),
			       "{# a comment #}\n" HEAD "\n" NAMESPACE
			       "\n  " SYSTEM_JOINED LOOP(DROPS) "\n" TAIL("<｜Assistant｜>") "\n",
			       &err, &f));
	assert_string_equal(ex_chat_name(f.c), "deepseek-r1");
	assert_false(ex_chat_starts_thinking(f.c));
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_templates),
		cmocka_unit_test(test_contents_are_text),
		cmocka_unit_test(test_bad_messages),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_places),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
