/* SPDX-License-Identifier: Apache-2.0 */
/* A shard's way into a plugin and out again: devices, memory, weights, numeric identity. Layer L2. */
#include "base/dtype.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/str.h"
#include "expert/registry_int.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define SAMPLE_BYTES 64
#define ERRNO_MAX    4095 /* of Linux */

/* Taken for success, an answer that is neither 0 nor -errno would be a crash or wrong numbers later. */
int ex_plugin_answer(int rc, const void *result)
{
	return rc > 0 || rc < -ERRNO_MAX || (rc == 0 && !result) ? -EPROTO : rc;
}

/* --- devices [loader] ------------------------------------------------------------------------------------ */

static int open_device(struct ex_registry *r, struct ex_plugin *p, const struct expertd_host *host, const char *which,
	struct ex_err *err, struct ex_device **ret)
{
	const struct expertd_plugin *t = ex_plugin_table(p);
	const char *why;
	for (struct ex_device *d = r->devices; d; d = d->next)
		if (strcmp(ex_plugin_sha256(d->plugin), ex_plugin_sha256(p)) == 0 && strcmp(d->which, which) == 0 &&
			d->host == host) {
			*ret = d;
			return 0;
		}
	if (ex_plugin_score(p, &why) <= 0)
		return ex_err_set(err, -ENODEV, "plugin '%s' cannot run on this machine: %s", t->name, why);
	struct ex_device *d = ex_calloc(1, sizeof *d);
	if (!d || !(d->which = strdup(which))) {
		free(d);
		return ex_err_errno(err, -ENOMEM, "cannot open device %s of plugin '%s'", which, t->name);
	}
	int rc = t->open(host, which, &d->dev);
	rc = ex_plugin_answer(rc, d->dev);
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

void ex_devices_close(struct ex_registry *r)
{
	for (struct ex_device **at = &r->devices; *at;) {
		struct ex_device *d = *at;
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

struct ex_plugin *ex_registry_plugin(struct ex_registry *r, const char *sha256)
{
	for (struct ex_device *d = r->devices; d; d = d->next)
		if (strcmp(ex_plugin_sha256(d->plugin), sha256) == 0)
			return d->plugin;
	return NULL;
}

/* --- loading [loader] ------------------------------------------------------------------------------------ */

/* A shard on its way in. */
struct load {
	struct ex_registry *r;
	const struct ex_shard_id *id;
	struct ex_device *device;
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

/* Refuses what would not leave EX_REGISTRY_RESERVE_BYTES. */
int ex_registry_check_room(uint64_t bytes, struct ex_err *err)
{
	char need[EX_BYTES_TEXT_MAX], have[EX_BYTES_TEXT_MAX], reserve[EX_BYTES_TEXT_MAX];
	size_t available = ex_mem_available();
	if (available && (bytes > available || available - bytes < EX_REGISTRY_RESERVE_BYTES))
		return ex_err_set(err, -ENOMEM, "it needs %s, %s are available, of which %s stay free",
			ex_bytes_text(bytes, need), ex_bytes_text(available, have),
			ex_bytes_text(EX_REGISTRY_RESERVE_BYTES, reserve));
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
	int rc = ex_registry_check_room(l->bytes, err);
	for (uint32_t i = 0; rc == 0 && l->r->o.check_finite && i < l->id->n_experts; i++)
		rc = check_expert(l, i, err);
	return rc;
}

int ex_registry_check_memory(
	struct ex_registry *r, const struct ex_shard_id *id, struct ex_weights *w, struct ex_err *err)
{
	struct ex_weights_stat s;
	ex_weights_stat(w, &s);
	(void)r;
	return ex_registry_check_room(id->n_experts * s.bytes_per_expert, err);
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

static void digest_plugin(EVP_MD_CTX *c, const struct ex_plugin *p)
{
	EVP_DigestUpdate(c, ex_plugin_sha256(p), strlen(ex_plugin_sha256(p)));
	EVP_DigestUpdate(c, ex_plugin_table(p)->version, strlen(ex_plugin_table(p)->version));
}

/* What decides a shard's bits: its weights (samples of each matrix), the plugin's file, and its version, which names
 * the instruction set. The first digits are those of the plugin alone. */
static int digest_shard(
	const struct expertd_ffn *ffn, uint32_t n, const struct ex_plugin *p, char out[static EX_IDENTITY_HEX])
{
	uint8_t digest[EX_SHA256_BYTES], kind[EX_SHA256_BYTES];
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	if (!c || !EVP_DigestInit_ex(c, EVP_sha256(), NULL)) {
		EVP_MD_CTX_free(c);
		return -ENOMEM;
	}
	digest_plugin(c, p);
	int ok = EVP_DigestFinal_ex(c, kind, NULL) && EVP_DigestInit_ex(c, EVP_sha256(), NULL);
	for (uint32_t i = 0; i < n; i++) {
		digest_matrix(c, &ffn[i].gate);
		digest_matrix(c, &ffn[i].up);
		digest_matrix(c, &ffn[i].down);
	}
	digest_plugin(c, p);
	ok = ok && EVP_DigestFinal_ex(c, digest, NULL);
	EVP_MD_CTX_free(c);
	if (!ok)
		return -EIO;
	memcpy(digest, kind, EX_IDENTITY_KIND_DIGITS / 2);
	ex_hex(digest, sizeof digest, out);
	return 0;
}

int ex_shard_identity_with(const struct ex_shard_id *id, const struct ex_plugin *p, struct ex_weights *w,
	struct ex_err *err, char out[static EX_IDENTITY_HEX])
{
	EX_CLEANUP(ex_freep) struct expertd_ffn *ffn = ex_calloc(id->n_experts, sizeof *ffn);
	int rc = ffn ? 0 : ex_err_errno(err, -ENOMEM, "cannot compute its identity");
	for (uint32_t i = 0; rc == 0 && i < id->n_experts; i++)
		rc = ex_weights_expert(w, id->layer, id->first_expert + i, err, &ffn[i]);
	if (rc == 0) {
		rc = digest_shard(ffn, id->n_experts, p, out);
		ex_err_errno(err, rc, "cannot compute its identity");
	}
	return rc;
}

static int load_generation(struct load *l, struct ex_err *err, struct ex_generation **ret)
{
	const struct expertd_plugin *t = ex_plugin_table(l->device->plugin);
	EX_CLEANUP(ex_freep) struct ex_generation *g = ex_calloc(1, sizeof *g);
	if (!g)
		return ex_err_errno(err, -ENOMEM, "cannot load");
	*g = (struct ex_generation){
		.magic = EX_GENERATION_MAGIC, .registry = l->r, .id = *l->id, .device = l->device, .bytes = l->bytes};
	snprintf(g->plugin, sizeof g->plugin, "%s %s", t->name, t->version);
	char layer[16];
	snprintf(layer, sizeof layer, "%u", l->id->layer);
	g->m_rows = ex_metric(EX_M_EXPERT_ROWS, layer);
	g->m_seconds = ex_metric(EX_M_EXPERT_SECONDS, layer);
	int rc = digest_shard(l->ffn, l->id->n_experts, l->device->plugin, g->identity);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot compute its identity");
	g->identity_number = ex_shard_identity(g->identity);
	rc = t->load(l->device->dev, l->ffn, l->id->n_experts, &g->shard);
	rc = ex_plugin_answer(rc, g->shard);
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

int ex_generation_load(struct ex_registry *r, const struct ex_shard_id *id, struct ex_plugin *p,
	const struct expertd_host *host, const char *which, struct ex_weights *w, struct ex_err *err,
	struct ex_generation **ret)
{
	struct load l = {.r = r, .id = id, .w = w};
	return load_shard(&l, p, host, which, err, ret);
}

void ex_generation_unload(struct ex_generation *g)
{
	ex_plugin_table(g->device->plugin)->unload(g->shard);
	g->device->n_shards--;
	g->magic = 0;
	free(g);
}
