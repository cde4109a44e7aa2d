# SPDX-License-Identifier: Apache-2.0
plugin_LTLIBRARIES += ref.la cpu.la

ref_la_SOURCES = plugins/ref/ref.c
ref_la_LDFLAGS = $(PLUGIN_LDFLAGS)
ref_la_LIBADD = -lm

cpu_la_SOURCES = plugins/cpu/plugin.c plugins/cpu/trunk.c plugins/cpu/linear.c plugins/cpu/gate.c plugins/cpu/gate.h \
	plugins/cpu/device.c plugins/cpu/device.h plugins/cpu/pool.c plugins/cpu/pool.h
nodist_cpu_la_SOURCES = build/id.h
cpu_la_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)
cpu_la_LDFLAGS = $(PLUGIN_LDFLAGS)
cpu_la_LIBADD = libkernels.la -lm

# The build id ties the private trunk table to the daemon it was built with: the version and a digest of all sources on both sides of it, so
# that equal trees give equal ids and nothing else does.
BUILD_ID_OF = $(libexpertd_la_SOURCES) $(cpu_la_SOURCES) $(KERNEL_BODIES) $(libkernels_la_SOURCES) daemon/include/expertd/plugin.h
build/id.h: $(BUILD_ID_OF) Makefile
	$(AM_V_GEN)$(MKDIR_P) build && \
	{ printf '/* Generated from the sources. */\n#define EX_BUILD "%s+' '$(PACKAGE_VERSION)' && \
	  for f in $(BUILD_ID_OF); do cat "$(srcdir)/$$f" || exit 1; done | sha256sum | cut -c1-12 | tr -d '\n' && echo '"'; } > $@.tmp && mv $@.tmp $@
$(cpu_la_OBJECTS): build/id.h
BUILT_SOURCES += build/id.h
CLEANFILES += build/id.h
