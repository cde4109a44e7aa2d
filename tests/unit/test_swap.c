/* SPDX-License-Identifier: Apache-2.0 */
/* expert/swap: a good plugin goes live and can be rolled back; a bad one is refused at the step that is there for it, and what served serves on.
 * This program is its own trial child. */
#include "expert_setup.h"

#include "base/lock.h"
#include "base/str.h"
#include "config.h"
#include "expert/plugin_file.h"
#include "expert/swap.h"
#include "expert/trial.h"
#include <pthread.h>
#include <sys/stat.h>

#define PLUGINS     "tests/unit/plugins/.libs/"
#define REPORTS_MAX 16

struct rig {
	struct setup s;
	struct ex_plugin *base;
	struct ex_executor *e;
	struct ex_published *published;
	struct ex_swapper *swapper;
	char state[32], good[PATH_MAX], allow[PATH_MAX];
	const char *allow_list[1];
	unsigned deadline_s;
	/* what the command under way has told; guarded by lock */
	struct ex_lock lock;
	pthread_cond_t changed;
	struct ex_swap_report r[REPORTS_MAX];
	size_t n;
	bool done;
	unsigned n_done, n_failed;
	bool went_back; /* a rollback was told that nobody asked for */
};

static void on_report(void *ctx, const struct ex_swap_report *r)
{
	struct rig *k = ctx;
	ex_lock_take(&k->lock);
	assert_true(k->n < REPORTS_MAX);
	k->r[k->n++] = *r;
	ex_lock_give(&k->lock);
}

static void on_done(void *ctx, unsigned n_done, unsigned n_failed)
{
	struct rig *k = ctx;
	ex_lock_take(&k->lock);
	k->done = true;
	k->n_done = n_done;
	k->n_failed = n_failed;
	pthread_cond_signal(&k->changed);
	ex_lock_give(&k->lock);
}

static void on_told(void *ctx, const struct ex_swap_report *r)
{
	struct rig *k = ctx;
	ex_lock_take(&k->lock);
	k->went_back |= r->action == EX_SWAP_ROLLBACK && strstr(r->text, "device");
	pthread_cond_signal(&k->changed);
	ex_lock_give(&k->lock);
}

static void submit(struct rig *k, struct ex_swap_request q, const char *glob)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_swap_client c = {.report = on_report, .done = on_done, .ctx = k};
	k->n = 0;
	k->done = false;
	strcpy(q.glob, glob);
	EXPECT_OK(err, ex_swapper_submit(k->swapper, &q, &c, &err));
	ex_lock_take(&k->lock);
	while (!k->done)
		ex_cond_wait(&k->changed, &k->lock);
	ex_lock_give(&k->lock);
}

static void swap(struct rig *k, const char *glob, const char *plugin, float tolerance)
{
	submit(k,
		(struct ex_swap_request){
			.action = EX_SWAP_SWAP, .plugin = plugin, .n_verify = 8, .tolerance = tolerance},
		glob);
}

/* --- the rig --------------------------------------------------------------------------------------------- */

/* The plugin with some bytes behind it: the same code by another digest. */
static void copy_plugin(const char *from, const char *dir, const char *to, char path[static PATH_MAX])
{
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *data = NULL;
	size_t n;
	EXPECT_OK(err, ex_read_file(from, 1 << 26, &err, &data, &n));
	data = realloc(data, n + 16);
	assert_non_null(data);
	memset(data + n, 'x', 16);
	write_bytes(dir, to, data, n + 16);
	path_in(dir, to, path);
}

static void allow(struct rig *k, const char *plugin)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin_file f;
	char line[200];
	EXPECT_OK(err, ex_plugin_file_read(&f, plugin, &err));
	snprintf(line, sizeof line, "# new\n  %s  new.so\n", f.sha256);
	write_text(k->s.dir, "allow", line);
	ex_plugin_file_done(&f);
}

static void open_swapper(struct rig *k, unsigned linger_s)
{
	static const char *const options[] = {"threads=1"};
	struct ex_err err = EX_ERR_INIT;
	const struct ex_published_for f = {
		.model_digest = ex_weights_digest(k->s.w), .base_sha256 = ex_plugin_sha256(k->base), .n_groups = 2};
	EXPECT_OK(err, ex_published_open(k->state, &f, &err, &k->published));
	const struct ex_swapper_opts o = {
		.registry = k->s.registry,
		.executor = k->e,
		.weights = k->s.w,
		.published = k->published,
		.plugin = k->base,
		.host = &k->s.host,
		.which = "0",
		.plugin_dir = PLUGINS,
		.allow = k->allow_list,
		.n_allow = 1,
		.model = k->s.model,
		.options = options,
		.n_options = 1,
		.shards = SETUP_SHARDS,
		.n_shards = 2,
		.configured = SETUP_SHARDS,
		.n_configured = 1,
		.linger_s = linger_s,
		.deadline_s = k->deadline_s,
		.told = on_told,
		.ctx = k,
	};
	EXPECT_OK(err, ex_swapper_new(&o, &err, &k->swapper));
}

static void rig_init(struct rig *k, unsigned linger_s)
{
	struct ex_err err = EX_ERR_INIT;
	*k = (struct rig){.state = SCRATCH_DIR, .deadline_s = 300};
	make_dir(k->state);
	setup_init(&k->s);
	ex_registry_free(k->s.registry);
	const struct ex_registry_opts ro = {.n_experts = 4,
		.n_groups = 2,
		.n_layers = 2,
		.d_model = SETUP_D_MODEL,
		.record_bytes = 1 << 20,
		.record_bytes_each = 1 << 18};
	assert_int_equal(ex_registry_new(&ro, &k->s.registry), 0);
	const struct ex_executor_opts eo = {.registry = k->s.registry,
		.d_model = SETUP_D_MODEL,
		.n_workers = 1,
		.batch_rows_max = 64,
		.queue_rows_max = 64};
	EXPECT_OK(err, ex_executor_new(&eo, &err, &k->e));
	k->base = setup_plugin("example");
	setup_load(&k->s, k->base);
	copy_plugin(PLUGINS "example.so", k->s.dir, "new.so", k->good);
	path_in(k->s.dir, "allow", k->allow);
	allow(k, k->good);
	k->allow_list[0] = k->allow;
	ex_lock_init(&k->lock, "test");
	ex_cond_init(&k->changed);
	open_swapper(k, linger_s);
}

static void rig_done(struct rig *k)
{
	char path[PATH_MAX];
	k->swapper = ex_swapper_free(k->swapper);
	k->published = ex_published_free(k->published);
	ex_executor_free(k->e);
	pthread_cond_destroy(&k->changed);
	ex_lock_done(&k->lock);
	setup_done(&k->s);
	ex_plugin_unref(k->base);
	remove_dir(path_in(k->state, "plugins", path));
	remove_dir(k->state);
}

struct find {
	uint32_t first_expert;
	struct ex_shard_view v;
};

static void find_view(void *ctx, const struct ex_shard_view *v)
{
	struct find *f = ctx;
	if (v->id.first_expert == f->first_expert)
		f->v = *v;
}

static struct ex_shard_view look(const struct rig *k, uint32_t first_expert)
{
	struct find f = {.first_expert = first_expert};
	ex_registry_each(k->s.registry, find_view, &f);
	return f.v;
}

static bool has_copy(const struct rig *k, const char *sha256)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s.so", ex_published_plugins(k->published), sha256);
	return access(path, F_OK) == 0;
}

/* One token through both experts of a shard, as the executor does it. */
static void compute(struct rig *k, uint32_t first_expert, float value)
{
	float x[SETUP_D_MODEL] __attribute__((aligned(64))), y[SETUP_D_MODEL];
	static const uint32_t offset[] = {0, 1, 2}, token[] = {0, 0};
	static const float weight[] = {0.5f, 0.25f};
	const struct expertd_batch b = {.x = x,
		.y = y,
		.offset = offset,
		.token = token,
		.weight = weight,
		.n_tokens = 1,
		.n_experts = 2,
		.n_assignments = 2,
		.x_dtype = EXPERTD_F32};
	for (uint32_t i = 0; i < SETUP_D_MODEL; i++)
		x[i] = value + (float)i / 100;
	struct ex_generation *g = ex_registry_pin(k->s.registry, 1, first_expert);
	assert_non_null(g);
	assert_int_equal(ex_generation_run(g, &b), 0);
	ex_generation_unpin(g);
}

/* --- tests ----------------------------------------------------------------------------------------------- */

static void test_live_and_back(void **state)
{
	(void)state;
	struct rig k;
	rig_init(&k, 3600);
	struct ex_shard_view before = look(&k, 0);
	compute(&k, 0, 1);
	swap(&k, "*", k.good, 0);
	assert_int_equal(k.n, 2);
	for (size_t i = 0; i < 2; i++) {
		if (k.r[i].failed)
			fail_msg("%s at %s: %s", k.r[i].shard, ex_swap_step_name(k.r[i].step), k.r[i].text);
		assert_int_equal(k.r[i].step, EX_STEP_DONE);
		assert_int_equal(k.r[i].generation, 2);
		assert_int_equal(k.r[i].before, 1);
		assert_true(k.r[i].exact);
	}
	assert_int_equal(k.n_done, 2);
	/* one shard had computed something, the other one was tried on what was made up */
	assert_int_equal(k.r[0].n_batches, 1);
	assert_false(k.r[0].synthetic);
	assert_int_equal(k.r[1].n_batches, 8);
	assert_true(k.r[1].synthetic);
	struct ex_shard_view v = look(&k, 0);
	assert_int_equal(v.generation, 2);
	assert_int_equal(v.lingering, 1);
	assert_string_equal(v.identity, before.identity); /* bit-exact: it stays what it was */
	assert_string_not_equal(v.sha256, before.sha256);
	assert_true(has_copy(&k, v.sha256));
	assert_string_equal(ex_published_find(k.published, &SETUP_SHARDS[0])->sha256, v.sha256);
	assert_false(ex_published_find(k.published, &SETUP_SHARDS[0])->added);
	compute(&k, 0, 2);

	submit(&k, (struct ex_swap_request){.action = EX_SWAP_ROLLBACK}, "*/E0-1");
	assert_int_equal(k.n_done, 1);
	assert_int_equal(k.r[0].generation, 1);
	v = look(&k, 0);
	assert_int_equal(v.generation, 1);
	assert_int_equal(v.lingering, 2);
	assert_string_equal(ex_published_find(k.published, &SETUP_SHARDS[0])->sha256, "");
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_ROLLBACK}, "*/E0-1"); /* and forth */
	assert_int_equal(look(&k, 0).generation, 2);
	swap(&k, "*/E0-1", k.good, 0); /* the same again */
	assert_int_equal(look(&k, 0).generation, 3);
	assert_int_equal(look(&k, 0).lingering, 2);
	rig_done(&k);
}

/* Without a linger what was replaced goes at once, and there is no way back. */
static void test_no_linger(void **state)
{
	(void)state;
	struct rig k;
	rig_init(&k, 0);
	swap(&k, "*/E0-1", k.good, 0);
	assert_int_equal(k.n_done, 1);
	char sha256[65];
	strcpy(sha256, look(&k, 0).sha256);
	assert_int_equal(look(&k, 0).lingering, 0);
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_ROLLBACK}, "*");
	assert_int_equal(k.n_failed, 2);
	assert_non_null(strstr(k.r[0].text, "no generation before it"));
	assert_int_equal(look(&k, 0).generation, 2);
	swap(&k, "*/E0-1", PLUGINS "example.so", 0); /* nobody needs the copy any more */
	assert_int_equal(k.n_done, 1);
	assert_false(has_copy(&k, sha256));
	rig_done(&k);
}

static void expect_refused(struct rig *k, const char *plugin, enum ex_swap_step step, const char *text)
{
	struct ex_shard_view before = look(k, 0);
	uint64_t revision = ex_registry_revision(k->s.registry);
	swap(k, "L1/E0-1", plugin, 0);
	if (k->n != 1 || k->n_failed != 1 || k->r[0].step != step || !strstr(k->r[0].text, text))
		fail_msg("%s: %zu reports, %s: %s", plugin, k->n, ex_swap_step_name(k->r[0].step), k->r[0].text);
	struct ex_shard_view v = look(k, 0);
	assert_int_equal(v.generation, before.generation);
	assert_int_equal(v.state, EX_SHARD_READY);
	assert_string_equal(v.identity, before.identity);
	assert_int_equal(ex_registry_revision(k->s.registry), revision);
	assert_null(ex_published_find(k->published, &SETUP_SHARDS[0]));
	compute(k, 0, 3);
}

static void test_bad_plugins(void **state)
{
	(void)state;
	struct rig k;
	char path[PATH_MAX];
	rig_init(&k, 3600);
	compute(&k, 0, 1);
	/* before anything of it runs */
	expect_refused(&k, "/nonexistent.so", EX_STEP_COPY, "No such file");
	copy_plugin(PLUGINS "fake.so", k.s.dir, "stranger.so", path);
	expect_refused(&k, path, EX_STEP_ALLOW, "is neither in");
	expect_refused(&k, PLUGINS "bad_major.so", EX_STEP_ABI, "major version");
	write_text(k.s.dir, "new2.so", "no plugin");
	allow(&k, path_in(k.s.dir, "new2.so", path));
	expect_refused(&k, path, EX_STEP_ABI, "new2.so");
	/* in the child: by the suite, by the shard that it is for */
	expect_refused(&k, PLUGINS "wrong_load_crash.so", EX_STEP_TRIAL, "SIGSEGV");
#ifndef EX_SANITIZED
	expect_refused(&k, PLUGINS "wrong_leak.so", EX_STEP_TRIAL, "memory grew");
#endif
	expect_refused(&k, PLUGINS "wrong_crash_at_40.so", EX_STEP_TRIAL, "crashed in load(): SIGBUS");
	expect_refused(&k, PLUGINS "wrong_after_at_40.so", EX_STEP_TRIAL, "wrote beside y");
	expect_refused(&k, PLUGINS "wrong_inexact_at_40.so", EX_STEP_TRIAL, "differs in bits");
	expect_refused(&k, PLUGINS "fake.so", EX_STEP_TRIAL, "the check");
	expect_refused(&k, PLUGINS "unfit.so", EX_STEP_TRIAL, "cannot run on this machine");
	rig_done(&k);
}

/* Another plugin's bits are others: refused, or live by a tolerance, with an identity of its own. */
static void test_tolerance(void **state)
{
	(void)state;
	struct rig k;
	rig_init(&k, 3600);
	struct ex_shard_view before = look(&k, 0);
	expect_refused(&k, PLUGINS "wrong_inexact_at_40.so", EX_STEP_TRIAL, "differs in bits");
	swap(&k, "*/E0-1", PLUGINS "wrong_inexact_at_40.so", 1e-6f);
	assert_int_equal(k.n_failed, 1);
	assert_non_null(strstr(k.r[0].text, "at most 1e-06 is allowed"));
	swap(&k, "*/E0-1", PLUGINS "wrong_inexact_at_40.so", 1);
	if (k.n_failed)
		fail_msg("%s: %s", ex_swap_step_name(k.r[0].step), k.r[0].text);
	assert_false(k.r[0].exact);
	assert_true(k.r[0].worst > 1e-6f);
	assert_string_not_equal(look(&k, 0).identity, before.identity);
	/* unverified: no claim to an identity either */
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_SWAP, .plugin = k.good, .n_verify = 0}, "*/E2-3");
	assert_int_equal(k.n_done, 1);
	assert_int_equal(k.r[0].n_batches, 0);
	assert_string_not_equal(look(&k, 2).identity, before.identity);
	rig_done(&k);
}

/* The state directory cannot be written to: refused, and nothing changed. */
static void test_unwritable(void **state)
{
	(void)state;
	struct rig k;
	char path[PATH_MAX], plugins[PATH_MAX];
	rig_init(&k, 3600);
	assert_int_equal(mkdir(path_in(k.state, ".published", path), 0700), 0);
	expect_refused(&k, k.good, EX_STEP_PUBLISH, "cannot write");
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_UNLOAD, .force = true}, "*/E0-1");
	assert_int_equal(k.n_failed, 1);
	assert_int_equal(look(&k, 0).generation, 1);
	assert_int_equal(rmdir(path), 0);
	/* no place for the copy */
	path_in(k.state, "plugins", plugins);
	path_in(k.state, "away", path);
	assert_int_equal(rename(plugins, path), 0);
	expect_refused(&k, k.good, EX_STEP_COPY, "cannot copy");
	assert_int_equal(rename(path, plugins), 0);
	swap(&k, "*/E0-1", k.good, 0);
	assert_int_equal(k.n_done, 1);
	rig_done(&k);
}

static void test_unload_and_load(void **state)
{
	(void)state;
	struct rig k;
	rig_init(&k, 3600);
	compute(&k, 2, 1);
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_UNLOAD}, "*/E2-3");
	assert_int_equal(k.n_failed, 1);
	assert_non_null(strstr(k.r[0].text, "--force"));
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_UNLOAD, .force = true}, "*/E2-3");
	assert_int_equal(k.n_done, 1);
	assert_null(ex_registry_pin(k.s.registry, 1, 2));
	assert_true(ex_published_find(k.published, &SETUP_SHARDS[1])->gone);
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_UNLOAD}, "*/E2-3");
	assert_int_equal(k.n_failed, 1); /* not here any more */
	assert_non_null(strstr(k.r[0].text, "no shard of '*/E2-3' is here"));
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_LOAD}, "*");
	assert_int_equal(k.n_done, 1);
	assert_int_equal(k.n, 1);
	assert_int_equal(look(&k, 2).generation, 2);
	assert_true(ex_published_find(k.published, &SETUP_SHARDS[1])
			    ->added); /* the rig's configuration asks for the first only */
	compute(&k, 2, 1);
	submit(&k, (struct ex_swap_request){.action = EX_SWAP_LOAD}, "*");
	assert_int_equal(k.n_failed, 1);
	rig_done(&k);
}

/* A device that fails right after a swap: the generation before serves again, also after a restart. */
static void test_back_by_itself(void **state)
{
	(void)state;
	struct rig k;
	rig_init(&k, 3600);
	swap(&k, "*/E0-1", k.good, 0);
	struct ex_generation *g = ex_registry_pin(k.s.registry, 1, 0);
	assert_int_equal(ex_generation_number(g), 2);
	ex_generation_fail(g);
	ex_generation_unpin(g);
	struct ex_shard_view v = look(&k, 0);
	assert_int_equal(v.generation, 1);
	assert_int_equal(v.state, EX_SHARD_READY);
	assert_non_null(strstr(v.error, "serves again"));
	compute(&k, 0, 1);
	ex_lock_take(&k.lock);
	while (!k.went_back)
		ex_cond_wait(&k.changed, &k.lock);
	ex_lock_give(&k.lock);
	k.swapper = ex_swapper_free(k.swapper);
	assert_string_equal(ex_published_find(k.published, &SETUP_SHARDS[0])->sha256, "");
	rig_done(&k);
}

/* What was published could not be loaded at the start, and another plugin computes: the set is kept for the next start. */
static void test_not_followed(void **state)
{
	(void)state;
	struct rig k;
	struct ex_err err = EX_ERR_INIT;
	rig_init(&k, 3600);
	struct ex_published_entry e = {.id = SETUP_SHARDS[0], .plugin = "other 1.0"};
	memset(e.sha256, 'a', 64);
	k.swapper = ex_swapper_free(k.swapper);
	EXPECT_OK(err, ex_published_set(k.published, &e, &err));
	ex_published_free(k.published);
	open_swapper(&k, 3600);
	usleep(600000); /* some turns of an idle loader */
	k.swapper = ex_swapper_free(k.swapper);
	assert_string_equal(ex_published_find(k.published, &SETUP_SHARDS[0])->sha256, e.sha256);
	assert_false(k.went_back);
	rig_done(&k);
}

static void set_deadline(struct rig *k, unsigned deadline_s)
{
	ex_swapper_free(k->swapper);
	ex_published_free(k->published);
	k->deadline_s = deadline_s;
	open_swapper(k, 3600);
}

static void test_hang(void **state)
{
	(void)state;
	struct rig k;
	rig_init(&k, 3600);
	set_deadline(&k, 3);
	expect_refused(&k, PLUGINS "wrong_load_hang.so", EX_STEP_TRIAL, "the plugin hung in the check '");
	rig_done(&k);
}

/* A stop does not wait for a plugin that hangs under trial. */
static void test_stop(void **state)
{
	(void)state;
	struct rig k;
	struct ex_err err = EX_ERR_INIT;
	const struct ex_swap_client c = {.report = on_report, .done = on_done, .ctx = &k};
	struct ex_swap_request q = {
		.action = EX_SWAP_SWAP, .plugin = PLUGINS "wrong_load_hang.so", .n_verify = 8, .glob = "*"};
	rig_init(&k, 3600);
	set_deadline(&k, 3600); /* the test would not end within it */
	EXPECT_OK(err, ex_swapper_submit(k.swapper, &q, &c, &err));
	usleep(500000); /* it hangs by now, or it will not come to it */
	k.swapper = ex_swapper_free(k.swapper);
	assert_true(k.done);
	assert_int_equal(k.n_done, 0);
	assert_int_equal(look(&k, 0).generation, 1);
	rig_done(&k);
}

static void test_glob_and_turns(void **state)
{
	(void)state;
	struct rig k;
	struct ex_err err = EX_ERR_INIT;
	const struct ex_swap_client c = {.report = on_report, .done = on_done, .ctx = &k};
	rig_init(&k, 3600);
	struct ex_swap_request q = {.action = EX_SWAP_ROLLBACK, .glob = "no/glob/this"};
	assert_int_equal(ex_swapper_submit(k.swapper, &q, &c, &err), -EINVAL);
	uint64_t turns = ex_swapper_turns(k.swapper);
	for (int i = 0; i < 2000 && ex_swapper_turns(k.swapper) == turns; i++)
		usleep(1000);
	assert_true(ex_swapper_turns(k.swapper) > turns);
	rig_done(&k);
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], EX_TRIAL_OPTION) == 0)
		return ex_trial_main();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_live_and_back),
		cmocka_unit_test(test_no_linger),
		cmocka_unit_test(test_bad_plugins),
		cmocka_unit_test(test_tolerance),
		cmocka_unit_test(test_unwritable),
		cmocka_unit_test(test_unload_and_load),
		cmocka_unit_test(test_back_by_itself),
		cmocka_unit_test(test_not_followed),
		cmocka_unit_test(test_hang),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_glob_and_turns),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
