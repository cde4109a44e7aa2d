/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of one reply. Layer L0. */
#include "base/keep.h"

#include "base/mem.h"
#include "base/str.h"
#include <string.h>

void *ex_keep_alloc(struct ex_keep *k, size_t n, size_t size)
{
	if (ex_grow(&k->piece, &k->cap, k->n + 1, sizeof *k->piece) == 0) {
		void *p = ex_calloc(n, size);
		if (p)
			return k->piece[k->n++] = p;
	}
	k->oom = true;
	return NULL;
}

char *ex_keep_text(struct ex_keep *k, const char *s)
{
	static char empty[1];
	size_t n = s ? strlen(s) : 0;
	char *copy = n ? ex_keep_alloc(k, n + 1, 1) : NULL;
	if (!copy)
		return empty;
	memcpy(copy, s, n);
	if (!ex_utf8_valid(copy, n))
		for (size_t i = 0; i < n; i++)
			if ((unsigned char)copy[i] >= 0x80)
				copy[i] = '?';
	return copy;
}

void ex_keep_done(struct ex_keep *k)
{
	while (k->n)
		free(k->piece[--k->n]);
	free(k->piece);
	*k = (struct ex_keep){0};
}
