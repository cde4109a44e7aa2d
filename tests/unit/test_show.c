/* SPDX-License-Identifier: Apache-2.0 */
/* model/show: the figures of a small checkpoint, worked out by hand. */
#include "model_dir.h"

#include "expertd/plugin.h"
#include "model/show.h"
#include "model/synth.h"

/* The integer at a "a.b" path. */
static json_int_t at(json_t *root, const char *outer, const char *inner)
{
	json_t *v = json_object_get(root, outer);
	v = inner ? json_object_get(v, inner) : v;
	if (!json_is_integer(v))
		fail_msg("no integer at %s.%s", outer, inner ? inner : "");
	return json_integer_value(v);
}

static void test_small(void **state)
{
	(void)state;
	char dir[] = SCRATCH_DIR, config[PATH_MAX], model[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	const struct ex_synth_opts o = {.seed = 42, .dtype = EXPERTD_F8E4M3};
	json_t *r = NULL;
	make_dir(dir);
	write_text(dir, "in.json", small_config);
	EXPECT_OK(err, ex_model_synth(path_in(dir, "in.json", config), path_in(dir, "m", model), &o, &err));
	EXPECT_OK(err, ex_model_show(model, &err, &r));

	assert_string_equal(json_string_value(json_object_get(r, "architecture")), "deepseek_v3");
	assert_int_equal(json_string_length(json_object_get(r, "digest")), 64);
	assert_int_equal(at(r, "layers", NULL), 2);
	assert_int_equal(at(r, "moe_layers", NULL), 1);
	assert_int_equal(at(r, "experts", "routed"), 4);
	assert_int_equal(at(r, "experts", "per_token"), 2);
	assert_string_equal(json_string_value(json_object_get(json_object_get(r, "experts"), "gate")), "noaux_tc");
	assert_int_equal(at(r, "attention", "q_lora_rank"), 24);
	assert_int_equal(at(r, "kv_bytes_per_token", NULL), 2 * (16 + 8) * 4);
	/* 4 experts of 3 * 40 * 136, of which a token takes 2 */
	assert_int_equal(at(r, "params", "total") - at(r, "params", "active"), 2 * 3 * 40 * 136);
	assert_int_equal(at(r, "bytes", "per_expert"), 3 * 40 * 136 + 3 * 2 * 4);
	assert_int_equal(at(r, "bytes", "expert"), 4 * at(r, "bytes", "per_expert"));
	assert_int_equal(at(r, "bytes", "shared"), at(r, "bytes", "per_expert"));
	assert_int_equal(at(r, "bytes", "embed"), 2 * 2 * 150 * 136);
	assert_int_equal(at(r, "bytes", "gate"), 2 * 4 * 136 + 4 * 4);
	json_int_t sum = 0;
	static const char *const parts[] = {"embed", "attention", "dense", "gate", "shared", "expert", "norm"};
	for (size_t i = 0; i < EX_ARRAY_LEN(parts); i++)
		sum += at(r, "bytes", parts[i]);
	assert_int_equal(sum, at(r, "bytes", "total"));
	/* matrices: 2 * 5 of attention, 3 dense, 5 * 3 of experts, each with scales; the bias in f32 too */
	assert_int_equal(at(r, "dtypes", "F8_E4M3"), 28);
	assert_int_equal(at(r, "dtypes", "F32"), 29);
	assert_int_equal(at(r, "tensors", NULL), 28 + 29 + at(r, "dtypes", "BF16"));
	assert_int_equal(at(r, "tensors_unused", NULL), 0);
	assert_int_equal(at(r, "files", NULL), 1);
	json_decref(r);

	char path[PATH_MAX];
	unlink(path_in(model, "model.safetensors", path));
	assert_int_equal(ex_model_show(model, &err, &r), -ENOENT);
	assert_non_null(strstr(err.text, path));
	remove_dir(model);
	remove_dir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
