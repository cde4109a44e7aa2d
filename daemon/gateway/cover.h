/* SPDX-License-Identifier: Apache-2.0 */
/* Liability cover: can the fleet serve what was sold? Layer L4.
 *
 *     cover = capacity x horizon / (sold x draw)
 *     draw  = burn x horizon / sold, but from draw_min to 1
 *
 * capacity, tokens/s: the fastest minute of the last hour in which somebody had to wait. Without such a minute the last known capacity stands,
 * and faster minutes raise it: a fleet that is not asked for more does not show what it can do. Each minute counts by the part of the fleet that
 * lived in it, and the sum by the part that lives now, so that hosts that die lower the cover at once.
 * sold: tokens that all balances could buy. burn: tokens a second that were used up in the last hour. draw: the part of what was sold that is
 * expected to be asked for within the horizon.
 * Reads no clock: now_ns is monotonic. Not thread-safe. */
#ifndef EX_GATEWAY_COVER_H
#define EX_GATEWAY_COVER_H

#include <stdbool.h>
#include <stdint.h>

#define EX_COVER_MINUTES 60
#define EX_COVER_GAP_NS_MAX                                                                                            \
	UINT64_C(10000000000) /* after a longer pause between two looks what was served meanwhile is not counted */

struct ex_cover_in {
	double capacity_tokens_s; /* NAN: not known */
	double sold_tokens, burn_tokens_s;
	double horizon_s, draw_min; /* > 0; 0 to 1 */
};
/* INFINITY: nothing was sold; NAN: the capacity is not known. ret_draw may be NULL. [any] */
double ex_cover(const struct ex_cover_in *in, double *ret_draw);

/* Zeroed and begun by ex_cover_meter_init. */
struct ex_cover_meter {
	struct {
		double tokens, live; /* served; greatest part of the fleet that lived */
		bool waited;         /* somebody had to wait all the time */
	} minute[EX_COVER_MINUTES];
	uint64_t began_ns, n_minutes; /* minutes that are over; the one at hand is n_minutes % EX_COVER_MINUTES */
	uint64_t tokens;              /* as of the last look */
	uint64_t looked_ns;
	bool looked;
	double known;    /* tokens/s of the whole fleet; 0: not known */
	double declared; /* by the operator, 0: not; it is never below */
	double live;     /* as of the last look */
};
void ex_cover_meter_init(struct ex_cover_meter *m, double declared_tokens_s, uint64_t now_ns);
/* To be called about once a second. tokens: counted since the start of the process, prompt and completion. live: part of the fleet's replicas that
 * are there, 0 to 1; above 1 when it grew. waiting: somebody waits for a place now. */
void ex_cover_meter_look(struct ex_cover_meter *m, uint64_t tokens, double live, bool waiting, uint64_t now_ns);
/* What the fleet that lives now can serve: tokens/s, NAN when nothing is known. */
double ex_cover_meter_capacity(const struct ex_cover_meter *m);
/* Used up per second, over the last hour or what there is of it. */
double ex_cover_meter_burn(const struct ex_cover_meter *m, uint64_t now_ns);

#endif
