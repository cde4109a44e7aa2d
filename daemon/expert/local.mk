# SPDX-License-Identifier: Apache-2.0

libexpertd_la_SOURCES += \
	daemon/expert/conformance.c daemon/expert/conformance.h daemon/expert/conformance_fork.c \
	daemon/expert/generation.c daemon/expert/registry_int.h \
	daemon/expert/ring.c daemon/expert/ring.h \
	daemon/expert/elf.c daemon/expert/elf.h \
	daemon/expert/executor.c daemon/expert/executor.h \
	daemon/expert/lane.c daemon/expert/lane.h \
	daemon/expert/loader.c daemon/expert/loader.h \
	daemon/expert/moves.c daemon/expert/moves.h \
	daemon/expert/plugin_file.c daemon/expert/plugin_file.h \
	daemon/expert/pool.c daemon/expert/pool.h \
	daemon/expert/epochs.c daemon/expert/epochs.h daemon/expert/service_model.c \
	daemon/expert/published.c daemon/expert/published.h \
	daemon/expert/reference.c daemon/expert/reference.h \
	daemon/expert/registry.c daemon/expert/registry.h daemon/expert/registry_epoch.c \
	daemon/expert/service.c daemon/expert/service.h \
	daemon/expert/starts.c daemon/expert/starts.h \
	daemon/expert/swap.c daemon/expert/swap.h daemon/expert/swap_int.h daemon/expert/swap_steps.c \
	daemon/expert/verify.c daemon/expert/verify.h \
	daemon/expert/trial.c daemon/expert/trial.h daemon/expert/trial_int.h daemon/expert/trial_child.c \
	daemon/expert/words.c daemon/expert/words.h
daemon/expert/loader.lo: build/id.h
