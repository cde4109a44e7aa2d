/* SPDX-License-Identifier: Apache-2.0 */
/* The tensors of a checkpoint by the roles the model gives them: safetensors files mapped read-only, shapes checked
 * against the config. Layer L1. Matrices point into the mapping (or into an aligned copy) and live until
 * ex_weights_close. Thread-safe after open. */
#ifndef EX_MODEL_WEIGHTS_H
#define EX_MODEL_WEIGHTS_H

#include "expertd/plugin.h"
#include "model/config.h"

#define EX_DIGEST_HEX 65 /* 64 hex digits and NUL */

struct ex_weights; /* opaque */

/* Opens DIR: config.json, model.safetensors or model.safetensors.index.json and its files. Checks that every tensor
 * that the config asks for is there with the right shape and a supported dtype; unknown extra tensors are refused by
 * name, MTP layers and rotary inv_freq excepted. Reads headers, and of the data what the digest samples. [any] */
int ex_weights_open(const char *dir, struct ex_err *err, struct ex_weights **ret);
struct ex_weights *ex_weights_ref(struct ex_weights *w);   /* one more to close it [any] */
struct ex_weights *ex_weights_close(struct ex_weights *w); /* the last one frees [any] */
EX_DEFINE_CLEANUP(struct ex_weights, ex_weights_close)

const struct ex_model_config *ex_weights_config(const struct ex_weights *w);
/* All tensors of the files, those that the config does not ask for included. Borrowed. [any] */
struct ex_safetensors;
const struct ex_safetensors *ex_weights_files(const struct ex_weights *w);

/* Matrix `name` ("model.layers.3.self_attn.o_proj.weight") of [rows, cols]; scale filled from <name>_scale_inv when it
 * is F8E4M3. Unaligned data is copied once. -ENOENT, -EINVAL (shape, dtype). */
int ex_weights_matrix(struct ex_weights *w, const char *name, uint32_t rows, uint32_t cols, struct ex_err *err,
	struct expertd_matrix *ret);

/* Vector `name` of n elements, widened to f32 into out[n]. */
int ex_weights_vector(struct ex_weights *w, const char *name, uint32_t n, struct ex_err *err, float *out);

/* Routed expert `expert` of MoE layer `layer`. */
int ex_weights_expert(
	struct ex_weights *w, uint32_t layer, uint32_t expert, struct ex_err *err, struct expertd_ffn *ret);

/* Reads every element of m: -EINVAL naming `name`, row and column when one is NaN or infinite (its scale included). */
int ex_matrix_check_finite(const struct expertd_matrix *m, const char *name, struct ex_err *err);
/* Bytes of m's data and scales. */
size_t ex_matrix_bytes(const struct expertd_matrix *m);

/* Drops the mapping's pages of [data of m] from this process after the backend copied them (madvise), if mapped. */
void ex_weights_forget(struct ex_weights *w, const struct expertd_matrix *m);

/* Identity of the checkpoint, 64 hex digits: SHA-256 over what of the config the forward pass depends on (not token
 * ids, not the context limit), every used tensor's name, dtype and shape in name order, and samples of its data (first,
 * middle, last 64 bytes). Tells two checkpoints apart; is not an integrity check. */
const char *ex_weights_digest(const struct ex_weights *w);

/* Totals of the tensors that the config asks for, block scales included in bytes and not in parameters. */
struct ex_weights_stat {
	uint64_t bytes_total, bytes_experts, bytes_trunk, n_params;
	uint32_t n_tensors, n_files; /* of the files, whole */
	uint64_t bytes_per_expert;
};
void ex_weights_stat(const struct ex_weights *w, struct ex_weights_stat *ret);

#endif
