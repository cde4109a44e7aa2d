/* SPDX-License-Identifier: Apache-2.0 */
/* A server with services of every temper, a client beside it, and streams that remember what they heard: what test_server_client
 * tests with. */
#ifndef EX_TESTS_UNIT_SERVER_PAIR_H
#define EX_TESTS_UNIT_SERVER_PAIR_H

#include "unit.h"

#include "net/client.h"
#include "net/server.h"
#include "proto/expertd/experts.pb-c.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

typedef Expertd__V1__HelloRequest note; /* any small message will do */

struct fixture {
	struct ex_loop *loops[2], *client_loop;
	struct ex_server *server;
	struct ex_channel *channel;
	char dir[64], address[128];
	/* what the services saw */
	sem_t done, arrived;
	_Atomic int n_done, n_cancelled, n_messages;
	struct ex_rpc *held;
	pthread_t late_thread;
	bool have_late;
	char peer[96];
};

struct ex_out *pack_note(const char *text);

#define N_METHODS 7 /* the last one ends the table */
void fill_methods(struct fixture *f, struct ex_method methods[static N_METHODS]);

/* cmocka's setup and teardown: the loops; the loops, the server and its client. */
int setup_loops(void **state);
int setup(void **state);
int teardown(void **state);
/* A server that listens there, and a client of it; more: further options, with methods or NULL for the fixture's. */
void start(struct fixture *f, const char *listen);
void start_with(struct fixture *f, const char *listen, const struct ex_server_opts *more);

struct heard {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic int n_messages;
	int status;
	bool closed;
	size_t bytes;
	char last[64], text[256];
	sem_t *block; /* message waits here: a client that does not read */
};

#define HEARD_INIT ((struct heard){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER})

extern const struct ex_stream_ops heard_ops; /* ctx: a struct heard */

void wait_messages(struct heard *h, int n);
void wait_closed(struct heard *h);
struct ex_stream *open_stream(struct fixture *f, const char *path, struct heard *h);
/* A note there and back; ret has room for n bytes. */
int call(struct fixture *f, const char *path, const char *text, unsigned deadline_ms, struct ex_err *err, char *ret,
	size_t n);

#endif
