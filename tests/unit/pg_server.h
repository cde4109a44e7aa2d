/* SPDX-License-Identifier: Apache-2.0 */
/* A PostgreSQL server of a test's own: in a directory of its own, on a unix socket, as an unprivileged user. */
#ifndef EX_TESTS_PG_SERVER_H
#define EX_TESTS_PG_SERVER_H

#include <stdbool.h>

/* Whether a server is installed. */
bool pg_there(void);
/* Makes a cluster in dir, which is there and empty, and starts it. */
void pg_make(const char *dir);
void pg_start(const char *dir);
/* sig: SIGINT ends it in order, SIGQUIT as by a crash. Returns when it is gone. */
void pg_stop(const char *dir, int sig);
/* dir and all below it. */
void pg_remove(const char *dir);

#endif
