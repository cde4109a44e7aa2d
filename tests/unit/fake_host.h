/* SPDX-License-Identifier: Apache-2.0 */
/* An expert host for tests of dispatch: answers Hello and frames over gRPC, computes in scalar C, and misbehaves when
 * told to. */
#ifndef EX_TESTS_FAKE_HOST_H
#define EX_TESTS_FAKE_HOST_H

#include "net/server.h"
#include <pthread.h>
#include <stdatomic.h>

#define FAKE_D         16
#define FAKE_LAYERS    4
#define FAKE_EXPERTS   10
#define FAKE_GROUPS    4
#define FAKE_DIGEST    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define FAKE_FIRST_MOE 1

enum fake_mode {
	FAKE_GOOD,
	FAKE_SILENT,      /* answers heartbeats, no frames */
	FAKE_FROZEN,      /* answers nothing any more */
	FAKE_CLOSES,      /* ends the stream when a frame comes */
	FAKE_WRONG_REPLY, /* answers for other shards than asked */
	FAKE_SHARD_FAILS, /* -EIO for the first shard of each frame */
	FAKE_OTHER_MODEL, /* another digest in Hello */
	FAKE_OTHER_WIRE,
	FAKE_TWICE,       /* every reply is sent twice */
	FAKE_WRONG_BITS,  /* one bit of each reply is flipped */
	FAKE_HELLO_EMPTY, /* ends Hello with OK and no reply */
};

struct fake_host {
	const char *name;
	uint32_t shards; /* bit g: holds group g of every layer */
	struct ex_loop *loop;
	struct ex_server *server;
	struct ex_method methods[3];
	int port; /* 0 before the first start; the same after */
	char address[32];
	_Atomic int mode; /* enum fake_mode */
	_Atomic bool draining;
	_Atomic uint64_t revision;
	const char *identity; /* of all shards */
	const char *_Atomic
		computes_as; /* another identity than in Hello, and other bits: all doubled; NULL: as in Hello */
	struct ex_tls *tls;  /* NULL: plain text */
	uint32_t data_port;  /* offered in Hello, with word */
	const char *word;
	char shown[32]; /* the word of the last Dispatch stream; read it after the host is stopped */
	_Atomic int n_frames, n_rows, x_dtype;
};

/* Listens on a port of its own. */
void fake_host_start(struct fake_host *h, const char *name, uint32_t shards);
/* The same under TLS (borrowed), and Hello offers a port for plain text, with a word (borrowed). */
struct fake_tls {
	struct ex_tls *tls;
	uint32_t data_port;
	const char *word;
};
void fake_host_start_tls(struct fake_host *h, const char *name, uint32_t shards, const struct fake_tls *tls);
void fake_host_stop(struct fake_host *h);
/* Starts again at the same address. */
void fake_host_restart(struct fake_host *h);

/* What expert `e` of `layer` makes of x: out[c] += weight * f. The same scalar code on every host. */
void fake_expert(uint32_t layer, uint32_t e, const float *x, float weight, float *out);

#endif
