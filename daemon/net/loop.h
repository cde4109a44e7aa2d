/* SPDX-License-Identifier: Apache-2.0 */
/* A completion queue and its one thread. Layer L1. Callbacks of everything bound to a loop run on its thread ([cq]),
 * one at a time: they must not block. Bulk traffic, control traffic and health each get a loop of their own.
 *
 * Order of life: ex_net_init, loops, servers and channels on them; ex_server_stop and ex_channel_free in any order,
 * then ex_loop_free in any order, then ex_net_done. */
#ifndef EX_NET_LOOP_H
#define EX_NET_LOOP_H

#include "base/err.h"
#include <stdbool.h>

#define EX_LOOP_TIMERS_MAX 256
#define EX_LOOP_IDLE_MS    500 /* an idle loop turns at least this often */

struct ex_loop;

/* ex_net_init once before, ex_net_done after everything of net/ is gone. Threads that gRPC starts inherit the caller's
 * signal mask: block what main wants for itself first. [main] */
void ex_net_init(void);
void ex_net_done(void);

/* name: thread name, at most 15 bytes. The thread has all signals blocked. */
int ex_loop_new(const char *name, struct ex_err *err, struct ex_loop **ret);
/* Runs what was posted, shuts the queue down, drains it, joins the thread. Servers and channels bound to it are gone by
 * then; timers that are left run no more and are freed. [main] */
struct ex_loop *ex_loop_free(struct ex_loop *l);
EX_DEFINE_CLEANUP(struct ex_loop, ex_loop_free)

/* Runs fn(ctx) on the loop's thread, soon, in the order posted. -ENOMEM, or -ESHUTDOWN once the loop is being freed: fn
 * will not run. [any] */
int ex_loop_post(struct ex_loop *l, void (*fn)(void *ctx), void *ctx);
/* Timer: fn(ctx) on the loop's thread every period_ms (at least 1) until cancelled. Cancel returns after the last run
 * ended, except when called from the loop itself; it takes NULL. -ENOSPC: EX_LOOP_TIMERS_MAX are running. [any] */
struct ex_timer;
int ex_timer_start(struct ex_loop *l, unsigned period_ms, void (*fn)(void *ctx), void *ctx, struct ex_timer **ret);
struct ex_timer *ex_timer_cancel(struct ex_timer *t);

/* Counts turns of the loop's thread (an idle loop turns at least twice a second): the watchdog looks at it. [any] */
uint64_t ex_loop_turns(const struct ex_loop *l);

#endif
