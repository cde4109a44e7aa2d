/* SPDX-License-Identifier: Apache-2.0 */
/* What the limits remember of keys and accounts, and what of it outlives the process. Layer L4. */
#include "gateway/limits_int.h"

#include "base/clock.h"
#include "base/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static size_t bucket_of(int64_t id)
{
	return (size_t)((uint64_t)id * UINT64_C(0x9e3779b97f4a7c15) >> 52) % EX_LIMITS_BUCKETS;
}

static bool make_room(struct ex_limits *l)
{
	if (l->n_known < EX_LIMITS_KEYS_MAX)
		return true;
	ex_limits_sweep(l, ex_now_ns());
	return l->n_known < EX_LIMITS_KEYS_MAX;
}

struct ex_limits_key *ex_limits_key_of(struct ex_limits *l, int64_t id, uint32_t tier)
{
	struct ex_limits_key **list = &l->keys[bucket_of(id)], *k = *list;
	while (k && k->id != id)
		k = k->next;
	if (!k && make_room(l) && (k = ex_calloc(1, sizeof *k))) {
		k->id = id;
		k->next = *list;
		*list = k;
		l->n_known++;
	}
	if (k)
		k->tier = tier;
	return k;
}

struct ex_limits_account *ex_limits_account_of(struct ex_limits *l, int64_t id)
{
	struct ex_limits_account **list = &l->accounts[bucket_of(id)], *a = *list;
	while (a && a->id != id)
		a = a->next;
	if (!a && make_room(l) && (a = ex_calloc(1, sizeof *a))) {
		a->id = id;
		a->next = *list;
		*list = a;
		l->n_known++;
	}
	return a;
}

static uint64_t undrained_ns(const struct ex_gcra_rate *r, const struct ex_gcra *g, uint64_t now_ns)
{
	struct ex_gcra_room room = {.reset_ns = 0};
	if (r->per_min)
		ex_gcra_room(r, g, now_ns, &room);
	return room.reset_ns;
}

static bool key_rests(const struct ex_limits *l, const struct ex_limits_key *k, uint64_t now_ns)
{
	const struct tier_limits *t = &l->tiers[k->tier];
	return !k->n_held && !undrained_ns(&t->requests, &k->requests, now_ns) &&
	       !undrained_ns(&t->tokens, &k->tokens, now_ns) && k->requests.promised_ns <= now_ns &&
	       k->tokens.promised_ns <= now_ns;
}

void ex_limits_sweep(struct ex_limits *l, uint64_t now_ns)
{
	for (size_t b = 0; b < EX_LIMITS_BUCKETS; b++) {
		for (struct ex_limits_key **p = &l->keys[b], *k; (k = *p);) {
			if (!key_rests(l, k, now_ns)) {
				p = &k->next;
				continue;
			}
			*p = k->next;
			free(k);
			l->n_known--;
		}
		for (struct ex_limits_account **p = &l->accounts[b], *a; (a = *p);) {
			if (a->n_held || a->flow.promised) {
				p = &a->next;
				continue;
			}
			*p = a->next;
			free(a);
			l->n_known--;
		}
	}
}

void ex_limits_drop_tables(struct ex_limits *l)
{
	for (size_t b = 0; b < EX_LIMITS_BUCKETS; b++) {
		for (struct ex_limits_key *k; (k = l->keys[b]);) {
			l->keys[b] = k->next;
			free(k);
		}
		for (struct ex_limits_account *a; (a = l->accounts[b]);) {
			l->accounts[b] = a->next;
			ex_fair_forget(l->queue, &a->flow);
			free(a);
		}
	}
}

/* --- saved states ------------------------------------------------------------------------------------------------- */

void ex_limits_save(struct ex_limits *l, uint64_t real_ns, struct ex_str *out)
{
	uint64_t now_ns = ex_now_ns();
	ex_lock_take(&l->lock);
	for (size_t b = 0; b < EX_LIMITS_BUCKETS; b++)
		for (const struct ex_limits_key *k = l->keys[b]; k; k = k->next) {
			const struct tier_limits *t = &l->tiers[k->tier];
			uint64_t requests =
				t->requests.per_min ? ex_gcra_export(&t->requests, &k->requests, now_ns, real_ns) : 0;
			uint64_t tokens =
				t->tokens.per_min ? ex_gcra_export(&t->tokens, &k->tokens, now_ns, real_ns) : 0;
			if (requests > real_ns || tokens > real_ns)
				ex_str_addf(out, "%" PRId64 " %s %" PRIu64 " %" PRIu64 "\n", k->id, t->t.name, requests,
					tokens);
		}
	ex_lock_give(&l->lock);
}

static int load_line(struct ex_limits *l, const char *line, uint64_t now_ns, uint64_t real_ns)
{
	int64_t id;
	uint64_t requests, tokens;
	char name[EX_LIMITS_TIER_MAX];
	int end = 0;
	if (sscanf(line, "%" SCNd64 " %32s %" SCNu64 " %" SCNu64 "%n", &id, name, &requests, &tokens, &end) != 4 ||
		line[end])
		return -EINVAL;
	for (uint32_t i = 0; i < l->n_tiers; i++) {
		const struct tier_limits *t = &l->tiers[i];
		if (strcmp(t->t.name, name) != 0)
			continue;
		struct ex_limits_key *k = ex_limits_key_of(l, id, i);
		if (k && t->requests.per_min)
			ex_gcra_import(&t->requests, &k->requests, requests, now_ns, real_ns);
		if (k && t->tokens.per_min)
			ex_gcra_import(&t->tokens, &k->tokens, tokens, now_ns, real_ns);
	}
	return 0; /* a tier that is not there any more had other limits */
}

int ex_limits_load(struct ex_limits *l, const char *text, size_t n, uint64_t real_ns, struct ex_err *err)
{
	uint64_t now_ns = ex_now_ns();
	unsigned number = 0;
	char line[128];
	int rc = 0;
	ex_lock_take(&l->lock);
	for (size_t i = 0, len; i < n && rc == 0; i += len + 1) {
		const char *end = memchr(text + i, '\n', n - i);
		len = end ? (size_t)(end - text) - i : n - i;
		number++;
		if (len >= sizeof line || memchr(text + i, '\0', len)) {
			rc = -EINVAL;
			break;
		}
		memcpy(line, text + i, len);
		line[len] = '\0';
		rc = load_line(l, line, now_ns, real_ns);
	}
	ex_lock_give(&l->lock);
	return rc < 0 ? ex_err_set(err, rc, "line %u is no state of a limit", number) : 0;
}
