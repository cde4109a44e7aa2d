/* SPDX-License-Identifier: Apache-2.0 */
/* The parameters of tbl/params.h as a struct: defaults, text to value and back, limits, where each value came from. Layer L0.
 * Not thread-safe: core owns the one instance. */
#ifndef EX_BASE_PARAMS_H
#define EX_BASE_PARAMS_H

#include "base/err.h"
#include "base/str.h"
#include <stdbool.h>

#define EX_PARAM_TEXT_MAX   16384 /* bytes of one value in a file */
#define EX_PARAM_CREDENTIAL "credential:"

struct ex_text_list {
	char **v;
	size_t n;
};

enum ex_param_type {
	EX_PARAM_STR,
	EX_PARAM_NAME,
	EX_PARAM_PATH,
	EX_PARAM_FILE,
	EX_PARAM_ADDR,
	EX_PARAM_ADDRS,
	EX_PARAM_URLS,
	EX_PARAM_GLOBS,
	EX_PARAM_PAIRS,
	EX_PARAM_WORDS,
	EX_PARAM_DIGESTS,
	EX_PARAM_U32,
	EX_PARAM_AUTO,
	EX_PARAM_BYTES,
	EX_PARAM_BYTES_AUTO,
	EX_PARAM_BOOL,
	EX_PARAM_ENUM,
};
typedef char *ex_param_STR; /* never NULL; "" when unset */
typedef char *ex_param_NAME;
typedef char *ex_param_PATH; /* absolute: a relative one is taken from the directory of the file that says it */
typedef char *ex_param_FILE; /* a PATH, or "credential:NAME" */
typedef char *ex_param_ADDR;
/* URLS: addresses, "http://" or "https://" in front or not */
typedef struct ex_text_list ex_param_ADDRS, ex_param_URLS, ex_param_GLOBS, ex_param_PAIRS, ex_param_WORDS,
	ex_param_DIGESTS;
typedef uint32_t ex_param_U32, ex_param_AUTO; /* AUTO: 0 stands for "auto" */
typedef uint64_t ex_param_BYTES, ex_param_BYTES_AUTO;
typedef bool ex_param_BOOL;
typedef uint32_t ex_param_ENUM; /* index of the choice */

enum ex_section_id {
#define EX_SECTION(section, text) EX_SECTION_##section,
#define EX_PARAM(section, key, type, unit, default_, min, max, reload, text)
#include "base/tbl/params.h"
#undef EX_SECTION
#undef EX_PARAM
	EX_SECTION_N
};
enum ex_param_id {
#define EX_SECTION(section, text)
#define EX_PARAM(section, key, type, unit, default_, min, max, reload, text) EX_P_##section##_##key,
#include "base/tbl/params.h"
#undef EX_SECTION
#undef EX_PARAM
	EX_PARAM_N
};

struct ex_params {
	/* the values: node_name, node_listen, .. */
#define EX_SECTION(section, text)
#define EX_PARAM(section, key, type, unit, default_, min, max, reload, text) ex_param_##type section##_##key;
#include "base/tbl/params.h"
#undef EX_SECTION
#undef EX_PARAM
	bool there[EX_SECTION_N]; /* the section is in a file, even if empty */
	struct ex_param_origin {
		char *file; /* NULL: the default, or worked out from other values */
		unsigned line;
	} origin[EX_PARAM_N];
};

struct ex_param {
	const char *section, *key, *unit, *default_text, *text;
	enum ex_param_type type;
	enum ex_section_id section_id;
	uint64_t min, max;   /* 0, 0: the type's own limits */
	bool live;           /* a reload takes it up */
	size_t offset, size; /* in struct ex_params */
};
extern const struct ex_param ex_param_table[EX_PARAM_N];
struct ex_param_section {
	const char *name, *text;
};
extern const struct ex_param_section ex_param_sections[EX_SECTION_N];

/* Fills p with the defaults. -ENOMEM. */
int ex_params_init(struct ex_params *p, struct ex_err *err);
void ex_params_done(struct ex_params *p);

/* Row of [section] key; NULL when there is none. */
const struct ex_param *ex_param_find(const char *section, const char *key);

/* Sets one value from its text. file and line are remembered as its origin; file NULL: as if worked out. -EINVAL: err says what was
 * wrong and what is allowed; the old value stays. */
int ex_params_set(struct ex_params *p, const struct ex_param *row, const char *text, const char *file, unsigned line,
	struct ex_err *err);

/* The value as a file would say it, appended to out. */
void ex_params_print(const struct ex_params *p, const struct ex_param *row, struct ex_str *out);
/* "expertd.conf:12", "default" into buf; returns buf. */
#define EX_ORIGIN_TEXT_MAX 320
char *ex_params_origin(const struct ex_params *p, const struct ex_param *row, char buf[static EX_ORIGIN_TEXT_MAX]);
/* What a value of this row may be, for messages and the manual: "a whole number from 1 to 1024". */
void ex_param_allowed(const struct ex_param *row, struct ex_str *out);
/* The whole configuration as a file, each value with its origin. Sections that are not there are left out. */
void ex_params_dump(const struct ex_params *p, struct ex_str *out);

/* Takes the values that differ from `fresh` and may change while running over into p; those of a section that came or went, node and model
 * excepted, do not. fn is called for every value that differs, named "[node] drain_s", and for every section that came or went,
 * "[expert]"; taken says whether it was taken over. */
void ex_params_reload(
	struct ex_params *p, struct ex_params *fresh, void (*fn)(void *ctx, const char *name, bool taken), void *ctx);

/* Of n words, the one that `word` was perhaps meant to be: fewest edits, at most 3 and less than half its length; NULL when none is near. */
const char *ex_nearest_word(const char *word, const char *const *words, size_t n);

#endif
