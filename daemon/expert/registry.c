/* SPDX-License-Identifier: Apache-2.0 */
/* Shards in slots, one for each (layer, range); a slot's live generation is one pointer, read under RCU and pinned.
 * Layer L2.
 *
 * A generation is unloaded by the loader thread when three things are true: nobody can find it any more (unpublished,
 * and a grace period has passed), nobody pins it, and the loader comes by (at the next load, or at the end). */
#include "expert/registry.h"

#include "base/clock.h"
#include "base/dtype.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/str.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <urcu-bp.h>

#define REGISTRY_MAGIC   0x72656769
#define GENERATION_MAGIC 0x67656e65
#define SAMPLE_BYTES     64
#define SHA256_BYTES     32
#define ERRNO_MAX        4095    /* of Linux */
#define REAP_NAP_NS      1000000 /* between looks at the pins of a generation that is to go */

/* An opened device of a plugin, shared by its shards. Loader thread only, but for `t`, which is constant. */
struct device {
	struct device *next;
	struct ex_plugin *plugin;
	char *which;
	const struct expertd_host *host;
	struct expertd_device *dev;
	uint32_t n_shards;
};

struct ex_generation {
	uint32_t magic;
	struct ex_registry *registry;
	struct ex_shard_id id;
	uint32_t number;
	struct device *device;
	struct expertd_shard *shard;
	uint64_t bytes;
	char plugin[64], identity[2 * SHA256_BYTES + 1];
	uint64_t identity_number;
	struct ex_metric *m_rows, *m_seconds; /* of its layer */
	_Atomic uint64_t n_rows;
	_Atomic uint32_t n_pins;
	struct ex_generation *next; /* in r->retired; guarded by r->lock */
};

struct slot {
	struct ex_shard_id id;
	_Atomic(struct ex_generation *) live; /* release by the loader, acquire by readers */
	/* guarded by r->lock */
	enum ex_shard_state state; /* 0: never asked for */
	uint32_t n_generations;
	char error[256];
};

struct ex_registry {
	uint32_t magic;
	struct ex_registry_opts o;
	struct ex_lock lock;
	struct device *devices;        /* [loader] */
	struct ex_generation *retired; /* unpublished, not yet unloaded; guarded by lock */
	_Atomic uint64_t revision;
	uint32_t n_slots;
	struct slot slot[];
};

const char *ex_shard_state_name(enum ex_shard_state s)
{
	static const char *const name[] = {
		[EX_SHARD_LOADING] = "loading",
		[EX_SHARD_READY] = "ready",
		[EX_SHARD_FAILED] = "failed",
		[EX_SHARD_DRAINING] = "draining",
	};
	assert(s >= EX_SHARD_LOADING && s <= EX_SHARD_DRAINING);
	return name[s];
}

int ex_registry_new(const struct ex_registry_opts *o, struct ex_registry **ret)
{
	size_t n;
	if (!o->n_groups || o->n_groups > o->n_experts)
		return -EINVAL;
	if (__builtin_mul_overflow((size_t)o->n_layers, (size_t)o->n_groups, &n) || n > UINT32_MAX)
		return -EOVERFLOW;
	struct ex_registry *r = ex_calloc(1, sizeof *r + n * sizeof r->slot[0]);
	if (!r)
		return -ENOMEM;
	r->magic = REGISTRY_MAGIC;
	r->o = *o;
	r->n_slots = (uint32_t)n;
	ex_lock_init(&r->lock, "registry");
	for (uint32_t i = 0; i < r->n_slots; i++)
		r->slot[i].id = ex_shard_of_group(i / o->n_groups, o->n_experts, o->n_groups, i % o->n_groups);
	*ret = r;
	return 0;
}

/* The slot of a shard, NULL when the fleet has no such range. */
static struct slot *find_slot(struct ex_registry *r, uint32_t layer, uint32_t first_expert)
{
	if (layer >= r->o.n_layers || first_expert >= r->o.n_experts)
		return NULL;
	uint32_t group = ex_shard_group_of_expert(r->o.n_experts, r->o.n_groups, first_expert);
	struct slot *s = &r->slot[layer * r->o.n_groups + group];
	return s->id.first_expert == first_expert ? s : NULL;
}

/* What a plugin's function said: 0 or -errno. Anything else, and a success without its result, is a plugin's mistake:
 * taken for success it would be a crash or wrong numbers later. */
static int answer(int rc, const void *result)
{
	return rc > 0 || rc < -ERRNO_MAX || (rc == 0 && !result) ? -EPROTO : rc;
}

/* --- devices [loader] ------------------------------------------------------------------------------------ */

static int open_device(struct ex_registry *r, struct ex_plugin *p, const struct expertd_host *host, const char *which,
	struct ex_err *err, struct device **ret)
{
	const struct expertd_plugin *t = ex_plugin_table(p);
	const char *why;
	for (struct device *d = r->devices; d; d = d->next)
		if (strcmp(ex_plugin_sha256(d->plugin), ex_plugin_sha256(p)) == 0 && strcmp(d->which, which) == 0 &&
			d->host == host) {
			*ret = d;
			return 0;
		}
	if (ex_plugin_score(p, &why) <= 0)
		return ex_err_set(err, -ENODEV, "plugin '%s' cannot run on this machine: %s", t->name, why);
	struct device *d = ex_calloc(1, sizeof *d);
	if (!d || !(d->which = strdup(which))) {
		free(d);
		return ex_err_errno(err, -ENOMEM, "cannot open device %s of plugin '%s'", which, t->name);
	}
	int rc = t->open(host, which, &d->dev);
	rc = answer(rc, d->dev);
	if (rc < 0) {
		free(d->which);
		free(d);
		return ex_err_errno(err, rc, "cannot open device %s of plugin '%s'", which, t->name);
	}
	d->plugin = ex_plugin_ref(p);
	d->host = host;
	d->next = r->devices;
	r->devices = d;
	*ret = d;
	return 0;
}

/* Closes the devices that hold no shard. */
static void close_devices(struct ex_registry *r)
{
	for (struct device **at = &r->devices; *at;) {
		struct device *d = *at;
		if (d->n_shards) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		ex_plugin_table(d->plugin)->close(d->dev);
		ex_plugin_unref(d->plugin);
		free(d->which);
		free(d);
	}
}

/* --- generations ----------------------------------------------------------------------------------------- */

static void unload(struct ex_generation *g)
{
	ex_plugin_table(g->device->plugin)->unload(g->shard);
	g->device->n_shards--;
	g->magic = 0;
	free(g);
}

/* Makes the slot's live generation `next` (or nothing) and retires the one that was. r->lock is held. */
static void publish(struct ex_registry *r, struct slot *s, struct ex_generation *next)
{
	struct ex_generation *old = atomic_exchange_explicit(&s->live, next, memory_order_acq_rel);
	/* release: who sees the new number and looks, sees the new state */
	atomic_fetch_add_explicit(&r->revision, 1, memory_order_release);
	if (old) {
		old->next = r->retired;
		r->retired = old;
	}
}

/* Unloads what is retired, waiting for its pins: their holders found it before it was unpublished and give it back
 * soon. [loader] */
static void reap(struct ex_registry *r)
{
	ex_lock_take(&r->lock);
	struct ex_generation *list = EX_TAKE(r->retired);
	ex_lock_give(&r->lock);
	if (list)
		synchronize_rcu();
	while (list) {
		struct ex_generation *g = list;
		list = g->next;
		while (atomic_load_explicit(&g->n_pins, memory_order_acquire))
			nanosleep(&(struct timespec){.tv_nsec = REAP_NAP_NS}, NULL);
		unload(g);
	}
	close_devices(r);
}

struct ex_generation *ex_registry_pin(struct ex_registry *r, uint32_t layer, uint32_t first_expert)
{
	struct slot *s = find_slot(r, layer, first_expert);
	if (!s)
		return NULL;
	rcu_read_lock();
	struct ex_generation *g = atomic_load_explicit(&s->live, memory_order_acquire);
	if (g)
		atomic_fetch_add_explicit(&g->n_pins, 1, memory_order_relaxed);
	rcu_read_unlock();
	return g;
}

void ex_generation_unpin(struct ex_generation *g)
{
	if (!g)
		return;
	EX_CHECK_OBJ(g, GENERATION_MAGIC);
	atomic_fetch_sub_explicit(&g->n_pins, 1, memory_order_release); /* pairs with reap(): g may go now */
}

const struct ex_shard_id *ex_generation_id(const struct ex_generation *g)
{
	return &g->id;
}

uint32_t ex_generation_number(const struct ex_generation *g)
{
	return g->number;
}

uint64_t ex_generation_identity(const struct ex_generation *g)
{
	return g->identity_number;
}

uint64_t ex_registry_revision(const struct ex_registry *r)
{
	return atomic_load_explicit(&r->revision, memory_order_acquire);
}

/* Takes every shard of a sick device out of service. */
static void drain_device(struct ex_registry *r, const struct device *d)
{
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		struct slot *s = &r->slot[i];
		struct ex_generation *g = atomic_load_explicit(&s->live, memory_order_acquire);
		if (!g || g->device != d)
			continue;
		publish(r, s, NULL);
		s->state = EX_SHARD_FAILED;
		snprintf(s->error, sizeof s->error,
			"device %s of plugin %s failed (I/O error); the shard is out of service", d->which, g->plugin);
	}
	ex_lock_give(&r->lock);
}

int ex_generation_run(struct ex_generation *g, const struct expertd_batch *b)
{
	EX_CHECK_OBJ(g, GENERATION_MAGIC);
	uint64_t start_ns = ex_now_ns();
	int rc = answer(ex_plugin_table(g->device->plugin)->run(g->shard, b), b);
	if (rc == 0) {
		atomic_fetch_add_explicit(&g->n_rows, b->n_tokens, memory_order_relaxed);
		ex_metric_add(g->m_rows, b->n_tokens);
		ex_metric_observe(g->m_seconds, (double)(ex_now_ns() - start_ns) / (double)EX_NS_PER_S);
	} else if (rc == -EIO)
		drain_device(g->registry, g->device);
	return rc;
}

/* --- loading [loader] ------------------------------------------------------------------------------------ */

/* A shard on its way in. */
struct load {
	struct ex_registry *r;
	const struct ex_shard_id *id;
	struct device *device;
	struct ex_weights *w;
	struct expertd_ffn *ffn; /* [id->n_experts] */
	uint64_t bytes;
};

static int check_expert(const struct load *l, uint32_t i, struct ex_err *err)
{
	const struct expertd_ffn *f = &l->ffn[i];
	const struct {
		const struct expertd_matrix *m;
		const char *name;
	} part[] = {{&f->gate, "gate"}, {&f->up, "up"}, {&f->down, "down"}};
	for (size_t k = 0; k < EX_ARRAY_LEN(part); k++) {
		char name[96];
		snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.%s_proj.weight", l->id->layer,
			l->id->first_expert + i, part[k].name);
		int rc = ex_matrix_check_finite(part[k].m, name, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int find_experts(struct load *l, struct ex_err *err)
{
	for (uint32_t i = 0; i < l->id->n_experts; i++) {
		struct expertd_ffn *f = &l->ffn[i];
		int rc = ex_weights_expert(l->w, l->id->layer, l->id->first_expert + i, err, f);
		if (rc < 0)
			return rc;
		l->bytes += ex_matrix_bytes(&f->gate) + ex_matrix_bytes(&f->up) + ex_matrix_bytes(&f->down);
	}
	char need[EX_BYTES_TEXT_MAX], have[EX_BYTES_TEXT_MAX], reserve[EX_BYTES_TEXT_MAX];
	size_t available = ex_mem_available();
	if (available && (l->bytes > available || available - l->bytes < EX_REGISTRY_RESERVE_BYTES))
		return ex_err_set(err, -ENOMEM, "it needs %s, %s are available, of which %s stay free",
			ex_bytes_text(l->bytes, need), ex_bytes_text(available, have),
			ex_bytes_text(EX_REGISTRY_RESERVE_BYTES, reserve));
	for (uint32_t i = 0; l->r->o.check_finite && i < l->id->n_experts; i++) {
		int rc = check_expert(l, i, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void digest_matrix(EVP_MD_CTX *c, const struct expertd_matrix *m)
{
	const uint32_t head[] = {m->dtype, m->rows, m->cols};
	size_t n = (size_t)m->rows * m->cols * ex_dtype_size(m->dtype), sample = EX_MIN(n, (size_t)SAMPLE_BYTES);
	EVP_DigestUpdate(c, head, sizeof head);
	EVP_DigestUpdate(c, m->data, sample);
	EVP_DigestUpdate(c, (const uint8_t *)m->data + (n - sample) / 2, sample);
	EVP_DigestUpdate(c, (const uint8_t *)m->data + (n - sample), sample);
	if (m->scale)
		EVP_DigestUpdate(c, m->scale, sizeof *m->scale * EX_CEIL_DIV(m->rows, 128) * EX_CEIL_DIV(m->cols, 128));
}

/* What decides a shard's bits: its weights (samples of each matrix), the plugin's file, and its version, which names
 * the instruction set. */
static int digest_shard(const struct load *l, char out[static 2 * SHA256_BYTES + 1])
{
	uint8_t digest[SHA256_BYTES];
	const struct ex_plugin *p = l->device->plugin;
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	if (!c || !EVP_DigestInit_ex(c, EVP_sha256(), NULL)) {
		EVP_MD_CTX_free(c);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < l->id->n_experts; i++) {
		digest_matrix(c, &l->ffn[i].gate);
		digest_matrix(c, &l->ffn[i].up);
		digest_matrix(c, &l->ffn[i].down);
	}
	EVP_DigestUpdate(c, ex_plugin_sha256(p), strlen(ex_plugin_sha256(p)));
	EVP_DigestUpdate(c, ex_plugin_table(p)->version, strlen(ex_plugin_table(p)->version));
	int ok = EVP_DigestFinal_ex(c, digest, NULL);
	EVP_MD_CTX_free(c);
	ex_hex(digest, sizeof digest, out);
	return ok ? 0 : -EIO;
}

static int load_generation(struct load *l, struct ex_err *err, struct ex_generation **ret)
{
	const struct expertd_plugin *t = ex_plugin_table(l->device->plugin);
	EX_CLEANUP(ex_freep) struct ex_generation *g = ex_calloc(1, sizeof *g);
	if (!g)
		return ex_err_errno(err, -ENOMEM, "cannot load");
	*g = (struct ex_generation){
		.magic = GENERATION_MAGIC, .registry = l->r, .id = *l->id, .device = l->device, .bytes = l->bytes};
	snprintf(g->plugin, sizeof g->plugin, "%s %s", t->name, t->version);
	char layer[16];
	snprintf(layer, sizeof layer, "%u", l->id->layer);
	g->m_rows = ex_metric(EX_M_EXPERT_ROWS, layer);
	g->m_seconds = ex_metric(EX_M_EXPERT_SECONDS, layer);
	int rc = digest_shard(l, g->identity);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot compute its identity");
	g->identity_number = ex_shard_identity(g->identity);
	rc = t->load(l->device->dev, l->ffn, l->id->n_experts, &g->shard);
	rc = answer(rc, g->shard);
	if (rc == -ENOMEM) {
		char need[EX_BYTES_TEXT_MAX], have[EX_BYTES_TEXT_MAX];
		return ex_err_set(err, rc, "plugin '%s' found no memory: it needs %s, %s are available", t->name,
			ex_bytes_text(l->bytes, need), ex_bytes_text(ex_mem_available(), have));
	}
	if (rc < 0)
		return ex_err_errno(err, rc, "plugin '%s' cannot load it", t->name);
	l->device->n_shards++;
	*ret = EX_TAKE(g);
	return 0;
}

static int load_shard(struct load *l, struct ex_plugin *p, const struct expertd_host *host, const char *which,
	struct ex_err *err, struct ex_generation **ret)
{
	int rc = open_device(l->r, p, host, which, err, &l->device);
	if (rc < 0)
		return rc;
	l->ffn = ex_calloc(l->id->n_experts, sizeof *l->ffn);
	rc = l->ffn ? find_experts(l, err) : ex_err_errno(err, -ENOMEM, "cannot load");
	if (rc == 0)
		rc = load_generation(l, err, ret);
	if (rc == 0) /* packed by now; a plugin that reads the mapping itself gets the pages again */
		for (uint32_t i = 0; i < l->id->n_experts; i++) {
			ex_weights_forget(l->w, &l->ffn[i].gate);
			ex_weights_forget(l->w, &l->ffn[i].up);
			ex_weights_forget(l->w, &l->ffn[i].down);
		}
	free(l->ffn);
	return rc;
}

int ex_registry_load(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err)
{
	EX_CHECK_OBJ(r, REGISTRY_MAGIC);
	char name[EX_SHARD_NAME_MAX];
	struct ex_err own = EX_ERR_INIT, *why = err ? err : &own;
	struct slot *s = find_slot(r, id->layer, id->first_expert);
	struct ex_generation *g = NULL;
	ex_shard_name(id, name);
	if (!s || s->id.n_experts != id->n_experts)
		return ex_err_set(err, -EINVAL,
			"%s is not one of this fleet's shards (%u experts in %u groups, %u layers)", name,
			r->o.n_experts, r->o.n_groups, r->o.n_layers);
	ex_lock_take(&r->lock);
	if (!atomic_load_explicit(&s->live, memory_order_acquire))
		s->state = EX_SHARD_LOADING;
	ex_lock_give(&r->lock);
	struct load l = {.r = r, .id = id, .w = w};
	int rc = load_shard(&l, p, host, which, why, &g);
	if (rc < 0)
		ex_err_prefix(why, "failed to load shard %s", name);
	ex_lock_take(&r->lock);
	if (rc == 0) {
		g->number = ++s->n_generations;
		publish(r, s, g);
	}
	snprintf(s->error, sizeof s->error, "%s", rc == 0 ? "" : ex_err_text(why));
	s->state = atomic_load_explicit(&s->live, memory_order_acquire) ? EX_SHARD_READY : EX_SHARD_FAILED;
	ex_lock_give(&r->lock);
	reap(r);
	return rc;
}

void ex_registry_each(struct ex_registry *r, void (*fn)(void *ctx, const struct ex_shard_view *v), void *ctx)
{
	EX_CHECK_OBJ(r, REGISTRY_MAGIC);
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++) {
		const struct slot *s = &r->slot[i];
		if (!s->state)
			continue;
		struct ex_shard_view v = {.id = s->id, .state = s->state};
		/* retired under this lock, unloaded after: what is live here stays while the lock is held */
		const struct ex_generation *g = atomic_load_explicit(&s->live, memory_order_acquire);
		memcpy(v.error, s->error, sizeof v.error);
		if (g) {
			v.generation = g->number;
			v.bytes = g->bytes;
			v.rows = atomic_load_explicit(&g->n_rows, memory_order_relaxed);
			memcpy(v.plugin, g->plugin, sizeof v.plugin);
			memcpy(v.identity, g->identity, sizeof v.identity);
		}
		fn(ctx, &v);
	}
	ex_lock_give(&r->lock);
}

struct ex_registry *ex_registry_free(struct ex_registry *r)
{
	if (!r)
		return NULL;
	EX_CHECK_OBJ(r, REGISTRY_MAGIC);
	ex_lock_take(&r->lock);
	for (uint32_t i = 0; i < r->n_slots; i++)
		publish(r, &r->slot[i], NULL);
	ex_lock_give(&r->lock);
	reap(r);
	ex_lock_done(&r->lock);
	r->magic = 0;
	free(r);
	return NULL;
}
