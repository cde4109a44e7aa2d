/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling. Layer L3. */
#include "engine/sampler.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#define PHILOX_ROUNDS 10

struct ex_sampler {
	uint32_t vocab;
	uint32_t *heap; /* [vocab] ids, greatest logit on top */
	double *weight; /* [vocab] by id: exp((logit - max) / temperature) */
	uint32_t *kept; /* [vocab] ids taken off the heap, greatest first */
};

int ex_sampler_new(uint32_t vocab, struct ex_sampler **ret)
{
	EX_CLEANUP(ex_sampler_freep) struct ex_sampler *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->vocab = vocab;
	s->heap = ex_calloc(vocab, sizeof *s->heap);
	s->weight = ex_calloc(vocab, sizeof *s->weight);
	s->kept = ex_calloc(vocab, sizeof *s->kept);
	if (!s->heap || !s->weight || !s->kept)
		return -ENOMEM;
	*ret = EX_TAKE(s);
	return 0;
}

struct ex_sampler *ex_sampler_free(struct ex_sampler *s)
{
	if (s) {
		free(s->heap);
		free(s->weight);
		free(s->kept);
		free(s);
	}
	return NULL;
}

void ex_philox4x32(const uint32_t counter[static 4], const uint32_t key[static 2], uint32_t ret[static 4])
{
	uint32_t c[4], k[2] = {key[0], key[1]};
	memcpy(c, counter, sizeof c);
	for (int i = 0; i < PHILOX_ROUNDS; i++) {
		uint64_t a = UINT64_C(0xd2511f53) * c[0], b = UINT64_C(0xcd9e8d57) * c[2];
		uint32_t next[4] = {
			(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
		memcpy(c, next, sizeof c);
		k[0] += 0x9e3779b9; /* golden ratio */
		k[1] += 0xbb67ae85; /* sqrt(3) - 1 */
	}
	memcpy(ret, c, sizeof c);
}

/* A number in [0, 1) with 53 random bits. */
static double uniform(uint64_t seed, uint64_t position)
{
	const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32)};
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	uint32_t r[4];
	ex_philox4x32(counter, key, r);
	return (double)(((uint64_t)r[0] << 32 | r[1]) >> 11) * 0x1p-53;
}

/* True when token a is to come before b. */
static bool before(const float *logits, uint32_t a, uint32_t b)
{
	return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void sift_down(uint32_t *heap, uint32_t n, uint32_t i, const float *logits)
{
	uint32_t id = heap[i];
	for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && before(logits, heap[child + 1], heap[child]))
			child++;
		if (!before(logits, heap[child], id))
			break;
		heap[i] = heap[child];
	}
	heap[i] = id;
}

static void make_heap(struct ex_sampler *s, const float *logits)
{
	for (uint32_t i = 0; i < s->vocab; i++)
		s->heap[i] = i;
	for (uint32_t i = s->vocab / 2; i-- > 0;)
		sift_down(s->heap, s->vocab, i, logits);
}

static uint32_t pop(uint32_t *heap, uint32_t *n, const float *logits)
{
	uint32_t top = heap[0];
	heap[0] = heap[--*n];
	if (*n)
		sift_down(heap, *n, 0, logits);
	return top;
}

static uint32_t greatest(const float *logits, uint32_t n)
{
	uint32_t best = 0;
	for (uint32_t i = 1; i < n; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

/* Takes ids off the heap, greatest first, while top_k and top_p allow: the fewest whose weights reach top_p of the
 * weight that top_k leaves. Returns how many are in s->kept, *ret_sum their weight. */
static uint32_t keep_likely(
	struct ex_sampler *s, const float *logits, const struct ex_sampling *p, double total, double *ret_sum)
{
	uint32_t n_heap = s->vocab, n = p->top_k && p->top_k < s->vocab ? p->top_k : s->vocab, n_kept = 0;
	double sum = 0;
	make_heap(s, logits);
	if (n < s->vocab) {
		total = 0;
		for (uint32_t i = 0; i < n; i++) {
			s->kept[i] = pop(s->heap, &n_heap, logits);
			total += s->weight[s->kept[i]];
		}
	}
	while (n_kept < n && (n_kept == 0 || p->top_p >= 1 || sum < (double)p->top_p * total)) {
		if (n == s->vocab)
			s->kept[n_kept] = pop(s->heap, &n_heap, logits);
		sum += s->weight[s->kept[n_kept++]];
	}
	*ret_sum = sum;
	return n_kept;
}

/* The id at which the running sum of weights passes `target`. ids NULL: 0, 1, 2, .. */
static uint32_t walk(const struct ex_sampler *s, const uint32_t *ids, uint32_t n, double target)
{
	double sum = 0;
	uint32_t last = ids ? ids[0] : 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = ids ? ids[i] : i;
		if (s->weight[id] == 0)
			continue;
		last = id;
		sum += s->weight[id];
		if (target < sum)
			break;
	}
	return last;
}

int ex_sampler_pick(
	struct ex_sampler *s, const float *logits, const struct ex_sampling *p, uint64_t position, uint32_t *ret_id)
{
	for (uint32_t i = 0; i < s->vocab; i++)
		if (!isfinite(logits[i]))
			return -EDOM;
	uint32_t best = greatest(logits, s->vocab);
	if (p->temperature <= 0 || p->top_k == 1) {
		*ret_id = best;
		return 0;
	}
	double total = 0;
	for (uint32_t i = 0; i < s->vocab; i++) {
		s->weight[i] = exp(((double)logits[i] - (double)logits[best]) / (double)p->temperature);
		total += s->weight[i];
	}
	double u = uniform(p->seed, position);
	if (!p->top_k && p->top_p >= 1) {
		*ret_id = walk(s, NULL, s->vocab, u * total);
		return 0;
	}
	uint32_t n = keep_likely(s, logits, p, total, &total);
	*ret_id = walk(s, s->kept, n, u * total);
	return 0;
}

void ex_sampler_logprobs(
	const struct ex_sampler *s, const float *logits, uint32_t id, uint32_t n_top, struct ex_token_logprob *ret)
{
	float max = logits[greatest(logits, s->vocab)];
	double sum = 0;
	for (uint32_t i = 0; i < s->vocab; i++)
		sum += (double)expf(logits[i] - max);
	double log_sum = log(sum);
	ret->id = id;
	ret->logprob = (float)((double)(logits[id] - max) - log_sum);
	ret->n_top = 0;
	n_top = EX_MIN(EX_MIN(n_top, (uint32_t)EX_TOP_LOGPROBS_MAX), s->vocab);
	for (uint32_t i = 0; i < s->vocab && n_top; i++) {
		uint32_t at = ret->n_top;
		while (at > 0 && before(logits, i, ret->top[at - 1].id))
			at--;
		if (at == n_top)
			continue;
		if (ret->n_top < n_top)
			ret->n_top++;
		memmove(&ret->top[at + 1], &ret->top[at], (ret->n_top - 1 - at) * sizeof ret->top[0]);
		ret->top[at].id = i;
		ret->top[at].logprob = (float)((double)(logits[i] - max) - log_sum);
	}
}
