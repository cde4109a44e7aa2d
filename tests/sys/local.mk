# SPDX-License-Identifier: Apache-2.0
# Whole-system tests run against an installed tree: ./bootstrap check, or tests/sys/run.py --help.
EXTRA_DIST += \
	tests/requirements.txt \
	tests/sys/b01_generate.py \
	tests/sys/b02_bits.py \
	tests/sys/b03_grpcio.py \
	tests/sys/b04_eval.py \
	tests/sys/certs.py \
	tests/sys/clients.py \
	tests/sys/clock_shift.c \
	tests/sys/deepseek_v3.json \
	tests/sys/demo.py \
	tests/sys/etcds.py \
	tests/sys/f01_lost_host.py \
	tests/sys/f02_clients.py \
	tests/sys/f03_strangers.py \
	tests/sys/f04_hostile_peers.py \
	tests/sys/f05_limits.py \
	tests/sys/f06_etcd.py \
	tests/sys/f07_etcd_tls.py \
	tests/sys/f08_tls.py \
	tests/sys/f10_failover.py \
	tests/sys/f11_network.py \
	tests/sys/f12_members.py \
	tests/sys/f13_plan.py \
	tests/sys/f14_apply.py \
	tests/sys/fleet.py \
	tests/sys/g01_http.py \
	tests/sys/g05_limits.py \
	tests/sys/g06_topups.py \
	tests/sys/hosts.py \
	tests/sys/l01_soak.py \
	tests/sys/l02_swap.py \
	tests/sys/l03_apply.py \
	tests/sys/l03_faults.py \
	tests/sys/l03_gateway.py \
	tests/sys/l03_model_switch.py \
	tests/sys/l06_etcd.py \
	tests/sys/l07_clock.py \
	tests/sys/machine.sh \
	tests/sys/o01_config.py \
	tests/sys/o02_bad_models.py \
	tests/sys/o03_operations.py \
	tests/sys/o04_odd_starts.py \
	tests/sys/o10_systemd.py \
	tests/sys/o20_simulate.py \
	tests/sys/quota.py \
	tests/sys/relay.py \
	tests/sys/run.py \
	tests/sys/s01_swap.py \
	tests/sys/s03_model_switch.py \
	tests/sys/s04_http_switch.py \
	tests/sys/streams.py \
	tests/sys/swaps.py \
	tests/sys/switching.py

# A third-party gRPC client against net/
check_PROGRAMS += tests/sys/rpc_server tests/sys/money_fire
tests_sys_money_fire_SOURCES = tests/sys/money_fire.c
tests_sys_money_fire_LDADD = libexpertd.la
tests_sys_rpc_server_SOURCES = tests/sys/rpc_server.c
tests_sys_rpc_server_LDADD = libexpertd.la
TESTS += tests/sys/grpcio_net.py tests/sys/money_fire.py
EXTRA_DIST += tests/sys/grpcio_net.py tests/sys/money_fire.py tests/tsan.supp
