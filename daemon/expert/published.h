/* SPDX-License-Identifier: Apache-2.0 */
/* What operators made of the configured shards, on the disk: loaded, unloaded, swapped to another plugin. Layer L2.
 *
 * DIR/published is replaced whole (temporary file, fsync, rename, fsync of DIR), so that after a crash it is the old set or the new one.
 * DIR/plugins holds the plugins that it names, each as <sha256>.so. One thread: the loader's. */
#ifndef EX_EXPERT_PUBLISHED_H
#define EX_EXPERT_PUBLISHED_H

#include "base/shard.h"
#include "expert/registry.h"

#define EX_PUBLISHED_BYTES_MAX ((size_t)16 << 20)
#define EX_PUBLISHED_MAX       65536u /* shards */

struct ex_published;

struct ex_published_entry {
	struct ex_shard_id id;
	bool gone;                      /* unloaded */
	bool added;                     /* loaded though the configuration does not ask for it */
	char sha256[65];                /* of the plugin; "": the configured one */
	char plugin[64];                /* "cpu 1.0 avx2": with another text the identity is void */
	char identity[EX_IDENTITY_HEX]; /* "": its own */
};

/* What the file was written for. An entry's meaning hangs on it. */
struct ex_published_for {
	const char *model_digest, *base_sha256; /* of the configured plugin */
	uint32_t n_groups;
};

/* Makes DIR/plugins and reads DIR/published. Entries of another model or other groups are void, and so are the plugins of entries that another
 * configured plugin was the base of. A file that is damaged is an error: -EINVAL, and *ret is an empty set all the same. -EBUSY: another process
 * has DIR open. *ret is to be freed in any case. */
int ex_published_open(const char *dir, const struct ex_published_for *f, struct ex_err *err, struct ex_published **ret);
struct ex_published *ex_published_free(struct ex_published *p);

const struct ex_published_entry *ex_published_find(const struct ex_published *p, const struct ex_shard_id *id);
size_t ex_published_n(const struct ex_published *p);
const struct ex_published_entry *ex_published_at(const struct ex_published *p, size_t i); /* ascending by shard */
const char *ex_published_plugins(const struct ex_published *p);                           /* DIR/plugins */

/* Sets the entry of e's shard, on the disk when it returns 0. On an error the set, here and there, is as it was. */
int ex_published_set(struct ex_published *p, const struct ex_published_entry *e, struct ex_err *err);

/* The set goes over to another model in two steps, so that a crash between them leaves a set for the model that is live after it: `begin` leaves
 * it in DIR/published.next, each entry as renew() makes it (its numeric identity is another one); then whoever says which model is live
 * changes that on the disk; `end` puts it in place, here and there. ex_published_open ends what was begun for the model that it is told. */
int ex_published_begin_model(struct ex_published *p, const char *model_digest,
	void (*renew)(void *ctx, struct ex_published_entry *e), void *ctx, struct ex_err *err);
int ex_published_end_model(struct ex_published *p, struct ex_err *err);

/* Removes from DIR/plugins what no entry names and used() does not claim. Returns how many. */
size_t ex_published_collect(const struct ex_published *p, bool (*used)(void *ctx, const char *sha256), void *ctx);

/* The file's text to entries (free *ret); for ex_published_open and the fuzzer. -EINVAL names the line. */
int ex_published_parse(const char *text, const struct ex_published_for *f, struct ex_err *err,
	struct ex_published_entry **ret, size_t *ret_n);

#endif
