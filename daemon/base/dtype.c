/* SPDX-License-Identifier: Apache-2.0 */
/* Names, sizes and whole-array conversions of the number formats. Layer L0. */
#include "base/dtype.h"

#include <errno.h>

static const struct {
	const char *name;
	size_t size;
} dtypes[] = {
	[EXPERTD_F32] = {"f32", 4},
	[EXPERTD_BF16] = {"bf16", 2},
	[EXPERTD_F16] = {"f16", 2},
	[EXPERTD_F8E4M3] = {"f8e4m3", 1},
};

size_t ex_dtype_size(uint32_t dtype)
{
	return dtype < EX_ARRAY_LEN(dtypes) ? dtypes[dtype].size : 0;
}

const char *ex_dtype_name(uint32_t dtype)
{
	return ex_dtype_size(dtype) ? dtypes[dtype].name : "?";
}

int ex_dtype_parse(const char *name)
{
	for (size_t i = 0; i < EX_ARRAY_LEN(dtypes); i++)
		if (dtypes[i].name && strcmp(dtypes[i].name, name) == 0)
			return (int)i;
	return -EINVAL;
}

void ex_dtype_to_f32(uint32_t dtype, const void *src, size_t n, float *dst)
{
	const uint8_t *p = src;
	uint16_t h;
	assert(ex_dtype_size(dtype));
	switch (dtype) {
	case EXPERTD_F32:
		memcpy(dst, src, n * sizeof *dst);
		break;
	case EXPERTD_BF16:
		for (size_t i = 0; i < n; i++) {
			memcpy(&h, p + 2 * i, 2);
			dst[i] = ex_bf16_to_f32(h);
		}
		break;
	case EXPERTD_F16:
		for (size_t i = 0; i < n; i++) {
			memcpy(&h, p + 2 * i, 2);
			dst[i] = ex_f16_to_f32(h);
		}
		break;
	case EXPERTD_F8E4M3:
		for (size_t i = 0; i < n; i++)
			dst[i] = ex_e4m3_to_f32(p[i]);
		break;
	}
}

void ex_dtype_from_f32(uint32_t dtype, const float *src, size_t n, void *dst)
{
	uint8_t *p = dst;
	uint16_t h;
	assert(ex_dtype_size(dtype));
	switch (dtype) {
	case EXPERTD_F32:
		memcpy(dst, src, n * sizeof *src);
		break;
	case EXPERTD_BF16:
		for (size_t i = 0; i < n; i++) {
			h = ex_f32_to_bf16(src[i]);
			memcpy(p + 2 * i, &h, 2);
		}
		break;
	case EXPERTD_F16:
		for (size_t i = 0; i < n; i++) {
			h = ex_f32_to_f16(src[i]);
			memcpy(p + 2 * i, &h, 2);
		}
		break;
	case EXPERTD_F8E4M3:
		for (size_t i = 0; i < n; i++)
			p[i] = ex_f32_to_e4m3(src[i]);
		break;
	}
}
