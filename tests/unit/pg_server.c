/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL for tests. postgres refuses to run as root: then it runs as nobody. */
#include "pg_server.h"

#include "model_dir.h"

#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#define NOBODY      65534
#define START_TRIES 600
#define START_US    50000

static char bin[PATH_MAX]; /* of the newest version */
static pid_t server;

bool pg_there(void)
{
	glob_t g;
	bool there = glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &g) == 0;
	if (there) {
		snprintf(bin, sizeof bin, "%s", g.gl_pathv[g.gl_pathc - 1]);
		*strrchr(bin, '/') = '\0';
		globfree(&g);
	}
	return there;
}

/* Runs argv[0] of bin, its output in dir/log. */
static pid_t spawn(const char *dir, char *const argv[])
{
	char path[PATH_MAX], log[PATH_MAX];
	pid_t child = fork();
	assert_true(child >= 0);
	if (child)
		return child;
	int fd = open(path_in(dir, "log", log), O_WRONLY | O_CREAT | O_APPEND, 0666);
	if (dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
		_exit(125);
	if (getuid() == 0 && (setgid(NOBODY) < 0 || setuid(NOBODY) < 0 || chdir(dir) < 0))
		_exit(126);
	execv(path_in(bin, argv[0], path), argv);
	_exit(127);
}

static int wait_for(pid_t child)
{
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

void pg_make(const char *dir)
{
	char data[PATH_MAX];
	if (getuid() == 0)
		assert_int_equal(chown(dir, NOBODY, NOBODY), 0);
	char *const argv[] = {"initdb", "-D", path_in(dir, "data", data), "-U", "expertd", "-A", "trust", "-E", "UTF8",
		"--locale=C", "--no-sync", NULL};
	if (wait_for(spawn(dir, argv)) != 0)
		fail_msg("initdb failed, see %s/log", dir);
	pg_start(dir);
}

void pg_start(const char *dir)
{
	char data[PATH_MAX], socket[PATH_MAX];
	char *const argv[] = {
		"postgres", "-D", path_in(dir, "data", data), "-k", (char *)dir, "-c", "listen_addresses=", NULL};
	char *const ready[] = {"pg_isready", "-q", "-h", (char *)dir, "-U", "expertd", "-d", "postgres", NULL};
	path_in(dir, ".s.PGSQL.5432", socket);
	server = spawn(dir, argv);
	for (int i = 0; i < START_TRIES; i++, usleep(START_US))
		if (access(socket, F_OK) == 0 && wait_for(spawn(dir, ready)) == 0)
			return;
	fail_msg("postgres does not start, see %s/log", dir);
}

void pg_stop(const char *dir, int sig)
{
	(void)dir;
	assert_int_equal(kill(server, sig), 0);
	wait_for(server);
	server = 0;
}

void pg_remove(const char *dir)
{
	char *const argv[] = {"rm", "-rf", (char *)dir, NULL};
	pid_t child = fork();
	if (child == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	assert_int_equal(wait_for(child), 0);
}
