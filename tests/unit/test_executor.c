/* SPDX-License-Identifier: Apache-2.0 */
/* expert/executor: works that meet run together and come back apart; bounds and failures reach the right work. */
#include "expert_setup.h"

#include "expert/executor.h"
#include <pthread.h>

#define D      SETUP_D_MODEL
#define ROWS   6 /* of a frame */
#define PICKED 4 /* rows of it that a work takes */

/* A frame's rows and one work on it: rows 1, 2, 4, 5; expert 0 gets the first three of them, expert 1 the last two. */
struct frame {
	struct ex_work w;
	float x[ROWS][D] __attribute__((aligned(64)));
	float y[PICKED][D];
	uint32_t rows[PICKED], offset[3], token[5];
	float weight[5];
	atomic_int n_done;
	struct ex_executor *again; /* done() submits the work again here, until it is refused */
	int refused;
};

static void done(struct ex_work *w)
{
	struct frame *f = w->ctx;
	if (f->again) {
		f->refused = ex_executor_submit(f->again, w);
		if (f->refused == 0)
			return;
	}
	atomic_fetch_add(&f->n_done, 1);
}

static struct frame *frame_new(uint32_t first_expert, int salt)
{
	struct frame *f = aligned_alloc(64, EX_ALIGN_UP(sizeof *f, 64));
	assert_non_null(f);
	memset(f, 0, sizeof *f);
	memcpy(f->rows, (const uint32_t[]){1, 2, 4, 5}, sizeof f->rows);
	memcpy(f->offset, (const uint32_t[]){0, 3, 5}, sizeof f->offset);
	memcpy(f->token, (const uint32_t[]){0, 1, 2, 2, 3}, sizeof f->token);
	for (int i = 0; i < ROWS; i++)
		for (int j = 0; j < D; j++)
			f->x[i][j] = (float)(salt + 100 * i + j);
	for (int i = 0; i < 5; i++)
		f->weight[i] = (float)(i + 1);
	f->w = (struct ex_work){
		.layer = 1,
		.first_expert = first_expert,
		.n_experts = 2,
		.x = f->x,
		.rows = salt % 2 ? f->rows : NULL,
		.offset = f->offset,
		.token = f->token,
		.weight = f->weight,
		.n_rows = PICKED,
		.x_dtype = EXPERTD_F32,
		.y = f->y[0],
		.done = done,
		.ctx = f,
	};
	return f;
}

/* What fake computes, in the same order. */
static void frame_check(const struct frame *f)
{
	assert_int_equal(f->w.status, 0);
	for (uint32_t t = 0; t < PICKED; t++) {
		const float *x = f->x[f->w.rows ? f->rows[t] : t];
		for (int j = 0; j < D; j++) {
			float want = 0;
			for (uint32_t e = 0; e < 2; e++)
				for (uint32_t a = f->offset[e]; a < f->offset[e + 1]; a++)
					if (f->token[a] == t)
						want += f->weight[a] * x[j] * (float)(e + 1);
			if (f->y[t][j] != want)
				fail_msg(
					"row %u, element %d: %g instead of %g", t, j, (double)f->y[t][j], (double)want);
		}
	}
}

static void wait_done(const struct frame *f)
{
	while (!atomic_load(&f->n_done))
		usleep(200);
	assert_int_equal(f->n_done, 1);
}

static void start(struct setup *s, unsigned n_workers, uint32_t batch_rows, uint32_t queue_rows, const char *run_us,
	struct ex_executor **ret)
{
	struct ex_err err = EX_ERR_INIT;
	setup_init(s);
	s->run_us = run_us;
	struct ex_plugin *p = setup_plugin("fake");
	setup_load(s, p);
	ex_plugin_unref(p);
	const struct ex_executor_opts o = {.registry = s->registry,
		.d_model = D,
		.n_workers = n_workers,
		.batch_rows_max = batch_rows,
		.queue_rows_max = queue_rows};
	EXPECT_OK(err, ex_executor_new(&o, &err, ret));
}

static void test_alone(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	start(&s, 1, 64, 64, NULL, &e);
	for (int salt = 0; salt < 2; salt++) {
		struct frame *f = frame_new(0, salt);
		assert_int_equal(ex_executor_submit(e, &f->w), 0);
		wait_done(f);
		frame_check(f);
		assert_int_equal(f->w.generation, 1);
		free(f);
	}
	ex_executor_free(e);
	setup_done(&s);
}

/* While the first run is slow, the others queue up and go together; free() finishes what is queued. */
static void test_meet(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	struct frame *f[12];
	start(&s, 2, 64, 1000, "30000", &e);
	for (int i = 0; i < 12; i++) {
		f[i] = frame_new(2, i);
		assert_int_equal(ex_executor_submit(e, &f[i]->w), 0);
	}
	ex_executor_free(e);
	for (int i = 0; i < 12; i++) {
		assert_int_equal(f[i]->n_done, 1);
		frame_check(f[i]);
		free(f[i]);
	}
	assert_int_equal(s.n_rows, 12 * PICKED);
	assert_true(s.n_runs < 12); /* batches formed; never twice at once on a shard: fake would have said -EBUSY */
	setup_done(&s);
}

static void test_batch_bound(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	struct frame *f[7];
	start(&s, 1, 2 * PICKED, 1000, "5000", &e);
	for (int i = 0; i < 7; i++) {
		f[i] = frame_new(0, i);
		assert_int_equal(ex_executor_submit(e, &f[i]->w), 0);
	}
	ex_executor_free(e);
	for (int i = 0; i < 7; i++) {
		frame_check(f[i]);
		free(f[i]);
	}
	assert_true(s.n_runs >= 4); /* two works a run at most */
	setup_done(&s);
}

static void test_queue_bound(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	struct frame *f[8];
	int n = 0, rc;
	start(&s, 1, 64, 3 * PICKED + 1, "50000", &e);
	do {
		f[n] = frame_new(0, n);
		rc = ex_executor_submit(e, &f[n]->w);
	} while (rc == 0 && ++n < 8);
	assert_int_equal(rc, -EAGAIN);
	assert_true(n == 3 || n == 4); /* one may be running already */
	assert_true(ex_executor_queued_rows(e) <= 3 * PICKED);
	assert_int_equal(f[n]->n_done, 0);
	ex_executor_free(e);
	for (int i = 0; i <= n; i++) {
		assert_int_equal(f[i]->n_done, i < n);
		free(f[i]);
	}
	setup_done(&s);
}

static void test_refusals(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	start(&s, 2, 64, 64, NULL, &e);
	struct frame *absent = frame_new(1, 0), *layer = frame_new(0, 0), *wide = frame_new(0, 0),
		     *dtype = frame_new(0, 0);
	layer->w.layer = 7;
	wide->w.n_experts = 1;
	dtype->w.x_dtype = EXPERTD_F16;
	const struct {
		struct frame *f;
		int status;
	} row[] = {{absent, -ENOENT}, {layer, -ENOENT}, {wide, -EINVAL}, {dtype, -EINVAL}};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		assert_int_equal(ex_executor_submit(e, &row[i].f->w), 0);
		wait_done(row[i].f);
		assert_int_equal(row[i].f->w.status, row[i].status);
		free(row[i].f);
	}
	s.run_error = "5";
	struct frame *sick = frame_new(0, 0), *after = frame_new(0, 0);
	assert_int_equal(ex_executor_submit(e, &sick->w), 0);
	wait_done(sick);
	assert_int_equal(sick->w.status, -EIO);
	assert_int_equal(ex_executor_submit(e, &after->w), 0);
	wait_done(after);
	assert_int_equal(after->w.status, -ENOENT);
	free(sick);
	free(after);
	ex_executor_free(e);
	setup_done(&s);
}

static void test_shutdown(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	start(&s, 1, 64, 64, NULL, &e);
	struct frame *f = frame_new(0, 0);
	f->again = e;
	assert_int_equal(ex_executor_submit(e, &f->w), 0);
	while (s.n_runs < 3)
		usleep(200);
	ex_executor_free(e);
	assert_int_equal(f->refused, -ESHUTDOWN);
	assert_int_equal(f->n_done, 1);
	free(f);
	setup_done(&s);
}

/* What is queued when nobody waits for it any more is not run, yet ends. */
static void test_abandon(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	struct frame *f[8];
	start(&s, 1, PICKED, 1000, "300000", &e);
	for (int i = 0; i < 8; i++) {
		f[i] = frame_new(0, i);
		assert_int_equal(ex_executor_submit(e, &f[i]->w), 0);
	}
	while (ex_executor_queued_rows(e) == 8 * PICKED) /* the first one is taken */
		usleep(200);
	ex_executor_abandon(e);
	assert_int_equal(ex_executor_submit(e, &f[0]->w), -ESHUTDOWN);
	ex_executor_free(e);
	assert_int_equal(s.n_runs, 1);
	frame_check(f[0]);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(f[i]->n_done, 1);
		assert_int_equal(f[i]->w.status, i ? -ESHUTDOWN : 0);
		free(f[i]);
	}
	setup_done(&s);
}

struct submitter {
	struct ex_executor *e;
	int salt;
};

static void *submit_many(void *arg)
{
	const struct submitter *k = arg;
	for (int i = 0; i < 60; i++) {
		struct frame *f = frame_new(i % 3 ? 0 : 2, k->salt + i);
		int rc;
		while ((rc = ex_executor_submit(k->e, &f->w)) == -EAGAIN)
			usleep(100);
		assert_int_equal(rc, 0);
		wait_done(f);
		frame_check(f);
		free(f);
	}
	return NULL;
}

static void test_crowd(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	pthread_t t[6];
	struct submitter k[6];
	start(&s, 3, 3 * PICKED, 4 * PICKED, NULL, &e);
	for (int i = 0; i < 6; i++) {
		k[i] = (struct submitter){.e = e, .salt = 1000 * i};
		assert_int_equal(pthread_create(&t[i], NULL, submit_many, &k[i]), 0);
	}
	for (int i = 0; i < 6; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(s.n_rows, 6 * 60 * PICKED);
	assert_int_equal(ex_executor_queued_rows(e), 0);
	/* idle workers show signs of life */
	uint64_t turns = ex_executor_turns(e);
	while (ex_executor_turns(e) == turns)
		usleep(1000);
	ex_executor_free(e);
	setup_done(&s);
}

/* A held shard waits, another one runs meanwhile; who holds it may run it: fake refuses to run twice at once. */
static void test_hold(void **state)
{
	(void)state;
	struct setup s;
	struct ex_executor *e;
	start(&s, 2, 64, 64, "2000", &e);
	struct frame *f = frame_new(0, 0), *other = frame_new(2, 4), *own = frame_new(0, 0);
	const struct expertd_batch b = {.x = own->x,
		.y = own->y[0],
		.offset = own->offset,
		.token = own->token,
		.weight = own->weight,
		.n_tokens = PICKED,
		.n_experts = 2,
		.n_assignments = 5,
		.x_dtype = EXPERTD_F32};
	for (int i = 0; i < 10; i++) {
		atomic_store(&f->n_done, 0);
		assert_int_equal(ex_executor_submit(e, &f->w), 0);
		usleep(500); /* sometimes it runs by now, sometimes not */
		ex_executor_hold(e, 1, 0);
		struct ex_generation *g = ex_registry_pin(s.registry, 1, 0);
		assert_int_equal(ex_generation_try(g, &b), 0);
		ex_generation_unpin(g);
		ex_executor_release(e);
		wait_done(f);
		frame_check(f);
	}
	ex_executor_hold(e, 1, 0);
	atomic_store(&f->n_done, 0);
	assert_int_equal(ex_executor_submit(e, &f->w), 0);
	assert_int_equal(ex_executor_submit(e, &other->w), 0);
	wait_done(other);
	assert_int_equal(atomic_load(&f->n_done), 0);
	ex_executor_release(e);
	wait_done(f);
	frame_check(f);
	free(f);
	free(other);
	free(own);
	ex_executor_free(e);
	setup_done(&s);
}

static void test_bad_options(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_executor *e = NULL;
	struct ex_registry *r = setup_registry(false);
	const struct ex_executor_opts good = {
		.registry = r, .d_model = D, .n_workers = 1, .batch_rows_max = 8, .queue_rows_max = 8};
	struct ex_executor_opts bad[] = {good, good, good, good};
	bad[0].n_workers = 0;
	bad[1].n_workers = 100000;
	bad[2].batch_rows_max = 0;
	bad[3].queue_rows_max = 0;
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++)
		assert_int_equal(ex_executor_new(&bad[i], &err, &e), -EINVAL);
	ex_registry_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alone),
		cmocka_unit_test(test_meet),
		cmocka_unit_test(test_batch_bound),
		cmocka_unit_test(test_queue_bound),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_shutdown),
		cmocka_unit_test(test_abandon),
		cmocka_unit_test(test_crowd),
		cmocka_unit_test(test_hold),
		cmocka_unit_test(test_bad_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
