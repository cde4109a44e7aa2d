/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors files: a directory's tensors found by name, mapped read-only. Layer L1.
 * A file that shrinks while it is mapped is not survived (SIGBUS): checkpoints are replaced by new directories, never
 * in place. */
#include "model/safetensors.h"

#include "base/mem.h"
#include "base/str.h"
#include "expertd/plugin.h"
#include "model/json.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_BYTES 8 /* the header's length, before it */
#define TENSORS_MAX  (1 << 22)
#define NAME_MAX_LEN 255

struct file {
	char *path;
	uint8_t *map;
	size_t size;
};

struct ex_safetensors {
	struct file *files;
	size_t n_files, files_cap;
	struct ex_tensor *tensors; /* by name, once all files are read */
	size_t n_tensors, tensors_cap;
};

/* Source: the Dtype enum of the safetensors library. */
static const struct {
	const char *name;
	uint32_t dtype, bits;
} dtypes[] = {
	{"F32", EXPERTD_F32, 32},
	{"BF16", EXPERTD_BF16, 16},
	{"F16", EXPERTD_F16, 16},
	{"F8_E4M3", EXPERTD_F8E4M3, 8},
	{"BOOL", 0, 8},
	{"U8", 0, 8},
	{"I8", 0, 8},
	{"I16", 0, 16},
	{"U16", 0, 16},
	{"I32", 0, 32},
	{"U32", 0, 32},
	{"I64", 0, 64},
	{"U64", 0, 64},
	{"F64", 0, 64},
	{"C64", 0, 64},
	{"F8_E5M2", 0, 8},
	{"F8_E8M0", 0, 8},
	{"F6_E2M3", 0, 6},
	{"F6_E3M2", 0, 6},
	{"F4", 0, 4},
};

/* What is being read, for messages. */
struct entry_ctx {
	const char *path, *name;
	uint64_t data_bytes;
	struct ex_err *err;
};

static int refuse(const struct entry_ctx *x, const char *fmt, ...) EX_PRINTF(2, 3);
static int refuse(const struct entry_ctx *x, const char *fmt, ...)
{
	char why[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	return ex_err_set(x->err, -EINVAL, "'%s': tensor '%.*s': %s", x->path, NAME_MAX_LEN, x->name, why);
}

/* A non-negative integer of the header. */
static int read_u64(const struct entry_ctx *x, const char *key, const json_t *v, uint64_t *ret)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return refuse(x, "%s holds something that is not an integer >= 0", key);
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int read_shape(const struct entry_ctx *x, const json_t *shape, struct ex_tensor *t)
{
	size_t n = json_array_size(shape);
	int rc;
	if (!json_is_array(shape))
		return refuse(x, "shape is missing or not a list");
	if (n > EX_SAFETENSORS_DIMS_MAX)
		return refuse(x, "shape has %zu dimensions, more than %d", n, EX_SAFETENSORS_DIMS_MAX);
	for (size_t i = 0; i < n; i++)
		if ((rc = read_u64(x, "shape", json_array_get(shape, i), &t->dims[i])) < 0)
			return rc;
	t->n_dims = (uint32_t)n;
	return 0;
}

/* The place in the data, [*ret_begin, *ret_begin + t->bytes). */
static int read_offsets(const struct entry_ctx *x, const json_t *offsets, struct ex_tensor *t, uint64_t *ret_begin)
{
	uint64_t begin = 0, end = 0;
	int rc;
	if (json_array_size(offsets) != 2)
		return refuse(x, "data_offsets is not a list of two integers");
	if ((rc = read_u64(x, "data_offsets", json_array_get(offsets, 0), &begin)) < 0 ||
		(rc = read_u64(x, "data_offsets", json_array_get(offsets, 1), &end)) < 0)
		return rc;
	if (begin > end)
		return refuse(x, "data_offsets [%llu, %llu] end before they begin", (unsigned long long)begin,
			(unsigned long long)end);
	if (end > x->data_bytes)
		return refuse(x, "data_offsets [%llu, %llu] lie past the file's %llu bytes of data",
			(unsigned long long)begin, (unsigned long long)end, (unsigned long long)x->data_bytes);
	t->bytes = end - begin;
	*ret_begin = begin;
	return 0;
}

/* Sets t's dtype and checks that shape and dtype give its length. An unknown dtype is for whoever needs the tensor to
 * refuse. */
static int check_length(const struct entry_ctx *x, const char *dtype, struct ex_tensor *t)
{
	size_t i = 0;
	uint64_t bits;
	while (i < EX_ARRAY_LEN(dtypes) && strcmp(dtypes[i].name, dtype) != 0)
		i++;
	if (i == EX_ARRAY_LEN(dtypes))
		return 0;
	t->dtype = dtypes[i].dtype;
	bits = dtypes[i].bits;
	for (uint32_t d = 0; d < t->n_dims; d++)
		if (__builtin_mul_overflow(bits, t->dims[d], &bits))
			return refuse(x, "shape overflows");
	if (bits % 8 || bits / 8 != t->bytes)
		return refuse(x, "shape and dtype %s make %llu bytes, data_offsets %llu", dtype,
			(unsigned long long)(bits / 8), (unsigned long long)t->bytes);
	return 0;
}

static struct ex_tensor *push_tensor(struct ex_safetensors *s, const struct ex_tensor *t)
{
	if (ex_grow(&s->tensors, &s->tensors_cap, s->n_tensors + 1, sizeof *s->tensors) < 0)
		return NULL;
	s->tensors[s->n_tensors] = *t;
	return &s->tensors[s->n_tensors++];
}

/* Name and dtype in one block, owned by the tensor through its name. */
static int set_names(struct ex_tensor *t, const char *name, const char *dtype)
{
	size_t n = strlen(name) + 1, k = strlen(dtype) + 1;
	char *block = malloc(n + k);
	if (!block)
		return -ENOMEM;
	memcpy(block, name, n);
	memcpy(block + n, dtype, k);
	t->name = block;
	t->dtype_name = block + n;
	return 0;
}

static int read_entry(struct ex_safetensors *s, const struct entry_ctx *x, const json_t *v, const uint8_t *data)
{
	struct ex_tensor t = {.file = (uint32_t)(s->n_files - 1)};
	const char *key, *dtype = json_string_value(json_object_get(v, "dtype"));
	json_t *inner;
	uint64_t begin = 0;
	int rc;
	if (!json_is_object(v))
		return refuse(x, "is not described by an object");
	json_object_foreach((json_t *)v, key, inner) if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 &&
							 strcmp(key, "data_offsets") != 0) return refuse(x,
		"key '%.64s' is not understood", key);
	if (!dtype || strlen(dtype) > 32)
		return refuse(x, "dtype is missing or not a short string");
	if (!x->name[0] || strlen(x->name) > NAME_MAX_LEN)
		return refuse(x, "a name has 1 to %d bytes", NAME_MAX_LEN);
	if ((rc = read_shape(x, json_object_get(v, "shape"), &t)) < 0 ||
		(rc = read_offsets(x, json_object_get(v, "data_offsets"), &t, &begin)) < 0 ||
		(rc = check_length(x, dtype, &t)) < 0)
		return rc;
	if (s->n_tensors == TENSORS_MAX)
		return refuse(x, "is one too many: %d at most", TENSORS_MAX);
	t.data = data + begin;
	if (set_names(&t, x->name, dtype) < 0)
		return ex_err_errno(x->err, -ENOMEM, "'%s'", x->path);
	if (!push_tensor(s, &t)) {
		free((char *)t.name);
		return ex_err_errno(x->err, -ENOMEM, "'%s'", x->path);
	}
	return 0;
}

static int compare_places(const void *a, const void *b)
{
	const struct ex_tensor *s = a, *t = b;
	if (s->data != t->data)
		return (const uint8_t *)s->data < (const uint8_t *)t->data ? -1 : 1;
	return s->bytes < t->bytes ? -1 : s->bytes > t->bytes; /* empty ones first */
}

/* Tensors first..n-1, all of one file, must cover its data without overlap or gap, as the format demands: bytes that
 * belong to nothing, or to two tensors, can hide something. */
static int check_cover(struct ex_safetensors *s, size_t first, const struct entry_ctx *file, const uint8_t *data)
{
	struct entry_ctx x = *file;
	const uint8_t *at = data;
	if (s->n_tensors > first)
		qsort(s->tensors + first, s->n_tensors - first, sizeof *s->tensors, compare_places);
	for (size_t i = first; i < s->n_tensors; i++) {
		const struct ex_tensor *t = &s->tensors[i];
		x.name = t->name;
		if ((const uint8_t *)t->data < at)
			return refuse(&x, "its data overlaps that of '%s'", s->tensors[i - 1].name);
		if ((const uint8_t *)t->data > at)
			return refuse(&x, "%llu bytes before its data belong to no tensor",
				(unsigned long long)((const uint8_t *)t->data - at));
		at += t->bytes;
	}
	if (at != data + x.data_bytes)
		return ex_err_set(x.err, -EINVAL, "'%s': the last %llu bytes belong to no tensor", x.path,
			(unsigned long long)(data + x.data_bytes - at));
	return 0;
}

static int map_file(struct ex_safetensors *s, const char *path, struct ex_err *err)
{
	EX_CLEANUP(ex_closep)
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO is refused, not waited for */
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return ex_err_errno(err, -errno, "cannot open '%s'", path);
	if (!S_ISREG(st.st_mode))
		return ex_err_set(err, -EINVAL, "'%s' is not a regular file", path);
	if (st.st_size < LENGTH_BYTES)
		return ex_err_set(err, -EINVAL, "'%s' has %lld bytes, too few for a safetensors file", path,
			(long long)st.st_size);
	if (s->n_files == EX_SAFETENSORS_FILES_MAX)
		return ex_err_set(err, -E2BIG, "'%s': more than %d files", path, EX_SAFETENSORS_FILES_MAX);
	struct file f = {.path = strdup(path), .size = (size_t)st.st_size};
	if (!f.path || ex_grow(&s->files, &s->files_cap, s->n_files + 1, sizeof *s->files) < 0) {
		free(f.path);
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", path);
	}
	f.map = mmap(NULL, f.size, PROT_READ, MAP_SHARED, fd, 0);
	if (f.map == MAP_FAILED) {
		int rc = ex_err_errno(err, -errno, "cannot map '%s'", path);
		free(f.path);
		return rc;
	}
	s->files[s->n_files++] = f;
	return 0;
}

/* The header of the file mapped last, as an object; json_decref it. */
static int parse_header(const struct file *f, struct ex_err *err, json_t **ret, uint64_t *ret_length)
{
	uint64_t length = 0;
	json_error_t why;
	for (int i = 0; i < LENGTH_BYTES; i++)
		length |= (uint64_t)f->map[i] << 8 * i;
	if (length > EX_SAFETENSORS_HEADER_MAX)
		return ex_err_set(err, -EINVAL, "'%s': header of %llu bytes, more than the %u allowed", f->path,
			(unsigned long long)length, EX_SAFETENSORS_HEADER_MAX);
	if (length > f->size - LENGTH_BYTES)
		return ex_err_set(err, -EINVAL, "'%s': header of %llu bytes in a file of %zu: the file is cut short",
			f->path, (unsigned long long)length, f->size);
	/* The format wants it as the first byte: other readers refuse a header that begins with white space. */
	if (length == 0 || f->map[LENGTH_BYTES] != '{')
		return ex_err_set(err, -EINVAL, "'%s': header does not begin with '{'", f->path);
	json_t *root = json_loadb((const char *)f->map + LENGTH_BYTES, length, JSON_REJECT_DUPLICATES, &why);
	if (!root)
		return ex_err_set(err, -EINVAL, "'%s': header: byte %d: %s", f->path, why.position, why.text);
	*ret = root; /* an object: it begins with '{' */
	*ret_length = length;
	return 0;
}

/* Texts by name, as the format has it. */
static int check_metadata(const struct file *f, const json_t *v, struct ex_err *err)
{
	const char *key;
	json_t *text;
	if (!json_is_object(v))
		return ex_err_set(err, -EINVAL, "'%s': header: __metadata__ is not an object", f->path);
	json_object_foreach((json_t *)v, key, text)
	{
		if (!json_is_string(text))
			return ex_err_set(err, -EINVAL,
				"'%s': header: __metadata__ holds '%.64s', which is not a string", f->path, key);
	}
	return 0;
}

static int add_file(struct ex_safetensors *s, const char *path, struct ex_err *err)
{
	size_t first = s->n_tensors;
	const char *name;
	json_t *header = NULL, *v;
	uint64_t length = 0;
	int rc = map_file(s, path, err);
	if (rc < 0)
		return rc;
	const struct file *f = &s->files[s->n_files - 1];
	if ((rc = parse_header(f, err, &header, &length)) < 0)
		return rc;
	const uint8_t *data = f->map + LENGTH_BYTES + length;
	struct entry_ctx x = {.path = f->path, .data_bytes = f->size - LENGTH_BYTES - length, .err = err};
	json_object_foreach(header, name, v)
	{
		x.name = name;
		bool metadata = strcmp(name, "__metadata__") == 0;
		if ((rc = metadata ? check_metadata(f, v, err) : read_entry(s, &x, v, data)) < 0)
			break;
	}
	json_decref(header);
	return rc < 0 ? rc : check_cover(s, first, &x, data);
}

static int compare_names(const void *a, const void *b)
{
	const struct ex_tensor *s = a, *t = b;
	return strcmp(s->name, t->name);
}

static int sort_names(struct ex_safetensors *s, struct ex_err *err)
{
	if (s->n_tensors)
		qsort(s->tensors, s->n_tensors, sizeof *s->tensors, compare_names);
	for (size_t i = 1; i < s->n_tensors; i++)
		if (compare_names(&s->tensors[i - 1], &s->tensors[i]) == 0)
			return ex_err_set(err, -EINVAL, "tensor '%s' is both in '%s' and in '%s'", s->tensors[i].name,
				s->files[s->tensors[i - 1].file].path, s->files[s->tensors[i].file].path);
	return 0;
}

/* A name of the index, not a path: no file outside the directory is opened. */
static int join_path(const char *dir, const char *name, char path[static PATH_MAX], struct ex_err *err)
{
	if (!name[0] || name[0] == '.' || strchr(name, '/'))
		return ex_err_set(err, -EINVAL,
			"'%s/model.safetensors.index.json' names '%.255s', which is not a file name", dir, name);
	if (snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		return ex_err_set(err, -ENAMETOOLONG, "path '%.64s...' is too long", dir);
	return 0;
}

/* Opens every file that weight_map names, once; `seen` maps file name → its number. */
static int open_indexed(struct ex_safetensors *s, const char *dir, json_t *weight_map, json_t *seen, struct ex_err *err)
{
	char path[PATH_MAX];
	const char *tensor;
	json_t *v;
	int rc;
	json_object_foreach(weight_map, tensor, v)
	{
		const char *name = json_string_value(v);
		if (!name)
			return ex_err_set(err, -EINVAL,
				"'%s/model.safetensors.index.json': tensor '%.255s' has no file name", dir, tensor);
		if (json_object_get(seen, name))
			continue;
		if ((rc = join_path(dir, name, path, err)) < 0)
			return rc;
		if ((rc = add_file(s, path, err)) < 0)
			return rc == -ENOENT ? ex_err_prefix(err, "tensor '%.255s' of the index", tensor) : rc;
		if (json_object_set_new(seen, name, json_integer((json_int_t)s->n_files - 1)) < 0)
			return ex_err_errno(err, -ENOMEM, "cannot read '%s'", path);
	}
	return 0;
}

static int check_index(const struct ex_safetensors *s, json_t *weight_map, const json_t *seen, struct ex_err *err)
{
	const char *tensor;
	json_t *v;
	json_object_foreach(weight_map, tensor, v)
	{
		json_int_t file = json_integer_value(json_object_get(seen, json_string_value(v)));
		const struct ex_tensor *t = ex_safetensors_find(s, tensor);
		if (!t || t->file != (uint32_t)file)
			return ex_err_set(err, -EINVAL, "'%s': tensor '%.255s' is not there, though the index says so",
				s->files[file].path, tensor);
	}
	return 0;
}

static int open_index(struct ex_safetensors *s, const char *dir, const char *path, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	json_t *root;
	size_t n;
	int rc = ex_read_file(path, EX_SAFETENSORS_HEADER_MAX, err, &text, &n);
	if (rc < 0 || (rc = ex_json_parse_object(path, text, n, err, &root)) < 0)
		return rc;
	json_t *weight_map = json_object_get(root, "weight_map"), *seen = json_object();
	if (!json_is_object(weight_map))
		rc = ex_err_set(err, -EINVAL, "%s: key 'weight_map' is missing or not an object", path);
	else if (!seen)
		rc = ex_err_errno(err, -ENOMEM, "cannot read '%s'", path);
	else if ((rc = open_indexed(s, dir, weight_map, seen, err)) == 0 && (rc = sort_names(s, err)) == 0)
		rc = check_index(s, weight_map, seen, err);
	json_decref(seen);
	json_decref(root);
	return rc;
}

int ex_safetensors_open(const char *dir, struct ex_err *err, struct ex_safetensors **ret)
{
	char path[PATH_MAX];
	EX_CLEANUP(ex_safetensors_closep) struct ex_safetensors *s = calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", dir);
	if (snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir) >= (int)sizeof path)
		return ex_err_set(err, -ENAMETOOLONG, "path '%.64s...' is too long", dir);
	if (access(path, F_OK) < 0) {
		snprintf(path, sizeof path, "%s/model.safetensors", dir);
		return ex_safetensors_open_file(path, err, ret);
	}
	int rc = open_index(s, dir, path, err);
	if (rc == 0)
		*ret = EX_TAKE(s);
	return rc;
}

int ex_safetensors_open_file(const char *path, struct ex_err *err, struct ex_safetensors **ret)
{
	EX_CLEANUP(ex_safetensors_closep) struct ex_safetensors *s = calloc(1, sizeof *s);
	if (!s)
		return ex_err_errno(err, -ENOMEM, "cannot open '%s'", path);
	int rc = add_file(s, path, err);
	if (rc < 0 || (rc = sort_names(s, err)) < 0)
		return rc;
	*ret = EX_TAKE(s);
	return 0;
}

struct ex_safetensors *ex_safetensors_close(struct ex_safetensors *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < s->n_tensors; i++)
		free((char *)s->tensors[i].name);
	for (size_t i = 0; i < s->n_files; i++) {
		munmap(s->files[i].map, s->files[i].size);
		free(s->files[i].path);
	}
	free(s->tensors);
	free(s->files);
	free(s);
	return NULL;
}

const struct ex_tensor *ex_safetensors_find(const struct ex_safetensors *s, const char *name)
{
	const struct ex_tensor key = {.name = name};
	if (!s->n_tensors)
		return NULL;
	return bsearch(&key, s->tensors, s->n_tensors, sizeof *s->tensors, compare_names);
}

size_t ex_safetensors_count(const struct ex_safetensors *s)
{
	return s->n_tensors;
}

const struct ex_tensor *ex_safetensors_at(const struct ex_safetensors *s, size_t i)
{
	assert(i < s->n_tensors);
	return &s->tensors[i];
}

uint32_t ex_safetensors_n_files(const struct ex_safetensors *s)
{
	return (uint32_t)s->n_files;
}

const char *ex_safetensors_file_path(const struct ex_safetensors *s, uint32_t file)
{
	assert(file < s->n_files);
	return s->files[file].path;
}

void ex_safetensors_scattered(const struct ex_safetensors *s, bool scattered)
{
	for (size_t i = 0; i < s->n_files; i++) {
		const struct file *f = &s->files[i];
		if (!scattered)
			madvise(f->map, f->size, MADV_DONTNEED);
		madvise(f->map, f->size, scattered ? MADV_RANDOM : MADV_NORMAL);
	}
}

bool ex_safetensors_maps(const struct ex_safetensors *s, const void *p, size_t n)
{
	uintptr_t at = (uintptr_t)p;
	for (size_t i = 0; i < s->n_files; i++) {
		uintptr_t map = (uintptr_t)s->files[i].map;
		if (at >= map && at - map <= s->files[i].size && n <= s->files[i].size - (at - map))
			return true;
	}
	return false;
}
