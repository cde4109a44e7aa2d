/* SPDX-License-Identifier: Apache-2.0 */
/* Plugins: dlopen of a private copy, ABI prefix, probe, devices. The only user of dlopen. Layer L2. */
#ifndef EX_EXPERT_LOADER_H
#define EX_EXPERT_LOADER_H

#include "base/err.h"
#include "expertd/plugin.h"
#include <stdbool.h>

#define EX_BUILD_ID_HEX 41

struct ex_plugin; /* a loaded .so, reference counted */

struct ex_loader_opts {
	const char *dir;         /* where plugins are: NAME → DIR/NAME.so */
	const char *private_dir; /* private copies by content hash go here; NULL: an unlinked memfd */
};

/* name: "cpu" or a path ending in .so. Checks in order: the file is an ELF shared object of this machine, exports
 * expertd_plugin, major equal, minor
 * <= ours, size right, callbacks there. Each refusal names file and reason: -ENOENT, -ENOEXEC (not a plugin,
 * truncated), -EPROTO (ABI). [loader] */
int ex_plugin_open(const struct ex_loader_opts *o, const char *name, struct ex_err *err, struct ex_plugin **ret);
struct ex_plugin *ex_plugin_ref(struct ex_plugin *p);
/* The last one closes; dlclose only when the plugin is UNLOADABLE. [loader] */
struct ex_plugin *ex_plugin_unref(struct ex_plugin *p);
EX_DEFINE_CLEANUP(struct ex_plugin, ex_plugin_unref)

const struct expertd_plugin *ex_plugin_table(const struct ex_plugin *p);
const char *ex_plugin_path(const struct ex_plugin *p);
const char *ex_plugin_sha256(const struct ex_plugin *p);   /* of the file, hex */
const char *ex_plugin_build_id(const struct ex_plugin *p); /* ELF note, hex; "" if none */
/* What probe() said when the plugin was opened: 0 cannot run on this machine, *ret_why (if wanted) says why. A plugin
 * of score 0 can be listed, not used. */
int ex_plugin_score(const struct ex_plugin *p, const char **ret_why);
/* In-tree plugins may carry the private trunk table; NULL when absent or of another build than this daemon (then
 * *ret_why says so). */
struct ex_ops;
const struct ex_ops *ex_plugin_ops(const struct ex_plugin *p, const char **ret_why);

/* Picks the best of dir's plugins by probe() when name is "auto": highest score wins, "ref" last. refused: called for each file that was
 * refused, and why. */
int ex_plugin_open_best(const struct ex_loader_opts *o, void (*refused)(void *ctx, const char *path, const char *why),
	void *ctx, struct ex_err *err, struct ex_plugin **ret);
/* Lists every .so in DIR: calls fn for each; a refused one has table NULL and why. [loader] */
int ex_plugin_each(const struct ex_loader_opts *o,
	void (*fn)(void *ctx, const char *path, const struct ex_plugin *p, const char *why), void *ctx,
	struct ex_err *err);

#endif
