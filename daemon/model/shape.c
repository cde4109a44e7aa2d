/* SPDX-License-Identifier: Apache-2.0 */
/* The shape of a model, as a fleet sees it. Layer L1. */
#include "model/shape.h"

#include "base/macro.h"

int ex_model_same_shape(const struct ex_model_config *live, const struct ex_model_config *next, struct ex_err *err)
{
	const struct {
		const char *key;
		uint32_t live, next;
	} row[] = {
		{"hidden_size", live->d_model, next->d_model},
		{"num_hidden_layers", live->n_layers, next->n_layers},
		{"first_k_dense_replace", live->first_k_dense, next->first_k_dense},
		{"moe_layer_freq", live->moe_layer_freq, next->moe_layer_freq},
		{"n_routed_experts", live->n_experts, next->n_experts},
		{"num_experts_per_tok", live->n_experts_per_tok, next->n_experts_per_tok},
		{"vocab_size", live->vocab_size, next->vocab_size},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++)
		if (row[i].live != row[i].next)
			return ex_err_set(err, -EINVAL, "it has another shape: %s is %u, that of the live model is %u",
				row[i].key, row[i].next, row[i].live);
	return 0;
}
