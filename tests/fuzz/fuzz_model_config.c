/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as config.json: refused with a message, or a config that the rest may trust. */
#include "fuzz.h"

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	if (ex_model_config_parse("config.json", (const char *)data, size, &err, &c) < 0) {
		assert(err.text[0]);
		return 0;
	}
	assert(c.n_layers >= 1 && c.n_layers <= EX_MODEL_LAYERS_MAX && c.moe_layer_freq >= 1 && c.n_group >= 1);
	assert(c.n_experts % c.n_group == 0 && c.topk_group <= c.n_group);
	assert(c.n_experts_per_tok <= c.n_experts && c.qk_rope_dim % 2 == 0 && c.rms_norm_eps > 0);
	assert(c.n_eos <= EX_ARRAY_LEN(c.eos_id) && c.bos_id < (int64_t)c.vocab_size && !c.attention_bias);
	return 0;
}
