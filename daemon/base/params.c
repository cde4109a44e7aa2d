/* SPDX-License-Identifier: Apache-2.0 */
/* The parameters: table, text to value and back. Layer L0. */
#include "base/params.h"

#include "base/addr.h"
#include "base/mem.h"
#include "base/shard.h"
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DIGEST_HEX 64   /* of a sha256 */
#define LIST_MAX   4096 /* items of a list that states no limit of its own */

enum { LIVE = 1, RESTART = 0 };

const struct ex_param ex_param_table[EX_PARAM_N] = {
#define EX_SECTION(section_, text_)
#define EX_PARAM(section_, key_, type_, unit_, default_, min_, max_, reload_, text_)                                   \
	[EX_P_##section_##_##key_] = {                                                                                 \
		.section = #section_,                                                                                  \
		.key = #key_,                                                                                          \
		.unit = unit_,                                                                                         \
		.default_text = default_,                                                                              \
		.text = text_,                                                                                         \
		.type = EX_PARAM_##type_,                                                                              \
		.section_id = EX_SECTION_##section_,                                                                   \
		.min = min_,                                                                                           \
		.max = max_,                                                                                           \
		.live = reload_,                                                                                       \
		.offset = offsetof(struct ex_params, section_##_##key_),                                               \
		.size = sizeof(((struct ex_params *)0)->section_##_##key_),                                            \
	},
#include "base/tbl/params.h"
#undef EX_SECTION
#undef EX_PARAM
};

const struct ex_param_section ex_param_sections[EX_SECTION_N] = {
#define EX_SECTION(section_, text_) [EX_SECTION_##section_] = {.name = #section_, .text = text_},
#define EX_PARAM(section_, key_, type_, unit_, default_, min_, max_, reload_, text_)
#include "base/tbl/params.h"
#undef EX_SECTION
#undef EX_PARAM
};

static void *field(struct ex_params *p, const struct ex_param *row)
{
	return (char *)p + row->offset;
}

static const void *field_const(const struct ex_params *p, const struct ex_param *row)
{
	return (const char *)p + row->offset;
}

static void free_list(struct ex_text_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct ex_text_list){0};
}

static void free_value(const struct ex_param *row, void *value)
{
	switch (row->type) {
	case EX_PARAM_STR:
	case EX_PARAM_NAME:
	case EX_PARAM_PATH:
	case EX_PARAM_FILE:
	case EX_PARAM_ADDR:
		ex_freep(value);
		break;
	case EX_PARAM_ADDRS:
	case EX_PARAM_URLS:
	case EX_PARAM_GLOBS:
	case EX_PARAM_PAIRS:
	case EX_PARAM_WORDS:
	case EX_PARAM_DIGESTS:
		free_list(value);
		break;
	default:
		break;
	}
}

/* --- what is allowed ------------------------------------------------------------------------------------- */

static void add_bytes(struct ex_str *out, uint64_t v)
{
	static const char suffix[] = "\0KMGT";
	int i = 0;
	while (i < 4 && v && v % 1024 == 0) {
		v /= 1024;
		i++;
	}
	ex_str_addf(out, "%llu", (unsigned long long)v);
	if (i)
		ex_str_addn(out, &suffix[i], 1);
}

static void add_choices(struct ex_str *out, const char *choices)
{
	ex_str_add(out, "one of ");
	for (const char *c = choices; *c; c++)
		ex_str_add(out, *c == '|' ? ", " : (char[]){*c, '\0'});
}

void ex_param_allowed(const struct ex_param *row, struct ex_str *out)
{
	const char *or_auto = row->type == EX_PARAM_AUTO || row->type == EX_PARAM_BYTES_AUTO ? ", or auto" : "";
	switch (row->type) {
	case EX_PARAM_STR:
		ex_str_add(out, "a text");
		if (row->max)
			ex_str_addf(
				out, " of %s%llu bytes", row->min ? "1 to " : "at most ", (unsigned long long)row->max);
		break;
	case EX_PARAM_NAME:
		ex_str_add(out, "a name of at most 63 letters, digits, '.', '-' and '_', a letter or digit first");
		break;
	case EX_PARAM_PATH:
		ex_str_addf(out, "a path of at most %llu bytes; a relative one starts from the directory of this file",
			(unsigned long long)(row->max ? row->max : PATH_MAX - 1));
		break;
	case EX_PARAM_FILE:
		ex_str_add(out, "a path; a relative one starts from the directory of this file; or " EX_PARAM_CREDENTIAL
				"NAME, a credential of the service (systemd's LoadCredential=)");
		break;
	case EX_PARAM_ADDR:
		ex_str_add(out, "HOST:PORT or [IPv6]:PORT");
		break;
	case EX_PARAM_ADDRS:
		ex_str_addf(out, "at most %llu HOST:PORT or [IPv6]:PORT, separated by blanks",
			(unsigned long long)(row->max ? row->max : LIST_MAX));
		break;
	case EX_PARAM_URLS:
		ex_str_addf(out, "at most %llu [https://]HOST:PORT, separated by blanks",
			(unsigned long long)(row->max ? row->max : LIST_MAX));
		break;
	case EX_PARAM_GLOBS:
		ex_str_add(out, "globs over LAYER/RANGE separated by blanks, as in */E0-7 L3/E8-15, or auto");
		break;
	case EX_PARAM_PAIRS:
		ex_str_addf(out, "at most %llu KEY=VALUE, separated by blanks",
			(unsigned long long)(row->max ? row->max : LIST_MAX));
		break;
	case EX_PARAM_WORDS:
		ex_str_addf(out, "at most %llu globs, separated by blanks",
			(unsigned long long)(row->max ? row->max : LIST_MAX));
		break;
	case EX_PARAM_DIGESTS:
		ex_str_addf(out, "at most %llu sha256 digests or absolute paths, separated by blanks",
			(unsigned long long)(row->max ? row->max : LIST_MAX));
		break;
	case EX_PARAM_U32:
	case EX_PARAM_AUTO:
		ex_str_addf(out, "a whole number from %llu to %llu%s", (unsigned long long)row->min,
			(unsigned long long)row->max, or_auto);
		break;
	case EX_PARAM_BYTES:
	case EX_PARAM_BYTES_AUTO:
		ex_str_add(out, "a number of bytes, perhaps with K, M, G or T behind it, from ");
		add_bytes(out, row->min);
		ex_str_add(out, " to ");
		add_bytes(out, row->max);
		ex_str_add(out, or_auto);
		break;
	case EX_PARAM_BOOL:
		ex_str_add(out, "yes or no");
		break;
	case EX_PARAM_ENUM:
		add_choices(out, row->unit);
		break;
	}
}

/* --- text to value --------------------------------------------------------------------------------------- */

/* -EINVAL with what is allowed; why, if any, goes in front. */
static int refuse(const struct ex_param *row, const char *why, struct ex_err *err)
{
	struct ex_str allowed = EX_STR_INIT;
	ex_param_allowed(row, &allowed);
	ex_err_set(err, -EINVAL, "%s%sallowed is %s", why ? why : "", why ? "; " : "", allowed.s ? allowed.s : "");
	ex_str_done(&allowed);
	return -EINVAL;
}

/* Digits, then a suffix if `bytes`. Whole text. */
static int parse_number(const char *text, bool bytes, uint64_t *ret)
{
	static const char suffix[] = "KMGT";
	uint64_t v = 0;
	const char *s = text;
	for (; isdigit((unsigned char)*s); s++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	if (s == text)
		return -EINVAL;
	const char *unit = *s && bytes ? strchr(suffix, toupper((unsigned char)*s)) : NULL;
	if (unit) {
		for (const char *u = suffix; u <= unit; u++)
			if (__builtin_mul_overflow(v, 1024, &v))
				return -ERANGE;
		s++;
	}
	if (*s)
		return -EINVAL;
	*ret = v;
	return 0;
}

static int set_number(const struct ex_param *row, const char *text, void *value, struct ex_err *err)
{
	uint64_t v = 0;
	bool bytes = row->type == EX_PARAM_BYTES || row->type == EX_PARAM_BYTES_AUTO;
	bool is_auto =
		(row->type == EX_PARAM_AUTO || row->type == EX_PARAM_BYTES_AUTO) && strcasecmp(text, "auto") == 0;
	if (!is_auto && (parse_number(text, bytes, &v) < 0 || v < row->min || v > row->max))
		return refuse(row, NULL, err);
	if (bytes)
		*(uint64_t *)value = v;
	else
		*(uint32_t *)value = (uint32_t)v;
	return 0;
}

static int set_bool(const struct ex_param *row, const char *text, void *value, struct ex_err *err)
{
	static const char *const word[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
	for (size_t i = 0; i < EX_ARRAY_LEN(word); i++)
		if (strcasecmp(text, word[i]) == 0) {
			*(bool *)value = i % 2;
			return 0;
		}
	return refuse(row, NULL, err);
}

static int set_enum(const struct ex_param *row, const char *text, void *value, struct ex_err *err)
{
	size_t len = strlen(text);
	uint32_t i = 0;
	for (const char *c = row->unit; c; i++) {
		size_t n = strcspn(c, "|");
		if (n == len && strncasecmp(c, text, n) == 0) {
			*(uint32_t *)value = i;
			return 0;
		}
		c = c[n] ? c + n + 1 : NULL;
	}
	return refuse(row, NULL, err);
}

static bool name_ok(const char *s)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	return isalnum((unsigned char)s[0]) && strlen(s) <= 63 && s[strspn(s, ok)] == '\0';
}

/* PATH of a file is taken from the file's directory when it is relative. NULL when memory is out. */
static char *absolute_path(const char *text, const char *file)
{
	char *path, cwd[PATH_MAX];
	const char *slash = file ? strrchr(file, '/') : NULL;
	int n = slash ? (int)(slash - file) : 0;
	if (!*text || *text == '/' || !file)
		return strdup(text);
	if (slash && file[0] == '/')
		return asprintf(&path, "%.*s/%s", n, file, text) < 0 ? NULL : path;
	if (!realpath(".", cwd))
		return NULL;
	return asprintf(&path, "%s/%.*s%s%s", cwd, n, file, n ? "/" : "", text) < 0 ? NULL : path;
}

static bool is_credential(const char *text)
{
	return strncmp(text, EX_PARAM_CREDENTIAL, strlen(EX_PARAM_CREDENTIAL)) == 0;
}

/* A file in the service's directory of credentials, and in no other. */
static bool credential_ok(const char *text)
{
	const char *name = text + strlen(EX_PARAM_CREDENTIAL);
	size_t n = strlen(name);
	return n > 0 && n <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int set_text(const struct ex_param *row, const char *text, const char *file, void *value, struct ex_err *err)
{
	struct ex_err why = EX_ERR_INIT;
	struct ex_addr addr;
	bool path = row->type == EX_PARAM_PATH || (row->type == EX_PARAM_FILE && !is_credential(text));
	size_t max = row->max ? row->max : path ? PATH_MAX - 1 : EX_PARAM_TEXT_MAX;
	if (row->type == EX_PARAM_NAME && *text && !name_ok(text))
		return refuse(row, NULL, err);
	if (row->type == EX_PARAM_ADDR && *text && ex_addr_parse(text, &why, &addr) < 0)
		return refuse(row, why.text, err);
	if (row->type == EX_PARAM_FILE && is_credential(text) && !credential_ok(text))
		return refuse(row, "that is no name of a credential", err);
	EX_CLEANUP(ex_freep) char *copy = path ? absolute_path(text, file) : strdup(text);
	if (!copy)
		return ex_err_errno(err, -ENOMEM, "cannot keep the value");
	if (strlen(copy) > max) {
		ex_err_set(&why, -EINVAL, "that is %zu bytes", strlen(copy));
		return refuse(row, why.text, err);
	}
	if (strlen(copy) < row->min)
		return refuse(row, NULL, err);
	free(*(char **)value);
	*(char **)value = EX_TAKE(copy);
	return 0;
}

static int check_item(const struct ex_param *row, const char *item, struct ex_err *err)
{
	struct ex_err why = EX_ERR_INIT;
	struct ex_addr addr;
	if (row->type == EX_PARAM_URLS)
		ex_addr_scheme(item, &item);
	if ((row->type == EX_PARAM_ADDRS || row->type == EX_PARAM_URLS) && ex_addr_parse(item, &why, &addr) < 0)
		return refuse(row, why.text, err);
	if (row->type == EX_PARAM_GLOBS && ex_shard_glob_check(item) < 0) {
		ex_err_set(&why, -EINVAL, "'%s' is not such a glob", item);
		return refuse(row, why.text, err);
	}
	if (row->type == EX_PARAM_PAIRS && (*item == '=' || !strchr(item, '='))) {
		ex_err_set(&why, -EINVAL, "'%s' is not KEY=VALUE", item);
		return refuse(row, why.text, err);
	}
	if (row->type == EX_PARAM_DIGESTS && *item != '/' &&
		(strlen(item) != DIGEST_HEX || item[strspn(item, "0123456789abcdefABCDEF")])) {
		ex_err_set(&why, -EINVAL, "'%s' is neither", item);
		return refuse(row, why.text, err);
	}
	return 0;
}

static int set_list(const struct ex_param *row, const char *text, void *value, struct ex_err *err)
{
	static const char blank[] = " \t,";
	struct ex_text_list list = {0};
	size_t cap = 0, max = row->max ? row->max : LIST_MAX;
	int rc = 0;
	for (const char *s = text + strspn(text, blank); *s && rc == 0; s += strspn(s, blank)) {
		size_t n = strcspn(s, blank);
		char *item = NULL;
		if (list.n == max)
			rc = refuse(row, "there are more", err);
		else if (ex_grow(&list.v, &cap, list.n + 1, sizeof *list.v) < 0 || !(item = strndup(s, n)))
			rc = ex_err_errno(err, -ENOMEM, "cannot keep the value");
		else {
			list.v[list.n++] = item;
			rc = check_item(row, item, err);
		}
		s += n;
	}
	if (rc == 0 && list.n < row->min)
		rc = refuse(row, "nothing is listed", err);
	if (rc < 0) {
		free_list(&list);
		return rc;
	}
	free_list(value);
	*(struct ex_text_list *)value = list;
	return 0;
}

static int set_value(const struct ex_param *row, const char *text, const char *file, void *value, struct ex_err *err)
{
	switch (row->type) {
	case EX_PARAM_ADDRS:
	case EX_PARAM_URLS:
	case EX_PARAM_GLOBS:
	case EX_PARAM_PAIRS:
	case EX_PARAM_WORDS:
	case EX_PARAM_DIGESTS:
		return set_list(row, text, value, err);
	case EX_PARAM_U32:
	case EX_PARAM_AUTO:
	case EX_PARAM_BYTES:
	case EX_PARAM_BYTES_AUTO:
		return set_number(row, text, value, err);
	case EX_PARAM_BOOL:
		return set_bool(row, text, value, err);
	case EX_PARAM_ENUM:
		return set_enum(row, text, value, err);
	default:
		return set_text(row, text, file, value, err);
	}
}

int ex_params_set(struct ex_params *p, const struct ex_param *row, const char *text, const char *file, unsigned line,
	struct ex_err *err)
{
	struct ex_param_origin *origin = &p->origin[row - ex_param_table];
	EX_CLEANUP(ex_freep) char *name = file ? strdup(file) : NULL;
	if (file && !name)
		return ex_err_errno(err, -ENOMEM, "cannot keep the origin");
	int rc = set_value(row, text, file, field(p, row), err);
	if (rc < 0)
		return rc;
	free(origin->file);
	origin->file = EX_TAKE(name);
	origin->line = line;
	return 0;
}

int ex_params_init(struct ex_params *p, struct ex_err *err)
{
	memset(p, 0, sizeof *p);
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		int rc = ex_params_set(p, &ex_param_table[i], ex_param_table[i].default_text, NULL, 0, err);
		if (rc < 0) {
			ex_params_done(p);
			return ex_err_prefix(
				err, "default of [%s] %s", ex_param_table[i].section, ex_param_table[i].key);
		}
	}
	return 0;
}

void ex_params_done(struct ex_params *p)
{
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		free_value(&ex_param_table[i], field(p, &ex_param_table[i]));
		free(p->origin[i].file);
	}
	memset(p, 0, sizeof *p);
}

const struct ex_param *ex_param_find(const char *section, const char *key)
{
	for (size_t i = 0; i < EX_PARAM_N; i++)
		if (strcmp(ex_param_table[i].section, section) == 0 && strcmp(ex_param_table[i].key, key) == 0)
			return &ex_param_table[i];
	return NULL;
}

/* --- value to text --------------------------------------------------------------------------------------- */

static void print_choice(const char *choices, uint32_t i, struct ex_str *out)
{
	const char *c = choices;
	while (i--)
		c = strchr(c, '|') + 1;
	ex_str_addn(out, c, strcspn(c, "|"));
}

void ex_params_print(const struct ex_params *p, const struct ex_param *row, struct ex_str *out)
{
	const void *value = field_const(p, row);
	const struct ex_text_list *list;
	switch (row->type) {
	case EX_PARAM_ADDRS:
	case EX_PARAM_URLS:
	case EX_PARAM_GLOBS:
	case EX_PARAM_PAIRS:
	case EX_PARAM_WORDS:
	case EX_PARAM_DIGESTS:
		list = value;
		for (size_t i = 0; i < list->n; i++)
			ex_str_addf(out, "%s%s", i ? " " : "", list->v[i]);
		break;
	case EX_PARAM_AUTO:
	case EX_PARAM_U32:
		if (row->type == EX_PARAM_AUTO && *(const uint32_t *)value == 0)
			ex_str_add(out, "auto");
		else
			ex_str_addf(out, "%u", *(const uint32_t *)value);
		break;
	case EX_PARAM_BYTES_AUTO:
	case EX_PARAM_BYTES:
		if (row->type == EX_PARAM_BYTES_AUTO && *(const uint64_t *)value == 0)
			ex_str_add(out, "auto");
		else
			add_bytes(out, *(const uint64_t *)value);
		break;
	case EX_PARAM_BOOL:
		ex_str_add(out, *(const bool *)value ? "yes" : "no");
		break;
	case EX_PARAM_ENUM:
		print_choice(row->unit, *(const uint32_t *)value, out);
		break;
	default:
		ex_str_add(out, *(char *const *)value);
		break;
	}
}

char *ex_params_origin(const struct ex_params *p, const struct ex_param *row, char buf[static EX_ORIGIN_TEXT_MAX])
{
	const struct ex_param_origin *o = &p->origin[row - ex_param_table];
	if (!o->file) {
		snprintf(buf, EX_ORIGIN_TEXT_MAX, "default");
		return buf;
	}
	int n = snprintf(buf, EX_ORIGIN_TEXT_MAX, "%s:%u", o->file, o->line);
	if (n >= EX_ORIGIN_TEXT_MAX) /* a long path loses its beginning, not the file's name and the line */
		snprintf(buf, EX_ORIGIN_TEXT_MAX, "...%s:%u", o->file + (n - EX_ORIGIN_TEXT_MAX) + 4, o->line);
	return buf;
}

/* Sections with values that count whether or not a file has them are always there. */
static bool has_section(const struct ex_params *p, enum ex_section_id id)
{
	return p->there[id] || id == EX_SECTION_node || id == EX_SECTION_model;
}

void ex_params_dump(const struct ex_params *p, struct ex_str *out)
{
	struct ex_str value = EX_STR_INIT;
	char origin[EX_ORIGIN_TEXT_MAX];
	int section = -1;
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		const struct ex_param *row = &ex_param_table[i];
		if (!has_section(p, row->section_id))
			continue;
		if ((int)row->section_id != section)
			ex_str_addf(out, "%s[%s]\n", section >= 0 ? "\n" : "", row->section);
		section = (int)row->section_id;
		ex_str_reset(&value);
		ex_params_print(p, row, &value);
		ex_str_addf(out, "%-16s = %-32s ; %s\n", row->key, value.s ? value.s : "",
			ex_params_origin(p, row, origin));
	}
	out->oom |= value.oom;
	ex_str_done(&value);
}

void ex_params_reload(
	struct ex_params *p, struct ex_params *fresh, void (*fn)(void *ctx, const char *name, bool taken), void *ctx)
{
	struct ex_str old = EX_STR_INIT, new = EX_STR_INIT;
	char name[64];
	for (enum ex_section_id id = 0; id < EX_SECTION_N; id++)
		if (has_section(p, id) != has_section(fresh, id)) {
			snprintf(name, sizeof name, "[%s]", ex_param_sections[id].name);
			fn(ctx, name, false);
		}
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		const struct ex_param *row = &ex_param_table[i];
		uint64_t swap[2];
		static_assert(sizeof swap >= sizeof(struct ex_text_list), "room for any value");
		ex_str_reset(&old);
		ex_str_reset(&new);
		ex_params_print(p, row, &old);
		ex_params_print(fresh, row, &new);
		if (strcmp(old.s ? old.s : "", new.s ? new.s : "") == 0)
			continue;
		/* what a section brings with its presence is not there yet, or still is */
		bool always = row->section_id == EX_SECTION_node || row->section_id == EX_SECTION_model;
		bool taken = row->live && (always || p->there[row->section_id] == fresh->there[row->section_id]);
		if (taken) {
			struct ex_param_origin o = p->origin[i];
			memcpy(swap, field(p, row), row->size);
			memcpy(field(p, row), field(fresh, row), row->size);
			memcpy(field(fresh, row), swap, row->size);
			p->origin[i] = fresh->origin[i];
			fresh->origin[i] = o;
		}
		snprintf(name, sizeof name, "[%s] %s", row->section, row->key);
		fn(ctx, name, taken);
	}
	ex_str_done(&old);
	ex_str_done(&new);
}

/* Levenshtein distance; words of 63 letters at most. */
static size_t edits(const char *a, const char *b)
{
	size_t na = strnlen(a, 63), nb = strnlen(b, 63), row[64];
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t above = row[j], change = diagonal + (a[i - 1] != b[j - 1]);
			row[j] = EX_MIN(change, EX_MIN(above, row[j - 1]) + 1);
			diagonal = above;
		}
	}
	return row[nb];
}

const char *ex_nearest_word(const char *word, const char *const *words, size_t n)
{
	const char *best = NULL;
	size_t fewest = EX_MIN((strlen(word) + 1) / 2, (size_t)4);
	for (size_t i = 0; i < n; i++) {
		size_t e = edits(word, words[i]);
		if (e < fewest) {
			fewest = e;
			best = words[i];
		}
	}
	return best;
}
