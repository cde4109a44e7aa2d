/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl's output: messages as JSON by their descriptors, aligned tables, figures with units. */
#include "ctl/ctl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

/* --- protobuf to JSON ------------------------------------------------------------------------------------ */

static size_t element_size(ProtobufCType t)
{
	switch (t) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

static json_t *bytes_value(const ProtobufCBinaryData *b)
{
	EX_CLEANUP(ex_freep) char *hex = malloc(2 * b->len + 1);
	if (!hex)
		return json_null();
	ex_hex(b->data, b->len, hex);
	return json_string(hex);
}

static json_t *real_value(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

json_t *ctl_json_u64(uint64_t v)
{
	char digits[24];
	if (v <= INT64_MAX)
		return json_integer((json_int_t)v);
	snprintf(digits, sizeof digits, "%llu", (unsigned long long)v);
	return json_string(digits);
}

static json_t *value(const ProtobufCFieldDescriptor *f, const void *p)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_ENUM:
		return json_integer(*(const int32_t *)p);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return json_integer(*(const int64_t *)p);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return ctl_json_u64(*(const uint64_t *)p);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return json_integer(*(const uint32_t *)p);
	case PROTOBUF_C_TYPE_FLOAT:
		return real_value(*(const float *)p);
	case PROTOBUF_C_TYPE_DOUBLE:
		return real_value(*(const double *)p);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)p);
	case PROTOBUF_C_TYPE_STRING: {
		const char *s = *(char *const *)p;
		json_t *j = json_string(s ? s : "");
		return j ? j : json_null(); /* not UTF-8 */
	}
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_value(p);
	case PROTOBUF_C_TYPE_MESSAGE: {
		const ProtobufCMessage *m = *(ProtobufCMessage *const *)p;
		return m ? ctl_json(m) : NULL;
	}
	}
	return json_null();
}

static json_t *list_value(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m)
{
	const char *base = (const char *)m;
	size_t n = *(const size_t *)(base + f->quantifier_offset);
	const char *items = *(char *const *)(base + f->offset);
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, value(f, items + i * element_size(f->type)));
	return list;
}

json_t *ctl_json(const ProtobufCMessage *m)
{
	json_t *o = json_object();
	const ProtobufCMessageDescriptor *d = m->descriptor;
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		const char *p = (const char *)m + f->offset;
		json_t *v;
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
			*(const int *)((const char *)m + f->quantifier_offset) != (int)f->id)
			continue;
		v = f->label == PROTOBUF_C_LABEL_REPEATED ? list_value(f, m) : value(f, p);
		if (v)
			json_object_set_new(o, f->name, v);
	}
	return o;
}

void ctl_print_json(json_t *j, bool compact)
{
	json_dumpf(j, stdout, compact ? JSON_COMPACT : JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

/* --- tables ---------------------------------------------------------------------------------------------- */

/* Columns that s takes on a terminal: its characters, since the cells hold no wide ones but names of users. */
static size_t text_width(const char *s)
{
	mbstate_t st = {0};
	size_t width = 0;
	while (*s) {
		wchar_t wc;
		size_t n = mbrtowc(&wc, s, strlen(s), &st);
		if (n == 0 || n > strlen(s)) {
			n = 1;
			st = (mbstate_t){0};
			width++;
		} else {
			int w = wcwidth(wc);
			width += w > 0 ? (size_t)w : 0;
		}
		s += n;
	}
	return width;
}

void ctl_table_init(struct ctl_table *t, size_t n_cols, const char *const *heads)
{
	assert(n_cols <= CTL_COLS_MAX);
	*t = (struct ctl_table){.n_cols = n_cols};
	for (size_t i = 0; i < n_cols; i++)
		ctl_table_cell(t, "%s", heads[i]);
}

void ctl_table_cell(struct ctl_table *t, const char *fmt, ...)
{
	va_list ap;
	if (t->n_rows == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 64;
		char **bigger = realloc(t->cell, t->cap * sizeof *t->cell);
		assert(bigger != NULL); /* a client's list of names: memory is there, or nothing can be shown */
		t->cell = bigger;
	}
	va_start(ap, fmt);
	if (vasprintf(&t->cell[t->n_rows], fmt, ap) < 0)
		t->cell[t->n_rows] = NULL;
	va_end(ap);
	t->n_rows++; /* cells so far */
}

static bool looks_numeric(const char *s)
{
	return (*s >= '0' && *s <= '9' && !strchr(s, ':')) || (*s == '-' && s[1] == '\0');
}

void ctl_table_print(struct ctl_table *t)
{
	size_t width[CTL_COLS_MAX] = {0};
	bool right[CTL_COLS_MAX] = {false};
	for (size_t i = 0; i < t->n_rows; i++) {
		size_t col = i % t->n_cols, w = text_width(t->cell[i] ? t->cell[i] : "");
		width[col] = EX_MAX(width[col], w);
		if (i >= t->n_cols && i < 2 * t->n_cols)
			right[col] = looks_numeric(t->cell[i] ? t->cell[i] : "");
	}
	for (size_t i = 0; i < t->n_rows; i++) {
		size_t col = i % t->n_cols;
		const char *s = t->cell[i] ? t->cell[i] : "";
		int pad = (int)(width[col] - text_width(s));
		bool last = col + 1 == t->n_cols;
		printf("%*s%s%*s%s", right[col] ? pad : 0, "", s, right[col] || last ? 0 : pad, "", last ? "\n" : "  ");
		free(t->cell[i]);
	}
	free(t->cell);
	*t = (struct ctl_table){0};
}

/* --- figures --------------------------------------------------------------------------------------------- */

char *ctl_seconds_text(double s, char buf[static 32])
{
	if (!isfinite(s))
		snprintf(buf, 32, "-");
	else if (s < 0.001)
		snprintf(buf, 32, "%.0f µs", s * 1e6);
	else if (s < 0.0995)
		snprintf(buf, 32, "%.1f ms", s * 1e3);
	else if (s < 1)
		snprintf(buf, 32, "%.0f ms", s * 1e3);
	else if (s < 100)
		snprintf(buf, 32, "%.1f s", s);
	else if (s < 3600)
		snprintf(buf, 32, "%.0f min %.0f s", floor(s / 60), fmod(s, 60));
	else
		snprintf(buf, 32, "%.0f h %.0f min", floor(s / 3600), floor(fmod(s, 3600) / 60));
	return buf;
}

char *ctl_count_text(uint64_t n, char buf[static 32])
{
	char digits[24];
	int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), k = 0;
	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			buf[k++] = ',';
		buf[k++] = digits[i];
	}
	buf[k] = '\0';
	return buf;
}
