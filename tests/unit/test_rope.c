/* SPDX-License-Identifier: Apache-2.0 */
/* trunk/rope: tables against values printed by transformers' DeepseekV3RotaryEmbedding (5.23), plain and yarn. */
#include "unit.h"

#include "trunk/rope.h"
#include <math.h>
#include <string.h>

#define N_CTX 4096

static const uint32_t positions[] = {1, 7, 100, 4095};

static struct ex_model_config plain(void)
{
	return (struct ex_model_config){.qk_nope_dim = 32, .qk_rope_dim = 16, .rope_theta = 10000};
}

static struct ex_model_config yarn(void)
{
	struct ex_model_config c = plain();
	c.yarn = true;
	c.yarn_factor = 40;
	c.yarn_mscale = 1;
	c.yarn_mscale_all_dim = 0.707f;
	c.yarn_beta_fast = 32;
	c.yarn_beta_slow = 1;
	c.yarn_n_ctx_original = 512;
	return c;
}

/* want: [4 positions][cos, sin][8 pairs]. One f32 rounding of an angle near 4096 moves a cosine by 2.4e-4: hence the
 * slack there. */
static void check(const struct ex_model_config *c, const float want[4][2][8])
{
	float *table = malloc(2 * N_CTX * 8 * sizeof *table);
	assert_non_null(table);
	ex_rope_table(c, N_CTX, table, table + N_CTX * 8);
	for (size_t i = 0; i < 4; i++)
		for (size_t j = 0; j < 8; j++) {
			uint32_t p = positions[i];
			assert_float_equal(table[p * 8 + j], want[i][0][j], 1e-7 * p + 3e-7);
			assert_float_equal(table[N_CTX * 8 + p * 8 + j], want[i][1][j], 1e-7 * p + 3e-7);
		}
	free(table);
}

static void test_plain(void **state)
{
	(void)state;
	static const float want[4][2][8] = {
		{{0.540302336f, 0.950415313f, 0.995004177f, 0.999500036f, 0.999949992f, 0.999994993f, 0.999999523f,
			 0.99999994f},
			{0.841470957f, 0.310983598f, 0.0998334214f, 0.0316175073f, 0.00999983307f, 0.00316227251f,
				0.000999999931f, 0.000316227786f}},
		{{0.753902256f, -0.599437475f, 0.764842212f, 0.975599885f, 0.997551024f, 0.999755025f, 0.999975502f,
			 0.999997556f},
			{0.656986594f, 0.800421596f, 0.64421767f, 0.219556108f, 0.0699428469f, 0.0221341364f,
				0.00699994294f, 0.00221359264f}},
		{{0.862318873f, 0.978682816f, -0.839071512f, -0.999786079f, 0.540302336f, 0.950415254f, 0.995004177f,
			 0.999500036f},
			{-0.506365657f, 0.205377579f, -0.54402113f, -0.0206838083f, 0.841470957f, 0.310983628f,
				0.0998334214f, 0.0316175073f}},
		{{-0.0659759939f, 0.815928221f, 0.459863335f, -0.771254778f, -0.994033098f, 0.927488983f, -0.578907907f,
			 0.272358716f},
			{-0.997821212f, 0.578153193f, 0.8879897f, -0.636526585f, -0.109078795f, 0.373850524f,
				-0.815392911f, 0.962195814f}},
	};
	const struct ex_model_config c = plain();
	check(&c, want);
	assert_float_equal(ex_rope_softmax_scale(&c), 0.14433756729740643, 1e-8);
}

static void test_yarn(void **state)
{
	(void)state;
	static const float want[4][2][8] = {
		{{0.58662051f, 1.05482697f, 1.08430088f, 1.08568716f, 1.08572638f, 1.08572638f, 1.08572638f,
			 1.08572638f},
			{0.91360724f, 0.257180601f, 0.0556191206f, 0.00922706723f, 0.000271431607f, 8.583421e-05f,
				2.71431581e-05f, 8.58342082e-06f}},
		{{0.818531573f, -0.111885391f, 1.01660514f, 1.08380568f, 1.08572471f, 1.08572626f, 1.08572638f,
			 1.08572638f},
			{0.713307679f, 1.07994604f, 0.381202966f, 0.0645521507f, 0.00190002017f, 0.000600839499f,
				0.000190002116f, 6.00839448e-05f}},
		{{0.936242342f, 0.375126511f, 0.435379088f, 0.716673493f, 1.08538711f, 1.08569252f, 1.08572304f,
			 1.08572602f},
			{-0.549774528f, -1.01886296f, -0.994608879f, 0.815586209f, 0.0271403324f, 0.00858333241f,
				0.0027143131f, 0.000858342042f}},
		{{-0.0716318786f, 0.700997233f, -0.884931982f, -1.05347788f, 0.564758837f, 1.02932608f, 1.08004177f,
			 1.08515751f},
			{-1.08336079f, -0.829098642f, 0.629044712f, -0.262652248f, 0.927280605f, 0.345383435f,
				0.110957183f, 0.0351429693f}},
	};
	const struct ex_model_config c = yarn();
	check(&c, want);
	assert_float_equal(ex_rope_softmax_scale(&c), 0.2294427735858522, 1e-7);
}

/* Without mscale keys the attention factor is 0.1 ln(factor) + 1 and the softmax scale stays plain. */
static void test_yarn_without_mscale(void **state)
{
	(void)state;
	struct ex_model_config c = yarn();
	float cos0[8], sin0[8];
	c.yarn_mscale = c.yarn_mscale_all_dim = 0;
	ex_rope_table(&c, 1, cos0, sin0);
	assert_float_equal(cos0[0], 0.1 * log(40) + 1, 1e-6);
	assert_float_equal(ex_rope_softmax_scale(&c), 0.14433756729740643, 1e-8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_yarn),
		cmocka_unit_test(test_yarn_without_mscale),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
