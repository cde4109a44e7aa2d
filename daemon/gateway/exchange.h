/* SPDX-License-Identifier: Apache-2.0 */
/* One request and its answer, between libmicrohttpd's threads, the engine's and whoever admits. Private to gateway/. Layer L4.
 *
 * Referenced by the connection until it is done with the request, by every choice that the engine computes, and by every callback that is still to
 * come. While there is nothing to send the connection is suspended: whoever has something wakes it. The connection is suspended and resumed under
 * the exchange's lock only. */
#ifndef EX_GATEWAY_EXCHANGE_H
#define EX_GATEWAY_EXCHANGE_H

#include "base/lock.h"
#include "engine/jobs.h"
#include "gateway/chat_reply.h"
#include "gateway/chat_request.h"
#include "gateway/edge.h"
#include "gateway/json_guide.h"
#include "gateway/penalty.h"
#include "gateway/prompt.h"
#include "gateway/socket.h"
#include <microhttpd.h>

#define EX_EXCHANGE_MAGIC 0x67686378u
#define EX_HTTP_ID_MAX    37

struct ex_exchange;

struct ex_route {
	const char *method, *path;            /* without /v1 */
	enum ex_ask_kind kind;                /* of a generation */
	void (*start)(struct ex_exchange *x); /* the whole request is there; the connection is suspended [http] */
};

struct ex_choice {
	struct ex_exchange *x;
	uint32_t index;
	/* guarded by x->lock */
	struct ex_request *request; /* NULL: not submitted yet, or finished */
	bool finished;
	enum ex_finish reason;
	struct ex_reply_choice reply; /* without stream */
	struct ex_penalty penalty;    /* [step] */
	struct ex_json_guide guide;   /* of an answer in JSON [step] */
};

struct ex_exchange {
	uint32_t magic;
	atomic_uint n_refs;
	struct ex_gateway *g;
	/* guarded by the gateway's lock */
	struct ex_exchange *prev, *next; /* of those that a connection holds */
	uint64_t serial;

	char id[EX_HTTP_ID_MAX];
	const struct ex_route *route; /* NULL: `error` says why there is none */
	struct ex_job job;
	char *key;          /* bearer token; NULL: none */
	struct ex_str body; /* [http], then whoever starts it */
	size_t n_dropped;   /* bytes of a body that is not wanted [http] */
	bool started;       /* [http] */
	int fd;

	/* of a generation: fixed before the first choice is submitted */
	struct ex_chat_ask ask;
	struct ex_side *side;        /* what it is encoded for: held until it is submitted */
	struct ex_edge_model *model; /* of that side; referenced */
	struct ex_reply_head head;   /* the fingerprint: guarded by lock */
	struct ex_prompt prompt;
	uint32_t n_tokens_max; /* of a choice */
	struct ex_ticket *ticket;
	char code[48]; /* of a refusal by who admits */

	struct ex_lock lock;
	/* guarded by lock */
	struct MHD_Connection *c; /* NULL: it is done with this */
	bool suspended;
	bool ready;   /* the reply can begin */
	bool replied; /* it has begun: the status is out */
	bool ended;   /* nothing more comes into out */
	bool cut;     /* the connection is to be broken instead */
	bool too_large;
	size_t n_whole_bytes; /* of an answer that is not streamed */
	int status;
	struct ex_api_error error;
	struct ex_admit_answer limits; /* for the headers */
	bool has_limits;
	struct ex_str out; /* from out_at on */
	size_t out_at;
	uint64_t waits_since_ns; /* for the engine, 0: not; for keep-alives: since the last byte */
	uint64_t last_ns;
	bool running;                         /* some choice was started */
	char fingerprint[EX_FINGERPRINT_MAX]; /* of the model that answers; head has it */
	struct ex_usage_tokens used;
	uint32_t n_choices_open;
	struct ex_choice *choices; /* [ask.n_choices] */
};

struct ex_exchange *ex_exchange_new(struct ex_gateway *g, struct MHD_Connection *c);
struct ex_exchange *ex_exchange_ref(struct ex_exchange *x);
void ex_exchange_unref(struct ex_exchange *x);

/* Frees the body. */
void ex_exchange_drop_body(struct ex_exchange *x);
/* Suspends the connection for a start. False: the exchange has ended meanwhile. [http] */
bool ex_exchange_suspend(struct ex_exchange *x);
/* Under x->lock: the connection goes on, if it was suspended. */
void ex_exchange_wake(struct ex_exchange *x);
/* Under x->lock: nothing more comes; the connection goes on. */
void ex_exchange_end(struct ex_exchange *x);
/* The answer is this error, or, when the reply has begun, an error in it. [any] */
void ex_exchange_fail(struct ex_exchange *x, const struct ex_api_error *e);
/* The answer is this JSON; takes what is in body. [any] */
void ex_exchange_answer(struct ex_exchange *x, int status, struct ex_str *body);
/* The client left, or is cut off: what runs is cancelled. [any] */
void ex_exchange_abandon(struct ex_exchange *x);
/* Queues the reply. [http] */
enum MHD_Result ex_exchange_reply(struct ex_exchange *x, struct MHD_Connection *c);
/* Keep-alives, and the end of waiting. [watch] */
void ex_exchange_tick(struct ex_exchange *x, uint64_t now_ns);

/* POST /chat/completions, /completions */
void ex_generation_start(struct ex_exchange *x);
/* Under x->lock: cancels what runs. */
void ex_generation_cancel(struct ex_exchange *x);
/* Frees what a generation left. */
void ex_generation_done(struct ex_exchange *x);

/* One connection and the instant by which its client must have done what it is to do next. */
struct ex_conn {
	struct ex_conn *prev, *next; /* guarded by the gateway's conns_lock */
	int fd;
	_Atomic uint64_t deadline_ns; /* 0: none, it is our turn */
};
/* From now on the client has so long. conn: NULL is taken. [http] */
void ex_conn_expect(struct ex_conn *conn, unsigned seconds);
void ex_conn_relax(struct ex_conn *conn);
struct ex_conn *ex_conn_of(struct MHD_Connection *c);
/* MHD_NotifyConnectionCallback: connections come and go. */
void ex_conn_notify(
	void *gateway, struct MHD_Connection *c, void **socket_context, enum MHD_ConnectionNotificationCode what);
/* Ends connections whose client is late. [watch] */
void ex_conn_tick(struct ex_gateway *g, uint64_t now_ns);

/* --- the gateway from the inside -------------------------------------------------------------------------- */

struct ex_gateway {
	uint32_t magic;
	struct ex_gateway_opts o;
	struct MHD_Daemon *daemon;
	struct ex_socket socket;
	struct ex_jobs *reader;
	uint32_t n_ctx; /* longest sequence */
	uint64_t start_s;
	struct ex_watch *watch;
	_Atomic uint64_t bodies_bytes; /* of all requests that were not read yet */
	struct ex_lock conns_lock;
	struct ex_conn *conns; /* guarded by conns_lock */
	struct ex_lock lock;
	pthread_cond_t gone; /* an exchange was freed, or left by its connection */
	/* guarded by lock */
	struct ex_exchange *first; /* those that a connection holds */
	uint64_t n_exchanges;      /* so far */
	uint32_t n_live;
	bool stopping;
};

/* The thread that sees clients leave and keeps those that wait company. */
struct ex_watch;
int ex_watch_new(struct ex_gateway *g, struct ex_err *err, struct ex_watch **ret);
struct ex_watch *ex_watch_free(struct ex_watch *w);
void ex_watch_add(struct ex_watch *w, const struct ex_exchange *x); /* [http] */
void ex_watch_remove(struct ex_watch *w, const struct ex_exchange *x);
uint64_t ex_watch_turns(const struct ex_watch *w);

#endif
