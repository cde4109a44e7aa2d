/* SPDX-License-Identifier: Apache-2.0 */
/* Time: monotonic for everything that waits or measures, real time only for what people read. Layer L0. */
#ifndef EX_BASE_CLOCK_H
#define EX_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define EX_NS_PER_MS UINT64_C(1000000)
#define EX_NS_PER_S  UINT64_C(1000000000)

/* CLOCK_MONOTONIC, ns. [any] */
static inline uint64_t ex_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * EX_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* CLOCK_REALTIME, microseconds since the epoch: for journals and replies, never for waiting. [any] */
static inline uint64_t ex_realtime_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

#endif
