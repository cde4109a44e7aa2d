/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch checkpoints for the model tests: a temporary directory, a small config, files with chosen contents. */
#ifndef EX_TESTS_MODEL_DIR_H
#define EX_TESTS_MODEL_DIR_H

#include "unit.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A V3-like config whose matrices have partial 128 x 128 blocks: 2 layers, the second with 4 experts. */
static const char small_config[] =
	"{\"model_type\": \"deepseek_v3\", \"vocab_size\": 150, \"hidden_size\": 136, \"intermediate_size\": 144,"
	" \"moe_intermediate_size\": 40, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"n_shared_experts\": 1,"
	" \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, \"n_group\": 2, \"topk_group\": 1, \"kv_lora_rank\": 16,"
	" \"q_lora_rank\": 24, \"qk_rope_head_dim\": 8, \"v_head_dim\": 16, \"qk_nope_head_dim\": 16,"
	" \"first_k_dense_replace\": 1, \"max_position_embeddings\": 64}";

static inline EX_UNUSED char *path_in(const char *dir, const char *name, char buf[static PATH_MAX])
{
	assert_true(snprintf(buf, PATH_MAX, "%s/%s", dir, name) < PATH_MAX);
	return buf;
}

static inline EX_UNUSED void write_bytes(const char *dir, const char *name, const void *data, size_t n)
{
	char path[PATH_MAX];
	FILE *f = fopen(path_in(dir, name, path), "we");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static inline EX_UNUSED void write_text(const char *dir, const char *name, const char *text)
{
	write_bytes(dir, name, text, strlen(text));
}

/* Removes dir and the files in it. */
static inline EX_UNUSED void remove_dir(const char *dir)
{
	char path[PATH_MAX];
	DIR *d = opendir(dir);
	assert_non_null(d);
	for (const struct dirent *e; (e = readdir(d));)
		unlink(path_in(dir, e->d_name, path));
	closedir(d);
	assert_int_equal(rmdir(dir), 0);
}

/* dir: "/tmp/expertd-test-XXXXXX". */
static inline EX_UNUSED void make_dir(char *dir)
{
	assert_non_null(mkdtemp(dir));
}

/* A safetensors file: `header` with its length before it, then n bytes of data. */
static inline EX_UNUSED void write_safetensors(
	const char *dir, const char *name, const char *header, const void *data, size_t n)
{
	char path[PATH_MAX];
	uint8_t length[8];
	for (size_t i = 0; i < sizeof length; i++)
		length[i] = (uint8_t)((uint64_t)strlen(header) >> 8 * i);
	FILE *f = fopen(path_in(dir, name, path), "we");
	assert_non_null(f);
	assert_int_equal(fwrite(length, 1, sizeof length, f), sizeof length);
	assert_int_equal(fwrite(header, 1, strlen(header), f), strlen(header));
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

#define SCRATCH_DIR "/tmp/expertd-test-XXXXXX"

#endif
