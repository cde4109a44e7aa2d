/* SPDX-License-Identifier: Apache-2.0 */
/* Penalties on tokens that came already. Layer L4. */
#include "gateway/penalty.h"

#include "base/mem.h"
#include <string.h>

void ex_penalty_done(struct ex_penalty *p)
{
	free(p->seen);
	*p = (struct ex_penalty){0};
}

/* Where id is, or would be. */
static size_t find(const struct ex_penalty *p, uint32_t id)
{
	size_t low = 0, high = p->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (p->seen[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int ex_penalty_count(struct ex_penalty *p, uint32_t id)
{
	size_t at = find(p, id);
	if (at < p->n && p->seen[at].id == id) {
		p->seen[at].count++;
		return 0;
	}
	int rc = ex_grow(&p->seen, &p->cap, p->n + 1, sizeof *p->seen);
	if (rc)
		return rc;
	memmove(p->seen + at + 1, p->seen + at, (p->n - at) * sizeof *p->seen);
	p->seen[at] = (struct ex_penalty_seen){.id = id, .count = 1};
	p->n++;
	return 0;
}

void ex_penalty_apply(const struct ex_penalty *p, float frequency, float presence, float *logits, uint32_t n_logits)
{
	for (size_t i = 0; i < p->n && p->seen[i].id < n_logits; i++)
		logits[p->seen[i].id] -= frequency * (float)p->seen[i].count + presence;
}
