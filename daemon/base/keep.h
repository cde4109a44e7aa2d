/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of one reply: many small pieces, freed together. Layer L0. Not thread-safe. */
#ifndef EX_BASE_KEEP_H
#define EX_BASE_KEEP_H

#include "base/macro.h"
#include <stdbool.h>

struct ex_keep {
	void **piece;
	size_t n, cap;
	bool oom; /* remembered: check once, at the end */
};

/* n * size zeroed bytes, or NULL and oom. */
void *ex_keep_alloc(struct ex_keep *k, size_t n, size_t size);
/* A copy of s ("" for NULL) that a protobuf string may hold: bytes that are not UTF-8 become '?'. Never NULL: "" when memory is out. */
char *ex_keep_text(struct ex_keep *k, const char *s);
void ex_keep_done(struct ex_keep *k);

#endif
