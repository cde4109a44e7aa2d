/* SPDX-License-Identifier: Apache-2.0 */
/* A thread for work that would hold a loop up, and a bounded queue before it. Layer L3. */
#ifndef EX_ENGINE_JOBS_H
#define EX_ENGINE_JOBS_H

#include "base/macro.h"
#include <stdbool.h>

struct ex_jobs;
struct ex_job {
	void (*run)(struct ex_job *j); /* on the thread; owns j from then on */
	struct ex_job *next;
};

int ex_jobs_new(const char *name, uint32_t n_max, struct ex_jobs **ret);
/* Runs what is queued, joins. [main] */
struct ex_jobs *ex_jobs_free(struct ex_jobs *s);
/* Takes j. False, j still the caller's: n_max wait already. [any] */
bool ex_jobs_push(struct ex_jobs *s, struct ex_job *j);

#endif
