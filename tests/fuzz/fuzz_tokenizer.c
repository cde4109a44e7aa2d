/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as tokenizer.json, as a chat template, as a prompt, as ids: refused with a message, or right to the last
 * byte. */
#include "fuzz.h"

#include "model/chat_template.h"
#include "model/tokenizer_impl.h"
#include "small_tokenizer.h"

#define IDS_MAX 4096

static const char sample[] = "What is 347 + 589?\n  你好 <think>é🧑‍🚀\t\x01";

/* The ids of text must give text again, byte for byte. keeps: nothing in the tokenizer changes or drops text. */
static void round_trip(const struct ex_tokenizer *t, const char *text, size_t n, unsigned flags, bool keeps)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_str out = EX_STR_INIT;
	struct ex_detok d = {0};
	uint32_t *ids = NULL;
	size_t n_ids = 0, cap = 0;
	int r = ex_tokenizer_encode(t, text, n, flags, &err, &ids, &n_ids, &cap);
	assert(r == 0 || err.text[0]);
	assert((r == -EILSEQ) == !ex_utf8_valid(text, n));
	for (size_t i = 0; r == 0 && i < n_ids; i++) {
		assert(ids[i] < ex_tokenizer_vocab_size(t));
		ex_detok_push(&d, t, ids[i], true, &out);
	}
	ex_detok_flush(&d, &out);
	assert(ex_utf8_valid(out.s ? out.s : "", out.n));
	if (r == 0 && keeps)
		assert(out.n == n && (n == 0 || !memcmp(out.s, text, n)));
	ex_str_done(&out);
	free(ids);
}

static void decode_any(const struct ex_tokenizer *t, const uint8_t *data, size_t size)
{
	struct ex_str out = EX_STR_INIT;
	struct ex_detok d = {0};
	for (size_t i = 0; i + 1 < size && i < IDS_MAX; i += 2) {
		size_t before = out.n;
		ex_detok_push(&d, t, (data[i] | (uint32_t)data[i + 1] << 8) % (SMALL_N_IDS + 2), i % 3 == 0, &out);
		assert(d.n_held <= 3 && ex_utf8_valid((out.s ? out.s : "") + before, out.n - before));
	}
	ex_detok_flush(&d, &out);
	ex_str_done(&out);
}

static void as_file(const char *text, size_t n)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_tokenizer *t = NULL;
	json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	if (!root)
		return;
	int r = ex_tokenizer_new(root, &err, &t);
	json_decref(root);
	assert(r == 0 ? t != NULL : err.text[0] && !t);
	if (r == 0) {
		round_trip(t, sample, sizeof sample - 1, EX_ENCODE_SPECIAL, false);
		round_trip(t, sample, sizeof sample - 1, 0, false);
	}
	ex_tokenizer_close(t);
}

static void as_template(const char *text, size_t n)
{
	struct ex_err err = EX_ERR_INIT;
	struct chat_form form = {0};
	EX_CLEANUP(ex_freep) char *copy = strndup(text, n);
	int r = ex_chat_recognise(copy, strlen(copy), &err, &form);
	assert(r == 0 ? form.name != NULL : err.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ex_tokenizer *small;
	struct ex_err err = EX_ERR_INIT;
	if (!small) {
		json_t *root = small_tokenizer();
		int r = ex_tokenizer_new(root, &err, &small);
		assert(r == 0);
		json_decref(root);
	}
	const char *text = (const char *)data;
	if (size > 0 && data[0] == '{' && !(size > 1 && (data[1] == '%' || data[1] == '{' || data[1] == '#')))
		as_file(text, size);
	as_template(text, size);
	round_trip(small, text, size, 0, true);
	round_trip(small, text, size, EX_ENCODE_SPECIAL, true);
	decode_any(small, data, size);
	return 0;
}
