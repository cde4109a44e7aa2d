/* SPDX-License-Identifier: Apache-2.0 */
/* Which shards a model has, and which of them some globs ask for. Layer L2. */
#ifndef EX_FLEET_PLACEMENT_H
#define EX_FLEET_PLACEMENT_H

#include "base/shard.h"
#include "model/config.h"

/* Ranges per layer when the configuration says auto. */
#define EX_EXPERT_GROUPS_DEFAULT 8

/* Checks `asked` (0: auto) against the model; -EINVAL gives both numbers. */
int ex_placement_groups(const struct ex_model_config *c, uint32_t asked, struct ex_err *err, uint32_t *ret);

/* Shards of the model that match any of the globs, ascending by (layer, first expert). Free *ret.
 * -ENOENT names a glob that matches nothing, -EINVAL a malformed one. [any] */
int ex_placement_select(const struct ex_model_config *c, uint32_t n_groups, const char *const *globs, size_t n_globs,
	struct ex_err *err, struct ex_shard_id **ret, size_t *ret_n);

#endif
