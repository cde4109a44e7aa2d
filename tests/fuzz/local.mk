# SPDX-License-Identifier: Apache-2.0
# A target is tests/fuzz/fuzz_<what>.c with LLVMFuzzerTestOneInput, and its corpus is tests/fuzz/corpus/fuzz_<what>/.
# With --enable-fuzz (CC=clang) it becomes a libFuzzer program; `make fuzz FUZZ_SECONDS=60` runs each that long. Without, replay.c
# is its main() and `make check` runs the corpus and small damages of it.
FUZZ_TARGETS = tests/fuzz/fuzz_cert tests/fuzz/fuzz_chat_request tests/fuzz/fuzz_fleet_files tests/fuzz/fuzz_frame tests/fuzz/fuzz_json_guide tests/fuzz/fuzz_model_config \
	tests/fuzz/fuzz_published tests/fuzz/fuzz_record tests/fuzz/fuzz_safetensors tests/fuzz/fuzz_tariff tests/fuzz/fuzz_tokenizer tests/fuzz/fuzz_topup_line
FUZZ_SECONDS = 20
FUZZ_JOBS = 1

if FUZZ
noinst_PROGRAMS += $(FUZZ_TARGETS)
FUZZ_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
FUZZ_MAIN =

.PHONY: fuzz
fuzz: $(FUZZ_TARGETS)
	@printf '%s\n' $(FUZZ_TARGETS) | xargs -n 1 -P $(FUZZ_JOBS) $(srcdir)/tests/fuzz/fuzz.sh $(srcdir) $(FUZZ_SECONDS)
else
check_PROGRAMS += $(FUZZ_TARGETS)
TESTS += $(FUZZ_TARGETS)
FUZZ_LDFLAGS = $(AM_LDFLAGS)
FUZZ_MAIN = tests/fuzz/replay.c
endif

noinst_HEADERS += tests/fuzz/fuzz.h
EXTRA_DIST += tests/fuzz/corpus tests/fuzz/fuzz.sh

tests_fuzz_fuzz_fleet_files_SOURCES = tests/fuzz/fuzz_fleet_files.c $(FUZZ_MAIN)
tests_fuzz_fuzz_fleet_files_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_fleet_files_LDADD = libexpertd.la

tests_fuzz_fuzz_cert_SOURCES = tests/fuzz/fuzz_cert.c tests/unit/certs.c $(FUZZ_MAIN)
tests_fuzz_fuzz_cert_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_cert_LDADD = $(TEST_LIBS)

tests_fuzz_fuzz_chat_request_SOURCES = tests/fuzz/fuzz_chat_request.c $(FUZZ_MAIN)
tests_fuzz_fuzz_chat_request_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_chat_request_LDADD = libexpertd.la

tests_fuzz_fuzz_frame_SOURCES = tests/fuzz/fuzz_frame.c $(FUZZ_MAIN)
tests_fuzz_fuzz_frame_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_frame_LDADD = libexpertd.la

tests_fuzz_fuzz_json_guide_SOURCES = tests/fuzz/fuzz_json_guide.c $(FUZZ_MAIN)
tests_fuzz_fuzz_json_guide_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_json_guide_LDADD = libexpertd.la

tests_fuzz_fuzz_model_config_SOURCES = tests/fuzz/fuzz_model_config.c $(FUZZ_MAIN)
tests_fuzz_fuzz_model_config_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_model_config_LDADD = libexpertd.la

tests_fuzz_fuzz_record_SOURCES = tests/fuzz/fuzz_record.c $(FUZZ_MAIN)
tests_fuzz_fuzz_record_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_record_LDADD = libexpertd.la

tests_fuzz_fuzz_published_SOURCES = tests/fuzz/fuzz_published.c $(FUZZ_MAIN)
tests_fuzz_fuzz_published_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_published_LDADD = libexpertd.la

tests_fuzz_fuzz_safetensors_SOURCES = tests/fuzz/fuzz_safetensors.c $(FUZZ_MAIN)
tests_fuzz_fuzz_safetensors_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_safetensors_LDADD = libexpertd.la

tests_fuzz_fuzz_tariff_SOURCES = tests/fuzz/fuzz_tariff.c $(FUZZ_MAIN)
tests_fuzz_fuzz_tariff_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_tariff_LDADD = libexpertd.la

tests_fuzz_fuzz_topup_line_SOURCES = tests/fuzz/fuzz_topup_line.c $(FUZZ_MAIN)
tests_fuzz_fuzz_topup_line_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_topup_line_LDADD = libexpertd.la

tests_fuzz_fuzz_tokenizer_SOURCES = tests/fuzz/fuzz_tokenizer.c $(FUZZ_MAIN)
tests_fuzz_fuzz_tokenizer_LDFLAGS = $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_tokenizer_LDADD = libexpertd.la
