/* SPDX-License-Identifier: Apache-2.0 */
/* A shard's name: one MoE layer and a contiguous range of its experts, "L12/E32-63"; globs over such names. Layer L0: fleet,
 * expert, engine and ctl share it. */
#ifndef EX_BASE_SHARD_H
#define EX_BASE_SHARD_H

#include "base/macro.h"
#include <stdbool.h>

#define EX_SHARD_NAME_MAX 40

struct ex_shard_id {
	uint32_t layer, first_expert, n_experts;
};

/* "L12/E32-63" into buf; returns buf. */
char *ex_shard_name(const struct ex_shard_id *s, char buf[static EX_SHARD_NAME_MAX]);
/* Exact name → id; -EINVAL. */
int ex_shard_parse(const char *name, struct ex_shard_id *ret);
/* Glob "LAYER/RANGE": each side fnmatch-style, the L and E may be left out: "*" "L*" "3", "*" "E0-7" "0-*" "L1-4/..." is a range of layers.
 * "E0-31" takes in every range that lies within it. A bare "*" or "auto" matches all. -EINVAL when the glob itself is malformed (ret untouched). */
int ex_shard_glob_check(const char *glob);
bool ex_shard_glob_match(const char *glob, const struct ex_shard_id *s);
/* True when the glob's "LO-HI" takes in some experts of s's range but not all: a shard is held whole or not at all. Looks at
 * the experts only, not at the layer. */
bool ex_shard_glob_cuts(const char *glob, const struct ex_shard_id *s);

/* A numeric identity is 64 hexadecimal digits; the first of them are of the plugin's file and its instruction set alone, and so all shards
 * that are computed in one way share them. */
#define EX_IDENTITY_KIND_DIGITS 16
#define EX_IDENTITY_KIND_MAX    (EX_IDENTITY_KIND_DIGITS + 1)
#define EX_IDENTITY_MIXED       "mixed"
/* Counts one more shard's identity into the kind of a host: "" before the first one, EX_IDENTITY_MIXED once two differ. */
void ex_shard_count_kind(char kind[static EX_IDENTITY_KIND_MAX], const char *identity);
/* A numeric identity, as hosts spell it, as a number to compare: never 0. */
uint64_t ex_shard_identity(const char *text);

/* The fleet's ranges: n_experts split into n_groups contiguous ranges, the first (n_experts % n_groups) one longer. */
struct ex_shard_id ex_shard_of_group(uint32_t layer, uint32_t n_experts, uint32_t n_groups, uint32_t group);
uint32_t ex_shard_group_of_expert(uint32_t n_experts, uint32_t n_groups, uint32_t expert);

#endif
