# SPDX-License-Identifier: Apache-2.0

libexpertd_la_SOURCES += \
	daemon/net/cert.c daemon/net/cert.h \
	daemon/net/client.c daemon/net/client.h \
	daemon/net/frame.c daemon/net/frame.h \
	daemon/net/health.c daemon/net/service.h \
	daemon/net/listen.c daemon/net/listen.h \
	daemon/net/loop.c daemon/net/loop.h daemon/net/tag.h \
	daemon/net/msg.c daemon/net/msg.h daemon/net/msg_internal.h \
	daemon/net/peers.c daemon/net/peers.h \
	daemon/net/reflection.c \
	daemon/net/rpc.c daemon/net/rpc.h \
	daemon/net/scratch.c daemon/net/scratch.h \
	daemon/net/server.c daemon/net/server.h \
	daemon/net/status.c daemon/net/status.h \
	daemon/net/tls.c daemon/net/tls.h daemon/net/tls_creds.h \
	daemon/net/unary.c
