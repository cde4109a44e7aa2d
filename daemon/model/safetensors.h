/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors files: a directory's tensors found by name, mapped read-only. Layer L1.
 * A file is eight bytes of header length (little-endian), a JSON header, then data. Every lie that a header can tell is
 * refused with the file and the tensor named. Source: the format's README at github.com/huggingface/safetensors. */
#ifndef EX_MODEL_SAFETENSORS_H
#define EX_MODEL_SAFETENSORS_H

#include "base/err.h"
#include <stdbool.h>

#define EX_SAFETENSORS_HEADER_MAX 100000000u /* bytes: the format's own limit */
#define EX_SAFETENSORS_FILES_MAX  4096       /* of one directory */
#define EX_SAFETENSORS_DIMS_MAX   8

struct ex_safetensors; /* opaque; immutable after open */

struct ex_tensor {
	const char *name;
	const char *dtype_name; /* as the file has it: "BF16" */
	uint32_t dtype;         /* enum expertd_dtype; 0: one that expertd does not compute with */
	uint32_t n_dims;
	uint64_t dims[EX_SAFETENSORS_DIMS_MAX];
	uint64_t bytes;
	const void *data; /* in the mapping, at any alignment */
	uint32_t file;
};

/* Opens DIR's model.safetensors.index.json and the files it names, or else model.safetensors. Reads headers, not data.
 * [any] */
int ex_safetensors_open(const char *dir, struct ex_err *err, struct ex_safetensors **ret);
/* One file. [any] */
int ex_safetensors_open_file(const char *path, struct ex_err *err, struct ex_safetensors **ret);
struct ex_safetensors *ex_safetensors_close(struct ex_safetensors *s);
EX_DEFINE_CLEANUP(struct ex_safetensors, ex_safetensors_close)

/* NULL: no such tensor. Borrowed. [any] */
const struct ex_tensor *ex_safetensors_find(const struct ex_safetensors *s, const char *name);

/* Tensors in ascending order of their names' bytes. i < count. [any] */
size_t ex_safetensors_count(const struct ex_safetensors *s);
const struct ex_tensor *ex_safetensors_at(const struct ex_safetensors *s, size_t i);

uint32_t ex_safetensors_n_files(const struct ex_safetensors *s);
const char *ex_safetensors_file_path(const struct ex_safetensors *s, uint32_t file);
/* Says how the data will be read from now on: scattered, page by page; or (false) as usual, with read-ahead, and what
 * was mapped so far is given back. [any] */
void ex_safetensors_scattered(const struct ex_safetensors *s, bool scattered);
/* True when [p, p + n) lies in a mapping. [any] */
bool ex_safetensors_maps(const struct ex_safetensors *s, const void *p, size_t n);

#endif
