/* SPDX-License-Identifier: Apache-2.0 */
/* What a dispatch round trip costs: one frame of 1, 8 or 64 rows of hidden 2048 to an expert host in another process and its partial back,
 * as the thread that waits for it sees it, against a TCP ping-pong of as many bytes between the same two processes. The two take turns,
 * sample by sample. The host is the real one: Experts service, executor, registry and the cpu plugin; its experts are 16 wide, so
 * that computing is a small part, which is shown apart.
 *
 * bench_dispatch [--json] [--samples N] [--plugin FILE] [--bulk] [--tls DIR]: DIR has bench.crt, bench.key and ca.crt, for 127.0.0.1 */
#include "base/clock.h"
#include "base/mem.h"
#include "expert/service.h"
#include "model/synth.h"
#include "net/client.h"
#include "net/frame.h"
#include "proto/expertd/experts.pb-c.h"
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define D_MODEL     2048
#define N_EXPERTS   4
#define LAYER       1
#define ROWS_MAX    64
#define SAMPLES_MAX 100000
#define WARM_UP     30
#define HELLO_MS    20000

static const char config[] =
	"{\"model_type\": \"deepseek_v3\", \"vocab_size\": 64, \"hidden_size\": 2048, \"intermediate_size\": 16,"
	" \"moe_intermediate_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 1, \"n_shared_experts\": 1,"
	" \"n_routed_experts\": 4, \"num_experts_per_tok\": 1, \"n_group\": 1, \"topk_group\": 1, \"kv_lora_rank\": 8,"
	" \"q_lora_rank\": 8, \"qk_rope_head_dim\": 8, \"v_head_dim\": 8, \"qk_nope_head_dim\": 8,"
	" \"first_k_dense_replace\": 1, \"max_position_embeddings\": 64, \"eos_token_id\": 1}";

struct options {
	const char *plugin, *tls; /* tls: a directory; NULL: plain text */
	size_t n_samples;
	bool json, serve, bulk; /* bulk: connections tuned for large frames */
};

/* A failure ends the benchmark, in either process. */
static void must(int rc, const struct ex_err *err, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench_dispatch: %s: %s\n", what, err && err->text[0] ? err->text : strerrordesc_np(-rc));
	exit(1);
}

static int errno_of(int rc)
{
	return rc < 0 ? -errno : rc;
}

/* Both sides show the same certificate. NULL: plain text. */
static struct ex_tls *open_tls(const struct options *o)
{
	char cert[256], key[256], ca[256];
	struct ex_err err = EX_ERR_INIT;
	struct ex_tls *t;
	if (!o->tls)
		return NULL;
	snprintf(cert, sizeof cert, "%s/bench.crt", o->tls);
	snprintf(key, sizeof key, "%s/bench.key", o->tls);
	snprintf(ca, sizeof ca, "%s/ca.crt", o->tls);
	must(ex_tls_new(&(struct ex_cert_opts){.cert = cert, .key = key, .ca = ca}, &err, &t), &err, "tls");
	return t;
}

/* --- both sides: whole reads and writes -------------------------------------------------------------------------- */

static int read_all(int fd, void *buf, size_t n)
{
	for (char *p = buf; n;) {
		ssize_t got = read(fd, p, n);
		if (got <= 0)
			return got ? -errno : -ECONNRESET;
		p += got;
		n -= (size_t)got;
	}
	return 0;
}

static int write_all(int fd, const void *buf, size_t n)
{
	for (const char *p = buf; n;) {
		ssize_t put = write(fd, p, n);
		if (put < 0)
			return -errno;
		p += put;
		n -= (size_t)put;
	}
	return 0;
}

/* What the two ends of the ping-pong agree on before it begins. */
struct game {
	uint32_t ping_bytes, pong_bytes, n;
};

static void no_delay(int fd)
{
	static const int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* --- the host's process ------------------------------------------------------------------------------------------ */

static void *play_pong(void *arg)
{
	int listener = *(int *)arg, fd = accept(listener, NULL, NULL);
	struct game g;
	no_delay(fd);
	while (fd >= 0 && !read_all(fd, &g, sizeof g)) {
		char *buf = calloc(1, EX_MAX(g.ping_bytes, g.pong_bytes));
		while (buf && g.n-- && !read_all(fd, buf, g.ping_bytes) && !write_all(fd, buf, g.pong_bytes))
			;
		free(buf);
	}
	close(fd);
	return NULL;
}

static int listen_raw(int *ret_fd)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof a;
	*ret_fd = errno_of(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(*ret_fd, NULL, "socket");
	must(errno_of(bind(*ret_fd, (struct sockaddr *)&a, sizeof a)), NULL, "bind");
	must(errno_of(listen(*ret_fd, 1)), NULL, "listen");
	must(errno_of(getsockname(*ret_fd, (struct sockaddr *)&a, &n)), NULL, "getsockname");
	return ntohs(a.sin_port);
}

static const char *host_option(void *ctx, const char *key)
{
	(void)ctx;
	return strcmp(key, "threads") == 0 ? "1" : NULL;
}

static void host_log(void *ctx, int priority, const char *fmt, ...) EX_PRINTF(3, 4);
static void host_log(void *ctx, int priority, const char *fmt, ...)
{
	(void)ctx;
	(void)priority;
	(void)fmt;
}

/* Random weights of the shape above, in a directory that is gone when this returns: the files stay mapped. */
static struct ex_weights *open_weights(void)
{
	char dir[] = "/tmp/bench-dispatch-XXXXXX", path[64], model[64], command[96];
	struct ex_err err = EX_ERR_INIT;
	struct ex_weights *w = NULL;
	must(mkdtemp(dir) ? 0 : -errno, NULL, "mkdtemp");
	snprintf(path, sizeof path, "%s/config.json", dir);
	snprintf(model, sizeof model, "%s/model", dir);
	snprintf(command, sizeof command, "rm -r %s", dir);
	FILE *f = fopen(path, "w");
	if (!f || fputs(config, f) < 0 || fclose(f))
		must(-EIO, NULL, path);
	int rc = ex_model_synth(path, model, &(struct ex_synth_opts){.seed = 1, .dtype = EXPERTD_BF16}, &err);
	if (!rc)
		rc = ex_weights_open(model, &err, &w);
	if (system(command))
		fprintf(stderr, "bench_dispatch: %s is left\n", dir);
	must(rc, &err, "weights");
	return w;
}

struct host {
	struct ex_weights *weights;
	struct ex_plugin *plugin;
	struct ex_registry *registry;
	struct ex_executor *executor;
	struct ex_experts_service *service;
	struct ex_loop *loops[2]; /* data, control */
	struct ex_tls *tls;
	struct ex_server *server;
};

static void start_host(struct host *h, const struct options *o)
{
	static const struct expertd_host services = {.log = host_log, .option = host_option};
	const struct ex_shard_id id = {LAYER, 0, N_EXPERTS};
	struct ex_err err = EX_ERR_INIT;
	const char *dir = getenv("EX_PLUGIN_DIR");
	const struct ex_loader_opts loader = {.dir = dir ? dir : ".libs"};
	h->weights = open_weights();
	must(ex_plugin_open(&loader, o->plugin, &err, &h->plugin), &err, "plugin");
	must(ex_registry_new(&(struct ex_registry_opts){.n_experts = N_EXPERTS, .n_groups = 1, .n_layers = LAYER + 1},
		     &h->registry),
		NULL, "registry");
	must(ex_registry_load(h->registry, &id, h->plugin, &services, "0", h->weights, &err), &err, "shard");
	const struct ex_executor_opts eo = {.registry = h->registry,
		.d_model = D_MODEL,
		.n_workers = 1,
		.batch_rows_max = ROWS_MAX,
		.queue_rows_max = 4096};
	must(ex_executor_new(&eo, &err, &h->executor), &err, "executor");
	const struct ex_experts_service_opts so = {.registry = h->registry,
		.executor = h->executor,
		.node = "host",
		.version = "bench",
		.model_digest = "",
		.d_model = D_MODEL,
		.n_experts = N_EXPERTS,
		.n_groups = 1};
	must(ex_experts_service_new(&so, &h->service), NULL, "service");
	must(ex_loop_new("data", &err, &h->loops[0]), &err, "loop");
	must(ex_loop_new("control", &err, &h->loops[1]), &err, "loop");
	h->tls = open_tls(o);
	const struct ex_server_opts server = {
		.listen = "127.0.0.1:0",
		.loops = h->loops,
		.n_loops = 2,
		.methods = ex_experts_service_methods(h->service, 1, 0),
		.bulk = o->bulk,
		.tls = h->tls,
	};
	must(ex_server_start(&server, &err, &h->server), &err, "server");
}

static int serve(const struct options *o)
{
	struct host h = {0};
	int listener;
	pthread_t raw;
	char c;
	ex_net_init();
	start_host(&h, o);
	int raw_port = listen_raw(&listener);
	must(-pthread_create(&raw, NULL, play_pong, &listener), NULL, "thread");
	printf("%d %d\n", ex_server_port(h.server), raw_port);
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0) /* until the other process closes it */
		;
	ex_server_stop(h.server, 0);
	ex_tls_free(h.tls);
	ex_executor_free(h.executor);
	ex_experts_service_free(h.service);
	ex_loop_free(h.loops[0]);
	ex_loop_free(h.loops[1]);
	ex_registry_free(h.registry);
	ex_plugin_unref(h.plugin);
	ex_weights_close(h.weights);
	ex_net_done();
	shutdown(listener, SHUT_RDWR);
	pthread_join(raw, NULL);
	return 0;
}

/* --- the router's process ---------------------------------------------------------------------------------------- */

struct router {
	pid_t host;
	int host_stdin, raw_fd;
	struct ex_loop *loop;
	struct ex_tls *tls;
	struct ex_channel *control, *channel; /* as a router has them: one for Hello, one for the stream */
	struct ex_stream *stream;
	float y[ROWS_MAX * D_MODEL];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t answered; /* id of the latest reply; guarded by lock, as all below */
	uint64_t compute_ns;
	int32_t status;
	bool closed;
};

static void on_reply(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct router *r = ctx;
	struct ex_frame_reply f;
	struct ex_err err = EX_ERR_INIT;
	(void)s;
	must(ex_frame_reply_parse(m, D_MODEL, &err, &f), &err, "reply");
	if (f.y_bytes <= sizeof r->y)
		ex_pieces_copy(f.y, f.n_y, r->y);
	pthread_mutex_lock(&r->lock);
	r->answered = f.id;
	r->compute_ns = f.compute_ns;
	r->status = f.n_shards == 1 ? f.shards[0].status : -EBADMSG;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
	ex_frame_reply_done(&f);
	ex_msg_free(m);
}

static void on_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct router *r = ctx;
	(void)s;
	pthread_mutex_lock(&r->lock);
	if (status != EX_STATUS_CANCELLED)
		fprintf(stderr, "bench_dispatch: stream: %s: %s\n", ex_status_name(status), text);
	r->closed = true;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

/* The host's process, and its two ports. */
static void start_process(struct router *r, char **argv, const struct options *o, int *ret_port, int *ret_raw_port)
{
	int in[2], out[2];
	must(errno_of(pipe(in)), NULL, "pipe");
	must(errno_of(pipe(out)), NULL, "pipe");
	r->host = errno_of(fork());
	must(r->host, NULL, "fork");
	if (r->host == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		close(in[1]);
		close(out[0]);
		const char *args[8] = {argv[0], "--serve", "--plugin", o->plugin};
		size_t n = 4;
		if (o->bulk)
			args[n++] = "--bulk";
		if (o->tls) {
			args[n++] = "--tls";
			args[n++] = o->tls;
		}
		execv("/proc/self/exe", (char **)args);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	r->host_stdin = in[1];
	FILE *f = fdopen(out[0], "r");
	if (!f || fscanf(f, "%d %d", ret_port, ret_raw_port) != 2)
		must(-ECHILD, NULL, "the host did not start");
	fclose(f);
}

static void say_hello(struct router *r)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_msg *m;
	Expertd__V1__HelloRequest q = EXPERTD__V1__HELLO_REQUEST__INIT;
	q.wire = EX_WIRE_VERSION;
	q.expert_groups = 1;
	must(ex_unary(r->control, "/expertd.v1.Experts/Hello", &q.base, HELLO_MS, &err, &m), &err, "Hello");
	ex_msg_free(m);
}

static void start_router(struct router *r, char **argv, const struct options *o)
{
	static const struct ex_stream_ops ops = {.message = on_reply, .closed = on_closed};
	struct ex_err err = EX_ERR_INIT;
	int port, raw_port;
	char target[32];
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	start_process(r, argv, o, &port, &raw_port);
	r->raw_fd = errno_of(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(r->raw_fd, NULL, "socket");
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)raw_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	must(errno_of(connect(r->raw_fd, (struct sockaddr *)&a, sizeof a)), NULL, "connect");
	no_delay(r->raw_fd);
	ex_net_init();
	must(ex_loop_new("dispatch", &err, &r->loop), &err, "loop");
	snprintf(target, sizeof target, "127.0.0.1:%d", port);
	r->tls = open_tls(o);
	const struct ex_channel_opts c = {.target = target,
		.loop = r->loop,
		.message_bytes_max = EX_FRAME_BYTES_MAX,
		.bulk = o->bulk,
		.tls = r->tls};
	must(ex_channel_new(&c, &err, &r->control), &err, "channel");
	must(ex_channel_new(&c, &err, &r->channel), &err, "channel");
	say_hello(r);
	must(ex_stream_open(r->channel, "/expertd.v1.Experts/Dispatch", 0, true, &ops, r, &err, &r->stream), &err,
		"stream");
}

static void stop_router(struct router *r)
{
	int status;
	ex_stream_drop(r->stream);
	ex_channel_free(r->channel);
	ex_channel_free(r->control);
	ex_tls_free(r->tls);
	ex_loop_free(r->loop);
	ex_net_done();
	close(r->raw_fd);
	close(r->host_stdin);
	if (waitpid(r->host, &status, 0) < 0 || status)
		must(-ECHILD, NULL, "the host's end");
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
}

/* --- cells ------------------------------------------------------------------------------------------------------- */

struct cell {
	uint32_t n_rows, x_dtype;
	struct ex_frame_request frame;
	struct ex_frame_shard shard;
	uint32_t rows[ROWS_MAX], offset[N_EXPERTS + 1], token[ROWS_MAX];
	float weight[ROWS_MAX];
	void *x;
	size_t x_bytes, ping_bytes, pong_bytes;
	uint64_t *raw_ns, *dispatch_ns, *compute_ns; /* [n_samples], sorted in the end */
};

static size_t bytes_of(struct ex_out *o)
{
	must(o ? 0 : -ENOMEM, NULL, "frame");
	size_t n = ex_out_bytes(o);
	ex_out_free(o);
	return n;
}

/* Rows 0, 4, 8.. go to expert 0, rows 1, 5.. to expert 1, and so on. */
static void make_cell(struct cell *c, size_t n_samples)
{
	uint32_t n = 0, size = c->x_dtype == EXPERTD_F32 ? 4 : 2;
	for (uint32_t e = 0; e < N_EXPERTS; e++) {
		for (uint32_t row = e; row < c->n_rows; row += N_EXPERTS)
			c->token[n++] = row;
		c->offset[e + 1] = n;
	}
	for (uint32_t i = 0; i < c->n_rows; i++) {
		c->rows[i] = i;
		c->weight[i] = 1;
	}
	c->x_bytes = (size_t)c->n_rows * D_MODEL * size;
	c->x = ex_alloc_aligned(c->x_bytes, 1);
	c->raw_ns = ex_calloc(n_samples, sizeof *c->raw_ns);
	c->dispatch_ns = ex_calloc(n_samples, sizeof *c->dispatch_ns);
	c->compute_ns = ex_calloc(n_samples, sizeof *c->compute_ns);
	if (!c->x || !c->raw_ns || !c->dispatch_ns || !c->compute_ns)
		must(-ENOMEM, NULL, "memory");
	for (size_t i = 0; i < c->x_bytes / size; i++)
		if (c->x_dtype == EXPERTD_F32)
			((float *)c->x)[i] = (float)(i % 17) / 16;
		else
			((uint16_t *)c->x)[i] = (uint16_t)(0x3f80 + i % 17);
	c->shard = (struct ex_frame_shard){.n_experts = N_EXPERTS,
		.n_rows = c->n_rows,
		.n_assignments = c->n_rows,
		.rows = c->rows,
		.offset = c->offset,
		.token = c->token,
		.weight = c->weight};
	c->frame = (struct ex_frame_request){.layer = LAYER,
		.x_dtype = c->x_dtype,
		.n_rows = c->n_rows,
		.d_model = D_MODEL,
		.n_shards = 1,
		.shards = &c->shard};
	c->ping_bytes = bytes_of(ex_frame_request_pack(&c->frame, c->x, c->x_bytes, NULL, NULL));
	static const float y[ROWS_MAX * D_MODEL];
	struct ex_frame_partial p = {.n_rows = c->n_rows, .generation = 1};
	const struct ex_frame_reply reply = {.id = 1, .compute_ns = 1 << 20, .n_shards = 1, .shards = &p};
	c->pong_bytes =
		bytes_of(ex_frame_reply_pack(&reply, y, (size_t)c->n_rows * D_MODEL * sizeof(float), NULL, NULL));
}

static uint64_t play_ping(struct router *r, const struct cell *c, char *buf)
{
	uint64_t t = ex_now_ns();
	must(write_all(r->raw_fd, buf, c->ping_bytes), NULL, "ping");
	must(read_all(r->raw_fd, buf, c->pong_bytes), NULL, "pong");
	return ex_now_ns() - t;
}

static uint64_t dispatch_once(struct router *r, struct cell *c, uint64_t id, uint64_t *ret_compute_ns)
{
	uint64_t t = ex_now_ns();
	c->frame.id = id;
	c->frame.sent_ns = t;
	struct ex_out *o = ex_frame_request_pack(&c->frame, c->x, c->x_bytes, NULL, NULL);
	must(o ? ex_stream_send(r->stream, o) : -ENOMEM, NULL, "dispatch");
	pthread_mutex_lock(&r->lock);
	while (r->answered != id && !r->closed)
		pthread_cond_wait(&r->changed, &r->lock);
	must(r->closed ? -ECONNRESET : r->status, NULL, "shard");
	*ret_compute_ns = r->compute_ns;
	pthread_mutex_unlock(&r->lock);
	return ex_now_ns() - t;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static void run_cell(struct router *r, struct cell *c, size_t n_samples, uint64_t *id)
{
	char *buf = calloc(1, EX_MAX(c->ping_bytes, c->pong_bytes));
	struct game g = {(uint32_t)c->ping_bytes, (uint32_t)c->pong_bytes, (uint32_t)(n_samples + WARM_UP)};
	if (!buf)
		must(-ENOMEM, NULL, "memory");
	must(write_all(r->raw_fd, &g, sizeof g), NULL, "ping");
	for (size_t i = 0; i < n_samples + WARM_UP; i++) {
		uint64_t compute_ns, raw_ns = play_ping(r, c, buf), ns = dispatch_once(r, c, ++*id, &compute_ns);
		if (i < WARM_UP)
			continue;
		c->raw_ns[i - WARM_UP] = raw_ns;
		c->dispatch_ns[i - WARM_UP] = ns;
		c->compute_ns[i - WARM_UP] = compute_ns;
	}
	qsort(c->raw_ns, n_samples, sizeof(uint64_t), compare);
	qsort(c->dispatch_ns, n_samples, sizeof(uint64_t), compare);
	qsort(c->compute_ns, n_samples, sizeof(uint64_t), compare);
	free(buf);
}

/* --- figures ----------------------------------------------------------------------------------------------------- */

static double us(const uint64_t *ns, size_t n, unsigned percent)
{
	return (double)ns[EX_MIN(n * percent / 100, n - 1)] / 1e3;
}

static void print_table(const struct cell *cells, size_t n_cells, size_t n, bool tls)
{
	printf("Dispatch round trip%s, hidden %d, %zu samples each, us: p50 (p99)\n", tls ? " under mutual TLS" : "",
		D_MODEL, n);
	printf("rows  x     request B  reply B  raw TCP           dispatch          x raw   on the host\n");
	for (size_t i = 0; i < n_cells; i++) {
		const struct cell *c = &cells[i];
		printf("%4u  %-4s  %9zu  %7zu  %6.0f (%6.0f)   %6.0f (%6.0f)   %5.2f   %6.0f (%6.0f)\n", c->n_rows,
			c->x_dtype == EXPERTD_F32 ? "f32" : "bf16", c->ping_bytes, c->pong_bytes, us(c->raw_ns, n, 50),
			us(c->raw_ns, n, 99), us(c->dispatch_ns, n, 50), us(c->dispatch_ns, n, 99),
			us(c->dispatch_ns, n, 50) / us(c->raw_ns, n, 50), us(c->compute_ns, n, 50),
			us(c->compute_ns, n, 99));
	}
	printf("on the host: from the frame's arrival in the service to its reply, queue and plugin included\n");
}

static void print_json(const struct cell *cells, size_t n_cells, size_t n, bool tls)
{
	printf("{\"d_model\": %d, \"samples\": %zu, \"tls\": %s, \"cells\": [", D_MODEL, n, tls ? "true" : "false");
	for (size_t i = 0; i < n_cells; i++) {
		const struct cell *c = &cells[i];
		printf("%s\n {\"rows\": %u, \"x\": \"%s\", \"request_bytes\": %zu, \"reply_bytes\": %zu, "
		       "\"raw_p50_us\": %.1f, \"raw_p99_us\": %.1f, "
		       "\"dispatch_p50_us\": %.1f, \"dispatch_p99_us\": %.1f, \"host_p50_us\": %.1f, \"host_p99_us\": "
		       "%.1f}",
			i ? "," : "", c->n_rows, c->x_dtype == EXPERTD_F32 ? "f32" : "bf16", c->ping_bytes,
			c->pong_bytes, us(c->raw_ns, n, 50), us(c->raw_ns, n, 99), us(c->dispatch_ns, n, 50),
			us(c->dispatch_ns, n, 99), us(c->compute_ns, n, 50), us(c->compute_ns, n, 99));
	}
	printf("\n]}\n");
}

static int run(char **argv, const struct options *o)
{
	static struct router r;
	static struct cell cells[] = {
		{.n_rows = 1, .x_dtype = EXPERTD_F32},
		{.n_rows = 8, .x_dtype = EXPERTD_F32},
		{.n_rows = 64, .x_dtype = EXPERTD_F32},
		{.n_rows = 1, .x_dtype = EXPERTD_BF16},
		{.n_rows = 8, .x_dtype = EXPERTD_BF16},
		{.n_rows = 64, .x_dtype = EXPERTD_BF16},
	};
	uint64_t id = 0;
	start_router(&r, argv, o);
	for (size_t i = 0; i < EX_ARRAY_LEN(cells); i++) {
		make_cell(&cells[i], o->n_samples);
		run_cell(&r, &cells[i], o->n_samples, &id);
	}
	stop_router(&r);
	(o->json ? print_json : print_table)(cells, EX_ARRAY_LEN(cells), o->n_samples, o->tls != NULL);
	for (size_t i = 0; i < EX_ARRAY_LEN(cells); i++) {
		free(cells[i].x);
		free(cells[i].raw_ns);
		free(cells[i].dispatch_ns);
		free(cells[i].compute_ns);
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		{"json", no_argument, NULL, 'j'},
		{"samples", required_argument, NULL, 'n'},
		{"plugin", required_argument, NULL, 'p'},
		{"serve", no_argument, NULL, 's'},
		{"bulk", no_argument, NULL, 'b'},
		{"tls", required_argument, NULL, 't'},
		{NULL, 0, NULL, 0},
	};
	struct options o = {.plugin = "cpu", .n_samples = 1000};
	for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
		switch (c) {
		case 'j':
			o.json = true;
			break;
		case 'n':
			o.n_samples = strtoul(optarg, NULL, 10);
			break;
		case 'p':
			o.plugin = optarg;
			break;
		case 's':
			o.serve = true;
			break;
		case 'b':
			o.bulk = true;
			break;
		case 't':
			o.tls = optarg;
			break;
		default:
			return 2;
		}
	if (optind < argc || o.n_samples < 1 || o.n_samples > SAMPLES_MAX) {
		fprintf(stderr,
			"usage: bench_dispatch [--json] [--samples 1..%d] [--plugin NAME|FILE.so] [--bulk] [--tls "
			"DIR]\n",
			SAMPLES_MAX);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	return o.serve ? serve(&o) : run(argv, &o);
}
