# SPDX-License-Identifier: Apache-2.0
# One cmocka program per module: base/err.c -> tests/unit/test_err.c. Each module's block stands by itself.
noinst_HEADERS += tests/unit/unit.h

UNIT_MODEL = tests/unit/test_dtype tests/unit/test_model_config tests/unit/test_synth tests/unit/test_safetensors \
	tests/unit/test_weights tests/unit/test_show
check_PROGRAMS += $(UNIT_MODEL)
TESTS += $(UNIT_MODEL)
tests_unit_test_dtype_SOURCES = tests/unit/test_dtype.c
tests_unit_test_dtype_LDADD = $(TEST_LIBS)
tests_unit_test_model_config_SOURCES = tests/unit/test_model_config.c
tests_unit_test_model_config_LDADD = $(TEST_LIBS)
tests_unit_test_synth_SOURCES = tests/unit/test_synth.c tests/unit/model_dir.h
tests_unit_test_synth_LDADD = $(TEST_LIBS)
tests_unit_test_safetensors_SOURCES = tests/unit/test_safetensors.c tests/unit/model_dir.h
tests_unit_test_safetensors_LDADD = $(TEST_LIBS)
tests_unit_test_weights_SOURCES = tests/unit/test_weights.c tests/unit/model_dir.h
tests_unit_test_weights_LDADD = $(TEST_LIBS)
tests_unit_test_show_SOURCES = tests/unit/test_show.c tests/unit/model_dir.h
tests_unit_test_show_LDADD = $(TEST_LIBS)

UNIT_BASE = tests/unit/test_err tests/unit/test_mem tests/unit/test_str
check_PROGRAMS += $(UNIT_BASE)
TESTS += $(UNIT_BASE)
tests_unit_test_err_SOURCES = tests/unit/test_err.c
tests_unit_test_err_LDADD = $(TEST_LIBS)
tests_unit_test_mem_SOURCES = tests/unit/test_mem.c
tests_unit_test_mem_LDADD = $(TEST_LIBS)
tests_unit_test_str_SOURCES = tests/unit/test_str.c
tests_unit_test_str_LDADD = $(TEST_LIBS)

check_PROGRAMS += tests/unit/test_shard
TESTS += tests/unit/test_shard
tests_unit_test_shard_SOURCES = tests/unit/test_shard.c
tests_unit_test_shard_LDADD = $(TEST_LIBS)

UNIT_SERVICES = tests/unit/test_lock tests/unit/test_log tests/unit/test_metrics tests/unit/test_addr tests/unit/test_bind tests/unit/test_params \
	tests/unit/test_config tests/unit/test_fleet tests/unit/test_http tests/unit/test_admin
check_PROGRAMS += $(UNIT_SERVICES)
TESTS += $(UNIT_SERVICES)
tests_unit_test_lock_SOURCES = tests/unit/test_lock.c
tests_unit_test_lock_LDADD = $(TEST_LIBS)
tests_unit_test_log_SOURCES = tests/unit/test_log.c
tests_unit_test_log_LDADD = $(TEST_LIBS)
tests_unit_test_metrics_SOURCES = tests/unit/test_metrics.c
tests_unit_test_metrics_LDADD = $(TEST_LIBS)
tests_unit_test_addr_SOURCES = tests/unit/test_addr.c
tests_unit_test_addr_LDADD = $(TEST_LIBS)
tests_unit_test_bind_SOURCES = tests/unit/test_bind.c
tests_unit_test_bind_LDADD = $(TEST_LIBS)
tests_unit_test_params_SOURCES = tests/unit/test_params.c
tests_unit_test_params_LDADD = $(TEST_LIBS)
tests_unit_test_config_SOURCES = tests/unit/test_config.c tests/unit/certs.c
tests_unit_test_config_LDADD = $(TEST_LIBS)
tests_unit_test_fleet_SOURCES = tests/unit/test_fleet.c
tests_unit_test_fleet_LDADD = $(TEST_LIBS)
tests_unit_test_admin_SOURCES = tests/unit/test_admin.c
tests_unit_test_admin_LDADD = $(TEST_LIBS)
tests_unit_test_http_SOURCES = tests/unit/test_http.c
tests_unit_test_http_LDADD = $(TEST_LIBS)

UNIT_GATEWAY = tests/unit/test_gateway tests/unit/test_chat_request tests/unit/test_chat_reply tests/unit/test_https tests/unit/test_json_guide tests/unit/test_penalty tests/unit/test_prompt
check_PROGRAMS += $(UNIT_GATEWAY)
TESTS += $(UNIT_GATEWAY)
tests_unit_test_chat_request_SOURCES = tests/unit/test_chat_request.c
tests_unit_test_chat_request_LDADD = $(TEST_LIBS)
tests_unit_test_chat_reply_SOURCES = tests/unit/test_chat_reply.c
tests_unit_test_chat_reply_LDADD = $(TEST_LIBS)
tests_unit_test_json_guide_SOURCES = tests/unit/test_json_guide.c tests/unit/small_tokenizer.h
tests_unit_test_json_guide_LDADD = $(TEST_LIBS)
tests_unit_test_penalty_SOURCES = tests/unit/test_penalty.c
tests_unit_test_penalty_LDADD = $(TEST_LIBS)
tests_unit_test_gateway_SOURCES = tests/unit/test_gateway.c tests/unit/small_model.c tests/unit/ref_ops.c tests/unit/small_tokenizer.h
tests_unit_test_gateway_LDADD = $(TEST_LIBS) -lm
tests_unit_test_prompt_SOURCES = tests/unit/test_prompt.c tests/unit/small_tokenizer.h
tests_unit_test_prompt_LDADD = $(TEST_LIBS)
tests_unit_test_https_SOURCES = tests/unit/test_https.c tests/unit/certs.c
tests_unit_test_https_LDADD = $(TEST_LIBS)

UNIT_FLEET = tests/unit/test_load tests/unit/test_planner tests/unit/test_hostfile tests/unit/test_trace tests/unit/test_simulate
check_PROGRAMS += $(UNIT_FLEET)
TESTS += $(UNIT_FLEET)
tests_unit_test_load_SOURCES = tests/unit/test_load.c
tests_unit_test_load_LDADD = $(TEST_LIBS) -lm
tests_unit_test_planner_SOURCES = tests/unit/test_planner.c
tests_unit_test_planner_LDADD = $(TEST_LIBS) -lm
tests_unit_test_hostfile_SOURCES = tests/unit/test_hostfile.c
tests_unit_test_hostfile_LDADD = $(TEST_LIBS)
tests_unit_test_trace_SOURCES = tests/unit/test_trace.c
tests_unit_test_trace_LDADD = $(TEST_LIBS) -lm
tests_unit_test_simulate_SOURCES = tests/unit/test_simulate.c
tests_unit_test_simulate_LDADD = $(TEST_LIBS) -lm

# gateway: money
noinst_HEADERS += tests/unit/ledger_ops.h tests/unit/ledger_cases.h tests/unit/pg_server.h
UNIT_MONEY = tests/unit/test_money tests/unit/test_ledger tests/unit/test_ledger_crash \
	tests/unit/test_accounts tests/unit/test_admit_accounts
check_PROGRAMS += $(UNIT_MONEY)
TESTS += $(UNIT_MONEY)
tests_unit_test_money_SOURCES = tests/unit/test_money.c
tests_unit_test_money_LDADD = $(TEST_LIBS)
tests_unit_test_ledger_SOURCES = tests/unit/test_ledger.c
tests_unit_test_ledger_LDADD = $(TEST_LIBS) $(SQLITE_LIBS)
tests_unit_test_ledger_crash_SOURCES = tests/unit/test_ledger_crash.c
tests_unit_test_ledger_crash_LDADD = $(TEST_LIBS)
tests_unit_test_accounts_SOURCES = tests/unit/test_accounts.c
tests_unit_test_accounts_LDADD = $(TEST_LIBS)
tests_unit_test_admit_accounts_SOURCES = tests/unit/test_admit_accounts.c
tests_unit_test_admit_accounts_LDADD = $(TEST_LIBS) $(SQLITE_LIBS)

if POSTGRES
check_PROGRAMS += tests/unit/test_ledger_pg
TESTS += tests/unit/test_ledger_pg
tests_unit_test_ledger_pg_SOURCES = tests/unit/test_ledger_pg.c tests/unit/pg_server.c
tests_unit_test_ledger_pg_LDADD = $(TEST_LIBS) $(PQ_LIBS)
endif

# trunk and engine; ref_ops is a scalar backend
noinst_HEADERS += tests/unit/ref_ops.h tests/unit/small_model.h tests/unit/fake_host.h tests/unit/dispatch_rig.h
UNIT_TRUNK = tests/unit/test_rope tests/unit/test_kv tests/unit/test_sampler tests/unit/test_scheduler \
	tests/unit/test_plan tests/unit/test_stop tests/unit/test_trunk \
	tests/unit/test_engine tests/unit/test_sides tests/unit/test_dispatch tests/unit/test_route tests/unit/test_dispatch_fleet tests/unit/test_router_service
check_PROGRAMS += $(UNIT_TRUNK)
TESTS += $(UNIT_TRUNK)
tests_unit_test_rope_SOURCES = tests/unit/test_rope.c
tests_unit_test_rope_LDADD = $(TEST_LIBS)
tests_unit_test_kv_SOURCES = tests/unit/test_kv.c
tests_unit_test_kv_LDADD = $(TEST_LIBS)
tests_unit_test_sampler_SOURCES = tests/unit/test_sampler.c
tests_unit_test_sampler_LDADD = $(TEST_LIBS)
tests_unit_test_scheduler_SOURCES = tests/unit/test_scheduler.c
tests_unit_test_scheduler_LDADD = $(TEST_LIBS)
tests_unit_test_plan_SOURCES = tests/unit/test_plan.c
tests_unit_test_plan_LDADD = $(TEST_LIBS)
tests_unit_test_stop_SOURCES = tests/unit/test_stop.c
tests_unit_test_stop_LDADD = $(TEST_LIBS)
tests_unit_test_trunk_SOURCES = tests/unit/test_trunk.c tests/unit/small_model.c tests/unit/ref_ops.c
tests_unit_test_trunk_LDADD = $(TEST_LIBS) -lm
tests_unit_test_sides_SOURCES = tests/unit/test_sides.c tests/unit/small_model.c tests/unit/ref_ops.c
tests_unit_test_sides_LDADD = $(TEST_LIBS) -lm
tests_unit_test_engine_SOURCES = tests/unit/test_engine.c tests/unit/small_model.c tests/unit/ref_ops.c
tests_unit_test_engine_LDADD = $(TEST_LIBS) -lm
tests_unit_test_route_SOURCES = tests/unit/test_route.c tests/unit/fake_host.c
tests_unit_test_route_LDADD = $(TEST_LIBS) -lm
tests_unit_test_dispatch_SOURCES = tests/unit/test_dispatch.c tests/unit/fake_host.c
tests_unit_test_dispatch_LDADD = $(TEST_LIBS) -lm
tests_unit_test_dispatch_fleet_SOURCES = tests/unit/test_dispatch_fleet.c tests/unit/small_model.c
tests_unit_test_dispatch_fleet_LDADD = $(TEST_LIBS) -lm
check_PROGRAMS += tests/unit/test_jobs tests/unit/test_haul tests/unit/test_porter
TESTS += tests/unit/test_jobs tests/unit/test_haul tests/unit/test_porter
tests_unit_test_porter_SOURCES = tests/unit/test_porter.c
tests_unit_test_porter_LDADD = $(TEST_LIBS)
tests_unit_test_haul_SOURCES = tests/unit/test_haul.c
tests_unit_test_haul_LDADD = $(TEST_LIBS) -lm
tests_unit_test_jobs_SOURCES = tests/unit/test_jobs.c
tests_unit_test_jobs_LDADD = $(TEST_LIBS)
tests_unit_test_router_service_SOURCES = tests/unit/test_router_service.c tests/unit/small_model.c tests/unit/ref_ops.c
tests_unit_test_router_service_LDADD = $(TEST_LIBS) -lm

# tokenizer
noinst_HEADERS += tests/unit/small_tokenizer.h
UNIT_TOKENIZER = tests/unit/test_tokenizer tests/unit/test_detok tests/unit/test_chat
check_PROGRAMS += $(UNIT_TOKENIZER)
TESTS += $(UNIT_TOKENIZER)
tests_unit_test_tokenizer_SOURCES = tests/unit/test_tokenizer.c
tests_unit_test_tokenizer_LDADD = $(TEST_LIBS)
tests_unit_test_detok_SOURCES = tests/unit/test_detok.c
tests_unit_test_detok_LDADD = $(TEST_LIBS)
tests_unit_test_chat_SOURCES = tests/unit/test_chat.c
tests_unit_test_chat_LDADD = $(TEST_LIBS)


UNIT_NET = tests/unit/test_loop tests/unit/test_frame tests/unit/test_experts_service tests/unit/test_msg tests/unit/test_server_client \
	tests/unit/test_server_limits tests/unit/test_peers
check_PROGRAMS += $(UNIT_NET)
TESTS += $(UNIT_NET)
tests_unit_test_loop_SOURCES = tests/unit/test_loop.c
tests_unit_test_loop_LDADD = $(TEST_LIBS)
tests_unit_test_experts_service_SOURCES = tests/unit/test_experts_service.c
tests_unit_test_experts_service_LDADD = $(TEST_LIBS)
tests_unit_test_frame_SOURCES = tests/unit/test_frame.c
tests_unit_test_frame_LDADD = $(TEST_LIBS)
tests_unit_test_msg_SOURCES = tests/unit/test_msg.c
tests_unit_test_msg_LDADD = $(TEST_LIBS)
tests_unit_test_server_client_SOURCES = tests/unit/test_server_client.c tests/unit/server_pair.c tests/unit/server_pair.h
tests_unit_test_server_client_LDADD = $(TEST_LIBS)
tests_unit_test_server_limits_SOURCES = tests/unit/test_server_limits.c tests/unit/server_pair.c tests/unit/server_pair.h
tests_unit_test_server_limits_LDADD = $(TEST_LIBS)
tests_unit_test_peers_SOURCES = tests/unit/test_peers.c
tests_unit_test_peers_LDADD = $(TEST_LIBS)

noinst_HEADERS += tests/unit/certs.h
UNIT_TLS = tests/unit/test_cert tests/unit/test_tls tests/unit/test_dispatch_tls tests/unit/test_words
check_PROGRAMS += $(UNIT_TLS)
TESTS += $(UNIT_TLS)
tests_unit_test_dispatch_tls_SOURCES = tests/unit/test_dispatch_tls.c tests/unit/fake_host.c tests/unit/certs.c
tests_unit_test_dispatch_tls_LDADD = $(TEST_LIBS) -lm
tests_unit_test_words_SOURCES = tests/unit/test_words.c
tests_unit_test_words_LDADD = $(TEST_LIBS)
tests_unit_test_cert_SOURCES = tests/unit/test_cert.c tests/unit/certs.c
tests_unit_test_cert_LDADD = $(TEST_LIBS)
tests_unit_test_tls_SOURCES = tests/unit/test_tls.c tests/unit/certs.c tests/unit/server_pair.c
tests_unit_test_tls_LDADD = $(TEST_LIBS)

# The gateway's limits and prices, on simulated clocks.
UNIT_LIMITS = tests/unit/test_cover tests/unit/test_fair tests/unit/test_gcra tests/unit/test_limits tests/unit/test_tariff tests/unit/test_topup_gate tests/unit/test_topups tests/unit/test_waitlist
check_PROGRAMS += $(UNIT_LIMITS)
TESTS += $(UNIT_LIMITS)
tests_unit_test_cover_SOURCES = tests/unit/test_cover.c
tests_unit_test_cover_LDADD = $(TEST_LIBS) -lm
tests_unit_test_fair_SOURCES = tests/unit/test_fair.c
tests_unit_test_fair_LDADD = $(TEST_LIBS) -lm
tests_unit_test_gcra_SOURCES = tests/unit/test_gcra.c
tests_unit_test_gcra_LDADD = $(TEST_LIBS)
tests_unit_test_limits_SOURCES = tests/unit/test_limits.c
tests_unit_test_limits_LDADD = $(TEST_LIBS)
tests_unit_test_tariff_SOURCES = tests/unit/test_tariff.c
tests_unit_test_tariff_LDADD = $(TEST_LIBS)
tests_unit_test_topup_gate_SOURCES = tests/unit/test_topup_gate.c
tests_unit_test_topup_gate_LDADD = $(TEST_LIBS) -lm
tests_unit_test_topups_SOURCES = tests/unit/test_topups.c
tests_unit_test_topups_LDADD = $(TEST_LIBS) -lm
tests_unit_test_waitlist_SOURCES = tests/unit/test_waitlist.c
tests_unit_test_waitlist_LDADD = $(TEST_LIBS)

# Modules for the loader's test: a good one, and variants with one deviation each.
check_LTLIBRARIES += tests/unit/plugins/example.la tests/unit/plugins/variant.la tests/unit/plugins/best.la tests/unit/plugins/unfit.la \
	tests/unit/plugins/bad_major.la tests/unit/plugins/bad_minor.la tests/unit/plugins/bad_size.la tests/unit/plugins/no_run.la \
	tests/unit/plugins/no_symbol.la
TEST_PLUGIN_LDFLAGS = $(PLUGIN_LDFLAGS) -rpath /nowhere
tests_unit_plugins_example_la_SOURCES = tests/unit/plugins/example.c
tests_unit_plugins_example_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_example_la_LIBADD = -lm
tests_unit_plugins_variant_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_variant_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_best_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_best_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_SCORE=50
tests_unit_plugins_best_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_unfit_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_unfit_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_SCORE=0
tests_unit_plugins_unfit_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_bad_major_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_bad_major_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_MAJOR=2
tests_unit_plugins_bad_major_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_bad_minor_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_bad_minor_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_MINOR=99
tests_unit_plugins_bad_minor_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_bad_size_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_bad_size_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_SIZE=40
tests_unit_plugins_bad_size_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_no_run_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_no_run_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_RUN=NULL
tests_unit_plugins_no_run_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_no_symbol_la_SOURCES = tests/unit/plugins/variant.c
tests_unit_plugins_no_symbol_la_CPPFLAGS = $(AM_CPPFLAGS) -DV_SYMBOL=another_name
tests_unit_plugins_no_symbol_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)

check_PROGRAMS += tests/unit/test_loader
TESTS += tests/unit/test_loader
tests_unit_test_loader_SOURCES = tests/unit/test_loader.c
tests_unit_test_loader_LDADD = $(TEST_LIBS)

# Registry and executor, with a plugin that fails and dawdles on demand.
check_LTLIBRARIES += tests/unit/plugins/fake.la
tests_unit_plugins_fake_la_SOURCES = tests/unit/plugins/fake.c
tests_unit_plugins_fake_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
noinst_HEADERS += tests/unit/expert_setup.h
check_PROGRAMS += tests/unit/test_registry tests/unit/test_executor
TESTS += tests/unit/test_registry tests/unit/test_executor
tests_unit_test_registry_SOURCES = tests/unit/test_registry.c
tests_unit_test_registry_LDADD = $(TEST_LIBS)
tests_unit_test_executor_SOURCES = tests/unit/test_executor.c
tests_unit_test_executor_LDADD = $(TEST_LIBS)

# The example with a mistake, for the conformance suite's test.
check_LTLIBRARIES += tests/unit/plugins/wrong.la
tests_unit_plugins_wrong_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_la_LIBADD = -lm

# The same with a mistake built in, for the swapper's test. _at_40: only with experts as those of its checkpoint, of a shape that the suite does not use.
WRONG_PLUGINS = tests/unit/plugins/wrong_load_crash.la tests/unit/plugins/wrong_load_hang.la tests/unit/plugins/wrong_leak.la \
	tests/unit/plugins/wrong_crash_at_40.la tests/unit/plugins/wrong_after_at_40.la tests/unit/plugins/wrong_inexact_at_40.la
check_LTLIBRARIES += $(WRONG_PLUGINS)
tests_unit_plugins_wrong_load_crash_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_load_crash_la_CPPFLAGS = $(AM_CPPFLAGS) -DWRONG_MISTAKE='"crashes_at_load"'
tests_unit_plugins_wrong_load_crash_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_load_crash_la_LIBADD = -lm
tests_unit_plugins_wrong_load_hang_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_load_hang_la_CPPFLAGS = $(AM_CPPFLAGS) -DWRONG_MISTAKE='"hangs_at_load"'
tests_unit_plugins_wrong_load_hang_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_load_hang_la_LIBADD = -lm
tests_unit_plugins_wrong_leak_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_leak_la_CPPFLAGS = $(AM_CPPFLAGS) -DWRONG_MISTAKE='"leaks"'
tests_unit_plugins_wrong_leak_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_leak_la_LIBADD = -lm
tests_unit_plugins_wrong_crash_at_40_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_crash_at_40_la_CPPFLAGS = $(AM_CPPFLAGS) -DWRONG_MISTAKE='"crashes_at_40"'
tests_unit_plugins_wrong_crash_at_40_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_crash_at_40_la_LIBADD = -lm
tests_unit_plugins_wrong_after_at_40_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_after_at_40_la_CPPFLAGS = $(AM_CPPFLAGS) -DWRONG_MISTAKE='"after_at_40"'
tests_unit_plugins_wrong_after_at_40_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_after_at_40_la_LIBADD = -lm
tests_unit_plugins_wrong_inexact_at_40_la_SOURCES = tests/unit/plugins/wrong.c
tests_unit_plugins_wrong_inexact_at_40_la_CPPFLAGS = $(AM_CPPFLAGS) -DWRONG_MISTAKE='"inexact_at_40"'
tests_unit_plugins_wrong_inexact_at_40_la_LDFLAGS = $(TEST_PLUGIN_LDFLAGS)
tests_unit_plugins_wrong_inexact_at_40_la_LIBADD = -lm

UNIT_SWAP = tests/unit/test_ring tests/unit/test_published tests/unit/test_starts tests/unit/test_swap tests/unit/test_moves tests/unit/test_epochs tests/unit/test_choice
check_PROGRAMS += $(UNIT_SWAP)
TESTS += $(UNIT_SWAP)
tests_unit_test_ring_SOURCES = tests/unit/test_ring.c
tests_unit_test_ring_LDADD = $(TEST_LIBS)
tests_unit_test_published_SOURCES = tests/unit/test_published.c
tests_unit_test_published_LDADD = $(TEST_LIBS)
tests_unit_test_moves_SOURCES = tests/unit/test_moves.c
tests_unit_test_moves_LDADD = $(TEST_LIBS)
tests_unit_test_starts_SOURCES = tests/unit/test_starts.c
tests_unit_test_starts_LDADD = $(TEST_LIBS)
tests_unit_test_epochs_SOURCES = tests/unit/test_epochs.c
tests_unit_test_epochs_LDADD = $(TEST_LIBS)
tests_unit_test_choice_SOURCES = tests/unit/test_choice.c
tests_unit_test_choice_LDADD = $(TEST_LIBS)
tests_unit_test_swap_SOURCES = tests/unit/test_swap.c
tests_unit_test_swap_LDADD = $(TEST_LIBS)

check_PROGRAMS += tests/unit/test_conformance
TESTS += tests/unit/test_conformance
tests_unit_test_conformance_SOURCES = tests/unit/test_conformance.c
tests_unit_test_conformance_LDADD = $(TEST_LIBS)

TESTS += tests/unit/check_example.sh
EXTRA_DIST += tests/unit/check_example.sh docs/PLUGINS.md

# Membership, with a real etcd where its programs are.
noinst_HEADERS += tests/unit/etcd_cluster.h tests/unit/members_seen.h
UNIT_MEMBERS = tests/unit/test_members tests/unit/test_record tests/unit/test_etcd tests/unit/test_registrar tests/unit/test_members_etcd
check_PROGRAMS += $(UNIT_MEMBERS)
TESTS += $(UNIT_MEMBERS)
tests_unit_test_members_SOURCES = tests/unit/test_members.c
tests_unit_test_members_LDADD = $(TEST_LIBS)
tests_unit_test_record_SOURCES = tests/unit/test_record.c
tests_unit_test_record_LDADD = $(TEST_LIBS)
tests_unit_test_etcd_SOURCES = tests/unit/test_etcd.c tests/unit/etcd_cluster.c
tests_unit_test_etcd_LDADD = $(TEST_LIBS)
tests_unit_test_registrar_SOURCES = tests/unit/test_registrar.c tests/unit/etcd_cluster.c
tests_unit_test_registrar_LDADD = $(TEST_LIBS)
tests_unit_test_members_etcd_SOURCES = tests/unit/test_members_etcd.c tests/unit/etcd_cluster.c
tests_unit_test_members_etcd_LDADD = $(TEST_LIBS)
