/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files. The INI lines are libinih's; what it does not tell (line numbers, empty sections, lines that are
 * cut) is found by standing between it and the file. Layer L5. */
#include "core/conffile.h"

#include <dirent.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_BYTES_MAX ((size_t)4 << 20)

struct source {
	FILE *f;
	size_t n_bytes; /* read so far */
	const char *path;
	unsigned line;
	bool skip;                   /* in a section that is not known: one message is enough */
	unsigned set_at[EX_PARAM_N]; /* line of this file that gave the value; 0: none */
	struct ex_params *p;
	struct ex_config_errors *errors;
};

void ex_config_error(struct ex_config_errors *e, const char *fmt, ...)
{
	if (e->n++ >= EX_CONFIG_ERRORS_MAX)
		return;
	struct ex_err line = EX_ERR_INIT;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line.text, sizeof line.text, fmt, ap);
	va_end(ap);
	ex_str_addf(&e->text, "%s\n", line.text);
}

void ex_config_errors_done(struct ex_config_errors *e)
{
	ex_str_done(&e->text);
	e->n = 0;
}

/* ": did you mean 'x'?" into buf, or nothing. */
static char *suggestion(const char *word, const char *const *words, size_t n, char buf[static 96])
{
	const char *near = ex_nearest_word(word, words, n);
	buf[0] = '\0';
	if (near)
		snprintf(buf, 96, "; did you mean '%s'?", near);
	return buf;
}

static void enter_section(struct source *s, const char *name)
{
	const char *known[EX_SECTION_N];
	char hint[96];
	s->skip = false;
	for (size_t i = 0; i < EX_SECTION_N; i++) {
		known[i] = ex_param_sections[i].name;
		if (strcmp(known[i], name) == 0) {
			s->p->there[i] = true;
			return;
		}
	}
	s->skip = true;
	ex_config_error(s->errors, "%s:%u: unknown section [%s]%s", s->path, s->line, name,
		suggestion(name, known, EX_SECTION_N, hint));
}

/* libinih's fgets: hands over lines without indentation (which it would take for continuations). */
static char *next_line(char *buf, int size, void *stream)
{
	struct source *s = stream;
	if (s->n_bytes > FILE_BYTES_MAX || !fgets(buf, size, s->f))
		return NULL;
	s->line++;
	size_t n = strlen(buf), blank = 0;
	s->n_bytes += n;
	if (n < (size_t)size - 1 && (!n || buf[n - 1] != '\n') && !feof(s->f)) {
		ex_config_error(s->errors, "%s:%u: the line has a NUL byte", s->path, s->line);
		s->n_bytes = SIZE_MAX; /* this is no text */
		return NULL;
	}
	if (n == (size_t)size - 1 && buf[n - 1] != '\n') {
		int c;
		while (s->n_bytes++ <= FILE_BYTES_MAX && (c = fgetc(s->f)) != EOF && c != '\n')
			;
		ex_config_error(s->errors, "%s:%u: the line is longer than %d bytes", s->path, s->line, size - 2);
		buf[0] = '\0';
		return buf;
	}
	if (s->line == 1 && strncmp(buf, "\xef\xbb\xbf", 3) == 0)
		blank = 3;
	blank += strspn(buf + blank, " \t");
	memmove(buf, buf + blank, n - blank + 1);
	if (buf[0] == '[') {
		size_t len = strcspn(buf, "]\r\n");
		char name[64];
		if (buf[len] != ']') {
			ex_config_error(s->errors, "%s:%u: the section's ']' is missing", s->path, s->line);
			s->skip = true;
			buf[0] = '\0';
			return buf;
		}
		if (!strchr("\r\n;#", buf[len + 1 + strspn(buf + len + 1, " \t")]))
			ex_config_error(s->errors, "%s:%u: there is more behind the section's ']'", s->path, s->line);
		snprintf(name, sizeof name, "%.*s", (int)(len - 1), buf + 1);
		enter_section(s, name);
	}
	return buf;
}

static void unknown_key(struct source *s, const char *section, const char *key)
{
	const char *known[EX_PARAM_N], *elsewhere = NULL;
	size_t n = 0;
	char hint[96];
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		if (strcmp(ex_param_table[i].section, section) == 0)
			known[n++] = ex_param_table[i].key;
		else if (strcmp(ex_param_table[i].key, key) == 0)
			elsewhere = ex_param_table[i].section;
	}
	suggestion(key, known, n, hint);
	if (!hint[0] && elsewhere)
		snprintf(hint, sizeof hint, "; [%s] has one of that name", elsewhere);
	ex_config_error(s->errors, "%s:%u: [%s] has no key '%s'%s", s->path, s->line, section, key, hint);
}

static int take_value(void *ctx, const char *section, const char *key, const char *value)
{
	struct source *s = ctx;
	struct ex_err err = EX_ERR_INIT;
	if (s->skip)
		return 1;
	if (!value) {
		ex_config_error(s->errors, "%s:%u: '%s' is neither KEY = VALUE nor [SECTION]", s->path, s->line, key);
		return 1;
	}
	if (!*section) {
		ex_config_error(s->errors, "%s:%u: '%s' comes before any [SECTION]", s->path, s->line, key);
		return 1;
	}
	const struct ex_param *row = ex_param_find(section, key);
	if (!row) {
		unknown_key(s, section, key);
		return 1;
	}
	unsigned *set_at = &s->set_at[row - ex_param_table];
	if (*set_at)
		ex_config_error(s->errors, "%s:%u: [%s] %s is given on line %u already", s->path, s->line, section, key,
			*set_at);
	else if (ex_params_set(s->p, row, value, s->path, s->line, &err) < 0)
		ex_config_error(s->errors, "%s:%u: [%s] %s = %.200s: %s", s->path, s->line, section, key, value,
			ex_err_text(&err));
	*set_at = s->line;
	return 1;
}

/* A pipe would hold a start or a reload up for ever. /dev/null may stand for an empty file. */
static FILE *open_file(const char *path, struct ex_config_errors *errors)
{
	struct stat st;
	EX_CLEANUP(ex_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0) {
		ex_config_error(errors, "%s: cannot be read: %s", path, strerrordesc_np(errno));
		return NULL;
	}
	if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) {
		ex_config_error(errors, "%s: is not a file", path);
		return NULL;
	}
	FILE *f = fdopen(fd, "r");
	if (f)
		fd = -1;
	else
		ex_config_error(errors, "%s: cannot be read: %s", path, strerrordesc_np(errno));
	return f;
}

static bool read_one(const char *path, struct ex_params *p, struct ex_config_errors *errors)
{
	struct source s = {.path = path, .p = p, .errors = errors};
	s.f = open_file(path, errors);
	if (!s.f)
		return false;
	ini_use_stack = false;
	ini_max_line = ini_initial_alloc = EX_PARAM_TEXT_MAX;
	ini_allow_multiline = false;
	ini_allow_no_value = true;
	int rc = ini_parse_stream(next_line, &s, take_value, &s);
	if (rc == -2)
		ex_config_error(errors, "%s: out of memory", path);
	else if (rc > 0)
		ex_config_error(errors, "%s:%d: the line is not understood", path, rc);
	bool cut = ferror(s.f) != 0 || s.n_bytes > FILE_BYTES_MAX;
	if (s.n_bytes > FILE_BYTES_MAX && s.n_bytes != SIZE_MAX)
		ex_config_error(errors, "%s: is longer than %zu bytes", path, FILE_BYTES_MAX);
	else if (ferror(s.f))
		ex_config_error(errors, "%s: cannot be read to its end", path);
	fclose(s.f);
	return !cut && rc != -2;
}

static int is_dropin(const struct dirent *d)
{
	size_t n = strlen(d->d_name);
	return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".conf") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

bool ex_conffile_read(const char *path, struct ex_params *p, struct ex_config_errors *errors)
{
	struct dirent **entry;
	EX_CLEANUP(ex_freep) char *dir = NULL;
	bool all = read_one(path, p, errors);
	if (asprintf(&dir, "%s.d", path) < 0) {
		dir = NULL;
		ex_config_error(errors, "%s: out of memory", path);
		return false;
	}
	int n = scandir(dir, &entry, is_dropin, by_name);
	if (n < 0) {
		if (errno == ENOENT)
			return all;
		ex_config_error(errors, "%s: cannot be read: %s", dir, strerrordesc_np(errno));
		return false;
	}
	if (n > EX_DROPINS_MAX)
		ex_config_error(errors, "%s: %d files, at most %d are read", dir, n, EX_DROPINS_MAX);
	for (int i = 0; i < n; i++) {
		char *file;
		if (i < EX_DROPINS_MAX && asprintf(&file, "%s/%s", dir, entry[i]->d_name) >= 0) {
			all &= read_one(file, p, errors);
			free(file);
		}
		free(entry[i]);
	}
	free(entry);
	return all;
}
