/* SPDX-License-Identifier: Apache-2.0 */
/* Memory helpers and arenas. Layer L0. */
#include "base/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
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

/* Files of a memory cgroup: v2, or v1's memory controller. */
struct cgroup_files {
	const char *mount, *limit, *used,
		*cache; /* cache: the line of memory.stat with file pages that go when memory is wanted */
};
static const struct cgroup_files cgroup_v1 = {
	"/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "};
static const struct cgroup_files cgroup_v2 = {"", "memory.max", "memory.current", "inactive_file "};

/* The memory cgroup that a /proc/PID/cgroup names, its path into path. NULL: none. */
static const struct cgroup_files *find_cgroup(const char *proc_file, char path[static PATH_MAX])
{
	char line[PATH_MAX + 64];
	const struct cgroup_files *found = NULL;
	FILE *f = fopen(proc_file, "re");
	if (!f)
		return NULL;
	while (fgets(line, sizeof line, f)) {
		char *names = strchr(line, ':'), *at = names ? strchr(++names, ':') : NULL;
		if (!at)
			continue;
		*at++ = '\0';
		bool is_v1 = false, is_v2 = !*names;
		for (char *name; (name = strsep(&names, ","));)
			is_v1 |= strcmp(name, "memory") == 0;
		if (!is_v1 && (!is_v2 || found))
			continue;
		found = is_v1 ? &cgroup_v1 : &cgroup_v2;
		at[strcspn(at, "\n")] = '\0';
		snprintf(path, PATH_MAX, "%s", at);
	}
	fclose(f);
	return found;
}

static size_t read_cgroup(
	const struct cgroup_files *c, const char *root, const char *path, const char *file, const char *key)
{
	char name[2 * PATH_MAX];
	int n = snprintf(name, sizeof name, "%s%s%s/%s", root, c->mount, path, file);
	return n < (int)sizeof name ? read_number(name, key) : SIZE_MAX;
}

/* What one level leaves: limit - usage, but for the cache. SIZE_MAX without a limit. */
static size_t level_room(const struct cgroup_files *c, const char *root, const char *path)
{
	size_t limit = read_cgroup(c, root, path, c->limit, NULL), used = read_cgroup(c, root, path, c->used, NULL);
	size_t cache = read_cgroup(c, root, path, "memory.stat", c->cache);
	if (limit == SIZE_MAX || used == SIZE_MAX)
		return SIZE_MAX;
	if (cache != SIZE_MAX)
		used -= EX_MIN(cache, used);
	return limit > used ? limit - used : 0;
}

size_t ex_mem_cgroup_room(const char *proc_file, const char *root)
{
	char path[PATH_MAX] = "";
	size_t room = SIZE_MAX;
	const struct cgroup_files *c = find_cgroup(proc_file, path);
	for (char *end = c ? path + strlen(path) : NULL; end; end = strrchr(path, '/')) {
		*end = '\0';
		room = EX_MIN(room, level_room(c, root, path));
	}
	return room;
}

/* What RLIMIT_AS leaves. */
static size_t address_room(void)
{
	struct rlimit limit;
	size_t pages = read_number("/proc/self/statm", NULL);
	if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || pages == SIZE_MAX)
		return SIZE_MAX;
	size_t used = pages * (size_t)sysconf(_SC_PAGESIZE);
	return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

size_t ex_mem_available(void)
{
	size_t kib = read_number("/proc/meminfo", "MemAvailable:");
	if (kib == SIZE_MAX)
		return 0;
	size_t room = ex_mem_cgroup_room("/proc/self/cgroup", "/sys/fs/cgroup");
	room = EX_MIN(room, address_room());
	room = EX_MIN(room, kib * 1024);
	return EX_MAX(room, (size_t)1); /* 0 would be "unknown" */
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
