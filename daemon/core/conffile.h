/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files: INI with drop-ins, into parameters. Layer L5. */
#ifndef EX_CORE_CONFFILE_H
#define EX_CORE_CONFFILE_H

#include "base/params.h"

#define EX_DROPINS_MAX       256 /* files in one FILE.d */
#define EX_CONFIG_ERRORS_MAX 100 /* told one by one; the rest are counted */

/* What is wrong with a configuration: one line each, told all at once. */
struct ex_config_errors {
	struct ex_str text; /* lines, each ended by \n */
	unsigned n;
};
void ex_config_error(struct ex_config_errors *e, const char *fmt, ...) EX_PRINTF(2, 3);
void ex_config_errors_done(struct ex_config_errors *e);

/* Reads `path`, then path.d/ *.conf in the order of their names, into p: later values win. Everything wrong goes to errors, with
 * file, line, key, value and what is allowed. False when a file could not be read. [main] */
bool ex_conffile_read(const char *path, struct ex_params *p, struct ex_config_errors *errors);

#endif
