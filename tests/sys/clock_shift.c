/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into processes under test: their real-time clock is ahead by the seconds that the file EX_CLOCK_FILE holds as a native int64,
 * whenever it changes. What waits in the kernel for a time of day, as abseil's condition variables do by syscall(), is woken by that clock.
 * Monotonic clocks are as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void init(void)
{
	const char *path = getenv("EX_CLOCK_FILE");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (map == MAP_FAILED)
		abort(); /* a test that shifts nothing would prove nothing */
	shift = map;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
	if (!real_clock_gettime)
		real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int rc = real_clock_gettime(id, t);
	if (rc == 0 && shift && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		t->tv_sec += *shift;
	return rc;
}

time_t time(time_t *ret)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME_COARSE, &t);
	if (ret)
		*ret = t.tv_sec;
	return t.tv_sec;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec t;
	(void)tz;
	clock_gettime(CLOCK_REALTIME, &t);
	tv->tv_sec = t.tv_sec;
	tv->tv_usec = t.tv_nsec / 1000;
	return 0;
}

static int64_t ns_of(const struct timespec *t)
{
	return t->tv_sec * INT64_C(1000000000) + t->tv_nsec;
}

/* FUTEX_WAIT_BITSET until a time of day, in short waits on the monotonic clock. */
static long wait_until(long (*real)(long, ...), long addr, long op, long value, const struct timespec *until, long bits)
{
	for (;;) {
		struct timespec now, mono;
		clock_gettime(CLOCK_REALTIME, &now);
		int64_t left = ns_of(until) - ns_of(&now);
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		clock_gettime(CLOCK_MONOTONIC, &mono);
		int64_t end = ns_of(&mono) + (left < 50000000 ? left : 50000000);
		mono = (struct timespec){.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
		long rc = real(SYS_futex, addr, op & ~FUTEX_CLOCK_REALTIME, value, &mono, 0, bits);
		if (rc == 0 || errno != ETIMEDOUT)
			return rc;
	}
}

long syscall(long nr, ...)
{
	static long (*real)(long, ...);
	long a[6];
	va_list ap;
	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (!real)
		real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	if (nr == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && (a[1] & FUTEX_CLOCK_REALTIME) && a[3])
		return wait_until(real, a[0], a[1], a[2], (const struct timespec *)a[3], a[5]);
	return real(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
