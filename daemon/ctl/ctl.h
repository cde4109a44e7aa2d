/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl: the command table, parsed options and the connection to a daemon. A client of proto/ only (and of the
 * model and plugin checkers, for commands that need no daemon). One thread. */
#ifndef EX_CTL_CTL_H
#define EX_CTL_CTL_H

#include "base/err.h"
#include "base/str.h"
#include "expertd/admin.pb-c.h"
#include "net/client.h"
#include <jansson.h>
#include <stdbool.h>

/* Exit codes, in expertctl(1). */
enum {
	CTL_OK = 0,
	CTL_FAILED = 1,      /* the daemon or the check said no */
	CTL_USAGE = 2,       /* the command line is wrong */
	CTL_ENOUGH = -1,     /* of a stream: what was wanted is there; no exit code */
	CTL_UNREACHABLE = 3, /* no daemon answers on the socket */
};

#define CTL_OPTS_MAX       24
#define CTL_ADMIN          "/expertd.v1.Admin/"
#define CTL_ACCOUNTS       "/expertd.v1.Accounts/"
#define CTL_DEFAULT_SOCKET "/run/expertd/admin.sock"

struct ctl_opt {
	const char *name; /* "seed" for --seed */
	const char *arg;  /* metavariable, NULL: a flag */
	const char *help;
};

struct ctl;
struct ctl_cmd {
	const char *words;          /* "host list" */
	const char *args;           /* positional, for help: "[GLOB]" */
	const char *help;           /* one line */
	const struct ctl_opt *opts; /* name-NULL-terminated; NULL: none */
	int args_min, args_max;     /* positional; args_max -1: any number */
	int (*run)(struct ctl *c, int argc, char **argv);
};

struct ctl_given {
	const struct ctl_opt *opt;
	const char *value;
};

struct ctl {
	const struct ctl_cmd *cmd;
	bool json, tty, verbose;
	const char *socket;
	unsigned timeout_ms;
	struct ctl_given given[CTL_OPTS_MAX];
	size_t n_given;
	struct ex_loop *loop; /* both made at the first call */
	struct ex_channel *channel;
};

extern const struct ctl_cmd ctl_commands[]; /* words-NULL-terminated */

/* --- options --------------------------------------------------------------------------------------------- */
bool ctl_has(const struct ctl *c, const char *name);
const char *ctl_str(const struct ctl *c, const char *name, const char *otherwise);
/* Number options: CTL_OK, or CTL_USAGE after a message naming the option and the range. */
int ctl_u64(const struct ctl *c, const char *name, uint64_t min, uint64_t max, uint64_t otherwise, uint64_t *ret);
int ctl_float(const struct ctl *c, const char *name, double min, double max, double otherwise, float *ret);

/* --- messages -------------------------------------------------------------------------------------------- */
int ctl_fail(int exit_code, const char *fmt, ...) EX_PRINTF(2, 3); /* "expertctl: ..." on stderr; returns exit_code */

/* --- the daemon ------------------------------------------------------------------------------------------ */
/* Connects. CTL_OK or CTL_UNREACHABLE after a message. */
int ctl_connect(struct ctl *c);
/* One call; *ret is freed with protobuf_c_message_free_unpacked. CTL_OK, or the exit code after a message. */
int ctl_call(struct ctl *c, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply,
	ProtobufCMessage **ret);
/* A call of the Admin service; ret: a T ** of the reply's type. With --json the reply is printed, and *ret is NULL. */
int ctl_admin(
	struct ctl *c, const char *method, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret);
/* The same of any service: path is "/package.Service/Method". */
int ctl_ask(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret);
/* A server stream: fn gets every reply in order; non-zero from fn ends the stream and is returned. SIGINT cancels: 130.
 */
int ctl_stream(struct ctl *c, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *reply, int (*fn)(void *ctx, const ProtobufCMessage *m), void *ctx);
void ctl_disconnect(struct ctl *c);

/* --- output ---------------------------------------------------------------------------------------------- */
/* A message as JSON, by its descriptor: field names as in the proto, bytes as base16, absent messages left out. Never
 * NULL. */
json_t *ctl_json(const ProtobufCMessage *m);
/* A number; beyond INT64_MAX, which a JSON library may make negative, its digits as a string. */
json_t *ctl_json_u64(uint64_t v);
/* Prints j (takes the reference) on one line (compact) or indented. */
void ctl_print_json(json_t *j, bool compact);

/* Text tables: columns aligned to their widest cell; cells that look like numbers to the right. */
#define CTL_COLS_MAX 14
struct ctl_table {
	size_t n_cols, n_rows, cap;
	char **cell;
};
void ctl_table_init(struct ctl_table *t, size_t n_cols, const char *const *heads);
void ctl_table_cell(struct ctl_table *t, const char *fmt, ...) EX_PRINTF(2, 3);
void ctl_table_print(struct ctl_table *t); /* and frees */

char *ctl_seconds_text(double s, char buf[static 32]); /* "18 ms", "2.1 s", "3 h 20 min" */
char *ctl_count_text(uint64_t n, char buf[static 32]); /* "1,488" */

/* --- shared by commands ---------------------------------------------------------------------------------- */
/* The options of a plan. CTL_OK, or CTL_USAGE after a message. */
int ctl_plan_request(struct ctl *c, Expertd__V1__PlanFleetRequest *q);
/* Has a plan carried out, and with --wait waits for it. An exit code. */
int ctl_apply(struct ctl *c, Expertd__V1__ApplyFleetRequest *q);

/* --- commands -------------------------------------------------------------------------------------------- */
int ctl_cmd_status(struct ctl *c, int argc, char **argv);
int ctl_cmd_chat(struct ctl *c, int argc, char **argv);
int ctl_cmd_generate(struct ctl *c, int argc, char **argv);
int ctl_cmd_host_list(struct ctl *c, int argc, char **argv);
int ctl_cmd_fleet_apply(struct ctl *c, int argc, char **argv);
int ctl_cmd_fleet_plan(struct ctl *c, int argc, char **argv);
int ctl_cmd_fleet_status(struct ctl *c, int argc, char **argv);
int ctl_cmd_host_drain(struct ctl *c, int argc, char **argv);
int ctl_cmd_host_resume(struct ctl *c, int argc, char **argv);
int ctl_cmd_shard_list(struct ctl *c, int argc, char **argv);
int ctl_cmd_shard_swap(struct ctl *c, int argc, char **argv);
int ctl_cmd_shard_rollback(struct ctl *c, int argc, char **argv);
int ctl_cmd_shard_load(struct ctl *c, int argc, char **argv);
int ctl_cmd_shard_unload(struct ctl *c, int argc, char **argv);
int ctl_cmd_plugin_list(struct ctl *c, int argc, char **argv);
int ctl_cmd_plugin_check(struct ctl *c, int argc, char **argv);
int ctl_cmd_model_show(struct ctl *c, int argc, char **argv);
int ctl_cmd_model_switch(struct ctl *c, int argc, char **argv);
int ctl_cmd_model_synth(struct ctl *c, int argc, char **argv);
int ctl_cmd_fleet_simulate(struct ctl *c, int argc, char **argv);
int ctl_cmd_account_create(struct ctl *c, int argc, char **argv);
int ctl_cmd_account_list(struct ctl *c, int argc, char **argv);
int ctl_cmd_account_show(struct ctl *c, int argc, char **argv);
int ctl_cmd_account_suspend(struct ctl *c, int argc, char **argv);
int ctl_cmd_account_resume(struct ctl *c, int argc, char **argv);
int ctl_cmd_account_tier(struct ctl *c, int argc, char **argv);
int ctl_cmd_key_create(struct ctl *c, int argc, char **argv);
int ctl_cmd_key_list(struct ctl *c, int argc, char **argv);
int ctl_cmd_key_revoke(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_credit(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_status(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_suspend(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_waitlist(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_limit(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_open(struct ctl *c, int argc, char **argv);
int ctl_cmd_topup_auto(struct ctl *c, int argc, char **argv);
int ctl_cmd_ledger_verify(struct ctl *c, int argc, char **argv);
int ctl_cmd_ledger_show(struct ctl *c, int argc, char **argv);
int ctl_cmd_tariff_set(struct ctl *c, int argc, char **argv);
int ctl_cmd_tariff_list(struct ctl *c, int argc, char **argv);
int ctl_cmd_usage(struct ctl *c, int argc, char **argv);
int ctl_cmd_events(struct ctl *c, int argc, char **argv);
int ctl_cmd_metrics(struct ctl *c, int argc, char **argv);
int ctl_cmd_config(struct ctl *c, int argc, char **argv);
int ctl_cmd_reload(struct ctl *c, int argc, char **argv);

extern const struct ctl_opt ctl_opts_generate[], ctl_opts_events[], ctl_opts_synth[], ctl_opts_check[],
	ctl_opts_drain[], ctl_opts_simulate[], ctl_opts_plan[], ctl_opts_apply[], ctl_opts_swap[], ctl_opts_switch[],
	ctl_opts_unload[], ctl_opts_account_create[], ctl_opts_key_create[], ctl_opts_credit[], ctl_opts_gate[],
	ctl_opts_ledger_show[], ctl_opts_tariff_set[], ctl_opts_usage[];

#endif
