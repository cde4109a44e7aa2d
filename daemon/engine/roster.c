/* SPDX-License-Identifier: Apache-2.0 */
/* Which expert hosts there are: places that hosts take and leave while the router runs, and the ticks that look after them.
 * Layer L3. */
#include "engine/fabric.h"
#include "base/mem.h"

#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define TICKS_PER_BEAT                                                                                                 \
	4              /* looks at the hosts in one heartbeat's period, at least: silence is noticed that much sooner */
#define TICK_MS_MAX 50 /* .. and a host that comes up is greeted this soon */

static void tick_control(void *ctx)
{
	struct ex_dispatch *d = ctx;
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		ex_host_tick_control(&d->hosts[p]);
}

static void tick_data(void *ctx)
{
	struct ex_dispatch *d = ctx;
	uint64_t now = ex_now_ns();
	/* a late tick says that this process, not the peers, stood still */
	bool trust_clock = now - d->ticked_ns < d->o.heartbeat_ms * EX_NS_PER_MS;
	bool beat = now - d->beat_ns >= d->o.heartbeat_ms * EX_NS_PER_MS;
	d->ticked_ns = now;
	if (beat)
		d->beat_ns = now;
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		ex_host_tick_data(&d->hosts[p], trust_clock, beat);
}

/* --- joining and leaving [main] -------------------------------------------------------------------------- */

static int join(struct ex_dispatch *d, const char *address, struct ex_err *err)
{
	uint32_t n = ex_dispatch_n_hosts(d), p = 0;
	ex_lock_take(&d->lock);
	while (p < n && d->hosts[p].used)
		p++;
	ex_lock_give(&d->lock);
	if (p == EX_FLEET_HOSTS_MAX)
		return ex_err_set(err, -ENOSPC, "expert host %s: at most %d are allowed", address, EX_FLEET_HOSTS_MAX);
	int rc = ex_host_open(&d->hosts[p], d, address, err);
	if (!rc && p == n) /* release: who sees the place finds it made */
		atomic_store_explicit(&d->n_hosts, n + 1, memory_order_release);
	return rc;
}

static void pass(void *ctx)
{
	sem_post(ctx);
}

/* Returns when no tick runs on the loop that began before. */
static void wait_for_tick(struct ex_loop *l)
{
	sem_t done;
	int rc;
	sem_init(&done, 0, 0);
	while ((rc = ex_loop_post(l, pass, &done)) == -ENOMEM)
		usleep(1000);
	while (!rc && sem_wait(&done) < 0)
		;
	sem_destroy(&done);
}

static void leave(struct ex_dispatch *d, struct fleet_host *h)
{
	ex_lock_take(&d->lock);
	h->leaving = true; /* ticks pass it by from now on */
	ex_lock_give(&d->lock);
	wait_for_tick(d->o.loop_control);
	wait_for_tick(d->o.loop_data);
	ex_host_close(h);
}

static bool is_listed(const char *address, const char *const *addresses, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcasecmp(address, addresses[i]) == 0)
			return true;
	return false;
}

static bool is_member(struct ex_dispatch *d, const char *address)
{
	bool found = false;
	ex_lock_take(&d->lock);
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		found |= d->hosts[p].used && strcasecmp(d->hosts[p].address, address) == 0;
	ex_lock_give(&d->lock);
	return found;
}

/* Not listed any more, but it answers: what lists it has lost sight of it, not we. */
static bool is_living(struct ex_dispatch *d, const struct fleet_host *h)
{
	ex_lock_take(&d->lock);
	bool living = ex_host_usable(h) && h->state != EX_HOST_DRAINING;
	ex_lock_give(&d->lock);
	return living;
}

int ex_dispatch_set_members(
	struct ex_dispatch *d, const char *const *addresses, size_t n, bool keep_living, struct ex_err *err)
{
	int rc = 0;
	EX_CHECK_OBJ(d, EX_DISPATCH_MAGIC);
	for (size_t i = 0; i < n; i++)
		if (!is_member(d, addresses[i])) {
			int one = join(d, addresses[i], rc ? NULL : err);
			rc = rc ? rc : one;
		}
	/* after the new ones have joined, and by this thread only: `used` changes nowhere else */
	for (uint32_t p = 0; p < ex_dispatch_n_hosts(d); p++)
		if (d->hosts[p].used && !is_listed(d->hosts[p].address, addresses, n) &&
			!(keep_living && is_living(d, &d->hosts[p])))
			leave(d, &d->hosts[p]);
	return rc;
}

/* --- life ------------------------------------------------------------------------------------------------ */

int ex_roster_start(struct ex_dispatch *d, struct ex_err *err)
{
	d->ticked_ns = ex_now_ns();
	if (!d->o.loop_data) /* all shards are in this process, and stay there */
		return 0;
	unsigned tick_ms = EX_MIN(EX_MAX(d->o.heartbeat_ms / TICKS_PER_BEAT, 1u), (unsigned)TICK_MS_MAX);
	int rc = ex_timer_start(d->o.loop_control, tick_ms, tick_control, d, &d->timer_control);
	if (!rc)
		rc = ex_timer_start(d->o.loop_data, tick_ms, tick_data, d, &d->timer_data);
	if (rc)
		return ex_err_errno(err, rc, "dispatch: failed to start its timers");
	return ex_dispatch_set_members(d, d->o.peers, d->o.n_peers, false, err);
}

void ex_roster_stop(struct ex_dispatch *d)
{
	if (d->timer_control)
		ex_timer_cancel(d->timer_control);
	if (d->timer_data)
		ex_timer_cancel(d->timer_data);
	for (uint32_t p = 0; d->hosts && p < ex_dispatch_n_hosts(d); p++) {
		if (d->hosts[p].used)
			ex_host_close(&d->hosts[p]);
		free(d->hosts[p].identity);
	}
}
