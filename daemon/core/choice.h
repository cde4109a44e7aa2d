/* SPDX-License-Identifier: Apache-2.0 */
/* Which model this process serves when that is not the configured one: what a switch left in STATE/model. Layer L5.
 *
 * The file is replaced whole (temporary file, fsync, rename, fsync of STATE): its rename is the moment from which on a restart comes up with the
 * other model. It counts as long as [model] path is what it was at the switch: an operator who changes that means it. */
#ifndef EX_CORE_CHOICE_H
#define EX_CORE_CHOICE_H

#include "base/err.h"
#include "model/weights.h"
#include <limits.h>

struct ex_choice {
	char dir[PATH_MAX]; /* "": the configured one */
	char digest[EX_DIGEST_HEX];
	uint64_t decided_us; /* CLOCK_REALTIME; 0: nothing was decided */
};

/* base: [model] path. 0 also when there is none, or one for another base; -EINVAL: damaged. [loader] */
int ex_choice_read(const char *state, const char *base, struct ex_err *err, struct ex_choice *ret);
/* On the disk when it returns 0; with dir "" the file is gone. One at a time. [loader, switcher] */
int ex_choice_write(const char *state, const char *base, const struct ex_choice *c, struct ex_err *err);

#endif
