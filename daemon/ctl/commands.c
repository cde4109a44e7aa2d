/* SPDX-License-Identifier: Apache-2.0 */
/* The command table: dispatch, help and completion come from these rows. */
#include "ctl/ctl.h"

const struct ctl_cmd ctl_commands[] = {
	{"status", "", "the daemon on one screen: roles, model, hosts, batch, memory", NULL, 0, 0, ctl_cmd_status},
	{"chat", "[MESSAGE]", "ask, and print reasoning and answer as they come; without MESSAGE: a conversation",
		ctl_opts_generate, 0, 1, ctl_cmd_chat},
	{"generate", "PROMPT", "continue a raw text, without the chat template", ctl_opts_generate, 1, 1,
		ctl_cmd_generate},
	{"host list", "", "expert hosts as the router sees them", NULL, 0, 0, ctl_cmd_host_list},
	{"host drain", "NAME", "take an expert host out of use: others are asked for its shards", ctl_opts_drain, 1, 1,
		ctl_cmd_host_drain},
	{"host resume", "NAME", "take a drained expert host into use again", NULL, 1, 1, ctl_cmd_host_resume},
	{"shard list", "[GLOB]", "shards held here, or seen by the router; GLOB as in 'L3/E0-7' or '*/E0-*'", NULL, 0,
		1, ctl_cmd_shard_list},
	{"plugin list", "", "plugins that the daemon can load, with their fitness for its machine", NULL, 0, 0,
		ctl_cmd_plugin_list},
	{"plugin check", "FILE.so", "run the conformance suite on a plugin (no daemon needed)", ctl_opts_check, 1, 1,
		ctl_cmd_plugin_check},
	{"model show", "DIR", "what a checkpoint is and what it needs (no daemon needed)", NULL, 1, 1,
		ctl_cmd_model_show},
	{"model synth", "", "write a checkpoint of random weights (no daemon needed)", ctl_opts_synth, 0, 0,
		ctl_cmd_model_synth},
	{"events", "", "operator events, oldest first", ctl_opts_events, 0, 0, ctl_cmd_events},
	{"metrics", "", "all metrics in Prometheus text format", NULL, 0, 0, ctl_cmd_metrics},
	{"config", "", "the daemon's effective configuration and where each value comes from", NULL, 0, 0,
		ctl_cmd_config},
	{"reload", "", "read the configuration again; says what changed and what needs a restart", NULL, 0, 0,
		ctl_cmd_reload},
	{NULL, NULL, NULL, NULL, 0, 0, NULL},
};
