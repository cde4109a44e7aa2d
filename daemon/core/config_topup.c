/* SPDX-License-Identifier: Apache-2.0 */
/* The thresholds of [topup], from words to rules. Layer L5. */
#include "core/config.h"

#include "base/clock.h"
#include <ctype.h>
#include <math.h>
#include <string.h>

/* "limited=0.9": the state and the number. */
static int take_word(const char *word, const char *key, struct ex_err *err, enum ex_topup_state *ret_state, double *ret)
{
	char name[16];
	const char *equals = strchr(word, '=');
	size_t n = equals ? (size_t)(equals - word) : 0;
	char *end = NULL;
	if (n > 0 && n < sizeof name) {
		memcpy(name, word, n);
		name[n] = '\0';
		if (ex_topup_state_parse(name, ret_state) == 0 && *ret_state != EX_TOPUP_OPEN &&
			isdigit((unsigned char)equals[1]))
			*ret = strtod(equals + 1, &end);
	}
	if (!end || *end || !isfinite(*ret))
		return ex_err_set(err, -EINVAL,
			"%s: '%.64s' is not STATE=NUMBER, STATE one of limited, waitlist, suspended", key, word);
	return 0;
}

static int take_words(const struct ex_text_list *l, const char *key, size_t offset, enum ex_topup_figure f,
	struct ex_err *err, struct ex_topup_rules *ret)
{
	for (size_t i = 0; i < l->n; i++) {
		enum ex_topup_state s = EX_TOPUP_OPEN;
		double v = 0;
		int rc = take_word(l->v[i], key, err, &s, &v);
		if (rc < 0)
			return rc;
		*(double *)((char *)&ret->at[s][f] + offset) = v;
	}
	return 0;
}

int ex_config_topup_rules(const struct ex_params *p, struct ex_err *err, struct ex_topup_rules *ret)
{
	const size_t enter = offsetof(struct ex_topup_threshold, enter),
		     leave = offsetof(struct ex_topup_threshold, leave);
	const struct {
		const struct ex_text_list *l;
		const char *key;
		size_t offset;
		enum ex_topup_figure f;
	} rows[] = {
		{&p->topup_cover_enter, "cover_enter", enter, EX_TOPUP_COVER},
		{&p->topup_cover_leave, "cover_leave", leave, EX_TOPUP_COVER},
		{&p->topup_queue_wait_enter, "queue_wait_enter", enter, EX_TOPUP_QUEUE_WAIT},
		{&p->topup_queue_wait_leave, "queue_wait_leave", leave, EX_TOPUP_QUEUE_WAIT},
		{&p->topup_kv_enter, "kv_enter", enter, EX_TOPUP_KV},
		{&p->topup_kv_leave, "kv_leave", leave, EX_TOPUP_KV},
		{&p->topup_thin_shards_enter, "thin_shards_enter", enter, EX_TOPUP_THIN_SHARDS},
		{&p->topup_thin_shards_leave, "thin_shards_leave", leave, EX_TOPUP_THIN_SHARDS},
		{&p->topup_lost_shards_enter, "lost_shards_enter", enter, EX_TOPUP_LOST_SHARDS},
		{&p->topup_lost_shards_leave, "lost_shards_leave", leave, EX_TOPUP_LOST_SHARDS},
	};
	*ret = (struct ex_topup_rules){.enter_dwell_ns = p->topup_enter_dwell_s * EX_NS_PER_S,
		.leave_dwell_ns = p->topup_leave_dwell_s * EX_NS_PER_S};
	for (unsigned s = 0; s < EX_TOPUP_STATE_N; s++)
		for (unsigned f = 0; f < EX_TOPUP_FIGURE_N; f++)
			ret->at[s][f] = (struct ex_topup_threshold){NAN, NAN};
	for (size_t i = 0; i < EX_ARRAY_LEN(rows); i++) {
		int rc = take_words(rows[i].l, rows[i].key, rows[i].offset, rows[i].f, err, ret);
		if (rc < 0)
			return rc;
	}
	return ex_topup_rules_check(ret, err);
}
