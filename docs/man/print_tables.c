/* SPDX-License-Identifier: Apache-2.0 */
/* Writes what is made from the daemon's tables: the journal catalog, and the lists in the manual. A program of the
 * build.
 *
 * print_tables catalog            the journal catalog to stdout
 * print_tables manual < X.scd     copies X.scd; the lines @PARAMS@, @EVENTS@ and @METRICS@ become the tables */
#include "base/log.h"
#include "base/metrics.h"
#include "base/params.h"
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *message_id, *subject, *explanation;
	int priority;
} event[] = {
#define EX_EVENT(ident, message_id_, priority_, subject_, explanation_)                                                \
	{.name = #ident,                                                                                               \
		.message_id = message_id_,                                                                             \
		.priority = priority_,                                                                                 \
		.subject = subject_,                                                                                   \
		.explanation = explanation_},
#include "base/tbl/events.h"
#undef EX_EVENT
};

static const struct {
	const char *name, *label, *help;
	enum ex_metric_type type;
} metric[] = {
#define EX_METRIC(ident, name_, type_, label_, help_) {.name = name_, .label = label_, .help = help_, .type = type_},
#include "base/tbl/metrics.h"
#undef EX_METRIC
};

static void print_catalog(void)
{
	puts("# The journal catalog of expertd, made from tbl/events.h.");
	for (size_t i = 0; i < EX_ARRAY_LEN(event); i++)
		printf("\n-- %s\nSubject: %s\nDefined-By: expertd\nDocumentation: man:expertd(8)\n\n%s\n",
			event[i].message_id, event[i].subject, event[i].explanation);
}

/* Text as scdoc takes it literally. */
static void print_text(const char *s)
{
	for (; *s; s++) {
		if (strchr("\\*_[]#<>~`", *s))
			putchar('\\');
		putchar(*s);
	}
}

static void print_param(const struct ex_params *defaults, const struct ex_param *row)
{
	struct ex_str allowed = EX_STR_INIT, value = EX_STR_INIT;
	ex_param_allowed(row, &allowed);
	ex_params_print(defaults, row, &value);
	printf("*%s* = ", row->key);
	print_text(allowed.s);
	if (*row->unit && row->type != EX_PARAM_ENUM) {
		printf(" (");
		print_text(row->unit);
		printf(")");
	}
	printf("\n\t");
	print_text(row->text);
	printf(" Default: ");
	print_text(value.n ? value.s : "not set");
	puts(row->live ? ". Taken up by a reload.\n" : ".\n");
	ex_str_done(&allowed);
	ex_str_done(&value);
}

static int print_params(void)
{
	struct ex_params defaults;
	int section = -1;
	if (ex_params_init(&defaults, NULL) < 0)
		return 1;
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		const struct ex_param *row = &ex_param_table[i];
		if ((int)row->section_id != section) {
			printf("# SECTION [%s]\n\n", row->section);
			print_text(ex_param_sections[row->section_id].text);
			puts("\n");
		}
		section = (int)row->section_id;
		print_param(&defaults, row);
	}
	ex_params_done(&defaults);
	return 0;
}

static void print_events(void)
{
	static const char *const priority[] = {"emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"};
	for (size_t i = 0; i < EX_ARRAY_LEN(event); i++) {
		printf("*");
		print_text(event[i].name);
		printf("* (%s) %s\n\t", priority[event[i].priority], event[i].message_id);
		print_text(event[i].explanation);
		puts("\n");
	}
}

static void print_metrics(void)
{
	static const char *const type[] = {
		[EX_COUNTER] = "counter", [EX_GAUGE] = "gauge", [EX_HISTOGRAM] = "histogram"};
	for (size_t i = 0; i < EX_ARRAY_LEN(metric); i++) {
		printf("*");
		print_text(metric[i].name);
		printf("* (%s", type[metric[i].type]);
		if (metric[i].label) {
			printf(", by ");
			print_text(metric[i].label);
		}
		printf(")\n\t");
		print_text(metric[i].help);
		puts("\n");
	}
}

static int fill_manual(void)
{
	char line[4096];
	int rc = 0;
	while (fgets(line, sizeof line, stdin))
		if (strcmp(line, "@PARAMS@\n") == 0)
			rc |= print_params();
		else if (strcmp(line, "@EVENTS@\n") == 0)
			print_events();
		else if (strcmp(line, "@METRICS@\n") == 0)
			print_metrics();
		else
			fputs(line, stdout);
	return rc;
}

int main(int argc, char **argv)
{
	int rc = 0;
	if (argc == 2 && strcmp(argv[1], "catalog") == 0)
		print_catalog();
	else if (argc == 2 && strcmp(argv[1], "manual") == 0)
		rc = fill_manual();
	else {
		fprintf(stderr, "usage: print_tables catalog|manual\n");
		return 2;
	}
	return rc || fflush(stdout) != 0;
}
