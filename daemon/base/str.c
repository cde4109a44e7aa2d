/* SPDX-License-Identifier: Apache-2.0 */
/* Growing strings and small text helpers. Layer L0. */
#include "base/str.h"

#include "base/err.h"
#include "base/mem.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void ex_str_done(struct ex_str *b)
{
	free(b->s);
	*b = EX_STR_INIT;
}

void ex_str_reset(struct ex_str *b)
{
	b->n = 0;
	b->oom = false;
	if (b->s)
		b->s[0] = '\0';
}

void ex_str_addn(struct ex_str *b, const void *s, size_t n)
{
	if (b->oom)
		return;
	if (ex_grow(&b->s, &b->cap, b->n + n + 1, 1) < 0) {
		b->oom = true;
		return;
	}
	memcpy(b->s + b->n, s, n);
	b->n += n;
	b->s[b->n] = '\0';
}

void ex_str_add(struct ex_str *b, const char *s)
{
	ex_str_addn(b, s, strlen(s));
}

void ex_str_addf(struct ex_str *b, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || b->oom || ex_grow(&b->s, &b->cap, b->n + (size_t)n + 1, 1) < 0)
		b->oom = true;
	else {
		vsnprintf(b->s + b->n, (size_t)n + 1, fmt, again);
		b->n += (size_t)n;
	}
	va_end(again);
}

char *ex_str_take(struct ex_str *b)
{
	char *s = b->oom ? NULL : EX_TAKE(b->s);
	ex_str_done(b);
	return s;
}

int ex_read_file(const char *path, size_t max, struct ex_err *err, char **ret, size_t *ret_n)
{
	EX_CLEANUP(ex_closep)
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO is refused, not waited for */
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return ex_err_errno(err, -errno, "cannot open '%s'", path);
	if (!S_ISREG(st.st_mode))
		return ex_err_set(err, -EINVAL, "'%s' is not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return ex_err_set(err, -EFBIG, "'%s' has %lld bytes, more than the %zu allowed", path,
			(long long)st.st_size, max);
	size_t size = (size_t)st.st_size, n = 0;
	EX_CLEANUP(ex_freep) char *text = malloc(size + 1);
	if (!text)
		return ex_err_errno(err, -ENOMEM, "cannot read '%s'", path);
	while (n < size) {
		ssize_t k = read(fd, text + n, size - n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return ex_err_errno(err, -errno, "cannot read '%s'", path);
		if (k == 0)
			break;
		n += (size_t)k;
	}
	text[n] = '\0';
	*ret = EX_TAKE(text);
	*ret_n = n;
	return 0;
}

char *ex_bytes_text(uint64_t bytes, char buf[static EX_BYTES_TEXT_MAX])
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t i = 0;
	while (v >= 1024 && i + 1 < EX_ARRAY_LEN(unit)) {
		v /= 1024;
		i++;
	}
	snprintf(buf, EX_BYTES_TEXT_MAX, i && v < 100 ? "%.1f %s" : "%.0f %s", v, unit[i]);
	return buf;
}

void ex_hex(const void *data, size_t n, char *out)
{
	static const char digit[] = "0123456789abcdef";
	const uint8_t *p = data;
	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digit[p[i] >> 4];
		out[2 * i + 1] = digit[p[i] & 15];
	}
	out[2 * n] = '\0';
}

/* Length of the well-formed sequence at s (n >= 1 bytes there), 0 if there is none. Source: Unicode 15, table 3-7. */
static size_t utf8_sequence(const uint8_t *s, size_t n)
{
	uint8_t lo = 0x80, hi = 0xbf;
	size_t len;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		len = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef) {
		len = 3;
		lo = s[0] == 0xe0 ? 0xa0 : lo;
		hi = s[0] == 0xed ? 0x9f : hi;
	} else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		len = 4;
		lo = s[0] == 0xf0 ? 0x90 : lo;
		hi = s[0] == 0xf4 ? 0x8f : hi;
	} else
		return 0;
	if (n < len || s[1] < lo || s[1] > hi)
		return 0;
	for (size_t i = 2; i < len; i++)
		if (s[i] < 0x80 || s[i] > 0xbf)
			return 0;
	return len;
}

bool ex_utf8_valid(const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		size_t len = utf8_sequence((const uint8_t *)s + i, n - i);
		if (!len)
			return false;
		i += len;
	}
	return true;
}

int ex_write_all(int fd, const void *data, size_t n)
{
	const char *at = data;
	while (n) {
		ssize_t k = write(fd, at, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		at += k;
		n -= (size_t)k;
	}
	return 0;
}

int ex_sync_dir(const char *dir)
{
	EX_CLEANUP(ex_closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int ex_replace_file(const char *dir, const char *path, const char *temporary, const struct ex_str *text)
{
	EX_CLEANUP(ex_closep) int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int rc = fd < 0 ? -errno : ex_write_all(fd, text->s, text->n);
	if (rc == 0 && (fsync(fd) < 0 || rename(temporary, path) < 0))
		rc = -errno;
	if (rc < 0 && fd >= 0)
		unlink(temporary);
	return rc < 0 ? rc : ex_sync_dir(dir);
}

void ex_printable(const char *text, char *out, size_t size)
{
	const uint8_t *s = (const uint8_t *)text, *end = s + strlen(text);
	char *o = out, *const last = out + size - 1;
	assert(size);
	while (s < end) {
		size_t len = utf8_sequence(s, (size_t)(end - s));
		bool control = len == 1 ? *s < 0x20 || *s == 0x7f : len == 2 && s[0] == 0xc2 && s[1] < 0xa0;
		bool plain = len && !control;
		size_t n = plain ? len : 4;
		if (n > (size_t)(last - o))
			break;
		if (plain)
			memcpy(o, s, n);
		else {
			memcpy(o, "\\x", 2);
			ex_hex(s, 1, o + 2); /* its NUL is overwritten, or is the last byte */
		}
		o += n;
		s += plain ? n : 1; /* what is left of a C1 character is no UTF-8 */
	}
	*o = '\0';
}
