/* SPDX-License-Identifier: Apache-2.0 */
/* KV pages. Layer L3. */
#include "engine/kv.h"
#include "base/mem.h"

#include <errno.h>

struct ex_kv {
	uint32_t n_pages, page_tokens;
	uint32_t n_free;
	uint32_t free[]; /* a stack: the last one given back goes out first, while its memory is warm */
};

int ex_kv_new(uint32_t n_pages, uint32_t page_tokens, struct ex_kv **ret)
{
	assert(n_pages && page_tokens);
	struct ex_kv *kv = malloc(sizeof *kv + (size_t)n_pages * sizeof kv->free[0]);
	if (!kv)
		return -ENOMEM;
	*kv = (struct ex_kv){.n_pages = n_pages, .page_tokens = page_tokens, .n_free = n_pages};
	for (uint32_t i = 0; i < n_pages; i++)
		kv->free[i] = n_pages - 1 - i;
	*ret = kv;
	return 0;
}

struct ex_kv *ex_kv_free(struct ex_kv *kv)
{
	if (kv) {
		assert(kv->n_free == kv->n_pages);
		free(kv);
	}
	return NULL;
}

uint32_t ex_kv_pages_for(const struct ex_kv *kv, uint32_t n_tokens)
{
	return n_tokens / kv->page_tokens + (n_tokens % kv->page_tokens != 0);
}

int ex_kv_table_init(const struct ex_kv *kv, uint32_t n_tokens, struct ex_kv_table *t)
{
	uint32_t cap = ex_kv_pages_for(kv, n_tokens);
	uint32_t *pages = ex_calloc(cap, sizeof *pages);
	if (!pages)
		return -ENOMEM;
	*t = (struct ex_kv_table){.pages = pages, .cap = cap};
	return 0;
}

void ex_kv_table_done(struct ex_kv_table *t)
{
	assert(t->n == 0);
	free(t->pages);
	*t = (struct ex_kv_table){0};
}

bool ex_kv_reserve(struct ex_kv *kv, struct ex_kv_table *t, uint32_t n_tokens)
{
	uint32_t want = ex_kv_pages_for(kv, n_tokens);
	assert(want <= t->cap);
	if (want > t->n && want - t->n > kv->n_free)
		return false;
	while (t->n < want)
		t->pages[t->n++] = kv->free[--kv->n_free];
	return true;
}

void ex_kv_release(struct ex_kv *kv, struct ex_kv_table *t)
{
	while (t->n)
		kv->free[kv->n_free++] = t->pages[--t->n];
	assert(kv->n_free <= kv->n_pages);
}

uint32_t ex_kv_used(const struct ex_kv *kv)
{
	return kv->n_pages - kv->n_free;
}
