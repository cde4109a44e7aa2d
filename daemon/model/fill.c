/* SPDX-License-Identifier: Apache-2.0 */
/* Random tensor values, the same on every machine. Layer L1. */
#include "model/fill.h"

#define GOLDEN 0x9e3779b97f4a7c15u /* 2^64 over the golden ratio: splitmix64's increment */

/* The finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_name(const char *name)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (const char *p = name; *p; p++)
		h = (h ^ (uint8_t)*p) * 0x100000001b3u;
	return h;
}

struct ex_fill ex_fill_init(uint64_t seed, const char *name, double mean, double std)
{
	assert(std >= 0);
	/* The sum of four uniform 16-bit integers, doubled: variance 4 * 4 * (2^32 - 1) / 12. */
	const double std_sum = 75674.454; /* sqrt(4 * (2^32 - 1) / 3) */
	return (struct ex_fill){
		.key = mix(hash_name(name) ^ mix(seed + GOLDEN)),
		.mean = (float)mean,
		.step = (float)(std / std_sum),
	};
}

void ex_fill_run(const struct ex_fill *f, uint64_t first, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t h = mix(f->key + (first + i + 1) * GOLDEN);
		int32_t sum = (int32_t)((h & 0xffff) + (h >> 16 & 0xffff) + (h >> 32 & 0xffff) + (h >> 48));
		out[i] = f->mean + f->step * (float)(2 * sum - 4 * 0xffff);
	}
}
