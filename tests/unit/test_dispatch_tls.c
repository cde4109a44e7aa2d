/* SPDX-License-Identifier: Apache-2.0 */
/* engine/dispatch with hosts under TLS: their names, where their rows go, and what a host may offer. */
#include "certs.h"
#include "dispatch_rig.h"

static char dir[64];
static struct authority ca;
static const char *const files[] = {"ca", "h1", "x1", "r1"};
static const char *const peers[] = {"h*", "r*"};

static int setup(void **state)
{
	start_net(state);
	strcpy(dir, "/tmp/test_dtls.XXXXXX");
	assert_non_null(mkdtemp(dir));
	authority_new(&ca, "fleet CA");
	write_authority(&ca, dir, "ca");
	write_leaf(&ca, dir, &(struct leaf){.name = "h1", .san = "DNS:h1"});
	write_leaf(&ca, dir, &(struct leaf){.name = "x1", .san = "DNS:x1"});
	write_leaf(&ca, dir, &(struct leaf){.name = "r1", .san = "DNS:r1"});
	return 0;
}

static int teardown(void **state)
{
	authority_done(&ca);
	remove_files(dir, files, EX_ARRAY_LEN(files));
	return stop_net(state);
}

static struct ex_tls *tls_of(const char *name)
{
	struct cert_paths p;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tls *t;
	EXPECT_OK(err, ex_tls_new(paths_of(&p, dir, name, "ca", peers, 2), &err, &t));
	return t;
}

/* One host that holds everything. */
static void open_one(struct fixture *f, const char *name, const struct fake_tls *host, struct ex_tls *router)
{
	struct ex_err err = EX_ERR_INIT;
	memset(f, 0, sizeof *f);
	ex_lock_init(&f->lock, "test");
	EXPECT_OK(err, ex_loop_new("data", &err, &f->data));
	EXPECT_OK(err, ex_loop_new("control", &err, &f->control));
	f->n_hosts = 1;
	fake_host_start_tls(&f->host[0], name, (1u << FAKE_GROUPS) - 1, host);
	asked.tls = router;
}

static void expect_sum(struct fixture *f)
{
	float y[ROWS][FAKE_D], want[ROWS][FAKE_D];
	uint8_t failed[ROWS];
	make_rows(7);
	assert_int_equal(run(f, 2, ROWS, y, failed), 0);
	expected(2, EXPERTD_F32, want);
	assert_memory_equal(y, want, sizeof y);
}

static void wait_trouble(struct fixture *f, const char *want)
{
	struct ex_err err = EX_ERR_INIT;
	for (int i = 0; i < 200; i++) {
		assert_false(ex_dispatch_wait_covered(f->d, 100, &err));
		if (strstr(ex_err_text(&err), want))
			return;
	}
	fail_msg("not said: '%s', but: %s", want, ex_err_text(&err));
}

static void test_all(void **state)
{
	(void)state;
	struct fixture f;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tls *host = tls_of("h1"), *router = tls_of("r1");
	const struct fake_tls offer = {host, 1, "w"}; /* not taken up: mode is all here */
	open_one(&f, "h1", &offer, router);
	open_dispatch(&f, EXPERTD_F32);
	if (!ex_dispatch_wait_covered(f.d, 10000, &err))
		fail_msg("%s", ex_err_text(&err));
	expect_sum(&f);
	close_fixture(&f);
	ex_tls_free(host);
	ex_tls_free(router);
}

static void test_stranger(void **state)
{
	(void)state;
	struct fixture f;
	struct ex_tls *host = tls_of("x1"), *router = tls_of("r1");
	open_one(&f, "x1", &(struct fake_tls){.tls = host}, router);
	open_dispatch(&f, EXPERTD_F32);
	wait_trouble(&f, "handshake: SAN 'x1' of 127.0.0.1:");
	assert_int_equal(f.n_ready, 0);
	close_fixture(&f);
	ex_tls_free(host);
	ex_tls_free(router);
}

/* Rows go in plain text to the port that Hello offered over TLS, with its word. */
static void test_plain_data(void **state)
{
	(void)state;
	struct fixture f;
	struct fake_host data;
	struct ex_err err = EX_ERR_INIT;
	struct ex_tls *host = tls_of("h1"), *router = tls_of("r1");
	fake_host_start(&data, "h1", 0);
	const struct fake_tls offer = {host, (uint32_t)data.port, "00ff"};
	open_one(&f, "h1", &offer, router);
	asked.plain_data = true;
	open_dispatch(&f, EXPERTD_F32);
	if (!ex_dispatch_wait_covered(f.d, 10000, &err))
		fail_msg("%s", ex_err_text(&err));
	expect_sum(&f);
	assert_int_equal(f.host[0].n_frames, 0);
	assert_true(data.n_frames > 0);
	asked.plain_data = false;
	close_fixture(&f);
	fake_host_stop(&data);
	assert_string_equal(data.shown, "00ff");
	ex_tls_free(host);
	ex_tls_free(router);
}

/* Offers that no call could take up: the host is refused, and nothing else happens. */
static void test_bad_offers(void **state)
{
	(void)state;
	static char far[300];
	memset(far, 'x', sizeof far - 1);
	const struct {
		uint32_t port;
		const char *word;
	} row[] = {{65536, "00ff"}, {7101, "a\nb"}, {7101, far}, {UINT32_MAX, ""}};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct fixture f;
		struct ex_tls *host = tls_of("h1"), *router = tls_of("r1");
		const struct fake_tls offer = {host, row[i].port, row[i].word};
		open_one(&f, "h1", &offer, router);
		asked.plain_data = true;
		open_dispatch(&f, EXPERTD_F32);
		wait_trouble(&f, "handshake: malformed offer of streams in plain text");
		asked.plain_data = false;
		close_fixture(&f);
		ex_tls_free(host);
		ex_tls_free(router);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all),
		cmocka_unit_test(test_stranger),
		cmocka_unit_test(test_plain_data),
		cmocka_unit_test(test_bad_offers),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
