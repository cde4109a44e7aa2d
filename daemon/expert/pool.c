/* SPDX-License-Identifier: Apache-2.0 */
/* Recycled blocks. Layer L2. */
#include "expert/pool.h"

#include "base/lock.h"
#include "base/mem.h"
#include <string.h>

#define CLASS_MIN 12 /* 4 KiB, header included */
#define CLASS_MAX 40

struct ex_pool {
	struct ex_lock lock;
	bool closed;                       /* guarded by lock, as all below */
	size_t n_out, kept_bytes;          /* blocks that are out; bytes of those that wait */
	struct block *kept[CLASS_MAX + 1]; /* by log2 of their size */
};

/* Before the data, on a cache line of its own. */
struct block {
	_Alignas(EX_CACHELINE) struct ex_pool *pool;
	struct block *next;
	unsigned size_class;
};
static_assert(sizeof(struct block) == EX_CACHELINE, "data stays aligned");

struct ex_pool *ex_pool_new(void)
{
	struct ex_pool *p = ex_calloc(1, sizeof *p);
	if (p)
		ex_lock_init(&p->lock, "pool");
	return p;
}

static void destroy(struct ex_pool *p)
{
	for (size_t i = 0; i < EX_ARRAY_LEN(p->kept); i++)
		while (p->kept[i]) {
			struct block *b = p->kept[i];
			p->kept[i] = b->next;
			free(b);
		}
	ex_lock_done(&p->lock);
	free(p);
}

struct ex_pool *ex_pool_free(struct ex_pool *p)
{
	if (!p)
		return NULL;
	ex_lock_take(&p->lock);
	p->closed = true;
	bool last = p->n_out == 0;
	ex_lock_give(&p->lock);
	if (last)
		destroy(p);
	return NULL;
}

/* The smallest class whose blocks hold n bytes and the header; 0: none does. */
static unsigned class_of(size_t n)
{
	if (n > ((size_t)1 << CLASS_MAX) - sizeof(struct block))
		return 0;
	size_t need = n + sizeof(struct block);
	unsigned c = CLASS_MIN;
	while ((size_t)1 << c < need)
		c++;
	return c;
}

void *ex_pool_get(struct ex_pool *p, size_t n)
{
	unsigned c = class_of(n);
	if (!c)
		return NULL;
	ex_lock_take(&p->lock);
	struct block *b = p->kept[c];
	if (b) {
		p->kept[c] = b->next;
		p->kept_bytes -= (size_t)1 << c;
	}
	p->n_out++;
	ex_lock_give(&p->lock);
	if (!b)
		b = ex_alloc_aligned((size_t)1 << c, 1);
	if (!b) {
		ex_lock_take(&p->lock);
		p->n_out--;
		ex_lock_give(&p->lock);
		return NULL;
	}
	*b = (struct block){.pool = p, .size_class = c};
	return b + 1;
}

void ex_pool_put(void *block)
{
	if (!block)
		return;
	struct block *b = (struct block *)block - 1;
	struct ex_pool *p = b->pool;
	size_t bytes = (size_t)1 << b->size_class;
	ex_lock_take(&p->lock);
	bool keep = !p->closed && bytes <= EX_POOL_KEPT_BYTES_MAX - p->kept_bytes;
	if (keep) {
		b->next = p->kept[b->size_class];
		p->kept[b->size_class] = b;
		p->kept_bytes += bytes;
	}
	bool last = --p->n_out == 0 && p->closed;
	ex_lock_give(&p->lock);
	if (!keep)
		free(b);
	if (last)
		destroy(p);
}
