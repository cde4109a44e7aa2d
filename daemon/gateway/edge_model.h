/* SPDX-License-Identifier: Apache-2.0 */
/* What the edge says and knows of a model that answers: its fingerprint, its vocabulary as JSON sees it. Layer L4.
 *
 * Made beside the model and given to the engine as the model's `user`. It borrows nothing, and an answer that is still being written when its model
 * is let go keeps it. */
#ifndef EX_GATEWAY_EDGE_MODEL_H
#define EX_GATEWAY_EDGE_MODEL_H

#include "gateway/json_guide.h"
#include "model/chat.h"

#define EX_FINGERPRINT_MAX 16

struct ex_edge_model; /* immutable, reference counted */

struct ex_edge_model_opts {
	const char *digest; /* of the model; all for the call only */
	const struct ex_tokenizer *tokenizer;
	const struct ex_chat *chat; /* NULL: no template */
	const uint32_t *eos;        /* [n_eos] ids that end an answer */
	uint32_t n_eos;
};
int ex_edge_model_new(const struct ex_edge_model_opts *o, struct ex_err *err, struct ex_edge_model **ret);
struct ex_edge_model *ex_edge_model_ref(struct ex_edge_model *m);   /* [any] */
struct ex_edge_model *ex_edge_model_unref(struct ex_edge_model *m); /* takes NULL [any] */

const char *ex_edge_model_fingerprint(const struct ex_edge_model *m); /* "fp_…", shorter than EX_FINGERPRINT_MAX */
/* NULL: the vocabulary is not fit for JSON. */
const struct ex_json_vocab *ex_edge_model_json(const struct ex_edge_model *m);

#endif
