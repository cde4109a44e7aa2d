/* SPDX-License-Identifier: Apache-2.0 */
/* core/conffile and core/config: files, drop-ins, origins, every error named and all of them told. */
#include "unit.h"

#include "certs.h"
#include "core/config.h"
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

static char dir[64];

static void write_file(const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void make_dir(const char *name)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	assert_int_equal(mkdir(path, 0700), 0);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_config.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	make_dir("m");
	make_dir("plugins");
	write_file("m/config.json", "{}");
	write_file("m/tokenizer.json", "{}");
	write_file("plugins/cpu.so", "");
	struct authority ca;
	authority_new(&ca, "fleet CA");
	write_authority(&ca, dir, "ca");
	write_leaf(&ca, dir, &(struct leaf){.name = "h1", .san = "DNS:h1"});
	write_leaf(&ca, dir, &(struct leaf){.name = "old", .san = "DNS:old", .from_days = -9, .days = -2});
	authority_done(&ca);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	(void)state;
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Loads c.conf (made of text); returns the errors, "" when there are none. Free it. */
static char *load(const char *text, struct ex_params *ret)
{
	struct ex_config_errors e = {0};
	char path[128];
	const char *files[] = {path};
	write_file("c.conf", text);
	snprintf(path, sizeof path, "%s/c.conf", dir);
	int rc = ex_config_load(files, 1, ret, &e);
	assert_int_equal(rc, e.n ? -EINVAL : 0);
	return e.n ? ex_str_take(&e.text) : strdup("");
}

#define EXPERT "[model]\npath = m\n[expert]\nplugin_dir = plugins\n"

#define TLS    "[tls]\ncert = h1.crt\nkey = h1.key\nca = ca.crt\n"

static void test_good(void **state)
{
	(void)state;
	struct ex_params p;
	char want[128];
	EX_CLEANUP(ex_freep)
	char *e = load("\xef\xbb\xbf# a comment\n[node]\n  name = h1 ; not this\nlog_level=debug\n" EXPERT
		       "plugin: cpu\nshards = */E0-7 L3/*\n"
		       "[router]\n",
		&p);
	assert_string_equal(e, "");
	assert_string_equal(p.node_name, "h1");
	snprintf(want, sizeof want, "%s/m", dir);
	assert_string_equal(p.model_path, want);
	assert_string_equal(p.model_name, "m");
	assert_int_equal(p.expert_shards.n, 2);
	assert_int_equal(ex_config_log_level(&p), LOG_DEBUG);
	assert_true(ex_config_is_router(&p)); /* a section without keys counts */
	assert_int_equal(p.origin[EX_P_expert_shards].line, 10);
	ex_params_done(&p);
}

static void test_dropins(void **state)
{
	(void)state;
	struct ex_params p;
	make_dir("c.conf.d");
	write_file("c.conf.d/20-b.conf", "[node]\nname = b\n");
	write_file("c.conf.d/10-a.conf", "[node]\nname = a\ndrain_s = 9\n");
	write_file("c.conf.d/30-c.conf.off", "[node]\nname = c\n");
	write_file("c.conf.d/.40.conf", "[node]\nname = d\n");
	EX_CLEANUP(ex_freep) char *e = load("[node]\nname = main\ndrain_s = 1\n" EXPERT, &p);
	assert_string_equal(e, "");
	assert_string_equal(p.node_name, "b");
	assert_int_equal(p.node_drain_s, 9);
	assert_non_null(strstr(p.origin[EX_P_node_name].file, "c.conf.d/20-b.conf"));
	ex_params_done(&p);
}

/* The node gets the host's name when none is given, and a dump of the whole is a configuration again. */
static void test_dump_loads_again(void **state)
{
	(void)state;
	struct ex_params p, q;
	struct ex_str a = EX_STR_INIT, b = EX_STR_INIT;
	EX_CLEANUP(ex_freep) char *e = load(EXPERT "[router]\npeers = 127.0.0.1:7 localhost:8\nkv_bytes = 3M\n", &p);
	assert_string_equal(e, "");
	assert_true(strlen(p.node_name) > 0);
	ex_params_dump(&p, &a);
	EX_CLEANUP(ex_freep) char *e2 = load(a.s, &q);
	assert_string_equal(e2, "");
	for (size_t i = 0; i < EX_PARAM_N; i++) {
		ex_str_reset(&a);
		ex_str_reset(&b);
		ex_params_print(&p, &ex_param_table[i], &a);
		ex_params_print(&q, &ex_param_table[i], &b);
		assert_string_equal(a.s, b.s ? b.s : "");
	}
	ex_params_done(&p);
	ex_params_done(&q);
	ex_str_done(&a);
	ex_str_done(&b);
}

/* What TLS protects may be off loopback; the section alone switches it on. */
static void test_tls(void **state)
{
	(void)state;
	struct ex_params p;
	struct ex_config_cert files;
	enum ex_cert_part blame;
	struct ex_err err = EX_ERR_INIT;
	char want[128];
	EX_CLEANUP(ex_freep)
	char *e = load(EXPERT "[router]\nlisten = 0.0.0.0:9\npeers = 10.0.0.1:9\n[node]\nlisten = 0.0.0.0:8\n" TLS
			      "mode = control\nlisten_data = 0.0.0.0:7\npeers = h* r*\n",
		&p);
	assert_string_equal(e, "");
	assert_int_equal(ex_config_tls(&p), EX_TLS_CONTROL);
	assert_true(ex_config_tls_clients(&p));
	EXPECT_OK(err, ex_config_cert(&p, &p.tls_peers, &blame, &err, &files));
	snprintf(want, sizeof want, "%s/h1.crt", dir);
	assert_string_equal(files.o.cert, want);
	assert_int_equal(files.o.n_peers, 2);
	ex_params_done(&p);
	EX_CLEANUP(ex_freep) char *e2 = load(EXPERT TLS "key = credential:h1.key\n", &p);
	assert_non_null(strstr(e2, "[tls] key is given on line"));
	setenv("CREDENTIALS_DIRECTORY", dir, 1);
	EX_CLEANUP(ex_freep)
	char *e3 = load(EXPERT "[tls]\ncert = h1.crt\nkey = credential:h1.key\nca = credential:ca.crt\n", &p);
	assert_string_equal(e3, "");
	assert_int_equal(ex_config_tls(&p), EX_TLS_ALL);
	ex_params_done(&p);
	unsetenv("CREDENTIALS_DIRECTORY");
	EX_CLEANUP(ex_freep) char *e4 = load(EXPERT, &p);
	assert_string_equal(e4, "");
	assert_int_equal(ex_config_tls(&p), EX_TLS_OFF);
	ex_params_done(&p);
}

/* With [etcd] ca endpoints may be anywhere, a scheme before them or not; what is shown to etcd need not be there. */
static void test_etcd_tls(void **state)
{
	(void)state;
	struct ex_params p;
	struct ex_config_cert files;
	enum ex_cert_part blame;
	struct ex_err err = EX_ERR_INIT;
	const char *endpoints[EX_ETCD_ENDPOINTS_MAX];
	EX_CLEANUP(ex_freep)
	char *e = load(EXPERT "[etcd]\nendpoints = https://10.0.0.1:1 10.0.0.2:1\nca = ca.crt\n", &p);
	assert_string_equal(e, "");
	assert_true(ex_config_etcd_tls(&p));
	ex_config_etcd_endpoints(&p, endpoints);
	assert_string_equal(endpoints[0], "10.0.0.1:1");
	assert_string_equal(endpoints[1], "10.0.0.2:1");
	EXPECT_OK(err, ex_config_etcd_cert(&p, &blame, &err, &files));
	assert_null(files.o.cert);
	assert_null(files.o.key);
	assert_true(files.o.calls_only);
	ex_params_done(&p);
	EX_CLEANUP(ex_freep)
	char *e2 =
		load(EXPERT "[etcd]\nendpoints = https://127.0.0.1:1\nca = ca.crt\ncert = h1.crt\nkey = h1.key\n", &p);
	assert_string_equal(e2, "");
	EXPECT_OK(err, ex_config_etcd_cert(&p, &blame, &err, &files));
	assert_non_null(strstr(files.o.cert, "/h1.crt"));
	ex_params_done(&p);
	EX_CLEANUP(ex_freep) char *e3 = load(EXPERT "[etcd]\nendpoints = http://127.0.0.1:1\n", &p);
	assert_string_equal(e3, "");
	assert_false(ex_config_etcd_tls(&p));
	ex_params_done(&p);
}

/* A configuration with one mistake, and what is said of it. */
static const struct {
	const char *text, *want;
} errors[] = {
	{EXPERT "[node]\nlisen = 127.0.0.1:1\n", "c.conf:6: [node] has no key 'lisen'; did you mean 'listen'?"},
	{EXPERT "[node]\nmax_batch = 1\n", "c.conf:6: [node] has no key 'max_batch'; [router] has one of that name"},
	{EXPERT "[rooter]\nx = 1\ny = 2\n", "c.conf:5: unknown section [rooter]; did you mean 'router'?"},
	{EXPERT "[node\nname = x\n", "c.conf:5: the section's ']' is missing"},
	{EXPERT "threads\n", "c.conf:5: 'threads' is neither KEY = VALUE nor [SECTION]"},
	{"name = x\n" EXPERT, "c.conf:1: 'name' comes before any [SECTION]"},
	{EXPERT "threads = 0\n", "c.conf:5: [expert] threads = 0: allowed is a whole number from 1 to 256, or auto"},
	{EXPERT "threads = 1\nthreads = 2\n", "c.conf:6: [expert] threads is given on line 5 already"},
	{EXPERT "plugin = gpu\n", "c.conf:5: [expert] plugin = gpu: "},
	{"[expert]\n", "[model] path is not set: a checkpoint directory is needed"},
	{"[model]\npath = nosuch\n[expert]\n", "/nosuch: No such file or directory"},
	{"[model]\npath = plugins/cpu.so\n[expert]\n", "plugins/cpu.so: not a directory"},
	{"[model]\npath = plugins\n[expert]\n", "config.json in it: No such file"},
	{"[model]\npath = m\n", "no role is given"},
	{"[model]\npath = m\n[router]\n", "a router needs expert hosts"},
	{EXPERT "[router]\nlisten = 127.0.0.1:7101\n",
		"c.conf:6: [router] listen = 127.0.0.1:7101: the port belongs to [node] listen = "
		"127.0.0.1:7101 already (default)"},
	{EXPERT "[node]\nlisten = 127.0.0.1:9\n[metrics]\nlisten = 127.0.0.1:9\n", "already ("},
	{EXPERT "[metrics]\n", "[metrics] is there without an address"},
	{EXPERT "[node]\nlisten = 0.0.0.0:9\n", "c.conf:6: [node] listen = 0.0.0.0:9: not a loopback address"},
	{EXPERT "[router]\npeers = 10.0.0.1:9\n", "10.0.0.1:9 is not a loopback address"},
	{EXPERT "[router]\npeers = 127.0.0.1:9 127.0.0.1:9\n", "'127.0.0.1:9' is listed twice"},
	{EXPERT "[router]\npeers = 127.0.0.1:7101\n", "'127.0.0.1:7101' is this process itself"},
	{EXPERT "[router]\npeers = 127.0.0.1:0\n", "a peer's port must be from 1 to 65535"},
	{EXPERT "[router]\nmax_batch = 64\nstep_tokens_max = 63\n", "less than max_batch = 64"},
	{EXPERT "[router]\nmin_replicas = 3\nmax_replicas = 2\n", "less than min_replicas = 3"},
	{EXPERT "[router]\ncontext = 16\n", "[router] page_tokens = 32 (default): more than context = 16"},
	{EXPERT "[node]\nadmin_group = no such group\n", "there is no such group"},
	{EXPERT "[ledger]\n", "[ledger] needs [router]"},
	{EXPERT "[router]\n[ledger]\nstore = sqlite:x.db\n", "'sqlite:x.db' names no store"},
	{EXPERT "[router]\n[ledger]\nstore = mysql:x\n", "'mysql:x' names no store"},
	{EXPERT "[etcd]\n", "[etcd] is there without addresses"},
	{EXPERT "[gateway]\n", "[gateway] needs [router] in the same process"},
	{EXPERT "[router]\n[gateway]\naccounts = yes\n", "accounts are kept in a [ledger], and there is none"},
	{EXPERT "[router]\n[gateway]\nlisten = 0.0.0.0:8000\n", "not a loopback address"},
	{EXPERT "[router]\n[gateway]\nlisten = 127.0.0.1:7100\n", "the port belongs to [router] listen"},
	{EXPERT "[router]\n[gateway]\nlisten = unix:x\n", "an absolute path is wanted after unix:"},
	{EXPERT "[router]\n[gateway]\ntls_cert = h1.crt\n", "tls_cert and tls_key go together"},
	{EXPERT "[router]\n[gateway]\ntls_cert = h1.crt\ntls_key = old.key\n", "is not the key of"},
	{EXPERT "[router]\n[gateway]\nlisten = x\n", "[gateway] listen = x"},
	{EXPERT "[router]\n[topup]\n", "[topup] needs [ledger]"},
	{EXPERT "[router]\n[ledger]\n[topup]\ncover_enter = closed=1\n", "cover_enter: 'closed=1' is not STATE=NUMBER"},
	{EXPERT "[router]\n[ledger]\n[topup]\ncover_leave = limited=0.5 waitlist=0.9 suspended=0.6\n",
		"top-ups are limited by liability cover"},
	{EXPERT "[limits]\n", "[limits] needs [gateway] in the same process"},
	{EXPERT "[router]\n[gateway]\n[limits]\nweight = a=0\n",
		"'a=0': TIER=NUMBER is wanted, the number from 1 to 1000"},
	{EXPERT "[router]\n[gateway]\n[limits]\nconcurrency = a:b=1\n", "'a:b': a tier's name has"},
	{EXPERT "[router]\n[gateway]\n[limits]\nrequests_per_min = a=1 b=\n", "'b=': TIER=NUMBER is wanted"},
	{EXPERT "[etcd]\nendpoints = 10.0.0.1:2379\n", "10.0.0.1:2379 is not a loopback address"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:0\n", "'127.0.0.1:0': the port must be from 1 to 65535"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\nprefix = /x/\n", "must not be '/'"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\nlease_ttl_s = 1\n", "a whole number from 2 to 3600"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\n[node]\ninsecure = yes\nlisten = 0.0.0.0:9\n",
		"[node] listen = 0.0.0.0:9: every address of this host, but [etcd] needs one"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\n[node]\nadvertise = [::]:9\n", "name it"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\n[node]\nadvertise = h1:0\n", "[node] advertise = h1:0: the port"},
	{EXPERT "[etcd]\nendpoints = https://127.0.0.1:1\n", "https://127.0.0.1:1 needs [etcd] ca"},
	{EXPERT "[etcd]\nendpoints = http://127.0.0.1:1\nca = ca.crt\n", "http://127.0.0.1:1 is plain text"},
	{EXPERT "[etcd]\nendpoints = http://10.0.0.1:1\n", "http://10.0.0.1:1 is not a loopback address"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\nca = h1.key\n", "c.conf:7: [etcd] ca = "},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\nca = ca.crt\ncert = h1.crt\n",
		"[etcd] key is not set: [etcd] needs a file here"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\ncert = h1.crt\nkey = h1.key\n", "[etcd] ca is not set: "},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\nca = ca.crt\ncert = old.crt\nkey = old.key\n",
		"(SAN 'old') expired on 20"},
	{EXPERT "[etcd]\nendpoints = 127.0.0.1:1\nca = credential:ca.crt\n",
		"[etcd] ca = credential:ca.crt: there are no credentials"},
	{EXPERT "[tls]\n", "[tls] cert is not set: [tls] needs a file here"},
	{EXPERT "[tls]\ncert = h1.crt\nca = ca.crt\n", "[tls] key is not set: "},
	{EXPERT "[tls]\ncert = old.crt\nkey = old.key\nca = ca.crt\n", "c.conf:6: [tls] cert = "},
	{EXPERT "[tls]\ncert = old.crt\nkey = old.key\nca = ca.crt\n", "(SAN 'old') expired on 20"},
	{EXPERT "[tls]\ncert = h1.crt\nkey = old.key\nca = ca.crt\n", "c.conf:7: [tls] key = "},
	{EXPERT "[tls]\ncert = h1.crt\nkey = h1.key\nca = h1.key\n", "c.conf:8: [tls] ca = "},
	{EXPERT "[tls]\ncert = h1.crt\nkey = credential:h1.key\nca = ca.crt\n",
		"c.conf:7: [tls] key = credential:h1.key: there are no credentials"},
	{EXPERT TLS "mode = control\n", "[tls] listen_data is not set: an expert host with mode = control"},
	{EXPERT TLS "listen_data = 127.0.0.1:9\n", "used by expert hosts with mode = control only"},
	{EXPERT TLS "mode = control\nlisten_data = 127.0.0.1:7101\n", "the port belongs to [node] listen"},
	{EXPERT TLS "client_port = plain\n[router]\nlisten = 0.0.0.0:9\n",
		"[router] listen = 0.0.0.0:9: not a loopback"},
	{EXPERT TLS "[metrics]\nlisten = 0.0.0.0:9\n", "[metrics] listen = 0.0.0.0:9: not a loopback"},
	{EXPERT TLS "mode = off\n[node]\nlisten = 0.0.0.0:9\n", "not a loopback"},
};

static void test_each_error(void **state)
{
	(void)state;
	for (size_t i = 0; i < EX_ARRAY_LEN(errors); i++) {
		struct ex_params p;
		EX_CLEANUP(ex_freep) char *e = load(errors[i].text, &p);
		if (!strstr(e, errors[i].want))
			fail_msg("of\n%s\nthe errors\n%s\ndo not say '%s'", errors[i].text, e, errors[i].want);
		if (strchr(e, '\n') != e + strlen(e) - 1)
			fail_msg("of\n%s\none error is wanted, not\n%s", errors[i].text, e);
	}
}

static void test_all_errors_are_told(void **state)
{
	(void)state;
	struct ex_params p;
	EX_CLEANUP(ex_freep)
	char *e = load("[node]\nname = a b\nlisen = x\n[model]\npath = m\n[expert]\nthreads = x\nplugin = "
		       "none\n[nosuch]\nk = v\n",
		&p);
	static const char *const want[] = {"c.conf:2: ", "c.conf:3: ", "c.conf:7: ", "c.conf:8: ", "c.conf:9: "};
	for (size_t i = 0; i < EX_ARRAY_LEN(want); i++)
		if (!strstr(e, want[i]))
			fail_msg("'%s' is not in\n%s", want[i], e);
}

static void test_too_many_errors(void **state)
{
	(void)state;
	struct ex_params p;
	struct ex_str text = EX_STR_INIT;
	ex_str_add(&text, EXPERT);
	for (int i = 0; i < 150; i++)
		ex_str_addf(&text, "k%d = 1\n", i);
	EX_CLEANUP(ex_freep) char *e = load(text.s, &p);
	assert_non_null(strstr(e, "... and 50 more\n"));
	ex_str_done(&text);
}

static void test_long_line(void **state)
{
	(void)state;
	struct ex_params p;
	struct ex_str text = EX_STR_INIT;
	ex_str_add(&text, EXPERT "[router]\npeers = ");
	for (int i = 1; i <= 1000; i++)
		ex_str_addf(&text, "127.0.0.1:%d ", i);
	ex_str_add(&text, "\nmax_batch = 7\n");
	EX_CLEANUP(ex_freep) char *e = load(text.s, &p); /* about 15 kB: allowed */
	assert_string_equal(e, "");
	assert_int_equal(p.router_peers.n, 1000);
	assert_int_equal(p.router_max_batch, 7);
	ex_params_done(&p);
	ex_str_reset(&text);
	ex_str_add(&text, EXPERT "[node]\nname = ");
	for (int i = 0; i < 20000; i++)
		ex_str_add(&text, "x");
	ex_str_add(&text, "\nnme = y\n");
	EX_CLEANUP(ex_freep) char *e2 = load(text.s, &p);
	assert_non_null(strstr(e2, "c.conf:6: the line is longer than"));
	assert_non_null(strstr(e2, "c.conf:7: [node] has no key 'nme'")); /* lines are still counted right */
	ex_str_done(&text);
}

/* The parameters against a model: 4 layers, the first dense, 10 experts, 128 positions. */
static void test_model(void **state)
{
	(void)state;
	static const char json[] =
		"{\"model_type\":\"deepseek_v3\",\"vocab_size\":64,\"hidden_size\":16,\"num_hidden_layers\":4,\"num_"
		"attention_heads\":2,"
		"\"intermediate_size\":32,\"q_lora_rank\":null,\"kv_lora_rank\":8,\"qk_nope_head_dim\":8,\"qk_rope_"
		"head_dim\":4,"
		"\"v_head_dim\":8,\"first_k_dense_replace\":1,\"moe_layer_freq\":1,\"n_routed_experts\":10,\"num_"
		"experts_per_tok\":2,"
		"\"n_shared_experts\":1,\"moe_intermediate_size\":8,\"n_group\":1,\"topk_group\":1,\"topk_method\":"
		"\"noaux_tc\","
		"\"scoring_func\":\"sigmoid\",\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"rms_norm_eps\":"
		"1e-6,"
		"\"rope_theta\":10000,\"max_position_embeddings\":128,\"eos_token_id\":1,\"hidden_act\":\"silu\"}";
	static const struct {
		const char *more, *want;
	} row[] = {
		{"", NULL},
		{"[model]\nexpert_groups = 11\n", "c.conf.d/m.conf:2: [model] expert_groups = 11: "},
		{"[expert]\nshards = */E0-1 L9/*\n", "'L9/*' matches no shard"},
		{"[router]\ncontext = 129\n", "m.conf:2: [router] context = 129: the model's limit is 128"},
	};
	make_dir("c.conf.d");
	write_file("m/config.json", json);
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_config_errors e = {0};
		struct ex_params p;
		write_file("c.conf.d/m.conf", row[i].more);
		EX_CLEANUP(ex_freep) char *none = load(EXPERT, &p);
		assert_string_equal(none, "");
		int rc = ex_config_check_model(&p, &e);
		if (rc != (row[i].want ? -EINVAL : 0) || (row[i].want && !strstr(e.text.s, row[i].want)))
			fail_msg("'%s': %d, %s", row[i].more, rc, e.text.s ? e.text.s : "no error");
		ex_config_errors_done(&e);
		ex_params_done(&p);
	}
}

static void test_missing_file(void **state)
{
	(void)state;
	struct ex_params p;
	struct ex_config_errors e = {0};
	const char *files[] = {"/nonexistent/x.conf"};
	assert_int_equal(ex_config_load(files, 1, &p, &e), -EINVAL);
	assert_non_null(strstr(e.text.s, "/nonexistent/x.conf: cannot be read: No such file or directory"));
	assert_int_equal(e.n, 1); /* and not that values are missing */
	ex_config_errors_done(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_good, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dropins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dump_loads_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_etcd_tls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_errors_are_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_line, setup, teardown),
		cmocka_unit_test_setup_teardown(test_model, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_file, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
