/* SPDX-License-Identifier: Apache-2.0 */
/* Starts of the process that did not last, counted for each plugin that shards were swapped to: one that brings the process down at every
 * start is found out, and set aside. Layer L2.
 *
 * DIR/starts is replaced whole before a shard is loaded; a process that ends in order, or has served for a while, forgets its own start. Those
 * that killed it are not known, so all published plugins of a start are counted. */
#ifndef EX_EXPERT_STARTS_H
#define EX_EXPERT_STARTS_H

#include "base/err.h"
#include <stddef.h>

#define EX_STARTS_PLUGINS_MAX 256 /* counted; of more the rest is used uncounted */

struct ex_starts;

/* Reads DIR/starts. A file that is damaged is an error, -EINVAL, and *ret knows of no start all the same. *ret is to be freed in any case;
 * NULL: out of memory. */
int ex_starts_open(const char *dir, struct ex_err *err, struct ex_starts **ret);
struct ex_starts *ex_starts_free(struct ex_starts *s);
/* Counts a start with these plugins (sha256), on the disk when it returns 0; plugins that are not among them are forgotten. Those of which
 * n_max starts in a row did not last are set aside, and not counted; 0: none is. Once, before the others. */
int ex_starts_begin(struct ex_starts *s, const char *const *sha256, size_t n, unsigned n_max, struct ex_err *err);
/* How many starts with the plugin did not last, when it was set aside for that; else 0. [any] */
unsigned ex_starts_aside(struct ex_starts *s, const char *sha256);
/* This start has lasted: what was counted is forgotten, but for what was set aside. [any] */
int ex_starts_lasted(struct ex_starts *s, struct ex_err *err);
/* An operator asks for the plugin anew. [any] */
int ex_starts_forget(struct ex_starts *s, const char *sha256, struct ex_err *err);

#endif
