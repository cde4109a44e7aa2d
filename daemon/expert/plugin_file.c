/* SPDX-License-Identifier: Apache-2.0 */
/* Plugins as bytes. Layer L2. */
#include "expert/plugin_file.h"

#include "base/mem.h"
#include "base/str.h"
#include "expertd/plugin.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLUGIN_BYTES_MAX ((size_t)1 << 30)
#define SHA256_BYTES     32

int ex_plugin_file_read(struct ex_plugin_file *f, const char *path, struct ex_err *err)
{
	uint8_t digest[SHA256_BYTES];
	*f = (struct ex_plugin_file){.n = 0};
	int rc = ex_read_file(path, PLUGIN_BYTES_MAX, err, &f->data, &f->n);
	if (rc < 0) {
		ex_err_prefix(err, "plugin");
		return rc;
	}
	if (!EVP_Digest(f->data, f->n, digest, NULL, EVP_sha256(), NULL))
		return ex_err_set(err, -EIO, "cannot compute the digest of plugin '%s'", path);
	ex_hex(digest, sizeof digest, f->sha256);
	f->elf = (struct ex_elf){.data = (const uint8_t *)f->data, .size = f->n};
	return 0;
}

void ex_plugin_file_done(struct ex_plugin_file *f)
{
	free(f->data);
	*f = (struct ex_plugin_file){.n = 0};
}

/* The 8 bytes that are looked at before anything is called, or even mapped. */
static int check_prefix(const struct ex_elf *elf, const char *path, struct ex_err *err)
{
	struct {
		uint16_t major, minor;
		uint32_t size;
	} prefix;
	const uint8_t *at = ex_elf_symbol(elf, "expertd_plugin", sizeof prefix);
	if (!at)
		return ex_err_set(err, -ENOEXEC, "'%s' is not a plugin: it does not export expertd_plugin", path);
	memcpy(&prefix, at, sizeof prefix);
	if (prefix.major != EXPERTD_ABI_MAJOR)
		return ex_err_set(err, -EPROTO,
			"plugin '%s' speaks ABI %u.%u, this daemon %d.%d: the major version must be equal", path,
			prefix.major, prefix.minor, EXPERTD_ABI_MAJOR, EXPERTD_ABI_MINOR);
	if (prefix.minor > EXPERTD_ABI_MINOR)
		return ex_err_set(err, -EPROTO, "plugin '%s' speaks ABI %u.%u, newer than this daemon's %d.%d", path,
			prefix.major, prefix.minor, EXPERTD_ABI_MAJOR, EXPERTD_ABI_MINOR);
	if (prefix.size != sizeof(struct expertd_plugin))
		return ex_err_set(err, -EPROTO, "plugin '%s' has a table of %u bytes where ABI %u.%u has %zu", path,
			prefix.size, prefix.major, prefix.minor, sizeof(struct expertd_plugin));
	if (!ex_elf_symbol(elf, "expertd_plugin", prefix.size))
		return ex_err_set(
			err, -ENOEXEC, "plugin '%s' exports less than the %u bytes of its table", path, prefix.size);
	return 0;
}

int ex_plugin_file_check(struct ex_plugin_file *f, const char *path, struct ex_err *err)
{
	int rc = ex_elf_check(&f->elf, path, err);
	return rc < 0 ? rc : check_prefix(&f->elf, path, err);
}

/* --- the private copy ------------------------------------------------------------------------------------ */

static bool is_there(const struct ex_plugin_file *f, const char *path)
{
	EX_CLEANUP(ex_plugin_file_done) struct ex_plugin_file there = {.n = 0};
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size == f->n &&
	       ex_plugin_file_read(&there, path, NULL) == 0 && strcmp(there.sha256, f->sha256) == 0;
}

/* Written whole and on the disk, then named, then the name is on the disk. */
static int write_copy(const struct ex_plugin_file *f, const char *dir, const char *path)
{
	char temporary[PATH_MAX];
	if ((size_t)snprintf(temporary, sizeof temporary, "%s/.%s.%d", dir, f->sha256, (int)getpid()) >=
		sizeof temporary)
		return -ENAMETOOLONG;
	EX_CLEANUP(ex_closep) int fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0500);
	if (fd < 0)
		return -errno;
	int rc = ex_write_all(fd, f->data, f->n);
	if (rc == 0 && (fsync(fd) < 0 || rename(temporary, path) < 0))
		rc = -errno;
	if (rc == 0)
		return ex_sync_dir(dir);
	unlink(temporary);
	return rc;
}

int ex_plugin_file_keep(const struct ex_plugin_file *f, const char *dir, int *ret_fd)
{
	char path[PATH_MAX];
	if ((size_t)snprintf(path, sizeof path, "%s/%s.so", dir, f->sha256) >= sizeof path)
		return -ENAMETOOLONG;
	int rc = is_there(f, path) ? 0 : write_copy(f, dir, path);
	if (rc < 0 || !ret_fd)
		return rc;
	/* not the one that was written to: that would make the file busy */
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* --- what is allowed ------------------------------------------------------------------------------------- */

static bool is_digest(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isxdigit((unsigned char)s[i]))
			return false;
	return n == 2 * SHA256_BYTES;
}

static bool is_listed(const char *sha256, const char *path, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	if (ex_read_file(path, EX_ALLOW_BYTES_MAX, err, &text, &n) < 0) {
		ex_err_prefix(err, "the list of allowed plugins");
		return false;
	}
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		line += strspn(line, " \t");
		size_t length = strcspn(line, " \t\r#");
		if (is_digest(line, length) && strncasecmp(line, sha256, length) == 0)
			return true;
	}
	return false;
}

static bool is_in_dir(const char *sha256, const char *dir)
{
	bool found = false;
	DIR *d = opendir(dir);
	for (const struct dirent *e; d && !found && (e = readdir(d));) {
		EX_CLEANUP(ex_plugin_file_done) struct ex_plugin_file f = {.n = 0};
		char path[PATH_MAX];
		size_t n = strlen(e->d_name);
		if (n <= 3 || strcmp(e->d_name + n - 3, ".so") != 0 ||
			(size_t)snprintf(path, sizeof path, "%s/%s", dir, e->d_name) >= sizeof path)
			continue;
		found = ex_plugin_file_read(&f, path, NULL) == 0 && strcmp(f.sha256, sha256) == 0;
	}
	if (d)
		closedir(d);
	return found;
}

bool ex_plugin_allowed(
	const char *sha256, const char *dir, const char *const *allow, size_t n_allow, struct ex_err *err)
{
	for (size_t i = 0; i < n_allow; i++)
		if (is_digest(allow[i], strlen(allow[i])) ? strcasecmp(allow[i], sha256) == 0
							  : is_listed(sha256, allow[i], err))
			return true;
	return is_in_dir(sha256, dir);
}
