# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/fleet/members.c daemon/fleet/members.h \
	daemon/fleet/placement.c daemon/fleet/placement.h
