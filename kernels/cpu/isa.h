/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of one instruction set show each other: each is compiled once per set, under the set's name. */
#ifndef EX_KERNELS_CPU_ISA_H
#define EX_KERNELS_CPU_ISA_H

#include "vec.h"

size_t ISA(shape)(const struct expertd_matrix *m, struct ex_packed *p);
int ISA(pack)(const struct expertd_matrix *m, struct ex_packed *p);
void ISA(unpack_row)(const struct ex_packed *p, uint32_t r, float *out);
void ISA(tile)(const struct ex_packed *w, uint32_t first, uint32_t n_panels, const float *x, uint32_t m, float *out,
	size_t ldo);
void ISA(silu_mul)(const float *gate, const float *up, float *out, size_t n);
void ISA(exp)(const float *x, float *out, size_t n);
void ISA(softmax)(float *x, size_t n);
void ISA(sigmoid)(float *x, size_t n);
void ISA(add)(const float *x, float *y, size_t n);
void ISA(add_scaled)(float a, const float *x, float *y, size_t n);
void ISA(rmsnorm)(const float *x, const float *w, float eps, float *out, size_t d);
void ISA(rope)(float *x, const float *cos, const float *sin, uint32_t half, bool interleaved);
size_t ISA(mla_scratch)(uint32_t rank, uint32_t rope);
void ISA(mla)(const struct ex_mla_part *a);

extern const struct ex_kernels ISA(ex_kernels);

#endif
