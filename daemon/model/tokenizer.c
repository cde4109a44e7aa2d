/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers: opening, looking up, and the way of a text into ids. Layer L1. Immutable after open, shared by threads.
 */
#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include <string.h>

#define TOKENIZER_MAGIC 0x746f6b31u

/* What one attempt of a regex may cost on a text of n bytes. Honest patterns go back over what they took a few times at
 * most. */
#define MATCH_STEPS(n) (4096 + 16 * (uint32_t)(n))
#define MATCH_HEAP_KIB (256u << 10)

int ex_tokenizer_read_json(const char *dir, const char *name, struct ex_err *err, json_t **ret)
{
	EX_CLEANUP(ex_freep) char *path = NULL;
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	json_error_t why;
	if (asprintf(&path, "%s/%s", dir, name) < 0) {
		path = NULL;
		return ex_err_errno(err, -ENOMEM, "%s/%s", dir, name);
	}
	int r = ex_read_file(path, EX_TOKENIZER_FILE_BYTES_MAX, err, &text, &n);
	if (r < 0)
		return r;
	json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
	if (!root)
		return ex_err_set(
			err, -EINVAL, "'%s' is not JSON: line %d, column %d: %s", path, why.line, why.column, why.text);
	*ret = root;
	return 0;
}

/* The id of a token named in tokenizer_config.json: a string, an object with `content`, or null. */
static int config_token(
	const struct ex_tokenizer *t, const json_t *config, const char *key, struct ex_err *err, int64_t *ret)
{
	const json_t *v = json_object_get(config, key);
	const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
	if (!v || json_is_null(v))
		return 0;
	if (!text)
		return ex_err_set(err, -EINVAL, "'%s' is neither a string nor an object with 'content'", key);
	int64_t id = ex_tokenizer_id(t, text);
	if (id < 0)
		return ex_err_set(err, -EINVAL, "'%s': '%.64s' is not in the vocabulary", key, text);
	*ret = id;
	return 0;
}

static int read_config(struct ex_tokenizer *t, const char *dir, struct ex_err *err)
{
	json_t *config;
	int r = ex_tokenizer_read_json(dir, "tokenizer_config.json", err, &config);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = config_token(t, config, "bos_token", err, &t->bos);
	if (r == 0)
		r = config_token(t, config, "eos_token", err, &t->eos);
	json_decref(config);
	if (r == 0 && t->template_bos >= 0 && t->template_bos != t->bos)
		r = ex_err_set(err, -EINVAL,
			"'bos_token' has the id %lld, and tokenizer.json's post_processor adds %lld", (long long)t->bos,
			(long long)t->template_bos);
	return r < 0 ? ex_err_prefix(err, "%s/tokenizer_config.json", dir) : 0;
}

int ex_tokenizer_new(const json_t *root, struct ex_err *err, struct ex_tokenizer **ret)
{
	EX_CLEANUP(ex_tokenizer_closep) struct ex_tokenizer *t = ex_calloc(1, sizeof *t);
	if (!t)
		return ex_err_errno(err, -ENOMEM, "tokenizer");
	t->magic = TOKENIZER_MAGIC;
	t->eos = t->template_bos = -1;
	int r = ex_tokenizer_parse(t, root, err);
	if (r < 0)
		return r;
	t->bos = t->template_bos;
	*ret = EX_TAKE(t);
	return 0;
}

int ex_tokenizer_open(const char *dir, struct ex_err *err, struct ex_tokenizer **ret)
{
	EX_CLEANUP(ex_tokenizer_closep) struct ex_tokenizer *t = NULL;
	json_t *root;
	int r = ex_tokenizer_read_json(dir, "tokenizer.json", err, &root);
	if (r < 0)
		return r;
	r = ex_tokenizer_new(root, err, &t);
	json_decref(root);
	if (r < 0)
		return ex_err_prefix(err, "%s/tokenizer.json", dir);
	r = read_config(t, dir, err);
	if (r == 0)
		*ret = EX_TAKE(t);
	return r;
}

struct ex_tokenizer *ex_tokenizer_close(struct ex_tokenizer *t)
{
	if (!t)
		return NULL;
	EX_CHECK_OBJ(t, TOKENIZER_MAGIC);
	for (unsigned i = 0; i < t->pre.n_splits; i++)
		pcre2_code_free(t->pre.split[i].code);
	ex_added_done(&t->added_raw);
	ex_added_done(&t->added_normalized);
	ex_bpe_done(&t->bpe);
	ex_vocab_done(&t->vocab);
	t->magic = 0;
	free(t);
	return NULL;
}

/* Text without added tokens, normalised. */
static int encode_plain(struct encode_work *w, const char *text, size_t n)
{
	int r = ex_pretokenize(w, text, n, &text);
	for (size_t i = 0; r == 0 && i < w->pieces.n; i++) {
		const struct piece *p = &w->pieces.v[i];
		r = ex_bpe_encode(w, text + p->begin, p->end - p->begin);
	}
	return r;
}

static int push_id(struct encode_work *w, uint32_t id)
{
	int r = ex_grow(&w->ids, &w->ids_cap, w->n_ids + 1, sizeof *w->ids);
	if (r == 0)
		w->ids[w->n_ids++] = id;
	return r;
}

/* Gives what is between the tokens of the set to `rest`, and pushes their ids. */
static int encode_around(struct encode_work *w, const struct added_set *s, const char *text, size_t n,
	int (*rest)(struct encode_work *w, const char *text, size_t n))
{
	struct added_match m;
	size_t done = 0, pos = 0;
	int r = 0;
	while (r == 0 && ex_added_next(s, text, n, done, &pos, &m)) {
		if (m.begin > done)
			r = rest(w, text + done, m.begin - done);
		if (r == 0)
			r = push_id(w, m.id);
		done = m.end;
	}
	return r == 0 && done < n ? rest(w, text + done, n - done) : r;
}

static int encode_normalized(struct encode_work *w, const char *text, size_t n)
{
	return encode_around(w, &w->t->added_normalized, text, n, encode_plain);
}

/* A stretch of the text as it came, without added tokens that are matched before normalising. */
static int encode_stretch(struct encode_work *w, const char *text, size_t n, bool special)
{
	EX_CLEANUP(ex_freep) char *normal = NULL;
	int r = ex_normalize(w->t, text, n, w->err, &normal, &n);
	if (r < 0)
		return r;
	return (special ? encode_normalized : encode_plain)(w, normal ? normal : text, n);
}

static int encode_special(struct encode_work *w, const char *text, size_t n)
{
	return encode_stretch(w, text, n, true);
}

int ex_tokenizer_encode(const struct ex_tokenizer *t, const char *text, size_t n, unsigned flags, struct ex_err *err,
	uint32_t **ret_ids, size_t *ret_n, size_t *ret_cap)
{
	EX_CHECK_OBJ(t, TOKENIZER_MAGIC);
	if (n > EX_TOKENIZER_TEXT_BYTES_MAX)
		return ex_err_set(
			err, -E2BIG, "a text of %zu bytes: at most %u are taken", n, EX_TOKENIZER_TEXT_BYTES_MAX);
	if (!ex_utf8_valid(text, n))
		return ex_err_set(err, -EILSEQ, "the text is not well-formed UTF-8");
	if ((flags & EX_ENCODE_BOS) && t->bos < 0)
		return ex_err_set(err, -EINVAL, "the tokenizer has no BOS token");
	struct encode_work w = {.t = t, .err = err, .ids = *ret_ids, .n_ids = *ret_n, .ids_cap = *ret_cap};
	int r = -ENOMEM;
	w.match = pcre2_match_data_create(1, NULL);
	w.limits = pcre2_match_context_create(NULL);
	if (w.limits) {
		pcre2_set_match_limit(w.limits, MATCH_STEPS(n));
		pcre2_set_heap_limit(w.limits, MATCH_HEAP_KIB);
	}
	if (w.match && w.limits)
		r = flags & EX_ENCODE_BOS ? push_id(&w, (uint32_t)t->bos) : 0;
	if (r == 0)
		r = flags & EX_ENCODE_SPECIAL ? encode_around(&w, &t->added_raw, text, n, encode_special)
					      : encode_stretch(&w, text, n, false);
	pcre2_match_data_free(w.match);
	pcre2_match_context_free(w.limits);
	free(w.pieces.v);
	free(w.next.v);
	free(w.symbol);
	free(w.heap);
	ex_str_done(&w.prefixed);
	ex_str_done(&w.shown);
	*ret_ids = w.ids;
	*ret_cap = w.ids_cap;
	if (r == 0)
		*ret_n = w.n_ids;
	else if (r == -ENOMEM)
		ex_err_errno(err, r, "cannot encode a text of %zu bytes", n);
	return r;
}

uint32_t ex_tokenizer_vocab_size(const struct ex_tokenizer *t)
{
	return t->vocab.n_ids;
}

int64_t ex_tokenizer_id(const struct ex_tokenizer *t, const char *token)
{
	char bytes[EX_TOKENIZER_TOKEN_BYTES_MAX];
	size_t n = strlen(token);
	bool literal;
	if (n > sizeof bytes)
		return -1;
	uint32_t id = ex_added_find(&t->added_raw, token, n);
	if (id == EX_TOKEN_NONE)
		id = ex_added_find(&t->added_normalized, token, n);
	if (id == EX_TOKEN_NONE) {
		n = ex_vocab_unmap(token, n, bytes, &literal);
		id = ex_vocab_find(&t->vocab, bytes, n, literal);
	}
	return id == EX_TOKEN_NONE ? -1 : (int64_t)id;
}

int64_t ex_tokenizer_bos(const struct ex_tokenizer *t)
{
	return t->bos;
}

int64_t ex_tokenizer_eos(const struct ex_tokenizer *t)
{
	return t->eos;
}

const char *ex_tokenizer_bytes(const struct ex_tokenizer *t, uint32_t id, size_t *ret_n)
{
	if (id >= t->vocab.n_ids || !(t->vocab.token[id].flags & TOKEN_THERE)) {
		*ret_n = 0;
		return "";
	}
	*ret_n = t->vocab.token[id].n;
	return t->vocab.blob + t->vocab.token[id].off;
}

bool ex_tokenizer_is_special(const struct ex_tokenizer *t, uint32_t id)
{
	return id < t->vocab.n_ids && (t->vocab.token[id].flags & TOKEN_SPECIAL);
}
