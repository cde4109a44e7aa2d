/* SPDX-License-Identifier: Apache-2.0 */
/* The fake expert host. */
#include "fake_host.h"
#include "unit.h"

#include "base/dtype.h"
#include "base/mem.h"
#include "base/shard.h"
#include "expertd/experts.pb-c.h"
#include "net/frame.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

void fake_expert(uint32_t layer, uint32_t e, const float *x, float weight, float *out)
{
	for (uint32_t c = 0; c < FAKE_D; c++)
		out[c] += weight * sinf(x[c] * (float)(e + 1) + x[(c + e) % FAKE_D] * (float)layer);
}

static void add_shard_infos(
	const struct fake_host *h, Expertd__V1__ShardInfo *info, Expertd__V1__ShardInfo **list, size_t *n)
{
	for (uint32_t layer = FAKE_FIRST_MOE; layer < FAKE_LAYERS; layer++)
		for (uint32_t g = 0; g < FAKE_GROUPS; g++) {
			struct ex_shard_id id = ex_shard_of_group(layer, FAKE_EXPERTS, FAKE_GROUPS, g);
			if (!(h->shards >> g & 1))
				continue;
			expertd__v1__shard_info__init(&info[*n]);
			info[*n].layer = layer;
			info[*n].first_expert = id.first_expert;
			info[*n].n_experts = id.n_experts;
			info[*n].state = (char *)"ready";
			info[*n].identity = (char *)h->identity;
			list[*n] = &info[*n];
			++*n;
		}
}

static void hello(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	const struct fake_host *h = ctx;
	Expertd__V1__ShardInfo info[FAKE_LAYERS * FAKE_GROUPS], *list[FAKE_LAYERS * FAKE_GROUPS];
	Expertd__V1__HelloReply r = EXPERTD__V1__HELLO_REPLY__INIT;
	ex_msg_free(m);
	r.node = (char *)h->name;
	r.version = (char *)"0.test";
	r.wire = h->mode == FAKE_OTHER_WIRE ? EX_WIRE_VERSION + 1 : EX_WIRE_VERSION;
	r.model_digest = (char *)(h->mode == FAKE_OTHER_MODEL ? "f" FAKE_DIGEST : FAKE_DIGEST);
	r.expert_groups = FAKE_GROUPS;
	add_shard_infos(h, info, list, &r.n_shards);
	r.shards = list;
	r.revision = h->revision;
	r.data_port = h->data_port;
	r.word = (char *)(h->word ? h->word : "");
	if (h->mode != FAKE_HELLO_EMPTY)
		ex_rpc_send(rpc, ex_out_pack(&r.base));
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

static void compute_shard(const struct ex_frame_request *f, const struct ex_frame_shard *s, const float *x, float *y)
{
	memset(y, 0, (size_t)s->n_rows * FAKE_D * sizeof *y);
	for (uint32_t e = 0; e < s->n_experts; e++)
		for (uint32_t a = s->offset[e]; a < s->offset[e + 1]; a++)
			fake_expert(f->layer, s->first_expert + e, x + (size_t)s->rows[s->token[a]] * FAKE_D,
				s->weight[a], y + (size_t)s->token[a] * FAKE_D);
}

static struct ex_out *answer(const struct fake_host *h, const struct ex_frame_request *f)
{
	struct ex_frame_partial partials[FAKE_GROUPS] = {0};
	uint8_t *raw = malloc(f->x_bytes + 1);
	float *x = calloc((size_t)f->n_rows + 1, FAKE_D * sizeof *x),
	      *y = calloc((size_t)f->n_partial_rows + 1, FAKE_D * sizeof *y);
	uint32_t at = 0;
	const char *as = h->computes_as;
	ex_pieces_copy(f->x, f->n_x, raw);
	ex_dtype_to_f32(f->x_dtype, raw, (size_t)f->n_rows * FAKE_D, x);
	for (uint32_t i = 0; i < f->n_shards; i++) {
		const struct ex_frame_shard *s = &f->shards[i];
		partials[i] = (struct ex_frame_partial){.first_expert = s->first_expert,
			.n_rows = s->n_rows,
			.generation = 1,
			.identity = ex_shard_identity(as ? as : h->identity)};
		if (h->mode == FAKE_WRONG_REPLY)
			partials[i].first_expert++;
		if (h->mode == FAKE_SHARD_FAILS && i == 0) {
			partials[i].status = -EIO;
			partials[i].error = "device is sick";
			continue;
		}
		compute_shard(f, s, x, y + (size_t)at * FAKE_D);
		for (size_t c = (size_t)at * FAKE_D; as && c < (size_t)(at + s->n_rows) * FAKE_D; c++)
			y[c] *= 2;
		at += s->n_rows;
	}
	if (h->mode == FAKE_WRONG_BITS)
		*(uint8_t *)y ^= 1;
	const struct ex_frame_reply r = {.id = f->id,
		.sent_ns = f->sent_ns,
		.n_shards = f->n_shards,
		.shards = partials,
		.draining = h->draining,
		.revision = h->revision};
	struct ex_out *out = ex_frame_reply_pack(&r, y, (size_t)at * FAKE_D * sizeof *y, free, y);
	free(raw);
	free(x);
	return out;
}

static void dispatch(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	struct fake_host *h = ctx;
	struct ex_frame_request f;
	struct ex_err err = EX_ERR_INIT;
	int mode = h->mode;
	if (ex_frame_request_parse(m, FAKE_D, FAKE_EXPERTS, &err, &f))
		fail_msg("frame: %s", ex_err_text(&err));
	if (f.id) {
		h->n_frames++;
		h->n_rows += (int)f.n_rows;
		h->x_dtype = (int)f.x_dtype;
	}
	if (mode == FAKE_CLOSES && f.id) {
		ex_rpc_abort(rpc, EX_STATUS_INTERNAL, "this host falls over");
	} else if (mode != FAKE_FROZEN && (mode != FAKE_SILENT || !f.id)) {
		const struct ex_frame_reply beat = {
			.sent_ns = f.sent_ns, .draining = h->draining, .revision = h->revision};
		if (mode == FAKE_TWICE && f.id)
			ex_rpc_send(rpc, answer(h, &f));
		ex_rpc_send(rpc, f.id ? answer(h, &f) : ex_frame_reply_pack(&beat, "", 0, NULL, NULL));
	}
	ex_frame_request_done(&f);
	ex_msg_free(m);
}

static int open_lane(struct ex_rpc *rpc, void *ctx)
{
	struct fake_host *h = ctx;
	if (ex_rpc_metadata(rpc, "expertd-word", h->shown, sizeof h->shown))
		h->shown[0] = '\0';
	return 0;
}

static void half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

void fake_host_restart(struct fake_host *h)
{
	struct ex_err err = EX_ERR_INIT;
	char listen[32];
	snprintf(listen, sizeof listen, "127.0.0.1:%d", h->port);
	EXPECT_OK(err, ex_loop_new("fake", &err, &h->loop));
	const struct ex_server_opts o = {
		.listen = listen, .loops = &h->loop, .n_loops = 1, .methods = h->methods, .tls = h->tls};
	EXPECT_OK(err, ex_server_start(&o, &err, &h->server));
	h->port = ex_server_port(h->server);
	snprintf(h->address, sizeof h->address, "127.0.0.1:%d", h->port);
}

void fake_host_start(struct fake_host *h, const char *name, uint32_t shards)
{
	fake_host_start_tls(h, name, shards, &(struct fake_tls){.tls = NULL});
}

void fake_host_start_tls(struct fake_host *h, const char *name, uint32_t shards, const struct fake_tls *tls)
{
	memset(h, 0, sizeof *h);
	h->tls = tls->tls;
	h->data_port = tls->data_port;
	h->word = tls->word;
	h->name = name;
	h->shards = shards;
	h->identity = "";
	h->methods[0] = (struct ex_method){.path = "/expertd.v1.Experts/Hello", .message = hello, .ctx = h};
	h->methods[1] = (struct ex_method){.path = "/expertd.v1.Experts/Dispatch",
		.start = open_lane,
		.message = dispatch,
		.half_close = half_close,
		.ctx = h};
	fake_host_restart(h);
}

void fake_host_stop(struct fake_host *h)
{
	h->server = ex_server_stop(h->server, 0);
	h->loop = ex_loop_free(h->loop);
}
