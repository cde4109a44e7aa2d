/* SPDX-License-Identifier: Apache-2.0 */
/* admin/http: what Prometheus and others get. */
#include "unit.h"

#include "admin/http.h"
#include "base/metrics.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ex_metrics_http *http;

static int setup(void **state)
{
	(void)state;
	return ex_metrics_http_start("127.0.0.1:0", NULL, &http);
}

static int teardown(void **state)
{
	(void)state;
	http = ex_metrics_http_stop(http);
	return 0;
}

/* Sends a request, returns all of the reply. */
static const char *ask(const char *request)
{
	static char buf[1 << 16];
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)ex_metrics_http_port(http))};
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t n = 0;
	ssize_t k;
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	while ((k = read(fd, buf + n, sizeof buf - 1 - n)) > 0)
		n += (size_t)k;
	buf[n] = '\0';
	close(fd);
	return buf;
}

static void test_get(void **state)
{
	(void)state;
	ex_metric_add(ex_metric(EX_M_PROMPT_TOKENS, NULL), 11);
	const char *r = ask("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	assert_non_null(strstr(r, "HTTP/1.1 200"));
	assert_non_null(strstr(r, "Content-Type: text/plain; version=0.0.4"));
	assert_non_null(strstr(r, "\nexpertd_prompt_tokens_total 11\n"));
}

static void test_others_are_refused(void **state)
{
	(void)state;
	assert_non_null(strstr(ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "HTTP/1.1 404"));
	assert_non_null(
		strstr(ask("POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"),
			"HTTP/1.1 405"));
	assert_null(strstr(ask("nonsense\r\n\r\n"), "expertd_prompt"));
}

static void test_port_in_use(void **state)
{
	(void)state;
	struct ex_err err = EX_ERR_INIT;
	struct ex_metrics_http *other = NULL;
	char listen[32];
	snprintf(listen, sizeof listen, "127.0.0.1:%d", ex_metrics_http_port(http));
	assert_int_equal(ex_metrics_http_start(listen, &err, &other), -EADDRINUSE);
	assert_non_null(strstr(err.text, listen));
	assert_null(other);
	assert_int_equal(ex_metrics_http_start("nonsense", &err, &other), -EINVAL);
}

/* A router with many clients has no low descriptors left: metrics come all the same. */
static void test_high_descriptors(void **state)
{
	struct rlimit limit;
	int held[FD_SETSIZE], n = 0;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_max < FD_SETSIZE + 64)
		skip();
	if (limit.rlim_cur < FD_SETSIZE + 64) {
		limit.rlim_cur = FD_SETSIZE + 64;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	}
	while (n < FD_SETSIZE && (held[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < FD_SETSIZE)
		assert_true(held[n++] >= 0);
	assert_non_null(strstr(ask("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "HTTP/1.1 200"));
	teardown(state);
	assert_int_equal(setup(state), 0);
	assert_non_null(strstr(ask("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "HTTP/1.1 200"));
	while (n)
		close(held[--n]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_get, setup, teardown),
		cmocka_unit_test_setup_teardown(test_others_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
		cmocka_unit_test_setup_teardown(test_high_descriptors, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
