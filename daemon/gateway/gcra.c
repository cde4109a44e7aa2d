/* SPDX-License-Identifier: Apache-2.0 */
/* The generic cell rate algorithm. Layer L4. */
#include "gateway/gcra.h"

#include "base/clock.h"

int ex_gcra_rate_init(uint32_t per_min, uint32_t burst, struct ex_err *err, struct ex_gcra_rate *ret)
{
	if (!per_min || per_min > EX_GCRA_UNITS_MAX || !burst || burst > EX_GCRA_UNITS_MAX)
		return ex_err_set(err, -EINVAL, "a rate of %u a minute with a burst of %u: both are from 1 to %u",
			per_min, burst, EX_GCRA_UNITS_MAX);
	uint64_t unit_ns = EX_CEIL_DIV(60 * EX_NS_PER_S, per_min);
	uint64_t burst_ns;
	if (__builtin_mul_overflow(unit_ns, (uint64_t)burst, &burst_ns) || burst_ns > INT64_MAX)
		return ex_err_set(
			err, -EINVAL, "a burst of %u at %u a minute would take centuries to drain", burst, per_min);
	*ret = (struct ex_gcra_rate){.unit_ns = unit_ns, .burst_ns = burst_ns, .per_min = per_min, .burst = burst};
	return 0;
}

/* How much has not drained yet, as time. More than a burst is never taken: if it looks so, the clock went back. */
static uint64_t level_ns(const struct ex_gcra_rate *r, uint64_t tat_ns, uint64_t now_ns, uint64_t more_ns)
{
	uint64_t level = tat_ns > now_ns ? tat_ns - now_ns : 0;
	return EX_MIN(level, r->burst_ns + more_ns);
}

uint64_t ex_gcra_wait_ns(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint32_t n, uint64_t now_ns)
{
	if (n > r->burst)
		return EX_GCRA_NEVER;
	uint64_t full = level_ns(r, g->tat_ns, now_ns, 0) + n * r->unit_ns;
	return full > r->burst_ns ? full - r->burst_ns : 0;
}

uint64_t ex_gcra_take(const struct ex_gcra_rate *r, struct ex_gcra *g, uint32_t n, uint64_t now_ns)
{
	uint64_t wait = ex_gcra_wait_ns(r, g, n, now_ns);
	if (wait == 0)
		g->tat_ns = now_ns + level_ns(r, g->tat_ns, now_ns, 0) + n * r->unit_ns;
	return wait;
}

uint64_t ex_gcra_promise(const struct ex_gcra_rate *r, struct ex_gcra *g, uint32_t n, uint64_t now_ns)
{
	uint64_t wait = ex_gcra_wait_ns(r, g, n, now_ns);
	if (wait == EX_GCRA_NEVER)
		return wait;
	uint64_t taken = level_ns(r, g->tat_ns, now_ns, 0);
	uint64_t promised = level_ns(r, g->promised_ns, now_ns, EX_GCRA_PROMISE_NS_MAX);
	uint64_t full = EX_MIN(EX_MAX(taken, promised) + n * r->unit_ns, r->burst_ns + EX_GCRA_PROMISE_NS_MAX);
	g->promised_ns = now_ns + full;
	return EX_MAX(wait, full > r->burst_ns ? full - r->burst_ns : 0);
}

void ex_gcra_give(const struct ex_gcra_rate *r, struct ex_gcra *g, uint32_t n)
{
	uint64_t back = EX_MIN(n, r->burst) * r->unit_ns;
	g->tat_ns -= EX_MIN(g->tat_ns, back);
}

void ex_gcra_room(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint64_t now_ns, struct ex_gcra_room *ret)
{
	uint64_t level = level_ns(r, g->tat_ns, now_ns, 0);
	ret->units = (uint32_t)((r->burst_ns - level) / r->unit_ns);
	ret->reset_ns = level;
}

uint64_t ex_gcra_export(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint64_t now_ns, uint64_t real_ns)
{
	return real_ns + level_ns(r, g->tat_ns, now_ns, 0);
}

void ex_gcra_import(
	const struct ex_gcra_rate *r, struct ex_gcra *g, uint64_t exported, uint64_t now_ns, uint64_t real_ns)
{
	*g = (struct ex_gcra){.tat_ns = now_ns + level_ns(r, exported, real_ns, 0)};
}
