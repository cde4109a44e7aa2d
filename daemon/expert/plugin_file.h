/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin's file before any of it is run: its digest, its ABI, a private copy by content. Layer L2. */
#ifndef EX_EXPERT_PLUGIN_FILE_H
#define EX_EXPERT_PLUGIN_FILE_H

#include "base/err.h"
#include "expert/elf.h"
#include <stdbool.h>

#define EX_PLUGIN_SHA256_HEX 65
#define EX_ALLOW_BYTES_MAX   ((size_t)1 << 20) /* of one file that lists digests */

struct ex_plugin_file {
	char *data;
	size_t n;
	struct ex_elf elf; /* over data; valid once checked */
	char sha256[EX_PLUGIN_SHA256_HEX];
};

/* Reads the whole file. f is the caller's, ex_plugin_file_done in any case. [any] */
int ex_plugin_file_read(struct ex_plugin_file *f, const char *path, struct ex_err *err);
void ex_plugin_file_done(struct ex_plugin_file *f);
/* An ELF shared object of this machine whose expertd_plugin has our ABI. path: for messages. -ENOEXEC, -EPROTO. [any] */
int ex_plugin_file_check(struct ex_plugin_file *f, const char *path, struct ex_err *err);
/* Leaves DIR/<sha256>.so, on the disk when it returns; *ret_fd (if wanted) is it, open for reading. Made anew unless it is there with this
 * content. -errno. [any] */
int ex_plugin_file_keep(const struct ex_plugin_file *f, const char *dir, int *ret_fd);
/* True when a plugin of this digest is in DIR, or `allow` names it: each item is a digest, or the path of a file with digests, as the first word
 * of each line (so sha256sum writes it; '#' begins a comment). A file that cannot be read allows nothing: err. [any] */
bool ex_plugin_allowed(
	const char *sha256, const char *dir, const char *const *allow, size_t n_allow, struct ex_err *err);

#endif
