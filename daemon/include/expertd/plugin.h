/* SPDX-License-Identifier: Apache-2.0 */
/* The expert plugin ABI: the only header that expertd shares with its plugins, and the only one it installs.
 *
 * A plugin exports one constant, `expertd_plugin`. The loader checks its first 8 bytes before calling in, so a plugin runs no code
 * of its own before it is accepted (nvcc's fat-binary registration is the one exception).
 *
 * Versions   MAJOR changes a layout or a meaning: must be equal. MINOR appends to expertd_host or expertd_plugin, the rest being
 *            frozen: the plugin's is <= the daemon's, and the daemon minds `size`, so neither side reads past the table it was given.
 * Order      probe, open, load*, run*, unload*, close; then dlclose, if allowed.
 * Ownership  Arguments are borrowed for the call; *ret is set on success only.
 * Errors     0 or -errno; those that the daemon acts on are listed.
 */
#ifndef EXPERTD_PLUGIN_H
#define EXPERTD_PLUGIN_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define EXPERTD_ABI_MAJOR 1
#define EXPERTD_ABI_MINOR 0

enum expertd_dtype {
	EXPERTD_F32 = 1,
	EXPERTD_BF16 = 2,
	EXPERTD_F16 = 3,
	EXPERTD_F8E4M3 = 4, /* OCP e4m3fn: no infinities, 0x7f and 0xff are NaN */
};

enum expertd_act {
	EXPERTD_SILU = 1, /* x / (1 + exp(-x)) */
};

enum expertd_flag {
	EXPERTD_UNLOADABLE = 1 << 0,      /* dlclose() is safe after close() */
	EXPERTD_BATCH_INVARIANT = 1 << 1, /* a token's bits ignore the other tokens */
};

struct expertd_device; /* defined by the plugin: one GPU, or one CPU pool */
struct expertd_shard;  /* defined by the plugin: a set of loaded experts */

/* Row-major. F8E4M3: value(r, c) = data(r, c) * scale(r / 128, c / 128). */
struct expertd_matrix {
	const void *data;   /* [rows, cols], aligned to dtype and no more */
	const float *scale; /* [ceil(rows/128), ceil(cols/128)], else NULL */
	uint32_t rows, cols;
	uint32_t dtype;    /* enum expertd_dtype */
	uint32_t reserved; /* 0 */
};

/* y = down (act(gate x) * (up x)); SwiGLU of arXiv:2002.05202 when act is silu. */
struct expertd_ffn {
	struct expertd_matrix gate, up; /* [d_ff, d_model] */
	struct expertd_matrix down;     /* [d_model, d_ff] */
	uint32_t act;                   /* enum expertd_act */
	uint32_t reserved;              /* 0 */
};

/* Tokens once; who goes where beside them. Assignment a of expert e, offset[e] <= a < offset[e + 1],
 * reads token[a] and counts with weight[a]. y is the weighted sum over this shard's experts, added in ascending expert order;
 * a token without an assignment gets a row of zeros. */
struct expertd_batch {
	const void *x;          /* [n_tokens, d_model], x_dtype, host memory, 64-byte aligned */
	float *y;               /* [n_tokens, d_model]; does not overlap x */
	const uint32_t *offset; /* [n_experts + 1]: 0, non-decreasing, n_assignments */
	const uint32_t *token;  /* [n_assignments], < n_tokens, strictly ascending within an expert */
	const float *weight;    /* [n_assignments] */
	uint32_t n_tokens, n_experts, n_assignments;
	uint32_t x_dtype; /* EXPERTD_F32 or EXPERTD_BF16 */
};

/* Daemon services. [any thread] Valid until close() returns. */
struct expertd_host {
	void *ctx; /* pass back as first argument */
	void (*log)(void *ctx, int syslog_priority, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
	const char *(*option)(void *ctx, const char *key); /* NULL if unset; "threads" is always there */
};

struct expertd_plugin {
	uint16_t abi_major, abi_minor; /* with size: a frozen prefix */
	uint32_t size;                 /* sizeof(struct expertd_plugin) */
	const char *name, *version;
	uint64_t flags; /* enum expertd_flag */

	/* [loader] Fitness for this machine: highest wins, 0 cannot run here; *ret_why then says why. */
	int (*probe)(const char **ret_why);
	/* [loader] `which` picks one of several devices ("0", "1", ..). -ENODEV: no such device. */
	int (*open)(const struct expertd_host *host, const char *which, struct expertd_device **ret);
	/* [loader] Copy the structs if needed later; the data they point to stays until unload() returns. -ENOMEM: no room.
	 * -ENOTSUP: dtype, shape or activation. */
	int (*load)(struct expertd_device *dev, const struct expertd_ffn *experts, uint32_t n_experts,
		struct expertd_shard **ret);
	/* [worker] Never twice at once on a shard; shards run in parallel. Fills y, accumulating in f32. On error y is undefined;
	 * -EIO drains the device. */
	int (*run)(struct expertd_shard *shard, const struct expertd_batch *batch);
	/* [loader] No run() is in progress. Joins the plugin's own threads. */
	void (*unload)(struct expertd_shard *shard);
	void (*close)(struct expertd_device *dev);
};
static_assert(offsetof(struct expertd_plugin, size) == 4, "prefix is frozen");
static_assert(sizeof(struct expertd_matrix) == 32, "layout is frozen");
static_assert(sizeof(struct expertd_ffn) == 104, "layout is frozen");
static_assert(sizeof(struct expertd_batch) == 56, "layout is frozen");

extern __attribute__((visibility("default"))) const struct expertd_plugin expertd_plugin;

#ifdef __cplusplus
}
#endif
#endif
