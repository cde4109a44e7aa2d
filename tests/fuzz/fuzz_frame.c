/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a dispatch frame, in pieces of any size: refused with a message, or a frame whose every index may be
 * followed. The first byte of the input picks request or reply and the length of the pieces. */
#include "fuzz.h"

#include "net/frame.h"
#include "net/loop.h"
#include <math.h>

#define D_MODEL   4
#define N_EXPERTS 64

static void follow_request(const struct ex_frame_request *f)
{
	size_t x_bytes = 0, n_partial_rows = 0;
	for (size_t i = 0; i < f->n_x; i++)
		x_bytes += f->x[i].n;
	assert(x_bytes == f->x_bytes);
	assert(f->id == 0 || x_bytes == (size_t)f->n_rows * D_MODEL * (f->x_dtype == 1 ? 4 : 2));
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const struct ex_frame_shard *s = &f->shards[i];
		assert(s->first_expert + s->n_experts <= N_EXPERTS && s->offset[s->n_experts] == s->n_assignments);
		for (uint32_t r = 0; r < s->n_rows; r++)
			assert(s->rows[r] < f->n_rows);
		for (uint32_t e = 0; e < s->n_experts; e++)
			for (uint32_t a = s->offset[e]; a < s->offset[e + 1]; a++)
				assert(s->token[a] < s->n_rows && isfinite(s->weight[a]));
		n_partial_rows += s->n_rows;
	}
	assert(n_partial_rows == f->n_partial_rows);
}

static void follow_reply(const struct ex_frame_reply *f)
{
	size_t rows = 0, y_bytes = 0;
	for (uint32_t i = 0; i < f->n_shards; i++)
		rows += f->shards[i].status ? 0 : f->shards[i].n_rows;
	for (size_t i = 0; i < f->n_y; i++)
		y_bytes += f->y[i].n;
	assert(y_bytes == f->y_bytes && y_bytes == rows * D_MODEL * sizeof(float));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	if (!ready)
		ex_net_init();
	ready = true;
	if (!size)
		return 0;
	struct ex_err err = EX_ERR_INIT;
	struct ex_frame_request q;
	struct ex_frame_reply r;
	bool is_request = data[0] & 1;
	struct ex_msg *m = ex_msg_new(data + 1, size - 1, 1 + (data[0] >> 1));
	int rc = is_request ? ex_frame_request_parse(m, D_MODEL, N_EXPERTS, &err, &q)
			    : ex_frame_reply_parse(m, D_MODEL, &err, &r);
	assert(!rc == !err.text[0]);
	if (!rc && is_request) {
		follow_request(&q);
		ex_frame_request_done(&q);
	} else if (!rc) {
		follow_reply(&r);
		ex_frame_reply_done(&r);
	}
	ex_msg_free(m);
	return 0;
}
