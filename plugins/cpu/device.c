/* SPDX-License-Identifier: Apache-2.0 */
/* Opening the machine's processors: options, scratch, weight memory. */
#include "device.h"

#include "config.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <syslog.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define CACHELINE 64

char cpu_version[32] = PACKAGE_VERSION;
char cpu_name[32] = "cpu";

void name_isa(const char *isa)
{
	snprintf(cpu_version, sizeof cpu_version, "%s %s", PACKAGE_VERSION, isa);
	snprintf(cpu_name, sizeof cpu_name, "cpu %s", isa);
}

static const char *option(const struct expertd_host *host, const char *key)
{
	return host && host->option ? host->option(host->ctx, key) : NULL;
}

static int read_threads(const struct expertd_host *host, unsigned *ret)
{
	const char *text = option(host, "threads");
	char *end;
	long n = text ? strtol(text, &end, 10) : 1;
	if (text && (end == text || *end || n < 1 || n > POOL_THREADS_MAX)) {
		if (host->log)
			host->log(host->ctx, LOG_ERR, "cpu: option threads = '%s' is not a number from 1 to %d", text,
				POOL_THREADS_MAX);
		return -EINVAL;
	}
	*ret = (unsigned)n;
	return 0;
}

int device_init(struct device *d, const struct expertd_host *host, const char *which)
{
	const char *why, *isa = option(host, "isa");
	if (which && *which && strcmp(which, "0") != 0)
		return -ENODEV;
	*d = (struct device){.k = ex_kernels_get(isa, &why)};
	if (!d->k) {
		if (host->log)
			host->log(host->ctx, LOG_ERR, "cpu: option isa = '%s': %s", isa, why);
		return -EINVAL;
	}
	int rc = read_threads(host, &d->n_threads);
	if (rc == 0)
		rc = pool_new(d->n_threads, &d->pool);
	if (rc < 0)
		return rc;
	pthread_mutex_init(&d->lock, NULL);
	name_isa(d->k->isa);
	return 0;
}

void device_done(struct device *d)
{
	d->pool = pool_free(d->pool);
	while (d->spare) {
		struct scratch *s = d->spare;
		d->spare = s->next;
		free(s->mem);
		free(s);
	}
	pthread_mutex_destroy(&d->lock);
}

struct scratch *device_take(struct device *d, size_t n)
{
	pthread_mutex_lock(&d->lock);
	struct scratch *s = d->spare;
	if (s)
		d->spare = s->next;
	pthread_mutex_unlock(&d->lock);
	if (!s)
		s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	if (s->n < n) {
		free(s->mem);
		s->n = 0;
		s->mem = n < SIZE_MAX / 8 ? aligned_alloc(CACHELINE,
						    (n * sizeof(float) + CACHELINE - 1) & ~(size_t)(CACHELINE - 1))
					  : NULL;
		if (!s->mem) {
			free(s);
			return NULL;
		}
		s->n = n;
	}
	return s;
}

void device_give(struct device *d, struct scratch *s)
{
	pthread_mutex_lock(&d->lock);
	s->next = d->spare;
	d->spare = s;
	pthread_mutex_unlock(&d->lock);
}

void *weights_alloc(size_t bytes)
{
	size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : CACHELINE;
	if (bytes > SIZE_MAX - align)
		return NULL;
	size_t size = (bytes + align - 1) & ~(align - 1);
	void *p = aligned_alloc(align, size);
	if (p && align == HUGE_PAGE)
		madvise(p, size, MADV_HUGEPAGE); /* advice: fewer address translations while weights stream */
	return p;
}

int check_matrix(const struct expertd_matrix *m)
{
	if (m->dtype < EXPERTD_F32 || m->dtype > EXPERTD_F8E4M3 || !m->rows || !m->cols)
		return -ENOTSUP;
	if (!m->data || (m->dtype == EXPERTD_F8E4M3) != (m->scale != NULL))
		return -EINVAL;
	return 0;
}
