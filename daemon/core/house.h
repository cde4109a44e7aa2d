/* SPDX-License-Identifier: Apache-2.0 */
/* All rooms of one process, put together from the configuration and taken apart in reverse. Layer L5. */
#ifndef EX_CORE_HOUSE_H
#define EX_CORE_HOUSE_H

#include "base/lock.h"
#include "base/params.h"

struct ex_house;

struct ex_house_opts {
	const struct ex_params *params; /* borrowed */
	struct ex_lock *params_lock;    /* held to read what a reload may change */
	/* For the admin service [cq of the admin loop]: the configuration as text, and a reload. */
	void (*dump_config)(void *ctx, struct ex_str *out);
	int (*reload)(void *ctx, struct ex_err *err, void (*changed)(void *fn_ctx, const char *name, bool taken),
		void *fn_ctx);
	void *ctx;
};

int ex_house_new(const struct ex_house_opts *o, struct ex_err *err, struct ex_house **ret);
/* Stops and frees whatever was built. No drain. [main] */
struct ex_house *ex_house_free(struct ex_house *h);

/* Builds everything; returns when the process can serve, for a router that is when every shard has a host. STATUS= says how far it is.
 * -ECANCELED after ex_house_cancel. [loader] */
int ex_house_build(struct ex_house *h, struct ex_err *err);
void ex_house_cancel(struct ex_house *h); /* [any] */

/* Takes up what a reload has changed in the parameters; the caller holds params_lock. At any time. [main, admin loop] */
void ex_house_reload(struct ex_house *h);

/* After build and while it drains, about twice a second: health answers, gauges, STATUS=. [main] */
void ex_house_tick(struct ex_house *h);

/* Refuses new requests; true when nothing is in flight any more. Waits slice_ms at most: call it again. [main] */
bool ex_house_drain(struct ex_house *h, unsigned slice_ms);

/* Reads the certificates again as p says, and takes up its other [tls] values. What is wrong is journaled, and the old ones stay. [main, admin
 * loop] one at a time. */
void ex_house_reload_tls(struct ex_house *h, const struct ex_params *p);

/* Threads that must make progress, for the watchdog. n_turns grows while the thread lives. Returns how many were written. [main] */
#define EX_HOUSE_THREADS_MAX 16
struct ex_house_thread {
	const char *name;
	uint64_t n_turns;
};
size_t ex_house_threads(const struct ex_house *h, struct ex_house_thread out[static EX_HOUSE_THREADS_MAX]);

#endif
