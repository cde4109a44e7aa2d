/* SPDX-License-Identifier: Apache-2.0 */
/* Messages into ids as the model's chat template has them. Layer L1. Immutable after open, shared by threads.
 *
 * Between two control tokens all text is encoded as one, since that is how the template's output would be; control
 * tokens are put by id, so that a content that spells one stays text.
 */
#include "model/chat.h"

#include "base/mem.h"
#include "model/chat_template.h"
#include "model/tokenizer_impl.h"
#include <stdio.h>
#include <string.h>

#define CHAT_MAGIC        0x63686174u
#define CHAT_MESSAGES_MAX 4096u

struct ex_chat {
	uint32_t magic;
	const struct ex_tokenizer *t; /* borrowed */
	struct chat_form form;
	int64_t user, assistant, eos; /* control tokens; eos: what ends an answer */
	int64_t think_open, think_close;
};

/* --- opening --------------------------------------------------------------------------------------------- */

/* tokenizer_config.json's chat_template: a text, or a list of {name, template} with one called "default". Borrowed from
 * config. */
static const json_t *template_of_config(const json_t *config)
{
	const json_t *v = json_object_get(config, "chat_template");
	if (json_is_string(v))
		return v;
	for (size_t i = 0; i < json_array_size(v); i++) {
		const json_t *entry = json_array_get(v, i), *name = json_object_get(entry, "name");
		if (json_is_string(name) && !strcmp(json_string_value(name), "default"))
			return json_object_get(entry, "template");
	}
	return NULL;
}

/* Reads and recognises DIR's template: chat_template.jinja where there is one, else tokenizer_config.json's. */
static int read_form(const char *dir, struct ex_err *err, struct chat_form *ret)
{
	EX_CLEANUP(ex_freep) char *path = NULL;
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	json_t *config = NULL;
	if (asprintf(&path, "%s/chat_template.jinja", dir) < 0) {
		path = NULL;
		return ex_err_errno(err, -ENOMEM, "%s", dir);
	}
	int r = ex_read_file(path, EX_CHAT_TEMPLATE_BYTES_MAX, err, &text, &n);
	if (r == 0) {
		r = ex_chat_recognise(text, n, err, ret);
		return r < 0 ? ex_err_prefix(err, "%s", path) : 0;
	}
	if (r != -ENOENT)
		return r;
	r = ex_tokenizer_read_json(dir, "tokenizer_config.json", err, &config);
	if (r < 0)
		return r;
	const json_t *v = template_of_config(config);
	if (!json_is_string(v))
		r = ex_err_set(err, -ENOENT, "%s/tokenizer_config.json has no 'chat_template'", dir);
	else if ((r = ex_chat_recognise(json_string_value(v), json_string_length(v), err, ret)) < 0)
		r = ex_err_prefix(err, "%s/tokenizer_config.json", dir);
	json_decref(config);
	return r;
}

static int need_token(const struct ex_chat *c, const char *text, struct ex_err *err, int64_t *ret)
{
	*ret = ex_tokenizer_id(c->t, text);
	return *ret >= 0 ? 0
			 : ex_err_set(err, -EINVAL, "the chat template's token '%s' is not in the vocabulary", text);
}

static int find_tokens(struct ex_chat *c, struct ex_err *err)
{
	int r = 0;
	c->think_open = ex_tokenizer_id(c->t, "<think>");
	c->think_close = ex_tokenizer_id(c->t, "</think>");
	c->eos = ex_tokenizer_eos(c->t);
	if (ex_tokenizer_bos(c->t) < 0)
		return ex_err_set(
			err, -EINVAL, "the chat template begins with a BOS token, and the tokenizer has none");
	if (!c->form.tagged)
		return c->eos >= 0 ? 0
				   : ex_err_set(err, -EINVAL,
					     "the chat template needs an EOS token, and the tokenizer has none");
	if ((r = need_token(c, "<｜User｜>", err, &c->user)) < 0 ||
		(r = need_token(c, "<｜Assistant｜>", err, &c->assistant)) < 0)
		return r;
	return need_token(c, EX_CHAT_EOS_TEXT, err, &c->eos);
}

int ex_chat_open(const char *dir, const struct ex_tokenizer *t, struct ex_err *err, struct ex_chat **ret)
{
	EX_CLEANUP(ex_chat_closep) struct ex_chat *c = ex_calloc(1, sizeof *c);
	if (!c)
		return ex_err_errno(err, -ENOMEM, "chat template of '%s'", dir);
	c->magic = CHAT_MAGIC;
	c->t = t;
	int r = read_form(dir, err, &c->form);
	if (r == 0)
		r = find_tokens(c, err);
	if (r == 0)
		*ret = EX_TAKE(c);
	return r;
}

struct ex_chat *ex_chat_close(struct ex_chat *c)
{
	if (!c)
		return NULL;
	EX_CHECK_OBJ(c, CHAT_MAGIC);
	c->magic = 0;
	free(c);
	return NULL;
}

/* --- rendering ------------------------------------------------------------------------------------------- */

/* What is being written: ids, and text that is not encoded yet. */
struct render {
	const struct ex_chat *c;
	struct ex_err *err;
	struct ex_str text;
	uint32_t *ids; /* the caller's, grown */
	size_t n, cap;
	int r; /* the first error; after it nothing is written */
};

static void put_text(struct render *w, const char *s, size_t n)
{
	ex_str_addn(&w->text, s, n);
}

static void encode_text(struct render *w)
{
	if (w->r == 0 && w->text.oom)
		w->r = ex_err_errno(w->err, -ENOMEM, "cannot render a chat");
	if (w->r == 0 && w->text.n)
		w->r = ex_tokenizer_encode(w->c->t, w->text.s, w->text.n, 0, w->err, &w->ids, &w->n, &w->cap);
	ex_str_reset(&w->text);
}

static void put_token(struct render *w, int64_t id)
{
	encode_text(w);
	if (w->r == 0 && (w->r = ex_grow(&w->ids, &w->cap, w->n + 1, sizeof *w->ids)) < 0)
		ex_err_errno(w->err, w->r, "cannot render a chat");
	if (w->r == 0)
		w->ids[w->n++] = (uint32_t)id;
}

/* An earlier answer as the model sees it again: without its reasoning where the template drops that. */
static const char *answer_text(const struct ex_chat *c, const char *content)
{
	static const char end[] = "</think>";
	const char *at;
	if (c->form.drops_reasoning)
		while ((at = strstr(content, end)))
			content = at + sizeof end - 1;
	return content;
}

static void put_system_first(struct render *w, const struct ex_chat_message *m, size_t n)
{
	const struct ex_chat_message *last = NULL;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(m[i].role, "system"))
			continue;
		if (w->c->form.system == CHAT_SYSTEM_JOINED && last)
			put_text(w, "\n\n", 2);
		if (w->c->form.system != CHAT_SYSTEM_LAST)
			put_text(w, m[i].content, strlen(m[i].content));
		last = &m[i];
	}
	if (w->c->form.system == CHAT_SYSTEM_LAST && last)
		put_text(w, last->content, strlen(last->content));
}

static void put_tagged(struct render *w, const struct ex_chat_message *m, size_t n)
{
	const struct ex_chat *c = w->c;
	put_system_first(w, m, n);
	for (size_t i = 0; i < n; i++) {
		bool answer = !strcmp(m[i].role, "assistant");
		if (!strcmp(m[i].role, "system"))
			continue;
		const char *text = answer ? answer_text(c, m[i].content) : m[i].content;
		put_token(w, answer ? c->assistant : c->user);
		put_text(w, text, strlen(text));
		if (answer)
			put_token(w, c->eos);
	}
	put_token(w, c->assistant);
	if (!c->form.opens_think)
		return;
	if (c->think_open >= 0)
		put_token(w, c->think_open);
	else
		put_text(w, "<think>", 7);
	put_text(w, "\n", 1);
}

static void put_plain(struct render *w, const struct ex_chat_message *m, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool answer = !strcmp(m[i].role, "assistant");
		if (answer)
			put_text(w, "Assistant: ", 11);
		else if (!strcmp(m[i].role, "user"))
			put_text(w, "User: ", 6);
		put_text(w, m[i].content, strlen(m[i].content));
		if (answer)
			put_token(w, w->c->eos);
		else
			put_text(w, "\n\n", 2);
	}
	put_text(w, "Assistant:", 10);
}

static int check_messages(const struct ex_chat_message *m, size_t n, struct ex_err *err)
{
	if (n == 0 || n > CHAT_MESSAGES_MAX)
		return ex_err_set(err, -EINVAL, "%zu messages; from 1 to %u are allowed", n, CHAT_MESSAGES_MAX);
	for (size_t i = 0; i < n; i++) {
		const char *role = m[i].role;
		if (!role || (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant")))
			return ex_err_set(err, -EINVAL,
				"message %zu: role '%.64s' is unknown; system, user and assistant are known", i,
				role ? role : "");
		if (!m[i].content)
			return ex_err_set(err, -EINVAL, "message %zu has no content", i);
		if (!ex_utf8_valid(m[i].content, strlen(m[i].content)))
			return ex_err_set(err, -EINVAL, "message %zu is not well-formed UTF-8", i);
	}
	if (strcmp(m[n - 1].role, "user"))
		return ex_err_set(err, -EINVAL, "message %zu: the last one is the user's, here it is from '%s'", n - 1,
			m[n - 1].role);
	return 0;
}

int ex_chat_encode(const struct ex_chat *c, const struct ex_chat_message *m, size_t n, struct ex_err *err,
	uint32_t **ret_ids, size_t *ret_n, size_t *ret_cap)
{
	EX_CHECK_OBJ(c, CHAT_MAGIC);
	int r = check_messages(m, n, err);
	if (r < 0)
		return r;
	struct render w = {.c = c, .err = err, .ids = *ret_ids, .n = *ret_n, .cap = *ret_cap};
	put_token(&w, ex_tokenizer_bos(c->t));
	if (c->form.tagged)
		put_tagged(&w, m, n);
	else
		put_plain(&w, m, n);
	encode_text(&w);
	ex_str_done(&w.text);
	*ret_ids = w.ids;
	*ret_cap = w.cap;
	if (w.r == 0)
		*ret_n = w.n;
	return w.r;
}

bool ex_chat_starts_thinking(const struct ex_chat *c)
{
	return c->form.opens_think;
}

int64_t ex_chat_think_open_id(const struct ex_chat *c)
{
	return c->think_open;
}

int64_t ex_chat_think_close_id(const struct ex_chat *c)
{
	return c->think_close;
}

const char *ex_chat_name(const struct ex_chat *c)
{
	return c->form.name;
}
