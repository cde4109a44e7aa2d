# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/core/choice.c daemon/core/choice.h \
	daemon/core/conffile.c daemon/core/conffile.h \
	daemon/core/config.c daemon/core/config_topup.c daemon/core/config.h \
	daemon/core/exit.h \
	daemon/core/gate.c daemon/core/gate.h

# The rest of core/ is the program's own: nothing else links the whole house.
sbin_PROGRAMS += expertd
expertd_SOURCES = daemon/core/main.c \
	daemon/core/house.c daemon/core/house.h daemon/core/house_int.h \
	daemon/core/house_admin.c daemon/core/house_epochs.c daemon/core/house_expert.c daemon/core/house_gateway.c daemon/core/house_members.c \
	daemon/core/house_ledger.c daemon/core/house_limits.c daemon/core/house_model.c daemon/core/house_mover.c daemon/core/house_register.c \
	daemon/core/house_topup.c \
	daemon/core/house_router.c daemon/core/house_swap.c daemon/core/house_tls.c \
	daemon/core/lifecycle.c daemon/core/lifecycle.h
expertd_LDADD = libexpertd.la $(JEMALLOC_LIBS)
