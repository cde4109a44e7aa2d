/* SPDX-License-Identifier: Apache-2.0 */
/* What expertd's exit status means; the manual and the units say the same. Layer L5. */
#ifndef EX_CORE_EXIT_H
#define EX_CORE_EXIT_H

enum ex_exit {
	EX_EXIT_OK = 0,
	EX_EXIT_FAILURE = 1, /* could not start, or had to stop: the journal says why */
	EX_EXIT_USAGE = 2,   /* wrong options */
	EX_EXIT_CONFIG = 78, /* wrong configuration; the number is sysexits' EX_CONFIG */
};

#endif
