/* SPDX-License-Identifier: Apache-2.0 */
/* Liability cover. Layer L4. */
#include "gateway/cover.h"

#include "base/clock.h"
#include "base/macro.h"
#include <math.h>

#define MINUTE_NS (60 * EX_NS_PER_S)

double ex_cover(const struct ex_cover_in *in, double *ret_draw)
{
	double draw = in->sold_tokens > 0 ? in->burn_tokens_s * in->horizon_s / in->sold_tokens : 1;
	draw = EX_MIN(EX_MAX(draw, in->draw_min), 1);
	if (ret_draw)
		*ret_draw = draw;
	if (isnan(in->capacity_tokens_s))
		return NAN;
	if (!(in->sold_tokens * draw > 0))
		return INFINITY;
	return in->capacity_tokens_s * in->horizon_s / (in->sold_tokens * draw);
}

static void begin_minute(struct ex_cover_meter *m)
{
	size_t i = m->n_minutes % EX_COVER_MINUTES;
	m->minute[i].tokens = 0;
	m->minute[i].live = 0;
	m->minute[i].waited = true;
}

void ex_cover_meter_init(struct ex_cover_meter *m, double declared_tokens_s, uint64_t now_ns)
{
	*m = (struct ex_cover_meter){
		.began_ns = now_ns, .declared = declared_tokens_s, .known = declared_tokens_s, .live = 1};
	begin_minute(m);
}

/* Tokens a second that the whole fleet would have served in minute i. */
static double whole_fleet(const struct ex_cover_meter *m, size_t i)
{
	double live = m->minute[i].live;
	return live > 0 ? m->minute[i].tokens / 60 / live : 0;
}

/* The minute at hand is over. */
static void end_minute(struct ex_cover_meter *m)
{
	double waited = 0, any = 0;
	uint64_t n = EX_MIN(m->n_minutes + 1, (uint64_t)EX_COVER_MINUTES);
	for (size_t i = 0; i < n; i++) {
		double rate = whole_fleet(m, i);
		any = EX_MAX(any, rate);
		if (m->minute[i].waited)
			waited = EX_MAX(waited, rate);
	}
	m->known = EX_MAX(waited > 0 ? waited : EX_MAX(m->known, any), m->declared);
	m->n_minutes++;
	m->began_ns += MINUTE_NS;
	begin_minute(m);
}

void ex_cover_meter_look(struct ex_cover_meter *m, uint64_t tokens, double live, bool waiting, uint64_t now_ns)
{
	size_t i = m->n_minutes % EX_COVER_MINUTES;
	if (m->looked && tokens > m->tokens && now_ns - m->looked_ns <= EX_COVER_GAP_NS_MAX)
		m->minute[i].tokens += (double)(tokens - m->tokens);
	m->minute[i].live = EX_MAX(m->minute[i].live, live);
	m->minute[i].waited = m->minute[i].waited && waiting;
	for (unsigned n = 0; now_ns >= m->began_ns + MINUTE_NS && n <= EX_COVER_MINUTES; n++)
		end_minute(m);
	if (now_ns >= m->began_ns + MINUTE_NS) /* nobody looked for more than an hour */
		m->began_ns = now_ns;
	m->tokens = tokens;
	m->live = live;
	m->looked = true;
	m->looked_ns = now_ns;
}

double ex_cover_meter_capacity(const struct ex_cover_meter *m)
{
	return m->known > 0 ? m->known * m->live : NAN;
}

double ex_cover_meter_burn(const struct ex_cover_meter *m, uint64_t now_ns)
{
	uint64_t n = EX_MIN(m->n_minutes, (uint64_t)EX_COVER_MINUTES - 1),
		 in_this = now_ns > m->began_ns ? now_ns - m->began_ns : 0;
	double sum = 0, s = (double)n * 60 + (double)EX_MIN(in_this, MINUTE_NS) / (double)EX_NS_PER_S;
	for (uint64_t k = 0; k <= n; k++)
		sum += m->minute[(m->n_minutes - k) % EX_COVER_MINUTES].tokens;
	return s >= 1 ? sum / s : 0;
}
