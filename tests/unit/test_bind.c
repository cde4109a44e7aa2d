/* SPDX-License-Identifier: Apache-2.0 */
/* base/bind: sockets that listen, and the files of unix sockets. */
#include "unit.h"

#include "base/bind.h"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[80];

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/ex-test-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/a.sock", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static struct ex_bound_file at_path(void)
{
	struct ex_bound_file f = {.address.sun_family = AF_UNIX};
	snprintf(f.address.sun_path, sizeof f.address.sun_path, "%s", path);
	return f;
}

static void test_tcp(void **state)
{
	struct ex_err err = EX_ERR_INIT;
	char again[32];
	(void)state;
	int fd = ex_bind_tcp("127.0.0.1:0", 4, &err);
	assert_true(fd >= 0);
	int port = ex_bound_port(fd);
	assert_true(port > 0);
	snprintf(again, sizeof again, "127.0.0.1:%d", port);
	assert_int_equal(ex_bind_tcp(again, 4, &err), -EADDRINUSE);
	assert_non_null(strstr(ex_err_text(&err), again));
	assert_int_equal(ex_bind_tcp("127.0.0.1", 4, &err), -EINVAL);
	close(fd);
}

/* The mode is the file's, one that is in use stays, one that is left over is replaced, and only one's own is removed. */
static void test_file(void **state)
{
	struct ex_bound_file f = at_path(), second = at_path();
	struct stat st;
	(void)state;
	int fd = ex_bind_file(&f, 0640, 4);
	assert_true(fd >= 0);
	assert_int_equal(ex_bound_port(fd), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(ex_bind_file(&second, 0600, 4), -EADDRINUSE);
	close(fd);
	fd = ex_bind_file(&second, 0600, 4);
	assert_true(fd >= 0);
	if (second.ino != f.ino) { /* a file system may use the number again */
		ex_unbind_file(&f);
		assert_int_equal(lstat(path, &st), 0);
	}
	ex_unbind_file(&second);
	assert_int_equal(lstat(path, &st), -1);
	close(fd);
}

static void test_no_socket(void **state)
{
	struct ex_bound_file f = at_path();
	(void)state;
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(ex_bind_file(&f, 0600, 4), -EEXIST);
	assert_int_equal(access(path, F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp),
		cmocka_unit_test_setup_teardown(test_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_socket, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
