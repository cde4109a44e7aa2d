/* SPDX-License-Identifier: Apache-2.0 */
/* Recognises DeepSeek's chat templates by what they do. Layer L1.
 *
 * There is no Jinja here. A template is brought into a compact form, without the white space and trim marks that do not
 * matter, and the statements that decide what is printed must be there literally; where one is missing, the template is
 * refused. Branches for tool calls may say what they like: no message that we render reaches them.
 */
#include "model/chat_template.h"

#include "base/str.h"
#include <stdio.h>
#include <string.h>

#define VARIABLE_MAX 32

/* --- compact form ---------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool opens_block(const char *s)
{
	return s[0] == '{' && (s[1] == '%' || s[1] == '{' || s[1] == '#');
}

/* Copies the string literal at s, in single quotes and with its escapes resolved. Returns where it ends, NULL if it
 * does not. */
static const char *copy_literal(const char *s, struct ex_str *out)
{
	char quote = *s++;
	ex_str_addn(out, "'", 1);
	for (; *s && *s != quote; s++) {
		if (s[0] == '\\' && s[1]) {
			s++;
			ex_str_addn(out, *s == 'n' ? "\n" : *s == 't' ? "\t" : s, 1);
		} else
			ex_str_addn(out, s, 1);
	}
	ex_str_addn(out, "'", 1);
	return *s ? s + 1 : NULL;
}

/* Copies the block at s. *ret_trims: it ends with a trim mark. Returns where it ends, NULL if it does not. */
static const char *copy_block(const char *s, struct ex_str *out, bool *ret_trims)
{
	char kind = s[1], closing = kind == '{' ? '}' : kind;
	if (kind == '#') {
		const char *end = strstr(s + 2, "#}");
		*ret_trims = end && end[-1] == '-' && end - 1 > s + 1;
		return end ? end + 2 : NULL;
	}
	ex_str_addn(out, s, 2);
	s += s[2] == '-' || s[2] == '+' ? 3 : 2;
	while (s && *s) {
		*ret_trims = s[0] == '-';
		if (s[*ret_trims] == closing && s[*ret_trims + 1] == '}') {
			ex_str_addn(out, s + *ret_trims, 2);
			return s + *ret_trims + 2;
		}
		if (*s == '\'' || *s == '"')
			s = copy_literal(s, out);
		else {
			if (!is_space(*s))
				ex_str_addn(out, s, 1);
			s++;
		}
	}
	return NULL;
}

/* Whether s[0..n) between two blocks prints nothing: white space that a trim mark takes, or that transformers' settings
 * of Jinja (trim_blocks, lstrip_blocks) take. before, after: the kinds of the blocks beside it ('%', '{', '#'), '\0' at
 * either end. */
static bool prints_nothing(const char *s, size_t n, char before, bool before_trims, char after, bool after_trims)
{
	for (size_t i = 0; i < n; i++)
		if (!is_space(s[i]))
			return false;
	if (before_trims || after_trims)
		return true;
	bool line_begin = before == '\0';
	if (n && s[0] == '\n' && (before == '%' || before == '#')) {
		line_begin = true;
		s++;
		n--;
	}
	if (line_begin && (after == '%' || after == '#'))
		while (n && (s[n - 1] == ' ' || s[n - 1] == '\t'))
			n--;
	if (after == '\0' && n && s[n - 1] == '\n')
		n--;
	return n == 0;
}

static int compact(const char *s, struct ex_err *err, struct ex_str *out)
{
	char before = '\0';
	bool trims = false;
	while (*s) {
		const char *next = s;
		while (*next && !opens_block(next))
			next++;
		if (!prints_nothing(
			    s, (size_t)(next - s), before, trims, *next ? next[1] : '\0', *next && next[2] == '-'))
			return ex_err_set(
				err, -ENOTSUP, "chat template: text outside of blocks, '%.40s', is not understood", s);
		if (!*next)
			break;
		before = next[1];
		s = copy_block(next, out, &trims);
		if (!s)
			return ex_err_set(err, -EINVAL, "chat template: '%.40s' does not end", next);
	}
	return out->oom ? ex_err_errno(err, -ENOMEM, "chat template") : 0;
}

/* --- recognition ----------------------------------------------------------------------------------------- */

struct form {
	const char *text;            /* compact */
	char variable[VARIABLE_MAX]; /* of the loop over messages: `$` in patterns */
};

/* Where the pattern is in the text, NULL if nowhere. `$` stands for the loop's variable, `~` for the end-of-sentence
 * token. */
static const char *find(const struct form *f, const char *pattern)
{
	struct ex_str b = EX_STR_INIT;
	for (; *pattern; pattern++) {
		if (*pattern == '$')
			ex_str_add(&b, f->variable);
		else if (*pattern == '~')
			ex_str_add(&b, EX_CHAT_EOS_TEXT);
		else
			ex_str_addn(&b, pattern, 1);
	}
	const char *at = b.oom || !b.s ? NULL : strstr(f->text, b.s);
	ex_str_done(&b);
	return at;
}

static int not_understood(struct ex_err *err, const char *what)
{
	return ex_err_set(err, -ENOTSUP, "chat template: %s", what);
}

static int find_variable(struct form *f, struct ex_err *err)
{
	static const char head[] = "{%for", tail[] = "inmessages%}";
	const char *at = strstr(f->text, tail), *begin = at;
	while (begin && strncmp(begin, head, sizeof head - 1))
		begin = begin > f->text ? begin - 1 : NULL;
	if (!begin)
		return not_understood(err, "no loop over messages");
	begin += sizeof head - 1;
	size_t n = (size_t)(at - begin);
	if (n == 0 || n >= sizeof f->variable)
		return not_understood(err, "the loop over messages has no plain variable");
	memcpy(f->variable, begin, n);
	f->variable[n] = '\0';
	return 0;
}

/* What the template prints last when an answer is to follow, in *ret (borrowed, *ret_n bytes). */
static int generation_prompt(const struct form *f, struct ex_err *err, const char **ret, size_t *ret_n)
{
	static const char *const heads[] = {
		"{%ifadd_generation_promptandnotns.is_tool%}{{'",
		"{%ifadd_generation_prompt%}{{'",
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(heads); i++) {
		const char *at = strstr(f->text, heads[i]);
		const char *begin = at ? at + strlen(heads[i]) : NULL, *end = at ? strchr(begin, '\'') : NULL;
		if (!end || strcmp(end, "'}}{%endif%}"))
			continue;
		*ret = begin;
		*ret_n = (size_t)(end - begin);
		return 0;
	}
	return not_understood(err, "no plain generation prompt at the end");
}

static bool prompt_is(const char *prompt, size_t n, const char *want)
{
	return n == strlen(want) && !memcmp(prompt, want, n);
}

static int recognise_plain(
	const struct form *f, const char *prompt, size_t n, struct ex_err *err, struct chat_form *ret)
{
	if (!find(f, "{%if$['role']=='user'%}{{'User: '+$['content']+'\n\n'}}"))
		return not_understood(err, "'User: ' is not followed by the content and an empty line");
	if (!find(f, "{%elif$['role']=='assistant'%}{{'Assistant: '+$['content']+eos_token}}"))
		return not_understood(err, "'Assistant: ' is not followed by the content and eos_token");
	if (!find(f, "{%elif$['role']=='system'%}{{$['content']+'\n\n'}}"))
		return not_understood(err, "system messages are not printed with an empty line");
	if (!prompt_is(prompt, n, "Assistant:"))
		return not_understood(err, "the generation prompt is not 'Assistant:'");
	*ret = (struct chat_form){.system = CHAT_SYSTEM_IN_PLACE, .name = "deepseek-v2"};
	return 0;
}

static int recognise_system(const struct form *f, struct ex_err *err, enum chat_system *ret)
{
	bool at_front = find(f, "{{bos_token}}{{ns.system_prompt}}{%for$inmessages%}");
	if (at_front && find(f, "{%ifns.is_first_sp%}{%setns.system_prompt=ns.system_prompt+$['content']%}{%setns.is_"
				"first_sp=false%}"
				"{%else%}{%setns.system_prompt=ns.system_prompt+'\n\n'+$['content']%}{%endif%}"))
		*ret = CHAT_SYSTEM_JOINED;
	else if (at_front &&
		 find(f, "{%if$['role']=='system'%}{%setns.system_prompt=$['content']%}{%endif%}{%endfor%}"))
		*ret = CHAT_SYSTEM_LAST;
	else if (find(f, "{{bos_token}}{%for$inmessages%}{%if$['role']=='system'%}{{$['content']}}{%endif%}{%endfor%}"))
		*ret = CHAT_SYSTEM_PACKED;
	else
		return not_understood(err, "what it does with system messages");
	return 0;
}

static int recognise_assistant(const struct form *f, struct ex_err *err, bool *ret_drops)
{
	static const struct {
		const char *pattern;
		bool drops;
	} row[] = {
		{"{%setcontent=$['content']%}{%if'</think>'incontent%}{%setcontent=content.split('</"
		 "think>')[-1]%}{%endif%}"
		 "{{'<｜Assistant｜>'+content+'~'}}",
			true},
		{"{{'<｜Assistant｜>'+$['content'].split('</think>')[-1]+'~'}}", true},
		{"{%setcontent=$['content']%}{{'<｜Assistant｜>'+content+'~'}}", false},
		{"{{'<｜Assistant｜>'+$['content']+'~'}}", false},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		if (find(f, row[i].pattern)) {
			*ret_drops = row[i].drops;
			return 0;
		}
	return not_understood(err, "how answers are printed after <｜Assistant｜>");
}

static int recognise_tagged(
	const struct form *f, const char *prompt, size_t n, struct ex_err *err, struct chat_form *ret)
{
	struct chat_form form = {.tagged = true, .opens_think = prompt_is(prompt, n, "<｜Assistant｜><think>\n")};
	if (!form.opens_think && !prompt_is(prompt, n, "<｜Assistant｜>"))
		return ex_err_set(
			err, -ENOTSUP, "chat template: the generation prompt '%.*s' is not understood", (int)n, prompt);
	if (!find(f, "{{'<｜User｜>'+$['content']}}"))
		return not_understood(err, "<｜User｜> is not followed by the content alone");
	/* a switch of later models (V3.1): rendering depends on more than the messages */
	if (find(f, "thinking"))
		return not_understood(err, "the variable 'thinking' is not understood");
	int r = recognise_system(f, err, &form.system);
	if (r == 0)
		r = recognise_assistant(f, err, &form.drops_reasoning);
	if (r < 0)
		return r;
	form.name = form.drops_reasoning || form.opens_think ? "deepseek-r1"
		    : form.system == CHAT_SYSTEM_LAST        ? "deepseek-v2.5"
							     : "deepseek-v3";
	*ret = form;
	return 0;
}

int ex_chat_recognise(const char *text, size_t n, struct ex_err *err, struct chat_form *ret)
{
	const char *prompt = NULL;
	size_t n_prompt = 0;
	struct ex_str compacted = EX_STR_INIT;
	if (n > EX_CHAT_TEMPLATE_BYTES_MAX || strlen(text) != n)
		return ex_err_set(err, -EINVAL, "chat template: %zu bytes, or a NUL among them; at most %u are allowed",
			n, EX_CHAT_TEMPLATE_BYTES_MAX);
	int r = compact(text, err, &compacted);
	struct form f = {.text = compacted.s ? compacted.s : ""};
	if (r == 0)
		r = find_variable(&f, err);
	if (r == 0 && !find(&f, "{{bos_token}}"))
		r = not_understood(err, "no bos_token at the front");
	if (r == 0)
		r = generation_prompt(&f, err, &prompt, &n_prompt);
	if (r == 0)
		r = find(&f, "<｜User｜>") ? recognise_tagged(&f, prompt, n_prompt, err, ret)
					   : recognise_plain(&f, prompt, n_prompt, err, ret);
	ex_str_done(&compacted);
	return r;
}
