/* SPDX-License-Identifier: Apache-2.0 */
/* Shard names, globs over them, and the split of a layer's experts into ranges. Layer L0. */
#include "base/shard.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define GLOB_SIDE_MAX 64

char *ex_shard_name(const struct ex_shard_id *s, char buf[static EX_SHARD_NAME_MAX])
{
	assert(s->n_experts);
	snprintf(buf, EX_SHARD_NAME_MAX, "L%" PRIu32 "/E%" PRIu32 "-%" PRIu32, s->layer, s->first_expert,
		s->first_expert + s->n_experts - 1);
	return buf;
}

int ex_shard_parse(const char *name, struct ex_shard_id *ret)
{
	char again[EX_SHARD_NAME_MAX];
	uint32_t layer, first, last;
	if (strnlen(name, EX_SHARD_NAME_MAX) == EX_SHARD_NAME_MAX ||
		sscanf(name, "L%" SCNu32 "/E%" SCNu32 "-%" SCNu32, &layer, &first, &last) != 3 || last < first ||
		last == UINT32_MAX)
		return -EINVAL;
	struct ex_shard_id s = {.layer = layer, .first_expert = first, .n_experts = last - first + 1};
	/* one spelling each: no signs, blanks, leading zeros, wrapped numbers or trailing text */
	if (strcmp(ex_shard_name(&s, again), name) != 0)
		return -EINVAL;
	*ret = s;
	return 0;
}

/* "LO-HI", which takes in what lies between; is_set false when a side is another glob. */
struct span {
	bool is_set;
	uint32_t lo, hi;
};

/* The glob's two sides without their letters. */
struct glob {
	char layer[GLOB_SIDE_MAX], range[GLOB_SIDE_MAX];
	bool all; /* "*" or "auto" */
	struct span layers, experts;
};

/* Copies s[0..n) without a leading `letter` into out. Digits, '-' and fnmatch's signs only, brackets paired. */
static int take_side(const char *s, size_t n, char letter, char out[GLOB_SIDE_MAX])
{
	bool in_bracket = false;
	if (n && *s == letter) {
		s++;
		n--;
	}
	if (n == 0 || n >= GLOB_SIDE_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (!isdigit((unsigned char)s[i]) && !strchr("-*?[]!", s[i]))
			return -EINVAL;
		if (s[i] == '[' || s[i] == ']') {
			if (in_bracket == (s[i] == '['))
				return -EINVAL;
			in_bracket = !in_bracket;
		}
	}
	if (in_bracket)
		return -EINVAL;
	memcpy(out, s, n);
	out[n] = '\0';
	return 0;
}

static int parse_span(const char *side, struct span *ret)
{
	int end = 0;
	if (strspn(side, "0123456789-") != strlen(side) || !strchr(side, '-'))
		return 0;
	ret->is_set = true;
	if (sscanf(side, "%9" SCNu32 "-%9" SCNu32 "%n", &ret->lo, &ret->hi, &end) != 2 || side[end] ||
		ret->lo > ret->hi)
		return -EINVAL;
	return 0;
}

static int parse_glob(const char *text, struct glob *g)
{
	*g = (struct glob){.all = strcmp(text, "*") == 0 || strcmp(text, "auto") == 0};
	if (g->all)
		return 0;
	const char *slash = strchr(text, '/');
	if (!slash || take_side(text, (size_t)(slash - text), 'L', g->layer) < 0 ||
		take_side(slash + 1, strlen(slash + 1), 'E', g->range) < 0)
		return -EINVAL;
	int rc = parse_span(g->layer, &g->layers);
	return rc < 0 ? rc : parse_span(g->range, &g->experts);
}

int ex_shard_glob_check(const char *glob)
{
	struct glob g;
	return parse_glob(glob, &g);
}

bool ex_shard_glob_match(const char *glob, const struct ex_shard_id *s)
{
	char name[EX_SHARD_NAME_MAX];
	struct glob g;
	if (parse_glob(glob, &g) < 0)
		return false;
	if (g.all)
		return true;
	ex_shard_name(s, name);
	char *slash = strchr(name, '/');
	*slash = '\0';
	uint32_t last = s->first_expert + s->n_experts - 1;
	bool layer = g.layers.is_set ? s->layer >= g.layers.lo && s->layer <= g.layers.hi
				     : fnmatch(g.layer, name + 1, 0) == 0;
	bool range = g.experts.is_set ? s->first_expert >= g.experts.lo && last <= g.experts.hi
				      : fnmatch(g.range, slash + 2, 0) == 0;
	return layer && range;
}

bool ex_shard_glob_cuts(const char *glob, const struct ex_shard_id *s)
{
	struct glob g;
	if (parse_glob(glob, &g) < 0 || !g.experts.is_set)
		return false;
	uint32_t first = s->first_expert, last = first + s->n_experts - 1;
	bool touches = first <= g.experts.hi && last >= g.experts.lo;
	return touches && (first < g.experts.lo || last > g.experts.hi);
}

struct ex_shard_id ex_shard_of_group(uint32_t layer, uint32_t n_experts, uint32_t n_groups, uint32_t group)
{
	assert(n_groups && n_groups <= n_experts && group < n_groups);
	uint32_t base = n_experts / n_groups, n_longer = n_experts % n_groups;
	return (struct ex_shard_id){
		.layer = layer,
		.first_expert = group * base + EX_MIN(group, n_longer),
		.n_experts = base + (group < n_longer),
	};
}

uint32_t ex_shard_group_of_expert(uint32_t n_experts, uint32_t n_groups, uint32_t expert)
{
	assert(n_groups && n_groups <= n_experts && expert < n_experts);
	uint32_t base = n_experts / n_groups, n_longer = n_experts % n_groups;
	uint32_t in_longer = n_longer * (base + 1);
	return expert < in_longer ? expert / (base + 1) : n_longer + (expert - in_longer) / base;
}

void ex_shard_count_kind(char kind[static EX_IDENTITY_KIND_MAX], const char *identity)
{
	if (!*kind)
		snprintf(kind, EX_IDENTITY_KIND_MAX, "%.*s", EX_IDENTITY_KIND_DIGITS, identity);
	else if (strncmp(kind, identity, EX_IDENTITY_KIND_DIGITS) != 0)
		snprintf(kind, EX_IDENTITY_KIND_MAX, "%s", EX_IDENTITY_MIXED);
}

uint64_t ex_shard_identity(const char *text)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	return h ? h : 1;
}
