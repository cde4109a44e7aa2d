/* SPDX-License-Identifier: Apache-2.0 */
/* The figures of a checkpoint for `expertctl model show`. Layer L1. */
#ifndef EX_MODEL_SHOW_H
#define EX_MODEL_SHOW_H

#include "base/err.h"
#include <jansson.h>

/* Opens and checks DIR as ex_weights_open does, and describes it. Keys, in this order (sizes in bytes):
 *   path, architecture, digest
 *   layers, moe_layers, d_model, heads, d_ff, vocab, context, tied_embeddings
 *   attention: {q_lora_rank, kv_lora_rank, qk_nope_dim, qk_rope_dim, v_dim}
 *   rope: {theta, yarn_factor, yarn_context_original} (the yarn ones only with yarn)
 *   experts: {routed, per_token, shared, d_ff, groups, groups_per_token, gate, score, normalised, scale}, null in a
 * dense model params: {total, active}: active counts all but routed experts, and of these the chosen ones of each layer
 *   bytes: {total, embed, attention, dense, gate, shared, expert, norm, per_expert}
 *   kv_bytes_per_token: the latent cache, f32
 *   files, tensors, tensors_unused, dtypes: {name: how many tensors}
 * json_decref *ret. [any] */
int ex_model_show(const char *dir, struct ex_err *err, json_t **ret);

#endif
