/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch memory for one message. Layer L1. */
#include "net/scratch.h"

#include "base/macro.h"
#include <stdlib.h>

#define FIRST_CHUNK_BYTES ((size_t)8 << 10) /* a decode step's frame fits */
#define ALIGN             ((size_t)16)

struct chunk {
	struct chunk *older;
	size_t size, used; /* of data */
	_Alignas(16) uint8_t data[];
};

struct ex_scratch {
	ProtobufCAllocator allocator;
	struct chunk *newest;
	size_t left; /* to the limit */
};

static void *allocator_alloc(void *ctx, size_t n)
{
	return ex_scratch_alloc(ctx, n);
}

static void allocator_free(void *ctx, void *p)
{
	(void)ctx;
	(void)p;
}

struct ex_scratch *ex_scratch_new(size_t bytes_max)
{
	struct ex_scratch *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->allocator = (ProtobufCAllocator){.alloc = allocator_alloc, .free = allocator_free, .allocator_data = s};
	s->left = bytes_max;
	return s;
}

struct ex_scratch *ex_scratch_free(struct ex_scratch *s)
{
	while (s && s->newest) {
		struct chunk *c = s->newest;
		s->newest = c->older;
		free(c);
	}
	free(s);
	return NULL;
}

void *ex_scratch_alloc(struct ex_scratch *s, size_t n)
{
	if (n > s->left)
		return NULL;
	n = EX_ALIGN_UP(n, ALIGN);
	struct chunk *c = s->newest;
	if (!c || n > c->size - c->used) {
		size_t size = EX_MAX(n, c ? 2 * c->size : FIRST_CHUNK_BYTES);
		c = malloc(sizeof *c + size);
		if (!c)
			return NULL;
		*c = (struct chunk){.older = s->newest, .size = size};
		s->newest = c;
	}
	void *p = c->data + c->used;
	c->used += n;
	s->left -= EX_MIN(n, s->left);
	return p;
}

ProtobufCAllocator *ex_scratch_allocator(struct ex_scratch *s)
{
	return &s->allocator;
}
