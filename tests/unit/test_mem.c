/* SPDX-License-Identifier: Apache-2.0 */
/* base/mem: what the cgroups leave, read from trees made here. */
#include "unit.h"

#include "base/mem.h"
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static char dir[64];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_mem.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	(void)state;
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void write_file(const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	for (char *s = path + strlen(dir) + 1; (s = strchr(s, '/')); *s++ = '/') {
		*s = '\0';
		mkdir(path, 0700);
	}
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static size_t room(const char *proc_cgroup)
{
	char proc[96];
	write_file("proc", proc_cgroup);
	snprintf(proc, sizeof proc, "%s/proc", dir);
	return ex_mem_cgroup_room(proc, dir);
}

/* A service's limit is in its own cgroup, which is not the root of what is mounted; one above it may be the narrower. */
static void test_v2(void **state)
{
	(void)state;
	const char *self = "0::/system.slice/expertd.service\n";
	assert_true(room(self) == SIZE_MAX);
	write_file("system.slice/expertd.service/memory.max", "max\n");
	write_file("system.slice/expertd.service/memory.current", "300\n");
	assert_true(room(self) == SIZE_MAX);
	write_file("system.slice/expertd.service/memory.max", "1000\n");
	assert_int_equal(room(self), 700);
	write_file("system.slice/expertd.service/memory.stat", "anon 100\ninactive_file 200\n");
	assert_int_equal(room(self), 900);
	write_file("system.slice/memory.max", "5000\n");
	write_file("system.slice/memory.current", "4500\n");
	assert_int_equal(room(self), 500);
	assert_int_equal(room("0::/system.slice/other.service\n"), 500);
	assert_true(room("0::/\n") == SIZE_MAX);
	write_file("system.slice/expertd.service/memory.current", "9000\n");
	assert_int_equal(room(self), 0);
}

/* v1: the memory controller's hierarchy counts, whatever the order of the lines; in a container only its root may be there. */
static void test_v1(void **state)
{
	(void)state;
	write_file("memory/memory.limit_in_bytes", "1000\n");
	write_file("memory/memory.usage_in_bytes", "400\n");
	write_file("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n");
	assert_int_equal(room("0::/u\n5:cpu,cpuacct:/c\n4:memory:/docker/1\n"), 650);
	assert_int_equal(room("4:hugetlb,memory:/docker/1\n0::/u\n"), 650);
	assert_true(room("4:cpu:/docker/1\n") == SIZE_MAX);
}

static void test_no_cgroups(void **state)
{
	(void)state;
	assert_true(ex_mem_cgroup_room("/nonexistent", dir) == SIZE_MAX);
	assert_true(room("nonsense\n1:\n") == SIZE_MAX);
	assert_true(ex_mem_available() > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_v2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_v1, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_cgroups, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
