/* SPDX-License-Identifier: Apache-2.0 */
#include "etcd_cluster.h"

#include "base/clock.h"
#include "base/macro.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_NS (20 * EX_NS_PER_S)

void free_ports(int *port, size_t n)
{
	int fd[16];
	assert_true(n <= EX_ARRAY_LEN(fd));
	for (size_t i = 0; i < n; i++) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t len = sizeof a;
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_true(fd[i] >= 0);
		assert_int_equal(bind(fd[i], (struct sockaddr *)&a, sizeof a), 0);
		assert_int_equal(getsockname(fd[i], (struct sockaddr *)&a, &len), 0);
		port[i] = ntohs(a.sin_port);
	}
	for (size_t i = 0; i < n; i++)
		close(fd[i]);
}

/* Runs argv, which dies with this process; output to the file out, appended. */
static pid_t spawn(const char *const *argv, int out)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	return pid;
}

static int run(const char *const *argv, int out)
{
	int status;
	pid_t pid = spawn(argv, out);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool cluster_possible(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	bool ok = run((const char *const[]){"etcd", "--version", NULL}, null) == 0 &&
		  run((const char *const[]){"etcdctl", "version", NULL}, null) == 0;
	close(null);
	if (!ok)
		fprintf(stderr, "etcd or etcdctl cannot be run (packages etcd-server, etcd-client)\n");
	return ok;
}

void ctl(const char *endpoints, char *out, size_t size, const char *const *args)
{
	const char *argv[16] = {"etcdctl", "--command-timeout=2s", "--dial-timeout=1s", "--endpoints"};
	size_t n = 4;
	argv[n++] = endpoints;
	while (*args && n + 1 < EX_ARRAY_LEN(argv))
		argv[n++] = *args++;
	char path[] = "/tmp/etcdctl.XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	uint64_t deadline = ex_now_ns() + PATIENCE_NS;
	int rc;
	while ((rc = run(argv, fd)) != 0 && ex_now_ns() < deadline) {
		usleep(100000);
		assert_int_equal(ftruncate(fd, 0), 0);
		lseek(fd, 0, SEEK_SET);
	}
	char text[4096];
	ssize_t got = pread(fd, text, sizeof text - 1, 0);
	text[EX_MAX(got, 0)] = '\0';
	close(fd);
	if (rc != 0)
		fail_msg("etcdctl %s ... at %s: %d\n%s", argv[5], endpoints, rc, text);
	if (out)
		snprintf(out, size, "%s", text);
}

/* --- members --------------------------------------------------------------------------------------------- */

void member_start(struct cluster *c, size_t i, bool hidden)
{
	char name[8], data[128], peer[64], clients[128], all[256] = "", path[128];
	struct etcd_member *m = &c->m[i];
	assert_int_equal(m->pid, 0);
	for (size_t k = 0; k < c->n; k++)
		snprintf(
			all + strlen(all), sizeof all - strlen(all), "%sm%zu=http://%s", k ? "," : "", k, c->m[k].peer);
	snprintf(name, sizeof name, "m%zu", i);
	snprintf(data, sizeof data, "%s/m%zu", c->dir, i);
	snprintf(peer, sizeof peer, "http://%s", m->peer);
	snprintf(clients, sizeof clients, "http://%s%s%s", m->hidden, hidden ? "" : ",http://",
		hidden ? "" : m->endpoint);
	snprintf(path, sizeof path, "%s/m%zu.log", c->dir, i);
	int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(log >= 0);
	m->pid = spawn(
		(const char *const[]){"etcd", "--name", name, "--data-dir", data, "--listen-client-urls", clients,
			"--advertise-client-urls", clients, "--listen-peer-urls", peer, "--initial-advertise-peer-urls",
			peer, "--initial-cluster", all, "--heartbeat-interval=50", "--election-timeout=500",
			"--logger=zap", "--log-level=warn", NULL},
		log);
	close(log);
}

void member_kill(struct cluster *c, size_t i)
{
	if (!c->m[i].pid)
		return;
	kill(c->m[i].pid, SIGKILL);
	assert_int_equal(waitpid(c->m[i].pid, NULL, 0), c->m[i].pid);
	c->m[i].pid = 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

void member_wipe(struct cluster *c, size_t i)
{
	char data[128];
	assert_int_equal(c->m[i].pid, 0);
	snprintf(data, sizeof data, "%s/m%zu", c->dir, i);
	assert_int_equal(nftw(data, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

void cluster_start(struct cluster *c, size_t n)
{
	int port[3 * CLUSTER_MAX];
	*c = (struct cluster){.dir = "/tmp/test_etcd.XXXXXX", .n = n};
	assert_non_null(mkdtemp(c->dir));
	free_ports(port, 3 * n);
	for (size_t i = 0; i < n; i++) {
		snprintf(c->m[i].endpoint, sizeof c->m[i].endpoint, "127.0.0.1:%d", port[3 * i]);
		snprintf(c->m[i].hidden, sizeof c->m[i].hidden, "127.0.0.1:%d", port[3 * i + 1]);
		snprintf(c->m[i].peer, sizeof c->m[i].peer, "127.0.0.1:%d", port[3 * i + 2]);
		c->endpoints[i] = c->m[i].endpoint;
	}
	for (size_t i = 0; i < n; i++)
		member_start(c, i, false);
	CTL(c->m[0].hidden, "get", "ready"); /* linearizable: it has a quorum */
}

void cluster_end(struct cluster *c)
{
	for (size_t i = 0; i < c->n; i++)
		member_kill(c, i);
	assert_int_equal(nftw(c->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

size_t cluster_leader(struct cluster *c)
{
	for (uint64_t deadline = ex_now_ns() + PATIENCE_NS; ex_now_ns() < deadline; usleep(100000))
		for (size_t i = 0; i < c->n; i++) {
			char text[512];
			if (!c->m[i].pid)
				continue;
			/* "ENDPOINT, ID, VERSION, SIZE, IS_LEADER, .." */
			CTL_OUT(c->m[i].hidden, text, sizeof text, "endpoint", "status");
			const char *s = text;
			for (int comma = 0; s && comma < 4; comma++)
				s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL;
			if (s && strncmp(s, " true", 5) == 0)
				return i;
		}
	fail_msg("the cluster has no leader");
	return 0;
}
