/* SPDX-License-Identifier: Apache-2.0 */
/* Chooses the instruction set at run time; and the few helpers that are the same in all. */
#include "kernels.h"

#include "base/dtype.h"
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

extern const struct ex_kernels ex_kernels_generic;
#ifdef __x86_64__
extern const struct ex_kernels ex_kernels_avx2, ex_kernels_avx512;

static bool has_f16c(void)
{
	unsigned a, b, c, d; /* clang 14's builtin does not know the name */
	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* The builtin also asks the operating system whether it saves the registers. */
static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f");
}
#endif

static bool has_generic(void)
{
	return true;
}

/* Best first. */
static const struct {
	const struct ex_kernels *k;
	bool (*runs_here)(void);
	const char *why;
} CHOICE[] = {
#ifdef __x86_64__
	{&ex_kernels_avx512, has_avx512, "this machine lacks AVX-512F"},
	{&ex_kernels_avx2, has_avx2, "this machine lacks AVX2, FMA or F16C"},
#endif
	{&ex_kernels_generic, has_generic, NULL},
};

const struct ex_kernels *ex_kernels_get(const char *isa, const char **ret_why)
{
	bool any = !isa || !*isa || strcmp(isa, "auto") == 0;
	*ret_why = "unknown instruction set (generic, avx2, avx512 or auto)";
	for (size_t i = 0; i < EX_ARRAY_LEN(CHOICE); i++) {
		if (!any && strcmp(isa, CHOICE[i].k->isa) != 0)
			continue;
		if (CHOICE[i].runs_here())
			return CHOICE[i].k;
		*ret_why = CHOICE[i].why;
	}
	return NULL;
}

void ex_spread(const float *x, size_t n, float *out, size_t step)
{
	for (size_t k = 0; k < n; k++)
		out[k * step] = x[k];
}

void ex_spread_bf16(const uint16_t *x, size_t n, float *out, size_t step)
{
	for (size_t k = 0; k < n; k++)
		out[k * step] = ex_bf16_to_f32(x[k]);
}
