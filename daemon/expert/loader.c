/* SPDX-License-Identifier: Apache-2.0 */
/* Loads plugins. The bytes that are checked are the bytes that are loaded: both are a private copy. Layer L2. */
#include "expert/loader.h"

#include "base/mem.h"
#include "base/str.h"
#include "build/id.h"
#include "expert/plugin_file.h"
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PLUGIN_FILES_MAX 256
#define PLUGIN_MAGIC     0x706c7567

/* The frozen head of trunk/ops.h's struct ex_ops. Equal builds mean equal tables. */
struct ops_head {
	uint32_t version, size;
	char build[24];
};

struct ex_plugin {
	uint32_t magic;
	atomic_uint n_refs;
	char *path;
	int fd; /* of the private copy: open as long as it is mapped, for its number is part of the name that dlopen
		   knows it by */
	void *handle;
	const struct expertd_plugin *table;
	int score;
	const char *why;
	char sha256[EX_PLUGIN_SHA256_HEX];
	char build_id[EX_BUILD_ID_HEX];
};

static int copy_path(const struct ex_loader_opts *o, const char *name, char **ret)
{
	size_t n = strlen(name);
	bool is_path = strchr(name, '/') || (n > 3 && strcmp(name + n - 3, ".so") == 0);
	int rc = is_path ? asprintf(ret, "%s", name) : asprintf(ret, "%s/%s.so", o->dir, name);
	return rc < 0 ? -ENOMEM : 0;
}

static int private_memory(const char *data, size_t n, int *ret_fd)
{
	EX_CLEANUP(ex_closep) int fd = memfd_create("expertd-plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	int rc = ex_write_all(fd, data, n);
	if (rc == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		rc = -errno;
	if (rc < 0)
		return rc;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

static int check_table(const struct expertd_plugin *t, const char *path, struct ex_err *err)
{
	static const struct {
		const char *name;
		size_t at;
	} must[] = {
		{"name", offsetof(struct expertd_plugin, name)},
		{"version", offsetof(struct expertd_plugin, version)},
		{"probe", offsetof(struct expertd_plugin, probe)},
		{"open", offsetof(struct expertd_plugin, open)},
		{"load", offsetof(struct expertd_plugin, load)},
		{"run", offsetof(struct expertd_plugin, run)},
		{"unload", offsetof(struct expertd_plugin, unload)},
		{"close", offsetof(struct expertd_plugin, close)},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(must); i++) {
		uintptr_t p;
		memcpy(&p, (const char *)t + must[i].at, sizeof p);
		if (!p)
			return ex_err_set(err, -EPROTO, "plugin '%s' has no %s", path, must[i].name);
	}
	return 0;
}

/* Reads the file, checks it, and leaves a private copy of it in p->fd. */
static int take_copy(struct ex_plugin *p, const char *private_dir, struct ex_err *err)
{
	EX_CLEANUP(ex_plugin_file_done) struct ex_plugin_file f = {.n = 0};
	uint8_t build_id[EX_ELF_BUILD_ID_MAX];
	int rc = ex_plugin_file_read(&f, p->path, err);
	if (rc == 0)
		rc = ex_plugin_file_check(&f, p->path, err);
	if (rc < 0)
		return rc;
	memcpy(p->sha256, f.sha256, sizeof p->sha256);
	ex_hex(build_id, ex_elf_build_id(&f.elf, build_id), p->build_id);
	rc = private_dir ? ex_plugin_file_keep(&f, private_dir, &p->fd) : private_memory(f.data, f.n, &p->fd);
	if (rc < 0)
		return ex_err_errno(
			err, rc, "cannot copy plugin '%s' to %s", p->path, private_dir ? private_dir : "memory");
	return 0;
}

static int map_copy(struct ex_plugin *p, struct ex_err *err)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", p->fd);
	p->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!p->handle)
		return ex_err_set(err, -ENOEXEC, "cannot load plugin '%s': %s", p->path, dlerror());
	p->table = dlsym(p->handle, "expertd_plugin");
	if (!p->table)
		return ex_err_set(err, -ENOEXEC, "'%s' is not a plugin: it does not export expertd_plugin", p->path);
	int rc = check_table(p->table, p->path, err);
	if (rc == 0)
		p->score = p->table->probe(&p->why);
	return rc;
}

/* The descriptor is closed only when the mapping is gone: a later plugin under the same number would be taken for this
 * one. */
static void unmap_copy(struct ex_plugin *p)
{
	char path[32];
	bool unloadable = !p->table || (p->table->flags & EXPERTD_UNLOADABLE);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p->fd);
	if (p->handle && unloadable && dlclose(p->handle) == 0) {
		void *left = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
		if (!left)
			p->handle = NULL;
		else
			dlclose(left);
	}
	if (!p->handle)
		ex_closep(&p->fd);
}

int ex_plugin_open(const struct ex_loader_opts *o, const char *name, struct ex_err *err, struct ex_plugin **ret)
{
	EX_CLEANUP(ex_plugin_unrefp) struct ex_plugin *p = ex_calloc(1, sizeof *p);
	if (!p)
		return ex_err_errno(err, -ENOMEM, "cannot load plugin '%s'", name);
	p->magic = PLUGIN_MAGIC;
	p->n_refs = 1;
	p->fd = -1;
	if (copy_path(o, name, &p->path) < 0)
		return ex_err_errno(err, -ENOMEM, "cannot load plugin '%s'", name);
	int rc = take_copy(p, o->private_dir, err);
	if (rc == 0)
		rc = map_copy(p, err);
	if (rc < 0)
		return rc;
	*ret = EX_TAKE(p);
	return 0;
}

struct ex_plugin *ex_plugin_ref(struct ex_plugin *p)
{
	EX_CHECK_OBJ(p, PLUGIN_MAGIC);
	atomic_fetch_add_explicit(&p->n_refs, 1, memory_order_relaxed);
	return p;
}

struct ex_plugin *ex_plugin_unref(struct ex_plugin *p)
{
	if (!p)
		return NULL;
	EX_CHECK_OBJ(p, PLUGIN_MAGIC);
	if (atomic_fetch_sub_explicit(&p->n_refs, 1, memory_order_acq_rel) > 1)
		return NULL;
	unmap_copy(p);
	free(p->path);
	p->magic = 0;
	free(p);
	return NULL;
}

const struct expertd_plugin *ex_plugin_table(const struct ex_plugin *p)
{
	return p->table;
}

const char *ex_plugin_path(const struct ex_plugin *p)
{
	return p->path;
}

const char *ex_plugin_sha256(const struct ex_plugin *p)
{
	return p->sha256;
}

const char *ex_plugin_build_id(const struct ex_plugin *p)
{
	return p->build_id;
}

int ex_plugin_score(const struct ex_plugin *p, const char **ret_why)
{
	if (ret_why)
		*ret_why = p->why ? p->why : "it gives no reason";
	return p->score;
}

const struct ex_ops *ex_plugin_ops(const struct ex_plugin *p, const char **ret_why)
{
	const struct ops_head *head = dlsym(p->handle, "expertd_trunk");
	if (!head) {
		*ret_why = "it has no trunk backend";
		return NULL;
	}
	if (strncmp(head->build, EX_BUILD, sizeof head->build) != 0) {
		*ret_why = "its trunk backend is of another build than this daemon's (" EX_BUILD ")";
		return NULL;
	}
	return (const struct ex_ops *)head;
}

struct files {
	char *name[PLUGIN_FILES_MAX];
	size_t n;
};

static void files_done(struct files *f)
{
	for (size_t i = 0; i < f->n; i++)
		free(f->name[i]);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* DIR's *.so as paths, in order of their names; beyond PLUGIN_FILES_MAX -E2BIG. */
static int list_files(const char *dir, struct ex_err *err, struct files *ret)
{
	DIR *d = opendir(dir);
	if (!d)
		return ex_err_errno(err, -errno, "cannot list plugins in '%s'", dir);
	int rc = 0;
	for (const struct dirent *e; rc == 0 && (e = readdir(d));) {
		size_t n = strlen(e->d_name);
		if (n <= 3 || strcmp(e->d_name + n - 3, ".so") != 0)
			continue;
		if (ret->n == PLUGIN_FILES_MAX)
			rc = ex_err_set(err, -E2BIG, "'%s' holds more than %d plugins", dir, PLUGIN_FILES_MAX);
		else if (asprintf(&ret->name[ret->n], "%s/%s", dir, e->d_name) < 0)
			rc = ex_err_errno(err, -ENOMEM, "cannot list plugins in '%s'", dir);
		else
			ret->n++;
	}
	closedir(d);
	qsort(ret->name, ret->n, sizeof ret->name[0], compare_names);
	return rc;
}

int ex_plugin_each(const struct ex_loader_opts *o,
	void (*fn)(void *ctx, const char *path, const struct ex_plugin *p, const char *why), void *ctx,
	struct ex_err *err)
{
	EX_CLEANUP(files_done) struct files files = {.n = 0};
	int rc = list_files(o->dir, err, &files);
	for (size_t i = 0; rc == 0 && i < files.n; i++) {
		struct ex_err why = EX_ERR_INIT;
		EX_CLEANUP(ex_plugin_unrefp) struct ex_plugin *p = NULL;
		if (ex_plugin_open(o, files.name[i], &why, &p) < 0)
			fn(ctx, files.name[i], NULL, ex_err_text(&why));
		else
			fn(ctx, files.name[i], p, NULL);
	}
	return rc;
}

int ex_plugin_open_best(const struct ex_loader_opts *o, void (*refused)(void *ctx, const char *path, const char *why),
	void *ctx, struct ex_err *err, struct ex_plugin **ret)
{
	EX_CLEANUP(files_done) struct files files = {.n = 0};
	EX_CLEANUP(ex_plugin_unrefp) struct ex_plugin *best = NULL;
	int rc = list_files(o->dir, err, &files);
	for (size_t i = 0; rc == 0 && i < files.n; i++) {
		struct ex_err why = EX_ERR_INIT;
		EX_CLEANUP(ex_plugin_unrefp) struct ex_plugin *p = NULL;
		if (ex_plugin_open(o, files.name[i], &why, &p) < 0)
			refused(ctx, files.name[i], ex_err_text(&why));
		if (!p || p->score <= (best ? best->score : 0))
			continue;
		ex_plugin_unref(best);
		best = EX_TAKE(p);
	}
	if (rc == 0 && !best)
		rc = ex_err_set(err, -ENOENT, "no plugin in '%s' can run on this machine", o->dir);
	if (rc == 0)
		*ret = EX_TAKE(best);
	return rc;
}
