/* SPDX-License-Identifier: Apache-2.0 */
/* A host with two options, for tests that open plugins themselves. */
#ifndef EX_TESTS_PARITY_PLUGIN_HOST_H
#define EX_TESTS_PARITY_PLUGIN_HOST_H

#include "expert/loader.h"
#include "unit.h"
#include <stdio.h>
#include <string.h>

struct host_options {
	const char *threads, *isa;
};

static inline const char *host_option(void *ctx, const char *key)
{
	const struct host_options *o = ctx;
	return strcmp(key, "threads") == 0 ? o->threads : strcmp(key, "isa") == 0 ? o->isa : NULL;
}

static inline __attribute__((format(printf, 3, 4))) void host_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	(void)fmt;
}

static inline struct expertd_host host_of(struct host_options *o)
{
	return (struct expertd_host){.ctx = o, .log = host_log, .option = host_option};
}

/* A plugin of this build tree. */
static inline struct ex_plugin *open_plugin(const char *name)
{
	const struct ex_loader_opts o = {.dir = ".libs"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	EXPECT_OK(err, ex_plugin_open(&o, name, &err, &p));
	return p;
}

#endif
