/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of one row: which k experts, with what weights. */
#ifndef EX_PLUGINS_CPU_GATE_H
#define EX_PLUGINS_CPU_GATE_H

#include "kernels/cpu/kernels.h"
#include "trunk/ops.h"

/* Floats of scratch that gate_row needs. */
#define GATE_SCRATCH(n_experts) (4 * (size_t)(n_experts))

/* -EINVAL: the shape cannot give k experts, or the method or score is unknown. */
int gate_check(const struct ex_gate_batch *b);
/* Row `row` of a checked batch. scratch: GATE_SCRATCH floats. */
void gate_row(const struct ex_kernels *k, const struct ex_gate_batch *b, uint32_t row, float *scratch);

#endif
