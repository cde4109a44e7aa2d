/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: zeroed and aligned allocation with overflow checks, and arenas that are sized once and reset. Layer L0. */
#ifndef EX_BASE_MEM_H
#define EX_BASE_MEM_H

#include "base/macro.h"
#include <stdbool.h>

#define EX_CACHELINE 64

/* n * size zeroed bytes; NULL on overflow or when memory is out. Freed by free(). [any] */
void *ex_calloc(size_t n, size_t size);

/* n * size bytes, not zeroed, at a multiple of EX_CACHELINE; NULL on overflow or when memory is out. Freed by free(). [any] */
void *ex_alloc_aligned(size_t n, size_t size);

/* Grows *p (elements of `size` bytes, capacity *cap) to hold at least `need`, by doubling. 0, -ENOMEM or -EOVERFLOW;
 * on failure *p is as it was. [any] */
int ex_grow(void *p, size_t *cap, size_t need, size_t size);

/* A bump allocator over one block. Nothing is freed singly; reset starts over. Not thread-safe. */
struct ex_arena;
int ex_arena_new(size_t bytes, struct ex_arena **ret);
struct ex_arena *ex_arena_free(struct ex_arena *a);
/* n * size bytes at a multiple of EX_CACHELINE, not zeroed; NULL when the arena is full. */
void *ex_arena_alloc(struct ex_arena *a, size_t n, size_t size);
void ex_arena_reset(struct ex_arena *a);
size_t ex_arena_used(const struct ex_arena *a);
EX_DEFINE_CLEANUP(struct ex_arena, ex_arena_free)

/* Memory that this process could still use, in bytes: MemAvailable, further limited by its cgroup and those above it, and by
 * RLIMIT_AS. 0 when unknown, 1 when there is none. [any] */
size_t ex_mem_available(void);
/* What the cgroup that proc_file (/proc/self/cgroup) names, and each above it up to root (/sys/fs/cgroup), leaves; page cache that can go is
 * not counted as used. SIZE_MAX without a limit. [any] */
size_t ex_mem_cgroup_room(const char *proc_file, const char *root);
/* This process's resident set, in bytes. [any] */
size_t ex_mem_resident(void);

#endif
