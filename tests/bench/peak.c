/* SPDX-License-Identifier: Apache-2.0 */
/* Measures the machine with loops that do nothing else. */
#include "peak.h"

#include "base/clock.h"
#include "base/macro.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define THREADS_MAX 64
#define HUGE_PAGE   ((size_t)2 << 20)
#define FMA_STEPS   4000000
#define CHAINS      12 /* accumulators: more than latency times width of any core */

/* Accumulators must be registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef uint64_t words __attribute__((vector_size(32)));

struct peak_buffer {
	words *data;
	size_t n; /* words at data */
};

int peak_buffer_new(size_t bytes, struct peak_buffer **ret)
{
	struct peak_buffer *b = calloc(1, sizeof *b);
	bytes = EX_ALIGN_UP(bytes, HUGE_PAGE);
	if (!b || !(b->data = aligned_alloc(HUGE_PAGE, bytes))) {
		free(b);
		return -ENOMEM;
	}
	madvise(b->data, bytes, MADV_HUGEPAGE);
	memset(b->data, 1, bytes);
	b->n = bytes / sizeof *b->data;
	*ret = b;
	return 0;
}

struct share {
	const struct peak_buffer *b;
	pthread_barrier_t *start;
	unsigned i, n;
	uint64_t from, to;      /* by the thread's own clock reading: the caller may be scheduled late */
	volatile uint64_t sink; /* keeps the loop from being left out */
};

static void read_share(struct share *s)
{
	size_t part = s->b->n / s->n & ~(size_t)7;
	const words *p = s->b->data + s->i * part;
	words sum[8];
	memset(sum, 0, sizeof sum);
	for (size_t k = 0; k < part; k += 8) {
		__builtin_prefetch(p + k + 64);
		__builtin_prefetch(p + k + 66);
		__builtin_prefetch(p + k + 68);
		__builtin_prefetch(p + k + 70);
		UNROLL
		for (size_t j = 0; j < 8; j++)
			sum[j] += p[k + j];
	}
	UNROLL
	for (size_t j = 1; j < 8; j++)
		sum[0] += sum[j];
	s->sink = sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3];
}

/* Lanes of the loop below. */
static unsigned fma_lanes(void)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx512f"))
		return 16;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return 8;
#endif
	return 4;
}

#ifdef __x86_64__
__attribute__((target("avx512f"))) static float fma_512(void)
{
	__m512 acc[CHAINS], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1);
	UNROLL
	for (int j = 0; j < CHAINS; j++)
		acc[j] = y * (float)j; /* each its own, or the compiler would keep but one */
	for (int i = 0; i < FMA_STEPS; i++) {
		UNROLL
		for (int j = 0; j < CHAINS; j++)
			acc[j] = _mm512_fmadd_ps(acc[j], x, y);
	}
	UNROLL
	for (int j = 1; j < CHAINS; j++)
		acc[0] = _mm512_add_ps(acc[0], acc[j]);
	return _mm512_cvtss_f32(acc[0]);
}

__attribute__((target("avx2,fma"))) static float fma_256(void)
{
	__m256 acc[CHAINS], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(1);
	UNROLL
	for (int j = 0; j < CHAINS; j++)
		acc[j] = y * (float)j; /* each its own, or the compiler would keep but one */
	for (int i = 0; i < FMA_STEPS; i++) {
		UNROLL
		for (int j = 0; j < CHAINS; j++)
			acc[j] = _mm256_fmadd_ps(acc[j], x, y);
	}
	UNROLL
	for (int j = 1; j < CHAINS; j++)
		acc[0] = _mm256_add_ps(acc[0], acc[j]);
	return _mm256_cvtss_f32(acc[0]);
}
#endif

static float fma_128(void)
{
	typedef float four __attribute__((vector_size(16)));
	four acc[CHAINS], x = {0.5f, 0.5f, 0.5f, 0.5f}, y = {1, 1, 1, 1};
	UNROLL
	for (int j = 0; j < CHAINS; j++)
		acc[j] = y * (float)j; /* each its own, or the compiler would keep but one */
	for (int i = 0; i < FMA_STEPS; i++) {
		UNROLL
		for (int j = 0; j < CHAINS; j++)
			acc[j] = acc[j] * x + y;
	}
	UNROLL
	for (int j = 1; j < CHAINS; j++)
		acc[0] += acc[j];
	return acc[0][0];
}

static void fma_share(struct share *s)
{
#ifdef __x86_64__
	s->sink = (uint64_t)(fma_lanes() == 16 ? fma_512() : fma_lanes() == 8 ? fma_256() : fma_128());
#else
	s->sink = (uint64_t)fma_128();
#endif
}

static void *share_main(void *arg)
{
	struct share *s = arg;
	pthread_barrier_wait(s->start);
	s->from = ex_now_ns();
	if (s->b)
		read_share(s);
	else
		fma_share(s);
	s->to = ex_now_ns();
	return NULL;
}

/* Nanoseconds that n_threads take for their shares. */
static double time_shares(const struct peak_buffer *b, unsigned n_threads)
{
	struct share s[THREADS_MAX];
	pthread_t t[THREADS_MAX];
	pthread_barrier_t start;
	assert(n_threads >= 1 && n_threads <= THREADS_MAX);
	pthread_barrier_init(&start, NULL, n_threads);
	for (unsigned i = 0; i < n_threads; i++) {
		s[i] = (struct share){.b = b, .start = &start, .i = i, .n = n_threads};
		if (pthread_create(&t[i], NULL, share_main, &s[i]) != 0)
			abort();
	}
	uint64_t from = UINT64_MAX, to = 0;
	for (unsigned i = 0; i < n_threads; i++) {
		pthread_join(t[i], NULL);
		from = EX_MIN(from, s[i].from);
		to = EX_MAX(to, s[i].to);
	}
	pthread_barrier_destroy(&start);
	return (double)(to - from);
}

double peak_read(const struct peak_buffer *b, unsigned n_threads)
{
	return (double)(b->n * sizeof *b->data) / time_shares(b, n_threads);
}

double peak_fma(unsigned n_threads)
{
	return 2.0 * fma_lanes() * CHAINS * FMA_STEPS * n_threads / time_shares(NULL, n_threads);
}
