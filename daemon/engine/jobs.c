/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs. Layer L3. */
#include "engine/jobs.h"
#include "base/lock.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>

struct ex_jobs {
	pthread_t thread;
	struct ex_lock lock;
	pthread_cond_t wake;
	/* guarded by lock */
	struct ex_job *first, *last;
	uint32_t n, n_max;
	bool stopping;
};

/* The next job; NULL when it is over and none is left. */
static struct ex_job *next_job(struct ex_jobs *s)
{
	ex_lock_take(&s->lock);
	while (!s->first && !s->stopping)
		ex_cond_wait(&s->wake, &s->lock);
	struct ex_job *j = s->first;
	if (j) {
		s->first = j->next;
		s->n--;
	}
	ex_lock_give(&s->lock);
	return j;
}

static void *run_jobs(void *arg)
{
	for (struct ex_job *j; (j = next_job(arg));)
		j->run(j);
	return NULL;
}

static void destroy(struct ex_jobs *s)
{
	ex_lock_done(&s->lock);
	pthread_cond_destroy(&s->wake);
	free(s);
}

int ex_jobs_new(const char *name, uint32_t n_max, struct ex_jobs **ret)
{
	struct ex_jobs *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->n_max = n_max;
	ex_lock_init(&s->lock, name);
	ex_cond_init(&s->wake);
	int rc = -pthread_create(&s->thread, NULL, run_jobs, s);
	if (rc) {
		destroy(s);
		return rc;
	}
	pthread_setname_np(s->thread, name);
	*ret = s;
	return 0;
}

struct ex_jobs *ex_jobs_free(struct ex_jobs *s)
{
	if (!s)
		return NULL;
	ex_lock_take(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->wake);
	ex_lock_give(&s->lock);
	pthread_join(s->thread, NULL);
	destroy(s);
	return NULL;
}

bool ex_jobs_push(struct ex_jobs *s, struct ex_job *j)
{
	ex_lock_take(&s->lock);
	bool taken = s->n < s->n_max;
	if (taken) {
		j->next = NULL;
		if (s->first)
			s->last->next = j;
		else
			s->first = j;
		s->last = j;
		s->n++;
		pthread_cond_signal(&s->wake);
	}
	ex_lock_give(&s->lock);
	return taken;
}
