/* SPDX-License-Identifier: Apache-2.0 */
/* base/params: defaults, values of every type, limits, dump, reload. */
#include "unit.h"

#include "base/params.h"
#include <stdio.h>
#include <string.h>

static struct ex_params p;

static int setup(void **state)
{
	(void)state;
	return ex_params_init(&p, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ex_params_done(&p);
	return 0;
}

static int set(const char *section, const char *key, const char *text, struct ex_err *err)
{
	const struct ex_param *row = ex_param_find(section, key);
	assert_non_null(row);
	*err = EX_ERR_INIT;
	return ex_params_set(&p, row, text, "/etc/x/a.conf", 7, err);
}

static void expect_print(const char *section, const char *key, const char *want)
{
	struct ex_str s = EX_STR_INIT;
	ex_params_print(&p, ex_param_find(section, key), &s);
	assert_string_equal(s.s ? s.s : "", want);
	ex_str_done(&s);
}

static void test_defaults(void **state)
{
	(void)state;
	assert_string_equal(p.node_listen, "127.0.0.1:7101");
	assert_int_equal(p.router_max_batch, 32);
	assert_int_equal(p.model_expert_groups, 0);
	assert_true(p.model_check_finite);
	assert_int_equal(p.expert_shards.n, 1);
	assert_int_equal(p.router_peers.n, 0);
	assert_int_equal(p.expert_reply_bytes_max, 256u << 20);
	assert_null(ex_param_find("router", "shards"));
	assert_null(ex_param_find("nosuch", "name"));
	/* every default, printed, is accepted again and stays what it is */
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_str a = EX_STR_INIT, b = EX_STR_INIT;
		ex_params_print(&p, &ex_param_table[i], &a);
		EXPECT_OK(err, ex_params_set(&p, &ex_param_table[i], a.s ? a.s : "", NULL, 0, &err));
		ex_params_print(&p, &ex_param_table[i], &b);
		assert_string_equal(a.s ? a.s : "", b.s ? b.s : "");
		ex_str_done(&a);
		ex_str_done(&b);
	}
}

static void test_good_values(void **state)
{
	(void)state;
	static const struct {
		const char *section, *key, *text, *printed;
	} row[] = {
		{"router", "max_batch", "1024", "1024"},
		{"router", "context", "AUTO", "auto"},
		{"router", "kv_bytes", "4G", "4G"},
		{"router", "kv_bytes", "6144k", "6M"},
		{"router", "kv_bytes", "65537", "65537"},
		{"router", "kv_bytes", "auto", "auto"},
		{"router", "dispatch_dtype", "BF16", "bf16"},
		{"node", "log_level", "debug", "debug"},
		{"tls", "cert", "pki/h1.crt", "/etc/x/pki/h1.crt"},
		{"tls", "key", "credential:h1.key", "credential:h1.key"},
		{"tls", "peers", "h*  spiffe://fleet/*", "h* spiffe://fleet/*"},
		{"model", "check_finite", "Off", "no"},
		{"model", "check_finite", "true", "yes"},
		{"router", "peers", " a:1\tb:2, [::1]:3 ", "a:1 b:2 [::1]:3"},
		{"etcd", "endpoints", "a:1 https://[::1]:3 http://b:2", "a:1 https://[::1]:3 http://b:2"},
		{"expert", "shards", "*/E0-7 L3/8-15", "*/E0-7 L3/8-15"},
		{"node", "name", "h-1.a_b", "h-1.a_b"},
		{"model", "path", "/srv/m", "/srv/m"},
		{"model", "path", "m/x", "/etc/x/m/x"},
		{"metrics", "listen", "", ""},
		{"expert", "options", "isa=generic  x=", "isa=generic x="},
		{"expert", "allow_plugins",
			"/etc/a/list  0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			"/etc/a/list 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err;
		EXPECT_OK(err, set(row[i].section, row[i].key, row[i].text, &err));
		expect_print(row[i].section, row[i].key, row[i].printed);
	}
	char origin[EX_ORIGIN_TEXT_MAX];
	assert_string_equal(ex_params_origin(&p, ex_param_find("model", "path"), origin), "/etc/x/a.conf:7");
	assert_string_equal(ex_params_origin(&p, ex_param_find("router", "threads"), origin), "default");
	char deep[EX_ORIGIN_TEXT_MAX + 100];
	/* the file's name and the line are never cut */
	for (size_t n = EX_ORIGIN_TEXT_MAX - 20; n < sizeof deep; n++) {
		memset(deep, 'd', n);
		strcpy(deep + n - 8, "/my.conf");
		assert_int_equal(ex_params_set(&p, ex_param_find("model", "path"), "/y", deep, 1234, NULL), 0);
		ex_params_origin(&p, ex_param_find("model", "path"), origin);
		assert_non_null(strstr(origin, "d/my.conf:1234"));
		assert_int_equal(strlen(origin), EX_MIN(n + 5, (size_t)EX_ORIGIN_TEXT_MAX - 1));
	}
}

static void test_bad_values(void **state)
{
	(void)state;
	static const struct {
		const char *section, *key, *text, *why;
	} row[] = {
		{"router", "max_batch", "0", "from 1 to 1024"},
		{"router", "max_batch", "1025", "from 1 to 1024"},
		{"router", "max_batch", "-1", "from 1 to 1024"},
		{"router", "max_batch", "12x", "from 1 to 1024"},
		{"router", "max_batch", "", "from 1 to 1024"},
		{"router", "max_batch", "99999999999999999999999", "from 1 to 1024"},
		{"router", "max_batch", "auto", "from 1 to 1024"},
		{"router", "max_batch", "1K", "from 1 to 1024"},
		{"model", "expert_groups", "0", "from 1 to 4096, or auto"},
		{"router", "kv_bytes", "1", "K, M, G or T"},
		{"router", "kv_bytes", "17T", "to 16T, or auto"},
		{"router", "kv_bytes", "99999999999999T", "to 16T, or auto"},
		{"router", "kv_bytes", "4Gi", "to 16T, or auto"},
		{"router", "dispatch_dtype", "f16", "one of f32, bf16"},
		{"router", "dispatch_dtype", "f3", "one of f32, bf16"},
		{"model", "check_finite", "maybe", "yes or no"},
		{"node", "listen", "7101", "no port"},
		{"tls", "key", "credential:", "no name of a credential"},
		{"tls", "key", "credential:a/b", "no name of a credential; allowed is a path"},
		{"tls", "ca", "credential:..", "no name of a credential"},
		{"node", "name", "a b", "at most 63 letters"},
		{"node", "name", "-a", "at most 63 letters"},
		{"router", "peers", "a:1 b", "'b' has no port"},
		{"router", "peers", "https://a:1", "brackets"},
		{"etcd", "endpoints", "a:1 https://b", "'b' has no port"},
		{"etcd", "endpoints", "ftp://a:1", "brackets"},
		{"expert", "shards", "", "nothing is listed"},
		{"expert", "shards", "L1-/E0", "'L1-/E0' is not such a glob"},
		{"expert", "plugin", "", "1 to 4095 bytes"},
		{"expert", "options", "isa", "'isa' is not KEY=VALUE"},
		{"expert", "allow_plugins", "cpu.so", "'cpu.so' is neither; allowed is at most 256 sha256 digests or"},
		{"expert", "allow_plugins", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeg",
			"is neither"},
		{"expert", "options", "=x", "'=x' is not KEY=VALUE"},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err;
		assert_int_equal(set(row[i].section, row[i].key, row[i].text, &err), -EINVAL);
		if (!strstr(err.text, row[i].why))
			fail_msg("[%s] %s = '%s': '%s' does not say '%s'", row[i].section, row[i].key, row[i].text,
				err.text, row[i].why);
	}
	/* the old values stay, and so do their origins */
	assert_int_equal(p.router_max_batch, 32);
	assert_null(p.origin[EX_P_router_max_batch].file);
}

static void test_long_socket_path(void **state)
{
	(void)state;
	struct ex_err err;
	char path[200];
	memset(path, 's', sizeof path);
	path[0] = '/';
	path[107] = '\0';
	EXPECT_OK(err, set("node", "admin", path, &err));
	path[107] = 's';
	path[108] = '\0';
	assert_int_equal(set("node", "admin", path, &err), -EINVAL);
	assert_non_null(strstr(err.text, "that is 108 bytes; allowed is a path of at most 107 bytes"));
}

static void test_dump(void **state)
{
	(void)state;
	struct ex_err err;
	struct ex_str s = EX_STR_INIT;
	p.there[EX_SECTION_expert] = true;
	EXPECT_OK(err, set("expert", "threads", "3", &err));
	ex_params_dump(&p, &s);
	assert_non_null(strstr(s.s, "[expert]\n"));
	assert_null(strstr(s.s, "[router]"));
	const char *line = strstr(s.s, "\nthreads");
	assert_non_null(line);
	assert_int_equal(strncmp(line, "\nthreads          = 3 ", 22), 0);
	assert_non_null(strstr(line, "; /etc/x/a.conf:7\n"));
	ex_str_done(&s);
}

struct seen {
	unsigned n_taken, n_left;
	char last_left[64];
};

static void note(void *ctx, const char *name, bool taken)
{
	struct seen *s = ctx;
	if (taken)
		s->n_taken++;
	else {
		s->n_left++;
		snprintf(s->last_left, sizeof s->last_left, "%s", name);
	}
}

static void test_reload(void **state)
{
	(void)state;
	struct ex_err err;
	struct ex_params fresh;
	struct seen seen = {0};
	EXPECT_OK(err, ex_params_init(&fresh, &err));
	EXPECT_OK(err, ex_params_set(&fresh, ex_param_find("node", "drain_s"), "5", "f", 2, &err));
	EXPECT_OK(err, ex_params_set(&fresh, ex_param_find("router", "listen"), "a:1", "f", 3, &err));
	EXPECT_OK(err, ex_params_set(&fresh, ex_param_find("router", "max_batch"), "32", "f", 4, &err)); /* as it was */
	ex_params_reload(&p, &fresh, note, &seen);
	assert_int_equal(seen.n_taken, 1);
	assert_int_equal(seen.n_left, 1);
	assert_string_equal(seen.last_left, "[router] listen");
	assert_int_equal(p.node_drain_s, 5);
	assert_string_equal(p.origin[EX_P_node_drain_s].file, "f");
	assert_string_equal(p.router_listen, "127.0.0.1:7100");
	ex_params_done(&fresh);
}

/* A section that came is not there before a restart, whatever is in it; what is in force of one that went stays. */
static void test_reload_of_a_section(void **state)
{
	(void)state;
	struct ex_err err;
	struct ex_params fresh;
	for (int there = 0; there <= 1; there++) {
		struct seen seen = {0};
		EXPECT_OK(err, ex_params_init(&fresh, &err));
		EXPECT_OK(err, ex_params_set(&fresh, ex_param_find("tls", "peers"), there ? "h9" : "h8", "f", 2, &err));
		fresh.there[EX_SECTION_tls] = true;
		p.there[EX_SECTION_tls] = there;
		ex_params_reload(&p, &fresh, note, &seen);
		assert_int_equal(seen.n_taken, there);
		assert_int_equal(seen.n_left, there ? 0 : 2); /* the section and the value */
		assert_int_equal(p.tls_peers.n, there);
		ex_params_done(&fresh);
	}
}

/* A section that came or went is a change, even without a value. */
static void test_reload_sections(void **state)
{
	(void)state;
	struct ex_err err;
	struct ex_params fresh;
	struct seen seen = {0};
	EXPECT_OK(err, ex_params_init(&fresh, &err));
	fresh.there[EX_SECTION_node] = true; /* it counts without being there */
	ex_params_reload(&p, &fresh, note, &seen);
	assert_int_equal(seen.n_left, 0);
	fresh.there[EX_SECTION_expert] = true;
	ex_params_reload(&p, &fresh, note, &seen);
	assert_int_equal(seen.n_left, 1);
	assert_string_equal(seen.last_left, "[expert]");
	assert_false(p.there[EX_SECTION_expert]);
	p.there[EX_SECTION_metrics] = p.there[EX_SECTION_expert] = true;
	ex_params_reload(&p, &fresh, note, &seen);
	assert_int_equal(seen.n_left, 2);
	assert_string_equal(seen.last_left, "[metrics]");
	ex_params_done(&fresh);
}

static void test_nearest(void **state)
{
	(void)state;
	static const char *const words[] = {"listen", "max_batch", "queue_max", "peers"};
	assert_string_equal(ex_nearest_word("lisen", words, 4), "listen");
	assert_string_equal(ex_nearest_word("maxbatch", words, 4), "max_batch");
	assert_string_equal(ex_nearest_word("peer", words, 4), "peers");
	assert_null(ex_nearest_word("temperature", words, 4));
	assert_null(ex_nearest_word("", words, 4));
	assert_null(ex_nearest_word("xy", words, 4));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
		cmocka_unit_test_setup_teardown(test_good_values, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_values, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_socket_path, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dump, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload_of_a_section, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload_sections, setup, teardown),
		cmocka_unit_test(test_nearest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
