/* SPDX-License-Identifier: Apache-2.0 */
/* Traces of experts. Layer L2. */
#include "fleet/trace.h"

#include "base/mem.h"
#include "base/shard.h"
#include "base/str.h"
#include <ctype.h>
#include <math.h>
#include <string.h>

#define N_NUMBERS 3

/* Numbers the layers that have experts: ret[layer]; UINT32_MAX for one that has none. The count. */
static uint32_t number_layers(const struct ex_model_config *c, uint32_t ret[static EX_MODEL_LAYERS_MAX])
{
	uint32_t n = 0;
	for (uint32_t l = 0; l < c->n_layers; l++)
		ret[l] = ex_model_layer_is_moe(c, l) ? n++ : UINT32_MAX;
	return n;
}

/* Whole numbers between blanks: how many there are, -1 for anything else. At most N_NUMBERS are kept. */
static int split(const char *s, size_t n, uint64_t ret[static N_NUMBERS])
{
	int k = 0;
	for (size_t i = 0; i < n;) {
		uint64_t v = 0;
		if (s[i] == ' ' || s[i] == '\t' || s[i] == '\r') {
			i++;
			continue;
		}
		if (!isdigit((unsigned char)s[i]))
			return -1;
		for (; i < n && isdigit((unsigned char)s[i]); i++)
			if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
				__builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
				return -1;
		if (i < n && !strchr(" \t\r", s[i]))
			return -1;
		if (k < N_NUMBERS)
			ret[k] = v;
		k++;
	}
	return k;
}

int ex_trace_parse(const char *name, const char *text, size_t n, const struct ex_model_config *c, uint32_t n_groups,
	struct ex_err *err, double *ret_loads)
{
	uint32_t layer[EX_MODEL_LAYERS_MAX], n_layers = number_layers(c, layer);
	unsigned line = 0;
	size_t n_samples = 0;
	memset(ret_loads, 0, (size_t)n_layers * n_groups * sizeof *ret_loads);
	for (size_t i = 0, len; i < n; i += len + 1) {
		uint64_t v[N_NUMBERS];
		const char *end = memchr(text + i, '\n', n - i);
		len = end ? (size_t)(end - text) - i : n - i;
		line++;
		if (text[i] == '#')
			continue;
		int k = split(text + i, len, v);
		if (k == 0)
			continue;
		if (k != N_NUMBERS)
			return ex_err_set(
				err, -EINVAL, "%s:%u: a sample is three whole numbers: LAYER EXPERT ROWS", name, line);
		if (v[0] >= c->n_layers || layer[v[0]] == UINT32_MAX)
			return ex_err_set(err, -EINVAL, "%s:%u: layer %llu of a model with %u has no experts", name,
				line, (unsigned long long)v[0], c->n_layers);
		if (v[1] >= c->n_experts)
			return ex_err_set(err, -EINVAL, "%s:%u: expert %llu, but layers have %u", name, line,
				(unsigned long long)v[1], c->n_experts);
		if (v[2] > EX_TRACE_ROWS_MAX)
			return ex_err_set(err, -EINVAL, "%s:%u: %llu rows, at most %llu are counted", name, line,
				(unsigned long long)v[2], (unsigned long long)EX_TRACE_ROWS_MAX);
		uint32_t group = ex_shard_group_of_expert(c->n_experts, n_groups, (uint32_t)v[1]);
		ret_loads[(size_t)layer[v[0]] * n_groups + group] += (double)v[2];
		n_samples++;
	}
	return n_samples ? 0 : ex_err_set(err, -EINVAL, "'%s' has no sample", name);
}

/* splitmix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static int make_zipf(const struct ex_model_config *c, uint32_t n_groups, double s, uint64_t seed, double *ret_loads)
{
	uint32_t layer[EX_MODEL_LAYERS_MAX], n_layers = number_layers(c, layer);
	EX_CLEANUP(ex_freep) uint32_t *order = ex_calloc(c->n_experts, sizeof *order);
	double sum = 0;
	if (!order)
		return -ENOMEM;
	memset(ret_loads, 0, (size_t)n_layers * n_groups * sizeof *ret_loads);
	for (uint32_t k = 0; k < c->n_experts; k++) {
		sum += pow(k + 1, -s);
		order[k] = k;
	}
	for (uint32_t l = 0; l < n_layers; l++)
		for (uint32_t k = c->n_experts; k-- > 0;) { /* drawn from the last place down */
			uint32_t pick = (uint32_t)(next_random(&seed) % (k + 1)), expert = order[pick];
			order[pick] = order[k];
			order[k] = expert;
			uint32_t group = ex_shard_group_of_expert(c->n_experts, n_groups, expert);
			ret_loads[(size_t)l * n_groups + group] +=
				EX_TRACE_TOKENS_ZIPF * (double)c->n_experts_per_tok * pow(k + 1, -s) / sum;
		}
	return 0;
}

static int read_zipf(
	const char *what, const struct ex_model_config *c, uint32_t n_groups, struct ex_err *err, double *ret_loads)
{
	const char *s_text = what + strlen("zipf:"), *seed_text = strchr(s_text, ':');
	char *end = NULL, *seed_end = NULL;
	double s = seed_text && isdigit((unsigned char)*s_text) ? strtod(s_text, &end) : -1;
	errno = 0;
	uint64_t seed = seed_text && isdigit((unsigned char)seed_text[1]) ? strtoull(seed_text + 1, &seed_end, 10) : 0;
	if (!end || end != seed_text || !(s >= 0 && s <= EX_TRACE_ZIPF_S_MAX) || !seed_end || *seed_end || errno)
		return ex_err_set(err, -EINVAL,
			"'%s': expected zipf:S:SEED, S a number from 0 to %d, SEED a whole number", what,
			EX_TRACE_ZIPF_S_MAX);
	int rc = make_zipf(c, n_groups, s, seed, ret_loads);
	return rc < 0 ? ex_err_errno(err, rc, "cannot make '%s'", what) : 0;
}

int ex_trace_read(
	const char *what, const struct ex_model_config *c, uint32_t n_groups, struct ex_err *err, double *ret_loads)
{
	EX_CLEANUP(ex_freep) char *text = NULL;
	size_t n;
	if (strncmp(what, "zipf:", strlen("zipf:")) == 0)
		return read_zipf(what, c, n_groups, err, ret_loads);
	int rc = ex_read_file(what, EX_TRACE_BYTES_MAX, err, &text, &n);
	return rc < 0 ? rc : ex_trace_parse(what, text, n, c, n_groups, err, ret_loads);
}
