/* SPDX-License-Identifier: Apache-2.0 */
/* net/tls under a server and a client: who gets through, what the others are told, and certificates that change under open streams. */
#include "certs.h"
#include "server_pair.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char dir[64];
static struct authority ca, stranger;
static const char *const files[] = {"ca", "stranger", "h1", "h2", "r1", "r9", "alien", "both"};
static const char *const hosts[] = {"h*"}, *const routers[] = {"r1", "r2"};

struct tls_pair {
	struct fixture f;
	struct ex_tls *host, *router;
	pthread_mutex_t lock;
	char refused[256], refused_peer[96]; /* guarded by lock */
	_Atomic int n_refused;
};

static int make_certs(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_tls.XXXXXX");
	assert_non_null(mkdtemp(dir));
	authority_new(&ca, "fleet CA");
	authority_new(&stranger, "another CA");
	write_authority(&ca, dir, "ca");
	write_authority(&stranger, dir, "stranger");
	static const char *const names[] = {"h1", "h2", "r1", "r9"};
	for (size_t i = 0; i < EX_ARRAY_LEN(names); i++) {
		char san[32];
		snprintf(san, sizeof san, "DNS:%s", names[i]);
		write_leaf(&ca, dir, &(struct leaf){.name = names[i], .san = san});
	}
	write_leaf(&stranger, dir, &(struct leaf){.name = "alien", .san = "DNS:r1"});
	return 0;
}

static int remove_certs(void **state)
{
	(void)state;
	authority_done(&ca);
	authority_done(&stranger);
	remove_files(dir, files, EX_ARRAY_LEN(files));
	return 0;
}

static struct ex_tls *tls_of(const char *name, const char *authority, const char *const *peers, size_t n_peers)
{
	struct cert_paths p;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tls *t;
	EXPECT_OK(err, ex_tls_new(paths_of(&p, dir, name, authority, peers, n_peers), &err, &t));
	return t;
}

static void on_refused(void *ctx, const char *peer, const char *text)
{
	struct tls_pair *p = ctx;
	pthread_mutex_lock(&p->lock);
	snprintf(p->refused, sizeof p->refused, "%s", text);
	snprintf(p->refused_peer, sizeof p->refused_peer, "%s", peer);
	pthread_mutex_unlock(&p->lock);
	p->n_refused++;
}

/* A server that shows h1 to callers r1 and r2, and a channel of `router` (takes it; NULL: plain text). host_tls: the server's, too. */
static void start_pair(struct tls_pair *p, struct ex_tls *host, struct ex_tls *router)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_method methods[N_METHODS];
	p->host = host;
	p->router = router;
	fill_methods(&p->f, methods);
	const struct ex_server_opts o = {.listen = "127.0.0.1:0",
		.loops = p->f.loops,
		.n_loops = 2,
		.methods = methods,
		.tls = host,
		.refused = on_refused,
		.refused_ctx = p};
	EXPECT_OK(err, ex_server_start(&o, &err, &p->f.server));
	snprintf(p->f.address, sizeof p->f.address, "127.0.0.1:%d", ex_server_port(p->f.server));
	const struct ex_channel_opts c = {.target = p->f.address, .loop = p->f.client_loop, .tls = router};
	EXPECT_OK(err, ex_channel_new(&c, &err, &p->f.channel));
}

static int setup_pair(void **state)
{
	struct tls_pair *p = calloc(1, sizeof *p);
	struct ex_err err = EX_ERR_INIT;
	pthread_mutex_init(&p->lock, NULL);
	sem_init(&p->f.done, 0, 0);
	sem_init(&p->f.arrived, 0, 0);
	EXPECT_OK(err, ex_loop_new("srv0", &err, &p->f.loops[0]));
	EXPECT_OK(err, ex_loop_new("srv1", &err, &p->f.loops[1]));
	EXPECT_OK(err, ex_loop_new("client", &err, &p->f.client_loop));
	*state = p;
	return 0;
}

static int teardown_pair(void **state)
{
	struct tls_pair *p = *state;
	ex_channel_free(p->f.channel);
	ex_server_stop(p->f.server, 0);
	ex_tls_free(p->router);
	ex_tls_free(p->host);
	ex_loop_free(p->f.loops[0]);
	ex_loop_free(p->f.loops[1]);
	ex_loop_free(p->f.client_loop);
	pthread_mutex_destroy(&p->lock);
	sem_destroy(&p->f.done);
	sem_destroy(&p->f.arrived);
	free(p);
	return 0;
}

static int ask(struct tls_pair *p, struct ex_err *err)
{
	char back[64] = "";
	int rc = call(&p->f, "/t.Test/Echo", "hello", 20000, err, back, sizeof back);
	if (!rc)
		assert_string_equal(back, "hello");
	return rc;
}

static void test_both_sides(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	start_pair(p, tls_of("h1", "ca", routers, 2), tls_of("r1", "ca", hosts, 1));
	for (int i = 0; i < 5; i++)
		EXPECT_OK(err, ask(p, &err));
	assert_int_equal(p->n_refused, 0);
}

/* A caller of the CA by another name is refused before any service sees its call, whatever it calls, and both sides are told. */
static void test_caller_refused(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	char back[64];
	start_pair(p, tls_of("h1", "ca", routers, 2), tls_of("r9", "ca", hosts, 1));
	assert_int_equal(ask(p, &err), -EACCES);
	assert_string_equal(err.text, "PERMISSION_DENIED: SAN 'r9' of the caller is not among [tls] peers");
	pthread_mutex_lock(&p->lock);
	assert_string_equal(p->refused, "SAN 'r9' of the caller is not among [tls] peers");
	assert_int_equal(strncmp(p->refused_peer, "127.0.0.1:", 10), 0);
	pthread_mutex_unlock(&p->lock);
	static const char *const paths[] = {"/grpc.health.v1.Health/Check", "/t.Test/Nope"};
	for (size_t i = 0; i < EX_ARRAY_LEN(paths); i++)
		assert_int_equal(call(&p->f, paths[i], "x", 20000, &err, back, sizeof back), -EACCES);
	assert_int_equal(p->n_refused, 3);
	assert_int_equal(p->f.n_done, 0);
}

static void test_host_refused(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	char want[300];
	start_pair(p, tls_of("r9", "ca", routers, 2), tls_of("r1", "ca", hosts, 1));
	assert_int_equal(ask(p, &err), -ENOTCONN);
	snprintf(want, sizeof want, "UNAVAILABLE: SAN 'r9' of %s is not among [tls] peers", p->f.address);
	assert_string_equal(err.text, want);
	assert_int_equal(p->f.n_done, 0);
}

static void test_host_of_another_ca(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	char want[300];
	start_pair(p, tls_of("alien", "stranger", NULL, 0), tls_of("r1", "ca", routers, 2));
	assert_int_equal(ask(p, &err), -ENOTCONN);
	snprintf(want, sizeof want,
		"UNAVAILABLE: the certificate of %s (SAN 'r1') is not signed by [tls] ca: its issuer is 'CN = another "
		"CA'",
		p->f.address);
	assert_string_equal(err.text, want);
}

/* The host does not know the caller's CA: the handshake fails, and no service sees a call. */
static void test_caller_of_another_ca(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	char *pem[2];
	size_t n;
	for (int i = 0; i < 2; i++) { /* its own files are in order: it trusts both */
		char path[160];
		snprintf(path, sizeof path, "%s/%s.crt", dir, i ? "stranger" : "ca");
		EXPECT_OK(err, ex_read_file(path, 1 << 20, &err, &pem[i], &n));
	}
	struct ex_str both = EX_STR_INIT;
	ex_str_addf(&both, "%s%s", pem[0], pem[1]);
	write_text(dir, "both.crt", both.s);
	ex_str_done(&both);
	free(pem[0]);
	free(pem[1]);
	start_pair(p, tls_of("h1", "ca", NULL, 0), tls_of("alien", "both", hosts, 1));
	assert_int_equal(ask(p, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "it may not accept our certificate"));
	assert_int_equal(p->f.n_done + p->n_refused, 0);
}

static void test_plain_meets_tls(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	start_pair(p, tls_of("h1", "ca", NULL, 0), NULL);
	assert_int_equal(ask(p, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "it may want TLS"));
	assert_int_equal(p->f.n_done, 0);
}

static void test_tls_meets_plain(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	start_pair(p, NULL, tls_of("r1", "ca", hosts, 1));
	assert_int_equal(ask(p, &err), -ENOTCONN);
	assert_int_equal(p->f.n_done, 0);
}

static void expect_names(struct ex_tls *t, const char *want)
{
	struct ex_cert_view v;
	ex_tls_view(t, &v);
	assert_string_equal(v.names, want);
}

/* New certificates on both sides: the stream that is open goes on, the next connection shows the new ones. */
static void test_rotation(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	struct cert_paths paths;
	struct heard h = HEARD_INIT;
	bool changed;
	static const char *const only_h1[] = {"h1"}, *const only_h2[] = {"h2"}, *const only_r9[] = {"r9"};
	start_pair(p, tls_of("h1", "ca", routers, 2), tls_of("r1", "ca", only_h1, 1));
	struct ex_stream *s = open_stream(&p->f, "/t.Test/Chat", &h);
	ex_stream_send(s, pack_note("one"));
	wait_messages(&h, 1);
	EXPECT_OK(err, ex_tls_reload(p->host, paths_of(&paths, dir, "h1", "ca", routers, 2), &err, &changed));
	assert_false(changed); /* the files are the same */
	EXPECT_OK(err, ex_tls_reload(p->host, paths_of(&paths, dir, "h2", "ca", only_r9, 1), &err, &changed));
	assert_true(changed);
	expect_names(p->host, "h2");
	EXPECT_OK(err, ex_tls_reload(p->router, paths_of(&paths, dir, "r9", "ca", only_h2, 1), &err, &changed));
	ex_stream_send(s, pack_note("two"));
	wait_messages(&h, 2);
	EXPECT_OK(err, ask(p, &err)); /* on a new connection: h2 and r9 would not pass as what they were */
	ex_stream_send(s, pack_note("three"));
	wait_messages(&h, 3);
	ex_stream_close_send(s);
	wait_closed(&h);
	assert_int_equal(h.status, EX_STATUS_OK);
	ex_stream_drop(s);
}

static void test_broken_rotation(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	struct cert_paths paths;
	bool changed;
	start_pair(p, tls_of("h1", "ca", routers, 2), tls_of("r1", "ca", hosts, 1));
	EXPECT_OK(err, ask(p, &err));
	assert_true(ex_tls_reload(p->host, paths_of(&paths, dir, "h1", "stranger", routers, 2), &err, &changed) < 0);
	assert_non_null(strstr(err.text, "is not signed by [tls] ca"));
	assert_true(ex_tls_reload(p->router, paths_of(&paths, dir, "nosuch", "ca", hosts, 1), &err, &changed) < 0);
	expect_names(p->host, "h1");
	EXPECT_OK(err, ask(p, &err));
}

/* A channel that is sent to another place, with words for each call; its open stream stays. */
static void test_route(void **state)
{
	struct tls_pair *p = *state;
	struct ex_err err = EX_ERR_INIT;
	struct heard h = HEARD_INIT;
	start_pair(p, NULL, tls_of("r1", "ca", hosts, 1));
	struct ex_channel_route r = {.target = p->f.address, .key = "x-word", .value = "w"};
	assert_int_equal(ex_channel_set_route(p->f.channel, &r), 0);
	EXPECT_OK(err, ask(p, &err)); /* plain text now */
	struct ex_stream *s = open_stream(&p->f, "/t.Test/Chat", &h);
	ex_stream_send(s, pack_note("one"));
	wait_messages(&h, 1);
	r.target = "127.0.0.1:1";
	assert_int_equal(ex_channel_set_route(p->f.channel, &r), 0);
	assert_int_equal(ask(p, &err), -ENOTCONN);
	ex_stream_send(s, pack_note("two"));
	wait_messages(&h, 2);
	ex_stream_cancel(s);
	wait_closed(&h);
	ex_stream_drop(s);
	char far[300];
	memset(far, 'x', sizeof far);
	far[sizeof far - 1] = '\0';
	r.target = far;
	assert_int_equal(ex_channel_set_route(p->f.channel, &r), -ENAMETOOLONG);
	r = (struct ex_channel_route){.target = p->f.address, .key = "x-word", .value = "a\nb"};
	assert_int_equal(ex_channel_set_route(p->f.channel, &r), -EINVAL);
	r.value = far;
	assert_int_equal(ex_channel_set_route(p->f.channel, &r), -EINVAL);
	r.value = "w";
	assert_int_equal(ex_channel_set_route(p->f.channel, &r), 0);
	EXPECT_OK(err, ask(p, &err));
}

int main(void)
{
	ex_net_init();
#define PAIR(t) cmocka_unit_test_setup_teardown(t, setup_pair, teardown_pair)
	const struct CMUnitTest tests[] = {
		PAIR(test_both_sides),
		PAIR(test_caller_refused),
		PAIR(test_host_refused),
		PAIR(test_host_of_another_ca),
		PAIR(test_caller_of_another_ca),
		PAIR(test_plain_meets_tls),
		PAIR(test_tls_meets_plain),
		PAIR(test_rotation),
		PAIR(test_broken_rotation),
		PAIR(test_route),
	};
	int rc = cmocka_run_group_tests(tests, make_certs, remove_certs);
	ex_net_done();
	return rc;
}
