# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/admin/http.c daemon/admin/http.h \
	daemon/admin/service.c daemon/admin/service.h \
	daemon/admin/shards.c daemon/admin/shards.h \
	daemon/admin/switch.c daemon/admin/switch.h \
	daemon/admin/views.c daemon/admin/views.h
