/* SPDX-License-Identifier: Apache-2.0 */
/* expert/epochs: a second model beside the live one is found by its epoch alone; what does not fit leaves nothing; a commit takes over all of it,
 * on the disk too, and not while routers use the model before. */
#include "expert_setup.h"

#include "base/lock.h"
#include "expert/epochs.h"
#include <pthread.h>

struct rig {
	struct setup s; /* its w is the live model */
	struct ex_plugin *plugin;
	struct ex_executor *e;
	struct ex_published *published;
	struct ex_swapper *swapper;
	struct ex_epochs *epochs;
	char state[32], next[PATH_MAX], next_digest[EX_DIGEST_HEX], live_digest[EX_DIGEST_HEX];
	unsigned n_kept, n_turned, n_told[EX_EPOCHS_DROPPED + 1]; /* [loader], read after a call */
	int keep_rc;
	_Atomic uint64_t used; /* an epoch that a router uses */
	_Atomic bool claimed;  /* a router moves shards here */
	/* a call on the loader's thread */
	struct ex_lock lock;
	pthread_cond_t ended;
	bool is_over; /* guarded by lock */
	int (*fn)(struct rig *k, const char *dir, const char *digest, struct ex_err *err);
	const char *dir, *digest;
	struct ex_err err;
	int rc;
};

static unsigned on_users(void *ctx, uint64_t epoch)
{
	const struct rig *k = ctx;
	return epoch == k->used ? 2 : 0;
}

static bool on_claimed(void *ctx, char router[static EX_MOVES_ROUTER_MAX])
{
	const struct rig *k = ctx;
	snprintf(router, EX_MOVES_ROUTER_MAX, "r7");
	return k->claimed;
}

static int on_keep(void *ctx, const char *dir, const char *digest, uint64_t decided_us, struct ex_err *err)
{
	struct rig *k = ctx;
	assert_string_equal(dir, k->next);
	assert_string_equal(digest, k->next_digest);
	assert_int_equal(decided_us, 5);
	k->n_kept++;
	return k->keep_rc ? ex_err_errno(err, k->keep_rc, "cannot write") : 0;
}

static void on_turned(void *ctx, struct ex_weights *w, const char *dir)
{
	struct rig *k = ctx;
	assert_string_equal(ex_weights_digest(w), k->next_digest);
	assert_string_equal(dir, k->next);
	k->n_turned++;
}

static void on_told(void *ctx, enum ex_epochs_event e, const char *dir, const char *digest)
{
	struct rig *k = ctx;
	assert_true(*dir && *digest);
	k->n_told[e]++;
}

/* --- the rig --------------------------------------------------------------------------------------------- */

static void make_model(const char *dir, const char *name, const char *config, uint64_t seed, char path[static PATH_MAX])
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_synth_opts o = {.seed = seed, .dtype = EXPERTD_F32};
	char in[PATH_MAX];
	write_text(dir, "in.json", config);
	EXPECT_OK(err, ex_model_synth(path_in(dir, "in.json", in), path_in(dir, name, path), &o, &err));
}

static void open_published(struct rig *k, const char *digest)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_published_for f = {
		.model_digest = digest, .base_sha256 = ex_plugin_sha256(k->plugin), .n_groups = 2};
	EXPECT_OK(err, ex_published_open(k->state, &f, &err, &k->published));
}

static void open_rig(struct rig *k)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_weights *w;
	memset(k, 0, sizeof *k);
	setup_init(&k->s);
	ex_registry_free(k->s.registry);
	strcpy(k->live_digest, ex_weights_digest(k->s.w));
	const struct ex_registry_opts ro = {
		.n_experts = 4, .n_groups = 2, .n_layers = 2, .epoch = ex_epoch_of(k->live_digest)};
	assert_int_equal(ex_registry_new(&ro, &k->s.registry), 0);
	make_model(k->s.dir, "next", small_config, 2, k->next);
	EXPECT_OK(err, ex_weights_open(k->next, &err, &w));
	strcpy(k->next_digest, ex_weights_digest(w));
	ex_weights_close(w);
	k->plugin = setup_plugin("ref");
	setup_load(&k->s, k->plugin);
	strcpy(k->state, SCRATCH_DIR);
	make_dir(k->state);
	open_published(k, k->live_digest);
	const struct ex_executor_opts eo = {.registry = k->s.registry,
		.d_model = SETUP_D_MODEL,
		.n_workers = 1,
		.batch_rows_max = 64,
		.queue_rows_max = 64};
	EXPECT_OK(err, ex_executor_new(&eo, &err, &k->e));
	const struct ex_swapper_opts so = {.registry = k->s.registry,
		.executor = k->e,
		.weights = k->s.w,
		.published = k->published,
		.plugin = k->plugin,
		.host = &k->s.host,
		.which = "0",
		.plugin_dir = ".libs",
		.model = k->s.model,
		.shards = SETUP_SHARDS,
		.n_shards = 2,
		.configured = SETUP_SHARDS,
		.n_configured = 2,
		.deadline_s = 60};
	EXPECT_OK(err, ex_swapper_new(&so, &err, &k->swapper));
	const struct ex_epochs_opts o = {.registry = k->s.registry,
		.published = k->published,
		.swapper = k->swapper,
		.weights = k->s.w,
		.dir = k->s.model,
		.decided_us = 3,
		.plugin = k->plugin,
		.host = &k->s.host,
		.which = "0",
		.n_groups = 2,
		.users = on_users,
		.claimed = on_claimed,
		.keep = on_keep,
		.turned = on_turned,
		.told = on_told,
		.ctx = k};
	EXPECT_OK(err, ex_epochs_new(&o, &err, &k->epochs));
	ex_lock_init(&k->lock, "rig");
	ex_cond_init(&k->ended);
}

static void close_rig(struct rig *k)
{
	char path[PATH_MAX];
	ex_swapper_free(k->swapper);
	ex_executor_free(k->e);
	ex_epochs_free(k->epochs);
	ex_published_free(k->published);
	ex_registry_free(k->s.registry);
	k->s.registry = NULL;
	ex_plugin_unref(k->plugin);
	remove_dir(path_in(k->state, "plugins", path));
	remove_dir(k->state);
	remove_dir(k->next);
	setup_done(&k->s);
	ex_lock_done(&k->lock);
	pthread_cond_destroy(&k->ended);
}

static void run_call(void *ctx, bool is_over)
{
	struct rig *k = ctx;
	assert_false(is_over);
	k->err = EX_ERR_INIT;
	k->rc = k->fn(k, k->dir, k->digest, &k->err);
	ex_lock_take(&k->lock);
	k->is_over = true;
	pthread_cond_signal(&k->ended);
	ex_lock_give(&k->lock);
}

/* fn on the loader's thread. */
static int call(struct rig *k, int (*fn)(struct rig *k, const char *dir, const char *digest, struct ex_err *err),
	const char *dir, const char *digest)
{
	struct ex_err err = EX_ERR_INIT;
	k->fn = fn;
	k->dir = dir;
	k->digest = digest;
	k->is_over = false;
	EXPECT_OK(err, ex_swapper_call(k->swapper, run_call, k, &err));
	ex_lock_take(&k->lock);
	while (!k->is_over)
		ex_cond_wait(&k->ended, &k->lock);
	ex_lock_give(&k->lock);
	return k->rc;
}

static int prepare(struct rig *k, const char *dir, const char *digest, struct ex_err *err)
{
	const struct ex_epochs_ask ask = {.dir = dir, .digest = digest, .n_groups = 2};
	return ex_epochs_prepare(k->epochs, &ask, err);
}

static int prepare_late(struct rig *k, const char *dir, const char *digest, struct ex_err *err)
{
	const struct ex_epochs_ask ask = {.dir = dir, .digest = digest, .n_groups = 2, .decided_us = 2};
	return ex_epochs_prepare(k->epochs, &ask, err);
}

static int prepare_groups(struct rig *k, const char *dir, const char *digest, struct ex_err *err)
{
	const struct ex_epochs_ask ask = {.dir = dir, .digest = digest, .n_groups = 4};
	return ex_epochs_prepare(k->epochs, &ask, err);
}

static int commit(struct rig *k, const char *dir, const char *digest, struct ex_err *err)
{
	(void)dir;
	return ex_epochs_commit(k->epochs, digest, 5, err);
}

static int drop(struct rig *k, const char *dir, const char *digest, struct ex_err *err)
{
	(void)dir;
	return ex_epochs_drop(k->epochs, digest, err);
}

/* Generations of the shards under this epoch. */
static unsigned n_found(struct rig *k, const char *digest)
{
	unsigned n = 0;
	for (size_t i = 0; i < EX_ARRAY_LEN(SETUP_SHARDS); i++) {
		struct ex_generation *g = ex_registry_pin_epoch(
			k->s.registry, ex_epoch_of(digest), SETUP_SHARDS[i].layer, SETUP_SHARDS[i].first_expert);
		n += g != NULL;
		ex_generation_unpin(g);
	}
	return n;
}

static void identity_of(struct rig *k, const char *digest, char out[static EX_IDENTITY_HEX])
{
	struct ex_generation *g = ex_registry_pin_epoch(k->s.registry, ex_epoch_of(digest), 1, 0);
	assert_non_null(g);
	strcpy(out, ex_generation_identity_text(g));
	ex_generation_unpin(g);
}

static void expect_refused(struct rig *k, int rc, int want, const char *text)
{
	assert_int_equal(rc, want);
	if (!strstr(ex_err_text(&k->err), text))
		fail_msg("'%s' does not say '%s'", ex_err_text(&k->err), text);
}

/* --- tests ----------------------------------------------------------------------------------------------- */

static void test_switch(void **state)
{
	static struct rig k;
	char before[EX_IDENTITY_HEX], after[EX_IDENTITY_HEX];
	struct ex_epochs_view v;
	(void)state;
	open_rig(&k);
	assert_int_equal(n_found(&k, k.live_digest), 2);
	assert_int_equal(n_found(&k, k.next_digest), 0);
	expect_refused(&k, call(&k, commit, NULL, k.next_digest), -ENOENT, "not prepared");
	uint64_t revision = ex_registry_revision(k.s.registry);
	assert_int_equal(call(&k, prepare, k.next, k.next_digest), 0);
	assert_int_equal(call(&k, prepare, k.next, k.next_digest), 0); /* again: it is there */
	assert_int_equal(k.n_told[EX_EPOCHS_PREPARED], 1);
	assert_true(ex_registry_revision(k.s.registry) > revision);
	assert_int_equal(n_found(&k, k.live_digest), 2);
	assert_int_equal(n_found(&k, k.next_digest), 2);
	identity_of(&k, k.live_digest, before);
	identity_of(&k, k.next_digest, after);
	assert_string_not_equal(before, after);
	ex_epochs_view(k.epochs, &v);
	assert_string_equal(v.live, k.live_digest);
	assert_string_equal(v.next, k.next_digest);
	k.used = ex_epoch_of(k.live_digest);
	expect_refused(&k, call(&k, commit, NULL, k.next_digest), -EBUSY, "2 streams");
	assert_int_equal(k.n_kept, 0);
	k.used = 0;
	k.keep_rc = -ENOSPC;
	expect_refused(&k, call(&k, commit, NULL, k.next_digest), -ENOSPC, "cannot write");
	assert_int_equal(n_found(&k, k.live_digest), 2);
	k.keep_rc = 0;
	assert_int_equal(call(&k, commit, NULL, k.next_digest), 0);
	assert_int_equal(k.n_turned, 1);
	assert_int_equal(n_found(&k, k.live_digest), 0);
	assert_int_equal(n_found(&k, k.next_digest), 2);
	assert_int_equal(ex_registry_epoch(k.s.registry), ex_epoch_of(k.next_digest));
	assert_false(ex_registry_has_epoch(k.s.registry, ex_epoch_of(k.live_digest)));
	assert_int_equal(call(&k, commit, NULL, k.next_digest), 0); /* again: it is done */
	/* and back, for a switch is one like any other */
	assert_int_equal(call(&k, prepare, k.s.model, k.live_digest), 0);
	assert_int_equal(n_found(&k, k.live_digest), 2);
	assert_int_equal(call(&k, commit, NULL, k.next_digest), 0); /* no, stay: what was prepared is dropped */
	assert_int_equal(n_found(&k, k.live_digest), 0);
	close_rig(&k);
}

/* What does not fit leaves nothing behind. */
static void test_refused(void **state)
{
	static struct rig k;
	char wide[PATH_MAX], config[4096], none[EX_DIGEST_HEX];
	(void)state;
	open_rig(&k);
	expect_refused(&k, call(&k, prepare, "/nonexistent", k.next_digest), -ENOENT, "/nonexistent");
	memset(none, '0', sizeof none - 1);
	none[sizeof none - 1] = '\0';
	expect_refused(&k, call(&k, prepare, k.next, none), -EINVAL, k.next_digest);
	expect_refused(&k, call(&k, prepare_groups, k.next, k.next_digest), -EINVAL, "expert_groups is 4");
	k.claimed = true;
	expect_refused(&k, call(&k, prepare, k.next, k.next_digest), -EBUSY, "router r7 moves shards");
	k.claimed = false;
	expect_refused(&k, call(&k, prepare_late, k.next, k.next_digest), -ESTALE, "later");
	/* another shape */
	const char *key = strstr(small_config, "\"vocab_size\": ");
	assert_non_null(key);
	size_t n = (size_t)(key - small_config) + strlen("\"vocab_size\": ");
	snprintf(config, sizeof config, "%.*s300%s", (int)n, small_config,
		small_config + n + strspn(small_config + n, "0123456789"));
	make_model(k.s.dir, "wide", config, 2, wide);
	struct ex_err err = EX_ERR_INIT;
	struct ex_weights *w;
	char digest[EX_DIGEST_HEX];
	EXPECT_OK(err, ex_weights_open(wide, &err, &w));
	strcpy(digest, ex_weights_digest(w));
	ex_weights_close(w);
	expect_refused(&k, call(&k, prepare, wide, digest), -EINVAL, "vocab_size is 300");
	remove_dir(wide);
	assert_int_equal(n_found(&k, k.live_digest), 2);
	assert_int_equal(n_found(&k, k.next_digest), 0);
	assert_false(ex_registry_has_epoch(k.s.registry, ex_epoch_of(k.next_digest)));
	for (size_t i = 0; i < EX_ARRAY_LEN(k.n_told); i++)
		assert_int_equal(k.n_told[i], 0);
	close_rig(&k);
}

static void test_drop(void **state)
{
	static struct rig k;
	(void)state;
	open_rig(&k);
	assert_int_equal(call(&k, drop, NULL, k.next_digest), 0); /* it is not there */
	assert_int_equal(call(&k, prepare, k.next, k.next_digest), 0);
	k.used = ex_epoch_of(k.next_digest);
	expect_refused(&k, call(&k, drop, NULL, k.next_digest), -EBUSY, "under way");
	assert_int_equal(n_found(&k, k.next_digest), 2);
	k.used = 0;
	assert_int_equal(call(&k, drop, NULL, k.next_digest), 0);
	assert_int_equal(n_found(&k, k.next_digest), 0);
	assert_int_equal(n_found(&k, k.live_digest), 2);
	assert_int_equal(k.n_told[EX_EPOCHS_DROPPED], 1);
	close_rig(&k);
}

/* What operators made of shards goes along; so it does over a crash between the decision and the commit. */
static void test_published(void **state)
{
	static struct rig k;
	struct ex_err err = EX_ERR_INIT;
	char identity[EX_IDENTITY_HEX];
	(void)state;
	for (int crash = 0; crash < 2; crash++) {
		open_rig(&k);
		struct ex_published_entry e = {.id = SETUP_SHARDS[0], .plugin = "ref 1"};
		identity_of(&k, k.live_digest, e.identity);
		EXPECT_OK(err, ex_published_set(k.published, &e, &err));
		assert_int_equal(call(&k, prepare, k.next, k.next_digest), 0);
		identity_of(&k, k.next_digest, identity);
		k.keep_rc = crash ? -EIO : 0; /* whoever keeps it was quicker than the error */
		assert_int_equal(call(&k, commit, NULL, k.next_digest), crash ? -EIO : 0);
		ex_swapper_free(k.swapper);
		k.swapper = NULL;
		ex_published_free(k.published);
		open_published(&k, k.next_digest);
		const struct ex_published_entry *found = ex_published_find(k.published, &SETUP_SHARDS[0]);
		assert_non_null(found);
		assert_string_equal(found->identity, identity);
		close_rig(&k);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_switch),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_drop),
		cmocka_unit_test(test_published),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
