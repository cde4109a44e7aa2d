/* SPDX-License-Identifier: Apache-2.0 */
/* What a trial's two processes tell each other. Both are the same program. Layer L2. */
#ifndef EX_EXPERT_TRIAL_INT_H
#define EX_EXPERT_TRIAL_INT_H

#include "expert/trial.h"
#include <errno.h>

#define TRIAL_TEXT_MAX  512
#define TRIAL_BYTES_MAX ((uint64_t)1 << 32)

enum trial_kind {
	/* to the child */
	TRIAL_SETUP = 1, /* n texts, each with its NUL: plugin, model, device, options */
	TRIAL_CHECK,
	TRIAL_SHARD, /* struct trial_shard; n batches follow */
	TRIAL_BATCH, /* struct trial_batch, x, offset, token, weight */
	/* from it */
	TRIAL_STAGE, /* text: what it is about to do */
	TRIAL_Y,     /* of batch n */
	TRIAL_DONE,
	TRIAL_FAILED, /* -errno in n; text */
};

struct trial_head {
	uint32_t kind, n;
	uint64_t bytes; /* that follow */
};

struct trial_shard {
	struct ex_shard_id id;
	uint32_t d_model;
};

struct trial_batch {
	uint32_t n_tokens, n_experts, n_assignments, x_dtype;
};

/* All of it, or -errno. -ECHILD: the other side is gone, -ETIMEDOUT. */
int trial_send(int fd, const void *data, size_t n);
int trial_receive(int fd, void *data, size_t n);

#endif
