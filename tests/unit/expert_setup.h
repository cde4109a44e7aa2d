/* SPDX-License-Identifier: Apache-2.0 */
/* A small checkpoint, a plugin and a registry of it: for the tests of the registry and the executor. */
#ifndef EX_TESTS_EXPERT_SETUP_H
#define EX_TESTS_EXPERT_SETUP_H

#include "model_dir.h"

#include "expert/registry.h"
#include "model/synth.h"
#include <stdatomic.h>

#define SETUP_D_MODEL 136 /* of small_config: one MoE layer, 1, with 4 experts */

struct setup {
	char dir[32], model[PATH_MAX];
	struct ex_weights *w;
	struct ex_registry *registry;
	const char *threads, *isa, *load_error, *run_error, *run_us;
	atomic_uint n_runs, n_rows; /* told by fake */
	struct expertd_host host;
};

static inline const char *setup_option(void *ctx, const char *key)
{
	const struct setup *s = ctx;
	const struct {
		const char *key, *value;
	} option[] = {{"threads", s->threads}, {"isa", s->isa}, {"load_error", s->load_error},
		{"run_error", s->run_error}, {"run_us", s->run_us}};
	for (size_t i = 0; i < EX_ARRAY_LEN(option); i++)
		if (strcmp(option[i].key, key) == 0)
			return option[i].value;
	return NULL;
}

static inline __attribute__((format(printf, 3, 4))) void setup_log(void *ctx, int priority, const char *fmt, ...)
{
	struct setup *s = ctx;
	va_list ap;
	va_start(ap, fmt);
	if (priority == 7 && strcmp(fmt, "%u") == 0) {
		atomic_fetch_add(&s->n_runs, 1);
		atomic_fetch_add(&s->n_rows, va_arg(ap, unsigned));
	}
	va_end(ap);
}

static inline void setup_reopen(struct setup *s)
{
	struct ex_err err = EX_ERR_INIT;
	s->w = ex_weights_close(s->w);
	EXPECT_OK(err, ex_weights_open(s->model, &err, &s->w));
}

static inline struct ex_registry *setup_registry(bool check_finite)
{
	struct ex_registry *r = NULL;
	const struct ex_registry_opts o = {.n_experts = 4, .n_groups = 2, .n_layers = 2, .check_finite = check_finite};
	assert_int_equal(ex_registry_new(&o, &r), 0);
	return r;
}

static inline void setup_init(struct setup *s)
{
	struct ex_err err = EX_ERR_INIT;
	const struct ex_synth_opts o = {.seed = 1, .dtype = EXPERTD_F32};
	char config[PATH_MAX];
	*s = (struct setup){.dir = SCRATCH_DIR, .threads = "1"};
	s->host = (struct expertd_host){.ctx = s, .log = setup_log, .option = setup_option};
	make_dir(s->dir);
	write_text(s->dir, "in.json", small_config);
	path_in(s->dir, "m", s->model);
	EXPECT_OK(err, ex_model_synth(path_in(s->dir, "in.json", config), s->model, &o, &err));
	setup_reopen(s);
	s->registry = setup_registry(true);
}

static inline void setup_done(struct setup *s)
{
	ex_registry_free(s->registry);
	ex_weights_close(s->w);
	remove_dir(s->model);
	remove_dir(s->dir);
}

/* From the build tree: "cpu" and "ref", or a module of tests/unit/plugins. */
static inline struct ex_plugin *setup_plugin(const char *name)
{
	bool ours = strcmp(name, "cpu") == 0 || strcmp(name, "ref") == 0;
	const struct ex_loader_opts o = {.dir = ours ? ".libs" : "tests/unit/plugins/.libs"};
	struct ex_err err = EX_ERR_INIT;
	struct ex_plugin *p = NULL;
	EXPECT_OK(err, ex_plugin_open(&o, name, &err, &p));
	return p;
}

static const struct ex_shard_id SETUP_SHARDS[] = {{1, 0, 2}, {1, 2, 2}};

static inline void setup_load(struct setup *s, struct ex_plugin *p)
{
	struct ex_err err = EX_ERR_INIT;
	for (size_t i = 0; i < EX_ARRAY_LEN(SETUP_SHARDS); i++)
		EXPECT_OK(err, ex_registry_load(s->registry, &SETUP_SHARDS[i], p, &s->host, "0", s->w, &err));
}

#endif
