/* SPDX-License-Identifier: Apache-2.0 */
/* The child's side of a trial: one thread, nobody's work at stake. Before each call into the plugin it says what comes. Layer L2. */
#include "base/dtype.h"
#include "base/err.h"
#include "base/mem.h"
#include "expert/conformance.h"
#include "expert/loader.h"
#include "expert/trial_int.h"
#include "model/weights.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define TEXTS_MAX    64
#define BATCHES_MAX  4096
#define GUARD_FLOATS 64
#define NICE         5

struct child {
	char *memory; /* of the texts */
	const char *text[TEXTS_MAX];
	uint32_t n_texts;
	struct expertd_host host;
	struct ex_plugin *plugin;
	const struct expertd_plugin *t;
	struct expertd_device *dev;
	struct ex_weights *w;
	struct ex_err err;
};

/* --- telling --------------------------------------------------------------------------------------------- */

static int tell(enum trial_kind kind, uint32_t n, const char *text)
{
	size_t bytes = EX_MIN(strlen(text), (size_t)TRIAL_TEXT_MAX - 1);
	const struct trial_head h = {kind, n, bytes};
	int rc = trial_send(EX_TRIAL_FD, &h, sizeof h);
	return rc < 0 ? rc : trial_send(EX_TRIAL_FD, text, bytes);
}

static int stage(const char *fmt, ...) EX_PRINTF(1, 2);
static int stage(const char *fmt, ...)
{
	char text[TRIAL_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return tell(TRIAL_STAGE, 0, text);
}

static void host_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx, (void)priority, (void)fmt; /* what counts is said when it is loaded in earnest */
}

static const char *host_option(void *ctx, const char *key)
{
	const struct child *c = ctx;
	size_t n = strlen(key);
	for (uint32_t i = 3; i < c->n_texts; i++)
		if (strncmp(c->text[i], key, n) == 0 && c->text[i][n] == '=')
			return c->text[i] + n + 1;
	return NULL;
}

static int read_setup(struct child *c)
{
	struct trial_head h;
	int rc = trial_receive(EX_TRIAL_FD, &h, sizeof h);
	if (rc < 0 || h.kind != TRIAL_SETUP || h.bytes > (1 << 20) || h.n < 3 || h.n > TEXTS_MAX)
		return -EPROTO;
	c->memory = ex_calloc(h.bytes + 1, 1);
	if (!c->memory || trial_receive(EX_TRIAL_FD, c->memory, h.bytes) < 0)
		return -EPROTO;
	const char *at = c->memory;
	for (uint32_t i = 0; i < h.n && at <= c->memory + h.bytes; i++) {
		c->text[c->n_texts++] = at;
		at += strlen(at) + 1;
	}
	c->host = (struct expertd_host){.ctx = c, .log = host_log, .option = host_option};
	return 0;
}

/* --- the conformance suite ------------------------------------------------------------------------------- */

struct report {
	char first[TRIAL_TEXT_MAX]; /* failure */
};

static void on_check(void *ctx, const struct ex_check *k)
{
	struct report *r = ctx;
	if (k->result == EX_CHECK_BEGINS)
		stage("the check '%s'", k->name);
	else if (k->result == EX_CHECK_FAIL && !r->first[0])
		snprintf(r->first, sizeof r->first, "the check '%s' failed: %s", k->name, k->detail);
}

static int check(struct child *c)
{
	struct report r = {.first = ""};
	const struct ex_conformance_opts o = {.path = c->text[0],
		.which = c->text[2],
		.host = &c->host,
		.hang_s = 1u << 20,
		.report = on_check,
		.ctx = &r};
	int n = ex_conformance_run_forked(&o, &c->err);
	return n > 0 ? ex_err_set(&c->err, -EINVAL, "%s", r.first) : n;
}

/* --- one shard ------------------------------------------------------------------------------------------- */

struct trial {
	struct trial_shard s;
	uint32_t n;
	struct ex_batch **batch;
	struct expertd_ffn *ffn;
	struct expertd_shard *shard;
};

static struct ex_batch *read_batch(const struct trial *k)
{
	struct trial_head h;
	struct trial_batch b;
	if (trial_receive(EX_TRIAL_FD, &h, sizeof h) < 0 || h.kind != TRIAL_BATCH ||
		trial_receive(EX_TRIAL_FD, &b, sizeof b) < 0)
		return NULL;
	struct ex_batch *c = ex_batch_new(b.n_experts, b.n_tokens, b.n_assignments, k->s.d_model, b.x_dtype);
	if (c && trial_receive(EX_TRIAL_FD, ex_batch_x(c), c->x_bytes) == 0 &&
		trial_receive(EX_TRIAL_FD, ex_batch_offset(c), (b.n_experts + 1) * sizeof(uint32_t)) == 0 &&
		trial_receive(EX_TRIAL_FD, ex_batch_token(c), b.n_assignments * sizeof(uint32_t)) == 0 &&
		trial_receive(EX_TRIAL_FD, ex_batch_weight(c), b.n_assignments * sizeof(float)) == 0)
		return c;
	free(c);
	return NULL;
}

static int open_all(struct child *c)
{
	const struct ex_loader_opts o = {.dir = "/"};
	int rc = 0;
	if (!c->w && (rc = stage("the checkpoint")) == 0)
		rc = ex_weights_open(c->text[1], &c->err, &c->w);
	if (rc == 0 && !c->plugin && (rc = stage("its constructors and probe()")) == 0)
		rc = ex_plugin_open(&o, c->text[0], &c->err, &c->plugin);
	if (rc < 0)
		return rc;
	const char *why;
	c->t = ex_plugin_table(c->plugin);
	if (ex_plugin_score(c->plugin, &why) <= 0)
		return ex_err_set(&c->err, -ENODEV, "it cannot run on this machine: %s", why);
	if (!c->dev && (rc = stage("open()")) == 0) {
		rc = c->t->open(&c->host, c->text[2], &c->dev);
		if (rc != 0 || !c->dev)
			rc = ex_err_set(&c->err, rc < 0 ? rc : -EPROTO, "open(\"%s\") gave %d", c->text[2], rc);
	}
	return rc;
}

static uint64_t hash(const void *data, size_t n, uint64_t h)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
	return h;
}

/* Of all that the plugin only reads. */
static uint64_t hash_batch(const struct ex_batch *c)
{
	uint64_t h = hash(c->b.x, c->x_bytes, UINT64_C(0xcbf29ce484222325));
	h = hash(c->b.offset, (c->b.n_experts + 1) * sizeof *c->b.offset, h);
	h = hash(c->b.token, c->b.n_assignments * sizeof *c->b.token, h);
	return hash(c->b.weight, c->b.n_assignments * sizeof *c->b.weight, h);
}

static bool is_filled(const float *p)
{
	const unsigned char *at = (const unsigned char *)p;
	for (size_t i = 0; i < GUARD_FLOATS * sizeof *p; i++)
		if (at[i] != 0xff)
			return false;
	return true;
}

static int run_batch(struct child *c, const struct trial *k, uint32_t i)
{
	struct ex_batch *in = k->batch[i];
	size_t n = (size_t)in->b.n_tokens * k->s.d_model;
	EX_CLEANUP(ex_freep) float *memory = ex_alloc_aligned(n + 2 * GUARD_FLOATS, sizeof *memory);
	if (!memory)
		return ex_err_errno(&c->err, -ENOMEM, "cannot try batch %u", i);
	memset(memory, 0xff, (n + 2 * GUARD_FLOATS) * sizeof *memory); /* NaN */
	in->b.y = memory + GUARD_FLOATS;
	uint64_t before = hash_batch(in);
	int rc = stage("run() of batch %u", i);
	if (rc == 0)
		rc = c->t->run(k->shard, &in->b);
	if (rc != 0)
		return ex_err_set(&c->err, rc < 0 ? rc : -EPROTO, "run() gave %d for batch %u", rc, i);
	if (hash_batch(in) != before)
		return ex_err_set(&c->err, -EFAULT, "run() overwrote its input in batch %u", i);
	if (!is_filled(memory) || !is_filled(in->b.y + n))
		return ex_err_set(&c->err, -EFAULT, "run() wrote beside y in batch %u", i);
	const struct trial_head h = {TRIAL_Y, i, n * sizeof(float)};
	rc = trial_send(EX_TRIAL_FD, &h, sizeof h);
	return rc < 0 ? rc : trial_send(EX_TRIAL_FD, in->b.y, h.bytes);
}

static int load_and_run(struct child *c, struct trial *k)
{
	int rc = open_all(c);
	for (uint32_t e = 0; e < k->s.id.n_experts && rc == 0; e++)
		rc = ex_weights_expert(c->w, k->s.id.layer, k->s.id.first_expert + e, &c->err, &k->ffn[e]);
	if (rc == 0)
		rc = stage("load()");
	if (rc < 0)
		return rc;
	rc = c->t->load(c->dev, k->ffn, k->s.id.n_experts, &k->shard);
	if (rc != 0 || !k->shard)
		return ex_err_errno(&c->err, rc < 0 ? rc : -EPROTO, "load() gave %d", rc);
	for (uint32_t i = 0; i < k->n && rc == 0; i++)
		rc = run_batch(c, k, i);
	stage("unload()");
	c->t->unload(k->shard);
	return rc;
}

static int try_shard(struct child *c, uint32_t n)
{
	struct trial k = {.n = 0};
	if (n > BATCHES_MAX || trial_receive(EX_TRIAL_FD, &k.s, sizeof k.s) < 0)
		return -EPROTO;
	k.batch = ex_calloc(n, sizeof *k.batch);
	k.ffn = ex_calloc(k.s.id.n_experts, sizeof *k.ffn);
	int rc = k.batch && k.ffn ? 0 : -ENOMEM;
	while (rc == 0 && k.n < n) {
		k.batch[k.n] = read_batch(&k);
		rc = k.batch[k.n] ? 0 : -EPROTO;
		k.n += rc == 0;
	}
	if (rc == 0)
		rc = load_and_run(c, &k);
	for (uint32_t i = 0; i < k.n; i++)
		free(k.batch[i]);
	free(k.batch);
	free(k.ffn);
	return rc;
}

/* --- life ------------------------------------------------------------------------------------------------ */

static int serve(struct child *c)
{
	struct trial_head h;
	while (trial_receive(EX_TRIAL_FD, &h, sizeof h) == 0) {
		c->err = EX_ERR_INIT;
		int rc = h.kind == TRIAL_CHECK ? check(c) : h.kind == TRIAL_SHARD ? try_shard(c, h.n) : -EPROTO;
		if (rc == -EPROTO && !c->err.code)
			return 1;
		if (rc < 0 && !c->err.code)
			ex_err_errno(&c->err, rc, "the trial failed");
		rc = rc < 0 ? tell(TRIAL_FAILED, (uint32_t)-rc, ex_err_text(&c->err)) : tell(TRIAL_DONE, 0, "");
		if (rc < 0)
			break;
	}
	return 0; /* the parent is done with us */
}

int ex_trial_main(void)
{
	static struct child c;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpriority(PRIO_PROCESS, 0, NICE);             /* those who serve come first */
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* a crash here is an answer, not an accident */
	static const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	for (size_t i = 0; i < EX_ARRAY_LEN(deadly); i++)
		signal(deadly[i], SIG_DFL);
	if (read_setup(&c) < 0)
		return 1;
	return serve(&c);
}
