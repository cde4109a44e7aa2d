/* SPDX-License-Identifier: Apache-2.0 */
/* expert/registry: shards come in, are found, replaced and taken out of service; what cannot be loaded says why and
 * harms nothing. */
#include "expert_setup.h"

#include "base/str.h"
#include "config.h"
#include <pthread.h>
#include <sys/resource.h>

struct views {
	struct ex_shard_view v[8];
	size_t n;
};

static void keep(void *ctx, const struct ex_shard_view *v)
{
	struct views *all = ctx;
	assert_true(all->n < EX_ARRAY_LEN(all->v));
	all->v[all->n++] = *v;
}

static struct views look(struct ex_registry *r)
{
	struct views all = {.n = 0};
	ex_registry_each(r, keep, &all);
	return all;
}

/* One token through the first expert of the shard. */
static int run_one(struct ex_generation *g, float *y)
{
	static const float x[SETUP_D_MODEL] __attribute__((aligned(64))) = {1, -1, 0.5f};
	static const uint32_t offset[] = {0, 1, 1}, token[] = {0};
	static const float weight[] = {1};
	const struct expertd_batch b = {
		.x = x,
		.y = y,
		.offset = offset,
		.token = token,
		.weight = weight,
		.n_tokens = 1,
		.n_experts = 2,
		.n_assignments = 1,
		.x_dtype = EXPERTD_F32,
	};
	return ex_generation_run(g, &b);
}

static void test_load_and_find(void **state)
{
	(void)state;
	struct setup s;
	float y[SETUP_D_MODEL];
	setup_init(&s);
	struct ex_plugin *p = setup_plugin("cpu");
	assert_int_equal(look(s.registry).n, 0);
	assert_null(ex_registry_pin(s.registry, 1, 0));
	setup_load(&s, p);
	struct views all = look(s.registry);
	assert_int_equal(all.n, 2);
	for (size_t i = 0; i < 2; i++) {
		assert_memory_equal(&all.v[i].id, &SETUP_SHARDS[i], sizeof SETUP_SHARDS[i]);
		assert_int_equal(all.v[i].state, EX_SHARD_READY);
		assert_int_equal(all.v[i].generation, 1);
		assert_int_equal(all.v[i].bytes, 2 * 3 * 136 * 40 * 4);
		assert_non_null(strstr(all.v[i].plugin, "cpu "));
		assert_int_equal(strlen(all.v[i].identity), 64);
		assert_string_equal(all.v[i].error, "");
	}
	assert_string_not_equal(all.v[0].identity, all.v[1].identity);
	assert_memory_equal(all.v[0].identity, all.v[1].identity, EX_IDENTITY_KIND_DIGITS); /* one plugin */
	struct ex_generation *g = ex_registry_pin(s.registry, 1, 2);
	assert_non_null(g);
	assert_memory_equal(ex_generation_id(g), &SETUP_SHARDS[1], sizeof SETUP_SHARDS[1]);
	assert_int_equal(run_one(g, y), 0);
	ex_generation_unpin(g);
	assert_int_equal(look(s.registry).v[1].rows, 1);
	/* not here: another layer, the middle of a range, beyond the model */
	assert_null(ex_registry_pin(s.registry, 0, 0));
	assert_null(ex_registry_pin(s.registry, 1, 1));
	assert_null(ex_registry_pin(s.registry, 2, 0));
	assert_null(ex_registry_pin(s.registry, 1, 4));
	ex_plugin_unref(p); /* the registry holds it */
	g = ex_registry_pin(s.registry, 1, 0);
	assert_int_equal(run_one(g, y), 0);
	ex_generation_unpin(g);
	setup_done(&s);
}

static void load_first(
	struct setup *s, struct ex_registry *r, const char *plugin, const char *isa, struct ex_shard_view *ret)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = setup_plugin(plugin);
	s->isa = isa;
	EXPECT_OK(err, ex_registry_load(r, &SETUP_SHARDS[0], p, &s->host, "0", s->w, &err));
	ex_plugin_unref(p);
	*ret = look(r).v[0];
}

/* Equal where the bits are equal; different for another instruction set, another plugin, other weights. */
static void test_identity(void **state)
{
	(void)state;
	struct setup s;
	setup_init(&s);
	static const char *const with[][2] = {{"cpu", "generic"}, {"cpu", "generic"}, {"ref", NULL}, {"cpu", "avx2"}};
	struct ex_shard_view v[EX_ARRAY_LEN(with)];
	size_t n = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 4 : 3;
	for (size_t i = 0; i < n; i++) {
		struct ex_registry *r = setup_registry(false);
		load_first(&s, r, with[i][0], with[i][1], &v[i]);
		ex_registry_free(r);
	}
	assert_string_equal(v[0].identity, v[1].identity);
	assert_string_not_equal(v[0].identity, v[2].identity);
	assert_memory_not_equal(v[0].identity, v[2].identity, EX_IDENTITY_KIND_DIGITS);
	if (n > 3)
		assert_string_not_equal(v[0].identity, v[3].identity);
	setup_done(&s);
}

static void expect_failure(struct setup *s, const char *plugin, int code, const char *text, enum ex_shard_state state)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = setup_plugin(plugin);
	int rc = ex_registry_load(s->registry, &SETUP_SHARDS[0], p, &s->host, "0", s->w, &err);
	if (rc != code || !strstr(ex_err_text(&err), text) || !strstr(ex_err_text(&err), "L1/E0-1"))
		fail_msg("%s: %d: %s", plugin, rc, ex_err_text(&err));
	struct ex_shard_view v = look(s->registry).v[0];
	assert_int_equal(v.state, state);
	assert_non_null(strstr(v.error, text));
	ex_plugin_unref(p);
}

static void test_failures(void **state)
{
	(void)state;
	struct setup s;
	float y[SETUP_D_MODEL];
	setup_init(&s);
	expect_failure(&s, "unfit", -ENODEV, "the variant says so", EX_SHARD_FAILED);
	expect_failure(&s, "variant", -ENODEV, "cannot open device 0", EX_SHARD_FAILED);
	s.load_error = "12"; /* ENOMEM */
	expect_failure(&s, "fake", -ENOMEM, "it needs 128 KiB, ", EX_SHARD_FAILED);
	s.load_error = "-7"; /* neither 0 nor -errno, and no shard */
	expect_failure(&s, "fake", -EPROTO, "plugin 'fake' cannot load it", EX_SHARD_FAILED);
	assert_null(ex_registry_pin(s.registry, 1, 0));
	/* with a generation that serves, a failure leaves it alone */
	s.load_error = NULL;
	struct ex_plugin *p = setup_plugin("fake");
	setup_load(&s, p);
	s.load_error = "95"; /* ENOTSUP */
	expect_failure(&s, "fake", -EOPNOTSUPP, "plugin 'fake' cannot load it", EX_SHARD_READY);
	struct ex_generation *g = ex_registry_pin(s.registry, 1, 0);
	assert_int_equal(ex_generation_number(g), 1);
	assert_int_equal(run_one(g, y), 0);
	ex_generation_unpin(g);
	/* not a shard of this fleet */
	struct ex_err err = EX_ERR_INIT;
	static const struct ex_shard_id bad[] = {{1, 0, 4}, {1, 1, 2}, {2, 0, 2}, {1, 4, 2}};
	for (size_t i = 0; i < EX_ARRAY_LEN(bad); i++) {
		assert_int_equal(ex_registry_load(s.registry, &bad[i], p, &s.host, "0", s.w, &err), -EINVAL);
		assert_non_null(strstr(ex_err_text(&err), "not one of this fleet's shards"));
	}
	ex_plugin_unref(p);
	setup_done(&s);
}

/* Puts a NaN where row 7 of an expert's up_proj begins, in the file itself. */
static void spoil(struct setup *s)
{
	struct ex_err err = EX_ERR_INIT;
	struct expertd_ffn f;
	EX_CLEANUP(ex_freep) char *data = NULL;
	const uint32_t nan = 0x7fc00000;
	char path[PATH_MAX];
	size_t n;
	EXPECT_OK(err, ex_weights_expert(s->w, 1, 1, &err, &f));
	EXPECT_OK(err, ex_read_file(path_in(s->model, "model.safetensors", path), 1 << 28, &err, &data, &n));
	char *at = memmem(data, n, (const float *)f.up.data + 7 * 136, 64);
	assert_non_null(at);
	memcpy(at, &nan, sizeof nan);
	write_bytes(s->model, "model.safetensors", data, n);
	setup_reopen(s);
}

static void test_nan_is_named(void **state)
{
	(void)state;
	struct setup s;
	setup_init(&s);
	spoil(&s);
	expect_failure(&s, "ref", -EINVAL, "model.layers.1.mlp.experts.1.up_proj.weight", EX_SHARD_FAILED);
	setup_done(&s);
}

static void *reload(void *arg)
{
	struct setup *s = arg;
	struct ex_plugin *p = setup_plugin("fake");
	setup_load(s, p);
	ex_plugin_unref(p);
	return NULL;
}

/* A pinned generation outlives its replacement for as long as it is pinned. */
static void test_replace_under_pin(void **state)
{
	(void)state;
	struct setup s;
	float y[SETUP_D_MODEL];
	pthread_t t;
	setup_init(&s);
	reload(&s);
	struct ex_generation *old = ex_registry_pin(s.registry, 1, 0);
	assert_int_equal(pthread_create(&t, NULL, reload, &s), 0);
	while (look(s.registry).v[0].generation != 2)
		usleep(1000);
	assert_int_equal(ex_generation_number(old), 1);
	assert_int_equal(run_one(old, y), 0);
	struct ex_generation *new = ex_registry_pin(s.registry, 1, 0);
	assert_int_equal(ex_generation_number(new), 2);
	ex_generation_unpin(new);
	ex_generation_unpin(old);
	assert_int_equal(pthread_join(t, NULL), 0);
	setup_done(&s);
}

struct reader {
	struct setup *s;
	atomic_bool *stop;
	uint32_t last, n;
};

static void *read_on(void *arg)
{
	struct reader *r = arg;
	while (!atomic_load(r->stop)) {
		struct ex_generation *g = ex_registry_pin(r->s->registry, 1, 2);
		assert_non_null(g); /* never a gap between generations */
		assert_true(ex_generation_number(g) >= r->last);
		r->last = ex_generation_number(g);
		r->n++;
		ex_generation_unpin(g);
	}
	return NULL;
}

static void test_readers_while_replacing(void **state)
{
	(void)state;
	struct setup s;
	atomic_bool stop = false;
	pthread_t t[2];
	setup_init(&s);
	reload(&s);
	struct reader r[2] = {{.s = &s, .stop = &stop}, {.s = &s, .stop = &stop}};
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, read_on, &r[i]), 0);
	for (int i = 0; i < 20; i++)
		reload(&s);
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		assert_true(r[i].n > 0);
	}
	assert_int_equal(look(s.registry).v[1].generation, 21);
	setup_done(&s);
}

/* -EIO: the device's shards go out of service, and another load brings them back. */
static void test_sick_device(void **state)
{
	(void)state;
	struct setup s;
	float y[SETUP_D_MODEL];
	setup_init(&s);
	reload(&s);
	struct ex_generation *g = ex_registry_pin(s.registry, 1, 0);
	s.run_error = "-5"; /* neither 0 nor -errno: an error, too, but of the batch alone */
	assert_int_equal(run_one(g, y), -EPROTO);
	s.run_error = "5";
	assert_int_equal(run_one(g, y), -EIO);
	ex_generation_unpin(g);
	struct views all = look(s.registry);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(all.v[i].state, EX_SHARD_FAILED);
		assert_non_null(strstr(all.v[i].error, "out of service"));
		assert_null(ex_registry_pin(s.registry, 1, SETUP_SHARDS[i].first_expert));
	}
	s.run_error = NULL;
	reload(&s);
	all = look(s.registry);
	assert_int_equal(all.v[0].state, EX_SHARD_READY);
	assert_int_equal(all.v[0].generation, 2);
	assert_string_equal(ex_shard_state_name(all.v[0].state), "ready");
	setup_done(&s);
}

/* Loads beside the live generation; the caller publishes or discards it. */
static struct ex_generation *prepare(struct setup *s)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_generation *g = NULL;
	struct ex_plugin *p = setup_plugin("fake");
	EXPECT_OK(err, ex_registry_prepare(s->registry, &SETUP_SHARDS[0], p, &s->host, "0", s->w, &err, &g));
	ex_plugin_unref(p);
	return g;
}

static uint32_t live_number(struct setup *s)
{
	struct ex_generation *g = ex_registry_pin(s->registry, 1, 0);
	uint32_t n = g ? ex_generation_number(g) : 0;
	ex_generation_unpin(g);
	return n;
}

/* Nobody finds a prepared generation; one that is replaced lingers until its time, or until the next is. */
static void test_linger(void **state)
{
	(void)state;
	struct setup s;
	float y[SETUP_D_MODEL];
	setup_init(&s);
	reload(&s);
	uint64_t revision = ex_registry_revision(s.registry);
	struct ex_generation *g = prepare(&s);
	assert_int_equal(live_number(&s), 1);
	assert_int_equal(ex_registry_revision(s.registry), revision);
	ex_registry_discard(g);
	assert_int_equal(live_number(&s), 1);

	assert_int_equal(ex_registry_publish(prepare(&s), 1000), 2);
	assert_true(ex_registry_revision(s.registry) > revision);
	assert_int_equal(look(s.registry).v[0].lingering, 1);
	assert_int_equal(look(s.registry).v[0].linger_until_ns, 1000);
	ex_registry_settle(s.registry, &SETUP_SHARDS[0]);
	assert_int_equal(ex_registry_sweep(s.registry, 999), 0);
	assert_int_equal(ex_registry_rollback(s.registry, &SETUP_SHARDS[0], 2000), 0);
	assert_int_equal(live_number(&s), 1);
	assert_int_equal(look(s.registry).v[0].lingering, 2);
	g = ex_registry_pin(s.registry, 1, 0);
	assert_int_equal(run_one(g, y), 0);
	ex_generation_unpin(g);
	assert_int_equal(ex_registry_sweep(s.registry, 2000), 1);
	assert_int_equal(look(s.registry).v[0].lingering, 0);
	assert_int_equal(ex_registry_rollback(s.registry, &SETUP_SHARDS[0], 2000), -ENOENT);

	assert_int_equal(ex_registry_publish(prepare(&s), 3000), 3); /* numbers are not used twice */
	assert_int_equal(ex_registry_publish(prepare(&s), 4000), 4);
	assert_int_equal(look(s.registry).v[0].lingering, 3);
	assert_int_equal(ex_registry_withdraw(s.registry, &SETUP_SHARDS[0]), 0);
	assert_null(ex_registry_pin(s.registry, 1, 0));
	assert_int_equal(look(s.registry).n, 1);
	assert_int_equal(ex_registry_withdraw(s.registry, &SETUP_SHARDS[0]), -ENOENT);
	setup_done(&s);
}

/* Shards stop short of the limit, so that the process has what it needs besides them. */
static void test_out_of_memory(void **state)
{
	(void)state;
#ifdef EX_SANITIZED
	skip(); /* a sanitizer reserves addresses as it goes */
#endif
	struct setup s;
	struct rlimit was, limit;
	unsigned long pages = 0;
	setup_init(&s);
	FILE *f = fopen("/proc/self/statm", "re");
	assert_true(f && fscanf(f, "%lu", &pages) == 1);
	fclose(f);
	assert_int_equal(getrlimit(RLIMIT_AS, &was), 0);
	limit = was;
	limit.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + (48 << 20);
	assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
	expect_failure(&s, "fake", -ENOMEM, "of which 128 MiB stay free", EX_SHARD_FAILED);
	assert_int_equal(setrlimit(RLIMIT_AS, &was), 0);
	reload(&s);
	setup_done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_load_and_find),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_linger),
		cmocka_unit_test(test_out_of_memory),
		cmocka_unit_test(test_nan_is_named),
		cmocka_unit_test(test_replace_under_pin),
		cmocka_unit_test(test_readers_while_replacing),
		cmocka_unit_test(test_sick_device),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
