/* SPDX-License-Identifier: Apache-2.0 */
/* What the planner would make of a model on hosts that need not exist, and of the loss of any one host or zone. Layer L2. */
#ifndef EX_FLEET_SIMULATE_H
#define EX_FLEET_SIMULATE_H

#include "fleet/planner.h"
#include "model/config.h"

struct ex_simulate_opts {
	const struct ex_model_config *model;
	const struct ex_planner_host *hosts;
	size_t n_hosts;
	const double *loads;    /* [shards], as ex_trace_read gives them */
	uint32_t expert_groups; /* ranges a layer: what ex_placement_groups makes of the operator's number */
	uint32_t min_replicas, max_replicas;
	double link_bytes_per_s; /* that every host can load at, all at the same time */
	/* After each loss that was looked at; NULL: none. */
	void (*progress)(void *ctx, size_t done, size_t total);
	void *ctx;
};

struct ex_simulate_host {
	uint64_t bytes;
	uint32_t n_shards;
	double time; /* over the mean */
};

struct ex_simulate_loss {
	const char *name; /* of the host or zone: borrowed from the hosts */
	bool is_zone;
	uint32_t n_hosts, n_uncovered; /* shards that are left without a replica until they are loaded again */
	uint32_t replicas;             /* the most that the rest has room for, at most min_replicas; 0: none, see why */
	double at_once, after;         /* imbalance before and after the moves */
	uint64_t bytes_recover,
		bytes;             /* loads until all shards have `replicas`; all loads, those for balance included */
	double recover_s, all_s;   /* the busiest receiver's bytes at link_bytes_per_s */
	char why[EX_ERR_TEXT_MAX]; /* why it is less than min_replicas; "" when it is not */
};

struct ex_simulate {
	struct ex_planner_shard *shards;
	struct ex_planner_input input; /* borrows shards and the caller's hosts; pairs: none */
	uint64_t bytes_expert, bytes_all;
	double load_max;                              /* the hottest shard's over the mean */
	struct ex_planner_figures naive;              /* contiguous runs of shards, in proportion to memory */
	struct ex_planner_result plan;                /* from nothing */
	struct ex_simulate_host *hosts;               /* [n_hosts] in the plan */
	struct ex_simulate_loss *losses;              /* each host, then each zone if there are at least 2 */
	size_t n_losses, worst_time, worst_imbalance; /* indexes into losses */
};

/* Bytes of one routed expert as the checkpoint stores it: bf16, or fp8 with block scales. */
uint64_t ex_simulate_expert_bytes(const struct ex_model_config *c);

/* -EINVAL, -ENOSPC: what ex_planner_plan says. Freed with ex_simulate_done. [any] */
int ex_simulate_run(const struct ex_simulate_opts *o, struct ex_err *err, struct ex_simulate *ret);
void ex_simulate_done(struct ex_simulate *s);

#endif
