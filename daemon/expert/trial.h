/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin that is not trusted yet, run in a child process: a crash, a hang or a wild write there is an answer. Layer L2.
 *
 * The child is this program started anew (fork is no way out of a process with threads), told by EX_TRIAL_OPTION to call ex_trial_main. */
#ifndef EX_EXPERT_TRIAL_H
#define EX_EXPERT_TRIAL_H

#include "base/shard.h"
#include "expert/ring.h"

struct ex_err;
struct ex_trial;

#define EX_TRIAL_OPTION "--trial" /* the only argument of the child; its socket is descriptor EX_TRIAL_FD */
#define EX_TRIAL_FD     3

struct ex_trial_opts {
	const char *exe;    /* the program; NULL: /proc/self/exe */
	const char *plugin; /* path of the plugin: a private copy */
	const char *model;  /* checkpoint directory */
	const char *which;  /* device */
	const char *const *options;
	size_t n_options;    /* "KEY=VALUE", "threads=.." among them */
	unsigned deadline_s; /* for one call into the plugin */
	/* Called while an answer is waited for; false gives up: -ECANCELED. NULL: none. [loader] */
	bool (*alive)(void *ctx);
	void *ctx;
};
/* Starts the child. [loader] */
int ex_trial_start(const struct ex_trial_opts *o, struct ex_err *err, struct ex_trial **ret);
/* Kills the child, if it is still there. */
struct ex_trial *ex_trial_end(struct ex_trial *t);
EX_DEFINE_CLEANUP(struct ex_trial, ex_trial_end)

/* Runs the conformance suite. -EINVAL: a check failed, and is named; others as ex_trial_shard. [loader] */
int ex_trial_check(struct ex_trial *t, struct ex_err *err);
/* Loads the shard, runs the batches, unloads it. y: [n] arrays of [n_tokens, d_model], filled. Memory that was written to although it is not y's
 * is an error. -ECHILD: the child crashed, -ETIMEDOUT: it hung; both name what it was doing, and the child is gone. Else what the plugin said. [loader] */
int ex_trial_shard(struct ex_trial *t, const struct ex_shard_id *id, struct ex_batch *const *batches, size_t n,
	uint32_t d_model, float *const *y, struct ex_err *err);
/* False once the child crashed or hung: start another one. */
bool ex_trial_alive(const struct ex_trial *t);

/* The child's main. Returns its exit status. */
int ex_trial_main(void);

#endif
