/* SPDX-License-Identifier: Apache-2.0 */
/* engine/sides: a second model takes over between two steps. What was begun stays with its model to the token, or goes over without a failure;
 * the model before goes when its last request has ended, not earlier. */
#include "small_model.h"
#include "unit.h"

#include "base/clock.h"
#include "base/lock.h"
#include "engine/engine.h"
#include "ref_ops.h"
#include <string.h>
#include <unistd.h>

#define TOKENS   24
#define N_PAGES  64
#define TURN_AT  6 /* tokens after which the switch comes */
#define N_BEFORE 3 /* requests that are taken before it */

struct client {
	struct rig *k;
	struct ex_request *r;
	uint32_t ids[TOKENS], n_ids;
	enum ex_finish reason;
};

struct rig {
	struct small_model old, new;
	struct ex_engine *e;
	struct client c[N_BEFORE + 1];
	bool old_is_gone;
	bool turn, move; /* at TURN_AT tokens of the first client */
	struct ex_lock lock;
	pthread_cond_t changed;
	unsigned n_finished, n_retired, n_turned; /* guarded by lock */
	unsigned finished_at_retirement;
};

static const uint32_t prompt[] = {7, 100, 33, 250, 12, 90, 41, 8, 77, 201, 6, 5};

static void submit(struct rig *k, unsigned i, struct ex_side *side);

static void on_retired(void *ctx)
{
	struct rig *k = ctx;
	ex_lock_take(&k->lock);
	k->n_retired++;
	k->finished_at_retirement = k->n_finished;
	pthread_cond_signal(&k->changed);
	ex_lock_give(&k->lock);
}

static struct ex_engine_model model_of(struct rig *k, struct small_model *m)
{
	return (struct ex_engine_model){.trunk = m->t,
		.moe = &m->moe,
		.config = ex_weights_config(m->w),
		.move = k->move,
		.retired = on_retired,
		.ctx = k};
}

static bool on_delta(void *ctx, struct ex_request *r, const struct ex_delta *d)
{
	struct client *c = ctx;
	struct ex_err err = EX_ERR_INIT;
	(void)r;
	c->ids[c->n_ids++] = d->ids[0];
	if (c == &c->k->c[0] && c->k->turn && c->n_ids == TURN_AT) {
		const struct ex_engine_model m = model_of(c->k, &c->k->new);
		struct ex_side *held = ex_engine_hold(c->k->e);
		EXPECT_OK(err, ex_engine_switch(c->k->e, &m, &err));
		assert_int_equal(ex_engine_switch(c->k->e, &m, &err), -EBUSY);
		submit(c->k, N_BEFORE - 1, held); /* its prompt was encoded before the switch */
		ex_engine_release(c->k->e, held);
		submit(c->k, N_BEFORE, NULL);
		ex_lock_take(&c->k->lock);
		c->k->n_turned++;
		pthread_cond_signal(&c->k->changed);
		ex_lock_give(&c->k->lock);
	}
	return true;
}

static void on_finished(void *ctx, struct ex_request *r, const struct ex_finished *f)
{
	struct client *c = ctx;
	(void)r;
	c->reason = f->reason;
	ex_lock_take(&c->k->lock);
	c->k->n_finished++;
	pthread_cond_signal(&c->k->changed);
	ex_lock_give(&c->k->lock);
}

static void submit(struct rig *k, unsigned i, struct ex_side *side)
{
	struct ex_err err = EX_ERR_INIT;
	struct client *c = &k->c[i];
	*c = (struct client){.k = k};
	const struct ex_request_params p = {
		.ids = prompt + i,
		.n_ids = 6 + i,
		.max_tokens = TOKENS - 2 * i,
		.sampling = {.temperature = i % 2 ? 0.9f : 0, .top_p = 1, .seed = i},
		.ignore_eos = true,
		.side = side,
		.sink = {.delta = on_delta, .finished = on_finished, .ctx = c},
	};
	EXPECT_OK(err, ex_engine_submit(k->e, &p, &err, &c->r));
}

static void wait_for(struct rig *k, const unsigned *what, unsigned n)
{
	ex_lock_take(&k->lock);
	while (*what < n)
		ex_cond_wait(&k->changed, &k->lock);
	ex_lock_give(&k->lock);
}

static void open_rig(struct rig *k)
{
	struct ex_err err = EX_ERR_INIT;
	memset(k, 0, sizeof *k);
	ex_lock_init(&k->lock, "rig");
	ex_cond_init(&k->changed);
	small_model_seed = 7;
	small_model_open(&k->old, EXPERTD_BF16, &ref_ops, 16, N_PAGES);
	small_model_seed = 8;
	small_model_open(&k->new, EXPERTD_BF16, &ref_ops, 16, N_PAGES);
	const struct ex_engine_opts o = {
		.trunk = k->old.t,
		.moe = &k->old.moe,
		.config = ex_weights_config(k->old.w),
		.max_batch = 2, /* one of those before waits when the switch comes */
		.step_tokens_max = 16,
		.queue_max = 10,
		.page_tokens = SMALL_MODEL_PAGE,
		.n_pages = N_PAGES,
		.n_ctx = SMALL_MODEL_CTX,
	};
	EXPECT_OK(err, ex_engine_new(&o, &err, &k->e));
}

static void close_rig(struct rig *k)
{
	for (size_t i = 0; i < EX_ARRAY_LEN(k->c); i++)
		ex_request_unref(k->c[i].r);
	k->e = ex_engine_free(k->e);
	if (!k->old_is_gone)
		small_model_close(&k->old);
	small_model_close(&k->new);
	ex_lock_done(&k->lock);
	pthread_cond_destroy(&k->changed);
}

/* What each request gets from the model that the engine ends up with. */
static void undisturbed(uint32_t ids[static N_BEFORE + 1][TOKENS], bool new)
{
	static struct rig k;
	struct ex_err err = EX_ERR_INIT;
	open_rig(&k);
	if (new) {
		const struct ex_engine_model m = model_of(&k, &k.new);
		EXPECT_OK(err, ex_engine_switch(k.e, &m, &err));
		wait_for(&k, &k.n_retired, 1); /* an idle engine turns, too */
		small_model_close(&k.old);     /* nothing of it is used any more */
		k.old_is_gone = true;
	}
	for (unsigned i = 0; i <= N_BEFORE; i++)
		submit(&k, i, NULL);
	wait_for(&k, &k.n_finished, N_BEFORE + 1);
	for (unsigned i = 0; i <= N_BEFORE; i++)
		memcpy(ids[i], k.c[i].ids, sizeof k.c[i].ids);
	close_rig(&k);
}

static void run_switch(struct rig *k, bool move)
{
	struct ex_engine_stat st;
	open_rig(k);
	k->turn = true;
	k->move = move;
	for (unsigned i = 0; i < N_BEFORE - 1; i++)
		submit(k, i, NULL);
	wait_for(k, &k->n_finished, N_BEFORE + 1);
	wait_for(k, &k->n_retired, 1);
	for (unsigned i = 0; i <= N_BEFORE; i++) {
		assert_int_equal(k->c[i].reason, EX_FINISH_LENGTH);
		assert_int_equal(k->c[i].n_ids, TOKENS - 2 * i);
	}
	assert_true(ex_engine_drain(k->e, 10000));
	do
		ex_engine_stat(k->e, &st);
	while ((st.pages_used || st.n_before) && usleep(1000) == 0); /* published at the end of the turn */
	assert_int_equal(st.n_moved != 0, move);
}

static void expect_tokens(const struct client *c, const uint32_t *want, unsigned from)
{
	for (unsigned i = from; i < c->n_ids; i++)
		assert_int_equal(c->ids[i], want[i]);
}

static void test_pin(void **state)
{
	static uint32_t old[N_BEFORE + 1][TOKENS], new[N_BEFORE + 1][TOKENS];
	static struct rig k;
	(void)state;
	undisturbed(old, false);
	undisturbed(new, true);
	assert_memory_not_equal(old, new, sizeof old);
	run_switch(&k, false);
	for (unsigned i = 0; i < N_BEFORE; i++)
		expect_tokens(&k.c[i], old[i], 0);
	expect_tokens(&k.c[N_BEFORE], new[N_BEFORE], 0);
	assert_true(k.finished_at_retirement >= N_BEFORE);
	close_rig(&k);
}

static void test_move(void **state)
{
	static uint32_t old[N_BEFORE + 1][TOKENS], new[N_BEFORE + 1][TOKENS];
	static struct rig k;
	(void)state;
	undisturbed(old, false);
	undisturbed(new, true);
	run_switch(&k, true);
	assert_memory_equal(k.c[0].ids, old[0], TURN_AT * sizeof old[0][0]);
	assert_memory_not_equal(k.c[0].ids, old[0], sizeof old[0]);
	expect_tokens(&k.c[N_BEFORE - 1], new[N_BEFORE - 1], 0); /* had nothing yet */
	expect_tokens(&k.c[N_BEFORE], new[N_BEFORE], 0);
	assert_int_equal(k.finished_at_retirement, 0); /* nobody stayed behind */
	close_rig(&k);
}

/* An engine that ends with two models inside lets go of both. */
static void test_end(void **state)
{
	static struct rig k;
	(void)state;
	open_rig(&k);
	k.turn = true;
	for (unsigned i = 0; i < N_BEFORE - 1; i++)
		submit(&k, i, NULL);
	wait_for(&k, &k.n_turned, 1);
	assert_true(ex_engine_end(k.e, 10000));
	close_rig(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pin), cmocka_unit_test(test_move), cmocka_unit_test(test_end)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
