/* SPDX-License-Identifier: Apache-2.0 */
/* What the machine can do at best: bytes read from memory, f32 multiply-adds. For benchmarks that state their share of it. */
#ifndef EX_TESTS_BENCH_PEAK_H
#define EX_TESTS_BENCH_PEAK_H

#include <stddef.h>

struct peak_buffer;

/* Memory to be read by peak_read, written once. -ENOMEM. It is not freed: benchmarks end. */
int peak_buffer_new(size_t bytes, struct peak_buffer **ret);
/* Reads the whole buffer once, shared out among the threads: GB/s. */
double peak_read(const struct peak_buffer *b, unsigned n_threads);
/* f32 multiply-adds in registers, two operations each, in the widest instruction set that this machine has: GFLOP/s. */
double peak_fma(unsigned n_threads);

#endif
