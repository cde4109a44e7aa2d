# SPDX-License-Identifier: Apache-2.0
# Units, sysusers, tmpfiles, the journal catalog, and sample configurations.
UNITS = systemd/expertd.service systemd/expertd-router.service
systemdunitdir = $(systemdsystemunitdir)
nodist_systemdunit_DATA = $(UNITS)
catalogdir = $(prefix)/lib/systemd/catalog
nodist_catalog_DATA = systemd/expertd.catalog
CLEANFILES += $(UNITS) systemd/expertd.catalog
EXTRA_DIST += $(UNITS:=.in) systemd/common.in systemd/expertd.sysusers systemd/expertd.tmpfiles systemd/expertd.conf systemd/router.conf \
	systemd/check_units.sh

$(UNITS): %: %.in systemd/common.in Makefile
	$(AM_V_GEN)$(MKDIR_P) systemd && $(SED) -e '/%COMMON%/{r $(top_srcdir)/systemd/common.in' -e 'd}' $(top_srcdir)/$@.in | \
		$(SED) -e 's|%SBINDIR%|$(sbindir)|g' -e 's|%SYSCONFDIR%|$(sysconfdir)|g' > $@.tmp && mv $@.tmp $@

systemd/expertd.catalog: docs/man/print_tables$(EXEEXT)
	$(AM_V_GEN)$(MKDIR_P) systemd && docs/man/print_tables$(EXEEXT) catalog > $@.tmp && mv $@.tmp $@

TESTS += systemd/check_units.sh
check_DATA = $(UNITS) systemd/expertd.catalog

# An operator's configuration is never overwritten. Plugins are opened by dlopen, which has no use for libtool's .la files.
install-data-hook:
	rm -f $(DESTDIR)$(plugindir)/*.la
	$(MKDIR_P) $(DESTDIR)$(prefix)/lib/sysusers.d $(DESTDIR)$(prefix)/lib/tmpfiles.d $(DESTDIR)$(sysconfdir)/expertd
	$(INSTALL_DATA) $(srcdir)/systemd/expertd.sysusers $(DESTDIR)$(prefix)/lib/sysusers.d/expertd.conf
	$(INSTALL_DATA) $(srcdir)/systemd/expertd.tmpfiles $(DESTDIR)$(prefix)/lib/tmpfiles.d/expertd.conf
	for f in expertd.conf router.conf; do \
		test -e $(DESTDIR)$(sysconfdir)/expertd/$$f || $(INSTALL_DATA) $(srcdir)/systemd/$$f $(DESTDIR)$(sysconfdir)/expertd/$$f; \
	done

uninstall-hook:
	for p in $(plugin_LTLIBRARIES); do p=$${p##*/}; rm -f $(DESTDIR)$(plugindir)/$${p%.la}.so; done
	rm -f $(DESTDIR)$(prefix)/lib/sysusers.d/expertd.conf $(DESTDIR)$(prefix)/lib/tmpfiles.d/expertd.conf
	for f in expertd.conf router.conf; do \
		cmp -s $(srcdir)/systemd/$$f $(DESTDIR)$(sysconfdir)/expertd/$$f && rm -f $(DESTDIR)$(sysconfdir)/expertd/$$f || :; \
	done
