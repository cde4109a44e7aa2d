# SPDX-License-Identifier: Apache-2.0

libexpertd_la_SOURCES += \
	daemon/base/macro.h \
	daemon/base/clock.h \
	daemon/base/dtype.c daemon/base/dtype.h \
	daemon/base/keep.c daemon/base/keep.h \
	daemon/base/err.c daemon/base/err.h \
	daemon/base/mem.c daemon/base/mem.h \
	daemon/base/str.c daemon/base/str.h \
	daemon/base/shard.c daemon/base/shard.h

libexpertd_la_SOURCES += \
	daemon/base/addr.c daemon/base/addr.h \
	daemon/base/bind.c daemon/base/bind.h \
	daemon/base/params.c daemon/base/params.h daemon/base/tbl/params.h \
	daemon/base/lock.c daemon/base/lock.h \
	daemon/base/log.c daemon/base/log.h daemon/base/tbl/events.h \
	daemon/base/metrics.c daemon/base/metrics.h daemon/base/tbl/metrics.h
