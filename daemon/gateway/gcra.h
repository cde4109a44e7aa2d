/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits by the generic cell rate algorithm: units a minute with a burst, weighted, exact to the nanosecond. Layer L4.
 *
 * The whole state is one theoretical arrival time: when everything that was taken will have drained. Between any two instants no more is taken
 * than burst + rate x time; what is given back is as if it had not been taken, but for windows that begin after it was. Reads no clock: now_ns is of any one clock that the caller
 * keeps to. A clock that goes back costs at most a full burst of waiting, and never lets more in. Not thread-safe: the caller has a lock.
 * Source: ITU-T I.371, "virtual scheduling algorithm". */
#ifndef EX_GATEWAY_GCRA_H
#define EX_GATEWAY_GCRA_H

#include "base/err.h"

#define EX_GCRA_UNITS_MAX      1000000000u            /* a minute, and in a burst */
#define EX_GCRA_PROMISE_NS_MAX UINT64_C(600000000000) /* no wait is promised beyond a full burst and 10 min */
#define EX_GCRA_NEVER          UINT64_MAX

struct ex_gcra_rate {
	uint64_t
		unit_ns; /* one unit drains in; rounded up, so that the rate is never above the one asked for, and below it by less than 1/unit_ns */
	uint64_t burst_ns; /* a full burst drains in */
	uint32_t per_min, burst;
};
/* Zeroed: nothing was taken yet. */
struct ex_gcra {
	uint64_t tat_ns;      /* everything taken has drained */
	uint64_t promised_ns; /* the same, had all those come back who were told when */
};
struct ex_gcra_room {
	uint32_t units;    /* that may be taken now */
	uint64_t reset_ns; /* until a full burst may be taken */
};

/* -EINVAL: a number is 0 or above EX_GCRA_UNITS_MAX. */
int ex_gcra_rate_init(uint32_t per_min, uint32_t burst, struct ex_err *err, struct ex_gcra_rate *ret);

/* How long until n units may be taken if nobody else takes any: 0, now. EX_GCRA_NEVER: n is more than a burst. */
uint64_t ex_gcra_wait_ns(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint32_t n, uint64_t now_ns);
/* Takes n units when they may be taken. The wait as above; with any but 0 nothing was taken. */
uint64_t ex_gcra_take(const struct ex_gcra_rate *r, struct ex_gcra *g, uint32_t n, uint64_t now_ns);
/* For who was refused n units: a wait after which they are there, also when all those come back on time whom an earlier call told theirs.
 * At least ex_gcra_wait_ns; EX_GCRA_NEVER as there. */
uint64_t ex_gcra_promise(const struct ex_gcra_rate *r, struct ex_gcra *g, uint32_t n, uint64_t now_ns);
/* n units that were taken were not used after all. */
void ex_gcra_give(const struct ex_gcra_rate *r, struct ex_gcra *g, uint32_t n);
void ex_gcra_room(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint64_t now_ns, struct ex_gcra_room *ret);

/* The state as an instant of another clock (real time, for a store), and back; promises are not kept. Both clocks are read by the caller at one moment. */
uint64_t ex_gcra_export(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint64_t now_ns, uint64_t real_ns);
void ex_gcra_import(
	const struct ex_gcra_rate *r, struct ex_gcra *g, uint64_t exported, uint64_t now_ns, uint64_t real_ns);

#endif
