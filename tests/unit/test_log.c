/* SPDX-License-Identifier: Apache-2.0 */
/* base/log: lines on stderr, levels, the event ring. */
#include "unit.h"

#include "base/clock.h"
#include "base/log.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int saved_stderr = -1, capture = -1;

/* From here on stderr goes to a file; its target is found once, so this comes before the first line. */
static int redirect(void **state)
{
	(void)state;
	char path[] = "/tmp/test_log.XXXXXX";
	unsetenv("JOURNAL_STREAM");
	capture = mkstemp(path);
	if (capture < 0)
		return -1;
	unlink(path);
	saved_stderr = dup(STDERR_FILENO);
	return dup2(capture, STDERR_FILENO) < 0 ? -1 : 0;
}

static int restore(void **state)
{
	(void)state;
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	return close(capture);
}

static const char *captured(void)
{
	static char buf[8192];
	ssize_t n = pread(capture, buf, sizeof buf - 1, 0);
	assert_true(n >= 0);
	buf[n] = '\0';
	assert_int_equal(ftruncate(capture, 0), 0);
	lseek(capture, 0, SEEK_SET);
	return buf;
}

static void test_lines(void **state)
{
	(void)state;
	ex_log(LOG_WARNING, "disk %d is slow", 3);
	assert_string_equal(captured(), "warning: disk 3 is slow\n");
	ex_log(LOG_DEBUG, "hidden");
	assert_string_equal(captured(), "");
	ex_log_level(LOG_DEBUG);
	ex_log(LOG_DEBUG, "seen");
	assert_string_equal(captured(), "debug: seen\n");
	ex_log_level(LOG_ERR);
	ex_log(LOG_INFO, "hidden");
	assert_string_equal(captured(), "");
	ex_log_level(LOG_INFO);
}

/* A peer's text must not make a second line, or steer the terminal. */
static void test_control_characters(void **state)
{
	(void)state;
	ex_log(LOG_INFO, "peer said '%s'", "x\nerror: forged\x1b[2J");
	assert_string_equal(captured(), "info: peer said 'x\\x0aerror: forged\\x1b[2J'\n");
}

static void test_long_line(void **state)
{
	(void)state;
	static char big[5000];
	memset(big, 'a', sizeof big - 1);
	ex_log(LOG_INFO, "%s", big);
	const char *line = captured();
	assert_int_equal(strncmp(line, "info: aaaa", 10), 0);
	assert_true(strlen(line) > 1000 && strlen(line) < 3000);
	assert_int_equal(line[strlen(line) - 1], '\n');
}

static void test_events(void **state)
{
	(void)state;
	static struct ex_event_record r[EX_EVENT_RING_MAX];
	size_t before = ex_event_read(0, r, EX_EVENT_RING_MAX);
	uint64_t last = before ? r[before - 1].seq : 0;
	ex_event(EX_EV_DAEMON_READY, EX_FIELDS({"EX_NODE", "n1"}, {"EX_PEER", NULL}), "ready: %s", "n1");
	assert_string_equal(captured(), "notice: ready: n1\n");
	assert_int_equal(ex_event_read(last, r, 8), 1);
	assert_int_equal(r[0].seq, last + 1);
	assert_string_equal(r[0].text, "ready: n1");
	assert_string_equal(r[0].fields[0], "EX_NODE=n1");
	assert_string_equal(r[0].fields[1], "EX_PEER=");
	assert_string_equal(r[0].fields[2], "");
	assert_string_equal(ex_event_name(r[0].id), "DAEMON_READY");
	assert_int_equal(strlen(ex_event_message_id(r[0].id)), 32);
	assert_int_equal(ex_event_read(last + 1, r, 8), 0);
}

static void test_ring_keeps_the_newest(void **state)
{
	(void)state;
	static struct ex_event_record r[EX_EVENT_RING_MAX + 8];
	ex_log_level(LOG_ERR);
	for (int i = 0; i < EX_EVENT_RING_MAX + 50; i++)
		ex_event(EX_EV_DAEMON_STOPPING, NULL, "number %d", i);
	ex_log_level(LOG_INFO);
	size_t n = ex_event_read(0, r, EX_ARRAY_LEN(r));
	assert_int_equal(n, EX_EVENT_RING_MAX);
	for (size_t i = 1; i < n; i++)
		assert_int_equal(r[i].seq, r[i - 1].seq + 1);
	assert_string_equal(r[n - 1].text, "number 1073");
}

static void *send_event(void *arg)
{
	ex_event(EX_EV_DAEMON_READY, NULL, "%s", (const char *)arg);
	return NULL;
}

static void test_wait(void **state)
{
	(void)state;
	static struct ex_event_record r[EX_EVENT_RING_MAX];
	pthread_t t;
	size_t n = ex_event_read(0, r, EX_EVENT_RING_MAX);
	uint64_t last = n ? r[n - 1].seq : 0;
	ex_event_wait(last, 1); /* times out */
	assert_int_equal(ex_event_read(last, r, 1), 0);
	assert_int_equal(pthread_create(&t, NULL, send_event, "late"), 0);
	ex_event_wait(last, 60000);
	assert_int_equal(ex_event_read(last, r, 1), 1);
	assert_string_equal(r[0].text, "late");
	pthread_join(t, NULL);
}

/* Every event has a MESSAGE_ID of its own: 32 hex digits. */
static void test_message_ids(void **state)
{
	(void)state;
	for (int i = 0; i < EX_EVENT_N; i++) {
		const char *id = ex_event_message_id((enum ex_event_id)i);
		assert_int_equal(strspn(id, "0123456789abcdef"), 32);
		assert_int_equal(strlen(id), 32);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(id, ex_event_message_id((enum ex_event_id)j));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_control_characters),
		cmocka_unit_test(test_long_line),
		cmocka_unit_test(test_events),
		cmocka_unit_test(test_ring_keeps_the_newest),
		cmocka_unit_test(test_wait),
		cmocka_unit_test(test_message_ids),
	};
	return cmocka_run_group_tests(tests, redirect, restore);
}
