/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl's main: finds the command, parses its options, answers help and completion. */
#include "config.h"
#include "ctl/ctl.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WORDS_MAX   2    /* of a command */
#define MESSAGE_MAX 2048 /* a longer one is cut */

static const struct ctl_opt global_opts[] = {
	{"socket", "PATH", "the daemon's admin socket (default: $EXPERTD_SOCKET, else " CTL_DEFAULT_SOCKET ")"},
	{"json", NULL, "print JSON; streams print one object a line"},
	{"timeout", "SECONDS", "give up on an unanswered call after that long (default: 10)"},
	{"help", NULL, "this text"},
	{"version", NULL, "print the version"},
	{NULL, NULL, NULL},
};

int ctl_fail(int exit_code, const char *fmt, ...)
{
	char raw[MESSAGE_MAX], text[MESSAGE_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(raw, sizeof raw, fmt, ap);
	va_end(ap);
	ex_printable(raw, text, sizeof text); /* daemons have a part in it */
	fflush(stdout);
	fprintf(stderr, "expertctl: %s\n", text);
	return exit_code;
}

/* --- options --------------------------------------------------------------------------------------------- */

bool ctl_has(const struct ctl *c, const char *name)
{
	return ctl_str(c, name, NULL) != NULL;
}

const char *ctl_str(const struct ctl *c, const char *name, const char *otherwise)
{
	for (size_t i = c->n_given; i-- > 0;)
		if (strcmp(c->given[i].opt->name, name) == 0)
			return c->given[i].value;
	return otherwise;
}

int ctl_u64(const struct ctl *c, const char *name, uint64_t min, uint64_t max, uint64_t otherwise, uint64_t *ret)
{
	const char *s = ctl_str(c, name, NULL);
	char *end;
	if (!s) {
		*ret = otherwise;
		return CTL_OK;
	}
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno || *s < '0' || *s > '9' || *end || v < min || v > max)
		return ctl_fail(CTL_USAGE, "--%s=%s: expected a whole number from %llu to %llu", name, s,
			(unsigned long long)min, (unsigned long long)max);
	*ret = v;
	return CTL_OK;
}

int ctl_float(const struct ctl *c, const char *name, double min, double max, double otherwise, float *ret)
{
	const char *s = ctl_str(c, name, NULL);
	char *end;
	double v = otherwise;
	if (s) {
		v = strtod(s, &end);
		if (end == s || *end || !isfinite(v) || v < min || v > max)
			return ctl_fail(CTL_USAGE, "--%s=%s: expected a number from %g to %g", name, s, min, max);
	}
	*ret = (float)v;
	return CTL_OK;
}

static const struct ctl_opt *find_opt(const struct ctl_opt *list, const char *name, size_t n)
{
	for (; list && list->name; list++)
		if (strlen(list->name) == n && strncmp(list->name, name, n) == 0)
			return list;
	return NULL;
}

/* Takes the option at argv[*i] ("--name", "--name=value", "--name value"); cmd NULL while no command word was seen. */
static int take_option(struct ctl *c, const struct ctl_cmd *cmd, int argc, char **argv, int *i)
{
	const char *name = argv[*i] + 2, *value = strchr(name, '=');
	size_t n = value ? (size_t)(value - name) : strlen(name);
	const struct ctl_opt *o = find_opt(global_opts, name, n);
	if (!o && cmd)
		o = find_opt(cmd->opts, name, n);
	if (!o)
		return ctl_fail(CTL_USAGE, "unknown option '%s'%s%s; see 'expertctl%s%s --help'", argv[*i],
			cmd ? " for " : "", cmd ? cmd->words : "", cmd ? " " : "", cmd ? cmd->words : "");
	if (value)
		value++;
	if (!o->arg && value)
		return ctl_fail(CTL_USAGE, "--%s takes no value", o->name);
	if (o->arg && !value) {
		if (*i + 1 >= argc)
			return ctl_fail(CTL_USAGE, "--%s needs a value: %s", o->name, o->arg);
		value = argv[++*i];
	}
	if (c->n_given == CTL_OPTS_MAX)
		return ctl_fail(CTL_USAGE, "more than %d options", CTL_OPTS_MAX);
	c->given[c->n_given++] = (struct ctl_given){o, value ? value : ""};
	return CTL_OK;
}

/* --- help ------------------------------------------------------------------------------------------------ */

static void print_opts(const struct ctl_opt *o)
{
	for (; o && o->name; o++) {
		char left[64];
		snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg ? "=" : "", o->arg ? o->arg : "");
		printf("  %-24s %s\n", left, o->help);
	}
}

static void print_help(const struct ctl_cmd *only)
{
	if (only) {
		printf("Usage: expertctl [OPTIONS] %s%s%s\n\n%s\n", only->words, *only->args ? " " : "", only->args,
			only->help);
		if (only->opts) {
			printf("\nOptions of this command:\n");
			print_opts(only->opts);
		}
	} else {
		printf("Usage: expertctl [OPTIONS] COMMAND [ARGUMENTS]\n\nTalks to expertd over its admin "
		       "socket.\n\nCommands:\n");
		for (const struct ctl_cmd *k = ctl_commands; k->words; k++) {
			char left[64];
			snprintf(left, sizeof left, "%s %s", k->words, k->args);
			printf("  %-24s %s\n", left, k->help);
		}
	}
	printf("\nOptions:\n");
	print_opts(global_opts);
	printf("\nExit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon answers, 130 interrupted.\n");
}

/* Candidates for the word after argv[0..argc), one a line: what bash completion asks for. */
static int complete(int argc, char **argv)
{
	const struct ctl_cmd *match = NULL;
	size_t n_words = 0;
	char typed[128] = "";
	for (int i = 0; i < argc && n_words < WORDS_MAX; i++)
		if (argv[i][0] != '-') {
			size_t n = strlen(typed);
			snprintf(typed + n, sizeof typed - n, "%s%s", n ? " " : "", argv[i]);
			n_words++;
		}
	size_t n = strlen(typed);
	for (const struct ctl_cmd *k = ctl_commands; k->words; k++) {
		if (strcmp(k->words, typed) == 0)
			match = k;
		else if (n == 0 || (strncmp(k->words, typed, n) == 0 && k->words[n] == ' '))
			printf("%.*s\n", (int)strcspn(k->words + (n ? n + 1 : 0), " "), k->words + (n ? n + 1 : 0));
		else if (strncmp(typed, k->words, strlen(k->words)) == 0 && typed[strlen(k->words)] == ' ')
			match = k;
	}
	for (const struct ctl_opt *o = match ? match->opts : NULL; o && o->name; o++)
		printf("--%s%s\n", o->name, o->arg ? "=" : "");
	for (const struct ctl_opt *o = global_opts; o->name; o++)
		printf("--%s%s\n", o->name, o->arg ? "=" : "");
	return CTL_OK;
}

/* --- the command line ------------------------------------------------------------------------------------ */

/* The command that the first words name; *ret_used words. NULL: none, and words that begin one are said. */
static const struct ctl_cmd *find_command(int n, char **words, int *ret_used)
{
	for (const struct ctl_cmd *k = ctl_commands; k->words; k++) {
		const char *space = strchr(k->words, ' ');
		if (!space && n >= 1 && strcmp(k->words, words[0]) == 0) {
			*ret_used = 1;
			return k;
		}
		if (space && n >= 2 && strlen(words[0]) == (size_t)(space - k->words) &&
			strncmp(k->words, words[0], (size_t)(space - k->words)) == 0 &&
			strcmp(space + 1, words[1]) == 0) {
			*ret_used = 2;
			return k;
		}
	}
	return NULL;
}

static int unknown_command(int n, char **words)
{
	struct ex_str hint = EX_STR_INIT;
	for (const struct ctl_cmd *k = ctl_commands; k->words; k++)
		if (strncmp(k->words, words[0], strlen(words[0])) == 0)
			ex_str_addf(&hint, "%s'%s'", hint.n ? ", " : "", k->words);
	int rc = ctl_fail(CTL_USAGE, "unknown command '%s%s%s'; %s%s", words[0], n > 1 ? " " : "",
		n > 1 ? words[1] : "", hint.n ? "did you mean " : "see 'expertctl --help'", hint.n ? hint.s : "");
	ex_str_done(&hint);
	return rc;
}

/* Splits argv into options (c->given) and words; options of the command may stand anywhere after it. */
static int parse(struct ctl *c, int argc, char **argv, char **ret_words, int *ret_n_words, int *ret_used)
{
	int n = 0, used = 0;
	bool options_end = false;
	for (int i = 1; i < argc; i++) {
		if (!options_end && strcmp(argv[i], "--") == 0)
			options_end = true;
		else if (!options_end && strncmp(argv[i], "--", 2) == 0) {
			int rc = take_option(c, c->cmd, argc, argv, &i);
			if (rc)
				return rc;
		} else {
			ret_words[n++] = argv[i];
			if (!c->cmd)
				c->cmd = find_command(n, ret_words, &used);
		}
	}
	*ret_n_words = n;
	*ret_used = used;
	return CTL_OK;
}

/* What was printed must have arrived: a full disk is a failure. */
static int finish_output(int rc)
{
	if ((fflush(stdout) != 0 || ferror(stdout)) && rc == CTL_OK)
		rc = ctl_fail(CTL_FAILED, "cannot write the output: %s", strerror(errno));
	return rc;
}

static int run(struct ctl *c, int n_words, char **words, int used)
{
	const struct ctl_cmd *k = c->cmd;
	int n_args = n_words - used;
	uint64_t timeout_s;
	if (n_args < k->args_min || (k->args_max >= 0 && n_args > k->args_max))
		return ctl_fail(CTL_USAGE, "usage: expertctl %s %s", k->words, k->args);
	int rc = ctl_u64(c, "timeout", 1, 3600, 10, &timeout_s);
	if (rc)
		return rc;
	const char *env = getenv("EXPERTD_SOCKET");
	c->timeout_ms = (unsigned)timeout_s * 1000;
	c->socket = ctl_str(c, "socket", env && *env ? env : CTL_DEFAULT_SOCKET);
	if (!*c->socket)
		return ctl_fail(CTL_USAGE, "--socket= is empty: expected the path of the daemon's admin socket");
	c->json = ctl_has(c, "json");
	c->tty = isatty(STDOUT_FILENO);
	rc = k->run(c, n_args, words + used);
	ctl_disconnect(c);
	return finish_output(rc);
}

int main(int argc, char **argv)
{
	struct ctl c = {0};
	EX_CLEANUP(ex_freep) char **words = calloc((size_t)argc + 1, sizeof *words);
	int n_words, used;
	setlocale(LC_CTYPE, "C.UTF-8");
	if (!words)
		return ctl_fail(CTL_FAILED, "out of memory");
	if (argc >= 2 && strcmp(argv[1], "__complete") == 0)
		return finish_output(complete(argc - 2, argv + 2));
	int rc = parse(&c, argc, argv, words, &n_words, &used);
	if (rc)
		return rc;
	if (ctl_has(&c, "version")) {
		printf("expertctl %s\n", PACKAGE_VERSION);
		return finish_output(CTL_OK);
	}
	if (ctl_has(&c, "help")) {
		print_help(c.cmd);
		return finish_output(CTL_OK);
	}
	if (n_words == 0) {
		print_help(NULL);
		return CTL_USAGE;
	}
	if (!c.cmd)
		return unknown_command(n_words, words);
	return run(&c, n_words, words, used);
}
