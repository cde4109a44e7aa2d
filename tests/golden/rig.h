/* SPDX-License-Identifier: Apache-2.0 */
/* A whole model in one process for the golden tests: weights, trunk on a plugin's ops, every expert local through
 * dispatch. */
#ifndef EX_TESTS_GOLDEN_RIG_H
#define EX_TESTS_GOLDEN_RIG_H

#include "model/weights.h"
#include "trunk/trunk.h"

#define RIG_PAGE_TOKENS 16
#define RIG_SEQS_MAX    6 /* page tables side by side */
#define RIG_N_CTX       128

struct rig; /* opaque */

/* Opens the model of dir with plugin "cpu", its experts in n_groups shards a layer. isa: the plugin's option of that name; NULL: the
 * machine's best. One rig at a time. */
int rig_open(const char *dir, const char *isa, uint32_t n_groups, struct ex_err *err, struct rig **ret);
struct rig *rig_close(struct rig *r);
const struct ex_model_config *rig_config(const struct rig *r);

/* One row of a step: token id at position pos of sequence seq < RIG_SEQS_MAX. */
struct rig_row {
	uint32_t id, pos, seq;
};
/* Runs the rows as one step; logits [n, vocab] of every row. */
int rig_step(struct rig *r, const struct rig_row *rows, uint32_t n, float *logits, struct ex_err *err);

#endif
