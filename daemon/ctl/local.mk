# SPDX-License-Identifier: Apache-2.0
bin_PROGRAMS += daemon/ctl/expertctl
daemon_ctl_expertctl_SOURCES = \
	daemon/ctl/ctl.h daemon/ctl/main.c daemon/ctl/commands.c daemon/ctl/remote.c daemon/ctl/output.c \
	daemon/ctl/cmd_admin.c daemon/ctl/cmd_host.c daemon/ctl/cmd_fleet.c daemon/ctl/cmd_plan.c daemon/ctl/cmd_apply.c daemon/ctl/cmd_generate.c \
	daemon/ctl/cmd_model.c daemon/ctl/cmd_plugin.c daemon/ctl/cmd_shard.c daemon/ctl/cmd_switch.c \
	daemon/ctl/cmd_account.c daemon/ctl/cmd_key.c daemon/ctl/cmd_topup.c daemon/ctl/cmd_topup_gate.c daemon/ctl/cmd_tariff.c daemon/ctl/cmd_usage.c daemon/ctl/cmd_ledger.c
daemon_ctl_expertctl_LDADD = libexpertd.la $(JEMALLOC_LIBS)

bashcompletiondir = $(datadir)/bash-completion/completions
dist_bashcompletion_DATA = daemon/ctl/completion/expertctl
