# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/trunk/ops.h daemon/trunk/trunk.h daemon/trunk/impl.h \
	daemon/trunk/trunk.c daemon/trunk/load.c daemon/trunk/deepseek.c \
	daemon/trunk/rope.c daemon/trunk/rope.h \
	daemon/trunk/latent.c daemon/trunk/latent.h
