/* SPDX-License-Identifier: Apache-2.0 */
/* Places of equal size, written in turn. `busy` is held for a copy by the worker, which gives way, or by a reader, which waits. Layer L2. */
#include "expert/ring.h"

#include "base/clock.h"
#include "base/dtype.h"
#include "base/mem.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define ROWS_MAX 64     /* of a batch: more would take too long to copy */
#define ROWS_MIN 4      /* a ring that is short of memory keeps fewer batches rather than fewer rows */
#define NAP_NS   100000 /* of a reader while a batch is being kept */

struct ex_ring {
	atomic_flag busy; /* guards all below */
	uint64_t kept_ns; /* when the last one was */
	uint32_t n_experts, d_model, n_places, next, n;
	size_t place_bytes;
	uint8_t *place; /* [n_places] of place_bytes, each a struct ex_batch and its arrays */
};

/* Bytes of a batch with its arrays, x first: 64-byte aligned. 0 on overflow. */
static size_t batch_bytes(
	uint32_t n_experts, uint32_t n_tokens, uint32_t n_assignments, uint32_t d_model, uint32_t dtype)
{
	size_t x, all = EX_ALIGN_UP(sizeof(struct ex_batch), EX_CACHELINE);
	if (__builtin_mul_overflow((size_t)n_tokens * d_model, ex_dtype_size(dtype), &x) ||
		__builtin_add_overflow(all, EX_ALIGN_UP(x, EX_CACHELINE), &all))
		return 0;
	return all + ((size_t)n_experts + 1 + 2 * (size_t)n_assignments) * sizeof(uint32_t);
}

/* Lays a batch out in memory of batch_bytes. */
static struct ex_batch *lay_out(
	void *memory, uint32_t n_experts, uint32_t n_tokens, uint32_t n_assignments, uint32_t d_model, uint32_t dtype)
{
	struct ex_batch *c = memory;
	uint8_t *at = (uint8_t *)memory + EX_ALIGN_UP(sizeof *c, EX_CACHELINE);
	c->x_bytes = (size_t)n_tokens * d_model * ex_dtype_size(dtype);
	c->b = (struct expertd_batch){
		.x = at, .n_tokens = n_tokens, .n_experts = n_experts, .n_assignments = n_assignments};
	c->b.x_dtype = dtype;
	at += EX_ALIGN_UP(c->x_bytes, EX_CACHELINE);
	c->b.offset = (uint32_t *)at;
	c->b.token = c->b.offset + n_experts + 1;
	c->b.weight = (const float *)(c->b.token + n_assignments);
	return c;
}

struct ex_batch *ex_batch_new(
	uint32_t n_experts, uint32_t n_tokens, uint32_t n_assignments, uint32_t d_model, uint32_t x_dtype)
{
	size_t bytes = batch_bytes(n_experts, n_tokens, n_assignments, d_model, x_dtype);
	void *memory = bytes ? ex_alloc_aligned(bytes, 1) : NULL;
	return memory ? lay_out(memory, n_experts, n_tokens, n_assignments, d_model, x_dtype) : NULL;
}

void *ex_batch_x(struct ex_batch *b)
{
	return (void *)b->b.x;
}

uint32_t *ex_batch_offset(struct ex_batch *b)
{
	return (uint32_t *)b->b.offset;
}

uint32_t *ex_batch_token(struct ex_batch *b)
{
	return (uint32_t *)b->b.token;
}

float *ex_batch_weight(struct ex_batch *b)
{
	return (float *)b->b.weight;
}

/* Copies of b the first n_tokens rows and what is assigned to them: within an expert tokens ascend. */
static void copy_rows(struct ex_batch *to, const struct expertd_batch *b)
{
	uint32_t n = 0, *offset = ex_batch_offset(to), *token = ex_batch_token(to);
	float *weight = ex_batch_weight(to);
	memcpy(ex_batch_x(to), b->x, to->x_bytes);
	offset[0] = 0;
	for (uint32_t e = 0; e < b->n_experts; e++) {
		for (uint32_t a = b->offset[e]; a < b->offset[e + 1] && b->token[a] < to->b.n_tokens; a++) {
			token[n] = b->token[a];
			weight[n++] = b->weight[a];
		}
		offset[e + 1] = n;
	}
}

static uint32_t count_assignments(const struct expertd_batch *b, uint32_t n_tokens)
{
	uint32_t n = 0;
	for (uint32_t e = 0; e < b->n_experts; e++)
		for (uint32_t a = b->offset[e]; a < b->offset[e + 1] && b->token[a] < n_tokens; a++)
			n++;
	return n;
}

/* --- the ring -------------------------------------------------------------------------------------------- */

int ex_ring_new(size_t bytes, uint32_t n_experts, uint32_t d_model, struct ex_ring **ret)
{
	size_t one = batch_bytes(n_experts, 1, n_experts, d_model, EXPERTD_F32);
	size_t least = 2 * EX_CACHELINE + /* of alignment */
		       batch_bytes(n_experts, ROWS_MIN, ROWS_MIN * n_experts, d_model, EXPERTD_F32);
	if (!one || bytes < one)
		return -ENOSPC;
	size_t n = EX_MAX(EX_MIN(bytes / least, (size_t)EX_RING_BATCHES_MAX), (size_t)1);
	struct ex_ring *r = ex_calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	*r = (struct ex_ring){
		.busy = ATOMIC_FLAG_INIT, .n_experts = n_experts, .d_model = d_model, .n_places = (uint32_t)n};
	r->place_bytes = bytes / n / EX_CACHELINE * EX_CACHELINE;
	r->place = ex_alloc_aligned(n, r->place_bytes); /* touched when it is written */
	if (!r->place) {
		free(r);
		return -ENOMEM;
	}
	*ret = r;
	return 0;
}

struct ex_ring *ex_ring_free(struct ex_ring *r)
{
	if (r) {
		free(r->place);
		free(r);
	}
	return NULL;
}

/* How many of b's rows, the first ones, fit a place. */
static uint32_t rows_that_fit(const struct ex_ring *r, const struct expertd_batch *b)
{
	size_t fixed = batch_bytes(r->n_experts, 0, 0, r->d_model, b->x_dtype) + EX_CACHELINE;
	size_t row = (size_t)r->d_model * ex_dtype_size(b->x_dtype) + 2 * (size_t)r->n_experts * sizeof(uint32_t);
	return fixed + row > r->place_bytes ? 0
					    : (uint32_t)EX_MIN((size_t)EX_MIN(b->n_tokens, (uint32_t)ROWS_MAX),
						      (r->place_bytes - fixed) / row);
}

void ex_ring_offer(struct ex_ring *r, const struct expertd_batch *b, uint64_t now_ns)
{
	if (b->n_experts != r->n_experts || atomic_flag_test_and_set_explicit(&r->busy, memory_order_acquire))
		return;
	uint32_t n_rows = rows_that_fit(r, b);
	if (n_rows && (!r->kept_ns || now_ns - r->kept_ns >= EX_RING_PERIOD_NS)) {
		void *place = r->place + r->next * r->place_bytes;
		copy_rows(
			lay_out(place, r->n_experts, n_rows, count_assignments(b, n_rows), r->d_model, b->x_dtype), b);
		r->next = (r->next + 1) % r->n_places;
		r->n = EX_MIN(r->n + 1, r->n_places);
		r->kept_ns = now_ns;
	}
	atomic_flag_clear_explicit(&r->busy, memory_order_release);
}

size_t ex_ring_copy(struct ex_ring *r, struct ex_batch **out, size_t max)
{
	size_t n = 0;
	while (atomic_flag_test_and_set_explicit(&r->busy, memory_order_acquire))
		nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
	for (; n < EX_MIN(max, (size_t)r->n); n++) {
		uint32_t i = (uint32_t)((r->next + r->n_places - 1 - n) % r->n_places);
		const struct ex_batch *from = (const struct ex_batch *)(r->place + i * r->place_bytes);
		out[n] = ex_batch_new(
			r->n_experts, from->b.n_tokens, from->b.n_assignments, r->d_model, from->b.x_dtype);
		if (!out[n])
			break;
		copy_rows(out[n], &from->b);
	}
	atomic_flag_clear_explicit(&r->busy, memory_order_release);
	return n;
}
