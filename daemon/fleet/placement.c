/* SPDX-License-Identifier: Apache-2.0 */
/* Which shards a model has, and which of them some globs ask for. Layer L2. */
#include "fleet/placement.h"

#include "base/mem.h"

int ex_placement_groups(const struct ex_model_config *c, uint32_t asked, struct ex_err *err, uint32_t *ret)
{
	if (asked > c->n_experts)
		return ex_err_set(err, -EINVAL, "expert_groups = %u, but the model has %u experts per layer", asked,
			c->n_experts);
	*ret = asked ? asked : EX_MIN((uint32_t)EX_EXPERT_GROUPS_DEFAULT, c->n_experts);
	return 0;
}

static uint32_t count_moe_layers(const struct ex_model_config *c)
{
	uint32_t n = 0;
	for (uint32_t l = 0; l < c->n_layers; l++)
		n += ex_model_layer_is_moe(c, l);
	return n;
}

int ex_placement_select(const struct ex_model_config *c, uint32_t n_groups, const char *const *globs, size_t n_globs,
	struct ex_err *err, struct ex_shard_id **ret, size_t *ret_n)
{
	size_t n = 0;
	char name[EX_SHARD_NAME_MAX];
	assert(n_groups <= c->n_experts || c->n_experts == 0);
	for (size_t i = 0; i < n_globs; i++)
		if (ex_shard_glob_check(globs[i]) < 0)
			return ex_err_set(err, -EINVAL, "'%s' is not a glob over LAYER/RANGE", globs[i]);
	EX_CLEANUP(ex_freep) struct ex_shard_id *list = ex_calloc((size_t)count_moe_layers(c) * n_groups, sizeof *list);
	EX_CLEANUP(ex_freep) bool *matched = ex_calloc(n_globs, sizeof *matched);
	if (!list || !matched)
		return ex_err_errno(err, -ENOMEM, "cannot list shards");
	for (uint32_t l = 0; l < c->n_layers; l++)
		for (uint32_t g = 0; ex_model_layer_is_moe(c, l) && g < n_groups; g++) {
			struct ex_shard_id s = ex_shard_of_group(l, c->n_experts, n_groups, g);
			bool wanted = false;
			for (size_t i = 0; i < n_globs; i++)
				if (ex_shard_glob_cuts(globs[i], &s))
					return ex_err_set(err, -ENOENT,
						"'%s' cuts shard %s: experts of a layer come in %u ranges, each held "
						"whole",
						globs[i], ex_shard_name(&s, name), n_groups);
				else if (ex_shard_glob_match(globs[i], &s))
					wanted = matched[i] = true;
			if (wanted)
				list[n++] = s;
		}
	for (size_t i = 0; i < n_globs; i++)
		if (!matched[i])
			return ex_err_set(err, -ENOENT,
				"'%s' matches no shard: the model has %u layers, %u of them with %u experts in %u "
				"ranges",
				globs[i], c->n_layers, count_moe_layers(c), c->n_experts, n_groups);
	*ret = EX_TAKE(list);
	*ret_n = n;
	return 0;
}
