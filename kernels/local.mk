# SPDX-License-Identifier: Apache-2.0
# The same bodies once for each instruction set; kernels/cpu/select.c chooses at run time.
KERNEL_BODIES = kernels/cpu/pack.c kernels/cpu/tile.c kernels/cpu/math.c kernels/cpu/mla.c kernels/cpu/table.c \
	kernels/cpu/isa.h kernels/cpu/kernels.h kernels/cpu/vec.h

noinst_LTLIBRARIES += libkernels.la libkernels_generic.la
libkernels_la_SOURCES = kernels/cpu/select.c kernels/cpu/kernels.h
libkernels_la_LIBADD = libkernels_generic.la -lm
libkernels_generic_la_SOURCES = $(KERNEL_BODIES)
libkernels_generic_la_CFLAGS = $(AM_CFLAGS)
libkernels_generic_la_CPPFLAGS = $(AM_CPPFLAGS) -DEX_ISA=generic

if X86_64
noinst_LTLIBRARIES += libkernels_avx2.la libkernels_avx512.la
libkernels_la_LIBADD += libkernels_avx2.la libkernels_avx512.la
libkernels_avx2_la_SOURCES = $(KERNEL_BODIES)
libkernels_avx2_la_CFLAGS = $(AM_CFLAGS) -mavx2 -mfma -mf16c
libkernels_avx2_la_CPPFLAGS = $(AM_CPPFLAGS) -DEX_ISA=avx2 -DEX_ISA_AVX2
libkernels_avx512_la_SOURCES = $(KERNEL_BODIES)
libkernels_avx512_la_CFLAGS = $(AM_CFLAGS) -mavx2 -mfma -mf16c -mavx512f
libkernels_avx512_la_CPPFLAGS = $(AM_CPPFLAGS) -DEX_ISA=avx512 -DEX_ISA_AVX512
endif
