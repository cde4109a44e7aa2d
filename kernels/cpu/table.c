/* SPDX-License-Identifier: Apache-2.0 */
/* The function table of one instruction set. */
#include "isa.h"

#define EX_TEXT2(x) #x
#define EX_TEXT(x)  EX_TEXT2(x)

const struct ex_kernels ISA(ex_kernels) = {
	.isa = EX_TEXT(EX_ISA),
	.panel = PANEL,
	.tile_rows = TILE_ROWS,
	.mla_heads = VL,
	.shape = ISA(shape),
	.pack = ISA(pack),
	.unpack_row = ISA(unpack_row),
	.tile = ISA(tile),
	.silu_mul = ISA(silu_mul),
	.exp = ISA(exp),
	.softmax = ISA(softmax),
	.sigmoid = ISA(sigmoid),
	.add = ISA(add),
	.add_scaled = ISA(add_scaled),
	.rmsnorm = ISA(rmsnorm),
	.rope = ISA(rope),
	.mla_scratch = ISA(mla_scratch),
	.mla = ISA(mla),
};
