/* SPDX-License-Identifier: Apache-2.0 */
/* model/weights: a synthesised checkpoint opens, its numbers are those that were written, and a file that is not the
 * model that config.json describes is refused with the tensor named. */
#include "model_dir.h"

#include "base/dtype.h"
#include "base/str.h"
#include "model/fill.h"
#include "model/safetensors.h"
#include "model/synth.h"
#include "model/weights.h"
#include <jansson.h>
#include <math.h>
#include <pthread.h>

#define Q_A "model.layers.0.self_attn.q_a_proj.weight" /* [24, 136] */

/* A checkpoint of the small config in dir/m. */
struct scratch {
	char dir[32], config[PATH_MAX], model[PATH_MAX];
};

static void scratch_new(struct scratch *s, const char *config, uint32_t dtype, uint64_t seed, uint64_t file_bytes_max)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_synth_opts o = {.seed = seed, .dtype = dtype, .file_bytes_max = file_bytes_max};
	strcpy(s->dir, SCRATCH_DIR);
	make_dir(s->dir);
	write_text(s->dir, "in.json", config);
	path_in(s->dir, "in.json", s->config);
	path_in(s->dir, "m", s->model);
	EXPECT_OK(err, ex_model_synth(s->config, s->model, &o, &err));
}

static void scratch_done(struct scratch *s)
{
	remove_dir(s->model);
	remove_dir(s->dir);
}

static struct ex_weights *open_model(const struct scratch *s)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_weights *w = NULL;
	EXPECT_OK(err, ex_weights_open(s->model, &err, &w));
	return w;
}

/* Value of row r, column c, scale included. */
static float value(const struct expertd_matrix *m, uint32_t r, uint32_t c)
{
	float v;
	ex_dtype_to_f32(
		m->dtype, (const uint8_t *)m->data + ((size_t)r * m->cols + c) * ex_dtype_size(m->dtype), 1, &v);
	return m->scale ? v * m->scale[r / 128 * ((m->cols + 127) / 128) + c / 128] : v;
}

/* Each dtype gives the generator's numbers, as near as the dtype allows: a unit in the last place is 2^-8 of a bf16
 * value, 2^-11 of f16, and for e4m3 2^-4 of the value or 2^-10 of its block's scale times 1, whichever is more. */
static void test_values(void **state)
{
	(void)state;
	static const struct {
		uint32_t dtype;
		float rel;
	} row[] = {{EXPERTD_F32, 0}, {EXPERTD_BF16, 0x1p-8f}, {EXPERTD_F16, 0x1p-11f}, {EXPERTD_F8E4M3, 0x1p-4f}};
	struct ex_fill f = ex_fill_init(5, "model.layers.0.mlp.gate_proj.weight", 0, 1 / sqrt(136));
	static float want[144 * 136];
	ex_fill_run(&f, 0, EX_ARRAY_LEN(want), want);
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct scratch s;
		struct ex_err err = EX_ERR_INIT;
		struct expertd_matrix m;
		scratch_new(&s, small_config, row[i].dtype, 5, i % 2 ? 30000 : 0);
		EX_CLEANUP(ex_weights_closep) struct ex_weights *w = open_model(&s);
		EXPECT_OK(err, ex_weights_matrix(w, "model.layers.0.mlp.gate_proj.weight", 144, 136, &err, &m));
		assert_int_equal(m.dtype, row[i].dtype);
		assert_true((m.scale != NULL) == (m.dtype == EXPERTD_F8E4M3));
		assert_int_equal(ex_matrix_bytes(&m), 144 * 136 * ex_dtype_size(m.dtype) + (m.scale ? 4 * 4 : 0));
		for (uint32_t k = 0; k < EX_ARRAY_LEN(want); k++) {
			uint32_t r = k / 136, c = k % 136;
			float floor = m.scale ? 0x1p-10f * m.scale[r / 128 * 2 + c / 128] : 0x1p-25f;
			if (row[i].rel == 0)
				floor = 0;
			if (fabsf(value(&m, r, c) - want[k]) > fmaxf(row[i].rel * fabsf(want[k]), floor) * 1.001f)
				fail_msg("%s [%u, %u]: %g, not %g", ex_dtype_name(m.dtype), r, c,
					(double)value(&m, r, c), (double)want[k]);
		}
		EXPECT_OK(err, ex_matrix_check_finite(&m, "m", &err));
		ex_weights_forget(w, &m);
		assert_true(fabsf(value(&m, 1, 1) - want[137]) <= 0x1p-4f * fabsf(want[137]) + 0x1p-8f);
		scratch_done(&s);
	}
}

static void test_expert_and_vector(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	struct expertd_ffn f;
	struct expertd_matrix m;
	float norm[136], bias[4];
	scratch_new(&s, small_config, EXPERTD_BF16, 5, 0);
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = open_model(&s);
	EXPECT_OK(err, ex_weights_expert(w, 1, 3, &err, &f));
	assert_int_equal(f.act, EXPERTD_SILU);
	assert_int_equal(f.gate.rows, 40);
	assert_int_equal(f.gate.cols, 136);
	assert_int_equal(f.down.rows, 136);
	assert_int_equal(f.down.cols, 40);
	EXPECT_OK(err, ex_weights_matrix(w, "model.layers.1.mlp.experts.3.up_proj.weight", 40, 136, &err, &m));
	assert_ptr_equal(f.up.data, m.data);
	assert_int_equal(ex_weights_expert(w, 1, 4, &err, &f), -EINVAL);
	assert_int_equal(ex_weights_expert(w, 0, 0, &err, &f), -EINVAL);
	assert_int_equal(ex_weights_expert(w, 2, 0, &err, &f), -EINVAL);
	assert_non_null(strstr(err.text, "no expert 0 in layer 2"));

	EXPECT_OK(err, ex_weights_vector(w, "model.norm.weight", 136, &err, norm));
	for (size_t i = 0; i < 136; i++)
		assert_true(fabsf(norm[i] - 1) < 0.36f);
	EXPECT_OK(err, ex_weights_vector(w, "model.layers.1.mlp.gate.e_score_correction_bias", 4, &err, bias));
	assert_int_equal(ex_weights_vector(w, "model.norm.weight", 135, &err, norm), -EINVAL);
	assert_non_null(strstr(err.text, "tensor 'model.norm.weight' has shape [136]; [135] is needed"));
	assert_int_equal(ex_weights_matrix(w, "model.norm.weight", 1, 136, &err, &m), -EINVAL);
	assert_int_equal(ex_weights_matrix(w, "model.nothing", 1, 136, &err, &m), -ENOENT);
	assert_non_null(strstr(err.text, "no tensor 'model.nothing'"));
	scratch_done(&s);
}

static void test_stat(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_weights_stat t;
	scratch_new(&s, small_config, EXPERTD_F8E4M3, 5, 40000);
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = open_model(&s);
	ex_weights_stat(w, &t);
	/* an expert: gate, up [40, 136], down [136, 40], a byte each; 2 scales each */
	assert_int_equal(t.bytes_per_expert, 3 * 40 * 136 + 3 * 2 * 4);
	assert_int_equal(t.bytes_experts, 4 * t.bytes_per_expert);
	/* embedding and head, bf16; per layer attention, its 4 norms; dense FFN; gate and bias; shared expert; last
	 * norm */
	uint64_t attention = 24 * 136 + 48 * 24 + 24 * 136 + 64 * 16 + 136 * 32, norms = 136 + 24 + 16 + 136;
	uint64_t params =
		2 * 150 * 136 + 2 * (attention + norms) + 3 * 144 * 136 + 4 * 136 + 4 + 5 * 3 * 40 * 136 + 136;
	assert_int_equal(t.n_params, params);
	assert_int_equal(t.bytes_total, t.bytes_experts + t.bytes_trunk);
	assert_int_equal(t.n_tensors, ex_safetensors_count(ex_weights_files(w)));
	assert_true(t.n_files > 1);
	scratch_done(&s);
}

/* Digest of the small config in bf16, seed 42: hosts compare these, so a change of it is a change of the wire. */
static void test_digest(void **state)
{
	(void)state;
	static const char golden[] = "dfcd5269d83f52f7a7cb36a84b6a8472347aae207160a2312834a27b4ebccf79";
	struct scratch s;
	char first[EX_DIGEST_HEX];
	scratch_new(&s, small_config, EXPERTD_BF16, 42, 0);
	struct ex_weights *w = open_model(&s);
	strcpy(first, ex_weights_digest(w));
	assert_string_equal(first, golden);
	w = ex_weights_close(w);

	/* The last byte of the file is in some tensor's last 64. */
	char path[PATH_MAX];
	FILE *f = fopen(path_in(s.model, "model.safetensors", path), "r+e");
	assert_non_null(f);
	assert_int_equal(fseek(f, -1, SEEK_END), 0);
	int last = fgetc(f);
	assert_int_equal(fseek(f, -1, SEEK_END), 0);
	fputc(last ^ 1, f);
	assert_int_equal(fclose(f), 0);
	w = open_model(&s);
	assert_string_not_equal(ex_weights_digest(w), golden);
	w = ex_weights_close(w);
	scratch_done(&s);

	scratch_new(&s, small_config, EXPERTD_BF16, 42, 20000); /* how it is cut into files is not part of it */
	w = open_model(&s);
	assert_string_equal(ex_weights_digest(w), golden);
	w = ex_weights_close(w);
	scratch_done(&s);

	scratch_new(&s, small_config, EXPERTD_F16, 42, 0);
	w = open_model(&s);
	assert_string_not_equal(ex_weights_digest(w), golden);
	w = ex_weights_close(w);
	scratch_done(&s);
}

/* Rewrites the model's one file: `edit` changes the header; `pad` bytes go before the data. */
static void rewrite(const struct scratch *s, void (*edit)(json_t *header), size_t pad)
{
	char path[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	uint64_t length;
	EXPECT_OK(err, ex_read_file(path_in(s->model, "model.safetensors", path), 1 << 24, &err, &text, &n));
	memcpy(&length, text, 8);
	json_t *header = json_loadb(text + 8, length, 0, NULL);
	assert_non_null(header);
	size_t n_data = n - 8 - length;
	EX_CLEANUP(ex_freep) uint8_t *data = calloc(1, pad + n_data);
	memcpy(data + pad, text + 8 + length, n_data);
	edit(header);
	EX_CLEANUP(ex_freep) char *changed = json_dumps(header, JSON_COMPACT);
	write_safetensors(s->model, "model.safetensors", changed, data, pad + n_data);
	json_decref(header);
}

static void rename_tensor(json_t *header, const char *from, const char *to)
{
	json_t *v = json_incref(json_object_get(header, from));
	assert_non_null(v);
	json_object_del(header, from);
	assert_int_equal(json_object_set_new(header, to, v), 0);
}

/* A one-byte tensor `name` at the very beginning, the others moved by it: nothing but it stays aligned. */
static void insert_byte(json_t *header, const char *name)
{
	const char *key;
	json_t *v;
	json_object_foreach(header, key, v)
	{
		json_t *o = json_object_get(v, "data_offsets");
		for (size_t i = 0; o && i < 2; i++)
			json_array_set_new(o, i, json_integer(json_integer_value(json_array_get(o, i)) + 1));
	}
	json_object_set_new(
		header, name, json_pack("{s:s, s:[i], s:[i, i]}", "dtype", "U8", "shape", 1, "data_offsets", 0, 1));
}

static void edit_missing(json_t *header)
{
	rename_tensor(header, Q_A, "model.layers.2.spare");
}

static void edit_extra(json_t *header)
{
	insert_byte(header, "model.layers.1.surprise");
}

static void edit_shape(json_t *header)
{
	json_t *shape = json_object_get(json_object_get(header, Q_A), "shape");
	json_array_set_new(shape, 0, json_integer(136));
	json_array_set_new(shape, 1, json_integer(24));
}

static void edit_dtype(json_t *header)
{
	json_object_set_new(json_object_get(header, Q_A), "dtype", json_string("I16"));
}

static void edit_norm_dtype(json_t *header)
{
	json_object_set_new(json_object_get(header, "model.norm.weight"), "dtype", json_string("U16"));
}

static void edit_mtp(json_t *header)
{
	insert_byte(header, "model.layers.2.eh_proj.weight");
}

static void edit_inv_freq(json_t *header)
{
	insert_byte(header, "model.layers.0.self_attn.rotary_emb.inv_freq");
}

static void edit_beyond_mtp(json_t *header)
{
	insert_byte(header, "model.layers.3.eh_proj.weight");
}

static void edit_scale_missing(json_t *header)
{
	rename_tensor(header, Q_A "_scale_inv", "model.layers.2.spare");
}

static void edit_scale_dtype(json_t *header)
{
	json_object_set_new(json_object_get(header, Q_A "_scale_inv"), "dtype", json_string("I32"));
}

static void edit_scale_shape(json_t *header)
{
	json_object_set_new(json_object_get(header, Q_A "_scale_inv"), "shape", json_pack("[i, i]", 2, 1));
}

/* The weight says it is not FP8: its scales then belong to nothing. */
static void edit_scale_orphan(json_t *header)
{
	json_t *t = json_object_get(header, Q_A);
	json_object_set_new(t, "dtype", json_string("U8"));
}

static const struct tamper {
	uint32_t dtype;
	void (*edit)(json_t *header);
	size_t pad;
	const char *message; /* NULL: taken */
} tampers[] = {
	{EXPERTD_BF16, edit_missing, 0, "tensor '" Q_A "', which config.json asks for, is missing"},
	{EXPERTD_BF16, edit_extra, 1, "tensor 'model.layers.1.surprise' has no place"},
	{EXPERTD_BF16, edit_shape, 0, "tensor '" Q_A "' has shape [136, 24]; [24, 136] is needed"},
	{EXPERTD_BF16, edit_dtype, 0, "tensor '" Q_A "' has dtype I16; F32, BF16, F16 and F8_E4M3"},
	{EXPERTD_BF16, edit_norm_dtype, 0, "tensor 'model.norm.weight' has dtype U16; F32, BF16 and F16 can"},
	{EXPERTD_BF16, edit_mtp, 1, NULL},
	{EXPERTD_BF16, edit_inv_freq, 1, NULL},
	{EXPERTD_BF16, edit_beyond_mtp, 1, "tensor 'model.layers.3.eh_proj.weight' has no place"},
	{EXPERTD_F8E4M3, edit_scale_missing, 0, "tensor '" Q_A "' is F8_E4M3, and '" Q_A "_scale_inv' is missing"},
	{EXPERTD_F8E4M3, edit_scale_dtype, 0, "tensor '" Q_A "_scale_inv' has dtype I32; F32 is needed"},
	{EXPERTD_F8E4M3, edit_scale_shape, 0, "tensor '" Q_A "_scale_inv' has shape [2, 1]; [1, 2] is needed"},
	{EXPERTD_F8E4M3, edit_scale_orphan, 0, "tensor '" Q_A "' has dtype U8"},
};

static void test_refusals(void **state)
{
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(tampers); i++) {
		struct scratch s;
		struct ex_err err = EX_ERR_INIT;
		struct ex_weights *w = NULL;
		scratch_new(&s, small_config, tampers[i].dtype, 5, 0);
		rewrite(&s, tampers[i].edit, tampers[i].pad);
		int rc = ex_weights_open(s.model, &err, &w);
		if (!tampers[i].message)
			assert_int_equal(rc, 0);
		else if (rc != -EINVAL || !strstr(err.text, tampers[i].message))
			fail_msg("%d '%s' does not say '%s'", rc, err.text, tampers[i].message);
		ex_weights_close(w);
		scratch_done(&s);
	}
}

static void test_truncated_and_interrupted(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	struct ex_weights *w;
	char path[PATH_MAX];
	scratch_new(&s, small_config, EXPERTD_BF16, 5, 0);
	assert_int_equal(truncate(path_in(s.model, "model.safetensors", path), 20000), 0);
	assert_int_equal(ex_weights_open(s.model, &err, &w), -EINVAL);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(unlink(path_in(s.model, "config.json", path)), 0);
	assert_int_equal(ex_weights_open(s.model, &err, &w), -ENOENT);
	assert_non_null(strstr(err.text, "config.json"));
	scratch_done(&s);
}

static void *ask(void *arg)
{
	struct expertd_matrix m;
	return ex_weights_matrix(arg, Q_A, 24, 136, NULL, &m) == 0 ? (void *)m.data : NULL;
}

/* Data at odd addresses is copied once, whoever asks, and the numbers stay. */
static void test_unaligned(void **state)
{
	(void)state;
	static const uint32_t dtype[] = {EXPERTD_F32, EXPERTD_BF16, EXPERTD_F8E4M3};
	for (size_t i = 0; i < EX_ARRAY_LEN(dtype); i++) {
		struct scratch s;
		struct ex_err err = EX_ERR_INIT;
		struct expertd_matrix m, moved;
		float norm[136], norm_moved[136];
		pthread_t t[4];
		scratch_new(&s, small_config, dtype[i], 5, 0);
		EX_CLEANUP(ex_weights_closep) struct ex_weights *w = open_model(&s);
		EXPECT_OK(err, ex_weights_matrix(w, Q_A, 24, 136, &err, &m));
		EXPECT_OK(err, ex_weights_vector(w, "model.norm.weight", 136, &err, norm));
		struct scratch again = s;
		path_in(s.dir, "again", again.model);
		const struct ex_synth_opts o = {.seed = 5, .dtype = dtype[i]};
		EXPECT_OK(err, ex_model_synth(s.config, again.model, &o, &err));
		rewrite(&again, edit_mtp, 1);
		EX_CLEANUP(ex_weights_closep) struct ex_weights *odd = open_model(&again);
		for (size_t k = 0; k < EX_ARRAY_LEN(t); k++)
			assert_int_equal(pthread_create(&t[k], NULL, ask, odd), 0);
		EXPECT_OK(err, ex_weights_matrix(odd, Q_A, 24, 136, &err, &moved));
		for (size_t k = 0; k < EX_ARRAY_LEN(t); k++) {
			void *data;
			pthread_join(t[k], &data);
			assert_ptr_equal(data, moved.data);
		}
		assert_int_equal((uintptr_t)moved.data % ex_dtype_size(dtype[i]), 0);
		assert_memory_equal(moved.data, m.data, (size_t)24 * 136 * ex_dtype_size(dtype[i]));
		if (m.scale) {
			assert_int_equal((uintptr_t)moved.scale % sizeof(float), 0);
			assert_memory_equal(moved.scale, m.scale, 2 * sizeof(float));
		}
		EXPECT_OK(err, ex_weights_vector(odd, "model.norm.weight", 136, &err, norm_moved));
		assert_memory_equal(norm, norm_moved, sizeof norm);
		ex_weights_forget(odd, &moved); /* a copy is not given back */
		assert_memory_equal(moved.data, m.data, (size_t)24 * 136 * ex_dtype_size(dtype[i]));
		assert_string_equal(ex_weights_digest(w), ex_weights_digest(odd));
		remove_dir(again.model);
		scratch_done(&s);
	}
}

static void test_tied_embedding(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	struct expertd_matrix embed, head;
	char config[sizeof small_config + 64];
	snprintf(config, sizeof config, "%.*s, \"tie_word_embeddings\": true}", (int)sizeof small_config - 2,
		small_config);
	scratch_new(&s, config, EXPERTD_BF16, 5, 0);
	EX_CLEANUP(ex_weights_closep) struct ex_weights *w = open_model(&s);
	assert_null(ex_safetensors_find(ex_weights_files(w), "lm_head.weight"));
	EXPECT_OK(err, ex_weights_matrix(w, "model.embed_tokens.weight", 150, 136, &err, &embed));
	EXPECT_OK(err, ex_weights_matrix(w, "lm_head.weight", 150, 136, &err, &head));
	assert_ptr_equal(embed.data, head.data);
	scratch_done(&s);
}

/* A bad element is found wherever it is: in whole blocks of the fast scan, in its tail, in the scales. */
static void test_check_finite(void **state)
{
	(void)state;
	enum { ROWS = 200, COLS = 130 };
	static const struct {
		uint32_t dtype, bits;
		const char *what;
	} row[] = {
		{EXPERTD_F32, 0x7fc00000, "NaN"},
		{EXPERTD_F32, 0x7f800001, "NaN"},
		{EXPERTD_F32, 0xff800000, "an infinity"},
		{EXPERTD_BF16, 0xffc0, "NaN"},
		{EXPERTD_BF16, 0x7f80, "an infinity"},
		{EXPERTD_F16, 0x7e00, "NaN"},
		{EXPERTD_F16, 0xfc00, "an infinity"},
		{EXPERTD_F8E4M3, 0x7f, "NaN"},
		{EXPERTD_F8E4M3, 0xff, "NaN"},
	};
	static const uint32_t places[] = {0, 129, 4095, 4096, 9999, ROWS * COLS - 1};
	static uint32_t store[ROWS * COLS];
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		size_t size = ex_dtype_size(row[i].dtype);
		struct expertd_matrix m = {.data = store, .rows = ROWS, .cols = COLS, .dtype = row[i].dtype};
		struct ex_err err = EX_ERR_INIT;
		char want[64];
		memset(store, 0x3e, sizeof store); /* finite in all four */
		EXPECT_OK(err, ex_matrix_check_finite(&m, "w", &err));
		for (size_t k = 0; k < EX_ARRAY_LEN(places); k++) {
			uint8_t *p = (uint8_t *)store + places[k] * size;
			memcpy(p, &row[i].bits, size);
			assert_int_equal(ex_matrix_check_finite(&m, "w", &err), -EINVAL);
			snprintf(want, sizeof want, "tensor 'w' holds %s at row %u, column %u", row[i].what,
				places[k] / COLS, places[k] % COLS);
			assert_string_equal(err.text, want);
			memset(p, 0x3e, size);
		}
	}
	float scale[4] = {1, 2, 3, 4};
	struct ex_err err = EX_ERR_INIT;
	struct expertd_matrix m = {.data = store, .scale = scale, .rows = ROWS, .cols = COLS, .dtype = EXPERTD_F8E4M3};
	EXPECT_OK(err, ex_matrix_check_finite(&m, "w", &err));
	scale[3] = NAN;
	assert_int_equal(ex_matrix_check_finite(&m, "w", &err), -EINVAL);
	assert_string_equal(err.text, "tensor 'w_scale_inv' holds NaN at row 1, column 1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_expert_and_vector),
		cmocka_unit_test(test_stat),
		cmocka_unit_test(test_digest),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_truncated_and_interrupted),
		cmocka_unit_test(test_unaligned),
		cmocka_unit_test(test_tied_embedding),
		cmocka_unit_test(test_check_finite),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
