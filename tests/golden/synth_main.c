/* SPDX-License-Identifier: Apache-2.0 */
/* synth CONFIG DTYPE SEED DIR: random weights for the golden vectors, as the daemon's own generator makes them. Test
 * program. */
#include "model/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t dtype_of(const char *name)
{
	static const char *const names[] = {
		[EXPERTD_F32] = "f32", [EXPERTD_BF16] = "bf16", [EXPERTD_F16] = "f16", [EXPERTD_F8E4M3] = "f8e4m3"};
	for (uint32_t i = EXPERTD_F32; i < EX_ARRAY_LEN(names); i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return 0;
}

int main(int argc, char **argv)
{
	struct ex_err err = EX_ERR_INIT;
	uint32_t dtype = argc == 5 ? dtype_of(argv[2]) : 0;
	if (!dtype) {
		fprintf(stderr, "usage: synth CONFIG f32|bf16|f16|f8e4m3 SEED DIR\n");
		return 2;
	}
	struct ex_synth_opts opts = {.seed = strtoull(argv[3], NULL, 10), .dtype = dtype};
	if (ex_model_synth(argv[1], argv[4], &opts, &err) < 0) {
		fprintf(stderr, "synth: %s\n", ex_err_text(&err));
		return 1;
	}
	return 0;
}
