/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's life: start, signals, watchdog, reload, drain, stop. Layer L5. */
#ifndef EX_CORE_LIFECYCLE_H
#define EX_CORE_LIFECYCLE_H

#include "core/config.h"

/* Runs until a stop is asked for or the start fails; returns the exit status (core/exit.h). params: taken over while it runs, changed by
 * reloads. files: as given to ex_config_load, read again on SIGHUP. [main] */
int ex_life(struct ex_params *params, const char *const *files, size_t n_files);

#endif
