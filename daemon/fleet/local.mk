# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/fleet/etcd.c \
	daemon/fleet/etcd.h \
	daemon/fleet/hostfile.c \
	daemon/fleet/hostfile.h \
	daemon/fleet/load.c \
	daemon/fleet/load.h \
	daemon/fleet/members.c \
	daemon/fleet/members.h \
	daemon/fleet/members_etcd.c \
	daemon/fleet/members_int.h \
	daemon/fleet/placement.c \
	daemon/fleet/placement.h \
	daemon/fleet/planner.c \
	daemon/fleet/planner.h \
	daemon/fleet/planner_balance.c \
	daemon/fleet/planner_hot.c \
	daemon/fleet/planner_moves.c \
	daemon/fleet/planner_repair.c \
	daemon/fleet/planner_state.c \
	daemon/fleet/planner_state.h \
	daemon/fleet/record.c \
	daemon/fleet/record.h \
	daemon/fleet/registrar.c \
	daemon/fleet/registrar.h \
	daemon/fleet/simulate.c \
	daemon/fleet/simulate.h \
	daemon/fleet/trace.c \
	daemon/fleet/trace.h
