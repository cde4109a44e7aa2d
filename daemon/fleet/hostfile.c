/* SPDX-License-Identifier: Apache-2.0 */
/* Files of hosts for simulations. Layer L2. */
#include "fleet/hostfile.h"

#include "base/mem.h"
#include "base/params.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define LINE_MAX_BYTES 4096

enum key { KEY_MEMORY, KEY_SPEED, KEY_ZONE, KEY_COUNT, KEY_ZONES, KEY_N };

static const struct {
	const char *name;
	bool of_host, of_hosts, required;
} keys[KEY_N] = {
	[KEY_MEMORY] = {"memory", true, true, true},
	[KEY_SPEED] = {"speed", true, true, false},
	[KEY_ZONE] = {"zone", true, false, false},
	[KEY_COUNT] = {"count", false, true, true},
	[KEY_ZONES] = {"zones", false, true, false},
};

struct reader {
	const char *file;
	unsigned line;
	struct ex_err *err;
	struct ex_hosts *hosts;
	/* the section that is being read; section_line 0: none yet */
	char name[EX_HOSTFILE_NAME_MAX];
	bool many;
	unsigned section_line, at[KEY_N];
	uint64_t memory, count;
	double speed;
	char zone[EX_HOSTFILE_ZONES_MAX][EX_HOSTFILE_NAME_MAX];
	size_t n_zones;
};

static int refuse(const struct reader *r, unsigned line, const char *fmt, ...) EX_PRINTF(3, 4);
static int refuse(const struct reader *r, unsigned line, const char *fmt, ...)
{
	char text[EX_ERR_TEXT_MAX / 2];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return ex_err_set(r->err, -EINVAL, "%.300s:%u: %s", r->file, line, text);
}

static const char *kind_of(const struct reader *r)
{
	return r->many ? "hosts" : "host";
}

/* --- a section becomes hosts -------------------------------------------------------------------------------------- */

static int add_host(struct reader *r, const char *name, const char *zone)
{
	struct ex_hosts *l = r->hosts;
	if (l->n == EX_PLANNER_HOSTS_MAX)
		return refuse(r, r->section_line, "more than %d hosts", EX_PLANNER_HOSTS_MAX);
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i].name, name) == 0)
			return refuse(
				r, r->section_line, "[%s %s]: there is a host %s already", kind_of(r), r->name, name);
	EX_CLEANUP(ex_freep) char *own_name = strdup(name);
	EX_CLEANUP(ex_freep) char *own_zone = strdup(zone);
	if (!own_name || !own_zone || ex_grow(&l->v, &l->cap, l->n + 1, sizeof *l->v) < 0)
		return ex_err_errno(r->err, -ENOMEM, "cannot read '%s'", r->file);
	l->v[l->n++] = (struct ex_planner_host){
		.name = EX_TAKE(own_name),
		.zone = EX_TAKE(own_zone),
		.memory_bytes = r->memory,
		.speed = r->speed,
		.state = EX_PLANNER_READY,
	};
	return 0;
}

static int end_section(struct reader *r)
{
	char name[EX_HOSTFILE_NAME_MAX + 16];
	int rc = 0;
	if (!r->section_line)
		return 0;
	for (size_t k = 0; k < KEY_N; k++)
		if (keys[k].required && !r->at[k] && (r->many ? keys[k].of_hosts : keys[k].of_host))
			return refuse(r, r->section_line, "[%s %s] has no '%s'", kind_of(r), r->name, keys[k].name);
	if (!r->many)
		return add_host(r, r->name, r->n_zones ? r->zone[0] : "");
	for (uint64_t i = 0; i < r->count && rc == 0; i++) {
		snprintf(name, sizeof name, "%s-%u", r->name, (unsigned)i + 1);
		rc = add_host(r, name, r->n_zones ? r->zone[i % r->n_zones] : "");
	}
	return rc;
}

static bool is_name(const char *s)
{
	size_t n = strlen(s);
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && !strchr("._-", s[i]))
			return false;
	return n > 0 && n < EX_HOSTFILE_NAME_MAX;
}

static char *trim(char *s)
{
	size_t n = strlen(s);
	while (n && isspace((unsigned char)s[n - 1]))
		s[--n] = '\0';
	return s + strspn(s, " \t");
}

/* line: "[host NAME]" or "[hosts NAME]". */
static int begin_section(struct reader *r, char *line)
{
	int rc = end_section(r);
	size_t n = strlen(line);
	if (rc < 0)
		return rc;
	if (line[n - 1] != ']')
		return refuse(r, r->line, "the section's ']' is missing");
	line[n - 1] = '\0';
	char *kind = trim(line + 1), *space = kind + strcspn(kind, " \t");
	char *name = *space ? trim(space + 1) : space;
	*space = '\0';
	if (strcmp(kind, "host") != 0 && strcmp(kind, "hosts") != 0)
		return refuse(r, r->line, "unknown section [%.64s]; there are [host NAME] and [hosts NAME]", kind);
	if (!is_name(name))
		return refuse(r, r->line, "[%s %.64s]: a name has 1 to %d letters, digits, '.', '_' and '-'", kind,
			name, EX_HOSTFILE_NAME_MAX - 1);
	r->many = strcmp(kind, "hosts") == 0;
	r->section_line = r->line;
	r->speed = 1;
	r->n_zones = 0;
	memset(r->at, 0, sizeof r->at);
	snprintf(r->name, sizeof r->name, "%s", name);
	return 0;
}

/* --- keys --------------------------------------------------------------------------------------------------------- */

static int bad_value(const struct reader *r, enum key k, const char *value, const char *allowed)
{
	return refuse(
		r, r->line, "[%s %s] %s = %.64s: allowed is %s", kind_of(r), r->name, keys[k].name, value, allowed);
}

/* Digits and, with unit set, one of K M G T. False for all else and beyond max. */
static bool parse_number(const char *s, bool unit, uint64_t max, uint64_t *ret)
{
	static const char units[] = "KMGT";
	uint64_t v = 0;
	size_t n = strspn(s, "0123456789");
	if (n == 0 || n > 18)
		return false;
	for (size_t i = 0; i < n; i++)
		v = 10 * v + (uint64_t)(s[i] - '0');
	const char *u = s[n] && unit ? strchr(units, toupper((unsigned char)s[n])) : NULL;
	for (const char *k = units; u && k <= u; k++)
		if (__builtin_mul_overflow(v, UINT64_C(1024), &v))
			return false;
	if (s[n + (u != NULL)] || v > max)
		return false;
	*ret = v;
	return true;
}

static int take_zones(struct reader *r, enum key k, char *value)
{
	r->n_zones = 0;
	for (char *rest = value, *one; (one = strsep(&rest, ","));) {
		one = trim(one);
		if (!is_name(one))
			return bad_value(r, k, one, "names of letters, digits, '.', '_' and '-'");
		if (r->n_zones == (r->many ? EX_HOSTFILE_ZONES_MAX : 1))
			return refuse(r, r->line, "[%s %s] %s: more than %d", kind_of(r), r->name, keys[k].name,
				r->many ? EX_HOSTFILE_ZONES_MAX : 1);
		snprintf(r->zone[r->n_zones++], EX_HOSTFILE_NAME_MAX, "%s", one);
	}
	return 0;
}

static int take_value(struct reader *r, enum key k, char *value)
{
	char *end;
	switch (k) {
	case KEY_MEMORY:
		if (!parse_number(value, true, EX_PLANNER_BYTES_MAX, &r->memory) || !r->memory)
			return bad_value(r, k, value, "a number of bytes, such as 80G");
		return 0;
	case KEY_COUNT:
		if (!parse_number(value, false, EX_PLANNER_HOSTS_MAX, &r->count) || !r->count)
			return bad_value(r, k, value, "a whole number from 1 to 1024");
		return 0;
	case KEY_SPEED:
		r->speed = strtod(value, &end);
		if (!isdigit((unsigned char)*value) || *end ||
			!(r->speed >= EX_PLANNER_SPEED_MIN && r->speed <= EX_PLANNER_SPEED_MAX))
			return bad_value(r, k, value, "a number from 0.001 to 1e6");
		return 0;
	default:
		return take_zones(r, k, value);
	}
}

static int take_pair(struct reader *r, char *line)
{
	const char *known[KEY_N];
	size_t n_known = 0, k = 0;
	char *equals = strchr(line, '=');
	if (!equals)
		return refuse(r, r->line, "'%.64s' is neither KEY = VALUE nor [SECTION]", line);
	*equals = '\0';
	char *key = trim(line), *value = trim(equals + 1);
	if (!r->section_line)
		return refuse(r, r->line, "'%.64s' comes before any [host NAME]", key);
	for (size_t i = 0; i < KEY_N; i++)
		if (r->many ? keys[i].of_hosts : keys[i].of_host)
			known[n_known++] = keys[i].name;
	while (k < KEY_N && !(strcmp(keys[k].name, key) == 0 && (r->many ? keys[k].of_hosts : keys[k].of_host)))
		k++;
	if (k == KEY_N) {
		const char *near = ex_nearest_word(key, known, n_known);
		return refuse(r, r->line, "[%s %s] has no key '%.64s'%s%s%s", kind_of(r), r->name, key,
			near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
	}
	if (r->at[k])
		return refuse(r, r->line, "[%s %s] %s is given on line %u already", kind_of(r), r->name, key, r->at[k]);
	r->at[k] = r->line;
	return take_value(r, k, value);
}

/* --- files -------------------------------------------------------------------------------------------------------- */

static int take_line(struct reader *r, const char *s, size_t n)
{
	char buf[LINE_MAX_BYTES];
	if (n >= sizeof buf)
		return refuse(r, r->line, "the line is longer than %d bytes", LINE_MAX_BYTES - 1);
	if (memchr(s, '\0', n))
		return refuse(r, r->line, "the line has a NUL byte");
	memcpy(buf, s, n);
	buf[n] = '\0';
	char *line = trim(buf);
	if (*line == '\0' || *line == '#' || *line == ';')
		return 0;
	return *line == '[' ? begin_section(r, line) : take_pair(r, line);
}

int ex_hostfile_parse(const char *name, const char *text, size_t n, struct ex_err *err, struct ex_hosts *ret)
{
	struct ex_hosts hosts = {0};
	struct reader r = {.file = name, .err = err, .hosts = &hosts};
	int rc = 0;
	for (size_t i = 0; i < n && rc == 0;) {
		const char *end = memchr(text + i, '\n', n - i);
		size_t len = end ? (size_t)(end - text) - i : n - i;
		r.line++;
		rc = take_line(&r, text + i, len);
		i += len + 1;
	}
	if (rc == 0)
		rc = end_section(&r);
	if (rc == 0 && !hosts.n)
		rc = ex_err_set(err, -EINVAL, "'%s' describes no host", name);
	if (rc < 0)
		ex_hosts_done(&hosts);
	else
		*ret = hosts;
	return rc;
}

int ex_hostfile_read(const char *path, struct ex_err *err, struct ex_hosts *ret)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	int rc = ex_read_file(path, EX_HOSTFILE_BYTES_MAX, err, &text, &n);
	return rc < 0 ? rc : ex_hostfile_parse(path, text, n, err, ret);
}

void ex_hosts_done(struct ex_hosts *h)
{
	for (size_t i = 0; i < h->n; i++) {
		free((char *)h->v[i].name);
		free((char *)h->v[i].zone);
	}
	free(h->v);
	*h = (struct ex_hosts){0};
}
