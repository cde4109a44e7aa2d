/* SPDX-License-Identifier: Apache-2.0 */
/* Small language helpers: cleanup of locals, object magic, array sizes. Layer L0. */
#ifndef EX_BASE_MACRO_H
#define EX_BASE_MACRO_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* clang-format off */
#define EX_ARRAY_LEN(a)      (sizeof(a) / sizeof((a)[0]))
#define EX_MIN(a, b)         ((a) < (b) ? (a) : (b))
#define EX_MAX(a, b)         ((a) > (b) ? (a) : (b))
#define EX_CEIL_DIV(a, b)    (((a) + (b) - 1) / (b))
#define EX_ALIGN_UP(n, a)    (((n) + (a) - 1) / (a) * (a))
#define EX_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define EX_UNUSED            __attribute__((unused))

#define EX_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* A local that is handed to fn(&local) when it goes out of scope. */
#define EX_CLEANUP(fn) __attribute__((cleanup(fn)))

/* Hands a pointer over: yields its value and leaves NULL behind, so that EX_CLEANUP finds nothing to do. */
#define EX_TAKE(p) \
	({ \
		__typeof__(p) ex_take_ = (p); \
		(p) = NULL; \
		ex_take_; \
	})

/* Defines `fn##p(T **)`, the form that EX_CLEANUP wants, from a destructor `fn(T *)` that takes NULL. */
#define EX_DEFINE_CLEANUP(type, fn) \
	static inline EX_UNUSED void fn##p(type **p) \
	{ \
		if (*p) \
			fn(*p); \
		*p = NULL; \
	}
/* clang-format on */

/* Objects start with `uint32_t magic`: a stale or wrong pointer is our own mistake, and stops here. */
#define EX_CHECK_OBJ(o, m) assert((o) != NULL && (o)->magic == (m))

static inline EX_UNUSED void ex_freep(void *p)
{
	free(*(void **)p);
	*(void **)p = NULL;
}

static inline EX_UNUSED void ex_closep(int *fd)
{
	extern int close(int);
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#endif
