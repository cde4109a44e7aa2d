/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that may come next in a JSON object. Layer L4. */
#include "gateway/json_guide.h"

#include "base/mem.h"
#include <string.h>

#define LOW (-1e9f) /* of a logit: finite, as the sampler wants it, and of probability 0 */

enum token_class {
	NEVER, /* no text, a control token */
	PLAIN, /* no byte of it ends a string or begins an escape, all of them may stand in one */
	OTHER,
};

struct ex_json_vocab {
	uint32_t n, n_eos;
	int64_t think_open, think_close;
	uint8_t *class;  /* [n], enum token_class */
	uint32_t *eos;   /* [n_eos] */
	uint64_t *begin; /* [n + 1] of each token's bytes */
	char *bytes;
};

static const char *token_bytes(const struct ex_json_vocab *v, uint32_t id, size_t *ret_n)
{
	*ret_n = id < v->n ? v->begin[id + 1] - v->begin[id] : 0;
	return id < v->n ? v->bytes + v->begin[id] : "";
}

static int copy_tokens(struct ex_json_vocab *v, const struct ex_json_vocab_opts *o)
{
	size_t n, all = 0;
	v->begin = ex_calloc((size_t)v->n + 1, sizeof *v->begin);
	v->eos = ex_calloc(o->n_eos, sizeof *v->eos);
	if (!v->begin || !v->eos)
		return -ENOMEM;
	for (uint32_t i = 0; i < o->n_eos; i++)
		v->eos[i] = o->eos[i];
	for (uint32_t id = 0; id < v->n; id++) {
		(void)ex_tokenizer_bytes(o->tokenizer, id, &n);
		v->begin[id + 1] = all += n;
	}
	v->bytes = ex_calloc(all, 1);
	if (!v->bytes)
		return -ENOMEM;
	for (uint32_t id = 0; id < v->n; id++) {
		const char *s = ex_tokenizer_bytes(o->tokenizer, id, &n);
		if (n)
			memcpy(v->bytes + v->begin[id], s, n);
	}
	return 0;
}

static bool is_eos(const struct ex_json_vocab_opts *o, uint32_t id)
{
	for (uint32_t i = 0; i < o->n_eos; i++)
		if (o->eos[i] == id)
			return true;
	return false;
}

static enum token_class classify(const struct ex_json_vocab_opts *o, uint32_t id)
{
	size_t n;
	const char *s = ex_tokenizer_bytes(o->tokenizer, id, &n);
	if (!n || ex_tokenizer_is_special(o->tokenizer, id) || is_eos(o, id) || (int64_t)id == o->think_open ||
		(int64_t)id == o->think_close)
		return NEVER;
	for (size_t i = 0; i < n; i++)
		if (s[i] == '"' || s[i] == '\\' || (unsigned char)s[i] < 0x20)
			return OTHER;
	return PLAIN;
}

/* Every printable byte is a token of its own, so that an object can be ended byte by byte. */
static bool has_bytes(const struct ex_json_vocab *v)
{
	bool seen[256] = {false};
	for (uint32_t id = 0; id < v->n; id++) {
		size_t n;
		const char *s = token_bytes(v, id, &n);
		if (n == 1 && v->class[id] != NEVER)
			seen[(unsigned char)*s] = true;
	}
	for (unsigned c = 0x20; c < 0x7f; c++)
		if (!seen[c])
			return false;
	return true;
}

int ex_json_vocab_new(const struct ex_json_vocab_opts *o, struct ex_err *err, struct ex_json_vocab **ret)
{
	struct ex_json_vocab *v = ex_calloc(1, sizeof *v);
	if (!v)
		return ex_err_errno(err, -ENOMEM, "JSON vocabulary");
	v->n = ex_tokenizer_vocab_size(o->tokenizer);
	v->n_eos = o->n_eos;
	v->think_open = o->think_open;
	v->think_close = o->think_close;
	v->class = ex_calloc(v->n, sizeof *v->class);
	int rc = v->class && copy_tokens(v, o) == 0 ? 0 : ex_err_errno(err, -ENOMEM, "JSON vocabulary");
	for (uint32_t id = 0; !rc && id < v->n; id++)
		v->class[id] = (uint8_t)classify(o, id);
	if (!rc && (!o->n_eos || !has_bytes(v)))
		rc = ex_err_set(err, -ENOTSUP, "the vocabulary lacks an end token, or a byte as a token of its own");
	if (rc) {
		ex_json_vocab_free(v);
		return rc;
	}
	*ret = v;
	return 0;
}

struct ex_json_vocab *ex_json_vocab_free(struct ex_json_vocab *v)
{
	if (v) {
		free(v->class);
		free(v->eos);
		free(v->begin);
		free(v->bytes);
		free(v);
	}
	return NULL;
}

void ex_json_guide_init(struct ex_json_guide *g, const struct ex_json_vocab *v)
{
	g->v = v;
	ex_json_state_init(&g->s);
}

/* s, a copy, after the token's bytes; false: they cannot follow. */
static bool run(struct ex_json_state *s, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!ex_json_state_step(s, (unsigned char)bytes[i]))
			return false;
	return true;
}

/* Which single bytes may follow, and whether all that may stand in a string leave s as it is: then it is in one. */
static void look_ahead(const struct ex_json_state *s, bool first[static 256])
{
	for (unsigned c = 0; c < 256; c++) {
		struct ex_json_state t = *s;
		first[c] = ex_json_state_step(&t, (unsigned char)c);
	}
}

static void mask_answer(const struct ex_json_guide *g, float *logits, uint32_t n_logits, uint32_t n_left, bool *ret_any)
{
	const struct ex_json_vocab *v = g->v;
	/* in a string, and nowhere else, a byte that begins no character may follow */
	bool first[256];
	look_ahead(&g->s, first);
	const bool string = first[0xff], plain = string && ex_json_state_left(&g->s) + 2 <= n_left;
	for (uint32_t id = 0; id < n_logits; id++) {
		size_t n;
		const enum token_class class = id < v->n ? (enum token_class)v->class[id] : NEVER;
		bool may = string && class == PLAIN ? plain : class != NEVER;
		if (may && !(string && class == PLAIN)) {
			struct ex_json_state t = g->s;
			const char *bytes = token_bytes(v, id, &n);
			may = first[(unsigned char)*bytes] && run(&t, bytes, n) && ex_json_state_left(&t) + 2 <= n_left;
		}
		if (!may)
			logits[id] = LOW;
		*ret_any |= may;
	}
}

/* Leaves the logits of these ids alone. */
static bool allow_only(const uint32_t *ids, uint32_t n_ids, float *logits, uint32_t n_logits)
{
	float kept;
	bool any = false;
	uint32_t best = 0;
	for (uint32_t i = 0; i < n_ids; i++)
		if (ids[i] < n_logits && (!any || logits[ids[i]] > logits[best])) {
			best = ids[i];
			any = true;
		}
	kept = logits[best];
	for (uint32_t id = 0; id < n_logits; id++)
		logits[id] = LOW;
	if (any)
		logits[best] = kept;
	return any;
}

bool ex_json_guide_mask(struct ex_json_guide *g, float *logits, uint32_t n_logits, bool thinking, uint32_t n_left)
{
	const struct ex_json_vocab *v = g->v;
	bool any = false;
	if (thinking && n_left <= EX_JSON_GUIDE_TOKENS_MIN && v->think_close >= 0)
		return allow_only(&(uint32_t){(uint32_t)v->think_close}, 1, logits, n_logits);
	if (thinking) {
		for (uint32_t i = 0; i < v->n_eos; i++)
			if (v->eos[i] < n_logits)
				logits[v->eos[i]] = LOW;
		return true;
	}
	if (ex_json_state_done(&g->s))
		return allow_only(v->eos, v->n_eos, logits, n_logits);
	mask_answer(g, logits, n_logits, n_left, &any);
	return any;
}

void ex_json_guide_take(struct ex_json_guide *g, uint32_t id)
{
	size_t n;
	const char *bytes = token_bytes(g->v, id, &n);
	bool ok = run(&g->s, bytes, n);
	assert(ok); /* it was let through */
}
