/* SPDX-License-Identifier: Apache-2.0 */
/* Memory helpers and arenas. Layer L0. */
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void *ex_calloc(size_t n, size_t size)
{
	return calloc(n ? n : 1, size ? size : 1);
}

void *ex_alloc_aligned(size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - EX_CACHELINE)
		return NULL;
	bytes = bytes ? EX_ALIGN_UP(bytes, (size_t)EX_CACHELINE) : EX_CACHELINE;
	return aligned_alloc(EX_CACHELINE, bytes);
}

int ex_grow(void *p, size_t *cap, size_t need, size_t size)
{
	void *array;
	if (need <= *cap)
		return 0;
	size_t new_cap = *cap ? *cap : 16, bytes;
	while (new_cap < need)
		if (__builtin_mul_overflow(new_cap, 2, &new_cap))
			return -EOVERFLOW;
	if (__builtin_mul_overflow(new_cap, size, &bytes))
		return -EOVERFLOW;
	memcpy(&array, p, sizeof array); /* p is a T **: not ours to view as void ** */
	array = realloc(array, bytes);
	if (!array)
		return -ENOMEM;
	memcpy(p, &array, sizeof array);
	*cap = new_cap;
	return 0;
}

struct ex_arena {
	uint8_t *base;
	size_t size, used;
};

int ex_arena_new(size_t bytes, struct ex_arena **ret)
{
	struct ex_arena *a = calloc(1, sizeof *a);
	if (!a)
		return -ENOMEM;
	a->base = ex_alloc_aligned(bytes, 1);
	if (!a->base) {
		free(a);
		return -ENOMEM;
	}
	a->size = bytes;
	*ret = a;
	return 0;
}

struct ex_arena *ex_arena_free(struct ex_arena *a)
{
	if (a) {
		free(a->base);
		free(a);
	}
	return NULL;
}

void *ex_arena_alloc(struct ex_arena *a, size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - EX_CACHELINE)
		return NULL;
	bytes = EX_ALIGN_UP(bytes, (size_t)EX_CACHELINE);
	if (bytes > a->size - a->used)
		return NULL;
	void *p = a->base + a->used;
	a->used += bytes;
	return p;
}

void ex_arena_reset(struct ex_arena *a)
{
	a->used = 0;
}

size_t ex_arena_used(const struct ex_arena *a)
{
	return a->used;
}

/* The number after `key` in a "key value" file such as /proc/meminfo; a bare number when key is NULL. SIZE_MAX if not
 * there. */
static size_t read_number(const char *path, const char *key)
{
	char line[256];
	size_t value = SIZE_MAX;
	FILE *f = fopen(path, "re");
	if (!f)
		return SIZE_MAX;
	size_t n = key ? strlen(key) : 0;
	while (fgets(line, sizeof line, f))
		if (!key || strncmp(line, key, n) == 0) {
			if (sscanf(line + n, " %zu", &value) != 1)
				value = SIZE_MAX;
			break;
		}
	fclose(f);
	return value;
}

/* What a cgroup (v2, or v1's memory controller) leaves: limit - usage. SIZE_MAX without a limit. */
static size_t cgroup_room(void)
{
	static const char *const files[][2] = {
		{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(files); i++) {
		size_t limit = read_number(files[i][0], NULL), used = read_number(files[i][1], NULL);
		if (limit != SIZE_MAX && used != SIZE_MAX)
			return limit > used ? limit - used : 0;
	}
	return SIZE_MAX;
}

size_t ex_mem_available(void)
{
	size_t kib = read_number("/proc/meminfo", "MemAvailable:");
	if (kib == SIZE_MAX)
		return 0;
	size_t room = cgroup_room();
	return EX_MIN(kib * 1024, room);
}

size_t ex_mem_resident(void)
{
	size_t total, resident;
	FILE *f = fopen("/proc/self/statm", "re");
	if (!f)
		return 0;
	int n = fscanf(f, "%zu %zu", &total, &resident);
	fclose(f);
	return n == 2 ? resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}
