/* SPDX-License-Identifier: Apache-2.0 */
/* expertd: options, configuration, then the daemon's life. Layer L5. */
#include <config.h> /* of the build; not core/config.h */

#include "base/log.h"
#include "core/config.h"
#include "core/exit.h"
#include "core/lifecycle.h"
#include "expert/trial.h"
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILES_MAX 16 /* --config options */

enum mode { RUN, CHECK_CONFIG, DUMP_CONFIG };

struct options {
	const char *files[FILES_MAX];
	size_t n_files;
	enum mode mode;
};

static void print_help(void)
{
	printf("usage: expertd [OPTIONS]\n"
	       "Serves Mixture-of-Experts language models from a fleet of hosts.\n\n"
	       "  -c, --config FILE   configuration; FILE.d/*.conf are read after it. May be repeated: later values "
	       "win.\n"
	       "                      Default: %s\n"
	       "      --check-config  check the configuration and exit\n"
	       "      --dump-config   print the effective configuration, each value with its origin, and exit\n"
	       "  -V, --version       print the version and exit\n"
	       "  -h, --help          print this help and exit\n\n"
	       "Exit status: %d success, %d failure, %d wrong usage, %d wrong configuration.\n"
	       "See expertd(8) and expertd.conf(5).\n",
		EX_CONFIG_DEFAULT, EX_EXIT_OK, EX_EXIT_FAILURE, EX_EXIT_USAGE, EX_EXIT_CONFIG);
}

/* True when options are complete and the program goes on; else *ret_status is what it ends with. */
static bool parse_options(int argc, char **argv, struct options *o, int *ret_status)
{
	enum { OPT_CHECK = 256, OPT_DUMP };
	static const struct option table[] = {
		{"config", required_argument, NULL, 'c'},
		{"check-config", no_argument, NULL, OPT_CHECK},
		{"dump-config", no_argument, NULL, OPT_DUMP},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c;
	*ret_status = EX_EXIT_USAGE;
	while ((c = getopt_long(argc, argv, "c:Vh", table, NULL)) >= 0)
		switch (c) {
		case 'c':
			if (o->n_files == FILES_MAX) {
				fprintf(stderr, "expertd: more than %d --config options\n", FILES_MAX);
				return false;
			}
			o->files[o->n_files++] = optarg;
			break;
		case OPT_CHECK:
			o->mode = CHECK_CONFIG;
			break;
		case OPT_DUMP:
			o->mode = DUMP_CONFIG;
			break;
		case 'V':
			puts("expertd " PACKAGE_VERSION);
			*ret_status = EX_EXIT_OK;
			return false;
		case 'h':
			print_help();
			*ret_status = EX_EXIT_OK;
			return false;
		default:
			fprintf(stderr, "Try 'expertd --help'.\n");
			return false;
		}
	if (optind < argc) {
		fprintf(stderr, "expertd: '%s' is not an option. Try 'expertd --help'.\n", argv[optind]);
		return false;
	}
	if (o->n_files == 0)
		o->files[o->n_files++] = EX_CONFIG_DEFAULT;
	return true;
}

static int dump_config(const struct ex_params *p)
{
	struct ex_str text = EX_STR_INIT;
	ex_params_dump(p, &text);
	if (!text.oom)
		fputs(text.s, stdout);
	else
		fprintf(stderr, "expertd: out of memory\n");
	bool ok = !text.oom;
	ex_str_done(&text);
	return ok ? EX_EXIT_OK : EX_EXIT_FAILURE;
}

/* What was printed must have arrived: a full disk is a failure. */
static int finish_output(int status)
{
	if ((fflush(stdout) == 0 && !ferror(stdout)) || status != EX_EXIT_OK)
		return status;
	fprintf(stderr, "expertd: cannot write the output: %s\n", strerrordesc_np(errno));
	return EX_EXIT_FAILURE;
}

/* One journal line per error; on a terminal or with --check-config that is stderr. */
static void log_errors(struct ex_config_errors *e)
{
	char *rest = e->text.s;
	for (char *line; rest && (line = strsep(&rest, "\n"));)
		if (*line)
			ex_log(LOG_ERR, "%s", line);
	ex_log(LOG_ERR, "the configuration has %u error%s", e->n, e->n == 1 ? "" : "s");
}

/* Parameters that do not fit the model are wrong configuration too: a start does not make them better. */
static int check_or_run(const struct options *o, struct ex_params *p, struct ex_config_errors *e)
{
	ex_log_level(ex_config_log_level(p));
	if (ex_config_check_model(p, e) < 0) {
		log_errors(e);
		return EX_EXIT_CONFIG;
	}
	if (o->mode == RUN)
		return ex_life(p, o->files, o->n_files);
	puts("the configuration is good");
	return EX_EXIT_OK;
}

/* Descriptors 0 to 2 must not become a socket or an eventfd, into which the log would then be written. */
static bool fill_standard_fds(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int main(int argc, char **argv)
{
	struct options o = {.mode = RUN};
	struct ex_config_errors errors = {0};
	struct ex_params params;
	int status;
	if (argc == 2 && strcmp(argv[1], EX_TRIAL_OPTION) == 0) /* a child of ours */
		return ex_trial_main();
	if (!fill_standard_fds())
		return EX_EXIT_FAILURE;
	if (!parse_options(argc, argv, &o, &status))
		return finish_output(status);
	if (ex_config_load(o.files, o.n_files, &params, &errors) < 0) {
		log_errors(&errors);
		ex_config_errors_done(&errors);
		return EX_EXIT_CONFIG;
	}
	status = o.mode == DUMP_CONFIG ? dump_config(&params) : check_or_run(&o, &params, &errors);
	ex_params_done(&params);
	ex_config_errors_done(&errors);
	return finish_output(status);
}
