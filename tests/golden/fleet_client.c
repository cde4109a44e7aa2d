/* SPDX-License-Identifier: Apache-2.0 */
/* fleet_client TARGET TEMPERATURE SEED MAX_TOKENS ID ...: one Router.Generate by token ids, with logits. Prints a line
 * per token, its id and a digest of its logits' bits, then the reason it ended. Exit status 1 unless it ended by
 * "length" or "stop". Test program. */
#include "expertd/router.pb-c.h"
#include "net/client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT_MAX 4096
#define TOP_P      0.95f
#define TOP_K      40

struct call {
	pthread_mutex_t lock;
	pthread_cond_t ended; /* signalled when done is set */
	bool done, good;      /* guarded by lock */
};

/* FNV-1a over the bytes: enough to tell two rows of logits apart. */
static uint64_t digest(const uint8_t *data, size_t n)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < n; i++)
		h = (h ^ data[i]) * 0x100000001b3u;
	return h;
}

static void print_delta(const Expertd__V1__Delta *d)
{
	size_t row = d->n_ids ? d->logits.len / d->n_ids : 0;
	for (size_t i = 0; i < d->n_ids; i++)
		printf("%u %zu %016lx\n", d->ids[i], row / sizeof(float),
			(unsigned long)digest(d->logits.data + i * row, row));
}

static void on_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct call *c = ctx;
	(void)s;
	Expertd__V1__GenerateReply *r =
		(Expertd__V1__GenerateReply *)ex_msg_unpack(m, &expertd__v1__generate_reply__descriptor);
	if (r && r->event_case == EXPERTD__V1__GENERATE_REPLY__EVENT_DELTA)
		print_delta(r->delta);
	if (r && r->event_case == EXPERTD__V1__GENERATE_REPLY__EVENT_FINISHED) {
		const char *reason = r->finished->reason;
		printf("%s %s\nrows %lu\n", reason, r->finished->error, (unsigned long)r->finished->rows_dispatched);
		pthread_mutex_lock(&c->lock);
		c->good = strcmp(reason, "length") == 0 || strcmp(reason, "stop") == 0;
		pthread_mutex_unlock(&c->lock);
	}
	if (r)
		protobuf_c_message_free_unpacked(&r->base, NULL);
	ex_msg_free(m);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct call *c = ctx;
	(void)s;
	if (status)
		printf("status %d: %s\n", status, text);
	pthread_mutex_lock(&c->lock);
	c->done = true;
	c->good = c->good && status == 0;
	pthread_cond_signal(&c->ended);
	pthread_mutex_unlock(&c->lock);
}

static int generate(const char *target, Expertd__V1__GenerateRequest *request, struct ex_err *err)
{
	static const struct ex_stream_ops ops = {.message = on_message, .closed = on_closed};
	struct call c = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
	struct ex_loop *loop = NULL;
	struct ex_channel *channel = NULL;
	struct ex_stream *s = NULL;
	int rc = ex_loop_new("client", err, &loop);
	if (rc == 0)
		rc = ex_channel_new(
			&(struct ex_channel_opts){.target = target, .loop = loop, .message_bytes_max = 64 << 20}, err,
			&channel);
	if (rc == 0)
		rc = ex_stream_open(channel, "/expertd.v1.Router/Generate", 120000, true, &ops, &c, err, &s);
	if (rc == 0) {
		rc = ex_stream_send(s, ex_out_pack(&request->base));
		ex_stream_close_send(s);
		pthread_mutex_lock(&c.lock);
		while (!c.done)
			pthread_cond_wait(&c.ended, &c.lock);
		rc = rc == 0 && !c.good ? -EIO : rc;
		pthread_mutex_unlock(&c.lock);
		ex_stream_drop(s);
	}
	if (channel)
		ex_channel_free(channel);
	if (loop)
		ex_loop_free(loop);
	return rc;
}

int main(int argc, char **argv)
{
	static uint32_t ids[PROMPT_MAX];
	struct ex_err err = EX_ERR_INIT;
	if (argc < 6 || argc - 5 > PROMPT_MAX) {
		fprintf(stderr, "usage: fleet_client TARGET TEMPERATURE SEED MAX_TOKENS ID ...\n");
		return 2;
	}
	Expertd__V1__TokenPrompt prompt = EXPERTD__V1__TOKEN_PROMPT__INIT;
	Expertd__V1__Sampling sampling = EXPERTD__V1__SAMPLING__INIT;
	Expertd__V1__GenerateRequest request = EXPERTD__V1__GENERATE_REQUEST__INIT;
	for (int i = 5; i < argc; i++)
		ids[prompt.n_ids++] = (uint32_t)strtoul(argv[i], NULL, 10);
	prompt.ids = ids;
	sampling.temperature = strtof(argv[2], NULL);
	sampling.seed = strtoull(argv[3], NULL, 10);
	if (sampling.temperature > 0) {
		sampling.top_p = TOP_P;
		sampling.top_k = TOP_K;
	}
	request.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_TOKENS;
	request.tokens = &prompt;
	request.sampling = &sampling;
	request.max_tokens = (uint32_t)strtoul(argv[4], NULL, 10);
	request.ignore_eos = true;
	request.want_logits = 1;
	ex_net_init();
	int rc = generate(argv[1], &request, &err);
	ex_net_done();
	if (rc < 0 && err.code)
		fprintf(stderr, "fleet_client: %s\n", ex_err_text(&err));
	return rc < 0 ? 1 : 0;
}
