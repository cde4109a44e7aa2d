/* SPDX-License-Identifier: Apache-2.0 */
/* What the loader wants to know of a shared object before any of its code runs. Layer L2. */
#ifndef EX_EXPERT_ELF_H
#define EX_EXPERT_ELF_H

#include "base/err.h"
#include <stdbool.h>

#define EX_ELF_BUILD_ID_MAX 20

/* A file in memory. */
struct ex_elf {
	const uint8_t *data;
	size_t size;
};

/* Is it a whole shared object of this machine? Headers, segments and sections must lie within the file. -ENOEXEC with
 * the reason; `path` stands in the message. [any] */
int ex_elf_check(const struct ex_elf *elf, const char *path, struct ex_err *err);
/* Where a defined dynamic object symbol's bytes [n] lie in the file, NULL when there is no such symbol with so many.
 * The file was checked. [any] */
const uint8_t *ex_elf_symbol(const struct ex_elf *elf, const char *name, size_t n);
/* The GNU build id, its bytes in out; returns how many, 0 without one. The file was checked. [any] */
size_t ex_elf_build_id(const struct ex_elf *elf, uint8_t out[static EX_ELF_BUILD_ID_MAX]);

#endif
