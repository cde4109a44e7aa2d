/* SPDX-License-Identifier: Apache-2.0 */
/* Random weights of any shape, deterministic in (config, seed), for capacity tests and golden vectors. Layer L1. */
#ifndef EX_MODEL_SYNTH_H
#define EX_MODEL_SYNTH_H

#include "expertd/plugin.h"
#include "model/config.h"

struct ex_synth_opts {
	uint64_t seed;
	enum expertd_dtype dtype; /* of the matrices; F8E4M3 writes *_scale_inv beside them; norms, gates and biases as
				     checkpoints have them */
	uint64_t file_bytes_max;  /* a new safetensors file beyond this; 0: 5 GB */
	/* Called now and then; NULL: none. [the caller's thread] */
	void (*progress)(void *ctx, uint64_t bytes_done, uint64_t bytes_total);
	void *ctx;
};

/* Writes config.json (a copy of config_path) and safetensors files into new directory dir. Every tensor's values depend
 * on its name, the seed and the element index alone. Refuses an existing non-empty dir, and with -ENOSPC, before anything
 * is written, a checkpoint larger than what the file system has free. */
int ex_model_synth(const char *config_path, const char *dir, const struct ex_synth_opts *opts, struct ex_err *err);

#endif
