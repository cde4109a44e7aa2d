# SPDX-License-Identifier: Apache-2.0
# Golden vectors made with transformers (generate.py), and the tests that hold the daemon to them.
GOLDEN_NAMES = v2-freq v2-group v2-lite v2-norm v2-yarn v3 v3-dense2 v3-fp8 v3-yarn
EXTRA_DIST += tests/golden/generate.py tests/golden/reference.py tests/golden/regenerate.sh tests/golden/gate.vectors \
	$(GOLDEN_NAMES:%=tests/golden/configs/%.json) $(GOLDEN_NAMES:%=tests/golden/%.golden) tests/golden/tiny-r1.golden
check_PROGRAMS += tests/golden/synth
tests_golden_synth_SOURCES = tests/golden/synth_main.c
tests_golden_synth_LDADD = libexpertd.la

# the tokenizer against the `tokenizers` library
check_PROGRAMS += tests/golden/tokenizer/encode_lines
tests_golden_tokenizer_encode_lines_SOURCES = tests/golden/tokenizer/encode_lines.c
tests_golden_tokenizer_encode_lines_LDADD = $(TEST_LIBS)
TOKENIZER_CHECKS = tests/golden/tokenizer/check.sh tests/golden/tokenizer/compare.sh
TESTS += $(TOKENIZER_CHECKS)
EXTRA_DIST += $(TOKENIZER_CHECKS) tests/golden/tokenizer/compare.py tests/golden/tokenizer/corpus.jsonl \
	tests/golden/tokenizer/deepseek.ids tests/golden/tokenizer/tiny-r1.ids

check_PROGRAMS += tests/golden/test_gate
TESTS += tests/golden/test_gate
tests_golden_test_gate_SOURCES = tests/golden/test_gate.c
tests_golden_test_gate_LDADD = $(TEST_LIBS)

check_PROGRAMS += tests/golden/test_golden
TESTS += tests/golden/test_golden
tests_golden_test_golden_SOURCES = tests/golden/test_golden.c tests/golden/rig.c tests/golden/rig.h
tests_golden_test_golden_LDADD = $(TEST_LIBS)

# The same requests over fleets of real processes; the client is a program of its own.
check_PROGRAMS += tests/golden/fleet_client
tests_golden_fleet_client_SOURCES = tests/golden/fleet_client.c
tests_golden_fleet_client_LDADD = libexpertd.la
EXTRA_DIST += tests/golden/fleet_bits.py
TESTS += tests/golden/fleet_bits.py
