/* SPDX-License-Identifier: Apache-2.0 */
/* Shards changed while they serve: swapped to another plugin, rolled back, loaded, unloaded. Layer L2.
 *
 * One thread, "loader", owns loading and unloading after the start. It takes one command at a time from a bounded queue, and shard by shard
 * goes through the steps; whatever fails, the generation that serves goes on serving. Between commands it unloads what has lingered. */
#ifndef EX_EXPERT_SWAP_H
#define EX_EXPERT_SWAP_H

#include "expert/executor.h"
#include "expert/published.h"
#include "expert/ring.h"

#define EX_SWAP_QUEUE_MAX  16 /* commands that wait; more are refused */
#define EX_SWAP_GLOB_MAX   256
#define EX_SWAP_VERIFY_MAX EX_RING_BATCHES_MAX

enum ex_swap_action { EX_SWAP_SWAP, EX_SWAP_LOAD, EX_SWAP_UNLOAD, EX_SWAP_ROLLBACK };

/* In their order. */
enum ex_swap_step {
	EX_STEP_SELECT,  /* of shards */
	EX_STEP_COPY,    /* of the plugin's file, into DIR/plugins */
	EX_STEP_ALLOW,   /* its digest is on a list */
	EX_STEP_ABI,     /* its head, before anything of it runs */
	EX_STEP_TRIAL,   /* in a child process */
	EX_STEP_MEMORY,  /* for both generations */
	EX_STEP_LOAD,    /* beside the live one */
	EX_STEP_VERIFY,  /* both compute the same */
	EX_STEP_PUBLISH, /* on the disk, then for all to find */
	EX_STEP_DRAIN,   /* of the one before */
	EX_STEP_DONE,
};
const char *ex_swap_step_name(enum ex_swap_step s);
const char *ex_swap_action_name(enum ex_swap_action a);

struct ex_swap_request {
	enum ex_swap_action action;
	char glob[EX_SWAP_GLOB_MAX];
	const char *plugin; /* swap: path of the file; copied */
	uint32_t n_verify;  /* swap: batches; 0: none, and the numeric identity is a new one */
	float tolerance;    /* swap: relative error allowed; 0: none, every bit */
	bool force;         /* unload: though it is in use */
};

struct ex_swap_report {
	enum ex_swap_action action;
	char shard[EX_SWAP_GLOB_MAX]; /* its name; the glob when all of it failed */
	enum ex_swap_step step;       /* that was reached, or failed */
	bool failed;
	uint32_t generation, before; /* live now; live before, 0: none */
	uint32_t n_batches;          /* verified */
	bool synthetic, exact;       /* the batches were made up; every bit was equal */
	float worst;                 /* relative error */
	uint64_t drain_ns;
	char plugin[64], sha256[65];
	char text[512]; /* why it failed; what happens now */
};

/* Whoever asked. All [loader]. */
struct ex_swap_client {
	void (*report)(void *ctx, const struct ex_swap_report *r);
	bool (*gone)(void *ctx); /* the rest of the shards is left as it is; NULL: never */
	void (*done)(void *ctx, unsigned n_done, unsigned n_failed); /* exactly once, last */
	void *ctx;
};

struct ex_swapper_opts {
	struct ex_registry *registry; /* borrowed, as all below */
	struct ex_executor *executor;
	struct ex_weights *weights;
	struct ex_published *published;
	struct ex_plugin *plugin; /* the configured one: load uses it */
	const struct expertd_host *host;
	const char *which;
	const char *plugin_dir; /* its plugins are allowed */
	const char *const *allow;
	size_t n_allow;
	const char *model, *trial_exe; /* for the child: ex_trial_opts */
	const char *const *options;
	size_t n_options;
	const struct ex_shard_id *shards, *configured; /* all of the fleet, and those of this host; ascending */
	size_t n_shards, n_configured;
	unsigned linger_s, deadline_s;
	/* The same as clients hear, and a started swap. [loader] */
	void (*started)(void *ctx, const struct ex_swap_request *q, size_t n_shards, const char *sha256);
	void (*told)(void *ctx, const struct ex_swap_report *r);
	void *ctx;
};

struct ex_swapper;
int ex_swapper_new(const struct ex_swapper_opts *o, struct ex_err *err, struct ex_swapper **ret);
/* Ends after the shard at hand; commands that wait are done with nothing done. [main] */
struct ex_swapper *ex_swapper_free(struct ex_swapper *s);
/* Takes a command. -EAGAIN: too many wait, -EINVAL: the glob; then no callback follows. [any] */
int ex_swapper_submit(
	struct ex_swapper *s, const struct ex_swap_request *q, const struct ex_swap_client *c, struct ex_err *err);
/* Runs fn on the loader's thread between two commands; once, with is_over when the host stops before. -EAGAIN, -ESHUTDOWN: not at all. [any] */
int ex_swapper_call(struct ex_swapper *s, void (*fn)(void *ctx, bool is_over), void *ctx, struct ex_err *err);
/* The call at hand makes progress: for the watchdog. [loader] */
void ex_swapper_alive(struct ex_swapper *s);
/* fn is called about four times a second while there is nothing to do; NULL: nothing is. [any] */
void ex_swapper_when_idle(struct ex_swapper *s, void (*fn)(void *ctx), void *ctx);
/* Commands are refused from now on, for the reason given; NULL: taken again. [loader] */
void ex_swapper_freeze(struct ex_swapper *s, const char *why);
/* What is loaded is loaded from w, whose directory is model, from now on; both borrowed. [loader] */
void ex_swapper_set_model(struct ex_swapper *s, struct ex_weights *w, const char *model);
/* For the watchdog: grows while the thread is idle or within deadline_s of a step. [any] */
uint64_t ex_swapper_turns(const struct ex_swapper *s);

#endif
