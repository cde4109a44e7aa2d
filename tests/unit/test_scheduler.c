/* SPDX-License-Identifier: Apache-2.0 */
/* engine/scheduler: decode before prefill, chunks, admission by pages, preemption of the youngest, order kept. */
#include "unit.h"

#include "engine/scheduler.h"

#define ROWS_MAX 16
#define PAGE     4

struct fixture {
	struct ex_kv *kv;
	struct ex_sched s;
	struct ex_sched_rows r;
	uint32_t ids[ROWS_MAX], pos[ROWS_MAX], logit_rows[ROWS_MAX];
	const uint32_t *pages[ROWS_MAX];
	struct ex_seq q[4];
	uint32_t tokens[64];
};

static void init(struct fixture *f, uint32_t n_pages, uint32_t max_batch, uint32_t rows)
{
	*f = (struct fixture){0};
	assert_int_equal(ex_kv_new(n_pages, PAGE, &f->kv), 0);
	assert_int_equal(ex_sched_init(&f->s, f->kv, max_batch, rows), 0);
	f->r = (struct ex_sched_rows){.ids = f->ids, .pos = f->pos, .pages = f->pages, .logit_rows = f->logit_rows};
	for (uint32_t i = 0; i < 64; i++)
		f->tokens[i] = 100 + i;
}

static struct ex_seq *push(struct fixture *f, int i, uint32_t n_ids)
{
	struct ex_seq *q = &f->q[i];
	*q = (struct ex_seq){.ids = f->tokens, .n_ids = n_ids};
	assert_int_equal(ex_kv_table_init(f->kv, 60, &q->kv), 0);
	ex_sched_push(&f->s, q);
	return q;
}

static void done(struct fixture *f)
{
	for (size_t i = 0; i < EX_ARRAY_LEN(f->q); i++) {
		ex_sched_remove(&f->s, &f->q[i]);
		ex_kv_table_done(&f->q[i].kv);
	}
	assert_int_equal(ex_kv_used(f->kv), 0);
	ex_sched_done(&f->s);
	ex_kv_free(f->kv);
}

/* What a step does to every sequence: rows are cached; whoever has logits gets a token. */
static void advance(struct fixture *f)
{
	for (uint32_t i = 0; i < f->s.n_running; i++) {
		struct ex_seq *q = f->s.running[i];
		q->n_cached += q->n_rows;
		if (q->logits_i != UINT32_MAX)
			q->n_ids++;
	}
}

static void test_decode_first_then_chunks(void **state)
{
	(void)state;
	struct fixture f;
	init(&f, 32, 4, 8);
	struct ex_seq *a = push(&f, 0, 3), *b = push(&f, 1, 20);
	assert_ptr_equal(ex_sched_admit(&f.s), a);
	assert_ptr_equal(ex_sched_admit(&f.s), b);
	assert_null(ex_sched_admit(&f.s));
	ex_sched_plan(&f.s, &f.r);
	assert_int_equal(f.r.n, 8);
	assert_int_equal(a->n_rows, 3);
	assert_int_equal(b->n_rows, 5);
	assert_int_equal(f.r.n_logits, 1);
	assert_int_equal(f.logit_rows[a->logits_i], 2);
	assert_int_equal(b->logits_i, UINT32_MAX);
	advance(&f);
	struct ex_seq *c = push(&f, 2, 2);
	assert_ptr_equal(ex_sched_admit(&f.s), c);
	ex_sched_plan(&f.s, &f.r);
	assert_int_equal(a->n_rows, 1); /* decodes, before the older prompt's chunk */
	assert_int_equal(f.pos[a->first_row], 3);
	assert_int_equal(f.ids[a->first_row], 103);
	assert_ptr_equal(f.pages[a->first_row], a->kv.pages);
	assert_int_equal(b->n_rows, 7);
	assert_int_equal(f.pos[b->first_row], 5);
	assert_int_equal(c->n_rows, 0); /* no budget left */
	advance(&f);
	ex_sched_plan(&f.s, &f.r);
	advance(&f);
	ex_sched_plan(&f.s, &f.r);
	assert_int_equal(b->n_cached + b->n_rows, 20);
	assert_true(b->logits_i != UINT32_MAX);
	done(&f);
}

static void test_admission_wants_pages_for_one_more(void **state)
{
	(void)state;
	struct fixture f;
	init(&f, 3, 4, 16);
	struct ex_seq *a = push(&f, 0, 4), *b = push(&f, 1, 4);
	assert_ptr_equal(ex_sched_admit(&f.s), a); /* 5 positions: 2 pages */
	assert_null(ex_sched_admit(&f.s));         /* 1 page is left, 2 are wanted */
	assert_true(b->waiting);
	ex_sched_remove(&f.s, a);
	assert_ptr_equal(ex_sched_admit(&f.s), b);
	done(&f);
}

static void test_batch_is_bounded(void **state)
{
	(void)state;
	struct fixture f;
	init(&f, 32, 2, 16);
	push(&f, 0, 1);
	push(&f, 1, 1);
	push(&f, 2, 1);
	assert_non_null(ex_sched_admit(&f.s));
	assert_non_null(ex_sched_admit(&f.s));
	assert_null(ex_sched_admit(&f.s));
	done(&f);
}

/* Two sequences grow into a pool that holds one: the younger goes, comes back first, and starts over. */
static void test_preemption_of_the_youngest(void **state)
{
	(void)state;
	struct fixture f;
	init(&f, 4, 4, 16);
	struct ex_seq *a = push(&f, 0, 6), *b = push(&f, 1, 6);
	ex_sched_admit(&f.s);
	ex_sched_admit(&f.s);
	struct ex_seq *c = push(&f, 2, 1);
	for (int i = 0; i < 3; i++) { /* to 9 tokens each: a third page */
		ex_sched_plan(&f.s, &f.r);
		advance(&f);
	}
	assert_true(a->running && b->running);
	ex_sched_plan(&f.s, &f.r);
	assert_true(a->running);
	assert_false(b->running);
	assert_ptr_equal(f.s.first, b); /* ahead of c, which never ran */
	assert_int_equal(b->n_cached, 0);
	assert_int_equal(b->kv.n, 0);
	assert_int_equal(f.s.n_preempted, 1);
	assert_int_equal(f.r.n, 1);
	assert_null(ex_sched_admit(&f.s)); /* order is kept: c would fit, b does not */
	ex_sched_remove(&f.s, a);
	assert_ptr_equal(ex_sched_admit(&f.s), b);
	assert_ptr_equal(ex_sched_admit(&f.s), c);
	ex_sched_plan(&f.s, &f.r);
	assert_int_equal(b->n_rows, 9); /* prompt and what it had generated */
	done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_decode_first_then_chunks),
		cmocka_unit_test(test_admission_wants_pages_for_one_more),
		cmocka_unit_test(test_batch_is_bounded),
		cmocka_unit_test(test_preemption_of_the_youngest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
