/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a checkpoint of random weights: the tensors that the config asks for, laid out in safetensors files. Layer L1.
 * Values are made as they are written, so memory does not grow with the model. config.json comes last: a directory
 * without it is one that was interrupted. */
#include "model/synth.h"

#include "base/dtype.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/fill.h"
#include "model/json.h"
#include "model/safetensors.h"
#include "model/tensors.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CONFIG_BYTES_MAX (1 << 20)
#define CHUNK            65536 /* elements made at a time */
#define SINK_BYTES       (1 << 20)
#define FILE_BYTES       5000000000u
#define FILES_MAX        100000 /* five digits in the names */

struct item {
	struct ex_tensor_spec spec;
	uint32_t dtype, file;
	uint64_t bytes, scale_bytes; /* scale_bytes 0: no scales */
	uint64_t off, scale_off;     /* in the file's data */
};

struct plan {
	const struct ex_synth_opts *opts;
	const char *dir;
	struct item *items;
	size_t n_items, cap;
	uint32_t n_files;
	uint64_t bytes_total, bytes_done;
	struct ex_err *err;
};

/* A buffered writer at its own place in a file. */
struct sink {
	struct plan *p;
	const char *path;
	int fd;
	uint64_t off;
	uint8_t *buf;
	size_t n;
};

static int sink_flush(struct sink *s)
{
	for (size_t done = 0; done < s->n;) {
		ssize_t k = pwrite(s->fd, s->buf + done, s->n - done, (off_t)s->off);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return ex_err_errno(s->p->err, -errno, "cannot write '%s'", s->path);
		done += (size_t)k;
		s->off += (uint64_t)k;
	}
	s->p->bytes_done += s->n;
	s->n = 0;
	if (s->p->opts->progress)
		s->p->opts->progress(s->p->opts->ctx, s->p->bytes_done, s->p->bytes_total);
	return 0;
}

/* n at most SINK_BYTES. */
static int sink_put(struct sink *s, const void *data, size_t n)
{
	assert(n <= SINK_BYTES);
	if (s->n + n > SINK_BYTES) {
		int rc = sink_flush(s);
		if (rc < 0)
			return rc;
	}
	memcpy(s->buf + s->n, data, n);
	s->n += n;
	return 0;
}

/* Matrices in the dtype asked for; the rest as FP8 checkpoints have it, bf16, or in the one dtype; the bias of the gate
 * in f32. */
static uint32_t dtype_of(const struct ex_tensor_spec *s, uint32_t asked)
{
	if (s->role == EX_ROLE_BIAS)
		return EXPERTD_F32;
	if (asked == EXPERTD_F8E4M3 && s->role != EX_ROLE_LINEAR)
		return EXPERTD_BF16;
	return asked;
}

static int add_item(void *ctx, const struct ex_tensor_spec *spec)
{
	struct plan *p = ctx;
	if (p->n_items == EX_TENSORS_MAX)
		return ex_err_set(p->err, -E2BIG, "the config asks for more than %d tensors", EX_TENSORS_MAX);
	if (ex_grow(&p->items, &p->cap, p->n_items + 1, sizeof *p->items) < 0)
		return ex_err_errno(p->err, -ENOMEM, "cannot lay out the tensors");
	struct item *it = &p->items[p->n_items++];
	*it = (struct item){.spec = *spec, .dtype = dtype_of(spec, p->opts->dtype)};
	it->bytes = (uint64_t)spec->rows * spec->cols * ex_dtype_size(it->dtype);
	if (it->dtype == EXPERTD_F8E4M3)
		it->scale_bytes = (uint64_t)EX_CEIL_DIV(spec->rows, EX_SCALE_BLOCK) *
				  EX_CEIL_DIV(spec->cols, EX_SCALE_BLOCK) * sizeof(float);
	p->bytes_total += it->bytes + it->scale_bytes;
	return 0;
}

/* Tensors to files in order; then offsets in each, wide elements first, which aligns every tensor to its dtype. */
static int lay_out(struct plan *p)
{
	uint64_t max = p->opts->file_bytes_max ? p->opts->file_bytes_max : FILE_BYTES, used = 0;
	for (size_t i = 0; i < p->n_items; i++) {
		uint64_t bytes = p->items[i].bytes + p->items[i].scale_bytes;
		if (used && (bytes > max || used > max - bytes)) {
			p->n_files++;
			used = 0;
		}
		used += bytes;
		p->items[i].file = p->n_files;
	}
	p->n_files++;
	if (p->n_files >= FILES_MAX)
		return ex_err_set(p->err, -E2BIG, "more than %d files: raise the file size", FILES_MAX - 1);
	for (size_t from = 0, to; from < p->n_items; from = to) {
		uint64_t off = 0;
		for (size_t size = 4; size; size /= 2)
			for (to = from; to < p->n_items && p->items[to].file == p->items[from].file; to++) {
				struct item *it = &p->items[to];
				if (size == 4 && it->scale_bytes) {
					it->scale_off = off;
					off += it->scale_bytes;
				}
				if (ex_dtype_size(it->dtype) == size) {
					it->off = off;
					off += it->bytes;
				}
			}
	}
	return 0;
}

static void file_name(const struct plan *p, uint32_t file, char buf[static 64])
{
	if (p->n_files == 1)
		snprintf(buf, 64, "model.safetensors");
	else
		snprintf(buf, 64, "model-%05u-of-%05u.safetensors", file + 1, p->n_files);
}

static void add_entry(struct ex_str *h, const struct item *it)
{
	static const char *const names[] = {
		[EXPERTD_F32] = "F32", [EXPERTD_BF16] = "BF16", [EXPERTD_F16] = "F16", [EXPERTD_F8E4M3] = "F8_E4M3"};
	const struct ex_tensor_spec *s = &it->spec;
	ex_str_addf(h, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", s->name, names[it->dtype]);
	if (!ex_tensor_is_vector(s))
		ex_str_addf(h, "%u,", s->rows);
	ex_str_addf(h, "%u],\"data_offsets\":[%llu,%llu]}", s->cols, (unsigned long long)it->off,
		(unsigned long long)(it->off + it->bytes));
	if (it->scale_bytes)
		ex_str_addf(h,
			",\"%s" EX_SCALE_SUFFIX "\":{\"dtype\":\"F32\",\"shape\":[%u,%u],\"data_offsets\":[%llu,%llu]}",
			s->name, EX_CEIL_DIV(s->rows, EX_SCALE_BLOCK), EX_CEIL_DIV(s->cols, EX_SCALE_BLOCK),
			(unsigned long long)it->scale_off, (unsigned long long)(it->scale_off + it->scale_bytes));
}

static struct ex_fill fill_of(const struct ex_tensor_spec *s, uint64_t seed)
{
	switch (s->role) {
	case EX_ROLE_NORM:
		return ex_fill_init(seed, s->name, 1, 0.1);
	case EX_ROLE_BIAS: /* within +-0.1: the bound of n is 2 sqrt(3) */
		return ex_fill_init(seed, s->name, 0, 0.1 / (2 * sqrt(3)));
	case EX_ROLE_EMBED:
		return ex_fill_init(seed, s->name, 0, 1);
	case EX_ROLE_LINEAR: /* keeps the variance of its input */
	case EX_ROLE_GATE:
	case EX_ROLE_HEAD:
		break;
	}
	return ex_fill_init(seed, s->name, 0, 1 / sqrt(s->cols));
}

static int write_plain(struct sink *s, const struct item *it, const struct ex_fill *f, float *tmp)
{
	uint64_t n = (uint64_t)it->spec.rows * it->spec.cols;
	size_t size = ex_dtype_size(it->dtype);
	EX_CLEANUP(ex_freep) uint8_t *out = malloc(CHUNK * size);
	if (!out)
		return ex_err_errno(s->p->err, -ENOMEM, "cannot write '%s'", s->path);
	for (uint64_t i = 0; i < n; i += CHUNK) {
		size_t k = EX_MIN(n - i, (uint64_t)CHUNK);
		ex_fill_run(f, i, k, tmp);
		ex_dtype_from_f32(it->dtype, tmp, k, out);
		int rc = sink_put(s, out, k * size);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Scales of the blocks in rows row..row+n_rows-1: largest magnitude over e4m3's 448, one for a block of zeros. */
static void band_scales(const struct item *it, const struct ex_fill *f, uint32_t row, uint32_t n_rows, float *scale)
{
	float tmp[EX_SCALE_BLOCK];
	uint32_t cols = it->spec.cols;
	for (uint32_t b = 0; b < EX_CEIL_DIV(cols, EX_SCALE_BLOCK); b++) {
		uint32_t width = EX_MIN(cols - b * EX_SCALE_BLOCK, (uint32_t)EX_SCALE_BLOCK);
		float top = 0;
		for (uint32_t r = row; r < row + n_rows; r++) {
			ex_fill_run(f, (uint64_t)r * cols + b * EX_SCALE_BLOCK, width, tmp);
			for (uint32_t c = 0; c < width; c++)
				top = fmaxf(top, fabsf(tmp[c]));
		}
		scale[b] = top > 0 ? top / 448.0f : 1.0f;
	}
}

static int write_fp8(struct sink *data, struct sink *scales, const struct item *it, const struct ex_fill *f)
{
	uint32_t rows = it->spec.rows, cols = it->spec.cols, n_blocks = EX_CEIL_DIV(cols, EX_SCALE_BLOCK);
	float tmp[EX_SCALE_BLOCK];
	uint8_t out[EX_SCALE_BLOCK];
	int rc = 0;
	EX_CLEANUP(ex_freep) float *scale = ex_calloc(n_blocks, sizeof *scale);
	if (!scale)
		return ex_err_errno(data->p->err, -ENOMEM, "cannot write '%s'", data->path);
	for (uint32_t row = 0; row < rows; row += EX_SCALE_BLOCK) {
		uint32_t n_rows = EX_MIN(rows - row, (uint32_t)EX_SCALE_BLOCK);
		band_scales(it, f, row, n_rows, scale);
		for (uint32_t r = row; r < row + n_rows && rc == 0; r++)
			for (uint32_t b = 0; b < n_blocks && rc == 0; b++) {
				uint32_t width = EX_MIN(cols - b * EX_SCALE_BLOCK, (uint32_t)EX_SCALE_BLOCK);
				ex_fill_run(f, (uint64_t)r * cols + b * EX_SCALE_BLOCK, width, tmp);
				for (uint32_t c = 0; c < width; c++)
					out[c] = ex_f32_to_e4m3(tmp[c] / scale[b]);
				rc = sink_put(data, out, width);
			}
		for (uint32_t b = 0; b < n_blocks && rc == 0; b++)
			rc = sink_put(scales, &scale[b], sizeof scale[b]);
		if (rc < 0)
			return rc;
	}
	return sink_flush(scales);
}

static int write_tensor(struct plan *p, const char *path, int fd, uint64_t base, const struct item *it)
{
	EX_CLEANUP(ex_freep) uint8_t *data_buf = malloc(SINK_BYTES);
	EX_CLEANUP(ex_freep) uint8_t *scale_buf = malloc(SINK_BYTES);
	EX_CLEANUP(ex_freep) float *tmp = malloc(CHUNK * sizeof *tmp);
	struct ex_fill f = fill_of(&it->spec, p->opts->seed);
	struct sink data = {.p = p, .path = path, .fd = fd, .off = base + it->off, .buf = data_buf};
	struct sink scales = {.p = p, .path = path, .fd = fd, .off = base + it->scale_off, .buf = scale_buf};
	if (!data_buf || !scale_buf || !tmp)
		return ex_err_errno(p->err, -ENOMEM, "cannot write '%s'", path);
	int rc = it->scale_bytes ? write_fp8(&data, &scales, it, &f) : write_plain(&data, it, &f, tmp);
	return rc < 0 ? rc : sink_flush(&data);
}

/* A new file of dir, open for writing; the path into buf. */
static int create_file(struct plan *p, const char *name, char path[static PATH_MAX], int *ret)
{
	if (snprintf(path, PATH_MAX, "%s/%s", p->dir, name) >= PATH_MAX)
		return ex_err_set(p->err, -ENAMETOOLONG, "path '%.64s...' is too long", p->dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return ex_err_errno(p->err, -errno, "cannot create '%s'", path);
	*ret = fd;
	return 0;
}

static int write_all(struct plan *p, const char *path, int fd, const char *text, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t k = write(fd, text + done, n - done);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return ex_err_errno(p->err, -errno, "cannot write '%s'", path);
		done += (size_t)k;
	}
	return 0;
}

/* Until it is on the disk: config.json must not outlive a power failure that the weights do not. path: of a file or a directory. */
static int sync_fd(struct plan *p, const char *path, int fd)
{
	/* file systems that cannot sync a directory say EINVAL */
	if (fsync(fd) < 0 && errno != EINVAL)
		return ex_err_errno(p->err, -errno, "cannot write '%s' to the disk", path);
	return 0;
}

static int sync_dir(struct plan *p)
{
	EX_CLEANUP(ex_closep) int fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ex_err_errno(p->err, -errno, "cannot open directory '%s'", p->dir);
	return sync_fd(p, p->dir, fd);
}

static int write_text(struct plan *p, const char *name, const char *text, size_t n)
{
	char path[PATH_MAX];
	EX_CLEANUP(ex_closep) int fd = -1;
	int rc = create_file(p, name, path, &fd);
	if (rc == 0)
		rc = write_all(p, path, fd, text, n);
	return rc < 0 ? rc : sync_fd(p, path, fd);
}

/* Eight bytes of length, little-endian, and the JSON of items from..to-1, padded so that data starts at a multiple of
 * eight. */
static int make_header(struct plan *p, size_t from, size_t to, struct ex_str *h)
{
	uint8_t length[8] = {0};
	ex_str_addn(h, length, sizeof length);
	ex_str_add(h, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (size_t i = from; i < to; i++)
		add_entry(h, &p->items[i]);
	ex_str_add(h, "}");
	while (h->n % 8 && !h->oom)
		ex_str_add(h, " ");
	if (h->oom)
		return ex_err_errno(p->err, -ENOMEM, "cannot lay out the tensors");
	uint64_t n = h->n - sizeof length;
	if (n > EX_SAFETENSORS_HEADER_MAX)
		return ex_err_set(p->err, -E2BIG, "too many tensors for the header of one file: lower the file size");
	for (size_t i = 0; i < sizeof length; i++)
		h->s[i] = (char)(n >> 8 * i);
	return 0;
}

/* One file: items from..to-1. */
static int write_tensors(struct plan *p, size_t from, size_t to)
{
	char name[64], path[PATH_MAX];
	EX_CLEANUP(ex_str_done) struct ex_str h = EX_STR_INIT;
	EX_CLEANUP(ex_closep) int fd = -1;
	int rc = make_header(p, from, to, &h);
	if (rc < 0)
		return rc;
	file_name(p, p->items[from].file, name);
	if ((rc = create_file(p, name, path, &fd)) < 0 || (rc = write_all(p, path, fd, h.s, h.n)) < 0)
		return rc;
	for (size_t i = from; i < to; i++)
		if ((rc = write_tensor(p, path, fd, h.n, &p->items[i])) < 0)
			return rc;
	return sync_fd(p, path, fd);
}

static int write_index(struct plan *p)
{
	EX_CLEANUP(ex_str_done) struct ex_str t = EX_STR_INIT;
	char name[64];
	ex_str_addf(
		&t, "{\n\"metadata\": {\"total_size\": %llu},\n\"weight_map\": {", (unsigned long long)p->bytes_total);
	for (size_t i = 0; i < p->n_items; i++) {
		const struct item *it = &p->items[i];
		file_name(p, it->file, name);
		ex_str_addf(&t, "%s\n\"%s\": \"%s\"", i ? "," : "", it->spec.name, name);
		if (it->scale_bytes)
			ex_str_addf(&t, ",\n\"%s" EX_SCALE_SUFFIX "\": \"%s\"", it->spec.name, name);
	}
	ex_str_add(&t, "\n}\n}\n");
	if (t.oom)
		return ex_err_errno(p->err, -ENOMEM, "cannot write the index");
	return write_text(p, "model.safetensors.index.json", t.s, t.n);
}

/* A copy of the config, but that quantization_config says what the files hold. */
static int write_config(struct plan *p, const char *config_path, const char *text, size_t n)
{
	const char *key = "quantization_config";
	bool fp8 = p->opts->dtype == EXPERTD_F8E4M3;
	json_t *root;
	int rc = ex_json_parse_object(config_path, text, n, p->err, &root);
	if (rc < 0)
		return rc;
	const json_t *there = json_object_get(root, key);
	if (fp8 == (there && !json_is_null(there))) {
		json_decref(root);
		return write_text(p, "config.json", text, n);
	}
	if (fp8)
		rc = json_object_set_new(root, key,
			json_pack("{s:s, s:s, s:s, s:[i, i]}", "quant_method", "fp8", "fmt", "e4m3",
				"activation_scheme", "dynamic", "weight_block_size", EX_SCALE_BLOCK, EX_SCALE_BLOCK));
	else
		json_object_del(root, key);
	EX_CLEANUP(ex_freep) char *changed = rc < 0 ? NULL : json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	if (!changed)
		return ex_err_errno(p->err, -ENOMEM, "cannot write config.json");
	return write_text(p, "config.json", changed, strlen(changed));
}

/* dir is made, or is there and empty. */
static int make_dir(const char *dir, struct ex_err *err, bool *ret_made)
{
	*ret_made = mkdir(dir, 0777) == 0;
	if (*ret_made)
		return 0;
	if (errno != EEXIST)
		return ex_err_errno(err, -errno, "cannot make directory '%s'", dir);
	DIR *d = opendir(dir);
	if (!d)
		return ex_err_errno(err, -errno, "cannot open directory '%s'", dir);
	bool empty = true;
	for (const struct dirent *e; empty && (e = readdir(d));)
		empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
	closedir(d);
	return empty ? 0 : ex_err_set(err, -ENOTEMPTY, "directory '%s' is not empty: nothing is written into it", dir);
}

/* Hours of writing shall not end at a full disk that could be foreseen. File systems that do not count blocks are not
 * asked. */
static int check_room(const struct plan *p)
{
	char need[EX_BYTES_TEXT_MAX], there[EX_BYTES_TEXT_MAX];
	struct statvfs fs;
	if (statvfs(p->dir, &fs) < 0 || fs.f_blocks == 0)
		return 0;
	uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (p->bytes_total <= room)
		return 0;
	return ex_err_set(p->err, -ENOSPC, "the checkpoint needs %s, '%s' has %s free: nothing was written",
		ex_bytes_text(p->bytes_total, need), p->dir, ex_bytes_text(room, there));
}

/* Makes the directory and sees that the checkpoint fits; a directory made for nothing is removed. */
static int prepare_dir(const struct plan *p)
{
	bool made;
	int rc = make_dir(p->dir, p->err, &made);
	if (rc == 0 && (rc = check_room(p)) < 0 && made)
		rmdir(p->dir);
	return rc;
}

static int write_files(struct plan *p)
{
	int rc;
	for (size_t from = 0, to; from < p->n_items; from = to) {
		for (to = from; to < p->n_items && p->items[to].file == p->items[from].file;)
			to++;
		if ((rc = write_tensors(p, from, to)) < 0)
			return rc;
	}
	return p->n_files > 1 ? write_index(p) : 0;
}

int ex_model_synth(const char *config_path, const char *dir, const struct ex_synth_opts *opts, struct ex_err *err)
{
	struct plan p = {.opts = opts, .dir = dir, .err = err};
	struct ex_model_config c;
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	if (!ex_dtype_size(opts->dtype))
		return ex_err_set(err, -EINVAL, "dtype %d is none of f32, bf16, f16, f8e4m3", (int)opts->dtype);
	int rc = ex_read_file(config_path, CONFIG_BYTES_MAX, err, &text, &n);
	if (rc < 0 || (rc = ex_model_config_parse(config_path, text, n, err, &c)) < 0)
		return rc;
	if ((rc = ex_tensors_each(&c, add_item, &p)) == 0 && (rc = lay_out(&p)) == 0 && (rc = prepare_dir(&p)) == 0 &&
		(rc = write_files(&p)) == 0 && (rc = sync_dir(&p)) == 0 &&
		(rc = write_config(&p, config_path, text, n)) == 0)
		rc = sync_dir(&p);
	free(p.items);
	return rc;
}
