/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer on lines, for comparison with the `tokenizers` library (compare.py) and with expected ids (check.sh).
 *
 *   encode_lines encode|encode-plain DIR FILE    a JSON string a line → its ids, a line each; added tokens are matched,
 * or not encode_lines decode|decode-all DIR FILE      ids a line → the text as a JSON string; special tokens are left
 * out, or not encode_lines bench DIR FILE                  encodes the whole FILE, as text, for a second or more;
 * prints MB/s
 */
#include "base/err.h"
#include "base/str.h"
#include "model/chat.h"
#include "model/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FILE_BYTES_MAX (256u << 20)
#define MESSAGES_MAX   64

static void print_ids(const uint32_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		printf(i ? " %u" : "%u", ids[i]);
	putchar('\n');
}

static int encode_line(const struct ex_tokenizer *t, const char *line, size_t n, unsigned flags, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) uint32_t *ids = NULL;
	size_t n_ids = 0, cap = 0;
	json_t *v = json_loadb(line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	if (!json_is_string(v)) {
		json_decref(v);
		return ex_err_set(err, -EINVAL, "not a JSON string: %.*s", (int)EX_MIN(n, 200u), line);
	}
	int r = ex_tokenizer_encode(t, json_string_value(v), json_string_length(v), flags, err, &ids, &n_ids, &cap);
	json_decref(v);
	if (r == 0)
		print_ids(ids, n_ids);
	return r;
}

static int chat_line(const struct ex_chat *c, const char *line, size_t n, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) uint32_t *ids = NULL;
	struct ex_chat_message m[MESSAGES_MAX];
	size_t n_ids = 0, cap = 0;
	json_t *v = json_loadb(line, n, 0, NULL);
	size_t n_messages = EX_MIN(json_array_size(v), (size_t)MESSAGES_MAX);
	for (size_t i = 0; i < n_messages; i++) {
		m[i].role = json_string_value(json_array_get(json_array_get(v, i), 0));
		m[i].content = json_string_value(json_array_get(json_array_get(v, i), 1));
	}
	int r = ex_chat_encode(c, m, n_messages, err, &ids, &n_ids, &cap);
	json_decref(v);
	if (r == 0)
		print_ids(ids, n_ids);
	return r;
}

static int decode_line(const struct ex_tokenizer *t, const char *line, size_t n, bool keep_special, struct ex_err *err)
{
	struct ex_detok d = {0};
	struct ex_str text = EX_STR_INIT;
	for (const char *p = line; p < line + n;) {
		char *end;
		unsigned long id = strtoul(p, &end, 10);
		if (end == p)
			break;
		ex_detok_push(&d, t, (uint32_t)id, keep_special, &text);
		p = end;
	}
	ex_detok_flush(&d, &text);
	json_t *v = json_stringn(text.s ? text.s : "", text.n); /* refuses what is not UTF-8 */
	char *out = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
	if (out)
		puts(out);
	json_decref(v);
	ex_str_done(&text);
	free(out);
	return out ? 0
		   : ex_err_set(err, -EILSEQ, "the text of this line is not UTF-8: %.*s", (int)EX_MIN(n, 200u), line);
}

static double cpu_s(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts); /* what other processes do is no matter */
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int bench(const struct ex_tokenizer *t, const char *text, size_t n, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) uint32_t *ids = NULL;
	size_t n_ids = 0, cap = 0, rounds = 0;
	double begin = cpu_s(), took;
	do {
		n_ids = 0;
		int r = ex_tokenizer_encode(t, text, n, EX_ENCODE_SPECIAL, err, &ids, &n_ids, &cap);
		if (r < 0)
			return r;
		rounds++;
		took = cpu_s() - begin;
	} while (took < 1);
	printf("%.2f MB/s\n", 1e-6 * (double)n * (double)rounds / took);
	return 0;
}

static int run(const char *mode, const char *dir, const char *path, struct ex_err *err)
{
	EX_CLEANUP(ex_tokenizer_closep) struct ex_tokenizer *t = NULL;
	EX_CLEANUP(ex_chat_closep) struct ex_chat *c = NULL;
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	int r = ex_tokenizer_open(dir, err, &t);
	if (r == 0)
		r = ex_read_file(path, FILE_BYTES_MAX, err, &text, &n);
	if (r == 0 && !strcmp(mode, "bench"))
		return bench(t, text, n, err);
	bool chat = !strcmp(mode, "chat");
	if (r == 0 && chat)
		r = ex_chat_open(dir, t, err, &c);
	for (size_t at = 0; r == 0 && at < n;) {
		const char *end = memchr(text + at, '\n', n - at);
		size_t len = end ? (size_t)(end - text) - at : n - at;
		if (chat)
			r = chat_line(c, text + at, len, err);
		else if (!strncmp(mode, "encode", 6))
			r = encode_line(t, text + at, len, strcmp(mode, "encode") ? 0 : EX_ENCODE_SPECIAL, err);
		else
			r = decode_line(t, text + at, len, !strcmp(mode, "decode-all"), err);
		at += len + 1;
	}
	return r;
}

int main(int argc, char **argv)
{
	struct ex_err err = EX_ERR_INIT;
	if (argc != 4) {
		fprintf(stderr, "usage: encode_lines encode|encode-plain|decode|decode-all|chat|bench DIR FILE\n");
		return 2;
	}
	if (run(argv[1], argv[2], argv[3], &err) < 0) {
		fprintf(stderr, "encode_lines: %s\n", ex_err_text(&err));
		return 1;
	}
	return 0;
}
