/* SPDX-License-Identifier: Apache-2.0 */
/* Every parameter of the configuration. The struct, the parser, --dump-config and expertd.conf(5) are made from this table.
 *
 * EX_SECTION(section, text)
 * EX_PARAM(section, key, type, unit, default, min, max, reload, text)
 *   type     STR NAME PATH ADDR ADDRS GLOBS PAIRS U32 AUTO (a U32, or "auto": 0) BYTES BYTES_AUTO BOOL ENUM
 *   unit     of a number, for people; the choices "a|b|c" of an ENUM
 *   default  as it would be written in a file; "" leaves it unset
 *   min, max of a number or of the length of a list or text; 0, 0: the type's own
 *   reload   LIVE: SIGHUP takes it up; RESTART: needs a restart
 * No include guard: included for each use. */
/* clang-format off */
EX_SECTION(node, "This process.")
EX_PARAM(node, name, NAME, "", "", 0, 0, RESTART, "Name of this node in journals, metrics and handshakes. Unset: the host name.")
EX_PARAM(node, listen, ADDR, "", "127.0.0.1:7101", 0, 0, RESTART, "Where routers reach the experts of this process (gRPC: Experts, health, reflection). Used with [expert].")
EX_PARAM(node, advertise, ADDR, "", "", 0, 0, RESTART, "Address under which routers reach the experts of this process, as it is registered in etcd. Unset: listen.")
EX_PARAM(node, zone, NAME, "", "", 0, 0, RESTART, "What this host may fail together with: a rack, a room. Registered in etcd.")
EX_PARAM(node, admin, PATH, "", "/run/expertd/admin.sock", 0, 107, RESTART, "Unix socket for expertctl (gRPC: Admin, Router, health, reflection). Peers must have this process's uid, be root, or belong to admin_group.")
EX_PARAM(node, admin_group, STR, "", "", 0, 32, RESTART, "Members of this group may use the admin socket too.")
EX_PARAM(node, state, PATH, "", "/var/lib/expertd", 0, 0, RESTART, "Directory for what must outlive the process. Made with mode 0700 when it is missing.")
EX_PARAM(node, log_level, ENUM, "error|warning|notice|info|debug", "info", 0, 0, LIVE, "Journal lines of lesser weight are dropped.")
EX_PARAM(node, drain_s, U32, "s", "30", 0, 3600, LIVE, "How long requests in flight may go on after a stop was asked for.")
EX_PARAM(node, insecure, BOOL, "", "no", 0, 0, RESTART, "Lets listen addresses be others than loopback, though the traffic is neither encrypted nor authenticated.")

EX_SECTION(model, "The model that is served. All hosts of a fleet have the same one.")
EX_PARAM(model, path, PATH, "", "", 0, 0, RESTART, "Checkpoint directory: config.json, safetensors files, and for a router tokenizer.json. Needed.")
EX_PARAM(model, name, NAME, "", "", 0, 0, RESTART, "Name that requests use. Unset: the last part of path.")
EX_PARAM(model, expert_groups, AUTO, "", "auto", 1, 4096, RESTART, "Ranges that the experts of a layer are split into: the shards. Equal on all hosts of a fleet. auto: 8, or one per expert when there are fewer.")
EX_PARAM(model, check_finite, BOOL, "", "yes", 0, 0, RESTART, "Look for NaN and infinity in weights while loading.")

EX_SECTION(expert, "Its presence makes the process an expert host.")
EX_PARAM(expert, shards, GLOBS, "", "auto", 1, 1024, RESTART, "Which shards to load: globs over LAYER/RANGE, as in */E0-7 or L1-12/*; E0-7 takes in every range of experts within it, and must not cut one. auto: all.")
EX_PARAM(expert, plugin, STR, "", "auto", 1, 4095, RESTART, "Plugin that computes: a name in plugin_dir, or the path of a .so. auto: the one that probes best.")
EX_PARAM(expert, plugin_dir, PATH, "", EX_PLUGIN_DIR, 0, 0, RESTART, "Directory of the plugins.")
EX_PARAM(expert, device, STR, "", "0", 1, 64, RESTART, "Device of the plugin.")
EX_PARAM(expert, threads, AUTO, "", "auto", 1, 256, RESTART, "Threads that the plugin computes with. auto: one per processor, but not above 128.")
EX_PARAM(expert, options, PAIRS, "", "", 0, 32, RESTART, "Further options of the plugin, as in isa=generic. Its own documentation says which.")
EX_PARAM(expert, workers, U32, "", "1", 1, 256, RESTART, "Shards that are computed at once, each on a thread of its own.")
EX_PARAM(expert, batch_rows_max, U32, "rows", "1024", 1, 8192, RESTART, "Rows given to the plugin in one call.")
EX_PARAM(expert, queue_rows_max, U32, "rows", "65536", 1, 16777216, RESTART, "Rows queued in all; work beyond it is refused.")
EX_PARAM(expert, reply_bytes_max, BYTES, "", "256M", 1048576, 68719476736, RESTART, "Replies queued towards one router that does not read; beyond it the stream is ended.")

EX_SECTION(router, "Its presence makes the process a router.")
EX_PARAM(router, listen, ADDR, "", "127.0.0.1:7100", 0, 0, RESTART, "Where clients reach the Router service (gRPC: Router, health, reflection).")
EX_PARAM(router, peers, ADDRS, "", "", 0, 1024, LIVE, "Expert hosts, besides those that are registered in etcd. Shards of this process need no entry.")
EX_PARAM(router, max_batch, U32, "sequences", "32", 1, 1024, RESTART, "Sequences that are computed together.")
EX_PARAM(router, step_tokens_max, U32, "tokens", "512", 1, 8192, RESTART, "Tokens of one step: first one for each running sequence, then pieces of prompts. Not below max_batch.")
EX_PARAM(router, queue_max, U32, "requests", "256", 0, 65536, RESTART, "Requests taken beyond max_batch, to wait for a place; more are refused at once.")
EX_PARAM(router, context, AUTO, "tokens", "auto", 16, 16777216, RESTART, "Longest sequence, prompt and answer together. auto: the model's own limit, but not above 8192.")
EX_PARAM(router, kv_bytes, BYTES_AUTO, "", "auto", 65536, 17592186044416, RESTART, "Size of the KV cache. auto: room for max_batch sequences of the whole context, within a quarter of the available memory.")
EX_PARAM(router, page_tokens, U32, "tokens", "32", 1, 1024, RESTART, "Tokens per page of the KV cache.")
EX_PARAM(router, plugin, STR, "", "auto", 1, 4095, RESTART, "Plugin whose trunk backend computes all but the routed experts.")
EX_PARAM(router, plugin_dir, PATH, "", EX_PLUGIN_DIR, 0, 0, RESTART, "Directory of the plugins.")
EX_PARAM(router, device, STR, "", "0", 1, 64, RESTART, "Device of the plugin.")
EX_PARAM(router, threads, AUTO, "", "auto", 1, 256, RESTART, "Threads that the plugin computes with. auto: one per processor, but not above 128.")
EX_PARAM(router, options, PAIRS, "", "", 0, 32, RESTART, "Further options of the plugin, as in isa=generic. Its own documentation says which.")
EX_PARAM(router, dispatch_dtype, ENUM, "f32|bf16", "f32", 0, 0, RESTART, "Number format in which rows go to the experts. bf16 halves what is sent and rounds it.")
EX_PARAM(router, connect_ms, U32, "ms", "1000", 10, 60000, RESTART, "Time for a handshake with an expert host, and pause between tries.")
EX_PARAM(router, heartbeat_ms, U32, "ms", "250", 10, 60000, RESTART, "Period of heartbeats; an expert host silent for three of them is down.")
EX_PARAM(router, frame_timeout_ms, U32, "ms", "30000", 100, 600000, RESTART, "A frame unanswered that long has failed, though heartbeats come back.")
EX_PARAM(router, late_ms, U32, "ms", "2000", 10, 600000, RESTART, "A frame unanswered that long, and eight times as long as the 99th percentile of its host, is asked for at another replica as well, though heartbeats come back.")
EX_PARAM(router, hold_ms, U32, "ms", "10000", 0, 600000, RESTART, "How long after a shard lost its last replica requests wait for one to appear, before they end with insufficient_system_resource.")
EX_PARAM(router, failover, ENUM, "identical|any", "identical", 0, 0, RESTART, "Which replicas may take over for one that fails. identical: those of the same numeric identity (weights, plugin, instruction set), so that no bit changes. any: others, too; it is counted and journaled.")
EX_PARAM(router, hedge, ENUM, "off|fixed|p99", "off", 0, 0, RESTART, "Ask a second replica when the first is late. fixed: after hedge_ms; p99: after the 99th percentile of that host's recent replies, but not before hedge_ms.")
EX_PARAM(router, hedge_ms, U32, "ms", "20", 1, 60000, RESTART, "See hedge.")
EX_PARAM(router, hedge_budget_percent, U32, "%", "5", 0, 100, RESTART, "Rows that may be sent twice because a host is late, of all rows sent.")
EX_PARAM(router, verify_percent, U32, "%", "0", 0, 100, RESTART, "Of the shards' shares of a step, how many a second replica of the same numeric identity computes as well. Results that differ in a bit are told; a host that differs from two others is asked last.")
EX_PARAM(router, reply_bytes_max, BYTES, "", "4M", 65536, 1073741824, RESTART, "Text queued towards one client that does not read; beyond it the request is cancelled.")
EX_PARAM(router, prompt_bytes_max, BYTES, "", "4M", 1024, 268435456, RESTART, "Longest request message.")

EX_SECTION(etcd, "Its presence makes an expert host register itself in etcd (v3), and a router use the hosts that are registered there.")
EX_PARAM(etcd, endpoints, ADDRS, "", "", 0, 16, RESTART, "Client addresses of the etcd cluster. One is used at a time, and another when it fails.")
EX_PARAM(etcd, prefix, STR, "", "/expertd", 1, 255, RESTART, "What the fleet's keys begin with: hosts are PREFIX/hosts/NAME. Equal on all hosts of a fleet.")
EX_PARAM(etcd, lease_ttl_s, U32, "s", "10", 2, 3600, RESTART, "A host that etcd does not hear of for so long is no member any more.")
EX_PARAM(etcd, timeout_ms, U32, "ms", "2000", 100, 60000, RESTART, "Time for one answer of etcd.")

EX_SECTION(metrics, "Its presence, with a listen address, serves metrics over HTTP.")
EX_PARAM(metrics, listen, ADDR, "", "", 0, 0, RESTART, "Where Prometheus finds GET /metrics. Unset: only over the admin socket.")
/* clang-format on */
