/* SPDX-License-Identifier: Apache-2.0 */
/* gateway: the edge over a small engine and a policy that does as it is told: what it is asked, when its tickets end and with which figures. */
#include "small_model.h"
#include "unit.h"

#include "base/lock.h"
#include "base/str.h"
#include "gateway/edge.h"
#include "ref_ops.h"
#include "small_tokenizer.h"
#include <netinet/in.h>
#include <sys/socket.h>

/* --- the policy ------------------------------------------------------------------------------------------ */

struct ex_ticket {
	int unused;
};

static struct {
	struct ex_lock lock;
	pthread_cond_t cond;
	struct ex_admit_answer answer; /* what is said */
	bool later;                    /* by whoever calls say_it */
	/* guarded by lock */
	void (*done)(void *done_ctx, const struct ex_admit_answer *r);
	void *done_ctx;
	struct ex_admit_ask asked;
	char key[64];
	unsigned n_asked, n_finished, n_progress;
	struct ex_usage_tokens used, progress;
} policy;

static struct ex_ticket the_ticket;

static void on_ask(void *ctx, const struct ex_admit_ask *a,
	void (*done)(void *done_ctx, const struct ex_admit_answer *r), void *done_ctx)
{
	assert_ptr_equal(ctx, &policy);
	ex_lock_take(&policy.lock);
	policy.n_asked++;
	policy.asked = *a;
	snprintf(policy.key, sizeof policy.key, "%s", a->key ? a->key : "-");
	policy.done = done;
	policy.done_ctx = done_ctx;
	bool now = !policy.later;
	pthread_cond_signal(&policy.cond);
	ex_lock_give(&policy.lock);
	if (now)
		done(done_ctx, &policy.answer);
}

static void on_progress(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	(void)ctx;
	assert_ptr_equal(t, &the_ticket);
	ex_lock_take(&policy.lock);
	policy.n_progress++;
	assert_int_equal(u->completion, policy.progress.completion + 1);
	policy.progress = *u;
	ex_lock_give(&policy.lock);
}

static void on_finish(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	(void)ctx;
	assert_ptr_equal(t, &the_ticket);
	ex_lock_take(&policy.lock);
	policy.n_finished++;
	policy.used = *u;
	pthread_cond_signal(&policy.cond);
	ex_lock_give(&policy.lock);
}

static void on_balance(
	void *ctx, const char *key, void (*done)(void *done_ctx, int status, const char *json), void *done_ctx)
{
	(void)ctx;
	done(done_ctx, key ? 200 : 401, key ? "{\"b\":1}" : "{\"error\":{}}");
}

static const struct ex_admit_ops ops = {
	.ask = on_ask, .progress = on_progress, .finish = on_finish, .balance = on_balance};
static const struct ex_admit admit = {.ops = &ops, .ctx = &policy};

static void wait_for(const unsigned *n, unsigned wanted)
{
	ex_lock_take(&policy.lock);
	while (*n < wanted)
		ex_cond_wait(&policy.cond, &policy.lock);
	assert_int_equal(*n, wanted);
	ex_lock_give(&policy.lock);
}

/* --- the gateway ----------------------------------------------------------------------------------------- */

struct fixture {
	struct small_model m;
	struct ex_tokenizer *tokenizer;
	struct ex_edge_model *model;
	struct ex_engine *e;
	struct ex_gateway *g;
};

static void open_text(struct fixture *f)
{
	struct ex_err err = EX_ERR_INIT;
	char dir[64] = "";
	json_t *root = small_tokenizer();
	char *text = json_dumps(root, JSON_COMPACT);
	small_write(dir, "tokenizer.json", text);
	EXPECT_OK(err, ex_tokenizer_open(dir, &err, &f->tokenizer));
	free(text);
	json_decref(root);
	small_remove(dir);
}

static int open_fixture(void **state)
{
	static struct fixture f;
	struct ex_err err = EX_ERR_INIT;
	memset(&f, 0, sizeof f);
	memset(&policy, 0, sizeof policy);
	ex_lock_init(&policy.lock, "policy");
	ex_cond_init(&policy.cond);
	policy.answer = (struct ex_admit_answer){.status = 200,
		.ticket = &the_ticket,
		.limit_requests = -1,
		.remaining_requests = -1,
		.reset_requests_ms = -1,
		.limit_tokens = -1,
		.remaining_tokens = -1,
		.reset_tokens_ms = -1};
	open_text(&f);
	small_model_open(&f.m, EXPERTD_BF16, &ref_ops, 16, 64);
	const struct ex_edge_model_opts mo = {.digest = ex_weights_digest(f.m.w),
		.tokenizer = f.tokenizer,
		.eos = ex_weights_config(f.m.w)->eos_id,
		.n_eos = ex_weights_config(f.m.w)->n_eos};
	EXPECT_OK(err, ex_edge_model_new(&mo, &err, &f.model));
	const struct ex_engine_opts eo = {.trunk = f.m.t,
		.moe = &f.m.moe,
		.config = ex_weights_config(f.m.w),
		.tokenizer = f.tokenizer,
		.user = f.model,
		.max_batch = 2,
		.step_tokens_max = 16,
		.queue_max = 1,
		.page_tokens = SMALL_MODEL_PAGE,
		.n_pages = 64,
		.n_ctx = SMALL_MODEL_CTX};
	EXPECT_OK(err, ex_engine_new(&eo, &err, &f.e));
	const struct ex_gateway_opts o = {.listen = "127.0.0.1:0",
		.listen_fd = -1,
		.n_threads = 1,
		.engine = f.e,
		.model_name = "small",
		.admit = &admit,
		.connections_max = 16,
		.header_bytes_max = 16384,
		.json_depth_max = 8,
		.body_bytes_max = 100000,
		.bodies_bytes_max = 1000000,
		.prompt_bytes_max = 50000,
		.reply_bytes_max = 100000,
		.max_tokens_default = 5,
		.keep_alive_s = 3600,
		.start_timeout_s = 3600,
		.header_timeout_s = 3600,
		.idle_timeout_s = 3600,
		.body_timeout_s = 3600};
	EXPECT_OK(err, ex_gateway_start(&o, &err, &f.g));
	*state = &f;
	return 0;
}

static int close_fixture(void **state)
{
	struct fixture *f = *state;
	assert_true(ex_engine_end(f->e, 10000));
	ex_gateway_stop(f->g, 10000);
	ex_engine_free(f->e);
	ex_edge_model_unref(f->model);
	ex_tokenizer_close(f->tokenizer);
	small_model_close(&f->m);
	ex_lock_done(&policy.lock);
	pthread_cond_destroy(&policy.cond);
	return 0;
}

static int ask(struct fixture *f, const char *method, const char *path, const char *headers, const char *body)
{
	const struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)ex_gateway_port(f->g)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct ex_str s = EX_STR_INIT;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof a), 0);
	ex_str_addf(&s, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", method,
		path, headers, strlen(body), body);
	assert_int_equal(ex_write_all(fd, s.s, s.n), 0);
	ex_str_done(&s);
	return fd;
}

/* All that comes over fd, to be freed. */
static char *answer(int fd)
{
	struct ex_str s = EX_STR_INIT;
	char buf[4096];
	ssize_t n;
	while ((n = read(fd, buf, sizeof buf)) > 0)
		ex_str_addn(&s, buf, (size_t)n);
	close(fd);
	ex_str_add(&s, "");
	return ex_str_take(&s) ?: strdup("");
}

static void has(char *text, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strstr(text, words[i]))
			fail_msg("'%s' is not in %s", words[i], text);
	free(text);
}
#define HAS(text, ...) has(text, (const char *const[]){__VA_ARGS__}, EX_ARRAY_LEN(((const char *const[]){__VA_ARGS__})))

#define PROMPT         "\"model\":\"small\",\"temperature\":0,\"prompt\":[7,100,33,250,12,90]"

static int complete(struct fixture *f, const char *more)
{
	struct ex_str body = EX_STR_INIT;
	ex_str_addf(&body, "{%s%s}", PROMPT, more);
	int fd = ask(f, "POST", "/v1/completions", "Authorization: Bearer sk-7\r\n", body.s);
	ex_str_done(&body);
	return fd;
}

static void expect_used(unsigned prompt, unsigned completion)
{
	wait_for(&policy.n_finished, 1);
	assert_int_equal(policy.used.prompt_miss, prompt);
	assert_int_equal(policy.used.prompt_hit, 0);
	assert_int_equal(policy.used.completion, completion);
}

/* --- tests ----------------------------------------------------------------------------------------------- */

static void test_admitted(void **state)
{
	struct fixture *f = *state;
	HAS(answer(complete(f, ",\"n\":2,\"max_tokens\":4")), "HTTP/1.1 200 ",
		"\"prompt_tokens\":6,\"completion_tokens\":8", "\"finish_reason\":\"length\"");
	expect_used(6, 8);
	assert_string_equal(policy.key, "sk-7");
	assert_int_equal(policy.asked.prompt_tokens, 6);
	assert_int_equal(policy.asked.max_tokens, 8);
	assert_int_equal(policy.n_progress, 8);
}

/* The most that can come is asked for: the default, and no more than the context holds. */
static void test_most(void **state)
{
	struct fixture *f = *state;
	policy.answer.status = 402;
	free(answer(complete(f, "")));
	assert_int_equal(policy.asked.max_tokens, 5);
	free(answer(complete(f, ",\"max_tokens\":100000,\"n\":3")));
	assert_int_equal(policy.asked.max_tokens, 3 * (SMALL_MODEL_CTX - 6));
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	policy.answer = (struct ex_admit_answer){.status = 429,
		.code = "rate",
		.message = "too \"fast\"",
		.retry_after_s = 7,
		.limit_requests = 10,
		.remaining_requests = 0,
		.reset_requests_ms = 6500,
		.limit_tokens = -1,
		.remaining_tokens = -1,
		.reset_tokens_ms = -1};
	char *text = answer(complete(f, ",\"stream\":true"));
	assert_null(strstr(text, "x-ratelimit-limit-tokens"));
	HAS(text, "HTTP/1.1 429 ", "Retry-After: 7\r\n", "x-ratelimit-limit-requests: 10\r\n",
		"x-ratelimit-remaining-requests: 0\r\n", "x-ratelimit-reset-requests: 6500ms\r\n", "application/json",
		"rate_limit_error", "\"code\":\"rate\"", "too \\\"fast\\\"");
	policy.answer.status = 401;
	HAS(answer(complete(f, "")), "HTTP/1.1 401 ", "WWW-Authenticate: Bearer", "authentication_error");
	assert_int_equal(policy.n_finished, 0);
	assert_int_equal(policy.n_asked, 2);
}

/* What is wrong with a request is said before anybody is asked. */
static void test_wrong(void **state)
{
	struct fixture *f = *state;
	HAS(answer(complete(f, ",\"n\":0")), "HTTP/1.1 422 ", "\"param\":\"n\"");
	HAS(answer(ask(f, "POST", "/completions", "", "{\"model\":\"big\",\"prompt\":\"a\"}")), "HTTP/1.1 404 ",
		"model_not_found");
	HAS(answer(ask(f, "POST", "/chat/completions", "",
		    "{\"model\":\"small\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}]}")),
		"HTTP/1.1 400 ", "no chat template");
	assert_int_equal(policy.n_asked, 0);
}

/* Experts that fail: an error instead of an answer, and nothing to pay. */
static void test_failed(void **state)
{
	struct fixture *f = *state;
	f->m.fail_row = 2;
	HAS(answer(complete(f, "")), "HTTP/1.1 503 ", "insufficient_system_resource", "Retry-After: 1\r\n");
	expect_used(0, 0);
}

/* More choices than places: none is computed on, and nothing is to pay. */
static void test_queue_full(void **state)
{
	struct fixture *f = *state;
	HAS(answer(complete(f, ",\"n\":16,\"max_tokens\":80")), "HTTP/1.1 503 ", "overloaded", "Retry-After: 1\r\n");
	expect_used(0, 0);
}

static void test_left_before_admission(void **state)
{
	struct fixture *f = *state;
	policy.later = true;
	int fd = complete(f, ",\"max_tokens\":80");
	wait_for(&policy.n_asked, 1);
	shutdown(fd, SHUT_WR);
	char *text = answer(fd);
	assert_string_equal(text, ""); /* it was seen to leave */
	free(text);
	policy.done(policy.done_ctx, &policy.answer);
	expect_used(0, 0);
	assert_int_equal(policy.n_progress, 0);
}

/* An answer that the policy gives later, from a thread of its own; a long request is read on another as well. */
static void test_later(void **state)
{
	struct fixture *f = *state;
	struct ex_str more = EX_STR_INIT;
	policy.later = true;
	ex_str_add(&more, ",\"user\":\"");
	for (int i = 0; i < 30000; i++)
		ex_str_add(&more, "x");
	ex_str_add(&more, "\"");
	int fd = complete(f, more.s);
	ex_str_done(&more);
	wait_for(&policy.n_asked, 1);
	policy.done(policy.done_ctx, &policy.answer);
	HAS(answer(fd), "HTTP/1.1 200 ", "\"completion_tokens\":5");
	expect_used(6, 5);
}

/* Whoever leaves in the midst of an answer pays for what was generated, and the ticket ends. */
static void test_left_in_the_midst(void **state)
{
	struct fixture *f = *state;
	char buf[8192];
	size_t n = 0;
	int fd = complete(f, ",\"max_tokens\":90,\"stream\":true");
	do { /* the head comes before the first step */
		ssize_t got = read(fd, buf + n, sizeof buf - 1 - n);
		assert_true(got > 0);
		n += (size_t)got;
		buf[n] = '\0';
	} while (!strstr(buf, "data: "));
	close(fd);
	wait_for(&policy.n_finished, 1);
	assert_int_equal(policy.used.prompt_miss, 6);
	assert_int_equal(policy.used.completion, policy.progress.completion);
}

static void test_balance(void **state)
{
	struct fixture *f = *state;
	HAS(answer(ask(f, "GET", "/v1/user/balance", "authorization: bearer k\r\n", "")), "HTTP/1.1 200 ", "{\"b\":1}");
	HAS(answer(ask(f, "GET", "/user/balance", "Authorization: Basic k\r\n", "")), "HTTP/1.1 401 ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_admitted, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_most, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_refused, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_wrong, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_failed, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_queue_full, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_left_before_admission, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_later, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_left_in_the_midst, open_fixture, close_fixture),
		cmocka_unit_test_setup_teardown(test_balance, open_fixture, close_fixture),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
