/* SPDX-License-Identifier: Apache-2.0 */
/* model/synth: the same files on every machine, whatever the dtype and the split; an interrupted directory cannot be
 * taken for a whole one. */
#include "model_dir.h"

#include "base/dtype.h"
#include "base/str.h"
#include "model/fill.h"
#include "model/synth.h"
#include <math.h>
#include <openssl/evp.h>
#include <sys/stat.h>

static void sha256_file(const char *dir, const char *name, char hex[65])
{
	char path[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *text = NULL;
	uint8_t md[32];
	size_t n;
	EXPECT_OK(err, ex_read_file(path_in(dir, name, path), 1 << 24, &err, &text, &n));
	assert_int_equal(EVP_Digest(text, n, md, NULL, EVP_sha256(), NULL), 1);
	ex_hex(md, sizeof md, hex);
}

/* Scratch directory with config.json in it, and a place for the model beside it. */
struct scratch {
	char dir[32], config[PATH_MAX], out[PATH_MAX];
};

static void scratch_new(struct scratch *s)
{
	strcpy(s->dir, SCRATCH_DIR);
	make_dir(s->dir);
	write_text(s->dir, "in.json", small_config);
	path_in(s->dir, "in.json", s->config);
	path_in(s->dir, "out", s->out);
}

static void scratch_done(struct scratch *s)
{
	remove_dir(s->dir);
}

/* Digests of the files that the first version wrote: golden vectors stand on them. */
static void test_golden_digests(void **state)
{
	(void)state;
	static const struct {
		uint32_t dtype;
		const char *sha256;
	} row[] = {
		{EXPERTD_F32, "818796a57012492f556f3c6d3ba825eb5257d5fc03d9fd38df6356c118a59641"},
		{EXPERTD_BF16, "aa33afc19eefa5d40cca73860d8e7493fa14f28bb28ddc8ecfd4f0abee7c2e06"},
		{EXPERTD_F16, "a3cc8c8ff6e38d979a6d45fd84194f0af25604aac218922a7b7eb11b589fe3ae"},
		{EXPERTD_F8E4M3, "c6c53c2b658169059004a5134d196c50d3c277870b54ce01ada880ef546bfd8a"},
	};
	struct scratch s;
	scratch_new(&s);
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		const struct ex_synth_opts o = {.seed = 42, .dtype = row[i].dtype};
		char hex[65];
		EXPECT_OK(err, ex_model_synth(s.config, s.out, &o, &err));
		sha256_file(s.out, "model.safetensors", hex);
		assert_string_equal(hex, row[i].sha256);
		remove_dir(s.out);
	}
	scratch_done(&s);
}

static void test_config_says_fp8(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	struct ex_model_config c;
	struct ex_synth_opts o = {.seed = 1, .dtype = EXPERTD_F8E4M3};
	char again[PATH_MAX];
	scratch_new(&s);
	EXPECT_OK(err, ex_model_synth(s.config, s.out, &o, &err));
	EXPECT_OK(err, ex_model_config_load(s.out, &err, &c));
	assert_true(c.fp8_block_scaled);
	/* and the other way: a bf16 model from that config */
	path_in(s.out, "config.json", s.config);
	o.dtype = EXPERTD_BF16;
	path_in(s.dir, "again", again);
	EXPECT_OK(err, ex_model_synth(s.config, again, &o, &err));
	EXPECT_OK(err, ex_model_config_load(again, &err, &c));
	assert_false(c.fp8_block_scaled);
	remove_dir(again);
	remove_dir(s.out);
	scratch_done(&s);
}

static void test_refusals(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	struct ex_synth_opts o = {.seed = 1, .dtype = EXPERTD_BF16};
	scratch_new(&s);
	assert_int_equal(ex_model_synth(s.config, s.dir, &o, &err), -ENOTEMPTY);
	assert_non_null(strstr(err.text, s.dir));
	assert_int_equal(ex_model_synth("/nonexistent/config.json", s.out, &o, &err), -ENOENT);
	o.dtype = 0;
	assert_int_equal(ex_model_synth(s.config, s.out, &o, &err), -EINVAL);
	o.dtype = EXPERTD_BF16;
	write_text(s.dir, "in.json", "{\"model_type\": \"gpt2\"}");
	assert_int_equal(ex_model_synth(s.config, s.out, &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, "gpt2"));
	assert_int_equal(access(s.out, F_OK), -1); /* a refused config leaves nothing behind */
	scratch_done(&s);
}

/* Petabytes are refused before the first byte: no disk of a test machine has them, whatever is free there. */
static void test_no_room(void **state)
{
	(void)state;
	static const char huge[] =
		"{\"model_type\": \"deepseek_v2\", \"vocab_size\": 1000, \"hidden_size\": 1048576, "
		"\"num_hidden_layers\": 512,"
		" \"num_attention_heads\": 1, \"intermediate_size\": 1048576, \"q_lora_rank\": null, \"kv_lora_rank\": "
		"8,"
		" \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, \"v_head_dim\": 8, \"n_routed_experts\": null}";
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	const struct ex_synth_opts o = {.seed = 1, .dtype = EXPERTD_F32};
	scratch_new(&s);
	write_text(s.dir, "in.json", huge);
	assert_int_equal(ex_model_synth(s.config, s.out, &o, &err), -ENOSPC);
	if (!strstr(err.text, "PiB, '") || !strstr(err.text, s.out) || !strstr(err.text, " free: nothing was written"))
		fail_msg("'%s'", err.text);
	assert_int_equal(access(s.out, F_OK), -1);
	assert_int_equal(mkdir(s.out, 0777), 0);
	assert_int_equal(ex_model_synth(s.config, s.out, &o, &err), -ENOSPC);
	assert_int_equal(rmdir(s.out), 0); /* not ours: it stays, and is empty */
	scratch_done(&s);
}

struct seen {
	uint64_t calls, done, total;
};

static void count_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct seen *s = ctx;
	assert_true(done >= s->done && done <= total);
	*s = (struct seen){s->calls + 1, done, total};
}

static void test_progress_reaches_total(void **state)
{
	(void)state;
	struct scratch s;
	struct ex_err err = EX_ERR_INIT;
	struct seen seen = {0};
	const struct ex_synth_opts o = {
		.seed = 1, .dtype = EXPERTD_F8E4M3, .file_bytes_max = 50000, .progress = count_progress, .ctx = &seen};
	scratch_new(&s);
	EXPECT_OK(err, ex_model_synth(s.config, s.out, &o, &err));
	assert_true(seen.calls > 0 && seen.total > 0);
	assert_int_equal(seen.done, seen.total);
	remove_dir(s.out);
	scratch_done(&s);
}

/* Mean, deviation and bound of the generator; neighbours, names and seeds do not correlate. */
static void test_fill(void **state)
{
	(void)state;
	enum { N = 1 << 16 };
	static float a[N], b[N], part[64];
	struct ex_fill f = ex_fill_init(7, "a", 0, 1);
	const struct ex_fill other[] = {ex_fill_init(8, "a", 0, 1), ex_fill_init(7, "b", 0, 1)};
	double sum = 0, squares = 0, next = 0;
	ex_fill_run(&f, 0, N, a);
	ex_fill_run(&f, 1000, 64, part);
	assert_memory_equal(part, a + 1000, sizeof part);
	for (size_t i = 0; i < N; i++) {
		assert_true(fabsf(a[i]) <= 3.47f);
		sum += a[i];
		squares += a[i] * a[i];
		next += a[i] * a[(i + 1) % N];
	}
	/* five deviations of each estimate */
	assert_true(fabs(sum / N) < 5 / sqrt(N) && fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
	assert_true(fabs(next / N) < 5 / sqrt(N));
	for (size_t k = 0; k < EX_ARRAY_LEN(other); k++) {
		double cross = 0;
		ex_fill_run(&other[k], 0, N, b);
		for (size_t i = 0; i < N; i++)
			cross += a[i] * b[i];
		assert_true(fabs(cross / N) < 5 / sqrt(N));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden_digests),
		cmocka_unit_test(test_config_says_fp8),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_progress_reaches_total),
		cmocka_unit_test(test_fill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
