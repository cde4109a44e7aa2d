# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/gateway/accounts.c daemon/gateway/accounts.h \
	daemon/gateway/admit.h \
	daemon/gateway/admit_accounts.c daemon/gateway/admit_accounts.h \
	daemon/gateway/admit_open.c \
	daemon/gateway/charges.c daemon/gateway/charges.h \
	daemon/gateway/charges_file.c daemon/gateway/charges_file.h \
	daemon/gateway/chat_reply.c daemon/gateway/chat_reply.h \
	daemon/gateway/chat_request.c daemon/gateway/chat_request.h \
	daemon/gateway/completion_reply.c \
	daemon/gateway/connection.c \
	daemon/gateway/cover.c daemon/gateway/cover.h \
	daemon/gateway/desk.c daemon/gateway/desk.h \
	daemon/gateway/desk_call.c daemon/gateway/desk_call.h \
	daemon/gateway/edge.h \
	daemon/gateway/edge_model.c daemon/gateway/edge_model.h \
	daemon/gateway/error.c daemon/gateway/error.h \
	daemon/gateway/exchange.c daemon/gateway/exchange.h \
	daemon/gateway/fair.c daemon/gateway/fair.h \
	daemon/gateway/gcra.c daemon/gateway/gcra.h \
	daemon/gateway/generation.c \
	daemon/gateway/http.c \
	daemon/gateway/https.c daemon/gateway/https.h \
	daemon/gateway/json_guide.c daemon/gateway/json_guide.h \
	daemon/gateway/json_state.c \
	daemon/gateway/ledger.c daemon/gateway/ledger.h \
	daemon/gateway/ledger_apply.c \
	daemon/gateway/ledger_chain.c \
	daemon/gateway/ledger_set.c daemon/gateway/ledger_set.h \
	daemon/gateway/ledger_verify.c \
	daemon/gateway/limits.c daemon/gateway/limits.h \
	daemon/gateway/limits_int.h \
	daemon/gateway/limits_state.c \
	daemon/gateway/limits_tiers.c \
	daemon/gateway/money.c daemon/gateway/money.h \
	daemon/gateway/penalty.c daemon/gateway/penalty.h \
	daemon/gateway/prompt.c daemon/gateway/prompt.h \
	daemon/gateway/service.c daemon/gateway/service.h \
	daemon/gateway/service_int.h \
	daemon/gateway/service_ledger.c \
	daemon/gateway/socket.c daemon/gateway/socket.h \
	daemon/gateway/sqlite_accounts.c \
	daemon/gateway/sqlite_rows.c \
	daemon/gateway/store.c daemon/gateway/store.h \
	daemon/gateway/store_sqlite.c daemon/gateway/store_sqlite.h \
	daemon/gateway/tariff.c daemon/gateway/tariff.h \
	daemon/gateway/text.c daemon/gateway/text.h \
	daemon/gateway/topup_gate.c daemon/gateway/topup_gate.h \
	daemon/gateway/topup_service.c daemon/gateway/topup_service.h \
	daemon/gateway/topups.c daemon/gateway/topups.h \
	daemon/gateway/topups_text.c \
	daemon/gateway/waitlist.c daemon/gateway/waitlist.h \
	daemon/gateway/watch.c

if POSTGRES
libexpertd_la_SOURCES += daemon/gateway/store_pg.c daemon/gateway/store_pg.h daemon/gateway/pg_rows.c daemon/gateway/pg_accounts.c
endif
