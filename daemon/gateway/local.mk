# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/gateway/admit.h daemon/gateway/admit_open.c \
	daemon/gateway/chat_reply.c daemon/gateway/chat_reply.h \
	daemon/gateway/chat_request.c daemon/gateway/chat_request.h \
	daemon/gateway/completion_reply.c daemon/gateway/connection.c \
	daemon/gateway/edge.h daemon/gateway/http.c \
	daemon/gateway/error.c daemon/gateway/error.h \
	daemon/gateway/exchange.c daemon/gateway/exchange.h daemon/gateway/generation.c daemon/gateway/watch.c \
	daemon/gateway/https.c daemon/gateway/https.h \
	daemon/gateway/json_guide.c daemon/gateway/json_guide.h daemon/gateway/json_state.c \
	daemon/gateway/prompt.c daemon/gateway/prompt.h \
	daemon/gateway/socket.c daemon/gateway/socket.h \
	daemon/gateway/text.c daemon/gateway/text.h
