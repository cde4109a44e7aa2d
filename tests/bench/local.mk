# SPDX-License-Identifier: Apache-2.0
# Built by `make check`, so that they stay sound; run by `./bootstrap bench`.
BENCHMARKS = tests/bench/bench_dispatch tests/bench/bench_ffn tests/bench/bench_ledger
check_PROGRAMS += $(BENCHMARKS)
EXTRA_DIST += tests/bench/run.py tests/bench/fleet_speed.py
tests_bench_bench_dispatch_SOURCES = tests/bench/bench_dispatch.c
tests_bench_bench_dispatch_LDADD = libexpertd.la $(JEMALLOC_LIBS)
tests_bench_bench_ffn_SOURCES = tests/bench/bench_ffn.c tests/bench/peak.c tests/bench/peak.h
tests_bench_bench_ffn_LDADD = libexpertd.la
tests_bench_bench_ledger_SOURCES = tests/bench/bench_ledger.c
tests_bench_bench_ledger_LDADD = libexpertd.la $(JEMALLOC_LIBS)

.PHONY: benchmarks
benchmarks: $(BENCHMARKS)
