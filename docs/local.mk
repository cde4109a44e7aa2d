# SPDX-License-Identifier: Apache-2.0
# Manual pages: scdoc, with the tables of the daemon filled in.
noinst_PROGRAMS += docs/man/print_tables
docs_man_print_tables_SOURCES = docs/man/print_tables.c
docs_man_print_tables_LDADD = libexpertd.la
MAN_FILLED = docs/man/expertd.8 docs/man/expertd.conf.5
man_MANS += $(MAN_FILLED)
CLEANFILES += $(MAN_FILLED)
EXTRA_DIST += $(MAN_FILLED:=.scd) docs/OPERATIONS.md

# The pages are written for --sysconfdir=/etc. An underscore would begin emphasis: it is escaped.
MAN_SED = $(SED) -e 's|/etc/expertd|$(subst _,\\_,$(sysconfdir))/expertd|g'
docs/man/expertd.8: docs/man/expertd.8.scd docs/man/print_tables$(EXEEXT) Makefile
docs/man/expertd.conf.5: docs/man/expertd.conf.5.scd docs/man/print_tables$(EXEEXT) Makefile
$(MAN_FILLED):
	$(AM_V_GEN)$(MKDIR_P) docs/man && $(MAN_SED) $(top_srcdir)/$@.scd | docs/man/print_tables$(EXEEXT) manual > $@.tmp.scd && \
		$(SCDOC) < $@.tmp.scd > $@.tmp && mv $@.tmp $@ && rm -f $@.tmp.scd

man_MANS += docs/man/expertctl.1
CLEANFILES += docs/man/expertctl.1
EXTRA_DIST += docs/man/expertctl.1.scd docs/API.md docs/ARCHITECTURE.md docs/HACKING.md docs/NEWS.md docs/NUMERICS.md docs/PERFORMANCE.md
docs/man/expertctl.1: docs/man/expertctl.1.scd Makefile
	$(AM_V_GEN)$(MKDIR_P) docs/man && $(MAN_SED) $(top_srcdir)/$@.scd | $(SCDOC) > $@.tmp && mv $@.tmp $@
