/* SPDX-License-Identifier: Apache-2.0 */
/* expert/loader: what is no plugin is refused by file and reason; what is one is loaded from a private copy. */
#include "unit.h"

#include "base/str.h"
#include "expert/loader.h"
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODULES "tests/unit/plugins/.libs"
#define TREE    ".libs" /* where the build leaves cpu.so and ref.so */

static const struct ex_loader_opts OPTS = {.dir = MODULES};
static char scratch[64];

static void refused(const char *name, int code, const char *reason)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	int rc = ex_plugin_open(&OPTS, name, &err, &p);
	if (rc != code)
		fail_msg("%s: %d instead of %d: %s", name, rc, code, ex_err_text(&err));
	assert_null(p);
	if (!strstr(ex_err_text(&err), reason) || !strstr(ex_err_text(&err), name))
		fail_msg("%s: the message lacks the name or '%s': %s", name, reason, ex_err_text(&err));
}

static void test_accepted(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	const char *why = NULL;
	EXPECT_OK(err, ex_plugin_open(&OPTS, "example", &err, &p));
	assert_string_equal(ex_plugin_table(p)->name, "example");
	assert_string_equal(ex_plugin_path(p), MODULES "/example.so");
	assert_int_equal(strlen(ex_plugin_sha256(p)), 64);
	assert_int_equal(strlen(ex_plugin_build_id(p)) % 2, 0);
	assert_int_equal(ex_plugin_score(p, NULL), 1);
	assert_null(ex_plugin_ops(p, &why));
	assert_non_null(strstr(why, "no trunk"));
	assert_ptr_equal(ex_plugin_ref(p), p);
	ex_plugin_unref(p);
	assert_string_equal(ex_plugin_table(p)->version, "1.0"); /* still mapped: one reference is left */
	ex_plugin_unref(p);
}

static void test_abi_refused(void **state)
{
	(void)state;
	refused("bad_major", -EPROTO, "major version must be equal");
	refused("bad_minor", -EPROTO, "newer than this daemon's");
	refused("bad_size", -EPROTO, "table of 40 bytes");
	refused("no_run", -EPROTO, "has no run");
	refused("no_symbol", -ENOEXEC, "does not export expertd_plugin");
	refused("absent", -ENOENT, "No such file");
}

static const char *put(const char *name, const void *data, size_t n)
{
	static char path[128];
	snprintf(path, sizeof path, "%s/%s", scratch, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal((size_t)write(fd, data, n), n);
	close(fd);
	return path;
}

static void test_no_elf_refused(void **state)
{
	(void)state;
	refused(put("empty.so", "", 0), -ENOEXEC, "not an ELF");
	refused(put("text.so", "#!/bin/sh\nexit 0\n", 17), -ENOEXEC, "not an ELF");
	refused(put("magic.so", "\177ELF", 4), -ENOEXEC, "truncated");
	char folder[128];
	snprintf(folder, sizeof folder, "%s/folder.so", scratch);
	assert_int_equal(mkdir(folder, 0700), 0);
	refused(folder, -EINVAL, "not a regular file");
	rmdir(folder);
	refused("/dev/zero", -EINVAL, "not a regular file");
	char fifo[128];
	snprintf(fifo, sizeof fifo, "%s/fifo.so", scratch);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	alarm(20); /* a loader that waits for a writer ends here */
	refused(fifo, -EINVAL, "not a regular file");
	alarm(0);
}

static void test_elf_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *data = NULL;
	size_t n;
	EXPECT_OK(err, ex_read_file(MODULES "/example.so", 1 << 24, &err, &data, &n));
	for (size_t cut = 5; cut < n; cut += cut < 4096 ? 97 : n / 23)
		refused(put("cut.so", data, cut), -ENOEXEC, "truncated");
	refused(put("cut.so", data, n - 1), -ENOEXEC, "truncated");
	Elf64_Ehdr h, good;
	memcpy(&good, data, sizeof good);
	h = good;
	h.e_machine = EM_S390;
	memcpy(data, &h, sizeof h);
	refused(put("machine.so", data, n), -ENOEXEC, "another machine");
	h = good;
	h.e_ident[EI_CLASS] = ELFCLASS32;
	memcpy(data, &h, sizeof h);
	refused(put("class.so", data, n), -ENOEXEC, "another machine");
	h = good;
	h.e_type = ET_EXEC;
	memcpy(data, &h, sizeof h);
	refused(put("type.so", data, n), -ENOEXEC, "not a shared object");
	h = good;
	h.e_shoff = UINT64_MAX - 8;
	memcpy(data, &h, sizeof h);
	refused(put("wrap.so", data, n), -ENOEXEC, "truncated");
}

/* The symbol's size in the file's dynamic symbol table. */
static void shrink_symbol(char *data, const char *name, uint64_t size)
{
	Elf64_Ehdr h;
	memcpy(&h, data, sizeof h);
	for (uint32_t i = 0; i < h.e_shnum; i++) {
		Elf64_Shdr s, names;
		memcpy(&s, data + h.e_shoff + i * sizeof s, sizeof s);
		if (s.sh_type != SHT_DYNSYM)
			continue;
		memcpy(&names, data + h.e_shoff + s.sh_link * sizeof names, sizeof names);
		for (size_t k = 0; k < s.sh_size / sizeof(Elf64_Sym); k++) {
			char *at = data + s.sh_offset + k * sizeof(Elf64_Sym);
			Elf64_Sym sym;
			memcpy(&sym, at, sizeof sym);
			if (strcmp(data + names.sh_offset + sym.st_name, name) != 0)
				continue;
			sym.st_size = size;
			memcpy(at, &sym, sizeof sym);
			return;
		}
	}
	fail_msg("no symbol %s", name);
}

/* A table that says its whole size and is not that long: its callbacks would be read from beyond it. */
static void test_short_table_refused(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *data = NULL;
	size_t n;
	EXPECT_OK(err, ex_read_file(MODULES "/example.so", 1 << 24, &err, &data, &n));
	shrink_symbol(data, "expertd_plugin", sizeof(struct expertd_plugin) - 1);
	refused(put("short.so", data, n), -ENOEXEC, "exports less than");
	shrink_symbol(data, "expertd_plugin", 7); /* less than the prefix */
	refused(put("short.so", data, n), -ENOEXEC, "does not export");
}

/* Overwrites headers and symbol tables with junk, one place at a time: refused or loaded, never a crash before dlopen.
 */
static void test_lying_sections(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *data = NULL;
	size_t n;
	EXPECT_OK(err, ex_read_file(MODULES "/example.so", 1 << 24, &err, &data, &n));
	Elf64_Ehdr h;
	memcpy(&h, data, sizeof h);
	for (uint32_t i = 0; i < h.e_shnum; i++) {
		Elf64_Shdr good, bad;
		memcpy(&good, data + h.e_shoff + i * sizeof good, sizeof good);
		if (good.sh_type != SHT_DYNSYM && good.sh_type != SHT_STRTAB)
			continue;
		for (int k = 0; k < 3; k++) {
			bad = good;
			bad.sh_offset = k == 0 ? n - 1 : k == 1 ? UINT64_MAX : good.sh_offset;
			bad.sh_size = k == 2 ? 1 : good.sh_size;
			memcpy(data + h.e_shoff + i * sizeof bad, &bad, sizeof bad);
			struct ex_plugin *p = NULL;
			ex_plugin_open(&OPTS, put("lie.so", data, n), NULL, &p);
			ex_plugin_unref(p);
		}
		memcpy(data + h.e_shoff + i * sizeof good, &good, sizeof good);
	}
}

static void copy_to(const char *from, const char *to)
{
	EX_CLEANUP(ex_freep) char *data = NULL;
	struct ex_err err = EX_ERR_INIT;
	size_t n;
	EXPECT_OK(err, ex_read_file(from, 1 << 24, &err, &data, &n));
	put(to, data, n);
}

/* dlopen of one path twice gives one handle; a replaced file must give two plugins. */
static void test_replaced_file(void **state)
{
	(void)state;
	const char *private_dirs[] = {NULL, scratch};
	for (size_t i = 0; i < EX_ARRAY_LEN(private_dirs); i++) {
		const struct ex_loader_opts o = {.dir = scratch, .private_dir = private_dirs[i]};
		struct ex_err err = EX_ERR_INIT;
		struct ex_plugin *old = NULL, *new = NULL, *again = NULL;
		char path[128], path_new[128];
		copy_to(MODULES "/example.so", "p.so");
		EXPECT_OK(err, ex_plugin_open(&o, "p", &err, &old));
		copy_to(MODULES "/variant.so", "p.new");
		snprintf(path, sizeof path, "%s/p.so", scratch);
		snprintf(path_new, sizeof path_new, "%s/p.new", scratch);
		assert_int_equal(rename(path_new, path), 0);
		EXPECT_OK(err, ex_plugin_open(&o, "p", &err, &new));
		assert_string_equal(ex_plugin_table(old)->name, "example");
		assert_string_equal(ex_plugin_table(new)->name, "variant");
		assert_string_not_equal(ex_plugin_sha256(old), ex_plugin_sha256(new));
		/* the freed descriptor's number comes back with other content */
		ex_plugin_unref(old);
		EXPECT_OK(err, ex_plugin_open(&OPTS, "best", &err, &again));
		assert_int_equal(ex_plugin_score(again, NULL), 50);
		ex_plugin_unref(again);
		ex_plugin_unref(new);
	}
}

static void test_private_dir_unwritable(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	const struct ex_loader_opts o = {.dir = MODULES, .private_dir = "/nonexistent"};
	assert_int_equal(ex_plugin_open(&o, "example", &err, &p), -ENOENT);
	assert_non_null(strstr(ex_err_text(&err), "/nonexistent"));
}

/* Counts refused files, and the plugins that the build makes (a build folder may hold others from earlier times). */
static void count(void *ctx, const char *path, const struct ex_plugin *p, const char *why)
{
	static const char *const names[] = {"best", "example", "fake", "unfit", "variant", "wrong"};
	unsigned *n = ctx;
	n[1] += p == NULL;
	for (size_t i = 0; p && i < EX_ARRAY_LEN(names); i++) {
		char file[64];
		snprintf(file, sizeof file, "%s/%s.so", MODULES, names[i]);
		n[0] += strcmp(path, file) == 0;
	}
	assert_true((p == NULL) == (why != NULL));
	assert_non_null(strstr(path, ".so"));
}

/* As count does, of what the choice of the best passed over. */
static void count_refused(void *ctx, const char *path, const char *why)
{
	count(ctx, path, NULL, why);
}

static void test_best_and_each(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	unsigned n[2] = {0}, passed_over[2] = {0};
	EXPECT_OK(err, ex_plugin_open_best(&OPTS, count_refused, passed_over, &err, &p));
	assert_non_null(strstr(ex_plugin_path(p), "best.so"));
	assert_int_equal(passed_over[1], 5);
	ex_plugin_unref(p);
	EXPECT_OK(err, ex_plugin_each(&OPTS, count, n, &err));
	assert_int_equal(n[0], 6);
	assert_int_equal(n[1], 5);
	const struct ex_loader_opts none = {.dir = "/nonexistent"};
	assert_int_equal(ex_plugin_open_best(&none, count_refused, n, &err, &p), -ENOENT);
	copy_to(MODULES "/unfit.so", "unfit.so");
	char only[80];
	snprintf(only, sizeof only, "%s/only", scratch);
	assert_int_equal(mkdir(only, 0700), 0);
	copy_to(MODULES "/unfit.so", "only/unfit.so");
	const struct ex_loader_opts unfit = {.dir = only};
	assert_int_equal(ex_plugin_open_best(&unfit, count_refused, n, &err, &p), -ENOENT);
	assert_int_equal(n[1], 5); /* one that does not fit the machine is no refusal */
	assert_non_null(strstr(ex_err_text(&err), "no plugin"));
}

static void test_trunk_of_this_build(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	const char *why = NULL;
	const struct ex_loader_opts o = {.dir = TREE};
	EXPECT_OK(err, ex_plugin_open(&o, "cpu", &err, &p));
	if (!ex_plugin_ops(p, &why))
		fail_msg("cpu: %s", why);
	ex_plugin_unref(p);
	EXPECT_OK(err, ex_plugin_open(&OPTS, "variant", &err, &p));
	assert_null(ex_plugin_ops(p, &why));
	assert_non_null(strstr(why, "another build"));
	ex_plugin_unref(p);
}

static int make_scratch(void **state)
{
	(void)state;
	snprintf(scratch, sizeof scratch, "/tmp/test_loader.XXXXXX");
	return mkdtemp(scratch) ? 0 : -1;
}

static int drop_scratch(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof command, "rm -rf '%s'", scratch);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_abi_refused),
		cmocka_unit_test(test_no_elf_refused),
		cmocka_unit_test(test_elf_refused),
		cmocka_unit_test(test_short_table_refused),
		cmocka_unit_test(test_lying_sections),
		cmocka_unit_test(test_replaced_file),
		cmocka_unit_test(test_private_dir_unwritable),
		cmocka_unit_test(test_best_and_each),
		cmocka_unit_test(test_trunk_of_this_build),
	};
	return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
