/* SPDX-License-Identifier: Apache-2.0 */
/* Whether one model can take another one's place in a running fleet. Layer L1. */
#ifndef EX_MODEL_SHAPE_H
#define EX_MODEL_SHAPE_H

#include "model/config.h"

/* The same shards, rows and vocabulary: width, layers, which of them have experts, how many, how many a token takes, vocabulary. Anything
 * else may differ: weights, dtypes, widths of the FFNs, attention, the gate. -EINVAL names the key and both values. [any] */
int ex_model_same_shape(const struct ex_model_config *live, const struct ex_model_config *next, struct ex_err *err);

#endif
