/* SPDX-License-Identifier: Apache-2.0 */
/* Tiers from what a configuration says of them. Layer L4. */
#include "gateway/limits.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

uint32_t ex_limits_tier_find(const struct ex_limits_tier *tiers, uint32_t n, const char *name)
{
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(tiers[i].name, name) == 0)
			return i;
	return 0;
}

/* The tier of that name, made if it is new; NULL: err says what is wrong with it. */
static struct ex_limits_tier *tier_named(
	struct ex_limits_tier *tiers, uint32_t *n, const char *name, size_t len, struct ex_err *err)
{
	char text[EX_LIMITS_TIER_MAX];
	bool plain = len > 0 && len < sizeof text;
	for (size_t i = 0; plain && i < len; i++)
		plain = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
	if (!plain) {
		ex_err_set(err, -EINVAL, "'%.*s': a tier's name has 1 to %d letters, digits, '.', '_' and '-'",
			(int)EX_MIN(len, (size_t)64), name, EX_LIMITS_TIER_MAX - 1);
		return NULL;
	}
	snprintf(text, sizeof text, "%.*s", (int)len, name);
	uint32_t i = ex_limits_tier_find(tiers, *n, text);
	if (strcmp(tiers[i].name, text) == 0)
		return &tiers[i];
	if (*n == EX_FAIR_TIERS_MAX) {
		ex_err_set(err, -EINVAL, "more than %d tiers", EX_FAIR_TIERS_MAX);
		return NULL;
	}
	struct ex_limits_tier *t = &tiers[(*n)++];
	*t = (struct ex_limits_tier){.weight = 1};
	memcpy(t->name, text, sizeof text);
	return t;
}

/* Sets the number at `offset` of the tiers that are named, as in "standard=60". */
static int take_words(struct ex_limits_tier *tiers, uint32_t *n, const struct ex_limits_words *w, size_t offset,
	uint32_t min, uint32_t max, struct ex_err *err)
{
	for (size_t i = 0; i < w->n; i++) {
		const char *equals = strchr(w->v[i], '='), *digits = equals ? equals + 1 : "";
		char *end;
		unsigned long v = strtoul(digits, &end, 10);
		if (!isdigit((unsigned char)*digits) || *end || strlen(digits) > 10 || v < min || v > max)
			return ex_err_set(err, -EINVAL, "'%.64s': TIER=NUMBER is wanted, the number from %u to %u",
				w->v[i], min, max);
		struct ex_limits_tier *t = tier_named(tiers, n, w->v[i], (size_t)(equals - w->v[i]), err);
		if (!t)
			return -EINVAL;
		*(uint32_t *)((char *)t + offset) = (uint32_t)v;
	}
	return 0;
}

int ex_limits_tiers_parse(
	const struct ex_limits_conf *c, struct ex_err *err, struct ex_limits_tier *ret, uint32_t *ret_n)
{
	const struct {
		const struct ex_limits_words *words;
		size_t offset;
		uint32_t min, max;
	} rows[] = {
		{&c->weight, offsetof(struct ex_limits_tier, weight), 1, EX_FAIR_WEIGHT_MAX},
		{&c->requests_per_min, offsetof(struct ex_limits_tier, requests_per_min), 1, EX_LIMITS_REQUESTS_MAX},
		{&c->tokens_per_min, offsetof(struct ex_limits_tier, tokens_per_min), 1, EX_GCRA_UNITS_MAX},
		{&c->concurrency, offsetof(struct ex_limits_tier, concurrency), 1, EX_FAIR_ITEMS_MAX},
	};
	uint32_t n = 1;
	ret[0] = (struct ex_limits_tier){.name = EX_LIMITS_TIER_DEFAULT, .weight = 1};
	for (size_t i = 0; i < EX_ARRAY_LEN(rows); i++) {
		int rc = take_words(ret, &n, rows[i].words, rows[i].offset, rows[i].min, rows[i].max, err);
		if (rc < 0)
			return rc;
	}
	*ret_n = n;
	return 0;
}
