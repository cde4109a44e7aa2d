# SPDX-License-Identifier: Apache-2.0
libexpertd_la_SOURCES += \
	daemon/engine/engine.h daemon/engine/engine.c daemon/engine/impl.h daemon/engine/step.c \
	daemon/engine/request.c daemon/engine/request.h \
	daemon/engine/model_calls.c daemon/engine/model_calls.h \
	daemon/engine/sides.c \
	daemon/engine/scheduler.c daemon/engine/scheduler.h \
	daemon/engine/kv.c daemon/engine/kv.h \
	daemon/engine/sampler.c daemon/engine/sampler.h \
	daemon/engine/text.c daemon/engine/text.h \
	daemon/engine/plan.c daemon/engine/plan.h \
	daemon/engine/dispatch.h daemon/engine/dispatch.c daemon/engine/view.c \
	daemon/engine/fabric.h daemon/engine/fabric.c daemon/engine/route.c daemon/engine/roster.c daemon/engine/place.c daemon/engine/place.h daemon/engine/host.c \
	daemon/engine/haul.c daemon/engine/haul.h daemon/engine/porter.c daemon/engine/porter.h daemon/engine/mover.c daemon/engine/mover.h \
	daemon/engine/jobs.h daemon/engine/jobs.c \
	daemon/engine/service.h daemon/engine/service.c
