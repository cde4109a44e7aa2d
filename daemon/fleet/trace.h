/* SPDX-License-Identifier: Apache-2.0 */
/* Which experts rows went to, from a file or made up, as load per shard. Layer L2.
 *
 * A trace is text, one sample a line: "LAYER EXPERT ROWS", whole numbers; samples of one expert add up, those of another order are as good.
 * Lines that begin with # are comments. "zipf:S:SEED" instead of a file: in every layer the experts in an order drawn from SEED, the k-th of
 * them with a share proportional to 1 / k^S. */
#ifndef EX_FLEET_TRACE_H
#define EX_FLEET_TRACE_H

#include "model/config.h"

#define EX_TRACE_BYTES_MAX   ((size_t)256 << 20)
#define EX_TRACE_ROWS_MAX    (UINT64_C(1) << 48) /* of one sample */
#define EX_TRACE_ZIPF_S_MAX  10
#define EX_TRACE_TOKENS_ZIPF 1000000 /* that a made-up trace stands for */

/* Adds up rows into ret_loads, one for each shard of the model in n_groups ranges a layer, ascending by (layer, range), as
 * ex_placement_select lists them all; its values are only defined on success. -EINVAL: err names line and number. [any] */
int ex_trace_parse(const char *name, const char *text, size_t n, const struct ex_model_config *c, uint32_t n_groups,
	struct ex_err *err, double *ret_loads);
/* The same from a file's path, or from "zipf:S:SEED". */
int ex_trace_read(
	const char *what, const struct ex_model_config *c, uint32_t n_groups, struct ex_err *err, double *ret_loads);

#endif
