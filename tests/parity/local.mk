# SPDX-License-Identifier: Apache-2.0
# Fast kernels against plain ones.
check_PROGRAMS += tests/parity/parity_ffn
TESTS += tests/parity/parity_ffn
tests_parity_parity_ffn_SOURCES = tests/parity/parity_ffn.c tests/parity/plugin_host.h
tests_parity_parity_ffn_LDADD = $(TEST_LIBS) -lm

check_PROGRAMS += tests/parity/parity_trunk
TESTS += tests/parity/parity_trunk
tests_parity_parity_trunk_SOURCES = tests/parity/parity_trunk.c tests/parity/plugin_host.h tests/unit/ref_ops.c tests/unit/ref_ops.h
tests_parity_parity_trunk_LDADD = $(TEST_LIBS) -lm

check_PROGRAMS += tests/parity/parity_gate
TESTS += tests/parity/parity_gate
tests_parity_parity_gate_SOURCES = tests/parity/parity_gate.c tests/parity/plugin_host.h tests/unit/ref_ops.c tests/unit/ref_ops.h
tests_parity_parity_gate_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_parity_parity_gate_LDADD = libkernels.la $(TEST_LIBS) -lm

check_PROGRAMS += tests/parity/parity_widen
TESTS += tests/parity/parity_widen
tests_parity_parity_widen_SOURCES = tests/parity/parity_widen.c
tests_parity_parity_widen_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
tests_parity_parity_widen_LDADD = libkernels.la $(TEST_LIBS) -lm
